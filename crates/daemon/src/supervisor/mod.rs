//! Instances as processes: start, watch, command, stop, find again
//!
//! A [`Supervisor`] starts each instance under a [shim](crate::shim), so that it lives on when the daemon ends, and finds
//! it again by the records in its [control folder](crate::control). It tells what it sees as [`Event`]s, hands consoles
//! over as [`ConsoleBatch`]es, and knows nothing of controllers, downloads or protocol states.
//!
//! Dropping the supervisor stops nothing but watching.

mod adoption;
mod arrivals;
pub(crate) mod dumps;
mod ephemeral;
mod feed;
mod instance;
mod notices;
mod readiness;
mod reading;
mod record;
mod remark;
mod shortage;
mod spawn;
mod stdin;
mod watched;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prexorcloud_protocol::{GroupName, Incarnation, InstanceId, peer::KILL_TIMEOUT};
use prexorcloud_transport::{Deaths, Vital};
use tokio::sync::{mpsc, watch};

use crate::console::{Retention, Watcher};
use crate::control::{ControlDir, ExitCause, LaunchSpec, RunningRecord};
use crate::durable;
use crate::foreign;
use crate::wall_clock::now_ms;

use arrivals::Arrivals;
use dumps::Dumps;
use feed::{Flow, Opening};
use instance::{Instance, Instruction};
use record::FolderName;
use shortage::Shortage;

pub use adoption::Adopted;
pub use ephemeral::EphemeralFolder;
pub use feed::{ConsoleBatch, Receiver};
pub use instance::Found;
pub use record::{InstanceFacts, StopReason};
pub use spawn::{ShimCommand, StartError};
pub use stdin::{CommandError, MAX_COMMAND_UNITS};

/// Events that may wait for the application; tasks of instances wait when they are full
const EVENT_CAPACITY: usize = 256;

/// How a supervisor works
#[derive(Clone, Debug)]
pub struct Settings {
    /// The folder that holds one control folder per start of an instance
    pub run_folder: PathBuf,
    /// How shims are started
    pub shim: ShimCommand,
    /// How long an instance has between SIGTERM and SIGKILL
    pub kill_timeout: Duration,
    /// How much of a console stays on disk
    pub retention: Retention,
    /// How long the workspace of a crashed instance stays to be looked at, if it is not kept anyway
    pub keep_crashed: Duration,
    /// Where instances have their folders, and how many bytes those of crashed ones may take that hold a heap dump or a
    /// JVM's crash log; absent = no limit
    pub dumps: Option<(PathBuf, u64)>,
}

impl Settings {
    /// The usual settings: 10 s between SIGTERM and SIGKILL, 30 s for a crashed workspace
    #[must_use]
    pub fn new(run_folder: impl Into<PathBuf>, shim: ShimCommand) -> Self {
        Self {
            run_folder: run_folder.into(),
            shim,
            kill_timeout: KILL_TIMEOUT,
            retention: Retention::default(),
            keep_crashed: Duration::from_secs(30),
            dumps: None,
        }
    }
}

/// What a supervisor sees
#[derive(Debug)]
pub enum Event {
    /// An instance became ready; at most once per start
    Ready {
        /// The instance
        instance: InstanceId,
        /// Which start of it
        incarnation: Incarnation,
    },
    /// An instance that starts waits for something, or for something else than before
    Waiting {
        /// The instance
        instance: InstanceId,
        /// Which start of it
        incarnation: Incarnation,
        /// What is missing until it is ready, for people
        waiting: String,
    },
    /// An instance is being stopped; at most once per start
    Stopping {
        /// The instance
        instance: InstanceId,
        /// Which start of it
        incarnation: Incarnation,
        /// Why
        reason: StopReason,
    },
    /// An instance has ended; told again after a restart of the daemon until [`Supervisor::settle`] was called
    Exited(Box<Exit>),
    /// An end was let go of, as [`Supervisor::settle`] asked: the id is free
    Settled {
        /// The instance
        instance: InstanceId,
        /// Which start of it
        incarnation: Incarnation,
    },
}

impl Event {
    /// Which start of which instance it is about
    #[must_use]
    pub fn about(&self) -> (InstanceId, Incarnation) {
        match self {
            Self::Ready {
                instance,
                incarnation,
            }
            | Self::Waiting {
                instance,
                incarnation,
                ..
            }
            | Self::Stopping {
                instance,
                incarnation,
                ..
            }
            | Self::Settled {
                instance,
                incarnation,
            } => (*instance, *incarnation),
            Self::Exited(exit) => (exit.instance, exit.incarnation),
        }
    }
}

/// How an instance ended
#[derive(Clone, Debug)]
pub struct Exit {
    /// The instance
    pub instance: InstanceId,
    /// Its group
    pub group: GroupName,
    /// Which start of it
    pub incarnation: Incarnation,
    /// The port it had
    pub port: u16,
    /// What ended it
    pub cause: ExitCause,
    /// Why it was being stopped, if it was
    pub stopped_for: Option<StopReason>,
    /// How long it lived
    pub uptime: Duration,
    /// When it was started, milliseconds since the Unix epoch
    pub started_at_ms: i64,
    /// When it ended, milliseconds since the Unix epoch
    pub exited_at_ms: i64,
    /// Its last lines, at most 500, each at most 8192 UTF-16 units
    pub log_tail: Vec<String>,
}

impl Exit {
    /// Whether the end is a crash by the [rule of the protocol](prexorcloud_protocol::node::daemon::is_crash)
    #[must_use]
    pub fn is_crash(&self) -> bool {
        prexorcloud_protocol::node::daemon::is_crash(self.stopped_for.map(Into::into), self.cause.code())
    }
}

/// Starts instances and watches over them
///
/// Cheap to clone. Must be used inside a tokio runtime with I/O and time enabled.
#[derive(Clone, Debug)]
pub struct Supervisor {
    inner: Arc<Inner>,
}

/// What a supervisor tells its application
#[derive(Debug)]
pub struct Reports {
    /// What happens; must be read, or instances are no longer watched
    pub events: mpsc::Receiver<Event>,
    /// Console lines, while consoles are open
    pub consoles: mpsc::Receiver<ConsoleBatch>,
    /// Which task died that watched an instance, which is a bug: the next supervisor watches it again
    pub deaths: Deaths,
}

#[derive(Debug)]
struct Inner {
    settings: Settings,
    watcher: Option<Watcher>,
    events: mpsc::Sender<Event>,
    batches: mpsc::Sender<ConsoleBatch>,
    flow: watch::Sender<Flow>,
    arrivals: Arrivals,
    shortage: Shortage,
    live: Mutex<HashMap<InstanceId, Handle>>,
    vital: Vital,
}

/// An instance that runs, or whose end is not settled
#[derive(Debug)]
struct Handle {
    incarnation: Incarnation,
    control: ControlDir,
    /// Absent while the shim is being started
    orders: Option<mpsc::UnboundedSender<Instruction>>,
}

impl Supervisor {
    /// A supervisor of the control folders below `settings.run_folder`, which is created if it is missing
    ///
    /// Consoles are closed at first. Call [`adopt`](Self::adopt) before the first start.
    ///
    /// # Errors
    /// If the folder cannot be created.
    pub fn new(settings: Settings) -> io::Result<(Self, Reports)> {
        durable::private_folder(&settings.run_folder)?;
        let watcher = Watcher::start()
            .inspect_err(
                |error| tracing::warn!(%error, "files cannot be watched; consoles are read at intervals"),
            )
            .ok();
        let (events, event_receiver) = mpsc::channel(EVENT_CAPACITY);
        // One batch at a time: the log on disk is the buffer.
        let (batches, consoles) = mpsc::channel(1);
        let (flow, _) = watch::channel(Flow {
            open: None,
            generation: 0,
        });
        let (vital, deaths) = Vital::new();
        let inner = Inner {
            settings,
            watcher,
            events,
            batches,
            flow,
            arrivals: Arrivals::default(),
            shortage: Shortage::default(),
            live: Mutex::default(),
            vital,
        };
        let reports = Reports {
            events: event_receiver,
            consoles,
            deaths,
        };
        Ok((
            Self {
                inner: Arc::new(inner),
            },
            reports,
        ))
    }

    /// Starts a process and watches over it from then on
    ///
    /// Returns once the process exists. What becomes of it is told by events.
    ///
    /// # Errors
    /// [`StartError`]; nothing runs then.
    pub async fn start(&self, facts: InstanceFacts, spec: LaunchSpec) -> Result<(), StartError> {
        let control = self.reserve(&facts)?;
        let mut reservation = Reservation {
            inner: &self.inner,
            facts: &facts,
            control: &control,
            is_taken: false,
        };
        let prepared = facts.write(&control).and_then(|()| record::reserve(&control));
        prepared.map_err(|error| StartError::ControlFolder {
            folder: control.path().to_path_buf(),
            error,
        })?;
        let running = spawn::launch(&self.inner.settings.shim, &control, spec).await?;
        reservation.is_taken = true;
        drop(reservation);
        let (instance, incarnation, pid) = (facts.instance, facts.incarnation.get(), running.main.pid);
        tracing::info!(%instance, incarnation, pid, "process started");
        self.watch(facts, control, running);
        Ok(())
    }

    /// Says something on the console of an instance that runs, as the daemon's own words; may block
    pub(crate) fn remark(&self, instance: InstanceId, lines: &[String]) {
        let control = match self.inner.lock().get(&instance) {
            Some(handle) => handle.control.clone(),
            None => return,
        };
        for line in lines {
            remark::remark(&control, instance, line);
        }
    }

    /// Writes one line to the console of an instance
    ///
    /// Never waits: an instance that does not read its console is an error.
    ///
    /// # Errors
    /// [`CommandError`].
    pub fn command(&self, instance: InstanceId, line: &str) -> Result<(), CommandError> {
        let control = match self.inner.lock().get(&instance) {
            Some(Handle {
                orders: Some(_),
                control,
                ..
            }) => control.clone(),
            _ => return Err(CommandError::NotRunning),
        };
        stdin::write_command(&control, line)
    }

    /// Stops an instance: its stop word, then after the grace SIGTERM, then SIGKILL; or SIGKILL at once if `force`
    ///
    /// Returns whether there is such an instance. Stopping again changes nothing, except that force overtakes grace.
    pub fn stop(&self, instance: InstanceId, force: bool) -> bool {
        let orders = match self.inner.lock().get(&instance) {
            Some(Handle {
                orders: Some(orders), ..
            }) => orders.clone(),
            _ => return false,
        };
        orders.send(Instruction::Stop { force }).is_ok()
    }

    /// The plugin inside of an instance says that it is ready, which counts whatever its rule is
    ///
    /// Without effect on one that is ready already, is being stopped, or is another start of the id.
    pub fn plugin_ready(&self, instance: InstanceId, incarnation: Incarnation) {
        if let Some(Handle {
            orders: Some(orders),
            incarnation: current,
            ..
        }) = self.inner.lock().get(&instance)
            && *current == incarnation
        {
            // A task that is gone needs to know nothing any more.
            let _ = orders.send(Instruction::PluginReady);
        }
    }

    /// The application has taken over the end that [`Event::Exited`] told: it will not be told again
    ///
    /// [`Event::Settled`] says when the id is free; folders are cleaned up once the console was taken. Returns whether
    /// that event will come: if not, there is nothing to let go of.
    pub fn settle(&self, instance: InstanceId, incarnation: Incarnation) -> bool {
        let orders = match self.inner.lock().get(&instance) {
            Some(Handle {
                orders: Some(orders),
                incarnation: current,
                ..
            }) if *current == incarnation => orders.clone(),
            _ => return false,
        };
        // A task that is gone has settled already.
        orders.send(Instruction::Settled).is_ok()
    }

    /// Hands consoles over from now on, beginning with the lines that are not known to have arrived
    ///
    /// `stream` comes back with each batch, and tells the batches of one opening from those of another.
    pub fn open_consoles(&self, stream: u64, receiver: Receiver) {
        self.inner.flow.send_modify(|flow| {
            flow.open = Some(Opening { stream, receiver });
            flow.generation += 1;
        });
    }

    /// Every console line of this start up to number `sequence` that was handed over has arrived: it is not handed over
    /// again, and may be forgotten
    pub fn console_arrived(&self, instance: InstanceId, incarnation: Incarnation, sequence: u64) {
        self.inner.arrivals.arrived(instance, incarnation, sequence);
    }

    /// Hands no more consoles over; the lines wait on disk
    pub fn close_consoles(&self) {
        self.inner.flow.send_modify(|flow| {
            flow.open = None;
            flow.generation += 1;
        });
    }

    /// How long an instance has between SIGTERM and SIGKILL
    #[must_use]
    pub fn kill_timeout(&self) -> Duration {
        self.inner.settings.kill_timeout
    }

    /// How many instances run or await that their end is settled
    #[must_use]
    pub fn count(&self) -> usize {
        self.inner.lock().len()
    }

    /// Takes the id and makes a control folder of its own for this start
    fn reserve(&self, facts: &InstanceFacts) -> Result<ControlDir, StartError> {
        let mut live = self.inner.lock();
        if live.contains_key(&facts.instance) {
            return Err(StartError::AlreadyRunning);
        }
        // Folders of former starts may still hold console lines that nobody took.
        let stamp = now_ms();
        let run_folder = &self.inner.settings.run_folder;
        let named = |attempt| run_folder.join(FolderName::new(facts, stamp, attempt).to_string());
        let folder = (0..100)
            .map(named)
            .find(|folder| !folder.exists())
            .unwrap_or_else(|| named(100));
        let control = ControlDir::new(folder);
        durable::private_folder(control.path())
            .and_then(|()| durable::sync_parent(control.path()))
            .map_err(|error| StartError::ControlFolder {
                folder: control.path().to_path_buf(),
                error,
            })?;
        let handle = Handle {
            incarnation: facts.incarnation,
            control: control.clone(),
            orders: None,
        };
        live.insert(facts.instance, handle);
        Ok(control)
    }

    /// Stops watching; instances run on, and the next supervisor adopts them
    ///
    /// Orders that were given and not carried out yet may be lost.
    pub fn detach(&self) {
        self.close_consoles();
        self.inner.lock().clear();
    }

    fn watch(&self, facts: InstanceFacts, control: ControlDir, running: RunningRecord) {
        // Unbounded, and yet small: a controller's repeated orders are told apart before they come here.
        let (orders, receiver) = mpsc::unbounded_channel();
        self.inner.lock().insert(
            facts.instance,
            Handle {
                incarnation: facts.incarnation,
                control: control.clone(),
                orders: Some(orders),
            },
        );
        self.spawn(facts, control, running, receiver, Told::Not);
    }

    /// Finishes what is left to do for an instance whose id is free already
    fn resume_unlisted(&self, facts: InstanceFacts, control: ControlDir, running: RunningRecord) {
        let (_, orders) = mpsc::unbounded_channel();
        self.spawn(facts, control, running, orders, Told::Settled);
    }

    fn spawn(
        &self,
        facts: InstanceFacts,
        control: ControlDir,
        running: RunningRecord,
        orders: mpsc::UnboundedReceiver<Instruction>,
        told: Told,
    ) {
        let name = format!("the watch over {}", facts.instance);
        let instance = Instance {
            inner: Arc::clone(&self.inner),
            facts,
            control,
            running,
            orders,
            is_settled: told == Told::Settled,
            awaited: None,
        };
        tokio::spawn(self.inner.vital.guard(name, instance.run()));
    }
}

/// Whether the end of an instance is still to be told
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Not,
    Settled,
}

/// Gives the id back if a start does not succeed
struct Reservation<'a> {
    inner: &'a Inner,
    facts: &'a InstanceFacts,
    control: &'a ControlDir,
    is_taken: bool,
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if self.is_taken {
            return;
        }
        self.inner.retire(self.facts, self.control);
        remove_folder(self.control.path());
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, HashMap<InstanceId, Handle>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn tell(&self, event: Event) {
        // Without an application there is nobody to tell; the records tell the next one.
        let _ = self.events.send(event).await;
    }

    fn dumps(&self) -> Option<Dumps> {
        let (instances_folder, budget) = self.settings.dumps.clone()?;
        Some(Dumps {
            instances_folder,
            budget,
        })
    }

    /// Frees the id, unless a later start has taken it
    fn retire(&self, facts: &InstanceFacts, control: &ControlDir) {
        let mut live = self.lock();
        if live
            .get(&facts.instance)
            .is_some_and(|handle| handle.control == *control)
        {
            live.remove(&facts.instance);
        }
    }

    /// Deletes what an ended instance leaves behind
    async fn clean_up(&self, facts: &InstanceFacts, control: &ControlDir, has_crashed: bool) {
        if has_crashed && facts.ephemeral_folder.is_some() {
            tokio::time::sleep(self.settings.keep_crashed).await;
        }
        let (workspace, control) = (facts.ephemeral_folder.clone(), control.clone());
        let dumps = self.dumps();
        // A world can be large: not where sessions are served.
        let work = tokio::task::spawn_blocking(move || {
            if let Some(workspace) = workspace {
                workspace.remove(has_crashed);
            }
            // Also where the next start has kept the folder meanwhile.
            if let Some(dumps) = dumps.filter(|_| has_crashed) {
                dumps.enforce();
            }
            remove_folder(control.path());
        });
        if work.await.is_err() {
            tracing::debug!("cleaning up was cut short; the next daemon goes on with it");
        }
    }
}

fn remove_folder(folder: &Path) {
    if let Err(error) = foreign::remove(folder) {
        tracing::warn!(folder = %folder.display(), %error, "cannot delete a folder that is no longer needed");
    }
}
