//! A controller of your own: enrols one node, prints what it says, orders one start and then the stop
//!
//! ```sh
//! cargo run -p prexorcloud-transport --example controller -- 127.0.0.1:9090 node-1 file:///srv/server.jar 25565
//! ```
//!
//! prints a join token for a daemon. Authority, token and records live in memory: a controller that is to survive keeps
//! them on disk, and says that a commit is written when it is. Ctrl-C ends the session in order.

use std::error::Error;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use prexorcloud_transport::proto::{StartInstance, bootstrap_service_server::BootstrapServiceServer};
use prexorcloud_transport::protocol::instance::State;
use prexorcloud_transport::protocol::node::controller::{ControllerNode, ControllerWork, OrderId};
use prexorcloud_transport::protocol::roster::InstanceEvent;
use prexorcloud_transport::protocol::session::controller::Admission;
use prexorcloud_transport::protocol::{Close, Code, ControllerConfig, ControllerEvent, ControllerSession};
use prexorcloud_transport::protocol::{NodeId, StopMode};
use prexorcloud_transport::security::authority::{Authority, AuthorityPolicy, ServerNames};
use prexorcloud_transport::security::tls::ServerTls;
use prexorcloud_transport::tonic::service::Routes;
use prexorcloud_transport::{DaemonService, InMemoryEnrolment, NodeAcceptor, NodeStreams, Peer};
use prexorcloud_transport::{Server, ServerOptions, SessionHandle, due};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

/// Makes the session of each stream, and hands it to the loop below
struct Acceptor {
    accepted: AtomicU64,
    attached: UnboundedSender<SessionHandle<ControllerSession>>,
}

impl NodeAcceptor for Acceptor {
    type Session = ControllerSession;

    fn open(&self, peer: &Peer) -> Result<ControllerSession, Close> {
        let accepted = self.accepted.fetch_add(1, Ordering::Relaxed) + 1;
        let config = ControllerConfig::default();
        Ok(ControllerSession::new(config, peer.node_id()?, accepted))
    }

    fn attach(&self, _peer: Peer, session: SessionHandle<ControllerSession>) {
        let _ = self.attached.send(session);
    }
}

/// What the machine wants done; all that is to be kept is kept in memory
fn work(machine: &mut ControllerNode, streams: &NodeStreams, now: Instant) {
    while let Some(work) = machine.poll_work() {
        match streams.hand(work) {
            Some(ControllerWork::Admit { hello }) => {
                println!("{} says hello", hello.node_id);
                machine.handle_admission(now, hello, Admission::default());
            }
            Some(ControllerWork::Commit(commit)) => machine.handle_committed(now, commit.id),
            Some(ControllerWork::Answer { result, .. }) => println!("the order: {result:?}"),
            Some(ControllerWork::News(InstanceEvent::Changed { instance, to, .. })) => {
                println!("{instance} is {to}");
                if to == State::Running {
                    machine.stop(now, OrderId(2), instance, StopMode::Graceful);
                }
            }
            _ => {}
        }
    }
    streams.feed(machine);
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [listen, node, jar, port] = words.as_slice() else {
        return Err("usage: controller ADDRESS:PORT NODE JAR_URL SERVER_PORT".into());
    };
    let start = StartInstance {
        instance_id: "lobby-1".into(),
        group: "lobby".into(),
        port: port.parse()?,
        memory_mb: 64,
        jar_file: jar.rsplit('/').next().unwrap_or_default().into(),
        download_url: jar.clone(),
        incarnation: 1,
        ..StartInstance::default()
    };
    let node: NodeId = node.parse()?;
    let (now, hour) = (SystemTime::now(), Duration::from_secs(3600));
    let authority = Authority::create(&AuthorityPolicy::default(), now)?;
    let certificate = authority.issue_server(&ServerNames::loopback(), now)?;
    let tls = ServerTls::new(&certificate, &authority.trust_anchors()?).build()?;
    let enrolment = InMemoryEnrolment::new(authority);
    let token = enrolment.mint(Some(node), hour)?;
    let (attached, mut arrivals) = unbounded_channel();
    let accepted = AtomicU64::new(0);
    let service = DaemonService::new(Arc::new(Acceptor { accepted, attached }));
    let routes = Routes::new(service).add_service(BootstrapServiceServer::new(enrolment));
    let server = Server::bind(listen.parse()?, ServerOptions::default()).await?;
    println!("listening on {}\n{}", server.local_addr(), token.expose());
    let server = server.serve(move || Arc::clone(&tls), routes);

    let mut machine = ControllerNode::new(node);
    let (mut streams, mut events) = (NodeStreams::default(), Vec::new());
    machine.start(Instant::now(), OrderId(1), Box::new(start));
    let mut interrupted = pin!(tokio::signal::ctrl_c());
    loop {
        work(&mut machine, &streams, Instant::now());
        tokio::select! {
            Some(session) = arrivals.recv() => drop(streams.push(session, ())),
            () = streams.next_events(&mut events) => {
                for (stream, event) in events.drain(..) {
                    match machine.handle_event(Instant::now(), stream, event) {
                        Some(ControllerEvent::Console(output)) => println!("{}> {}", output.instance_id, output.line),
                        Some(ControllerEvent::Closed(outcome)) => println!("{node} left: {outcome}"),
                        Some(other) => println!("{other:?}"),
                        None => {}
                    }
                }
            }
            () = due(machine.poll_timeout()) => machine.handle_timeout(Instant::now()),
            _ = interrupted.as_mut() => break,
        }
    }
    streams.close_all(&Close::new(Code::Unavailable, "the controller is shutting down"));
    server.shutdown(Duration::from_secs(5)).await;
    Ok(())
}
