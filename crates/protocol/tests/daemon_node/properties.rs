//! Random facts in any order, and what must hold all the same

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use prexorcloud_protocol::node::daemon::{Adopted, Attempt, DaemonWork, LaunchFailure, StopReason};
use prexorcloud_protocol::peer::ControllerPeer;
use prexorcloud_protocol::proto::StartFailureDisposition;
use prexorcloud_protocol::{Capabilities, Incarnation, InstanceId, StopMode};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

use crate::world::*;

const NAMES: [&str; 3] = ["a", "b", "c"];
const INCARNATIONS: u64 = 3;

#[derive(Clone, Debug)]
enum Fact {
    Start {
        name: usize,
        incarnation: u64,
        port: i32,
    },
    Stop {
        name: usize,
        incarnation: u64,
        mode: StopMode,
    },
    Shutdown,
    Connected {
        confirms: bool,
    },
    Disconnected,
    Heard {
        name: usize,
        incarnation: u64,
    },
    Confirmed {
        name: usize,
        incarnation: u64,
    },
    Prepared {
        attempt: prop::sample::Index,
    },
    PreparationFailed {
        attempt: prop::sample::Index,
    },
    Launched {
        attempt: prop::sample::Index,
    },
    LaunchFailed {
        attempt: prop::sample::Index,
    },
    Ready {
        name: usize,
        incarnation: u64,
    },
    Stopping {
        name: usize,
        incarnation: u64,
        reason: StopReason,
    },
    Exited {
        name: usize,
        incarnation: u64,
        code: i32,
        reason: Option<StopReason>,
    },
    StopFailed {
        name: usize,
        incarnation: u64,
    },
    Spooled {
        name: usize,
        incarnation: u64,
        is_written: bool,
    },
    Settled {
        name: usize,
        incarnation: u64,
    },
    Adopted {
        name: usize,
        incarnation: u64,
    },
    Pass {
        millis: u64,
    },
}

fn reason() -> impl Strategy<Value = StopReason> {
    prop_oneof![
        Just(StopReason::Requested),
        Just(StopReason::StartupTimeout),
        Just(StopReason::LifetimeOver)
    ]
}

fn fact() -> impl Strategy<Value = Fact> {
    let about = || (0..NAMES.len(), 0..INCARNATIONS);
    let mode = prop_oneof![Just(StopMode::Graceful), Just(StopMode::Force)];
    let attempt = any::<prop::sample::Index>;
    prop_oneof![
        4 => (about(), 30_000..30_003).prop_map(|((name, incarnation), port)| Fact::Start { name, incarnation, port }),
        3 => (about(), mode).prop_map(|((name, incarnation), mode)| Fact::Stop { name, incarnation, mode }),
        1 => prop_oneof![9 => any::<bool>().prop_map(|confirms| Fact::Connected { confirms }), 9 => Just(Fact::Disconnected), 1 => Just(Fact::Shutdown)],
        1 => about().prop_map(|(name, incarnation)| Fact::Confirmed { name, incarnation }),
        4 => attempt().prop_map(|attempt| Fact::Prepared { attempt }),
        1 => attempt().prop_map(|attempt| Fact::PreparationFailed { attempt }),
        4 => attempt().prop_map(|attempt| Fact::Launched { attempt }),
        1 => attempt().prop_map(|attempt| Fact::LaunchFailed { attempt }),
        2 => about().prop_map(|(name, incarnation)| Fact::Ready { name, incarnation }),
        2 => (about(), reason()).prop_map(|((name, incarnation), reason)| Fact::Stopping { name, incarnation, reason }),
        3 => (about(), 0..2, prop::option::of(reason()))
            .prop_map(|((name, incarnation), code, reason)| Fact::Exited { name, incarnation, code, reason }),
        1 => about().prop_map(|(name, incarnation)| Fact::StopFailed { name, incarnation }),
        3 => (about(), any::<bool>())
            .prop_map(|((name, incarnation), is_written)| Fact::Spooled { name, incarnation, is_written }),
        1 => about().prop_map(|(name, incarnation)| Fact::Settled { name, incarnation }),
        2 => about().prop_map(|(name, incarnation)| Fact::Heard { name, incarnation }),
        1 => about().prop_map(|(name, incarnation)| Fact::Adopted { name, incarnation }),
        2 => (0..3_000_u64).prop_map(|millis| Fact::Pass { millis }),
    ]
}

type Start = (InstanceId, Incarnation);

/// What has been seen, to be held against the invariants.
#[derive(Default)]
struct Seen {
    attempts: Vec<Attempt>,
    /// The current attempt of an id, until it is answered.
    unanswered: BTreeMap<InstanceId, Attempt>,
    launched: Vec<Attempt>,
    stops_owed: BTreeSet<Start>,
    /// Crashes whose report is being written.
    spooling: BTreeSet<Start>,
    /// Crashes whose report is written, or known not to be.
    tellable: BTreeSet<Start>,
    finished: bool,
}

impl Seen {
    fn take(&mut self, work: &Work) {
        assert!(!self.finished || !matches!(work, DaemonWork::Prepare { .. } | DaemonWork::Launch { .. }));
        match work {
            DaemonWork::Prepare { attempt, .. } => {
                self.attempts.push(*attempt);
                let former = self.unanswered.insert(attempt.instance(), *attempt);
                assert_eq!(former, None, "a_start_is_answered_before_the_next");
            }
            DaemonWork::CancelPreparation { attempt } => {
                let answered = self.unanswered.remove(&attempt.instance());
                assert_eq!(answered, Some(*attempt), "a_start_is_answered_once");
            }
            DaemonWork::AcceptStart {
                instance,
                incarnation,
                ..
            } => {
                let answered = self
                    .unanswered
                    .remove(instance)
                    .expect("a_start_is_answered_once");
                assert_eq!(answered.incarnation(), *incarnation);
                assert!(
                    self.launched.contains(&answered),
                    "nothing_is_accepted_unlaunched"
                );
            }
            DaemonWork::RejectStart {
                instance,
                incarnation,
                rejection,
            } => {
                let is_refusal = matches!(
                    &*rejection.error_code,
                    "INSTANCE_STILL_ALIVE" | "NODE_SHUTTING_DOWN" | "PORT_IN_USE" | "ID_NOT_FREE"
                );
                if is_refusal {
                    let current = self.unanswered.get(instance).map(Attempt::incarnation);
                    assert_ne!(
                        current,
                        Some(*incarnation),
                        "a_rejection_never_touches_what_is_up"
                    );
                } else {
                    let answered = self
                        .unanswered
                        .remove(instance)
                        .map(|attempt| attempt.incarnation());
                    assert_eq!(answered, Some(*incarnation), "a_start_is_answered_once");
                }
            }
            DaemonWork::Launch { attempt, .. } => {
                assert!(!self.launched.contains(attempt), "an_attempt_is_launched_once");
                assert_eq!(self.unanswered.get(&attempt.instance()), Some(attempt));
                self.launched.push(*attempt);
            }
            DaemonWork::AcknowledgeStop {
                instance,
                incarnation,
                ..
            } => assert!(
                self.stops_owed.remove(&(*instance, *incarnation)),
                "a_stop_is_answered_once"
            ),
            DaemonWork::Spool {
                instance,
                incarnation,
                ..
            } => {
                self.spooling.insert((*instance, *incarnation));
            }
            DaemonWork::TellCrash { report, .. } => {
                let start = (
                    report.instance_id.parse().unwrap(),
                    Incarnation::new(report.incarnation),
                );
                assert!(
                    self.tellable.remove(&start),
                    "no_crash_is_told_before_it_is_spooled"
                );
            }
            DaemonWork::Finish { .. } => {
                assert!(!self.finished, "a_node_finishes_once");
                assert!(self.unanswered.is_empty());
                self.finished = true;
            }
            _ => {}
        }
    }
}

fn apply(world: &mut World, seen: &mut Seen, fact: Fact) {
    let now = world.now();
    let start = |name: usize, incarnation: u64| (id(NAMES[name]), Incarnation::new(incarnation));
    let pick = |index: prop::sample::Index| (!seen.attempts.is_empty()).then(|| *index.get(&seen.attempts));
    let node = &mut world.node;
    let mut limit = 8;
    match fact {
        Fact::Start {
            name,
            incarnation,
            port,
        } => node.handle_start(now, order(NAMES[name], incarnation, port)),
        Fact::Stop {
            name,
            incarnation,
            mode,
        } => {
            let (instance, incarnation) = start(name, incarnation);
            seen.stops_owed.insert((instance, incarnation));
            node.handle_stop(now, instance, incarnation, mode);
        }
        Fact::Shutdown => {
            limit = 2 + 3 * NAMES.len();
            node.handle_shutdown(now, "bye".into());
        }
        Fact::Connected { confirms } => {
            let shared = if confirms {
                Capabilities::SESSION
            } else {
                Capabilities::NONE
            };
            node.handle_connected(now, ControllerPeer::of(shared));
        }
        Fact::Heard { name, incarnation } => {
            let (instance, incarnation) = start(name, incarnation);
            node.handle_end_heard(instance, incarnation);
        }
        Fact::Disconnected => node.handle_disconnected(),
        Fact::Confirmed { name, incarnation } => {
            node.handle_crash_confirmed(now, format!("report-{}-{incarnation}", NAMES[name]));
        }
        Fact::Prepared { attempt } => {
            if let Some(attempt) = pick(attempt) {
                node.handle_prepared(now, attempt, prepared(30_000));
            }
        }
        Fact::PreparationFailed { attempt } => {
            if let Some(attempt) = pick(attempt) {
                node.handle_preparation_failed(now, attempt, rejection());
            }
        }
        Fact::Launched { attempt } => {
            if let Some(attempt) = pick(attempt) {
                node.handle_launched(now, attempt);
            }
        }
        Fact::LaunchFailed { attempt } => {
            if let Some(attempt) = pick(attempt) {
                launch_fails(world, attempt);
            }
        }
        Fact::Ready { name, incarnation } => {
            let (instance, incarnation) = start(name, incarnation);
            node.handle_ready(now, instance, incarnation);
        }
        Fact::Stopping {
            name,
            incarnation,
            reason,
        } => {
            let (instance, incarnation) = start(name, incarnation);
            node.handle_stopping(now, instance, incarnation, reason);
        }
        Fact::Exited {
            name,
            incarnation,
            code,
            reason,
        } => node.handle_exited(now, exit(NAMES[name], incarnation, code, reason)),
        Fact::StopFailed { name, incarnation } => {
            let (instance, incarnation) = start(name, incarnation);
            node.handle_stop_failed(now, instance, incarnation);
        }
        Fact::Spooled {
            name,
            incarnation,
            is_written,
        } => {
            let (instance, incarnation) = start(name, incarnation);
            if seen.spooling.remove(&(instance, incarnation)) {
                seen.tellable.insert((instance, incarnation));
            }
            if is_written {
                node.handle_spooled(now, instance, incarnation);
            } else {
                node.handle_spool_failed(now, instance, incarnation);
            }
        }
        Fact::Settled { name, incarnation } => {
            let (instance, incarnation) = start(name, incarnation);
            node.handle_settled(now, instance, incarnation);
        }
        Fact::Adopted { name, incarnation } => {
            let (instance, incarnation) = start(name, incarnation);
            let adopted = Adopted {
                instance,
                incarnation,
                port: 30_001,
                grace: Duration::from_secs(30),
                startup_timeout: Duration::from_secs(60),
                uptime: Duration::from_secs(1),
                is_ready: incarnation.get() == 1,
                is_stopping: incarnation.get() == 2,
            };
            node.adopt(now, &adopted);
        }
        Fact::Pass { millis } => {
            world.pass(Duration::from_millis(millis));
            let now = world.now();
            let deadline = world.node.poll_timeout();
            assert!(
                deadline.is_none_or(|deadline| deadline.at > now),
                "no_deadline_is_in_the_past"
            );
        }
    }
    let work = world.drain();
    assert!(work.len() <= limit, "work_is_bounded: {work:?}");
    work.iter().for_each(|work| seen.take(work));
}

fn launch_fails(world: &mut World, attempt: Attempt) {
    let failure = LaunchFailure {
        message: "no".into(),
        disposition: StartFailureDisposition::Transient,
    };
    let now = world.now();
    world.node.handle_launch_failed(now, attempt, failure);
}

/// Brings everything to its end, so that what was owed must have been given.
fn wind_down(world: &mut World, seen: &mut Seen) {
    // Starts that wait for their id wait no longer.
    apply(world, seen, Fact::Pass { millis: 3_000 });
    for attempt in seen.attempts.clone() {
        let now = world.now();
        world.node.handle_preparation_failed(now, attempt, rejection());
        launch_fails(world, attempt);
    }
    world.drain().iter().for_each(|work| seen.take(work));
    for name in 0..NAMES.len() {
        for incarnation in 0..INCARNATIONS {
            let exited = Fact::Exited {
                name,
                incarnation,
                code: 1,
                reason: None,
            };
            apply(world, seen, exited);
            let spooled = Fact::Spooled {
                name,
                incarnation,
                is_written: true,
            };
            apply(world, seen, spooled);
        }
    }
    assert_eq!(world.node.running(), 0);
    assert!(seen.unanswered.is_empty(), "every_start_is_answered");
    assert!(seen.stops_owed.is_empty(), "every_stop_is_answered");
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(
            "proptest-regressions/daemon_node.txt",
        ))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn facts_in_any_order_break_no_invariant(facts in prop::collection::vec(fact(), 1..120)) {
        let mut world = World::new();
        let mut seen = Seen::default();
        for fact in facts {
            apply(&mut world, &mut seen, fact);
        }
        wind_down(&mut world, &mut seen);
    }
}
