//! Data folders that lost a part, or are older than they should be: refused by name, and never begun anew in silence

use std::fs;
use std::path::Path;

use crate::rig::{Ran, Rig, eventually, run};

/// A start that is refused, and the sentence for the operator
fn refused(rig: &Rig) -> String {
    let config = rig.path("controller.toml");
    let ran = run(&["controller", "--config", config.to_str().unwrap()]);
    assert_eq!(ran.code, 1, "{ran:?}");
    ran.error().to_owned()
}

fn recover(rig: &Rig, options: &[&str]) -> Ran {
    let folder = rig.path("controller");
    let command = ["controller", "recover", "--data-dir", folder.to_str().unwrap()];
    run(&[&command[..], options].concat())
}

/// The command that a refusal names
fn names_recovery(rig: &Rig, error: &str) -> bool {
    let folder = rig.path("controller");
    error.contains(&format!(
        "`prexorcloud controller recover --data-dir {}",
        folder.display()
    ))
}

fn remove(rig: &Rig, names: &[&str]) {
    for name in names {
        let path = rig.path("controller").join(name);
        if path.is_dir() {
            fs::remove_dir_all(path).unwrap();
        } else if path.exists() {
            fs::remove_file(path).unwrap();
        }
    }
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

const DATABASE: [&str; 3] = ["controller.db", "controller.db-wal", "controller.db-shm"];

#[test]
fn a_lost_authority_is_not_made_anew_beside_its_records() {
    let mut rig = Rig::with_node();
    assert!(rig.stop_controller().success());
    let (ca, elsewhere) = (rig.path("controller/ca"), rig.path("elsewhere"));
    fs::rename(&ca, &elsewhere).unwrap();
    let error = refused(&rig);
    assert!(
        error.contains(ca.to_str().unwrap()) && error.contains("restore"),
        "{error}"
    );
    assert!(!ca.join("ca.pem").exists() && !ca.join("ca.key").exists());
    let still = recover(&rig, &[]);
    assert!(still.code == 1 && still.error().contains("ca.pem"), "{still:?}");

    let _ = fs::remove_dir_all(&ca);
    fs::rename(&elsewhere, &ca).unwrap();
    rig.start_controller();
    rig.await_node("ONLINE");
}

#[test]
fn a_lost_database_is_not_begun_anew_beside_its_authority() {
    let mut rig = Rig::with_node();
    let before = rig.start_standin("lobby-1");
    assert!(rig.stop_controller().success());
    remove(&rig, &DATABASE);
    for _ in 0..2 {
        let error = refused(&rig);
        assert!(names_recovery(&rig, &error), "{error}");
        assert!(error.contains("--without-records"), "{error}");
    }
    // Of an earlier release, too.
    let mark = rig.path("controller/ca/cluster.json");
    let marked = fs::read(&mark).unwrap();
    fs::remove_file(&mark).unwrap();
    assert!(names_recovery(&rig, &refused(&rig)));
    fs::write(&mark, marked).unwrap();

    let without_a_word = recover(&rig, &[]);
    assert_eq!(without_a_word.code, 1, "{without_a_word:?}");
    let recovered = recover(&rig, &["--without-records"]);
    assert_eq!(recovered.code, 0, "{recovered:?}");
    assert!(recovered.stderr.contains("ever revoked"), "{recovered:?}");
    rig.start_controller();
    rig.await_node("ONLINE");
    let after = rig.await_instance("lobby-1", "RUNNING");
    assert_eq!(after["port"], before["port"]);

    // Records that are there are not thrown away by mistake.
    assert!(rig.stop_controller().success());
    let has_records = recover(&rig, &["--without-records"]);
    assert_eq!(has_records.code, 1, "{has_records:?}");
    assert!(
        has_records.stderr.contains("leave --without-records out"),
        "{has_records:?}"
    );
}

#[test]
fn a_database_without_its_log_is_refused() {
    let mut rig = Rig::with_node();
    assert!(rig.stop_controller().success());
    rig.start_controller();
    rig.token(&[]);
    rig.kill_controller();
    remove(&rig, &["controller.db-wal", "controller.db-shm"]);
    let error = refused(&rig);
    assert!(
        error.contains("controller.db-wal") && names_recovery(&rig, &error),
        "{error}"
    );
    // Nobody mended it by looking.
    assert!(names_recovery(&rig, &refused(&rig)));
    assert_eq!(recover(&rig, &[]).code, 0);
    rig.start_controller();
    rig.await_node("ONLINE");
}

#[test]
fn an_older_database_is_known_by_the_mark_beside_the_authority() {
    let mut rig = Rig::with_node();
    assert!(rig.stop_controller().success());
    let (database, old) = (rig.path("controller/controller.db"), rig.path("old.db"));
    fs::copy(&database, &old).unwrap();
    rig.start_controller();
    rig.token(&[]);
    assert!(rig.stop_controller().success());
    remove(&rig, &DATABASE);
    fs::rename(&old, &database).unwrap();
    let error = refused(&rig);
    assert!(
        error.contains("older") && error.contains("ca remembers") && names_recovery(&rig, &error),
        "{error}"
    );
    let recovered = recover(&rig, &[]);
    assert_eq!(recovered.code, 0, "{recovered:?}");
    rig.start_controller();
    rig.await_node("ONLINE");
}

#[test]
fn a_backup_that_daemons_have_left_behind_is_told_and_raised() {
    let mut rig = Rig::with_node();
    let (folder, backup) = (rig.path("controller"), rig.backup());
    let refused = recover(&rig, &[]);
    assert!(
        refused.code == 1 && refused.error().contains("stopped first"),
        "{refused:?}"
    );
    for _ in 0..3 {
        assert!(rig.stop_controller().success());
        rig.start_controller();
        rig.await_node("ONLINE");
    }
    assert!(rig.stop_controller().success());
    fs::remove_dir_all(&folder).unwrap();
    copy_folder(&backup, &folder);
    let admin = rig.path("controller/admin.token");
    assert!(!admin.exists());

    rig.start_controller();
    let told = eventually("the controller telling why nobody comes", || {
        let log = rig.log_text("controller");
        let line = log.lines().find(|line| line.contains("obeys a later start"))?;
        Some(line.to_owned())
    });
    assert!(
        told.contains("node-1") && told.contains("obeyed=4") && names_recovery(&rig, &told),
        "{told}"
    );
    assert!(rig.stop_controller().success());
    let recovered = recover(&rig, &[]);
    assert_eq!(recovered.code, 0, "{recovered:?}");
    assert!(recovered.stderr.contains("node-1 obeys epoch 4"), "{recovered:?}");
    rig.start_controller();
    eventually("the node being back", || {
        rig.log_text("controller")
            .lines()
            .any(|line| line.contains("a node connected") && line.contains("node-1"))
            .then_some(())
    });
}

#[test]
fn a_first_start_that_is_killed_at_once_is_gone_on_with() {
    let (other, mut rig) = (Rig::with_controller(), Rig::new());
    // What is on disk between the making of the authority and the first record.
    let ca = rig.path("controller/ca");
    copy_folder(&other.path("controller/ca"), &ca);
    let mark = ca.join("cluster.json");
    let unfinished = r#"{"cluster_id":"c","committed":false,"epoch":0,"revision":0}"#;
    fs::write(&mark, unfinished).unwrap();
    rig.start_controller();
    let marked = fs::read_to_string(&mark).unwrap();
    assert!(
        marked.contains(r#""cluster_id":"c","committed":true"#),
        "{marked}"
    );
    assert_eq!(
        fs::read(ca.join("ca.pem")).unwrap(),
        fs::read(other.path("controller/ca/ca.pem")).unwrap()
    );
}

#[test]
fn the_authority_of_another_cluster_is_refused_beside_these_records() {
    let mut rig = Rig::with_node();
    assert!(rig.stop_controller().success());
    let mut other = Rig::with_controller();
    assert!(other.stop_controller().success());
    let (own, foreign) = (rig.path("controller/ca"), other.path("controller/ca"));
    let backup = rig.path("ca-backup");
    fs::create_dir(&backup).unwrap();
    for name in ["ca.pem", "ca.key"] {
        fs::copy(own.join(name), backup.join(name)).unwrap();
        fs::copy(foreign.join(name), own.join(name)).unwrap();
    }
    for _ in 0..2 {
        let error = refused(&rig);
        assert!(error.contains("Restore ca.pem and ca.key"), "{error}");
        // Without the mark that names the cluster, too.
        fs::rename(own.join("cluster.json"), backup.join("cluster.json")).unwrap_or_default();
    }
    for name in ["ca.pem", "ca.key", "cluster.json"] {
        fs::copy(backup.join(name), own.join(name)).unwrap();
    }
    rig.start_controller();
    rig.await_node("ONLINE");
}
