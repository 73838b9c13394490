//! The units of `packaging/`, as systemd reads them
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const UNITS: [&str; 2] = ["prexorcloud-controller.service", "prexorcloud-daemon.service"];

fn unit(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../packaging/systemd")
        .join(name)
}

/// Sections and settings in their order
fn settings(text: &str) -> Vec<(String, String, String)> {
    let mut section = String::new();
    let mut found = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = name.to_owned();
        } else if !line.is_empty() && !line.starts_with('#') {
            let (key, value) = line.split_once('=').expect("a setting");
            found.push((section.clone(), key.to_owned(), value.to_owned()));
        }
    }
    found
}

#[test]
fn a_failure_is_followed_by_a_restart_and_servers_are_left_alone() {
    for name in UNITS {
        let settings = settings(&fs::read_to_string(unit(name)).unwrap());
        let value = |section: &str, key: &str| {
            let mut values = settings.iter().filter(|(s, k, _)| s == section && k == key);
            let (_, _, value) = values.next().unwrap_or_else(|| panic!("{name}: no {key}"));
            assert!(values.next().is_none(), "{name}: {key} twice");
            value.as_str()
        };
        assert_eq!(value("Service", "Restart"), "on-failure");
        assert_eq!(value("Service", "KillMode"), "process");
        assert_eq!(value("Service", "RestartPreventExitStatus"), "64");
        assert_eq!(value("Unit", "StartLimitIntervalSec"), "0");
        assert_eq!(value("Service", "ExecReload"), "/bin/kill -HUP $MAINPID");
        assert_eq!(value("Install", "WantedBy"), "multi-user.target");
        let role = name
            .trim_start_matches("prexorcloud-")
            .trim_end_matches(".service");
        // Where the program keeps everything unless it is told otherwise.
        assert_eq!(value("Service", "StateDirectory"), format!("prexorcloud/{role}"));
        let command: Vec<_> = value("Service", "ExecStart").split(' ').collect();
        assert_eq!(command[1], role);
        // Servers are not started in a sandbox that nobody knows of.
        let sandbox = settings.iter().any(|(_, key, _)| key.starts_with("Protect"));
        assert_eq!(sandbox, role == "controller");
    }
}

#[test]
fn systemd_finds_nothing_wrong() {
    let folder = tempfile::tempdir().unwrap();
    for name in UNITS {
        // It looks whether there is such a program and such a user.
        let text = fs::read_to_string(unit(name)).unwrap();
        let text = text
            .replace("/usr/bin/prexorcloud", env!("CARGO_BIN_EXE_prexorcloud"))
            .replace("=prexorcloud\n", "=root\n");
        let file = folder.path().join(name);
        fs::write(&file, text).unwrap();
        let mut verify = Command::new("systemd-analyze");
        verify
            .args(["verify", "--man=no", "--recursive-errors=no"])
            .arg(&file);
        match verify.output() {
            Ok(ran) => {
                let said = String::from_utf8_lossy(&ran.stderr).into_owned();
                assert!(ran.status.success(), "{name}: {said}");
                assert!(!said.contains(name), "{name}: {said}");
            }
            Err(error) => eprintln!("not shown: there is no systemd-analyze here: {error}"),
        }
    }
}
