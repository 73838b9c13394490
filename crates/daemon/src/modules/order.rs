//! What an order to install a module has to be before anything of it is stored

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::SystemTime;

use prexorcloud_content::Digest;
use prexorcloud_content::module::{self, Manifest, ManifestError};
use prexorcloud_proto::ModuleInstall;
use prexorcloud_security::signature::{self, Artifact, Form, Policy, SignatureError};

use super::store::Version;

/// Why an order is refused; nothing of it is stored
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("ModuleInstall is missing manifest_yaml")]
    NoManifest,
    #[error("the manifest: {0}")]
    Manifest(#[from] ManifestError),
    #[error("the manifest is of `{manifest}`, and the order about `{order}`")]
    OtherModule { manifest: String, order: String },
    #[error("the manifest is of version {manifest}, and the order about {order}")]
    OtherVersion { manifest: String, order: String },
    #[error("its manifest does not name `daemon` among its hosts, so it has no business on this node")]
    NotForDaemons,
    #[error("`{0}` is no SHA-256 of a jar")]
    NotADigest(String),
    #[error("module sha256 mismatch for '{id}': expected {expected} but got {found}")]
    OtherDigest {
        id: String,
        expected: String,
        found: String,
    },
    #[error("neither the jar nor a reference to it came with the order")]
    NoJar,
    #[error("the reference to the jar is none: {0}")]
    BadReference(String),
    #[error("the jar has {bytes} bytes, and a module at most {limit}")]
    TooLarge { bytes: u64, limit: u64 },
    #[error("its signature: {0}")]
    Signature(#[from] SignatureError),
    #[error("its jar is signed with another manifest than the one of the order")]
    OtherManifest,
    #[error("the jar cannot be read: {0}")]
    Io(#[from] io::Error),
}

/// An order whose words make sense
#[derive(Debug)]
pub(super) struct Judged {
    pub(super) version: Version,
    pub(super) sha256: Digest,
}

/// Judges all but the jar
pub(super) fn judge(order: &ModuleInstall) -> Result<Judged, Refusal> {
    if order.manifest_yaml.trim().is_empty() {
        return Err(Refusal::NoManifest);
    }
    let manifest = Manifest::parse(&order.manifest_yaml)?;
    if manifest.id != order.module_id {
        return Err(Refusal::OtherModule {
            manifest: manifest.id,
            order: order.module_id.clone(),
        });
    }
    let version = manifest.version.to_string();
    if !order.version.is_empty() && version != order.version {
        return Err(Refusal::OtherVersion {
            manifest: version,
            order: order.version.clone(),
        });
    }
    if !manifest.is_for_daemons() {
        return Err(Refusal::NotForDaemons);
    }
    let not_a_digest = |_| Refusal::NotADigest(order.sha256.chars().take(80).collect());
    let sha256: Digest = order.sha256.to_ascii_lowercase().parse().map_err(not_a_digest)?;
    Ok(Judged {
        version: Version {
            version,
            sha256: sha256.to_string(),
            manifest: order.manifest_yaml.clone(),
            proven: false,
        },
        sha256,
    })
}

/// Judges a jar that came with its order
pub(super) fn judge_inline(order: &ModuleInstall, judged: &Judged, policy: &Policy) -> Result<(), Refusal> {
    let (bytes, limit) = (order.jar_bytes.len() as u64, module::MAX_JAR_BYTES);
    if bytes == 0 {
        return Err(Refusal::NoJar);
    }
    if bytes > limit {
        return Err(Refusal::TooLarge { bytes, limit });
    }
    let found = Digest::of(&order.jar_bytes);
    if found != judged.sha256 {
        return Err(Refusal::OtherDigest {
            id: order.module_id.clone(),
            expected: judged.sha256.to_string(),
            found: found.to_string(),
        });
    }
    let open = || Ok(Box::new(io::Cursor::new(order.jar_bytes.clone())) as Box<dyn Read>);
    judge_signature(order, judged, policy, &open)?;
    match is_trusted(policy) {
        true => judge_own_manifest(order, io::Cursor::new(&order.jar_bytes)),
        false => Ok(()),
    }
}

/// Judges a jar that was fetched, whose digest was compared
pub(super) fn judge_file(
    order: &ModuleInstall,
    judged: &Judged,
    policy: &Policy,
    path: &Path,
) -> Result<(), Refusal> {
    let open = || Ok(Box::new(File::open(path)?) as Box<dyn Read>);
    judge_signature(order, judged, policy, &open)?;
    match is_trusted(policy) {
        true => judge_own_manifest(order, File::open(path)?),
        false => Ok(()),
    }
}

fn is_trusted(policy: &Policy) -> bool {
    policy.trust.is_some()
}

/// What is vouched for is the jar, and so the manifest inside of it
fn judge_own_manifest(order: &ModuleInstall, jar: impl Read + io::Seek) -> Result<(), Refusal> {
    match module::read_manifest(jar) {
        Ok(own) if own == order.manifest_yaml => Ok(()),
        _ => Err(Refusal::OtherManifest),
    }
}

fn judge_signature(
    order: &ModuleInstall,
    judged: &Judged,
    policy: &Policy,
    open: &dyn Fn() -> io::Result<Box<dyn Read>>,
) -> Result<(), Refusal> {
    let signature = match order.signature_bytes.is_empty() {
        true => None,
        // Where nobody is believed and nothing is required, its form does not matter either.
        false if policy.trust.is_none() && policy.unsigned == signature::Unsigned::Taken => None,
        false => Some((
            Form::from_wire(&order.signature_kind)?,
            order.signature_bytes.as_ref(),
        )),
    };
    let artifact = Artifact::new(judged.sha256.into(), open);
    signature::verify(policy, &artifact, signature, SystemTime::now())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use prexorcloud_security::signature::{TrustRoot, Unsigned};

    use super::*;

    /// A jar with its manifest, signed by openssl with a key that nobody has any more
    const JAR: &[u8] = include_bytes!("../../tests/assets/signed-module/module.jar");
    const SIGNATURE: &[u8] = include_bytes!("../../tests/assets/signed-module/module.jar.sig");
    const KEY: &str = include_str!("../../tests/assets/signed-module/key.pem");

    fn order() -> ModuleInstall {
        ModuleInstall {
            module_id: "sample".to_owned(),
            version: "1.0.0".to_owned(),
            sha256: Digest::of(JAR).to_string(),
            jar_bytes: JAR.into(),
            signature_bytes: SIGNATURE.into(),
            signature_kind: "sig".to_owned(),
            manifest_yaml: module::read_manifest(io::Cursor::new(JAR)).unwrap(),
            ..ModuleInstall::default()
        }
    }

    fn policy(unsigned: Unsigned, trust: Option<&str>) -> Policy {
        Policy {
            unsigned,
            trust: trust.map(|text| TrustRoot::from_pem(text).unwrap()),
            ..Policy::default()
        }
    }

    fn verdict(order: &ModuleInstall, policy: &Policy) -> Result<(), String> {
        let judged = judge(order).map_err(|refusal| refusal.to_string())?;
        let inline = judge_inline(order, &judged, policy).map_err(|refusal| refusal.to_string());
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &order.jar_bytes).unwrap();
        let fetched = judge_file(order, &judged, policy, file.path()).map_err(|refusal| refusal.to_string());
        assert_eq!(inline, fetched, "both ways of a jar are judged alike");
        inline
    }

    #[test]
    fn what_a_trusted_key_has_signed_is_taken_and_nothing_else() {
        let required = policy(Unsigned::Refused, Some(KEY));
        assert_eq!(verdict(&order(), &required), Ok(()));
        let mut unsigned = order();
        unsigned.signature_bytes.clear();
        assert!(verdict(&unsigned, &required).unwrap_err().contains("not signed"));
        let mut kind = order();
        kind.signature_kind = "pgp".to_owned();
        assert!(verdict(&kind, &required).unwrap_err().contains("pgp"));
        let mut damaged = order();
        damaged.signature_bytes = SIGNATURE.get(..40).unwrap().into();
        assert!(
            verdict(&damaged, &required)
                .unwrap_err()
                .starts_with("its signature: ")
        );
        // The controller says one thing, and what was signed another.
        let mut manifest = order();
        manifest.manifest_yaml = manifest
            .manifest_yaml
            .replace("com.example.Main", "com.example.Other");
        assert!(
            verdict(&manifest, &required)
                .unwrap_err()
                .contains("another manifest")
        );
    }

    #[test]
    fn an_unsigned_module_is_taken_unless_signatures_are_required() {
        let mut unsigned = order();
        unsigned.signature_bytes.clear();
        for trust in [None, Some(KEY)] {
            assert_eq!(verdict(&unsigned, &policy(Unsigned::Taken, trust)), Ok(()));
        }
        // A signature that is there is verified where somebody is believed.
        let mut damaged = order();
        damaged.signature_bytes = b"AAAA"[..].into();
        assert!(verdict(&damaged, &policy(Unsigned::Taken, Some(KEY))).is_err());
        assert_eq!(verdict(&damaged, &policy(Unsigned::Taken, None)), Ok(()));
        assert!(verdict(&order(), &policy(Unsigned::Refused, None)).is_err());
    }
}
