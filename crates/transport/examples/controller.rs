//! A controller of your own: enrols one node, prints what it says, orders one start and then the stop
//!
//! ```sh
//! cargo run --example controller -- 127.0.0.1:9090 node-1 file:///srv/server.jar 25565
//! ```
//!
//! prints a join token for a daemon. Authority, tokens and rosters live in memory: a controller that is to survive keeps
//! them on disk, and writes a start down before it is sent. Ctrl-C ends the sessions.

use std::collections::HashMap;
use std::error::Error;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use prexorcloud_transport::proto::bootstrap_service_server::{BootstrapService, BootstrapServiceServer};
use prexorcloud_transport::proto::{ExchangeJoinTokenRequest, ExchangeJoinTokenResponse, StartInstance};
use prexorcloud_transport::protocol::instance::State;
use prexorcloud_transport::protocol::roster::{InstanceEvent, Roster};
use prexorcloud_transport::protocol::session::controller::Admission;
use prexorcloud_transport::protocol::{
    Close, Code, ControllerConfig, ControllerEvent, ControllerSession, NodeId, StopMode,
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

/// What is known of each node between its streams.
type Rosters = Arc<Mutex<HashMap<NodeId, Roster>>>;

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

/// Makes the session of each stream, and a handler for it.
struct Nodes {
    rosters: Rosters,
    accepted: AtomicU64,
    jar: String,
    port: u16,
    stopping: watch::Receiver<bool>,
}

impl NodeAcceptor for Nodes {
    type Session = ControllerSession;

    fn open(&self, peer: &Peer) -> Result<ControllerSession, Close> {
        let accepted = self.accepted.fetch_add(1, Ordering::Relaxed) + 1;
        Ok(ControllerSession::new(
            ControllerConfig::default(),
            peer.node_id()?,
            accepted,
        ))
    }

    fn attach(&self, _peer: Peer, session: SessionHandle<ControllerSession>) {
        let mut stream = Stream {
            rosters: Arc::clone(&self.rosters),
            jar: self.jar.clone(),
            port: self.port,
            stopping: self.stopping.clone(),
        };
        tokio::spawn(async move { serve(&session, &mut stream).await });
    }
}

struct Stream {
    rosters: Rosters,
    jar: String,
    port: u16,
    stopping: watch::Receiver<bool>,
}

impl SessionHandler<ControllerSession> for Stream {
    async fn handle_event(
        &mut self,
        session: &SessionHandle<ControllerSession>,
        event: ControllerEvent,
    ) -> ControlFlow<()> {
        let mut rosters = self.rosters.lock().unwrap_or_else(PoisonError::into_inner);
        session.with(|session, now| match event {
            ControllerEvent::Hello(hello) => {
                println!(
                    "{} says hello, version {}",
                    hello.node_id, hello.handshake.version
                );
                let roster = rosters
                    .remove(&hello.node_id)
                    .unwrap_or_else(|| Roster::new(hello.node_id));
                let admission = Admission {
                    session_id: "example".into(),
                    ..Admission::default()
                };
                if let Err(refused) = session.accept(now, hello, admission, roster) {
                    rosters.insert(session.identity(), refused.roster);
                }
            }
            ControllerEvent::Established => {
                let start = StartInstance {
                    instance_id: "lobby-1".into(),
                    group: "lobby".into(),
                    port: self.port.into(),
                    memory_mb: 64,
                    jar_file: self.jar.rsplit('/').next().unwrap_or_default().into(),
                    download_url: self.jar.clone(),
                    incarnation: 1,
                    ..StartInstance::default()
                };
                println!("ordering lobby-1: {:?}", session.start(now, Box::new(start)));
            }
            ControllerEvent::Instance(InstanceEvent::Changed { instance, to, .. }) => {
                println!("{instance} is {to}");
                if to == State::Running {
                    println!(
                        "stopping it: {:?}",
                        session.stop(now, instance, StopMode::Graceful)
                    );
                }
            }
            ControllerEvent::Console(output) => println!("{}> {}", output.instance_id, output.line),
            ControllerEvent::Closed(outcome) => {
                println!("{} left: {outcome}", session.identity());
                rosters.extend(session.take_roster().map(|roster| (session.identity(), roster)));
            }
            other => println!("{other:?}"),
        });
        ControlFlow::Continue(())
    }

    async fn idle(&mut self, session: &SessionHandle<ControllerSession>) -> ControlFlow<()> {
        // Comes once: nobody stops the stopping.
        if self.stopping.changed().await.is_err() {
            return ControlFlow::Break(());
        }
        let close = Close::new(Code::Unavailable, "the controller is shutting down");
        session.with(|session, _| session.close_with(close));
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
    let nodes = Nodes {
        rosters: Rosters::default(),
        accepted: AtomicU64::new(0),
        jar: jar.clone(),
        port: port.parse()?,
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
