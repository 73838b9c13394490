//! Programs whose log cannot be written

use libtest_mimic::Trial;

use crate::case;
use crate::rig::{Rig, get};

pub fn cases() -> Vec<Trial> {
    vec![
        case("stderr_closed", || goes_on_with("exec \"$0\" \"$@\" 2>&-")),
        case("stderr_on_a_full_disk", || {
            goes_on_with("exec \"$0\" \"$@\" 2>/dev/full");
        }),
        case("every_standard_stream_closed_but_the_announcement", || {
            goes_on_with("exec \"$0\" \"$@\" 2>&- <&-");
        }),
    ]
}

/// Enrolment, a start, a crash, a restart of both programs and a stop, with the log gone
fn goes_on_with(script: &str) {
    let mut rig = Rig::new();
    rig.wrap_in_shell(script);
    rig.start_controller();
    let token = rig.token(&["--node", "node-1"]);
    rig.configure_daemon(&token);
    assert_eq!(rig.start_daemon(), 0);
    rig.await_node("ONLINE");
    rig.start_standin("lobby-1");
    rig.start_standin("lobby-2");
    assert_eq!(rig.ctl(&["instance", "exec", "lobby-2", "crash"]).code, 0);
    rig.await_instance("lobby-2", "CRASHED");
    rig.await_settled("lobby-2");

    // A signal that is not understood, a client that hangs up, a token that is wrong: each is worth a line.
    let refused = rig.ctl(&["token", "revoke", "no-such-token"]);
    assert_ne!(refused.code, 0);
    rig.kill_daemon();
    assert_eq!(rig.start_daemon(), 1, "the server was found again");
    rig.await_node("ONLINE");
    rig.kill_controller();
    rig.start_controller();
    rig.await_node("ONLINE");
    assert!(get(&rig, "/api/v1/system/ready").starts_with("HTTP/1.1 200"));
    rig.command("lobby-1", "say still here", "[Server] still here");
    let stopped = rig
        .ctl(&["instance", "stop", "lobby-1", "--wait", "-o", "json"])
        .json();
    assert_eq!(stopped["state"], "STOPPED");
    assert_eq!(rig.stop_daemon().code(), Some(0));
    assert_eq!(rig.stop_controller().code(), Some(0));
}
