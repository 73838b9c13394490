//! Whether an authority that is believed stands behind a certificate

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

use super::{SignatureError, TrustRoot};
use crate::certificate::Certificate;

/// Code signing, 1.3.6.1.5.5.7.3.3, as DER has it without tag and length
const CODE_SIGNING: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x03];

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

pub(super) fn check_time(certificate: &Certificate, at: SystemTime) -> Result<(), SignatureError> {
    let validity = certificate.validity();
    if validity.contains(at) {
        return Ok(());
    }
    Err(SignatureError::OutsideItsTime {
        subject: certificate.subject().to_owned(),
        at: seconds(at),
        from: seconds(validity.not_before),
        to: seconds(validity.not_after),
    })
}

/// Whether the certificate leads to an authority, all of them valid at the time
pub(super) fn check(
    trust: &TrustRoot,
    leaf: &Certificate,
    others: &[Certificate],
    at: SystemTime,
) -> Result<(), SignatureError> {
    let untrusted = |detail: String| SignatureError::Untrusted {
        subject: leaf.subject().to_owned(),
        detail,
    };
    if trust.authorities().is_empty() {
        return Err(untrusted(
            "the trust root has no authority, and its key is none of the trusted".to_owned(),
        ));
    }
    // webpki does not look at the dates of anchors.
    let valid = trust
        .authorities()
        .iter()
        .filter(|authority| authority.validity().contains(at));
    let anchors: Vec<_> = valid
        .filter_map(|authority| webpki::anchor_from_trusted_cert(authority.der()).ok())
        .collect();
    if anchors.is_empty() {
        return Err(untrusted(format!(
            "no authority of the trust root is valid at {} (seconds since 1970)",
            seconds(at)
        )));
    }
    let others: Vec<CertificateDer<'_>> = others.iter().map(|other| other.der().clone()).collect();
    let end = EndEntityCert::try_from(leaf.der()).map_err(|error| untrusted(error.to_string()))?;
    end.verify_for_usage(
        webpki::ALL_VERIFICATION_ALGS,
        &anchors,
        &others,
        UnixTime::since_unix_epoch(Duration::from_secs(seconds(at))),
        KeyUsage::required_if_present(CODE_SIGNING),
        None,
        None,
    )
    .map(drop)
    .map_err(|error| {
        untrusted(format!(
            "no authority of the trust root stands behind it ({error})"
        ))
    })
}
