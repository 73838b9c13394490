//! From an order to start to a process, or to the reason why there is none

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use prexorcloud_proto::{StartFailureDisposition, StartPreparationStage};
use prexorcloud_protocol::instance::State;
use prexorcloud_protocol::session::daemon::{StartOrder, StartRejection};
use prexorcloud_protocol::{Incarnation, InstanceId};
use tokio::task::{AbortHandle, Id, JoinError};

use super::{Live, Orders};
use crate::preparation::{ControllerApi, PreparationError, Prepared};
use crate::supervisor::{Event, InstanceFacts, StartError};

/// How long a start waits for the id of the instance's former start to become free
const ID_FREE_TIMEOUT: Duration = Duration::from_secs(2);

/// When to ask again for a start that failed for a passing reason while its process was started
const START_RETRY: Duration = Duration::from_secs(5);

/// An instance on its way to a process
pub(super) struct Pending {
    pub(super) incarnation: Incarnation,
    /// The port it will have
    port: i32,
    plan_hash: String,
    task: Id,
    pub(super) step: Step,
    /// What the supervisor told of the process before its start was answered
    pub(super) early: Vec<Event>,
}

pub(super) enum Step {
    /// Can be cancelled at any moment
    Preparing(AbortHandle),
    /// Runs to its end; then it is stopped if somebody asked for it, by force or not
    Launching { stop: Option<bool> },
}

/// What a task came to
pub(super) enum Done {
    Prepared(InstanceId, Result<Box<Prepared>, PreparationError>),
    Launched(InstanceFacts, Result<(), StartError>),
}

impl Orders {
    pub(super) fn start(&mut self, order: StartOrder) {
        let (instance, incarnation) = (order.instance, order.incarnation);
        let plan = order.start.composition_plan.as_ref();
        let plan_hash = plan.map(|plan| plan.plan_hash.clone()).unwrap_or_default();
        if self.shutting_down.is_some() {
            let rejection = StartRejection {
                stage: StartPreparationStage::Validation,
                error_code: "NODE_SHUTTING_DOWN".to_owned(),
                message: "this node is being shut down".to_owned(),
                disposition: StartFailureDisposition::Transient,
                retry_after: START_RETRY,
                plan_hash,
            };
            self.reject(instance, incarnation, rejection);
            return;
        }
        tracing::info!(%instance, incarnation = incarnation.get(), "start ordered");
        self.settle(Some(instance));
        let port = order.start.port;
        let is_taken = self.live.values().any(|live| i32::from(live.port) == port)
            || self.pending.values().any(|pending| pending.port == port);
        if is_taken && let Ok(port) = u16::try_from(port) {
            // An instance that does not listen yet owns its port all the same.
            let error = PreparationError::PortInUse { port };
            self.reject(instance, incarnation, rejection(&error, plan_hash));
            return;
        }
        self.report(instance, incarnation, State::Preparing, Duration::ZERO);
        let (preparer, api) = (Arc::clone(&self.preparer), self.api());
        let task = self.tasks.spawn(async move {
            let prepared = preparer.prepare(&order.start, api.as_ref()).await;
            Done::Prepared(instance, prepared.map(Box::new))
        });
        let pending = Pending {
            incarnation,
            port,
            plan_hash,
            task: task.id(),
            step: Step::Preparing(task),
            early: Vec::new(),
        };
        self.pending.insert(instance, pending);
    }

    fn api(&self) -> Option<ControllerApi> {
        let dialled = self.dialled.lock().unwrap_or_else(PoisonError::into_inner);
        let host = dialled.as_ref()?.host();
        (self.api_port > 0).then_some(ControllerApi {
            host,
            port: self.api_port,
        })
    }

    pub(super) fn handle_done(&mut self, done: Result<(Id, Done), JoinError>) {
        match done {
            Ok((task, Done::Prepared(instance, prepared))) => {
                // A preparation that was cancelled when it had just ended has no entry any more.
                if self
                    .pending
                    .get(&instance)
                    .is_some_and(|pending| pending.task == task)
                {
                    match prepared {
                        Ok(prepared) => self.launch(*prepared),
                        Err(error) => self.preparation_failed(instance, &error),
                    }
                }
            }
            Ok((_, Done::Launched(facts, result))) => self.launched(&facts, result),
            Err(error) if error.is_cancelled() => {}
            Err(error) => {
                let task = error.id();
                let failed = self.pending.iter().find(|(_, pending)| pending.task == task);
                let Some(instance) = failed.map(|(instance, _)| *instance) else {
                    return;
                };
                tracing::error!(%instance, "a start ended with a panic");
                let message = "internal error of the daemon; its log says more".to_owned();
                self.launch_failed(instance, message, StartFailureDisposition::Permanent);
            }
        }
    }

    fn launch(&mut self, prepared: Prepared) {
        let supervisor = self.supervisor.clone();
        let instance = prepared.facts.instance;
        let task = self.tasks.spawn(async move {
            let Prepared { facts, launch } = prepared;
            let deadline = Instant::now() + ID_FREE_TIMEOUT;
            let result = loop {
                match supervisor.start(facts.clone(), launch.clone()).await {
                    // The former start has ended, and is about to let go of the id.
                    Err(StartError::AlreadyRunning) if Instant::now() < deadline => {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    result => break result,
                }
            };
            Done::Launched(facts, result)
        });
        if let Some(pending) = self.pending.get_mut(&instance) {
            pending.task = task.id();
            pending.step = Step::Launching { stop: None };
        }
    }

    fn launched(&mut self, facts: &InstanceFacts, result: Result<(), StartError>) {
        let instance = facts.instance;
        if let Err(error) = result {
            let disposition = match &error {
                StartError::Spawn { .. } => StartFailureDisposition::Permanent,
                _ => StartFailureDisposition::Transient,
            };
            self.launch_failed(instance, error.to_string(), disposition);
            return;
        }
        let Some(pending) = self.pending.remove(&instance) else {
            return;
        };
        self.enter(facts, Duration::ZERO);
        self.report(instance, pending.incarnation, State::Starting, Duration::ZERO);
        self.session.with(|session, _| {
            session.start_accepted(instance, pending.incarnation, pending.plan_hash);
        });
        if let Step::Launching { stop: Some(force) } = pending.step {
            self.supervisor.stop(instance, force);
        }
        for event in pending.early {
            self.handle_supervisor(event);
        }
    }

    pub(super) fn enter(&mut self, facts: &InstanceFacts, uptime: Duration) {
        let now = Instant::now();
        let live = Live {
            incarnation: facts.incarnation,
            port: facts.port,
            grace: facts.grace,
            started: now.checked_sub(uptime).unwrap_or(now),
        };
        self.live.insert(facts.instance, live);
    }

    fn preparation_failed(&mut self, instance: InstanceId, error: &PreparationError) {
        let Some(pending) = self.pending.remove(&instance) else {
            return;
        };
        let rejection = rejection(error, pending.plan_hash);
        self.reject(instance, pending.incarnation, rejection);
    }

    fn launch_failed(&mut self, instance: InstanceId, message: String, disposition: StartFailureDisposition) {
        let Some(pending) = self.pending.remove(&instance) else {
            return;
        };
        let rejection = StartRejection {
            stage: StartPreparationStage::ProcessStart,
            error_code: "START_FAILED".to_owned(),
            message,
            disposition,
            retry_after: match disposition {
                StartFailureDisposition::Transient => START_RETRY,
                _ => Duration::ZERO,
            },
            plan_hash: pending.plan_hash,
        };
        self.reject(instance, pending.incarnation, rejection);
    }

    fn reject(&mut self, instance: InstanceId, incarnation: Incarnation, rejection: StartRejection) {
        tracing::warn!(%instance, code = rejection.error_code, "start failed: {}", rejection.message);
        // A stop that was waiting for this start has nothing to stop any more.
        let stop = self.stops.remove(&instance);
        self.session.with(|session, _| {
            session.start_rejected(instance, incarnation, rejection);
            if let Some(incarnation) = stop {
                session.stop_acknowledged(instance, incarnation, Ok(()));
            }
        });
    }
}

fn rejection(error: &PreparationError, plan_hash: String) -> StartRejection {
    StartRejection {
        stage: error.stage(),
        error_code: error.code().to_owned(),
        message: error.to_string(),
        disposition: error.disposition(),
        retry_after: error.retry_after(),
        plan_hash,
    }
}
