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

#[test]
fn an_operator_looks_at_the_files_of_a_server() {
    let rig = Rig::with_node();
    rig.start_standin("lobby-1");
    rig.command("lobby-1", "say hello", "[Server] hello");
    let folder = rig.path("daemon/instances/lobby/lobby-1");
    std::fs::create_dir_all(folder.join("config")).unwrap();
    std::fs::write(folder.join("config/motd.txt"), "gr\u{fc}\u{df} dich\n").unwrap();
    std::fs::write(folder.join("world.dat"), [0xff, 0xfe, 0]).unwrap();
    std::os::unix::fs::symlink("/etc", folder.join("outside")).unwrap();

    let tree = rig
        .ctl(&["instance", "files", "ls", "lobby-1", "-o", "json"])
        .json();
    let entries = tree["entries"].as_array().unwrap();
    let of = |path: &str| entries.iter().find(|entry| entry["path"] == path).cloned();
    assert_eq!(of("world.dat").unwrap()["sizeBytes"], 3, "{tree}");
    assert_eq!(of("config").unwrap()["isDir"], true);
    assert_eq!(of("outside").unwrap()["isDir"], false);
    assert!(of("outside/passwd").is_none());
    let shown = rig.ctl(&["instance", "files", "ls", "lobby-1", "config"]);
    assert!(
        shown.stdout.contains("config/motd.txt") && !shown.stdout.contains("world.dat"),
        "{shown:?}"
    );

    let part = rig.ctl(&["instance", "files", "ls", "lobby-1", "./config/", "-o", "json"]);
    let part = part.json();
    assert_eq!(part["entries"].as_array().unwrap().len(), 1, "{part}");
    for number in 0..600 {
        std::fs::create_dir_all(folder.join("many/deep")).unwrap();
        std::fs::write(folder.join(format!("many/{number}")), "").unwrap();
    }
    std::fs::write(folder.join("many/deep/found"), "").unwrap();
    for (asked, code, words) in [
        (&["world.dat"][..], 0, "world.dat"),
        (&["many/deep"], 0, "many/deep/found"),
        (&["many", "--limit", "3"], 0, "There is more"),
        (&["nosuch"], 4, "there is no nosuch"),
        (&["conf"], 4, "there is no conf"),
        (&["config/../.."], 64, "leads elsewhere"),
    ] {
        let shown = rig.ctl(&[&["instance", "files", "ls", "lobby-1"], asked].concat());
        assert_eq!(shown.code, code, "{shown:?}");
        assert!(format!("{shown:?}").contains(words), "{shown:?}");
    }

    let text = rig.ctl(&["instance", "files", "cat", "lobby-1", "config/motd.txt"]);
    assert_eq!(
        (text.code, text.stdout.as_str()),
        (0, "gr\u{fc}\u{df} dich\n"),
        "{text:?}"
    );
    let cut = rig.ctl(&[
        "instance",
        "files",
        "cat",
        "lobby-1",
        "config/motd.txt",
        "--bytes",
        "3",
    ]);
    assert_eq!(cut.stdout, "gr", "{cut:?}");
    assert!(cut.stderr.contains("beginning of 12 bytes"), "{cut:?}");
    let bytes = rig.ctl(&["instance", "files", "cat", "lobby-1", "world.dat", "-o", "json"]);
    assert_eq!(bytes.json()["content"], "//4A");
    for (path, code) in [
        ("outside/passwd", 1),
        ("../../secret", 1),
        ("missing", 4),
        ("config", 1),
    ] {
        let refused = rig.ctl(&["instance", "files", "cat", "lobby-1", path]);
        assert_eq!(refused.code, code, "{refused:?}");
    }
}
