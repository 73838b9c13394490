//! How servers end, and what an operator is told of it

use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::rig::{Rig, eventually};

fn demo_jar() -> PathBuf {
    let jar = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo-server.jar");
    jar.canonicalize().unwrap()
}

fn start<'a>(id: &'a str, jar: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = vec![
        "instance",
        "start",
        "lobby",
        "--id",
        id,
        "--jar",
        jar,
        "--memory-mb",
        "64",
    ];
    arguments.extend(["--startup-timeout", "60", "--wait"]);
    arguments.extend(more);
    arguments
}

#[test]
fn what_a_jvm_complains_of_is_the_reason_that_is_printed() {
    let rig = Rig::with_node();
    let jar = demo_jar();
    let broken = rig.write("broken.jar", "not a jar");
    for (id, jar, argument, reason) in [
        (
            "a-1",
            jar.as_path(),
            Some("--jvm-arg=-XX:+NoSuchOption"),
            "Unrecognized VM option 'NoSuchOption'",
        ),
        (
            "a-2",
            jar.as_path(),
            Some("--jvm-arg=-Xmx999999g"),
            "Error occurred during initialization of VM: ",
        ),
        ("a-3", broken.as_path(), None, "Error: Invalid or corrupt jarfile"),
        (
            "a-4",
            jar.as_path(),
            Some("--jvm-arg=-Xss1k"),
            "The Java thread stack size specified is too small",
        ),
        (
            "a-5",
            jar.as_path(),
            Some("--jvm-arg=-Xlog:bogus"),
            "Invalid -Xlog option '-Xlog:bogus'",
        ),
        (
            "a-6",
            jar.as_path(),
            Some("--jvm-arg=@/nope"),
            "Error: could not open `/nope'",
        ),
    ] {
        let ran = rig.ctl(&start(id, jar.to_str().unwrap(), argument.as_slice()));
        assert_eq!(ran.code, 1, "{ran:?}");
        let expected = format!("{id} is CRASHED, so it will not be RUNNING: {reason}");
        assert!(ran.error().contains(&expected), "{ran:?}");
        let noted = rig.instance(id)["lastError"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        assert!(noted.starts_with(reason), "{noted}");
    }
    let crashes = rig.ctl(&["crash", "list", "-o", "json"]).json();
    assert_eq!(crashes.as_array().unwrap().len(), 6, "{crashes}");
    // Exit code 0 is no crash, and yet nobody has stopped it.
    let ran = rig.ctl(&start("a-7", jar.to_str().unwrap(), &["--jvm-arg=-version"]));
    assert_eq!(ran.code, 1, "{ran:?}");
    let expected = "a-7 is STOPPED, so it will not be RUNNING: its program ended by itself with exit code 0 before it was ready";
    assert!(ran.error().contains(expected), "{ran:?}");
}

#[test]
fn a_heap_dump_outlives_its_server() {
    let mut rig = Rig::with_controller();
    let token = rig.token(&["--node", "node-1"]);
    let config = rig.configure_daemon(&token);
    let text = std::fs::read_to_string(&config).unwrap();
    rig.write(
        "daemon.toml",
        &format!("{text}\n[instances]\nkeep_crashed_seconds = 0\n"),
    );
    rig.start_daemon();
    rig.await_node("ONLINE");
    let jar = demo_jar();
    let ran = rig.ctl(&start(
        "lobby-1",
        jar.to_str().unwrap(),
        &["--jvm-arg=-XX:+HeapDumpOnOutOfMemoryError"],
    ));
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(rig.ctl(&["instance", "exec", "lobby-1", "oom"]).code, 0);
    let crashed = rig.await_instance("lobby-1", "CRASHED");
    let group = rig.path("daemon/instances/lobby");
    let kept = || {
        let entries = std::fs::read_dir(&group).unwrap();
        entries
            .map(|entry| entry.unwrap().path())
            .find(|path| path.to_str().unwrap().contains("lobby-1@crashed-"))
    };
    let folder = eventually("the folder being kept", kept);
    let names = std::fs::read_dir(&folder).unwrap();
    let is_dump = |name: &std::ffi::OsStr| name.to_str().unwrap().ends_with(".hprof");
    assert!(
        names
            .map(|entry| entry.unwrap().file_name())
            .any(|name| is_dump(&name))
    );
    let reason = eventually("the reason", || {
        rig.instance("lobby-1")["lastError"].as_str().map(str::to_owned)
    });
    assert_eq!(reason, "The JVM ran out of memory", "{crashed}");
    // Neither the next start of the id nor the next daemon takes it away.
    rig.start_standin("lobby-1");
    rig.kill_daemon();
    rig.start_daemon();
    rig.await_node("ONLINE");
    assert_eq!(kept(), Some(folder));
    // A budget does.
    rig.kill_daemon();
    rig.write(
        "daemon.toml",
        &format!("{text}\n[instances]\nkeep_dumps_mb = 0\n"),
    );
    rig.start_daemon();
    eventually("the folder being deleted", || kept().is_none().then_some(()));
    assert!(rig.log_text("daemon").contains("instances.keep_dumps_mb"));
}

#[test]
fn an_end_that_nobody_saw_is_told_once_and_invents_no_exit_code() {
    let mut rig = Rig::with_node();
    rig.start_standin("lobby-1");
    kill(&processes_with(&rig, "shim"));
    // Told again after each restart, as long as the controller has not heard of it.
    rig.kill_controller();
    kill(&processes_with(&rig, "standin-server"));
    for _ in 0..3 {
        eventually("the end being noticed", || {
            rig.log_text("daemon").contains("nobody saw how").then_some(())
        });
        rig.kill_daemon();
        rig.start_daemon();
    }
    rig.start_controller();
    rig.await_node("ONLINE");
    let instance = rig.await_instance("lobby-1", "CRASHED");
    let crashes = eventually("a crash report", || {
        let crashes = rig.ctl(&["crash", "list", "-o", "json"]).json();
        crashes.as_array().filter(|crashes| !crashes.is_empty()).cloned()
    });
    assert_eq!(crashes.len(), 1, "{crashes:?}");
    let of = |name: &str| -> &Value { &crashes[0][name] };
    assert_eq!(
        (of("exitCode"), of("classification")),
        (&(-1).into(), &"UNOBSERVED".into())
    );
    assert_eq!(instance["lastError"], "Nobody saw how the process ended");
    let shown = rig.ctl(&["crash", "show", of("id").as_str().unwrap()]);
    assert!(shown.stdout.contains("not known: nobody saw how"), "{shown:?}");
}

#[test]
fn a_daemon_with_forty_descriptors_drops_and_forces_nobody() {
    const SERVERS: usize = 12;
    let mut rig = Rig::with_node();
    for number in 1..=SERVERS {
        rig.start_standin(&format!("lobby-{number}"));
    }
    rig.kill_daemon();
    assert_eq!(rig.start_daemon_with_open_files(40), SERVERS as u64);
    rig.await_node("ONLINE");
    assert!(rig.log_text("daemon").contains("few files may be open"));
    for number in 1..=SERVERS {
        let id = format!("lobby-{number}");
        rig.await_instance(&id, "RUNNING");
        let stopped = rig.ctl(&["instance", "stop", &id, "--wait", "-o", "json"]).json();
        assert_eq!(stopped["state"], "STOPPED", "{stopped}");
    }
    let log = rig.log_text("daemon");
    assert!(!log.contains("SIGKILL") && !log.contains("SIGTERM"), "{log}");
    assert_eq!(
        rig.ctl(&["crash", "list", "-o", "json"]).json(),
        Value::Array(vec![])
    );
    let run = std::fs::read_dir(rig.path("daemon/run")).unwrap();
    for entry in run {
        let name = entry.unwrap().file_name();
        assert!(!name.to_str().unwrap().starts_with('.'), "{name:?}");
    }
}

#[test]
fn a_torn_record_is_shown_and_its_server_stays_stoppable() {
    let mut rig = Rig::with_node();
    rig.start_standin("lobby-1");
    rig.start_standin("lobby-2");
    rig.kill_daemon();
    for entry in std::fs::read_dir(rig.path("daemon/run")).unwrap() {
        let folder = entry.unwrap().path();
        if folder.to_str().unwrap().contains("lobby-1@") {
            std::fs::write(folder.join("state.json"), "{\"shim\":").unwrap();
            std::fs::write(folder.join("settled"), "").unwrap();
        }
    }
    assert_eq!(rig.start_daemon(), 2);
    rig.await_node("ONLINE");
    let noted = eventually("the damage being noted", || {
        rig.instance("lobby-1")["lastError"].as_str().map(str::to_owned)
    });
    assert!(
        noted.contains("state.json") && noted.contains("settled"),
        "{noted}"
    );
    assert_eq!(rig.instance("lobby-1")["state"], "RUNNING");
    assert!(rig.instance("lobby-2")["lastError"].is_null());
    for id in ["lobby-1", "lobby-2"] {
        rig.command(id, "say still here", "[Server] still here");
        let stopped = rig.ctl(&["instance", "stop", id, "--wait", "-o", "json"]).json();
        assert_eq!(stopped["state"], "STOPPED", "{stopped}");
    }
    assert_eq!(
        rig.ctl(&["crash", "list", "-o", "json"]).json(),
        Value::Array(vec![])
    );
}

fn processes_with(rig: &Rig, word: &str) -> Vec<Pid> {
    let of_word = |pid: &Pid| {
        let arguments = std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
        arguments
            .split(|byte| *byte == 0)
            .any(|argument| argument == word.as_bytes())
    };
    rig.processes().into_iter().filter(of_word).collect()
}

fn kill(processes: &[Pid]) {
    assert!(!processes.is_empty());
    for process in processes {
        kill_process(*process, Signal::KILL).unwrap();
    }
    eventually("their ends", || {
        let is_gone = |pid: &Pid| {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
            stat.map_or(true, |stat| stat.contains(") Z "))
        };
        processes.iter().all(is_gone).then_some(())
    });
}
