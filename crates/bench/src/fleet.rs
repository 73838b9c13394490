//! A whole fleet at one controller: how soon it is back after the controller was killed, and what operators wait meanwhile
//!
//! The controller is a process of its own, killed with SIGKILL. The nodes are sessions of this process, each with an
//! identity of its own, over mTLS on loopback; they come back by themselves, as daemons do.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail};
use prexorcloud_controller::Controller;
use prexorcloud_controller::config::ControllerConfig;
use prexorcloud_controller::records::{IncarnationRecord, InstanceRecord, NodeRecord};
use prexorcloud_controller::store::{SqliteOptions, SqliteStore, Store as _, Txn};
use prexorcloud_proto::{InstanceState, StartInstance};
use prexorcloud_protocol::fence::EpochFence;
use prexorcloud_protocol::hosted::{Hosted, HostedInstance};
use prexorcloud_protocol::instance::State;
use prexorcloud_protocol::{DaemonConfig, DaemonEvent, DaemonSession, Incarnation};
use prexorcloud_security::authority::{Authority, AuthorityPolicy};
use prexorcloud_security::tls::ClientTls;
use prexorcloud_transport::{DaemonRunner, DialOptions, Dialer, SessionHandle, SessionHandler};
use tokio::sync::watch;

use crate::pki::Pki;
use crate::report::{Aim, Report, Row};
use crate::rig::{BareDaemon, CHUNK_BYTES, serve_bare};

/// The first argument of the process that is the controller.
pub const ROLE: &str = "fleet-controller";

/// How long the fleet may take to come back before it counts as lost.
const PATIENCE: Duration = Duration::from_secs(180);

/// Orders that are timed.
const ORDERS: usize = 100;

/// Instances in one answer of the list.
const PAGE: usize = 100;

/// How many nodes there are, and how many instances each of them has
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub nodes: usize,
    pub instances: usize,
}

pub fn run(report: &mut Report, size: Size) -> Result<()> {
    let Size { nodes, instances } = size;
    eprintln!("fleet: {nodes} nodes with {instances} instances each");
    let records = nodes * instances;
    let fleet = Fleet::create(size)?;
    let small = Fleet::create(Size {
        nodes: 1,
        instances: PAGE,
    })?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;

    let mut server = Process::start(&fleet)?;
    let connected = runtime.block_on(async { fleet.connect() })?;
    connected.all(nodes).context("the first connection")?;
    server.kill()?;
    connected.forget();
    let killed = Instant::now();
    server = Process::start(&fleet)?;
    let watch = Readiness::watch(fleet.http);
    connected.all(nodes).context("after the kill")?;
    let back = killed.elapsed().as_secs_f64();
    let (first, longest) = watch.end()?;
    let bare = runtime.block_on(bare_fleet(nodes))?;
    let name = format!("{nodes} nodes of {instances} instances back after kill -9 of the controller");
    report.add(Row::new("fleet", name, back, "s").beside(bare));
    report.add(Row::new(
        "fleet",
        "from that kill to the first answer of /system/ready",
        (first - killed).as_secs_f64(),
        "s",
    ));
    report.add(
        Row::new(
            "fleet",
            "longest answer of /system/ready meanwhile",
            longest,
            "ms",
        )
        .aim(Aim::ValueAtMost(1000.0)),
    );

    let baseline = Process::start(&small)?;
    let connected_small = runtime.block_on(async { small.connect() })?;
    connected_small.all(1)?;
    let (orders, few) = (fleet.orders()?, small.orders()?);
    let name = format!("an order over HTTP at {records} records, median; beside it at {PAGE}");
    report.add(
        Row::new("fleet", name, median(&orders), "ms")
            .beside(median(&few))
            .aim(Aim::ValueAtMost(5.0)),
    );
    let name = format!("an order over HTTP at {records} records, p99; beside it at {PAGE}");
    report.add(Row::new("fleet", name, p99(&orders), "ms").beside(p99(&few)));
    let path = format!("/api/v1/instances?limit={PAGE}");
    let (pages, few) = (fleet.gets(&path)?, small.gets(&path)?);
    let name = format!("a page of {PAGE} instances at {records} records, median; beside it at {PAGE}");
    report.add(Row::new("fleet", name, median(&pages), "ms").beside(median(&few)));
    let whole = fleet.gets("/api/v1/instances")?;
    let name = format!("all {records} instances in one answer, median");
    report.add(Row::new("fleet", name, median(&whole), "ms"));
    drop((baseline, server));
    crowd(report)
}

/// Many who ask for the same whole list, beside a server that has nothing to do but to send as many bytes
fn crowd(report: &mut Report) -> Result<()> {
    const CLIENTS: usize = 200;
    let size = Size {
        nodes: 25,
        instances: 100,
    };
    let records = size.nodes * size.instances;
    let fleet = Fleet::create(size)?;
    let server = Process::start(&fleet)?;
    let path = "/api/v1/instances";
    let ready = Instant::now() + PATIENCE;
    while request(fleet.http, "GET", path, &fleet.token, "").is_err() {
        if Instant::now() > ready {
            bail!("the controller does not answer");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let (_, body) = request(fleet.http, "GET", path, &fleet.token, "")?;
    let ours = ask(fleet.http, path, &fleet.token, CLIENTS)?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || send_to_all(&listener, &body));
    let bare = ask(address, path, "", CLIENTS)?;
    let name = format!("{records} instances for {CLIENTS} clients at once; beside it the same bytes");
    report.add(Row::new("fleet", name, ours.0, "answers/s").beside(bare.0));
    let name = format!("p99 of that for {CLIENTS} clients");
    report.add(Row::new("fleet", name, ours.1, "ms").beside(bare.1));
    drop(server);
    Ok(())
}

/// Answers per second, and the p99 of one in milliseconds
fn ask(address: SocketAddr, path: &'static str, token: &str, clients: usize) -> Result<(f64, f64)> {
    const FOR: Duration = Duration::from_secs(5);
    let begun = Instant::now();
    let asking: Vec<_> = (0..clients)
        .map(|_| {
            let token = token.to_owned();
            std::thread::spawn(move || {
                let mut times = Vec::new();
                while begun.elapsed() < FOR {
                    let asked = Instant::now();
                    let (status, _) = request(address, "GET", path, &token, "")?;
                    if status != 200 {
                        bail!("{path} was answered {status}");
                    }
                    times.push(asked.elapsed().as_secs_f64() * 1000.0);
                }
                Ok(times)
            })
        })
        .collect();
    let mut times = Vec::new();
    for client in asking {
        match client.join() {
            Ok(client) => times.extend(client?),
            Err(_) => bail!("a client has died"),
        }
    }
    let rate = times.len() as f64 / begun.elapsed().as_secs_f64();
    Ok((rate, p99(&times)))
}

fn send_to_all(listener: &TcpListener, body: &str) {
    let answer: Arc<str> = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into();
    while let Ok((mut socket, _)) = listener.accept() {
        let answer = Arc::clone(&answer);
        std::thread::spawn(move || {
            let mut head = [0; 1024];
            if matches!(socket.read(&mut head), Ok(1..)) {
                // Whoever has gone has been counted as failed already.
                let _ = socket.write_all(answer.as_bytes());
            }
        });
    }
}

/// What is recorded of a fleet, and the identities of its nodes
pub struct Fleet {
    size: Size,
    folder: tempfile::TempDir,
    pub grpc: SocketAddr,
    pub http: SocketAddr,
    pub token: String,
}

impl Fleet {
    /// With nothing running
    pub fn create(size: Size) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let (grpc, http) = (free_address()?, free_address()?);
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let data_dir = data_dir(folder.path());
        let token = runtime.block_on(async {
            let controller = Controller::start(config(&data_dir, grpc, http)).await?;
            controller.shutdown().await;
            let token = std::fs::read_to_string(data_dir.join("admin.token"))?;
            let store = SqliteStore::open(data_dir.join("controller.db"), &SqliteOptions::default())?;
            for node in 0..size.nodes {
                record(&store, node, size.instances).await?;
            }
            store.close().await?;
            Ok::<_, anyhow::Error>(token.trim().to_owned())
        })?;
        Ok(Self {
            size,
            folder,
            grpc,
            http,
            token,
        })
    }

    /// Where its controller keeps everything
    pub fn data_dir(&self) -> PathBuf {
        data_dir(self.folder.path())
    }

    /// Connects as a node
    pub fn dialer(&self, node: &str) -> Result<Dialer> {
        let authority = Authority::load(&self.data_dir().join("ca"), &AuthorityPolicy::default())?;
        let credential = authority.issue_node(node, SystemTime::now())?;
        let tls = ClientTls::new(&authority.trust_anchors()?)
            .identity(&credential)
            .build()?;
        Ok(Dialer::with_config(tls, DialOptions::default()))
    }

    /// Makes all nodes connect, now and whenever they are cut off
    fn connect(&self) -> Result<Connected> {
        let authority = Authority::load(&self.data_dir().join("ca"), &AuthorityPolicy::default())?;
        let anchors = authority.trust_anchors()?;
        let connected = Arc::new(AtomicUsize::new(0));
        let (stop, stopped) = watch::channel(false);
        for node in 0..self.size.nodes {
            let credential = authority.issue_node(&node_name(node), SystemTime::now())?;
            let tls = ClientTls::new(&anchors).identity(&credential).build()?;
            let dialer = Dialer::with_config(tls, DialOptions::default());
            let mut hosted = Hosted::new();
            for number in 0..self.size.instances {
                hosted.adopt(HostedInstance {
                    instance: instance_name(node, number).parse()?,
                    group: "lobby".parse()?,
                    incarnation: Incarnation::new(1),
                    port: port(number),
                    state: State::Running,
                })?;
            }
            let config = DaemonConfig::new(node_name(node).parse()?, "1.0.0");
            let session = DaemonSession::new(config, hosted, EpochFence::default());
            let runner = DaemonRunner::new(session, dialer, [self.grpc.to_string().parse()?])?;
            let mut simulated = Simulated {
                connected: Arc::clone(&connected),
            };
            let mut stopped = stopped.clone();
            tokio::spawn(async move {
                let until = async move {
                    let _ = stopped.wait_for(|stopped| *stopped).await;
                };
                runner.run(&mut simulated, until).await;
            });
        }
        Ok(Connected {
            count: connected,
            _stop: stop,
        })
    }

    /// The milliseconds that orders take, one after the other
    fn orders(&self) -> Result<Vec<f64>> {
        let body = r#"{"group":"order","jar":"/srv/server.jar"}"#;
        let mut times = Vec::new();
        for _ in 0..ORDERS {
            let begun = Instant::now();
            let (status, answer) = request(self.http, "POST", "/api/v1/instances", &self.token, body)?;
            times.push(begun.elapsed().as_secs_f64() * 1000.0);
            if status != 201 {
                bail!("an order was answered {status}: {answer}");
            }
        }
        Ok(times)
    }

    fn gets(&self, path: &str) -> Result<Vec<f64>> {
        let mut times = Vec::new();
        for _ in 0..20 {
            let begun = Instant::now();
            let (status, answer) = request(self.http, "GET", path, &self.token, "")?;
            times.push(begun.elapsed().as_secs_f64() * 1000.0);
            if status != 200 {
                bail!("{path} was answered {status}: {answer}");
            }
        }
        Ok(times)
    }
}

/// The nodes that are connected
struct Connected {
    count: Arc<AtomicUsize>,
    _stop: watch::Sender<bool>,
}

impl Connected {
    fn forget(&self) {
        self.count.store(0, Ordering::SeqCst);
    }

    /// Waits until so many were admitted
    fn all(&self, nodes: usize) -> Result<()> {
        let limit = Instant::now() + PATIENCE;
        loop {
            let count = self.count.load(Ordering::SeqCst);
            if count >= nodes {
                return Ok(());
            }
            if Instant::now() > limit {
                bail!(
                    "{count} of {nodes} nodes were connected after {} s",
                    PATIENCE.as_secs()
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A daemon that runs nothing
struct Simulated {
    connected: Arc<AtomicUsize>,
}

impl SessionHandler<DaemonSession> for Simulated {
    type End = ();

    async fn handle_event(
        &mut self,
        session: &SessionHandle<DaemonSession>,
        event: DaemonEvent,
    ) -> ControlFlow<()> {
        match event {
            DaemonEvent::Connected(_) => {
                self.connected.fetch_add(1, Ordering::SeqCst);
            }
            DaemonEvent::FenceRaised(epoch) => session.with(|session, _| session.fence_written(epoch)),
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

/// Asks whether the controller is ready, all the time
struct Readiness {
    done: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Result<(Instant, f64)>>,
}

impl Readiness {
    fn watch(http: SocketAddr) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let is_done = Arc::clone(&done);
        let thread = std::thread::spawn(move || {
            let (mut first, mut longest) = (None, 0.0_f64);
            while !is_done.load(Ordering::SeqCst) {
                let begun = Instant::now();
                let answer = request(http, "GET", "/api/v1/system/ready", "", "");
                let took = begun.elapsed().as_secs_f64() * 1000.0;
                match (answer, first) {
                    (Ok((200, _)), None) => first = Some(Instant::now()),
                    (Ok((200, _)), Some(_)) => longest = longest.max(took),
                    // It is not there yet.
                    (_, None) => {}
                    (other, Some(_)) => bail!("it was ready, and then {other:?}"),
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            Ok((first.context("it was never ready")?, longest))
        });
        Self { done, thread }
    }

    /// When it was ready first, and the longest time in ms that an answer took since
    fn end(self) -> Result<(Instant, f64)> {
        self.done.store(true, Ordering::SeqCst);
        match self.thread.join() {
            Ok(result) => result,
            Err(_) => bail!("the watch over the readiness has died"),
        }
    }
}

/// The time that as many streams take to open at a server that does nothing else
async fn bare_fleet(nodes: usize) -> Result<f64> {
    let pki = Pki::create()?;
    let (tell, told) = tokio::sync::oneshot::channel();
    let serving = pki.clone();
    let server = tokio::spawn(async move {
        serve_bare(&serving, CHUNK_BYTES, |address| {
            tell.send(address).map_err(|_| anyhow::anyhow!("nobody asked"))
        })
        .await
    });
    let url = format!("https://{}", told.await?);
    let begun = Instant::now();
    let all = (0..nodes).map(|_| BareDaemon::connect(&pki, &url));
    let held = futures_util::future::try_join_all(all).await?;
    let took = begun.elapsed().as_secs_f64();
    drop(held);
    server.abort();
    Ok(took)
}

/// Writes what a controller remembers of a node
async fn record(store: &SqliteStore, node: usize, instances: usize) -> Result<()> {
    let node_id = node_name(node);
    let known = NodeRecord {
        node_id: node_id.clone(),
        total_memory_mb: 65_536,
        ..NodeRecord::default()
    };
    let mut txn = Txn::new().put_record(&known);
    for number in 0..instances {
        let instance_id = instance_name(node, number);
        let start = StartInstance {
            instance_id: instance_id.clone(),
            group: "lobby".to_owned(),
            port: i32::from(port(number)),
            memory_mb: 1024,
            jvm_args: vec!["-XX:+UseG1GC".to_owned(); 8],
            env: (0..8)
                .map(|n| (format!("VARIABLE_{n}"), "x".repeat(40)))
                .collect(),
            jar_file: "server.jar".to_owned(),
            download_url: "file:///srv/server.jar".to_owned(),
            incarnation: 1,
            ..StartInstance::default()
        };
        let instance = InstanceRecord {
            instance_id: instance_id.clone(),
            node_id: node_id.clone(),
            start: Some(start),
            state: InstanceState::Running.into(),
            ..InstanceRecord::default()
        };
        let last = IncarnationRecord { instance_id, last: 1 };
        txn = txn.put_record(&instance).put_record(&last);
        if number % 256 == 255 {
            let _ = store.txn(std::mem::take(&mut txn)).await?;
        }
    }
    let _ = store.txn(txn).await?;
    Ok(())
}

/// The controller in another process; it is killed with this
pub struct Process(Child);

impl Process {
    pub fn start(fleet: &Fleet) -> Result<Self> {
        let child = Command::new(std::env::current_exe()?)
            .arg(ROLE)
            .arg(fleet.data_dir())
            .arg(fleet.grpc.to_string())
            .arg(fleet.http.to_string())
            .stdin(Stdio::piped())
            .spawn()?;
        Ok(Self(child))
    }

    /// The id of the process
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    fn kill(&mut self) -> Result<()> {
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may be dead already.
        let _ = self.kill();
    }
}

/// The other process: serves until it is killed, or left alone.
pub fn serve(data_dir: &str, grpc: &str, http: &str) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let config = config(Path::new(data_dir), grpc.parse()?, http.parse()?);
    let controller = runtime.block_on(Controller::start(config))?;
    for line in std::io::stdin().lines() {
        line?;
    }
    runtime.block_on(controller.shutdown());
    Ok(())
}

fn config(data_dir: &Path, grpc: SocketAddr, http: SocketAddr) -> ControllerConfig {
    let mut config = ControllerConfig {
        data_dir: data_dir.to_path_buf(),
        ..ControllerConfig::default()
    };
    config.grpc.listen = grpc;
    config.http.listen = http;
    config
}

fn data_dir(folder: &Path) -> PathBuf {
    folder.join("data")
}

fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

fn node_name(node: usize) -> String {
    format!("node-{node}")
}

fn instance_name(node: usize, number: usize) -> String {
    format!("lobby-{}", node * 1000 + number + 1)
}

fn port(number: usize) -> u16 {
    u16::try_from(20_000 + number).unwrap_or(u16::MAX)
}

/// One request on a connection of its own
pub fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    token: &str,
    body: &str,
) -> Result<(u16, String)> {
    let mut socket = TcpStream::connect(address)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n");
    if !token.is_empty() {
        write!(head, "Authorization: Bearer {token}\r\n")?;
    }
    write!(head, "Content-Length: {}\r\n\r\n{body}", body.len())?;
    socket.write_all(head.as_bytes())?;
    let mut answer = BufReader::new(socket);
    let mut line = String::new();
    answer.read_line(&mut line)?;
    let status = line.split(' ').nth(1).context("no HTTP answer")?.parse()?;
    let mut rest = String::new();
    answer.read_to_string(&mut rest)?;
    let body = rest.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok((status, body.to_owned()))
}

pub fn median(times: &[f64]) -> f64 {
    quantile(times, 0.5)
}

pub fn p99(times: &[f64]) -> f64 {
    quantile(times, 0.99)
}

pub fn quantile(times: &[f64], share: f64) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    let index = ((sorted.len() as f64 - 1.0) * share).round() as usize;
    sorted.get(index).copied().unwrap_or(f64::NAN)
}
