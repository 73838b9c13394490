//! What does not grow, and many timers at once

use std::time::{Duration, Instant};

use prexorcloud_protocol::instance::{Desired, State};
use prexorcloud_protocol::limits::INSTANCES_PER_NODE;
use prexorcloud_protocol::roster::{ENDED_REMEMBERED, EVENTS_KEPT, InstanceEvent, RosterEntry};
use prexorcloud_protocol::roster::{GroupPolicy, ReconcilePolicy};
use prexorcloud_protocol::{DeniedReason, StopMode, Verdict};

use crate::{changes, connected, events, id, listed, roster, running, rust_peer, sent, start, status};

#[test]
fn the_number_of_instances_is_bounded() {
    let now = Instant::now();
    let mut roster = roster();
    for index in 0..INSTANCES_PER_NODE {
        assert_eq!(
            roster.start(now, start(&format!("i{index}"), 1)),
            Verdict::Accepted
        );
    }
    let full = Verdict::Denied(DeniedReason::TooMany {
        limit: INSTANCES_PER_NODE,
    });
    assert_eq!(roster.start(now, start("more", 1)), full);
    let _ = roster.stop(now, id("i7"), StopMode::Graceful);
    assert_eq!(roster.live(), INSTANCES_PER_NODE - 1);
    assert_eq!(roster.start(now, start("more", 1)), Verdict::Accepted);
    assert_eq!(
        roster.start(now, start("i7", 2)),
        full,
        "an id that has ended has no privilege"
    );

    let strangers: Vec<_> = (0..INSTANCES_PER_NODE + 9)
        .map(|index| listed(&format!("s{index}"), 1, State::Running))
        .collect();
    let policy = ReconcilePolicy {
        groups: GroupPolicy::Only(vec![]),
        ..rust_peer()
    };
    roster.handle_handshake(now, &strangers, &policy);
    assert_eq!(roster.orphans().count(), INSTANCES_PER_NODE);
    assert_eq!(sent(&mut roster).len(), 2 * INSTANCES_PER_NODE);
}

#[test]
fn what_has_ended_is_in_nobodys_way_and_the_first_to_end_is_to_go_first() {
    let now = Instant::now();
    let mut roster = roster();
    let ended = |number: usize| {
        let start = start(&format!("old{number}"), 1);
        let (state, desired) = (State::Stopped, Desired::Run);
        RosterEntry {
            start,
            state,
            desired,
            lost: false,
        }
    };
    let all = INSTANCES_PER_NODE + 100;
    let refused = roster.restore(now, (0..all).map(ended));
    assert!(refused.is_empty());
    assert_eq!(
        (roster.live(), roster.surplus().count()),
        (0, all - ENDED_REMEMBERED)
    );
    assert_eq!(roster.start(now, start("new", 1)), Verdict::Accepted);
    let first = roster.surplus().next().unwrap().instance();
    assert_eq!(first, id("old0"));
    assert_eq!(roster.start(now, start("old0", 2)), Verdict::Accepted);
    assert_eq!(roster.surplus().next().unwrap().instance(), id("old1"));
    assert_eq!(roster.live(), 2);
}

#[test]
fn what_lives_is_restored_whatever_its_record_says() {
    let now = Instant::now();
    let mut roster = roster();
    let mut broken = start("a", 1);
    broken.group = "no safe name".into();
    let entry = |start, state| RosterEntry {
        start,
        state,
        desired: Desired::Run,
        lost: false,
    };
    let refused = roster.restore(
        now,
        [
            entry(broken.clone(), State::Running),
            entry(start("b", 1), State::Running),
        ],
    );
    assert!(refused.is_empty());
    roster.handle_handshake(
        now,
        &[listed("a", 1, State::Running), listed("b", 1, State::Running)],
        &rust_peer(),
    );
    assert_eq!(crate::state(&roster, "a"), State::Running);
    assert!(
        roster
            .handle_status(now, &status("a", 1, State::Stopped))
            .is_accepted()
    );
    let refused = roster.restore(now, [entry(broken, State::Stopped)]);
    assert_eq!(refused.len(), 1, "it is over, and nobody needs it");
}

#[test]
fn a_node_that_lists_others_each_time_costs_a_bounded_memory() {
    let now = Instant::now();
    let mut roster = roster();
    for round in 0..5 {
        let strangers: Vec<_> = (0..INSTANCES_PER_NODE)
            .map(|index| listed(&format!("s{round}-{index}"), 1, State::Running))
            .collect();
        roster.handle_handshake(now, &strangers, &rust_peer());
        let refused = events(&mut roster).into_iter().find_map(|event| match event {
            InstanceEvent::NotAdopted { count } => Some(count),
            _ => None,
        });
        // All that a node can have is taken over, twice; then it is told that it brings too many.
        let (live, told) = if round < 2 {
            (INSTANCES_PER_NODE, None)
        } else {
            (0, Some(INSTANCES_PER_NODE))
        };
        assert_eq!((roster.live(), refused), (live, told), "{round}");
        assert!(roster.entries().count() <= 4 * INSTANCES_PER_NODE);
    }
    let later = now + Duration::from_secs(30);
    let known: Vec<_> = (0..5)
        .map(|index| listed(&format!("late{index}"), 1, State::Running))
        .collect();
    roster.handle_handshake(later, &known, &rust_peer());
    assert_eq!(roster.live(), 3, "one every ten seconds");
}

#[test]
fn events_that_nobody_polls_are_bounded_and_missed_ones_are_told() {
    let now = Instant::now();
    let mut roster = running(now, &rust_peer(), "a", 1);
    let rounds = EVENTS_KEPT / 2 + 10;
    for _ in 0..rounds {
        let _ = roster.drain(now, id("a"));
        let _ = roster.undrain(now, id("a"));
    }
    let told = events(&mut roster);
    assert_eq!(told.len(), EVENTS_KEPT + 1);
    let dropped = (2 * rounds - EVENTS_KEPT) as u64;
    assert_eq!(told.last(), Some(&InstanceEvent::Lagged { dropped }));
    let _ = roster.drain(now, id("a"));
    assert_eq!(changes(&mut roster).len(), 1, "and then it goes on");
}

#[test]
fn many_timers_fire_in_order_and_only_when_due() {
    let begin = Instant::now();
    let mut roster = connected(begin, &rust_peer());
    for index in 0..500_u32 {
        let now = begin + index * Duration::from_millis(10);
        roster.handle_timeout(now);
        let _ = roster.start(now, start(&format!("i{index}"), 1));
        sent(&mut roster);
        let _ = roster.handle_status(now, &status(&format!("i{index}"), 1, State::Starting));
    }
    events(&mut roster);
    for index in 0..500_u32 {
        let deadline = roster.poll_timeout().unwrap();
        assert_eq!(deadline.timer.instance, id(&format!("i{index}")));
        assert_eq!(
            deadline.at,
            begin + index * Duration::from_millis(10) + Duration::from_secs(105)
        );
        if index % 2 == 0 {
            let _ = roster.handle_status(deadline.at, &status(&format!("i{index}"), 1, State::Running));
        } else {
            roster.handle_timeout(deadline.at);
            let _ = roster.handle_status(deadline.at, &status(&format!("i{index}"), 1, State::Stopped));
        }
    }
    assert_eq!(roster.poll_timeout(), None);
}
