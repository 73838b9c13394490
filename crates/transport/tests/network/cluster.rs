//! A controller at a free port of loopback, and dialers for it

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prexorcloud_proto::{ControllerMessage, DaemonMessage};
use prexorcloud_protocol::{Close, Session};
use prexorcloud_transport::server::Peer;
use prexorcloud_transport::{
    Connection, DaemonService, DialOptions, Dialer, NodeAcceptor, Server, ServerHandle, ServerOptions,
    SessionHandle, Target,
};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::service::Routes;

use crate::pki::{Authority, Credential};
use crate::plain::PlainController;

/// No test waits longer than this for anything.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub async fn within<T>(what: impl Future<Output = T>) -> T {
    timeout(PATIENCE, what).await.expect("took too long")
}

type Make<S> = dyn Fn(&Peer) -> Result<S, Close> + Send + Sync;

/// Gives every node a session made by a function, and hands the sessions to the test
pub struct Acceptor<S: Session> {
    make: Box<Make<S>>,
    attached: mpsc::UnboundedSender<(Peer, SessionHandle<S>)>,
}

impl<S> NodeAcceptor for Acceptor<S>
where
    S: Session<Incoming = DaemonMessage, Outgoing = ControllerMessage> + Send + 'static,
{
    type Session = S;

    fn open(&self, peer: &Peer) -> Result<S, Close> {
        (self.make)(peer)
    }

    fn attach(&self, peer: Peer, session: SessionHandle<S>) {
        let _ = self.attached.send((peer, session));
    }
}

pub struct Controller<S: Session = PlainController> {
    pub authority: Arc<Authority>,
    pub tls: Arc<Mutex<Arc<rustls::ServerConfig>>>,
    pub service: DaemonService<Acceptor<S>>,
    pub server: ServerHandle,
    pub target: Target,
    sessions: mpsc::UnboundedReceiver<(Peer, SessionHandle<S>)>,
}

impl Controller {
    pub async fn start() -> Self {
        Self::start_with(ServerOptions::default()).await
    }

    pub async fn start_with(options: ServerOptions) -> Self {
        let authority = Arc::new(Authority::new("cluster"));
        Self::start_of(authority, options, |_| Ok(PlainController::default())).await
    }
}

impl<S> Controller<S>
where
    S: Session<Incoming = DaemonMessage, Outgoing = ControllerMessage> + Send + 'static,
{
    pub async fn start_of(
        authority: Arc<Authority>,
        options: ServerOptions,
        make: impl Fn(&Peer) -> Result<S, Close> + Send + Sync + 'static,
    ) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), authority, options, make).await
    }

    pub async fn start_at(
        address: SocketAddr,
        authority: Arc<Authority>,
        options: ServerOptions,
        make: impl Fn(&Peer) -> Result<S, Close> + Send + Sync + 'static,
    ) -> Self {
        let tls = Arc::new(Mutex::new(authority.server_config(&authority.server())));
        let (attached, sessions) = mpsc::unbounded_channel();
        let service = DaemonService::new(Arc::new(Acceptor {
            make: Box::new(make),
            attached,
        }));
        let server = Server::bind(address, options).await.unwrap();
        let target = server.local_addr().to_string().parse().unwrap();
        let provider = Arc::clone(&tls);
        let server = server.serve(
            move || provider.lock().unwrap().clone(),
            Routes::new(service.clone()),
        );
        Self {
            authority,
            tls,
            service,
            server,
            target,
            sessions,
        }
    }

    /// The session of the next node that connects.
    pub async fn next_session(&mut self) -> (Peer, SessionHandle<S>) {
        within(self.sessions.recv()).await.unwrap()
    }

    pub fn dialer(&self, credential: Option<&Credential>) -> Dialer {
        self.dialer_with(credential, DialOptions::default())
    }

    pub fn dialer_with(&self, credential: Option<&Credential>, options: DialOptions) -> Dialer {
        Dialer::with_config(self.authority.client_config(credential), options)
    }

    /// A connection with the certificate of a node.
    pub async fn connect(&self) -> Connection {
        let node = self.authority.node("node-1");
        within(self.dialer(Some(&node)).dial(&self.target)).await.unwrap()
    }
}
