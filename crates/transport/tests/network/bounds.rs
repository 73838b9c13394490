//! What strangers can do at the port

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use prexorcloud_transport::{ServerOptions, SessionHandle};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::cluster::{Controller, within};
use crate::plain::{Event, PlainDaemon, line};

async fn is_closed(socket: &mut TcpStream) -> bool {
    !matches!(socket.read(&mut [0; 64]).await, Ok(1..))
}

#[tokio::test]
async fn clients_that_never_finish_their_handshake_block_nobody() {
    let mut options = ServerOptions::default();
    options.max_tls_handshakes = 8;
    let mut controller = Controller::start_with(options).await;
    let address = controller.server.local_addr();
    let mut idlers = Vec::new();
    for index in 0..32 {
        let mut socket = TcpStream::connect(address).await.unwrap();
        if index % 2 == 0 {
            // The beginning of a ClientHello.
            socket
                .write_all(&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01])
                .await
                .unwrap();
        }
        idlers.push(socket);
    }
    let connection = controller.connect().await;
    let daemon = SessionHandle::new(PlainDaemon::default());
    let stream = tokio::spawn({
        let daemon = daemon.clone();
        async move { connection.run_session(&daemon).await }
    });
    let (_, node) = controller.next_session().await;
    daemon.with(|session, _| session.queue.push_back(line("hello")));
    assert_eq!(within(node.next_event()).await, Some(Event::Connected));
    assert_eq!(within(node.next_event()).await.unwrap().message(), line("hello"));
    // The oldest of the silent had to go, the newest still may finish.
    for idler in &mut idlers[..20] {
        assert!(within(is_closed(idler)).await);
    }
    assert!(controller.server.counts().tls_timeouts >= 24);
    stream.abort();
}

#[tokio::test]
async fn an_unfinished_handshake_is_given_up_in_time() {
    let mut options = ServerOptions::default();
    options.tls_handshake_timeout = Duration::from_millis(100);
    let controller = Controller::start_with(options).await;
    let mut socket = TcpStream::connect(controller.server.local_addr()).await.unwrap();
    assert!(within(is_closed(&mut socket)).await);
    assert_eq!(controller.server.counts().tls_timeouts, 1);
}

#[tokio::test]
async fn rubbish_instead_of_a_handshake_is_counted_and_closed() {
    let controller = Controller::start().await;
    let mut socket = TcpStream::connect(controller.server.local_addr()).await.unwrap();
    socket.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = within(socket.read_to_end(&mut answer)).await;
    drop(socket);
    assert_eq!(controller.server.counts().tls_failures, 1);
    controller.connect().await;
}

#[tokio::test]
async fn connections_without_a_certificate_give_way_and_those_with_one_stay() {
    let mut options = ServerOptions::default();
    options.max_anonymous_connections = 2;
    options.max_connections = 4;
    let controller = Controller::start_with(options).await;
    let anonymous = controller.dialer(None);
    let mut strangers = Vec::new();
    for _ in 0..3 {
        strangers.push(within(anonymous.dial(&controller.target)).await.unwrap());
    }
    within(strangers[0].closed()).await;
    let mut nodes = Vec::new();
    for _ in 0..4 {
        nodes.push(controller.connect().await);
    }
    within(strangers[1].closed()).await;
    within(strangers[2].closed()).await;
    // Only nodes are left; the next one is refused, none is displaced.
    let fifth = controller.connect().await;
    within(fifth.closed()).await;
    assert_eq!(controller.server.connections().len(), 4);
    assert!(
        controller
            .server
            .connections()
            .iter()
            .all(|peer| peer.certificate().is_some())
    );
    assert!(controller.server.counts().over_limit >= 4);
    assert!(
        nodes
            .iter()
            .all(|node| futures_util::FutureExt::now_or_never(node.closed()).is_none())
    );
}

#[tokio::test]
async fn a_connection_without_a_certificate_is_asked_to_finish() {
    let mut options = ServerOptions::default();
    options.anonymous_lifetime = Duration::from_millis(50);
    let controller = Controller::start_with(options).await;
    let stranger = within(controller.dialer(None).dial(&controller.target))
        .await
        .unwrap();
    let node = controller.connect().await;
    assert!(within(stranger.closed()).await.is_none(), "closed in order");
    assert!(futures_util::FutureExt::now_or_never(node.closed()).is_none());
}

/// Opens connections from `source` as fast as the system allows, and leaves each open and silent for a while.
fn flood(
    target: std::net::SocketAddr,
    source: [u8; 4],
    stop: Arc<AtomicBool>,
) -> std::thread::JoinHandle<usize> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    std::thread::spawn(move || {
        runtime.block_on(async {
            let mut open = std::collections::VecDeque::new();
            let mut count = 0;
            while !stop.load(Ordering::Relaxed) {
                let socket = tokio::net::TcpSocket::new_v4().unwrap();
                socket.bind((source, 0).into()).unwrap();
                if let Ok(socket) = socket.connect(target).await {
                    count += 1;
                    open.push_back(socket);
                }
                if open.len() > 300 {
                    open.pop_front();
                }
            }
            count
        })
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_connections_keeps_no_honest_handshake_out() {
    // From elsewhere nobody notices it. From the very address of the honest it is a race to the first word, which a peer that
    // has no core to itself may lose, and wins when it comes again.
    for (source, tries) in [([127, 0, 0, 2], 1), ([127, 0, 0, 1], 3)] {
        let controller = Controller::start().await;
        let stop = Arc::new(AtomicBool::new(false));
        let floods = [(); 2].map(|()| flood(controller.server.local_addr(), source, Arc::clone(&stop)));
        while controller.server.counts().tls_timeouts < 1000 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let begun = std::time::Instant::now();
        let before = controller.server.counts().accepted;
        let node = controller.authority.node("node-1");
        let dialer = controller.dialer(Some(&node));
        let mut honest = 0;
        for _ in 0..15 {
            for _ in 0..tries {
                if within(dialer.dial(&controller.target)).await.is_ok() {
                    honest += 1;
                    break;
                }
            }
        }
        let rate = (controller.server.counts().accepted - before) as f64 / begun.elapsed().as_secs_f64();
        stop.store(true, Ordering::Relaxed);
        for flood in floods {
            flood.join().unwrap();
        }
        println!("{honest} of 15 honest handshakes beside {rate:.0} connections a second from {source:?}");
        assert_eq!(honest, 15);
    }
}
