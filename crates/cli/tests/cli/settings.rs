//! Where the controller and the token come from, and what wrong command lines get

use crate::server::Server;
use crate::{Home, Ran};

#[test]
fn the_context_of_the_settings_file_is_used() {
    let server = Server::json(200, "[]");
    let home = Home::new();
    let token = home.write("admin.token", "prx_from_file\n", 0o600);
    let text = format!(
        "current_context = \"home\"\n[contexts.home]\ncontroller = \"{}\"\ntoken_file = \"{}\"\n",
        server.url(),
        token.display()
    );
    home.write(".prexorcloud/config.toml", &text, 0o600);
    let ran: Ran = home.command(&["node", "list"]).output().unwrap().into();
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(
        server
            .only_request()
            .has_header("authorization: Bearer prx_from_file")
    );
}

#[test]
fn secrets_on_the_command_line_are_refused_and_not_repeated() {
    for arguments in [
        &["node", "list", "--token", "prx_secret"][..],
        &["--token=prx_secret", "node", "list"],
        &["node", "list", "-t", "prx_secret"],
        &["node", "list", "--token"],
    ] {
        let ran: Ran = Home::new().command(arguments).output().unwrap().into();
        assert_eq!(ran.code, 64, "{ran:?}");
        assert!(
            ran.stderr.contains("--token-file") && !ran.stderr.contains("prx_secret"),
            "{ran:?}"
        );
    }
}

#[test]
fn an_open_token_file_is_refused() {
    let home = Home::new();
    let file = home.write("token", "prx_x", 0o644);
    let ran: Ran = home
        .command(&["node", "list", "--token-file", file.to_str().unwrap()])
        .output()
        .unwrap()
        .into();
    assert_eq!(ran.code, 64);
    assert!(
        ran.stderr.contains("others may read or change it (mode 644)"),
        "{ran:?}"
    );
    assert!(ran.stderr.contains("hint:  Close it: chmod 600 "), "{ran:?}");
}

#[test]
fn wrong_command_lines_send_nothing() {
    let server = Server::json(200, "[]");
    for (arguments, expected) in [
        (&[][..], "Usage:"),
        (&["nodes"], "unrecognized subcommand 'nodes'"),
        (&["node", "show", "../x"], "an id has 1 to 64 letters"),
        (
            &["instance", "start", "a,b", "--jar", "/x"],
            "an id has 1 to 64 letters",
        ),
        (&["instance", "start", "lobby", "--memory-mb", "9"], "--jar"),
        (
            &["instance", "start", "lobby", "--jar", "/x", "--count", "2"],
            "--count",
        ),
        (&["instance", "start", "lobby", "--count", "51"], "51"),
        (&["group", "create", "../x"], "a group's name has 1 to 32"),
        (&["group", "create", "x", "--patch", "a.yml"], "FILE:KEY=VALUE"),
        (
            &["group", "create", "x", "--memory", "1", "--set", "memoryMb=2"],
            "memoryMb is given twice",
        ),
        (
            &["group", "create", "x", "--env", "hunter2"],
            "--env: NAME=VALUE is expected",
        ),
        (&["group", "update", "x"], "nothing is changed"),
        (
            &["instance", "start", "lobby", "--jar", "server.jar"],
            "absolute path on the node",
        ),
        (
            &["instance", "start", "lobby", "--jar", "/x", "--env", "novalue"],
            "--env: NAME=VALUE is expected",
        ),
        (
            &["instance", "start", "lobby", "--jar", "/x", "--port", "70000"],
            "70000",
        ),
        (&["instance", "exec", "lobby-1"], "<WORDS>"),
        (&["token", "create", "--ttl", "soon"], "90s, 15m, 1h or 7d"),
        (
            &["node", "list", "-c", "localhost:8080"],
            "is not the URL of a controller",
        ),
        (&["node", "list", "-c", "http://u:p@h"], "does not belong into it"),
        (
            &["node", "list", "--context", "away"],
            "there is no context \"away\"",
        ),
        (&["node", "list", "-o", "yaml"], "yaml"),
        (&["node", "list", "--ca-file", "/nowhere"], "cannot be used"),
    ] {
        let home = Home::new();
        let mut command = home.command(arguments);
        let ran: Ran = command
            .env("PREXORCTL_CONTROLLER", server.url())
            .output()
            .unwrap()
            .into();
        assert_eq!(ran.code, 64, "{arguments:?}: {ran:?}");
        assert!(ran.stderr.contains(expected), "{arguments:?}: {}", ran.stderr);
    }
    assert!(server.requests().is_empty());
}
