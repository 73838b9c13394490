//! What is printed

use serde_json::Value;

use crate::server::Server;
use crate::{Home, run};

const NODES: &str = r#"[
    {"id":"node-1","status":"ONLINE","connected":true,"cpuUsage":12.6,"usedMemoryMb":512,"totalMemoryMb":2048,"instanceCount":3,
     "connectedSince":"not a time","labels":{"zone":"a"},"unknownField":[1]},
    {"id":"node-22","status":"OFFLINE","connectedSince":null,"cpuUsage":null}
]"#;

#[test]
fn a_table_is_aligned_and_plain_in_a_pipe() {
    let ran = run(&Server::json(200, NODES), &["node", "list"]);
    let expected = "\
ID       STATUS   CPU  MEMORY          INSTANCES  CONNECTED
node-1   ONLINE   13%  512 / 2048 MiB  3          not a time
node-22  OFFLINE  -    -               -          -
";
    assert_eq!(
        (ran.code, ran.stdout.as_str(), ran.stderr.as_str()),
        (0, expected, "")
    );
}

#[test]
fn json_is_what_the_controller_sent_with_sorted_keys() {
    let ran = run(&Server::json(200, NODES), &["node", "list", "-o", "json"]);
    assert_eq!(ran.code, 0);
    let (printed, sent): (Value, Value) = (
        serde_json::from_str(&ran.stdout).unwrap(),
        serde_json::from_str(NODES).unwrap(),
    );
    assert_eq!(printed, sent);
    assert!(
        ran.stdout
            .starts_with("[\n  {\n    \"connected\": true,\n    \"connectedSince\""),
        "{}",
        ran.stdout
    );
}

#[test]
fn an_empty_list_says_what_to_do_next() {
    for (arguments, expected) in [
        (
            ["node", "list"],
            "There are no nodes. Enrol one with a token: prexorctl token create\n",
        ),
        (
            ["token", "list"],
            "There are no join tokens. Create one: prexorctl token create\n",
        ),
        (["crash", "list"], "No crashes.\n"),
    ] {
        let ran = run(&Server::json(200, "[]"), &arguments);
        assert_eq!((ran.code, ran.stdout.as_str()), (0, expected));
    }
    let ran = run(&Server::json(200, "[]"), &["node", "list", "-o", "json"]);
    assert_eq!(ran.stdout, "[]\n");
}

#[test]
fn a_token_is_shown_once_and_explained_on_the_other_stream() {
    let server = Server::json(
        201,
        r#"{"tokenId":"tok_1","token":"pxr_secret.pin","joinToken":"pxr_secret.pin","nodeId":null,"expiresAt":"2100-01-01T00:00:00.5Z"}"#,
    );
    let ran = run(&server, &["token", "create"]);
    assert_eq!(ran.code, 0);
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!(lines.first(), Some(&"token    pxr_secret.pin"), "{lines:?}");
    assert_eq!(lines.get(2), Some(&"node     any"));
    assert!(
        lines.get(3).unwrap().starts_with("expires  2100-01-01T00:00:0"),
        "{lines:?}"
    );
    assert!(ran.stderr.contains("not shown again"));
}

#[test]
fn a_crash_is_shown_with_its_log() {
    let server = Server::json(
        200,
        r#"{"id":"c1","instanceId":"lobby-1","group":"lobby","node":"n1","exitCode":1,"classification":"GENERAL_ERROR","causeSummary":"java.lang.IllegalStateException: x",
            "uptimeMs":61000,"crashedAt":"2026-01-01T00:00:00Z","logTail":["one","\tat two"]}"#,
    );
    let ran = run(&server, &["crash", "show", "c1"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    for expected in [
        "exit code  1\n",
        "class      GENERAL_ERROR\n",
        "cause      java.lang.IllegalStateException: x\n",
        "uptime     1m\n",
        "\nThe last 2 lines of its console:\n  one\n  \tat two\n",
    ] {
        assert!(ran.stdout.contains(expected), "{expected:?} in {}", ran.stdout);
    }
}

#[test]
fn help_names_exit_codes_and_where_secrets_go() {
    let home = Home::new();
    let help: crate::Ran = home.command(&["--help"]).output().unwrap().into();
    assert_eq!(help.code, 0);
    for expected in [
        "Exit codes:",
        "124",
        "--token-file",
        "PREXOR_TOKEN",
        "config.toml",
        "instance",
        "completion",
    ] {
        assert!(help.stdout.contains(expected), "{expected:?} in {}", help.stdout);
    }
    let version: crate::Ran = home.command(&["--version"]).output().unwrap().into();
    assert_eq!(
        (version.code, version.stdout.trim()),
        (0, concat!("prexorctl ", env!("CARGO_PKG_VERSION")))
    );
}

#[test]
fn versions_are_shown_even_if_the_controller_is_away() {
    let server = Server::json(200, r#"{"version":"9.9","protocolVersion":1,"contract":"abc"}"#);
    let ran = run(&server, &["version"]);
    let own = env!("CARGO_PKG_VERSION");
    assert_eq!(
        ran.stdout,
        format!(
            "prexorctl  {own}\ncontroller  9.9\nprotocol    1\naddress     {}\n",
            server.url()
        )
    );
    let home = Home::new();
    let ran: crate::Ran = home
        .command(&["version", "-c", "http://127.0.0.1:1"])
        .output()
        .unwrap()
        .into();
    assert_eq!(
        (ran.code, ran.stdout.trim()),
        (5, format!("prexorctl  {own}").as_str())
    );
}

#[test]
fn completion_scripts_need_no_controller() {
    for shell in ["bash", "zsh", "fish"] {
        let ran: crate::Ran = Home::new()
            .command(&["completion", shell])
            .output()
            .unwrap()
            .into();
        assert_eq!(ran.code, 0);
        assert!(ran.stdout.contains("prexorctl") && ran.stdout.len() > 1_000);
    }
}
