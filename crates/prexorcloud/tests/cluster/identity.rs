//! Certificates that are renewed while everything runs, and an authority that another one replaces

use std::fs;

use serde_json::Value;

use crate::rig::{Rig, eventually};

fn authorities(rig: &Rig) -> Value {
    let shown = rig.ctl(&["cert", "show", "-o", "json"]);
    assert_eq!(shown.code, 0, "{shown:?}");
    shown.json()
}

fn fingerprint(authority: &Value) -> &str {
    authority["sha256"].as_str().unwrap()
}

/// What is known of the only node
fn trust(rig: &Rig) -> Value {
    authorities(rig)["nodes"][0].clone()
}

fn keystore(rig: &Rig) -> Vec<u8> {
    fs::read(rig.path("daemon").join("security").join("node.p12")).unwrap()
}

#[test]
fn a_certificate_is_renewed_over_the_stream_and_the_next_connection_has_it() {
    let mut rig = Rig::with_node();
    rig.start_standin("lobby-1");
    let servers = rig.servers();
    let (first, session) = (keystore(&rig), rig.node("node-1")["sessionId"].clone());
    let serial_count = audited(&rig, "node.renew");

    let asked = rig.ctl(&["cert", "renew", "node-1"]);
    assert_eq!(asked.code, 0, "{asked:?}");
    eventually("the certificate is another one", || {
        (keystore(&rig) != first).then_some(())
    });
    eventually("it is recorded", || {
        (audited(&rig, "node.renew") == serial_count + 1).then_some(())
    });
    assert_eq!(rig.node("node-1")["sessionId"], session, "the stream went on");

    let renewed = keystore(&rig);
    rig.kill_controller();
    rig.start_controller();
    rig.await_node("ONLINE");
    rig.kill_daemon();
    rig.start_daemon();
    rig.await_node("ONLINE");
    assert_eq!(keystore(&rig), renewed);
    assert_eq!(rig.servers(), servers, "nothing was restarted");
}

fn audited(rig: &Rig, action: &str) -> usize {
    let audit = rig.ctl(&["audit", "-o", "json"]);
    assert_eq!(audit.code, 0, "{audit:?}");
    let entries = audit.json();
    let entries = entries
        .as_array()
        .or_else(|| entries["entries"].as_array())
        .unwrap()
        .clone();
    entries.iter().filter(|entry| entry["action"] == action).count()
}

#[test]
fn an_authority_is_replaced_without_a_restart_of_anything_and_over_restarts_of_everything() {
    let mut rig = Rig::with_node();
    rig.start_standin("lobby-1");
    let servers = rig.servers();
    let first = authorities(&rig);
    let first = fingerprint(&first["active"]).to_owned();

    // Nothing is prepared, and nobody is asked on this terminal.
    let early = rig.ctl(&["cert", "activate", "--yes"]);
    assert!(
        early.code != 0 && early.stderr.contains("no authority is prepared"),
        "{early:?}"
    );
    let prepared = rig.ctl(&["cert", "prepare", "-o", "json"]);
    assert_eq!(prepared.code, 0, "{prepared:?}");
    let next = fingerprint(&prepared.json()["next"]).to_owned();
    assert_ne!(next, first);
    eventually("the node believes both", || {
        let trusts = trust(&rig)["trusts"].clone();
        let trusts = trusts.as_array()?;
        (trusts.len() == 2 && trusts.iter().any(|sha256| *sha256 == next.as_str())).then_some(())
    });
    let unasked = rig.ctl(&["cert", "activate"]);
    assert!(
        unasked.code != 0 && unasked.stderr.contains("--yes"),
        "{unasked:?}"
    );

    rig.kill_controller();
    rig.start_controller();
    rig.await_node("ONLINE");
    let activated = rig.ctl(&["cert", "activate", "--yes", "-o", "json"]);
    assert_eq!(activated.code, 0, "{activated:?}");
    assert_eq!(fingerprint(&activated.json()["active"]), next);
    assert_eq!(fingerprint(&activated.json()["former"]), first);

    // The certificate of before counts, at the controller as it was and at one that was restarted.
    rig.kill_daemon();
    rig.start_daemon();
    rig.await_node("ONLINE");
    rig.kill_controller();
    rig.start_controller();
    rig.await_node("ONLINE");
    assert_eq!(trust(&rig)["signedBy"], first.as_str());
    let refused = rig.ctl(&["cert", "retire", "--yes"]);
    assert!(
        refused.code != 0 && refused.stderr.contains("node-1"),
        "{refused:?}"
    );

    let asked = rig.ctl(&["cert", "renew", "node-1"]);
    assert_eq!(asked.code, 0, "{asked:?}");
    eventually("the node has a certificate of the new authority", || {
        (trust(&rig)["signedBy"] == next.as_str()).then_some(())
    });
    let retired = rig.ctl(&["cert", "retire", "--yes", "-o", "json"]);
    assert_eq!(retired.code, 0, "{retired:?}");
    assert!(retired.json()["former"].is_null());
    // Its stream was opened with the certificate of before: it is cut, and comes back with the new one.
    eventually("the node believes the new one alone", || {
        let trust = trust(&rig);
        let believes_one = trust["trusts"].as_array().is_some_and(|trusts| trusts.len() == 1);
        (trust["connected"] == true && believes_one).then_some(())
    });
    rig.kill_controller();
    rig.kill_daemon();
    rig.start_controller();
    rig.start_daemon();
    rig.await_node("ONLINE");
    assert_eq!(rig.servers(), servers, "nothing was restarted");
}

#[test]
fn a_node_that_was_away_holds_a_step_back_and_enrols_again_when_it_is_forced() {
    let mut rig = Rig::with_node();
    rig.kill_daemon();
    assert_eq!(rig.ctl(&["cert", "prepare"]).code, 0);
    let refused = rig.ctl(&["cert", "activate", "--yes"]);
    assert!(
        refused.code != 0 && refused.stderr.contains("node-1"),
        "{refused:?}"
    );
    assert_eq!(rig.ctl(&["cert", "activate", "--yes", "--force"]).code, 0);
    assert_eq!(rig.ctl(&["cert", "retire", "--yes", "--force"]).code, 0);

    let token = rig.token(&["--node", "node-1"]);
    rig.configure_daemon(&token);
    rig.start_daemon();
    rig.await_node("ONLINE");
    assert_eq!(trust(&rig)["signedBy"], fingerprint(&authorities(&rig)["active"]));
}

#[test]
fn an_authority_that_was_prepared_by_mistake_is_given_up() {
    let rig = Rig::with_node();
    assert_eq!(rig.ctl(&["cert", "prepare"]).code, 0);
    eventually("the node believes both", || {
        (trust(&rig)["trusts"].as_array()?.len() == 2).then_some(())
    });
    let discarded = rig.ctl(&["cert", "discard"]);
    assert_eq!(discarded.code, 0, "{discarded:?}");
    eventually("the node believes the one that signs", || {
        (trust(&rig)["trusts"].as_array()?.len() == 1).then_some(())
    });
    let none = rig.ctl(&["cert", "discard"]);
    assert!(
        none.code != 0 && none.stderr.contains("no authority is prepared"),
        "{none:?}"
    );
}
