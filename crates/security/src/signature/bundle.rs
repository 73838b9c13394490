//! The three forms of a signature file, read into one

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::set::Entry;
use super::{SignatureError, malformed};
use crate::certificate::Certificate;
use crate::pem;

/// The most certificates of one bundle
const MAX_CERTIFICATES: usize = 8;

/// Bytes of the longest signature: RSA of 8192 bits, in DER at most a little more
const MAX_SIGNATURE: usize = 1100;

/// What a signature file says
pub(super) struct Bundle {
    pub(super) signature: Vec<u8>,
    /// The SHA-256 that was signed, where it is said
    pub(super) digest: Option<Vec<u8>>,
    /// The signer's first, then those that may lead to an authority
    pub(super) certificates: Vec<Certificate>,
    /// What a transparency log says
    pub(super) entry: Option<Entry>,
}

impl Bundle {
    /// The signature alone
    pub(super) fn plain(text: &str) -> Result<Self, SignatureError> {
        let mut joined = String::new();
        joined.extend(text.split_ascii_whitespace());
        Ok(Self {
            signature: signature(&joined)?,
            digest: None,
            certificates: Vec::new(),
            entry: None,
        })
    }

    /// Either bundle of cosign
    pub(super) fn read(text: &str) -> Result<Self, SignatureError> {
        let json: Value =
            serde_json::from_str(text).map_err(|error| malformed(format!("as JSON: {error}")))?;
        match json.get("mediaType") {
            None => Self::legacy(&json),
            Some(Value::String(kind)) if is_supported(kind) => Self::sigstore(&json),
            Some(_) => Err(malformed(
                "its mediaType is not that of a sigstore bundle v0.1 to v0.3",
            )),
        }
    }

    fn legacy(json: &Value) -> Result<Self, SignatureError> {
        let certificates = match json.get("cert") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::String(text)) if text.is_empty() => Vec::new(),
            Some(Value::String(text)) if text.contains("-----BEGIN") => from_pem(text)?,
            Some(Value::String(text)) => {
                let pem = String::from_utf8(decoded("cert", text)?);
                from_pem(&pem.map_err(|_| malformed("cert is not PEM"))?)?
            }
            Some(_) => return Err(malformed("cert is not a text")),
        };
        let entry = match json.get("rekorBundle") {
            None | Some(Value::Null) => None,
            Some(entry) => {
                let payload = entry.get("Payload").unwrap_or(&Value::Null);
                let log_id = text(payload, "logID")?.to_owned();
                Some(Entry {
                    promise: decoded("SignedEntryTimestamp", text(entry, "SignedEntryTimestamp")?)?,
                    body: text(payload, "body")?.to_owned(),
                    integrated_time: integer(payload, "integratedTime")?,
                    log_index: integer(payload, "logIndex")?,
                    log_id,
                })
            }
        };
        Ok(Self {
            signature: signature(text(json, "base64Signature")?)?,
            digest: None,
            certificates,
            entry,
        })
    }

    fn sigstore(json: &Value) -> Result<Self, SignatureError> {
        let Some(message) = json.get("messageSignature") else {
            return Err(malformed(
                "it has no messageSignature; envelopes (DSSE) are not signatures of a file",
            ));
        };
        let digest = match message.get("messageDigest") {
            None | Some(Value::Null) => None,
            Some(digest) => {
                if text(digest, "algorithm")? != "SHA2_256" {
                    return Err(malformed("its messageDigest is not a SHA2_256"));
                }
                Some(decoded("messageDigest.digest", text(digest, "digest")?)?)
            }
        };
        let material = json.get("verificationMaterial").unwrap_or(&Value::Null);
        let mut certificates = Vec::new();
        let chain = material
            .pointer("/x509CertificateChain/certificates")
            .and_then(Value::as_array);
        for certificate in material
            .get("certificate")
            .into_iter()
            .chain(chain.into_iter().flatten())
        {
            let der = decoded("rawBytes", text(certificate, "rawBytes")?)?;
            certificates.push(read_certificate(&der)?);
            if certificates.len() > MAX_CERTIFICATES {
                return Err(malformed("it has too many certificates"));
            }
        }
        let entries = material.get("tlogEntries").and_then(Value::as_array);
        let entry = match entries.and_then(|entries| entries.first()) {
            // Without a promise, an inclusion proof stands alone, and that needs the log's checkpoints.
            Some(entry)
                if entry
                    .get("inclusionPromise")
                    .is_some_and(|promise| !promise.is_null()) =>
            {
                let promise = entry.get("inclusionPromise").unwrap_or(&Value::Null);
                let log = entry.get("logId").unwrap_or(&Value::Null);
                Some(Entry {
                    promise: decoded("signedEntryTimestamp", text(promise, "signedEntryTimestamp")?)?,
                    body: text(entry, "canonicalizedBody")?.to_owned(),
                    integrated_time: integer(entry, "integratedTime")?,
                    log_index: integer(entry, "logIndex")?,
                    log_id: super::key::hex(&decoded("logId.keyId", text(log, "keyId")?)?),
                })
            }
            _ => None,
        };
        Ok(Self {
            signature: signature(text(message, "signature")?)?,
            digest,
            certificates,
            entry,
        })
    }
}

fn is_supported(media_type: &str) -> bool {
    [
        "application/vnd.dev.sigstore.bundle.v0.3+json",
        "application/vnd.dev.sigstore.bundle+json;version=0.3",
        "application/vnd.dev.sigstore.bundle+json;version=0.2",
        "application/vnd.dev.sigstore.bundle+json;version=0.1",
    ]
    .contains(&media_type)
}

fn text<'a>(json: &'a Value, name: &str) -> Result<&'a str, SignatureError> {
    let found = json.get(name).and_then(Value::as_str);
    found.ok_or_else(|| malformed(format!("it has no text \"{name}\"")))
}

/// A number, or one that is written as a text, as the JSON of protobuf does
fn integer(json: &Value, name: &str) -> Result<u64, SignatureError> {
    let found = json.get(name).and_then(|value| match value {
        Value::String(digits) => digits.parse().ok(),
        other => other.as_u64(),
    });
    found.ok_or_else(|| malformed(format!("it has no number \"{name}\"")))
}

fn decoded(name: &str, text: &str) -> Result<Vec<u8>, SignatureError> {
    let bytes = STANDARD.decode(text.trim());
    bytes.map_err(|_| malformed(format!("\"{name}\" is not base64")))
}

fn signature(text: &str) -> Result<Vec<u8>, SignatureError> {
    let bytes = decoded("signature", text)?;
    if bytes.is_empty() || bytes.len() > MAX_SIGNATURE {
        return Err(malformed(
            "the signature is empty, or longer than any of a known kind",
        ));
    }
    Ok(bytes)
}

fn from_pem(text: &str) -> Result<Vec<Certificate>, SignatureError> {
    let mut certificates = Vec::new();
    for der in pem::certificates(text) {
        let der = der.map_err(|_| malformed("cert is not PEM"))?;
        certificates.push(read_certificate(&der)?);
        if certificates.len() > MAX_CERTIFICATES {
            return Err(malformed("it has too many certificates"));
        }
    }
    if certificates.is_empty() {
        return Err(malformed("cert has no certificate"));
    }
    Ok(certificates)
}

fn read_certificate(der: &[u8]) -> Result<Certificate, SignatureError> {
    Certificate::from_der(der).map_err(|error| malformed(format!("its certificate: {error}")))
}
