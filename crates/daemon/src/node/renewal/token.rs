//! With a join token that is bound to this node
//!
//! It is tried when a controller refuses the present certificate, when that has expired, or when it soon will have; until then it
//! stays where it is. A token that a controller refuses is told once and not tried again by this process, and stays, too.

use std::time::Duration;

use prexorcloud_protocol::NodeId;
use prexorcloud_security::certificate_directory::CertificateDirectory;
use prexorcloud_transport::Target;
use tokio::time::Instant;

use super::super::certificates::Certificates;
use super::DAY;
use crate::config::DaemonConfig;
use crate::enrolment::{self, SpareToken};

/// Between two looks at a certificate that is due, while there is a token
const LOOK: Duration = Duration::from_secs(60);

pub(super) struct TokenRenewal {
    config: DaemonConfig,
    node: NodeId,
    targets: Vec<Target>,
    certificates: Certificates,
    token: Option<SpareToken>,
    /// Who refused the present certificate last, if nobody has taken it since.
    refused_by: Option<Target>,
    looked_at: Option<Instant>,
}

impl TokenRenewal {
    pub(super) fn new(
        config: &DaemonConfig,
        node: NodeId,
        targets: Vec<Target>,
        certificates: Certificates,
    ) -> Self {
        Self {
            config: config.clone(),
            node,
            targets,
            certificates,
            token: enrolment::spare(config),
            refused_by: None,
            looked_at: None,
        }
    }

    /// Until the next look
    pub(super) fn pause(&self) -> Duration {
        if self.token.is_some() { LOOK } else { DAY }
    }

    /// Tries the token at every controller, if the certificate is due and that is not just done
    pub(super) async fn look(&mut self, is_due: bool) {
        let now = Instant::now();
        let is_early = self.looked_at.is_some_and(|at| now.duration_since(at) < LOOK);
        if !is_due || is_early || self.token.is_none() {
            return;
        }
        self.looked_at = Some(now);
        for target in self.targets.clone() {
            if self.token.is_some() {
                self.try_token(&target).await;
            }
        }
    }

    pub(super) async fn refused(&mut self, target: Target) {
        self.try_token(&target).await;
        self.refused_by = Some(target);
    }

    pub(super) async fn configured(&mut self, config: &DaemonConfig) {
        self.token = enrolment::spare(config);
        self.config.enrolment = config.enrolment.clone();
        self.looked_at = None;
        if let Some(target) = self.refused_by.take() {
            self.refused(target).await;
        }
    }

    async fn try_token(&mut self, target: &Target) {
        let Some((token, source)) = &self.token else {
            return;
        };
        let directory = CertificateDirectory::new(self.config.certificate_dir());
        let enrolment = match enrolment::enrolment(&self.config, self.node, token) {
            Ok(enrolment) => enrolment,
            Err(error) => {
                tracing::error!("the configured join token is not tried: {error}");
                self.token = None;
                return;
            }
        };
        match enrolment.attempt_into(&directory, target).await {
            Ok(enrolled) => {
                if let Err(error) = self.certificates.take(enrolled) {
                    tracing::error!(%error, "the node's new certificate cannot be used before the next start");
                }
                enrolment::remove(source);
                self.token = None;
                self.refused_by = None;
                tracing::info!(%target, "enrolled again with the configured join token: the next connection has the new certificate");
            }
            Err(error) if error.is_transient() => {
                tracing::warn!("{error}; the configured join token is tried again");
            }
            Err(error) => {
                tracing::error!(
                    "{error}; the configured join token stays where it is and is not tried again"
                );
                self.token = None;
            }
        }
    }
}
