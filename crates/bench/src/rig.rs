//! The two servers that do the same: ours, and tonic's own
//!
//! Each runs on a thread of its own with a single-threaded runtime, bound to one processor; the client of the moment runs
//! on another. They count console lines until one says `last`, and answer a request for a template with a blob.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc as blocking;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt as _, stream};
use prexorcloud_proto::artifact_service_server::{ArtifactService, ArtifactServiceServer};
use prexorcloud_proto::daemon_service_client::DaemonServiceClient;
use prexorcloud_proto::daemon_service_server::{DaemonService as BareDaemonService, DaemonServiceServer};
use prexorcloud_proto::{
    ArtifactChunk, ControllerMessage, DaemonMessage, FetchArtifactRequest, Handshake, ShutdownNode,
    TemplateData, controller_message, daemon_message,
};
use prexorcloud_protocol::fence::EpochFence;
use prexorcloud_protocol::hosted::{Hosted, HostedInstance};
use prexorcloud_protocol::instance::State;
use prexorcloud_protocol::session::controller::{Admission, DaemonRequest};
use prexorcloud_protocol::{
    Capabilities, Close, ControllerConfig, ControllerEvent, ControllerSession, DaemonConfig, DaemonEvent,
    DaemonSession, Incarnation, NodeId,
};
use prexorcloud_transport::codec::MAX_MESSAGE_BYTES;
use prexorcloud_transport::server::Peer;
use prexorcloud_transport::{
    Connection, DaemonService, DialOptions, Dialer, NodeAcceptor, Server, ServerOptions, SessionHandle,
    Target,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::service::Routes;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};

use crate::pki::Pki;
use crate::processor;

/// The line that ends a measurement.
pub const LAST: &str = "last";
/// The size of the template.
pub const TEMPLATE_BYTES: usize = 32 * 1024 * 1024;
/// The size of its pieces, where it travels in pieces.
pub const CHUNK_BYTES: usize = 256 * 1024;

/// Runs a future on a thread of its own, bound to a processor if there are several.
pub fn on_core<T: Send + 'static, F: Future<Output = T>>(
    core: usize,
    make: impl FnOnce() -> F + Send + 'static,
) -> std::thread::JoinHandle<T> {
    std::thread::spawn(move || {
        if std::thread::available_parallelism().is_ok_and(|count| count.get() > core) {
            processor::bind_to(core);
        }
        match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime.block_on(make()),
            Err(error) => {
                eprintln!("cannot start a runtime: {error}");
                std::process::exit(1);
            }
        }
    })
}

/// Starts a server on processor 0 and says where it listens.
fn start<F>(serve: impl FnOnce(blocking::Sender<SocketAddr>) -> F + Send + 'static) -> Result<SocketAddr>
where
    F: Future<Output = Result<()>>,
{
    let (tell, told) = blocking::channel();
    on_core(0, move || async move {
        if let Err(error) = serve(tell).await {
            eprintln!("the server failed: {error:#}");
        }
    });
    told.recv().context("the server did not start")
}

pub struct Acceptor {
    template: Bytes,
}

impl NodeAcceptor for Acceptor {
    type Session = ControllerSession;

    fn open(&self, peer: &Peer) -> Result<ControllerSession, Close> {
        let identity = NodeId::new("node-1")
            .map_err(|error| Close::new(prexorcloud_protocol::Code::InvalidArgument, error.to_string()))?;
        Ok(ControllerSession::new(
            ControllerConfig::default(),
            identity,
            peer.connection_id(),
        ))
    }

    fn attach(&self, _: Peer, session: SessionHandle<ControllerSession>) {
        tokio::spawn(control(session, self.template.clone()));
    }
}

async fn control(session: SessionHandle<ControllerSession>, template: Bytes) {
    let mut events = Vec::new();
    while session.next_events(&mut events, 1024).await > 0 {
        for event in events.drain(..) {
            match event {
                ControllerEvent::Console(output) if output.line != LAST => {}
                ControllerEvent::Console(_) => {
                    let _ = session.with(|session, _| {
                        session.send(controller_message::Payload::ShutdownNode(ShutdownNode::default()))
                    });
                }
                ControllerEvent::Hello(hello) => session.with(|session, now| {
                    let _ = session.accept(now, hello, Admission::default());
                }),
                ControllerEvent::Request(DaemonRequest::Template(request)) => {
                    let data = TemplateData {
                        template_name: request.template_name,
                        hash: "0".repeat(64),
                        tar_gz: template.clone(),
                        ..Default::default()
                    };
                    let payload = controller_message::Payload::TemplateData(Box::new(data));
                    if let Err(error) = session.with(|session, _| session.send(payload)) {
                        eprintln!("cannot send the template: {error}");
                    }
                }
                _ => {}
            }
        }
    }
}

/// Serves our way.
pub async fn serve_product(pki: &Pki) -> Result<prexorcloud_transport::ServerHandle> {
    let tls = pki.server()?;
    let server = Server::bind("127.0.0.1:0".parse()?, ServerOptions::default()).await?;
    let template = Bytes::from(vec![7; TEMPLATE_BYTES]);
    let routes = Routes::new(DaemonService::new(Arc::new(Acceptor {
        template: template.clone(),
    })))
    .add_service(ArtifactServiceServer::new(Artifacts {
        blob: template,
        chunk: CHUNK_BYTES,
    }));
    Ok(server.serve(move || Arc::clone(&tls), routes))
}

/// Starts our server.
pub fn start_product(pki: &Pki) -> Result<Target> {
    let pki = pki.clone();
    let address = start(move |tell| async move {
        let server = serve_product(&pki).await?;
        tell.send(server.local_addr())?;
        std::future::pending().await
    })?;
    Ok(address.to_string().parse()?)
}

/// Serves tonic's way.
pub async fn serve_bare(pki: &Pki, chunk: usize, tell: impl FnOnce(SocketAddr) -> Result<()>) -> Result<()> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    tell(listener.local_addr()?)?;
    // The option of the server is not applied to sockets that it is given.
    let sockets = TcpListenerStream::new(listener).inspect(|socket| {
        if let Ok(socket) = socket {
            let _ = socket.set_nodelay(true);
        }
    });
    let blob = Bytes::from(vec![7; TEMPLATE_BYTES]);
    let service = DaemonServiceServer::new(Bare {
        template: blob.clone(),
    })
    .max_decoding_message_size(MAX_MESSAGE_BYTES)
    .max_encoding_message_size(MAX_MESSAGE_BYTES);
    tonic::transport::Server::builder()
        .tls_config(pki.bare_server())?
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .add_service(service)
        .add_service(ArtifactServiceServer::new(Artifacts { blob, chunk }))
        .serve_with_incoming(sockets)
        .await?;
    Ok(())
}

/// Starts tonic's server.
pub fn start_bare(pki: &Pki) -> Result<String> {
    start_bare_in_chunks(pki, CHUNK_BYTES)
}

/// Starts tonic's server, with pieces of this size.
pub fn start_bare_in_chunks(pki: &Pki, chunk: usize) -> Result<String> {
    let pki = pki.clone();
    let address =
        start(move |tell| async move { serve_bare(&pki, chunk, |address| Ok(tell.send(address)?)).await })?;
    Ok(format!("https://{address}"))
}

struct Bare {
    template: Bytes,
}

#[tonic::async_trait]
impl BareDaemonService for Bare {
    type ConnectStream = ReceiverStream<Result<ControllerMessage, Status>>;

    async fn connect(
        &self,
        request: Request<Streaming<DaemonMessage>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let (send, receive) = mpsc::channel(1024);
        let template = self.template.clone();
        let mut incoming = request.into_inner();
        tokio::spawn(async move {
            while let Ok(Some(message)) = incoming.message().await {
                let answer = match message.payload {
                    Some(daemon_message::Payload::ConsoleOutput(output)) if output.line == LAST => {
                        controller_message::Payload::ShutdownNode(ShutdownNode {
                            reason: "seen".into(),
                        })
                    }
                    Some(daemon_message::Payload::TemplateRequest(request)) => {
                        let data = TemplateData {
                            template_name: request.template_name,
                            hash: "0".repeat(64),
                            tar_gz: template.clone(),
                            ..Default::default()
                        };
                        controller_message::Payload::TemplateData(Box::new(data))
                    }
                    _ => continue,
                };
                if send
                    .send(Ok(ControllerMessage {
                        payload: Some(answer),
                        ..Default::default()
                    }))
                    .await
                    .is_err()
                {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receive)))
    }
}

/// One blob in pieces, the same on both servers
struct Artifacts {
    blob: Bytes,
    chunk: usize,
}

#[tonic::async_trait]
impl ArtifactService for Artifacts {
    type FetchStream = BoxStream<'static, Result<ArtifactChunk, Status>>;

    async fn fetch(&self, _: Request<FetchArtifactRequest>) -> Result<Response<Self::FetchStream>, Status> {
        let (blob, chunk) = (self.blob.clone(), self.chunk);
        let chunks = stream::iter((0..blob.len()).step_by(chunk)).map(move |offset| {
            let end = (offset + chunk).min(blob.len());
            let data = blob.slice(offset..end);
            Ok(ArtifactChunk {
                offset: offset as i64,
                data,
                last: end == blob.len(),
            })
        });
        Ok(Response::new(chunks.boxed()))
    }
}

/// A daemon of ours, admitted by the server
pub struct Daemon {
    pub session: SessionHandle<DaemonSession>,
    pub connection: Connection,
}

impl Daemon {
    pub async fn connect(pki: &Pki, target: &Target) -> Result<Self> {
        let dialer = Dialer::with_config(pki.client()?, DialOptions::default());
        Self::connect_with(&dialer, target).await
    }

    pub async fn connect_with(dialer: &Dialer, target: &Target) -> Result<Self> {
        Self::announcing(dialer, target, Capabilities::NONE).await
    }

    /// Announces more than every daemon does
    pub async fn announcing(dialer: &Dialer, target: &Target, more: Capabilities) -> Result<Self> {
        let connection = dialer.dial(target).await?;
        let mut hosted = Hosted::new();
        hosted.adopt(HostedInstance {
            instance: "lobby-1".parse()?,
            group: "lobby".parse()?,
            incarnation: Incarnation::new(1),
            port: 30_000,
            state: State::Running,
        })?;
        let mut config = DaemonConfig::new(NodeId::new("node-1")?, "1.0.0");
        config.capabilities = config.capabilities.union(more);
        let session = SessionHandle::new(DaemonSession::new(config, hosted, EpochFence::default()));
        tokio::spawn({
            let (connection, session) = (connection.clone(), session.clone());
            async move { connection.run_session(&session).await }
        });
        let daemon = Self { session, connection };
        daemon
            .event(|event| matches!(event, DaemonEvent::Connected(_)))
            .await?;
        Ok(daemon)
    }

    /// Waits for an event.
    pub async fn event(&self, which: impl Fn(&DaemonEvent) -> bool) -> Result<DaemonEvent> {
        loop {
            let event = self.session.next_event().await.context("the session is over")?;
            if which(&event) {
                return Ok(event);
            }
            if let DaemonEvent::FenceRaised(epoch) = event {
                self.session.with(|session, _| session.fence_written(epoch));
            }
            if let DaemonEvent::Disconnected(outcome) = event {
                anyhow::bail!("the stream ended: {outcome}");
            }
        }
    }
}

/// A daemon that uses tonic as it comes
pub struct BareDaemon {
    pub send: mpsc::Sender<DaemonMessage>,
    pub incoming: Streaming<ControllerMessage>,
    pub channel: Channel,
}

impl BareDaemon {
    pub async fn connect(pki: &Pki, url: &str) -> Result<Self> {
        let channel = Endpoint::from_shared(url.to_owned())?
            .tls_config(pki.bare_client())?
            .http2_keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(10))
            .keep_alive_while_idle(true)
            .connect()
            .await?;
        let (send, receive) = mpsc::channel(1024);
        let handshake = Handshake {
            node_id: "node-1".into(),
            version: "1.0.0".into(),
            ..Default::default()
        };
        send.send(DaemonMessage {
            payload: Some(daemon_message::Payload::Handshake(Box::new(handshake))),
        })
        .await?;
        let incoming = DaemonServiceClient::new(channel.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
            .connect(ReceiverStream::new(receive))
            .await?
            .into_inner();
        Ok(Self {
            send,
            incoming,
            channel,
        })
    }
}
