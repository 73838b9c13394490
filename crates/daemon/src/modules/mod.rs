//! Modules: jars that a controller gives to this node, each run in a process of its own
//!
//! ```text
//!  session ──orders──> Modules ──> one task per module ──> order, store, host
//!     ^                                │            │
//!     └────── ledger <──── states ─────┘            └── types ──> events ──> session
//! ```
//!
//! | Module | Does |
//! |---|---|
//! | [`host`] | the process of a module: its start, its life, what is said to it and by it |
//! | `order` | what an order has to be before anything of it is stored |
//! | `store` | what is on disk, whole after any kind of end |
//! | `ledger` | what controllers are told, in order |
//! | `worker` | the task of one module: install, upgrade with a way back, uninstall |
//!
//! Who listens to which events is in `crate::events`; what is kept of it on disk is written here, at most once a second.
//!
//! Modules begin with the daemon, whether a controller is there or not, and end with it.

pub mod host;
mod ledger;
mod order;
mod store;
mod worker;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prexorcloud_proto::{ModuleEvent, ModuleInstall, daemon_message};
use prexorcloud_protocol::{Capabilities, DaemonSession};
use prexorcloud_security::signature::Policy;
use prexorcloud_transport::SessionHandle;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use tracing::Span;

use crate::cache::templates::Source;
use crate::control::{read_record, write_record};
use crate::events::{Events, EventsRecord};
use crate::supervisor::ShimCommand;
use host::Host;
use host::machine::{ModuleState, Patience};
use ledger::{Entry as State, Ledger, Wants};
use store::{Paths, Store, Version};
use worker::{Given, Order, Worker};

/// Modules of one node
const MODULES: usize = 64;

/// Orders that wait for one module
const ORDERS: usize = 4;

/// Installations that wait or are carried out, each of which may bring a large jar in memory
const INSTALLATIONS: usize = 4;

/// How long modules may take to stop when the daemon ends
const ENDED_WITHIN: Duration = Duration::from_secs(5);

/// How long those that listened before are waited for after a start
const LISTENING_AGAIN: Duration = Duration::from_secs(30);

/// Between two notes of how far the modules are; what was given since comes again after the end of this program
const NOTED_EVERY: Duration = Duration::from_secs(1);

/// What modules of a node need
pub(crate) struct Settings {
    pub(crate) node_id: String,
    pub(crate) folder: PathBuf,
    pub(crate) shim: ShimCommand,
    /// The executable, or why there is none
    pub(crate) java: Result<PathBuf, String>,
    pub(crate) policy: Arc<Policy>,
    pub(crate) source: Arc<Source>,
    pub(crate) patience: Patience,
}

/// All modules of this node
#[derive(Clone)]
pub(crate) struct Modules(Arc<Inner>);

impl fmt::Debug for Modules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Modules").finish_non_exhaustive()
    }
}

struct Inner {
    settings: Settings,
    session: SessionHandle<DaemonSession>,
    paths: Paths,
    store: Arc<Mutex<Store>>,
    ledger: Arc<Ledger>,
    events: Mutex<Events>,
    /// Something is to be noted of them
    events_changed: Notify,
    hosts: Mutex<BTreeMap<String, Arc<Host>>>,
    workers: Mutex<BTreeMap<String, (mpsc::Sender<Given>, AbortHandle)>>,
    installations: Arc<Semaphore>,
    tasks: Mutex<Vec<AbortHandle>>,
    noting: Mutex<Option<AbortHandle>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Modules {
    /// Opens the store and begins what is in it
    pub(crate) fn start(settings: Settings, session: SessionHandle<DaemonSession>) -> io::Result<Self> {
        let store = Store::open(&settings.folder)?;
        let ids = store.ids();
        let known = EventsRecord::read(&settings.folder);
        let ledger = Ledger::open(settings.folder.join("states.json"));
        let inner = Arc::new(Inner {
            paths: store.paths(),
            store: Arc::new(Mutex::new(store)),
            ledger,
            events: Mutex::new(Events::restore(known, &ids)),
            events_changed: Notify::new(),
            hosts: Mutex::default(),
            workers: Mutex::default(),
            installations: Arc::new(Semaphore::new(INSTALLATIONS)),
            tasks: Mutex::default(),
            noting: Mutex::default(),
            settings,
            session,
        });
        let told = inner.session.clone();
        let send = Box::new(move |message: ledger::Message| {
            told.with(|session, _| session.send(message.into())).is_ok()
        });
        let telling = tokio::spawn(Arc::clone(&inner.ledger).run(send));
        let noting = tokio::spawn(Arc::clone(&inner).note_events());
        *lock(&inner.noting) = Some(noting.abort_handle());
        lock(&inner.tasks).push(telling.abort_handle());
        if lock(&inner.events).is_waiting() {
            let waiting = tokio::spawn(Arc::clone(&inner).stop_waiting());
            lock(&inner.tasks).push(waiting.abort_handle());
        }
        inner.ledger.expect_only(&ids);
        for id in ids {
            inner.give(&id, Order::Begin);
        }
        Ok(Self(inner))
    }

    /// Takes an order to install; what comes of it is told
    pub(crate) fn install(&self, order: Box<ModuleInstall>) {
        let (inner, id) = (&self.0, order.module_id.clone());
        let Ok(permit) = Arc::clone(&inner.installations).try_acquire_owned() else {
            return inner.busy(
                &id,
                "this node is busy with other modules; it was not begun, and may be ordered again",
            );
        };
        inner.give(&id, Order::Install(order, permit));
    }

    /// Takes an order to remove; what comes of it is told
    pub(crate) fn uninstall(&self, id: &str) {
        let inner = &self.0;
        if lock(&inner.workers).contains_key(id) {
            return inner.give(id, Order::Uninstall);
        }
        // Nothing of it is here: whatever is stored has a task.
        inner.ledger.tell(id, State::new(ModuleState::Unloaded, ""));
    }

    /// Gives an event to whoever listens to it
    pub(crate) fn event(&self, event: &ModuleEvent) {
        let inner = &self.0;
        let mut events = lock(&inner.events);
        let taken = events.take(event);
        if taken.missed > 0 {
            tracing::warn!(
                missed = taken.missed,
                before = event.sequence,
                "events of the controller are missing; modules that listen are told"
            );
            for id in events.listeners() {
                match inner.host(&id) {
                    Some(host) => host.lose(taken.missed),
                    None => events.keep_away(&id, taken.missed),
                }
            }
        }
        if taken.is_given {
            for id in events.to(&event.event_type) {
                match inner.host(&id) {
                    Some(host) => host.event(&event.event_type, event.payload_json.clone(), event.sequence),
                    None => events.keep_away(&id, 1),
                }
            }
        }
        drop(events);
        if event.sequence != 0 {
            inner.events_changed.notify_one();
        }
    }

    pub(crate) fn handle_connected(&self, capabilities: Capabilities) {
        self.0
            .ledger
            .handle_connected(match capabilities.contains(Capabilities::MODULES) {
                true => Wants::Snapshot,
                false => Wants::Changes,
            });
        let mut events = lock(&self.0.events);
        for message in events.handle_connected() {
            self.0.send(message);
        }
    }

    pub(crate) fn handle_disconnected(&self) {
        self.0.ledger.handle_disconnected();
        lock(&self.0.events).handle_disconnected();
    }

    /// Stops all of them; what does not stop in time is killed with the daemon
    pub(crate) async fn end(&self) {
        let inner = &self.0;
        // What modules are given from now on they may not read.
        if let Some(noting) = lock(&inner.noting).take() {
            noting.abort();
        }
        for (orders, task) in std::mem::take(&mut *lock(&inner.workers)).into_values() {
            task.abort();
            drop(orders);
        }
        let hosts: Vec<Arc<Host>> = std::mem::take(&mut *lock(&inner.hosts)).into_values().collect();
        let stopping = futures_util::future::join_all(hosts.iter().map(|host| host.stop()));
        if timeout(ENDED_WITHIN, stopping).await.is_err() {
            tracing::warn!("modules have not stopped in time and are killed");
        }
        for task in lock(&inner.tasks).drain(..) {
            task.abort();
        }
    }
}

impl Inner {
    /// Gives an order to a module's task, which is begun if there is none
    fn give(self: &Arc<Self>, id: &str, order: Order) {
        let mut workers = lock(&self.workers);
        if !workers.contains_key(id) {
            if workers.len() >= MODULES {
                drop(workers);
                return self.busy(id, &format!("this node has {MODULES} modules already"));
            }
            let (orders, received) = mpsc::channel(ORDERS);
            let worker = Worker::new(Arc::clone(self), id.to_owned(), received);
            let task = tokio::spawn(worker.run()).abort_handle();
            workers.insert(id.to_owned(), (orders, task));
        }
        // What is logged about it belongs to the trace that it came in.
        let given = Given {
            order,
            span: Span::current(),
        };
        let is_given = workers
            .get(id)
            .is_some_and(|(orders, _)| orders.try_send(given).is_ok());
        drop(workers);
        if !is_given {
            self.busy(
                id,
                &format!("{ORDERS} orders about it wait already; this one may be given again"),
            );
        }
    }

    /// Answers an order that was not taken; a version that runs goes on
    fn busy(&self, id: &str, why: &str) {
        tracing::warn!(module = id, why, "an order about a module is not taken");
        let state = match self.ledger.newest(id).filter(|newest| newest.is_here) {
            Some(newest) => State {
                error: why.to_owned(),
                ..newest
            },
            None => State::new(ModuleState::Failed, why),
        };
        self.ledger.tell(id, state);
    }

    /// Whether the task of a module is not needed any more; it has no orders then, and gets none
    fn retire(&self, id: &str, orders: &mpsc::Receiver<Given>) -> bool {
        let mut workers = lock(&self.workers);
        let is_needed = !orders.is_empty()
            || self.host(id).is_some()
            || self.ledger.newest(id).is_none_or(|newest| newest.is_here);
        if !is_needed {
            workers.remove(id);
        }
        !is_needed
    }

    fn host(&self, id: &str) -> Option<Arc<Host>> {
        lock(&self.hosts).get(id).cloned()
    }

    async fn on_store<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Store) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let store = Arc::clone(&self.store);
        tokio::task::spawn_blocking(move || work(&mut lock(&store))).await?
    }

    /// A version has worked: it counts from now on, and the one before goes
    fn prove(&self, id: &str, version: &Version) {
        let (store, id, sha256) = (Arc::clone(&self.store), id.to_owned(), version.sha256.clone());
        tokio::task::spawn_blocking(move || {
            if let Err(error) = lock(&store).prove(&id, &sha256) {
                tracing::error!(module = id, %error, "that a module works cannot be written down; after a restart the version before is back");
            }
        });
    }

    fn listen(&self, id: &str, types: BTreeSet<String>) {
        let mut events = lock(&self.events);
        for message in events.set(id, types) {
            self.send(message);
        }
        drop(events);
        self.events_changed.notify_one();
    }

    /// Gives a host its place, and tells it what its module missed without one
    fn put_host(&self, id: &str, host: Arc<Host>) {
        // Nothing is given in between.
        let mut events = lock(&self.events);
        let missed = events.was_away(id);
        if missed > 0 {
            host.lose(missed);
        }
        lock(&self.hosts).insert(id.to_owned(), host);
    }

    async fn stop_waiting(self: Arc<Self>) {
        sleep(LISTENING_AGAIN).await;
        let mut events = lock(&self.events);
        for message in events.stop_waiting() {
            self.send(message);
        }
    }

    /// Notes how far the modules are, as soon as what was given until then is with their hosts
    async fn note_events(self: Arc<Self>) {
        let mut noted = EventsRecord::default();
        loop {
            self.events_changed.notified().await;
            let record = lock(&self.events).record().clone();
            if record == noted {
                continue;
            }
            let hosts: Vec<Arc<Host>> = lock(&self.hosts).values().cloned().collect();
            let given: Vec<_> = hosts.iter().map(|host| host.given()).collect();
            for (host, given) in hosts.into_iter().zip(given) {
                // One that never reads holds the note back: then more of it comes again, and nothing is lost.
                host.has_taken(given).await;
            }
            let (file, kept) = (self.settings.folder.clone(), record.clone());
            let written = tokio::task::spawn_blocking(move || kept.write(&file)).await;
            match written.unwrap_or_else(|error| Err(io::Error::other(error))) {
                Ok(()) => noted = record,
                Err(error) => {
                    tracing::warn!(%error, "how far modules are in the log of events cannot be noted; after a restart they get events again");
                }
            }
            sleep(NOTED_EVERY).await;
        }
    }

    fn send(&self, payload: daemon_message::Payload) {
        if let Err(error) = self.session.with(|session, _| session.send(payload)) {
            tracing::debug!(%error, "the next session is told");
        }
    }
}

impl EventsRecord {
    const FILE: &str = "events.json";

    fn read(folder: &Path) -> Self {
        let read = read_record(&folder.join(Self::FILE));
        read.map_or_else(
            |error| {
                tracing::warn!(%error, "how far modules were in the log of events cannot be read; they get what happens from now on");
                Self::default()
            },
            Option::unwrap_or_default,
        )
    }

    fn write(&self, folder: &Path) -> io::Result<()> {
        write_record(&folder.join(Self::FILE), self)
    }
}

/// Reads whom to believe about modules
///
/// # Errors
/// The file cannot be read, or has no key and no certificate.
pub(crate) fn trust(file: &Path) -> io::Result<prexorcloud_security::signature::TrustRoot> {
    let text = crate::durable::read_bounded(file, 1024 * 1024)?.ok_or(io::ErrorKind::NotFound)?;
    let text = String::from_utf8(text).map_err(io::Error::other)?;
    prexorcloud_security::signature::TrustRoot::from_pem(&text).map_err(io::Error::other)
}
