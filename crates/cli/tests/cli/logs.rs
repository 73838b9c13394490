//! Looking at logs, and following them

use crate::run;
use crate::server::{Server, events, json};

fn connected(life: &str) -> String {
    format!("event: connected\ndata: {{\"life\":\"{life}\",\"received\":7}}\n\n")
}

fn record(life: &str, seq: u64, message: &str) -> String {
    let data = serde_json::json!({
        "seq": seq, "ts": 0, "level": "WARN", "logger": "a::b", "message": message, "mdc": { "node": "node-1" },
    });
    format!("id: {life}-{seq}\nevent: log\ndata: {data}\n\n")
}

#[test]
fn a_log_goes_on_behind_the_last_record_and_a_restart_is_said() {
    let server = Server::replying(vec![
        events(&[&connected("a"), &record("a", 7, "before")]),
        json(503, "{}"),
        events(&[&connected("a"), &record("a", 8, "again")]),
        events(&[
            &connected("b"),
            &record("b", 1, "after"),
            "event: gap\ndata: {\"missed\":3}\n\n",
        ]),
        json(403, r#"{"message":"no more"}"#),
    ]);
    let ran = run(
        &server,
        &["logs", "daemon", "node-1", "-f", "-n", "5", "-o", "json"],
    );
    assert_eq!(ran.code, 3, "{ran:?}");
    let lines: Vec<serde_json::Value> = ran
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let shown: Vec<_> = lines
        .iter()
        .map(|line| line["message"].as_str().unwrap_or("gap"))
        .collect();
    assert_eq!(shown, ["before", "again", "after", "gap"]);
    assert_eq!(lines[0]["source"], "daemon node-1");
    assert!(
        ran.stderr.contains("-- connected again; nothing is missing --"),
        "{ran:?}"
    );
    assert!(ran.stderr.contains("the controller was restarted"), "{ran:?}");
    let asked: Vec<String> = server
        .requests()
        .into_iter()
        .map(|request| request.line)
        .collect();
    let path = "GET /api/v1/nodes/node-1/logs/stream?level=INFO";
    assert_eq!(
        asked,
        [
            format!("{path}&tail=5 HTTP/1.1"),
            format!("{path}&after=a-7 HTTP/1.1"),
            format!("{path}&after=a-7 HTTP/1.1"),
            format!("{path}&after=a-8 HTTP/1.1"),
            format!("{path}&after=b-1 HTTP/1.1"),
        ]
    );
}

#[test]
fn what_somebody_else_logged_stays_on_its_line() {
    let page = serde_json::json!({ "records": [{
        "seq": 1, "ts": 0, "level": "ERROR", "logger": "a\u{1b}[2J", "message": "m\n12:00 forged",
        "throwable": "E\n\tat x\u{7}", "mdc": { "k": "v" }, "lost": 4,
    }]});
    let ran = run(&Server::json(200, &page.to_string()), &["logs", "controller"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let (time, rest) = ran.stdout.split_at(12);
    assert!(time.ends_with(":00.000"), "{time}");
    assert_eq!(
        rest,
        "  ERROR  a\\u{1b}[2J │ m\\u{a}12:00 forged k=v\n    E\n    \tat x\\u{7}\n"
    );
    assert!(ran.stderr.starts_with("-- 4 records were lost here"), "{ran:?}");
}

#[test]
fn a_console_that_is_followed_begins_with_as_many_lines_as_are_wanted() {
    let line = |sequence: u64| {
        let data = serde_json::json!({ "sequence": sequence, "line": format!("line {sequence}") });
        format!("event: line\ndata: {data}\n\n")
    };
    let hello = "event: connected\ndata: {\"firstSequence\":4,\"nextSequence\":8}\n\n";
    let gap = "event: gap\ndata: {\"missed\":3,\"before\":4}\n\n";
    for (tail, wanted) in [
        ("2", vec!["line 6", "line 7", "line 8"]),
        ("0", vec!["line 8"]),
        (
            "100",
            vec!["gap", "line 4", "line 5", "line 6", "line 7", "line 8"],
        ),
    ] {
        let server = Server::replying(vec![
            events(&[hello, gap, &line(4), &line(5), &line(6), &line(7), &line(8)]),
            json(403, r#"{"message":"no more"}"#),
        ]);
        let ran = run(
            &server,
            &["logs", "instance", "lobby-1", "-f", "--tail", tail, "-o", "json"],
        );
        assert_eq!(ran.code, 3, "{ran:?}");
        let shown: Vec<String> = ran
            .stdout
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .map(|line: serde_json::Value| line["line"].as_str().unwrap_or("gap").to_owned())
            .collect();
        assert_eq!(shown, wanted, "--tail {tail}");
    }
}

#[test]
fn the_empty_log_of_a_node_that_there_is_not_is_an_error() {
    let empty = || json(200, r#"{"records":[]}"#);
    let server = Server::replying(vec![
        empty(),
        json(404, r#"{"message":"no such node"}"#),
        empty(),
        json(200, r#"{"id":"node-1"}"#),
        empty(),
        json(403, r#"{"message":"no"}"#),
    ]);
    let ran = run(&server, &["logs", "daemon", "nope"]);
    assert_eq!(ran.code, 4, "{ran:?}");
    assert!(ran.stderr.contains("no such node"), "{ran:?}");
    for node in ["node-1", "node-2"] {
        let ran = run(&server, &["logs", "daemon", node]);
        assert_eq!((ran.code, ran.stdout.as_str()), (0, ""), "{ran:?}");
    }
}
