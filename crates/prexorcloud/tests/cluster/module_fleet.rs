//! A module on three nodes whose programs are killed in between: what is said and what is on disk agree in the end

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::Value;

use crate::module_jar;
use crate::rig::{Rig, eventually};

/// In the place of a Java virtual machine: the host of a module whose versions from 3 on cannot work
const HOST: &str = r#"#!/bin/sh
read hello
case "$hello" in *'"version":"3.'*) echo 'no such thing' >&2; exit 1;; esac
echo '{"type":"ready","protocol":1}'
read start
echo '{"type":"state","state":"ACTIVE"}'
while read line; do
    case "$line" in *'"type":"stop"'*) echo '{"type":"stopped"}'; exit 0;; esac
done
"#;

const NODES: [&str; 3] = ["node-1", "node-2", "node-3"];

struct Fleet(Rig);

impl Fleet {
    fn start() -> Self {
        let mut rig = Rig::with_controller();
        let java = rig.write("java", HOST);
        fs::set_permissions(&java, fs::Permissions::from_mode(0o755)).unwrap();
        for node in NODES {
            let token = rig.token(&["--node", node]);
            let config = rig.configure(node, node, &token);
            let text = fs::read_to_string(&config).unwrap();
            let wanted = format!("allow_standin = true\njava = {java:?}");
            rig.write(
                &format!("{node}.toml"),
                &text.replace("allow_standin = true", &wanted),
            );
            rig.start_other(node);
        }
        Self(rig)
    }

    fn done(&self, arguments: &[&str]) -> Value {
        let ran = self.0.ctl(&[arguments, &["-o", "json"]].concat());
        assert_eq!(ran.code, 0, "{arguments:?}: {ran:?}");
        ran.json()
    }

    /// Installs a version, and gives the SHA-256 of its jar
    fn install(&self, version: &str) -> String {
        let file = self.0.path(&format!("stats-{version}.jar"));
        fs::write(&file, module_jar::module("stats", version)).unwrap();
        let answer = self.done(&["module", "install", file.to_str().unwrap()]);
        answer["sha256"].as_str().unwrap().to_owned()
    }

    fn row(&self, node: &str) -> Option<Value> {
        let states = self.done(&["module", "states", "stats"]);
        let rows = states.as_array().unwrap();
        rows.iter().find(|row| row["node"] == node).cloned()
    }

    /// Waits until it works in this version on these nodes, and their disks say so, too
    fn works(&self, sha256: &str, nodes: &[&str]) {
        for node in nodes {
            eventually(&format!("it works on {node}"), || {
                let row = self.row(node)?;
                (row["state"] == "ACTIVE" && row["sha256"] == sha256).then_some(())
            });
            eventually(&format!("the disk of {node}"), || {
                (self.jars(node) == [sha256]).then_some(())
            });
            let index = fs::read_to_string(self.0.path(node).join("modules/index.json")).unwrap();
            assert!(index.contains(sha256), "{index}");
        }
    }

    /// The digests of the jars that a node keeps
    fn jars(&self, node: &str) -> Vec<String> {
        let folder = self.0.path(node).join("modules/store");
        let names = fs::read_dir(folder).into_iter().flatten().flatten();
        let names: BTreeSet<String> = names
            .map(|file| file.file_name().into_string().unwrap())
            .collect();
        names
            .iter()
            .map(|name| name.trim_end_matches(".jar").to_owned())
            .collect()
    }

    fn kill_and_start_controller(&mut self) {
        self.0.kill_controller();
        self.0.start_controller();
    }

    fn kill_and_start(&mut self, node: &str) {
        self.0.kill_other(node);
        self.0.start_other(node);
    }
}

#[test]
fn three_nodes_agree_with_their_disks_whatever_is_killed_in_between() {
    let mut fleet = Fleet::start();
    eventually("the nodes", || {
        let nodes = fleet.done(&["node", "list"]);
        let online = nodes
            .as_array()
            .unwrap()
            .iter()
            .filter(|node| node["status"] == "ONLINE");
        (online.count() == 3).then_some(())
    });
    fleet.0.kill_other("node-3");
    let first = fleet.install("1.0.0");
    // In the middle of the distribution.
    fleet.kill_and_start_controller();
    fleet.works(&first, &["node-1", "node-2"]);
    let away = fleet.row("node-3").unwrap();
    assert!(away["state"] == "PENDING" || away["state"] == "SENT", "{away}");
    fleet.0.start_other("node-3");
    fleet.works(&first, &NODES);

    let second = fleet.install("2.0.0");
    fleet.kill_and_start("node-2");
    fleet.kill_and_start_controller();
    fleet.kill_and_start("node-1");
    fleet.works(&second, &NODES);

    // One that cannot work: each node goes back by itself, and says why.
    fleet.install("3.0.0");
    for node in NODES {
        eventually(&format!("{node} being back"), || {
            let row = fleet.row(node)?;
            let why = row["lastError"].as_str().unwrap_or_default();
            let is_back =
                row["state"] == "ACTIVE" && why.contains("2.0.0 is back") && why.contains("no such thing");
            is_back.then_some(())
        });
    }
    // While it is tried for the second time or so.
    fleet.kill_and_start("node-3");
    let back = fleet.done(&["module", "rollback", "stats"]);
    assert_eq!(back["version"], "2.0.0");
    fleet.kill_and_start_controller();
    fleet.works(&second, &NODES);

    fleet.0.kill_other("node-1");
    fleet.done(&["module", "uninstall", "stats", "--yes"]);
    fleet.kill_and_start("node-2");
    fleet.kill_and_start_controller();
    fleet.0.start_other("node-1");
    for node in NODES {
        eventually(&format!("nothing on {node}"), || {
            let is_gone = fleet.row(node).is_none_or(|row| row["state"] == "UNLOADED");
            (is_gone && fleet.jars(node).is_empty()).then_some(())
        });
        let modules = fleet.0.path(node).join("modules");
        let index = fs::read_to_string(modules.join("index.json")).unwrap();
        assert!(!index.contains("stats"), "{index}");
        assert!(!modules.join("hosts/stats").exists());
    }
    let hosts = || {
        let arguments = |pid: rustix::process::Pid| {
            fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default()
        };
        let mut of_hosts = fleet.0.processes().into_iter().map(arguments);
        of_hosts.any(|arguments| String::from_utf8_lossy(&arguments).contains("modules/store"))
    };
    eventually("no host of it runs", || (!hosts()).then_some(()));
}
