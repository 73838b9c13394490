//! Whom a certificate speaks for, and what is refused
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use prexorcloud_security::authority::Authority;
use prexorcloud_security::certificate::Certificate;
use prexorcloud_security::identity::{Identity, IdentityError, PeerIdentity};
use proptest::prelude::*;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType,
};
use support::{authority, epoch, server_of};

/// A certificate that no rule of ours shaped, signed by `authority` all the same
fn forge(authority: &Authority, shape: impl FnOnce(&mut CertificateParams)) -> Certificate {
    let key = KeyPair::from_pem(&authority.key_pem()).unwrap();
    let issuer = Issuer::from_ca_cert_der(authority.certificate().der(), key).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
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
fn a_certificate_for_servers_alone_speaks_for_the_controller_and_nobody_else() {
    let authority = authority();
    let identity = |purposes: &[ExtendedKeyUsagePurpose], name: &str, uris: &[&str]| {
        PeerIdentity::from_certificate(&forge(&authority, |params| {
            params.extended_key_usages = purposes.to_vec();
            params.distinguished_name.push(DnType::CommonName, name);
            params.subject_alt_names = uris.iter().map(|text| uri(text)).collect();
        }))
        .map(|peer| peer.identity)
    };
    let server = [ExtendedKeyUsagePurpose::ServerAuth];
    let both = [
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    for (name, uris) in [
        ("node-1", &[][..]),
        ("node-1", &["prexorcloud://node/node-1"]),
        ("admin:ada", &["prexorcloud://admin/ada"]),
    ] {
        let refused = identity(&server, name, uris);
        assert!(
            matches!(refused, Err(IdentityError::UnsafeName { .. })),
            "{name} {uris:?}: {refused:?}"
        );
    }
    let node = Identity::Node("node-1".into());
    assert_eq!(identity(&both, "node-1", &[]), Ok(node));
    let controller = "prexorcloud-controller";
    assert_eq!(identity(&server, controller, &[]), Ok(Identity::Controller));
    assert!(identity(&both, controller, &[]).is_err());
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
