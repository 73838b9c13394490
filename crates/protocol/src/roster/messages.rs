//! What a daemon's message means for the roster

use std::time::{Duration, Instant};

use prexorcloud_proto::{CrashReport, InstanceStatusUpdate, StartInstanceAck, StopInstanceAck};

use super::event::InstanceEvent;
use super::slots::{Role, Slot};
use super::{CrashVerdict, Roster};
use crate::id::{Incarnation, InstanceId};
use crate::instance::{Judgement, Limits, Report, Spec, State};
use crate::ledger::{Answer, Order, Reissue, StartFailure};
use crate::peer::DaemonPeer;
use crate::reconcile::OrphanReason;
use crate::validate::{Fault, Invalid};

impl Roster {
    /// The daemon reports a state.
    pub fn handle_status(&mut self, now: Instant, update: &InstanceStatusUpdate) -> Judgement {
        let incarnation = Incarnation::new(update.incarnation);
        let index = match self.address(&update.instance_id, incarnation) {
            Ok(found) => found,
            Err(judgement) => return judgement,
        };
        let state = match State::try_from(update.state) {
            Ok(state) => state,
            Err(unknown) => {
                let fault = Fault::UnknownValue { value: unknown.value };
                return Judgement::Invalid(Invalid {
                    field: "instance_status_update.state",
                    fault,
                });
            }
        };
        let report = Report {
            incarnation,
            state,
            port: u16::try_from(update.port).unwrap_or_default(),
            player_count: update.player_count,
            uptime: Duration::from_millis(u64::try_from(update.uptime_ms).unwrap_or_default()),
        };
        let Some(slot) = self.slots.get_mut(index) else {
            return Judgement::UnknownInstance;
        };
        let judgement = slot.lifecycle.handle_report(now, report);
        if is_alive(state) && !state.is_before_process() {
            slot.uncounted.get_or_insert(0);
            if let Some(figures) = &mut self.figures {
                figures.note_life(report.port);
            }
        }
        match judgement {
            Judgement::Applied { .. } | Judgement::Duplicate => {
                Self::note_evidence(slot, state);
                if state == State::Starting {
                    self.note_waiting(index, &update.waiting_for);
                }
            }
            Judgement::Illegal { .. } | Judgement::Stale { .. } if is_alive(state) => {
                self.handle_unwanted(now, index, report);
            }
            _ => {}
        }
        self.pump(now, index);
        judgement
    }

    /// A report that was believed also answers the command that led to it.
    fn note_evidence(slot: &mut Slot, state: State) {
        let answered = match slot.ledger.order() {
            Some(Order::Start) => state != State::Scheduled,
            Some(Order::Stop(_)) => state == State::Stopping,
            None => false,
        };
        if answered {
            slot.ledger.handle_evidence();
        }
    }

    /// The daemon runs something that is being stopped, has ended, or is of an earlier incarnation.
    fn handle_unwanted(&mut self, now: Instant, index: usize, report: Report) {
        let Some(slot) = self.slots.get_mut(index) else {
            return;
        };
        let (instance, known) = (slot.lifecycle.instance(), slot.lifecycle.incarnation());
        let superseded = report.incarnation.is_known() && report.incarnation < known;
        if superseded || slot.lifecycle.is_terminal() {
            let group = slot.lifecycle.group();
            let incarnation = report.incarnation;
            let reason = if superseded {
                OrphanReason::Superseded
            } else {
                OrphanReason::Ended
            };
            let spec = Spec {
                instance,
                group,
                incarnation,
                port: report.port,
                limits: Limits::default(),
            };
            self.stop_orphan(now, spec, report.state, reason);
        } else if slot.lifecycle.desired().stop_mode().is_some() {
            // The stop was acknowledged, and yet it runs: the Java daemon does so with one that is still preparing.
            Self::repeat_stop(slot, now);
        }
    }

    /// The stop was acknowledged, and had no effect.
    fn repeat_stop(slot: &mut Slot, now: Instant) {
        match slot.ledger.reissue(now) {
            Reissue::Again => slot.lifecycle.handle_stop_repeated(now),
            Reissue::Exhausted => slot.lifecycle.handle_stop_contradicted(),
            Reissue::Pending => {}
        }
    }

    /// The daemon answers a start.
    pub fn handle_start_ack(&mut self, now: Instant, ack: &StartInstanceAck) -> Judgement {
        let given = Incarnation::new(ack.incarnation);
        let index = match self.address(&ack.instance_id, given) {
            Ok(found) => found,
            Err(judgement) => return judgement,
        };
        let names_incarnations = self.peer().is_some_and(|peer| peer.names_incarnations);
        let shows_launch = self.peer().is_some_and(DaemonPeer::accepts_at_launch);
        let Some(slot) = self.slots.get_mut(index) else {
            return Judgement::UnknownInstance;
        };
        let (instance, current) = (slot.lifecycle.instance(), slot.lifecycle.incarnation());
        let from = slot.lifecycle.state();
        if !ack.accepted && !from.is_coming_up() && from != State::Stopping {
            // It runs, or has ended. A rejection of a repeated start says nothing about that.
            return Self::past(given, current);
        }
        if !ack.accepted && names_incarnations && current.is_known() && !given.is_known() {
            // Every start that was sent from here had one, and would be rejected by it.
            return Self::past(given, current);
        }
        let is_launched = ack.accepted || ack.error_code == crate::ledger::ALREADY_RUNNING;
        let answer = match slot.ledger.handle_start_ack(now, ack) {
            Answer::Retrying { .. } if slot.start.is_none() => {
                // Only the daemon had it, so there is nothing to send again.
                slot.ledger.withdraw();
                Answer::Failed
            }
            answer => answer,
        };
        let event = match answer {
            Answer::Settled => {
                slot.lifecycle.handle_start_accepted(now);
                if is_launched && shows_launch && from.is_before_process() {
                    // What it said of that before was lost with an earlier stream.
                    let _ = slot.lifecycle.handle_report(now, Report::of(State::Starting));
                }
                let plan_hash = ack.plan_hash.clone();
                Some(InstanceEvent::StartAccepted {
                    instance,
                    incarnation: current,
                    plan_hash,
                })
            }
            Answer::Retrying { attempt, after } => {
                slot.lifecycle.handle_redispatch(now);
                let failure = StartFailure::of(ack);
                Some(InstanceEvent::StartRetrying {
                    instance,
                    incarnation: current,
                    attempt,
                    after,
                    failure,
                })
            }
            Answer::Failed => {
                slot.lifecycle.handle_start_failed(now);
                let failure = StartFailure::of(ack);
                Some(InstanceEvent::StartFailed {
                    instance,
                    incarnation: current,
                    failure,
                })
            }
            Answer::Unexpected => {
                Self::handle_late_start_ack(slot, now, ack);
                None
            }
            Answer::Repeated => None,
            Answer::Stale | Answer::Newer => return Self::past(given, current),
        };
        let to = slot.lifecycle.state();
        let is_entry = slot.role == Role::Entry;
        if let Some(event) = event.filter(|_| is_entry) {
            self.tell(event);
        }
        self.pump(now, index);
        if from == to {
            Judgement::Duplicate
        } else {
            Judgement::Applied { from, to }
        }
    }

    /// The answer to a start that a stop has superseded on its way.
    fn handle_late_start_ack(slot: &mut Slot, now: Instant, ack: &StartInstanceAck) {
        use crate::ledger::{ALREADY_RUNNING, ALREADY_STARTING};
        if slot.lifecycle.state() != State::Stopping || !slot.lifecycle.is_dispatched() {
            return;
        }
        if ack.accepted {
            // It did start, after the stop was acknowledged.
            Self::repeat_stop(slot, now);
        } else if !matches!(ack.error_code.as_str(), ALREADY_RUNNING | ALREADY_STARTING) {
            slot.lifecycle.handle_start_failed(now);
        }
    }

    /// The daemon answers a stop.
    pub fn handle_stop_ack(&mut self, now: Instant, ack: &StopInstanceAck) -> Judgement {
        let given = Incarnation::new(ack.incarnation);
        let index = match self.address(&ack.instance_id, given) {
            Ok(found) => found,
            Err(judgement) => return judgement,
        };
        let conclusive = self.peer().is_some_and(DaemonPeer::acknowledges_ends);
        let Some(slot) = self.slots.get_mut(index) else {
            return Judgement::UnknownInstance;
        };
        let (instance, current) = (slot.lifecycle.instance(), slot.lifecycle.incarnation());
        match slot.ledger.handle_stop_ack(now, ack) {
            Answer::Settled => {
                slot.lifecycle.handle_stop_acknowledged(now, conclusive);
            }
            Answer::Retrying { attempt, after } => {
                slot.lifecycle.handle_stop_refused(now, after);
                // Also of an orphan, which may keep a start of its id waiting.
                self.tell(InstanceEvent::StopRefused {
                    instance,
                    incarnation: current,
                    attempt,
                    after,
                    message: ack.error_message.clone(),
                });
            }
            Answer::Stale | Answer::Newer => return Self::past(given, current),
            _ => {}
        }
        self.pump(now, index);
        Judgement::Duplicate
    }

    /// The daemon reports a crash. Whatever the verdict, the report is worth keeping.
    pub fn handle_crash(&mut self, now: Instant, report: &CrashReport) -> CrashVerdict {
        let incarnation = Incarnation::new(report.incarnation);
        let Ok(index) = self.address(&report.instance_id, incarnation) else {
            return CrashVerdict::Stale;
        };
        let Some(slot) = self.slots.get_mut(index) else {
            return CrashVerdict::Stale;
        };
        let verdict = slot.lifecycle.handle_crash(now, incarnation);
        let is_orphan = slot.role == Role::Orphan;
        self.pump(now, index);
        if is_orphan { CrashVerdict::Stale } else { verdict }
    }

    fn address(&self, id: &str, incarnation: Incarnation) -> Result<usize, Judgement> {
        match InstanceId::new(id) {
            Ok(ref instance) => self
                .slots
                .addressed(instance, incarnation)
                .ok_or(Judgement::UnknownInstance),
            Err(invalid) => Err(Judgement::Invalid(Invalid {
                field: "instance_id",
                fault: Fault::Name(invalid),
            })),
        }
    }

    /// The judgement on an answer that changes nothing.
    fn past(given: Incarnation, current: Incarnation) -> Judgement {
        if !given.is_known() || given == current {
            Judgement::Duplicate
        } else if given < current {
            Judgement::Stale { given, current }
        } else {
            Judgement::Newer { given, current }
        }
    }
}

/// Whether a report of `state` shows a process, or one in the making.
const fn is_alive(state: State) -> bool {
    matches!(
        state,
        State::Preparing | State::Starting | State::Running | State::Draining
    )
}
