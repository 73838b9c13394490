//! When a server is ready whose daemon does not say so, and what a server that starts waits for

use std::time::Instant;

use super::Roster;
use super::slots::Slot;
use crate::id::InstanceId;
use crate::instance::State;
use crate::readiness::{Evidence, Eyes, Judge, Rule, Verdict};

/// What is known of the way to ready, as long as the start lasts
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Awaited {
    /// What the daemon says that is missing.
    told: String,
    /// Judges for a daemon that does not.
    judge: Option<Judge>,
    /// The instance was found starting: what it printed before, nobody has judged.
    is_late: bool,
}

impl Awaited {
    /// The instance is listed by a daemon that comes back.
    pub(super) fn found(&mut self) {
        self.is_late = true;
    }
}

impl Roster {
    /// An instance printed a line. Says what that shows, if it makes the server ready: that is judged here only for a daemon
    /// that does not [judge](crate::peer::DaemonPeer::judges_readiness) itself.
    pub fn handle_line(&mut self, now: Instant, instance: InstanceId, line: &str) -> Option<Evidence> {
        if self.peer().is_none_or(|peer| peer.judges_readiness) {
            return None;
        }
        let place = self.slots.place(instance);
        if place.orphan.is_some() {
            // Without incarnations, it may be the orphan's.
            return None;
        }
        let slot = self.slots.get_mut(place.entry?)?;
        let lifecycle = &slot.lifecycle;
        if !lifecycle.state().is_coming_up() || !lifecycle.is_dispatched() {
            return None;
        }
        let mut judge = slot.awaited.judge.take().unwrap_or_else(|| new_judge(slot));
        let before = judge.waiting();
        let verdict = judge.handle_line(line);
        slot.awaited.judge = Some(judge);
        match verdict {
            Verdict::Ready(evidence) => self.ready(now, instance).is_accepted().then_some(evidence),
            Verdict::Waiting(waiting) => {
                if waiting != before {
                    self.touch();
                }
                None
            }
        }
    }

    /// What a server that starts is still waiting for, for people; `None` if nothing can be said.
    #[must_use]
    pub fn waiting_for(&self, instance: InstanceId) -> Option<String> {
        let slot = self.slots.entry(instance)?;
        let peer = self
            .peer()
            .filter(|_| slot.lifecycle.state() == State::Starting)?;
        let awaited = &slot.awaited;
        if peer.judges_readiness {
            return Some(awaited.told.clone()).filter(|told| !told.is_empty());
        }
        let mut text = match &awaited.judge {
            Some(judge) => judge.waiting().to_string(),
            None => new_judge(slot).waiting().to_string(),
        };
        if awaited.is_late {
            text.push_str("; it may have printed its ready line before this controller listened");
        }
        Some(text)
    }

    /// Grows whenever an answer of [`waiting_for`](Self::waiting_for) may have changed.
    #[must_use]
    pub const fn waiting_changes(&self) -> u64 {
        self.waiting_changes
    }

    pub(super) fn touch(&mut self) {
        self.waiting_changes = self.waiting_changes.wrapping_add(1);
    }

    /// Takes note of what a daemon says that is missing.
    pub(super) fn note_waiting(&mut self, index: usize, text: &str) {
        if let Some(slot) = self.slots.get_mut(index)
            && slot.awaited.told != text
        {
            slot.awaited.told = text.to_owned();
            self.touch();
        }
    }
}

fn new_judge(slot: &Slot) -> Judge {
    // An instance that only the daemon knew of has no order here.
    let rule = slot.start.as_deref().map(Rule::of).unwrap_or_default();
    Judge::new(rule, slot.lifecycle.port(), Eyes::OnTheConsole)
}
