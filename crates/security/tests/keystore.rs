//! PKCS#12 between us, Java's keytool and OpenSSL, in both directions, and everything that is not a keystore
//!
//! Both programs must be installed: a keystore that only we can read is of no use to a Java daemon.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use prexorcloud_security::authority::{Authority, AuthorityPolicy};
use prexorcloud_security::credential::{Credential, CredentialError};
use prexorcloud_security::identity::PeerIdentity;
use prexorcloud_security::keystore::{self, KeystoreError, KeystorePassword, MAX_KEYSTORE_LEN};
use prexorcloud_security::tls::{ClientTls, ServerTls};
use proptest::prelude::*;
use support::{authority, clock, epoch, meet, server_of};

const PASSWORD: &str = "Secret0123456789secretABCDEFGHIJ";

fn password() -> KeystorePassword {
    KeystorePassword::new(PASSWORD).unwrap()
}

/// Runs a tool in `dir` and returns what it printed; a tool that is missing fails the test
fn run(dir: &Path, program: &str, arguments: &[&str]) -> String {
    try_run(dir, program, arguments)
        .unwrap_or_else(|output| panic!("{program} {arguments:?} failed:\n{output}"))
}

fn try_run(dir: &Path, program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(dir)
        .env("LC_ALL", "C")
        .env("JAVA_TOOL_OPTIONS", "-Duser.language=en")
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| {
            panic!(
                "{program} cannot be run ({error}); install a JRE (Debian: default-jre-headless) and openssl"
            )
        });
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        Ok(text)
    } else {
        Err(text)
    }
}

fn keytool(dir: &Path, arguments: &str) -> String {
    run(dir, "keytool", &arguments.split_whitespace().collect::<Vec<_>>())
}

fn openssl(dir: &Path, arguments: &str) -> String {
    run(dir, "openssl", &arguments.split_whitespace().collect::<Vec<_>>())
}

#[test]
fn keytool_opens_what_we_write() {
    let dir = tempfile::tempdir().unwrap();
    let authority = authority();
    // A name that is no host name has no DNS name in its certificate; Java must not stumble over what is
    // there instead.
    for node_id in ["node-1", "Node_1..x"] {
        let node = authority.issue_node(node_id, epoch()).unwrap();
        std::fs::write(
            dir.path().join("node.p12"),
            keystore::write(&node, &password()).unwrap(),
        )
        .unwrap();
        let listing = keytool(
            dir.path(),
            &format!("-list -v -keystore node.p12 -storetype PKCS12 -storepass {PASSWORD}"),
        );
        for expected in [
            "Your keystore contains 1 entry",
            "Alias name: cert",
            "Entry type: PrivateKeyEntry",
            "Certificate chain length: 2",
            &format!("Owner: CN={node_id}"),
            "Signature algorithm name: SHA256withECDSA",
            "Subject Public Key Algorithm: 256-bit EC (secp256r1) key",
            &format!("URIName: prexorcloud://node/{node_id}?issued=1767225600000"),
        ] {
            assert!(listing.contains(expected), "{expected} is missing in\n{listing}");
        }
        assert_eq!(listing.contains("DNSName: node-1"), node_id == "node-1");
        // Java can use the private key: it signs a request with it.
        let request = keytool(
            dir.path(),
            &format!("-certreq -alias cert -keystore node.p12 -storepass {PASSWORD}"),
        );
        assert!(request.contains("BEGIN NEW CERTIFICATE REQUEST"), "{request}");
    }
    let wrong = try_run(
        dir.path(),
        "keytool",
        &["-list", "-keystore", "node.p12", "-storepass", "wrong-password"],
    );
    assert!(wrong.unwrap_err().contains("password was incorrect"));
}

#[test]
fn openssl_opens_what_we_write() {
    let dir = tempfile::tempdir().unwrap();
    let authority = authority();
    let node = authority.issue_node("node-1", epoch()).unwrap();
    std::fs::write(
        dir.path().join("node.p12"),
        keystore::write(&node, &password()).unwrap(),
    )
    .unwrap();
    let info = openssl(
        dir.path(),
        &format!("pkcs12 -in node.p12 -info -nodes -passin pass:{PASSWORD}"),
    );
    for expected in [
        "MAC: sha256, Iteration 10000",
        "Shrouded Keybag: PBES2, PBKDF2, AES-256-CBC, Iteration 10000, PRF hmacWithSHA256",
        "friendlyName: cert",
        "-----BEGIN PRIVATE KEY-----",
    ] {
        assert!(info.contains(expected), "{expected} is missing in\n{info}");
    }
    std::fs::write(dir.path().join("ca.pem"), authority.certificate().to_pem()).unwrap();
    std::fs::write(dir.path().join("leaf.pem"), node.leaf().to_pem()).unwrap();
    let at = "1767225600";
    let verdict = openssl(
        dir.path(),
        &format!("verify -x509_strict -purpose sslclient -attime {at} -CAfile ca.pem leaf.pem"),
    );
    assert!(verdict.contains("leaf.pem: OK"), "{verdict}");
    let server = server_of(&authority);
    std::fs::write(dir.path().join("server.pem"), server.leaf().to_pem()).unwrap();
    let verdict = openssl(
        dir.path(),
        &format!(
            "verify -x509_strict -purpose sslserver -verify_ip 10.0.0.7 -attime {at} -CAfile ca.pem server.pem"
        ),
    );
    assert!(verdict.contains("server.pem: OK"), "{verdict}");
}

/// A keystore as the Java controller makes one: keytool's key, signed by a CA of keytool, chain imported
fn java_keystore(dir: &Path) -> Vec<u8> {
    let store = format!("-storetype PKCS12 -storepass {PASSWORD}");
    let ec = "-keyalg EC -groupname secp256r1 -sigalg SHA256withECDSA";
    keytool(
        dir,
        &format!(
            "-genkeypair {store} -keystore ca.p12 -alias ca {ec} -dname CN=Java-CA -ext bc:c=ca:true -validity 3650"
        ),
    );
    keytool(
        dir,
        &format!("-exportcert {store} -keystore ca.p12 -alias ca -rfc -file ca.pem"),
    );
    keytool(
        dir,
        &format!("-genkeypair {store} -keystore node.p12 -alias cert {ec} -dname CN=java-node"),
    );
    keytool(
        dir,
        &format!("-certreq {store} -keystore node.p12 -alias cert -file node.csr"),
    );
    keytool(
        dir,
        &format!(
            "-gencert {store} -keystore ca.p12 -alias ca -infile node.csr -outfile node.pem -rfc -ext EKU=clientAuth -ext SAN=dns:java-node"
        ),
    );
    std::fs::write(
        dir.join("chain.pem"),
        std::fs::read_to_string(dir.join("node.pem")).unwrap()
            + &std::fs::read_to_string(dir.join("ca.pem")).unwrap(),
    )
    .unwrap();
    keytool(
        dir,
        &format!("-importcert {store} -keystore node.p12 -alias cert -noprompt -file chain.pem"),
    );
    std::fs::read(dir.join("node.p12")).unwrap()
}

#[test]
fn we_open_what_keytool_writes_and_can_use_it() {
    let dir = tempfile::tempdir().unwrap();
    let read = keystore::read(&java_keystore(dir.path()), &password()).unwrap();
    assert_eq!(
        PeerIdentity::from_certificate(read.leaf()).unwrap().node_id(),
        Some("java-node")
    );
    assert_eq!(read.chain().count(), 2);
    let ca = std::fs::read_to_string(dir.path().join("ca.pem")).unwrap();
    assert_eq!(
        read.authority().unwrap().to_pem().lines().nth(1),
        ca.lines().nth(1)
    );

    // Java leaves the public half out of the private key; it must still prove who we are. And Java's
    // authority can be taken over.
    openssl(
        dir.path(),
        &format!("pkcs12 -in ca.p12 -nocerts -nodes -passin pass:{PASSWORD} -out ca.bags"),
    );
    openssl(dir.path(), "pkey -in ca.bags -out ca.key");
    let key = std::fs::read_to_string(dir.path().join("ca.key")).unwrap();
    let authority = Authority::from_pem(&ca, &key, &AuthorityPolicy::default()).unwrap();
    let now = authority.certificate().not_before();
    let server = authority
        .issue_server(&prexorcloud_security::authority::ServerNames::loopback(), now)
        .unwrap();
    let anchors = authority.trust_anchors().unwrap();
    let now = std::time::SystemTime::now();
    let server = ServerTls::new(&server, &anchors)
        .clock(clock(now))
        .build()
        .unwrap();
    let client = ClientTls::new(&anchors)
        .identity(&read)
        .clock(clock(now))
        .build()
        .unwrap();
    let meeting = meet(client, server, "localhost");
    assert!(
        meeting.succeeded(),
        "{:?} {:?}",
        meeting.client_error,
        meeting.server_error
    );
    assert_eq!(meeting.client_certificates(), Some(2));
}

#[test]
fn we_open_what_openssl_writes_in_any_order_and_age() {
    let dir = tempfile::tempdir().unwrap();
    let authority = authority();
    let node = authority.issue_node("node-1", epoch()).unwrap();
    std::fs::write(dir.path().join("key.pem"), node.key_pem().as_bytes()).unwrap();
    std::fs::write(dir.path().join("chain.pem"), node.chain_pem()).unwrap();
    let reversed = authority.certificate().to_pem() + &node.leaf().to_pem();
    std::fs::write(dir.path().join("reversed.pem"), reversed).unwrap();
    std::fs::write(dir.path().join("leaf.pem"), node.leaf().to_pem()).unwrap();
    for (input, options, chain) in [
        ("chain.pem", "-name cert", 2),
        ("chain.pem", "", 2),
        ("reversed.pem", "-name cert", 2),
        ("leaf.pem", "-name cert", 1),
        ("chain.pem", "-legacy -name cert", 2),
        ("chain.pem", "-keypbe NONE -certpbe NONE -macalg sha512", 2),
        (
            "chain.pem",
            "-keypbe PBE-SHA1-3DES -certpbe PBE-SHA1-3DES -macalg sha1",
            2,
        ),
    ] {
        openssl(
            dir.path(),
            &format!(
                "pkcs12 -export -in {input} -inkey key.pem {options} -passout pass:{PASSWORD} -out out.p12"
            ),
        );
        let read = keystore::read(&std::fs::read(dir.path().join("out.p12")).unwrap(), &password());
        let read = read.unwrap_or_else(|error| panic!("{input} {options}: {error}"));
        assert_eq!(
            (read.leaf(), read.chain().count()),
            (node.leaf(), chain),
            "{input} {options}"
        );
    }
}

#[test]
fn keystores_without_a_usable_identity_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let authority = authority();
    let node = authority.issue_node("node-1", epoch()).unwrap();
    std::fs::write(dir.path().join("key.pem"), node.key_pem().as_bytes()).unwrap();
    std::fs::write(dir.path().join("chain.pem"), node.chain_pem()).unwrap();
    std::fs::write(dir.path().join("ca.pem"), authority.certificate().to_pem()).unwrap();
    let export = |options: &str| {
        openssl(
            dir.path(),
            &format!("pkcs12 -export {options} -passout pass:{PASSWORD} -out out.p12"),
        );
        keystore::read(&std::fs::read(dir.path().join("out.p12")).unwrap(), &password()).unwrap_err()
    };
    assert_eq!(export("-nokeys -in chain.pem"), KeystoreError::NoKey);
    assert_eq!(
        export("-nocerts -inkey key.pem -in chain.pem"),
        KeystoreError::NoCertificate
    );
    assert_eq!(
        export("-nomac -inkey key.pem -in chain.pem"),
        KeystoreError::Unprotected
    );
}

#[test]
fn an_authority_of_the_right_name_with_another_key_is_not_the_end_of_the_chain() {
    let dir = tempfile::tempdir().unwrap();
    let authority = authority();
    let node = authority.issue_node("node-1", epoch()).unwrap();
    let name = authority
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
    std::fs::write(dir.path().join("key.pem"), node.key_pem().as_bytes()).unwrap();
    std::fs::write(
        dir.path().join("wrong.pem"),
        node.leaf().to_pem() + &impostor.pem(),
    )
    .unwrap();
    let both = node.leaf().to_pem() + &impostor.pem() + &authority.certificate().to_pem();
    std::fs::write(dir.path().join("both.pem"), both).unwrap();
    let turned = node.leaf().to_pem() + &authority.certificate().to_pem() + &impostor.pem();
    std::fs::write(dir.path().join("turned.pem"), turned).unwrap();
    let export = |input: &str| {
        openssl(
            dir.path(),
            &format!("pkcs12 -export -in {input} -inkey key.pem -passout pass:{PASSWORD} -out out.p12"),
        );
        keystore::read(&std::fs::read(dir.path().join("out.p12")).unwrap(), &password())
    };
    let refused = export("wrong.pem").unwrap_err();
    assert!(
        matches!(
            refused,
            KeystoreError::Credential(CredentialError::BrokenChain { .. })
        ),
        "{refused}"
    );
    // With both in the file, the signature decides, in whatever order they stand.
    for input in ["both.pem", "turned.pem"] {
        assert_eq!(
            export(input).unwrap().authority(),
            Some(authority.certificate()),
            "{input}"
        );
    }
}

#[test]
fn a_store_with_several_keys_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store =
        format!("-storetype PKCS12 -storepass {PASSWORD} -keystore many.p12 -keyalg EC -groupname secp256r1");
    keytool(dir.path(), &format!("-genkeypair {store} -alias a -dname CN=a"));
    keytool(dir.path(), &format!("-genkeypair {store} -alias b -dname CN=b"));
    let bytes = std::fs::read(dir.path().join("many.p12")).unwrap();
    assert_eq!(
        keystore::read(&bytes, &password()).unwrap_err(),
        KeystoreError::SeveralKeys { found: 2 }
    );
}

/// One keystore for all the tests that only damage it
fn sample() -> &'static [u8] {
    static SAMPLE: OnceLock<Vec<u8>> = OnceLock::new();
    SAMPLE.get_or_init(|| {
        let node: Credential = authority().issue_node("node-1", epoch()).unwrap();
        keystore::write(&node, &password()).unwrap()
    })
}

#[test]
fn what_is_no_keystore_is_refused_before_any_key_is_derived() {
    let password = password();
    let refuse = |bytes: &[u8]| keystore::read(bytes, &password).unwrap_err();
    assert_eq!(refuse(b""), KeystoreError::Empty);
    assert_eq!(refuse(b"hello"), KeystoreError::Malformed);
    assert_eq!(
        refuse(&vec![0x30; MAX_KEYSTORE_LEN + 1]),
        KeystoreError::TooLarge {
            len: MAX_KEYSTORE_LEN + 1
        }
    );
    for len in 0..sample().len() {
        let error = refuse(&sample()[..len]);
        assert!(
            matches!(error, KeystoreError::Malformed | KeystoreError::Empty),
            "cut to {len}: {error}"
        );
    }
    assert_eq!(refuse(&[sample(), b"\0"].concat()), KeystoreError::Malformed);
}

#[test]
fn a_wrong_password_is_told_from_a_damaged_file() {
    let wrong = KeystorePassword::new("wrong").unwrap();
    assert_eq!(
        keystore::read(sample(), &wrong).unwrap_err(),
        KeystoreError::WrongPassword
    );
}

#[test]
fn an_absurd_number_of_rounds_is_refused_at_once() {
    // The last field is the number of rounds: INTEGER 10000 (02 02 27 10). Claim the largest number of that
    // length, then of eight octets.
    let mut many = sample().to_vec();
    let end = many.len();
    assert_eq!(&many[end - 4..], [0x02, 0x02, 0x27, 0x10]);
    many.truncate(end - 4);
    many.extend([0x02, 0x08, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
    grow_outer_lengths(&mut many, 6);
    let error = keystore::read(&many, &password()).unwrap_err();
    assert_eq!(
        error,
        KeystoreError::TooManyIterations {
            iterations: i64::MAX as u64,
            limit: 600_000
        }
    );
}

/// Adds `by` to the length of the file's outer sequence and of the MAC, its last element
fn grow_outer_lengths(bytes: &mut [u8], by: u8) {
    assert_eq!(bytes[1], 0x82, "two length octets");
    let outer = u16::from_be_bytes([bytes[2], bytes[3]]) + u16::from(by);
    bytes[2..4].copy_from_slice(&outer.to_be_bytes());
    // SEQUENCE (mac) is the element that ends where the file ends: find the one-octet length that says so.
    let end = bytes.len();
    let place = (0..end - 2)
        .rev()
        .find(|at| bytes[*at] == 0x30 && at + 2 + usize::from(bytes[at + 1]) + usize::from(by) == end)
        .unwrap();
    bytes[place + 1] += by;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn damaged_keystores_never_panic_and_never_open(at in 0..2000_usize, value in any::<u8>()) {
        let mut bytes = sample().to_vec();
        let at = at % bytes.len();
        prop_assume!(bytes[at] != value);
        bytes[at] = value;
        // A changed byte may leave the meaning untouched only where nothing is protected: nowhere but in the
        // MAC's own description.
        if let Ok(credential) = keystore::read(&bytes, &password()) {
            let original = keystore::read(sample(), &password()).unwrap();
            prop_assert_eq!(credential.leaf(), original.leaf());
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        prop_assert!(keystore::read(&bytes, &password()).is_err());
    }
}
