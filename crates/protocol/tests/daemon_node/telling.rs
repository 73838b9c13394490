//! What the machine hands to the session, and what it hears of that

use prexorcloud_protocol::fence::EpochFence;
use prexorcloud_protocol::hosted::{Hosted, Observed};
use prexorcloud_protocol::node::daemon::{DaemonWork, Kept};
use prexorcloud_protocol::proto::CrashReport;
use prexorcloud_protocol::session::daemon::CRASHES_KEPT;
use prexorcloud_protocol::{DaemonConfig, DaemonSession, Incarnation, SendError};

use crate::world::*;

/// A session that hosts nothing, so it believes no report.
fn session() -> DaemonSession {
    let config = DaemonConfig::new("node-1".parse().unwrap(), "1.0.0");
    DaemonSession::new(config, Hosted::new(), EpochFence::default())
}

fn crash(report_id: &str) -> CrashReport {
    CrashReport {
        report_id: report_id.into(),
        ..CrashReport::default()
    }
}

#[test]
fn an_end_that_the_table_does_not_believe_is_let_go_of() {
    let (mut world, mut session) = (World::new(), session());
    world.running("a", 1, 30_000);
    world.exits("a", 1, 0, None);
    let work = world.drain();
    assert_eq!(work.iter().map(word).collect::<Vec<_>>(), ["STOPPED"]);
    for work in work {
        assert_eq!(work.hand_to(&mut session, &mut world.node), None);
    }
    assert_eq!(world.words(), "settle", "no controller will ever be told");
}

#[test]
fn a_state_that_the_table_does_not_believe_changes_nothing_else() {
    let (mut world, mut session) = (World::new(), session());
    world.starting("a", 1, 30_000);
    world.node.handle_ready(world.now(), id("a"), Incarnation::new(1));
    for work in world.drain() {
        let DaemonWork::Report(report) = work else {
            panic!("{work:?}")
        };
        assert_eq!(world.node.tell(&mut session, &report), Observed::Stale);
    }
    assert_eq!(world.words(), "");
}

#[test]
fn crash_reports_that_do_not_fit_are_told_when_there_is_room() {
    let (mut world, mut session) = (World::new(), session());
    for number in 0..CRASHES_KEPT {
        let report = crash(&number.to_string());
        world.node.tell_crash(&mut session, report).unwrap();
    }
    world.node.tell_crash(&mut session, crash("0")).unwrap();
    let one_more = DaemonWork::TellCrash {
        report: crash("one more").into(),
        kept: Kept::OnDisk,
    };
    assert_eq!(one_more.hand_to(&mut session, &mut world.node), None);
    world.node.handle_crash_confirmed(world.now(), "0".into());
    assert_eq!(world.words(), "forget, crashes");
}

#[test]
fn a_crash_report_without_a_name_comes_back() {
    let (mut world, mut session) = (World::new(), session());
    let refused = world.node.tell_crash(&mut session, crash(""));
    assert!(matches!(refused, Err(SendError::Invalid(_))));
    let nameless = DaemonWork::TellCrash {
        report: crash("").into(),
        kept: Kept::OnDisk,
    };
    assert!(nameless.hand_to(&mut session, &mut world.node).is_some());
}

#[test]
fn what_is_to_be_done_comes_back() {
    let (mut world, mut session) = (World::new(), session());
    world.launching("a", 1, 30_000);
    world.exits("a", 1, 1, None);
    let settle = DaemonWork::Settle {
        instance: id("a"),
        incarnation: Incarnation::new(1),
    };
    assert_eq!(
        settle.clone().hand_to(&mut session, &mut world.node),
        Some(settle)
    );
}
