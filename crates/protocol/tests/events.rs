//! What a daemon gets of the controller's log, whatever is subscribed to, sent, shed and interrupted
#![allow(clippy::unwrap_used, reason = "tests")]

use prexorcloud_proto::ModuleEvent;
use prexorcloud_protocol::events::{Forwarding, MAX_TYPES};
use proptest::prelude::*;
use prost::bytes::Bytes;

fn look(forwarding: &mut Forwarding, sequence: u64, name: &str) -> Option<ModuleEvent> {
    forwarding.look_at(sequence, name, || Bytes::from_static(b"{}"))
}

#[test]
fn a_java_daemon_gets_what_happens_from_now_on_and_no_additions() {
    let mut forwarding = Forwarding::begin(false, 3, 10);
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
    let mut forwarding = Forwarding::begin(true, 50, 10);
    let mark = forwarding.poll_mark().unwrap();
    assert_eq!((mark.sequence, mark.previous, mark.missed), (10, 50, 40));
    assert_eq!(forwarding.poll_mark(), None);
}

#[test]
fn a_subscription_is_bounded() {
    let mut forwarding = Forwarding::begin(true, 0, 0);
    let taken = (0..100_000).filter(|number| forwarding.subscribe(&format!("type-{number}")).is_ok());
    assert_eq!(taken.count(), MAX_TYPES);
    assert!(forwarding.subscribe("type-0").is_ok(), "it is there");
    forwarding.unsubscribe("type-0");
    assert!(forwarding.subscribe("another").is_ok());
    let mut long = Forwarding::begin(true, 0, 0);
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
        let mut forwarding = Forwarding::begin(true, 0, 0);
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
                        forwarding = Forwarding::begin(true, cursor, next - 1);
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
