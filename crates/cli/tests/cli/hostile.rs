//! Controllers that refuse, fail, lie or attack the terminal

use std::net::TcpListener;

use crate::server::{Server, json};
use crate::{Home, Ran, run};

#[test]
fn each_refusal_has_its_exit_code() {
    for (status, code) in [
        (401, 2),
        (403, 3),
        (404, 4),
        (409, 1),
        (422, 1),
        (500, 1),
        (503, 1),
        (307, 1),
    ] {
        let body = r#"{"error":{"code":"SOME_CODE","message":"what the controller says","status":0}}"#;
        let ran = run(&Server::json(status, body), &["node", "list"]);
        assert_eq!(ran.code, code, "{status}: {ran:?}");
        assert!(
            ran.stderr
                .starts_with(&format!("error: what the controller says (HTTP {status})\n")),
            "{ran:?}"
        );
        assert_eq!(ran.stdout, "");
    }
}

#[test]
fn nobody_there_is_code_5_and_says_what_to_try() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let ran: Ran = Home::new()
        .command(&["node", "list", "-c", &format!("http://{closed}")])
        .output()
        .unwrap()
        .into();
    assert_eq!(ran.code, 5);
    let expected = format!(
        "error: no answer from the controller at http://{closed}: Connection refused (os error 111)\n"
    );
    assert!(ran.stderr.starts_with(&expected), "{ran:?}");
    assert!(
        ran.stderr
            .contains("hint:  Is it running (`prexorcloud controller`)?"),
        "{ran:?}"
    );
}

#[test]
fn a_connection_that_breaks_is_code_5() {
    for reply in [
        vec![],
        vec![b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n[".to_vec()],
        vec![b"SSH-2.0-OpenSSH_9.9\r\n".to_vec()],
    ] {
        let ran = run(&Server::replying(vec![reply]), &["node", "list"]);
        assert_eq!(ran.code, 5, "{ran:?}");
        assert_eq!(ran.stderr.matches("error:").count(), 1, "{ran:?}");
    }
}

#[test]
fn answers_of_the_wrong_shape_are_code_1() {
    for body in [
        "",
        "{",
        "nonsense",
        "{}",
        "[1]",
        "[{\"id\":7}]",
        "null",
        r#"[{"id":"a","status":{}}]"#,
    ] {
        let ran = run(&Server::json(200, body), &["node", "list"]);
        assert_eq!(ran.code, 1, "{body}: {ran:?}");
        assert!(
            ran.stderr.contains("to GET /api/v1/nodes is not understood"),
            "{body}: {ran:?}"
        );
        assert!(ran.stderr.contains("hint:"), "{ran:?}");
    }
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(run(&Server::json(200, &deep), &["node", "list"]).code, 1);
}

#[test]
fn an_endless_answer_is_not_read() {
    let mut reply = vec![b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n[".to_vec()];
    reply.extend(std::iter::repeat_n(vec![b' '; 1024 * 1024], 40));
    let ran = run(&Server::replying(vec![reply]), &["node", "list"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(
        ran.stderr.contains("larger than 33554432 bytes and was not read"),
        "{ran:?}"
    );

    let mut refusal = vec![b"HTTP/1.1 500 No\r\nconnection: close\r\n\r\n".to_vec()];
    refusal.extend(std::iter::repeat_n(vec![b'x'; 1024 * 1024], 4));
    let ran = run(&Server::replying(vec![refusal]), &["node", "list"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(
        ran.stderr.contains("(HTTP 500)") && ran.stderr.len() < 1_000,
        "{ran:?}"
    );
}

#[test]
fn nothing_that_a_controller_sends_controls_the_terminal() {
    let evil = "\\u001b]0;owned\\u0007\\u001b[2J\\u009b31m\\u202e\\r\\nrm";
    let node = format!(r#"[{{"id":"a{evil}","status":"{evil}","connectedSince":"{evil}"}}]"#);
    let crash =
        format!(r#"{{"id":"{evil}","instanceId":"{evil}","causeSummary":"{evil}","logTail":["{evil}"]}}"#);
    let refusal = format!(r#"{{"error":{{"code":"{evil}","message":"{evil}"}}}}"#);
    let wrong_type = format!(r#"[{{"id":"a","status":"b","connected":"{evil}"}}]"#);
    for (status, body, arguments) in [
        (200, &node, &["node", "list"][..]),
        (200, &node, &["node", "list", "-o", "json"]),
        (200, &crash, &["crash", "show", "c1"]),
        (409, &refusal, &["node", "list"]),
        (200, &wrong_type, &["node", "list"]),
    ] {
        let ran = run(&Server::json(status, body), arguments);
        for text in [&ran.stdout, &ran.stderr] {
            let obeyed =
                |character: char| (character.is_control() && character != '\n') || character == '\u{202e}';
            assert!(!text.contains(obeyed), "{arguments:?}: {text:?}");
        }
        assert!(
            format!("{}{}", ran.stdout, ran.stderr).contains("owned"),
            "{ran:?}"
        );
    }
}

#[test]
fn the_token_does_not_follow_a_redirect() {
    let elsewhere = Server::json(200, "[]");
    let head = format!(
        "HTTP/1.1 307 Elsewhere\r\nlocation: {}/api/v1/nodes\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        elsewhere.url()
    );
    let ran = run(
        &Server::replying(vec![vec![head.into_bytes()]]),
        &["node", "list"],
    );
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(elsewhere.requests().is_empty());
}

#[test]
fn a_closed_pipe_is_no_error() {
    let rows: Vec<String> = (0..20_000)
        .map(|n| format!(r#"{{"id":"node-{n}","status":"ONLINE"}}"#))
        .collect();
    let server = Server::replying(vec![json(200, &format!("[{}]", rows.join(",")))]);
    let home = Home::new();
    let mut child = home
        .command(&["node", "list"])
        .env("PREXORCTL_CONTROLLER", server.url())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let ran = child.wait_with_output().unwrap();
    assert_eq!(ran.status.code(), Some(0));
    assert_eq!(String::from_utf8(ran.stderr).unwrap(), "");
}
