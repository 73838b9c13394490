//! A dialled connection: calls go out on it until it breaks, and then it knows why

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Uri, header};
use hyper::client::conn::http2::{Connection as Http2, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prexorcloud_proto::{ControllerMessage, DaemonMessage};
use prexorcloud_protocol::Session;
use rustls::pki_types::CertificateDer;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::{Request, Status};
use tower_service::Service;

use super::body::{ResponseBody, strip};
use super::failure::classify_with;
use super::watched::{Seen, Watched};
use super::{CallError, DialError, Target};
use crate::codec::{EnvelopeCodec, MAX_MESSAGE_BYTES};
use crate::connect::CONNECT_PATH;
use crate::handle::{SessionHandle, StreamEnd};
use crate::stream::{ClientOutbound, Incoming, Role, attach};

/// How long a failed call waits to learn what became of its connection.
const VERDICT: Duration = Duration::from_secs(1);

const USER_AGENT: HeaderValue = HeaderValue::from_static(concat!("prexorcloud/", env!("CARGO_PKG_VERSION")));

/// What became of a connection
#[derive(Clone, Debug)]
enum State {
    Open,
    Closed,
    Broken(DialError),
}

/// A connection to a controller; clones are the same connection, closed when the last one is dropped
///
/// It is a tower service, so the generated clients take it: `BootstrapServiceClient::new(connection.clone())`. It never
/// redials.
#[derive(Clone)]
pub struct Connection {
    inner: Arc<Inner>,
    requests: SendRequest<Body>,
}

pub(super) struct Inner {
    target: Target,
    certificates: Vec<CertificateDer<'static>>,
    state: watch::Receiver<State>,
    driver: AbortHandle,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Connection {
    pub(super) fn spawn(
        target: Target,
        certificates: Vec<CertificateDer<'static>>,
        requests: SendRequest<Body>,
        driver: Http2<TokioIo<Watched<TlsStream<TcpStream>>>, Body, TokioExecutor>,
        seen: Seen,
    ) -> Self {
        let (publish, state) = watch::channel(State::Open);
        let dialled = target.clone();
        let driver = tokio::spawn(async move {
            let end = match driver.await {
                Ok(()) => State::Closed,
                Err(error) => State::Broken(classify_with(&dialled, &error, seen.get().as_ref())),
            };
            publish.send_replace(end);
        });
        let inner = Inner {
            target,
            certificates,
            state,
            driver: driver.abort_handle(),
        };
        Self {
            inner: Arc::new(inner),
            requests,
        }
    }

    /// Who was dialled.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.inner.target
    }

    /// The chain that the server presented, its own certificate first.
    #[must_use]
    pub fn peer_certificates(&self) -> &[CertificateDer<'static>] {
        &self.inner.certificates
    }

    /// Whether calls can still be made, as far as this side knows.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(*self.inner.state.borrow(), State::Open)
    }

    /// Waits until the connection is over; `None` if it was closed in order.
    pub async fn closed(&self) -> Option<DialError> {
        let mut state = self.inner.state.clone();
        match state.wait_for(|state| !matches!(state, State::Open)).await {
            Ok(state) => match &*state {
                State::Broken(error) => Some(error.clone()),
                State::Open | State::Closed => None,
            },
            Err(_) => None,
        }
    }

    /// Why the connection broke, after a call on it failed; `None` if it did not
    ///
    /// The answer of a TLS 1.3 server to our certificate, for instance, arrives with the first call. Waits a moment
    /// for it.
    pub async fn failure(&self) -> Option<DialError> {
        timeout(VERDICT, self.closed()).await.ok().flatten()
    }

    /// Closes the connection at once; every call on it fails.
    pub fn close(&self) {
        self.inner.driver.abort();
    }

    pub(super) async fn call_error(&self, status: &Status) -> CallError {
        use std::error::Error as _;
        // A status with a source was made here, of an error of the connection.
        if status.source().is_some()
            && let Some(error) = self.failure().await
        {
            return CallError::Dial(error);
        }
        CallError::Status {
            code: status.code(),
            message: status.message().to_owned(),
        }
    }

    /// Opens the stream of `DaemonService.Connect` and drives `session` until it is over
    ///
    /// An older stream of the same session ends. If the future is dropped, the stream ends.
    pub async fn run_session<S>(&self, session: &SessionHandle<S>) -> StreamEnd
    where
        S: Session<Incoming = ControllerMessage, Outgoing = DaemonMessage> + Send + 'static,
    {
        let (send_body, body) = tokio::sync::oneshot::channel();
        let mut grpc = Grpc::new(self.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let opening = Box::pin(async move {
            let Ok(outbound) = body.await else {
                return Err(Status::cancelled("the stream was never started"));
            };
            let codec = EnvelopeCodec::<DaemonMessage, ControllerMessage>::new();
            let path = PathAndQuery::from_static(CONNECT_PATH);
            grpc.streaming(Request::new(outbound), path, codec)
                .await
                .map(tonic::Response::into_inner)
        });
        let (outbound, driver, _written) = attach(session, Role::Client, Incoming::Opening(opening));
        // The receiver is inside `driver`, which is alive.
        let _ = send_body.send(ClientOutbound(outbound));
        let end = driver.await;
        match end {
            // What broke the connection says more than what the stream saw of it.
            StreamEnd::Lost(seen) => match self.failure().await {
                Some(error) => StreamEnd::Lost(error.to_string()),
                None => StreamEnd::Lost(seen),
            },
            end => end,
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("target", &self.inner.target)
            .finish_non_exhaustive()
    }
}

impl Service<http::Request<Body>> for Connection {
    type Response = http::Response<ResponseBody>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        // HTTP/2 queues calls beyond the peer's limit; a broken connection fails the call.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        parts.scheme = Some(Scheme::HTTPS);
        parts.authority = self.inner.target.to_string().parse::<Authority>().ok();
        *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
        request.headers_mut().insert(header::USER_AGENT, USER_AGENT);
        // The connection lives as long as its calls do.
        let inner = Arc::clone(&self.inner);
        let response = self.requests.send_request(request);
        Box::pin(async move {
            let mut response = response.await?;
            strip(response.headers_mut());
            Ok(response.map(|body| ResponseBody::new(body, inner)))
        })
    }
}
