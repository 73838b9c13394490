//! A join token becomes a certificate, once

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use prexorcloud_proto::bootstrap_service_server::BootstrapServiceServer;
use prexorcloud_protocol::NodeId;
use prexorcloud_security::authority::{Authority, AuthorityPolicy, ServerNames};
use prexorcloud_security::certificate_directory::CertificateDirectory;
use prexorcloud_security::tls::ServerTls;
use prexorcloud_security::token::{JoinToken, RecordError};
use prexorcloud_transport::{
    CallError, Dialer, EnrolError, InMemoryEnrolment, Server, ServerHandle, ServerOptions, Target, enrol,
    enrol_once,
};
use tonic::Code;
use tonic::service::Routes;

use crate::cluster::within;
use crate::pki::install_provider;

const HOUR: Duration = Duration::from_secs(3600);

async fn bootstrap() -> (InMemoryEnrolment, Target, ServerHandle) {
    install_provider();
    let now = SystemTime::now();
    let authority = Authority::create(&AuthorityPolicy::default(), now).unwrap();
    let certificate = authority.issue_server(&ServerNames::loopback(), now).unwrap();
    let tls = ServerTls::new(&certificate, &authority.trust_anchors().unwrap())
        .build()
        .unwrap();
    let enrolment = InMemoryEnrolment::new(authority);
    let routes = Routes::new(BootstrapServiceServer::new(enrolment.clone()));
    let server = Server::bind("127.0.0.1:0".parse().unwrap(), ServerOptions::default())
        .await
        .unwrap();
    let target = server.local_addr().to_string().parse().unwrap();
    (enrolment, target, server.serve(move || Arc::clone(&tls), routes))
}

fn node(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

fn refused_with(result: Result<impl Sized, EnrolError>) -> Code {
    match result.err() {
        Some(EnrolError::Refused {
            error: CallError::Status { code, .. },
            ..
        }) => code,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_token_works_once_and_for_its_node() {
    let (enrolment, target, _server) = bootstrap().await;
    let token = enrolment.mint(Some(node("node-1")), HOUR).unwrap();
    let elsewhere = within(enrol(&target, &token, node("node-2"))).await;
    assert_eq!(refused_with(elsewhere), Code::PermissionDenied);
    let enrolled = within(enrol(&target, &token, node("node-1"))).await.unwrap();
    assert_eq!(enrolled.credential.leaf().subject(), "CN=node-1");
    Dialer::of(&enrolled).unwrap();
    let again = within(enrol(&target, &token, node("node-1"))).await;
    assert_eq!(refused_with(again), Code::FailedPrecondition);

    let anybody = enrolment.mint(None, HOUR).unwrap();
    within(enrol(&target, &anybody, node("node-3"))).await.unwrap();
    let (other, _, _server) = bootstrap().await;
    let foreign = other.mint(None, HOUR).unwrap();
    let error = within(enrol(&target, &foreign, node("node-4")))
        .await
        .unwrap_err();
    assert!(matches!(error, EnrolError::Untrusted { .. }), "{error}");
    assert!(matches!(
        enrolment.mint(None, Duration::ZERO),
        Err(RecordError::InvalidLifetime)
    ));
}

#[tokio::test]
async fn of_many_with_one_token_one_enrols() {
    let (enrolment, target, _server) = bootstrap().await;
    let token = enrolment.mint(None, HOUR).unwrap();
    let attempts = (0..8).map(|number| {
        let (target, token) = (target.clone(), token.clone());
        tokio::spawn(async move { enrol(&target, &token, node(&format!("node-{number}"))).await })
    });
    let mut enrolled = 0;
    for attempt in attempts.collect::<Vec<_>>() {
        match within(attempt).await.unwrap() {
            Ok(_) => enrolled += 1,
            refused => assert_eq!(refused_with(refused), Code::FailedPrecondition),
        }
    }
    assert_eq!(enrolled, 1);
}

#[tokio::test]
async fn the_certificate_is_kept_and_the_token_needed_once() {
    let (enrolment, target, server) = bootstrap().await;
    let folder = tempfile::tempdir().unwrap();
    let directory = CertificateDirectory::new(folder.path().join("security"));
    let none = within(enrol_once(&directory, &target, None, node("node-1"))).await;
    assert!(matches!(none, Err(EnrolError::NoToken)), "{none:?}");
    let token = enrolment.mint(Some(node("node-1")), HOUR).unwrap();
    let first = within(enrol_once(&directory, &target, Some(&token), node("node-1")))
        .await
        .unwrap();
    // Nobody is asked any more.
    within(server.shutdown(Duration::ZERO)).await;
    for token in [None, Some(&token)] {
        let again = within(enrol_once(&directory, &target, token, node("node-1"))).await;
        assert_eq!(
            again.unwrap().credential.leaf().serial(),
            first.credential.leaf().serial()
        );
    }
}

#[tokio::test]
async fn a_token_is_not_spent_where_the_certificate_cannot_be_kept() {
    let (enrolment, target, _server) = bootstrap().await;
    let token: JoinToken = enrolment.mint(Some(node("node-1")), HOUR).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("security");
    std::fs::write(&file, "not a folder").unwrap();
    let directory = CertificateDirectory::new(&file);
    let failed = within(enrol_once(&directory, &target, Some(&token), node("node-1"))).await;
    assert!(matches!(failed, Err(EnrolError::Directory(_))), "{failed:?}");
    std::fs::remove_file(&file).unwrap();
    within(enrol_once(&directory, &target, Some(&token), node("node-1")))
        .await
        .unwrap();
}
