//! Disks without a byte left

use libtest_mimic::Trial;

use crate::disk::SmallDisk;
use crate::on_a_small_disk;
use crate::rig::{Rig, eventually, get};

pub fn cases() -> Vec<Trial> {
    vec![
        on_a_small_disk("controller_disk_full", controller),
        on_a_small_disk("daemon_disk_full", daemon),
    ]
}

fn wrap(rig: &mut Rig, role: &'static str, disk: &SmallDisk) {
    let entrance = disk.entrance();
    let words: Vec<_> = entrance.iter().map(String::as_str).collect();
    rig.wrap(role, &words);
}

fn ready(rig: &Rig) -> u16 {
    let answer = get(rig, "/api/v1/system/ready");
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

/// What the controller cannot write down it refuses with a sentence, says so to whoever watches it, and recovers from
fn controller() {
    let mut rig = Rig::new();
    let disk = SmallDisk::new(&rig.path("controller"), 24);
    wrap(&mut rig, "controller", &disk);
    rig.start_controller();
    // The administrator's token stands where only the controller sees it.
    let token = std::fs::read_to_string(disk.path("admin.token")).unwrap();
    rig.write("admin.token", &token);
    let token = rig.token(&["--node", "node-1"]);
    rig.configure_daemon(&token);
    rig.start_daemon();
    rig.await_node("ONLINE");
    rig.start_standin("lobby-1");
    assert_eq!(ready(&rig), 200);

    disk.fill();
    let refused = eventually("a refusal", || {
        let refused = rig.ctl(&["token", "create"]);
        (refused.code != 0).then_some(refused)
    });
    assert!(refused.error().len() > "error: ".len(), "{refused:?}");
    eventually("the controller saying that it cannot write", || {
        (ready(&rig) == 503).then_some(())
    });
    rig.command("lobby-1", "say on a full disk", "[Server] on a full disk");

    disk.free();
    eventually("the controller being ready again by itself", || {
        (ready(&rig) == 200).then_some(())
    });
    rig.start_standin("lobby-2");
    assert_eq!(rig.instance("lobby-1")["state"], "RUNNING");
}

/// Ends on a full disk are told as they were, once, and also after a restart of the daemon
fn daemon() {
    let mut rig = Rig::with_controller();
    let token = rig.token(&["--node", "node-1"]);
    rig.configure_daemon(&token);
    let disk = SmallDisk::new(&rig.path("daemon"), 48);
    wrap(&mut rig, "daemon", &disk);
    rig.start_daemon();
    rig.await_node("ONLINE");
    for id in ["lobby-1", "lobby-2", "lobby-3"] {
        rig.start_standin(id);
    }

    disk.fill();
    for (id, line) in [("lobby-1", "stop"), ("lobby-2", "crash")] {
        assert_eq!(rig.ctl(&["instance", "exec", id, line]).code, 0);
    }
    rig.await_instance("lobby-1", "STOPPED");
    rig.await_instance("lobby-2", "CRASHED");
    let crashes = |rig: &Rig| rig.ctl(&["crash", "list", "-o", "json"]).json();
    let told = eventually("the crash being told", || {
        let told = crashes(&rig);
        (!told.as_array().unwrap().is_empty()).then_some(told)
    });
    assert_eq!(told[0]["instanceId"], "lobby-2");
    assert_eq!(told[0]["exitCode"], 1, "{told}");

    rig.kill_daemon();
    disk.free();
    // Besides the one that lives there may be those whose end could not be noted as told.
    assert!(rig.start_daemon() >= 1);
    rig.await_node("ONLINE");
    rig.command("lobby-3", "say through it all", "[Server] through it all");
    assert_eq!(rig.instance("lobby-1")["state"], "STOPPED");
    assert_eq!(
        crashes(&rig).as_array().unwrap().len(),
        1,
        "told once: {}",
        crashes(&rig)
    );
}
