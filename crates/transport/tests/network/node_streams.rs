//! The streams of one node, around its machine

use std::sync::Arc;
use std::time::Instant;

use prexorcloud_proto::{DaemonLogRecord, daemon_message};
use prexorcloud_protocol::fence::EpochFence;
use prexorcloud_protocol::handshake::controller::Hello;
use prexorcloud_protocol::hosted::Hosted;
use prexorcloud_protocol::node::controller::{ControllerNode, ControllerWork, REPLACED, StreamId};
use prexorcloud_protocol::session::controller::Admission;
use prexorcloud_protocol::{
    Close, Code, ControllerConfig, ControllerEvent, ControllerSession, DaemonConfig, DaemonSession, NodeId,
    Session as _,
};
use prexorcloud_transport::{NodeStreams, ServerOptions, SessionHandle, StreamEnd};
use tokio::task::JoinHandle;

use crate::cluster::{Controller, within};
use crate::pki::Authority;

fn node() -> NodeId {
    NodeId::new("node-1").unwrap()
}

async fn controller() -> Controller<ControllerSession> {
    let authority = Arc::new(Authority::new("cluster"));
    Controller::start_of(authority, ServerOptions::default(), |peer| {
        let config = ControllerConfig::default();
        Ok(ControllerSession::new(config, node(), peer.connection_id()))
    })
    .await
}

/// A daemon with a stream of its own, and the controller's session of it.
struct Stream {
    daemon: SessionHandle<DaemonSession>,
    session: SessionHandle<ControllerSession>,
    end: JoinHandle<StreamEnd>,
}

impl Stream {
    async fn open(controller: &mut Controller<ControllerSession>) -> Self {
        Self::nth(controller, 1).await
    }

    /// The nth stream of one daemon process.
    async fn nth(controller: &mut Controller<ControllerSession>, ordinal: u64) -> Self {
        let connection = controller.connect().await;
        let mut config = DaemonConfig::new(node(), "1.0.0");
        config.boot_id = "of the one process".into();
        let mut session = DaemonSession::new(config, Hosted::new(), EpochFence::default());
        for _ in 1..ordinal {
            session.handle_connected(Instant::now());
            session.handle_disconnected(Instant::now());
        }
        let daemon = SessionHandle::new(session);
        let driven = daemon.clone();
        let end = tokio::spawn(async move { connection.run_session(&driven).await });
        let (_, session) = controller.next_session().await;
        Self { daemon, session, end }
    }

    /// Waits until so many events are there to be taken.
    async fn pending(&self, events: usize) {
        let waiting = self
            .session
            .wait_for(|session, _| (session.events_pending() >= events).then_some(()));
        within(waiting).await.unwrap();
    }

    async fn log(&self, message: &str) {
        let established = self
            .daemon
            .wait_for(|session, _| session.is_established().then_some(()));
        within(established).await.unwrap();
        let record = DaemonLogRecord {
            level: "INFO".into(),
            message: message.into(),
            ..DaemonLogRecord::default()
        };
        let payload = daemon_message::Payload::DaemonLogRecord(Box::new(record));
        self.daemon.with(|session, _| session.send(payload).unwrap());
    }
}

/// A controller's loop, one step at a time.
struct Host {
    machine: ControllerNode,
    streams: NodeStreams<&'static str>,
    /// Handshakes whose admission takes its time; `None` if it takes none.
    held: Option<Vec<Hello>>,
}

impl Host {
    fn new() -> Self {
        Self {
            machine: ControllerNode::new(node()),
            streams: NodeStreams::default(),
            held: None,
        }
    }

    fn work(&mut self) {
        while let Some(work) = self.machine.poll_work() {
            match self.streams.hand(work) {
                Some(ControllerWork::Admit { hello }) => match &mut self.held {
                    Some(held) => held.push(*hello),
                    None => self
                        .machine
                        .handle_admission(Instant::now(), hello, Admission::default()),
                },
                Some(ControllerWork::Commit(commit)) => {
                    self.machine.handle_committed(Instant::now(), commit.id);
                }
                _ => {}
            }
        }
        self.streams.feed(&mut self.machine);
    }

    /// Admits who was held.
    fn admit(&mut self) {
        for hello in self.held.take().unwrap_or_default() {
            self.machine
                .handle_admission(Instant::now(), Box::new(hello), Admission::default());
        }
        self.work();
    }

    /// The next events, as the machine has heard them.
    async fn step(&mut self) -> Vec<(StreamId, String)> {
        let mut events = Vec::new();
        within(self.streams.next_events(&mut events)).await;
        let mut told = Vec::new();
        for (stream, event) in events {
            let what = match &event {
                ControllerEvent::Hello(_) => "hello".to_owned(),
                ControllerEvent::Established => "established".to_owned(),
                ControllerEvent::Log(record) => record.message.clone(),
                ControllerEvent::Closed(outcome) => format!("closed: {outcome}"),
                other => format!("{other:?}"),
            };
            told.push((stream, what));
            let _ = self.machine.handle_event(Instant::now(), stream, event);
        }
        self.work();
        told
    }

    async fn until(&mut self, stream: StreamId, what: &str) -> Vec<(StreamId, String)> {
        let mut all = Vec::new();
        loop {
            all.extend(self.step().await);
            if all
                .iter()
                .any(|(from, told)| *from == stream && told.starts_with(what))
            {
                return all;
            }
        }
    }
}

#[tokio::test]
async fn what_the_former_stream_has_said_comes_before_its_successor_counts() {
    let mut controller = controller().await;
    let mut host = Host::new();
    let first = Stream::open(&mut controller).await;
    let one = host.streams.push(first.session.clone(), "first");
    host.until(one, "established").await;
    assert_eq!(host.machine.current_stream(), Some(one));

    let second = Stream::nth(&mut controller, 2).await;
    let two = host.streams.push(second.session.clone(), "second");
    host.held = Some(Vec::new());
    host.until(two, "hello").await;
    // The one that has spoken is asked last: when the second is established, it is asked first.
    first.log("a").await;
    host.until(one, "a").await;
    first.log("b").await;
    first.log("c").await;
    first.pending(2).await;
    host.admit();
    let told = host.step().await;
    let expected = [(one, "b"), (one, "c"), (two, "established")];
    assert_eq!(told, expected.map(|(stream, told)| (stream, told.to_owned())));
    assert_eq!(host.machine.current_stream(), Some(two));

    // The first one is told why, and is forgotten with its end.
    assert_eq!(host.streams.get(one).unwrap().data, "first");
    host.until(one, "closed").await;
    assert!(host.streams.get(one).is_none());
    assert_eq!(host.streams.get_mut(two).unwrap().data, "second");
    let replaced = StreamEnd::PeerStatus {
        code: tonic::Code::Aborted,
        message: REPLACED.into(),
    };
    assert_eq!(within(first.end).await.unwrap(), replaced);

    let close = Close::new(Code::Unavailable, "the controller is shutting down");
    host.streams.close_all(&close);
    host.until(two, "closed").await;
    assert!(host.streams.get(two).is_none() && host.machine.current_stream().is_none());
    assert!(matches!(
        within(second.end).await.unwrap(),
        StreamEnd::PeerStatus {
            code: tonic::Code::Unavailable,
            ..
        }
    ));
}

#[tokio::test]
async fn a_stream_that_never_stops_does_not_keep_another_from_its_turn() {
    let mut controller = controller().await;
    let mut host = Host::new();
    let loud = Stream::open(&mut controller).await;
    let one = host.streams.push(loud.session.clone(), "loud");
    host.until(one, "established").await;
    // As many as a session hands on at once.
    for number in 0..60 {
        loud.log(&number.to_string()).await;
    }
    loud.pending(60).await;
    let quiet = Stream::open(&mut controller).await;
    let two = host.streams.push(quiet.session.clone(), "quiet");
    quiet.pending(1).await;
    let turns = [host.step().await, host.step().await].concat();
    assert!(turns.iter().any(|(stream, _)| *stream == two), "{turns:?}");
}

#[tokio::test]
async fn a_session_that_is_over_before_it_is_pushed_is_forgotten() {
    let mut controller = controller().await;
    let mut host = Host::new();
    let stream = Stream::open(&mut controller).await;
    stream.daemon.disconnect("enough");
    within(stream.end).await.unwrap();
    while within(stream.session.next_event()).await.is_some() {}
    let id = host.streams.push(stream.session, "late");
    let told = host.step().await;
    assert_eq!(told, [(id, "closed: the stream ended".to_owned())]);
    assert!(host.streams.get(id).is_none());
}

#[tokio::test]
async fn work_for_a_stream_that_is_over_is_dropped() {
    let streams: NodeStreams = NodeStreams::default();
    let close = Close::new(Code::Aborted, "late");
    let stream = StreamId::new(7);
    assert_eq!(streams.hand(ControllerWork::Close { stream, close }), None);
    assert_eq!(
        streams.hand(ControllerWork::Drained),
        Some(ControllerWork::Drained)
    );
}
