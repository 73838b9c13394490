//! From an order to start to a process, or to the reason why there is none

use std::time::{Duration, Instant};

use prexorcloud_proto::{StartFailureDisposition, StartInstance, StartPreparationStage};

use super::phase::{Early, Entry, Life, Phase, Told, port_of};
use super::{Attempt, DaemonNode, DaemonWork, INSTANCES_REMEMBERED, LaunchFailure, Prepared, Shutdown};
use crate::id::{Incarnation, InstanceId};
use crate::instance::{Limits, State};
use crate::session::daemon::{StartOrder, StartRejection};
use crate::session::error_code;
use crate::time::after;
use crate::verdict::DeniedReason;

impl<L> DaemonNode<L> {
    /// The session accepted an order to start.
    pub fn handle_start(&mut self, now: Instant, order: StartOrder) {
        let StartOrder {
            instance,
            incarnation,
            start,
            ..
        } = order;
        if self
            .entry(instance, incarnation)
            .is_some_and(|entry| entry.is_occupied())
        {
            // The session answers a repeated order itself; a refusal would be taken for one of what is up.
            return;
        }
        if let Some((error_code, message)) = self.objection(instance, port_of(&start)) {
            return self.refuse(instance, incarnation, error_code, message, plan_hash(&start));
        }
        // The new start needs the id.
        self.settle(instance);
        let former = self.entries.get(&instance).map(|entry| entry.incarnation);
        self.attempts += 1;
        let attempt = Attempt {
            instance,
            incarnation,
            ordinal: self.attempts,
        };
        // Another controller learns by itself when a server is ready, and may have heard so long ago.
        let keeps_deadline = self.peer.is_some_and(|peer| peer.wants_startup_deadline);
        let mut limits = Limits::of(&start);
        if !keeps_deadline {
            limits = limits.without_startup();
        }
        let phase = Phase::Queued {
            attempt,
            start,
            limits,
            former: former.unwrap_or_default(),
            until: after(now, self.config.release),
        };
        let entry = Entry {
            incarnation,
            stop_owed: false,
            phase,
        };
        self.entries.insert(instance, entry);
        self.report(instance, incarnation, State::Preparing, Duration::ZERO);
        if former.is_none() {
            self.begin(now, instance);
        }
    }

    /// The id of a start is free: has it prepared.
    pub(super) fn begin(&mut self, now: Instant, instance: InstanceId) {
        let Some(Entry { phase, .. }) = self.entries.get_mut(&instance) else {
            return;
        };
        let Phase::Queued {
            attempt,
            start,
            limits,
            ..
        } = phase
        else {
            return;
        };
        let (attempt, start, limits) = (*attempt, std::mem::take(start), *limits);
        let startup = u64::try_from(start.startup_timeout_seconds).unwrap_or(0);
        let limit = self.config.preparation.max(Duration::from_secs(startup));
        *phase = Phase::Preparing {
            attempt,
            port: port_of(&start),
            plan_hash: plan_hash(&start),
            began: now,
            until: after(now, limit),
        };
        self.outputs.push_back(DaemonWork::Prepare {
            attempt,
            start,
            limits,
        });
    }

    /// A preparation hangs: it is given up, and can be ordered again.
    pub(super) fn preparation_overdue(&mut self, instance: InstanceId) {
        let Some(Entry { phase, .. }) = self.entries.get_mut(&instance) else {
            return;
        };
        let Phase::Preparing {
            attempt,
            plan_hash,
            began,
            until,
            ..
        } = phase
        else {
            return;
        };
        let seconds = until.saturating_duration_since(*began).as_secs_f64();
        let message = format!("the preparation of {instance} did not finish within {seconds} s");
        let (attempt, plan_hash) = (*attempt, std::mem::take(plan_hash));
        self.outputs.push_back(DaemonWork::CancelPreparation { attempt });
        let stage = StartPreparationStage::RuntimeProvision;
        self.reject(
            attempt,
            transient(stage, "PREPARATION_TIMED_OUT", message, plan_hash),
        );
    }

    /// The former start of an id is not let go of: nothing can be started under it now.
    pub(super) fn release_overdue(&mut self, instance: InstanceId) {
        let Some(Entry { phase, .. }) = self.entries.get_mut(&instance) else {
            return;
        };
        let Phase::Queued {
            attempt,
            start,
            former,
            ..
        } = phase
        else {
            return;
        };
        let message = format!("start {former} of {instance} has ended, but is not cleared away yet");
        let (attempt, plan_hash) = (*attempt, plan_hash(start));
        let stage = StartPreparationStage::Validation;
        self.reject(attempt, transient(stage, "ID_NOT_FREE", message, plan_hash));
    }

    /// Why a start cannot be begun now: the code, and a sentence.
    fn objection(&self, instance: InstanceId, port: Option<u16>) -> Option<(&'static str, String)> {
        if let Some(present) = self.entries.get(&instance).filter(|entry| entry.is_occupied()) {
            let current = present.incarnation;
            return Some((
                error_code::INSTANCE_STILL_ALIVE,
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
                StartFailureDisposition::Transient => StartRejection::RETRY_AFTER,
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
                Phase::Queued { .. } | Phase::Live(_) | Phase::Spooling { .. } | Phase::Ended { .. } => false,
            })
    }

    /// Ends an attempt that came to nothing.
    fn reject(&mut self, attempt: Attempt, rejection: StartRejection) {
        let Attempt {
            instance,
            incarnation,
            ..
        } = attempt;
        let owed = self.withdraw(instance);
        self.outputs.push_back(DaemonWork::RejectStart {
            instance,
            incarnation,
            rejection,
        });
        // A stop that was waiting for this start has nothing to stop any more.
        if owed {
            self.acknowledge_stop(instance, incarnation);
        }
        self.finish_if_drained();
    }

    /// Forgets a start that came to nothing; a former one that is not let go of yet is remembered again. Says whether
    /// the acknowledgement of a stop is owed.
    pub(super) fn withdraw(&mut self, instance: InstanceId) -> bool {
        let Some(entry) = self.entries.remove(&instance) else {
            return false;
        };
        if let Phase::Queued { former, .. } = entry.phase {
            let phase = Phase::Ended {
                told: Told::Settling,
                report_id: None,
            };
            let former = Entry {
                incarnation: former,
                stop_owed: false,
                phase,
            };
            self.entries.insert(instance, former);
        }
        entry.stop_owed
    }

    fn refuse(
        &mut self,
        instance: InstanceId,
        incarnation: Incarnation,
        error_code: &str,
        message: String,
        plan_hash: String,
    ) {
        let rejection = transient(StartPreparationStage::Validation, error_code, message, plan_hash);
        self.outputs.push_back(DaemonWork::RejectStart {
            instance,
            incarnation,
            rejection,
        });
    }
}

fn transient(
    stage: StartPreparationStage,
    error_code: &str,
    message: String,
    plan_hash: String,
) -> StartRejection {
    StartRejection {
        stage,
        error_code: error_code.to_owned(),
        message,
        disposition: StartFailureDisposition::Transient,
        retry_after: StartRejection::RETRY_AFTER,
        plan_hash,
    }
}

fn plan_hash(start: &StartInstance) -> String {
    let plan = start.composition_plan.as_ref();
    plan.map(|plan| plan.plan_hash.clone()).unwrap_or_default()
}
