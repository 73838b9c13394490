//! Join tokens and certificates, good and bad

use crate::rig::{Rig, eventually, run};

/// What a daemon with this token says before it gives up
fn refused(rig: &Rig, node: &str, token: &str) -> String {
    let config = rig.configure("other", node, token);
    let ran = run(&["daemon", "--config", config.to_str().unwrap()]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(
        !ran.stderr.contains(token),
        "the token was logged: {}",
        ran.stderr
    );
    assert!(!ran.stderr.contains("panicked"), "{ran:?}");
    ran.error().to_owned()
}

#[test]
fn tokens_that_are_not_good_end_the_daemon_with_one_clear_line() {
    let rig = Rig::with_node();
    let text = |arguments: &[&str]| rig.token(arguments);

    let bound = text(&["--node", "node-9"]);
    let error = refused(&rig, "node-2", &bound);
    assert!(error.contains("another node"), "{error}");

    let used = std::fs::read_to_string(rig.path("daemon.toml")).unwrap();
    assert!(
        !used.contains("pxr_"),
        "the used token is still in the file: {used}"
    );

    let consumed = text(&[]);
    let config = rig.configure("first", "node-3", &consumed);
    let child = crate::rig::program(&[
        "daemon",
        "--config",
        config.to_str().unwrap(),
        "--announce",
        "--tether",
    ])
    .stdin(std::process::Stdio::piped())
    .stdout(std::process::Stdio::piped())
    .stderr(std::process::Stdio::null())
    .spawn()
    .unwrap();
    eventually("node-3 being there", || {
        let nodes = rig.ctl(&["node", "list", "-o", "json"]).json();
        nodes
            .as_array()
            .unwrap()
            .iter()
            .any(|node| node["id"] == "node-3")
            .then_some(())
    });
    let error = refused(&rig, "node-3", &consumed);
    assert!(error.contains("used"), "{error}");
    // The end of its standard input ends it.
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(0));

    let revoked = rig.ctl(&["token", "create", "-o", "json"]).json();
    let id = revoked["tokenId"].as_str().unwrap();
    assert_eq!(rig.ctl(&["token", "revoke", id]).code, 0);
    let error = refused(&rig, "node-2", revoked["token"].as_str().unwrap());
    assert!(error.contains("revoked"), "{error}");

    let short = rig.ctl(&["token", "create", "--ttl", "1s", "-o", "json"]).json();
    eventually("the token being expired", || {
        let tokens = rig.ctl(&["token", "list", "-o", "json"]).json();
        let expired =
            |token: &&serde_json::Value| token["tokenId"] == short["tokenId"] && token["status"] == "EXPIRED";
        tokens.as_array().unwrap().iter().find(expired).map(drop)
    });
    let error = refused(&rig, "node-2", short["token"].as_str().unwrap());
    assert!(error.contains("expired"), "{error}");

    // Made up, but with the right pin.
    let pin = bound.split_once('.').unwrap().1;
    let unknown = format!("pxr_{}.{pin}", "a".repeat(32));
    let error = refused(&rig, "node-2", &unknown);
    assert!(error.contains("not known"), "{error}");
}

#[test]
fn a_token_with_another_pin_is_never_sent() {
    let rig = Rig::with_controller();
    let other = Rig::with_controller();
    let token = other.token(&[]);
    let error = refused(&rig, "node-1", &token);
    assert!(error.contains("not the cluster of the join token"), "{error}");
    // The controller saw no exchange at all, good or bad.
    let log = rig.log_text("controller");
    assert!(!log.contains("prexorcloud_controller::enrolment"), "{log}");
}

#[test]
fn a_revoked_node_is_cut_off_and_comes_back_with_a_fresh_token() {
    let mut rig = Rig::with_node();
    let before = rig.start_standin("lobby-1");
    let revoked = rig.ctl(&["node", "revoke-cert", "node-1", "-o", "json"]).json();
    assert_eq!(
        revoked["revokedSerials"].as_array().unwrap().len(),
        1,
        "{revoked}"
    );
    eventually("the node being cut off", || {
        (rig.node("node-1")["connected"] == false).then_some(())
    });
    eventually("the daemon being told why", || {
        rig.log_text("daemon")
            .contains("enrol again with a new join token")
            .then_some(())
    });
    rig.stop_daemon();
    std::fs::remove_dir_all(rig.path("daemon/security")).unwrap();
    let token = rig.token(&["--node", "node-1"]);
    rig.configure_daemon(&token);
    assert_eq!(rig.start_daemon(), 1);
    rig.await_node("ONLINE");
    let after = rig.await_instance("lobby-1", "RUNNING");
    assert_eq!(after["incarnation"], before["incarnation"]);
}
