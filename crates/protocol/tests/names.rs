//! Names, epochs, capabilities, traces and lengths: what is accepted, and that nothing panics
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::HashMap;

use prexorcloud_protocol::fence::{Admitted, EpochFence, EpochRefused, StaleEpoch};
use prexorcloud_protocol::id::NameFault;
use prexorcloud_protocol::limits::{fits, shorten};
use prexorcloud_protocol::trace::TraceParent;
use prexorcloud_protocol::{Capabilities, Epoch, Incarnation, InstanceId, NodeId};
use proptest::prelude::*;

#[test]
fn unsafe_names_are_refused_with_their_fault() {
    let fault = |text: &str| NodeId::new(text).unwrap_err().fault;
    assert_eq!(fault(""), NameFault::Empty);
    assert_eq!(fault("../x"), NameFault::BadStart { found: '.' });
    assert_eq!(fault("-x"), NameFault::BadStart { found: '-' });
    assert_eq!(fault("a,b"), NameFault::BadCharacter { found: ',' });
    assert_eq!(fault("a/b"), NameFault::BadCharacter { found: '/' });
    assert_eq!(fault("a\0b"), NameFault::BadCharacter { found: '\0' });
    assert_eq!(fault("nöde"), NameFault::BadCharacter { found: 'ö' });
    assert_eq!(fault(&"x".repeat(65)), NameFault::TooLong { len: 65 });
    assert_eq!(
        NodeId::new("a,b").unwrap_err().to_string(),
        "node id contains ',', only letters, digits, '.', '_' and '-' are allowed"
    );
}

#[test]
fn the_longest_name_is_sixty_four_bytes() {
    let longest = "x".repeat(64);
    assert_eq!(NodeId::new(&longest).unwrap().as_str(), longest);
}

proptest! {
    #[test]
    fn a_name_is_accepted_exactly_if_it_obeys_the_rule(text in "\\PC{0,70}|[a-z0-9._-]{0,66}") {
        let bytes = text.as_bytes();
        let obeys = (1..=64).contains(&bytes.len())
            && bytes[0].is_ascii_alphanumeric()
            && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(b));
        let parsed = InstanceId::new(&text);
        prop_assert_eq!(parsed.is_ok(), obeys);
        if let Ok(id) = parsed {
            prop_assert_eq!(id.as_str(), &text);
            prop_assert_eq!(id.to_string().parse::<InstanceId>().unwrap(), id);
        }
    }

    #[test]
    fn names_sort_like_their_text(a in "[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}", b in "[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}") {
        prop_assert_eq!(InstanceId::new(&a).unwrap().cmp(&InstanceId::new(&b).unwrap()), a.cmp(&b));
    }

    #[test]
    fn a_fence_never_goes_back(epochs in prop::collection::vec(prop_oneof![9 => 0_u64..6, 1 => Just(u64::MAX)], 0..40)) {
        let mut fence = EpochFence::default();
        for epoch in epochs.into_iter().map(Epoch::new) {
            let before = fence.highest();
            let verdict = fence.admit(epoch);
            prop_assert!(fence.highest() >= before);
            match verdict {
                Ok(Admitted::Unfenced) => prop_assert_eq!(epoch, Epoch::UNFENCED),
                Ok(Admitted::Current) => prop_assert_eq!(epoch, before),
                Ok(Admitted::Raised) => prop_assert!(epoch > before && fence.highest() == epoch),
                Err(EpochRefused::Stale(StaleEpoch { given, highest })) => {
                    prop_assert!(given < highest && fence.highest() == before);
                }
                Err(EpochRefused::OutOfRange(_)) => {
                    prop_assert!(epoch > Epoch::MAX_OBEYED && fence.highest() == before);
                }
            }
        }
    }

    #[test]
    fn a_shortened_text_fits_and_is_a_prefix(text in "\\PC{0,80}", limit in 0_usize..60) {
        let mut short = text.clone();
        shorten(&mut short, limit);
        prop_assert!(fits(&short, limit), "{short:?} has more than {limit} units");
        prop_assert!(fits(&text, limit) == (short == text) || short.ends_with("... (truncated)"));
        let kept = short.strip_suffix("... (truncated)").unwrap_or(&short);
        prop_assert!(text.starts_with(kept));
    }

    #[test]
    fn any_text_is_a_trace_parent_or_not(text in "\\PC{0,60}|00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}") {
        if let Some(trace) = TraceParent::parse(&text) {
            prop_assert_eq!(trace.as_str(), text);
        }
    }
}

#[test]
fn a_trace_parent_of_zeros_is_none() {
    assert!(TraceParent::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").is_some());
    assert!(TraceParent::parse("00-00000000000000000000000000000000-00f067aa0ba902b7-01").is_none());
    assert!(TraceParent::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01").is_none());
}

#[test]
fn a_trace_goes_on_in_another_span() {
    let trace = TraceParent::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").unwrap();
    let child = trace.with_span(0xab);
    assert_eq!(
        child.as_str(),
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00000000000000ab-01"
    );
    for child in [child, trace.with_span(0), trace.with_span(u64::MAX)] {
        assert_eq!(TraceParent::parse(child.as_str()), Some(child));
    }
}

#[test]
fn length_is_counted_as_java_counts_it() {
    // One astral character is two UTF-16 units and four bytes.
    assert!(fits("🦀🦀", 4));
    assert!(!fits("🦀🦀", 3));
    let mut text = "🦀".repeat(10);
    shorten(&mut text, 5);
    assert_eq!(text, "🦀🦀");
}

#[test]
fn unknown_capabilities_are_ignored_and_known_ones_round_trip() {
    let all = Capabilities::SESSION.union(Capabilities::ARTIFACTS);
    assert_eq!(Capabilities::from_wire(&all.to_wire()), all);
    let mixed = Capabilities::from_wire(&["incarnations/1", "incarnations/2", "", "telepathy/9"]);
    assert_eq!(mixed, Capabilities::INCARNATIONS);
    assert_eq!(mixed.intersection(Capabilities::CRASH_ACK), Capabilities::NONE);
}

#[test]
fn a_fence_lets_whoever_does_not_fence_through() {
    let mut fence = EpochFence::new(Epoch::new(7));
    assert_eq!(fence.admit(Epoch::UNFENCED), Ok(Admitted::Unfenced));
    assert_eq!(fence.highest(), Epoch::new(7));
}

#[test]
fn zero_alone_says_nothing() {
    assert!(!Epoch::UNFENCED.is_fenced() && Epoch::new(1).is_fenced());
    assert!(!Incarnation::UNKNOWN.is_known() && Incarnation::new(1).is_known());
}

#[test]
fn a_map_by_name_can_be_searched_by_text() {
    let ids = HashMap::from([(InstanceId::new("lobby-1").unwrap(), 1)]);
    assert_eq!(ids.get("lobby-1"), Some(&1));
}

#[test]
fn a_name_fills_the_column_it_is_printed_in() {
    assert_eq!(format!("{:<9}|", NodeId::new("node-1").unwrap()), "node-1   |");
}

#[test]
fn each_capability_has_the_name_of_the_contract() {
    for (capability, name) in [
        (Capabilities::INCARNATIONS, "incarnations/1"),
        (Capabilities::PREPARING_REPORTED, "preparing-reported/1"),
        (Capabilities::CRASH_ACK, "crash-ack/1"),
        (Capabilities::CONSOLE_SEQUENCE, "console-sequence/1"),
        (Capabilities::ARTIFACTS, "artifacts/1"),
        (Capabilities::READINESS, "readiness/1"),
        (Capabilities::STARTUP_DEADLINE, "startup-deadline/1"),
        (Capabilities::ENDED_LISTED, "ended-listed/1"),
        (Capabilities::RECEIPTS, "receipts/1"),
        (Capabilities::CONSOLE_ACK, "console-ack/1"),
        (Capabilities::PLUGIN_READY, "plugin-ready/1"),
        (Capabilities::EXEC_ACK, "exec-ack/1"),
        (Capabilities::MODULES, "modules/1"),
        (Capabilities::RENEWAL, "renewal/1"),
    ] {
        assert_eq!(capability.to_wire(), [name]);
    }
}

#[test]
fn a_set_of_capabilities_contains_another_as_a_whole_or_not() {
    let two = Capabilities::INCARNATIONS.union(Capabilities::CRASH_ACK);
    assert!(two.contains(Capabilities::CRASH_ACK) && two.contains(two) && two.contains(Capabilities::NONE));
    assert!(!Capabilities::CRASH_ACK.contains(two));
    assert!(
        !Capabilities::SESSION.contains(Capabilities::ARTIFACTS),
        "artifacts need a second connection, which a session has not"
    );
}
