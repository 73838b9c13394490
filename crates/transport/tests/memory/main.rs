//! What peers can make this process hold, by its own resident memory: one test at a time, in a process of its own
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
#![allow(dead_code, reason = "the helpers are those of the tests over the network")]

#[path = "../network/cluster.rs"]
mod cluster;
#[path = "../network/pki.rs"]
mod pki;
#[path = "../network/plain.rs"]
mod plain;
#[path = "../network/raw.rs"]
mod raw;

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use http_body_util::StreamBody;
use hyper::body::Frame;
use prexorcloud_proto::bootstrap_service_server::BootstrapServiceServer;
use prexorcloud_protocol::validate::Fault;
use prexorcloud_transport::connect::CONNECT_PATH;
use prexorcloud_transport::{
    CallError, Connection, DialOptions, Dialer, InMemoryEnrolment, Server, ServerOptions, Target,
};
use prost::Message as _;
use tokio::sync::{Mutex, MutexGuard};
use tonic::service::Routes;
use tower_service::Service as _;

use crate::cluster::{Controller, within};
use crate::plain::{Event, line};

const MIB: usize = 1024 * 1024;

/// Resident bytes of this process.
fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = pages.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// What another test holds at the same time would be counted, too.
async fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::const_new(());
    ALONE.lock().await
}

/// The most that the process grows by until `what` is done.
async fn growth<T>(what: impl Future<Output = T>) -> (T, usize) {
    let before = resident();
    let mut peak = before;
    let mut what = std::pin::pin!(what);
    loop {
        match tokio::time::timeout(Duration::from_millis(2), what.as_mut()).await {
            Ok(done) => return (done, peak.max(resident()) - before),
            Err(_) => peak = peak.max(resident()),
        }
    }
}

/// Opens the stream of a node with the pieces of a body, in the form that they have on the wire.
async fn pour(connection: &Connection, pieces: impl stream::Stream<Item = Bytes> + Send + 'static) {
    let response = within(call(connection, CONNECT_PATH, pieces)).await.unwrap();
    tokio::spawn(async move {
        let _response = response;
        std::future::pending::<()>().await;
    });
}

fn call(
    connection: &Connection,
    path: &str,
    pieces: impl stream::Stream<Item = Bytes> + Send + 'static,
) -> <Connection as tower_service::Service<http::Request<tonic::body::Body>>>::Future {
    let pieces = pieces.map(|piece| Ok::<_, Infallible>(Frame::data(piece)));
    let request = http::Request::post(path)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(tonic::body::Body::new(StreamBody::new(pieces)))
        .unwrap();
    connection.clone().call(request)
}

fn varint(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// The beginning of a message whose field `number` has `length` bytes: the prefix of gRPC, a key, a length.
fn begin(number: usize, length: usize) -> Bytes {
    let envelope = [varint(number << 3 | 2), varint(length)].concat();
    let total = u32::try_from(envelope.len() + length).unwrap();
    [&[0][..], &total.to_be_bytes(), &envelope].concat().into()
}

/// So many empty entries of the list in field 1 or 6, two bytes each.
fn entries(key: u8, bytes: usize) -> impl stream::Stream<Item = Bytes> {
    let piece = Bytes::from([key, 0].repeat(8192));
    stream::iter(0..bytes / piece.len()).map(move |_| piece.clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_beyond_its_limits_costs_next_to_nothing_and_the_stream_goes_on() {
    let _alone = alone().await;
    let mut controller = Controller::start().await;
    let connection = controller.connect().await;
    let whole = |message: Vec<u8>| {
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        Bytes::from([&[0][..], &length, &message].concat())
    };
    let hello = whole(line("hello").encode_to_vec());
    let first = hello.clone();
    let (caches, files, many) = (96 * MIB, 64 * MIB, 6 * MIB);
    let body = stream::iter([first, begin(8, caches)])
        .chain(entries(0x0a, caches))
        // Within its bytes, and far beyond its elements.
        .chain(stream::iter([begin(8, many)]))
        .chain(entries(0x0a, many))
        .chain(stream::iter([begin(17, files)]))
        .chain(entries(0x12, files))
        .chain(stream::iter([hello]))
        .chain(stream::pending());
    let ((), grown) = growth(async {
        pour(&connection, body).await;
        let (_, node) = controller.next_session().await;
        assert_eq!(within(node.next_event()).await, Some(Event::Connected));
        assert_eq!(within(node.next_event()).await.unwrap().message(), line("hello"));
        for (name, fault) in [
            ("CacheStatus", Fault::TooLarge { limit: 8 * MIB }),
            ("CacheStatus", Fault::TooMany { limit: 12_352 }),
            ("InstanceFileTree", Fault::TooLarge { limit: 32 * MIB }),
        ] {
            let Some(Event::Received(received)) = within(node.next_event()).await else {
                panic!("the stream ended");
            };
            let refused = received.refused.expect("refused");
            assert_eq!((refused.name, refused.invalid.fault), (name, fault));
        }
        assert_eq!(within(node.next_event()).await.unwrap().message(), line("hello"));
    })
    .await;
    println!(
        "168 MiB of messages beyond their limits: {} KiB more",
        grown / 1024
    );
    assert!(grown < 32 * MIB, "{} MiB", grown / MIB);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_opens_a_stream_is_small() {
    let _alone = alone().await;
    for (number, key, bytes, name) in [
        (1, 0x32, 8 * MIB, "Handshake"),
        (1, 0x32, MIB, "Handshake"),
        (8, 0x0a, 7 * MIB, "CacheStatus"),
    ] {
        let mut controller = Controller::start().await;
        let connection = controller.connect().await;
        let body = stream::iter([begin(number, bytes)])
            .chain(entries(key, bytes))
            .chain(stream::pending());
        let (refused, grown) = growth(async {
            pour(&connection, body).await;
            let (_, node) = controller.next_session().await;
            assert_eq!(within(node.next_event()).await, Some(Event::Connected));
            match within(node.next_event()).await {
                Some(Event::Received(received)) => received.refused,
                other => panic!("{other:?}"),
            }
        })
        .await;
        println!("{name} of {bytes} bytes: {} KiB more", grown / 1024);
        assert_eq!(refused.map(|refused| refused.name), Some(name));
        assert!(grown < 12 * MIB, "{} MiB", grown / MIB);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_messages_wait_for_each_other() {
    let _alone = alone().await;
    let mut controller = Controller::start().await;
    let mut connections = Vec::new();
    let size = 30 * MIB;
    let (mut taken, mut nodes) = (Vec::new(), Vec::new());
    let ((), grown) = growth(async {
        for _ in 0..8 {
            let connection = controller.connect().await;
            let first = Bytes::from_static(&[0; 5]);
            // A file tree without entries: one unused field that is large.
            let piece = Bytes::from(vec![0; 64 * 1024]);
            let inner = [vec![0x22], varint(size)].concat();
            let body = stream::iter([first, begin(17, inner.len() + size), inner.into()])
                .chain(stream::iter(0..size / piece.len()).map(move |_| piece.clone()))
                .chain(stream::iter([Bytes::from_static(&[0; 5])]))
                .chain(stream::pending());
            pour(&connection, body).await;
            connections.push(connection);
            let (_, node) = controller.next_session().await;
            // Whatever comes in is taken at once: what waits as an event is not what is measured here.
            taken.push(tokio::spawn(async move {
                let mut largest = 0;
                for _ in 0..4 {
                    if let Some(Event::Received(received)) = within(node.next_event()).await {
                        largest = largest.max(received.message.encoded_len());
                    }
                }
                (largest / MIB, node)
            }));
        }
        for taken in taken {
            let (largest, node) = taken.await.unwrap();
            assert_eq!(largest, 30);
            nodes.push(node);
        }
    })
    .await;
    println!("8 messages of 30 MiB at once: {} MiB more", grown / MIB);
    assert!(grown < 180 * MIB, "{} MiB", grown / MIB);
    assert!(
        connections
            .iter()
            .all(|connection| { futures_util::FutureExt::now_or_never(connection.closed()).is_none() })
    );
}

const EXCHANGE: &str = "/me.prexorjustin.prexorcloud.protocol.BootstrapService/ExchangeJoinToken";

#[tokio::test(flavor = "multi_thread")]
async fn strangers_get_little_however_much_they_begin() {
    let _alone = alone().await;
    let authority = std::sync::Arc::new(pki::Authority::new("cluster"));
    let tls = authority.server_config(&authority.server());
    let policy = prexorcloud_security::authority::AuthorityPolicy::default();
    let issuer =
        prexorcloud_security::authority::Authority::create(&policy, std::time::SystemTime::now()).unwrap();
    let service = BootstrapServiceServer::new(InMemoryEnrolment::new(issuer));
    let mut options = ServerOptions::default();
    options.anonymous_request_timeout = Duration::from_secs(1);
    let server = Server::bind("127.0.0.1:0".parse().unwrap(), options)
        .await
        .unwrap();
    let target: Target = server.local_addr().to_string().parse().unwrap();
    let server = server.serve(move || std::sync::Arc::clone(&tls), Routes::new(service));
    let dialer = Dialer::with_config(authority.client_config(None), DialOptions::default());

    let unfinished = 3_900_000;
    let piece = Bytes::from(vec![0; 64 * 1024]);
    let (ends, grown) = growth(async {
        let mut calls = Vec::new();
        let mut connections = Vec::new();
        for _ in 0..6 {
            let connection = within(dialer.dial(&target)).await.unwrap();
            for _ in 0..60 {
                let piece = piece.clone();
                let body = stream::iter([begin(1, unfinished)])
                    .chain(stream::iter(0..unfinished / piece.len()).map(move |_| piece.clone()))
                    .chain(stream::pending());
                calls.push(tokio::spawn(call(&connection, EXCHANGE, body)));
            }
            connections.push(connection);
        }
        // An honest one gets in meanwhile.
        let request = prexorcloud_proto::ExchangeJoinTokenRequest::default();
        let error = within(prexorcloud_transport::exchange_join_token(
            &dialer,
            &target,
            request,
            Duration::from_secs(20),
        ))
        .await;
        assert!(matches!(error, Err(CallError::Status { .. })), "an answer");
        tokio::time::timeout(Duration::from_secs(5), futures_util::future::join_all(calls))
            .await
            .map_or(0, |ends| ends.len())
    })
    .await;
    println!(
        "6 strangers with 60 calls of 3.9 MB each: {} KiB more, {ends} calls answered",
        grown / 1024
    );
    assert!(grown < 64 * MIB, "{} MiB", grown / MIB);
    drop(server);
}
