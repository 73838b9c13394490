//! TLS material that changes while the server runs, revocation, and the end of the server

use std::time::Duration;

use prexorcloud_protocol::{Close, Code};
use prexorcloud_transport::server::Shutdown;
use prexorcloud_transport::{Connection, Dialer, SessionHandle, StreamEnd};
use tokio::task::JoinHandle;

use crate::cluster::{Controller, within};
use crate::plain::{Event, PlainDaemon, line};

fn run(connection: &Connection) -> (SessionHandle<PlainDaemon>, JoinHandle<StreamEnd>) {
    let daemon = SessionHandle::new(PlainDaemon::default());
    let stream = tokio::spawn({
        let (daemon, connection) = (daemon.clone(), connection.clone());
        async move { connection.run_session(&daemon).await }
    });
    (daemon, stream)
}

#[tokio::test]
async fn a_new_server_certificate_counts_from_the_next_connection_on() {
    let mut controller = Controller::start().await;
    let before = controller.connect().await;
    let (daemon, stream) = run(&before);
    let (_, node) = controller.next_session().await;

    let renewed = controller.authority.server();
    *controller.tls.lock().unwrap() = controller.authority.server_config(&renewed);
    let after = controller.connect().await;
    assert_ne!(before.peer_certificates(), after.peer_certificates());
    assert_eq!(after.peer_certificates(), [renewed.certificate]);

    daemon.with(|session, _| session.queue.push_back(line("still here")));
    assert_eq!(within(node.next_event()).await, Some(Event::Connected));
    assert_eq!(
        within(node.next_event()).await.unwrap().message(),
        line("still here")
    );
    stream.abort();
}

#[tokio::test]
async fn a_dialer_uses_the_certificate_of_the_moment() {
    let mut controller = Controller::start().await;
    let (first, second) = (
        controller.authority.node("node-1"),
        controller.authority.node("node-1"),
    );
    let current = std::sync::Arc::new(std::sync::Mutex::new(
        controller.authority.client_config(Some(&first)),
    ));
    let dialer = {
        let current = current.clone();
        Dialer::new(move || Ok(current.lock().unwrap().clone()), Default::default())
    };
    let connection = within(dialer.dial(&controller.target)).await.unwrap();
    let (_daemon, stream) = run(&connection);
    assert_eq!(
        controller.next_session().await.0.certificates(),
        [first.certificate]
    );
    stream.abort();
    *current.lock().unwrap() = controller.authority.client_config(Some(&second));
    let connection = within(dialer.dial(&controller.target)).await.unwrap();
    let (_daemon, stream) = run(&connection);
    assert_eq!(
        controller.next_session().await.0.certificates(),
        [second.certificate]
    );
    stream.abort();
}

#[tokio::test]
async fn revoking_a_certificate_ends_its_streams_and_no_others() {
    let mut controller = Controller::start().await;
    let (good, bad) = (
        controller.authority.node("node-1"),
        controller.authority.node("node-2"),
    );
    let good_connection = within(controller.dialer(Some(&good)).dial(&controller.target))
        .await
        .unwrap();
    let (_daemon, good_stream) = run(&good_connection);
    let (_, good_node) = controller.next_session().await;
    let bad_connection = within(controller.dialer(Some(&bad)).dial(&controller.target))
        .await
        .unwrap();
    let (_daemon, bad_stream) = run(&bad_connection);
    let (_, bad_node) = controller.next_session().await;

    let closed = controller
        .server
        .close_where(|peer| peer.certificate() == Some(bad.certificate.as_ref()));
    assert_eq!(closed, 1);
    assert!(matches!(within(bad_stream).await.unwrap(), StreamEnd::Lost(_)));
    while within(bad_node.next_event()).await.is_some() {}
    assert!(good_node.is_connected() && !good_stream.is_finished());
    assert_eq!(controller.server.counts().cut_off, 1);
    good_stream.abort();
}

#[tokio::test]
async fn a_shutdown_waits_for_streams_that_are_closing() {
    let mut controller = Controller::start().await;
    let connection = controller.connect().await;
    let (_daemon, stream) = run(&connection);
    let (_, node) = controller.next_session().await;
    node.with(|session, _| {
        session.close = Some(Close::new(Code::Unavailable, "the controller is shutting down"))
    });
    assert_eq!(
        within(controller.server.shutdown(Duration::from_secs(20))).await,
        Shutdown { cut_off: 0 }
    );
    let message = "the controller is shutting down".to_owned();
    assert_eq!(
        within(stream).await.unwrap(),
        StreamEnd::PeerStatus {
            code: tonic::Code::Unavailable,
            message
        }
    );
    assert!(controller.server.connections().is_empty());
    // The port is free again.
    let address = controller.server.local_addr();
    within(async { while tokio::net::TcpListener::bind(address).await.is_err() {} }).await;
}

#[tokio::test]
async fn a_shutdown_cuts_what_is_left_at_its_deadline() {
    let mut controller = Controller::start().await;
    let connection = controller.connect().await;
    let (_daemon, stream) = run(&connection);
    let (_, node) = controller.next_session().await;
    let idle_handshake = tokio::net::TcpStream::connect(controller.server.local_addr())
        .await
        .unwrap();
    assert_eq!(
        within(controller.server.shutdown(Duration::from_millis(50))).await,
        Shutdown { cut_off: 1 }
    );
    assert!(matches!(within(stream).await.unwrap(), StreamEnd::Lost(_)));
    while within(node.next_event()).await.is_some() {}
    assert_eq!(
        within(controller.server.shutdown(Duration::ZERO)).await,
        Shutdown { cut_off: 0 },
        "again"
    );
    drop(idle_handshake);
}
