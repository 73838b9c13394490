//! What went wrong in a handshake, in words that lead somewhere
//!
//! By the time a failed handshake reaches an operator it is wrapped in the errors of several libraries.
//! [`diagnose`] finds the certificate's part in it.

use std::error::Error;
use std::fmt;
use std::io;

use rustls::{AlertDescription, CertificateError};

use crate::enrolment::EnrolmentError;

/// Which certificate stood in the way
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CertificateFailure {
    /// The peer refused the certificate that we presented
    Ours(OurCertificate),
    /// We refused the certificate that the peer presented
    Theirs(TheirCertificate),
}

/// What the peer's alert says about our certificate
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OurCertificate {
    /// It was revoked
    Revoked,
    /// It has expired, or is not valid yet by the peer's clock
    Expired,
    /// The peer does not know the authority that signed it
    UnknownAuthority,
    /// It was refused for another reason
    Refused,
    /// None was presented, and one is required
    Missing,
}

/// What is wrong with the peer's certificate
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TheirCertificate {
    /// Its time is over
    Expired,
    /// Its time has not begun, or our clock runs late
    NotYetValid,
    /// It was revoked
    Revoked,
    /// No trusted authority signed it
    UnknownAuthority,
    /// It is valid for other names than the one that was dialled
    WrongName {
        /// What was dialled
        dialled: String,
        /// What it is valid for
        valid_for: Vec<String>,
    },
    /// It may not be used for this
    WrongPurpose,
    /// It is not what the enrolment expects
    Enrolment(EnrolmentError),
    /// It is damaged or unusual
    Unusable,
}

impl fmt::Display for CertificateFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ours(OurCertificate::Revoked) => {
                f.write_str("our certificate was revoked; enrol again with a new join token")
            }
            Self::Ours(OurCertificate::Expired) => f.write_str(
                "our certificate has expired (or the clocks differ); enrol again with a new join token",
            ),
            Self::Ours(OurCertificate::UnknownAuthority) => f.write_str(
                "the peer does not know the authority of our certificate; is this the right cluster?",
            ),
            Self::Ours(OurCertificate::Refused) => f.write_str("the peer refused our certificate"),
            Self::Ours(OurCertificate::Missing) => {
                f.write_str("the peer requires a certificate and none was presented")
            }
            Self::Theirs(TheirCertificate::Expired) => f.write_str(
                "the peer's certificate has expired; restart the controller to renew it, or check our clock",
            ),
            Self::Theirs(TheirCertificate::NotYetValid) => {
                f.write_str("the peer's certificate is not valid yet; check our clock")
            }
            Self::Theirs(TheirCertificate::Revoked) => f.write_str("the peer's certificate was revoked"),
            Self::Theirs(TheirCertificate::UnknownAuthority) => {
                f.write_str("no trusted authority signed the peer's certificate; is this the right cluster?")
            }
            Self::Theirs(TheirCertificate::WrongName { dialled, valid_for }) => write!(
                f,
                "the peer's certificate is not valid for \"{dialled}\" (only for {}); add the name to the controller's configuration",
                valid_for.join(", ")
            ),
            Self::Theirs(TheirCertificate::WrongPurpose) => {
                f.write_str("the peer's certificate is not meant for this")
            }
            Self::Theirs(TheirCertificate::Enrolment(error)) => error.fmt(f),
            Self::Theirs(TheirCertificate::Unusable) => {
                f.write_str("the peer's certificate is damaged or of an unsupported kind")
            }
        }
    }
}

/// Finds out whether a certificate made a connection fail, and which
///
/// Give it the outermost error; everything that it wraps is looked at. `None` means that the failure has
/// another cause, such as a closed port.
#[must_use]
pub fn diagnose(error: &(dyn Error + 'static)) -> Option<CertificateFailure> {
    /// More wrappers than any library stacks; a loop of errors ends here
    const MAX_DEPTH: usize = 32;
    let mut next = Some(error);
    for _ in 0..MAX_DEPTH {
        let error = next?;
        if let Some(error) = error.downcast_ref::<rustls::Error>() {
            return classify(error);
        }
        // An io::Error hides the error that it carries: its source() is the source of that one.
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(carried) => Some(carried),
            None => error.source(),
        };
    }
    None
}

fn classify(error: &rustls::Error) -> Option<CertificateFailure> {
    match error {
        rustls::Error::AlertReceived(alert) => {
            let ours = match alert {
                AlertDescription::CertificateRevoked => OurCertificate::Revoked,
                AlertDescription::CertificateExpired => OurCertificate::Expired,
                AlertDescription::UnknownCA => OurCertificate::UnknownAuthority,
                AlertDescription::CertificateRequired => OurCertificate::Missing,
                AlertDescription::BadCertificate
                | AlertDescription::CertificateUnknown
                | AlertDescription::UnsupportedCertificate
                | AlertDescription::AccessDenied => OurCertificate::Refused,
                _ => return None,
            };
            Some(CertificateFailure::Ours(ours))
        }
        rustls::Error::InvalidCertificate(error) => Some(CertificateFailure::Theirs(match error {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => TheirCertificate::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                TheirCertificate::NotYetValid
            }
            CertificateError::Revoked => TheirCertificate::Revoked,
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                TheirCertificate::UnknownAuthority
            }
            CertificateError::NotValidForNameContext { expected, presented } => TheirCertificate::WrongName {
                dialled: expected.to_str().into_owned(),
                valid_for: presented.clone(),
            },
            CertificateError::NotValidForName => TheirCertificate::WrongName {
                dialled: String::new(),
                valid_for: Vec::new(),
            },
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                TheirCertificate::WrongPurpose
            }
            CertificateError::Other(other) => match other.0.downcast_ref::<EnrolmentError>() {
                Some(error) => TheirCertificate::Enrolment(error.clone()),
                None => TheirCertificate::Unusable,
            },
            _ => TheirCertificate::Unusable,
        })),
        _ => None,
    }
}
