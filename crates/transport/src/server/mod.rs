//! One port: accept, TLS, HTTP/2, and the connections that are alive
//!
//! A client certificate is optional here and demanded by the services that need one, because a daemon enrols on the same
//! port without any. Each socket has a task of its own from the moment it is accepted, so a client that never finishes its
//! handshake delays nobody. The TLS configuration is asked for per connection: a new certificate, another trust anchor or a
//! new revocation list counts from the next connection on, and [`ServerHandle::close_where`] ends the ones that are open.

mod failed_handshakes;
mod peer;
mod registry;
mod source;
mod stranger;

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::server::conn::http2::Builder;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tonic::service::Routes;
use tower_service::Service as _;
use tracing::{debug, info, warn};

use self::failed_handshakes::FailedHandshakes;
pub use self::peer::Peer;
use self::registry::{Admission, Newcomer, Registry};
pub use self::source::Source;
use crate::counters::{ConnectionCounters, ConnectionCounts};
use crate::stream::innermost;

/// The only protocol spoken on the port.
pub(crate) const ALPN_H2: &[u8] = b"h2";

/// After a failed handshake the socket is read this long, so that the client receives the alert instead of a reset.
const LINGER: Duration = Duration::from_secs(1);
/// After a connection was asked to finish, its calls get this long.
const FINISH: Duration = Duration::from_secs(10);
/// Pause after an error of `accept` that will not go away by itself, for instance no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Bounds and timings of a [`Server`]
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServerOptions {
    /// Silence after which a peer is asked whether it is there (HTTP/2 ping). 30 s.
    pub keepalive_interval: Duration,
    /// How long it may take to answer. 10 s.
    pub keepalive_timeout: Duration,
    /// How long a TLS handshake may take. 10 s.
    pub tls_handshake_timeout: Duration,
    /// TLS handshakes under way; beyond them the source with the most of them gives one up. 256.
    pub max_tls_handshakes: usize,
    /// Connections; one without a certificate is closed for a new one, else the new one is refused. 8192.
    pub max_connections: usize,
    /// Connections without a client certificate; beyond them the source with the most of them loses its oldest. 512.
    pub max_anonymous_connections: usize,
    /// A connection without a client certificate is asked to finish after this. 120 s.
    pub anonymous_lifetime: Duration,
    /// Calls at once on one connection. 64.
    pub max_concurrent_streams: u32,
    /// Calls at once on a connection without a client certificate. 2.
    pub max_anonymous_streams: u32,
    /// How long the request of a call without a client certificate may take to arrive. 10 s.
    pub anonymous_request_timeout: Duration,
    /// Flow-control window of one call, in bytes. 1 MiB.
    pub stream_window: u32,
    /// Flow-control window of one connection, in bytes. 2 MiB.
    pub connection_window: u32,
    /// Bytes of one call that may wait in HTTP/2 for the socket. Small keeps a ping ahead of a blob. 256 KiB.
    pub send_buffer: usize,
    /// Size of the headers of one call, in bytes. 16 KiB.
    pub max_header_list: u32,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            keepalive_interval: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(10),
            tls_handshake_timeout: Duration::from_secs(10),
            max_tls_handshakes: 256,
            max_connections: 8192,
            max_anonymous_connections: 512,
            anonymous_lifetime: Duration::from_secs(120),
            max_concurrent_streams: 64,
            max_anonymous_streams: 2,
            anonymous_request_timeout: Duration::from_secs(10),
            stream_window: 1024 * 1024,
            connection_window: 2 * 1024 * 1024,
            send_buffer: 256 * 1024,
            max_header_list: 16 * 1024,
        }
    }
}

/// Why a port could not be opened
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// Another process listens there.
    #[error("{address} is in use by another process: stop it, or configure another port")]
    InUse {
        /// The address asked for.
        address: SocketAddr,
    },
    /// The operating system does not allow it.
    #[error("this user may not listen on {address}: ports below 1024 need a privilege, choose a higher one")]
    Denied {
        /// The address asked for.
        address: SocketAddr,
    },
    /// No interface of this host has the address.
    #[error("{address} is not an address of this host: check the bind address in the configuration")]
    NotAvailable {
        /// The address asked for.
        address: SocketAddr,
    },
    /// Anything else.
    #[error("cannot listen on {address}: {source}")]
    Io {
        /// The address asked for.
        address: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
}

impl BindError {
    fn new(address: SocketAddr, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::AddrInUse => Self::InUse { address },
            io::ErrorKind::PermissionDenied => Self::Denied { address },
            io::ErrorKind::AddrNotAvailable => Self::NotAvailable { address },
            _ => Self::Io { address, source },
        }
    }
}

/// An open port that nobody serves yet
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    options: ServerOptions,
}

type TlsProvider = Box<dyn Fn() -> Arc<rustls::ServerConfig> + Send + Sync>;

impl Server {
    /// Opens the port. Port 0 lets the operating system choose; see [`local_addr`](Self::local_addr).
    ///
    /// # Errors
    /// [`BindError`] says what the operator can do.
    pub async fn bind(address: SocketAddr, options: ServerOptions) -> Result<Self, BindError> {
        let listener = TcpListener::bind(address)
            .await
            .map_err(|error| BindError::new(address, error))?;
        let address = listener
            .local_addr()
            .map_err(|error| BindError::new(address, error))?;
        Ok(Self {
            listener,
            address,
            options,
        })
    }

    /// The address that clients can dial.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Starts to serve `routes`
    ///
    /// `tls` is asked once per connection. ALPN is set to `h2` on what it returns, whatever it offered before.
    pub fn serve(
        self,
        tls: impl Fn() -> Arc<rustls::ServerConfig> + Send + Sync + 'static,
        routes: Routes,
    ) -> ServerHandle {
        let (stopping, _) = watch::channel(false);
        let (accepts, accepting) = watch::channel(());
        let shared = Arc::new(Shared {
            options: self.options,
            tls: Box::new(tls),
            normalised: Mutex::new(None),
            routes: routes.prepare(),
            registry: Arc::new(Registry::default()),
            counters: ConnectionCounters::default(),
            failed_handshakes: FailedHandshakes::default(),
            ids: AtomicU64::new(1),
            stopping,
            accepting,
            address: self.address,
        });
        let acceptor = accept(self.listener, Arc::clone(&shared));
        tokio::spawn(async move {
            // Dropped however it ends.
            let _accepts = accepts;
            acceptor.await;
        });
        ServerHandle(shared)
    }
}

struct Shared {
    options: ServerOptions,
    tls: TlsProvider,
    /// The last configuration that `tls` gave, and the same with ALPN set.
    normalised: Mutex<Option<(Arc<rustls::ServerConfig>, Arc<rustls::ServerConfig>)>>,
    routes: Routes,
    registry: Arc<Registry>,
    counters: ConnectionCounters,
    failed_handshakes: FailedHandshakes,
    ids: AtomicU64,
    stopping: watch::Sender<bool>,
    /// Closed as soon as nobody accepts
    accepting: watch::Receiver<()>,
    address: SocketAddr,
}

impl Shared {
    fn tls_config(&self) -> Arc<rustls::ServerConfig> {
        let given = (self.tls)();
        if matches!(given.alpn_protocols.as_slice(), [only] if only == ALPN_H2) {
            return given;
        }
        let mut cached = self.normalised.lock().unwrap_or_else(PoisonError::into_inner);
        match &*cached {
            Some((source, normalised)) if Arc::ptr_eq(source, &given) => Arc::clone(normalised),
            _ => {
                let mut config = (*given).clone();
                config.alpn_protocols = vec![ALPN_H2.to_vec()];
                let config = Arc::new(config);
                *cached = Some((given, Arc::clone(&config)));
                config
            }
        }
    }
}

/// A server that serves; clones are the same server
#[derive(Clone)]
pub struct ServerHandle(Arc<Shared>);

/// How a shutdown went
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shutdown {
    /// Connections that had to be cut at the deadline.
    pub cut_off: usize,
}

impl ServerHandle {
    /// The address that clients can dial.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.0.address
    }

    /// What happened at the port so far.
    #[must_use]
    pub fn counts(&self) -> ConnectionCounts {
        self.0.counters.snapshot()
    }

    /// Resolves when no more connections are accepted: after a shutdown, or because the acceptor has died.
    pub async fn accepts_no_more(&self) {
        let mut accepting = self.0.accepting.clone();
        while accepting.changed().await.is_ok() {}
    }

    /// The peers of the connections that are open.
    #[must_use]
    pub fn connections(&self) -> Vec<Peer> {
        self.0.registry.peers()
    }

    /// Cuts every open connection for which `which` is true, at once, and says how many
    ///
    /// This is how a revoked certificate loses the streams it has open.
    pub fn close_where(&self, mut which: impl FnMut(&Peer) -> bool) -> usize {
        let mut count = 0;
        for peer in self.connections() {
            if which(&peer) {
                peer.close();
                count += 1;
            }
        }
        self.0.counters.cut_off(count as u64);
        count
    }

    /// Stops accepting, lets calls under way finish until `deadline` has passed, then cuts what is left
    ///
    /// Node streams never finish by themselves: close their sessions first. Calling it again waits again.
    pub async fn shutdown(&self, deadline: Duration) -> Shutdown {
        self.0.registry.close();
        self.0.stopping.send_replace(true);
        if timeout(deadline, self.0.registry.emptied()).await.is_ok() {
            return Shutdown { cut_off: 0 };
        }
        let cut_off = self.close_where(|_| true);
        self.0.registry.emptied().await;
        Shutdown { cut_off }
    }
}

impl fmt::Debug for ServerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerHandle")
            .field("address", &self.0.address)
            .finish_non_exhaustive()
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut stopping = shared.stopping.subscribe();
    let mut failing = false;
    loop {
        let accepted = tokio::select! {
            biased;
            _ = stopping.wait_for(|stopping| *stopping) => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, address)) => {
                failing = false;
                shared.counters.accepted(1);
                tell(shared.failed_handshakes.due(Instant::now()));
                admit(socket, address, &shared);
            }
            // The client went away before we got to it.
            Err(error) if is_of_the_client(&error) => {}
            Err(error) => {
                shared.counters.accept_errors(1);
                if !failing {
                    warn!(%error, address = %shared.address, "cannot accept connections, trying on");
                }
                failing = true;
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn is_of_the_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset
    )
}

fn admit(socket: TcpStream, address: SocketAddr, shared: &Arc<Shared>) {
    let id = shared.ids.fetch_add(1, Ordering::Relaxed);
    let closed = Arc::new(Notify::new());
    let newcomer = Newcomer::new(id, address.ip(), Arc::clone(&closed));
    let has_spoken = Arc::clone(&newcomer.has_spoken);
    let (slot, admission) = shared.registry.begin(newcomer, shared.options.max_tls_handshakes);
    match admission {
        Admission::Admitted => {}
        Admission::Displaced => shared.counters.tls_timeouts(1),
        Admission::Refused => {
            shared.counters.tls_timeouts(1);
            return;
        }
    }
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        let _slot = slot;
        let handshake = timeout(shared.options.tls_handshake_timeout, async {
            // Whoever closes without a word is no failed handshake.
            if !matches!(socket.peek(&mut [0]).await, Ok(1..)) {
                return None;
            }
            has_spoken.store(true, Ordering::Relaxed);
            handshake(socket, address, &has_spoken, &shared).await
        });
        let tls = tokio::select! {
            tls = handshake => tls,
            () = closed.notified() => return,
        };
        match tls {
            Ok(Some(tls)) => connection(tls, id, address, closed, &shared).await,
            Ok(None) => {}
            Err(_) => {
                shared.counters.tls_timeouts(1);
                debug!(%address, "the TLS handshake took too long");
            }
        }
    });
}

type TlsStream = tokio_rustls::server::TlsStream<TcpStream>;

async fn handshake(
    socket: TcpStream,
    address: SocketAddr,
    is_promising: &AtomicBool,
    shared: &Shared,
) -> Option<TlsStream> {
    // Without it a small message waits for the acknowledgement of the one before.
    if let Err(error) = socket.set_nodelay(true) {
        debug!(%address, %error, "cannot set TCP_NODELAY");
    }
    match TlsAcceptor::from(shared.tls_config())
        .accept(socket)
        .into_fallible()
        .await
    {
        Ok(tls) => Some(tls),
        Err((error, mut socket)) => {
            shared.counters.tls_failures(1);
            is_promising.store(false, Ordering::Relaxed);
            tell(
                shared
                    .failed_handshakes
                    .failed(Instant::now(), address.ip(), &error.to_string()),
            );
            // Closing a socket that holds unread bytes resets it, and the alert that says why would be lost.
            let _ = socket.shutdown().await;
            let _ = timeout(LINGER, async {
                let mut waste = [0; 1024];
                let mut budget = 64;
                while budget > 0 && matches!(socket.read(&mut waste).await, Ok(1..)) {
                    budget -= 1;
                }
            })
            .await;
            None
        }
    }
}

/// Says who did not get in; once for a source and a while, and for all of the while
fn tell(told: Vec<failed_handshakes::Told>) {
    for failed_handshakes::Told { source, count, last } in told {
        match source {
            Some(address) => info!(%address, count, error = last, "TLS handshakes failed"),
            None => info!(
                count,
                error = last,
                "TLS handshakes from many other addresses failed"
            ),
        }
    }
}

async fn connection(tls: TlsStream, id: u64, address: SocketAddr, closed: Arc<Notify>, shared: &Shared) {
    let certificates = tls
        .get_ref()
        .1
        .peer_certificates()
        .map(<[_]>::to_vec)
        .unwrap_or_default();
    let peer = Peer::new(id, address, certificates, Arc::clone(&closed));
    let options = &shared.options;
    match shared
        .registry
        .establish(&peer, options.max_connections, options.max_anonymous_connections)
    {
        Admission::Admitted => {}
        Admission::Displaced => shared.counters.over_limit(1),
        Admission::Refused => {
            shared.counters.over_limit(1);
            warn!(%address, limit = options.max_connections, "refused a connection, too many are open");
            return;
        }
    }
    let is_stranger = peer.certificate().is_none();
    let lifetime = is_stranger.then_some(options.anonymous_lifetime);
    let http2 = match is_stranger {
        true => stranger::http2(options),
        false => http2(options),
    };
    let service = PeerService {
        routes: shared.routes.clone(),
        peer: peer.clone(),
        request_timeout: is_stranger.then_some(options.anonymous_request_timeout),
    };
    let mut connection = pin!(http2.serve_connection(TokioIo::new(tls), service));
    let mut stopping = shared.stopping.subscribe();
    let finish = async {
        tokio::select! {
            // The sender lives in `shared`, so this completes with `true` only.
            _ = stopping.wait_for(|stopping| *stopping) => false,
            () = lapse(lifetime) => true,
        }
    };
    let end = tokio::select! {
        end = connection.as_mut() => Some(end),
        () = closed.notified() => None,
        lapsed = finish => {
            connection.as_mut().graceful_shutdown();
            // At a shutdown the deadline is the caller's.
            tokio::select! {
                end = connection.as_mut() => Some(end),
                () = closed.notified() => None,
                () = lapse(lapsed.then_some(FINISH)) => None,
            }
        }
    };
    match end {
        Some(Ok(())) => debug!(%address, "connection closed"),
        Some(Err(error)) => {
            peer.note_broken(innermost(&error));
            debug!(%address, error = innermost(&error), "connection lost");
        }
        None => {
            peer.note_broken("cut by this side");
            debug!(%address, "connection cut");
        }
    }
}

/// HTTP/2 for somebody who has proven who they are.
fn http2(options: &ServerOptions) -> Builder<TokioExecutor> {
    let mut http2 = Builder::new(TokioExecutor::new());
    http2
        .timer(TokioTimer::new())
        .keep_alive_interval(options.keepalive_interval)
        .keep_alive_timeout(options.keepalive_timeout)
        .max_concurrent_streams(options.max_concurrent_streams)
        .initial_stream_window_size(options.stream_window)
        .initial_connection_window_size(options.connection_window)
        .max_send_buf_size(options.send_buffer)
        .max_header_list_size(options.max_header_list);
    http2
}

async fn lapse(after: Option<Duration>) {
    match after {
        Some(after) => sleep(after).await,
        None => std::future::pending().await,
    }
}

/// Gives every request its [`Peer`]
#[derive(Clone)]
struct PeerService {
    routes: Routes,
    peer: Peer,
    /// For those of a stranger
    request_timeout: Option<Duration>,
}

impl hyper::service::Service<http::Request<Incoming>> for PeerService {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, mut request: http::Request<Incoming>) -> Self::Future {
        request.extensions_mut().insert(self.peer.clone());
        match self.request_timeout {
            None => Box::pin(self.routes.clone().call(request)),
            Some(timeout) => {
                let request = request.map(|body| stranger::Request::new(body, timeout));
                Box::pin(self.routes.clone().call(request))
            }
        }
    }
}
