//! The node's certificate while the daemon runs: it can be replaced on disk and read again

use std::path::PathBuf;
use std::sync::Arc;

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

#[derive(Debug)]
pub(super) struct Certificates {
    node: NodeId,
    directory: CertificateDirectory,
    material: Arc<ClientMaterial>,
}

impl Certificates {
    pub(super) fn of(node: NodeId, directory: PathBuf, enrolled: &Enrolled) -> Result<Self, TlsError> {
        Ok(Self {
            node,
            directory: CertificateDirectory::new(directory),
            material: Arc::new(ClientMaterial::new(tls(enrolled)?)),
        })
    }

    /// A dialer that takes what was read last
    pub(super) fn dialer(&self) -> Dialer {
        let material = Arc::clone(&self.material);
        Dialer::new(move || Ok(material.current()), DialOptions::default())
    }

    pub(super) async fn reload(&self) -> Result<(), ReloadError> {
        let enrolled = enrolment::load(&self.directory, self.node)
            .await?
            .ok_or_else(|| ReloadError::Missing(self.directory.path().to_path_buf()))?;
        self.material.replace(tls(&enrolled)?);
        Ok(())
    }
}

fn tls(enrolled: &Enrolled) -> Result<Arc<prexorcloud_security::rustls::ClientConfig>, TlsError> {
    ClientTls::new(&enrolled.anchors)
        .identity(&enrolled.credential)
        .build()
}
