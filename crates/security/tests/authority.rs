//! What the authority signs, whom it refuses, and how it survives on disk
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::collections::HashSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use prexorcloud_security::authority::{
    Authority, AuthorityError, AuthorityFolder, AuthorityPolicy, IssueError, LoadError, Origin, ServerNames,
};
use prexorcloud_security::certificate::Certificate;
use prexorcloud_security::credential::Credential;
use prexorcloud_security::files::FileError;
use prexorcloud_security::identity::{Identity, PeerIdentity};
use rcgen::{CertificateParams, DistinguishedName, DnType, IsCa, KeyPair};
use support::{DAY, authority, epoch};

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
    assert!(!leaf.renewal_due(epoch() + 182 * DAY) && leaf.renewal_due(epoch() + 183 * DAY));
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
fn server_names_decide_when_a_certificate_is_issued_anew() {
    let authority = authority();
    let names = ServerNames::loopback().with("Controller.example").unwrap();
    let server = authority.issue_server(&names, epoch()).unwrap();
    assert!(names.are_covered_by(server.leaf()));
    assert!(!names.with("10.0.0.9").unwrap().are_covered_by(server.leaf()));
    assert!(server.leaf().purposes().unwrap().server_auth && !server.leaf().purposes().unwrap().client_auth);
    assert_eq!(server.leaf().subject(), "CN=prexorcloud-controller");
}

/// A folder of authorities with one that signs
fn folder(path: &Path) -> AuthorityFolder {
    let policy = AuthorityPolicy::default();
    Authority::load_or_create(path, &policy, epoch()).unwrap();
    AuthorityFolder::new(path, policy)
}

#[test]
fn an_authority_takes_the_place_of_another_step_by_step() {
    let dir = tempfile::tempdir().unwrap();
    let folder = folder(dir.path());
    let first = folder.load("").unwrap().signer.fingerprint();
    let next = folder.prepare(epoch()).unwrap().fingerprint();
    assert_eq!(
        folder.prepare(epoch()).unwrap().fingerprint(),
        next,
        "there is one already"
    );

    let prepared = folder.load(&first.to_string()).unwrap();
    assert_eq!(prepared.signer.fingerprint(), first);
    let believed: Vec<_> = prepared
        .anchors()
        .unwrap()
        .iter()
        .map(Certificate::fingerprint)
        .collect();
    assert_eq!(believed, [first, next]);

    folder.keep_signer().unwrap();
    let unchanged = folder.load(&first.to_string()).unwrap();
    assert_eq!(
        (unchanged.signer.fingerprint(), unchanged.former.is_none()),
        (first, true)
    );

    let active = folder.load(&next.to_string()).unwrap();
    assert!(active.next.is_none());
    let believed: Vec<_> = active
        .anchors()
        .unwrap()
        .iter()
        .map(Certificate::fingerprint)
        .collect();
    assert_eq!(believed, [next, first]);
    let node = active.signer.issue_node("node-1", epoch()).unwrap();
    assert!(node.leaf().is_signed_by(active.signer.certificate()));

    folder.forget_former().unwrap();
    folder.forget_former().unwrap();
    let retired = folder.load(&next.to_string()).unwrap();
    assert!(retired.former.is_none() && retired.next.is_none());
}

#[test]
fn an_activation_that_was_cut_short_anywhere_is_ended_by_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let files = ["ca.key", "ca.pem", "next/ca.pem", "next/ca.key"];
    for cut in 0..=files.len() {
        let path = dir.path().join(cut.to_string());
        let folder = folder(&path);
        let next = folder.prepare(epoch()).unwrap().fingerprint();
        folder.keep_signer().unwrap();
        // The steps in their order, as far as they came.
        for step in files.iter().take(cut) {
            match step.strip_prefix("next/") {
                Some(_) => std::fs::remove_file(path.join(step)).unwrap(),
                None => {
                    std::fs::copy(path.join("next").join(step), path.join(step)).unwrap();
                }
            }
        }
        let active = folder.load(&next.to_string()).unwrap();
        assert_eq!(active.signer.fingerprint(), next, "after {cut} steps");
        assert!(
            active.former.is_some() && active.next.is_none(),
            "after {cut} steps"
        );
        assert!(!path.join("next/ca.pem").exists(), "after {cut} steps");
    }
}

#[test]
fn an_authority_that_was_prepared_can_be_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let folder = folder(dir.path());
    let next = folder.prepare(epoch()).unwrap();
    folder.discard_next().unwrap();
    assert!(folder.load("").unwrap().next.is_none());
    assert_ne!(folder.prepare(epoch()).unwrap().fingerprint(), next.fingerprint());
}
