//! The daemon's own instances: what a command means for them, and what a new stream must hear about them
//!
//! The table survives streams. It answers a repeated command by pointing at what is already so, refuses commands of a
//! superseded incarnation, and remembers which news no controller has confirmed: an instance that ended while the
//! stream was down is reported with the next handshake, or the controller would take it for lost.
//!
//! Live instances are bounded by [`limits::INSTANCES_PER_NODE`]; of the ended ones the newest [`ENDED_KEPT`] are
//! remembered, to answer late duplicates.

use std::collections::{HashMap, VecDeque};

use prexorcloud_proto::RunningInstance;

use crate::id::{GroupName, Incarnation, InstanceId};
use crate::instance::{self, Input, State, Transition};
use crate::limits;
use crate::verdict::{DeniedReason, StopMode, Verdict};

/// How many ended instances are remembered.
pub const ENDED_KEPT: usize = 1_024;

/// An instance of this daemon
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostedInstance {
    /// Its id.
    pub instance: InstanceId,
    /// Its group.
    pub group: GroupName,
    /// Which start of the id this is.
    pub incarnation: Incarnation,
    /// The port it was given.
    pub port: u16,
    /// What is true of it.
    pub state: State,
}

/// Whether a controller has surely heard the current state
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    /// It changed while no session was established.
    Untold,
    /// It was told on the current stream, which may still lose it.
    Told,
    /// A controller acknowledged a handshake that listed it, and may die, or be deposed, before it has stored it.
    Acknowledged,
    /// Two such handshakes were acknowledged.
    Confirmed,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    facts: HostedInstance,
    stopping: Option<StopMode>,
    news: News,
}

/// The instances of one daemon
#[derive(Clone, Debug, Default)]
pub struct Hosted {
    entries: HashMap<InstanceId, Entry>,
    ended: VecDeque<(InstanceId, Incarnation)>,
}

/// What an observation changed
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observed {
    /// The state changed.
    Changed {
        /// The state before.
        from: State,
    },
    /// The state was known already.
    Unchanged,
    /// The observation is about an incarnation that is no longer hosted.
    Stale,
    /// The transition table forbids it.
    Illegal {
        /// The state that is kept.
        state: State,
    },
}

impl Hosted {
    /// An empty table.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The facts about one instance.
    #[must_use]
    pub fn get(&self, instance: InstanceId) -> Option<HostedInstance> {
        self.entries.get(&instance).map(|entry| entry.facts)
    }

    /// The instances that have not ended.
    pub fn live(&self) -> impl Iterator<Item = HostedInstance> + '_ {
        self.entries
            .values()
            .map(|entry| entry.facts)
            .filter(|facts| !facts.state.is_terminal())
    }

    /// Puts an instance into the table that this process did not start, as found after a restart of the daemon.
    pub fn adopt(&mut self, facts: HostedInstance) {
        self.insert(Entry {
            facts,
            stopping: None,
            news: News::Untold,
        });
    }

    /// Judges an order to start; an accepted one is entered as scheduled.
    pub fn start(
        &mut self,
        instance: InstanceId,
        group: GroupName,
        incarnation: Incarnation,
        port: u16,
    ) -> Verdict {
        if let Some(Entry { facts, .. }) = self.entries.get(&instance) {
            let (current, live) = (facts.incarnation, !facts.state.is_terminal());
            let comparable = current.is_known() && incarnation.is_known();
            if comparable && incarnation < current {
                return Verdict::Denied(DeniedReason::StaleIncarnation {
                    given: incarnation,
                    current,
                });
            }
            if comparable && incarnation == current || !comparable && live {
                return Verdict::AlreadyInEffect;
            }
            if live {
                return Verdict::Denied(DeniedReason::StillAlive { current });
            }
        }
        if self.live().count() >= limits::INSTANCES_PER_NODE {
            return Verdict::Denied(DeniedReason::TooMany {
                limit: limits::INSTANCES_PER_NODE,
            });
        }
        let facts = HostedInstance {
            instance,
            group,
            incarnation,
            port,
            state: State::Scheduled,
        };
        self.insert(Entry {
            facts,
            stopping: None,
            news: News::Untold,
        });
        Verdict::Accepted
    }

    /// Judges an order to stop. Force may follow grace; everything else that repeats is in effect already.
    pub fn stop(&mut self, instance: InstanceId, incarnation: Incarnation, mode: StopMode) -> Verdict {
        let entry = match self.current(instance, incarnation) {
            Ok(entry) => entry,
            Err(reason) => return Verdict::Denied(reason),
        };
        if entry.facts.state.is_terminal() || entry.stopping.is_some_and(|asked| asked >= mode) {
            return Verdict::AlreadyInEffect;
        }
        entry.stopping = Some(mode);
        Verdict::Accepted
    }

    /// Judges a console command.
    ///
    /// # Errors
    /// [`DeniedReason`] if the instance cannot take one.
    pub fn command(
        &mut self,
        instance: InstanceId,
        incarnation: Incarnation,
    ) -> Result<Incarnation, DeniedReason> {
        let facts = self.current(instance, incarnation)?.facts;
        match facts.state {
            State::Starting | State::Running | State::Draining | State::Stopping => Ok(facts.incarnation),
            state => Err(DeniedReason::WrongState { state }),
        }
    }

    /// The entry that a command is about.
    fn current(
        &mut self,
        instance: InstanceId,
        incarnation: Incarnation,
    ) -> Result<&mut Entry, DeniedReason> {
        let entry = self
            .entries
            .get_mut(&instance)
            .ok_or(DeniedReason::UnknownInstance)?;
        let current = entry.facts.incarnation;
        if !incarnation.is_known() || !current.is_known() || incarnation == current {
            Ok(entry)
        } else if incarnation < current {
            Err(DeniedReason::StaleIncarnation {
                given: incarnation,
                current,
            })
        } else {
            Err(DeniedReason::UnknownInstance)
        }
    }

    /// Enters what the supervisor saw.
    pub fn observe(&mut self, instance: InstanceId, incarnation: Incarnation, state: State) -> Observed {
        let Some(entry) = self
            .entries
            .get_mut(&instance)
            .filter(|entry| entry.facts.incarnation == incarnation)
        else {
            return Observed::Stale;
        };
        let from = entry.facts.state;
        match instance::transition(from, Input::Reported(state)) {
            Transition::To(to) => {
                entry.facts.state = to;
                entry.news = News::Untold;
                if to.is_terminal() {
                    self.remember_ended(instance, incarnation);
                }
                Observed::Changed { from }
            }
            Transition::Same => Observed::Unchanged,
            Transition::Illegal => Observed::Illegal { state: from },
        }
    }

    /// Forgets a start that failed before its process existed, so that a retry of the order is judged as a new one.
    pub(crate) fn withdraw(&mut self, instance: InstanceId, incarnation: Incarnation) {
        let is_that =
            |entry: &Entry| entry.facts.incarnation == incarnation && !entry.facts.state.is_terminal();
        if self.entries.get(&instance).is_some_and(is_that) {
            self.entries.remove(&instance);
        }
    }

    /// The current state was put on an established stream.
    pub(crate) fn told(&mut self, instance: InstanceId) {
        if let Some(entry) = self.entries.get_mut(&instance) {
            entry.news = News::Told;
        }
    }

    /// What a handshake must list: everything alive, and what ended without a controller surely knowing.
    pub(crate) fn running_instances(&self) -> Vec<RunningInstance> {
        let mut listed: Vec<_> = self
            .entries
            .values()
            .filter(|entry| !entry.facts.state.is_terminal() || entry.news != News::Confirmed)
            .map(|Entry { facts, .. }| RunningInstance {
                instance_id: facts.instance.into(),
                group: facts.group.into(),
                port: i32::from(facts.port),
                state: facts.state.to_wire(),
                incarnation: facts.incarnation.get(),
            })
            .collect();
        listed.sort_unstable_by(|a, b| a.instance_id.cmp(&b.instance_id));
        listed.truncate(limits::INSTANCES_PER_NODE);
        listed
    }

    /// A handshake that listed everything has been queued: its list is what the controller is going to believe.
    pub(crate) fn listed_in_handshake(&mut self) {
        for entry in self.entries.values_mut() {
            if entry.news == News::Untold {
                entry.news = News::Told;
            }
        }
    }

    /// A controller acknowledged the handshake that listed everything.
    ///
    /// What had ended by then is confirmed, if this is the second time that it is listed. What changed since the handshake is returned, to be reported now.
    pub(crate) fn handshake_acknowledged(&mut self) -> Vec<HostedInstance> {
        let mut changed = Vec::new();
        for entry in self.entries.values_mut() {
            match entry.news {
                News::Untold => {
                    entry.news = News::Told;
                    changed.push(entry.facts);
                }
                News::Told if entry.facts.state.is_terminal() => entry.news = News::Acknowledged,
                News::Acknowledged => entry.news = News::Confirmed,
                News::Told | News::Confirmed => {}
            }
        }
        changed.sort_unstable_by_key(|facts| facts.instance);
        changed
    }

    fn insert(&mut self, entry: Entry) {
        let HostedInstance {
            instance,
            incarnation,
            state,
            ..
        } = entry.facts;
        self.entries.insert(instance, entry);
        if state.is_terminal() {
            self.remember_ended(instance, incarnation);
        }
    }

    fn remember_ended(&mut self, instance: InstanceId, incarnation: Incarnation) {
        self.ended.push_back((instance, incarnation));
        while self.ended.len() > ENDED_KEPT {
            let Some((oldest, incarnation)) = self.ended.pop_front() else {
                break;
            };
            // The id may have been started again since; only that very incarnation is forgotten.
            let forget =
                |entry: &Entry| entry.facts.incarnation == incarnation && entry.facts.state.is_terminal();
            if self.entries.get(&oldest).is_some_and(forget) {
                self.entries.remove(&oldest);
            }
        }
    }
}
