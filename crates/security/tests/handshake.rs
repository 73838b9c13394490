//! Who gets through a TLS handshake, judged by two rustls peers in memory
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use prexorcloud_security::authority::{Authority, ServerNames};
use prexorcloud_security::credential::Credential;
use prexorcloud_security::identity::PeerIdentity;
use prexorcloud_security::revocation::{RevocationList, RevokedNode, RevokedSerial, SharedRevocations};
use prexorcloud_security::tls::{
    CertificateFailure, ClientTls, OurCertificate, Reloadable, ServerTls, TheirCertificate, diagnose,
    provider,
};
use prexorcloud_security::trust::TrustAnchors;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, Error, HandshakeKind, ProtocolVersion, RootCertStore,
    ServerConfig, version,
};
use support::{DAY, Meeting, SECRET, authority, clock, epoch, meet, server_of};

struct Cluster {
    authority: Authority,
    anchors: TrustAnchors,
    server: Credential,
    revocations: SharedRevocations,
}

impl Cluster {
    fn new() -> Self {
        let authority = authority();
        let (anchors, server) = (authority.trust_anchors().unwrap(), server_of(&authority));
        Self {
            authority,
            anchors,
            server,
            revocations: SharedRevocations::default(),
        }
    }

    fn server_config(&self, now: SystemTime) -> Arc<ServerConfig> {
        ServerTls::new(&self.server, &self.anchors)
            .revocations(&self.revocations)
            .clock(clock(now))
            .build()
            .unwrap()
    }

    fn client_config(&self, identity: Option<&Credential>, now: SystemTime) -> Arc<ClientConfig> {
        let client = ClientTls::new(&self.anchors).clock(clock(now));
        match identity {
            Some(identity) => client.identity(identity).build().unwrap(),
            None => client.build().unwrap(),
        }
    }

    fn meet(&self, identity: Option<&Credential>, now: SystemTime) -> Meeting {
        meet(
            self.client_config(identity, now),
            self.server_config(now),
            "localhost",
        )
    }
}

/// The server refused, the client learns why, and the application never saw a byte
#[track_caller]
fn assert_refused(meeting: &Meeting, ours: OurCertificate) {
    assert!(meeting.server_error.is_some(), "the server accepted");
    assert!(meeting.received.is_empty(), "application bytes arrived");
    let heard = meeting.client_error.as_ref().expect("the client heard nothing");
    assert_eq!(diagnose(heard), Some(CertificateFailure::Ours(ours)), "{heard}");
}

#[test]
fn a_client_without_a_certificate_is_let_in() {
    let meeting = Cluster::new().meet(None, epoch());
    assert!(
        meeting.succeeded(),
        "{:?} {:?}",
        meeting.client_error,
        meeting.server_error
    );
    assert_eq!(meeting.client_certificates(), None);
    assert_eq!(meeting.received, SECRET);
    assert_eq!(meeting.server.alpn_protocol(), Some(b"h2".as_slice()));
    assert_eq!(meeting.server.protocol_version(), Some(ProtocolVersion::TLSv1_3));
}

#[test]
fn a_node_is_let_in_and_known_by_its_certificate() {
    let cluster = Cluster::new();
    let node = cluster.authority.issue_node("node-1", epoch()).unwrap();
    let meeting = cluster.meet(Some(&node), epoch());
    assert!(
        meeting.succeeded(),
        "{:?} {:?}",
        meeting.client_error,
        meeting.server_error
    );
    let peer = PeerIdentity::from_der(&meeting.server.peer_certificates().unwrap()[0]).unwrap();
    assert_eq!(peer.node_id(), Some("node-1"));
    assert_eq!(peer.admin_name(), None);
    assert_eq!(peer.serial, *node.leaf().serial());
}

#[test]
fn an_administrator_is_let_in_and_is_no_node() {
    let cluster = Cluster::new();
    let admin = cluster.authority.issue_admin("ada", epoch()).unwrap();
    let meeting = cluster.meet(Some(&admin), epoch());
    assert!(meeting.succeeded());
    let peer = PeerIdentity::from_der(&meeting.server.peer_certificates().unwrap()[0]).unwrap();
    assert_eq!((peer.node_id(), peer.admin_name()), (None, Some("ada")));
}

#[test]
fn a_certificate_of_another_authority_is_refused() {
    let cluster = Cluster::new();
    let stranger = authority().issue_node("node-1", epoch()).unwrap();
    assert_refused(
        &cluster.meet(Some(&stranger), epoch()),
        OurCertificate::UnknownAuthority,
    );
}

#[test]
fn an_impostor_authority_with_the_same_name_is_refused() {
    let cluster = Cluster::new();
    // Same subject, another key: a chain is judged by signatures.
    let name = cluster
        .authority
        .certificate()
        .subject()
        .trim_start_matches("CN=")
        .to_owned();
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, name.as_str());
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let impostor = params.self_signed(&key).unwrap();
    let impostor = Authority::from_pem(&impostor.pem(), &key.serialize_pem(), &Default::default()).unwrap();
    let node = impostor.issue_node("node-1", epoch()).unwrap();
    let meeting = cluster.meet(Some(&node), epoch());
    assert!(meeting.server_error.is_some() && meeting.received.is_empty());
}

#[test]
fn a_certificate_counts_exactly_from_its_first_to_its_last_moment() {
    let cluster = Cluster::new();
    let node = cluster.authority.issue_node("node-1", epoch()).unwrap();
    let (first, last) = (node.leaf().not_before(), node.leaf().not_after());
    assert_eq!(
        epoch().duration_since(first).unwrap(),
        Duration::from_secs(3600),
        "backdated by one hour"
    );
    // The server's own certificate ends at the same time; a client with another clock keeps that out of the
    // picture.
    for (now, accepted) in [
        (first, true),
        (last, true),
        (first - Duration::from_secs(1), false),
        (last + Duration::from_secs(1), false),
    ] {
        let meeting = meet(
            cluster.client_config(Some(&node), epoch()),
            cluster.server_config(now),
            "localhost",
        );
        if accepted {
            assert!(meeting.succeeded(), "{now:?}: {:?}", meeting.server_error);
        } else {
            assert_refused(&meeting, OurCertificate::Expired);
        }
    }
}

#[test]
fn a_revoked_certificate_is_refused_from_the_next_handshake_on() {
    let cluster = Cluster::new();
    let node = cluster.authority.issue_node("node-1", epoch()).unwrap();
    let other = cluster.authority.issue_node("node-2", epoch()).unwrap();
    let (server, client) = (
        cluster.server_config(epoch()),
        cluster.client_config(Some(&node), epoch()),
    );
    assert!(meet(client.clone(), server.clone(), "localhost").succeeded());

    let mut list = RevocationList::new();
    list.revoke_serial(RevokedSerial {
        serial: node.leaf().serial().clone(),
        revoked_at: epoch(),
        not_after: node.leaf().not_after(),
    });
    cluster.revocations.replace(list);
    assert_refused(
        &meet(client.clone(), server.clone(), "localhost"),
        OurCertificate::Revoked,
    );
    assert!(
        meet(
            cluster.client_config(Some(&other), epoch()),
            server.clone(),
            "localhost"
        )
        .succeeded()
    );

    cluster.revocations.replace(RevocationList::new());
    assert!(meet(client, server, "localhost").succeeded());
}

#[test]
fn a_revoked_node_can_enrol_again() {
    let cluster = Cluster::new();
    let before = cluster.authority.issue_node("node-1", epoch()).unwrap();
    let revoked_at = epoch() + Duration::from_secs(60);
    let mut list = RevocationList::new();
    list.revoke_node(RevokedNode {
        node_id: "node-1".to_owned(),
        issued_until: revoked_at,
        not_after: before.leaf().not_after(),
    });
    cluster.revocations.replace(list);
    // Issued a second later, although its notBefore lies an hour before the revocation.
    let now = revoked_at + Duration::from_secs(1);
    let after = cluster.authority.issue_node("node-1", now).unwrap();
    assert!(after.leaf().not_before() < revoked_at);
    assert_refused(&cluster.meet(Some(&before), now), OurCertificate::Revoked);
    assert!(cluster.meet(Some(&after), now).succeeded());
}

#[test]
fn a_server_certificate_is_no_client_certificate() {
    let cluster = Cluster::new();
    let meeting = cluster.meet(Some(&cluster.server), epoch());
    assert_refused(&meeting, OurCertificate::Refused);
}

#[test]
fn a_node_certificate_is_no_server_certificate() {
    let cluster = Cluster::new();
    let node = cluster.authority.issue_node("localhost", epoch()).unwrap();
    let server = ServerTls::new(&node, &cluster.anchors)
        .clock(clock(epoch()))
        .build()
        .unwrap();
    let meeting = meet(cluster.client_config(None, epoch()), server, "localhost");
    let refusal = meeting.client_error.unwrap();
    assert_eq!(
        diagnose(&refusal),
        Some(CertificateFailure::Theirs(TheirCertificate::WrongPurpose))
    );
    assert!(meeting.received.is_empty());
}

#[test]
fn the_server_answers_to_every_name_and_address_and_to_no_other() {
    let cluster = Cluster::new();
    let (client, server) = (
        cluster.client_config(None, epoch()),
        cluster.server_config(epoch()),
    );
    for host in [
        "localhost",
        "controller.example",
        "CONTROLLER.example",
        "127.0.0.1",
        "::1",
        "[::1]",
        "10.0.0.7",
    ] {
        let meeting = meet(client.clone(), server.clone(), host);
        assert!(meeting.succeeded(), "{host}: {:?}", meeting.client_error);
    }
    for host in [
        "example",
        "x.controller.example",
        "10.0.0.8",
        "::2",
        "prexorcloud-controller",
    ] {
        let meeting = meet(client.clone(), server.clone(), host);
        let refusal = diagnose(meeting.client_error.as_ref().unwrap());
        let Some(CertificateFailure::Theirs(TheirCertificate::WrongName { dialled, valid_for })) = refusal
        else {
            panic!("{host}: {refusal:?}");
        };
        assert_eq!(dialled, host);
        assert!(!valid_for.is_empty() && meeting.received.is_empty());
    }
}

#[test]
fn every_local_address_is_covered() {
    let authority = authority();
    let names = ServerNames::local().unwrap();
    let server = authority.issue_server(&names, epoch()).unwrap();
    assert!(names.are_covered_by(server.leaf()));
    assert!(
        !names
            .clone()
            .with("new.example")
            .unwrap()
            .are_covered_by(server.leaf())
    );
    let anchors = authority.trust_anchors().unwrap();
    let config = ServerTls::new(&server, &anchors)
        .clock(clock(epoch()))
        .build()
        .unwrap();
    let client = ClientTls::new(&anchors).clock(clock(epoch())).build().unwrap();
    for address in names.addresses() {
        assert!(
            meet(client.clone(), config.clone(), &address.to_string()).succeeded(),
            "{address}"
        );
    }
}

#[test]
fn a_client_refuses_a_server_of_another_cluster() {
    let (ours, theirs) = (Cluster::new(), Cluster::new());
    let meeting = meet(
        ours.client_config(None, epoch()),
        theirs.server_config(epoch()),
        "localhost",
    );
    let refusal = meeting.client_error.as_ref().unwrap();
    assert_eq!(
        diagnose(refusal),
        Some(CertificateFailure::Theirs(TheirCertificate::UnknownAuthority))
    );
    assert!(meeting.received.is_empty());
}

#[test]
fn a_client_refuses_an_expired_server_and_says_so() {
    let cluster = Cluster::new();
    let late = epoch() + 366 * DAY;
    let meeting = meet(
        cluster.client_config(None, late),
        cluster.server_config(epoch()),
        "localhost",
    );
    let refusal = diagnose(meeting.client_error.as_ref().unwrap()).unwrap();
    assert_eq!(refusal, CertificateFailure::Theirs(TheirCertificate::Expired));
    assert!(refusal.to_string().contains("expired"));
}

#[test]
fn during_a_rotation_both_authorities_are_believed_on_both_sides() {
    let (old, new) = (authority(), authority());
    let both = TrustAnchors::new([new.certificate().clone(), old.certificate().clone()]).unwrap();
    for serving in [&old, &new] {
        let server = server_of(serving);
        let config = ServerTls::new(&server, &both)
            .clock(clock(epoch()))
            .build()
            .unwrap();
        for issuing in [&old, &new] {
            let node = issuing.issue_node("node-1", epoch()).unwrap();
            let client = ClientTls::new(&both)
                .identity(&node)
                .clock(clock(epoch()))
                .build()
                .unwrap();
            let meeting = meet(client, config.clone(), "localhost");
            assert!(
                meeting.succeeded(),
                "{:?} {:?}",
                meeting.client_error,
                meeting.server_error
            );
        }
    }
    // Afterwards the old authority is taken out, and its certificates with it.
    let server = server_of(&new);
    let only_new = new.trust_anchors().unwrap();
    let config = ServerTls::new(&server, &only_new)
        .clock(clock(epoch()))
        .build()
        .unwrap();
    let node = old.issue_node("node-1", epoch()).unwrap();
    let client = ClientTls::new(&both)
        .identity(&node)
        .clock(clock(epoch()))
        .build()
        .unwrap();
    assert_refused(
        &meet(client, config, "localhost"),
        OurCertificate::UnknownAuthority,
    );
}

#[test]
fn replaced_material_counts_for_the_next_connection() {
    let cluster = Cluster::new();
    let material = Reloadable::new(cluster.server_config(epoch()));
    let shown = |meeting: &Meeting| meeting.client.peer_certificates().unwrap()[0].clone();
    let client = cluster.client_config(None, epoch());
    let before = meet(client.clone(), material.current(), "localhost");

    let renewed = server_of(&cluster.authority);
    material.replace(
        ServerTls::new(&renewed, &cluster.anchors)
            .clock(clock(epoch()))
            .build()
            .unwrap(),
    );
    let after = meet(client, material.current(), "localhost");
    assert_eq!(&shown(&before), cluster.server.leaf().der());
    assert_eq!(&shown(&after), renewed.leaf().der());
}

#[test]
fn sessions_are_never_resumed() {
    let cluster = Cluster::new();
    let node = cluster.authority.issue_node("node-1", epoch()).unwrap();
    let server = cluster.server_config(epoch());
    // A client that would resume if it could: plain rustls defaults, over both protocol versions.
    for versions in [&[&version::TLS12], &[&version::TLS13]] {
        let mut roots = RootCertStore::empty();
        roots.add(cluster.authority.certificate().der().clone()).unwrap();
        let chain: Vec<CertificateDer<'static>> = node.chain().map(|c| c.der().clone()).collect();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(node.key_pkcs8().to_vec()));
        let eager = ClientConfig::builder_with_details(provider(), clock(epoch()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .unwrap();
        let eager = Arc::new(eager);
        for _ in 0..3 {
            let meeting = meet(eager.clone(), server.clone(), "localhost");
            assert!(meeting.succeeded());
            assert_eq!(meeting.server.handshake_kind(), Some(HandshakeKind::Full));
            assert_eq!(meeting.client.tls13_tickets_received(), 0);
        }
        let mut list = RevocationList::new();
        list.revoke_serial(RevokedSerial {
            serial: node.leaf().serial().clone(),
            revoked_at: epoch(),
            not_after: node.leaf().not_after(),
        });
        cluster.revocations.replace(list);
        assert_refused(&meet(eager, server.clone(), "localhost"), OurCertificate::Revoked);
        cluster.revocations.replace(RevocationList::new());
    }
}

#[test]
fn a_certificate_that_speaks_for_nobody_is_refused() {
    let cluster = Cluster::new();
    let issuer_key = rcgen::KeyPair::from_pem(&cluster.authority.key_pem()).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_der(cluster.authority.certificate().der(), issuer_key).unwrap();
    // What an authority without rules would sign: a common name with the administrator's prefix, chosen by a
    // node.
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "admin:root");
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.signed_by(&key, &issuer).unwrap();
    let forged = Credential::from_pem(&certificate.pem(), &key.serialize_pem()).unwrap();
    let meeting = cluster.meet(Some(&forged), epoch());
    assert_refused(&meeting, OurCertificate::Refused);
    assert!(meeting.server_error.unwrap().to_string().contains("admin:root"));
}

#[test]
fn a_diagnosis_looks_through_wrappers_and_gives_up_on_other_causes() {
    let alert = Error::AlertReceived(AlertDescription::CertificateRevoked);
    let wrapped = std::io::Error::other(std::io::Error::other(alert));
    assert_eq!(
        diagnose(&wrapped),
        Some(CertificateFailure::Ours(OurCertificate::Revoked))
    );
    assert_eq!(
        diagnose(&std::io::Error::from(std::io::ErrorKind::ConnectionRefused)),
        None
    );
    assert_eq!(diagnose(&Error::HandshakeNotComplete), None);
    let other = Error::InvalidCertificate(CertificateError::BadEncoding);
    assert_eq!(
        diagnose(&other),
        Some(CertificateFailure::Theirs(TheirCertificate::Unusable))
    );
}
