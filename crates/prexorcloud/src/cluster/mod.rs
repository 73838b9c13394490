//! A controller and a daemon as two processes of this program, on free loopback ports
//!
//! Nothing of it outlives the [`Cluster`]: not on success, not on failure, not on a panic. The processes are tethered to
//! this one, orphaned instances come to it, and dropping the cluster ends all of them before the folder goes.

pub mod announcement;
pub mod process;

use std::net::TcpListener;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use prexorctl::Client;
use prexorctl::resource::{CreatedToken, Node};
use prexorctl::settings::{Target, Token};
use serde_json::{Value, json};
use sha2::Digest as _;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

use crate::{logging, tether};
use announcement::{ControllerReady, DaemonReady};
use process::Process;

/// The hidden subcommand that stands between a daemon and an instance
pub const SHIM: &str = "shim";

/// The hidden subcommand that is a server without Java
pub const STANDIN: &str = "standin-server";

/// The name of the only node
pub const NODE: &str = "node-1";

/// What the demo server is called where there is Java, and where there is none
const JAR: &str = "demo-server.jar";
const STANDIN_JAR: &str = "demo-server.standin";

/// The committed build of `demo/`
const JAR_BYTES: &[u8] = include_bytes!("../../assets/demo-server.jar");

/// How long anything may take; generous, because a busy machine is no failure
pub const LIMIT: Duration = Duration::from_secs(60);

/// Between two looks at something
const LOOK: Duration = Duration::from_millis(15);

/// How long a process may take until it serves; the machine may be busy with many other things
const READY_LIMIT: Duration = Duration::from_secs(60);

/// How long a process may take to end after SIGTERM
const END_LIMIT: Duration = Duration::from_secs(30);

/// Where the cluster keeps everything
#[derive(Debug)]
pub enum Folder {
    /// Removed at the end
    Temporary(tempfile::TempDir),
    /// Left alone
    Kept(PathBuf),
}

impl Folder {
    /// A fresh one for this run
    pub fn temporary(name: &str) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix(&format!("prexorcloud-{name}-"))
            .tempdir()
            .context("cannot make a temporary folder")?;
        Ok(Self::Temporary(folder))
    }

    /// One that exists or is made
    pub fn at(path: &Path) -> anyhow::Result<Self> {
        let cannot = || format!("cannot use {} as the data folder", path.display());
        prexorcloud_security::files::ensure_private_dir(path).with_context(cannot)?;
        Ok(Self::Kept(path.canonicalize().with_context(cannot)?))
    }

    pub fn path(&self) -> &Path {
        match self {
            Self::Temporary(folder) => folder.path(),
            Self::Kept(path) => path,
        }
    }

    /// Leaves it behind after all
    pub fn keep(self) -> Self {
        match self {
            Self::Temporary(folder) => Self::Kept(folder.keep()),
            Self::Kept(path) => Self::Kept(path),
        }
    }
}

/// What the server runs on
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtime {
    /// The jar, in a JVM
    Java,
    /// The server that is built into this program
    Standin,
}

/// A server as named in an order to start one
#[derive(Clone, Debug)]
pub struct Jar {
    pub path: String,
    /// What its bytes must have
    pub sha256: Option<String>,
}

/// A controller, a daemon, and the folder of both
#[derive(Debug)]
pub struct Cluster {
    controller: Option<Process>,
    daemon: Option<Process>,
    folder: Folder,
    runtime: Runtime,
}

impl Cluster {
    /// Prepares the folder; nothing runs yet
    pub fn prepare(folder: Folder, runtime: Runtime) -> anyhow::Result<Self> {
        tether::adopt_orphans().context("cannot adopt orphaned processes")?;
        let cluster = Self {
            controller: None,
            daemon: None,
            folder,
            runtime,
        };
        let jar = cluster.folder.path().join(JAR);
        std::fs::write(&jar, JAR_BYTES).with_context(|| format!("cannot write {}", jar.display()))?;
        Ok(cluster)
    }

    /// Starts the controller and waits until it serves
    pub async fn start_controller(&mut self) -> anyhow::Result<ControllerReady> {
        let ports = free_ports()?;
        let settings = json!({
            "data_dir": text(&self.data("controller"))?,
            "grpc": { "listen": "127.0.0.1:0" },
            "http": { "listen": "127.0.0.1:0" },
            "instances": { "port_range_start": ports.start(), "port_range_end": ports.end() },
        });
        let process = self.start("controller", &settings)?;
        self.controller.insert(process).ready(READY_LIMIT).await
    }

    /// Starts the daemon, with a join token unless it is enrolled already, and waits until it is ready
    pub async fn start_daemon(
        &mut self,
        controller: &ControllerReady,
        token: Option<&str>,
    ) -> anyhow::Result<DaemonReady> {
        let mut settings = json!({
            "node_id": NODE,
            "data_dir": text(&self.data("daemon"))?,
            "advertise_address": "127.0.0.1",
            "controller": { "endpoints": [controller.grpc] },
            "health": { "listen": "127.0.0.1:0" },
            "runtime": { "allow_standin": self.runtime == Runtime::Standin },
            "reconnect": { "initial_delay_ms": 100 },
        });
        if let (Some(settings), Some(token)) = (settings.as_object_mut(), token) {
            settings.insert("enrolment".to_owned(), json!({ "join_token": token }));
        }
        let process = self.start("daemon", &settings)?;
        self.daemon.insert(process).ready(READY_LIMIT).await
    }

    fn start(&self, name: &'static str, settings: &Value) -> anyhow::Result<Process> {
        let config = self.config(name);
        prexorcloud_security::files::write_secret(&config, toml::to_string(settings)?.as_bytes())
            .with_context(|| format!("cannot write {}", config.display()))?;
        Process::start(name, &config, &self.folder.path().join(format!("{name}.log")))
    }

    /// The configuration file of `controller` or `daemon`
    pub fn config(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.toml"))
    }

    /// The data folder of `controller` or `daemon`
    pub fn data(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The administrator's token
    pub fn admin_token_file(&self) -> PathBuf {
        self.data("controller").join("admin.token")
    }

    /// What to start as a server
    pub fn jar(&self) -> anyhow::Result<Jar> {
        let (name, sha256) = match self.runtime {
            Runtime::Java => {
                let digest = sha2::Sha256::digest(JAR_BYTES);
                let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
                (JAR, Some(hex))
            }
            // There is no such file; the name alone says what is meant.
            Runtime::Standin => (STANDIN_JAR, None),
        };
        let path = text(&self.folder.path().join(name))?.to_owned();
        Ok(Jar { path, sha256 })
    }

    /// An operator of this cluster
    pub fn operator(&self, controller: &ControllerReady) -> anyhow::Result<Client> {
        let target = Target {
            controller: format!("http://{}", controller.http).parse()?,
            token: Some(Token::read(&self.admin_token_file())?),
            ca_file: None,
        };
        Ok(Client::new(target)?)
    }

    pub fn controller_mut(&mut self) -> anyhow::Result<&mut Process> {
        self.controller.as_mut().context("the controller was not started")
    }

    pub fn daemon_mut(&mut self) -> anyhow::Result<&mut Process> {
        self.daemon.as_mut().context("the daemon was not started")
    }

    /// Both, to wait for either
    pub fn both_mut(&mut self) -> anyhow::Result<(&mut Process, &mut Process)> {
        match (&mut self.controller, &mut self.daemon) {
            (Some(controller), Some(daemon)) => Ok((controller, daemon)),
            _ => bail!("the processes were not started"),
        }
    }

    /// Ends the controller as a service manager would
    pub async fn stop_controller(&mut self) -> anyhow::Result<()> {
        let process = self.controller_mut()?;
        process.terminate()?;
        let status = process.ended(END_LIMIT).await?;
        ensure!(status.success(), "the controller ended with {status}");
        Ok(())
    }

    /// The processes, for messages about them
    pub fn processes(&self) -> impl Iterator<Item = &Process> {
        self.controller.iter().chain(&self.daemon)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.daemon = None;
        self.controller = None;
        if let Err(error) = tether::end_descendants() {
            logging::say(format_args!("warning: processes may be left behind: {error}"));
        }
        // The folder goes after this, when nothing writes to it any more.
    }
}

/// Waits until the node is as wanted
pub async fn node_until(
    operator: &Client,
    wanted: &str,
    is_so: impl Fn(&Node) -> bool,
) -> anyhow::Result<Node> {
    let deadline = Instant::now() + LIMIT;
    let mut look = looks();
    loop {
        look.tick().await;
        let nodes = operator.get::<Vec<Node>>(&["nodes"], &[]).await?.value;
        let node = nodes.into_iter().find(|node| node.id == NODE);
        let seen = match node {
            Some(node) if is_so(&node) => return Ok(node),
            Some(node) => node.status,
            None => "unknown".to_owned(),
        };
        if Instant::now() >= deadline {
            bail!(
                "{NODE} should have become {wanted} within {} s, but is {seen}",
                LIMIT.as_secs()
            );
        }
    }
}

/// Moments to look at something that changes by itself
pub fn looks() -> Interval {
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    look
}

/// A one-time token for the node
pub async fn create_token(operator: &Client, node: &str) -> anyhow::Result<CreatedToken> {
    let order = json!({ "nodeId": node, "ttlSeconds": 300 });
    Ok(operator
        .post::<CreatedToken>(&["admin", "tokens"], &[], Some(&order))
        .await?
        .value)
}

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str()
        .with_context(|| format!("{} is not valid UTF-8", path.display()))
}

/// Ports for instances: free now, and below those that the system gives to whoever asks for any
fn free_ports() -> anyhow::Result<RangeInclusive<u16>> {
    const LOWEST: u16 = 20_000;
    const COUNT: u16 = 20;
    const RANGES: u16 = 500;
    // Two clusters that start together begin their search at different places.
    let start = u16::try_from(std::process::id() % u32::from(RANGES)).unwrap_or(0);
    (0..RANGES)
        .map(|offset| LOWEST + (start + offset) % RANGES * COUNT)
        .map(|first| first..=first + (COUNT - 1))
        .find(|ports| {
            ports
                .clone()
                .all(|port| TcpListener::bind(("0.0.0.0", port)).is_ok())
        })
        .context("there are no 20 free ports in a row between 20000 and 30000")
}
