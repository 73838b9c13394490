//! The task of one module: its orders one after the other, and its host beside them
//!
//! An upgrade ends the version before, tries the new one, and goes back to the former when that fails: two versions never run at once. A
//! version that did not work makes way for any other.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use prexorcloud_content::module::Manifest;
use prexorcloud_proto::{ArtifactKind, ModuleInstall};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tracing::{Instrument as _, Span};

use super::Inner;
use super::host::machine::{Greeting, ModuleState, Report};
use super::host::{Host, HostSettings, News, Tell, end_leftover};
use super::ledger::Entry as State;
use super::order::{self, Judged, Refusal};
use super::store::{Entry, Jar, Version};
use crate::cache::templates::Artifact;
use crate::control::LaunchSpec;

/// What a module of the Java daemon's process is answered
const IN_PROCESS: &str = "it is a module for the Java daemon's own process, which this daemon is not; it is kept, and cannot run here. A module that \
                          declares `backend.daemon.host: process` can";

/// Writable memory of a host beside its heap, in MiB: the JVM itself, its threads and its code
const BESIDE_THE_HEAP_MB: u64 = 384;

/// What a module's task is to do, and the span to do it in
pub(super) struct Given {
    pub(super) order: Order,
    pub(super) span: Span,
}

/// What it is
pub(super) enum Order {
    /// Run what is stored
    Begin,
    /// The permit is for the memory that it takes
    Install(Box<ModuleInstall>, OwnedSemaphorePermit),
    Uninstall,
}

pub(super) struct Worker {
    inner: Arc<Inner>,
    id: String,
    orders: mpsc::Receiver<Given>,
}

impl Worker {
    pub(super) fn new(inner: Arc<Inner>, id: String, orders: mpsc::Receiver<Given>) -> Self {
        Self { inner, id, orders }
    }

    pub(super) async fn run(mut self) {
        while let Some(Given { order, span }) = self.orders.recv().await {
            self.carry_out(order).instrument(span).await;
            if self.inner.retire(&self.id, &self.orders) {
                return;
            }
        }
    }

    async fn carry_out(&mut self, order: Order) {
        match order {
            Order::Begin => self.begin().await,
            Order::Install(order, _permit) => {
                tracing::info!(
                    module = self.id,
                    version = order.version,
                    "the module is to be installed"
                );
                self.install(*order).await;
            }
            Order::Uninstall => {
                tracing::info!(module = self.id, "the module is to be removed");
                self.uninstall().await;
            }
        }
    }

    fn tell(&self, state: State) {
        self.inner.ledger.tell(&self.id, state);
    }

    /// A refusal, beside what may run of an earlier version
    fn refuse(&self, judged: Option<&Judged>, why: &str) {
        tracing::error!(module = self.id, "the module is refused: {why}");
        let running = self.inner.ledger.newest(&self.id).filter(|newest| newest.is_here);
        let is_here = running.is_some();
        let mut state = State::new(ModuleState::Failed, why);
        if let Some(judged) = judged {
            state = state.of(&judged.version);
        }
        self.tell(State { is_here, ..state });
        // What is true of the version that is here is the newest again.
        if let Some(running) = running {
            let error = format!("another version was refused: {why}");
            self.tell(State { error, ..running });
        }
    }

    async fn install(&mut self, order: ModuleInstall) {
        let judged = match order::judge(&order) {
            Ok(judged) => judged,
            Err(refusal) => return self.refuse(None, &refusal.to_string()),
        };
        let id = self.id.as_str();
        let before = self.stored().await;
        let newest = self.inner.ledger.newest(id);
        let works = newest
            .as_ref()
            .is_some_and(|newest| newest.state != ModuleState::Failed)
            && self.inner.host(id).is_some();
        if let Some(entry) = &before
            && entry.current.sha256 == judged.version.sha256
            && entry.current.manifest == judged.version.manifest
        {
            // Answered all the same: whoever repeats an order wants to know. One that has failed is tried again.
            return match newest.filter(|_| works) {
                Some(newest) => self.tell(newest),
                None => self.begin().await,
            };
        }
        let jar = match self.jar(order, &judged).await {
            Ok(jar) => jar,
            Err(refusal) => return self.refuse(Some(&judged), &refusal.to_string()),
        };
        let entry = match (before, works) {
            (Some(before), true) => Entry {
                candidate: Some(judged.version.clone()),
                ..before
            },
            _ => Entry {
                current: judged.version.clone(),
                candidate: None,
            },
        };
        let (name, sha256, kept) = (self.id.clone(), judged.version.sha256.clone(), entry.clone());
        let stored = self
            .inner
            .on_store(move |store| store.install(&name, kept, &sha256, jar))
            .await;
        if let Err(error) = stored {
            return self.refuse(Some(&judged), &format!("it cannot be stored: {error}"));
        }
        if entry.candidate.is_some() {
            self.upgrade(entry.current, judged.version).await;
        } else {
            self.stop().await;
            self.start(judged.version).await;
        }
    }

    /// The jar, judged
    async fn jar(&self, mut order: ModuleInstall, judged: &Judged) -> Result<Jar, Refusal> {
        let policy = Arc::clone(&self.inner.settings.policy);
        let sha256 = judged.sha256;
        let judged = Judged {
            version: judged.version.clone(),
            sha256,
        };
        let Some(reference) = order.artifact.take() else {
            return blocking(move || {
                order::judge_inline(&order, &judged, &policy)?;
                Ok(Jar::Inline(order.jar_bytes))
            })
            .await;
        };
        let bad = |what: &str| Refusal::BadReference(what.to_owned());
        let artifact = Artifact::new(ArtifactKind::Module, &self.id, &reference)
            .ok_or_else(|| bad("its digest or its size"))?;
        if artifact.sha256 != sha256 {
            return Err(bad("it is to another jar than the order"));
        }
        let (bytes, limit) = (artifact.bytes, prexorcloud_content::module::MAX_JAR_BYTES);
        if bytes > limit {
            return Err(Refusal::TooLarge { bytes, limit });
        }
        let path = self.inner.paths.incoming(&self.id, &sha256);
        let fetched = self.inner.settings.source.fetch(&artifact, path.clone()).await;
        let part = fetched.map_err(|error| Refusal::Io(std::io::Error::other(error.to_string())))?;
        blocking(move || match order::judge_file(&order, &judged, &policy, &path) {
            Ok(()) => Ok(Jar::Fetched(part)),
            Err(refusal) => {
                part.discard();
                Err(refusal)
            }
        })
        .await
    }

    /// Tries a version in the place of one that works
    async fn upgrade(&mut self, before: Version, new: Version) {
        self.stop().await;
        let report = self.start(new.clone()).await;
        if report.state != ModuleState::Failed {
            return;
        }
        let why = format!(
            "version {} has failed, and {} is back: {}",
            new.version, before.version, report.error
        );
        tracing::error!(module = self.id, "{why}");
        self.stop().await;
        let entry = Entry {
            current: before.clone(),
            candidate: None,
        };
        self.set(Some(entry)).await;
        let report = self.start(before.clone()).await;
        if report.state != ModuleState::Failed {
            self.tell(State::new(report.state, why).of(&before).here());
        }
    }

    /// Runs what is stored
    async fn begin(&mut self) {
        self.stop().await;
        let id = self.id.clone();
        let found = self
            .inner
            .on_store(move |store| {
                let current = store.get(&id).map(|entry| entry.current.clone());
                Ok(current.map(|current| (store.is_whole(&current.sha256), current)))
            })
            .await;
        match found {
            Ok(Some((true, version))) => drop(self.start(version).await),
            Ok(Some((false, version))) => {
                // A controller that installs it again brings it whole.
                self.set(None).await;
                let state = State::new(ModuleState::Failed, "its jar is damaged on disk and was removed");
                self.tell(state.of(&version));
            }
            Ok(None) => {}
            Err(error) => self.refuse(None, &format!("the store of modules cannot be read: {error}")),
        }
    }

    /// Starts a version that is stored, and waits for what it comes to
    async fn start(&mut self, version: Version) -> Report {
        let settings = match self.host_settings(&version) {
            Ok(settings) => settings,
            Err(error) => return self.failed(&version, error),
        };
        if self
            .inner
            .ledger
            .newest(&self.id)
            .is_none_or(|newest| newest.sha256 != version.sha256)
        {
            self.tell(State::new(ModuleState::Installed, "").of(&version).here());
        }
        match Host::start(settings, self.told(version.clone())) {
            Ok(host) => {
                let host = Arc::new(host);
                self.inner.put_host(&self.id, Arc::clone(&host));
                host.settled().await
            }
            Err(error) => self.failed(&version, format!("its host cannot be started: {error}")),
        }
    }

    fn failed(&self, version: &Version, error: String) -> Report {
        let state = ModuleState::Failed;
        self.inner.listen(&self.id, std::collections::BTreeSet::new());
        self.tell(State::new(state, error.as_str()).of(version).here());
        Report { state, error }
    }

    /// What becomes of a host, as it is told on
    fn told(&self, version: Version) -> Tell {
        let (inner, id) = (Arc::clone(&self.inner), self.id.clone());
        let is_proven = AtomicBool::new(version.proven);
        Arc::new(move |news| match news {
            News::State(report) => {
                let works = matches!(report.state, ModuleState::Active | ModuleState::Waiting);
                if works && !is_proven.swap(true, Ordering::Relaxed) {
                    inner.prove(&id, &version);
                }
                inner
                    .ledger
                    .tell(&id, State::new(report.state, report.error).of(&version).here());
            }
            News::Listen(types) => inner.listen(&id, types),
        })
    }

    fn host_settings(&self, version: &Version) -> Result<HostSettings, String> {
        let settings = &self.inner.settings;
        let manifest =
            Manifest::parse(&version.manifest).map_err(|error| format!("the manifest: {error}"))?;
        let Some(backend) = &manifest.daemon else {
            return Err(Refusal::NotForDaemons.to_string());
        };
        let Some(process) = backend.process else {
            return Err(IN_PROCESS.to_owned());
        };
        let java = settings.java.clone().map_err(|error| error.clone())?;
        let paths = &self.inner.paths;
        let (jar, folder) = (paths.jar(&version.sha256), paths.host_folder(&self.id));
        let data = folder.join("data");
        let text = |path: &PathBuf| path.to_string_lossy().into_owned();
        let heap = u64::from(process.memory_mb);
        let arguments = vec![
            format!("-Xmx{heap}m"),
            "-XX:+UseSerialGC".to_owned(),
            "-XX:TieredStopAtLevel=1".to_owned(),
            "-XX:ReservedCodeCacheSize=32m".to_owned(),
            "-XX:MaxMetaspaceSize=128m".to_owned(),
            "-XX:+ExitOnOutOfMemoryError".to_owned(),
            "-Dfile.encoding=UTF-8".to_owned(),
            format!("-Djava.io.tmpdir={}", text(&data)),
            "-cp".to_owned(),
            text(&jar),
            backend.entrypoint.class.clone(),
        ];
        let mut environment: std::collections::BTreeMap<String, String> = std::env::var("PATH")
            .map(|path| ("PATH".to_owned(), path))
            .into_iter()
            .collect();
        environment.insert("HOME".to_owned(), text(&data));
        environment.insert("LC_ALL".to_owned(), "C.UTF-8".to_owned());
        Ok(HostSettings {
            shim: settings.shim.clone(),
            spec: LaunchSpec {
                program: java,
                arguments,
                environment,
                working_folder: data.clone(),
            },
            folder,
            memory: Some((heap + BESIDE_THE_HEAP_MB) * 1024 * 1024),
            greeting: Greeting {
                module: self.id.clone(),
                version: version.version.clone(),
                node: settings.node_id.clone(),
                folder: text(&data),
            },
            patience: settings.patience.clone(),
            proven: version.proven,
        })
    }

    async fn uninstall(&mut self) {
        self.inner.listen(&self.id, std::collections::BTreeSet::new());
        self.stop().await;
        let folder = self.inner.paths.host_folder(&self.id);
        if let Err(error) = end_leftover(&folder).await {
            tracing::warn!(module = self.id, %error, "what the host of a module has left cannot be cleared away");
        }
        let stored = self.stored().await;
        if self.set(None).await {
            let state = State::new(ModuleState::Unloaded, "");
            self.tell(match &stored {
                Some(entry) => state.of(&entry.current),
                None => state,
            });
        } else {
            let state = State::new(
                ModuleState::Failed,
                "it is stopped, and cannot be removed from the store on disk",
            );
            self.tell(state.here());
        }
    }

    /// Stops what runs; the next version is told of the events that come meanwhile
    async fn stop(&mut self) {
        let host = super::lock(&self.inner.hosts).remove(&self.id);
        if let Some(host) = host {
            host.stop().await;
        }
    }

    async fn stored(&self) -> Option<Entry> {
        let id = self.id.clone();
        let stored = self
            .inner
            .on_store(move |store| Ok(store.get(&id).cloned()))
            .await;
        stored.ok().flatten()
    }

    async fn set(&self, entry: Option<Entry>) -> bool {
        let id = self.id.clone();
        let set = self.inner.on_store(move |store| store.set(&id, entry)).await;
        if let Err(error) = &set {
            tracing::error!(module = self.id, %error, "the index of modules cannot be written");
        }
        set.is_ok()
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Refusal::Io(std::io::Error::other(error)))?
}
