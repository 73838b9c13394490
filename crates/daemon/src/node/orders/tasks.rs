//! Preparations and launches as tasks, and what they came to

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use prexorcloud_proto::{StartFailureDisposition, StartInstance, StartPreparationStage};
use prexorcloud_protocol::instance::Limits;
use prexorcloud_protocol::node::daemon::{self as machine, Attempt, LaunchFailure};
use prexorcloud_protocol::session::daemon::StartRejection;
use tokio::task::{Id, JoinError};
use tracing::Instrument as _;

use super::Orders;
use crate::preparation::{ControllerApi, PreparationError, Prepared};
use crate::supervisor::StartError;

const PANICKED: &str = "internal error of the daemon; its log says more";

/// What a task is there for
#[derive(Clone, Copy)]
pub(super) enum Running {
    Preparation(Attempt),
    Launch(Attempt),
}

/// What a task came to
pub(super) enum Done {
    Prepared(Attempt, Result<Box<Prepared>, PreparationError>),
    Launched(Attempt, Result<(), StartError>),
}

impl Orders {
    pub(super) fn prepare(&mut self, attempt: Attempt, start: Box<StartInstance>, limits: Limits) {
        let (instance, incarnation) = (attempt.instance(), attempt.incarnation().get());
        tracing::info!(%instance, incarnation, "preparing a start");
        let (preparer, api) = (Arc::clone(&self.preparer), self.api());
        let preparing = async move {
            let prepared = preparer.prepare(&start, limits, api.as_ref()).await;
            Done::Prepared(attempt, prepared.map(Box::new))
        };
        let task = self.tasks.spawn(preparing.in_current_span());
        self.running.insert(task.id(), Running::Preparation(attempt));
        self.preparations.insert(attempt, task);
    }

    pub(super) fn cancel(&mut self, attempt: Attempt) {
        if let Some(task) = self.preparations.remove(&attempt) {
            task.abort();
        }
    }

    pub(super) fn launch(&mut self, attempt: Attempt, prepared: Prepared) {
        let supervisor = self.supervisor.clone();
        let launching = async move {
            let Prepared { facts, launch, notes } = prepared;
            let instance = facts.instance;
            let result = supervisor.start(facts, launch).await;
            if result.is_ok() && !notes.is_empty() {
                let said = tokio::task::spawn_blocking(move || supervisor.remark(instance, &notes));
                // Only a panic of it is an error, and that is no matter of the instance.
                let _ = said.await;
            }
            Done::Launched(attempt, result)
        };
        let task = self.tasks.spawn(launching.in_current_span());
        self.running.insert(task.id(), Running::Launch(attempt));
    }

    pub(super) fn handle_done(&mut self, done: Result<(Id, Done), JoinError>) {
        let now = Instant::now();
        let id = match &done {
            Ok((id, _)) => *id,
            Err(error) => error.id(),
        };
        let running = self.running.remove(&id);
        if let Some(Running::Preparation(attempt)) = running {
            self.preparations.remove(&attempt);
        }
        match done {
            Ok((_, Done::Prepared(attempt, Ok(prepared)))) => {
                let prepared = machine::Prepared {
                    port: prepared.facts.port,
                    grace: prepared.facts.grace,
                    startup_timeout: prepared.facts.startup_timeout,
                    launch: prepared,
                };
                self.node.handle_prepared(now, attempt, prepared);
            }
            Ok((_, Done::Prepared(attempt, Err(error)))) => {
                self.node
                    .handle_preparation_failed(now, attempt, rejection(&error));
            }
            Ok((_, Done::Launched(attempt, Ok(())))) => self.node.handle_launched(now, attempt),
            Ok((_, Done::Launched(attempt, Err(error)))) => {
                let failure = LaunchFailure {
                    message: error.to_string(),
                    disposition: match error {
                        StartError::Spawn { .. } => StartFailureDisposition::Permanent,
                        _ => StartFailureDisposition::Transient,
                    },
                };
                self.node.handle_launch_failed(now, attempt, failure);
            }
            Err(error) if error.is_cancelled() => {}
            Err(_) => self.handle_panic(now, running),
        }
    }

    fn handle_panic(&mut self, now: Instant, running: Option<Running>) {
        tracing::error!("a start ended with a panic");
        match running {
            Some(Running::Preparation(attempt)) => {
                let rejection = StartRejection {
                    stage: StartPreparationStage::ProcessStart,
                    error_code: "START_FAILED".to_owned(),
                    message: PANICKED.to_owned(),
                    disposition: StartFailureDisposition::Permanent,
                    retry_after: Duration::ZERO,
                    plan_hash: String::new(),
                };
                self.node.handle_preparation_failed(now, attempt, rejection);
            }
            Some(Running::Launch(attempt)) => {
                let failure = LaunchFailure {
                    message: PANICKED.to_owned(),
                    disposition: StartFailureDisposition::Permanent,
                };
                self.node.handle_launch_failed(now, attempt, failure);
            }
            None => {}
        }
    }

    fn api(&self) -> Option<ControllerApi> {
        let dialled = self.dialled.lock().unwrap_or_else(PoisonError::into_inner);
        let host = dialled.as_ref()?.host();
        (self.api_port > 0).then_some(ControllerApi {
            host,
            port: self.api_port,
        })
    }
}

fn rejection(error: &PreparationError) -> StartRejection {
    StartRejection {
        stage: error.stage(),
        error_code: error.code().to_owned(),
        message: error.to_string(),
        disposition: error.disposition(),
        retry_after: error.retry_after(),
        // The machine knows the plan.
        plan_hash: String::new(),
    }
}
