//! What is secret in the order to start an instance: nowhere to be read, and gone when the instance is

use prexorcloud_controller::records::InstanceRecord;
use prexorcloud_controller::store::{self, SqliteOptions, SqliteStore, Store as _};

use crate::rig::{Rig, run};

const PASSWORD: &str = "hunter2-in-the-environment";

/// The record of an instance, as a controller that has stopped left it
fn record(rig: &Rig, id: &str) -> InstanceRecord {
    let file = rig.path("controller/controller.db");
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let store = SqliteStore::open(file, &SqliteOptions::default()).unwrap();
        let found = store::load::<InstanceRecord>(&store, id).await.unwrap();
        store.close().await.unwrap();
        found.unwrap().record
    })
}

/// Whether a file of the controller's folder, or of a backup of it, has the password in the open
fn is_readable(folder: &std::path::Path) -> bool {
    let files = std::fs::read_dir(folder).unwrap().flatten();
    let mut readable = false;
    for file in files {
        let path = file.path();
        readable |= match path.is_dir() {
            true => is_readable(&path),
            false => String::from_utf8_lossy(&std::fs::read(&path).unwrap()).contains(PASSWORD),
        };
    }
    readable
}

#[test]
fn a_password_of_an_instance_is_sealed_and_goes_with_it() {
    use std::os::unix::fs::PermissionsExt as _;
    let mut rig = Rig::with_node();
    let variable = format!("DB_PASSWORD={PASSWORD}");
    rig.start_standin_with("lobby-1", &["--env", &variable]);
    assert!(!is_readable(&rig.path("controller")));
    let key = rig.path("controller/ca/records.key");
    assert_eq!(
        std::fs::metadata(&key).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let backup = rig.backup();
    assert!(backup.join("ca/records.key").exists() && !is_readable(&backup));

    rig.kill_controller();
    rig.start_controller();
    rig.await_node("ONLINE");
    rig.await_instance("lobby-1", "RUNNING");
    rig.command("lobby-1", "say still here", "[Server] still here");
    assert!(rig.stop_controller().success());
    let live = record(&rig, "lobby-1");
    let start = live.start.unwrap();
    assert!(!live.sealed_secrets.is_empty() && start.env.is_empty() && start.plugin_token.is_empty());

    rig.start_controller();
    rig.await_node("ONLINE");
    let stopped = rig.ctl(&["instance", "stop", "lobby-1", "--wait", "-o", "json"]);
    assert_eq!(stopped.json()["state"], "STOPPED");
    assert!(rig.stop_controller().success());
    let ended = record(&rig, "lobby-1");
    assert!(ended.sealed_secrets.is_empty() && ended.start.unwrap().env.is_empty());

    // Of a key that is damaged nothing is made anew.
    std::fs::write(&key, "half").unwrap();
    let config = rig.path("controller.toml");
    let refused = run(&["controller", "--config", config.to_str().unwrap()]);
    assert!(
        refused.code == 1 && refused.error().contains("records.key") && refused.error().contains("restore"),
        "{refused:?}"
    );
    assert_eq!(std::fs::read_to_string(&key).unwrap(), "half");
}
