//! What the streams say, and what the machine wants done about it

use std::{sync::Arc, time::Instant};

use prexorcloud_protocol::{
    Close, Code, ControllerEvent, InstanceId,
    compat::ContractMatch,
    fence::StaleEpoch,
    handshake::controller::Hello,
    instance::State,
    node::controller::{Commit, Contest, ControllerWork, StreamId},
    redact,
    roster::{GroupPolicy, InstanceEvent},
    session::controller::{Admission, ControllerOutcome},
    session::error_code,
};
use prexorcloud_security::certificate::Certificate;

use super::{
    Vitals, commits,
    task::Node,
    view::{Rival, SessionView},
};
use crate::{
    events::{Event, instant},
    lineage,
    store::StoreError,
    wall_clock::{now_millis, to_millis},
};

/// News of a node that wait for a storage that fails; what is beyond is counted, and the log says how many those were
const MAX_UNTOLD: usize = 64;

/// Why nobody will ever say what became of a command
const BROKEN: &str = "the connection to the node broke before its daemon said so";

impl Node {
    /// Hands an event of a stream to the machine, and does what is left to do about it
    pub(super) fn handle_event(&mut self, stream: StreamId, event: ControllerEvent) {
        if let ControllerEvent::Closed(outcome) = event {
            return self.ended.push((stream, outcome));
        }
        let Some(event) = self.machine.handle_event(Instant::now(), stream, event) else {
            return;
        };
        match event {
            ControllerEvent::Established => self.handle_established(stream),
            // The machine has checked that the line is of the present incarnation of an instance of this node.
            ControllerEvent::Console(output) => self.context.consoles.append(self.id, output),
            ControllerEvent::NodeStatus(load) => self.with_view(|view| {
                view.heard_at_ms = now_millis();
                view.load = Some(load);
            }),
            ControllerEvent::Unreachable { missed, silent_for } => {
                tracing::warn!(node = %self.id, missed, ?silent_for, "the node does not answer");
                self.set_unreachable(true);
                self.tell(Event::NodeHeartbeatStale {
                    node_id: self.id.to_string(),
                    missed_pongs: missed,
                    last_heartbeat_at: instant(self.with_view(|view| view.heard_at_ms)),
                });
                self.give_up_typed("the node does not answer");
            }
            ControllerEvent::Recovered { after } => {
                tracing::info!(node = %self.id, ?after, "the node answers again");
                self.set_unreachable(false);
                self.tell(Event::NodeHeartbeatResumed {
                    node_id: self.id.to_string(),
                    last_heartbeat_at: instant(now_millis()),
                });
            }
            ControllerEvent::ShutdownAcknowledged(ack) => {
                tracing::info!(node = %self.id, running_instances = ack.running_instances, "the node shuts down");
                for waiting in self.awaiting_shutdown.drain(..) {
                    // Nobody may be waiting any more.
                    let _ = waiting.send(ack);
                }
            }
            // It is no news of the controller: told in its own log, it would be there twice, and be the most of it.
            ControllerEvent::Log(record) => self.context.logs.append(self.id, *record),
            ControllerEvent::DaemonError(report) => {
                tracing::warn!(node = %self.id, code = report.error_code, said = report.error_message, context = report.context, "the daemon reports an error");
                if report.error_code == error_code::RECORDS_DAMAGED
                    && let Ok(instance) = report.context.parse()
                {
                    self.note(instance, report.error_message);
                } else if report.error_code == error_code::STALE_EPOCH {
                    self.note_fence(&report.error_message);
                } else if [error_code::PRE_WARM_FAILED, error_code::PRE_WARM_BUSY]
                    .contains(&report.error_code.as_str())
                {
                    self.handle_warm_failure(report);
                }
            }
            ControllerEvent::CommandWritten(written) => self.handle_command_written(written),
            ControllerEvent::Request(request) => self.handle_request(request),
            ControllerEvent::Ignored(anomaly) => {
                tracing::warn!(node = %self.id, %anomaly, "something from the daemon was ignored");
            }
            // What the machine has acted upon, and nobody else needs.
            _ => {}
        }
    }

    /// Shows what a daemon says about an instance, beside its state
    fn note(&self, instance: InstanceId, text: String) {
        let (context, node) = (Arc::clone(&self.context), self.id);
        // The storage may be slow, and this is only a note: no order waits for it, and there are never many.
        let Ok(permit) = Arc::clone(&context.notes).try_acquire_owned() else {
            return;
        };
        tokio::spawn(async move {
            commits::note(&*context.store, node, instance, &text).await;
            drop(permit);
        });
    }

    /// A node that obeys a later controller than this one tells something about this data folder
    fn note_fence(&self, message: &str) {
        let own = self.context.epoch;
        let Some(stale) = StaleEpoch::reported(message).filter(|stale| stale.highest > own) else {
            return;
        };
        let (context, node) = (Arc::clone(&self.context), self.id);
        let Ok(permit) = Arc::clone(&context.notes).try_acquire_owned() else {
            return;
        };
        tokio::spawn(async move {
            let data_dir = &context.config.data_dir;
            lineage::note_fence(&*context.store, data_dir, node.as_str(), own, stale.highest.get()).await;
            drop(permit);
        });
    }

    fn handle_established(&mut self, stream: StreamId) {
        let stream = self.streams.get_mut(stream);
        let Some(view) = stream.and_then(|stream| {
            stream.data.turn = None;
            stream.data.session.take()
        }) else {
            return;
        };
        self.context.logs.connected(self.id, &view.boot_id);
        self.awaiting_shutdown.clear();
        // They were for the stream before.
        self.give_up_typed(BROKEN);
        self.give_up_files();
        self.begin_cache();
        self.begin_modules();
        self.end_identity();
        self.end_subscriptions();
        self.tell(Event::NodeConnected {
            node_id: self.id.to_string(),
            session_id: view.session_id.clone(),
            timestamp: instant(view.since_ms),
        });
        self.with_view(|shared| {
            shared.heard_at_ms = view.since_ms;
            shared.session = Some(view);
        });
    }

    /// Handles the ends of streams, the last that each of them says
    pub(super) fn handle_ends(&mut self) {
        for (stream, outcome) in std::mem::take(&mut self.ended) {
            self.handle_end(stream, outcome);
        }
    }

    /// Records when the node was last seen, if that has changed
    pub(super) async fn note_last_seen(&mut self) {
        let Some(at_ms) = self.last_seen_ms.take() else {
            return;
        };
        let mut untold = std::mem::take(&mut self.untold);
        let lost = std::mem::take(&mut self.untold_lost);
        if lost > 0 {
            untold.push(Event::EventsLost {
                node_id: self.id.to_string(),
                missed: lost,
            });
        }
        let seen = self.change_and_tell(|record| record.last_seen_ms = at_ms, &untold);
        if let Err(error) = seen.await {
            // They go with the next change, in their order.
            if lost > 0 {
                untold.pop();
            }
            let later = std::mem::replace(&mut self.untold, untold);
            self.untold_lost += lost;
            for event in later {
                self.keep_untold(event);
            }
            tracing::warn!(node = %self.id, %error, "the node's last sight could not be recorded");
        }
    }

    fn keep_untold(&mut self, event: Event) {
        // Once one is lost, those after it are: the gap has one place.
        if self.untold_lost == 0 && self.untold.len() < MAX_UNTOLD {
            return self.untold.push(event);
        }
        if self.untold_lost == 0 {
            tracing::error!(node = %self.id, "the storage has failed for so long that news of the node are lost; the log of events will say how many");
        }
        self.untold_lost += 1;
        self.context.events.lose(1);
    }

    fn handle_end(&mut self, stream: StreamId, outcome: ControllerOutcome) {
        let was_current = self.machine.is_current(stream);
        let closed = ControllerEvent::Closed(outcome);
        let Some(ControllerEvent::Closed(outcome)) =
            self.machine.handle_event(Instant::now(), stream, closed)
        else {
            return;
        };
        if !was_current {
            tracing::info!(node = %self.id, %outcome, "a stream ended that did not count");
            return;
        }
        tracing::info!(node = %self.id, %outcome, "the node's session ended");
        self.awaiting_shutdown.clear();
        self.give_up_typed(BROKEN);
        self.give_up_files();
        self.give_up_cache();
        self.end_modules();
        self.end_identity();
        self.end_subscriptions();
        self.with_view(|view| view.session = None);
        self.tell(Event::NodeDisconnected {
            node_id: self.id.to_string(),
            reason: outcome.to_string(),
            timestamp: instant(now_millis()),
        });
    }

    /// Has something told with the next record of when the node was seen
    pub(super) fn tell(&mut self, event: Event) {
        self.last_seen_ms = Some(now_millis());
        self.keep_untold(event);
    }

    /// Does what the machine wants, in its order
    pub(super) async fn work(&mut self) {
        while let Some(work) = self.machine.poll_work() {
            match work {
                ControllerWork::Admit { hello } => self.admit(hello).await,
                ControllerWork::Accept { hello, admission } => self.accept(hello, admission),
                ControllerWork::Close { stream, ref close } => {
                    if let Some(stream) = self.streams.get(stream) {
                        tracing::info!(node = %self.id, address = %stream.data.peer.address(), %close, "a stream is ended");
                    }
                    let _ = self.streams.hand(work);
                }
                ControllerWork::Commit(Commit { id, changes }) => {
                    let (context, node) = (Arc::clone(&self.context), self.id);
                    let origins = self.origins(&changes);
                    self.committing = Some(Box::pin(async move {
                        (id, commits::write(&context, node, &changes, &origins).await)
                    }));
                }
                ControllerWork::Answer { order, result } => self.answer(order, result),
                ControllerWork::News(news) => self.show(news),
                ControllerWork::Drained => self.record_drained().await,
                ControllerWork::Contested {
                    holder,
                    challenger,
                    is_another,
                    outcome,
                } => self.note_contest(holder, challenger, is_another, outcome),
                // All of it is for a stream. What its session cannot send any more, its end says.
                work => drop(self.streams.hand(work)),
            }
        }
        self.streams.feed(&mut self.machine);
    }

    /// Tells the operator of two daemons with one identity
    fn note_contest(&self, holder: StreamId, challenger: StreamId, is_another: bool, outcome: Contest) {
        let address = |stream| {
            let stream = self.streams.get(stream);
            stream.map(|stream| stream.data.peer.address())
        };
        let (Some(holder), Some(challenger)) = (address(holder), address(challenger)) else {
            return;
        };
        match outcome {
            Contest::Kept => {
                tracing::warn!(node = %self.id, connected = %holder, turned_away = %challenger, two_processes = is_another, "two daemons use the identity of one node: the one that is connected answers and stays; stop the other one, or enrol it under a name of its own");
                self.with_view(|view| {
                    let attempts = view.rival.map_or(0, |rival| rival.attempts);
                    view.rival = Some(Rival {
                        address: challenger,
                        at_ms: now_millis(),
                        attempts: attempts + 1,
                    });
                });
            }
            Contest::Replaced => {
                tracing::warn!(node = %self.id, silent = %holder, replaced_by = %challenger, two_processes = is_another, "the node's daemon did not answer when it came in anew, and the newcomer takes its place");
            }
        }
    }

    /// Records the node, and finds out what its admission needs
    async fn admit(&mut self, hello: Box<Hello>) {
        let stream = hello.stream.stream();
        if !self.is_waiting(stream) {
            // The machine hears of its end, and goes on with the next.
            return tracing::info!(node = %self.id, "a stream ended before its handshake could be judged");
        }
        let prepared = self.prepare_admission(&hello).await;
        let now = Instant::now();
        match prepared {
            Ok(elsewhere) => {
                let admission = Admission {
                    session_id: uuid::Uuid::new_v4().to_string(),
                    epoch: self.context.epoch,
                    controller_api_port: self.context.http_port,
                    controller_grpc_addrs: self.context.grpc_addresses.clone(),
                    elsewhere,
                    groups: GroupPolicy::AdoptAny,
                };
                self.machine.handle_admission(now, hello, admission);
            }
            Err(error) => {
                tracing::error!(node = %self.id, %error, "a node cannot be admitted");
                let close = Close::new(Code::Unavailable, "the controller's storage failed, try again");
                self.machine.handle_admission_failed(now, stream, close);
            }
        }
    }

    /// Whether a stream is still there to be admitted
    fn is_waiting(&self, stream: StreamId) -> bool {
        let stream = self.streams.get(stream);
        stream.is_some_and(|stream| stream.session.with(|session, _| session.is_awaiting_admission()))
    }

    async fn prepare_admission(&mut self, hello: &Hello) -> Result<Vec<InstanceId>, StoreError> {
        let handshake = &hello.handshake;
        let stream = self.streams.get(hello.stream.stream());
        let peer = stream.map(|stream| stream.data.peer.address());
        let certificate = stream
            .and_then(|stream| stream.data.peer.certificate())
            .and_then(|certificate| Certificate::from_der(certificate).ok());
        let expires_at_ms = certificate
            .as_ref()
            .map(|certificate| to_millis(certificate.not_after()));
        let authorities = self.context.authorities.current();
        let signed_by = certificate
            .and_then(|certificate| Some(authorities.anchors().ok()?.issuer_of(&certificate)?.fingerprint()))
            .map(|signer| signer.to_string());
        let address = match (handshake.advertise_address.as_str(), peer) {
            ("", Some(peer)) => peer.ip().to_string(),
            (advertised, _) => advertised.to_owned(),
        };
        self.change_record(|record| {
            record.last_seen_ms = now_millis();
            record.version.clone_from(&handshake.version);
            record.address.clone_from(&address);
            record.total_memory_mb = handshake.total_memory_mb;
            record.available_cpus = handshake.available_cpus;
            record.labels.clone_from(&handshake.labels);
            record.host_info.clone_from(&handshake.host_info);
            record.certificate_expires_at_ms = expires_at_ms.unwrap_or(record.certificate_expires_at_ms);
            if let Some(signed_by) = &signed_by {
                record.signed_by.clone_from(signed_by);
            }
        })
        .await?;
        let listed = handshake.running_instances.iter();
        let listed = listed.filter_map(|listed| listed.instance_id.parse().ok());
        let (context, id) = (Arc::clone(&self.context), self.id);
        self.meanwhile(context.inventory.elsewhere(id, listed)).await
    }

    fn accept(&mut self, hello: Box<Hello>, admission: Admission) {
        let id = self.id;
        let Some(stream) = self.streams.get_mut(hello.stream.stream()) else {
            return;
        };
        let session_id = admission.session_id.clone();
        let boot_id = hello.handshake.boot_id.clone();
        let (version, contract) = (hello.handshake.version.clone(), hello.agreement.contract);
        let accepted = stream
            .session
            .with(|session, now| session.accept(now, hello, admission));
        if let Err(error) = accepted {
            tracing::info!(node = %id, address = %stream.data.peer.address(), %error, "a stream could not be admitted");
            return;
        }
        tracing::info!(node = %id, session = session_id, address = %stream.data.peer.address(), version, "a node connected");
        if contract == ContractMatch::Different {
            tracing::info!(node = %id, "the daemon was built from another contract of the same protocol version; what only one of the two knows is not used");
        }
        stream.data.session = Some(SessionView {
            session_id,
            boot_id,
            since_ms: now_millis(),
            unreachable: false,
            contract,
        });
    }

    /// Shows and logs what happened to an instance
    fn show(&self, news: InstanceEvent) {
        match news {
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
                let vitals = Vitals::of(player_count, uptime);
                if to.is_terminal() {
                    let known = self.machine.roster().get(instance);
                    // One that is lost may still run, and its plugin call until the time of its token is over.
                    if !known.is_some_and(|known| known.is_lost() && known.incarnation() == incarnation) {
                        self.context.workloads.forget(instance, incarnation);
                    }
                } else if matches!(to, State::Starting | State::Running) {
                    self.context
                        .workloads
                        .begin(instance, incarnation, Instant::now());
                }
                self.with_view(|view| match to.is_terminal() {
                    true => view.vitals.remove(&instance),
                    false => view.vitals.insert(instance, vitals),
                });
                tracing::info!(node = %self.id, %instance, incarnation = incarnation.get(), %from, %to, ?cause, "an instance changed");
            }
            InstanceEvent::Adopted {
                instance,
                group,
                incarnation,
                state,
                port,
            } => {
                tracing::info!(node = %self.id, %instance, %group, incarnation = incarnation.get(), %state, port, "an instance was adopted");
            }
            InstanceEvent::Counted {
                instance,
                player_count,
                uptime,
                ..
            } => {
                let vitals = Vitals::of(player_count, uptime);
                self.with_view(|view| view.vitals.insert(instance, vitals));
            }
            InstanceEvent::NotAdopted { count } => {
                tracing::warn!(node = %self.id, count, "the node lists more instances that nobody started than a node may bring; these were left alone");
            }
            InstanceEvent::Misreported { count } => {
                tracing::warn!(node = %self.id, count, "the node's list has entries that make no sense, such as one start twice; these were ignored");
            }
            InstanceEvent::Forgotten { instance, .. } => {
                self.forget_rest(instance);
                tracing::debug!(node = %self.id, %instance, "an instance that had ended is forgotten, for the sake of later ones");
            }
            InstanceEvent::StartFailed {
                instance, failure, ..
            } => {
                tracing::warn!(node = %self.id, %instance, code = failure.error_code, error = %redact::urls(&failure.message), "an instance could not be started");
            }
            InstanceEvent::OrphanStopped {
                instance,
                incarnation,
                reason,
            } => {
                tracing::warn!(node = %self.id, %instance, incarnation = incarnation.get(), ?reason, "an instance that is not wanted is stopped");
            }
            InstanceEvent::StopRefused {
                instance,
                incarnation,
                attempt,
                after,
                message,
            } => {
                tracing::warn!(node = %self.id, %instance, incarnation = incarnation.get(), attempt, ?after, error = %redact::urls(&message), "the daemon refuses to stop an instance; it is asked again");
            }
            InstanceEvent::StillRuns {
                instance,
                incarnation,
                port,
            } => {
                tracing::warn!(node = %self.id, %instance, incarnation = incarnation.get(), port, "a stop was not confirmed, and the daemon's own figures say that the server still runs; it is asked again");
            }
            InstanceEvent::StopUnanswered {
                instance,
                incarnation,
            } => {
                tracing::warn!(node = %self.id, %instance, incarnation = incarnation.get(), "the daemon does not answer a stop");
            }
            _ => {}
        }
    }

    fn set_unreachable(&self, unreachable: bool) {
        self.with_view(|view| {
            if let Some(session) = &mut view.session {
                session.unreachable = unreachable;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::{
        nodes::registry::{NodeContext, SharedView},
        store::{LOGGED, Query, SqliteOptions, SqliteStore, Store as _},
    };

    #[tokio::test]
    async fn news_beyond_the_bound_are_counted_and_the_log_says_so_in_their_place() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("controller.db");
        let store = Arc::new(SqliteStore::open(file, &SqliteOptions::default()).unwrap());
        let context = Arc::new(NodeContext::of(store.clone(), folder.path()));
        let mut node = Node::new("node-1".parse().unwrap(), context, SharedView::default());
        let kinds = async || {
            let entries = store.list(Query::prefix(LOGGED)).await.unwrap().entries;
            let record = |entry: crate::store::Entry| {
                <crate::records::EventRecord as prost::Message>::decode(entry.value).unwrap()
            };
            entries.into_iter().map(record).collect::<Vec<_>>()
        };
        let news = |number: usize| Event::NodeHeartbeatResumed {
            node_id: "node-1".to_owned(),
            last_heartbeat_at: number.to_string(),
        };
        for number in 0..MAX_UNTOLD + 6 {
            node.tell(news(number));
        }
        assert_eq!(node.context.events.lost(), 6);
        node.note_last_seen().await;
        let told = kinds().await;
        assert_eq!(told.len(), MAX_UNTOLD + 1);
        let gap = told.last().unwrap();
        assert_eq!(gap.kind, crate::events::LOST);
        assert_eq!(gap.payload_json, r#"{"nodeId":"node-1","missed":6}"#);

        node.tell(news(0));
        node.note_last_seen().await;
        assert_eq!(kinds().await.last().unwrap().kind, "NODE_HEARTBEAT_RESUMED");

        // What a storage that fails has not taken is kept in its order, and nothing is counted twice.
        store.close().await.unwrap();
        for number in 0..MAX_UNTOLD + 6 {
            node.tell(news(number));
            if number % 10 == 0 {
                node.note_last_seen().await;
            }
        }
        node.last_seen_ms = Some(1);
        node.note_last_seen().await;
        assert_eq!((node.untold.len(), node.untold_lost), (MAX_UNTOLD, 6));
        assert_eq!(node.untold.first(), Some(&news(0)));
        assert_eq!(node.context.events.lost(), 12);
    }
}
