//! A controller of your own: enrols one node, prints what it says, orders one start and then the stop
//!
//! ```sh
//! cargo run --example controller -- 127.0.0.1:9090 node-1 file:///srv/server.jar 25565
//! ```
//!
//! prints a join token for a daemon. Authority, token and records live in memory: a controller that is to survive keeps
//! them on disk, and says that a commit is written when it is. Ctrl-C ends the sessions.

use std::collections::HashMap;
use std::error::Error;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use prexorcloud_transport::proto::bootstrap_service_server::{BootstrapService, BootstrapServiceServer};
use prexorcloud_transport::proto::{ExchangeJoinTokenRequest, ExchangeJoinTokenResponse, StartInstance};
use prexorcloud_transport::protocol::instance::State;
use prexorcloud_transport::protocol::node::controller::{ControllerNode, ControllerWork, OrderId, StreamId};
use prexorcloud_transport::protocol::roster::InstanceEvent;
use prexorcloud_transport::protocol::session::controller::Admission;
use prexorcloud_transport::protocol::{
    Close, Code, ControllerConfig, ControllerEvent, ControllerSession, StopMode,
};
use prexorcloud_transport::security::authority::{Authority, AuthorityPolicy, ServerNames};
use prexorcloud_transport::security::keystore::{self, KeystorePassword};
use prexorcloud_transport::security::tls::ServerTls;
use prexorcloud_transport::security::token::{CaPin, JoinToken, JoinTokenRecord, redeem};
use prexorcloud_transport::tonic::{self, Request, Response, Status, service::Routes};
use prexorcloud_transport::{
    DaemonService, NodeAcceptor, Peer, Server, ServerOptions, SessionHandle, SessionHandler, serve,
};
use tokio::sync::watch;

struct Enrolment {
    authority: Authority,
    token: Mutex<JoinTokenRecord>,
}

#[tonic::async_trait]
impl BootstrapService for Enrolment {
    async fn exchange_join_token(
        &self,
        request: Request<ExchangeJoinTokenRequest>,
    ) -> Result<Response<ExchangeJoinTokenResponse>, Status> {
        let request = request.into_inner();
        let refused = |error: &dyn Error| Status::unauthenticated(error.to_string());
        let token: JoinToken = request.join_token.parse().map_err(|error| refused(&error))?;
        let mut record = self.token.lock().unwrap_or_else(PoisonError::into_inner);
        let now = SystemTime::now();
        let used =
            redeem(Some(&record), &token.hash(), now, &request.node_id).map_err(|error| refused(&error))?;
        let issued = self
            .authority
            .issue_node(&request.node_id, now)
            .map_err(|error| refused(&error))?;
        let password = KeystorePassword::generate().map_err(|error| refused(&error))?;
        let pkcs12 = keystore::write(&issued, &password).map_err(|error| refused(&error))?;
        *record = used;
        println!("{} enrolled", request.node_id);
        Ok(Response::new(ExchangeJoinTokenResponse {
            pkcs12: pkcs12.into(),
            pkcs12_password: password.expose().to_owned(),
            ca_certificate_pem: self.authority.certificate().to_pem().into_bytes().into(),
            cli_token: String::new(),
        }))
    }
}

/// The node, and the sessions of its streams.
struct Fleet {
    node: ControllerNode,
    sessions: HashMap<StreamId, SessionHandle<ControllerSession>>,
}

impl Fleet {
    /// What the machine wants done; all that is to be kept is kept in memory.
    fn work(&mut self, now: Instant) {
        while let Some(work) = self.node.poll_work() {
            let session = work.stream().and_then(|stream| self.sessions.get(&stream));
            let left = match session {
                Some(session) => session.with(|session, now| work.hand_to(now, session)),
                None => Some(work),
            };
            match left {
                Some(ControllerWork::Admit { hello }) => {
                    let version = &hello.handshake.version;
                    println!("{} says hello, version {version}", hello.node_id);
                    self.node.handle_admission(now, hello, Admission::default());
                }
                Some(ControllerWork::Commit(commit)) => self.node.handle_committed(now, commit.id),
                Some(ControllerWork::Answer { result, .. }) => println!("the order: {result:?}"),
                Some(ControllerWork::News(InstanceEvent::Changed { instance, to, .. })) => {
                    println!("{instance} is {to}");
                    if to == State::Running {
                        self.node.stop(now, OrderId(2), instance, StopMode::Graceful);
                    }
                }
                _ => {}
            }
        }
        let current = self.node.current_stream();
        if let Some(session) = current.and_then(|stream| self.sessions.get(&stream)) {
            session.with(|session, _| self.node.feed(session));
        }
    }
}

/// Makes the session of each stream, and a handler for it.
struct Nodes {
    fleet: Arc<Mutex<Fleet>>,
    accepted: AtomicU64,
    start: StartInstance,
    stopping: watch::Receiver<bool>,
}

impl NodeAcceptor for Nodes {
    type Session = ControllerSession;

    fn open(&self, peer: &Peer) -> Result<ControllerSession, Close> {
        let accepted = self.accepted.fetch_add(1, Ordering::Relaxed) + 1;
        let config = ControllerConfig::default();
        Ok(ControllerSession::new(config, peer.node_id()?, accepted))
    }

    fn attach(&self, _peer: Peer, session: SessionHandle<ControllerSession>) {
        let mut stream = Stream {
            fleet: Arc::clone(&self.fleet),
            start: self.start.clone(),
            stopping: self.stopping.clone(),
        };
        let id = session.with(|session, _| session.stream());
        stream.fleet().sessions.insert(id, session.clone());
        tokio::spawn(async move { serve(&session, &mut stream).await });
    }
}

struct Stream {
    fleet: Arc<Mutex<Fleet>>,
    start: StartInstance,
    stopping: watch::Receiver<bool>,
}

impl Stream {
    fn fleet(&self) -> MutexGuard<'_, Fleet> {
        self.fleet.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SessionHandler<ControllerSession> for Stream {
    async fn handle_event(
        &mut self,
        session: &SessionHandle<ControllerSession>,
        event: ControllerEvent,
    ) -> ControlFlow<()> {
        let (now, stream) = (Instant::now(), session.with(|session, _| session.stream()));
        let mut fleet = self.fleet();
        match fleet.node.handle_event(now, stream, event) {
            Some(ControllerEvent::Established) => {
                fleet.node.start(now, OrderId(1), Box::new(self.start.clone()));
            }
            Some(ControllerEvent::Console(output)) => println!("{}> {}", output.instance_id, output.line),
            Some(ControllerEvent::Closed(outcome)) => {
                fleet.sessions.remove(&stream);
                println!("{} left: {outcome}", fleet.node.node());
            }
            Some(other) => println!("{other:?}"),
            None => {}
        }
        fleet.work(now);
        ControlFlow::Continue(())
    }

    async fn idle(&mut self, session: &SessionHandle<ControllerSession>) -> ControlFlow<()> {
        let due = self.fleet().node.poll_timeout().map(|deadline| deadline.at);
        let far = Instant::now() + Duration::from_secs(3600);
        tokio::select! {
            stopping = self.stopping.changed() => {
                if stopping.is_err() {
                    return ControlFlow::Break(());
                }
                let close = Close::new(Code::Unavailable, "the controller is shutting down");
                session.with(|session, _| session.close_with(close));
            }
            () = tokio::time::sleep_until(due.unwrap_or(far).into()) => {
                let mut fleet = self.fleet();
                fleet.node.handle_timeout(Instant::now());
                fleet.work(Instant::now());
            }
        }
        ControlFlow::Continue(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [listen, node, jar, port] = words.as_slice() else {
        return Err("usage: controller ADDRESS:PORT NODE JAR_URL SERVER_PORT".into());
    };
    let (now, hour) = (SystemTime::now(), Duration::from_secs(3600));
    let authority = Authority::create(&AuthorityPolicy::default(), now)?;
    let token = JoinToken::generate(Some(CaPin::of(authority.certificate())))?;
    let record = JoinTokenRecord::create(&token, Some(node), now, hour)?;
    let certificate = authority.issue_server(&ServerNames::loopback(), now)?;
    let tls = ServerTls::new(&certificate, &authority.trust_anchors()?).build()?;
    let (stop, stopping) = watch::channel(false);
    let fleet = Fleet {
        node: ControllerNode::new(node.parse()?),
        sessions: HashMap::new(),
    };
    let nodes = Nodes {
        fleet: Arc::new(Mutex::new(fleet)),
        accepted: AtomicU64::new(0),
        start: StartInstance {
            instance_id: "lobby-1".into(),
            group: "lobby".into(),
            port: port.parse()?,
            memory_mb: 64,
            jar_file: jar.rsplit('/').next().unwrap_or_default().into(),
            download_url: jar.clone(),
            incarnation: 1,
            ..StartInstance::default()
        },
        stopping,
    };
    let enrolment = Enrolment {
        authority,
        token: Mutex::new(record),
    };
    let routes =
        Routes::new(DaemonService::new(Arc::new(nodes))).add_service(BootstrapServiceServer::new(enrolment));
    let server = Server::bind(listen.parse()?, ServerOptions::default()).await?;
    println!("listening on {}\n{}", server.local_addr(), token.expose());
    let server = server.serve(move || Arc::clone(&tls), routes);
    tokio::signal::ctrl_c().await?;
    stop.send_replace(true);
    server.shutdown(Duration::from_secs(5)).await;
    Ok(())
}
