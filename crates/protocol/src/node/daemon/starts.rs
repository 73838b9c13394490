//! From an order to start to a process, or to the reason why there is none

use std::time::{Duration, Instant};

use prexorcloud_proto::{StartFailureDisposition, StartPreparationStage};

use super::phase::{Early, Entry, Life, Phase};
use super::{Attempt, DaemonNode, DaemonWork, INSTANCES_REMEMBERED, LaunchFailure, Prepared, Shutdown};
use crate::id::{Incarnation, InstanceId};
use crate::instance::State;
use crate::session::daemon::{StartOrder, StartRejection};
use crate::verdict::DeniedReason;

/// When to ask again for a start that failed for a passing reason
const RETRY_AFTER: Duration = Duration::from_secs(5);

impl<L> DaemonNode<L> {
    /// The session accepted an order to start.
    pub fn handle_start(&mut self, _now: Instant, order: StartOrder) {
        let StartOrder {
            instance,
            incarnation,
            start,
            ..
        } = order;
        let plan = start.composition_plan.as_ref();
        let plan_hash = plan.map(|plan| plan.plan_hash.clone()).unwrap_or_default();
        let port = u16::try_from(start.port).ok().filter(|port| *port != 0);
        if self
            .entry(instance, incarnation)
            .is_some_and(|entry| entry.is_occupied())
        {
            // The session answers a repeated order itself; a refusal would be taken for one of what is up.
            return;
        }
        if let Some((error_code, message)) = self.objection(instance, port) {
            self.refuse(instance, incarnation, error_code, message, plan_hash);
            return;
        }
        if let Some(former) = self.entries.remove(&instance) {
            // The new start needs the id.
            self.outputs.push_back(DaemonWork::Settle {
                instance,
                incarnation: former.incarnation,
            });
        }
        self.attempts += 1;
        let attempt = Attempt {
            instance,
            incarnation,
            ordinal: self.attempts,
        };
        let entry = Entry {
            incarnation,
            stop_owed: false,
            phase: Phase::Preparing {
                attempt,
                port,
                plan_hash,
            },
        };
        self.entries.insert(instance, entry);
        self.report(instance, incarnation, State::Preparing, Duration::ZERO);
        self.outputs.push_back(DaemonWork::Prepare { attempt, start });
    }

    /// Why a start cannot be begun now: the code, and a sentence.
    fn objection(&self, instance: InstanceId, port: Option<u16>) -> Option<(&'static str, String)> {
        if let Some(present) = self.entries.get(&instance).filter(|entry| entry.is_occupied()) {
            let current = present.incarnation;
            return Some((
                "INSTANCE_STILL_ALIVE",
                DeniedReason::StillAlive { current }.to_string(),
            ));
        }
        if self.shutdown != Shutdown::NotOrdered {
            return Some(("NODE_SHUTTING_DOWN", "this node is being shut down".to_owned()));
        }
        // An instance that does not listen yet owns its port all the same.
        if let Some(port) = port
            && self
                .entries
                .values()
                .any(|entry| entry.owned_port() == Some(port))
        {
            return Some(("PORT_IN_USE", format!("port {port} is in use on this node")));
        }
        if self.entries.len() >= INSTANCES_REMEMBERED && !self.entries.contains_key(&instance) {
            let limit = INSTANCES_REMEMBERED;
            return Some(("TOO_MANY_INSTANCES", DeniedReason::TooMany { limit }.to_string()));
        }
        None
    }

    /// A preparation has succeeded.
    pub fn handle_prepared(&mut self, now: Instant, attempt: Attempt, prepared: Prepared<L>) {
        let Some(Entry {
            phase: phase @ Phase::Preparing { .. },
            ..
        }) = self.attempted(attempt)
        else {
            return;
        };
        let life = Life {
            port: prepared.port,
            grace: prepared.grace,
            startup_timeout: prepared.startup_timeout,
            started: now,
            is_ready: false,
            is_stopping: false,
            stopped_for: None,
            asked: None,
        };
        let plan_hash = match phase {
            Phase::Preparing { plan_hash, .. } => std::mem::take(plan_hash),
            _ => String::new(),
        };
        *phase = Phase::Launching {
            attempt,
            plan_hash,
            life: Box::new(life),
            early: Early::default(),
        };
        self.outputs.push_back(DaemonWork::Launch {
            attempt,
            launch: prepared.launch,
        });
    }

    /// A preparation has failed. The hash of the plan in `rejection` is filled in here.
    pub fn handle_preparation_failed(
        &mut self,
        _now: Instant,
        attempt: Attempt,
        mut rejection: StartRejection,
    ) {
        if let Some(Entry {
            phase: Phase::Preparing { plan_hash, .. },
            ..
        }) = self.attempted(attempt)
        {
            rejection.plan_hash = std::mem::take(plan_hash);
            self.reject(attempt, rejection);
        }
    }

    /// The process exists.
    pub fn handle_launched(&mut self, now: Instant, attempt: Attempt) {
        let Attempt {
            instance,
            incarnation,
            ..
        } = attempt;
        let Some(Entry { phase, .. }) = self.attempted(attempt) else {
            return;
        };
        let Phase::Launching {
            plan_hash,
            life,
            early,
            ..
        } = phase
        else {
            return;
        };
        let (plan_hash, early) = (std::mem::take(plan_hash), std::mem::take(early));
        let life = Life {
            started: now,
            ..**life
        };
        *phase = Phase::Live(life);
        self.report(instance, incarnation, State::Starting, Duration::ZERO);
        self.outputs.push_back(DaemonWork::AcceptStart {
            instance,
            incarnation,
            plan_hash,
        });
        if let Some(mode) = life.asked
            && early.exit.is_none()
        {
            self.outputs.push_back(DaemonWork::Stop {
                instance,
                incarnation,
                mode,
            });
        }
        if early.is_ready {
            self.handle_ready(now, instance, incarnation);
        }
        if let Some(reason) = early.stopping {
            self.handle_stopping(now, instance, incarnation, reason);
        }
        if let Some(exit) = early.exit {
            self.handle_exited(now, *exit);
        }
    }

    /// The process could not be started.
    pub fn handle_launch_failed(&mut self, _now: Instant, attempt: Attempt, failure: LaunchFailure) {
        let Some(Entry {
            phase: Phase::Launching { plan_hash, .. },
            ..
        }) = self.attempted(attempt)
        else {
            return;
        };
        let rejection = StartRejection {
            stage: StartPreparationStage::ProcessStart,
            error_code: "START_FAILED".to_owned(),
            message: failure.message,
            disposition: failure.disposition,
            retry_after: match failure.disposition {
                StartFailureDisposition::Transient => RETRY_AFTER,
                _ => Duration::ZERO,
            },
            plan_hash: std::mem::take(plan_hash),
        };
        self.reject(attempt, rejection);
    }

    /// The entry that an attempt is still about.
    fn attempted(&mut self, attempt: Attempt) -> Option<&mut Entry> {
        self.entries
            .get_mut(&attempt.instance)
            .filter(|entry| match &entry.phase {
                Phase::Preparing { attempt: current, .. } | Phase::Launching { attempt: current, .. } => {
                    *current == attempt
                }
                Phase::Live(_) | Phase::Spooling { .. } | Phase::Ended(_) => false,
            })
    }

    /// Ends an attempt that came to nothing.
    fn reject(&mut self, attempt: Attempt, rejection: StartRejection) {
        let Attempt {
            instance,
            incarnation,
            ..
        } = attempt;
        let entry = self.entries.remove(&instance);
        self.outputs.push_back(DaemonWork::RejectStart {
            instance,
            incarnation,
            rejection,
        });
        // A stop that was waiting for this start has nothing to stop any more.
        if entry.is_some_and(|entry| entry.stop_owed) {
            self.acknowledge_stop(instance, incarnation);
        }
        self.finish_if_drained();
    }

    fn refuse(
        &mut self,
        instance: InstanceId,
        incarnation: Incarnation,
        error_code: &str,
        message: String,
        plan_hash: String,
    ) {
        let rejection = StartRejection {
            stage: StartPreparationStage::Validation,
            error_code: error_code.to_owned(),
            message,
            disposition: StartFailureDisposition::Transient,
            retry_after: RETRY_AFTER,
            plan_hash,
        };
        self.outputs.push_back(DaemonWork::RejectStart {
            instance,
            incarnation,
            rejection,
        });
    }
}
