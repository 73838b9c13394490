//! What a handshake means for the roster

use std::time::Instant;

use prexorcloud_proto::RunningInstance;

use super::event::InstanceEvent;
use super::slots::{Place, Role, Slot};
use super::{Link, Roster};
use crate::id::{GroupName, Incarnation, InstanceId};
use crate::instance::{Cause, Lifecycle, Limits, Report, Spec, State};
use crate::ledger::{Order, Reissue, StartFailure};
use crate::reconcile::{self, Action, Ignored, KnownInstance, OrphanReason, ReconcilePolicy};
use crate::verdict::StopMode;

impl Roster {
    /// A session has been established; `reported` is the list from the daemon's handshake.
    ///
    /// Belief and report are brought together, and what is wanted is ready for [`poll_dispatch`](Self::poll_dispatch).
    pub fn handle_handshake(&mut self, now: Instant, reported: &[RunningInstance], policy: &ReconcilePolicy) {
        // A newer stream may replace one that nobody has seen end.
        self.handle_disconnected(now);
        let peer = policy.peer;
        self.link = Link::Up { peer };
        self.figures = None;
        self.touch();
        let entries = self.slots.entry_indices();
        for &index in &entries {
            if let Some(slot) = self.slots.get_mut(index) {
                slot.lifecycle.handle_connected(now, peer);
            }
        }
        let known: Vec<KnownInstance> = entries
            .iter()
            .filter_map(|&index| self.slots.get(index))
            .map(|slot| KnownInstance::of(&slot.lifecycle, slot.start.is_some()))
            .collect();
        self.adoptions.refill(now);
        let mut misreported = 0;
        for action in reconcile::plan(&known, reported, policy) {
            let is_earlier = matches!(
                action,
                Action::Ignore {
                    problem: Ignored::Earlier,
                    ..
                }
            );
            // That an earlier start is listed beside a later one is news of both.
            if matches!(action, Action::Ignore { .. }) && !is_earlier {
                misreported += 1;
            }
            self.perform(now, action);
        }
        if misreported > 0 {
            self.tell(InstanceEvent::Misreported { count: misreported });
        }
        let count = std::mem::take(&mut self.not_adopted);
        if count > 0 {
            self.tell(InstanceEvent::NotAdopted { count });
        }
        for index in self.slots.entry_indices() {
            if let Some(slot) = self.slots.get_mut(index) {
                slot.ledger.handle_connected(now);
            }
            self.pump(now, index);
        }
    }

    fn perform(&mut self, now: Instant, action: Action) {
        match action {
            Action::Adopt {
                instance,
                group,
                incarnation,
                state,
                port,
                supersedes,
            } => {
                if supersedes.is_some() {
                    self.with_entry(now, instance, |slot| {
                        slot.lifecycle.handle_lost(now, Cause::Superseded)
                    });
                } else if !self.adoptions.take() {
                    self.not_adopted += 1;
                    return;
                }
                self.adopt(now, instance, group, incarnation, state, port);
            }
            Action::Update {
                instance,
                state,
                port,
            } => self.with_entry(now, instance, |slot| {
                Self::heard(slot, now, Some(state), port);
            }),
            Action::LeaveAlone {
                instance,
                is_known: true,
                is_listed: true,
                ..
            } => {
                self.with_entry(now, instance, |slot| Self::heard(slot, now, None, 0));
            }
            Action::StopAgain { instance, state } => self.with_entry(now, instance, |slot| {
                Self::heard(slot, now, state, 0);
                let Some(mode) = slot.lifecycle.desired().stop_mode() else {
                    return;
                };
                let _ = slot.ledger.issue(now, Order::Stop(mode));
                slot.ledger.renew(now);
            }),
            Action::StopOrphan {
                instance,
                reason,
                is_known: true,
                ..
            } => {
                let is_news = self
                    .get(instance)
                    .is_some_and(|known| known.desired().stop_mode().is_none());
                self.with_entry(now, instance, |slot| {
                    slot.lifecycle.mark_dispatched();
                    let _ = slot.lifecycle.request_stop(now, StopMode::Graceful);
                    slot.ledger.renew(now);
                });
                if let Some(incarnation) = self.get(instance).map(Lifecycle::incarnation).filter(|_| is_news)
                {
                    self.tell(InstanceEvent::OrphanStopped {
                        instance,
                        incarnation,
                        reason,
                    });
                }
            }
            Action::StopOrphan {
                instance,
                incarnation,
                group,
                state,
                reason,
                is_known: false,
            } => {
                self.stop_listed(now, instance, incarnation, group, state, reason);
            }
            Action::MarkLost { instance } => self.with_entry(now, instance, |slot| {
                slot.lifecycle.handle_lost(now, Cause::Reconciled);
            }),
            Action::MarkStopped { instance } => self.with_entry(now, instance, |slot| {
                slot.lifecycle.handle_gone(now, Cause::Reconciled);
            }),
            Action::Redispatch { instance } => self.redispatch(now, instance),
            Action::LeaveAlone { .. } | Action::Ignore { .. } => {}
        }
    }

    /// Sends a start again that the daemon has nothing of; its attempts count on, so it is not lost for ever.
    fn redispatch(&mut self, now: Instant, instance: InstanceId) {
        let entry = self.slots.place(instance).entry;
        let Some((index, slot)) = entry.and_then(|index| Some((index, self.slots.get_mut(index)?))) else {
            return;
        };
        let _ = slot.ledger.issue(now, Order::Start);
        if slot.ledger.reissue(now) == Reissue::Exhausted {
            slot.ledger.withdraw();
            slot.lifecycle.handle_start_failed(now);
            let incarnation = slot.lifecycle.incarnation();
            self.tell(InstanceEvent::StartFailed {
                instance,
                incarnation,
                failure: StartFailure::forgotten(),
            });
        } else {
            slot.lifecycle.handle_redispatch(now);
        }
        self.pump(now, index);
    }

    fn with_entry(&mut self, now: Instant, instance: InstanceId, act: impl FnOnce(&mut Slot)) {
        let Place {
            entry: Some(index), ..
        } = self.slots.place(instance)
        else {
            return;
        };
        let Some(slot) = self.slots.get_mut(index) else {
            return;
        };
        act(slot);
        self.pump(now, index);
    }

    /// The daemon has this instance, whether or not it says in which state.
    fn heard(slot: &mut Slot, now: Instant, state: Option<State>, port: u16) {
        slot.lifecycle.mark_dispatched();
        slot.uncounted = Some(0);
        if slot.ledger.order() == Some(Order::Start) {
            slot.ledger.handle_evidence();
        }
        slot.lifecycle.handle_start_accepted(now);
        if let Some(state) = state {
            let incarnation = slot.lifecycle.incarnation();
            let player_count = slot.lifecycle.player_count();
            let report = Report {
                incarnation,
                port,
                player_count,
                ..Report::of(state)
            };
            // The plan has asked the transition table already; a stop that is repeated does not mind.
            let _ = slot.lifecycle.handle_listed(now, report);
        }
        if slot.lifecycle.state().is_coming_up() {
            // Whoever ordered it: the daemon may still refuse it.
            slot.ledger.assume(Order::Start);
            slot.awaited.found();
        }
    }

    fn adopt(
        &mut self,
        now: Instant,
        instance: InstanceId,
        group: GroupName,
        incarnation: Incarnation,
        state: State,
        port: u16,
    ) {
        let spec = Spec {
            instance,
            group,
            incarnation,
            port,
            limits: Limits::default(),
        };
        let index = self
            .slots
            .insert(Slot::new(Role::Entry, Lifecycle::adopted(now, spec, state), None));
        if let (Link::Up { peer }, Some(slot)) = (self.link, self.slots.get_mut(index)) {
            slot.lifecycle.handle_connected(now, peer);
            slot.uncounted = Some(0);
            slot.lifecycle.handle_start_accepted(now);
            if state.is_coming_up() {
                slot.ledger.assume(Order::Start);
                slot.awaited.found();
            }
        }
        self.bound_ended();
        self.tell(InstanceEvent::Adopted {
            instance,
            group,
            incarnation,
            state,
            port,
        });
        self.pump(now, index);
    }

    fn stop_listed(
        &mut self,
        now: Instant,
        instance: InstanceId,
        incarnation: Incarnation,
        group: Option<GroupName>,
        state: State,
        reason: OrphanReason,
    ) {
        // A group that is no safe name appears nowhere but in the lifecycle of the orphan, which nobody sees.
        let named = group.or_else(|| GroupName::new("unknown").ok());
        let Some(group) = named else { return };
        let spec = Spec {
            instance,
            group,
            incarnation,
            port: 0,
            limits: Limits::default(),
        };
        self.stop_orphan(now, spec, state, reason);
    }
}
