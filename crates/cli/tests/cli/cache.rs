//! Caches of nodes: what is asked, and what is shown

use serde_json::{Value, json};

use crate::run;
use crate::server::{self, Server};

fn cache(number: u64, warming: Value) -> server::Reply {
    let cache = json!({
        "templates": [{ "name": "base", "hash": "8564620f1ca97e2d", "sizeBytes": 29, "lastUsed": null },
            { "name": "lobby", "hash": "aaaa0f1ca97e2daa", "version": 3, "versionHash": "bbbb0f1ca97e2dbb", "sizeBytes": 29, "lastUsed": null }],
        "jars": [{ "platform": "PAPER", "version": "1.21", "jarFile": "paper.jar", "sizeBytes": 5_000_000 }],
        "bootstraps": [], "totalSizeBytes": 5_000_029, "receivedAt": "2026-11-24T16:00:00.042Z", "number": number,
        "warming": warming,
    });
    server::json(200, &cache.to_string())
}

fn warming(state: &str) -> Value {
    json!({
        "state": state, "runtimes": 1, "templates": 2, "beganAt": "2026-11-24T16:00:00.042Z", "endedAt": null,
        "failures": if state == "FAILED" { json!([{ "what": "paper.jar", "message": "it answered 404" }]) } else { json!([]) },
    })
}

#[test]
fn a_refresh_waits_for_what_the_node_says() {
    let asked = server::json(202, r#"{"status":"REQUESTED","number":3}"#);
    let server = Server::replying(vec![asked, cache(3, Value::Null), cache(4, Value::Null)]);
    let ran = run(&server, &["node", "cache", "refresh", "n1"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let lines: Vec<String> = server
        .requests()
        .into_iter()
        .map(|request| request.line)
        .collect();
    assert_eq!(
        lines,
        [
            "POST /api/v1/nodes/n1/cache/refresh HTTP/1.1",
            "GET /api/v1/nodes/n1/cache HTTP/1.1",
            "GET /api/v1/nodes/n1/cache HTTP/1.1"
        ]
    );
    for shown in [
        "base",
        "8564620f1ca9",
        "3 (bbbb0f1ca97e)",
        "paper.jar",
        "PAPER 1.21",
        "4.77 MiB",
    ] {
        assert!(ran.stdout.contains(shown), "{shown}: {}", ran.stdout);
    }
    let asked = server::json(202, r#"{"status":"REQUESTED","number":3}"#);
    let silent = Server::replying(vec![asked, cache(3, Value::Null)]);
    let ran = run(&silent, &["node", "cache", "refresh", "n1", "--timeout", "1"]);
    assert_eq!(ran.code, 124, "{ran:?}");
    let never = Server::json(200, "{}");
    let ran = run(&never, &["node", "cache", "show", "n1"]);
    assert!(
        ran.code == 0 && ran.stdout.contains("prexorctl node cache refresh n1"),
        "{ran:?}"
    );
}

#[test]
fn warming_ends_with_what_came_of_it() {
    let arguments = [
        "node",
        "cache",
        "warm",
        "n1",
        "--group",
        "lobby",
        "--template",
        "base",
    ];
    for (state, code, sentence) in [
        ("WARMED", 0, ""),
        ("FAILED", 1, "n1 could not fetch all of it"),
        ("BUSY", 1, "still fetching for an earlier order"),
        ("LOST", 1, "the connection to n1 broke"),
        ("UNANSWERED", 1, "has not said what came of it"),
        ("SENT", 0, ""),
    ] {
        let asked = server::json(202, r#"{"status":"WARMING","runtimes":1,"templates":2}"#);
        let server = Server::replying(vec![
            asked,
            cache(1, warming("WARMING")),
            cache(2, warming(state)),
        ]);
        let ran = run(&server, &arguments);
        assert_eq!(ran.code, code, "{state}: {ran:?}");
        assert!(ran.stderr.contains(sentence), "{state}: {ran:?}");
        assert!(ran.stdout.contains("1 jars, 2 templates"), "{state}: {ran:?}");
        assert_eq!(
            ran.stdout.contains("paper.jar: it answered 404"),
            state == "FAILED",
            "{ran:?}"
        );
        let request = &server.requests()[0];
        assert_eq!(request.line, "POST /api/v1/nodes/n1/cache/warm HTTP/1.1");
        let body: Value = serde_json::from_str(&request.body).unwrap();
        assert_eq!(body, json!({ "groups": ["lobby"], "templates": ["base"] }));
    }
    let server = Server::json(202, r#"{"status":"WARMING"}"#);
    let ran = run(&server, &["node", "cache", "warm", "n1", "--no-wait"]);
    assert_eq!(
        (ran.code, server.only_request().body.as_str()),
        (0, "{}"),
        "{ran:?}"
    );
}
