//! Links that are held up, and links that swallow everything

use std::fs::File;
use std::io::Write as _;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;

use crate::case;
use crate::console::console_log;
use crate::link::Link;
use crate::rig::{Rig, eventually};

pub fn cases() -> Vec<Trial> {
    vec![case("stalled_link", stalled), case("blackholed_link", blackholed)]
}

fn behind_a_link() -> (Rig, Link) {
    let mut rig = Rig::with_controller();
    let link = Link::to(rig.grpc());
    let token = rig.token(&["--node", "node-1"]);
    rig.route(link.address);
    rig.configure_daemon(&token);
    rig.start_daemon();
    rig.await_node("ONLINE");
    rig.start_standin("lobby-1");
    (rig, link)
}

/// Lines that were on their way when the link stalled are all there afterwards, in order and once
fn stalled() {
    const LINES: usize = 2000;
    let (mut rig, link) = behind_a_link();
    link.stall();
    // Typed where the server reads, as no order gets through.
    let stdin = console_log(&rig).with_file_name("stdin");
    let mut stdin = File::options().write(true).open(stdin).unwrap();
    writeln!(stdin, "spam {LINES}").unwrap();
    // Longer than anything that may count as delivered for having waited, and than the heartbeat bears: a second each.
    let until = Instant::now() + Duration::from_secs(20);
    eventually("twenty seconds of a stalled link", || {
        (Instant::now() > until).then_some(())
    });
    // And the daemon is killed meanwhile: what it held in memory is gone, what is on disk is not.
    rig.kill_daemon();
    link.cut();
    assert_eq!(rig.start_daemon(), 1);
    rig.await_node("ONLINE");
    rig.command("lobby-1", "say after", "[Server] after");
    let console = rig.console("lobby-1");
    for line in 1..=LINES {
        let text = format!("spam line {line} of {LINES}\n");
        assert_eq!(console.matches(&text).count(), 1, "{text:?}");
    }
    rig.stop_daemon();
}

/// A node that cannot be reached is shown so; its servers go on, and are what they were when it is back
fn blackholed() {
    let (mut rig, link) = behind_a_link();
    let before = rig.instance("lobby-1");
    link.stall();
    eventually("the node being missed", || {
        (rig.node("node-1")["connected"] == false).then_some(())
    });
    let refused = rig.ctl(&["instance", "exec", "lobby-1", "say", "nobody hears"]);
    assert_ne!(refused.code, 0, "{refused:?}");
    link.cut();
    rig.await_node("ONLINE");
    let after = rig.await_instance("lobby-1", "RUNNING");
    assert_eq!(after["incarnation"], before["incarnation"]);
    rig.command("lobby-1", "say back", "[Server] back");
    assert_eq!(
        rig.ctl(&["crash", "list", "-o", "json"])
            .json()
            .as_array()
            .unwrap()
            .len(),
        0
    );
    rig.stop_daemon();
}
