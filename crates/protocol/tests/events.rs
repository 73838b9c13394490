//! What a daemon gets of the controller's log, whatever is subscribed to, sent, shed and interrupted
#![allow(clippy::unwrap_used, reason = "tests")]

use prexorcloud_proto::ModuleEvent;
use prexorcloud_protocol::events::{Cursor, Forwarding, MAX_TYPES};
use proptest::prelude::*;
use prost::bytes::Bytes;

/// Of a log whose checks are its numbers and a thousand
fn at(sequence: u64) -> Cursor {
    let check = if sequence == 0 { 0 } else { 1000 + sequence };
    Cursor { sequence, check }
}

fn look(forwarding: &mut Forwarding, sequence: u64, name: &str) -> Option<ModuleEvent> {
    forwarding.look_at(at(sequence), name, || Bytes::from_static(b"{}"))
}

#[test]
fn a_java_daemon_gets_what_happens_from_now_on_and_no_additions() {
    let mut forwarding = Forwarding::begin(false, at(3), at(10));
    assert_eq!(forwarding.position(), 10, "it knows nothing of numbers");
    assert_eq!(forwarding.poll_mark(), None);
    forwarding.subscribe("a").unwrap();
    let plain = ModuleEvent {
        event_type: "a".to_owned(),
        payload_json: Bytes::from_static(b"{}"),
        ..ModuleEvent::default()
    };
    assert_eq!(look(&mut forwarding, 11, "a"), Some(plain.clone()));
    assert_eq!(look(&mut forwarding, 11, "a"), None, "once");
    assert_eq!(look(&mut forwarding, 12, "b"), None);
    assert_eq!(forwarding.poll_missed(), None);
    assert_eq!(look(&mut forwarding, 20, "a"), Some(plain));
    assert_eq!(
        (forwarding.poll_missed(), forwarding.poll_missed()),
        (Some(7), None)
    );
    forwarding.unsubscribe("a");
    assert_eq!(look(&mut forwarding, 21, "a"), None);
}

#[test]
fn a_daemon_of_another_log_is_told_so() {
    let mut forwarding = Forwarding::begin(true, at(50), at(10));
    let mark = forwarding.poll_mark().unwrap();
    assert_eq!((mark.sequence, mark.previous, mark.missed), (10, 50, 40));
    assert_eq!(forwarding.poll_mark(), None);
}

#[test]
fn the_same_number_of_another_log_is_noticed() {
    let mut forwarding = Forwarding::begin(true, at(5), at(10));
    assert_eq!(forwarding.unconfirmed(), Some(5));
    forwarding.confirm(Some(7), at(12));
    assert_eq!((forwarding.unconfirmed(), forwarding.position()), (None, 12));
    let mark = forwarding.poll_mark().unwrap();
    assert_eq!(
        (mark.sequence, mark.previous, mark.missed, mark.check),
        (12, 5, 7, 1012)
    );
    // The newest has another check: one is missing at least.
    let mut forwarding = Forwarding::begin(true, at(10), at(10));
    forwarding.confirm(Some(7), at(10));
    assert_eq!(forwarding.poll_mark().unwrap().missed, 1);

    // What is the same, what is gone and what has no check: the daemon goes on where it was.
    for (after, found) in [
        (at(5), Some(1005)),
        (at(5), None),
        (Cursor { check: 0, ..at(5) }, Some(7)),
    ] {
        let mut forwarding = Forwarding::begin(true, after, at(10));
        assert_eq!(forwarding.unconfirmed().is_some(), after.check != 0);
        forwarding.confirm(found, at(10));
        assert_eq!(forwarding.position(), 5);
        assert_eq!(forwarding.poll_mark().unwrap().missed, 0);
    }
    // To a Java daemon the numbers mean nothing.
    assert_eq!(Forwarding::begin(false, at(5), at(10)).unconfirmed(), None);
}

#[test]
fn what_was_never_written_is_told_at_its_place() {
    let mut forwarding = Forwarding::begin(true, at(0), at(1));
    forwarding.subscribe("a").unwrap();
    assert_eq!(forwarding.poll_mark().unwrap().missed, 0);
    assert_eq!(look(&mut forwarding, 2, "lost"), None);
    forwarding.lose(3);
    let mark = forwarding.poll_mark().unwrap();
    assert_eq!((mark.sequence, mark.missed), (2, 3));
    assert_eq!(look(&mut forwarding, 3, "a").unwrap().missed, 0, "it was told");

    let mut plain = Forwarding::begin(false, at(0), at(1));
    plain.lose(3);
    assert_eq!((plain.poll_mark(), plain.poll_missed()), (None, Some(3)));
}

#[test]
fn a_subscription_is_bounded() {
    let mut forwarding = Forwarding::begin(true, at(0), at(0));
    let taken = (0..100_000).filter(|number| forwarding.subscribe(&format!("type-{number}")).is_ok());
    assert_eq!(taken.count(), MAX_TYPES);
    assert!(forwarding.subscribe("type-0").is_ok(), "it is there");
    forwarding.unsubscribe("type-0");
    assert!(forwarding.subscribe("another").is_ok());
    let mut long = Forwarding::begin(true, at(0), at(0));
    let taken = (0..1000).filter(|number| long.subscribe(&format!("{number:0>512}")).is_ok());
    assert_eq!(taken.count(), 256);
}

#[derive(Clone, Debug)]
enum Step {
    Happen(usize),
    Forget(u64),
    Break,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0_usize..3).prop_map(Step::Happen),
        1 => (1_u64..6).prop_map(Step::Forget),
        2 => Just(Step::Break),
    ];
    prop::collection::vec(step, 0..200)
}

const NAMES: [&str; 3] = ["a", "b", "c"];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// However often the stream breaks and whatever the log lets go of: all wanted events come in order, none twice to whoever
    /// goes on where it was, or a gap says that some are gone.
    #[test]
    fn all_that_is_wanted_arrives_in_order_or_a_gap_is_told(steps in steps()) {
        let mut log: Vec<(u64, usize)> = Vec::new();
        let mut next = 1;
        let mut forwarding = Forwarding::begin(true, at(0), at(0));
        forwarding.subscribe("a").unwrap();
        forwarding.subscribe("c").unwrap();
        // What the daemon has: its cursor, what came, and how much it knows to be missing.
        let (mut cursor, mut came, mut missed) = (0, Vec::new(), 0);
        let mut happened = Vec::new();
        let mut is_connected = true;
        for step in steps.into_iter().chain([Step::Break, Step::Break]) {
            match step {
                Step::Happen(name) => {
                    log.push((next, name));
                    happened.push((next, name));
                    next += 1;
                }
                Step::Forget(entries) => {
                    // What was appended last always stays.
                    let gone = usize::try_from(entries).unwrap().min(log.len().saturating_sub(1));
                    log.drain(..gone);
                }
                Step::Break => {
                    is_connected = !is_connected;
                    if is_connected {
                        if cursor == 0 {
                            // It has heard nothing, and begins with what happens from now on.
                            cursor = next - 1;
                            happened.clear();
                        }
                        forwarding = Forwarding::begin(true, at(cursor), at(next - 1));
                        if let Some(sequence) = forwarding.unconfirmed() {
                            let is_there = log.iter().any(|(there, _)| *there == sequence);
                            forwarding.confirm(is_there.then_some(at(sequence).check), at(next - 1));
                        }
                        forwarding.subscribe("a").unwrap();
                        forwarding.subscribe("c").unwrap();
                    }
                }
            }
            if !is_connected {
                continue;
            }
            let position = forwarding.position();
            let mut messages: Vec<ModuleEvent> = Vec::new();
            for &(sequence, name) in log.iter().filter(|(sequence, _)| *sequence > position) {
                messages.extend(look(&mut forwarding, sequence, NAMES[name]));
            }
            messages.extend(forwarding.poll_mark());
            for message in messages {
                prop_assert_eq!(message.previous, cursor);
                prop_assert!(message.sequence >= cursor);
                prop_assert_eq!(message.check, at(message.sequence).check);
                cursor = message.sequence;
                missed += message.missed;
                if !message.event_type.is_empty() {
                    came.push((message.sequence, message.event_type));
                }
            }
        }
        let wanted = happened.iter().filter(|(sequence, name)| *name != 1 && *sequence <= forwarding.position());
        let wanted: Vec<_> = wanted.map(|&(sequence, name)| (sequence, NAMES[name].to_owned())).collect();
        let lost = wanted.iter().filter(|event| !came.contains(event)).count() as u64;
        prop_assert!(lost <= missed, "{lost} lost, {missed} told");
        prop_assert!(came.windows(2).all(|pair| pair[0].0 < pair[1].0), "{came:?}");
        prop_assert!(came.iter().all(|event| wanted.contains(event)));
    }
}
