//! Events of a controller: how soon they are where somebody waits, and how fast one catches up that was away
//!
//! The controller is a process of its own. What happens is a group that an operator makes over HTTP; the time counts from
//! his request on, so the commit, with its flush, is part of it. One listens as a node does, over mTLS, and one to the
//! server-sent events. Beside the catching up stand the same messages out of a broadcast channel of tokio, over tonic's own
//! server and channel.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc as blocking;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures_util::stream::{self, BoxStream, StreamExt as _};
use prexorcloud_controller::records::EventRecord;
use prexorcloud_controller::store::{SqliteOptions, SqliteStore, Store as _, Txn};
use prexorcloud_proto::daemon_service_server::{DaemonService, DaemonServiceServer};
use prexorcloud_proto::{
    ControllerMessage, DaemonMessage, EventSubscribe, ModuleEvent, controller_message, daemon_message,
};
use prexorcloud_protocol::{Capabilities, DaemonEvent};
use prexorcloud_transport::{Dialer, Target};
use tokio::sync::broadcast;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming};

use crate::fleet::{Fleet, Process, Size, median, p99, request};
use crate::pki::Pki;
use crate::report::{Aim, Report, Row, median as middle};
use crate::rig::{BareDaemon, Daemon, on_core};

/// Groups that are made, one after the other
const MADE: usize = 500;

/// Between two of them, so that each is alone
const PAUSE: Duration = Duration::from_millis(3);

/// Events in the log that somebody has missed
const MISSED: u64 = 60_000;

/// How long anything may take
const PATIENCE: Duration = Duration::from_secs(60);

const CREATED: &str = "me.prexorjustin.prexorcloud.api.event.events.GroupCreatedEvent";

pub fn run(report: &mut Report, repetitions: usize) -> Result<()> {
    eprintln!("events: {MADE} that are waited for, {MISSED} that are caught up with");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    delivery(report, &runtime)?;
    catching_up(report, &runtime, repetitions)
}

fn fleet() -> Result<Fleet> {
    // `node-1` is the one that connects.
    Fleet::create(Size {
        nodes: 2,
        instances: 0,
    })
}

/// From a request to those who wait for what comes of it
fn delivery(report: &mut Report, runtime: &tokio::runtime::Runtime) -> Result<()> {
    let fleet = fleet()?;
    let _server = start(&fleet)?;
    let dialer = fleet.dialer("node-1")?;
    let target: Target = fleet.grpc.to_string().parse()?;
    let (tell, told) = blocking::channel();
    let node = runtime.spawn(async move {
        let daemon = subscribe(&dialer, &target, 0).await?;
        // It says how far the log was looked at, and with it that the subscription counts.
        next(&daemon).await?;
        tell.send(())?;
        let mut times = Vec::with_capacity(MADE);
        while times.len() < MADE {
            if is_created(&next(&daemon).await?) {
                times.push(Instant::now());
            }
        }
        Ok::<_, anyhow::Error>(times)
    });
    told.recv_timeout(PATIENCE)
        .context("the node is not subscribed")?;
    let mut lines = follow(fleet.http, &fleet.token, "type=GROUP_CREATED")?;
    lines.until(|line| line.starts_with("event: connected"))?;
    let operator = std::thread::spawn(move || {
        let mut times = Vec::with_capacity(MADE);
        while times.len() < MADE {
            lines.until(|line| line.starts_with("data: {\"type\":\"GROUP_CREATED\""))?;
            times.push(Instant::now());
        }
        Ok::<_, anyhow::Error>(times)
    });
    let (mut asked, mut answers) = (Vec::with_capacity(MADE), Vec::with_capacity(MADE));
    for number in 0..MADE {
        let body = format!(r#"{{"name":"group-{number}"}}"#);
        let begun = Instant::now();
        let (status, answer) = request(fleet.http, "POST", "/api/v1/groups", &fleet.token, &body)?;
        ensure!(status == 201, "a group was answered {status}: {answer}");
        asked.push(begun);
        answers.push(millis(begun.elapsed()));
        std::thread::sleep(PAUSE);
    }
    let node = runtime
        .block_on(async { tokio::time::timeout(PATIENCE, node).await })
        .context("the node has not got all")???;
    let operator = operator
        .join()
        .map_err(|_| anyhow::anyhow!("the reader of events has died"))??;
    for (who, times) in [("a node over mTLS", node), ("an SSE client", operator)] {
        let times: Vec<f64> = asked
            .iter()
            .zip(times)
            .map(|(asked, came)| millis(came - *asked))
            .collect();
        let name = format!("from a request to its event at {who}, p50; beside it its answer");
        report.add(
            Row::new("events", name, median(&times), "ms")
                .beside(median(&answers))
                .aim(Aim::ValueAtMost(2.0)),
        );
        let name = format!("from a request to its event at {who}, p99; beside it its answer");
        report.add(
            Row::new("events", name, p99(&times), "ms")
                .beside(p99(&answers))
                .aim(Aim::ValueAtMost(10.0)),
        );
    }
    Ok(())
}

/// How fast what was missed comes
fn catching_up(report: &mut Report, runtime: &tokio::runtime::Runtime, repetitions: usize) -> Result<()> {
    let fleet = fleet()?;
    runtime.block_on(fill(&fleet))?;
    let _server = start(&fleet)?;
    let dialer = fleet.dialer("node-1")?;
    let target: Target = fleet.grpc.to_string().parse()?;
    let pki = Pki::create()?;
    let url = start_bare(&pki)?;
    let (mut ours, mut operators, mut bare) = (Vec::new(), Vec::new(), Vec::new());
    // The first round warms up and does not count.
    for round in 0..=repetitions {
        let figures = [
            runtime.block_on(within(node_catches_up(&dialer, &target)))?,
            runtime.block_on(within(bare_catches_up(&pki, &url)))?,
            operator_catches_up(&fleet)?,
        ];
        await_gone(&fleet)?;
        if round > 0 {
            ours.push(figures[0]);
            bare.push(figures[1]);
            operators.push(figures[2]);
        }
    }
    let bare = middle(bare);
    let name = format!("{MISSED} missed events to a node over mTLS; beside it a broadcast stream");
    report.add(Row::new("events", name, middle(ours), "events/s").beside(bare));
    let name = format!("{MISSED} missed events to an SSE client");
    report.add(Row::new("events", name, middle(operators), "events/s"));
    Ok(())
}

async fn within(work: impl Future<Output = Result<f64>>) -> Result<f64> {
    tokio::time::timeout(PATIENCE, work)
        .await
        .context("it takes too long")?
}

async fn node_catches_up(dialer: &Dialer, target: &Target) -> Result<f64> {
    let begun = Instant::now();
    let daemon = subscribe(dialer, target, 1).await?;
    let mut came = 0;
    while came < MISSED - 1 {
        let event = next(&daemon).await?;
        ensure!(event.missed == 0, "{} are gone", event.missed);
        came += u64::from(is_created(&event));
    }
    let took = begun.elapsed();
    daemon.session.disconnect("it has caught up");
    Ok(MISSED as f64 / took.as_secs_f64())
}

/// A node that connects twice at once would be asked which of the two it is
fn await_gone(fleet: &Fleet) -> Result<()> {
    let limit = Instant::now() + PATIENCE;
    loop {
        let (_, node) = request(fleet.http, "GET", "/api/v1/nodes/node-1", &fleet.token, "")?;
        if node.contains(r#""connected":false"#) {
            return Ok(());
        }
        ensure!(Instant::now() < limit, "the node stays: {node}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

async fn bare_catches_up(pki: &Pki, url: &str) -> Result<f64> {
    let begun = Instant::now();
    let mut daemon = BareDaemon::connect(pki, url).await?;
    for _ in 1..MISSED {
        let message = daemon.incoming.message().await?.context("the stream ended")?;
        ensure!(matches!(
            message.payload,
            Some(controller_message::Payload::ModuleEvent(_))
        ));
    }
    Ok(MISSED as f64 / begun.elapsed().as_secs_f64())
}

fn operator_catches_up(fleet: &Fleet) -> Result<f64> {
    let begun = Instant::now();
    let mut lines = follow(fleet.http, &fleet.token, "lastSequence=1")?;
    let last = format!("id: {MISSED}\n");
    lines.until(|line| line == last)?;
    Ok(MISSED as f64 / begun.elapsed().as_secs_f64())
}

/// Starts the controller and waits until it answers
fn start(fleet: &Fleet) -> Result<Process> {
    let server = Process::start(fleet)?;
    let limit = Instant::now() + PATIENCE;
    while request(fleet.http, "GET", "/api/v1/system/ready", "", "").is_err() {
        ensure!(Instant::now() < limit, "the controller does not answer");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(server)
}

/// Lets so many groups have been made as far as the log is concerned
async fn fill(fleet: &Fleet) -> Result<()> {
    let store = SqliteStore::open(fleet.data_dir().join("controller.db"), &SqliteOptions::default())?;
    for first in (0..MISSED).step_by(500) {
        let txn = (first..first + 500).fold(Txn::new(), |txn, number| {
            let record = EventRecord {
                kind: "GROUP_CREATED".to_owned(),
                at_ms: 1,
                payload_json: payload(number),
            };
            txn.append(prost::Message::encode_to_vec(&record))
        });
        let written = store.txn(txn).await?.committed();
        ensure!(written.is_some(), "the log was not filled");
    }
    store.close().await?;
    Ok(())
}

fn payload(number: u64) -> String {
    format!(r#"{{"groupName":"group-{number}"}}"#)
}

async fn subscribe(dialer: &Dialer, target: &Target, after_sequence: u64) -> Result<Daemon> {
    let daemon = Daemon::announcing(dialer, target, Capabilities::EVENTS).await?;
    let subscribe = EventSubscribe {
        event_types: vec![CREATED.to_owned()],
        after_sequence,
        ..EventSubscribe::default()
    };
    daemon
        .session
        .with(|session, _| session.send(daemon_message::Payload::EventSubscribe(subscribe)))?;
    Ok(daemon)
}

async fn next(daemon: &Daemon) -> Result<ModuleEvent> {
    let is_event = |event: &DaemonEvent| {
        matches!(
            event,
            DaemonEvent::Request(controller_message::Payload::ModuleEvent(_))
        )
    };
    match daemon.event(is_event).await? {
        DaemonEvent::Request(controller_message::Payload::ModuleEvent(event)) => Ok(event),
        _ => Ok(ModuleEvent::default()),
    }
}

fn is_created(event: &ModuleEvent) -> bool {
    event.event_type == CREATED
}

/// The lines of a stream of server-sent events
struct Lines(BufReader<TcpStream>);

fn follow(address: SocketAddr, token: &str, query: &str) -> Result<Lines> {
    let mut socket = TcpStream::connect(address)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let head = format!(
        "GET /api/v1/events/stream?{query} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {token}\r\n\r\n"
    );
    socket.write_all(head.as_bytes())?;
    Ok(Lines(BufReader::with_capacity(64 * 1024, socket)))
}

impl Lines {
    fn until(&mut self, is_it: impl Fn(&str) -> bool) -> Result<()> {
        let mut line = String::new();
        while !is_it(&line) {
            line.clear();
            ensure!(self.0.read_line(&mut line)? > 0, "the stream ended");
        }
        Ok(())
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Starts tonic's server, which has a broadcast channel for whoever connects
fn start_bare(pki: &Pki) -> Result<String> {
    let pki = pki.clone();
    let (tell, told) = blocking::channel();
    on_core(0, move || async move {
        let served = async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
            tell.send(listener.local_addr()?)?;
            let sockets = TcpListenerStream::new(listener).inspect(|socket| {
                if let Ok(socket) = socket {
                    let _ = socket.set_nodelay(true);
                }
            });
            tonic::transport::Server::builder()
                .tls_config(pki.bare_server())?
                .add_service(DaemonServiceServer::new(Bare))
                .serve_with_incoming(sockets)
                .await?;
            Ok::<_, anyhow::Error>(())
        };
        if let Err(error) = served.await {
            eprintln!("the server failed: {error:#}");
        }
    });
    let address = told.recv_timeout(PATIENCE).context("the server did not start")?;
    Ok(format!("https://{address}"))
}

struct Bare;

#[tonic::async_trait]
impl DaemonService for Bare {
    type ConnectStream = BoxStream<'static, Result<ControllerMessage, Status>>;

    async fn connect(
        &self,
        _: Request<Streaming<DaemonMessage>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let room = usize::try_from(MISSED).unwrap_or(usize::MAX).next_power_of_two();
        let (send, receive) = broadcast::channel(room);
        for number in 1..MISSED {
            let event = ModuleEvent {
                event_type: CREATED.to_owned(),
                payload_json: payload(number).into(),
                sequence: number + 1,
                previous: number,
                ..ModuleEvent::default()
            };
            // Nobody has gone yet.
            let _ = send.send(event);
        }
        let messages = stream::unfold((receive, send), |(mut receive, send)| async move {
            let event = receive.recv().await.ok()?;
            let message = ControllerMessage {
                payload: Some(controller_message::Payload::ModuleEvent(event)),
                ..ControllerMessage::default()
            };
            Some((Ok(message), (receive, send)))
        });
        Ok(Response::new(messages.boxed()))
    }
}
