//! Signatures of what is installed: who vouches for a jar
//!
//! A signature comes in a file beside the jar. Three forms are read: the plain one of `cosign sign-blob --key` and `openssl dgst -sha256
//! -sign` ([`Form::Sig`]), and the two bundles of cosign ([`Form::CosignBundle`]): its older JSON, and the sigstore bundle v0.3, which is told
//! apart by its `mediaType`. All sign the SHA-256 of the jar, but for Ed25519, which signs the jar itself.
//!
//! Who is believed stands in a [`TrustRoot`]: public keys, and authorities of certificates. What is demanded is a [`Policy`]. Nothing here
//! asks a network; an entry of the transparency log is proved by the promise that the log itself has signed ([`Log`]).

mod bundle;
mod chain;
mod key;
mod set;

use std::io::{self, Read};
use std::time::SystemTime;

use aws_lc_rs::digest;

use self::bundle::Bundle;
pub use self::key::{MAX_TRUSTED, PublicKey, TrustRoot, TrustRootError};

/// Bytes of the largest signature file
pub const MAX_SIGNATURE_FILE: usize = 256 * 1024;

/// Bytes of the largest artifact whose signature is made over all of it (Ed25519)
pub const MAX_WHOLE: u64 = 128 << 20;

/// How a signature is written down
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// `<jar>.sig`: the signature alone, in base64
    Sig,
    /// `<jar>.cosign.bundle`: JSON
    CosignBundle,
}

impl Form {
    /// As `ModuleInstall.signature_kind` writes it
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sig => "sig",
            Self::CosignBundle => "cosign-bundle",
        }
    }

    /// The form that `ModuleInstall.signature_kind` names
    ///
    /// # Errors
    /// [`SignatureError::UnknownForm`].
    pub fn from_wire(kind: &str) -> Result<Self, SignatureError> {
        match kind {
            "sig" => Ok(Self::Sig),
            "cosign-bundle" => Ok(Self::CosignBundle),
            other => Err(SignatureError::UnknownForm {
                kind: crate::name::excerpt(other),
            }),
        }
    }

    /// The form that a file's name says
    #[must_use]
    pub fn of_file(name: &str) -> Option<Self> {
        match name {
            name if name.ends_with(".cosign.bundle") => Some(Self::CosignBundle),
            name if name.ends_with(".sig") => Some(Self::Sig),
            _ => None,
        }
    }
}

/// What is demanded of a signature
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Whether unsigned artifacts are taken
    pub unsigned: Unsigned,
    /// Who is believed; `None` = nobody
    pub trust: Option<TrustRoot>,
    /// Whether an entry of a transparency log is demanded
    pub log: Log,
}

/// What happens to an artifact without a signature
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unsigned {
    /// It is refused
    #[default]
    Refused,
    /// It is taken; a signature that is there all the same is verified if anybody is believed
    Taken,
}

/// Whether an entry of a transparency log is demanded
#[derive(Clone, Debug, Default)]
pub enum Log {
    /// What a bundle says of a log is not looked at; certificates have to be valid now
    #[default]
    Disabled,
    /// The promise of a log with one of these keys is demanded; certificates have to be valid when it was made
    Required(Vec<PublicKey>),
}

/// What is signed
pub struct Artifact<'a> {
    sha256: [u8; 32],
    open: Open<'a>,
}

type Open<'a> = &'a dyn Fn() -> io::Result<Box<dyn Read>>;

impl<'a> Artifact<'a> {
    /// One with this SHA-256, whose bytes `open` gives; they are read only if a signature is made over all of them
    pub const fn new(sha256: [u8; 32], open: Open<'a>) -> Self {
        Self { sha256, open }
    }

    /// All of it, after looking that it still is what its digest says
    fn whole(&self) -> Result<Vec<u8>, SignatureError> {
        let mut bytes = Vec::new();
        (self.open)()?.take(MAX_WHOLE + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_WHOLE {
            return Err(SignatureError::TooLarge {
                what: "what an Ed25519 key has signed",
                limit: MAX_WHOLE,
            });
        }
        if digest::digest(&digest::SHA256, &bytes).as_ref() != self.sha256 {
            return Err(SignatureError::Io(io::Error::other(
                "it changed while it was verified",
            )));
        }
        Ok(bytes)
    }
}

/// What is known of an artifact after [`verify`]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verified {
    /// Nobody is asked to vouch for it, and it is taken all the same
    NotSigned,
    /// There is a signature, and nobody whom it could be compared with
    NotChecked,
    /// Somebody who is believed has signed it
    By {
        /// The key, or the subject of the certificate
        signer: String,
    },
}

/// Why nobody who is believed has signed an artifact
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignatureError {
    /// There is none
    #[error(
        "it is not signed, and signatures are required; sign it, or allow unsigned modules in the configuration"
    )]
    Missing,
    /// Nobody is believed
    #[error("signatures are required and no trust root is configured; name one in the configuration")]
    NoTrustRoot,
    /// The form has a name that is not known
    #[error("\"{kind}\" is no form of a signature; `sig` and `cosign-bundle` are")]
    UnknownForm {
        /// The name
        kind: String,
    },
    /// Something is too large
    #[error("{what} has more than {limit} bytes")]
    TooLarge {
        /// What
        what: &'static str,
        /// The limit
        limit: u64,
    },
    /// The signature file makes no sense
    #[error("the signature file is damaged or truncated: {detail}")]
    Malformed {
        /// Where it stops making sense
        detail: String,
    },
    /// It is the signature of something else
    #[error("the signature is for a file with SHA-256 {signed}, and this one has {found}")]
    WrongDigest {
        /// What was signed
        signed: String,
        /// What is here
        found: String,
    },
    /// No trusted key fits
    #[error("the signature was made by another key than the trusted ones, or over another file")]
    WrongKey,
    /// The key of the certificate does not fit
    #[error("the signature was not made by the key of its certificate, or over another file")]
    NotByCertificate,
    /// The bundle has no certificate, and only authorities are believed
    #[error("the bundle has no certificate, and the trust root has no public key")]
    NoCertificate,
    /// Nobody who is believed stands behind the certificate
    #[error("the certificate of \"{subject}\" is not trusted: {detail}")]
    Untrusted {
        /// Whose
        subject: String,
        /// Why
        detail: String,
    },
    /// The certificate was not valid at the time
    #[error(
        "the certificate of \"{subject}\" was not valid at {at} (seconds since 1970), but from {from} to {to}"
    )]
    OutsideItsTime {
        /// Whose
        subject: String,
        /// When it was looked at
        at: u64,
        /// From when it is valid
        from: u64,
        /// Until when
        to: u64,
    },
    /// The log's promise is demanded, and there is none
    #[error(
        "an entry of the transparency log is required, and the bundle has none with a signed promise (SET)"
    )]
    NoLogEntry,
    /// The log's promise is wrong
    #[error("the entry of the transparency log is not believed: {detail}")]
    BadLogEntry {
        /// Why
        detail: String,
    },
    /// The artifact cannot be read
    #[error("the file cannot be read: {0}")]
    Io(#[from] io::Error),
}

fn malformed(detail: impl Into<String>) -> SignatureError {
    SignatureError::Malformed {
        detail: detail.into(),
    }
}

/// Whether somebody who is believed has signed an artifact, as far as the policy demands it
///
/// # Errors
/// [`SignatureError`].
pub fn verify(
    policy: &Policy,
    artifact: &Artifact<'_>,
    signature: Option<(Form, &[u8])>,
    now: SystemTime,
) -> Result<Verified, SignatureError> {
    let is_required = policy.unsigned == Unsigned::Refused;
    let (Some((form, file)), trust) = (signature, &policy.trust) else {
        return match is_required {
            true => Err(SignatureError::Missing),
            false => Ok(Verified::NotSigned),
        };
    };
    let Some(trust) = trust else {
        return match is_required {
            true => Err(SignatureError::NoTrustRoot),
            false => Ok(Verified::NotChecked),
        };
    };
    if file.len() > MAX_SIGNATURE_FILE {
        return Err(SignatureError::TooLarge {
            what: "the signature file",
            limit: MAX_SIGNATURE_FILE as u64,
        });
    }
    let text = std::str::from_utf8(file).map_err(|_| malformed("it is not text"))?;
    let bundle = match form {
        Form::Sig => Bundle::plain(text)?,
        Form::CosignBundle => Bundle::read(text)?,
    };
    judge(policy, trust, artifact, &bundle, now)
}

fn judge(
    policy: &Policy,
    trust: &TrustRoot,
    artifact: &Artifact<'_>,
    bundle: &Bundle,
    now: SystemTime,
) -> Result<Verified, SignatureError> {
    if let Some(signed) = &bundle.digest
        && signed[..] != artifact.sha256
    {
        return Err(SignatureError::WrongDigest {
            signed: key::hex(signed),
            found: key::hex(&artifact.sha256),
        });
    }
    // By whom, before when: what the log says of somebody's signature is of no use otherwise.
    let Some((leaf, others)) = bundle.certificates.split_first() else {
        return match &policy.log {
            _ if trust.keys().is_empty() => Err(SignatureError::NoCertificate),
            log => {
                let signer = signer(trust, artifact, bundle)?.ok_or(SignatureError::WrongKey)?;
                if let Log::Required(keys) = log {
                    set::verify(keys, bundle, &artifact.sha256)?;
                }
                Ok(Verified::By { signer })
            }
        };
    };
    let key = PublicKey::from_spki(leaf.public_key())
        .map_err(|error| malformed(format!("its certificate: {error}")))?;
    if !key.has_signed(artifact, &bundle.signature)? {
        return Err(SignatureError::NotByCertificate);
    }
    let at = match &policy.log {
        Log::Disabled => now,
        Log::Required(keys) => set::verify(keys, bundle, &artifact.sha256)?,
    };
    chain::check_time(leaf, at)?;
    if !trust.keys().contains(&key) {
        chain::check(trust, leaf, others, at)?;
    }
    Ok(Verified::By {
        signer: leaf.subject().to_owned(),
    })
}

fn signer(
    trust: &TrustRoot,
    artifact: &Artifact<'_>,
    bundle: &Bundle,
) -> Result<Option<String>, SignatureError> {
    for key in trust.keys() {
        if key.has_signed(artifact, &bundle.signature)? {
            return Ok(Some(key.to_string()));
        }
    }
    Ok(None)
}
