//! Peers that vanish without a word

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use prexorcloud_transport::{DialError, DialOptions, ServerOptions, SessionHandle, StreamEnd, Target};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::cluster::{Controller, within};
use crate::plain::{Event, PlainDaemon, line};

/// A wire that can be cut without either end noticing: bytes vanish, sockets stay open.
async fn black_hole(to: std::net::SocketAddr) -> (Target, Arc<AtomicBool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap().to_string().parse().unwrap();
    let cut = Arc::new(AtomicBool::new(false));
    let wire = Arc::clone(&cut);
    tokio::spawn(async move {
        let (near, _) = listener.accept().await.unwrap();
        let far = TcpStream::connect(to).await.unwrap();
        let (near_read, near_write) = near.into_split();
        let (far_read, far_write) = far.into_split();
        for (mut from, mut into) in [(near_read, far_write), (far_read, near_write)] {
            let wire = Arc::clone(&wire);
            tokio::spawn(async move {
                let mut bytes = [0; 16 * 1024];
                while let Ok(count @ 1..) = from.read(&mut bytes).await {
                    if !wire.load(Ordering::Relaxed) && into.write_all(&bytes[..count]).await.is_err() {
                        return;
                    }
                }
                // Both sockets stay open until the test is over.
                std::future::pending::<()>().await;
            });
        }
    });
    (target, cut)
}

#[tokio::test]
async fn both_ends_notice_that_the_other_vanished() {
    let mut server = ServerOptions::default();
    server.keepalive_interval = Duration::from_millis(100);
    server.keepalive_timeout = Duration::from_millis(200);
    let mut client = DialOptions::default();
    client.keepalive_interval = Duration::from_millis(100);
    client.keepalive_timeout = Duration::from_millis(200);
    let mut controller = Controller::start_with(server).await;
    let (wire, cut) = black_hole(controller.server.local_addr()).await;
    let node = controller.authority.node("node-1");
    let connection = within(controller.dialer_with(Some(&node), client).dial(&wire))
        .await
        .unwrap();
    let daemon = SessionHandle::new(PlainDaemon::default());
    let stream = tokio::spawn({
        let (daemon, connection) = (daemon.clone(), connection.clone());
        async move { connection.run_session(&daemon).await }
    });
    let (_, node) = controller.next_session().await;
    daemon.with(|session, _| session.queue.push_back(line("hello")));
    assert_eq!(within(node.next_event()).await, Some(Event::Connected));
    assert_eq!(within(node.next_event()).await.unwrap().message(), line("hello"));

    cut.store(true, Ordering::Relaxed);
    let end = within(stream).await.unwrap();
    assert!(matches!(end, StreamEnd::Lost(_)), "{end}");
    assert!(matches!(
        within(connection.failure()).await,
        Some(DialError::Silent { .. })
    ));
    assert_eq!(within(node.next_event()).await, Some(Event::Disconnected));
    assert_eq!(within(node.next_event()).await, None);
    // To a server, hyper reports a peer that stopped answering as an orderly end.
    assert!(matches!(
        node.last_end(),
        Some(StreamEnd::Lost(_) | StreamEnd::PeerFinished)
    ));
    assert_eq!(node.with(|session, _| session.disconnections), 1);
}

#[tokio::test]
async fn an_idle_connection_without_a_call_is_watched_too() {
    let controller = Controller::start().await;
    let (wire, cut) = black_hole(controller.server.local_addr()).await;
    let mut client = DialOptions::default();
    client.keepalive_interval = Duration::from_millis(100);
    client.keepalive_timeout = Duration::from_millis(200);
    let connection = within(controller.dialer_with(None, client).dial(&wire))
        .await
        .unwrap();
    cut.store(true, Ordering::Relaxed);
    assert!(matches!(
        within(connection.closed()).await,
        Some(DialError::Silent { .. })
    ));
}
