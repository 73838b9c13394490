//! A runner and its handler, against controllers that break, refuse and revoke

use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use prexorcloud_proto::{DaemonLogRecord, HandshakeAck, daemon_message};
use prexorcloud_protocol::fence::EpochFence;
use prexorcloud_protocol::handshake::daemon::HandshakeFailure;
use prexorcloud_protocol::heartbeat::MIN_INTERVAL;
use prexorcloud_protocol::hosted::Hosted;
use prexorcloud_protocol::session::controller::Admission;
use prexorcloud_protocol::{
    Close, Code, ControllerConfig, ControllerEvent, ControllerSession, DaemonConfig, DaemonEvent,
    DaemonOutcome, DaemonSession, NodeId,
};
use prexorcloud_transport::{
    Backoff, DaemonRunner, Dialer, LinkEvent, RunEnd, ServerOptions, SessionHandle, SessionHandler,
    StreamEnd, Target, serve,
};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::cluster::{Controller, within};
use crate::pki::Authority;
use crate::reconnecting;

const BACKOFF: Backoff = Backoff {
    initial: Duration::from_millis(10),
    max: Duration::from_millis(80),
};

/// A controller that admits every node.
struct Admitting;

impl SessionHandler<ControllerSession> for Admitting {
    type End = ();

    async fn handle_event(
        &mut self,
        session: &SessionHandle<ControllerSession>,
        event: ControllerEvent,
    ) -> ControlFlow<()> {
        if let ControllerEvent::Hello(hello) = event {
            session.with(|session, now| session.accept(now, hello, Admission::default()).unwrap());
        }
        ControlFlow::Continue(())
    }
}

async fn controller_at(
    address: SocketAddr,
    authority: &Arc<Authority>,
    revoked: &Arc<AtomicBool>,
) -> Controller<ControllerSession> {
    let revoked = Arc::clone(revoked);
    let mut config = ControllerConfig::default();
    config.heartbeat.interval = MIN_INTERVAL;
    config.heartbeat.missed_limit = 1;
    let make = move |peer: &prexorcloud_transport::Peer| {
        if revoked.load(Ordering::Relaxed) {
            return Err(Close::new(Code::PermissionDenied, "the certificate is revoked"));
        }
        let node = NodeId::new("node-1").unwrap();
        Ok(ControllerSession::new(config.clone(), node, peer.connection_id()))
    };
    Controller::start_at(address, Arc::clone(authority), ServerOptions::default(), make).await
}

async fn controller(authority: &Arc<Authority>) -> Controller<ControllerSession> {
    controller_at("127.0.0.1:0".parse().unwrap(), authority, &Arc::default()).await
}

/// Hands on what it hears, and does what the test says.
struct Handler<F> {
    heard: mpsc::UnboundedSender<DaemonEvent>,
    react: F,
}

impl<F, E> SessionHandler<DaemonSession> for Handler<F>
where
    F: FnMut(&SessionHandle<DaemonSession>, &DaemonEvent) -> ControlFlow<E> + Send,
    E: Send,
{
    type End = E;

    async fn handle_event(
        &mut self,
        session: &SessionHandle<DaemonSession>,
        event: DaemonEvent,
    ) -> ControlFlow<E> {
        let flow = (self.react)(session, &event);
        let _ = self.heard.send(event);
        flow
    }
}

struct Running<E> {
    heard: mpsc::UnboundedReceiver<DaemonEvent>,
    log: mpsc::UnboundedReceiver<LinkEvent>,
    stop: Option<oneshot::Sender<()>>,
    run: JoinHandle<RunEnd<E>>,
}

fn runner(authority: &Authority, target: &Target) -> DaemonRunner {
    let node = authority.node("node-1");
    let dialer = Dialer::with_config(authority.client_config(Some(&node)), Default::default());
    let config = DaemonConfig::new(NodeId::new("node-1").unwrap(), "1.0.0");
    let session = DaemonSession::new(config, Hosted::new(), EpochFence::default());
    DaemonRunner::new(session, dialer, [target.clone()])
        .unwrap()
        .backoff(BACKOFF)
}

impl<E: Send + 'static> Running<E> {
    fn start(
        runner: DaemonRunner,
        react: impl FnMut(&SessionHandle<DaemonSession>, &DaemonEvent) -> ControlFlow<E> + Send + 'static,
    ) -> Self {
        let (told, heard) = mpsc::unbounded_channel();
        let (observe, log) = mpsc::unbounded_channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let runner = runner.observe(move |event| drop(observe.send(event)));
        let run = tokio::spawn(async move {
            let mut handler = Handler { heard: told, react };
            runner.run(&mut handler, async { drop(stopped.await) }).await
        });
        Self {
            heard,
            log,
            stop: Some(stop),
            run,
        }
    }

    async fn heard(&mut self, wanted: impl Fn(&DaemonEvent) -> bool) -> DaemonEvent {
        loop {
            let event = within(self.heard.recv()).await.expect("the handler is gone");
            if wanted(&event) {
                return event;
            }
        }
    }

    async fn connected(&mut self) {
        self.heard(|event| matches!(event, DaemonEvent::Connected(_)))
            .await;
    }

    async fn logged(&mut self, wanted: impl Fn(&LinkEvent) -> bool) -> LinkEvent {
        loop {
            let event = within(self.log.recv()).await.expect("the link is gone");
            if wanted(&event) {
                return event;
            }
        }
    }

    async fn stop(mut self) -> RunEnd<E> {
        drop(self.stop.take());
        within(self.run).await.unwrap()
    }
}

fn go_on(_: &SessionHandle<DaemonSession>, _: &DaemonEvent) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Serves whoever comes.
fn serve_all(mut controller: Controller<ControllerSession>) -> JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            let (_, session) = controller.next_session().await;
            tokio::spawn(async move { serve(&session, &mut Admitting).await });
        }
    })
}

#[tokio::test]
async fn the_runner_waits_longer_and_longer_for_a_controller_and_meets_it_when_it_comes() {
    let authority = Arc::new(Authority::new("cluster"));
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let target: Target = address.to_string().parse().unwrap();
    let mut running = Running::start(runner(&authority, &target), go_on);
    for failures in 0..6 {
        let event = running
            .logged(|event| matches!(event, LinkEvent::Dialling { .. }))
            .await;
        let LinkEvent::Dialling { after, .. } = event else {
            panic!("{event:?}")
        };
        let longest = match failures {
            0 => Duration::ZERO,
            failures => BACKOFF.ceiling(failures - 1),
        };
        assert!(after <= longest, "{after:?} after {failures} failures");
        running
            .logged(|event| matches!(event, LinkEvent::DialFailed { .. }))
            .await;
    }
    assert!(running.heard.try_recv().is_err(), "no stream, no event");
    let served = serve_all(controller_at(address, &authority, &Arc::default()).await);
    running.connected().await;
    assert_eq!(running.stop().await, RunEnd::ByShutdown);
    served.abort();
}

#[tokio::test]
async fn a_handler_goes_on_across_streams() {
    let authority = Arc::new(Authority::new("cluster"));
    let mut controller = controller(&authority).await;
    let mut running = Running::start(runner(&authority, &controller.target), go_on);
    for _ in 0..3 {
        let (peer, session) = controller.next_session().await;
        let served = tokio::spawn(async move { serve(&session, &mut Admitting).await });
        running.connected().await;
        peer.close();
        running
            .heard(|event| {
                matches!(
                    event,
                    DaemonEvent::Disconnected(DaemonOutcome::StreamEnded { .. })
                )
            })
            .await;
        // Nothing will come from a stream that is over, so nobody serves it any more.
        assert_eq!(within(served).await.unwrap(), ControlFlow::Continue(()));
    }
    assert_eq!(running.stop().await, RunEnd::ByShutdown);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_handler_that_is_busy_does_not_silence_its_node() {
    let authority = Arc::new(Authority::new("cluster"));
    let mut controller = controller(&authority).await;
    let (release, released) = std::sync::mpsc::channel::<()>();
    // Not even one that blocks its thread, as nobody should.
    let mut running = Running::start(runner(&authority, &controller.target), move |_, event| {
        if matches!(event, DaemonEvent::Connected(_)) {
            let _ = released.recv_timeout(crate::cluster::PATIENCE);
        }
        ControlFlow::<()>::Continue(())
    });
    let (_, node) = controller.next_session().await;
    while let Some(event) = within(node.next_event()).await {
        match event {
            ControllerEvent::Hello(hello) => node.with(|session, now| {
                session.accept(now, hello, Admission::default()).unwrap();
            }),
            ControllerEvent::Established => break,
            other => panic!("{other:?}"),
        }
    }
    let (counting, before) = (node.clone(), node.counts().messages_in);
    let pongs = node.wait_for(|_, _| (counting.counts().messages_in >= before + 3).then_some(()));
    within(pongs).await.unwrap();
    assert!(running.heard.try_recv().is_err(), "the handler is busy still");
    while let Ok(event) = tokio::time::timeout(Duration::ZERO, node.next_event()).await {
        assert!(
            !matches!(
                event,
                None | Some(ControllerEvent::Unreachable { .. } | ControllerEvent::Closed(_))
            ),
            "{event:?}"
        );
    }
    release.send(()).unwrap();
    running.connected().await;
    assert_eq!(running.stop().await, RunEnd::ByShutdown);
}

#[tokio::test]
async fn a_handler_that_breaks_off_ends_the_session_in_order_and_says_why() {
    let authority = Arc::new(Authority::new("cluster"));
    let mut controller = controller(&authority).await;
    let running = Running::start(runner(&authority, &controller.target), |session, event| {
        if !matches!(event, DaemonEvent::Connected(_)) {
            return ControlFlow::Continue(());
        }
        let last = DaemonLogRecord {
            level: "ERROR".into(),
            message: "the disk is gone".into(),
            ..DaemonLogRecord::default()
        };
        let payload = daemon_message::Payload::DaemonLogRecord(Box::new(last));
        session.with(|session, _| session.send(payload).unwrap());
        ControlFlow::Break("the disk is gone")
    });
    let (_, node) = controller.next_session().await;
    let mut said = Vec::new();
    while let Some(event) = within(node.next_event()).await {
        match event {
            ControllerEvent::Hello(hello) => node.with(|session, now| {
                session.accept(now, hello, Admission::default()).unwrap();
            }),
            ControllerEvent::Log(record) => said.push(record.message),
            _ => {}
        }
    }
    assert_eq!(said, ["the disk is gone"], "what was said before leaves");
    assert_eq!(node.last_end(), Some(StreamEnd::PeerFinished));
    assert_eq!(
        within(running.run).await.unwrap(),
        RunEnd::ByHandler("the disk is gone")
    );
}

#[tokio::test]
async fn a_shutdown_lets_the_handler_see_the_end() {
    let authority = Arc::new(Authority::new("cluster"));
    let controller = controller(&authority).await;
    let target = controller.target.clone();
    let served = serve_all(controller);
    let mut running = Running::start(runner(&authority, &target), go_on);
    running.connected().await;
    drop(running.stop.take());
    running
        .heard(|event| *event == DaemonEvent::Disconnected(DaemonOutcome::ShutDown))
        .await;
    assert_eq!(within(running.run).await.unwrap(), RunEnd::ByShutdown);
    assert!(within(running.heard.recv()).await.is_none());
    served.abort();
}

/// Never comes back from its first event.
struct Stuck(Option<oneshot::Sender<()>>);

impl SessionHandler<DaemonSession> for Stuck {
    type End = ();

    async fn handle_event(&mut self, _: &SessionHandle<DaemonSession>, _: DaemonEvent) -> ControlFlow<()> {
        drop(self.0.take());
        std::future::pending().await
    }
}

#[tokio::test]
async fn a_handler_that_hangs_does_not_hold_up_the_shutdown() {
    let authority = Arc::new(Authority::new("cluster"));
    let mut controller = controller(&authority).await;
    let runner = runner(&authority, &controller.target).left_over(Duration::from_millis(50));
    let (busy, is_busy) = oneshot::channel();
    let run = tokio::spawn(async move {
        let mut stuck = Stuck(Some(busy));
        runner.run(&mut stuck, async { drop(is_busy.await) }).await
    });
    let (_, node) = controller.next_session().await;
    within(serve(&node, &mut Admitting))
        .await
        .is_continue()
        .then_some(())
        .unwrap();
    assert_eq!(node.last_end(), Some(StreamEnd::PeerFinished), "closed in order");
    assert_eq!(within(run).await.unwrap(), RunEnd::HandlerTooSlow);
}

#[tokio::test]
async fn a_refused_handshake_is_told_and_tried_again() {
    let authority = Arc::new(Authority::new("cluster"));
    let refusal = HandshakeAck {
        protocol_version: 7,
        protocol_compatible: false,
        ..reconnecting::accepting()
    };
    let newer = reconnecting::controller(&authority, refusal).await;
    let mut running = Running::start(runner(&authority, &newer.target), go_on);
    for _ in 0..3 {
        let event = running
            .heard(|event| matches!(event, DaemonEvent::Disconnected(_)))
            .await;
        assert!(
            matches!(
                event,
                DaemonEvent::Disconnected(DaemonOutcome::Handshake(HandshakeFailure::UpgradeRequired(_)))
            ),
            "{event:?}"
        );
    }
    assert_eq!(running.stop().await, RunEnd::ByShutdown);
}

#[tokio::test]
async fn a_revoked_certificate_ends_the_stream_and_is_refused_from_then_on() {
    let authority = Arc::new(Authority::new("cluster"));
    let revoked = Arc::new(AtomicBool::new(false));
    let controller = controller_at("127.0.0.1:0".parse().unwrap(), &authority, &revoked).await;
    let (target, server) = (controller.target.clone(), controller.server.clone());
    let served = serve_all(controller);
    let mut running = Running::start(runner(&authority, &target), go_on);
    running.connected().await;
    revoked.store(true, Ordering::Relaxed);
    assert_eq!(server.close_where(|_| true), 1);
    let refused = StreamEnd::PeerStatus {
        code: tonic::Code::PermissionDenied,
        message: "the certificate is revoked".into(),
    };
    for _ in 0..3 {
        // Somebody may take it back, so it is tried again, at the pace of the back-off.
        running
            .logged(|event| matches!(event, LinkEvent::StreamEnded { end, .. } if *end == refused))
            .await;
    }
    revoked.store(false, Ordering::Relaxed);
    running.connected().await;
    assert_eq!(running.stop().await, RunEnd::ByShutdown);
    served.abort();
}

#[tokio::test]
async fn a_runner_that_is_dropped_takes_its_stream_along() {
    let authority = Arc::new(Authority::new("cluster"));
    let mut controller = controller(&authority).await;
    let mut running = Running::start(runner(&authority, &controller.target), go_on);
    let (_, node) = controller.next_session().await;
    let served = tokio::spawn({
        let node = node.clone();
        async move { serve(&node, &mut Admitting).await }
    });
    running.connected().await;
    running.run.abort();
    assert_eq!(within(served).await.unwrap(), ControlFlow::Continue(()));
    assert!(!node.is_connected());
    within(async { while running.log.recv().await.is_some() {} }).await;
}

#[tokio::test]
async fn a_panic_of_the_observer_is_not_swallowed() {
    let authority = Authority::new("cluster");
    let target: Target = "127.0.0.1:1".parse().unwrap();
    let runner = runner(&authority, &target).observe(|event| panic!("{event:?}"));
    let run = tokio::spawn(async move {
        let (heard, _events) = mpsc::unbounded_channel();
        let mut handler = Handler { heard, react: go_on };
        runner.run(&mut handler, std::future::pending()).await
    });
    assert!(within(run).await.unwrap_err().is_panic());
}

/// Counts to three by itself, however many events come in between.
struct Counting {
    events: u32,
    own: u32,
}

impl SessionHandler<DaemonSession> for Counting {
    type End = (u32, u32);

    async fn handle_event(
        &mut self,
        _: &SessionHandle<DaemonSession>,
        _: DaemonEvent,
    ) -> ControlFlow<(u32, u32)> {
        self.events += 1;
        ControlFlow::Continue(())
    }

    async fn idle(&mut self, _: &SessionHandle<DaemonSession>) -> ControlFlow<(u32, u32)> {
        tokio::task::yield_now().await;
        self.own += 1;
        match (self.own, self.events) {
            (3.., 1..) => ControlFlow::Break((self.own, self.events)),
            _ => ControlFlow::Continue(()),
        }
    }
}

#[tokio::test]
async fn a_handler_acts_by_itself_between_events() {
    let authority = Arc::new(Authority::new("cluster"));
    let controller = controller(&authority).await;
    let target = controller.target.clone();
    let served = serve_all(controller);
    let mut counting = Counting { events: 0, own: 0 };
    let run = runner(&authority, &target).run(&mut counting, std::future::pending());
    let RunEnd::ByHandler((own, events)) = within(run).await else {
        panic!("it breaks off itself")
    };
    assert!(own >= 3 && events >= 1, "{own} {events}");
    served.abort();
}

#[tokio::test]
async fn a_runner_needs_a_controller() {
    let authority = Authority::new("cluster");
    let dialer = Dialer::with_config(authority.client_config(None), Default::default());
    let config = DaemonConfig::new(NodeId::new("node-1").unwrap(), "1.0.0");
    let session = DaemonSession::new(config, Hosted::new(), EpochFence::default());
    assert!(DaemonRunner::new(session, dialer, []).is_err());
}
