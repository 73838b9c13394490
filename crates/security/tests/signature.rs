//! Signatures of jars in all their forms, and everything that may be wrong with them
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::io::Read;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prexorcloud_security::signature::{
    Artifact, Form, Log, MAX_SIGNATURE_FILE, Policy, PublicKey, SignatureError, TrustRoot, TrustRootError,
    Unsigned, Verified, verify,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, SigningKey as _,
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

const JAR: &[u8] = b"a jar, or what passes for one";
/// When everything of these tests happens, in seconds since 1970
const NOW: u64 = 1_800_000_000;

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()
}

fn required(pem: &str) -> Policy {
    Policy {
        trust: Some(TrustRoot::from_pem(pem).unwrap()),
        ..Policy::default()
    }
}

fn check(policy: &Policy, form: Form, file: &[u8]) -> Result<Verified, SignatureError> {
    let open = || Ok(Box::new(JAR) as Box<dyn Read>);
    verify(
        policy,
        &Artifact::new(sha256(JAR), &open),
        Some((form, file)),
        at(NOW),
    )
}

fn refused(policy: &Policy, form: Form, file: impl AsRef<[u8]>) -> String {
    check(policy, form, file.as_ref()).unwrap_err().to_string()
}

fn sig(signature: &[u8]) -> String {
    STANDARD.encode(signature) + "\n"
}

#[test]
fn a_plain_signature_is_verified_with_any_key_of_the_bundle() {
    let (one, other, ed) = (key(), key(), KeyPair::generate_for(&PKCS_ED25519).unwrap());
    let rsa = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let rsa_der = rsa.public_key().as_der().unwrap();
    let rsa_pem = format!(
        "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
        STANDARD.encode(rsa_der.as_ref())
    );
    let mut rsa_signature = vec![0; rsa.public_modulus_len()];
    rsa.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), JAR, &mut rsa_signature)
        .unwrap();
    let pem = [one.public_key_pem(), ed.public_key_pem(), rsa_pem].join("\n");
    let policy = required(&pem);
    for signature in [one.sign(JAR).unwrap(), ed.sign(JAR).unwrap(), rsa_signature] {
        let verified = check(&policy, Form::Sig, sig(&signature).as_bytes()).unwrap();
        assert!(matches!(verified, Verified::By { signer } if signer.starts_with("key ")));
    }
    for signature in [
        other.sign(JAR).unwrap(),
        one.sign(b"another").unwrap(),
        ed.sign(b"another").unwrap(),
    ] {
        assert!(refused(&policy, Form::Sig, sig(&signature)).contains("by another key"));
    }
}

#[test]
fn openssl_signs_with_p384_as_java_does_with_sha_256() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("jar"), JAR).unwrap();
    let run = |arguments: &[&str]| {
        let output = std::process::Command::new("openssl")
            .args(arguments)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    };
    let (key, public, made) = (path("key"), path("public"), path("sig"));
    run(&[
        "genpkey",
        "-algorithm",
        "EC",
        "-pkeyopt",
        "ec_paramgen_curve:P-384",
        "-out",
        &key,
    ]);
    run(&["pkey", "-in", &key, "-pubout", "-out", &public]);
    run(&["dgst", "-sha256", "-sign", &key, "-out", &made, &path("jar")]);
    let policy = required(&std::fs::read_to_string(public).unwrap());
    let signature = std::fs::read(made).unwrap();
    check(&policy, Form::Sig, sig(&signature).as_bytes()).unwrap();
    run(&[
        "dgst",
        "-sha384",
        "-sign",
        &key,
        "-out",
        &path("sig"),
        &path("jar"),
    ]);
    let signature = std::fs::read(path("sig")).unwrap();
    assert!(refused(&policy, Form::Sig, sig(&signature)).contains("by another key"));
}

#[test]
fn what_is_not_signed_is_taken_only_where_that_is_said() {
    let open = || Ok(Box::new(JAR) as Box<dyn Read>);
    let artifact = Artifact::new(sha256(JAR), &open);
    let key = key();
    let good = sig(&key.sign(JAR).unwrap());
    let good = Some((Form::Sig, good.as_bytes()));
    let strict = Policy::default();
    let answer = |policy: &Policy, signature| verify(policy, &artifact, signature, at(NOW));
    assert!(matches!(answer(&strict, None), Err(SignatureError::Missing)));
    assert!(matches!(answer(&strict, good), Err(SignatureError::NoTrustRoot)));
    let lax = Policy {
        unsigned: Unsigned::Taken,
        ..Policy::default()
    };
    assert_eq!(answer(&lax, None).unwrap(), Verified::NotSigned);
    assert_eq!(answer(&lax, good).unwrap(), Verified::NotChecked);
    // Where somebody is believed, a wrong signature is wrong also where none is needed.
    let lax = Policy {
        trust: Some(TrustRoot::from_pem(&key.public_key_pem()).unwrap()),
        ..lax
    };
    assert_eq!(answer(&lax, None).unwrap(), Verified::NotSigned);
    assert!(matches!(answer(&lax, good), Ok(Verified::By { .. })));
    assert!(matches!(
        answer(&lax, Some((Form::Sig, b"AAAA"))),
        Err(SignatureError::WrongKey)
    ));
}

/// An authority, one below it, and a signer with a certificate that is valid around [`NOW`]
struct Signers {
    root: CertifiedIssuer<'static, KeyPair>,
    middle: CertifiedIssuer<'static, KeyPair>,
}

fn params(name: &str, from: u64, to: u64) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    let date = |seconds: u64| time::OffsetDateTime::from_unix_timestamp(seconds.try_into().unwrap()).unwrap();
    (params.not_before, params.not_after) = (date(from), date(to));
    params
}

fn authority(name: &str) -> CertificateParams {
    let mut params = params(name, NOW - 1000, NOW + 1000);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

impl Signers {
    fn new() -> Self {
        let root = CertifiedIssuer::self_signed(authority("root"), key()).unwrap();
        let middle = CertifiedIssuer::signed_by(authority("middle"), key(), &root).unwrap();
        Self { root, middle }
    }

    fn leaf(&self, from: u64, to: u64, usage: ExtendedKeyUsagePurpose) -> (rcgen::Certificate, KeyPair) {
        let (mut params, key) = (params("signer", from, to), key());
        params.extended_key_usages = vec![usage];
        (params.signed_by(&key, &self.middle).unwrap(), key)
    }

    fn ten_minutes(&self) -> (rcgen::Certificate, KeyPair) {
        self.leaf(NOW - 300, NOW + 300, ExtendedKeyUsagePurpose::CodeSigning)
    }

    fn trusted(&self) -> Policy {
        required(&self.root.pem())
    }

    fn legacy(&self, leaf: &rcgen::Certificate, signature: &[u8]) -> Value {
        let chain = leaf.pem() + &self.middle.pem();
        json!({ "base64Signature": STANDARD.encode(signature), "cert": STANDARD.encode(chain) })
    }

    fn sigstore(&self, leaf: &rcgen::Certificate, signature: &[u8]) -> Value {
        let raw = |der: &[u8]| json!({ "rawBytes": STANDARD.encode(der) });
        json!({
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "messageSignature": {
                "messageDigest": { "algorithm": "SHA2_256", "digest": STANDARD.encode(sha256(JAR)) },
                "signature": STANDARD.encode(signature),
            },
            "verificationMaterial": {
                "x509CertificateChain": { "certificates": [raw(leaf.der()), raw(self.middle.der())] },
            },
        })
    }
}

#[test]
fn both_bundles_are_verified_by_key_and_by_chain() {
    let signers = Signers::new();
    let (leaf, key) = signers.ten_minutes();
    let signature = key.sign(JAR).unwrap();
    let (legacy, sigstore) = (
        signers.legacy(&leaf, &signature),
        signers.sigstore(&leaf, &signature),
    );
    let by_key = required(&key.public_key_pem());
    for bundle in [&legacy, &sigstore] {
        for policy in [&signers.trusted(), &by_key] {
            let verified = check(policy, Form::CosignBundle, bundle.to_string().as_bytes()).unwrap();
            assert!(matches!(verified, Verified::By { signer } if signer.contains("signer")));
        }
        let stranger = Signers::new().trusted();
        let error = refused(&stranger, Form::CosignBundle, bundle.to_string());
        assert!(error.contains("is not trusted: no authority"), "{error}");
    }
    // Without a certificate, only keys help.
    let mut bare = legacy.clone();
    bare.as_object_mut().unwrap().remove("cert");
    check(&by_key, Form::CosignBundle, bare.to_string().as_bytes()).unwrap();
    let error = refused(&signers.trusted(), Form::CosignBundle, bare.to_string());
    assert!(error.contains("has no certificate"), "{error}");
    let mut without = sigstore.clone();
    without["verificationMaterial"] = json!({ "publicKey": { "hint": "x" } });
    check(&by_key, Form::CosignBundle, without.to_string().as_bytes()).unwrap();
}

#[test]
fn what_is_wrong_with_a_bundle_is_told() {
    let signers = Signers::new();
    let (leaf, key) = signers.ten_minutes();
    let signature = key.sign(JAR).unwrap();
    let trusted = signers.trusted();
    let legacy = signers.legacy(&leaf, &signature).to_string();
    let sigstore = signers.sigstore(&leaf, &signature);
    let mut other_digest = sigstore.clone();
    other_digest["messageSignature"]["messageDigest"]["digest"] = STANDARD.encode(sha256(b"other")).into();
    let mut envelope = sigstore.clone();
    envelope.as_object_mut().unwrap().remove("messageSignature");
    let mut future = sigstore.clone();
    future["mediaType"] = "application/vnd.dev.sigstore.bundle.v9+json".into();
    let (other, _) = signers.ten_minutes();
    let of = |from, to, usage| {
        let (leaf, key) = signers.leaf(from, to, usage);
        signers.legacy(&leaf, &key.sign(JAR).unwrap()).to_string()
    };
    let large = "x".repeat(MAX_SIGNATURE_FILE + 1);
    let deep = "[".repeat(10_000);
    for (file, expected) in [
        (
            other_digest.to_string(),
            "the signature is for a file with SHA-256",
        ),
        (envelope.to_string(), "envelopes (DSSE)"),
        (future.to_string(), "mediaType"),
        (legacy[..legacy.len() - 9].to_owned(), "damaged or truncated"),
        (
            legacy.replace("base64Signature", "signature"),
            "no text \"base64Signature\"",
        ),
        (
            signers.legacy(&other, &signature).to_string(),
            "not made by the key of its certificate",
        ),
        (
            signers.legacy(&leaf, &key.sign(b"other").unwrap()).to_string(),
            "or over another file",
        ),
        (
            of(NOW - 900, NOW - 300, ExtendedKeyUsagePurpose::CodeSigning),
            "was not valid at 1800000000",
        ),
        (
            of(NOW + 300, NOW + 900, ExtendedKeyUsagePurpose::CodeSigning),
            "was not valid at 1800000000",
        ),
        (
            of(NOW - 9, NOW + 9, ExtendedKeyUsagePurpose::ServerAuth),
            "is not trusted",
        ),
        (large, "more than 262144 bytes"),
        (deep, "damaged or truncated"),
        (String::new(), "damaged or truncated"),
    ] {
        let error = refused(&trusted, Form::CosignBundle, &file);
        assert!(error.contains(expected), "{expected}: {error}");
    }
    assert!(refused(&trusted, Form::Sig, "???").contains("not base64"));
    assert!(refused(&trusted, Form::Sig, [0xff]).contains("not text"));
    assert!(refused(&trusted, Form::Sig, sig(&[0; 2000])).contains("longer than any"));
    assert!(matches!(
        Form::from_wire("pgp"),
        Err(SignatureError::UnknownForm { .. })
    ));
}

/// A log, and what it says about a signature
struct Rekor(KeyPair);

impl Rekor {
    fn id(&self) -> [u8; 32] {
        PublicKey::all_from_pem(&self.0.public_key_pem()).unwrap()[0].id()
    }

    fn demanded(&self, mut policy: Policy) -> Policy {
        policy.log = Log::Required(PublicKey::all_from_pem(&self.0.public_key_pem()).unwrap());
        policy
    }

    /// Body, index, time and promise
    fn entry(&self, jar: &[u8], signature: &[u8], time: u64) -> (String, String) {
        let body = json!({
            "apiVersion": "0.0.1", "kind": "hashedrekord",
            "spec": {
                "data": { "hash": { "algorithm": "sha256", "value": hex(&sha256(jar)) } },
                "signature": { "content": STANDARD.encode(signature), "publicKey": { "content": "" } },
            },
        });
        let body = STANDARD.encode(body.to_string());
        let canonical =
            json!({ "body": &body, "integratedTime": time, "logID": hex(&self.id()), "logIndex": 7 })
                .to_string();
        (body, STANDARD.encode(self.0.sign(canonical.as_bytes()).unwrap()))
    }

    fn legacy(&self, bundle: &Value, jar: &[u8], signature: &[u8], time: u64) -> Value {
        let (body, promise) = self.entry(jar, signature, time);
        let mut bundle = bundle.clone();
        bundle["rekorBundle"] = json!({
            "SignedEntryTimestamp": promise,
            "Payload": { "body": body, "integratedTime": time, "logIndex": 7, "logID": hex(&self.id()) },
        });
        bundle
    }

    fn sigstore(&self, bundle: &Value, signature: &[u8], time: u64) -> Value {
        let (body, promise) = self.entry(JAR, signature, time);
        let mut bundle = bundle.clone();
        bundle["verificationMaterial"]["tlogEntries"] = json!([{
            "canonicalizedBody": body, "integratedTime": time.to_string(), "logIndex": "7",
            "logId": { "keyId": STANDARD.encode(self.id()) },
            "inclusionPromise": { "signedEntryTimestamp": promise },
        }]);
        bundle
    }
}

#[test]
fn a_promise_of_the_log_says_when_a_certificate_had_to_be_valid() {
    let (signers, rekor) = (Signers::new(), Rekor(key()));
    let (leaf, key) = signers.leaf(NOW - 900, NOW - 300, ExtendedKeyUsagePurpose::CodeSigning);
    let signature = key.sign(JAR).unwrap();
    let (legacy, sigstore) = (
        signers.legacy(&leaf, &signature),
        signers.sigstore(&leaf, &signature),
    );
    let then = NOW - 600;
    let demanded = rekor.demanded(signers.trusted());
    let good = rekor.legacy(&legacy, JAR, &signature, then);
    for bundle in [&good, &rekor.sigstore(&sigstore, &signature, then)] {
        check(&demanded, Form::CosignBundle, bundle.to_string().as_bytes()).unwrap();
        // Where the log is not looked at, the certificate has to be valid now.
        let error = refused(&signers.trusted(), Form::CosignBundle, bundle.to_string());
        assert!(error.contains("was not valid at 1800000000"), "{error}");
    }
    let changed = |pointer: &str, value: Value| {
        let mut bundle = good.clone();
        *bundle.pointer_mut(pointer).unwrap() = value;
        bundle
    };
    for (bundle, expected) in [
        (legacy.clone(), "the bundle has none with a signed promise"),
        (sigstore.clone(), "the bundle has none with a signed promise"),
        (
            rekor.legacy(&legacy, b"other", &signature, then),
            "the hash of another file",
        ),
        (rekor.legacy(&legacy, JAR, b"other", then), "another signature"),
        (rekor.legacy(&legacy, JAR, &signature, NOW), "was not valid at"),
        (
            Rekor(self::key()).legacy(&legacy, JAR, &signature, then),
            "key is not configured",
        ),
        (
            changed("/rekorBundle/Payload/integratedTime", NOW.into()),
            "not signed by the log",
        ),
        (
            changed("/rekorBundle/Payload/logIndex", 8.into()),
            "not signed by the log",
        ),
        (
            changed("/rekorBundle/Payload/body", "\"".into()),
            "not base64 and hex",
        ),
        (
            changed("/rekorBundle/SignedEntryTimestamp", "AAAA".into()),
            "not signed by the log",
        ),
        (changed("/rekorBundle/Payload", Value::Null), "no text \"logID\""),
    ] {
        let error = refused(&demanded, Form::CosignBundle, bundle.to_string());
        assert!(error.contains(expected), "{expected}: {error}");
    }
    // A plain signature cannot bring an entry.
    let by_key = rekor.demanded(required(&key.public_key_pem()));
    assert!(refused(&by_key, Form::Sig, sig(&signature)).contains("is required"));
}

#[test]
fn a_trust_root_is_public_keys_and_authorities_and_nothing_else() {
    let key = key();
    let pem = key.public_key_pem();
    let damaged = "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n";
    let read = |text: &str| TrustRoot::from_pem(text).map(|_| ()).unwrap_err();
    assert_eq!(read("nothing"), TrustRootError::Empty);
    assert_eq!(read(&key.serialize_pem()), TrustRootError::PrivateKey);
    assert_eq!(read(damaged), TrustRootError::UnknownKey);
    assert_eq!(read(&pem.repeat(65)), TrustRootError::TooMany);
    assert!(matches!(read(&pem.repeat(5000)), TrustRootError::NotPem));
    let curve = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA256)
        .unwrap()
        .public_key_pem();
    assert_eq!(read(&curve), TrustRootError::UnknownKey);
    assert!(
        TrustRoot::from_pem(&Signers::new().root.pem())
            .unwrap()
            .keys()
            .is_empty()
    );
}
