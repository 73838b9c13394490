//! What is sent for each command

use serde_json::{Value, json};

use crate::run;
use crate::server::{self, Server};

const INSTANCE: &str = r#"{"id":"lobby-1","group":"lobby","state":"SCHEDULED","incarnation":1}"#;

/// The request line and body of a command
fn sent(reply: (u16, &str), arguments: &[&str]) -> (String, Value) {
    let server = Server::json(reply.0, reply.1);
    let ran = run(&server, arguments);
    assert_eq!(ran.code, 0, "{arguments:?}: {ran:?}");
    let request = server.only_request();
    assert!(
        request.has_header("authorization: Bearer prx_test"),
        "{request:?}"
    );
    let body = if request.body.is_empty() {
        Value::Null
    } else {
        assert!(
            request.has_header("content-type: application/json"),
            "{request:?}"
        );
        serde_json::from_str(&request.body).unwrap()
    };
    let line = request.line.strip_suffix(" HTTP/1.1").unwrap().to_owned();
    (line, body)
}

#[test]
fn every_command_asks_for_the_right_thing() {
    let created = r#"{"tokenId":"tok_1","token":"pxr_x"}"#;
    let cases: &[(&[&str], (u16, &str), &str)] = &[
        (&["token", "create"], (201, created), "POST /api/v1/admin/tokens"),
        (&["token", "list"], (200, "[]"), "GET /api/v1/admin/tokens"),
        (
            &["token", "revoke", "tok_1"],
            (204, ""),
            "DELETE /api/v1/admin/tokens/tok_1",
        ),
        (&["node", "list"], (200, "[]"), "GET /api/v1/nodes"),
        (
            &["node", "show", "n1"],
            (200, r#"{"id":"n1","status":"ONLINE"}"#),
            "GET /api/v1/nodes/n1",
        ),
        (
            &["node", "drain", "n1", "--shutdown", "--timeout", "5"],
            (200, "{}"),
            "POST /api/v1/nodes/n1/drain?shutdown=true&timeout=5",
        ),
        (
            &["node", "undrain", "n1"],
            (200, "{}"),
            "POST /api/v1/nodes/n1/undrain",
        ),
        (
            &["node", "cordon", "n1"],
            (200, "{}"),
            "POST /api/v1/nodes/n1/cordon",
        ),
        (
            &["node", "uncordon", "n1"],
            (200, "{}"),
            "POST /api/v1/nodes/n1/uncordon",
        ),
        (
            &["node", "shutdown", "n1", "--reason", "a & b/ü"],
            (202, "{}"),
            "POST /api/v1/nodes/n1/shutdown?reason=a+%26+b%2F%C3%BC",
        ),
        (
            &["node", "remove", "n1"],
            (200, "{}"),
            "POST /api/v1/nodes/n1/remove?force=false",
        ),
        (
            &["node", "forget", "n1", "--force"],
            (200, "{}"),
            "POST /api/v1/nodes/n1/remove?force=true",
        ),
        (
            &["node", "revoke-cert", "n1"],
            (200, "{}"),
            "POST /api/v1/nodes/n1/revoke-cert",
        ),
        (&["instance", "list"], (200, "[]"), "GET /api/v1/instances"),
        (
            &[
                "inst", "list", "--group", "lobby", "--node", "n1", "--state", "running",
            ],
            (200, "[]"),
            "GET /api/v1/instances?group=lobby&node=n1&state=RUNNING",
        ),
        (
            &["instance", "show", "lobby-1"],
            (200, INSTANCE),
            "GET /api/v1/instances/lobby-1",
        ),
        (
            &["instance", "stop", "lobby-1"],
            (200, "{}"),
            "POST /api/v1/instances/lobby-1/stop?force=false",
        ),
        (
            &["instance", "stop", "lobby-1", "--force"],
            (200, "{}"),
            "POST /api/v1/instances/lobby-1/stop?force=true",
        ),
        (
            &["instance", "delete", "lobby-1"],
            (204, ""),
            "DELETE /api/v1/instances/lobby-1",
        ),
        (
            &["crash", "list", "--instance", "lobby-1"],
            (200, "[]"),
            "GET /api/v1/crashes?instance=lobby-1&limit=100",
        ),
        (
            &["crash", "show", "c1"],
            (200, r#"{"id":"c1","instanceId":"lobby-1"}"#),
            "GET /api/v1/crashes/c1",
        ),
        (
            &["version"],
            (200, r#"{"version":"1"}"#),
            "GET /api/v1/system/version",
        ),
    ];
    for (arguments, reply, expected) in cases {
        let (line, _) = sent(*reply, arguments);
        assert_eq!(&line, expected, "{arguments:?}");
    }
}

#[test]
fn a_token_is_asked_for_with_its_limits() {
    let created = (201, r#"{"tokenId":"tok_1","token":"pxr_x","nodeId":"n1"}"#);
    let (_, body) = sent(created, &["token", "create", "--node", "n1", "--ttl", "15m"]);
    assert_eq!(body, json!({ "nodeId": "n1", "ttlSeconds": 900 }));
    let (_, body) = sent(created, &["token", "create"]);
    assert_eq!(body, json!({}));
}

#[test]
fn a_start_order_carries_everything_that_was_given() {
    let home = crate::Home::new();
    let file = home.write(
        "env",
        "\u{feff}# settings\r\n\r\nA=from file\r\nSECRET=x=y \r\n",
        0o600,
    );
    let (line, body) = sent(
        (201, INSTANCE),
        &[
            "instance",
            "start",
            "lobby",
            "--jar",
            "/srv/a b.jar",
            "--id",
            "lobby-1",
            "--node",
            "n1",
            "--sha256",
            "ab",
            "--memory-mb",
            "256",
            "--jvm-arg",
            "-Xss1m",
            "--jvm-arg",
            "-Da=b",
            "--arg",
            "--listen=%PORT%",
            "--stop-command",
            "quit",
            "--env-file",
            file.to_str().unwrap(),
            "--env",
            "A=flag",
            "--port",
            "30001",
            "--startup-timeout",
            "9",
            "--grace",
            "8",
            "--max-lifetime",
            "7",
        ],
    );
    assert_eq!(line, "POST /api/v1/instances");
    let expected = json!({
        "group": "lobby", "jar": "/srv/a b.jar", "id": "lobby-1", "node": "n1", "sha256": "ab", "memoryMb": 256,
        "jvmArgs": ["-Xss1m", "-Da=b"], "arguments": ["--listen=%PORT%"], "stopCommand": "quit", "env": { "A": "flag", "SECRET": "x=y" }, "port": 30001,
        "startupTimeoutSeconds": 9, "shutdownGraceSeconds": 8, "maxLifetimeSeconds": 7
    });
    assert_eq!(body, expected);
    let (_, body) = sent(
        (201, INSTANCE),
        &["instance", "start", "lobby", "--jar", "https://example.org/a.jar"],
    );
    assert_eq!(
        body,
        json!({ "group": "lobby", "jar": "https://example.org/a.jar" })
    );
}

#[test]
fn what_is_typed_is_sent_word_for_word() {
    let (line, body) = sent(
        (200, "{}"),
        &["instance", "exec", "lobby-1", "--", "say", "-o", "hello  there"],
    );
    assert_eq!(line, "POST /api/v1/instances/lobby-1/command");
    assert_eq!(body, json!({ "command": "say -o hello  there" }));
    let (_, body) = sent((200, "{}"), &["instance", "exec", "lobby-1", "say", "hi"]);
    assert_eq!(body, json!({ "command": "say hi" }));
}

#[test]
fn waiting_ends_with_the_fact() {
    let states = |states: &[&str]| {
        let mut replies = vec![server::json(201, INSTANCE)];
        replies.extend(states.iter().map(|state| {
            let body = INSTANCE.replace("SCHEDULED", state);
            server::json(200, &body)
        }));
        Server::replying(replies)
    };
    let start = ["instance", "start", "lobby", "--jar", "/a.jar", "--wait"];

    let server = states(&["PREPARING", "STARTING", "RUNNING"]);
    let ran = run(&server, &start);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stdout.contains("RUNNING"), "{ran:?}");
    assert_eq!(server.requests().len(), 4);

    let ran = run(&states(&["STARTING", "STOPPED"]), &start);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(
        ran.stderr.starts_with(
            "error: lobby-1 is STOPPED, so it will not be RUNNING: it was stopped before that\n"
        )
    );

    let ran = run(
        &states(&["STARTING"]),
        &[&start[..], &["--timeout", "1"]].concat(),
    );
    assert_eq!(ran.code, 124, "{ran:?}");
    assert!(
        ran.stderr
            .contains("lobby-1 becoming RUNNING did not happen within 1 s; the last thing seen was STARTING")
    );

    let ran = run(
        &states(&["STOPPING", "STOPPED"]),
        &["instance", "stop", "lobby-1", "--wait"],
    );
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stdout.contains("STOPPED"), "{ran:?}");
}

#[test]
fn waiting_for_a_start_that_crashes_ends_with_the_reason() {
    let crashed = |fields: &str| {
        let body = INSTANCE.replace("\"SCHEDULED\"", &format!("\"CRASHED\"{fields}"));
        server::json(200, &body)
    };
    let started = || server::json(201, INSTANCE);
    let crashes = |body: &str| server::json(200, body);
    let report = r#"[{ "id": "crash-1", "instanceId": "lobby-1", "exitCode": 1, "causeSummary": "Unrecognized VM option 'Foo'" }]"#;
    let start = ["instance", "start", "lobby", "--jar", "/a.jar", "--wait"];
    let see_why = "See why: prexorctl crash list --instance lobby-1";
    let see_more = "See what is known of it: prexorctl instance show lobby-1";
    let noted = || crashed(", \"lastError\": \"no such \\u001b[2Jjar\"");
    for (replies, reason, hint) in [
        // The record says it, and there was nothing to crash.
        (
            vec![started(), noted(), crashes("[]")],
            "no such \\u{1b}[2Jjar",
            see_more,
        ),
        (
            vec![started(), noted(), crashes(report)],
            "no such \\u{1b}[2Jjar",
            see_why,
        ),
        // The report says it.
        (
            vec![started(), crashed(""), crashes(report)],
            "Unrecognized VM option 'Foo'",
            see_why,
        ),
        // The report follows the end.
        (
            vec![
                started(),
                crashed(""),
                crashes("[]"),
                crashed(""),
                crashes(report),
            ],
            "Unrecognized VM option 'Foo'",
            see_why,
        ),
    ] {
        let ran = run(&Server::replying(replies), &start);
        assert_eq!(ran.code, 1, "{ran:?}");
        let said = format!("error: lobby-1 is CRASHED, so it will not be RUNNING: {reason}\nhint:  {hint}\n");
        assert_eq!(ran.stderr, said);
    }
}

#[test]
fn a_start_that_was_replaced_is_not_the_one_that_was_waited_for() {
    let again = INSTANCE
        .replace("\"SCHEDULED\"", "\"RUNNING\"")
        .replace("\"incarnation\":1", "\"incarnation\":2");
    let replies = vec![
        server::json(200, r#"{"status":"scheduled","count":1,"instances":["lobby-1"]}"#),
        server::json(200, INSTANCE),
        server::json(200, &again),
    ];
    let start = ["instance", "start", "lobby", "--var", "MOTD=hi", "--wait"];
    let ran = run(&Server::replying(replies), &start);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stderr.contains("this start of lobby-1 has ended"), "{ran:?}");
    assert!(ran.stderr.contains("prexorctl logs controller"), "{ran:?}");
}

#[test]
fn what_a_start_waits_for_is_said_while_it_lasts_and_when_it_fails() {
    let starting = |detail: &str| {
        let body = INSTANCE.replace("\"SCHEDULED\"", &format!("\"STARTING\",\"detail\":\"{detail}\""));
        server::json(200, &body)
    };
    let replies = || {
        let mut replies = vec![server::json(201, INSTANCE), starting("waiting for port 30000")];
        replies.push(starting("waiting for port 30000"));
        // The last answer is given again and again.
        replies.push(starting("waiting for \\u001b[2Jthe ready line"));
        replies
    };
    let server = Server::replying(replies());
    let ran = run(
        &server,
        &[
            "instance",
            "start",
            "lobby",
            "--jar",
            "/a.jar",
            "--ready",
            "line:Lobby is open",
            "--wait",
            "--timeout",
            "2",
        ],
    );
    assert_eq!(ran.code, 124, "{ran:?}");
    let lines: Vec<_> = ran.stderr.lines().collect();
    assert_eq!(lines[0], "lobby-1 is STARTING: waiting for port 30000");
    assert!(
        lines[1].starts_with("lobby-1 is STARTING: waiting for ") && lines[1].ends_with("the ready line"),
        "{ran:?}"
    );
    assert!(!lines[1].contains('\u{1b}'));
    assert!(
        lines[2].contains("the last thing seen was STARTING: waiting for "),
        "{ran:?}"
    );
    let order: Value = serde_json::from_str(&server.requests()[0].body).unwrap();
    assert_eq!(order["ready"]["line"], "Lobby is open");

    let shown = run(
        &Server::replying(vec![starting("waiting for port 30000")]),
        &["instance", "info", "lobby-1"],
    );
    assert!(shown.stdout.contains("waiting for port 30000"), "{shown:?}");
    let wrong = run(
        &Server::replying(Vec::new()),
        &[
            "instance", "start", "lobby", "--jar", "/a.jar", "--ready", "console",
        ],
    );
    assert_eq!(wrong.code, 64, "{wrong:?}");
    assert!(
        wrong.stderr.contains("port, plugin or line:TEXT is expected"),
        "{wrong:?}"
    );
}

#[test]
fn a_list_with_another_page_says_how_it_is_had() {
    let mut reply = server::json(200, r#"[{"id":"lobby-1","group":"lobby","state":"RUNNING"}]"#);
    reply[0] = String::from_utf8(reply[0].clone())
        .unwrap()
        .replacen("\r\n", "\r\nX-Next-Cursor: lobby-1\r\n", 1)
        .into_bytes();
    let server = Server::replying(vec![reply]);
    let ran = run(
        &server,
        &["instance", "list", "--limit", "1", "--cursor", "alpha-9"],
    );
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(
        ran.stdout.ends_with("There are more: --cursor lobby-1\n"),
        "{}",
        ran.stdout
    );
    let asked = server.only_request();
    assert_eq!(
        asked.line,
        "GET /api/v1/instances?limit=1&cursor=alpha-9 HTTP/1.1"
    );
}

#[test]
fn another_daemon_of_the_same_identity_is_shown() {
    let body = r#"{"id":"node-1","status":"ONLINE","rival":{"address":"10.0.0.9:4000","attempts":3}}"#;
    let ran = run(&Server::json(200, body), &["node", "info", "node-1"]);
    let told = "10.0.0.9:4000 came with this node's identity, too: 3 times";
    assert!(ran.stdout.contains(told), "{}", ran.stdout);
}
