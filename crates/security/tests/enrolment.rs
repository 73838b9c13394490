//! What a new daemon accepts before it knows anyone
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::sync::Arc;
use std::time::SystemTime;

use prexorcloud_security::authority::Authority;
use prexorcloud_security::credential::Credential;
use prexorcloud_security::enrolment::{EnrolmentError, EnrolmentTls, ObservedServer};
use prexorcloud_security::identity::Identity;
use prexorcloud_security::keystore::{self, KeystoreError, KeystorePassword};
use prexorcloud_security::tls::{CertificateFailure, ServerTls, TheirCertificate, diagnose};
use prexorcloud_security::token::CaPin;
use prexorcloud_security::trust::TrustAnchors;
use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;
use support::{DAY, Meeting, SECRET, authority, clock, epoch, meet, server_of};

fn serve(authority: &Authority, credential: &Credential) -> Arc<ServerConfig> {
    ServerTls::new(credential, &authority.trust_anchors().unwrap())
        .clock(clock(epoch()))
        .build()
        .unwrap()
}

fn contact(pin: Option<CaPin>, now: SystemTime) -> EnrolmentTls {
    EnrolmentTls::with_clock(pin, clock(now)).unwrap()
}

fn without_authority(credential: &Credential) -> Credential {
    Credential::from_pem(&credential.leaf().to_pem(), &credential.key_pem()).unwrap()
}

/// The client ended it, and not one application byte (the join token) left
#[track_caller]
fn refusal(meeting: &Meeting) -> TheirCertificate {
    assert!(meeting.received.is_empty(), "application bytes arrived");
    match diagnose(meeting.client_error.as_ref().expect("the client accepted")) {
        Some(CertificateFailure::Theirs(theirs)) => theirs,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_pinned_authority_is_accepted_and_learned() {
    let authority = authority();
    let server = server_of(&authority);
    let tls = contact(Some(CaPin::of(authority.certificate())), epoch());
    assert_eq!(tls.observed(), None);
    for host in ["localhost", "127.0.0.1", "::1", "10.0.0.7"] {
        let meeting = meet(tls.client_config(), serve(&authority, &server), host);
        assert!(meeting.succeeded(), "{host}: {:?}", meeting.client_error);
        assert_eq!(meeting.received, SECRET);
    }
    let observed = tls.observed().unwrap();
    assert_eq!(&observed.leaf, server.leaf());
    assert_eq!(observed.authority.as_ref(), Some(authority.certificate()));
}

#[test]
fn another_authority_gets_nothing() {
    let (ours, theirs) = (authority(), authority());
    let tls = contact(Some(CaPin::of(ours.certificate())), epoch());
    let meeting = meet(
        tls.client_config(),
        serve(&theirs, &server_of(&theirs)),
        "localhost",
    );
    assert_eq!(
        refusal(&meeting),
        TheirCertificate::Enrolment(EnrolmentError::PinMismatch {
            seen: theirs.fingerprint(),
            pinned: ours.fingerprint()
        })
    );
    assert_eq!(tls.observed(), None);
}

#[test]
fn sending_the_pinned_certificate_without_its_signature_gets_nothing() {
    // The authority's certificate is public: anyone can put it behind a leaf of their own.
    let (ours, theirs) = (authority(), authority());
    let own = server_of(&theirs);
    let tls = contact(Some(CaPin::of(ours.certificate())), epoch());
    let mut chain: Vec<_> = own.chain().map(|c| c.der().clone()).collect();
    chain.push(ours.certificate().der().clone());
    let key = PrivatePkcs8KeyDer::from(own.key_pkcs8().to_vec());
    let config = ServerConfig::builder_with_provider(prexorcloud_security::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key.into())
        .unwrap();
    let meeting = meet(tls.client_config(), Arc::new(config), "localhost");
    assert_eq!(refusal(&meeting), TheirCertificate::UnknownAuthority);
}

#[test]
fn a_pin_needs_the_authority_in_the_chain() {
    let authority = authority();
    let bare = without_authority(&server_of(&authority));
    let tls = contact(Some(CaPin::of(authority.certificate())), epoch());
    let meeting = meet(tls.client_config(), serve(&authority, &bare), "localhost");
    assert_eq!(
        refusal(&meeting),
        TheirCertificate::Enrolment(EnrolmentError::AuthorityNotSent)
    );
}

#[test]
fn a_node_of_the_cluster_cannot_pose_as_its_controller() {
    let authority = authority();
    let node = authority.issue_node("localhost", epoch()).unwrap();
    for pin in [Some(CaPin::of(authority.certificate())), None] {
        let meeting = meet(
            contact(pin, epoch()).client_config(),
            serve(&authority, &node),
            "localhost",
        );
        assert_eq!(refusal(&meeting), TheirCertificate::WrongPurpose);
    }
}

#[test]
fn names_and_dates_are_checked_with_and_without_a_pin() {
    let authority = authority();
    let server = serve(&authority, &server_of(&authority));
    for pin in [Some(CaPin::of(authority.certificate())), None] {
        let elsewhere = meet(
            contact(pin, epoch()).client_config(),
            server.clone(),
            "other.example",
        );
        assert!(matches!(refusal(&elsewhere), TheirCertificate::WrongName { .. }));
        let late = meet(
            contact(pin, epoch() + 400 * DAY).client_config(),
            server.clone(),
            "localhost",
        );
        assert_eq!(refusal(&late), TheirCertificate::Expired);
        let early = meet(
            contact(pin, epoch() - DAY).client_config(),
            server.clone(),
            "localhost",
        );
        assert_eq!(refusal(&early), TheirCertificate::NotYetValid);
    }
}

#[test]
fn first_use_believes_anyone_and_reports_whom() {
    let authority = authority();
    let server = server_of(&authority);
    let tls = contact(None, epoch());
    let meeting = meet(tls.client_config(), serve(&authority, &server), "localhost");
    assert!(meeting.succeeded());
    let observed = tls.observed().unwrap();
    assert_eq!((&observed.leaf, observed.pin), (server.leaf(), None));
    // A server that sends only its own certificate is accepted too, and known by it.
    let tls = contact(None, epoch());
    assert!(
        meet(
            tls.client_config(),
            serve(&authority, &without_authority(&server)),
            "localhost"
        )
        .succeeded()
    );
    assert_eq!(tls.observed().unwrap().authority, None);
}

struct Reply {
    node: Credential,
    password: KeystorePassword,
    pkcs12: Vec<u8>,
    ca: String,
}

impl Reply {
    fn new(authority: &Authority, node_id: &str) -> Self {
        let node = authority.issue_node(node_id, epoch()).unwrap();
        let password = KeystorePassword::generate().unwrap();
        let pkcs12 = keystore::write(&node, &password).unwrap();
        Self {
            node,
            password,
            pkcs12,
            ca: authority.certificate().to_pem(),
        }
    }
}

#[test]
fn a_reply_is_accepted_only_if_every_part_fits() {
    let (ours, theirs) = (authority(), authority());
    let reply = Reply::new(&ours, "node-1");
    for pin in [Some(CaPin::of(ours.certificate())), None] {
        let tls = contact(pin, epoch());
        assert!(meet(tls.client_config(), serve(&ours, &server_of(&ours)), "localhost").succeeded());
        let observed = tls.observed().unwrap();
        let password = reply.password.expose();
        let accept = |id: &str, p12: &[u8], ca: &str| observed.accept(id, p12, password, ca);

        let enrolled = accept("node-1", &reply.pkcs12, &reply.ca).unwrap();
        assert_eq!(enrolled.credential.leaf(), reply.node.leaf());
        assert!(enrolled.anchors.contains(ours.fingerprint()));

        let foreign = theirs.certificate().to_pem();
        assert_eq!(
            accept("node-1", &reply.pkcs12, &foreign).unwrap_err(),
            EnrolmentError::ForeignAuthority
        );
        let not_ours = Reply::new(&theirs, "node-1");
        let error = observed.accept("node-1", &not_ours.pkcs12, not_ours.password.expose(), &reply.ca);
        assert!(matches!(error.unwrap_err(), EnrolmentError::Credential(_)));
        assert_eq!(
            accept("node-2", &reply.pkcs12, &reply.ca).unwrap_err(),
            EnrolmentError::WrongIdentity {
                found: Identity::Node("node-1".into()),
                expected: "node-2".into()
            }
        );
        assert!(matches!(
            accept("node-1", &reply.pkcs12, "").unwrap_err(),
            EnrolmentError::Authority(_)
        ));
        assert!(matches!(
            accept("node-1", b"nonsense", &reply.ca).unwrap_err(),
            EnrolmentError::Keystore(KeystoreError::Malformed)
        ));
        let wrong = observed
            .accept("node-1", &reply.pkcs12, "wrong", &reply.ca)
            .unwrap_err();
        assert_eq!(wrong, EnrolmentError::Keystore(KeystoreError::WrongPassword));
        assert!(matches!(
            observed
                .accept("node-1", &reply.pkcs12, "", &reply.ca)
                .unwrap_err(),
            EnrolmentError::Password(_)
        ));
    }
}

#[test]
fn a_reply_with_two_authorities_is_fine_during_a_rotation() {
    let (old, new) = (authority(), authority());
    let tls = contact(Some(CaPin::of(old.certificate())), epoch());
    assert!(meet(tls.client_config(), serve(&old, &server_of(&old)), "localhost").succeeded());
    let reply = Reply::new(&new, "node-1");
    let both = format!("{}{}", reply.ca, old.certificate().to_pem());
    let enrolled = tls
        .observed()
        .unwrap()
        .accept("node-1", &reply.pkcs12, reply.password.expose(), &both)
        .unwrap();
    assert_eq!(enrolled.anchors.iter().count(), 2);
}

#[test]
fn a_reply_must_name_the_pinned_authority_and_not_just_one_that_signed_the_server() {
    let (pinned, other) = (authority(), authority());
    let server = server_of(&other);
    let observed = |pin| ObservedServer {
        leaf: server.leaf().clone(),
        authority: Some(other.certificate().clone()),
        pin,
    };
    let anchors = |authority: &Authority| TrustAnchors::new([authority.certificate().clone()]).unwrap();
    let pin = Some(CaPin::of(pinned.certificate()));
    let foreign = Err(EnrolmentError::ForeignAuthority);
    assert_eq!(observed(pin).check_authority(&anchors(&pinned)), Ok(()));
    assert_eq!(observed(pin).check_authority(&anchors(&other)), foreign);
    assert_eq!(observed(None).check_authority(&anchors(&other)), Ok(()));
    assert_eq!(observed(None).check_authority(&anchors(&pinned)), foreign);
}

#[test]
fn a_server_that_sends_an_endless_chain_is_refused() {
    let authority = authority();
    let server = server_of(&authority);
    let mut chain: Vec<_> = server.chain().map(|c| c.der().clone()).collect();
    for _ in 0..8 {
        chain.push(authority.certificate().der().clone());
    }
    let key = PrivatePkcs8KeyDer::from(server.key_pkcs8().to_vec());
    let config = ServerConfig::builder_with_provider(prexorcloud_security::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key.into())
        .unwrap();
    let tls = contact(Some(CaPin::of(authority.certificate())), epoch());
    assert_eq!(
        refusal(&meet(tls.client_config(), Arc::new(config), "localhost")),
        TheirCertificate::Unusable
    );
}

#[test]
fn an_expired_authority_is_refused_although_its_leaf_is_in_date() {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.not_before = rcgen::date_time_ymd(2025, 1, 1);
    params.not_after = rcgen::date_time_ymd(2025, 12, 31);
    let authority = params.self_signed(&key).unwrap();
    let issuer = rcgen::Issuer::new(params, key);
    let leaf_key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let leaf = params.signed_by(&leaf_key, &issuer).unwrap();
    let server = Credential::from_pem(&(leaf.pem() + &authority.pem()), &leaf_key.serialize_pem()).unwrap();
    let anchors = TrustAnchors::from_pem(&authority.pem()).unwrap();
    let config = ServerTls::new(&server, &anchors)
        .clock(clock(epoch()))
        .build()
        .unwrap();

    let pin = CaPin::of(server.authority().unwrap());
    let in_time = meet(
        contact(Some(pin), epoch() - 30 * DAY).client_config(),
        config.clone(),
        "localhost",
    );
    assert!(in_time.succeeded(), "{:?}", in_time.client_error);
    let late = meet(contact(Some(pin), epoch()).client_config(), config, "localhost");
    assert_eq!(refusal(&late), TheirCertificate::Expired);
}
