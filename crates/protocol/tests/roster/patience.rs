//! Time that the daemon could not use is not held against it

use std::time::{Duration, Instant};

use prexorcloud_protocol::StopMode;
use prexorcloud_protocol::instance::State;

use crate::{connected, events, id, listed, run_timers, running, rust_peer, sent, start, state, status};

const AWAY: Duration = Duration::from_secs(3600);
const AT_ONCE: Duration = Duration::from_millis(1);

#[test]
fn a_graceful_stop_that_the_stream_took_with_it_is_not_a_kill_when_the_daemon_is_back() {
    let now = Instant::now();
    let mut roster = running(now, &rust_peer(), "a", 1);
    let _ = roster.stop(now, id("a"), StopMode::Graceful);
    assert_eq!(sent(&mut roster), ["stop a 1"]);
    roster.handle_disconnected(now);
    let back = now + AWAY;
    roster.handle_handshake(back, &[listed("a", 1, State::Running)], &rust_peer());
    assert_eq!(sent(&mut roster), ["stop a 1"]);
    let _ = roster.handle_status(back, &status("a", 1, State::Stopping));
    roster.handle_timeout(back + Duration::from_secs(44));
    assert_eq!(
        sent(&mut roster),
        Vec::<String>::new(),
        "a graceful stop gets its grace"
    );
    roster.handle_timeout(back + Duration::from_secs(45));
    assert_eq!(sent(&mut roster), ["kill a 1"]);
}

#[test]
fn an_instance_that_comes_up_is_not_killed_when_the_daemon_is_back() {
    let now = Instant::now();
    for before in [State::Preparing, State::Starting] {
        let mut roster = connected(now, &rust_peer());
        let _ = roster.start(now, start("a", 1));
        sent(&mut roster);
        let _ = roster.handle_status(now, &status("a", 1, before));
        roster.handle_disconnected(now);
        let back = now + AWAY;
        roster.handle_handshake(back, &[listed("a", 1, before)], &rust_peer());
        roster.handle_timeout(back + AT_ONCE);
        assert_eq!((sent(&mut roster), state(&roster, "a")), (vec![], before));
    }
}

#[test]
fn silence_on_a_live_stream_judges_nobody() {
    let now = Instant::now();
    let mut roster = connected(now, &rust_peer());
    for name in ["asked", "preparing", "starting", "stopping"] {
        let _ = roster.start(now, start(name, 1));
    }
    sent(&mut roster);
    let _ = roster.handle_status(now, &status("preparing", 1, State::Preparing));
    let _ = roster.handle_status(now, &status("starting", 1, State::Starting));
    let _ = roster.handle_status(now, &status("stopping", 1, State::Running));
    let _ = roster.stop(now, id("stopping"), StopMode::Graceful);
    sent(&mut roster);
    events(&mut roster);
    roster.handle_silence();
    assert_eq!(roster.poll_timeout(), None);
    let back = now + AWAY;
    roster.handle_timeout(back);
    let _ = roster.start(back, start("late", 1));
    assert_eq!(
        sent(&mut roster),
        ["start late 1"],
        "orders are taken all the same"
    );
    assert_eq!((events(&mut roster), roster.poll_timeout()), (vec![], None));

    roster.handle_heard(back);
    roster.handle_timeout(back + AT_ONCE);
    assert_eq!((sent(&mut roster), events(&mut roster)), (vec![], vec![]));
    let mut now = back;
    run_timers(&mut roster, &mut now, 200);
    assert!(
        now >= back + Duration::from_secs(600),
        "everybody was given the time again"
    );
    assert!(
        roster.entries().all(|known| known.is_terminal()),
        "and then judged"
    );
}

#[test]
fn a_new_stream_is_not_silent() {
    let now = Instant::now();
    let mut roster = connected(now, &rust_peer());
    roster.handle_silence();
    roster.handle_handshake(now, &[], &rust_peer());
    let _ = roster.start(now, start("a", 1));
    assert_eq!(sent(&mut roster), ["start a 1"]);
    assert!(roster.poll_timeout().is_some());
}
