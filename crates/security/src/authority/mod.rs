//! The cluster's certificate authority
//!
//! One EC P-256 key signs everything: the controller's server certificate, one client certificate per node,
//! one per administrator, and revocation lists. The authority decides what a certificate says; who may have
//! one is decided before, by a join token or an operator.
//!
//! ```
//! use std::time::SystemTime;
//! use prexorcloud_security::authority::{Authority, AuthorityPolicy, ServerNames};
//!
//! let now = SystemTime::now();
//! let authority = Authority::create(&AuthorityPolicy::default(), now)?;
//! let node = authority.issue_node("node-1", now)?;
//! let server = authority.issue_server(&ServerNames::loopback().with("10.0.0.7")?, now)?;
//! assert!(node.leaf().is_signed_by(authority.certificate()));
//! assert_eq!(server.authority(), Some(authority.certificate()));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod directory;
mod request;
mod rotation;
mod server_names;

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber, string::Ia5String,
};
use rustls::pki_types::PrivatePkcs8KeyDer;
use zeroize::{Zeroize as _, Zeroizing};

pub use self::directory::{LoadError, Origin};
pub use self::request::{NodeKey, requested_key};
pub use self::rotation::{Authorities, AuthorityFolder};
pub use self::server_names::{InvalidServerName, ServerNames};
use crate::certificate::{Certificate, CertificateError, Fingerprint};
use crate::credential::{Credential, CredentialError};
use crate::identity::URI_SCHEME;
use crate::name::{CONTROLLER_NAME, excerpt, is_host_name, is_safe_name};
use crate::pem::{self, KeyPemError};
use crate::random::{self, NoRandomness};
use crate::revocation::{Crl, RevocationList};
use crate::trust::TrustAnchors;
use crate::validity::{to_unix_millis, to_x509};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Largest certificate signing request that is read, in bytes of DER
pub const MAX_REQUEST_LEN: usize = 4 * 1024;

/// How long certificates live
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AuthorityPolicy {
    /// Lifetime of the authority itself; default 3650 days
    pub authority_lifetime: Duration,
    /// Lifetime of a node's certificate; default 365 days
    pub node_lifetime: Duration,
    /// Lifetime of an administrator's certificate; default 365 days
    pub admin_lifetime: Duration,
    /// Lifetime of the controller's server certificate; default 365 days
    pub server_lifetime: Duration,
    /// How far before the issue a certificate starts to count, for peers whose clock runs late; default 1
    /// hour
    pub backdate: Duration,
    /// How long a revocation list counts before its successor must be fetched; default 7 days
    pub crl_lifetime: Duration,
}

impl Default for AuthorityPolicy {
    fn default() -> Self {
        Self {
            authority_lifetime: 3650 * DAY,
            node_lifetime: 365 * DAY,
            admin_lifetime: 365 * DAY,
            server_lifetime: 365 * DAY,
            backdate: Duration::from_secs(60 * 60),
            crl_lifetime: 7 * DAY,
        }
    }
}

/// A certificate authority with its private key
///
/// The key never leaves this type except through [`Authority::key_pem`].
pub struct Authority {
    certificate: Certificate,
    issuer: Issuer<'static, ZeroizingKey>,
    policy: AuthorityPolicy,
}

/// Why the authority does not issue
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IssueError {
    /// The node id or administrator's name is not a safe name
    #[error(
        "\"{name}\" cannot be certified: a name is 1 to 64 of a-z, A-Z, 0-9, '.', '_', '-' and starts with a letter or digit"
    )]
    UnsafeName {
        /// The start of the name
        name: String,
    },
    /// The node id is the controller's name
    #[error("\"{CONTROLLER_NAME}\" is the controller's name and cannot be a node id")]
    ReservedName,
    /// The authority's own certificate is not valid at this time
    #[error(
        "the certificate authority is not valid now (wrong clock, or it has expired and must be replaced)"
    )]
    AuthorityNotValid,
    /// The clock or a lifetime lies outside what certificates can express
    #[error(
        "the validity period cannot be expressed in a certificate; check the clock and the configured lifetimes"
    )]
    BadValidity,
    /// The signing request does not parse or its signature is wrong
    #[error("the certificate signing request is damaged or its signature does not hold")]
    BadRequest,
    /// The signing request asks for a key that is not P-256
    #[error("the certificate signing request must carry an EC P-256 key")]
    UnsupportedKey,
    /// No random bytes for a key or a serial number
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    /// The cryptographic provider failed
    #[error("the cryptographic provider could not sign: {0}")]
    Provider(#[from] rcgen::Error),
    /// What was signed does not read back as intended
    #[error("the issued certificate does not hold: {0}")]
    SelfCheck(#[from] CredentialError),
    /// What was signed does not parse
    #[error("the issued certificate does not parse: {0}")]
    Unreadable(#[from] CertificateError),
}

/// Why a certificate and a key do not make an authority
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuthorityError {
    /// The certificate does not parse
    #[error("the authority's certificate: {0}")]
    Certificate(#[from] CertificateError),
    /// The certificate may not sign others
    #[error("the certificate of \"{subject}\" is not a certificate authority")]
    NotAnAuthority {
        /// Its subject
        subject: String,
    },
    /// The key file does not parse
    #[error("the authority's key: {0}")]
    KeyFile(#[from] KeyPemError),
    /// The key is not EC P-256
    #[error("the authority's key is damaged or not EC P-256")]
    BadKey,
    /// The key belongs to another certificate
    #[error("the authority's key does not belong to its certificate")]
    KeyMismatch,
}

/// What a certificate is for
enum Purpose<'a> {
    Node { id: &'a str },
    Admin { name: &'a str },
    Server { names: &'a ServerNames },
}

impl Authority {
    /// Creates an authority with a fresh key, valid from `now` (backdated)
    ///
    /// Its name ends in random digits: readers link certificates by name, and two authorities of one name
    /// would be confused during a rotation.
    ///
    /// # Errors
    /// [`IssueError`] when randomness is missing or the dates cannot be expressed.
    pub fn create(policy: &AuthorityPolicy, now: SystemTime) -> Result<Self, IssueError> {
        let key = new_key()?;
        let mut params = CertificateParams::default();
        let suffix = u32::from_be_bytes(random::bytes()?);
        let name = format!("PrexorCloud Cluster CA {suffix:08x}");
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(new_serial()?);
        let end = now
            .checked_add(policy.authority_lifetime)
            .ok_or(IssueError::BadValidity)?;
        params.not_before = now
            .checked_sub(policy.backdate)
            .and_then(to_x509)
            .ok_or(IssueError::BadValidity)?;
        params.not_after = to_x509(end).ok_or(IssueError::BadValidity)?;
        let certificate = Certificate::from_der(params.self_signed(&key)?.der())?;
        Self::assemble(certificate, key, policy.clone()).map_err(|_| IssueError::UnsupportedKey)
    }

    /// Goes on with an existing authority: ours, or one taken over from a Java controller
    ///
    /// # Errors
    /// [`AuthorityError`] when a text does not parse or the two do not belong together.
    pub fn from_pem(certificate: &str, key: &str, policy: &AuthorityPolicy) -> Result<Self, AuthorityError> {
        let certificate = Certificate::from_pem(certificate)?;
        if !certificate.is_authority() {
            return Err(AuthorityError::NotAnAuthority {
                subject: certificate.subject().to_owned(),
            });
        }
        let pkcs8 = pem::private_key(key)?;
        match Credential::new(vec![certificate.clone()], pkcs8.clone()) {
            Ok(_) => {}
            Err(CredentialError::KeyMismatch { .. }) => return Err(AuthorityError::KeyMismatch),
            Err(_) => return Err(AuthorityError::BadKey),
        }
        Self::assemble(certificate, parse_key(&pkcs8)?, policy.clone())
    }

    fn assemble(
        certificate: Certificate,
        key: KeyPair,
        policy: AuthorityPolicy,
    ) -> Result<Self, AuthorityError> {
        let issuer = Issuer::from_ca_cert_der(certificate.der(), ZeroizingKey(key))
            .map_err(|_| AuthorityError::BadKey)?;
        Ok(Self {
            certificate,
            issuer,
            policy,
        })
    }

    /// The authority's own certificate
    #[must_use]
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// SHA-256 of the authority's certificate: the pin of join tokens
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.certificate.fingerprint()
    }

    /// The authority's private key as PKCS#8 in PEM; the most valuable secret of a cluster
    #[must_use]
    pub fn key_pem(&self) -> Zeroizing<String> {
        pem::encode("PRIVATE KEY", self.issuer.key().0.serialized_der())
    }

    /// This authority as the only trust anchor
    ///
    /// # Errors
    /// Never in practice: an authority's certificate is an authority's.
    pub fn trust_anchors(&self) -> Result<TrustAnchors, crate::trust::TrustError> {
        TrustAnchors::new([self.certificate.clone()])
    }

    /// Issues a key and a client certificate for a node
    ///
    /// The node id becomes the common name, and a DNS name or address where it reads as one.
    ///
    /// # Errors
    /// [`IssueError::UnsafeName`], [`IssueError::ReservedName`], or a failure of the provider.
    pub fn issue_node(&self, node_id: &str, now: SystemTime) -> Result<Credential, IssueError> {
        self.issue(&Purpose::Node { id: node_id }, now)
    }

    /// Issues a key and a client certificate for an administrator
    ///
    /// # Errors
    /// [`IssueError::UnsafeName`] or a failure of the provider.
    pub fn issue_admin(&self, name: &str, now: SystemTime) -> Result<Credential, IssueError> {
        self.issue(&Purpose::Admin { name }, now)
    }

    /// Issues a key and a server certificate for the controller, valid for all of `names`
    ///
    /// # Errors
    /// [`IssueError`] when the provider fails.
    pub fn issue_server(&self, names: &ServerNames, now: SystemTime) -> Result<Credential, IssueError> {
        self.issue(&Purpose::Server { names }, now)
    }

    /// Signs a node's own key, so that the private key never leaves the node
    ///
    /// Only the key is taken from the request. What the certificate says comes from `node_id`, whatever the
    /// request asks for. Returns the chain: leaf, then this authority.
    ///
    /// # Errors
    /// [`IssueError::BadRequest`] or [`IssueError::UnsupportedKey`] for the request, otherwise as
    /// [`Authority::issue_node`].
    pub fn sign_node_request(
        &self,
        csr_der: &[u8],
        node_id: &str,
        now: SystemTime,
    ) -> Result<Vec<Certificate>, IssueError> {
        let mut request = request::parse_request(csr_der)?;
        request.params = self.params(&Purpose::Node { id: node_id }, now)?;
        let leaf = Certificate::from_der(request.signed_by(&self.issuer)?.der())?;
        Ok(vec![leaf, self.certificate.clone()])
    }

    /// Signs the serial numbers of `list` as an X.509 revocation list, for programs that read those
    ///
    /// `number` must grow with every list. Revocations of whole nodes have no serial number and cannot be
    /// expressed: our own TLS verifier reads the [`RevocationList`] itself.
    ///
    /// # Errors
    /// [`IssueError`] when the dates cannot be expressed or the provider fails.
    pub fn sign_crl(&self, list: &RevocationList, number: u64, now: SystemTime) -> Result<Crl, IssueError> {
        let next_update = now
            .checked_add(self.policy.crl_lifetime)
            .ok_or(IssueError::BadValidity)?;
        let revoked_certs = list
            .serials()
            .map(|revoked| {
                Ok(RevokedCertParams {
                    serial_number: SerialNumber::from_slice(revoked.serial.as_bytes()),
                    revocation_time: to_x509(revoked.revoked_at).ok_or(IssueError::BadValidity)?,
                    reason_code: None,
                    invalidity_date: None,
                })
            })
            .collect::<Result<Vec<_>, IssueError>>()?;
        let params = CertificateRevocationListParams {
            this_update: to_x509(now).ok_or(IssueError::BadValidity)?,
            next_update: to_x509(next_update).ok_or(IssueError::BadValidity)?,
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs,
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        Ok(Crl::new(
            params.signed_by(&self.issuer)?.der().clone(),
            now,
            next_update,
        ))
    }

    fn issue(&self, purpose: &Purpose<'_>, now: SystemTime) -> Result<Credential, IssueError> {
        let params = self.params(purpose, now)?;
        let mut key = new_key()?;
        let leaf = Certificate::from_der(params.signed_by(&key, &self.issuer)?.der())?;
        let pkcs8 = Zeroizing::new(key.serialize_der());
        key.zeroize();
        // Joining them checks the signature and the key once more before anyone is given them.
        Ok(Credential::new(vec![leaf, self.certificate.clone()], pkcs8)?)
    }

    fn params(&self, purpose: &Purpose<'_>, now: SystemTime) -> Result<CertificateParams, IssueError> {
        if !self.certificate.is_valid_at(now) {
            return Err(IssueError::AuthorityNotValid);
        }
        let safe = |name: &str| match is_safe_name(name) {
            true => Ok(()),
            false => Err(IssueError::UnsafeName { name: excerpt(name) }),
        };
        let issued = to_unix_millis(now);
        let (common_name, names, usage, lifetime) = match purpose {
            Purpose::Node { id } => {
                safe(id)?;
                if *id == CONTROLLER_NAME {
                    return Err(IssueError::ReservedName);
                }
                let mut names = vec![uri(&format!("{URI_SCHEME}node/{id}?issued={issued}"))?];
                if let Ok(address) = id.parse::<IpAddr>() {
                    names.push(SanType::IpAddress(address));
                } else if is_host_name(id) {
                    names.push(dns(id)?);
                }
                (
                    (*id).to_owned(),
                    names,
                    ExtendedKeyUsagePurpose::ClientAuth,
                    self.policy.node_lifetime,
                )
            }
            Purpose::Admin { name } => {
                safe(name)?;
                let names = vec![uri(&format!("{URI_SCHEME}admin/{name}?issued={issued}"))?];
                (
                    format!("admin:{name}"),
                    names,
                    ExtendedKeyUsagePurpose::ClientAuth,
                    self.policy.admin_lifetime,
                )
            }
            Purpose::Server { names } => {
                let addresses = names.addresses().map(|address| Ok(SanType::IpAddress(address)));
                let names = names
                    .hosts()
                    .map(dns)
                    .chain(addresses)
                    .collect::<Result<Vec<_>, IssueError>>()?;
                (
                    CONTROLLER_NAME.to_owned(),
                    names,
                    ExtendedKeyUsagePurpose::ServerAuth,
                    self.policy.server_lifetime,
                )
            }
        };
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.subject_alt_names = names;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(new_serial()?);
        let authority = self.certificate.validity();
        let start = now
            .checked_sub(self.policy.backdate)
            .ok_or(IssueError::BadValidity)?
            .max(authority.not_before);
        // A leaf that outlives its authority would fail at a moment nobody planned for.
        let end = now
            .checked_add(lifetime)
            .ok_or(IssueError::BadValidity)?
            .min(authority.not_after);
        params.not_before = to_x509(start).ok_or(IssueError::BadValidity)?;
        params.not_after = to_x509(end).ok_or(IssueError::BadValidity)?;
        Ok(params)
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("certificate", &self.certificate)
            .field("key", &"[secret]")
            .finish()
    }
}

/// A key pair whose serialised form is wiped when dropped
struct ZeroizingKey(KeyPair);

impl Drop for ZeroizingKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl rcgen::PublicKeyData for ZeroizingKey {
    fn der_bytes(&self) -> &[u8] {
        self.0.der_bytes()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        self.0.algorithm()
    }
}

impl rcgen::SigningKey for ZeroizingKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0.sign(message)
    }
}

fn new_key() -> Result<KeyPair, IssueError> {
    Ok(KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?)
}

fn parse_key(pkcs8: &[u8]) -> Result<KeyPair, AuthorityError> {
    let der = PrivatePkcs8KeyDer::from(pkcs8);
    KeyPair::from_pkcs8_der_and_sign_algo(&der, &rcgen::PKCS_ECDSA_P256_SHA256)
        .map_err(|_| AuthorityError::BadKey)
}

/// 128 random bits, positive and never zero: the first octet lies between 0x40 and 0x7f
fn new_serial() -> Result<SerialNumber, NoRandomness> {
    let mut octets = random::bytes::<16>()?;
    octets[0] = octets[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&octets))
}

fn ia5(text: &str) -> Result<Ia5String, IssueError> {
    Ok(Ia5String::try_from(text)?)
}

fn uri(text: &str) -> Result<SanType, IssueError> {
    Ok(SanType::URI(ia5(text)?))
}

fn dns(text: &str) -> Result<SanType, IssueError> {
    Ok(SanType::DnsName(ia5(text)?))
}
