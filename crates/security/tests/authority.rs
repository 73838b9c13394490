//! What the authority signs, whom it refuses, and how it survives on disk
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::collections::HashSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use prexorcloud_security::authority::{
    Authority, AuthorityError, AuthorityPolicy, IssueError, LoadError, Origin, ServerNames,
};
use prexorcloud_security::certificate::Certificate;
use prexorcloud_security::credential::{Credential, CredentialError};
use prexorcloud_security::files::FileError;
use prexorcloud_security::identity::{Identity, IdentityError, PeerIdentity};
use prexorcloud_security::revocation::{RevocationList, Revoked, RevokedNode, RevokedSerial};
use prexorcloud_security::trust::{MAX_ANCHORS, TrustAnchors, TrustError};
use proptest::prelude::*;
use rcgen::{CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, SanType};
use support::{DAY, authority, epoch, server_of};

#[test]
fn a_node_certificate_says_what_the_contract_wants() {
    let authority = authority();
    let node = authority.issue_node("node-1", epoch()).unwrap();
    let leaf = node.leaf();
    assert_eq!(leaf.subject(), "CN=node-1");
    assert_eq!(leaf.dns_names(), ["node-1"]);
    assert!(leaf.purposes().unwrap().client_auth && !leaf.purposes().unwrap().server_auth);
    assert_eq!(leaf.not_before(), epoch() - Duration::from_secs(3600));
    assert_eq!(leaf.not_after(), epoch() + 365 * DAY);
    assert_eq!(leaf.issued_at(), epoch());
    assert!(!leaf.is_authority() && leaf.is_signed_by(authority.certificate()));
    assert!(!leaf.renewal_due(epoch() + 243 * DAY) && leaf.renewal_due(epoch() + 244 * DAY));
    let (_, parsed) = x509_parser::parse_x509_certificate(leaf.der()).unwrap();
    let usage = parsed.key_usage().unwrap().unwrap();
    assert!(usage.critical && usage.value.digital_signature() && !usage.value.key_cert_sign());
    let text = openssl_text(leaf);
    for expected in [
        "X509v3 Subject Key Identifier",
        "X509v3 Authority Key Identifier",
        "CA:FALSE",
        "ecdsa-with-SHA256",
        "prime256v1",
    ] {
        assert!(text.contains(expected), "{expected} is missing in\n{text}");
    }
}

fn openssl_text(certificate: &Certificate) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("certificate.pem");
    std::fs::write(&path, certificate.to_pem()).unwrap();
    let output = std::process::Command::new("openssl")
        .args(["x509", "-noout", "-text", "-in"])
        .arg(&path)
        .output()
        .expect("openssl must be installed for this test");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_node_id_is_a_dns_name_or_an_address_only_where_it_reads_as_one() {
    let authority = authority();
    for (id, dns, addresses) in [
        ("node-1", 1, 0),
        ("n.example", 1, 0),
        ("Node_1", 0, 0),
        ("a..b", 0, 0),
        ("x.", 0, 0),
        ("10.0.0.9", 0, 1),
        ("7", 0, 0),
    ] {
        let leaf = authority.issue_node(id, epoch()).unwrap().leaf().clone();
        assert_eq!(
            (leaf.dns_names().len(), leaf.addresses().len()),
            (dns, addresses),
            "{id}"
        );
        assert_eq!(
            PeerIdentity::from_certificate(&leaf).unwrap().identity,
            Identity::Node(id.to_owned())
        );
    }
}

#[test]
fn unsafe_and_reserved_names_are_never_signed() {
    let authority = authority();
    for bad in [
        "",
        "../x",
        "a,CN=b",
        "a b",
        "admin:root",
        "a\0b",
        "ä",
        &"a".repeat(65),
    ] {
        assert!(
            matches!(
                authority.issue_node(bad, epoch()),
                Err(IssueError::UnsafeName { .. })
            ),
            "{bad:?}"
        );
        assert!(
            matches!(
                authority.issue_admin(bad, epoch()),
                Err(IssueError::UnsafeName { .. })
            ),
            "{bad:?}"
        );
    }
    assert_eq!(
        authority
            .issue_node("prexorcloud-controller", epoch())
            .unwrap_err(),
        IssueError::ReservedName
    );
}

#[test]
fn serial_numbers_are_positive_and_differ() {
    let authority = authority();
    let mut seen = HashSet::new();
    for _ in 0..50 {
        let node = authority.issue_node("node-1", epoch()).unwrap();
        let (_, parsed) = x509_parser::parse_x509_certificate(node.leaf().der()).unwrap();
        assert_eq!(parsed.raw_serial().len(), 16);
        assert!((0x40..0x80).contains(&parsed.raw_serial()[0]));
        assert!(seen.insert(node.leaf().serial().clone()));
    }
}

#[test]
fn nothing_outlives_the_authority_and_an_expired_one_signs_nothing() {
    let authority = authority();
    let end = authority.certificate().not_after();
    let late = end - DAY;
    assert_eq!(
        authority.issue_node("node-1", late).unwrap().leaf().not_after(),
        end
    );
    let after = end + Duration::from_secs(1);
    assert_eq!(
        authority.issue_node("node-1", after).unwrap_err(),
        IssueError::AuthorityNotValid
    );
    assert_eq!(
        authority.issue_node("node-1", epoch() - DAY).unwrap_err(),
        IssueError::AuthorityNotValid
    );
    let mut policy = AuthorityPolicy::default();
    policy.authority_lifetime = Duration::MAX;
    assert_eq!(
        Authority::create(&policy, epoch()).unwrap_err(),
        IssueError::BadValidity
    );
}

#[test]
fn a_request_is_signed_for_its_key_alone() {
    let authority = authority();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["evil.example".to_owned()]).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "admin:root");
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let request = params.serialize_request(&key).unwrap();
    let chain = authority
        .sign_node_request(request.der(), "node-1", epoch())
        .unwrap();
    let leaf = chain[0].clone();
    assert_eq!(
        PeerIdentity::from_certificate(&leaf).unwrap().identity,
        Identity::Node("node-1".into())
    );
    assert!(!leaf.is_authority());
    assert_eq!(leaf.dns_names(), ["node-1"]);
    Credential::from_pem(
        &chain.iter().map(Certificate::to_pem).collect::<String>(),
        &key.serialize_pem(),
    )
    .unwrap();

    let mut damaged = request.der().to_vec();
    let last = damaged.len() - 1;
    damaged[last] ^= 1;
    assert_eq!(
        authority
            .sign_node_request(&damaged, "node-1", epoch())
            .unwrap_err(),
        IssueError::BadRequest
    );
    assert_eq!(
        authority.sign_node_request(b"", "node-1", epoch()).unwrap_err(),
        IssueError::BadRequest
    );
    let huge = vec![0; 1_000_000];
    assert_eq!(
        authority.sign_node_request(&huge, "node-1", epoch()).unwrap_err(),
        IssueError::BadRequest
    );
    let other = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let request = CertificateParams::default().serialize_request(&other).unwrap();
    assert_eq!(
        authority
            .sign_node_request(request.der(), "node-1", epoch())
            .unwrap_err(),
        IssueError::UnsupportedKey
    );
}

/// A certificate that no rule of ours shaped, signed by `authority` all the same
fn forge(authority: &Authority, shape: impl FnOnce(&mut CertificateParams)) -> Certificate {
    let key = KeyPair::from_pem(&authority.key_pem()).unwrap();
    let issuer = Issuer::from_ca_cert_der(authority.certificate().der(), key).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    shape(&mut params);
    Certificate::from_der(
        params
            .signed_by(&KeyPair::generate().unwrap(), &issuer)
            .unwrap()
            .der(),
    )
    .unwrap()
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

#[test]
fn identities_are_read_strictly() {
    let authority = authority();
    let named = |name: &str, uris: &[&str]| {
        PeerIdentity::from_certificate(&forge(&authority, |params| {
            params.distinguished_name.push(DnType::CommonName, name);
            params.subject_alt_names = uris.iter().map(|text| uri(text)).collect();
        }))
        .map(|peer| peer.identity)
    };
    // As a Java controller issues them: no URI.
    assert_eq!(named("node-1", &[]), Ok(Identity::Node("node-1".into())));
    assert_eq!(
        named("node-1", &["https://elsewhere.example/"]),
        Ok(Identity::Node("node-1".into()))
    );
    assert_eq!(
        named("node-1", &["prexorcloud://node/node-1"]),
        Ok(Identity::Node("node-1".into()))
    );
    assert_eq!(
        named("admin:ada", &["prexorcloud://admin/ada?issued=1"]),
        Ok(Identity::Admin("ada".into()))
    );
    for name in ["admin:root", "", "a/b", "node,CN=x", "prexorcloud-controller"] {
        assert!(
            matches!(named(name, &[]), Err(IdentityError::UnsafeName { .. })),
            "{name}"
        );
    }
    for (name, uris) in [
        ("node-1", &["prexorcloud://node/node-2"][..]),
        ("node-1", &["prexorcloud://admin/node-1"]),
        (
            "node-1",
            &["prexorcloud://node/node-1", "prexorcloud://node/node-1"],
        ),
        (
            "node-1",
            &["prexorcloud://node/node-1", "prexorcloud://admin/root"],
        ),
        ("node-1", &["prexorcloud://"]),
        ("node-1", &["prexorcloud://robot/node-1"]),
        ("admin:ada", &["prexorcloud://admin/eve"]),
        ("ada", &["prexorcloud://admin/ada"]),
    ] {
        assert!(
            matches!(named(name, uris), Err(IdentityError::Contradiction { .. })),
            "{name} {uris:?}"
        );
    }
    assert_eq!(
        named("../x", &["prexorcloud://node/../x"]),
        Err(IdentityError::UnsafeName { name: "../x".into() })
    );
    assert_eq!(
        PeerIdentity::from_certificate(&forge(&authority, |_| {})),
        Err(IdentityError::NoCommonName)
    );
    assert_eq!(
        PeerIdentity::from_certificate(authority.certificate()),
        Err(IdentityError::IsAuthority)
    );
    let server = server_of(&authority);
    assert_eq!(
        PeerIdentity::from_certificate(server.leaf()).unwrap().identity,
        Identity::Controller
    );
}

#[test]
fn several_common_names_are_refused() {
    // rcgen writes one name per kind, so the second one is made by hand: an organisation of the same length
    // is turned into a common name.
    let authority = authority();
    let honest = forge(&authority, |params| {
        params.distinguished_name.push(DnType::CommonName, "node-1");
        params.distinguished_name.push(DnType::OrganizationName, "node-2");
    });
    let mut der = honest.der().to_vec();
    let organisation = [0x06, 0x03, 0x55, 0x04, 0x0a];
    let at = der.windows(5).position(|window| window == organisation).unwrap();
    der[at + 4] = 0x03;
    assert_eq!(
        PeerIdentity::from_der(&der),
        Err(IdentityError::SeveralCommonNames)
    );
    assert!(matches!(
        PeerIdentity::from_der(&der[1..]),
        Err(IdentityError::Certificate(_))
    ));
}

#[test]
fn an_authority_survives_on_disk_with_the_right_permissions() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("a/security");
    let policy = AuthorityPolicy::default();
    let (created, origin) = Authority::load_or_create(&home, &policy, epoch()).unwrap();
    assert_eq!(origin, Origin::Created);
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(
        (
            mode(&home),
            mode(&home.join("ca.key")),
            mode(&home.join("ca.pem"))
        ),
        (0o700, 0o600, 0o644)
    );
    let (loaded, origin) = Authority::load_or_create(&home, &policy, epoch() + DAY).unwrap();
    assert_eq!(
        (origin, loaded.fingerprint()),
        (Origin::Loaded, created.fingerprint())
    );
    let node = loaded.issue_node("node-1", epoch() + DAY).unwrap();
    node.check_trusted(&created.trust_anchors().unwrap()).unwrap();
    let leftovers: Vec<_> = std::fs::read_dir(&home)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(leftovers.len(), 2, "{leftovers:?}");
}

#[test]
fn a_damaged_authority_is_an_error_and_never_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let policy = AuthorityPolicy::default();
    let load = || {
        Authority::load_or_create(dir.path(), &policy, epoch()).map(|(authority, _)| authority.fingerprint())
    };
    load().unwrap();
    let (pem, key) = (dir.path().join("ca.pem"), dir.path().join("ca.key"));
    let kept = std::fs::read(&pem).unwrap();

    let other = authority();
    std::fs::write(&key, other.key_pem().as_bytes()).unwrap();
    let error = load().unwrap_err();
    assert!(
        matches!(
            error,
            LoadError::Authority {
                source: AuthorityError::KeyMismatch,
                ..
            }
        ),
        "{error}"
    );
    std::fs::write(&key, "nonsense").unwrap();
    assert!(matches!(
        load().unwrap_err(),
        LoadError::Authority {
            source: AuthorityError::KeyFile(_),
            ..
        }
    ));
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o640)).unwrap();
    let error = load().unwrap_err();
    assert!(
        matches!(error, LoadError::File(FileError::TooOpen { mode: 0o640, .. })),
        "{error}"
    );
    std::fs::remove_file(&key).unwrap();
    let error = load().unwrap_err();
    assert!(matches!(error, LoadError::KeyMissing { .. }), "{error}");
    assert_eq!(std::fs::read(&pem).unwrap(), kept);

    let leaf = other.issue_node("node-1", epoch()).unwrap();
    let not_ca = Authority::from_pem(&leaf.chain_pem(), &leaf.key_pem(), &policy).unwrap_err();
    assert!(matches!(not_ca, AuthorityError::NotAnAuthority { .. }));
}

#[test]
fn a_crash_between_key_and_certificate_is_repaired() {
    let dir = tempfile::tempdir().unwrap();
    let stray = authority();
    prexorcloud_security::files::write_secret(&dir.path().join("ca.key"), stray.key_pem().as_bytes())
        .unwrap();
    let (_, origin) = Authority::load_or_create(dir.path(), &AuthorityPolicy::default(), epoch()).unwrap();
    assert_eq!(origin, Origin::Created);
    let (_, origin) = Authority::load_or_create(dir.path(), &AuthorityPolicy::default(), epoch()).unwrap();
    assert_eq!(origin, Origin::Loaded);
}

#[test]
fn credentials_hold_together_or_do_not_exist() {
    let (ours, theirs) = (authority(), authority());
    let (a, b) = (
        ours.issue_node("a", epoch()).unwrap(),
        ours.issue_node("b", epoch()).unwrap(),
    );
    assert_eq!(
        Credential::from_pem(&a.chain_pem(), &a.key_pem()).unwrap().leaf(),
        a.leaf()
    );
    let refuse = |chain: String, key: &str| Credential::from_pem(&chain, key).unwrap_err();
    assert!(matches!(
        refuse(a.chain_pem(), &b.key_pem()),
        CredentialError::KeyMismatch { .. }
    ));
    let broken = a.leaf().to_pem() + &theirs.certificate().to_pem();
    assert!(matches!(
        refuse(broken, &a.key_pem()),
        CredentialError::BrokenChain { .. }
    ));
    let reversed = ours.certificate().to_pem() + &a.leaf().to_pem();
    assert!(matches!(
        refuse(reversed, &a.key_pem()),
        CredentialError::BrokenChain { .. }
    ));
    assert_eq!(refuse(String::new(), &a.key_pem()), CredentialError::EmptyChain);
    assert_eq!(
        refuse(ours.certificate().to_pem().repeat(5), &a.key_pem()),
        CredentialError::ChainTooLong
    );
    assert!(a.check_trusted(&ours.trust_anchors().unwrap()).is_ok());
    let untrusted = a.check_trusted(&theirs.trust_anchors().unwrap()).unwrap_err();
    assert_eq!(
        untrusted,
        CredentialError::Untrusted {
            subject: "CN=a".into()
        }
    );
    let key = a.key_pem().lines().nth(1).unwrap().to_owned();
    assert!(!format!("{a:?} {ours:?}").contains(&key));
}

#[test]
fn trust_anchors_are_authorities_and_few() {
    let ours = authority();
    let node = ours.issue_node("a", epoch()).unwrap();
    assert_eq!(TrustAnchors::from_pem(""), Err(TrustError::Empty));
    assert!(matches!(
        TrustAnchors::from_pem(&node.chain_pem()),
        Err(TrustError::NotAnAuthority { .. })
    ));
    let twice = TrustAnchors::from_pem(&ours.certificate().to_pem().repeat(2)).unwrap();
    assert_eq!(twice.iter().count(), 1);
    assert_eq!(TrustAnchors::from_pem(&twice.to_pem()).unwrap(), twice);
    let many: String = (0..=MAX_ANCHORS)
        .map(|_| authority().certificate().to_pem())
        .collect();
    assert_eq!(TrustAnchors::from_pem(&many), Err(TrustError::TooMany));
}

#[test]
fn revocation_lists_are_merged_queried_and_pruned() {
    let authority = authority();
    let (a, b) = (
        authority.issue_node("a", epoch()).unwrap(),
        authority.issue_node("b", epoch()).unwrap(),
    );
    let peer = |node: &Credential| PeerIdentity::from_certificate(node.leaf()).unwrap();
    let mut list = RevocationList::new();
    for revoked_at in [epoch() + DAY, epoch()] {
        list.revoke_serial(RevokedSerial {
            serial: a.leaf().serial().clone(),
            revoked_at,
            not_after: a.leaf().not_after(),
        });
    }
    list.revoke_node(RevokedNode {
        node_id: "b".into(),
        issued_until: epoch(),
        not_after: b.leaf().not_after(),
    });
    assert_eq!(
        list.serials().next().unwrap().revoked_at,
        epoch(),
        "the first revocation counts"
    );
    assert_eq!(
        (list.is_revoked(&peer(&a)), list.is_revoked(&peer(&b))),
        (Some(Revoked::Serial), Some(Revoked::Node))
    );
    let newer = authority
        .issue_node("b", epoch() + Duration::from_millis(1))
        .unwrap();
    assert_eq!(list.is_revoked(&peer(&newer)), None);
    let admin = authority.issue_admin("b", epoch()).unwrap();
    assert_eq!(
        list.is_revoked(&peer(&admin)),
        None,
        "an administrator is not the node of that name"
    );

    let end = a.leaf().not_after();
    assert_eq!(list.prune(end + DAY, DAY), 0);
    assert_eq!(list.clone().prune(end + DAY + Duration::from_secs(1), DAY), 2);
    assert!(list.restore_serial(a.leaf().serial()) && list.restore_node("b") && list.is_empty());
    assert!(!list.restore_node("b"));
}

#[test]
fn signed_revocation_lists_are_read_by_openssl() {
    let authority = authority();
    let node = authority.issue_node("node-1", epoch()).unwrap();
    let other = authority.issue_node("node-2", epoch()).unwrap();
    let mut list = RevocationList::new();
    list.revoke_serial(RevokedSerial {
        serial: node.leaf().serial().clone(),
        revoked_at: epoch(),
        not_after: node.leaf().not_after(),
    });
    let crl = authority.sign_crl(&list, 7, epoch()).unwrap();
    assert!(!crl.refresh_due(epoch() + 3 * DAY) && crl.refresh_due(epoch() + 4 * DAY));
    assert_eq!(crl.next_update(), epoch() + 7 * DAY);
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: String| std::fs::write(dir.path().join(name), text).unwrap();
    write("ca.pem", authority.certificate().to_pem());
    write("crl.pem", crl.to_pem());
    write("node.pem", node.leaf().to_pem());
    write("other.pem", other.leaf().to_pem());
    let verify = |certificate: &str| {
        let output = std::process::Command::new("openssl")
            .args("verify -crl_check -attime 1767225600 -CAfile ca.pem -CRLfile crl.pem".split(' '))
            .arg(certificate)
            .current_dir(dir.path())
            .output()
            .expect("openssl must be installed for this test");
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    };
    assert!(
        verify("other.pem").contains("other.pem: OK"),
        "{}",
        verify("other.pem")
    );
    assert!(
        verify("node.pem").contains("certificate revoked"),
        "{}",
        verify("node.pem")
    );
    assert!(
        authority
            .sign_crl(&RevocationList::new(), u64::MAX, epoch())
            .is_ok()
    );
}

#[test]
fn server_names_decide_when_a_certificate_is_issued_anew() {
    let authority = authority();
    let names = ServerNames::loopback().with("Controller.example").unwrap();
    let server = authority.issue_server(&names, epoch()).unwrap();
    assert!(names.are_covered_by(server.leaf()));
    assert!(!names.with("10.0.0.9").unwrap().are_covered_by(server.leaf()));
    assert!(server.leaf().purposes().unwrap().server_auth && !server.leaf().purposes().unwrap().client_auth);
    assert_eq!(server.leaf().subject(), "CN=prexorcloud-controller");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn reading_damaged_certificates_never_panics(at in any::<prop::sample::Index>(), value in any::<u8>(), cut in any::<prop::sample::Index>()) {
        use std::sync::OnceLock;
        static SAMPLE: OnceLock<(Certificate, Certificate)> = OnceLock::new();
        let (leaf, issuer) = SAMPLE.get_or_init(|| {
            let authority = authority();
            (authority.issue_admin("ada", epoch()).unwrap().leaf().clone(), authority.certificate().clone())
        });
        let mut der = leaf.der().to_vec();
        let at = at.index(der.len());
        let changed = der[at] != value;
        der[at] = value;
        if let Ok(read) = Certificate::from_der(&der) {
            let _ = PeerIdentity::from_certificate(&read);
            let _ = (read.issued_at(), read.renew_at(), format!("{read:?}"));
            prop_assert_eq!(read.is_signed_by(issuer), !changed);
        }
        let _ = PeerIdentity::from_der(&der[..cut.index(der.len())]);
    }

    #[test]
    fn identities_of_arbitrary_bytes_never_panic(der in proptest::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(PeerIdentity::from_der(&der).is_err());
    }
}
