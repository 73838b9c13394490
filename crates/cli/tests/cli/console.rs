//! Following a console

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::Stdio;

use crate::server::{Server, events, json, receive};
use crate::{Home, run};

fn line(sequence: u64, text: &str) -> String {
    let data = serde_json::json!({ "sequence": sequence, "incarnation": 1, "timestampMs": 5, "line": text });
    format!("id: {sequence}\nevent: line\ndata: {data}\n\n")
}

const CONNECTED: &str =
    "event: connected\ndata: {\"instanceId\":\"lobby-1\",\"firstSequence\":1,\"nextSequence\":4}\n\n";

#[test]
fn what_is_kept_is_shown_wherever_the_stream_is_cut() {
    let whole = format!(
        "{CONNECTED}: keep-alive\n\n{}{}event: gap\ndata: {{\"missed\":7,\"before\":10}}\n\n{}",
        line(1, "Grüße"),
        line(2, "\tat a.b.C"),
        line(10, "after")
    );
    let single: Vec<String> = whole.chars().map(String::from).collect();
    let single: Vec<&str> = single.iter().map(String::as_str).collect();
    for pieces in [&[whole.as_str()][..], &single] {
        let ran = run(
            &Server::replying(vec![events(pieces)]),
            &["instance", "console", "lobby-1", "--no-follow"],
        );
        assert_eq!(
            (ran.code, ran.stdout.as_str()),
            (0, "Grüße\n\tat a.b.C\nafter\n"),
            "{ran:?}"
        );
        assert_eq!(ran.stderr, "-- 7 lines are missing here --\n");
    }
}

#[test]
fn a_lost_stream_goes_on_after_the_last_line() {
    let server = Server::replying(vec![
        events(&[
            CONNECTED,
            &line(1, "one"),
            &line(2, "two"),
            "id: 3\nevent: line\ndata: {\"sequ",
        ]),
        json(503, "{}"),
        // A line that was seen already comes once more.
        events(&[CONNECTED, &line(2, "two"), &line(3, "three")]),
        json(
            404,
            r#"{"error":{"code":"NOT_FOUND","message":"Instance not found: lobby-1"}}"#,
        ),
    ]);
    let ran = run(&server, &["instance", "console", "lobby-1"]);
    assert_eq!(
        (ran.code, ran.stdout.as_str()),
        (4, "one\ntwo\nthree\n"),
        "{ran:?}"
    );
    let notes: Vec<&str> = ran.stderr.lines().collect();
    assert_eq!(
        notes,
        [
            "-- the controller ended the stream; connecting again --",
            "-- connected again --",
            "-- the controller ended the stream; connecting again --",
            "error: Instance not found: lobby-1 (HTTP 404)"
        ]
    );
    let lines: Vec<String> = server
        .requests()
        .into_iter()
        .map(|request| request.line)
        .collect();
    let path = "GET /api/v1/instances/lobby-1/console?follow=true";
    let expected = [
        format!("{path} HTTP/1.1"),
        format!("{path}&from=3 HTTP/1.1"),
        format!("{path}&from=3 HTTP/1.1"),
        format!("{path}&from=4 HTTP/1.1"),
    ];
    assert_eq!(lines, expected);
}

#[test]
fn a_controller_that_counts_anew_is_noticed() {
    let anew = "event: connected\ndata: {\"nextSequence\":2}\n\n";
    let server = Server::replying(vec![
        events(&[CONNECTED, &line(100, "before")]),
        events(&[anew]),
        events(&[anew, &line(1, "after")]),
        json(404, "{}"),
    ]);
    let ran = run(&server, &["instance", "console", "lobby-1"]);
    assert_eq!(ran.stdout, "before\nafter\n", "{ran:?}");
    assert!(ran.stderr.contains("began to count its lines anew"), "{ran:?}");
}

#[test]
fn a_controller_that_has_counted_farther_meanwhile_is_noticed_by_its_life() {
    let hello = |life: &str, next: u64| {
        format!("event: connected\ndata: {{\"nextSequence\":{next},\"life\":\"{life}\"}}\n\n")
    };
    let server = Server::replying(vec![
        events(&[&hello("a", 3), &line(1, "one"), &line(2, "two")]),
        events(&[&hello("b", 9), &line(3, "of another life")]),
        events(&[&hello("b", 9), &line(1, "after"), &line(3, "of another life")]),
        json(404, "{}"),
    ]);
    let ran = run(&server, &["instance", "console", "lobby-1"]);
    assert_eq!(ran.stdout, "one\ntwo\nafter\nof another life\n", "{ran:?}");
    let anew = ran.stderr.matches("began to count its lines anew").count();
    assert_eq!(anew, 1, "{ran:?}");
    let requests = server.requests();
    let lines: Vec<&str> = requests.iter().map(|request| request.line.as_str()).collect();
    let path = "GET /api/v1/instances/lobby-1/console?follow=true";
    assert_eq!(
        lines.get(2),
        Some(&format!("{path} HTTP/1.1").as_str()),
        "all of it"
    );
}

#[test]
fn lines_are_harmless_unless_raw_is_asked_for() {
    let evil = "\u{1b}[31mred\u{1b}[0m \u{1b}[2J\u{9b}1mx\u{7}";
    let reply = || Server::replying(vec![events(&[CONNECTED, &line(1, evil)])]);
    let base = ["instance", "console", "lobby-1", "--no-follow"];
    let ran = run(&reply(), &base);
    assert_eq!(ran.stdout, "red \\u{1b}[2J\\u{9b}1mx\\u{7}\n");
    let ran = run(&reply(), &[&base[..], &["--raw"]].concat());
    assert_eq!(ran.stdout, format!("{evil}\n"));
    let ran = run(&reply(), &[&base[..], &["-o", "json"]].concat());
    let object: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(object.get("line").unwrap(), evil);
    assert!(!ran.stdout.trim_end().contains(char::is_control), "{ran:?}");
}

#[test]
fn streams_that_are_none_are_refused() {
    let endless: Vec<String> = (0..40).map(|_| "data: x".repeat(2_000)).collect();
    let endless: Vec<&str> = endless.iter().map(String::as_str).collect();
    for reply in [
        json(200, "{}"),
        events(&["event: line\ndata: nonsense\n\n"]),
        events(&["event: line\ndata: {\"sequence\":-1,\"line\":\"x\"}\n\n"]),
        events(&["event: connected\ndata: 7\n\n"]),
        events(&endless),
    ] {
        let ran = run(
            &Server::replying(vec![reply]),
            &["instance", "console", "lobby-1"],
        );
        assert_eq!(ran.code, 1, "{ran:?}");
        assert!(ran.stderr.contains("is not understood"), "{ran:?}");
    }
}

#[test]
fn typed_lines_reach_the_server_and_a_refusal_does_not_end_the_console() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let serving = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        receive(&mut stream).unwrap();
        for piece in events(&[CONNECTED, &line(1, "one")]) {
            stream.write_all(&piece).unwrap();
        }
        let mut bodies = Vec::new();
        for reply in [json(409, r#"{"message":"it is starting"}"#), json(200, "{}")] {
            let (mut command, _) = listener.accept().unwrap();
            bodies.push(receive(&mut command).unwrap().body);
            for piece in reply {
                command.write_all(&piece).unwrap();
            }
        }
        // The end of the stream, and a refusal of the next one, end the program.
        drop(stream);
        let (mut again, _) = listener.accept().unwrap();
        receive(&mut again).unwrap();
        for piece in json(404, r#"{"message":"gone"}"#) {
            again.write_all(&piece).unwrap();
        }
        bodies
    });
    let home = Home::new();
    let mut child = home
        .command(&["instance", "attach", "lobby-1"])
        .env("PREXORCTL_CONTROLLER", url)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut shown = String::new();
    stdout.read_line(&mut shown).unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"first\n\n say  hi \r\n").unwrap();
    drop(stdin);
    let ran: crate::Ran = child.wait_with_output().unwrap().into();
    assert_eq!((ran.code, shown.as_str()), (4, "one\n"), "{ran:?}");
    assert!(
        ran.stderr
            .starts_with("-- not sent: it is starting (HTTP 409) --\n"),
        "{ran:?}"
    );
    let bodies = serving.join().unwrap();
    assert_eq!(bodies, [r#"{"command":"first"}"#, r#"{"command":" say  hi "}"#]);
}

#[test]
fn an_interrupt_ends_the_console_cleanly() {
    // A listener that sends the beginning and then keeps the connection open.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (done, wait) = std::sync::mpsc::channel::<()>();
    let serving = std::thread::spawn(move || {
        let (mut connection, _) = listener.accept().unwrap();
        receive(&mut connection).unwrap();
        for piece in events(&[CONNECTED, &line(1, "one")]) {
            connection.write_all(&piece).unwrap();
        }
        let _ = wait.recv();
    });
    let home = Home::new();
    let mut child = home
        .command(&["instance", "console", "lobby-1"])
        .env("PREXORCTL_CONTROLLER", url)
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut first = String::new();
    stdout.read_line(&mut first).unwrap();
    assert_eq!(first, "one\n");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!(stderr, "");
    drop(done);
    serving.join().unwrap();
}
