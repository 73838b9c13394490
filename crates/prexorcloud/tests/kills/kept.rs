//! A static server: what is in its folder is what it was, or complete

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use super::{Field, Outcome, finished};
use crate::content::{Content, KEPT, digests};
use crate::moment::{Moment, Victim};

/// The server whose folder is kept
const STATIC: &str = "kept-1";

impl Field {
    /// Gives the static server a folder, with a file of its own in it
    pub(super) fn keep_a_server(&mut self) {
        let jar = self.rig.path("demo-server.standin");
        let group = [
            "group",
            "create",
            KEPT,
            "--static",
            "--static-name",
            STATIC,
            "--jar",
            jar.to_str().unwrap(),
            "--jar-file",
            "demo-server.standin",
            "--memory",
            "64",
        ];
        let created = self.rig.ctl(&group);
        assert_eq!(created.code, 0, "{created:?}");
        assert_eq!(finished(self.push(KEPT)).code, 0);
        self.kept_undisturbed();
        self.stop_all();
        let own = self.kept_folder().join("data/own.txt");
        fs::write(own, "written by the server itself\n").unwrap();
        self.renew_kept(1);
        self.times.kept = self.measure(|field| {
            field.kept_undisturbed();
        });
        self.stop_all();
    }

    fn kept_folder(&self) -> PathBuf {
        self.rig.path("daemon/instances").join(KEPT).join(STATIC)
    }

    /// Pushes another version of what the static server gets, and brings it to the node
    fn renew_kept(&mut self, seed: u64) {
        self.kept = Content::kept(&self.rig.path(KEPT), seed);
        let pushed = finished(self.push(KEPT));
        assert!(pushed.code == 0, "{pushed:?}");
        let warmed = self
            .rig
            .ctl(&["node", "cache", "warm", "node-1", "--template", KEPT]);
        assert!(warmed.code == 0, "{warmed:?}");
    }

    /// Starts the static server; gives its port
    fn kept_undisturbed(&mut self) -> u64 {
        let started = finished(self.ctl(&["instance", "start", KEPT]));
        assert!(started.code == 0, "a start that nobody disturbs: {started:?}");
        match self.outcome(STATIC) {
            Outcome::Running { port } => port,
            Outcome::Ended(error, _) => panic!("a start that nobody disturbs ended: {error}"),
            Outcome::Unknown => panic!("a start that nobody disturbs is not known"),
        }
    }

    /// What the static folder has when its preparation is complete
    fn renewed(&self, before: &BTreeMap<String, String>, port: u64) -> BTreeMap<String, String> {
        let mut renewed = before.clone();
        renewed.extend(self.kept.expected(port));
        renewed
    }

    /// Kills both, and looks at what the next daemon makes of the folder before anybody orders the start again
    fn wrong_without_a_controller(&mut self, before: &BTreeMap<String, String>) -> Option<String> {
        self.rig.kill_daemon();
        self.rig.kill_controller();
        self.rig.start_daemon();
        let folder = self.kept_folder();
        let properties = fs::read_to_string(folder.join("server.properties")).unwrap_or_default();
        let port = properties
            .lines()
            .find_map(|line| line.strip_prefix("server-port="));
        let port = port.and_then(|port| port.parse().ok()).unwrap_or(0);
        let now = digests(&folder);
        let wrong = now != *before && now != self.renewed(before, port);
        self.rig.start_controller();
        wrong.then(|| differing("neither what it was nor complete after a kill:", &now, before))
    }

    pub(super) fn static_disturbed(&mut self, moment: &Moment, wrong: &mut Vec<String>) -> String {
        self.renew_kept(moment.seed);
        let before = digests(&self.kept_folder());
        let start = self.ctl(&["instance", "start", KEPT]);
        let time = self.times.kept;
        if moment.first.victim != Victim::Controller && !moment.seed.is_multiple_of(4) {
            std::thread::sleep(moment.first.after(time));
            wrong.extend(self.wrong_without_a_controller(&before));
        } else {
            self.kill(moment.first, time);
        }
        let ordered = finished(start);
        if let Some(second) = moment.second {
            self.kill(second, time);
        }
        self.rig.await_node("ONLINE");
        let outcome = self.outcome(STATIC);
        let now = digests(&self.kept_folder());
        let (said, is_old) = match outcome {
            Outcome::Running { port } => {
                if now != self.renewed(&before, port) {
                    wrong.push(differing(
                        "a static server runs in",
                        &now,
                        &self.renewed(&before, port),
                    ));
                }
                ("running", false)
            }
            Outcome::Ended(error, port) => {
                if error.is_empty() && ordered.code == 0 {
                    wrong.push(format!("{STATIC} has ended and does not say why"));
                }
                if now != before && now != self.renewed(&before, port) {
                    wrong.push(differing("neither what it was nor complete:", &now, &before));
                }
                ("ended", now == before)
            }
            Outcome::Unknown => {
                if now != before {
                    wrong.push(differing("nobody ordered a start, and", &now, &before));
                }
                ("never ordered", true)
            }
        };
        self.stop_all();
        // Complete, whatever was left of the one before.
        let port = self.kept_undisturbed();
        let (now, renewed) = (digests(&self.kept_folder()), self.renewed(&before, port));
        if now != renewed {
            wrong.push(differing("after the next start", &now, &renewed));
        }
        let folder = if is_old { "as it was" } else { "renewed" };
        format!("{said}, its folder {folder}")
    }
}

/// The first files in which a folder differs from what it should be
fn differing(what: &str, now: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> String {
    let paths: BTreeSet<&String> = now.keys().chain(wanted.keys()).collect();
    let differing: Vec<&String> = paths
        .into_iter()
        .filter(|path| now.get(*path) != wanted.get(*path))
        .collect();
    let first = differing.iter().take(5).map(|path| path.as_str());
    format!(
        "{what} a folder with {} wrong files: {}",
        differing.len(),
        first.collect::<Vec<_>>().join(", ")
    )
}
