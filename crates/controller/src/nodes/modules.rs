//! The modules of a node: what it reports, what it is sent, and what it has to remove

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use prexorcloud_content::{Digest, MAX_INLINE_BYTES};
use prexorcloud_logs::trace;
use prexorcloud_proto::{
    ArtifactKind, ArtifactRef, ModuleInstall, ModuleSnapshot, ModuleStateUpdate, ModuleUninstall,
    controller_message,
};
use prexorcloud_protocol::{
    Capabilities, ControllerSession, ModuleId, NodeId,
    modules::{Action, Distribution, Has, Listing, Output, Wanted},
    trace::TraceParent,
};
use prexorcloud_transport::SessionHandle;
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};
use tracing::{Instrument as _, Span};

use super::{
    inline::{is_next, until_next},
    registry::NodeContext,
    task::Node,
};
use crate::{
    modules::{Installed, ModuleArtifact, NodeModule, NodeModulesRecord, wanted},
    store::Txn,
    wall_clock::now_millis,
};

/// How long a jar may wait for room on its stream; the order is given again after that
const WITHIN: Duration = Duration::from_secs(540);

/// Orders that were not sent and that the node's task has not heard of; what finds no place is given again when its answer is overdue
const UNSENT: usize = 64;

/// What the node's task keeps of modules
pub(super) struct NodeModules {
    machine: Distribution,
    installed: watch::Receiver<Installed>,
    /// Orders of which another task found that they cannot be sent
    unsent: (mpsc::Sender<Action>, mpsc::Receiver<Action>),
}

impl NodeModules {
    pub(super) fn new(installed: watch::Receiver<Installed>) -> Self {
        Self::remembering(installed, BTreeMap::new())
    }

    fn remembering(mut installed: watch::Receiver<Installed>, has: BTreeMap<ModuleId, Has>) -> Self {
        let wanted = wanted(&installed.borrow_and_update());
        Self {
            machine: Distribution::new(wanted, has),
            installed,
            unsent: mpsc::channel(UNSENT),
        }
    }

    /// Waits until something else is installed, or something is due
    pub(super) async fn next(&mut self) {
        let due = self.machine.poll_timeout();
        let waiting = async {
            match due {
                Some(due) => tokio::time::sleep_until(due.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = self.installed.changed() => {
                if changed.is_err() {
                    // The controller stops, and with it this task.
                    std::future::pending::<()>().await;
                }
                let wanted = wanted(&self.installed.borrow_and_update());
                self.machine.handle_wanted(Instant::now(), wanted);
            }
            Some(action) = self.unsent.1.recv() => self.machine.handle_not_sent(Instant::now(), &action),
            () = waiting => self.machine.handle_timeout(Instant::now()),
        }
    }
}

impl Node {
    /// Puts back what was recorded
    pub(super) fn restore_modules(&mut self, record: NodeModulesRecord) {
        let has = record.modules.into_iter().filter_map(|module| {
            let has = Has {
                version: module.version,
                sha256: module.sha256,
                state: module.state,
                last_error: module.last_error,
                updated_at_ms: module.updated_at_ms,
            };
            Some((module.id.parse().ok()?, has))
        });
        self.modules = NodeModules::remembering(self.context.modules.watch(), has.collect());
        self.show_modules();
    }

    /// Whether something of a module waits, or was given up, that is done now
    pub(super) fn retry_module(&mut self, module: ModuleId) -> bool {
        self.modules.machine.handle_retry(Instant::now(), module)
    }

    pub(super) fn begin_modules(&mut self) {
        let both = self
            .current_session()
            .and_then(|session| session.with(|session, _| session.capabilities()));
        let lists = match both.is_some_and(|both| both.contains(Capabilities::MODULES)) {
            true => Listing::AfterHandshake,
            false => Listing::Never,
        };
        self.modules.machine.handle_connected(Instant::now(), lists);
    }

    pub(super) fn end_modules(&mut self) {
        self.modules.machine.handle_disconnected(Instant::now());
    }

    pub(super) fn handle_module_state(&mut self, update: ModuleStateUpdate) {
        let Ok(module) = update.module_id.parse() else {
            return;
        };
        tracing::info!(node = %self.id, %module, state = update.state, version = update.version, error = update.last_error, "a module changed on its node");
        let has = Has {
            version: update.version,
            sha256: update.sha256.to_ascii_lowercase(),
            state: update.state,
            last_error: update.last_error,
            updated_at_ms: update.updated_at_ms,
        };
        self.modules.machine.handle_state(Instant::now(), module, has);
    }

    pub(super) fn handle_module_snapshot(&mut self, snapshot: ModuleSnapshot) {
        let known = self.modules.machine.has().clone();
        let listed = snapshot.modules.into_iter().filter_map(|report| {
            let module: ModuleId = report.module_id.parse().ok()?;
            let mut has = Has {
                version: report.version,
                sha256: report.sha256.to_ascii_lowercase(),
                state: report.state,
                last_error: report.last_error,
                updated_at_ms: 0,
            };
            let is_same = |known: &&Has| (&known.state, &known.sha256) == (&has.state, &has.sha256);
            let since = known
                .get(&module)
                .filter(is_same)
                .map(|known| known.updated_at_ms);
            has.updated_at_ms = since.unwrap_or_else(now_millis);
            Some((module, has))
        });
        let listed: Vec<_> = listed.collect();
        self.modules.machine.handle_snapshot(Instant::now(), listed);
    }

    /// Does what the machine wants, in its order: what is sent is recorded first
    pub(super) async fn work_modules(&mut self) {
        let mut is_recorded = true;
        while let Some(output) = self.modules.machine.poll_output() {
            match output {
                Output::Note => {
                    self.show_modules();
                    is_recorded = self.record_modules().await;
                }
                Output::Tell(action) if is_recorded => self.order_module(action),
                Output::Tell(action) => self.modules.machine.handle_not_sent(Instant::now(), &action),
            }
        }
    }

    fn show_modules(&self) {
        let has = self.modules.machine.has().clone();
        self.with_view(|view| view.modules = Arc::new(has));
    }

    async fn record_modules(&mut self) -> bool {
        let modules = self.modules.machine.has().iter().map(|(module, has)| NodeModule {
            id: module.to_string(),
            version: has.version.clone(),
            sha256: has.sha256.clone(),
            state: has.state.clone(),
            last_error: has.last_error.clone(),
            updated_at_ms: has.updated_at_ms,
        });
        let record = NodeModulesRecord {
            node_id: self.id.to_string(),
            modules: modules.collect(),
        };
        let store = Arc::clone(&self.context.store);
        let written = self.meanwhile(store.txn(Txn::new().put_record(&record))).await;
        match written {
            Ok(_) => true,
            Err(error) => {
                tracing::error!(node = %self.id, %error, "what a node says of its modules could not be recorded");
                false
            }
        }
    }

    fn order_module(&mut self, action: Action) {
        let Some(session) = self.current_session().cloned() else {
            return;
        };
        let node = self.id;
        let trace = self.context.modules.trace_of(action.module().as_str());
        let span = trace.as_ref().map_or_else(Span::none, trace::span);
        let _inside = span.enter();
        match action {
            Action::Uninstall { module } => {
                let payload = controller_message::Payload::ModuleUninstall(ModuleUninstall {
                    module_id: module.to_string(),
                });
                match session.with(|session, _| session.send_traced(payload, trace)) {
                    Ok(()) => tracing::info!(%node, %module, "a node is told to remove a module"),
                    Err(error) => {
                        tracing::debug!(%node, %module, %error, "a removal was not sent");
                        let action = Action::Uninstall { module };
                        self.modules.machine.handle_not_sent(Instant::now(), &action);
                    }
                }
            }
            Action::Install { wanted, previous } => {
                let installed = Arc::clone(&self.modules.installed.borrow());
                let entry = installed.get(wanted.module.as_str());
                let Some(entry) = entry.filter(|entry| entry.current.sha256 == wanted.sha256) else {
                    // It has changed since, and the plan is about to.
                    return;
                };
                let (context, artifact) = (Arc::clone(&self.context), entry.current.clone());
                let unsent = self.modules.unsent.0.clone();
                let sending = async move {
                    let sending = send(
                        &context,
                        node,
                        &session,
                        &wanted,
                        artifact,
                        previous.clone(),
                        trace,
                    );
                    let sent = timeout(WITHIN, sending).await;
                    if sent.is_err() {
                        tracing::warn!(%node, module = %wanted.module, "a module could not be sent in time, since the daemon or the disk was busy");
                    }
                    if !sent.unwrap_or(false) {
                        // Where there is no room, the order is overdue some time.
                        let _ = unsent.try_send(Action::Install { wanted, previous });
                    }
                };
                tokio::spawn(sending.instrument(span.clone()));
            }
        }
    }
}

/// Says whether it was sent
async fn send(
    context: &NodeContext,
    node: NodeId,
    session: &SessionHandle<ControllerSession>,
    wanted: &Wanted,
    artifact: ModuleArtifact,
    previous: Option<String>,
    trace: Option<TraceParent>,
) -> bool {
    let module = wanted.module;
    let Ok(digest) = artifact.sha256.parse::<Digest>() else {
        tracing::error!(%node, %module, "the digest of a recorded module is none");
        return false;
    };
    let mut install = ModuleInstall {
        module_id: module.to_string(),
        version: artifact.version,
        sha256: artifact.sha256,
        signature_bytes: artifact.signature.into(),
        signature_kind: artifact.signature_kind,
        manifest_yaml: artifact.manifest,
        is_upgrade: previous.is_some(),
        previous_version: previous.unwrap_or_default(),
        ..ModuleInstall::default()
    };
    let capabilities = session.with(|session, _| session.capabilities());
    if capabilities.is_some_and(|both| both.contains(Capabilities::ARTIFACTS)) {
        let pin = context.modules.content().pin(digest);
        context.grants.grant(
            Instant::now(),
            node,
            (ArtifactKind::Module, module.as_str()),
            digest,
            pin,
        );
        install.artifact = Some(ArtifactRef {
            sha256: install.sha256.clone(),
            size_bytes: i64::try_from(artifact.size_bytes).unwrap_or(i64::MAX),
        });
        let payload = controller_message::Payload::ModuleInstall(Box::new(install));
        let sent = session.with(|session, _| session.send_traced(payload, trace));
        match &sent {
            Ok(()) => tracing::info!(%node, %module, "a daemon may fetch a module"),
            Err(error) => tracing::debug!(%node, %module, %error, "a module was not sent"),
        }
        return sent.is_ok();
    }
    loop {
        if !until_next(session).await {
            return false;
        }
        let Ok(_turn) = context.archives.acquire().await else {
            return false;
        };
        let jar = match context.modules.content().read(digest, MAX_INLINE_BYTES).await {
            Ok(Some(jar)) => jar,
            Ok(None) => {
                tracing::error!(%node, %module, "the jar of a module is missing or damaged on the controller's disk; install it again");
                return false;
            }
            Err(error) => {
                tracing::error!(%node, %module, %error, "the jar of a module cannot be read");
                return false;
            }
        };
        let mut install = install.clone();
        install.jar_bytes = jar.into();
        let payload = controller_message::Payload::ModuleInstall(Box::new(install));
        match session.with(|session, _| is_next(session).then(|| session.send_traced(payload, trace))) {
            None => {}
            Some(Ok(())) => {
                tracing::info!(%node, %module, "a module is sent");
                return true;
            }
            Some(Err(error)) => {
                tracing::debug!(%node, %module, %error, "a module was not sent");
                return false;
            }
        }
    }
}
