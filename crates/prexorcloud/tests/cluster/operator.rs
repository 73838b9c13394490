//! `prexorctl` against a real controller, from the first token to the last crash report

use crate::rig::{Rig, finish};

#[test]
fn an_operator_can_do_everything_from_the_command_line() {
    let rig = Rig::with_node();
    let nodes = rig.ctl(&["node", "list"]);
    assert!(
        nodes.stdout.contains("node-1") && nodes.stdout.contains("ONLINE"),
        "{nodes:?}"
    );
    let tokens = rig.ctl(&["token", "list"]);
    assert!(
        tokens.stdout.contains("CONSUMED") && !tokens.stdout.contains("pxr_"),
        "{tokens:?}"
    );

    rig.start_standin("lobby-1");
    rig.command("lobby-1", "say hello there", "[Server] hello there");
    let list = rig.ctl(&["instance", "list", "--state", "running"]);
    assert!(list.stdout.contains("lobby-1"), "{list:?}");
    let busy = rig.ctl(&["instance", "delete", "lobby-1"]);
    assert_eq!(busy.code, 1, "{busy:?}");

    assert_eq!(rig.ctl(&["instance", "exec", "lobby-1", "crash"]).code, 0);
    rig.await_instance("lobby-1", "CRASHED");
    let crashes = crate::rig::eventually("a crash report", || {
        let crashes = rig
            .ctl(&["crash", "list", "--instance", "lobby-1", "-o", "json"])
            .json();
        crashes.as_array().unwrap().first().cloned()
    });
    let shown = rig.ctl(&["crash", "show", crashes["id"].as_str().unwrap()]);
    assert!(shown.stdout.contains("IllegalStateException"), "{shown:?}");

    let again = rig.start_standin("lobby-1");
    assert_eq!(again["incarnation"], 2);
    let killed = rig
        .ctl(&["instance", "stop", "lobby-1", "--force", "--wait", "-o", "json"])
        .json();
    assert_eq!(
        killed["state"], "STOPPED",
        "a stop that was asked for is no crash"
    );
    assert_eq!(rig.ctl(&["instance", "delete", "lobby-1"]).code, 0);
    assert_eq!(rig.ctl(&["instance", "show", "lobby-1"]).code, 4);

    assert_eq!(rig.ctl(&["node", "cordon", "node-1"]).code, 0);
    let nowhere = rig.ctl(&["instance", "start", "lobby", "--jar", "/x.standin"]);
    assert_eq!(nowhere.code, 1, "{nowhere:?}");
    assert!(nowhere.stderr.contains("hint:"), "{nowhere:?}");
    assert_eq!(rig.ctl(&["node", "uncordon", "node-1"]).code, 0);
    let version = rig.ctl(&["version"]);
    assert!(version.stdout.contains("protocol    1"), "{version:?}");
}

#[test]
fn exit_codes_tell_what_was_wrong() {
    let rig = Rig::with_controller();
    assert_eq!(rig.ctl(&["instance", "show", "nobody"]).code, 4);
    assert_eq!(rig.ctl(&["node", "drain", "nobody"]).code, 4);
    assert_eq!(
        rig.ctl(&["token", "revoke", "tok_3fa85f64-5717-4562-b3fc-2c963f66afa6"])
            .code,
        4
    );
    let anonymous = finish(&mut rig.ctl_command(&["node", "list"]).into_command());
    assert_eq!(anonymous.code, 2, "{anonymous:?}");
    let mut command = rig.ctl_command(&["node", "list"]).into_command();
    let wrong = finish(command.env("PREXOR_TOKEN", "prx_0000000000000000000000000000000000000000"));
    assert_eq!(wrong.code, 2, "{wrong:?}");
    let mut rig = rig;
    rig.stop_controller();
    assert_eq!(rig.ctl(&["node", "list"]).code, 5);
}
