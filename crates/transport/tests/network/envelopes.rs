//! Bytes that no session of this build would send

use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::{StreamExt as _, stream};
use http_body_util::StreamBody;
use hyper::body::Frame;
use prexorcloud_transport::codec::MAX_MESSAGE_BYTES;
use prexorcloud_transport::connect::CONNECT_PATH;
use prexorcloud_transport::{DialOptions, Dialer, Server, ServerOptions, SessionHandle, StreamEnd};
use prost::Message as _;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::{Code, Status};
use tower_service::Service as _;

use crate::cluster::{Controller, within};
use crate::pki::Authority;
use crate::plain::{Event, PlainDaemon, line, ping, template};
use crate::raw::{self, RawController};

/// Variant 199 with one string in it.
const UNKNOWN: Bytes = Bytes::from_static(&[0xba, 0x0c, 0x05, 0x0a, 0x03, b'n', b'e', b'w']);

/// A client of a controller that answers with bytes.
async fn daemon_of(answer: RawController) -> (SessionHandle<PlainDaemon>, StreamEnd) {
    let authority = Authority::new("cluster");
    let tls = authority.server_config(&authority.server());
    let server = Server::bind("127.0.0.1:0".parse().unwrap(), ServerOptions::default())
        .await
        .unwrap();
    let target = server.local_addr().to_string().parse().unwrap();
    let server = server.serve(move || Arc::clone(&tls), Routes::new(answer));
    let node = authority.node("node-1");
    let dialer = Dialer::with_config(authority.client_config(Some(&node)), DialOptions::default());
    let connection = within(dialer.dial(&target)).await.unwrap();
    let daemon = SessionHandle::new(PlainDaemon::default());
    let end = within(connection.run_session(&daemon)).await;
    drop(server);
    (daemon, end)
}

#[tokio::test]
async fn an_unknown_variant_from_the_daemon_is_named_and_keeps_the_stream() {
    let mut controller = Controller::start().await;
    let connection = controller.connect().await;
    let known = Bytes::from(line("hello").encode_to_vec());
    let messages = stream::iter([UNKNOWN, Bytes::new(), known]).chain(stream::pending());
    let _response = within(raw::connect(&connection, messages)).await.unwrap();
    let (_, node) = controller.next_session().await;
    assert_eq!(within(node.next_event()).await, Some(Event::Connected));
    for (variant, message) in [
        (Some(199), Default::default()),
        (None, Default::default()),
        (None, line("hello")),
    ] {
        let Some(Event::Received(received)) = within(node.next_event()).await else {
            panic!("no message")
        };
        assert_eq!((received.unknown_variant, received.message), (variant, message));
    }
    assert_eq!(controller.service.counts().unknown_variants, 1);
}

#[tokio::test]
async fn an_unknown_variant_from_the_controller_is_named_and_its_epoch_honoured() {
    let mut newer = BytesMut::from(&UNKNOWN[..]);
    newer.put_slice(&[0x90, 0x01, 0x2a]);
    let newer = newer.freeze();
    let answer = RawController(Arc::new(move |_| {
        let known = Bytes::from(ping(1).encode_to_vec());
        stream::iter([Ok(newer.clone()), Ok(known)]).boxed()
    }));
    let (daemon, end) = daemon_of(answer).await;
    assert_eq!(end, StreamEnd::PeerFinished);
    assert_eq!(within(daemon.next_event()).await, Some(Event::Connected));
    let Some(Event::Received(received)) = within(daemon.next_event()).await else {
        panic!("no message")
    };
    assert_eq!(
        (received.unknown_variant, received.message.epoch),
        (Some(199), 42)
    );
    assert_eq!(within(daemon.next_event()).await.unwrap().message(), ping(1));
    assert_eq!(daemon.counts().unknown_variants, 1);
}

#[tokio::test]
async fn bytes_that_are_no_envelope_end_the_stream_with_a_clear_status() {
    let mut controller = Controller::start().await;
    let connection = controller.connect().await;
    let messages = stream::iter([Bytes::from_static(&[0x0a, 0xff, 0xff])]).chain(stream::pending());
    let mut response = within(raw::connect(&connection, messages)).await.unwrap();
    let status = within(response.message()).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().starts_with("not an envelope"), "{status}");
    let (_, node) = controller.next_session().await;
    while within(node.next_event()).await.is_some() {}
    assert!(matches!(
        node.last_end(),
        Some(StreamEnd::Malformed {
            code: Code::InvalidArgument,
            ..
        })
    ));
    assert_eq!(controller.service.counts().malformed, 1);
}

#[tokio::test]
async fn bytes_that_are_no_envelope_end_the_daemons_stream_too() {
    let answer = RawController(Arc::new(|_| {
        stream::iter([Ok(Bytes::from_static(&[0x2a, 0x02, 0x08]))])
            .chain(stream::pending())
            .boxed()
    }));
    let (daemon, end) = daemon_of(answer).await;
    assert!(
        matches!(
            &end,
            StreamEnd::Malformed {
                code: Code::InvalidArgument,
                ..
            }
        ),
        "{end}"
    );
    assert_eq!(daemon.counts().malformed, 1);
    assert_eq!(daemon.with(|session, _| session.disconnections), 1);
}

/// A call whose body is exactly these bytes.
async fn call(
    connection: &prexorcloud_transport::Connection,
    body: &[u8],
) -> http::Response<impl hyper::body::Body> {
    let frame = Ok::<_, Status>(Frame::data(Bytes::copy_from_slice(body)));
    let body = StreamBody::new(stream::iter([frame]).chain(stream::pending()));
    let request = http::Request::post(CONNECT_PATH)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(tonic::body::Body::new(body))
        .unwrap();
    within(connection.clone().call(request)).await.unwrap()
}

#[tokio::test]
async fn frames_that_are_not_grpc_end_the_stream_with_a_clear_status() {
    let too_long = u32::try_from(MAX_MESSAGE_BYTES + 1).unwrap().to_be_bytes();
    let too_long = [&[0][..], &too_long].concat();
    for (bytes, code, says) in [
        (
            &too_long[..],
            Code::OutOfRange,
            "too large: found 104857601 bytes, the limit is: 104857600 bytes",
        ),
        (&[1, 0, 0, 0, 1, 0][..], Code::Internal, "compressed-flag"),
        (
            &[9, 0, 0, 0, 1, 0][..],
            Code::Internal,
            "invalid compression flag: 9",
        ),
    ] {
        let mut controller = Controller::start().await;
        let connection = controller.connect().await;
        let response = call(&connection, bytes).await;
        let trailers = within(http_body_util::BodyExt::collect(response.into_body())).await;
        let trailers = trailers
            .unwrap_or_else(|_| panic!("no trailers"))
            .trailers()
            .cloned()
            .unwrap();
        let status = Status::from_header_map(&trailers).unwrap();
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(says), "{status}");
        let (_, node) = controller.next_session().await;
        while within(node.next_event()).await.is_some() {}
        assert!(
            matches!(node.last_end(), Some(StreamEnd::Malformed { .. })),
            "{:?}",
            node.last_end()
        );
    }
}

#[tokio::test]
async fn the_daemon_says_clearly_that_a_message_is_too_long() {
    let answer = RawController(Arc::new(|_| {
        stream::iter([Ok(Bytes::from(vec![0; MAX_MESSAGE_BYTES + 1]))])
            .chain(stream::pending())
            .boxed()
    }));
    let (_, end) = daemon_of(answer).await;
    let StreamEnd::Malformed {
        code: Code::OutOfRange,
        message,
    } = end
    else {
        panic!("{end}")
    };
    assert!(
        message.contains("found 104857601 bytes, the limit is: 104857600 bytes"),
        "{message}"
    );
}

#[tokio::test]
async fn the_longest_message_passes_and_one_byte_more_is_refused_by_the_sender() {
    let overhead = template(1 << 26).encoded_len() - (1 << 26);
    let mut controller = Controller::start().await;
    let connection = controller.connect().await;
    let daemon = SessionHandle::new(PlainDaemon::default());
    let (end, ()) = tokio::join!(within(connection.run_session(&daemon)), async {
        let (_, node) = controller.next_session().await;
        let longest = template(MAX_MESSAGE_BYTES - overhead);
        assert_eq!(longest.encoded_len(), MAX_MESSAGE_BYTES);
        node.with(|session, _| session.queue.push_back(longest));
        assert_eq!(within(daemon.next_event()).await, Some(Event::Connected));
        assert_eq!(
            within(daemon.next_event()).await.unwrap().message().encoded_len(),
            MAX_MESSAGE_BYTES
        );
        node.with(|session, _| {
            session
                .queue
                .push_back(template(MAX_MESSAGE_BYTES - overhead + 1))
        });
    });
    let StreamEnd::PeerStatus {
        code: Code::OutOfRange,
        message,
    } = end
    else {
        panic!("{end}")
    };
    assert!(
        message.contains("found 104857601 bytes, the limit is: 104857600 bytes"),
        "{message}"
    );
}

#[tokio::test]
async fn status_details_that_are_not_base64_harm_nobody() {
    let answer = RawController(Arc::new(|_| {
        let mut status = Status::aborted("a newer session took over");
        let details = tonic::metadata::MetadataValue::from_bytes(b"x");
        status.metadata_mut().insert_bin("harmless-bin", details);
        stream::iter([Err(status)]).boxed()
    }));
    // tonic encodes details correctly, so a service in front writes the header itself.
    #[derive(Clone)]
    struct Spoiled(RawController);
    impl NamedService for Spoiled {
        const NAME: &'static str = RawController::NAME;
    }
    impl tower_service::Service<http::Request<tonic::body::Body>> for Spoiled {
        type Response = http::Response<tonic::body::Body>;
        type Error = std::convert::Infallible;
        type Future = futures_util::future::BoxFuture<'static, Result<Self::Response, Self::Error>>;

        fn poll_ready(
            &mut self,
            context: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Result<(), Self::Error>> {
            self.0.poll_ready(context)
        }

        fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
            let response = self.0.call(request);
            Box::pin(async move {
                let spoil = |headers: &mut http::HeaderMap| {
                    headers.insert("grpc-status-details-bin", http::HeaderValue::from_static("?!"));
                };
                let (parts, body) = response.await?.into_parts();
                let body = http_body_util::BodyExt::map_frame(body, move |mut frame: Frame<Bytes>| {
                    if let Some(trailers) = frame.trailers_mut() {
                        spoil(trailers);
                    }
                    frame
                });
                Ok(http::Response::from_parts(parts, tonic::body::Body::new(body)))
            })
        }
    }

    let authority = Authority::new("cluster");
    let tls = authority.server_config(&authority.server());
    let server = Server::bind("127.0.0.1:0".parse().unwrap(), ServerOptions::default())
        .await
        .unwrap();
    let target = server.local_addr().to_string().parse().unwrap();
    let _server = server.serve(move || Arc::clone(&tls), Routes::new(Spoiled(answer)));
    let node = authority.node("node-1");
    let dialer = Dialer::with_config(authority.client_config(Some(&node)), DialOptions::default());
    let connection = within(dialer.dial(&target)).await.unwrap();
    let daemon = SessionHandle::new(PlainDaemon::default());
    let end = within(connection.run_session(&daemon)).await;
    assert_eq!(
        end,
        StreamEnd::PeerStatus {
            code: Code::Aborted,
            message: "a newer session took over".into()
        }
    );
}

#[tokio::test]
async fn other_methods_of_the_service_do_not_exist() {
    let controller = Controller::start().await;
    let connection = controller.connect().await;
    let path = "/me.prexorjustin.prexorcloud.protocol.DaemonService/Disconnect"
        .parse()
        .unwrap();
    let mut grpc = tonic::client::Grpc::new(connection);
    let status = within(grpc.unary(tonic::Request::new(Bytes::new()), path, raw::RawCodec))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
}
