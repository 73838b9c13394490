//! Every reason why a connection does not come about, as the operator reads it

use std::time::Duration;

use prexorcloud_proto::ExchangeJoinTokenRequest;
use prexorcloud_protocol::{Close, Code};
use prexorcloud_transport::connect::CERTIFICATE_REQUIRED;
use prexorcloud_transport::{
    BindError, CallError, DialError, DialOptions, Dialer, Server, ServerOptions, SessionHandle, StreamEnd,
    Target, exchange_join_token,
};
use tokio::net::TcpListener;

use crate::cluster::{Controller, within};
use crate::pki::Authority;
use crate::plain::{PlainController, PlainDaemon};

async fn end_of(controller: &Controller, dialer: &Dialer) -> (StreamEnd, Option<DialError>) {
    let connection = within(dialer.dial(&controller.target)).await.unwrap();
    let daemon = SessionHandle::new(PlainDaemon::default());
    let end = within(connection.run_session(&daemon)).await;
    (end, within(connection.failure()).await)
}

#[tokio::test]
async fn without_a_certificate_a_daemon_is_told_to_enrol() {
    let controller = Controller::start().await;
    let (end, error) = end_of(&controller, &controller.dialer(None)).await;
    assert_eq!(
        end,
        StreamEnd::PeerStatus {
            code: tonic::Code::Unauthenticated,
            message: CERTIFICATE_REQUIRED.into()
        }
    );
    assert!(error.is_none(), "the connection itself is fine: {error:?}");
}

#[tokio::test]
async fn a_refused_certificate_is_told_from_a_dead_controller() {
    let controller = Controller::start().await;
    let stranger = Authority::new("another cluster").node("node-1");
    let expired = controller.authority.expired_node("node-1");
    for (credential, alert) in [(stranger, "UnknownCA"), (expired, "CertificateExpired")] {
        // The alert must survive every time, not only when the race goes well.
        for _ in 0..20 {
            let (end, error) = end_of(&controller, &controller.dialer(Some(&credential))).await;
            let Some(DialError::CertificateRefused { alert: seen, .. }) = &error else {
                panic!("{end}: {error:?}")
            };
            assert_eq!(seen, alert);
            assert!(
                end.to_string().contains("refused this node's certificate"),
                "{end}"
            );
            assert!(error.unwrap().needs_operator());
        }
    }
    let counts = controller.server.counts();
    assert_eq!((counts.accepted, counts.tls_failures), (40, 40));
}

#[tokio::test]
async fn the_acceptor_can_refuse_with_a_status() {
    let authority = std::sync::Arc::new(Authority::new("cluster"));
    let controller = Controller::<PlainController>::start_of(authority, ServerOptions::default(), |_| {
        Err(Close::new(
            Code::PermissionDenied,
            "the certificate of node-1 is revoked",
        ))
    })
    .await;
    let node = controller.authority.node("node-1");
    let (end, _) = end_of(&controller, &controller.dialer(Some(&node))).await;
    let message = "the certificate of node-1 is revoked".to_owned();
    assert_eq!(
        end,
        StreamEnd::PeerStatus {
            code: tonic::Code::PermissionDenied,
            message
        }
    );
}

#[tokio::test]
async fn a_controller_without_room_says_when_to_come_again() {
    let authority = std::sync::Arc::new(Authority::new("cluster"));
    let full = Close::new(Code::Unavailable, "too many at once").again_after(Duration::from_millis(1500));
    let controller =
        Controller::<PlainController>::start_of(authority, ServerOptions::default(), move |_| {
            Err(full.clone())
        })
        .await;
    let node = controller.authority.node("node-1");
    let connection = within(controller.dialer(Some(&node)).dial(&controller.target))
        .await
        .unwrap();
    let daemon = SessionHandle::new(PlainDaemon::default());
    let end = within(connection.run_session(&daemon)).await;
    assert_eq!(daemon.retry_after(), Some(Duration::from_millis(1500)), "{end}");
}

#[tokio::test]
async fn the_server_must_be_who_was_dialled() {
    let controller = Controller::start().await;
    let node = controller.authority.node("node-1");
    let ours = controller.dialer(Some(&node));

    let other = Authority::new("another cluster");
    let dialer = Dialer::with_config(other.client_config(None), DialOptions::default());
    let error = within(dialer.dial(&controller.target)).await.unwrap_err();
    assert!(matches!(error, DialError::ServerUntrusted { .. }), "{error}");

    let named = controller.authority.server_named("controller.example");
    *controller.tls.lock().unwrap() = controller.authority.server_config(&named);
    let error = within(ours.dial(&controller.target)).await.unwrap_err();
    let DialError::NameMismatch { presented, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(presented, "controller.example");
    assert!(
        error.to_string().starts_with(&controller.target.to_string()),
        "{error}"
    );

    let expired = controller.authority.expired_server();
    *controller.tls.lock().unwrap() = controller.authority.server_config(&expired);
    let error = within(ours.dial(&controller.target)).await.unwrap_err();
    assert!(matches!(error, DialError::ServerOutOfDate { .. }), "{error}");
    assert!(error.needs_operator());
}

#[tokio::test]
async fn dead_ends_of_the_network_are_told_apart() {
    let authority = Authority::new("cluster");
    let options = || {
        let mut options = DialOptions::default();
        options.connect_timeout = Duration::from_millis(500);
        options
    };
    let dialer = Dialer::with_config(authority.client_config(None), options());

    // A port that was free a moment ago.
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target: Target = free.local_addr().unwrap().to_string().parse().unwrap();
    drop(free);
    let error = within(dialer.dial(&target)).await.unwrap_err();
    assert!(
        matches!(error, DialError::Refused { .. }) && !error.needs_operator(),
        "{error}"
    );

    // Accepts and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target: Target = silent.local_addr().unwrap().to_string().parse().unwrap();
    let error = within(dialer.dial(&target)).await.unwrap_err();
    assert!(
        matches!(
            error,
            DialError::Timeout {
                stage: "agreeing on TLS",
                ..
            }
        ),
        "{error}"
    );

    // Speaks something else.
    drop(within(silent.accept()).await.unwrap());
    let talker = tokio::spawn(async move {
        let (mut socket, _) = silent.accept().await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut socket, b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .await
            .unwrap();
        socket
    });
    let error = within(dialer.dial(&target)).await.unwrap_err();
    assert!(matches!(error, DialError::NotTls { .. }), "{error}");
    within(talker).await.unwrap();

    let nowhere: Target = "no-such-host.invalid:9090".parse().unwrap();
    let error = within(dialer.dial(&nowhere)).await.unwrap_err();
    assert!(
        matches!(error, DialError::Resolve { .. } | DialError::Timeout { .. }),
        "{error}"
    );

    let broken = Dialer::new(|| Err("node.p12 is missing".into()), options());
    let error = within(broken.dial(&nowhere)).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the TLS credentials of this node cannot be used: node.p12 is missing"
    );
}

#[tokio::test]
async fn a_port_in_use_says_so() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let error = Server::bind(address, ServerOptions::default()).await.unwrap_err();
    assert!(matches!(error, BindError::InUse { .. }));
    assert!(error.to_string().contains("in use by another process"), "{error}");
    let error = Server::bind("192.0.2.1:0".parse().unwrap(), ServerOptions::default())
        .await
        .unwrap_err();
    assert!(matches!(error, BindError::NotAvailable { .. }), "{error}");
}

#[tokio::test]
async fn exchanging_a_token_reports_statuses_dead_ends_and_deadlines() {
    let controller = Controller::start().await;
    let request = || ExchangeJoinTokenRequest {
        join_token: "pxr_x".into(),
        node_id: "node-1".into(),
        ..Default::default()
    };
    let dialer = controller.dialer(None);
    let limit = Duration::from_secs(30);

    // This controller has no BootstrapService.
    let error = within(exchange_join_token(&dialer, &controller.target, request(), limit))
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            CallError::Status {
                code: tonic::Code::Unimplemented,
                ..
            }
        ),
        "{error}"
    );
    assert!(!error.is_transient());

    let stranger = Authority::new("another cluster").node("node-1");
    let refused = controller.dialer(Some(&stranger));
    let error = within(exchange_join_token(
        &refused,
        &controller.target,
        request(),
        limit,
    ))
    .await
    .unwrap_err();
    assert!(
        matches!(error, CallError::Dial(DialError::CertificateRefused { .. })),
        "{error}"
    );

    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target: Target = silent.local_addr().unwrap().to_string().parse().unwrap();
    let limit = Duration::from_millis(200);
    let error = within(exchange_join_token(&dialer, &target, request(), limit))
        .await
        .unwrap_err();
    assert!(
        matches!(error, CallError::DeadlineExceeded { .. }) && error.is_transient(),
        "{error}"
    );
}
