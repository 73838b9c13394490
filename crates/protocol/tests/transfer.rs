//! A transfer of an artifact: continued where it broke, fetched anew once, given up in time
#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::{Duration, Instant};

use prexorcloud_protocol::content::transfer::{
    MAX_CHUNK_BYTES, Transfer, TransferConfig, TransferFailure, TransferOutcome, TransferOutput,
    TransferTimer,
};
use prexorcloud_testkit::Clock;
use proptest::prelude::*;

const SECOND: Duration = Duration::from_secs(1);
const UNAVAILABLE: i32 = 14;

fn start(size: u64) -> (Transfer, Instant) {
    let now = Clock::new().at(Duration::ZERO);
    let mut transfer = Transfer::new(now, size, TransferConfig::default());
    assert_eq!(outputs(&mut transfer), [TransferOutput::Call { offset: 0 }]);
    (transfer, now)
}

fn outputs(transfer: &mut Transfer) -> Vec<TransferOutput> {
    std::iter::from_fn(|| transfer.poll_output()).collect()
}

fn failed(failure: TransferFailure) -> [TransferOutput; 1] {
    [TransferOutput::Settled(TransferOutcome::Failed(failure))]
}

#[test]
fn chunks_in_order_make_a_whole() {
    let (mut transfer, now) = start(30);
    assert!(transfer.handle_chunk(now, 0, 10, false));
    assert!(transfer.handle_chunk(now, 10, 20, true));
    assert_eq!(outputs(&mut transfer), [TransferOutput::Verify]);
    assert_eq!(transfer.poll_timeout(), None);
    transfer.handle_verified(now, true);
    assert_eq!(
        outputs(&mut transfer),
        [TransferOutput::Settled(TransferOutcome::Whole)]
    );
    assert!(!transfer.handle_chunk(now, 30, 0, true), "it is over");
}

#[test]
fn what_an_earlier_transfer_has_brought_is_gone_on_with() {
    let now = Clock::new().at(Duration::ZERO);
    let resumed = |received| Transfer::resumed(now, 30, received, TransferConfig::default());
    for (received, first) in [
        (0, TransferOutput::Call { offset: 0 }),
        (29, TransferOutput::Call { offset: 29 }),
        (30, TransferOutput::Verify),
        (31, TransferOutput::Call { offset: 0 }),
    ] {
        assert_eq!(outputs(&mut resumed(received)), [first]);
    }
    let mut transfer = resumed(10);
    assert!(!outputs(&mut transfer).is_empty());
    assert!(transfer.handle_chunk(now, 10, 20, true));
    assert_eq!(outputs(&mut transfer), [TransferOutput::Verify]);
    transfer.handle_verified(now, false);
    assert_eq!(outputs(&mut transfer), [TransferOutput::Call { offset: 0 }]);
}

#[test]
fn a_broken_call_is_continued_where_it_broke() {
    let (mut transfer, now) = start(30);
    assert!(transfer.handle_chunk(now, 0, 10, false));
    transfer.handle_cut(now, "reset");
    assert_eq!(outputs(&mut transfer), []);
    let due = transfer.poll_timeout().unwrap();
    assert_eq!(due.timer, TransferTimer::CallDue);
    assert!(
        !transfer.handle_chunk(now, 10, 10, false),
        "of a call that is over"
    );
    transfer.handle_timeout(due.at);
    assert_eq!(outputs(&mut transfer), [TransferOutput::Call { offset: 10 }]);
    transfer.handle_status(due.at, UNAVAILABLE, "restarting");
    let longer = transfer.poll_timeout().unwrap();
    assert_eq!(longer.at - due.at, 2 * (due.at - now), "the pauses grow");
    transfer.handle_timeout(longer.at);
    assert_eq!(outputs(&mut transfer), [TransferOutput::Call { offset: 10 }]);
    assert!(transfer.handle_chunk(longer.at, 10, 20, true));
}

#[test]
fn a_call_that_stands_still_is_made_again() {
    let (mut transfer, now) = start(30);
    let stalled = transfer.poll_timeout().unwrap();
    assert_eq!(
        (stalled.timer, stalled.at),
        (TransferTimer::Stalled, now + 30 * SECOND)
    );
    transfer.handle_timeout(stalled.at);
    let due = transfer.poll_timeout().unwrap();
    transfer.handle_timeout(due.at);
    assert_eq!(outputs(&mut transfer), [TransferOutput::Call { offset: 0 }]);
}

#[test]
fn as_long_as_something_comes_nothing_is_given_up() {
    let (mut transfer, mut now) = start(100);
    for offset in 0..99 {
        assert!(transfer.handle_chunk(now, offset, 1, false));
        transfer.handle_cut(now, "reset");
        now += 100 * SECOND;
        transfer.handle_timeout(now);
        let offset = u64::try_from(offset).unwrap() + 1;
        assert_eq!(outputs(&mut transfer), [TransferOutput::Call { offset }]);
    }
    now += 30 * SECOND;
    transfer.handle_cut(now, "reset");
    let after = 130 * SECOND;
    let reason = "reset".to_owned();
    assert_eq!(
        outputs(&mut transfer),
        failed(TransferFailure::Stuck { after, reason })
    );
    assert_eq!(transfer.poll_timeout(), None);
}

#[test]
fn damaged_bytes_are_fetched_anew_twice_and_no_oftener() {
    let (mut transfer, now) = start(10);
    assert!(transfer.handle_chunk(now, 0, 10, true));
    transfer.handle_verified(now, false);
    assert_eq!(
        outputs(&mut transfer),
        [TransferOutput::Verify, TransferOutput::Call { offset: 0 }]
    );
    assert_eq!(transfer.received(), 0);
    assert!(transfer.handle_chunk(now, 0, 5, false));
    // The controller has noticed by itself.
    transfer.handle_status(now, 15, "damaged");
    assert_eq!(outputs(&mut transfer), [TransferOutput::Call { offset: 0 }]);
    assert!(transfer.handle_chunk(now, 0, 10, true));
    outputs(&mut transfer);
    transfer.handle_verified(now, false);
    assert_eq!(outputs(&mut transfer), failed(TransferFailure::Damaged));
}

#[test]
fn chunks_that_break_the_rules_are_not_kept() {
    for (name, offset, len, last) in [
        ("ahead", 1, 10, false),
        ("behind", -1, 10, false),
        ("too much", 0, 31, true),
        ("nothing", 0, 0, false),
        ("an early end", 0, 10, true),
        ("no end", 0, 30, false),
    ] {
        let (mut transfer, now) = start(30);
        assert!(!transfer.handle_chunk(now, offset, len, last), "{name}");
        assert_eq!(
            outputs(&mut transfer),
            [TransferOutput::Call { offset: 0 }],
            "{name}"
        );
        assert!(!transfer.handle_chunk(now, offset, len, last), "{name}");
        outputs(&mut transfer);
        assert!(!transfer.handle_chunk(now, offset, len, last), "{name}");
        let [TransferOutput::Settled(TransferOutcome::Failed(TransferFailure::Misbehaved { .. }))] =
            &outputs(&mut transfer)[..]
        else {
            panic!("{name}: the third time it is given up");
        };
    }
    let (mut transfer, now) = start(1 << 30);
    assert!(!transfer.handle_chunk(now, 0, MAX_CHUNK_BYTES + 1, false));
}

#[test]
fn what_is_gone_or_refused_is_not_asked_for_again() {
    for (code, is_gone) in [(5, true), (7, true), (3, false), (12, false), (16, false)] {
        let (mut transfer, now) = start(10);
        transfer.handle_status(now, code, "why");
        let message = "why".to_owned();
        let outcome = match is_gone {
            true => TransferOutcome::Gone { message },
            false => TransferOutcome::Failed(TransferFailure::Refused { message }),
        };
        assert_eq!(
            outputs(&mut transfer),
            [TransferOutput::Settled(outcome)],
            "{code}"
        );
    }
}

#[derive(Clone, Debug)]
enum Fact {
    Chunk { ahead: i64, len: usize, last: bool },
    Proper { len: u64 },
    Cut,
    Status(i32),
    Verified(bool),
    Pass(u64),
}

fn fact() -> impl Strategy<Value = Fact> {
    prop_oneof![
        (-1..2_i64, 0..60_usize, any::<bool>()).prop_map(|(ahead, len, last)| Fact::Chunk {
            ahead,
            len,
            last
        }),
        (1..60_u64).prop_map(|len| Fact::Proper { len }),
        Just(Fact::Cut),
        (0..18).prop_map(Fact::Status),
        any::<bool>().prop_map(Fact::Verified),
        (0..200_u64).prop_map(Fact::Pass),
    ]
}

proptest! {
    /// Whatever a controller does: only what continues is kept, each call continues what is kept, it ends once, and it never
    /// waits for nothing.
    #[test]
    fn a_transfer_keeps_its_account(size in 0..300_u64, facts in prop::collection::vec(fact(), 0..200)) {
        let mut now = Clock::new().at(Duration::ZERO);
        let mut transfer = Transfer::new(now, size, TransferConfig::default());
        let (mut kept, mut is_over, mut verifying) = (0, false, false);
        for fact in std::iter::once(Fact::Pass(0)).chain(facts) {
            match fact {
                Fact::Chunk { ahead, len, last } => {
                    let offset = i64::try_from(kept).unwrap() + ahead;
                    if transfer.handle_chunk(now, offset, len, last) {
                        prop_assert_eq!(ahead, 0);
                        kept += len as u64;
                    }
                }
                Fact::Proper { len } => {
                    let len = len.min(size - kept);
                    let offset = i64::try_from(kept).unwrap();
                    if transfer.handle_chunk(now, offset, usize::try_from(len).unwrap(), kept + len == size) {
                        kept += len;
                    }
                }
                Fact::Cut => transfer.handle_cut(now, "cut"),
                Fact::Status(code) => transfer.handle_status(now, code, "status"),
                Fact::Verified(is_it) => transfer.handle_verified(now, is_it),
                Fact::Pass(seconds) => {
                    now += Duration::from_secs(seconds);
                    transfer.handle_timeout(now);
                }
            }
            while let Some(output) = transfer.poll_output() {
                prop_assert!(!is_over);
                verifying = output == TransferOutput::Verify;
                match output {
                    TransferOutput::Call { offset } => {
                        prop_assert!(offset == kept || offset == 0);
                        kept = offset;
                    }
                    TransferOutput::Verify => prop_assert_eq!(kept, size),
                    TransferOutput::Settled(outcome) => {
                        is_over = true;
                        if outcome == TransferOutcome::Whole {
                            prop_assert_eq!(kept, size);
                        }
                    }
                }
            }
            prop_assert_eq!(transfer.received(), kept);
            prop_assert_eq!(transfer.poll_timeout().is_none(), is_over || verifying);
        }
    }
}
