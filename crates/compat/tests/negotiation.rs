//! Every version that a peer can announce, the known ones in a table and all others by property
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use prexorcloud_compat::{
    Announcement, ContractMatch, Incompatible, MIN_PROTOCOL_VERSION, Negotiation, PROTOCOL_VERSION, Party,
    Window, contract, judge_ack, negotiate,
};
use proptest::prelude::*;

fn window(oldest: i32, newest: i32) -> Window {
    Window::new(oldest, newest).unwrap()
}

fn outcome(verdict: &Negotiation) -> String {
    match verdict {
        Negotiation::Compatible(agreement) => format!("speak {}", agreement.version),
        Negotiation::UpgradeRequired(Incompatible::PeerTooOld { .. }) => "peer too old".into(),
        Negotiation::UpgradeRequired(Incompatible::PeerTooNew { .. }) => "peer too new".into(),
        Negotiation::UpgradeRequired(Incompatible::NotAVersion { .. }) => "not a version".into(),
        Negotiation::UpgradeRequired(reason) => format!("{reason:?}"),
    }
}

#[test]
fn this_build_against_what_peers_announce() {
    for (announced, oldest, expected) in [
        (1, 0, "speak 1"), // a Java peer
        (1, 1, "speak 1"),
        (7, 1, "speak 1"), // newer, and still speaks ours
        (i32::MAX, 1, "speak 1"),
        (7, 0, "peer too new"),
        (7, 2, "peer too new"),
        (i32::MAX, 0, "peer too new"),
        (i32::MAX, i32::MAX, "peer too new"),
        (0, 0, "not a version"), // a peer from before the field existed
        (-1, 0, "not a version"),
        (i32::MIN, 0, "not a version"),
        (i32::MIN, i32::MIN, "not a version"),
        (1, 2, "not a version"),
        (1, -1, "not a version"),
        (7, i32::MIN, "not a version"),
        (0, 1, "not a version"),
    ] {
        let verdict = negotiate(Announcement::new(announced, oldest));
        assert_eq!(outcome(&verdict), expected, "{announced} {oldest}");
    }
}

#[test]
fn a_later_build_speaks_to_older_and_newer_peers() {
    let later = window(2, 4);
    for (announced, oldest, expected) in [
        (1, 0, "peer too old"),
        (1, 1, "peer too old"),
        (2, 0, "speak 2"),
        (3, 1, "speak 3"),
        (4, 0, "speak 4"),
        (5, 4, "speak 4"),
        (9, 1, "speak 4"),
        (5, 0, "peer too new"),
        (9, 5, "peer too new"),
        (0, 0, "not a version"),
    ] {
        let verdict = later.negotiate(Announcement::new(announced, oldest));
        assert_eq!(outcome(&verdict), expected, "{announced} {oldest}");
    }
}

#[test]
fn a_refusal_names_both_sides_and_who_must_act() {
    let ours = window(2, 4);
    for (announced, oldest, who, sentence) in [
        (
            1,
            0,
            Party::Peer,
            "upgrade required: daemon a speaks protocol version 1, controller b speaks versions 2 to 4; upgrade daemon a",
        ),
        (
            9,
            6,
            Party::Us,
            "upgrade required: daemon a speaks protocol versions 6 to 9, controller b speaks versions 2 to 4; \
             upgrade controller b",
        ),
        (
            0,
            0,
            Party::Peer,
            "upgrade required: daemon a announced protocol version 0, which is not a version; \
             controller b speaks versions 2 to 4; upgrade daemon a",
        ),
        (
            3,
            -8,
            Party::Peer,
            "upgrade required: daemon a announced protocol versions -8 to 3, which is not a range of versions; \
             controller b speaks versions 2 to 4; upgrade daemon a",
        ),
    ] {
        let Negotiation::UpgradeRequired(reason) = ours.negotiate(Announcement::new(announced, oldest))
        else {
            panic!("{announced} {oldest} was accepted");
        };
        assert_eq!(reason.sentence("controller b", "daemon a"), sentence);
        assert_eq!(reason.who_upgrades(), who, "{reason}");
        assert_eq!(reason.to_string(), reason.sentence("this side", "the peer"));
    }
}

#[test]
fn a_daemon_judges_the_ack() {
    assert!(judge_ack(1, true).is_compatible());
    let Negotiation::UpgradeRequired(refused) = judge_ack(1, false) else {
        panic!("a refusal was taken for consent");
    };
    assert_eq!(refused.who_upgrades(), Party::Either);
    assert_eq!(
        refused.sentence("daemon a", "controller b"),
        "upgrade required: controller b refused protocol version 1 of daemon a and named version 1; \
         upgrade the older of the two"
    );
    for (version, compatible, expected) in [
        (2, false, "peer too new"),
        (2, true, "peer too new"),
        (7, true, "peer too new"),
        (0, true, "not a version"),
        (0, false, "not a version"),
        (-1, true, "not a version"),
        (i32::MIN, false, "not a version"),
        (i32::MAX, true, "peer too new"),
    ] {
        assert_eq!(
            outcome(&judge_ack(version, compatible)),
            expected,
            "{version} {compatible}"
        );
    }
}

#[test]
fn the_ack_carries_the_agreed_version_or_our_newest() {
    let ours = window(2, 4);
    assert_eq!(ours.negotiate(Announcement::new(3, 0)).version_to_ack(), 3);
    assert_eq!(ours.negotiate(Announcement::new(9, 1)).version_to_ack(), 4);
    assert_eq!(ours.negotiate(Announcement::new(9, 9)).version_to_ack(), 4);
    assert_eq!(ours.negotiate(Announcement::new(0, 0)).version_to_ack(), 4);
}

#[test]
fn another_contract_of_the_same_version_is_reported_and_allowed() {
    let ours = contract::capability();
    let upper = contract::WIRE_DIGEST.to_uppercase();
    for (digest, expected) in [
        (None, ContractMatch::Unknown),
        (Some(contract::WIRE_DIGEST), ContractMatch::Same),
        (Some(upper.as_str()), ContractMatch::Same),
        (Some("b7"), ContractMatch::Different),
        (Some(""), ContractMatch::Different),
    ] {
        let Negotiation::Compatible(agreement) = negotiate(Announcement::new(1, 0).with_contract(digest))
        else {
            panic!("refused for its digest {digest:?}");
        };
        assert_eq!(agreement.contract, expected, "{digest:?}");
    }
    assert_eq!(ours, format!("contract-sha256/{}", contract::WIRE_DIGEST));
    assert_eq!(
        contract::digest_in_capabilities(&["artifacts/1", &ours]),
        Some(contract::WIRE_DIGEST)
    );
    assert_eq!(contract::digest_in_capabilities(&["artifacts/1"]), None);
    assert_eq!(contract::digest_in_capabilities::<String>(&[]), None);
}

#[test]
fn our_own_window_is_one() {
    assert_eq!(
        Window::new(MIN_PROTOCOL_VERSION, PROTOCOL_VERSION),
        Some(Window::OURS)
    );
}

fn any_window() -> impl Strategy<Value = Window> {
    let bound = prop_oneof![1..6_i32, 1..=i32::MAX];
    (bound.clone(), bound).prop_map(|(a, b)| window(a.min(b), a.max(b)))
}

fn any_number() -> impl Strategy<Value = i32> {
    prop_oneof![-3..8_i32, any::<i32>(), Just(i32::MIN), Just(i32::MAX)]
}

proptest! {
    #[test]
    fn both_sides_reach_the_same_verdict(ours in any_window(), theirs in any_window()) {
        let here = ours.negotiate(Announcement::new(theirs.newest(), theirs.oldest()));
        let there = theirs.negotiate(Announcement::new(ours.newest(), ours.oldest()));
        match (&here, &there) {
            (Negotiation::Compatible(a), Negotiation::Compatible(b)) => {
                prop_assert_eq!(a.version, b.version);
                prop_assert!(ours.contains(a.version) && theirs.contains(a.version));
                if let Some(newer) = a.version.checked_add(1) {
                    prop_assert!(!(ours.contains(newer) && theirs.contains(newer)));
                }
                prop_assert!(theirs.judge_ack(here.version_to_ack(), true).is_compatible());
            }
            (Negotiation::UpgradeRequired(a), Negotiation::UpgradeRequired(b)) => {
                let expected = match a.who_upgrades() {
                    Party::Us => Party::Peer,
                    Party::Peer => Party::Us,
                    Party::Either => Party::Either,
                };
                prop_assert_eq!(b.who_upgrades(), expected);
                prop_assert!(!theirs.judge_ack(here.version_to_ack(), false).is_compatible());
            }
            _ => prop_assert!(false, "{:?} but {:?}", here, there),
        }
    }

    #[test]
    fn any_numbers_get_a_verdict_and_a_sentence(
        ours in any_window(),
        announced in any_number(),
        oldest in any_number(),
        compatible in any::<bool>(),
    ) {
        for verdict in [ours.negotiate(Announcement::new(announced, oldest)), ours.judge_ack(announced, compatible)] {
            match verdict {
                Negotiation::Compatible(agreement) => prop_assert!(ours.contains(agreement.version)),
                Negotiation::UpgradeRequired(reason) => {
                    let sentence = reason.to_string();
                    prop_assert!(sentence.starts_with("upgrade required: "), "{}", sentence);
                    prop_assert!(sentence.contains(&ours.to_string()), "{}", sentence);
                    prop_assert!(!sentence.contains('\n'));
                }
            }
        }
    }
}
