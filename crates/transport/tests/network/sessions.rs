//! Messages in both directions, and every way a stream can end

use prexorcloud_protocol::{Close, Code};
use prexorcloud_transport::handle::DRAIN_LIMIT;
use prexorcloud_transport::{SessionHandle, StreamEnd};
use tokio::time::Instant;

use crate::cluster::{Controller, within};
use crate::plain::{Event, PlainDaemon, answer_pings, file_content, line, ping, pong, template};

#[tokio::test]
async fn messages_arrive_in_order_in_both_directions_and_a_planned_end_is_seen_by_both() {
    let mut controller = Controller::start().await;
    let connection = controller.connect().await;
    let daemon = SessionHandle::new(PlainDaemon::default());
    let stream = tokio::spawn({
        let daemon = daemon.clone();
        async move { connection.run_session(&daemon).await }
    });
    let (peer, node) = controller.next_session().await;
    assert!(peer.certificate().is_some());
    assert_eq!(within(daemon.next_event()).await, Some(Event::Connected));
    assert_eq!(within(node.next_event()).await, Some(Event::Connected));
    assert!(daemon.is_connected() && node.is_connected());

    const COUNT: usize = 5_000;
    daemon.with(|session, _| {
        session
            .queue
            .extend((0..COUNT).map(|number| line(number.to_string())))
    });
    for number in 0..COUNT {
        node.with(|session, _| session.queue.push_back(ping(number as i64)));
    }
    for number in 0..COUNT {
        assert_eq!(
            within(daemon.next_event()).await.unwrap().message(),
            ping(number as i64)
        );
    }
    let mut lines = Vec::new();
    while lines.len() < COUNT {
        assert!(within(node.next_events(&mut lines, 100)).await <= 100);
    }
    for (number, event) in lines.into_iter().enumerate() {
        assert_eq!(event.message(), line(number.to_string()));
    }

    daemon.with(|session, _| {
        session.queue.push_back(line("last words"));
        session.close = Some(Close::new(Code::Ok, "shutting down"));
    });
    assert_eq!(
        within(stream).await.unwrap(),
        StreamEnd::Closed(Close::new(Code::Ok, "shutting down"))
    );
    assert_eq!(
        within(node.next_event()).await.unwrap().message(),
        line("last words")
    );
    assert_eq!(within(node.next_event()).await, Some(Event::Disconnected));
    assert_eq!(
        within(node.next_event()).await,
        None,
        "a controller's handle is retired with its stream"
    );
    assert_eq!(node.last_end(), Some(StreamEnd::PeerFinished));
    assert_eq!(within(daemon.next_event()).await, Some(Event::Disconnected));
    assert!(!daemon.is_connected());
    let (sent, received) = (daemon.counts(), controller.service.counts());
    assert_eq!(
        (sent.messages_out, sent.messages_in),
        (COUNT as u64 + 1, COUNT as u64)
    );
    assert_eq!(
        (received.messages_in, received.messages_out),
        (sent.messages_out, sent.messages_in)
    );
    assert_eq!((received.opened, received.closed), (1, 1));
}

#[tokio::test]
async fn the_status_of_a_close_reaches_the_daemon_after_the_last_message() {
    for (code, expected) in [
        (Code::FailedPrecondition, tonic::Code::FailedPrecondition),
        (Code::PermissionDenied, tonic::Code::PermissionDenied),
        (Code::Aborted, tonic::Code::Aborted),
        (Code::Unavailable, tonic::Code::Unavailable),
        (Code::ResourceExhausted, tonic::Code::ResourceExhausted),
    ] {
        let mut controller = Controller::start().await;
        let connection = controller.connect().await;
        let daemon = SessionHandle::new(PlainDaemon::default());
        let (end, node) = tokio::join!(within(connection.run_session(&daemon)), async {
            let (_, node) = controller.next_session().await;
            node.with(|session, _| {
                session.queue.push_back(ping(1));
                session.close = Some(Close::new(code, "the first message must be a Handshake, 100 %"));
            });
            node
        });
        let message = "the first message must be a Handshake, 100 %".to_owned();
        assert_eq!(
            end,
            StreamEnd::PeerStatus {
                code: expected,
                message
            }
        );
        assert_eq!(
            daemon.with(|session, _| session.events.iter().cloned().collect::<Vec<_>>())[1]
                .clone()
                .message(),
            ping(1)
        );
        while within(node.next_event()).await.is_some() {}
        assert!(matches!(node.last_end(), Some(StreamEnd::Closed(_))));
    }
}

#[tokio::test]
async fn an_ok_close_of_the_controller_is_an_orderly_end() {
    let mut controller = Controller::start().await;
    let connection = controller.connect().await;
    let daemon = SessionHandle::new(PlainDaemon::default());
    let (end, ()) = tokio::join!(within(connection.run_session(&daemon)), async {
        let (_, node) = controller.next_session().await;
        node.with(|session, _| session.close = Some(Close::new(Code::Ok, "drained")));
    });
    assert_eq!(end, StreamEnd::PeerFinished);
}

#[tokio::test]
async fn a_session_hears_exactly_once_that_its_stream_is_gone() {
    let mut controller = Controller::start().await;
    let daemon = SessionHandle::new(PlainDaemon::default());
    // The connection is cut, the future is dropped, the application disconnects.
    for way in 0..3 {
        let connection = controller.connect().await;
        let stream = tokio::spawn({
            let (daemon, connection) = (daemon.clone(), connection.clone());
            async move { connection.run_session(&daemon).await }
        });
        let (peer, node) = controller.next_session().await;
        assert_eq!(within(daemon.next_event()).await, Some(Event::Connected));
        match way {
            0 => {
                peer.close();
                assert!(matches!(within(stream).await.unwrap(), StreamEnd::Lost(_)));
            }
            1 => {
                stream.abort();
                assert!(within(stream).await.unwrap_err().is_cancelled());
            }
            _ => {
                daemon.disconnect("enough");
                assert_eq!(within(stream).await.unwrap(), StreamEnd::Disconnected("enough"));
            }
        }
        assert_eq!(within(daemon.next_event()).await, Some(Event::Disconnected));
        daemon.disconnect("nothing to disconnect");
        assert_eq!(daemon.with(|session, _| session.disconnections), way + 1);
        drop(connection);
        while within(node.next_event()).await.is_some() {}
        assert_eq!(
            node.with(|session, _| session.disconnections),
            1,
            "the controller's session, way {way}"
        );
    }
}

#[tokio::test]
async fn a_newer_stream_of_the_same_session_takes_over() {
    let mut controller = Controller::start().await;
    let connection = controller.connect().await;
    let daemon = SessionHandle::new(PlainDaemon::default());
    let older = tokio::spawn({
        let (daemon, connection) = (daemon.clone(), connection.clone());
        async move { connection.run_session(&daemon).await }
    });
    let (_, first) = controller.next_session().await;
    let newer = tokio::spawn({
        let (daemon, connection) = (daemon.clone(), connection.clone());
        async move { connection.run_session(&daemon).await }
    });
    let (_, second) = controller.next_session().await;
    assert_eq!(
        within(older).await.unwrap(),
        StreamEnd::Disconnected("a newer stream took over")
    );
    while within(first.next_event()).await.is_some() {}
    daemon.with(|session, _| session.queue.push_back(line("hello")));
    assert_eq!(within(second.next_event()).await, Some(Event::Connected));
    assert_eq!(
        within(second.next_event()).await.unwrap().message(),
        line("hello")
    );
    newer.abort();
}

#[tokio::test]
async fn timers_fire_while_nothing_else_happens() {
    let mut controller = Controller::start().await;
    let connection = controller.connect().await;
    let daemon = SessionHandle::new(PlainDaemon::default());
    let stream = tokio::spawn({
        let daemon = daemon.clone();
        async move { connection.run_session(&daemon).await }
    });
    let (_, node) = controller.next_session().await;
    assert_eq!(within(node.next_event()).await, Some(Event::Connected));
    // Armed from outside while the driver sleeps, first late, then earlier.
    let hour = std::time::Duration::from_secs(3600);
    node.with(|session, now| session.deadline = Some(now + hour));
    node.with(|session, now| session.deadline = Some(now));
    assert_eq!(within(node.next_event()).await, Some(Event::TimedOut));
    stream.abort();
}

#[tokio::test]
async fn a_message_that_matters_overtakes_what_is_queued_before_it() {
    const BLOBS: usize = 50;
    let mut controller = Controller::start().await;
    let connection = controller.connect().await;
    let daemon = SessionHandle::new(PlainDaemon {
        reply: Some(answer_pings),
        ..Default::default()
    });
    let stream = tokio::spawn({
        let daemon = daemon.clone();
        async move { connection.run_session(&daemon).await }
    });
    let (_, node) = controller.next_session().await;
    assert_eq!(within(node.next_event()).await, Some(Event::Connected));
    // 50 MiB one way and 50 MiB the other, then a ping in the middle.
    node.with(|session, _| session.queue.extend((0..BLOBS).map(|_| template(1 << 20))));
    daemon.with(|session, _| session.queue.extend((0..BLOBS).map(|_| file_content(1 << 20))));
    let mut arrived = 0;
    loop {
        let message = within(node.next_event()).await.unwrap().message();
        if message == pong(1) {
            break;
        }
        arrived += 1;
        if arrived == 5 {
            node.with(|session, _| session.urgent.push_back(ping(1)));
        }
    }
    // What stands before it is what HTTP/2 and the socket already hold, not the rest of the queue.
    assert!(
        (5..BLOBS - 10).contains(&arrived),
        "the answer came after {arrived} of {BLOBS} blobs"
    );
    stream.abort();
}

#[tokio::test]
async fn a_slow_application_slows_the_peer_down_and_loses_nothing() {
    const COUNT: usize = 40_000;
    let mut controller = Controller::start().await;
    let connection = controller.connect().await;
    let daemon = SessionHandle::new(PlainDaemon::default());
    let stream = tokio::spawn({
        let daemon = daemon.clone();
        async move { connection.run_session(&daemon).await }
    });
    let (_, node) = controller.next_session().await;
    let text = "x".repeat(1000);
    daemon.with(|session, _| {
        session
            .queue
            .extend((0..COUNT).map(|number| line(format!("{number} {text}"))))
    });
    // The reader stops; what is in flight fills the windows, and the rest stays with the daemon.
    let mut waited = Instant::now();
    let mut pending = 0;
    while waited.elapsed() < std::time::Duration::from_millis(300) {
        tokio::task::yield_now().await;
        let now = node.with(|session, _| session.events.len());
        if now != pending {
            (pending, waited) = (now, Instant::now());
        }
    }
    assert!(pending <= 1024 + 32 + 1, "{pending} events wait");
    assert!(
        daemon.with(|session, _| session.queue.len()) > COUNT / 2,
        "the daemon is held back"
    );
    assert_eq!(within(node.next_event()).await, Some(Event::Connected));
    for number in 0..COUNT {
        assert_eq!(
            within(node.next_event()).await.unwrap().message(),
            line(format!("{number} {text}"))
        );
    }
    stream.abort();
}

#[tokio::test]
async fn a_producer_can_wait_for_room() {
    let mut controller = Controller::start().await;
    let connection = controller.connect().await;
    let daemon = SessionHandle::new(PlainDaemon::default());
    let stream = tokio::spawn({
        let daemon = daemon.clone();
        async move { connection.run_session(&daemon).await }
    });
    let (_, node) = controller.next_session().await;
    let producer = tokio::spawn({
        let daemon = daemon.clone();
        async move {
            for number in 0..2_000 {
                let room = daemon.wait_for(|session, _| {
                    assert!(session.queue.len() <= 16);
                    (session.queue.len() < 16).then(|| session.queue.push_back(line(number.to_string())))
                });
                room.await.unwrap();
            }
        }
    });
    assert_eq!(within(node.next_event()).await, Some(Event::Connected));
    for number in 0..2_000 {
        assert_eq!(
            within(node.next_event()).await.unwrap().message(),
            line(number.to_string())
        );
    }
    within(producer).await.unwrap();
    stream.abort();
}

#[tokio::test]
async fn a_peer_that_does_not_read_cannot_hold_a_closed_stream_open() {
    let mut controller = Controller::start().await;
    let connection = controller.connect().await;
    // Opens the stream and never reads it: the controller's window fills.
    let response = crate::raw::connect(&connection, futures_util::stream::pending())
        .await
        .unwrap();
    let (_, node) = controller.next_session().await;
    let started = Instant::now();
    node.with(|session, _| {
        session.queue.extend((0..16).map(|_| template(1 << 20)));
        session.close = Some(Close::new(Code::Unavailable, "shutting down"));
    });
    assert!(
        within(connection.closed()).await.is_some(),
        "the connection is cut"
    );
    assert!(started.elapsed() >= DRAIN_LIMIT);
    while within(node.next_event()).await.is_some() {}
    assert!(matches!(node.last_end(), Some(StreamEnd::Closed(_))));
    drop(response);
}

#[tokio::test]
async fn a_panicking_visitor_does_not_take_the_session_along() {
    let handle = SessionHandle::new(PlainDaemon::default());
    let visitor = tokio::spawn({
        let handle = handle.clone();
        async move { handle.with(|_, _| panic!("a bug of the application")) }
    });
    assert!(visitor.await.unwrap_err().is_panic());
    handle.with(|session, _| session.events.push_back(Event::TimedOut));
    assert_eq!(within(handle.next_event()).await, Some(Event::TimedOut));
}

#[tokio::test]
async fn waiting_for_an_event_can_be_cancelled_without_losing_one() {
    let handle = SessionHandle::new(PlainDaemon::default());
    for _ in 0..100 {
        let waiting = handle.next_event();
        assert!(
            tokio::time::timeout(std::time::Duration::ZERO, waiting)
                .await
                .is_err()
        );
    }
    handle.with(|session, _| session.events.push_back(Event::TimedOut));
    assert_eq!(within(handle.next_event()).await, Some(Event::TimedOut));
}
