//! Wrong configurations, folders, ports and jars: a clear error, and nothing lost

use std::net::TcpListener;

use crate::rig::{Rig, finish, program, run};

fn controller_with(rig: &Rig, text: &str) -> crate::rig::Ran {
    let config = rig.write("wrong.toml", text);
    run(&["controller", "--config", config.to_str().unwrap()])
}

#[test]
fn an_unknown_key_is_refused_with_the_nearest_one() {
    let rig = Rig::new();
    let wrong = rig.write("c.toml", "[grpc]\nlisten = \"127.0.0.1:0\"\nname = [\"x\"]\n");
    let wrong = wrong.to_str().unwrap();
    for arguments in [
        &["config", "check", "controller", wrong][..],
        &["controller", "--config", wrong],
    ] {
        let ran = run(arguments);
        assert_eq!(ran.code, 64, "{ran:?}");
        assert_eq!(
            ran.stderr,
            format!("error: {wrong}:3: unknown key `grpc.name`, did you mean `grpc.names`?\n")
        );
    }
    let wrong = rig.write("d.toml", "nodeid = \"x\"\n");
    let ran = run(&["config", "check", "daemon", wrong.to_str().unwrap()]);
    assert_eq!(ran.code, 64, "{ran:?}");
    assert!(
        ran.stderr
            .contains("d.toml:1: unknown key `nodeid`, did you mean `node_id`?"),
        "{ran:?}"
    );
}

#[test]
fn a_filter_that_is_none_is_refused_and_a_missing_java_is_told() {
    let rig = Rig::new();
    for role in ["controller", "daemon"] {
        let file = rig.write("filter.toml", "[log]\nfilter = \"loud=maybe=yes\"\n");
        let ran = run(&["config", "check", role, file.to_str().unwrap()]);
        assert_eq!(ran.code, 64, "{ran:?}");
        assert!(ran.error().contains("log.filter \"loud=maybe=yes\""), "{ran:?}");
    }
    let file = rig.write("java.toml", "[runtime]\njava = \"/nowhere/java\"\n");
    let ran = run(&["config", "check", "daemon", file.to_str().unwrap()]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(
        ran.stderr.contains("warning: ") && ran.stderr.contains("/nowhere/java"),
        "{ran:?}"
    );
}

#[test]
fn the_environment_is_checked_like_the_file() {
    let rig = Rig::new();
    let folder = rig.path("controller");
    let mut command = program(&["controller", "--data-dir", folder.to_str().unwrap()]);
    let ran = finish(command.env("PREXORCLOUD_CONTROLLER_GRPC_LISTEN", "everywhere"));
    assert_eq!(ran.code, 64, "{ran:?}");
    assert!(
        ran.error().contains("PREXORCLOUD_CONTROLLER_GRPC_LISTEN"),
        "{ran:?}"
    );
    assert!(!folder.exists());

    let mut command = program(&["config", "check", "controller"]);
    let file = rig.write("empty.toml", "");
    let ran = finish(
        command
            .arg(file)
            .env("PREXORCLOUD_CONTROLLER_GRPC_LISTN", "127.0.0.1:0"),
    );
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(
        ran.stderr
            .starts_with("warning: PREXORCLOUD_CONTROLLER_GRPC_LISTN is not a setting"),
        "{ran:?}"
    );
}

#[test]
fn the_examples_are_good_configurations() {
    let rig = Rig::new();
    for role in ["controller", "daemon"] {
        let example = run(&["config", "example", role]);
        assert_eq!(example.code, 0);
        let file = rig.write(&format!("{role}.toml"), &example.stdout);
        let ran = run(&["config", "check", role, file.to_str().unwrap()]);
        assert_eq!(ran.code, 0, "{ran:?}");
        assert_eq!(ran.stderr, format!("{} is fine\n", file.display()));
    }
    let missing = run(&["config", "check", "daemon", "/nowhere/daemon.toml"]);
    assert_eq!(missing.code, 64, "{missing:?}");
}

#[test]
fn a_second_controller_on_the_same_folder_is_refused() {
    let rig = Rig::with_controller();
    let folder = rig.path("controller");
    let text = format!(
        "data_dir = {folder:?}\n[grpc]\nlisten = \"127.0.0.1:0\"\n[http]\nlisten = \"127.0.0.1:0\"\n"
    );
    let ran = controller_with(&rig, &text);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.error().contains(folder.to_str().unwrap()), "{ran:?}");
    // The first one is not disturbed.
    assert_eq!(rig.ctl(&["node", "list"]).code, 0);
}

#[test]
fn a_second_daemon_on_the_same_folder_is_refused() {
    let rig = Rig::with_node();
    let ran = run(&["daemon", "--config", rig.path("daemon.toml").to_str().unwrap()]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(
        ran.error().contains(rig.path("daemon").to_str().unwrap()),
        "{ran:?}"
    );
    assert_eq!(rig.node("node-1")["connected"], true);
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let rig = Rig::new();
    let file = rig.write("a-file", "");
    // Permissions do not stop a superuser; a file in the way and a file system without files stop everybody.
    for folder in [
        file.join("data").display().to_string(),
        "/proc/prexorcloud".to_owned(),
    ] {
        for role in ["controller", "daemon"] {
            let ran = run(&[role, "--data-dir", &folder]);
            assert_eq!(ran.code, 1, "{ran:?}");
            assert!(ran.error().contains(&folder), "{ran:?}");
            assert_eq!(
                ran.error().matches("os error").count(),
                1,
                "causes are told once: {ran:?}"
            );
        }
    }
}

#[test]
fn a_port_in_use_is_named() {
    let rig = Rig::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap();
    for (grpc, http) in [
        (taken.to_string(), "127.0.0.1:0".to_owned()),
        ("127.0.0.1:0".to_owned(), taken.to_string()),
    ] {
        let text = format!(
            "data_dir = {:?}\n[grpc]\nlisten = \"{grpc}\"\n[http]\nlisten = \"{http}\"\n",
            rig.path("controller")
        );
        let ran = controller_with(&rig, &text);
        assert_eq!(ran.code, 1, "{ran:?}");
        assert!(
            ran.error().contains(&taken.to_string()) && ran.error().contains("in use"),
            "{ran:?}"
        );
    }
}

#[test]
fn a_jar_that_is_missing_or_another_one_ends_the_start_with_the_reason() {
    let rig = Rig::with_node();
    let missing = rig.path("nowhere.jar");
    let ran = rig.ctl(&[
        "instance",
        "start",
        "lobby",
        "--id",
        "a-1",
        "--jar",
        missing.to_str().unwrap(),
        "--wait",
    ]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stderr.contains("nowhere.jar"), "{ran:?}");

    let jar = rig.write("server.jar", "not a jar at all");
    let zeros = "0".repeat(64);
    let ran = rig.ctl(&[
        "instance",
        "start",
        "lobby",
        "--id",
        "a-2",
        "--jar",
        jar.to_str().unwrap(),
        "--sha256",
        &zeros,
        "--wait",
    ]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(
        ran.stderr.to_lowercase().contains("sha256") || ran.stderr.to_lowercase().contains("sha-256"),
        "{ran:?}"
    );

    for id in ["a-1", "a-2"] {
        assert!(rig.instance(id)["lastError"].is_string(), "{}", rig.instance(id));
    }
    // The node is as good as before.
    rig.start_standin("lobby-1");
}

#[test]
fn names_and_orders_that_are_wrong_are_refused_by_the_controller_itself() {
    let rig = Rig::with_node();
    let long = "x".repeat(65);
    for group in ["../x", "a,b", "", long.as_str(), "a b", "é"] {
        let body = serde_json::json!({ "group": group, "jar": "/a.jar" }).to_string();
        let answer = post(&rig, "/api/v1/instances", &body);
        assert!(
            answer.starts_with("HTTP/1.1 422") || answer.starts_with("HTTP/1.1 400"),
            "{group:?}: {answer}"
        );
    }
    for body in [
        "",
        "{",
        "[]",
        "{\"group\":7}",
        "{\"group\":\"a\",\"jar\":\"relative.jar\"}",
        "{\"group\":\"a\",\"jar\":\"/a\",\"port\":0}",
    ] {
        let answer = post(&rig, "/api/v1/instances", body);
        assert!(answer.starts_with("HTTP/1.1 4"), "{body:?}: {answer}");
    }
    assert_eq!(
        rig.ctl(&["instance", "list", "-o", "json"]).json(),
        serde_json::json!([])
    );
}

/// What an answer to a raw request begins with
fn post(rig: &Rig, path: &str, body: &str) -> String {
    use std::io::{Read as _, Write as _};
    let token = std::fs::read_to_string(rig.path("controller/admin.token")).unwrap();
    let mut connection = std::net::TcpStream::connect(rig.http()).unwrap();
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        token.trim(),
        body.len()
    );
    connection.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    answer
}
