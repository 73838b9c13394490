//! Access tokens that are lost, leaked and replaced, with and without a controller that runs

use serde_json::{Value, json};

use crate::rig::{Ran, Rig, finish, run};

fn admin_token(rig: &Rig, words: &[&str]) -> Ran {
    let folder = rig.path("controller");
    let command = ["controller", "admin-token"];
    let folder = ["--data-dir", folder.to_str().unwrap()];
    run(&[&command[..], words, &folder].concat())
}

/// `prexorctl`, signed in with this token and no other
fn ctl_as(rig: &Rig, token: &str, arguments: &[&str]) -> Ran {
    let mut command = rig.ctl_command(arguments).into_command();
    finish(command.env("PREXOR_TOKEN", token))
}

fn minted(ran: &Ran) -> String {
    assert_eq!(ran.code, 0, "{ran:?}");
    let token = ran.stdout.trim().to_owned();
    assert!(
        token.starts_with("prx_") && !ran.stderr.contains(&token),
        "{ran:?}"
    );
    token
}

/// The ids of the tokens with this name
fn ids(rig: &Rig, name: &str) -> Vec<String> {
    let listed = admin_token(rig, &["list"]);
    assert_eq!(listed.code, 0, "{listed:?}");
    let named = |line: &&str| line.split_whitespace().nth(2) == Some(name);
    let id = |line: &str| line.split_whitespace().next().unwrap().to_owned();
    listed.stdout.lines().filter(named).map(id).collect()
}

#[test]
fn a_deleted_or_leaked_admin_token_is_replaced_on_the_host() {
    let mut rig = Rig::with_controller();
    let leaked = std::fs::read_to_string(rig.path("controller/admin.token")).unwrap();
    std::fs::remove_file(rig.path("controller/admin.token")).unwrap();

    // While it runs.
    let ran = admin_token(&rig, &["mint", "--name", "alice"]);
    assert!(ran.stderr.contains("runs"), "{ran:?}");
    let alice = minted(&ran);
    assert_eq!(ctl_as(&rig, &alice, &["node", "list"]).code, 0);
    let [first] = &ids(&rig, "admin")[..] else {
        panic!("one first token");
    };
    assert_eq!(admin_token(&rig, &["revoke", first]).code, 0);
    assert_eq!(ctl_as(&rig, leaked.trim(), &["node", "list"]).code, 2);
    assert_eq!(admin_token(&rig, &["revoke", "atk_0000000000000000"]).code, 1);

    // While it does not.
    assert!(rig.stop_controller().success());
    assert!(!rig.path("controller/host-access.json").exists());
    let ran = admin_token(&rig, &["mint", "--name", "bob", "--permission", "audit.view"]);
    assert!(ran.stderr.contains("No controller runs"), "{ran:?}");
    let bob = minted(&ran);
    let [alices] = &ids(&rig, "alice")[..] else {
        panic!("one token of alice");
    };
    assert_eq!(admin_token(&rig, &["revoke", alices]).code, 0);
    rig.start_controller();
    assert_eq!(ctl_as(&rig, &alice, &["node", "list"]).code, 2);
    let audit = ctl_as(&rig, &bob, &["audit", "-o", "json"]).json();
    let entries = audit["entries"].as_array().unwrap();
    let done: Vec<(&str, &str)> = entries
        .iter()
        .map(|entry| {
            (
                entry["action"].as_str().unwrap(),
                entry["actor"].as_str().unwrap(),
            )
        })
        .collect();
    for action in ["access-token.create", "access-token.revoke"] {
        assert!(done.contains(&(action, "operator:host")), "{done:?}");
    }
    assert_eq!(ctl_as(&rig, &bob, &["node", "list"]).code, 3);
    let table = ctl_as(&rig, &bob, &["audit", "--limit", "1"]);
    assert!(table.code == 0 && table.stdout.lines().count() == 2, "{table:?}");
}

#[test]
fn an_access_token_gives_no_more_than_its_maker_has() {
    let rig = Rig::with_controller();
    let wanted = ["--permission", "access.manage", "--permission", "nodes.view"];
    let ran = admin_token(&rig, &[&["mint", "--name", "manager"][..], &wanted].concat());
    let manager = minted(&ran);
    let post = |body: &Value| {
        let answer = crate::rig::post(&rig, "/api/v1/admin/access-tokens", &manager, body);
        answer.split_whitespace().nth(1).unwrap().parse::<u16>().unwrap()
    };
    for (permissions, status) in [
        (json!(["*"]), 403),
        (json!(["nodes.manage"]), 403),
        (json!(["nodes.view", "root"]), 403),
        (json!([]), 422),
        (json!(["nodes.view"]), 201),
    ] {
        let body = json!({ "name": "robot", "permissions": permissions });
        assert_eq!(post(&body), status, "{body}");
    }
    assert_eq!(ids(&rig, "robot").len(), 1);
}
