//! An X.509 certificate, parsed once, with the facts that the rest of the crate decides on
//!
//! Reading is strict about what matters here (one encoding, bounded size, dates that exist) and judges
//! nothing else: whether a certificate may be *used* is the business of [`crate::identity`], [`crate::trust`]
//! and the TLS verifiers.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::pki_types::CertificateDer;
use rustls::server::ParsedCertificate;
use sha2::{Digest as _, Sha256};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::name::excerpt;
use crate::pem;
use crate::validity::{Validity, from_unix_seconds};

/// Largest certificate that is read, in bytes of DER
pub const MAX_CERTIFICATE_LEN: usize = 16 * 1024;

/// A parsed certificate; cloning shares it
///
/// Two certificates are equal when their encodings are.
#[derive(Clone)]
pub struct Certificate(Arc<Facts>);

struct Facts {
    der: CertificateDer<'static>,
    serial: Serial,
    validity: Validity,
    fingerprint: Fingerprint,
    subject: Vec<u8>,
    issuer: Vec<u8>,
    subject_text: String,
    public_key: Vec<u8>,
    common_names: Vec<Option<String>>,
    dns_names: Vec<String>,
    addresses: Vec<IpAddr>,
    uris: Vec<String>,
    is_authority: bool,
    purposes: Option<Purposes>,
}

/// Which extended key usages a certificate names
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purposes {
    /// May prove the identity of a TLS client
    pub client_auth: bool,
    /// May prove the identity of a TLS server
    pub server_auth: bool,
}

/// Why bytes are not a usable certificate
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// The bytes are not one X.509 certificate in DER
    #[error("not an X.509 certificate in DER")]
    Malformed,
    /// More bytes than any certificate of ours has
    #[error("a certificate of {len} bytes is over the limit of {MAX_CERTIFICATE_LEN}")]
    TooLarge {
        /// Bytes given
        len: usize,
    },
    /// The text is not PEM, or holds no certificate
    #[error("no certificate found: expected a PEM block \"BEGIN CERTIFICATE\"")]
    NoPem,
    /// An extension is present twice or does not parse
    #[error("the certificate's {0} extension is damaged or present twice")]
    BadExtension(&'static str),
    /// A date lies outside what this platform can express
    #[error("the certificate's validity dates cannot be expressed")]
    BadValidity,
}

impl Certificate {
    /// Parses one certificate
    ///
    /// # Errors
    /// [`CertificateError`] when the bytes are too many, not exactly one DER certificate, or carry a damaged
    /// extension.
    pub fn from_der(der: &[u8]) -> Result<Self, CertificateError> {
        if der.len() > MAX_CERTIFICATE_LEN {
            return Err(CertificateError::TooLarge { len: der.len() });
        }
        let (rest, parsed) = X509Certificate::from_der(der).map_err(|_| CertificateError::Malformed)?;
        let der_bytes = CertificateDer::from(der);
        // The parser above forgives what the one inside TLS does not; both must read the same certificate.
        if !rest.is_empty() || ParsedCertificate::try_from(&der_bytes).is_err() {
            return Err(CertificateError::Malformed);
        }
        let date = |at: i64| from_unix_seconds(at).ok_or(CertificateError::BadValidity);
        let validity = Validity {
            not_before: date(parsed.validity().not_before.timestamp())?,
            not_after: date(parsed.validity().not_after.timestamp())?,
        };
        let mut dns_names = Vec::new();
        let mut addresses = Vec::new();
        let mut uris = Vec::new();
        let names = parsed
            .subject_alternative_name()
            .map_err(|_| CertificateError::BadExtension("subject alternative name"))?;
        for name in names.iter().flat_map(|extension| &extension.value.general_names) {
            match name {
                GeneralName::DNSName(name) => dns_names.push((*name).to_owned()),
                GeneralName::URI(uri) => uris.push((*uri).to_owned()),
                GeneralName::IPAddress(octets) => {
                    if let Ok(octets) = <[u8; 4]>::try_from(*octets) {
                        addresses.push(IpAddr::from(octets));
                    } else if let Ok(octets) = <[u8; 16]>::try_from(*octets) {
                        addresses.push(IpAddr::from(octets));
                    }
                }
                _ => {}
            }
        }
        let is_authority = parsed
            .basic_constraints()
            .map_err(|_| CertificateError::BadExtension("basic constraints"))?
            .is_some_and(|extension| extension.value.ca);
        let purposes = parsed
            .extended_key_usage()
            .map_err(|_| CertificateError::BadExtension("extended key usage"))?
            .map(|extension| Purposes {
                client_auth: extension.value.client_auth,
                server_auth: extension.value.server_auth,
            });
        Ok(Self(Arc::new(Facts {
            serial: Serial::from_bytes(parsed.raw_serial()),
            validity,
            fingerprint: Fingerprint(Sha256::digest(der).into()),
            subject: parsed.subject().as_raw().to_vec(),
            issuer: parsed.issuer().as_raw().to_vec(),
            public_key: parsed.public_key().raw.to_vec(),
            subject_text: excerpt(&parsed.subject().to_string()),
            common_names: parsed
                .subject()
                .iter_common_name()
                .map(|attribute| attribute.as_str().ok().map(str::to_owned))
                .collect(),
            dns_names,
            addresses,
            uris,
            is_authority,
            purposes,
            der: der_bytes.into_owned(),
        })))
    }

    /// Parses the first certificate of a PEM text
    ///
    /// # Errors
    /// [`CertificateError::NoPem`] when there is none, otherwise as [`Certificate::from_der`].
    pub fn from_pem(text: &str) -> Result<Self, CertificateError> {
        let first = pem::certificates(text).next().ok_or(CertificateError::NoPem)?;
        Self::from_der(&first.map_err(|_| CertificateError::NoPem)?)
    }

    /// The certificate as PEM with lines of 64 characters, the form that Java's CertificateFactory reads
    #[must_use]
    pub fn to_pem(&self) -> String {
        pem::encode("CERTIFICATE", self.der()).to_string()
    }

    /// The encoding
    #[must_use]
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.0.der
    }

    /// The serial number, unique per authority
    #[must_use]
    pub fn serial(&self) -> &Serial {
        &self.0.serial
    }

    /// SHA-256 of the encoding
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.0.fingerprint
    }

    /// From when until when it counts
    #[must_use]
    pub fn validity(&self) -> Validity {
        self.0.validity
    }

    /// First valid moment
    #[must_use]
    pub fn not_before(&self) -> SystemTime {
        self.0.validity.not_before
    }

    /// Last valid moment
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.0.validity.not_after
    }

    /// Whether `now` lies inside the validity period
    #[must_use]
    pub fn is_valid_at(&self, now: SystemTime) -> bool {
        self.0.validity.contains(now)
    }

    /// When a successor should be asked for: a third of the lifetime before the end
    #[must_use]
    pub fn renew_at(&self) -> SystemTime {
        self.0.validity.renew_at()
    }

    /// Whether a successor should be asked for now
    #[must_use]
    pub fn renewal_due(&self, now: SystemTime) -> bool {
        now >= self.renew_at()
    }

    /// When the authority signed it, in milliseconds
    ///
    /// Our authority writes this down, because `notBefore` is backdated for clocks that run late.
    /// Certificates of a Java controller are not backdated, so for them it is [`Certificate::not_before`].
    #[must_use]
    pub fn issued_at(&self) -> SystemTime {
        self.0
            .uris
            .iter()
            .filter_map(|uri| {
                uri.strip_prefix(crate::identity::URI_SCHEME)?
                    .split_once("?issued=")
            })
            .find_map(|(_, millis)| {
                let plain = !millis.is_empty() && millis.bytes().all(|b| b.is_ascii_digit());
                let millis: u64 = plain.then_some(millis)?.parse().ok()?;
                UNIX_EPOCH.checked_add(Duration::from_millis(millis))
            })
            .unwrap_or(self.0.validity.not_before)
    }

    /// The subject, for people
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.0.subject_text
    }

    /// Every common name of the subject; `None` for one that is not text
    pub(crate) fn common_names(&self) -> &[Option<String>] {
        &self.0.common_names
    }

    /// The DNS names among the subject alternative names
    #[must_use]
    pub fn dns_names(&self) -> &[String] {
        &self.0.dns_names
    }

    /// The IP addresses among the subject alternative names
    #[must_use]
    pub fn addresses(&self) -> &[IpAddr] {
        &self.0.addresses
    }

    /// The URIs among the subject alternative names
    #[must_use]
    pub fn uris(&self) -> &[String] {
        &self.0.uris
    }

    /// Whether it may sign other certificates (basic constraints say CA)
    #[must_use]
    pub fn is_authority(&self) -> bool {
        self.0.is_authority
    }

    /// What the extended key usage extension allows; `None` when it is absent, which means anything
    #[must_use]
    pub fn purposes(&self) -> Option<Purposes> {
        self.0.purposes
    }

    /// The subject public key info, in DER
    pub(crate) fn public_key(&self) -> &[u8] {
        &self.0.public_key
    }

    /// Whether the subject of `other` is who this certificate names as its issuer, be it true or not
    pub(crate) fn names_as_issuer(&self, other: &Self) -> bool {
        self.0.issuer == other.0.subject
    }

    /// Whether subject and issuer are the same name
    pub(crate) fn is_self_issued(&self) -> bool {
        self.names_as_issuer(self)
    }

    /// Whether `issuer` is an authority of the right name whose key made this certificate's signature
    ///
    /// Says nothing about dates, purposes or trust.
    #[must_use]
    pub fn is_signed_by(&self, issuer: &Self) -> bool {
        if !issuer.is_authority() || !self.names_as_issuer(issuer) {
            return false;
        }
        let (Ok((_, ours)), Ok((_, theirs))) = (
            X509Certificate::from_der(self.der()),
            X509Certificate::from_der(issuer.der()),
        ) else {
            return false;
        };
        ours.verify_signature(Some(theirs.public_key())).is_ok()
    }
}

impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        self.0.der == other.0.der
    }
}

impl Eq for Certificate {}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("subject", &self.0.subject_text)
            .field("serial", &self.0.serial)
            .field("validity", &self.0.validity)
            .finish_non_exhaustive()
    }
}

/// A certificate's serial number, shown as lower-case hexadecimal
///
/// Leading zero octets carry no meaning and are dropped, so the encodings `00ab` and `ab` are one number.
///
/// ```
/// use prexorcloud_security::certificate::Serial;
///
/// let serial: Serial = "00AB12".parse()?;
/// assert_eq!(serial.to_string(), "ab12");
/// # Ok::<(), prexorcloud_security::certificate::SerialParseError>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial(Vec<u8>);

/// Longest serial number that is parsed from text, in octets; RFC 5280 allows 20, Java writes up to 21
const MAX_SERIAL_LEN: usize = 32;

impl Serial {
    pub(crate) fn from_bytes(bytes: &[u8]) -> Self {
        let start = bytes
            .iter()
            .position(|b| *b != 0)
            .unwrap_or(bytes.len().saturating_sub(1));
        Self(bytes.get(start..).unwrap_or_default().to_vec())
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Serial({self})")
    }
}

/// The text is not a serial number: 1 to 64 hexadecimal digits
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a serial number: expected 1 to 64 hexadecimal digits")]
pub struct SerialParseError;

impl FromStr for Serial {
    type Err = SerialParseError;

    fn from_str(text: &str) -> Result<Self, SerialParseError> {
        if text.is_empty() || text.len() > 2 * MAX_SERIAL_LEN {
            return Err(SerialParseError);
        }
        let padded = if text.len() % 2 == 1 {
            format!("0{text}")
        } else {
            text.to_owned()
        };
        Ok(Self::from_bytes(&decode_hex(&padded).ok_or(SerialParseError)?))
    }
}

/// SHA-256 of a certificate's DER encoding, or of a public key, shown as lower-case hexadecimal
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// The digest
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The digest in the alphabet of URLs, without padding: 43 characters
    #[must_use]
    pub fn to_base64url(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }

    pub(crate) const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

/// Bytes of an even number of hexadecimal digits
pub(crate) fn decode_hex(text: &str) -> Option<Vec<u8>> {
    let nibble = |b: u8| char::from(b).to_digit(16);
    if !text.len().is_multiple_of(2) {
        return None;
    }
    text.as_bytes()
        .chunks_exact(2)
        .map(|pair| match pair {
            [high, low] => u8::try_from(nibble(*high)? * 16 + nibble(*low)?).ok(),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn serials_compare_as_numbers() {
        let plain: Serial = "ab".parse().unwrap();
        assert_eq!("00ab".parse::<Serial>().unwrap(), plain);
        assert_eq!("0AB".parse::<Serial>().unwrap(), plain);
        assert_eq!(Serial::from_bytes(&[0, 0xab]), plain);
        assert_eq!(Serial::from_bytes(&[0, 0]).to_string(), "00");
        assert_eq!(Serial::from_bytes(&[]).to_string(), "");
        for bad in ["", "xy", "0x12", " 1", &"0".repeat(65)] {
            assert_eq!(bad.parse::<Serial>(), Err(SerialParseError), "{bad:?}");
        }
    }

    #[test]
    fn oversized_and_trailing_bytes_are_refused() {
        let big = vec![0x30; MAX_CERTIFICATE_LEN + 1];
        assert_eq!(
            Certificate::from_der(&big),
            Err(CertificateError::TooLarge { len: big.len() })
        );
        assert_eq!(Certificate::from_der(b""), Err(CertificateError::Malformed));
        assert_eq!(Certificate::from_pem("hello"), Err(CertificateError::NoPem));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = Certificate::from_der(&bytes);
        }

        #[test]
        fn arbitrary_text_never_panics(text in ".{0,300}") {
            let _ = Certificate::from_pem(&text);
            let _ = text.parse::<Serial>();
        }
    }
}
