//! Join tokens and certificates, good and bad

use std::time::{Duration, SystemTime};

use prexorcloud_security::authority::{Authority, AuthorityPolicy};
use prexorcloud_security::certificate_directory::CertificateDirectory;
use prexorcloud_security::enrolment::Enrolled;

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

fn token_status(rig: &Rig, id: &serde_json::Value) -> String {
    let tokens = rig.ctl(&["token", "list", "-o", "json"]).json();
    let mut tokens = tokens.as_array().unwrap().iter();
    let token = tokens.find(|token| token["tokenId"] == *id).unwrap();
    token["status"].as_str().unwrap().to_owned()
}

#[test]
fn a_token_that_was_not_used_stays_until_the_certificate_is_refused() {
    let mut rig = Rig::with_node();
    let spare = rig
        .ctl(&["token", "create", "--node", "node-1", "-o", "json"])
        .json();
    assert!(rig.stop_daemon().success());
    let config = rig.configure_daemon(spare["token"].as_str().unwrap());
    rig.start_daemon();
    rig.await_node("ONLINE");
    let has_token = || std::fs::read_to_string(&config).unwrap().contains("pxr_");
    assert!(has_token(), "a token that was not used was erased");
    assert_eq!(token_status(&rig, &spare["tokenId"]), "ACTIVE");
    let daemon = rig.pid("daemon");

    assert_eq!(rig.ctl(&["node", "revoke-cert", "node-1"]).code, 0);
    eventually("the token being used", || {
        (token_status(&rig, &spare["tokenId"]) == "CONSUMED").then_some(())
    });
    rig.await_node("ONLINE");
    eventually("the used token being removed", || (!has_token()).then_some(()));
    assert_eq!(rig.pid("daemon"), daemon);

    // A token that the daemon is told of while it is refused already.
    assert_eq!(rig.ctl(&["node", "revoke-cert", "node-1"]).code, 0);
    eventually("the node being cut off", || {
        (rig.node("node-1")["connected"] == false).then_some(())
    });
    rig.configure_daemon(&rig.token(&["--node", "node-1"]));
    rustix::process::kill_process(daemon, rustix::process::Signal::HUP).unwrap();
    rig.await_node("ONLINE");
    eventually("the used token being removed", || (!has_token()).then_some(()));
}

#[test]
fn a_node_that_is_known_is_taken_over_by_a_token_for_it_only() {
    let rig = Rig::with_node();
    let unbound = rig.token(&[]);
    let error = refused(&rig, "node-1", &unbound);
    assert!(
        error.contains("known already") && error.contains("--node"),
        "{error}"
    );
    rig.await_node("ONLINE");

    rig.exchange_certificate("node-1");
    eventually("the daemon of before being told", || {
        rig.log_text("daemon")
            .contains("refused this node's certificate")
            .then_some(())
    });
    assert!(
        rig.log_text("controller").contains("no longer counts"),
        "{}",
        rig.log_text("controller")
    );
    rustix::process::kill_process(rig.pid("daemon"), rustix::process::Signal::HUP).unwrap();
    rig.await_node("ONLINE");
}

#[test]
fn an_answer_that_could_not_be_kept_is_asked_for_again() {
    let mut rig = Rig::with_controller();
    let token = rig
        .ctl(&["token", "create", "--node", "node-1", "-o", "json"])
        .json();
    let config = rig.configure_daemon(token["token"].as_str().unwrap());
    let security = rig.path("daemon/security");
    // Nothing can be renamed over a folder.
    std::fs::create_dir_all(security.join("ca.pem/x")).unwrap();
    for folder in [rig.path("daemon"), security.clone()] {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700)).unwrap();
    }
    assert!(rig.try_start_daemon().is_err());
    assert_eq!(token_status(&rig, &token["tokenId"]), "CONSUMED");
    std::fs::remove_dir_all(security.join("ca.pem")).unwrap();
    rig.start_daemon();
    rig.await_node("ONLINE");
    assert!(!std::fs::read_to_string(config).unwrap().contains("pxr_"));
    assert!(!security.join(".node-key").exists());
}

/// Gives the daemon a certificate that expires so soon
fn certify(rig: &Rig, lifetime: Duration) {
    let mut policy = AuthorityPolicy::default();
    policy.node_lifetime = lifetime;
    let authority = Authority::load(&rig.path("controller/ca"), &policy).unwrap();
    let enrolled = Enrolled {
        credential: authority.issue_node("node-1", SystemTime::now()).unwrap(),
        anchors: authority.trust_anchors().unwrap(),
    };
    CertificateDirectory::new(rig.path("daemon/security"))
        .store(&enrolled)
        .unwrap();
}

#[test]
fn a_certificate_renews_when_it_is_half_over_and_a_token_helps_one_that_has_expired() {
    let mut rig = Rig::with_node();
    let fresh = rig.node("node-1")["certificateExpiresAt"].clone();
    assert!(fresh.is_string(), "{fresh}");
    assert!(rig.stop_daemon().success());
    certify(&rig, Duration::from_secs(10));
    rig.start_daemon();
    rig.await_node("ONLINE");
    let soon = rig.node("node-1")["certificateExpiresAt"].clone();
    assert!(soon.as_str().unwrap() < fresh.as_str().unwrap(), "{soon} {fresh}");
    eventually("its renewal over the stream, when it is half over", || {
        let renewed = rig.node("node-1")["certificateExpiresAt"].clone();
        (renewed.as_str()? >= fresh.as_str()?).then_some(())
    });
    let shown = rig.ctl(&["node", "show", "node-1"]);
    assert!(shown.stdout.contains("certificate until"), "{shown:?}");

    assert!(rig.stop_daemon().success());
    certify(&rig, Duration::from_secs(1));
    let directory = CertificateDirectory::new(rig.path("daemon/security"));
    eventually("the certificate having expired", || {
        let enrolled = directory.load().unwrap().unwrap();
        (enrolled.credential.leaf().not_after() < SystemTime::now()).then_some(())
    });
    rig.configure_daemon(&rig.token(&["--node", "node-1"]));
    rig.start_daemon();
    rig.await_node("ONLINE");
    let renewed = rig.node("node-1")["certificateExpiresAt"].clone();
    assert!(
        renewed.as_str().unwrap() > fresh.as_str().unwrap(),
        "{renewed} {fresh}"
    );
}
