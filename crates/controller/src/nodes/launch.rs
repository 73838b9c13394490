//! Starting, stopping and commanding instances: recorded first, told to the daemon second

use std::{collections::HashSet, time::Duration};

use prexorcloud_proto::{CompositionPlan, InstanceCategory, InstanceState, RuntimeArtifact, StartInstance};
use prexorcloud_protocol::{DeniedReason, InstanceId, StopMode, Verdict, instance::State, session, validate};
use sha2::{Digest as _, Sha256};

use super::{
    OrderError, StartOrder, StopAnswer,
    node::{Act, Node},
    persistence::{ATTEMPTS, count},
};
use crate::{
    records::{InstanceRecord, Wanted},
    store::{self, Expect, Record as _, Txn},
    wall_clock::now_millis,
};

impl Node {
    /// Starts an instance under the next incarnation of its id
    pub(super) async fn start(&mut self, order: StartOrder) -> Result<InstanceRecord, OrderError> {
        self.require_schedulable()?;
        let port = self.choose_port(order.port)?;
        for _ in 0..ATTEMPTS {
            let known = store::load::<InstanceRecord>(&*self.around.store, order.instance.as_str()).await?;
            if let Some(known) = known.as_ref().filter(|known| is_live(&known.record)) {
                let state = known.record.state().as_str_name();
                return Err(OrderError::Conflict(format!(
                    "{} is {state} on {}",
                    order.instance, known.record.node_id
                )));
            }
            let (last, counter) = self.last_incarnation(order.instance).await?;
            let incarnation = last + 1;
            let start = self.start_instance(&order, port, incarnation);
            validate::start_instance(&start).map_err(|error| OrderError::Invalid(error.to_string()))?;
            let now = now_millis();
            let record = InstanceRecord {
                instance_id: order.instance.to_string(),
                node_id: self.id.to_string(),
                start: Some(start.clone()),
                wanted: Wanted::Run.into(),
                state: InstanceState::Scheduled.into(),
                created_at_ms: known.as_ref().map_or(now, |known| known.record.created_at_ms),
                running_since_ms: 0,
                updated_at_ms: now,
                last_error: String::new(),
            };
            let txn = match &known {
                Some(known) => Txn::new().replace(known.revision, &record),
                None => Txn::new().create(&record),
            };
            let txn = count(txn, order.instance, incarnation, counter);
            if self.around.store.txn(txn).await?.committed().is_none() {
                continue;
            }
            return match self.act(Act::Start(Box::new(start))) {
                Verdict::Accepted | Verdict::AlreadyInEffect => Ok(record),
                Verdict::Denied(reason) => {
                    self.abandon(record, &reason).await;
                    Err(OrderError::Conflict(reason.to_string()))
                }
            };
        }
        Err(OrderError::Conflict(format!(
            "{} is being changed by others",
            order.instance
        )))
    }

    /// The roster would not have it: nothing was sent, so the record ends here
    async fn abandon(&self, record: InstanceRecord, reason: &DeniedReason) {
        let Ok(found) = self.recorded_by_id(&record.instance_id).await else {
            return;
        };
        let ended = InstanceRecord {
            state: InstanceState::Crashed.into(),
            last_error: reason.to_string(),
            ..record
        };
        if let Err(error) = self.around.store.txn(Txn::new().replace(found, &ended)).await {
            tracing::error!(node = %self.id, instance = ended.instance_id, %error, "a refused start could not be recorded");
        }
    }

    async fn recorded_by_id(&self, instance: &str) -> Result<store::Revision, OrderError> {
        let found = store::load::<InstanceRecord>(&*self.around.store, instance).await?;
        found
            .map(|found| found.revision)
            .ok_or(OrderError::UnknownInstance)
    }

    fn require_schedulable(&self) -> Result<(), OrderError> {
        if !self.is_connected() {
            return Err(OrderError::NotConnected);
        }
        let unreachable =
            self.with_view(|view| view.session.as_ref().is_some_and(|session| session.unreachable));
        let record = self.record.as_ref().map(|stored| &stored.record);
        if unreachable {
            Err(OrderError::NotSchedulable("unreachable"))
        } else if record.is_some_and(|record| record.drain.is_some()) {
            Err(OrderError::NotSchedulable("draining"))
        } else if record.is_some_and(|record| record.cordoned) {
            Err(OrderError::NotSchedulable("cordoned"))
        } else {
            Ok(())
        }
    }

    /// Instances and reported ports are both looked at: a port is never booked twice, even right after a reconnect
    fn choose_port(&mut self, wanted: Option<u16>) -> Result<u16, OrderError> {
        let booked: HashSet<u16> = self.look_at_roster(|roster| {
            let live = roster
                .entries()
                .chain(roster.orphans())
                .filter(|entry| !entry.is_terminal());
            live.map(|entry| entry.port()).collect()
        });
        if let Some(port) = wanted {
            return if booked.contains(&port) {
                Err(OrderError::Conflict(format!(
                    "port {port} is used by another instance on {}",
                    self.id
                )))
            } else {
                Ok(port)
            };
        }
        let reported: HashSet<i32> = self.with_view(|view| {
            view.load
                .as_ref()
                .map(|load| load.used_ports.iter().copied().collect())
                .unwrap_or_default()
        });
        let range = self.around.config.instances.port_range.clone();
        range
            .clone()
            .find(|port| !booked.contains(port) && !reported.contains(&i32::from(*port)))
            .ok_or(OrderError::NoFreePort {
                first: *range.start(),
                last: *range.end(),
            })
    }

    fn start_instance(&self, order: &StartOrder, port: u16, incarnation: u64) -> StartInstance {
        let defaults = &self.around.config.instances;
        let jar_file = file_name(&order.jar).to_owned();
        let is_url = order.jar.contains("://");
        let download_url = if is_url {
            order.jar.clone()
        } else {
            format!("file://{}", order.jar)
        };
        let runtime = RuntimeArtifact {
            jar_file: jar_file.clone(),
            download_url: download_url.clone(),
            sha256: order.sha256.clone(),
            category: InstanceCategory::Server.into(),
            ..RuntimeArtifact::default()
        };
        let mut start = StartInstance {
            instance_id: order.instance.to_string(),
            group: order.group.to_string(),
            port: i32::from(port),
            memory_mb: order.memory_mb,
            jvm_args: order.jvm_args.clone(),
            env: order.env.clone(),
            jar_file,
            download_url,
            startup_timeout_seconds: seconds(order.startup_timeout.unwrap_or(defaults.startup_timeout)),
            shutdown_grace_seconds: seconds(order.shutdown_grace.unwrap_or(defaults.shutdown_grace)),
            max_lifetime_seconds: order.max_lifetime.map_or(0, seconds),
            category: InstanceCategory::Server.into(),
            incarnation,
            ..StartInstance::default()
        };
        let plan_hash = plan_hash(&start, &order.sha256);
        start.composition_plan = Some(CompositionPlan {
            plan_hash,
            runtime: Some(runtime),
            ..CompositionPlan::default()
        });
        start
    }

    /// Stops an instance; the wish is recorded first, so that it holds across restarts and reconnects
    pub(super) async fn stop(&mut self, instance: InstanceId, force: bool) -> Result<StopAnswer, OrderError> {
        let mode = if force {
            StopMode::Force
        } else {
            StopMode::Graceful
        };
        for _ in 0..ATTEMPTS {
            let found = self.recorded(instance).await?;
            let mut record = found.record;
            let ended = self.known(instance).is_none_or(|known| known.state.is_terminal());
            if ended && !is_live(&record) {
                return Ok(StopAnswer::AlreadyStopped);
            }
            let wanted = match (force, record.wanted()) {
                (true, _) | (false, Wanted::ForceStop) => Wanted::ForceStop,
                (false, _) => Wanted::Stop,
            };
            if wanted != record.wanted() {
                record.set_wanted(wanted);
                record.updated_at_ms = now_millis();
                if self
                    .around
                    .store
                    .txn(Txn::new().replace(found.revision, &record))
                    .await?
                    .committed()
                    .is_none()
                {
                    continue;
                }
            }
            return match self.act(Act::Stop(instance, mode)) {
                Verdict::Accepted | Verdict::AlreadyInEffect if wanted == Wanted::ForceStop => {
                    Ok(StopAnswer::ForceStopping)
                }
                Verdict::Accepted | Verdict::AlreadyInEffect => Ok(StopAnswer::Stopping),
                Verdict::Denied(DeniedReason::AlreadyEnded) => Ok(StopAnswer::AlreadyStopped),
                Verdict::Denied(reason) => Err(OrderError::Conflict(reason.to_string())),
            };
        }
        Err(OrderError::Conflict(format!(
            "{instance} is being changed by others"
        )))
    }

    /// Sends a line to an instance's console; the protocol has no acknowledgement for it
    pub(super) fn command(&mut self, instance: InstanceId, line: &str) -> Result<(), OrderError> {
        if self.known(instance).is_none() {
            return Err(OrderError::UnknownInstance);
        }
        let Some(handle) = &self.session else {
            return Err(OrderError::NotConnected);
        };
        handle
            .with(|session, _| session.command(instance, line, None))
            .map_err(|error| match error {
                session::controller::CommandError::NotConnected => OrderError::NotConnected,
                session::controller::CommandError::Invalid(invalid) => {
                    OrderError::Invalid(invalid.to_string())
                }
                other => OrderError::Conflict(other.to_string()),
            })
    }

    /// Gives up an instance whose node is away and may not come back
    ///
    /// If it runs after all when the node is back, it is stopped there.
    pub(super) fn declare_lost(&mut self, instance: InstanceId) -> Result<(), OrderError> {
        if self.is_connected() {
            return Err(OrderError::Conflict(format!(
                "{} is connected: stop the instance instead",
                self.id
            )));
        }
        match self.act(Act::DeclareLost(instance)) {
            Verdict::Accepted | Verdict::AlreadyInEffect => Ok(()),
            Verdict::Denied(DeniedReason::UnknownInstance) => Err(OrderError::UnknownInstance),
            Verdict::Denied(reason) => Err(OrderError::Conflict(reason.to_string())),
        }
    }

    /// Deletes the record and the console of an instance that has ended
    pub(super) async fn forget(&mut self, instance: InstanceId) -> Result<(), OrderError> {
        let found = self.recorded(instance).await?;
        let ended = self.known(instance).is_none_or(|known| known.state.is_terminal());
        if !ended || is_live(&found.record) {
            return Err(OrderError::Conflict(format!(
                "{instance} is {}",
                found.record.state().as_str_name()
            )));
        }
        let key = found.record.key();
        let txn = Txn::new()
            .expect(key.clone(), Expect::At(found.revision))
            .delete(key);
        if self.around.store.txn(txn).await?.committed().is_none() {
            return Err(OrderError::Conflict(format!(
                "{instance} is being changed by others"
            )));
        }
        if let Verdict::Denied(reason) = self.act(Act::Forget(instance)) {
            tracing::warn!(node = %self.id, %instance, %reason, "an instance was deleted but is still known");
        }
        self.with_view(|view| view.vitals.remove(&instance));
        self.around.consoles.forget(instance.as_str());
        Ok(())
    }
}

/// The name of the file that a path or URL ends in, without query and fragment
pub(crate) fn file_name(jar: &str) -> &str {
    let path = jar.split(['?', '#']).next().unwrap_or_default();
    path.rsplit('/').next().unwrap_or_default()
}

/// Whether an instance has not ended, as far as its record tells
pub(crate) fn is_live(record: &InstanceRecord) -> bool {
    !State::try_from(record.state).is_ok_and(State::is_terminal)
}

fn seconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_secs()).unwrap_or(i32::MAX)
}

/// Equal for starts that would prepare the same files; daemons echo it and do not look into it
fn plan_hash(start: &StartInstance, sha256: &str) -> String {
    let mut digest = Sha256::new();
    for part in [
        &start.instance_id,
        &start.group,
        &start.jar_file,
        &start.download_url,
        sha256,
    ] {
        digest.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        digest.update(part.as_bytes());
    }
    digest
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
