//! The daemon's own instances: what a command means for them, and what a new stream must hear about them
//!
//! The table survives streams. It answers a repeated command by pointing at what is already so, refuses commands of a
//! superseded incarnation, and remembers which news no controller has confirmed: an instance that ended while the
//! stream was down is reported with the next handshake, or the controller would take it for lost.
//!
//! What has ended has a list of its own in the handshake, since a Java controller takes everything for running that stands
//! in the list of what lives. A controller that does not
//! [understand ended instances](crate::peer::ControllerPeer::understands_ended) is told the ends right after its
//! acknowledgement, each until it has left on a stream; later it may have given the id to another node, so nothing is
//! repeated.
//!
//! A start takes the place of the former end of its id. Until it has a process it may come to nothing, and then the end is
//! the last truth about the id again: it stands aside until then.
//!
//! Live instances are bounded by [`limits::INSTANCES_PER_NODE`]; of the ended ones the newest [`ENDED_KEPT`] are
//! remembered, to answer late duplicates.

use std::cmp::Reverse;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use prexorcloud_proto::{InstanceStatusUpdate, RunningInstance};

use crate::id::{GroupName, Incarnation, InstanceId};
use crate::instance::{self, Input, State, Transition};
use crate::limits;
use crate::session::daemon::StatusReport;
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
    /// Two such handshakes were acknowledged, or it has left on a stream to a controller that lists do not help.
    Confirmed,
}

impl News {
    /// A handshake does not list it: what no controller has surely heard is to be told.
    fn was_left_out(&mut self) {
        if *self != Self::Confirmed {
            *self = Self::Untold;
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    facts: HostedInstance,
    /// As last reported.
    player_count: u32,
    /// As last reported.
    uptime: Duration,
    stopping: Option<StopMode>,
    news: News,
    /// Which end of the table's life its own was; 0 before it.
    end: u64,
}

impl Entry {
    const fn new(facts: HostedInstance) -> Self {
        Self {
            facts,
            player_count: 0,
            uptime: Duration::ZERO,
            stopping: None,
            news: News::Untold,
            end: 0,
        }
    }

    const fn is_live(&self) -> bool {
        !self.facts.state.is_terminal()
    }
}

/// What a handshake lists
#[derive(Clone, Debug, Default)]
pub(crate) struct Listed {
    pub(crate) live: Vec<RunningInstance>,
    pub(crate) ended: Vec<RunningInstance>,
}

/// The instances of one daemon
#[derive(Clone, Debug, Default)]
pub struct Hosted {
    entries: HashMap<InstanceId, Entry>,
    /// The former ends of ids whose start has no process yet; each beside an entry that is scheduled or preparing.
    aside: HashMap<InstanceId, Entry>,
    ended: VecDeque<(InstanceId, u64)>,
    /// How many ends there have been.
    ends: u64,
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
            .filter(|entry| entry.is_live())
            .map(|entry| entry.facts)
    }

    /// Puts an instance into the table that this process did not start, as found after a restart of the daemon.
    ///
    /// # Errors
    /// [`DeniedReason::TooMany`] if as many live already as a node may have. The instance is not in the table then, so
    /// no controller hears of it: tell the operator.
    pub fn adopt(&mut self, facts: HostedInstance) -> Result<(), DeniedReason> {
        let replaces = self.entries.get(&facts.instance).is_some_and(Entry::is_live);
        if !facts.state.is_terminal() && !replaces && self.is_full() {
            return Err(DeniedReason::TooMany {
                limit: limits::INSTANCES_PER_NODE,
            });
        }
        let _ = self.insert(facts);
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.entries.len() >= limits::INSTANCES_PER_NODE && self.live().count() >= limits::INSTANCES_PER_NODE
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
        if self.is_full() {
            return Verdict::Denied(DeniedReason::TooMany {
                limit: limits::INSTANCES_PER_NODE,
            });
        }
        let former = self.insert(HostedInstance {
            instance,
            group,
            incarnation,
            port,
            state: State::Scheduled,
        });
        if let Some(former) = former {
            self.aside.insert(instance, former);
        }
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

    /// A stop could not be carried out: the next one is new again.
    pub fn stop_refused(&mut self, instance: InstanceId, incarnation: Incarnation) {
        if let Ok(entry) = self.current(instance, incarnation) {
            entry.stopping = None;
        }
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
                if !to.is_before_process() {
                    self.aside.remove(&instance);
                }
                if to.is_terminal() {
                    self.remember_ended(instance);
                }
                Observed::Changed { from }
            }
            Transition::Same => Observed::Unchanged,
            Transition::Illegal => Observed::Illegal { state: from },
        }
    }

    /// Forgets a start that failed before its process existed, so that a retry of the order is judged as a new one. The
    /// former end of the id is remembered again.
    pub(crate) fn withdraw(&mut self, instance: InstanceId, incarnation: Incarnation) {
        let is_that =
            |entry: &Entry| entry.facts.incarnation == incarnation && !entry.facts.state.is_terminal();
        if self.entries.get(&instance).is_some_and(is_that) {
            self.entries.remove(&instance);
            if let Some(former) = self.aside.remove(&instance) {
                self.entries.insert(instance, former);
            }
        }
    }

    /// Keeps the figures of a report, for when the status must be told again.
    pub(crate) fn measured(&mut self, instance: InstanceId, player_count: u32, uptime: Duration) {
        if let Some(entry) = self.entries.get_mut(&instance) {
            entry.player_count = player_count;
            entry.uptime = uptime;
        }
    }

    /// What was last reported of an instance.
    pub(crate) fn last_report(&self, instance: InstanceId) -> Option<StatusReport> {
        self.entries.get(&instance).map(|entry| StatusReport {
            instance,
            incarnation: entry.facts.incarnation,
            state: entry.facts.state,
            player_count: entry.player_count,
            uptime: entry.uptime,
        })
    }

    /// The current state of what lives is to be told once more; says whether there is anything to tell.
    pub(crate) fn tell_again(&mut self, instance: InstanceId) -> bool {
        match self.entries.get_mut(&instance) {
            Some(entry) if entry.is_live() && entry.news == News::Told => {
                entry.news = News::Untold;
                true
            }
            _ => false,
        }
    }

    /// The current state was put on an established stream.
    pub(crate) fn told(&mut self, instance: InstanceId) {
        if let Some(entry) = self.entries.get_mut(&instance) {
            entry.news = News::Told;
        }
    }

    /// Whether the current state is still to be told.
    pub(crate) fn is_untold(&self, instance: InstanceId) -> bool {
        self.entries
            .get(&instance)
            .is_some_and(|entry| entry.news == News::Untold)
    }

    /// The lists for a handshake that is queued now: what lives, and what ended without a controller surely knowing, the
    /// newest end first. Neither outgrows its bound in the contract: fewer are remembered.
    pub(crate) fn list(&mut self) -> Listed {
        for former in self.aside.values_mut() {
            former.news.was_left_out();
        }
        let mut entries: Vec<_> = self
            .entries
            .values_mut()
            .filter(|entry| entry.is_live() || entry.news != News::Confirmed)
            .collect();
        entries.sort_unstable_by_key(|entry| (!entry.is_live(), Reverse(entry.end), entry.facts.instance));
        let mut listed = Listed::default();
        for entry in entries {
            let list = if entry.is_live() {
                &mut listed.live
            } else {
                &mut listed.ended
            };
            if entry.news == News::Untold {
                entry.news = News::Told;
            }
            let facts = entry.facts;
            list.push(RunningInstance {
                instance_id: facts.instance.into(),
                group: facts.group.into(),
                port: i32::from(facts.port),
                state: facts.state.to_wire(),
                incarnation: facts.incarnation.get(),
            });
        }
        listed
    }

    /// A controller acknowledged the handshake with the newest list; gives what is to be told now, in order, and the
    /// ends that were told before: those that were listed, and those that are not told again.
    ///
    /// To be told is what has changed since. A controller that does not understand a listed end has
    /// not read that list: it is told every end that it may not know.
    ///
    /// For one that understands it, what had ended is confirmed if this is the second time that it is listed.
    pub(crate) fn acknowledged(
        &mut self,
        understands_ended: bool,
    ) -> (Vec<InstanceId>, Vec<(InstanceId, Incarnation)>) {
        let (mut to_tell, mut heard) = (Vec::new(), Vec::new());
        for entry in self.entries.values_mut() {
            if !understands_ended && !entry.is_live() && entry.news != News::Confirmed {
                entry.news = News::Untold;
            }
            if !entry.is_live() && entry.news != News::Untold {
                heard.push((entry.facts.instance, entry.facts.incarnation));
            }
            match entry.news {
                News::Untold => to_tell.push(entry.facts.instance),
                News::Told if !entry.is_live() => entry.news = News::Acknowledged,
                News::Acknowledged => entry.news = News::Confirmed,
                News::Told | News::Confirmed => {}
            }
        }
        // What stands aside is told when the start before it comes to nothing, unless it needs no telling.
        let aside = self
            .aside
            .values()
            .filter(|former| former.news == News::Confirmed);
        heard.extend(aside.map(|former| (former.facts.instance, former.facts.incarnation)));
        to_tell.sort_unstable();
        heard.sort_unstable();
        (to_tell, heard)
    }

    /// A status has left on a stream, to a controller to which ends are not listed.
    pub(crate) fn status_left(&mut self, update: &InstanceStatusUpdate) {
        let Ok(instance) = InstanceId::new(&update.instance_id) else {
            return;
        };
        let entries = [self.entries.get_mut(&instance), self.aside.get_mut(&instance)];
        let is_that = |entry: &&mut Entry| {
            !entry.is_live()
                && entry.news == News::Told
                && entry.facts.incarnation.get() == update.incarnation
                && entry.facts.state.to_wire() == update.state
        };
        for entry in entries.into_iter().flatten().filter(is_that) {
            entry.news = News::Confirmed;
        }
    }

    /// Enters it, and gives what it replaces.
    fn insert(&mut self, facts: HostedInstance) -> Option<Entry> {
        self.aside.remove(&facts.instance);
        let former = self.entries.insert(facts.instance, Entry::new(facts));
        if facts.state.is_terminal() {
            self.remember_ended(facts.instance);
        }
        former
    }

    fn remember_ended(&mut self, instance: InstanceId) {
        self.ends = self.ends.saturating_add(1);
        if let Some(entry) = self.entries.get_mut(&instance) {
            entry.end = self.ends;
        }
        self.ended.push_back((instance, self.ends));
        while self.ended.len() > ENDED_KEPT {
            let Some((oldest, end)) = self.ended.pop_front() else {
                break;
            };
            // The id may be in use again, or have ended again; only that very end is forgotten.
            for entries in [&mut self.entries, &mut self.aside] {
                if entries.get(&oldest).is_some_and(|entry| entry.end == end) {
                    entries.remove(&oldest);
                }
            }
        }
    }
}
