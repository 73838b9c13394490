//! A roster, an application that follows its events, and what must hold between them

use std::collections::BTreeMap;
use std::time::Instant;

use prexorcloud_protocol::instance::{Cause, Desired, Lifecycle, State};
use prexorcloud_protocol::proto::{
    InstanceStatusUpdate, RunningInstance, StartFailureDisposition, StopInstanceAck,
};
use prexorcloud_protocol::roster::{CrashVerdict, Dispatch, InstanceEvent, Roster};
use prexorcloud_protocol::roster::{GroupPolicy, ReconcilePolicy};
use prexorcloud_protocol::{DeniedReason, Incarnation, InstanceId, Verdict};
use proptest::prelude::*;

use crate::actions::Action;
use crate::{crash, id, java_peer, listed, rust_peer, short_lived, start_failed, status, stopped};

/// What an application knows that does nothing but follow the events.
#[derive(Default)]
pub(crate) struct Follower {
    known: BTreeMap<InstanceId, (Incarnation, State)>,
    ended: BTreeMap<(InstanceId, Incarnation), State>,
}

impl Follower {
    pub(crate) fn follow(&mut self, roster: &mut Roster) -> Result<(), TestCaseError> {
        while let Some(event) = roster.poll_event() {
            match event {
                InstanceEvent::Changed {
                    instance,
                    incarnation,
                    from,
                    to,
                    cause,
                    ..
                } => {
                    let known = self.known.get_mut(&instance);
                    prop_assert!(known.is_some(), "{instance} changed and is not known");
                    let known = known.unwrap();
                    prop_assert_eq!(*known, (incarnation, from), "events_tell_the_whole_story");
                    let taken_back = cause == Cause::TakenBack;
                    prop_assert!(!from.is_terminal() || taken_back, "terminal_is_final");
                    if taken_back {
                        self.ended.remove(&(instance, incarnation));
                    }
                    known.1 = to;
                    if to.is_terminal() {
                        let again = self.ended.insert((instance, incarnation), to);
                        prop_assert!(
                            again.is_none() || !incarnation.is_known(),
                            "terminal_is_final: {instance} {incarnation}"
                        );
                    }
                }
                InstanceEvent::Adopted {
                    instance,
                    incarnation,
                    state,
                    ..
                } => {
                    if let Some((earlier, was)) = self.known.insert(instance, (incarnation, state)) {
                        prop_assert!(was.is_terminal(), "adopted over a live one");
                        prop_assert!(incarnation > earlier, "incarnations_only_rise");
                    }
                }
                _ => {}
            }
        }
        let entries: BTreeMap<_, _> = roster
            .entries()
            .map(|known| (known.instance(), (known.incarnation(), known.state())))
            .collect();
        prop_assert_eq!(&entries, &self.known, "events_tell_the_whole_story");
        Ok(())
    }
}

pub(crate) struct World {
    pub(crate) now: Instant,
    pub(crate) roster: Roster,
    pub(crate) follower: Follower,
    /// Starts that have left and were neither answered nor overtaken.
    pub(crate) live: BTreeMap<String, u64>,
    pub(crate) connected: bool,
    /// The peer is one that does not report everything.
    pub(crate) java: bool,
}

impl World {
    fn incarnation(&self, name: &str, behind: Option<u64>) -> u64 {
        let current = self
            .roster
            .get(id(name))
            .map_or(3, |known| known.incarnation().get());
        match behind {
            None => 0,
            // So far behind that it is ahead.
            Some(u64::MAX) => current + 1,
            Some(behind) => current.saturating_sub(behind),
        }
    }

    fn handshake(&mut self, reported: &[RunningInstance], policy: &ReconcilePolicy) {
        self.roster.handle_handshake(self.now, reported, policy);
        self.live.clear();
        self.connected = true;
        self.java = !policy.peer.names_incarnations;
    }

    fn fire(&mut self) -> Result<(), TestCaseError> {
        let before = self.roster.poll_timeout();
        if let Some(deadline) = before.filter(|deadline| deadline.at > self.now) {
            let state = self.roster.clone();
            self.roster.handle_timeout(self.now);
            prop_assert!(self.roster == state, "earliest_deadline_is_exact: {:?}", deadline);
        } else if let Some(deadline) = before {
            let state = self.roster.clone();
            self.roster.handle_timeout(self.now);
            prop_assert!(self.roster != state, "earliest_deadline_is_exact: {:?}", deadline);
            self.live.clear();
        }
        let later = self
            .roster
            .poll_timeout()
            .is_none_or(|deadline| deadline.at > self.now);
        prop_assert!(later, "no_deadline_in_the_past_after_timeout");
        Ok(())
    }

    pub(crate) fn send(&mut self) -> Result<(), TestCaseError> {
        while let Some(dispatch) = self.roster.poll_dispatch() {
            prop_assert!(self.connected, "nothing_leaves_while_disconnected");
            match dispatch {
                Dispatch::Start(start) => {
                    let known = self.roster.get(id(&start.instance_id)).unwrap();
                    prop_assert_eq!(start.incarnation, known.incarnation().get());
                    prop_assert!(known.desired() == Desired::Run && known.state().is_coming_up());
                    let orphan = self
                        .roster
                        .orphans()
                        .any(|orphan| orphan.instance() == known.instance());
                    prop_assert!(!orphan, "a start waits for its orphan");
                    let twice = self.live.insert(start.instance_id.clone(), start.incarnation);
                    prop_assert!(twice.is_none(), "at_most_one_live_attempt");
                }
                Dispatch::Stop(stop) => {
                    let meant = |known: &Lifecycle| {
                        known.instance().as_str() == stop.instance_id
                            && known.incarnation().get() == stop.incarnation
                            && known.desired() != Desired::Run
                    };
                    let found = self.roster.entries().any(meant) || self.roster.orphans().any(meant);
                    prop_assert!(found, "{stop:?} stops what nobody wants stopped");
                }
            }
        }
        Ok(())
    }

    pub(crate) fn step(&mut self, action: Action) -> Result<(), TestCaseError> {
        let now = self.now;
        if let Action::Start { .. } | Action::Restart { .. } | Action::Forget { .. } = action {
            // Whoever adds or removes something itself should know what there is.
            self.follower.follow(&mut self.roster)?;
        }
        match action {
            Action::Pass(delay) => self.now += delay,
            Action::Fire(late) => {
                if let Some(deadline) = self.roster.poll_timeout() {
                    self.now = now.max(deadline.at) + late;
                }
                self.fire()?;
            }
            Action::FireNow => self.fire()?,
            Action::Handshake {
                java,
                reported,
                elsewhere,
                only_lobby,
            } => {
                let policy = ReconcilePolicy {
                    elsewhere: if elsewhere { vec![id("b")] } else { vec![] },
                    groups: if only_lobby {
                        GroupPolicy::Only(vec!["lobby".parse().unwrap()])
                    } else {
                        GroupPolicy::AdoptAny
                    },
                    peer: if java { java_peer().peer } else { rust_peer().peer },
                };
                self.handshake(&reported, &policy);
            }
            Action::Agree { java } => {
                let alive = self.roster.entries().filter(|known| !known.is_terminal());
                let reported: Vec<_> = alive
                    .filter(|known| known.is_dispatched())
                    .map(|known| {
                        listed(
                            known.instance().as_str(),
                            known.incarnation().get(),
                            known.state(),
                        )
                    })
                    .collect();
                self.handshake(&reported, &if java { java_peer() } else { rust_peer() });
            }
            Action::Silence => self.roster.handle_silence(),
            Action::Heard => self.roster.handle_heard(now),
            Action::Disconnect => {
                self.roster.handle_disconnected(now);
                self.live.clear();
                self.connected = false;
            }
            Action::Start { name, higher } => {
                let current = self
                    .roster
                    .get(id(name))
                    .map_or(0, |known| known.incarnation().get());
                let incarnation = (current + higher).max(1);
                if self.roster.start(now, short_lived(name, incarnation)) == Verdict::Accepted {
                    prop_assert!(incarnation > current, "incarnations_only_rise");
                    self.live.remove(name);
                    self.follower
                        .known
                        .insert(id(name), (Incarnation::new(incarnation), State::Scheduled));
                }
            }
            Action::Restart { name, incarnation } => {
                if let Verdict::Denied(DeniedReason::StaleIncarnation { current, .. }) =
                    self.roster.start(now, short_lived(name, incarnation.max(1)))
                {
                    prop_assert!(current.get() >= incarnation);
                } else if let Some(known) = self.roster.get(id(name)) {
                    let incarnation = known.incarnation();
                    if self
                        .follower
                        .known
                        .get(&id(name))
                        .is_none_or(|(was, _)| *was != incarnation)
                    {
                        self.live.remove(name);
                        self.follower
                            .known
                            .insert(id(name), (incarnation, State::Scheduled));
                    }
                }
            }
            Action::Stop { name, mode } => {
                if self.roster.stop(now, id(name), mode) == Verdict::Accepted {
                    self.live.remove(name);
                }
            }
            Action::Drain { name } => drop(self.roster.drain(now, id(name))),
            Action::Undrain { name } => drop(self.roster.undrain(now, id(name))),
            Action::Forget { name } => {
                if self.roster.forget(id(name)) == Verdict::Accepted {
                    self.follower.known.remove(&id(name));
                    self.follower
                        .ended
                        .retain(|(instance, _), _| *instance != id(name));
                    self.live.remove(name);
                }
            }
            Action::Lose { name } => {
                let _ = self.roster.declare_lost(now, id(name));
                self.live.remove(name);
            }
            Action::Ready { name } => drop(self.roster.ready(now, id(name))),
            Action::Status { name, behind, state } => {
                let incarnation = self.incarnation(name, behind);
                let before = self.roster.get(id(name)).cloned();
                let update = InstanceStatusUpdate {
                    state,
                    ..status(name, incarnation, State::Running)
                };
                let judgement = self.roster.handle_status(now, &update);
                if judgement.is_accepted() {
                    self.live.remove(name);
                }
                let current = before.as_ref().map_or(0, |known| known.incarnation().get());
                if incarnation != 0 && incarnation != current {
                    prop_assert_eq!(
                        self.roster.get(id(name)),
                        before.as_ref(),
                        "stale_news_changes_nothing"
                    );
                }
            }
            Action::StartAck {
                name,
                behind,
                accepted,
                permanent,
                seconds,
            } => {
                let incarnation = self.incarnation(name, behind);
                let before = self.roster.get(id(name)).cloned();
                let disposition = if permanent {
                    StartFailureDisposition::Permanent
                } else {
                    StartFailureDisposition::Transient
                };
                let mut ack = start_failed(name, incarnation, disposition);
                ack.accepted = accepted;
                ack.retry_after_seconds = seconds;
                let judgement = self.roster.handle_start_ack(now, &ack);
                if judgement.is_accepted() {
                    self.live.remove(name);
                }
                let current = before.as_ref().map_or(0, |known| known.incarnation().get());
                if incarnation != 0 && incarnation != current {
                    prop_assert_eq!(
                        self.roster.get(id(name)),
                        before.as_ref(),
                        "stale_news_changes_nothing"
                    );
                }
            }
            Action::StopAck {
                name,
                behind,
                accepted,
            } => {
                let ack = StopInstanceAck {
                    accepted,
                    ..stopped(name, self.incarnation(name, behind))
                };
                let _ = self.roster.handle_stop_ack(now, &ack);
            }
            Action::Crash { name, behind } => {
                let incarnation = self.incarnation(name, behind);
                let before = self.roster.get(id(name)).cloned();
                let current = before.as_ref().map_or(0, |known| known.incarnation().get());
                let stale = incarnation != 0 && incarnation != current;
                let verdict = self.roster.handle_crash(now, &crash(name, incarnation));
                prop_assert!(
                    !stale || verdict == CrashVerdict::Stale,
                    "stale_news_changes_nothing"
                );
                if verdict == CrashVerdict::Stale {
                    prop_assert_eq!(
                        self.roster.get(id(name)),
                        before.as_ref(),
                        "stale_news_changes_nothing"
                    );
                } else {
                    prop_assert!(self.roster.get(id(name)).unwrap().is_terminal());
                }
            }
            Action::Send => self.send()?,
        }
        let earliest = self.roster.poll_timeout();
        for known in self.roster.entries() {
            let Some(deadline) = known.poll_timeout() else {
                continue;
            };
            let covered = earliest.is_some_and(|earliest| earliest.at <= deadline.at);
            prop_assert!(covered, "earliest_deadline_is_exact: {known:?}");
        }
        if !self.connected {
            prop_assert_eq!(
                self.roster.poll_dispatch(),
                None,
                "nothing_leaves_while_disconnected"
            );
        }
        Ok(())
    }
}
