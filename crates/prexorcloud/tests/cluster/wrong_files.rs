//! What an operator may paste or copy to where it does not belong: one sentence each, and nothing lost

use std::fs;
use std::path::Path;

use crate::rig::{Ran, Rig, run};

/// What is wrong, told once and as the last word
fn one_sentence(ran: &Ran, code: i32) -> String {
    assert_eq!(ran.code, code, "{ran:?}");
    let errors: Vec<_> = ran
        .stderr
        .lines()
        .filter(|line| !line.contains(" INFO "))
        .collect();
    let [error] = errors[..] else {
        panic!("{ran:?}");
    };
    assert!(
        error.starts_with("error: ") && !error.contains("panicked"),
        "{error}"
    );
    error.to_owned()
}

fn half(file: &Path) -> Vec<u8> {
    let bytes = fs::read(file).unwrap();
    bytes[..bytes.len() / 2].to_vec()
}

#[test]
fn a_wrong_token_is_told_from_a_cut_off_one_and_costs_no_token() {
    let rig = Rig::with_controller();
    let token = rig.token(&["--node", "node-1"]);
    let admin = fs::read_to_string(rig.path("controller/admin.token")).unwrap();
    for (pasted, told) in [
        (admin.trim(), "starts with \"pxr_\""),
        (&token[..20], "was it cut off?"),
        (&token[..token.len() - 1], "was it cut off?"),
    ] {
        let config = rig.configure_daemon(pasted);
        let ran = run(&["daemon", "--config", config.to_str().unwrap()]);
        let error = one_sentence(&ran, 64);
        assert!(
            error.contains("enrolment.join_token") && error.contains(told),
            "{error}"
        );
        assert!(!error.contains(pasted), "{error}");
        // What was typed is still there to be put right.
        assert!(fs::read_to_string(&config).unwrap().contains(pasted));
    }
    rig.write("token", "");
    for wrong in [
        "controller/controller.db",
        "controller/ca/ca.pem",
        "controller",
        "token",
    ] {
        let text = fs::read_to_string(rig.configure_daemon("x")).unwrap();
        let line = format!("join_token_file = {:?}", rig.path(wrong));
        let config = rig.write("daemon.toml", &text.replace("join_token = \"x\"", &line));
        let error = one_sentence(&run(&["daemon", "--config", config.to_str().unwrap()]), 64);
        assert!(
            error.contains(wrong) || error.contains("enrolment.join_token_file"),
            "{error}"
        );
        assert!(rig.path(wrong).exists());
    }
    let tokens = rig.ctl(&["token", "list", "-o", "json"]).json();
    assert_eq!(tokens[0]["status"], "ACTIVE", "{tokens}");
}

#[test]
fn a_daemon_with_the_wrong_certificate_says_which_file_and_goes_on_with_the_right_one() {
    let mut rig = Rig::with_node();
    assert_eq!(rig.stop_daemon().code(), Some(0));
    let security = rig.path("daemon/security");
    let good: Vec<_> = [".node-password", "ca.pem", "node.p12"]
        .map(|name| (name, fs::read(security.join(name)).unwrap()))
        .into();
    let authority = rig.path("controller/ca/ca.pem");
    let half_anchors = half(&security.join("ca.pem"));
    let half_keystore = half(&security.join("node.p12"));
    let config = rig.path("daemon.toml");
    let config = config.to_str().unwrap();
    for (name, bytes, told) in [
        ("ca.pem", Some(half_anchors), "ca.pem"),
        ("ca.pem", Some(Vec::new()), "ca.pem"),
        ("ca.pem", None, "ca.pem"),
        (
            "node.p12",
            Some(half_keystore),
            "node.p12: the keystore is not a complete",
        ),
        ("node.p12", Some(fs::read(&authority).unwrap()), "node.p12"),
        ("node.p12", Some(Vec::new()), "node.p12: the keystore is empty"),
        (
            ".node-password",
            Some(b"another".to_vec()),
            "wrong keystore password",
        ),
        (".node-password", None, ".node-password"),
    ] {
        let file = security.join(name);
        match &bytes {
            Some(bytes) => fs::write(&file, bytes).unwrap(),
            None => fs::remove_file(&file).unwrap(),
        }
        let error = one_sentence(&run(&["daemon", "--config", config]), 1);
        assert!(error.contains(told), "{name}: {error}");
        assert_eq!(fs::read(&file).ok(), bytes, "{name} was touched");
        for (name, bytes) in &good {
            // Made again with the mode of a secret where it was removed.
            rig.write(&format!("daemon/security/{name}"), "");
            fs::write(security.join(name), bytes).unwrap();
        }
    }

    // Whole and valid, but that of another node.
    rig.exchange_certificate("node-2");
    let error = one_sentence(&run(&["daemon", "--config", config]), 1);
    assert!(
        error.contains("has the certificate of node node-2, not of node node-1"),
        "{error}"
    );
    for (name, bytes) in &good {
        fs::write(security.join(name), bytes).unwrap();
    }
    rig.start_daemon();
    rig.await_node("ONLINE");
}

#[test]
fn a_cluster_never_gets_a_new_authority_because_half_of_it_is_gone() {
    let mut rig = Rig::with_node();
    assert_eq!(rig.stop_controller().code(), Some(0));
    let (certificate, key) = (rig.path("controller/ca/ca.pem"), rig.path("controller/ca/ca.key"));
    let good = (fs::read(&certificate).unwrap(), fs::read(&key).unwrap());
    let config = rig.path("controller.toml");
    let config = config.to_str().unwrap();
    let (half_certificate, half_key) = (half(&certificate), half(&key));
    for (file, bytes, told) in [
        (&certificate, None, "ca.pem is missing; restore it from a backup"),
        (
            &certificate,
            Some(half_certificate),
            "the authority's certificate",
        ),
        (&certificate, Some(good.1.clone()), "the authority's certificate"),
        (&key, None, "ca.key does not; restore the key from a backup"),
        (&key, Some(half_key), "the authority's key"),
    ] {
        match bytes {
            Some(bytes) => fs::write(file, bytes).unwrap(),
            None => fs::remove_file(file).unwrap(),
        }
        let error = one_sentence(&run(&["controller", "--config", config]), 1);
        assert!(error.contains(told), "{error}");
        let other = if file == &key { &certificate } else { &key };
        let kept = if file == &key { &good.0 } else { &good.1 };
        assert_eq!(&fs::read(other).unwrap(), kept, "{error}");
        rig.write("controller/ca/ca.key", std::str::from_utf8(&good.1).unwrap());
        fs::write(&certificate, &good.0).unwrap();
    }
    rig.start_controller();
    rig.await_node("ONLINE");
}
