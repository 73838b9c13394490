//! Another certificate, when the present one is no good any more or soon will not be
//!
//! Needs a join token that is bound to this node, from the configuration. It is tried when a controller refuses the present
//! certificate, when that has expired, or when it expires within [`WARN_BEFORE`]; until then it stays where it is. A token
//! that a controller refuses is told once and not tried again by this process, and stays, too.

use std::time::{Duration, SystemTime};

use prexorcloud_protocol::NodeId;
use prexorcloud_security::certificate_directory::CertificateDirectory;
use prexorcloud_transport::{Target, client::DialError};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::certificates::Certificates;
use crate::config::DaemonConfig;
use crate::enrolment::{self, SpareToken};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// From when on the end of a certificate is told each day
const WARN_BEFORE: Duration = Duration::from_secs(30 * 24 * 3600);

/// From when on it is told as an error
const ALARM_BEFORE: Duration = Duration::from_secs(7 * 24 * 3600);

/// Between two looks at a certificate that is due, while there is a token
const LOOK: Duration = Duration::from_secs(60);

/// What may call for a certificate
#[derive(Debug)]
pub(super) enum Occasion {
    /// A controller refuses the present one, or shows one of another authority.
    Refused(Target),
    /// The configuration was read again.
    Configured(Box<DaemonConfig>),
}

/// Whether another certificate may help against this
pub(super) fn may_help(error: &DialError) -> bool {
    matches!(
        error,
        DialError::CertificateRefused { .. } | DialError::ServerUntrusted { .. }
    )
}

pub(super) struct Renewal {
    config: DaemonConfig,
    node: NodeId,
    targets: Vec<Target>,
    certificates: Certificates,
    token: Option<SpareToken>,
    /// Who refused the present certificate last, if nobody has taken it since.
    refused_by: Option<Target>,
    told_at: Option<Instant>,
}

impl Renewal {
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
            told_at: None,
        }
    }

    pub(super) async fn run(mut self, mut occasions: mpsc::Receiver<Occasion>) {
        loop {
            let left = self.left();
            self.tell(left);
            if left.is_none_or(|left| left < WARN_BEFORE) && self.token.is_some() {
                for target in self.targets.clone() {
                    if self.token.is_some() {
                        self.try_token(&target).await;
                    }
                }
            }
            let wait = if self.token.is_some() { LOOK } else { DAY };
            tokio::select! {
                occasion = occasions.recv() => match occasion {
                    None => return,
                    Some(Occasion::Refused(target)) => {
                        self.try_token(&target).await;
                        self.refused_by = Some(target);
                    }
                    Some(Occasion::Configured(config)) => {
                        self.token = enrolment::spare(&config);
                        self.config.enrolment = config.enrolment;
                        if let Some(target) = self.refused_by.take() {
                            self.try_token(&target).await;
                            self.refused_by = Some(target);
                        }
                    }
                },
                () = sleep_until(Instant::now() + wait) => {}
            }
        }
    }

    /// How long the present certificate counts; `None` = no longer
    fn left(&self) -> Option<Duration> {
        let end = self.certificates.not_after();
        end.duration_since(SystemTime::now()).ok()
    }

    fn tell(&mut self, left: Option<Duration>) {
        let now = Instant::now();
        let told = self.told_at.is_some_and(|at| now.duration_since(at) < DAY);
        if told || left.is_some_and(|left| left >= WARN_BEFORE) {
            return;
        }
        self.told_at = Some(now);
        let node = self.node;
        let advice = format!(
            "`prexorctl token create --node {node}`, set enrolment.join_token, and send SIGHUP or start the daemon again"
        );
        match left.map(|left| (left, left.as_secs() / DAY.as_secs())) {
            None => tracing::error!(%node, "the node's certificate has expired: {advice}"),
            Some((left, days)) if left < ALARM_BEFORE => {
                tracing::error!(%node, days, "the node's certificate expires within 7 days, and the node is lost to its controller then: {advice}");
            }
            Some((_, days)) => {
                tracing::warn!(%node, days, "the node's certificate expires within 30 days: {advice}");
            }
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
                if let Err(error) = self.certificates.take(&enrolled) {
                    tracing::error!(%error, "the node's new certificate cannot be used before the next start");
                }
                enrolment::remove(source);
                self.token = None;
                self.refused_by = None;
                self.told_at = None;
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
