//! Groups: what is sent for them, and what is shown

use serde_json::{Value, json};

use crate::run;
use crate::server::{self, Server};

const GROUP: &str = r#"{"name":"lobby","platform":"PAPER","platformVersion":"1.21.4","jar":"/srv/paper.jar","jarFile":"server.jar",
    "templates":["base","lobby"],"memoryMb":1024,"env":{"TOKEN":"hunter2"},"variableValues":{"MOTD":"hi"},"hiddenVariables":["PW"],
    "portRangeStart":30000,"portRangeEnd":30100,"maxInstances":10,"liveInstances":2,"runningInstances":1,"totalPlayers":3,
    "arguments":["serve","%PORT%"],"stopCommand":"save and quit","notInEffect":["minInstances"],"revision":7}"#;

const INSTANCE: &str = r#"{"id":"lobby-1","group":"lobby","state":"RUNNING","incarnation":1}"#;

fn body(request: &server::Request) -> Value {
    serde_json::from_str(&request.body).unwrap()
}

#[test]
fn a_group_is_created_with_everything_that_was_given() {
    let home = crate::Home::new();
    let secret = home.write("pw", "hunter2\n", 0o600);
    let file = home.write("env", "A=1\n", 0o600);
    let server = Server::json(201, GROUP);
    let secret = format!("PW={}", secret.display());
    let arguments = [
        "group",
        "create",
        "lobby",
        "--platform",
        "PAPER",
        "--platform-version",
        "1.21.4",
        "--jar",
        "/srv/paper.jar",
        "--sha256",
        "ab",
        "--jar-file",
        "paper.jar",
        "--template",
        "a,b",
        "--template",
        "c",
        "--var",
        "MOTD=x=y",
        "--var-file",
        &secret,
        "--patch",
        "config/a.yml:x.y=1",
        "--patch",
        "config/a.yml:z=a:b=c",
        "--static",
        "--static-name",
        "one",
        "--protect",
        "world/**",
        "--memory",
        "512",
        "--jvm-arg",
        "-Xss1m",
        "--arg",
        "--world",
        "--arg",
        "%PORT%",
        "--stop-command",
        "save and quit",
        "--env-file",
        file.to_str().unwrap(),
        "--env",
        "B=2",
        "--port-start",
        "31000",
        "--port-end",
        "31010",
        "--ready",
        "line:Done",
        "--startup-timeout",
        "1",
        "--grace",
        "2",
        "--max-lifetime",
        "3",
        "--max-players",
        "4",
        "--max",
        "5",
        "--min",
        "6",
        "--scaling-mode",
        "MANUAL",
        "--routing",
        "RANDOM",
        "--node-label",
        "zone=eu",
        "--not-node-label",
        "gpu",
        "--set",
        "priority=3",
        "--set",
        "fallbackGroup=hub",
    ];
    let ran = run(&server, &arguments);
    assert_eq!(ran.code, 0, "{ran:?}");
    let request = server.only_request();
    assert_eq!(request.line, "POST /api/v1/groups HTTP/1.1");
    let expected = r#"{
        "name": "lobby", "platform": "PAPER", "platformVersion": "1.21.4", "jar": "/srv/paper.jar", "sha256": "ab",
        "jarFile": "paper.jar", "templates": ["a", "b", "c"], "variableValues": { "MOTD": "x=y", "PW": "hunter2" },
        "configPatches": { "config/a.yml": { "x.y": "1", "z": "a:b=c" } }, "static": true, "staticInstanceNames": ["one"],
        "protectedPaths": ["world/**"], "memoryMb": 512, "jvmArgs": ["-Xss1m"],
        "arguments": ["--world", "%PORT%"], "stopCommand": "save and quit", "env": { "A": "1", "B": "2" },
        "portRangeStart": 31000, "portRangeEnd": 31010, "ready": { "line": "Done" }, "startupTimeoutSeconds": 1,
        "shutdownGraceSeconds": 2, "maxLifetimeSeconds": 3, "maxPlayers": 4, "maxInstances": 5, "minInstances": 6,
        "scalingMode": "MANUAL", "routing": "RANDOM", "nodeAffinity": ["zone=eu"], "nodeAntiAffinity": ["gpu"],
        "priority": 3, "fallbackGroup": "hub"
    }"#;
    assert_eq!(body(&request), serde_json::from_str::<Value>(expected).unwrap());
    // What is secret is shown by its name, and what does nothing yet is said.
    for shown in [
        "PW=(hidden)",
        "MOTD=hi",
        "TOKEN",
        "not in effect",
        "minInstances",
        "serve %PORT%",
        "save and quit",
        "2 live, 1 running, at most 10",
    ] {
        assert!(ran.stdout.contains(shown), "{shown}: {}", ran.stdout);
    }
    assert!(!ran.stdout.contains("hunter2"), "{}", ran.stdout);
}

#[test]
fn a_change_is_made_on_top_of_what_was_seen() {
    let server = Server::json(200, GROUP);
    let arguments = [
        "group",
        "update",
        "lobby",
        "--memory-mb",
        "2048",
        "--unset",
        "jar",
        "--unset",
        "env.TOKEN",
        "--unset",
        "configPatches.a.yml:x",
    ];
    let ran = run(&server, &arguments);
    assert_eq!(ran.code, 0, "{ran:?}");
    let [look, change] = &server.requests()[..] else {
        panic!("{:?}", server.requests())
    };
    assert_eq!(look.line, "GET /api/v1/groups/lobby HTTP/1.1");
    assert_eq!(change.line, "PATCH /api/v1/groups/lobby HTTP/1.1");
    assert!(change.has_header("if-match: \"7\""), "{change:?}");
    let expected = json!({
        "memoryMb": 2048, "jar": null, "env": { "TOKEN": null }, "configPatches": { "a.yml": { "x": null } },
    });
    assert_eq!(body(change), expected);

    let told = r#"{"error":{"code":"PRECONDITION_FAILED","message":"somebody else has changed lobby meanwhile","status":412}}"#;
    let server = Server::json(412, told);
    let ran = run(
        &server,
        &["group", "update", "lobby", "--max", "1", "--if-revision", "3"],
    );
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stderr.contains("somebody else has changed lobby"), "{ran:?}");
    assert!(server.only_request().has_header("if-match: \"3\""));
}

#[test]
fn a_list_has_all_pages() {
    let page = |names: &[&str]| {
        let data: Vec<Value> = names.iter().map(|name| json!({ "name": name })).collect();
        let page = json!({ "data": data, "page": 1, "pageSize": 2, "total": 3 });
        server::json(200, &page.to_string())
    };
    let pages = || Server::replying(vec![page(&["a", "b"]), page(&["c"])]);
    let server = pages();
    let ran = run(&server, &["group", "list"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(ran.stdout.lines().count(), 4, "{}", ran.stdout);
    assert_eq!(server.requests()[1].line, "GET /api/v1/groups?page=2 HTTP/1.1");
    let ran = run(&pages(), &["group", "list", "--filter", "b", "-o", "json"]);
    assert_eq!(
        serde_json::from_str::<Value>(&ran.stdout).unwrap(),
        json!([{ "name": "b" }])
    );
    let ran = run(&Server::replying(vec![page(&[])]), &["group", "list"]);
    assert!(ran.stdout.contains("prexorctl group create"), "{ran:?}");
    let server = Server::json(204, "");
    let ran = run(&server, &["group", "delete", "lobby"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(server.only_request().line, "DELETE /api/v1/groups/lobby HTTP/1.1");
}

#[test]
fn servers_of_a_group_are_started_and_those_that_are_not_are_said() {
    let started = r#"{"status":"scheduled","count":1,"instances":["lobby-1"]}"#;
    let server = Server::replying(vec![server::json(200, started), server::json(200, INSTANCE)]);
    let ran = run(
        &server,
        &["instance", "start", "lobby", "--var", "SEED=7", "--wait"],
    );
    assert_eq!(ran.code, 0, "{ran:?}");
    let requests = server.requests();
    assert_eq!(requests[0].line, "POST /api/v1/groups/lobby/start HTTP/1.1");
    assert_eq!(
        body(&requests[0]),
        json!({ "count": 1, "variables": { "SEED": "7" } })
    );
    assert!(
        ran.stdout.contains("lobby-1") && ran.stdout.contains("RUNNING"),
        "{ran:?}"
    );

    let some = r#"{"status":"scheduled","count":2,"instances":["lobby-1","lobby-1"],"refused":"2 of 3 were started: no free port"}"#;
    let server = Server::replying(vec![server::json(200, some), server::json(200, INSTANCE)]);
    let ran = run(&server, &["instance", "start", "lobby", "--count", "3"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert_eq!(ran.stdout.matches("lobby-1").count(), 2, "{ran:?}");
    assert!(
        ran.stderr.contains("2 of 3 were started: no free port"),
        "{ran:?}"
    );
}

const PLAN: &str = r#"{"name":"lobby","state":"SHORT","desired":3,"serving":1,"reasons":["1 more are wanted, and maxInstances is 2"],
    "refused":"no node is ready","refusedAt":"2026-11-28T17:58:55.000Z",
    "steps":[{"action":"START","instance":"lobby-2","reason":"1 of at least 3 are there"}]}"#;

#[test]
fn a_plan_is_shown_with_its_reasons_and_nothing_is_changed() {
    let shown = [
        "SHORT: 1 of 3 servers",
        "maxInstances is 2",
        "no node is ready",
        "START",
        "lobby-2",
        "1 of at least 3",
    ];
    for (arguments, line, sent) in [
        (
            &["group", "plan", "lobby"][..],
            "GET /api/v1/groups/lobby/plan HTTP/1.1",
            None,
        ),
        (
            &["group", "update", "lobby", "--min", "3", "--dry-run"],
            "POST /api/v1/groups/lobby/plan HTTP/1.1",
            Some(json!({ "minInstances": 3 })),
        ),
        (
            &["group", "scale", "lobby", "3", "--dry-run"],
            "POST /api/v1/groups/lobby/plan HTTP/1.1",
            Some(json!({ "minInstances": 3 })),
        ),
    ] {
        let server = Server::json(200, PLAN);
        let ran = run(&server, arguments);
        assert_eq!(ran.code, 0, "{ran:?}");
        let request = server.only_request();
        assert_eq!(request.line, line);
        assert_eq!(sent.is_some().then(|| body(&request)), sent);
        for text in shown {
            assert!(ran.stdout.contains(text), "{text}: {}", ran.stdout);
        }
    }
}

#[test]
fn servers_of_a_group_are_scaled_paused_resumed_and_stopped() {
    let scaled = GROUP.replace(r#""revision":7"#, r#""revision":7,"scaling":{"state":"HELD","desired":2,"serving":2,"reasons":["admin:x has paused it"]}"#);
    for (arguments, path, sent) in [
        (
            &["group", "scale", "lobby", "2"][..],
            "scale",
            Some(json!({ "instances": 2 })),
        ),
        (&["group", "pause", "lobby"], "pause", None),
        (&["group", "resume", "lobby"], "resume", None),
    ] {
        let server = Server::json(200, &scaled);
        let ran = run(&server, arguments);
        assert_eq!(ran.code, 0, "{ran:?}");
        let request = server.only_request();
        assert_eq!(request.line, format!("POST /api/v1/groups/lobby/{path} HTTP/1.1"));
        assert_eq!(sent.is_some().then(|| body(&request)), sent);
        assert!(
            ran.stdout.contains("HELD: 2 of 2 servers") && ran.stdout.contains("admin:x has paused it"),
            "{ran:?}"
        );
    }
    let server = Server::json(
        200,
        r#"{"status":"stopping","count":2,"instances":["lobby-1","lobby-2"],"paused":true}"#,
    );
    let ran = run(&server, &["group", "stop", "lobby"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(
        server.only_request().line,
        "POST /api/v1/groups/lobby/stop HTTP/1.1"
    );
    assert!(
        ran.stdout
            .contains("2 of its servers are being stopped: prexorctl group resume lobby"),
        "{ran:?}"
    );
}

#[test]
fn the_catalog_is_filled_and_listed() {
    let page = r#"{"data":[{"platform":"PAPER","category":"SERVER","version":"1.0","downloadUrl":"http://a/b.jar","sha256":"","recommended":true}],"page":1,"pageSize":100,"total":1}"#;
    let server = Server::json(200, page);
    let ran = run(&server, &["catalog", "list"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(
        ran.stdout.contains("http://a/b.jar") && ran.stdout.contains("yes"),
        "{ran:?}"
    );
    let server = Server::json(201, "{}");
    let arguments = [
        "catalog",
        "add",
        "PAPER",
        "--version",
        "1.0",
        "--url",
        "http://a/b.jar",
        "--recommended",
    ];
    let ran = run(&server, &arguments);
    assert_eq!(ran.code, 0, "{ran:?}");
    let [add, recommend] = &server.requests()[..] else {
        panic!("{:?}", server.requests())
    };
    assert_eq!(add.line, "POST /api/v1/catalog/PAPER/versions HTTP/1.1");
    let expected = json!({ "category": "SERVER", "configFormat": "", "downloadUrl": "http://a/b.jar", "sha256": "", "version": "1.0" });
    assert_eq!(body(add), expected);
    assert_eq!(
        recommend.line,
        "PUT /api/v1/catalog/PAPER/versions/1.0/recommended HTTP/1.1"
    );
}
