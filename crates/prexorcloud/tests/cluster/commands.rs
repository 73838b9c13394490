//! Lines that operators type: what is told of them is what became of them

use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};

use crate::rig::{Rig, eventually, post};

/// The status and the body of a command over HTTP
fn typed(rig: &Rig, body: &Value) -> (u16, Value) {
    let token = std::fs::read_to_string(rig.path("controller/admin.token")).unwrap();
    let answer = post(rig, "/api/v1/instances/lobby-1/command", token.trim(), body);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split_whitespace().nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap())
}

#[test]
fn a_command_is_sent_when_the_daemon_has_written_it() {
    let rig = Rig::with_node();
    rig.start_standin("lobby-1");
    let (status, sent) = typed(&rig, &json!({ "command": "say one" }));
    assert_eq!(
        (status, &sent),
        (200, &json!({ "status": "sent", "confirmed": true }))
    );
    rig.await_line("lobby-1", "[Server] one");

    // What is named alike is typed once.
    let named = json!({ "command": "say two", "requestId": "r-1" });
    for _ in 0..3 {
        assert_eq!(typed(&rig, &named).0, 200);
    }
    rig.command("lobby-1", "say three", "[Server] three");
    assert_eq!(rig.console("lobby-1").matches("[Server] two").count(), 1);
    let long = json!({ "command": "say four", "requestId": "x".repeat(200) });
    assert_eq!(typed(&rig, &long).0, 422);

    // A server that does not read its console any more: the pipe fills, and that is told.
    let [(server, _)] = rig.servers()[..] else {
        panic!("one server");
    };
    kill_process(server, Signal::STOP).unwrap();
    let line = json!({ "command": format!("say {}", "x".repeat(990)) });
    let refused = eventually("the pipe being full", || {
        let (status, answer) = typed(&rig, &line);
        (status != 200).then_some((status, answer))
    });
    assert_eq!(refused.0, 409, "{refused:?}");
    assert_eq!(refused.1["error"]["code"], "COMMAND_NOT_WRITTEN", "{refused:?}");
    kill_process(server, Signal::CONT).unwrap();
}

#[test]
fn a_command_that_nobody_confirms_is_not_called_sent() {
    let rig = Rig::with_node();
    rig.start_standin("lobby-1");
    let daemon = rig.pid("daemon");
    kill_process(daemon, Signal::STOP).unwrap();
    let (status, sent) = typed(&rig, &json!({ "command": "say lost" }));
    // By the time it is answered, the node may be known to be unreachable; this one was on its way before.
    assert_eq!((status, &sent["confirmed"]), (202, &json!(false)), "{sent}");
    assert_eq!(sent["status"], "sent, unconfirmed", "{sent}");
    rig.await_node("UNREACHABLE");
    let (status, refused) = typed(&rig, &json!({ "command": "say nobody" }));
    assert_eq!(status, 409, "{refused}");
    assert!(
        refused["error"]["message"]
            .as_str()
            .unwrap()
            .contains("UNREACHABLE"),
        "{refused}"
    );
    let refused = rig.ctl(&["instance", "exec", "lobby-1", "say", "nobody"]);
    assert_eq!(refused.code, 1, "{refused:?}");
    kill_process(daemon, Signal::CONT).unwrap();
    rig.await_node("ONLINE");
    rig.command("lobby-1", "say again", "[Server] again");
}
