//! What to do about the difference between belief and report
//!
//! At every handshake a daemon lists its instances. [`plan`] compares that list with what the controller
//! [knows](KnownInstance) and decides, for each of both, one [`Action`]. It is a pure function: it performs nothing, and
//! neither the order of its inputs nor anything outside of them matters.
//!
//! | KnownInstance here | Listed as alive | Not listed |
//! |---|---|---|
//! | not | [adopt](Action::Adopt), or [stop](Action::StopOrphan) if its group is gone or it runs elsewhere | - |
//! | wanted, same incarnation | [update](Action::Update) or [leave alone](Action::LeaveAlone) | `SCHEDULED`, `PREPARING`: [send the start again](Action::Redispatch). `STOPPING`: [ended](Action::MarkStopped). Otherwise [lost](Action::MarkLost) |
//! | to be stopped | [stop again](Action::StopAgain) | [ended](Action::MarkStopped) |
//! | ended | [stop](Action::StopOrphan); if the end was only assumed, [update](Action::Update) | [leave alone](Action::LeaveAlone) |
//! | wanted, later incarnation | [stop](Action::StopOrphan) the earlier one; the known one counts as not listed | |
//! | earlier incarnation | [adopt](Action::Adopt) the later one, the known one is superseded | |
//!
//! What a peer that lists instances in preparation does not list, it does not prepare: an unlisted `PREPARING` never
//! ran, and is sent again. A peer that does not (the Java daemon) may have launched it, and forgets everything when it
//! dies while its servers run on: there it is lost, because a second copy of a live server is worse than none.
//!
//! An id that is listed twice is judged by the latest incarnation, and within it by what lives; an unsafe id is ignored, as nothing could ever be
//! done about it, and so is an incarnation above [`Incarnation::MAX_LISTED`]: believing it would leave no room for the
//! next start of the id.
//!
//! # Properties
//! Checked by `tests/reconcile.rs`:
//! - `everything_is_covered_once`: every known instance and every listed entry belongs to exactly one action;
//! - `applying_the_plan_settles_it`: planning again after the plan was applied changes nothing more;
//! - `what_is_stopped_is_not_adopted`;
//! - `order_does_not_matter`.

use std::collections::{BTreeMap, BTreeSet};

use prexorcloud_proto::RunningInstance;

use crate::id::{GroupName, Incarnation, InstanceId};
use crate::instance::{Age, Desired, Input, Lifecycle, State, Transition, transition};
use crate::peer::DaemonPeer;

/// Which groups an unknown instance may belong to, to be adopted
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum GroupPolicy {
    /// Any.
    #[default]
    AdoptAny,
    /// These only; instances of other groups are stopped.
    Only(Vec<GroupName>),
}

/// What has to be known beside the two lists
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReconcilePolicy {
    /// Instances that this controller runs on other nodes.
    pub elsewhere: Vec<InstanceId>,
    /// Which groups exist.
    pub groups: GroupPolicy,
    /// What the daemon is taken to do.
    pub peer: DaemonPeer,
}

/// What the controller knows of an instance
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownInstance {
    /// The instance.
    pub instance: InstanceId,
    /// Which start of the id it knows.
    pub incarnation: Incarnation,
    /// The state it believes in.
    pub state: State,
    /// What was asked for.
    pub desired: Desired,
    /// A drain was asked for.
    pub draining: bool,
    /// The start is still at hand, to be sent again.
    pub can_dispatch: bool,
    /// It only counts as ended because nothing was heard of it.
    pub lost: bool,
}

impl KnownInstance {
    /// What a lifecycle knows.
    #[must_use]
    pub const fn of(lifecycle: &Lifecycle, can_dispatch: bool) -> Self {
        Self {
            instance: lifecycle.instance(),
            incarnation: lifecycle.incarnation(),
            state: lifecycle.state(),
            desired: lifecycle.desired(),
            draining: lifecycle.is_drain_requested(),
            can_dispatch,
            lost: lifecycle.is_lost(),
        }
    }
}

/// Why an instance that a daemon runs is not wanted there
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OrphanReason {
    /// It is not known here, and its group does not exist.
    UnknownGroup,
    /// It is not known here, and its group is no safe name.
    InvalidGroup,
    /// It runs on another node as well.
    OnAnotherNode,
    /// A later incarnation is wanted here.
    Superseded,
    /// It counts as ended here.
    Ended,
}

/// What is wrong with an entry that is ignored
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Ignored {
    /// Its id is no safe name.
    UnsafeId,
    /// The same id is listed with a later incarnation.
    Earlier,
    /// The same incarnation of an id is listed once more; what lives counts.
    Duplicate,
    /// It names an incarnation above [`Incarnation::MAX_LISTED`] that was never ordered here.
    Incarnation,
}

/// Why nothing needs to be done
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Rest {
    /// Belief and report agree, or the report adds nothing.
    Agreed,
    /// It has ended.
    Ended,
}

/// What to do about one instance
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Take over an instance that only the daemon knew.
    Adopt {
        /// The instance.
        instance: InstanceId,
        /// Its group.
        group: GroupName,
        /// Which start of the id it is.
        incarnation: Incarnation,
        /// The state to believe in.
        state: State,
        /// Its port; 0 if it does not say.
        port: u16,
        /// The earlier incarnation that was known, and is gone.
        supersedes: Option<Incarnation>,
    },
    /// Believe what is listed.
    Update {
        /// The instance.
        instance: InstanceId,
        /// The state to believe in.
        state: State,
        /// Its port; 0 if it does not say.
        port: u16,
    },
    /// Stop an instance that is not wanted on this node.
    StopOrphan {
        /// The instance.
        instance: InstanceId,
        /// The listed incarnation.
        incarnation: Incarnation,
        /// Its group, if that is a safe name.
        group: Option<GroupName>,
        /// The listed state; `RUNNING` if it does not say.
        state: State,
        /// Why.
        reason: OrphanReason,
        /// The known instance is the one to stop, so both are covered.
        is_known: bool,
    },
    /// Repeat a stop that has not had its effect.
    StopAgain {
        /// The instance.
        instance: InstanceId,
        /// The listed state, if it says one.
        state: Option<State>,
    },
    /// Believe that a known instance is gone, unexpectedly.
    MarkLost {
        /// The instance.
        instance: InstanceId,
    },
    /// Believe that a known instance is gone, as it was meant to be.
    MarkStopped {
        /// The instance.
        instance: InstanceId,
    },
    /// Send the start of a known instance again.
    Redispatch {
        /// The instance.
        instance: InstanceId,
    },
    /// Do nothing about an instance that is known, or listed, or both.
    LeaveAlone {
        /// The instance.
        instance: InstanceId,
        /// Why.
        rest: Rest,
        /// It is known here.
        is_known: bool,
        /// It is listed (and that entry is what was looked at).
        is_listed: bool,
    },
    /// Do nothing about an entry that makes no sense.
    Ignore {
        /// The position of the entry in the list.
        index: usize,
        /// What is wrong with it.
        problem: Ignored,
    },
}

impl Action {
    /// The instance it is about, if it has a safe name.
    #[must_use]
    pub const fn instance(&self) -> Option<InstanceId> {
        match self {
            Self::Adopt { instance, .. }
            | Self::Update { instance, .. }
            | Self::StopOrphan { instance, .. }
            | Self::StopAgain { instance, .. }
            | Self::MarkLost { instance }
            | Self::MarkStopped { instance }
            | Self::Redispatch { instance }
            | Self::LeaveAlone { instance, .. } => Some(*instance),
            Self::Ignore { .. } => None,
        }
    }

    /// Whether it decides about what the controller knows of the instance.
    #[must_use]
    pub const fn covers_known(&self) -> bool {
        match self {
            Self::Update { .. }
            | Self::StopAgain { .. }
            | Self::MarkLost { .. }
            | Self::MarkStopped { .. }
            | Self::Redispatch { .. } => true,
            Self::Adopt { supersedes, .. } => supersedes.is_some(),
            Self::StopOrphan { is_known, .. } | Self::LeaveAlone { is_known, .. } => *is_known,
            Self::Ignore { .. } => false,
        }
    }

    /// Whether it decides about an entry of the daemon's list.
    #[must_use]
    pub const fn covers_listed(&self) -> bool {
        match self {
            Self::Adopt { .. }
            | Self::Update { .. }
            | Self::StopOrphan { .. }
            | Self::StopAgain { .. }
            | Self::Ignore { .. } => true,
            Self::LeaveAlone { is_listed, .. } => *is_listed,
            Self::MarkLost { .. } | Self::MarkStopped { .. } | Self::Redispatch { .. } => false,
        }
    }
}

/// An entry of the daemon's list, with the parts that make sense
///
/// The order decides between two entries of one id: the latest incarnation, then what lives, then the latest state.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Listed {
    incarnation: Incarnation,
    is_alive: bool,
    state: Option<State>,
    port: u16,
    group: Option<GroupName>,
}

impl Listed {
    fn of(entry: &RunningInstance, policy: &ReconcilePolicy) -> Self {
        let incarnation = Incarnation::new(entry.incarnation);
        let state = State::try_from(entry.state).ok();
        Self {
            is_alive: state.is_none_or(|state| !state.is_terminal()),
            incarnation: if policy.peer.names_incarnations {
                incarnation
            } else {
                Incarnation::UNKNOWN
            },
            state,
            port: u16::try_from(entry.port).unwrap_or_default(),
            group: GroupName::new(&entry.group).ok(),
        }
    }
}

struct Planner<'a> {
    policy: &'a ReconcilePolicy,
    elsewhere: BTreeSet<InstanceId>,
    groups: Option<BTreeSet<GroupName>>,
    actions: Vec<Action>,
}

/// Decides what to do about every known and every listed instance.
#[must_use]
pub fn plan(known: &[KnownInstance], reported: &[RunningInstance], policy: &ReconcilePolicy) -> Vec<Action> {
    let mut planner = Planner {
        policy,
        elsewhere: policy.elsewhere.iter().copied().collect(),
        groups: match &policy.groups {
            GroupPolicy::AdoptAny => None,
            GroupPolicy::Only(groups) => Some(groups.iter().copied().collect()),
        },
        actions: Vec::with_capacity(known.len().max(reported.len())),
    };
    let mut subjects: BTreeMap<InstanceId, (Option<&KnownInstance>, Option<Listed>)> = BTreeMap::new();
    for known in known {
        subjects.entry(known.instance).or_default().0 = Some(known);
    }
    let mut chosen: BTreeMap<InstanceId, usize> = BTreeMap::new();
    let mut outdone: Vec<(InstanceId, usize, Listed)> = Vec::new();
    for (index, entry) in reported.iter().enumerate() {
        let Ok(instance) = InstanceId::new(&entry.instance_id) else {
            planner.actions.push(Action::Ignore {
                index,
                problem: Ignored::UnsafeId,
            });
            continue;
        };
        let listed = Listed::of(entry, policy);
        let subject = subjects.get(&instance).and_then(|(known, _)| *known);
        let highest = subject.map_or(Incarnation::MAX_LISTED, |known| {
            known.incarnation.max(Incarnation::MAX_LISTED)
        });
        if listed.incarnation > highest {
            planner.actions.push(Action::Ignore {
                index,
                problem: Ignored::Incarnation,
            });
            continue;
        }
        let slot = &mut subjects.entry(instance).or_default().1;
        let before = *slot;
        if before.is_none_or(|other| listed > other) {
            *slot = Some(listed);
            let left = chosen.insert(instance, index);
            outdone.extend(left.zip(before).map(|(index, other)| (instance, index, other)));
        } else {
            outdone.push((instance, index, listed));
        }
    }
    for (instance, index, listed) in outdone {
        let chosen = subjects.get(&instance).and_then(|(_, chosen)| *chosen);
        let problem = match chosen {
            Some(chosen) if chosen.incarnation == listed.incarnation => Ignored::Duplicate,
            _ => Ignored::Earlier,
        };
        planner.actions.push(Action::Ignore { index, problem });
    }
    for (instance, subject) in subjects {
        match subject {
            (Some(known), Some(listed)) => planner.both(known, listed),
            (Some(known), None) => planner.unlisted(known),
            (None, Some(listed)) => planner.unknown(instance, listed, None),
            (None, None) => {}
        }
    }
    planner.actions
}

impl Planner<'_> {
    fn both(&mut self, known: &KnownInstance, listed: Listed) {
        match Age::of(listed.incarnation, known.incarnation) {
            Age::Older => {
                if listed.is_alive {
                    self.stop_orphan(known.instance, listed, OrphanReason::Superseded, false);
                } else {
                    self.rest(known.instance, Rest::Ended, false, true);
                }
                self.unlisted(known);
            }
            Age::Newer => {
                if listed.is_alive {
                    self.unknown(known.instance, listed, Some(known));
                } else {
                    self.rest(known.instance, Rest::Ended, false, true);
                    self.superseded(known);
                }
            }
            Age::Current | Age::Unknown => self.same(known, listed),
        }
    }

    fn same(&mut self, known: &KnownInstance, listed: Listed) {
        let instance = known.instance;
        if known.state.is_terminal() {
            let taken_back = known.lost
                && known.state == State::Crashed
                && known.desired == Desired::Run
                && listed.state != Some(State::Scheduled)
                && !self.elsewhere.contains(&instance);
            if listed.is_alive && taken_back {
                self.actions.push(Action::Update {
                    instance,
                    state: self.believed(listed),
                    port: listed.port,
                });
            } else if listed.is_alive {
                self.stop_orphan(instance, listed, OrphanReason::Ended, false);
                self.rest(instance, Rest::Ended, true, false);
            } else {
                self.rest(instance, Rest::Ended, true, true);
            }
        } else if !listed.is_alive {
            let state = listed.state.unwrap_or(State::Stopped);
            self.actions.push(Action::Update {
                instance,
                state,
                port: listed.port,
            });
        } else if self.elsewhere.contains(&instance) {
            self.stop_orphan(instance, listed, OrphanReason::OnAnotherNode, true);
        } else if known.desired != Desired::Run {
            self.actions.push(Action::StopAgain {
                instance,
                state: listed.state,
            });
        } else {
            let news = listed.state.filter(|&state| {
                // A drain is our own wish: to the daemon the server runs.
                let drained = known.state == State::Draining && known.draining && state == State::Running;
                let transition = transition(known.state, Input::Reported(state));
                !drained && matches!(transition, Transition::To(_))
            });
            match news {
                Some(state) => self.actions.push(Action::Update {
                    instance,
                    state,
                    port: listed.port,
                }),
                None => self.rest(instance, Rest::Agreed, true, true),
            }
        }
    }

    /// The state of an instance about which nothing better is known than its entry.
    fn believed(&self, listed: Listed) -> State {
        match listed.state.unwrap_or(State::Running) {
            // Such a peer never says more than this of a running server.
            State::Starting if !self.policy.peer.judges_readiness => State::Running,
            state => state,
        }
    }

    /// A listed instance that is not known here, or only as an earlier incarnation.
    fn unknown(&mut self, instance: InstanceId, listed: Listed, earlier: Option<&KnownInstance>) {
        let reason = match listed.group {
            _ if !listed.is_alive => None,
            _ if self.elsewhere.contains(&instance) => Some(OrphanReason::OnAnotherNode),
            None => Some(OrphanReason::InvalidGroup),
            Some(group)
                if self
                    .groups
                    .as_ref()
                    .is_some_and(|groups| !groups.contains(&group)) =>
            {
                Some(OrphanReason::UnknownGroup)
            }
            Some(_) => None,
        };
        match (reason, listed.group) {
            (Some(reason), _) => {
                self.stop_orphan(instance, listed, reason, false);
                if let Some(known) = earlier {
                    self.superseded(known);
                }
            }
            (None, Some(group)) if listed.is_alive => {
                let state = self.believed(listed);
                let Listed {
                    incarnation, port, ..
                } = listed;
                let supersedes = earlier.map(|known| known.incarnation);
                self.actions.push(Action::Adopt {
                    instance,
                    group,
                    incarnation,
                    state,
                    port,
                    supersedes,
                });
            }
            (None, _) => self.rest(instance, Rest::Ended, false, true),
        }
    }

    /// A known instance whose id the daemon uses for a later incarnation.
    fn superseded(&mut self, known: &KnownInstance) {
        let instance = known.instance;
        if known.state.is_terminal() {
            self.rest(instance, Rest::Ended, true, false);
        } else if known.desired != Desired::Run || known.state == State::Stopping {
            self.actions.push(Action::MarkStopped { instance });
        } else {
            self.actions.push(Action::MarkLost { instance });
        }
    }

    /// A known instance that is not listed.
    fn unlisted(&mut self, known: &KnownInstance) {
        let instance = known.instance;
        let never_ran = match known.state {
            State::Scheduled => true,
            // What such a peer does not list it does not prepare; another one may be about to launch it.
            State::Preparing => self.policy.peer.lists_preparing,
            State::Starting
            | State::Running
            | State::Draining
            | State::Stopping
            | State::Stopped
            | State::Crashed => false,
        };
        if known.desired == Desired::Run && never_ran && known.can_dispatch {
            self.actions.push(Action::Redispatch { instance });
        } else {
            self.superseded(known);
        }
    }

    fn stop_orphan(&mut self, instance: InstanceId, listed: Listed, reason: OrphanReason, is_known: bool) {
        let Listed {
            incarnation,
            group,
            state,
            ..
        } = listed;
        let state = state.unwrap_or(State::Running);
        self.actions.push(Action::StopOrphan {
            instance,
            incarnation,
            group,
            state,
            reason,
            is_known,
        });
    }

    fn rest(&mut self, instance: InstanceId, rest: Rest, is_known: bool, is_listed: bool) {
        self.actions.push(Action::LeaveAlone {
            instance,
            rest,
            is_known,
            is_listed,
        });
    }
}
