//! The promise of a transparency log: that it has an entry about a signature, and since when

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::bundle::Bundle;
use super::key::{PublicKey, hex};
use super::{SignatureError, malformed};

/// An entry of a log, as a bundle brings it
pub(super) struct Entry {
    /// The log's signature over the rest ("signed entry timestamp")
    pub(super) promise: Vec<u8>,
    /// The entry itself, in base64
    pub(super) body: String,
    pub(super) integrated_time: u64,
    pub(super) log_index: u64,
    /// SHA-256 of the log's key, in hex
    pub(super) log_id: String,
}

fn bad(detail: impl Into<String>) -> SignatureError {
    SignatureError::BadLogEntry {
        detail: detail.into(),
    }
}

/// When the log took the entry, if the log is known, has promised it, and the entry is about this signature of this artifact
pub(super) fn verify(
    logs: &[PublicKey],
    bundle: &Bundle,
    sha256: &[u8; 32],
) -> Result<SystemTime, SignatureError> {
    let entry = bundle.entry.as_ref().ok_or(SignatureError::NoLogEntry)?;
    let log = logs
        .iter()
        .find(|log| hex(&log.id()) == entry.log_id.to_ascii_lowercase());
    let log = log.ok_or_else(|| bad("it is of a log whose key is not configured"))?;
    let canonical =
        canonical(entry).ok_or_else(|| malformed("the log entry's texts are not base64 and hex"))?;
    if !log.has_signed_text(canonical.as_bytes(), &entry.promise) {
        return Err(bad("its promise (SET) is not signed by the log"));
    }
    let body = STANDARD
        .decode(&entry.body)
        .map_err(|_| bad("its body is not base64"))?;
    let body: Value = serde_json::from_slice(&body).map_err(|_| bad("its body is not JSON"))?;
    let said = |path: &str| body.pointer(path).and_then(Value::as_str);
    if said("/kind") != Some("hashedrekord") {
        return Err(bad("its body is not about the hash of a file (hashedrekord)"));
    }
    let is_sha256 = said("/spec/data/hash/algorithm") == Some("sha256");
    let hash = said("/spec/data/hash/value")
        .unwrap_or_default()
        .to_ascii_lowercase();
    if !is_sha256 || hash != hex(sha256) {
        return Err(bad("its body has the hash of another file"));
    }
    let content = said("/spec/signature/content").and_then(|content| STANDARD.decode(content).ok());
    if content.as_deref() != Some(&bundle.signature[..]) {
        return Err(bad("its body has another signature"));
    }
    UNIX_EPOCH
        .checked_add(Duration::from_secs(entry.integrated_time))
        .ok_or_else(|| bad("its time cannot be expressed"))
}

/// What the log signs: JSON with sorted names and no blanks
fn canonical(entry: &Entry) -> Option<String> {
    let is_plain = |text: &str| {
        text.bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'='))
    };
    let Entry {
        body,
        integrated_time,
        log_index,
        log_id,
        ..
    } = entry;
    (is_plain(body) && is_plain(log_id)).then(|| {
        format!(
            r#"{{"body":"{body}","integratedTime":{integrated_time},"logID":"{log_id}","logIndex":{log_index}}}"#
        )
    })
}
