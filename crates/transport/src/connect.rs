//! The rpc `DaemonService.Connect`: one stream per node, for a session that the controller supplies
//!
//! The generated service would decode with the default codec, which loses unknown variants. This one is written by hand
//! on the same path, and it hands the stream to the session instead of to an async function.

use std::convert::Infallible;
use std::fmt;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};

use prexorcloud_proto::{ControllerMessage, DaemonMessage};
use prexorcloud_protocol::{Close, Session};
use tokio::time::timeout;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::{Request, Response, Status, Streaming};
use tower_service::Service;
use tracing::{Instrument as _, info, info_span};

use crate::codec::{Frame, MAX_MESSAGE_BYTES};
use crate::counters::{StreamCounters, StreamCounts};
use crate::gate::{DecodingBudget, gate};
use crate::handle::{DRAIN_LIMIT, SessionHandle, StreamEnd};
use crate::server::Peer;
use crate::stream::{Incoming, Outbound, Role, attach, status_of};

/// What a client without a certificate is told.
pub const CERTIFICATE_REQUIRED: &str = "client certificate required; enrol with BootstrapService";

/// The path of the rpc.
pub const CONNECT_PATH: &str = "/me.prexorjustin.prexorcloud.protocol.DaemonService/Connect";

/// Supplies the sessions of the nodes that connect
pub trait NodeAcceptor: Send + Sync + 'static {
    /// The controller's side of one stream.
    type Session: Session<Incoming = DaemonMessage, Outgoing = ControllerMessage> + Send + 'static;

    /// Makes the session of a new stream
    ///
    /// The peer has a certificate that the TLS configuration accepts; whether it is a node's, and whose, is decided
    /// here. Called on the task of the connection: look up only what is in memory.
    ///
    /// # Errors
    /// The stream ends at once with this status.
    fn open(&self, peer: &Peer) -> Result<Self::Session, Close>;

    /// The stream is open and its session connected; loop over the events of the handle on a task of its own.
    fn attach(&self, peer: Peer, session: SessionHandle<Self::Session>);
}

/// The service that nodes connect to, for [`Routes`](tonic::service::Routes)
pub struct DaemonService<A> {
    acceptor: Arc<A>,
    counters: StreamCounters,
    budget: DecodingBudget,
}

impl<A: NodeAcceptor> DaemonService<A> {
    /// A service that asks `acceptor` for sessions.
    #[must_use]
    pub fn new(acceptor: Arc<A>) -> Self {
        Self {
            acceptor,
            counters: StreamCounters::default(),
            budget: DecodingBudget::default(),
        }
    }

    /// What passed through the streams of this service; take a clone of the service to ask later.
    #[must_use]
    pub fn counts(&self) -> StreamCounts {
        self.counters.snapshot()
    }
}

impl<A> Clone for DaemonService<A> {
    fn clone(&self) -> Self {
        Self {
            acceptor: Arc::clone(&self.acceptor),
            counters: self.counters.clone(),
            budget: self.budget.clone(),
        }
    }
}

impl<A> fmt::Debug for DaemonService<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DaemonService")
    }
}

impl<A> NamedService for DaemonService<A> {
    const NAME: &'static str = "me.prexorjustin.prexorcloud.protocol.DaemonService";
}

impl<A: NodeAcceptor> Service<http::Request<Body>> for DaemonService<A> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = futures_util::future::BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            if request.uri().path() != CONNECT_PATH {
                return Ok(Status::unimplemented("DaemonService has one method: Connect").into_http());
            }
            let Some(turn) = request.extensions().get::<Peer>().and_then(Peer::turn) else {
                return Ok(Status::unauthenticated(CERTIFICATE_REQUIRED).into_http());
            };
            let (parts, body) = request.into_parts();
            let (body, codec) =
                gate::<_, ControllerMessage, DaemonMessage>(body, service.budget.clone(), turn);
            let request = http::Request::from_parts(parts, body);
            let mut grpc = Grpc::new(codec)
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .max_encoding_message_size(MAX_MESSAGE_BYTES);
            Ok(grpc.streaming(Opener(service), request).await)
        })
    }
}

/// The handler of one call
struct Opener<A>(DaemonService<A>);

impl<A: NodeAcceptor> StreamingService<Frame<DaemonMessage>> for Opener<A> {
    type Response = ControllerMessage;
    type ResponseStream = Outbound<A::Session>;
    type Future = Ready<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<Frame<DaemonMessage>>>) -> Self::Future {
        ready(self.0.open(request).map(Response::new))
    }
}

impl<A: NodeAcceptor> DaemonService<A> {
    fn open(
        &self,
        request: Request<Streaming<Frame<DaemonMessage>>>,
    ) -> Result<Outbound<A::Session>, Status> {
        let peer = request.extensions().get::<Peer>().cloned();
        let Some(peer) = peer.filter(|peer| peer.certificate().is_some()) else {
            return Err(Status::unauthenticated(CERTIFICATE_REQUIRED));
        };
        let session = self
            .acceptor
            .open(&peer)
            .map_err(|close| status_of(&close).unwrap_or_else(|| Status::unavailable(close.message)))?;
        let handle = SessionHandle::with_counters(session, self.counters.clone());
        let incoming = Incoming::Open(Box::new(request.into_inner()));
        let (outbound, driver, written) = attach(&handle, Role::Server, incoming);
        let span = info_span!("node_stream", address = %peer.address(), connection = peer.connection_id());
        let connection = peer.clone();
        self.acceptor.attach(peer, handle.clone());
        tokio::spawn(
            async move {
                let mut end = driver.await;
                let certain = !matches!(end, StreamEnd::PeerFinished | StreamEnd::Lost(_));
                if certain {
                    handle.retire();
                }
                let written = timeout(DRAIN_LIMIT, written).await;
                if written.is_err() {
                    // A peer that does not read keeps the rest of the stream waiting for ever.
                    connection.close();
                }
                if !certain {
                    // Whether the peer finished its half or was lost shows in what became of ours.
                    if !matches!(written, Ok(Ok(()))) {
                        let reason = connection
                            .broken()
                            .unwrap_or("the peer stopped answering or reset the stream");
                        end = StreamEnd::Lost(reason.to_owned());
                        handle.correct_last_end(end.clone());
                    }
                    handle.retire();
                }
                info!(%end, "stream ended");
            }
            .instrument(span),
        );
        Ok(outbound)
    }
}
