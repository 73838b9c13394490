//! The application: one node of the cluster
//!
//! ```text
//!  controller ══ link ══ DaemonSession ──events──> Orders ──> Preparer ──> Supervisor ──> shim ──> instance
//!                             ^                      │                        │
//!                             └──── reports ─────────┴──── Event, console ────┘
//! ```
//!
//! [`Daemon::start`] puts the parts together: it takes the data folder, enrols if it must, adopts running instances, and
//! keeps a session with a controller from then on. One task decides; it never waits for the network, a download or a
//! disk that hangs. Instances live on when the daemon ends, unless a controller shut the node down.

mod certificates;
mod cgroup;
mod console;
mod crashes;
mod host;
mod logs;
mod memory;
mod orders;
mod renewal;
mod requests;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prexorcloud_logs::Mirror;
use prexorcloud_protocol::fence::EpochFence;
use prexorcloud_protocol::hosted::{Hosted, HostedInstance};
use prexorcloud_protocol::instance::State;
use prexorcloud_protocol::{Capabilities, DaemonSession, InstanceId, InvalidName, NodeId};
use prexorcloud_security::files::{DataDirLock, LockError};
use prexorcloud_security::signature;
use prexorcloud_security::tls::TlsError;
use prexorcloud_transport::client::DialError;
use prexorcloud_transport::{
    Backoff, DaemonRunner, LinkEvent, RunEnd, SessionHandle, StreamEnd, Target, Vital,
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::cache::templates::Source;
use crate::config::DaemonConfig;
use crate::console::Retention;
use crate::enrolment::{self, EnrolmentFailure};
use crate::files::InstanceFiles;
use crate::health::{Health, HealthServer};
use crate::modules::host::machine::Patience;
use crate::modules::{self, Modules};
use crate::preparation::{self, DownloadLimits, Preparer, Runtime, find_java};
use crate::process::descriptors::{self, Raised};
use crate::supervisor::{self, Found, ShimCommand, Supervisor};

use certificates::Certificates;
use crashes::CrashSpool;
use host::Host;
use memory::Memory;
use orders::Orders;
use renewal::{Link, Occasion, Renewal};

pub use certificates::ReloadError;

/// How long the first stream waits for how instances have ended while no daemon ran
const ENDS_FIRST: Duration = Duration::from_secs(2);

/// Occasions for another certificate that may wait; each that does not fit comes again
const OCCASIONS: usize = 16;

/// The version that controllers are told
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Gives another random UUID (version 4) each time that it is read
const FRESH_UUID: &str = "/proc/sys/kernel/random/uuid";

/// What a process executes to run the file that it runs itself, whatever became of the name of that
pub(crate) const OWN_EXECUTABLE: &str = "/proc/self/exe";

/// How the daemon starts its own executable for its helpers
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnProgram {
    /// The executable
    pub program: PathBuf,
    /// What is executed as a shim: the same, or a program that can do nothing else
    pub shim_program: PathBuf,
    /// The arguments that make it a [shim](crate::shim)
    pub shim: Vec<String>,
    /// The arguments that make it a [stand-in server](crate::standin)
    pub standin: Vec<String>,
}

impl OwnProgram {
    /// This very executable, with the subcommands `shim` and `standin-server`
    ///
    /// By way of what runs and not by name: an upgrade replaces the file, or removes its folder, while the daemon of
    /// before still starts instances.
    #[must_use]
    pub fn current() -> Self {
        Self {
            program: PathBuf::from(OWN_EXECUTABLE),
            shim_program: PathBuf::from(OWN_EXECUTABLE),
            shim: vec!["shim".to_owned()],
            standin: vec!["standin-server".to_owned()],
        }
    }
}

/// What only the program around a daemon has
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// What the program logs, for the controller to show
    pub log: Option<Mirror>,
}

/// Why a daemon could not start; each is one sentence for the operator
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The node id is not a safe name
    #[error("node_id: {0}")]
    NodeId(#[from] InvalidName),
    /// There is no controller to dial
    #[error("controller.endpoints names no controller")]
    NoControllers,
    /// The data folder belongs to another daemon, or cannot be used
    #[error("the data folder: {0}")]
    DataDir(#[from] LockError),
    /// A file or folder in the data folder cannot be used
    #[error("{path}: {error}", path = path.display())]
    File {
        /// Which one
        path: PathBuf,
        /// The system's words
        #[source]
        error: io::Error,
    },
    /// The node could not join the cluster
    #[error(transparent)]
    Enrolment(#[from] EnrolmentFailure),
    /// TLS cannot be set up with the node's certificate
    #[error("the node's certificate: {0}")]
    Tls(#[from] TlsError),
    /// The health endpoint's address cannot be listened on
    #[error("health.listen = {address}: {error}; set another address, or health.enabled = false")]
    Health {
        /// The address
        address: SocketAddr,
        /// The system's words
        error: io::Error,
    },
}

/// Why a daemon has finished
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finished {
    /// A controller shut the node down; all instances were stopped
    ShutDownByController {
        /// The operator's reason
        reason: String,
    },
    /// [`RunningDaemon::shutdown`] was called; instances run on
    Stopped,
    /// A task that it cannot be without has died, which is a bug; the log says which
    Failed,
}

/// A node of the cluster
#[derive(Debug)]
pub struct Daemon;

/// A daemon that runs
#[derive(Debug)]
pub struct RunningDaemon {
    node_id: NodeId,
    adopted: usize,
    certificates: Certificates,
    occasions: mpsc::Sender<Occasion>,
    health: Option<HealthServer>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Finished>,
    finished: Option<Finished>,
}

impl Daemon {
    /// Starts a daemon
    ///
    /// Returns once it runs, whether a controller is connected or not. Enrolment waits for a controller for as long as it
    /// takes; drop the future to give up. Needs a tokio runtime with I/O and time, and a rustls crypto provider.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(config: DaemonConfig, own: OwnProgram) -> Result<RunningDaemon, StartError> {
        Self::start_within(Surroundings::default(), config, own).await
    }

    /// The same, for a program that has more to tell
    ///
    /// # Errors
    /// See [`start`](Self::start).
    pub async fn start_within(
        surroundings: Surroundings,
        config: DaemonConfig,
        own: OwnProgram,
    ) -> Result<RunningDaemon, StartError> {
        let node_id: NodeId = config.node_id.parse()?;
        let targets = targets(&config)?;
        let data_dir = absolute(&config.data_dir)?;
        let open_files = descriptors::raise_limit();
        let lock = DataDirLock::acquire(&data_dir, "daemon")?;
        let file = |path: PathBuf| move |error| StartError::File { path, error };
        let memory = Memory::open(&data_dir).map_err(file(data_dir.join("controllers.json")))?;
        let credentials = enrolment::credentials(&config, node_id, &targets).await?;
        let certificates = Certificates::of(node_id, config.certificate_dir(), &credentials)?;
        let dialer = certificates.dialer();
        let dialled: Arc<Mutex<Option<Target>>> = Arc::default();
        let (occasions, occasioned) = mpsc::channel(OCCASIONS);
        let (link, linked) = watch::channel(None);
        let known = targets.clone();

        let instances_dir = absolute(&config.instances_dir())?;
        let run_folder = data_dir.join("run");
        let (supervisor, reports) = Supervisor::new(supervisor_settings(
            &config,
            run_folder.clone(),
            &instances_dir,
            &own,
        ))
        .map_err(file(run_folder.clone()))?;
        let adopted = supervisor.adopt().await.map_err(file(run_folder))?;
        tell_open_files(open_files, adopted.len());
        let preparer = Preparer::new(preparation_settings(&config, &data_dir, &instances_dir, &own))
            .map_err(file(instances_dir.clone()))?;
        let source = Arc::new(Source::new(
            certificates.dialer_of_artifacts(),
            Arc::clone(&dialled),
        ));
        preparer.templates().fetch_from(Arc::clone(&source));
        let spool_folder = data_dir.join("crash-reports");
        let spool = CrashSpool::open(spool_folder.clone()).map_err(file(spool_folder.clone()))?;
        let pending = spool.pending().map_err(file(spool_folder))?;

        let host = Host::new(instances_dir.clone(), config.resources.max_memory_mb);
        let java = find_java(config.runtime.java.as_deref(), |key| std::env::var(key).ok());
        if let Err(error) = &java {
            tracing::warn!("{error}");
        }
        let mut session_config = prexorcloud_protocol::DaemonConfig::new(node_id, VERSION);
        session_config.total_memory_mb = host.total_memory_mb();
        session_config.available_cpus = host.available_cpus();
        session_config.kill_timeout = config.instances.kill_timeout;
        session_config.boot_id = fresh_uuid().map_err(file(PathBuf::from(FRESH_UUID)))?;
        session_config.labels = config.labels.clone().into_iter().collect();
        session_config.advertise_address = config.advertise_address.clone();
        session_config.refills_console = true;
        session_config.capabilities = session_config
            .capabilities
            .union(Capabilities::EXEC_ACK)
            .union(Capabilities::ARTIFACTS)
            .union(Capabilities::MODULES)
            .union(Capabilities::EVENTS)
            .union(Capabilities::RENEWAL);
        session_config.host_info = Some(host.info(java.as_deref().ok()).await);
        let mut hosted = Hosted::new();
        for instance in &adopted {
            let adopted = hosted.adopt(HostedInstance {
                instance: instance.facts.instance,
                group: instance.facts.group,
                incarnation: instance.facts.incarnation,
                port: instance.facts.port,
                state: match instance.found {
                    Found::Starting => State::Starting,
                    Found::Running => State::Running,
                    Found::Stopping => State::Stopping,
                },
            });
            if let Err(reason) = adopted {
                tracing::error!(instance = %instance.facts.instance, pid = instance.pid, %reason,
                    "an instance of an earlier daemon runs on, but no controller will hear of it");
                continue;
            }
            tracing::info!(instance = %instance.facts.instance, pid = instance.pid, running = instance.is_running,
                "instance of an earlier daemon adopted");
        }
        let share = share_of(&session_config.boot_id);
        let fence = EpochFence::new(memory.highest_epoch());
        let (learned_sender, learned) = mpsc::channel(8);
        let seeds: Vec<Target> = targets.into_iter().chain(memory.controllers()).collect();
        let runner = DaemonRunner::new(DaemonSession::new(session_config, hosted, fence), dialer, seeds)
            .map_err(|_| StartError::NoControllers)?
            .backoff(Backoff {
                initial: config.reconnect.initial_delay,
                max: config.reconnect.max_delay,
            })
            .observe(observer(Arc::clone(&dialled), learned_sender, occasions.clone()));
        let session = runner.session();
        let renewal = Renewal::new(
            &config,
            node_id,
            known,
            certificates.clone(),
            session.clone(),
            share,
        );
        let health = match config.health.enabled {
            true => Some(start_health(&config, node_id, &session, &dialled, surroundings.log.clone()).await?),
            false => None,
        };
        let modules_folder = data_dir.join("modules");
        let modules = Modules::start(
            modules::Settings {
                node_id: config.node_id.clone(),
                folder: modules_folder.clone(),
                shim: shim_command(&own),
                java: java.map_err(|error| error.to_string()),
                policy: Arc::new(module_policy(&config)?),
                source,
                patience: Patience::default(),
            },
            session.clone(),
        )
        .map_err(file(modules_folder))?;
        let (vital, own_deaths) = Vital::new();
        let forwarding = console::forward(session.clone(), reports.consoles);
        let consoles = tokio::spawn(vital.guard("the forwarding of consoles", forwarding));
        let logs = surroundings.log.map(|mirror| {
            // Not vital: a node can do without it.
            tokio::spawn(logs::forward(session.clone(), mirror))
        });
        let renewing =
            tokio::spawn(vital.guard("the renewal of the certificate", renewal.run(occasioned, linked)));
        let deaths = reports.deaths;
        let mut orders = Orders::new(
            session,
            supervisor.clone(),
            (reports.events, learned),
            preparer,
            spool,
            memory,
            host,
            InstanceFiles::new(instances_dir),
            dialled,
            modules.clone(),
            Link::new(link, occasions.clone()),
        );
        for instance in &adopted {
            orders.adopted(instance);
        }
        for report in pending {
            orders.hand_over(report);
        }
        let ended: Vec<InstanceId> = adopted
            .iter()
            .filter(|instance| !instance.is_running)
            .map(|instance| instance.facts.instance)
            .collect();
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            orders.take_ends(&ended, ENDS_FIRST).await;
            let end = tokio::select! {
                // A dropped sender means the same: there is nobody left to serve.
                end = runner.run(&mut orders, async { drop(stopped.await) }) => Ok(end),
                // What it was to see will never come, so nothing that waits for it may go on waiting.
                task = deaths.first() => Err(task),
                task = own_deaths.first() => Err(task),
            };
            modules.end().await;
            consoles.abort();
            renewing.abort();
            if let Some(logs) = logs {
                logs.abort();
            }
            supervisor.detach();
            drop(lock);
            match end {
                Ok(RunEnd::ByHandler(finished)) => finished,
                Ok(RunEnd::ByShutdown) => Finished::Stopped,
                Err(task) => {
                    tracing::error!(
                        "{task} has died; instances run on, and the next start watches over them"
                    );
                    Finished::Failed
                }
                Ok(RunEnd::HandlerTooSlow) => {
                    tracing::warn!("what was left to do did not end in time");
                    Finished::Stopped
                }
            }
        });
        tracing::info!(node = %node_id, version = VERSION, adopted = adopted.len(), "daemon ready");
        Ok(RunningDaemon {
            node_id,
            adopted: adopted.len(),
            certificates,
            occasions,
            health,
            stop: Some(stop),
            task,
            finished: None,
        })
    }
}

impl RunningDaemon {
    /// The node's id
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        self.node_id
    }

    /// How many instances of an earlier daemon were found
    #[must_use]
    pub fn adopted(&self) -> usize {
        self.adopted
    }

    /// Where the health endpoint listens, if there is one
    #[must_use]
    pub fn health_addr(&self) -> Option<SocketAddr> {
        self.health.as_ref().map(HealthServer::address)
    }

    /// Reads the node's certificate again, for connections from now on; the one that is open stays
    ///
    /// # Errors
    /// [`ReloadError`]; the daemon goes on with what it has.
    pub async fn reload_certificate(&self) -> Result<(), ReloadError> {
        self.certificates.reload().await
    }

    /// Takes the join token of a configuration that was read again, for when the present certificate is no good
    pub fn offer_token(&self, config: DaemonConfig) {
        // What is in front of it are refusals, each of which comes again.
        let _ = self.occasions.try_send(Occasion::Configured(Box::new(config)));
    }

    /// Waits until the daemon has finished; cancel safe, and answers the same when asked again
    pub async fn wait(&mut self) -> Finished {
        if let Some(finished) = &self.finished {
            return finished.clone();
        }
        let finished = (&mut self.task).await.unwrap_or(Finished::Failed);
        self.finished = Some(finished.clone());
        finished
    }

    /// Ends the daemon in order: the session is closed after what it has to say; instances run on
    pub async fn shutdown(mut self) -> Finished {
        if let Some(stop) = self.stop.take() {
            // A daemon that has finished by itself does not listen.
            let _ = stop.send(());
        }
        self.wait().await
    }
}

/// Says how many files may be open, and whether that is little for so many instances
fn tell_open_files(Raised { before, now }: Raised, instances: usize) {
    let needed =
        descriptors::NEEDED + descriptors::PER_INSTANCE * u64::try_from(instances).unwrap_or(u64::MAX / 4);
    match now {
        Some(limit) if limit < needed => tracing::warn!(
            limit,
            needed,
            instances,
            "few files may be open: instances are watched less closely, and consoles may wait; raise the hard limit \
             (`LimitNOFILE=` of the systemd unit, or `ulimit -n`)"
        ),
        _ if before == now => {}
        _ => tracing::info!(
            before,
            now,
            "the limit of open files is raised for the daemon; instances start with the one of before"
        ),
    }
}

/// A name for this process that no other one ever has
fn fresh_uuid() -> io::Result<String> {
    Ok(std::fs::read_to_string(FRESH_UUID)?.trim().to_owned())
}

/// Where in their ranges the random moments of this process lie, by its random name
fn share_of(boot_id: &str) -> u16 {
    boot_id
        .get(..4)
        .and_then(|digits| u16::from_str_radix(digits, 16).ok())
        .unwrap_or(u16::MAX / 2)
}

fn absolute(path: &std::path::Path) -> Result<PathBuf, StartError> {
    std::path::absolute(path).map_err(|error| StartError::File {
        path: path.to_path_buf(),
        error,
    })
}

fn targets(config: &DaemonConfig) -> Result<Vec<Target>, StartError> {
    let targets = config.controller.endpoints.clone();
    if targets.is_empty() {
        return Err(StartError::NoControllers);
    }
    Ok(targets)
}

fn supervisor_settings(
    config: &DaemonConfig,
    run_folder: PathBuf,
    instances_dir: &std::path::Path,
    own: &OwnProgram,
) -> supervisor::Settings {
    let mut settings = supervisor::Settings::new(run_folder, shim_command(own));
    settings.kill_timeout = config.instances.kill_timeout;
    settings.keep_crashed = config.instances.keep_crashed;
    settings.dumps = Some((instances_dir.to_path_buf(), config.instances.keep_dumps_bytes));
    settings.retention = Retention {
        tail: config.console.retained_bytes,
        backlog: config.console.backlog_bytes,
    };
    settings
}

fn shim_command(own: &OwnProgram) -> ShimCommand {
    ShimCommand {
        program: own.shim_program.clone(),
        arguments: own.shim.clone(),
    }
}

/// What modules have to be; the controller has verified them before, by its own rules
fn module_policy(config: &DaemonConfig) -> Result<signature::Policy, StartError> {
    let unreadable = |path: &std::path::Path| {
        let path = path.to_path_buf();
        move |error| StartError::File { path, error }
    };
    let trust = match &config.modules.trust_root {
        Some(path) => Some(modules::trust(path).map_err(unreadable(path))?),
        None => None,
    };
    Ok(signature::Policy {
        unsigned: match config.modules.signing_required {
            true => signature::Unsigned::Refused,
            false => signature::Unsigned::Taken,
        },
        trust,
        ..signature::Policy::default()
    })
}

fn preparation_settings(
    config: &DaemonConfig,
    data_dir: &std::path::Path,
    instances_dir: &std::path::Path,
    own: &OwnProgram,
) -> preparation::Settings {
    preparation::Settings {
        node_id: config.node_id.clone(),
        instances_folder: instances_dir.to_path_buf(),
        cache_folder: data_dir.join("cache").join("artifacts"),
        templates_folder: data_dir.join("cache").join("templates"),
        max_template_bytes: config.runtime.template_cache_bytes,
        bootstraps_folder: data_dir.join("cache").join("bootstrap"),
        max_bootstrap_bytes: config.runtime.bootstrap_cache_bytes,
        template_deadline: config.runtime.template_timeout,
        java: config.runtime.java.clone(),
        standin: config.runtime.allow_standin.then(|| Runtime::Standin {
            program: own.program.clone(),
            arguments: own.standin.clone(),
        }),
        downloads: DownloadLimits {
            max_bytes: config.runtime.max_download_bytes,
            deadline: config.runtime.download_timeout,
            allow_unverified: config.runtime.allow_unverified_downloads,
            max_kept_bytes: config.runtime.download_cache_bytes,
            ..DownloadLimits::default()
        },
        default_grace: config.instances.shutdown_timeout,
    }
}

async fn start_health(
    config: &DaemonConfig,
    node_id: NodeId,
    session: &SessionHandle<DaemonSession>,
    dialled: &Arc<Mutex<Option<Target>>>,
    log: Option<Mirror>,
) -> Result<HealthServer, StartError> {
    let address = config.health.listen;
    let (session, dialled) = (session.clone(), Arc::clone(dialled));
    let health = move || Health {
        node_id: node_id.to_string(),
        connected: session.with(|session, _| session.is_established()),
        instance_count: session.with(|session, _| session.hosted().live().count()),
        controller: dialled
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
            .map(|target| (target.host(), target.port())),
        log: log.as_ref().map(Mirror::counts).unwrap_or_default(),
    };
    HealthServer::start(address, health)
        .await
        .map_err(|error| StartError::Health { address, error })
}

/// Logs what the link does, and hands on what is to be remembered
fn observer(
    dialled: Arc<Mutex<Option<Target>>>,
    learned: mpsc::Sender<Vec<Target>>,
    occasions: mpsc::Sender<Occasion>,
) -> impl FnMut(LinkEvent) + Send {
    let refused = move |target: &Target, error: &DialError| {
        if renewal::may_help(error) {
            // If one waits already, that is enough.
            let _ = occasions.try_send(Occasion::Refused(target.clone()));
        }
    };
    move |event| {
        if let LinkEvent::DialFailed { target, error }
        | LinkEvent::StreamEnded {
            target,
            error: Some(error),
            ..
        } = &event
        {
            refused(target, error);
        }
        tell(event, &dialled, &learned);
    }
}

fn tell(event: LinkEvent, dialled: &Mutex<Option<Target>>, learned: &mpsc::Sender<Vec<Target>>) {
    match event {
        LinkEvent::Dialling { target, after } => {
            tracing::debug!(%target, after_ms = after.as_millis(), "dialling the controller");
            *dialled.lock().unwrap_or_else(PoisonError::into_inner) = Some(target);
        }
        LinkEvent::DialFailed { error, .. } if error.needs_operator() => {
            tracing::error!("{error}; trying again, but this needs somebody's attention");
        }
        LinkEvent::DialFailed { error, .. } => tracing::warn!("{error}; trying again"),
        LinkEvent::StreamOpened { target } => tracing::info!(%target, "controller reached"),
        LinkEvent::StreamEnded {
            target,
            end: StreamEnd::PeerStatus { code, message },
            error: None,
        } => tracing::warn!(%target, ?code, said = message, "the controller ended the stream"),
        LinkEvent::StreamEnded { target, end, error } => match error {
            Some(error) => tracing::warn!(%target, %end, %error, "session ended"),
            // Why the session ended is told where it is acted on.
            None => tracing::debug!(%target, %end, "stream ended"),
        },
        LinkEvent::Learned { controllers } => {
            // If the receiver is behind, the next announcement will be remembered.
            let _ = learned.try_send(controllers);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use prexorcloud_protocol::limits;

    use super::*;

    #[test]
    fn each_start_of_the_daemon_has_a_name_of_its_own() {
        let (one, other) = (fresh_uuid().unwrap(), fresh_uuid().unwrap());
        assert_ne!(one, other);
        assert!((1..=limits::BOOT_ID).contains(&one.len()), "{one}");
    }
}
