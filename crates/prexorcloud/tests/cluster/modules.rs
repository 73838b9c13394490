//! Modules through the real programs: `prexorctl`, a controller that is killed, a daemon that is killed

use std::path::Path;

use serde_json::Value;

use crate::rig::{Rig, eventually};

fn sample() -> String {
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets");
    assets.join("sample-module.jar").to_str().unwrap().to_owned()
}

fn states(rig: &Rig) -> Vec<Value> {
    let ran = rig.ctl(&["module", "states", "-o", "json"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    ran.json().as_array().unwrap().clone()
}

fn becomes(rig: &Rig, id: &str, state: &str) {
    eventually(&format!("{id} is {state}"), || {
        let is_it = |row: &Value| row["module"] == id && row["node"] == "node-1" && row["state"] == state;
        states(rig).iter().any(is_it).then_some(())
    });
}

#[test]
fn a_module_survives_the_end_of_both_programs_and_leaves_when_it_is_uninstalled() {
    let mut rig = Rig::with_node();
    let installed = rig.ctl(&["module", "install", &sample(), "-o", "json"]);
    assert_eq!(installed.code, 0, "{installed:?}");
    let id = installed.json()["moduleId"].as_str().unwrap().to_owned();
    becomes(&rig, &id, "ACTIVE");
    let listed = rig.ctl(&["module", "list"]);
    assert!(listed.stdout.contains(&id), "{listed:?}");

    rig.kill_controller();
    rig.start_controller();
    becomes(&rig, &id, "ACTIVE");

    // Uninstalled while the daemon is dead: it hears of it when it is back.
    rig.kill_daemon();
    let asked = rig.ctl(&["module", "uninstall", &id]);
    assert!(asked.code != 0 && asked.stderr.contains("--yes"), "{asked:?}");
    let uninstalled = rig.ctl(&["module", "uninstall", &id, "--yes"]);
    assert_eq!(uninstalled.code, 0, "{uninstalled:?}");
    rig.start_daemon();
    eventually("nothing is left of it", || {
        let is_gone = |row: &Value| row["module"] != id || row["state"] == "UNLOADED";
        states(&rig).iter().all(is_gone).then_some(())
    });
    let again = rig.ctl(&["module", "uninstall", &id, "--yes"]);
    assert!(again.code == 4 && again.stderr.contains("not found"), "{again:?}");
}
