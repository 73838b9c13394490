//! The real sessions of both sides, over the real network

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use prexorcloud_proto::{
    ConsoleOutput, ControllerMessage, DaemonMessage, Handshake, InstanceFileContent, controller_message,
    daemon_message,
};
use prexorcloud_protocol::compat::PROTOCOL_VERSION;
use prexorcloud_protocol::fence::EpochFence;
use prexorcloud_protocol::heartbeat::MIN_INTERVAL;
use prexorcloud_protocol::hosted::Hosted;
use prexorcloud_protocol::session::Class;
use prexorcloud_protocol::session::controller::{Admission, DaemonRequest};
use prexorcloud_protocol::{
    ControllerConfig, ControllerEvent, ControllerSession, DaemonConfig, DaemonEvent, DaemonSession, NodeId,
};
use prexorcloud_transport::{ServerOptions, SessionHandle};
use prost::Message as _;
use tonic::Code;

use crate::cluster::{Controller, within};
use crate::pki::Authority;
use crate::plain::{file_content, line, pong};
use crate::raw;

async fn start(config: ControllerConfig) -> Controller<ControllerSession> {
    let authority = Arc::new(Authority::new("cluster"));
    Controller::start_of(authority, ServerOptions::default(), move |peer| {
        Ok(ControllerSession::new(
            config.clone(),
            NodeId::new("node-1").unwrap(),
            peer.connection_id(),
        ))
    })
    .await
}

/// Admits whoever shakes hands, and hands on the events after that.
async fn admit(node: &SessionHandle<ControllerSession>) {
    loop {
        match within(node.next_event()).await.unwrap() {
            ControllerEvent::Hello(hello) => node.with(|session, now| {
                let admission = Admission {
                    session_id: "session-1".into(),
                    ..Default::default()
                };
                session.accept(now, hello, admission).unwrap();
            }),
            ControllerEvent::Established => return,
            other => panic!("{other:?}"),
        }
    }
}

fn daemon() -> SessionHandle<DaemonSession> {
    let config = DaemonConfig::new(NodeId::new("node-1").unwrap(), "1.0.0");
    SessionHandle::new(DaemonSession::new(
        config,
        Hosted::default(),
        EpochFence::default(),
    ))
}

#[tokio::test]
async fn both_sessions_shake_hands_and_a_blob_does_not_delay_the_answer_to_a_ping() {
    let mut config = ControllerConfig::default();
    config.heartbeat.interval = MIN_INTERVAL;
    config.heartbeat.missed_limit = 1;
    let mut controller = start(config).await;
    let connection = controller.connect().await;
    let daemon = daemon();
    let stream = tokio::spawn({
        let daemon = daemon.clone();
        async move { connection.run_session(&daemon).await }
    });
    let (_, node) = controller.next_session().await;
    admit(&node).await;
    assert!(matches!(
        within(daemon.next_event()).await,
        Some(DaemonEvent::Connected(_))
    ));
    assert!(daemon.with(|session, _| session.is_established()));

    // Without a pause, 1 MiB of file content after the other; three pings are due meanwhile, and a missed answer is an
    // event.
    let producer = tokio::spawn({
        let daemon = daemon.clone();
        async move {
            loop {
                let content = InstanceFileContent {
                    request_id: "walk-1".into(),
                    content: vec![7; 1 << 20].into(),
                    ..Default::default()
                };
                let payload = daemon_message::Payload::InstanceFileContent(content);
                let sent = daemon.wait_for(|session, _| {
                    session
                        .has_room(Class::Bulk, 2 << 20)
                        .then(|| session.send(payload.clone()).is_ok())
                });
                if within(sent).await != Some(true) {
                    return;
                }
            }
        }
    });
    let (begun, mut blobs) = (Instant::now(), 0);
    while blobs < 50 || begun.elapsed() < MIN_INTERVAL * 7 / 2 {
        match within(node.next_event()).await.unwrap() {
            ControllerEvent::Request(DaemonRequest::FileContent(_)) => blobs += 1,
            ControllerEvent::NodeStatus(_) => {}
            other => panic!("{other:?}"),
        }
    }
    daemon.with(|session, _| session.shut_down());
    while within(node.next_event()).await.is_some() {}
    within(producer).await.unwrap();
    within(stream).await.unwrap();
}

/// What a controller answers to these messages, and the status it ends the stream with.
async fn answer(
    config: ControllerConfig,
    messages: Vec<DaemonMessage>,
) -> (Vec<ControllerMessage>, tonic::Status) {
    let mut controller = start(config).await;
    let connection = controller.connect().await;
    let messages: Vec<_> = messages
        .iter()
        .map(|message| Bytes::from(message.encode_to_vec()))
        .collect();
    let mut stream = within(raw::connect(
        &connection,
        stream::iter(messages).chain(stream::pending()),
    ))
    .await
    .unwrap();
    let (_, node) = controller.next_session().await;
    tokio::spawn(async move {
        while let Some(event) = node.next_event().await {
            if let ControllerEvent::Hello(hello) = event {
                node.with(|session, now| {
                    let _ = session.accept(now, hello, Admission::default());
                });
            }
        }
    });
    let mut answers = Vec::new();
    loop {
        match within(stream.message()).await {
            Ok(Some(bytes)) => answers.push(ControllerMessage::decode(bytes).unwrap()),
            Ok(None) => return (answers, tonic::Status::ok("")),
            Err(status) => return (answers, status),
        }
    }
}

fn handshake(node_id: &str, protocol_version: i32) -> DaemonMessage {
    let handshake = Handshake {
        node_id: node_id.into(),
        version: "1.0.0".into(),
        protocol_version,
        ..Default::default()
    };
    DaemonMessage {
        payload: Some(daemon_message::Payload::Handshake(Box::new(handshake))),
    }
}

#[tokio::test]
async fn a_stream_that_does_not_begin_with_a_handshake_is_refused() {
    for first in [
        line("hello"),
        pong(1),
        file_content(10),
        DaemonMessage { payload: None },
    ] {
        let (answers, status) = answer(ControllerConfig::default(), vec![first.clone()]).await;
        assert_eq!(status.code(), Code::FailedPrecondition, "{first:?}: {status}");
        assert!(!status.message().is_empty());
        assert!(answers.is_empty());
    }
}

#[tokio::test]
async fn a_stream_that_says_nothing_is_ended_in_time() {
    let mut config = ControllerConfig::default();
    config.handshake_timeout = Duration::from_millis(50);
    let (_, status) = answer(config, Vec::new()).await;
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
}

#[tokio::test]
async fn a_node_that_is_not_who_its_certificate_says_is_refused() {
    let (answers, status) = answer(
        ControllerConfig::default(),
        vec![handshake("node-2", PROTOCOL_VERSION)],
    )
    .await;
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    assert!(answers.is_empty());
    for unsafe_id in ["", "../x", "a,b", &"a".repeat(65)] {
        let (_, status) = answer(
            ControllerConfig::default(),
            vec![handshake(unsafe_id, PROTOCOL_VERSION)],
        )
        .await;
        assert_eq!(status.code(), Code::InvalidArgument, "{unsafe_id:?}: {status}");
    }
}

#[tokio::test]
async fn an_incompatible_daemon_is_told_so_before_the_stream_ends() {
    for version in [0, -1, 7] {
        let (answers, status) = answer(ControllerConfig::default(), vec![handshake("node-1", version)]).await;
        assert_ne!(status.code(), Code::Ok, "version {version}");
        let [
            ControllerMessage {
                payload: Some(controller_message::Payload::HandshakeAck(ack)),
                ..
            },
        ] = &answers[..]
        else {
            panic!("version {version}: {answers:?}")
        };
        assert!(!ack.protocol_compatible);
        assert_eq!(ack.protocol_version, PROTOCOL_VERSION);
    }
}

#[tokio::test]
async fn a_second_handshake_ends_the_stream() {
    let twice = vec![
        handshake("node-1", PROTOCOL_VERSION),
        handshake("node-1", PROTOCOL_VERSION),
    ];
    let (_, status) = answer(ControllerConfig::default(), twice).await;
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
}

#[tokio::test]
async fn console_lines_with_back_pressure_arrive_completely_and_in_order() {
    const LINES: u64 = 20_000;
    let mut controller = start(ControllerConfig::default()).await;
    let connection = controller.connect().await;
    let daemon = daemon();
    let stream = tokio::spawn({
        let daemon = daemon.clone();
        async move { connection.run_session(&daemon).await }
    });
    let (_, node) = controller.next_session().await;
    admit(&node).await;
    assert!(matches!(
        within(daemon.next_event()).await,
        Some(DaemonEvent::Connected(_))
    ));
    let producer = tokio::spawn({
        let daemon = daemon.clone();
        async move {
            for sequence in 1..=LINES {
                let room = daemon.wait_for(|session, _| {
                    session.has_room(Class::BestEffort, 200).then(|| {
                        session.console(ConsoleOutput {
                            instance_id: "lobby-1".into(),
                            line: "a line".into(),
                            sequence,
                            ..Default::default()
                        });
                    })
                });
                within(room).await.unwrap();
            }
            daemon.with(|session, _| session.shut_down());
        }
    });
    let mut lines = 0;
    while let Some(event) = within(node.next_event()).await {
        if let ControllerEvent::Console(output) = event {
            lines += 1;
            assert_eq!(output.sequence, lines);
        }
    }
    within(producer).await.unwrap();
    within(stream).await.unwrap();
    assert_eq!(daemon.with(|session, _| session.shed()), 0);
    assert!(controller.service.counts().messages_in > LINES);
    assert_eq!(lines, LINES);
}
