//! What a session says, and the admission of a new one

use std::sync::atomic::Ordering;

use prexorcloud_proto::ConsoleOutput;
use prexorcloud_protocol::{
    Close, Code, ControllerEvent, ControllerSession, InstanceId,
    compat::ContractMatch,
    handshake::controller::Hello,
    reconcile::GroupPolicy,
    roster::{InstanceEvent, Roster},
    session::controller::{AcceptError, Admission},
};
use prexorcloud_transport::{Peer, SessionHandle};

use super::{Vitals, crashes, launch::is_live, node::Node, view::SessionView};
use crate::{
    records::InstanceRecord,
    store::{self, StoreError},
    wall_clock::now_millis,
};

/// Crash records that may be stored beyond the bound before the oldest are deleted
const CRASHES_BETWEEN_PRUNING: usize = 16;

impl Node {
    /// Admits a stream whose handshake is complete; the previous one of this node ends
    ///
    /// What has to be stored is stored first, and the previous stream gives way last: a stream that has ended meanwhile,
    /// or was opened before the present one, costs nobody anything.
    pub(super) async fn admit(
        &mut self,
        hello: Box<Hello>,
        session: SessionHandle<ControllerSession>,
        peer: Peer,
    ) {
        let elsewhere = match self.prepare_admission(&hello, &peer).await {
            Ok(elsewhere) => elsewhere,
            Err(error) => {
                tracing::error!(node = %self.id, %error, "a node cannot be admitted");
                let close = Close::new(Code::Unavailable, "the controller's storage failed, try again");
                session.with(|session, _| session.close_with(close));
                return;
            }
        };
        let stream = hello.stream.clone();
        if !self.look_at_roster(|roster| roster.admits(&stream)) {
            tracing::info!(node = %self.id, address = %peer.address(), "a stream that was opened before the present one is turned away");
            let close = Close::new(Code::Aborted, AcceptError::Superseded.to_string());
            session.with(|session, _| session.close_with(close));
            return;
        }
        if !session.with(|session, _| session.is_awaiting_admission()) {
            tracing::info!(node = %self.id, address = %peer.address(), "a stream ended before it could be admitted");
            return;
        }
        // What the old stream had said until now still counts, what it says from now on does not.
        self.go_offline();
        self.handle_backlog().await;
        let session_id = uuid::Uuid::new_v4().to_string();
        let admission = Admission {
            session_id: session_id.clone(),
            epoch: self.around.epoch,
            controller_api_port: self.around.http_port,
            controller_grpc_addrs: self.around.grpc_addresses.clone(),
            elsewhere,
            groups: GroupPolicy::AdoptAny,
        };
        let roster = std::mem::replace(&mut self.parked, Roster::new(self.id));
        let (version, contract) = (hello.handshake.version.clone(), hello.agreement.contract);
        match session.with(|session, now| session.accept(now, hello, admission, roster)) {
            Ok(()) => {
                tracing::info!(node = %self.id, session = session_id, address = %peer.address(), version, "a node connected");
                if contract == ContractMatch::Different {
                    tracing::info!(node = %self.id, "the daemon was built from another contract of the same protocol version; what only one of the two knows is not used");
                }
                let since_ms = now_millis();
                self.with_view(|view| {
                    view.session = Some(SessionView {
                        session_id,
                        since_ms,
                        unreachable: false,
                        contract,
                    });
                    view.heard_at_ms = since_ms;
                });
                self.session = Some(session);
            }
            // The stream ended while we were looking; the next one comes by itself.
            Err(refused) => self.parked = refused.roster,
        }
    }

    /// Records the node, and finds out what must not run on it
    async fn prepare_admission(&mut self, hello: &Hello, peer: &Peer) -> Result<Vec<InstanceId>, StoreError> {
        let handshake = &hello.handshake;
        let address = match handshake.advertise_address.as_str() {
            "" => peer.address().ip().to_string(),
            advertised => advertised.to_owned(),
        };
        self.change_record(|record| {
            record.last_seen_ms = now_millis();
            record.version.clone_from(&handshake.version);
            record.address.clone_from(&address);
            record.total_memory_mb = handshake.total_memory_mb;
            record.available_cpus = handshake.available_cpus;
            record.labels.clone_from(&handshake.labels);
            record.host_info.clone_from(&handshake.host_info);
        })
        .await?;
        let (instances, _) = store::load_all::<InstanceRecord>(&*self.around.store).await?;
        let elsewhere = instances
            .into_iter()
            .map(|stored| stored.record)
            .filter(|record| record.node_id != self.id.as_str() && is_live(record))
            .filter_map(|record| record.instance_id.parse().ok());
        Ok(elsewhere.collect())
    }

    pub(super) async fn handle_event(&mut self, event: ControllerEvent) {
        match event {
            ControllerEvent::Instance(event) => self.handle_instance_event(event).await,
            ControllerEvent::Console(output) => self.show(output),
            ControllerEvent::Crash { report, standing } => {
                let report_id = report.report_id.clone();
                tracing::warn!(node = %self.id, instance = report.instance_id, exit_code = report.exit_code, ?standing, "an instance crashed");
                match crashes::store(&*self.around.store, self.id.as_str(), *report).await {
                    Ok(_) => {
                        self.bound_crashes().await;
                        if let Some(session) = &self.session {
                            session.with(|session, _| session.crash_stored(&report_id));
                        }
                    }
                    // Not acknowledged, so the daemon keeps it and sends it again.
                    Err(error) => {
                        tracing::error!(node = %self.id, %error, "a crash report could not be stored")
                    }
                }
            }
            ControllerEvent::NodeStatus(load) => self.with_view(|view| {
                view.heard_at_ms = now_millis();
                view.load = Some(load);
            }),
            ControllerEvent::Unreachable { missed, silent_for } => {
                tracing::warn!(node = %self.id, missed, ?silent_for, "the node does not answer");
                self.set_unreachable(true);
            }
            ControllerEvent::Recovered { after } => {
                tracing::info!(node = %self.id, ?after, "the node answers again");
                self.set_unreachable(false);
            }
            ControllerEvent::ShutdownAcknowledged(ack) => {
                tracing::info!(node = %self.id, running_instances = ack.running_instances, "the node shuts down");
                for waiting in self.awaiting_shutdown.drain(..) {
                    // Nobody may be waiting any more.
                    let _ = waiting.send(ack);
                }
            }
            ControllerEvent::Log(record) => {
                tracing::debug!(node = %self.id, level = record.level, logger = record.logger, message = record.message, "daemon log");
            }
            ControllerEvent::DaemonError(report) => {
                tracing::warn!(node = %self.id, code = report.error_code, message = report.error_message, context = report.context, "the daemon reports an error");
            }
            ControllerEvent::Request(request) => self.handle_request(request),
            ControllerEvent::Closed(outcome) => {
                tracing::info!(node = %self.id, %outcome, "the node's session ended");
                self.go_offline();
                if let Err(error) = self
                    .change_record(|record| record.last_seen_ms = now_millis())
                    .await
                {
                    tracing::warn!(node = %self.id, %error, "the node's last sight could not be recorded");
                }
            }
            ControllerEvent::Ignored(anomaly) => {
                tracing::warn!(node = %self.id, %anomaly, "something from the daemon was ignored");
            }
            // The admission has said it, and a handshake is the doorman's.
            ControllerEvent::Established | ControllerEvent::Hello(_) | _ => {}
        }
    }

    /// Deletes what is beyond the bound, now and then
    async fn bound_crashes(&self) {
        let count = self.around.crashes_since_pruning.fetch_add(1, Ordering::Relaxed);
        if count + 1 < CRASHES_BETWEEN_PRUNING {
            return;
        }
        self.around.crashes_since_pruning.store(0, Ordering::Relaxed);
        let keep = self.around.config.crashes.keep;
        if let Err(error) = crashes::prune(&*self.around.store, keep).await {
            tracing::warn!(%error, "old crash records could not be deleted");
        }
    }

    async fn handle_instance_event(&mut self, event: InstanceEvent) {
        match event {
            InstanceEvent::Changed {
                instance,
                incarnation,
                from,
                to,
                cause,
                player_count,
                uptime,
                ..
            } => {
                let vitals = Vitals {
                    player_count,
                    uptime_ms: i64::try_from(uptime.as_millis()).unwrap_or(i64::MAX),
                    at_ms: now_millis(),
                };
                self.with_view(|view| match to.is_terminal() {
                    true => view.vitals.remove(&instance),
                    false => view.vitals.insert(instance, vitals),
                });
                if from != to {
                    tracing::info!(node = %self.id, %instance, incarnation = incarnation.get(), %from, %to, ?cause, "an instance changed");
                    self.save(instance).await;
                }
            }
            InstanceEvent::Adopted {
                instance,
                group,
                incarnation,
                state,
                port,
            } => {
                tracing::info!(node = %self.id, %instance, %group, incarnation = incarnation.get(), %state, port, "an instance was adopted");
                self.save(instance).await;
            }
            InstanceEvent::StartRetrying {
                instance,
                incarnation,
                attempt,
                after,
                failure,
            } => {
                let text = format!(
                    "{}: {} (attempt {attempt} in {after:?})",
                    failure.error_code, failure.message
                );
                self.note_error(instance, incarnation, &text).await;
            }
            InstanceEvent::StartFailed {
                instance,
                incarnation,
                failure,
            } => {
                let text = format!("{}: {}", failure.error_code, failure.message);
                tracing::warn!(node = %self.id, %instance, error = text, "an instance could not be started");
                // The reason first: whoever waits for the state finds it there.
                self.note_error(instance, incarnation, &text).await;
                self.save(instance).await;
            }
            InstanceEvent::StopFailed {
                instance,
                incarnation,
                message,
            } => {
                self.note_error(instance, incarnation, &format!("stop failed: {message}"))
                    .await;
            }
            InstanceEvent::StartupTimedOut {
                instance,
                incarnation,
                limit,
            } => {
                self.note_error(instance, incarnation, &format!("not running after {limit:?}"))
                    .await;
            }
            InstanceEvent::StopOverdue {
                instance,
                incarnation,
                mode,
            } => {
                self.note_error(
                    instance,
                    incarnation,
                    &format!("the stop ({mode:?}) took too long"),
                )
                .await;
            }
            InstanceEvent::OrphanStopped {
                instance,
                incarnation,
                reason,
            } => {
                tracing::warn!(node = %self.id, %instance, incarnation = incarnation.get(), ?reason, "an instance that is not wanted is stopped");
            }
            InstanceEvent::Lagged { dropped } => {
                tracing::warn!(node = %self.id, dropped, "news of instances was lost, saving all of them");
                let all = self.look_at_roster(|roster| {
                    roster.entries().map(|entry| entry.instance()).collect::<Vec<_>>()
                });
                for instance in all {
                    self.save(instance).await;
                }
            }
            InstanceEvent::StartAccepted { .. } | InstanceEvent::LifetimeOver { .. } | _ => {}
        }
    }

    /// The session has checked that the instance is on this node
    fn show(&self, output: ConsoleOutput) {
        self.around.consoles.append(output);
    }

    fn set_unreachable(&self, unreachable: bool) {
        self.with_view(|view| {
            if let Some(session) = &mut view.session {
                session.unreachable = unreachable;
            }
        });
    }
}
