//! The daemon's loop over controllers that come, go and point at each other

use std::sync::{Arc, Mutex};
use std::time::Duration;

use prexorcloud_proto::{ControllerMessage, DaemonMessage, HandshakeAck, controller_message, daemon_message};
use prexorcloud_protocol::fence::EpochFence;
use prexorcloud_protocol::hosted::Hosted;
use prexorcloud_protocol::{DaemonConfig, DaemonEvent, DaemonSession, NodeId};
use prexorcloud_transport::{
    Backoff, DialError, Dialer, LinkEvent, Reconnect, ServerOptions, SessionHandle, StreamEnd, Target, link,
};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::cluster::{Controller, within};
use crate::pki::Authority;
use crate::plain::{Event, Plain, PlainController};

/// A controller that answers every handshake with this acknowledgement.
pub async fn controller(authority: &Arc<Authority>, ack: HandshakeAck) -> Controller {
    let ack = Arc::new(Mutex::new(ack));
    Controller::start_of(Arc::clone(authority), ServerOptions::default(), move |_| {
        let ack = ack.lock().unwrap().clone();
        let payload = Some(controller_message::Payload::HandshakeAck(Box::new(ack)));
        // The acknowledgement may leave before the handshake arrives; the daemon's session does not mind.
        Ok(PlainController {
            queue: [ControllerMessage {
                payload,
                ..Default::default()
            }]
            .into(),
            ..Plain::default()
        })
    })
    .await
}

pub fn accepting() -> HandshakeAck {
    HandshakeAck {
        session_id: "session-1".into(),
        heartbeat_interval_ms: 30_000,
        protocol_version: prexorcloud_protocol::compat::PROTOCOL_VERSION,
        protocol_compatible: true,
        ..Default::default()
    }
}

struct Daemon {
    session: SessionHandle<DaemonSession>,
    log: mpsc::UnboundedReceiver<LinkEvent>,
    stop: Option<oneshot::Sender<()>>,
    run: JoinHandle<()>,
}

impl Daemon {
    fn start(authority: &Authority, targets: Vec<Target>) -> Self {
        let config = DaemonConfig::new(NodeId::new("node-1").unwrap(), "1.0.0");
        let session = SessionHandle::new(DaemonSession::new(
            config,
            Hosted::default(),
            EpochFence::default(),
        ));
        let node = authority.node("node-1");
        let dialer = Dialer::with_config(authority.client_config(Some(&node)), Default::default());
        let backoff = Backoff {
            initial: Duration::from_millis(10),
            max: Duration::from_millis(50),
        };
        let reconnect = Reconnect::new(backoff, targets).unwrap();
        let (observe, log) = mpsc::unbounded_channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let run = tokio::spawn(link::run(
            session.clone(),
            dialer,
            reconnect,
            move |event| {
                let _ = observe.send(event);
            },
            async {
                let _ = stopped.await;
            },
        ));
        Self {
            session,
            log,
            stop: Some(stop),
            run,
        }
    }

    async fn next(&mut self) -> LinkEvent {
        within(self.log.recv()).await.unwrap()
    }

    async fn dialled(&mut self) -> Target {
        loop {
            if let LinkEvent::Dialling { target, .. } = self.next().await {
                return target;
            }
        }
    }

    async fn connected(&self) {
        loop {
            match within(self.session.next_event()).await.unwrap() {
                DaemonEvent::Connected(_) => return,
                _ => continue,
            }
        }
    }
}

async fn handshake(node: &SessionHandle<PlainController>) -> DaemonMessage {
    assert_eq!(within(node.next_event()).await, Some(Event::Connected));
    within(node.next_event()).await.unwrap().message()
}

async fn dead_end() -> Target {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().to_string().parse().unwrap()
}

#[tokio::test]
async fn a_daemon_rotates_past_dead_controllers_follows_the_redirect_and_comes_back() {
    let authority = Arc::new(Authority::new("cluster"));
    let mut leader = controller(
        &authority,
        HandshakeAck {
            controller_grpc_addrs: vec!["ctrl-3.example:9090".into(), "localhost:1".into()],
            ..accepting()
        },
    )
    .await;
    let redirect = HandshakeAck {
        leader_grpc_addr: leader.target.to_string(),
        ..accepting()
    };
    let mut follower = controller(&authority, redirect).await;
    let dead = dead_end().await;
    let mut daemon = Daemon::start(&authority, vec![dead.clone(), follower.target.clone()]);

    assert!(
        matches!(daemon.next().await, LinkEvent::Dialling { target, after: Duration::ZERO } if target == dead)
    );
    assert!(matches!(
        daemon.next().await,
        LinkEvent::DialFailed {
            error: DialError::Refused { .. },
            ..
        }
    ));
    assert!(matches!(daemon.next().await, LinkEvent::Dialling { target, .. } if target == follower.target));
    assert!(matches!(daemon.next().await, LinkEvent::StreamOpened { .. }));
    assert!(matches!(
        daemon.next().await,
        LinkEvent::StreamEnded {
            end: StreamEnd::Closed(_),
            ..
        }
    ));
    let LinkEvent::Dialling { target, after } = daemon.next().await else {
        panic!("no redirect")
    };
    assert_eq!(
        (target, after),
        (leader.target.clone(), Duration::ZERO),
        "the redirect is followed at once"
    );
    assert!(matches!(daemon.next().await, LinkEvent::StreamOpened { .. }));
    let LinkEvent::Learned { controllers } = daemon.next().await else {
        panic!("nothing learned")
    };
    assert_eq!(
        controllers,
        ["ctrl-3.example:9090".parse().unwrap()],
        "loopback is left out"
    );
    daemon.connected().await;
    follower.next_session().await;
    let (peer, node) = leader.next_session().await;
    let message = handshake(&node).await;
    assert!(
        matches!(message.payload, Some(daemon_message::Payload::Handshake(_))),
        "{message:?}"
    );

    // The leader loses the connection; the same one is tried again first.
    peer.close();
    assert!(matches!(
        daemon.next().await,
        LinkEvent::StreamEnded {
            end: StreamEnd::Lost(_),
            error: Some(_),
            ..
        }
    ));
    assert_eq!(daemon.dialled().await, leader.target);
    daemon.connected().await;
    let (_, node) = leader.next_session().await;
    handshake(&node).await;

    // A shutdown is an orderly end for everybody.
    drop(daemon.stop.take());
    within(&mut daemon.run).await.unwrap();
    assert_eq!(within(node.next_event()).await, Some(Event::Disconnected));
    assert_eq!(node.last_end(), Some(StreamEnd::PeerFinished));
    while within(daemon.session.next_event()).await.is_some() {}
    let mut last = None;
    while let Some(event) = daemon.log.recv().await {
        last = Some(event);
    }
    assert!(matches!(last, Some(LinkEvent::Stopped)));
}

#[tokio::test]
async fn an_incompatible_controller_is_left_for_the_next_one() {
    let authority = Arc::new(Authority::new("cluster"));
    let refusal = HandshakeAck {
        protocol_version: 7,
        protocol_compatible: false,
        ..accepting()
    };
    let newer = controller(&authority, refusal).await;
    let matching = controller(&authority, accepting()).await;
    let mut daemon = Daemon::start(&authority, vec![newer.target.clone(), matching.target.clone()]);
    assert_eq!(daemon.dialled().await, newer.target);
    assert_eq!(daemon.dialled().await, matching.target);
    daemon.connected().await;
    daemon.run.abort();
}

#[tokio::test]
async fn a_shutdown_interrupts_dialling_and_waiting() {
    let authority = Authority::new("cluster");
    // Accepts and never answers, so the dial hangs.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target: Target = silent.local_addr().unwrap().to_string().parse().unwrap();
    let mut daemon = Daemon::start(&authority, vec![target]);
    daemon.dialled().await;
    let (_socket, _) = within(silent.accept()).await.unwrap();
    drop(daemon.stop.take());
    within(&mut daemon.run).await.unwrap();
    assert_eq!(within(daemon.session.next_event()).await, None);
}
