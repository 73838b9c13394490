//! Groups with real processes: what they say reaches servers, and what was fetched beforehand is not fetched again

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::process::{Pid, Signal, kill_process};
use sha2::{Digest as _, Sha256};

use crate::rig::{Rig, eventually};

/// In the place of a Java virtual machine: says what it got, and ends at a word of its own
const PROGRAM: &str = r#"#!/bin/sh
trap 'echo terminated; exit 1' TERM
for argument; do echo "argument: $argument"; done
if [ -f motd.txt ]; then echo "motd: $(cat motd.txt)"; fi
echo 'ready to serve'
while read line; do
    if [ "$line" = 'save and quit' ]; then echo 'saved'; exit 0; fi
done
"#;

fn done(rig: &Rig, arguments: &[&str]) {
    let ran = rig.ctl(arguments);
    assert_eq!(ran.code, 0, "{arguments:?}: {ran:?}");
}

fn push(rig: &Rig, name: &str, files: &[(&str, &str)]) {
    let folder = rig.path(name);
    fs::create_dir(&folder).unwrap();
    for (file, text) in files {
        fs::write(folder.join(file), text).unwrap();
    }
    done(rig, &["template", "create", name]);
    done(rig, &["template", "push", folder.to_str().unwrap()]);
}

/// The arguments that stand behind the jar on the command line of a server, as it has said them the last time
fn arguments_behind(rig: &Rig, id: &str, jar: &str) -> Vec<String> {
    let console = rig.console(id);
    let said = console.lines().filter_map(|line| line.split_once("argument: "));
    let said: Vec<String> = said.map(|(_, argument)| argument.to_owned()).collect();
    let place = said.iter().rposition(|argument| argument == jar);
    let place = place.unwrap_or_else(|| panic!("no {jar} in {console}"));
    said[place + 1..].to_vec()
}

#[test]
fn servers_of_a_group_run_from_its_template_with_its_arguments_and_end_at_its_word() {
    let rig = Rig::with_java(PROGRAM);
    push(
        &rig,
        "app",
        &[("app.jar", "a jar"), ("motd.txt", "players of %GROUP% on %PORT%")],
    );
    done(
        &rig,
        &[
            "group",
            "create",
            "app",
            "--jar-file",
            "app.jar",
            "--arg",
            "serve",
            "--arg",
            "--listen=0.0.0.0:%PORT%",
            "--stop-command",
            "save and quit",
            "--ready",
            "line:ready to serve",
        ],
    );
    done(&rig, &["instance", "start", "app", "--count", "2", "--wait"]);
    for id in ["app-1", "app-2"] {
        let instance = rig.await_instance(id, "RUNNING");
        let port = &instance["port"];
        rig.await_line(id, &format!("motd: players of app on {port}"));
        assert_eq!(
            arguments_behind(&rig, id, "app.jar"),
            ["serve".to_owned(), format!("--listen=0.0.0.0:{port}")]
        );
    }
    done(&rig, &["instance", "stop", "app-1", "--wait"]);
    assert_eq!(rig.instance("app-1")["state"], "STOPPED");
    let said = rig.console("app-1");
    assert!(said.contains("saved") && !said.contains("terminated"), "{said}");

    // What runs keeps what it was started with; null is by the category again, and an empty list is nothing.
    done(&rig, &["group", "update", "app", "--unset", "arguments"]);
    done(&rig, &["instance", "start", "app", "--wait"]);
    let port = rig.await_instance("app-1", "RUNNING")["port"].to_string();
    assert_eq!(
        arguments_behind(&rig, "app-1", "app.jar"),
        ["--port".to_owned(), port, "--nogui".to_owned()]
    );
    done(&rig, &["group", "update", "app", "--set", "arguments=[]"]);
    done(&rig, &["instance", "start", "app", "--wait"]);
    assert_eq!(arguments_behind(&rig, "app-3", "app.jar"), [""; 0]);
    for id in ["app-1", "app-2", "app-3"] {
        done(&rig, &["instance", "stop", id, "--wait"]);
    }
}

/// A web server with one file, as long as somebody wants it
struct Shop<'s> {
    listener: TcpListener,
    file: &'s [u8],
    is_closed: AtomicBool,
    sold: AtomicUsize,
}

impl Shop<'_> {
    fn serve(&self) {
        while let Ok((mut connection, _)) = self.listener.accept() {
            if self.is_closed.load(Ordering::Relaxed) {
                return;
            }
            let mut lines = BufReader::new(connection.try_clone().unwrap()).lines();
            while lines.next().is_some_and(|line| !line.unwrap().is_empty()) {}
            self.sold.fetch_add(1, Ordering::Relaxed);
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                self.file.len()
            );
            connection.write_all(head.as_bytes()).unwrap();
            connection.write_all(self.file).unwrap();
        }
    }

    fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
        drop(TcpStream::connect(self.listener.local_addr().unwrap()).unwrap());
    }
}

#[test]
fn what_a_warm_cache_has_is_fetched_for_no_start() {
    let rig = Rig::with_java(PROGRAM);
    push(&rig, "app", &[("motd.txt", "hello")]);
    let shop = Shop {
        listener: TcpListener::bind("127.0.0.1:0").unwrap(),
        file: b"what a jar may be",
        is_closed: AtomicBool::new(false),
        sold: AtomicUsize::new(0),
    };
    let url = format!("http://{}/app.jar", shop.listener.local_addr().unwrap());
    let digest = Sha256::digest(shop.file);
    let sha256: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    done(
        &rig,
        &[
            "group",
            "create",
            "app",
            "--jar",
            &url,
            "--sha256",
            &sha256,
            "--platform",
            "app",
            "--ready",
            "line:ready to serve",
            "--stop-command",
            "save and quit",
        ],
    );
    let fetched = || rig.log_text("daemon").matches("a template was fetched").count();
    std::thread::scope(|scope| {
        scope.spawn(|| shop.serve());
        let warmed = rig.ctl(&["node", "cache", "warm", "node-1", "--group", "app"]);
        shop.close();
        assert_eq!(warmed.code, 0, "{warmed:?}");
    });
    let Shop { listener, sold, .. } = shop;
    assert_eq!((sold.into_inner(), fetched()), (1, 1));
    // Whoever wanted the jar now would find nobody.
    drop(listener);
    done(&rig, &["instance", "start", "app", "--wait"]);
    rig.await_instance("app-1", "RUNNING");
    rig.await_line("app-1", "motd: hello");
    assert_eq!(fetched(), 1, "{}", rig.log_text("daemon"));
    done(&rig, &["instance", "stop", "app-1", "--wait"]);
}

/// In the place of a Java virtual machine: ends at once where a file says so
const FRAGILE: &str = r#"#!/bin/sh
trap 'exit 1' TERM
if [ -f broken ]; then echo 'java.lang.OutOfMemoryError: for the test'; exit 7; fi
echo 'ready to serve'
while read line; do if [ "$line" = 'stop' ]; then exit 0; fi; done
"#;

/// The servers themselves, in the place of Java
fn programs(rig: &Rig) -> Vec<Pid> {
    let of = |pid: Pid| fs::read_to_string(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).ok();
    let is_one =
        |pid: &Pid| of(*pid).is_some_and(|text| text.starts_with("/bin/sh") && text.contains("app.jar"));
    rig.processes().into_iter().filter(is_one).collect()
}

#[test]
fn a_group_is_healed_through_kills_of_its_servers_and_of_the_controller() {
    let mut rig = Rig::with_java(FRAGILE);
    push(&rig, "app", &[("app.jar", "a jar")]);
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
            "--min",
            "2",
        ],
    );
    let first = rig.await_instance("app-1", "RUNNING");
    rig.await_instance("app-2", "RUNNING");
    let one = programs(&rig)[0];
    rig.kill_controller();
    // While nobody is there to see it.
    kill_process(one, Signal::KILL).unwrap();
    rig.start_controller();
    rig.await_node("ONLINE");
    let settled = || {
        let plan = rig.ctl(&["group", "plan", "app", "-o", "json"]).json();
        (plan["state"] == "SETTLED" && plan["serving"] == 2).then_some(())
    };
    let starts = || {
        let numbers = ["app-1", "app-2"].map(|id| rig.instance(id)["incarnation"].as_u64().unwrap());
        numbers.iter().sum::<u64>()
    };
    eventually("the killed server is back", || {
        (settled().is_some() && starts() == 3).then_some(())
    });
    assert_eq!(programs(&rig).len(), 2, "not one too many");
    assert_eq!(first["group"], "app");

    // A version that cannot run: paused after three attempts, told why, and healed by the next version.
    let folder = rig.path("app");
    fs::write(folder.join("broken"), "x").unwrap();
    done(&rig, &["template", "push", folder.to_str().unwrap()]);
    kill_process(programs(&rig)[0], Signal::KILL).unwrap();
    let reason = "The JVM ran out of memory";
    eventually("the group is paused, and says why", || {
        let plan = rig.ctl(&["group", "plan", "app", "-o", "json"]).json();
        (plan["state"] == "PAUSED" && plan["reasons"].to_string().contains(reason)).then_some(())
    });
    let shown = rig.ctl(&["group", "info", "app"]);
    assert!(shown.stdout.contains("PAUSED: 1 of 2 servers"), "{shown:?}");
    fs::remove_file(folder.join("broken")).unwrap();
    done(&rig, &["template", "push", folder.to_str().unwrap()]);
    done(&rig, &["group", "resume", "app"]);
    eventually("both serve again", settled);
    done(&rig, &["group", "stop", "app"]);
    eventually("all have ended", || programs(&rig).is_empty().then_some(()));
}

#[test]
fn a_killed_server_comes_back_with_the_value_of_its_start() {
    let mut rig = Rig::with_java(PROGRAM);
    push(&rig, "app", &[("app.jar", "a jar"), ("motd.txt", "word %WORD%.")]);
    done(
        &rig,
        &["template", "var", "set", "app", "WORD", "--type", "SECRET"],
    );
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
            "MANUAL",
        ],
    );
    done(
        &rig,
        &["instance", "start", "app", "--var", "WORD=hunter2", "--wait"],
    );
    // The first time with its controller there, then while nobody is there to see it.
    for incarnation in 2..=3 {
        if incarnation == 3 {
            rig.kill_controller();
        }
        kill_process(programs(&rig)[0], Signal::KILL).unwrap();
        if incarnation == 3 {
            rig.start_controller();
            rig.await_node("ONLINE");
        }
        eventually("the killed server is back", || {
            let seen = rig.instance("app-1");
            (seen["incarnation"] == incarnation && seen["state"] == "RUNNING").then_some(())
        });
        let motd = rig.ctl(&["instance", "files", "cat", "app-1", "motd.txt"]);
        assert_eq!(motd.stdout.trim(), "word hunter2.", "{motd:?}");
    }
    let shown = rig.ctl(&["instance", "info", "app-1"]);
    let why = "it was started by hand and ended by itself; its start 2 on node-1 was CRASHED";
    assert!(
        shown.stdout.contains(why) && !shown.stdout.contains("hunter2"),
        "{shown:?}"
    );
    for log in ["controller", "daemon"] {
        assert!(!rig.log_text(log).contains("hunter2"), "{log}");
    }
    done(&rig, &["instance", "stop", "app-1", "--wait"]);
    let kept = rig.instance("app-1")["keepsValues"].clone();
    assert_eq!(kept, false);
}
