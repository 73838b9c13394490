//! Deployments with real processes: one that is broken, one that is taken back, and one whose controller is killed in the middle

use std::fs;

use serde_json::Value;

use crate::rig::{Rig, eventually};

/// In the place of a Java virtual machine: ends at once where a file says so, and says which map it has
const PROGRAM: &str = r#"#!/bin/sh
trap 'exit 1' TERM
if [ -f broken ]; then echo 'the map cannot be read'; exit 7; fi
echo "map: $(cat map)"
echo 'ready to serve'
while read line; do if [ "$line" = 'stop' ]; then exit 0; fi; done
"#;

fn done(rig: &Rig, arguments: &[&str]) {
    let ran = rig.ctl(arguments);
    assert_eq!(ran.code, 0, "{arguments:?}: {ran:?}");
}

fn push(rig: &Rig, files: &[(&str, &str)]) {
    let folder = rig.path("app");
    if folder.exists() {
        fs::remove_dir_all(&folder).unwrap();
    }
    fs::create_dir(&folder).unwrap();
    for (file, text) in files {
        fs::write(folder.join(file), text).unwrap();
    }
    done(rig, &["template", "push", folder.to_str().unwrap()]);
}

fn deployment(rig: &Rig, revision: &str, state: &str) -> Value {
    eventually(&format!("deployment {revision} is {state}"), || {
        let seen = rig.ctl(&["deploy", "info", "app", revision, "-o", "json"]).json();
        (seen["state"] == state).then_some(seen)
    })
}

fn incarnations(rig: &Rig) -> [u64; 3] {
    ["app-1", "app-2", "app-3"].map(|id| rig.instance(id)["incarnation"].as_u64().unwrap())
}

fn serve(rig: &Rig, map: &str) {
    for id in ["app-1", "app-2", "app-3"] {
        rig.await_instance(id, "RUNNING");
        let console = rig.console(id);
        let last = console.lines().rev().find(|line| line.contains("map: "));
        assert!(last.is_some_and(|line| line.ends_with(map)), "{id}: {console}");
    }
}

#[test]
fn a_broken_version_halts_a_good_one_goes_on_after_a_kill_and_one_command_takes_it_back() {
    let mut rig = Rig::with_java(PROGRAM);
    done(&rig, &["template", "create", "app"]);
    push(&rig, &[("app.jar", "a jar"), ("map", "one")]);
    done(
        &rig,
        &[
            "group",
            "create",
            "app",
            "--jar-file",
            "app.jar",
            "--ready",
            "line:ready to serve",
            "--scaling-mode",
            "STATIC",
            "--min",
            "3",
        ],
    );
    serve(&rig, "one");

    push(&rig, &[("app.jar", "a jar"), ("map", "two"), ("broken", "x")]);
    let refused = rig.ctl(&["deploy", "start", "app"]);
    assert_eq!(refused.code, 64, "nobody can be asked: {refused:?}");
    let dry = rig.ctl(&["deploy", "start", "app", "--dry-run"]);
    assert!(dry.code == 0 && dry.stdout.contains("app-3"), "{dry:?}");
    done(&rig, &["deploy", "start", "app", "--yes"]);
    let halted = deployment(&rig, "1", "FAILED");
    assert!(
        halted["reason"]
            .as_str()
            .unwrap()
            .contains("app-1 has ended badly"),
        "{halted}"
    );
    // The one comes back as it was, and the others were not touched.
    eventually("all serve again", || {
        let plan = rig.ctl(&["group", "plan", "app", "-o", "json"]).json();
        (plan["state"] == "SETTLED" && plan["serving"] == 3).then_some(())
    });
    serve(&rig, "one");
    assert_eq!(incarnations(&rig)[1..], [1, 1]);
    done(&rig, &["deploy", "rollback", "app"]);
    deployment(&rig, "1", "ROLLED_BACK");
    deployment(&rig, "2", "COMPLETED");

    // A good one, whose controller is killed when the first server has it.
    push(&rig, &[("app.jar", "a jar"), ("map", "three")]);
    let before = incarnations(&rig);
    done(&rig, &["deploy", "start", "app", "--yes"]);
    eventually("one server is replaced", || {
        (incarnations(&rig)[0] > before[0] || incarnations(&rig)[1] > before[1]).then_some(())
    });
    rig.kill_controller();
    rig.start_controller();
    rig.await_node("ONLINE");
    let after = deployment(&rig, "3", "COMPLETED");
    assert_eq!(
        (&after["updatedInstances"], &after["totalInstances"]),
        (&3.into(), &3.into())
    );
    serve(&rig, "three");
    let now = incarnations(&rig);
    let starts: Vec<u64> = now.iter().zip(before).map(|(now, before)| now - before).collect();
    assert_eq!(starts, [1, 1, 1], "none twice");

    done(&rig, &["deploy", "rollback", "app", "3"]);
    deployment(&rig, "4", "COMPLETED");
    serve(&rig, "one");
    let listed = rig.ctl(&["deploy", "list", "app"]);
    assert!(listed.stdout.contains("rollback of 3"), "{listed:?}");
    done(&rig, &["group", "stop", "app"]);
    rig.await_instance("app-1", "STOPPED");
}
