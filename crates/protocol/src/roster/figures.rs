//! What a daemon's own figures say: how many servers run, and which ports they use
//!
//! A daemon that does not carry out a stop may say nothing about it for ever, but its load report goes on counting the
//! server. So silence about a stop is no end as long as the figures say otherwise, and a port that they name is given to
//! nobody. What the daemon reports as ended is taken out of them at once; the next report may be half a minute away.

use std::collections::BTreeSet;
use std::time::Instant;

use prexorcloud_proto::NodeStatus;

use super::Roster;
use crate::instance::{Cause, Lifecycle, Report, State};
use crate::limits;

/// In how many load reports in a row a server is not counted that has ended: one may be written while it is launched.
const UNCOUNTED: u8 = 2;

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Figures {
    running: usize,
    ports: BTreeSet<u16>,
}

impl Figures {
    fn of(status: &NodeStatus) -> Self {
        let ports = status
            .used_ports
            .iter()
            .filter_map(|&port| u16::try_from(port).ok());
        Self {
            running: usize::try_from(status.instance_count).unwrap_or_default(),
            ports: ports.take(limits::INSTANCES_PER_NODE).collect(),
        }
    }

    /// The daemon says of a server that it lives.
    pub(super) fn note_life(&mut self, port: u16) {
        if port != 0 && self.ports.len() < limits::INSTANCES_PER_NODE && self.ports.insert(port) {
            self.running += 1;
        }
    }

    /// The daemon says of a server that it has ended.
    pub(super) fn note_end(&mut self, port: u16) {
        self.running = self.running.saturating_sub(1);
        self.ports.remove(&port);
    }
}

impl Roster {
    /// The daemon says what load it has
    ///
    /// What was given up and is counted is stopped after all, or taken back. Of a daemon that [says nothing] between its
    /// handshake and the acknowledgement, what it has shown on this stream and does not count twice in a row has ended.
    ///
    /// [says nothing]: crate::peer::DaemonPeer::is_mute_until_acknowledged
    pub fn handle_figures(&mut self, now: Instant, status: &NodeStatus) {
        let Some(peer) = self.peer() else { return };
        self.figures = Some(Figures::of(status));
        for index in self.slots.entry_indices() {
            let Some(known) = self.slots.get(index).map(|slot| &slot.lifecycle) else {
                continue;
            };
            let is_counted = self.says_it_lives(known);
            let is_back = known.is_lost() && is_counted && !self.is_held_by_another(known);
            let Some(slot) = self.slots.get_mut(index) else {
                continue;
            };
            let lifecycle = &mut slot.lifecycle;
            if is_back && lifecycle.desired().stop_mode().is_some() {
                lifecycle.stop_after_all(now);
            } else if is_back && peer.is_mute_until_acknowledged() {
                let _ = lifecycle.handle_report(now, Report::of(State::Running));
            } else if let Some(uncounted) = &mut slot.uncounted
                && peer.is_mute_until_acknowledged()
            {
                let is_missing = !is_counted && lifecycle.has_process() && lifecycle.port() != 0;
                *uncounted = if is_missing {
                    uncounted.saturating_add(1)
                } else {
                    0
                };
                if *uncounted >= UNCOUNTED {
                    Self::end_unheard(lifecycle, now);
                }
            }
            self.pump(now, index);
        }
    }

    /// Nobody has heard the end of it.
    fn end_unheard(lifecycle: &mut Lifecycle, now: Instant) {
        if lifecycle.state() == State::Stopping {
            lifecycle.handle_gone(now, Cause::Reconciled);
        } else {
            lifecycle.handle_lost(now, Cause::Reconciled);
        }
    }

    /// Whether something else that lives has the port of this instance.
    fn is_held_by_another(&self, known: &Lifecycle) -> bool {
        let mut others = self.entries().chain(self.orphans());
        known.port() == 0 || others.any(|other| !other.is_terminal() && other.port() == known.port())
    }

    /// The ports that the daemon's own figures say are used.
    pub fn used_ports(&self) -> impl Iterator<Item = u16> + '_ {
        self.figures
            .iter()
            .flat_map(|figures| figures.ports.iter().copied())
    }

    /// Ports of instances that count as ended only because their daemon did not list them, where that may mean that the
    /// daemon [has lost them](crate::peer::DaemonPeer::finds_its_servers), and not that they are gone.
    pub fn doubtful_ports(&self) -> impl Iterator<Item = u16> + '_ {
        self.entries()
            .filter(|entry| entry.is_lost() && !entry.peer().finds_its_servers)
            .map(Lifecycle::port)
            .filter(|port| *port != 0)
    }

    /// Whether the daemon's own figures count this instance among those that run.
    pub(super) fn says_it_lives(&self, lifecycle: &Lifecycle) -> bool {
        let Some(figures) = &self.figures else {
            return false;
        };
        if lifecycle.port() != 0 {
            return figures.ports.contains(&lifecycle.port());
        }
        let is_other = |other: &&Lifecycle| {
            let is_it =
                other.instance() == lifecycle.instance() && other.incarnation() == lifecycle.incarnation();
            !other.is_terminal() && !is_it
        };
        let others = self.entries().chain(self.orphans()).filter(is_other).count();
        figures.running > others
    }
}
