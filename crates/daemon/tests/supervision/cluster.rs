//! A controller of the test's own: enrols nodes, admits them, and hands what happens to the test

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use prexorcloud_proto::bootstrap_service_server::{BootstrapService, BootstrapServiceServer};
use prexorcloud_proto::{
    CacheStatus, ConsoleOutput, CrashReport, ErrorReport, ExchangeJoinTokenRequest,
    ExchangeJoinTokenResponse, ModuleSnapshot, ModuleStateUpdate, NodeStatus, RunningInstance,
    ShutdownNodeAck, StartInstance, TemplateRequest, controller_message,
};
use prexorcloud_protocol::instance::State;
use prexorcloud_protocol::node::ControllerNode;
use prexorcloud_protocol::node::controller::{Change, ControllerWork, OrderId, StreamId};
use prexorcloud_protocol::roster::GroupPolicy;
use prexorcloud_protocol::roster::InstanceEvent;
use prexorcloud_protocol::session::controller::{Admission, DaemonRequest};
use prexorcloud_protocol::{
    Capabilities, Close, Code, ControllerConfig, ControllerEvent, ControllerSession, Epoch, InstanceId,
    NodeId, StopMode,
};
use prexorcloud_security::authority::{Authority, AuthorityPolicy, ServerNames};
use prexorcloud_security::identity::PeerIdentity;
use prexorcloud_security::keystore::{self, KeystorePassword};
use prexorcloud_security::revocation::{RevocationList, SharedRevocations};
use prexorcloud_security::tls::ServerTls;
use prexorcloud_security::token::{CaPin, JoinToken};
use prexorcloud_transport::{
    DaemonService, NodeAcceptor, Peer, Server, ServerHandle, ServerOptions, SessionHandle,
};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use super::stage::PATIENCE;

/// What the controller sees
#[derive(Debug)]
pub enum Seen {
    Established,
    Instance(InstanceEvent),
    Console(ConsoleOutput),
    Crash(CrashReport),
    Status(NodeStatus),
    Error(ErrorReport),
    ShutdownAcknowledged(ShutdownNodeAck),
    Template(TemplateRequest),
    Cache(Box<CacheStatus>),
    Module(ModuleStateUpdate),
    Modules(ModuleSnapshot),
    /// The types, and the number after which they are wanted
    Subscribed(Vec<String>, u64),
    Unsubscribed(Vec<String>),
    Closed,
}

#[derive(Default)]
struct Shared {
    open_tokens: HashSet<String>,
    node: Option<ControllerNode>,
    sessions: HashMap<StreamId, SessionHandle<ControllerSession>>,
    orders: u64,
    /// The states in the last handshake, of what lives and of what has ended
    listed: (Vec<i32>, Vec<i32>),
}

impl Shared {
    fn node(&mut self) -> &mut ControllerNode {
        self.node.as_mut().expect("a node")
    }

    /// Does what the machine wants; everything is stored at once
    fn work(&mut self) -> Vec<Seen> {
        let mut seen = Vec::new();
        let now = std::time::Instant::now();
        while let Some(work) = self.node.as_mut().and_then(ControllerNode::poll_work) {
            let session = work.stream().map(|stream| self.sessions[&stream].clone());
            let left = match session {
                Some(session) => session.with(|session, now| work.hand_to(now, session)),
                None => Some(work),
            };
            match left {
                Some(ControllerWork::Admit { hello }) => {
                    let admission = Admission {
                        session_id: "test".into(),
                        epoch: Epoch::new(1),
                        controller_api_port: 8080,
                        controller_grpc_addrs: Vec::new(),
                        elsewhere: Vec::new(),
                        groups: GroupPolicy::AdoptAny,
                    };
                    self.node().handle_admission(now, hello, admission);
                }
                Some(ControllerWork::Commit(commit)) => {
                    for change in &commit.changes {
                        if let Change::Crash { report, .. } = change {
                            seen.push(Seen::Crash(CrashReport::clone(report)));
                        }
                    }
                    self.node().handle_committed(now, commit.id);
                }
                Some(ControllerWork::Answer { result, .. }) => assert!(result.is_ok(), "{result:?}"),
                Some(ControllerWork::News(event)) => seen.push(Seen::Instance(event)),
                _ => {}
            }
        }
        if let Some(node) = &mut self.node
            && let Some(session) = node
                .current_stream()
                .and_then(|stream| self.sessions.get(&stream))
        {
            session.with(|session, _| node.feed(session));
        }
        seen
    }
}

pub struct Cluster {
    pub authority: Arc<Authority>,
    pub address: SocketAddr,
    server: Option<ServerHandle>,
    shared: Arc<Mutex<Shared>>,
    sender: mpsc::UnboundedSender<Seen>,
    seen: mpsc::UnboundedReceiver<Seen>,
    /// All console lines of the latest start by number, as a controller keeps them
    pub console: std::collections::BTreeMap<u64, String>,
    /// Which start that is
    printing: u64,
}

impl Cluster {
    pub async fn start() -> Self {
        let authority = Arc::new(Authority::create(&AuthorityPolicy::default(), SystemTime::now()).unwrap());
        let (sender, seen) = mpsc::unbounded_channel();
        let mut cluster = Self {
            authority,
            address: "127.0.0.1:0".parse().unwrap(),
            server: None,
            shared: Arc::default(),
            sender,
            seen,
            console: std::collections::BTreeMap::new(),
            printing: 0,
        };
        cluster.listen().await;
        cluster
    }

    /// Starts to listen, at the same address as before
    pub async fn listen(&mut self) {
        let credential = self
            .authority
            .issue_server(&ServerNames::loopback(), SystemTime::now())
            .unwrap();
        let anchors = self.authority.trust_anchors().unwrap();
        let tls = ServerTls::new(&credential, &anchors)
            .revocations(&SharedRevocations::new(RevocationList::default()))
            .build()
            .unwrap();
        let acceptor = Acceptor {
            shared: Arc::clone(&self.shared),
            seen: self.sender.clone(),
        };
        let bootstrap = Bootstrap {
            shared: Arc::clone(&self.shared),
            authority: Arc::clone(&self.authority),
        };
        let routes = Routes::new(DaemonService::new(Arc::new(acceptor)))
            .add_service(BootstrapServiceServer::new(bootstrap));
        let server = Server::bind(self.address, ServerOptions::default())
            .await
            .unwrap();
        self.address = server.local_addr();
        self.server = Some(server.serve(move || Arc::clone(&tls), routes));
    }

    /// Knows nothing of the node any more, as a controller whose records are lost
    pub fn forget(&mut self) {
        let mut shared = self.shared.lock().unwrap();
        shared.node = None;
        shared.sessions.clear();
        while self.seen.try_recv().is_ok() {}
    }

    /// Cuts all connections, and goes on listening
    pub fn cut(&self) {
        if let Some(server) = &self.server {
            server.close_where(|_| true);
        }
    }

    /// Cuts all connections and listens no more
    pub async fn vanish(&mut self) {
        if let Some(server) = self.server.take() {
            server.close_where(|_| true);
            server.shutdown(Duration::ZERO).await;
        }
    }

    pub fn token(&self) -> JoinToken {
        let token = JoinToken::generate(Some(CaPin::of(self.authority.certificate()))).unwrap();
        self.shared
            .lock()
            .unwrap()
            .open_tokens
            .insert(token.expose().to_owned());
        token
    }

    fn order<R>(&self, order: impl FnOnce(&mut ControllerNode, std::time::Instant, OrderId) -> R) -> R {
        let mut shared = self.shared.lock().unwrap();
        shared.orders += 1;
        let id = OrderId(shared.orders);
        let result = order(shared.node(), std::time::Instant::now(), id);
        for seen in shared.work() {
            self.sender.send(seen).unwrap();
        }
        result
    }

    pub fn start_instance(&self, start: StartInstance) {
        self.order(|node, now, id| node.start(now, id, Box::new(start)));
    }

    pub fn stop_instance(&self, id: &str, mode: StopMode) {
        let instance: InstanceId = id.parse().unwrap();
        self.order(|node, now, id| node.stop(now, id, instance, mode));
    }

    pub fn command(&self, id: &str, line: &str) {
        let instance: InstanceId = id.parse().unwrap();
        self.order(|node, _, _| node.command(instance, line, None))
            .unwrap();
    }

    /// Sends a message that concerns no instance
    pub fn send(&self, payload: controller_message::Payload) {
        let mut shared = self.shared.lock().unwrap();
        let current = shared.node().current_stream().expect("a session");
        shared.sessions[&current]
            .with(|session, _| session.send(payload))
            .unwrap();
    }

    pub fn shut_down_node(&self, reason: &str) {
        self.order(|node, _, _| node.shut_down(reason)).unwrap();
    }

    /// The next thing that happens; console lines are kept on the way and not returned
    pub async fn next(&mut self) -> Seen {
        loop {
            let seen = timeout(PATIENCE, self.seen.recv())
                .await
                .expect("nothing happens")
                .unwrap();
            match seen {
                Seen::Console(output) => self.keep(output),
                seen => return seen,
            }
        }
    }

    fn keep(&mut self, output: ConsoleOutput) {
        // Numbers begin anew with each start, and lines of the one before may come late.
        if output.incarnation < self.printing {
            return;
        }
        if output.incarnation > self.printing {
            self.printing = output.incarnation;
            self.console.clear();
        }
        let known = self
            .console
            .entry(output.sequence)
            .or_insert_with(|| output.line.clone());
        assert_eq!(*known, output.line, "one number, two lines");
    }

    pub async fn established(&mut self) {
        while !matches!(self.next().await, Seen::Established) {}
    }

    /// The states in the last handshake, of what lives and of what has ended
    pub fn listed(&self) -> (Vec<i32>, Vec<i32>) {
        self.shared.lock().unwrap().listed.clone()
    }

    /// The states that an instance goes through until `last`
    pub async fn states_until(&mut self, last: State) -> Vec<State> {
        let mut states = Vec::new();
        loop {
            if let Seen::Instance(InstanceEvent::Changed { to, .. }) = self.next().await {
                states.push(to);
                if to == last {
                    return states;
                }
            }
        }
    }

    /// Waits for a console line that contains `text`
    pub async fn line(&mut self, text: &str) -> String {
        if let Some(line) = self.console.values().find(|line| line.contains(text)) {
            return line.clone();
        }
        loop {
            let seen = timeout(PATIENCE, self.seen.recv()).await;
            let seen = seen.unwrap_or_else(|_| panic!("no line with {text:?}"));
            if let Some(Seen::Console(output)) = seen {
                let line = output.line.clone();
                self.keep(output);
                if line.contains(text) {
                    return line;
                }
            }
        }
    }
}

struct Acceptor {
    shared: Arc<Mutex<Shared>>,
    seen: mpsc::UnboundedSender<Seen>,
}

impl NodeAcceptor for Acceptor {
    type Session = ControllerSession;

    fn open(&self, peer: &Peer) -> Result<ControllerSession, Close> {
        let refused = || Close::new(Code::PermissionDenied, "no node certificate");
        let identity =
            PeerIdentity::from_der(peer.certificate().ok_or_else(refused)?).map_err(|_| refused())?;
        let node: NodeId = identity
            .node_id()
            .ok_or_else(refused)?
            .parse()
            .map_err(|_| refused())?;
        let mut config = ControllerConfig::default();
        // The pings confirm what has arrived.
        config.heartbeat.interval = Duration::from_secs(1);
        config.capabilities = config
            .capabilities
            .union(Capabilities::MODULES)
            .union(Capabilities::EVENTS);
        Ok(ControllerSession::new(config, node, peer.connection_id()))
    }

    fn attach(&self, _peer: Peer, session: SessionHandle<ControllerSession>) {
        let (shared, seen) = (Arc::clone(&self.shared), self.seen.clone());
        tokio::spawn(async move {
            let stream = session.with(|session, _| session.stream());
            while let Some(event) = session.next_event().await {
                let mut shared = shared.lock().unwrap();
                if let ControllerEvent::Hello(hello) = &event {
                    let states =
                        |listed: &[RunningInstance]| listed.iter().map(|listed| listed.state).collect();
                    shared.listed = (
                        states(&hello.handshake.running_instances),
                        states(&hello.handshake.ended_instances),
                    );
                    shared.sessions.insert(stream, session.clone());
                    shared
                        .node
                        .get_or_insert_with(|| ControllerNode::new(hello.node_id));
                }
                if shared.node.is_none() {
                    continue;
                }
                let left = shared
                    .node()
                    .handle_event(std::time::Instant::now(), stream, event);
                let told = match left {
                    Some(ControllerEvent::Established) => Some(Seen::Established),
                    Some(ControllerEvent::Console(output)) => Some(Seen::Console(output)),
                    Some(ControllerEvent::NodeStatus(status)) => Some(Seen::Status(status)),
                    Some(ControllerEvent::DaemonError(report)) => Some(Seen::Error(report)),
                    Some(ControllerEvent::ShutdownAcknowledged(ack)) => Some(Seen::ShutdownAcknowledged(ack)),
                    Some(ControllerEvent::Request(DaemonRequest::Template(request))) => {
                        Some(Seen::Template(request))
                    }
                    Some(ControllerEvent::Request(DaemonRequest::Cache(status))) => Some(Seen::Cache(status)),
                    Some(ControllerEvent::Request(DaemonRequest::Module(update))) => {
                        Some(Seen::Module(update))
                    }
                    Some(ControllerEvent::Request(DaemonRequest::Modules(all))) => Some(Seen::Modules(all)),
                    Some(ControllerEvent::Request(DaemonRequest::EventSubscribe(asked))) => {
                        Some(Seen::Subscribed(asked.event_types, asked.after_sequence))
                    }
                    Some(ControllerEvent::Request(DaemonRequest::EventUnsubscribe(asked))) => {
                        Some(Seen::Unsubscribed(asked.event_types))
                    }
                    Some(ControllerEvent::Closed(_)) => Some(Seen::Closed),
                    _ => None,
                };
                for seen_now in told.into_iter().chain(shared.work()) {
                    if seen.send(seen_now).is_err() {
                        return;
                    }
                }
            }
        });
    }
}

struct Bootstrap {
    shared: Arc<Mutex<Shared>>,
    authority: Arc<Authority>,
}

#[tonic::async_trait]
impl BootstrapService for Bootstrap {
    async fn exchange_join_token(
        &self,
        request: Request<ExchangeJoinTokenRequest>,
    ) -> Result<Response<ExchangeJoinTokenResponse>, Status> {
        let request = request.into_inner();
        if !self
            .shared
            .lock()
            .unwrap()
            .open_tokens
            .remove(&request.join_token)
        {
            return Err(Status::failed_precondition("the join token was used already"));
        }
        let credential = self
            .authority
            .issue_node(&request.node_id, SystemTime::now())
            .unwrap();
        let password = KeystorePassword::generate().unwrap();
        Ok(Response::new(ExchangeJoinTokenResponse {
            pkcs12: keystore::write(&credential, &password).unwrap().into(),
            pkcs12_password: password.expose().to_owned(),
            ca_certificate_pem: self
                .authority
                .trust_anchors()
                .unwrap()
                .to_pem()
                .into_bytes()
                .into(),
            cli_token: String::new(),
            ..Default::default()
        }))
    }
}
