//! What the signature of a module may be, as whoever uploads it is told

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use prexorcloud_content::module::MAX_JAR_BYTES;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SigningKey as _,
};
use serde_json::{Value, json};

use crate::module_jar::module;
use crate::modules::form;
use crate::support::Cluster;

fn key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()
}

/// Seconds from now, before or after it
fn params(name: &str, from: i64, to: i64) -> CertificateParams {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let now = i64::try_from(now.as_secs()).unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    let date = |seconds: i64| time::OffsetDateTime::from_unix_timestamp(now + seconds).unwrap();
    (params.not_before, params.not_after) = (date(from), date(to));
    params
}

fn bundle(chain: &str, signature: &[u8]) -> Value {
    json!({ "base64Signature": STANDARD.encode(signature), "cert": STANDARD.encode(chain) })
}

#[tokio::test]
async fn a_wrong_signature_is_told_and_nothing_is_installed() {
    let mut root = params("root", -1000, 1000);
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    root.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let root = CertifiedIssuer::self_signed(root, key()).unwrap();
    let trusted = key();
    let folder = tempfile::tempdir().unwrap();
    let trust_root = folder.path().join("signers.pem");
    std::fs::write(&trust_root, trusted.public_key_pem() + &root.pem()).unwrap();
    let cluster = Cluster::start_with(|config| config.module_signing.trust_root = Some(trust_root)).await;

    let jar = module("stats", "1.0.0");
    let sign = |key: &KeyPair, what: &[u8]| key.sign(what).unwrap();
    let plain = |key: &KeyPair| STANDARD.encode(sign(key, jar.as_bytes()));
    let leaf = |from, to| {
        let (mut params, key) = (params("signer", from, to), key());
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
        let leaf = params.signed_by(&key, &root).unwrap();
        (leaf, key)
    };
    let by_chain = |from, to| {
        let (leaf, key) = leaf(from, to);
        bundle(&leaf.pem(), &sign(&key, jar.as_bytes())).to_string()
    };
    let (certificate, signer) = leaf(-300, 300);
    let signature = sign(&signer, jar.as_bytes());
    let sigstore = |digest: &[u8]| {
        json!({
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "messageSignature": {
                "messageDigest": { "algorithm": "SHA2_256", "digest": STANDARD.encode(digest) },
                "signature": STANDARD.encode(&signature),
            },
            "verificationMaterial": { "certificate": { "rawBytes": STANDARD.encode(certificate.der()) } },
        })
        .to_string()
    };
    let whole = by_chain(-300, 300);
    let oversized = "x".repeat(256 * 1024 + 1);
    let (sig, cosign) = ("stats.jar.sig", "stats.jar.cosign.bundle");
    for (name, file, content, words) in [
        (
            "another key",
            sig,
            plain(&key()),
            "another key than the trusted ones",
        ),
        ("no signature at all", sig, "???".to_owned(), "not base64"),
        (
            "a truncated bundle",
            cosign,
            whole[..whole.len() - 9].to_owned(),
            "damaged or truncated",
        ),
        (
            "an oversized bundle",
            cosign,
            oversized.clone(),
            "more than 262144 bytes",
        ),
        (
            "not valid any more",
            cosign,
            by_chain(-900, -300),
            "was not valid",
        ),
        ("not valid yet", cosign, by_chain(300, 900), "was not valid"),
        (
            "another digest",
            cosign,
            sigstore(&[7; 32]),
            "the signature is for a file with SHA-256",
        ),
        (
            "another file",
            cosign,
            bundle(&certificate.pem(), &sign(&signer, b"another jar")).to_string(),
            "over another file",
        ),
    ] {
        let parts = [("file", "stats.jar", jar.as_str()), ("signature", file, &content)];
        let (status, answer) = form(&cluster, &parts).await;
        assert_eq!(
            (status, &answer["error"]["code"]),
            (422, &json!("SIGNATURE_VERIFICATION_FAILED")),
            "{name}: {answer}"
        );
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(message.contains(words), "{name}: {message}");
        assert!(message.len() < 500, "{name}: {message}");
    }
    let (status, answer) = form(&cluster, &[("file", "stats.jar", &jar)]).await;
    assert_eq!(
        (status, &answer["error"]["code"]),
        (422, &json!("SIGNATURE_VERIFICATION_FAILED"))
    );
    let (_, listed) = cluster.get("/modules").await;
    assert_eq!(listed, json!([]), "nothing of it is installed");

    for (version, file, content) in [("1.0.0", cosign, whole), ("1.0.0", sig, plain(&trusted))] {
        let parts = [("file", "stats.jar", jar.as_str()), ("signature", file, &content)];
        let (status, answer) = form(&cluster, &parts).await;
        assert!(status == 201 || answer["unchanged"] == true, "{answer}");
        assert_eq!(answer["version"], version);
    }
}

#[tokio::test]
async fn what_is_too_large_is_refused_before_it_is_read() {
    let cluster = Cluster::start_with(|config| config.module_signing.is_optional = true).await;
    let large = usize::try_from(MAX_JAR_BYTES).unwrap() + 1024 * 1024;
    // It is announced and never sent: whoever waits for it would wait for ever.
    let answer = cluster
        .announce("/modules/platform/upload", large)
        .await
        .rest()
        .await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(answer.contains("PAYLOAD_TOO_LARGE"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_versions_at_once_one_counts_and_the_other_is_told() {
    let cluster = Cluster::start_with(|config| config.module_signing.is_optional = true).await;
    let jars: Vec<String> = (0..6)
        .map(|number| module("stats", &format!("1.{number}.0")))
        .collect();
    let uploads = jars.iter().map(|jar| {
        let cluster = &cluster;
        async move {
            tokio::time::timeout(
                Duration::from_secs(60),
                form(cluster, &[("file", "stats.jar", jar)]),
            )
            .await
            .unwrap()
        }
    });
    let answers = futures_util::future::join_all(uploads).await;
    let mut counted = Vec::new();
    for (status, answer) in &answers {
        match status {
            201 => counted.push(answer["version"].as_str().unwrap().to_owned()),
            409 => assert!(
                answer["error"]["message"]
                    .as_str()
                    .unwrap()
                    .contains("was installed meanwhile"),
                "{answer}"
            ),
            _ => panic!("{status}: {answer}"),
        }
    }
    let (_, listed) = cluster.get("/modules/platform").await;
    let module = &listed["modules"][0];
    let current = module["version"].as_str().unwrap();
    assert!(counted.iter().any(|version| version == current), "{module}");
    let kept = module["formerVersions"].as_array().unwrap().len();
    assert_eq!(
        kept,
        counted.len() - 1,
        "what was told to be installed was: {module}"
    );
}
