//! The node's certificate while the daemon runs: it can be replaced on disk and read again

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use prexorcloud_protocol::NodeId;
use prexorcloud_security::certificate_directory::CertificateDirectory;
use prexorcloud_security::enrolment::Enrolled;
use prexorcloud_security::tls::{ClientMaterial, ClientTls, TlsError};
use prexorcloud_transport::Dialer;
use prexorcloud_transport::client::DialOptions;

use crate::enrolment::{self, EnrolmentFailure};

/// Why a certificate was not taken; the one before is still in use
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReloadError {
    /// There is none
    #[error("there is no certificate in {}", .0.display())]
    Missing(PathBuf),
    /// It cannot be read, or is not this node's
    #[error(transparent)]
    Unusable(#[from] EnrolmentFailure),
    /// TLS cannot be set up with it
    #[error("the node's certificate: {0}")]
    Tls(#[from] TlsError),
}

#[derive(Clone, Debug)]
pub(super) struct Certificates {
    node: NodeId,
    directory: CertificateDirectory,
    material: Arc<ClientMaterial>,
    /// What is in use, for connections from now on.
    enrolled: Arc<Mutex<Enrolled>>,
}

/// HTTP/2 frames of artifacts: a piece in one of them costs less than in sixteen
const ARTIFACT_FRAME: u32 = 256 * 1024;

impl Certificates {
    pub(super) fn of(node: NodeId, directory: PathBuf, enrolled: &Enrolled) -> Result<Self, TlsError> {
        Ok(Self {
            node,
            directory: CertificateDirectory::new(directory),
            material: Arc::new(ClientMaterial::new(tls(enrolled)?)),
            enrolled: Arc::new(Mutex::new(enrolled.clone())),
        })
    }

    /// Takes another one, for connections from now on
    pub(super) fn take(&self, enrolled: Enrolled) -> Result<(), TlsError> {
        self.material.replace(tls(&enrolled)?);
        *self.lock() = enrolled;
        Ok(())
    }

    pub(super) fn not_after(&self) -> SystemTime {
        self.lock().credential.leaf().not_after()
    }

    pub(super) fn issued_at(&self) -> SystemTime {
        self.lock().credential.leaf().issued_at()
    }

    /// From its issue to its end
    pub(super) fn lifetime(&self) -> Duration {
        let lifetime = self.not_after().duration_since(self.issued_at());
        lifetime.unwrap_or_default()
    }

    /// What is in use, for connections from now on
    pub(super) fn enrolled(&self) -> Enrolled {
        self.lock().clone()
    }

    /// Where it is kept
    pub(super) fn directory(&self) -> &CertificateDirectory {
        &self.directory
    }

    fn lock(&self) -> MutexGuard<'_, Enrolled> {
        self.enrolled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A dialer that takes what was read last
    pub(super) fn dialer(&self) -> Dialer {
        self.dialer_with(DialOptions::default())
    }

    /// The same for artifacts, where nothing small waits behind a long frame
    pub(super) fn dialer_of_artifacts(&self) -> Dialer {
        let mut options = DialOptions::default();
        options.max_frame = ARTIFACT_FRAME;
        self.dialer_with(options)
    }

    fn dialer_with(&self, options: DialOptions) -> Dialer {
        let material = Arc::clone(&self.material);
        Dialer::new(move || Ok(material.current()), options)
    }

    pub(super) async fn reload(&self) -> Result<(), ReloadError> {
        let enrolled = enrolment::load(&self.directory, self.node)
            .await?
            .ok_or_else(|| ReloadError::Missing(self.directory.path().to_path_buf()))?;
        Ok(self.take(enrolled)?)
    }
}

fn tls(enrolled: &Enrolled) -> Result<Arc<prexorcloud_security::rustls::ClientConfig>, TlsError> {
    ClientTls::new(&enrolled.anchors)
        .identity(&enrolled.credential)
        .build()
}
