//! What the application orders

use std::time::Instant;

use prexorcloud_proto::{InstanceReady, SendCommand, ShutdownNode, StartInstance, controller_message};

use super::pending::Pending;
use super::{ControllerNode, ControllerWork, OrderId, OrderOutcome, OrderRefusal, StreamId};
use crate::id::InstanceId;
use crate::instance::{Judgement, Lifecycle, State};
#[cfg(doc)]
use crate::peer::DaemonPeer;
use crate::session::SendError;
use crate::session::controller::CommandError;
use crate::trace::TraceParent;
use crate::validate;
use crate::verdict::{DeniedReason, StopMode, Verdict};

/// How many orders may wait for the storage.
pub const ORDERS_WAITING: usize = 1024;

/// What an order about an instance is
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Start,
    Stop,
}

impl ControllerNode {
    /// Starts an instance: records it, and sends it when it is recorded and there is a stream.
    ///
    /// The answer is [`OrderOutcome::Started`].
    pub fn start(&mut self, now: Instant, order: OrderId, start: Box<StartInstance>) {
        self.start_traced(now, order, start, None);
    }

    /// As [`start`](Self::start), as part of a trace. The trace is not recorded: after a restart of the controller the start goes
    /// out without it.
    pub fn start_traced(
        &mut self,
        now: Instant,
        order: OrderId,
        start: Box<StartInstance>,
        trace: Option<TraceParent>,
    ) {
        let given = InstanceId::new(&start.instance_id).ok();
        if let Verdict::Denied(reason) = self.roster.judge_start(&start) {
            self.answer(order, Err(reason.into()));
        } else if let Some(current) = given.and_then(|instance| self.records.start_of(instance)) {
            self.answer(order, Err(DeniedReason::StillAlive { current }.into()));
        } else {
            if let Some(instance) = given {
                self.remember(instance, Kind::Stop, None);
                self.remember(instance, Kind::Start, trace);
            }
            self.push_order(order, Pending::Start { order, start });
        }
        self.settle(now);
    }

    /// Stops an instance: records the wish, and sends it when it is recorded and there is a stream.
    ///
    /// The answer is [`OrderOutcome::Stopping`] or [`OrderOutcome::AlreadyEnded`].
    pub fn stop(&mut self, now: Instant, order: OrderId, instance: InstanceId, mode: StopMode) {
        self.stop_traced(now, order, instance, mode, None);
    }

    /// As [`stop`](Self::stop), as part of a trace, which is not recorded either.
    pub fn stop_traced(
        &mut self,
        now: Instant,
        order: OrderId,
        instance: InstanceId,
        mode: StopMode,
        trace: Option<TraceParent>,
    ) {
        if self.is_unknown(instance) {
            self.answer(order, Err(DeniedReason::UnknownInstance.into()));
        } else {
            self.remember(instance, Kind::Stop, trace);
            self.push_order(
                order,
                Pending::Stop {
                    order: Some(order),
                    instance,
                    mode,
                },
            );
        }
        self.settle(now);
    }

    /// The trace of an order that is sent now; when it is repeated, it has none.
    pub(super) fn take_trace(&mut self, instance: &str, kind: Kind) -> Option<TraceParent> {
        let instance = InstanceId::new(instance).ok()?;
        self.traces.remove(&(instance, kind))
    }

    fn remember(&mut self, instance: InstanceId, kind: Kind, trace: Option<TraceParent>) {
        self.traces.remove(&(instance, kind));
        let Some(trace) = trace else { return };
        if self.traces.len() >= ORDERS_WAITING {
            // What has ended, or never began, is not sent any more.
            let (roster, records) = (&self.roster, &self.records);
            self.traces.retain(|(id, _), _| {
                let is_live = |known: &Lifecycle| !known.state().is_terminal();
                roster.get(*id).is_some_and(is_live) || records.start_of(*id).is_some()
            });
        }
        if self.traces.len() < ORDERS_WAITING {
            self.traces.insert((instance, kind), trace);
        }
    }

    /// Makes an instance that has ended known no more. The answer is [`OrderOutcome::Forgotten`].
    pub fn forget(&mut self, now: Instant, order: OrderId, instance: InstanceId) {
        if self.is_unknown(instance) {
            self.answer(order, Err(DeniedReason::UnknownInstance.into()));
        } else {
            self.push_order(order, Pending::Forget { order, instance });
        }
        self.settle(now);
    }

    /// Gives up an instance whose node is away and may not come back. The answer is [`OrderOutcome::GivenUp`], once
    /// that is recorded.
    ///
    /// If it runs after all when the node is back, it is taken back as what it is.
    pub fn declare_lost(&mut self, now: Instant, order: OrderId, instance: InstanceId) {
        let result = if self.streams.current().is_some() {
            Err(OrderRefusal::Connected)
        } else {
            match self.roster.declare_lost(now, instance) {
                Verdict::Denied(reason) => Err(reason.into()),
                Verdict::Accepted | Verdict::AlreadyInEffect => Ok(OrderOutcome::GivenUp),
            }
        };
        match result {
            Ok(outcome) => {
                // Draws the conclusion first, so that the answer waits for its record.
                self.settle(now);
                self.records.answer_when_clean(instance, order, outcome);
                self.flush_answers();
            }
            Err(refusal) => self.answer(order, Err(refusal)),
        }
        self.settle(now);
    }

    /// Lets a running instance run empty.
    pub fn drain_instance(&mut self, now: Instant, instance: InstanceId) -> Verdict {
        let verdict = self.roster.drain(now, instance);
        self.settle(now);
        verdict
    }

    /// Takes back a [`drain_instance`](Self::drain_instance).
    pub fn undrain_instance(&mut self, now: Instant, instance: InstanceId) -> Verdict {
        let verdict = self.roster.undrain(now, instance);
        self.settle(now);
        verdict
    }

    /// A server says itself that it is ready, by its plugin.
    ///
    /// That makes it `RUNNING` where the daemon does not [judge](DaemonPeer::judges_readiness) readiness (the Java daemon). One
    /// that does is told, and reports it: it has a deadline of its own to end. Plugins repeat themselves, so what is lost with a
    /// stream is said again.
    pub fn ready(&mut self, now: Instant, instance: InstanceId) -> Judgement {
        let Some(lifecycle) = self.roster.get(instance) else {
            return Judgement::UnknownInstance;
        };
        let peer = self.peer().unwrap_or_else(|| lifecycle.peer());
        if !peer.judges_readiness {
            let judgement = self.roster.ready(now, instance);
            self.settle(now);
            return judgement;
        }
        if peer.takes_plugin_calls
            && lifecycle.state() == State::Starting
            && let Some(stream) = self.current_stream()
        {
            let ready = InstanceReady {
                instance_id: instance.into(),
                incarnation: lifecycle.incarnation().get(),
            };
            self.send(stream, controller_message::Payload::InstanceReady(ready), None);
        }
        Judgement::Duplicate
    }

    /// Writes a line to an instance's console
    ///
    /// The number is that of the daemon's [`CommandWritten`](crate::session::controller::ControllerEvent::CommandWritten), which
    /// comes on the present stream or never; `None` = this daemon does not say what becomes of a command (the Java daemon).
    ///
    /// # Errors
    /// [`CommandError`] says why nothing is sent.
    pub fn command(
        &mut self,
        instance: InstanceId,
        line: &str,
        trace: Option<TraceParent>,
    ) -> Result<Option<u64>, CommandError> {
        validate::command(line)?;
        let stream = self.current_stream().ok_or(CommandError::NotConnected)?;
        let answers = self.peer().is_some_and(|peer| peer.answers_commands);
        let lifecycle = self.roster.get(instance).ok_or(DeniedReason::UnknownInstance)?;
        match lifecycle.state() {
            State::Starting | State::Running | State::Draining | State::Stopping => {}
            state => return Err(DeniedReason::WrongState { state }.into()),
        }
        let incarnation = lifecycle.incarnation().get();
        let id = answers.then(|| {
            self.commands += 1;
            self.commands
        });
        let command = SendCommand {
            instance_id: instance.into(),
            command: line.to_owned(),
            incarnation,
            command_id: id.unwrap_or_default(),
        };
        let payload = controller_message::Payload::SendCommand(command);
        self.send(stream, payload, trace);
        Ok(id)
    }

    /// Orders the daemon to stop everything and exit.
    ///
    /// # Errors
    /// [`SendError::NotConnected`] while no stream is current.
    pub fn shut_down(&mut self, reason: impl Into<String>) -> Result<(), SendError> {
        let stream = self.current_stream().ok_or(SendError::NotConnected)?;
        let shutdown = ShutdownNode {
            reason: reason.into(),
        };
        self.send(stream, controller_message::Payload::ShutdownNode(shutdown), None);
        Ok(())
    }

    /// Whether an instance is neither there nor about to be.
    fn is_unknown(&self, instance: InstanceId) -> bool {
        self.roster.get(instance).is_none() && self.records.start_of(instance).is_none()
    }

    /// Gives up an order that nobody waits for any more, if it has not been begun; says whether that is so. Then there is no
    /// answer.
    pub fn withdraw(&mut self, order: OrderId) -> bool {
        self.records.withdraw(order)
    }

    fn push_order(&mut self, order: OrderId, pending: Pending) {
        if self.records.waiting() >= ORDERS_WAITING {
            let limit = ORDERS_WAITING;
            self.answer(order, Err(OrderRefusal::Busy { limit }));
        } else {
            self.records.push(pending);
        }
    }

    pub(super) fn answer(&mut self, order: OrderId, result: Result<OrderOutcome, OrderRefusal>) {
        self.work.push_back(ControllerWork::Answer { order, result });
    }

    pub(super) fn send(
        &mut self,
        stream: StreamId,
        payload: controller_message::Payload,
        trace: Option<TraceParent>,
    ) {
        self.work.push_back(ControllerWork::Send {
            stream,
            payload,
            trace,
        });
    }
}
