//! Pings that are timed, over a stream that also brings records: our session, and bare tonic
//!
//! A controller pings once in many seconds. Here one follows the other, from the session that a controller has of a node, and
//! nothing else is done with what comes in but to count it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use prexorcloud_proto::daemon_service_server::{DaemonService as BareService, DaemonServiceServer};
use prexorcloud_proto::{
    ControllerMessage, DaemonLogRecord, DaemonMessage, Ping, Pong, controller_message, daemon_message,
};
use prexorcloud_protocol::session::controller::Admission;
use prexorcloud_protocol::{
    Close, Code, ControllerConfig, ControllerEvent, ControllerSession, Epoch, NodeId,
};
use prexorcloud_transport::server::Peer;
use prexorcloud_transport::{
    DaemonService, NodeAcceptor, Server, ServerHandle, ServerOptions, SessionHandle,
};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};

use super::{MESSAGE, NODE, RATE};
use crate::pki::Pki;
use crate::rig::BareDaemon;

/// Between two pings, if the answer has come
const INTERVAL: Duration = Duration::from_millis(5);

/// What has come in; clones are the same
#[derive(Clone, Default)]
pub struct Seen(Arc<Counts>);

#[derive(Default)]
struct Counts {
    is_connected: AtomicBool,
    records: AtomicU64,
    /// Round trips in milliseconds
    times: Mutex<Vec<f64>>,
}

impl Seen {
    pub fn is_connected(&self) -> bool {
        self.0.is_connected.load(Ordering::SeqCst)
    }

    /// Records since the last time
    pub fn records(&self) -> u64 {
        self.0.records.swap(0, Ordering::SeqCst)
    }

    /// Round trips since the last time
    pub fn times(&self) -> Vec<f64> {
        std::mem::take(&mut self.0.times.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn connected(&self) {
        self.0.is_connected.store(true, Ordering::SeqCst);
    }

    fn record(&self) {
        self.0.records.fetch_add(1, Ordering::SeqCst);
    }

    fn answered(&self, sent: Instant) {
        let mut times = self.0.times.lock().unwrap_or_else(PoisonError::into_inner);
        times.push(sent.elapsed().as_secs_f64() * 1000.0);
    }
}

/// A server of ours
pub async fn serve(address: SocketAddr, tls: Arc<rustls::ServerConfig>, seen: Seen) -> Result<ServerHandle> {
    let server = Server::bind(address, ServerOptions::default()).await?;
    let routes = Routes::new(DaemonService::new(Arc::new(Acceptor(seen))));
    Ok(server.serve(move || Arc::clone(&tls), routes))
}

struct Acceptor(Seen);

impl NodeAcceptor for Acceptor {
    type Session = ControllerSession;

    fn open(&self, peer: &Peer) -> Result<ControllerSession, Close> {
        let node = NodeId::new(NODE).map_err(|error| Close::new(Code::InvalidArgument, error.to_string()))?;
        let config = ControllerConfig::default();
        Ok(ControllerSession::new(config, node, peer.connection_id()))
    }

    fn attach(&self, _: Peer, session: SessionHandle<ControllerSession>) {
        tokio::spawn(control(session, self.0.clone()));
    }
}

async fn control(session: SessionHandle<ControllerSession>, seen: Seen) {
    let mut due = tokio::time::interval(INTERVAL);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut events, mut sent, mut is_accepted) = (Vec::new(), None, false);
    loop {
        tokio::select! {
            count = session.next_events(&mut events, 1024) => if count == 0 {
                return;
            },
            _ = due.tick(), if is_accepted && sent.is_none() => {
                sent = Some(Instant::now());
                session.with(|session, now| session.probe(now));
            }
        }
        for event in events.drain(..) {
            match event {
                ControllerEvent::Hello(hello) => {
                    // The daemon has obeyed a controller before this one.
                    let admission = Admission {
                        epoch: Epoch::new(u64::from(u32::MAX)),
                        ..Admission::default()
                    };
                    is_accepted = session.with(|session, now| session.accept(now, hello, admission).is_ok());
                    if is_accepted {
                        seen.connected();
                    }
                }
                ControllerEvent::Log(_) => seen.record(),
                ControllerEvent::Answered => sent.take().into_iter().for_each(|sent| seen.answered(sent)),
                _ => {}
            }
        }
    }
}

/// Tonic's server; says where it listens
pub async fn serve_bare(pki: &Pki, seen: Seen) -> Result<SocketAddr> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let server = tonic::transport::Server::builder()
        .tcp_nodelay(true)
        .tls_config(pki.bare_server())?
        .add_service(DaemonServiceServer::new(Bare(seen)));
    tokio::spawn(async move {
        if let Err(error) = server.serve_with_incoming(TcpListenerStream::new(listener)).await {
            eprintln!("the server failed: {error:#}");
        }
    });
    Ok(address)
}

struct Bare(Seen);

#[tonic::async_trait]
impl BareService for Bare {
    type ConnectStream = ReceiverStream<Result<ControllerMessage, Status>>;

    async fn connect(
        &self,
        request: Request<Streaming<DaemonMessage>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let (send, receive) = mpsc::channel(1024);
        tokio::spawn(ping(request.into_inner(), send, self.0.clone()));
        Ok(Response::new(ReceiverStream::new(receive)))
    }
}

async fn ping(
    mut incoming: Streaming<DaemonMessage>,
    send: mpsc::Sender<Result<ControllerMessage, Status>>,
    seen: Seen,
) {
    let mut due = tokio::time::interval(INTERVAL);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut sequence, mut sent) = (0, None);
    seen.connected();
    loop {
        tokio::select! {
            message = incoming.message() => match message {
                Ok(Some(message)) => match message.payload {
                    Some(daemon_message::Payload::Pong(_)) => {
                        sent.take().into_iter().for_each(|sent| seen.answered(sent));
                    }
                    Some(daemon_message::Payload::DaemonLogRecord(_)) => seen.record(),
                    _ => {}
                },
                _ => return,
            },
            _ = due.tick(), if sent.is_none() => {
                sequence += 1;
                sent = Some(Instant::now());
                let ping = ControllerMessage {
                    payload: Some(controller_message::Payload::Ping(Ping { sequence, answered: 0 })),
                    ..ControllerMessage::default()
                };
                if send.send(Ok(ping)).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// A daemon that sends all that there is to log, and its answers to pings behind it
pub struct BareNode {
    send: mpsc::Sender<DaemonMessage>,
}

impl BareNode {
    pub async fn connect(pki: &Pki, address: SocketAddr) -> Result<Self> {
        let BareDaemon {
            send, mut incoming, ..
        } = BareDaemon::connect(pki, &format!("https://{address}")).await?;
        let answers = send.clone();
        tokio::spawn(async move {
            while let Ok(Some(message)) = incoming.message().await {
                let Some(controller_message::Payload::Ping(ping)) = message.payload else {
                    continue;
                };
                let pong = Pong {
                    sequence: ping.sequence,
                };
                if answers
                    .send(of(daemon_message::Payload::Pong(pong)))
                    .await
                    .is_err()
                {
                    return;
                }
            }
        });
        Ok(Self { send })
    }

    /// As many records as a flood of ours has, as far as they are taken; says how many
    pub async fn flood(&self, time: Duration) -> Result<u64> {
        let begun = Instant::now();
        let mut offered: u64 = 0;
        while begun.elapsed() < time {
            let due = (begun.elapsed().as_secs_f64() * RATE) as u64;
            while offered < due && begun.elapsed() < time {
                offered += 1;
                let record = DaemonLogRecord {
                    timestamp_ms: 1_700_000_000_000,
                    level: "INFO".to_owned(),
                    logger: "prexorcloud_bench::logs::node".to_owned(),
                    thread: "main".to_owned(),
                    message: MESSAGE.to_owned(),
                    mdc: [("number".to_owned(), offered.to_string())].into(),
                    sequence: offered,
                    ..DaemonLogRecord::default()
                };
                let payload = daemon_message::Payload::DaemonLogRecord(Box::new(record));
                self.send.send(of(payload)).await?;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(offered)
    }
}

fn of(payload: daemon_message::Payload) -> DaemonMessage {
    DaemonMessage {
        payload: Some(payload),
    }
}
