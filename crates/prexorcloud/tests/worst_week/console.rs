//! Console files that somebody truncates or replaces

use std::fs::{self, File};
use std::path::PathBuf;

use libtest_mimic::Trial;

use crate::case;
use crate::rig::{Rig, eventually};

pub fn cases() -> Vec<Trial> {
    vec![case("truncated_console", truncated)]
}

/// The console of the only instance, as it stands on the daemon's disk
pub fn console_log(rig: &Rig) -> PathBuf {
    let mut folders = vec![rig.path("daemon")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().flatten() {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                folders.push(entry.path());
            } else if entry.file_name() == "console.log" {
                return entry.path();
            }
        }
    }
    panic!("no console.log in {}", rig.path("daemon").display());
}

/// What comes after the cut is shown, and that something was cut, too
fn truncated() {
    let mut rig = Rig::with_node();
    rig.start_standin("lobby-1");
    rig.command("lobby-1", "spam 500", "spam line 500 of 500");
    File::options()
        .write(true)
        .open(console_log(&rig))
        .unwrap()
        .set_len(0)
        .unwrap();
    rig.command("lobby-1", "say after the cut", "[Server] after the cut");
    eventually("a notice about the cut", || {
        let console = rig.console("lobby-1");
        console
            .lines()
            .any(|line| line.contains("[prexorcloud]"))
            .then_some(())
    });
    let console = rig.console("lobby-1");
    assert_eq!(console.matches("spam line 500 of 500\n").count(), 1, "{console}");
    rig.stop_daemon();
}
