//! Another certificate, before the present one is no good any more, or after
//!
//! | Way | When |
//! |---|---|
//! | over the [stream](stream), with a controller that announced `renewal/1` | half of the lifetime has passed, or the controller wants it |
//! | with a join [token](token) that is bound to this node, from the configuration | a controller refuses the present one, or it has expired or soon will have |
//!
//! The end of a certificate that neither way has replaced is told each day.

mod stream;
mod token;

use std::time::{Duration, Instant, SystemTime};

use prexorcloud_proto::{AuthorityUpdate, CertificateIssued};
use prexorcloud_protocol::{Capabilities, DaemonSession, NodeId};
use prexorcloud_transport::{SessionHandle, Target, client::DialError, due};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use self::stream::StreamRenewal;
use self::token::TokenRenewal;
use super::certificates::Certificates;
use crate::config::DaemonConfig;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// From when on the end of a certificate is told each day, unless its lifetime is short
const WARN_BEFORE: Duration = Duration::from_secs(30 * 24 * 3600);

/// From when on it is told as an error
const ALARM_BEFORE: Duration = Duration::from_secs(7 * 24 * 3600);

/// A certificate that renews itself has more left than this part of its lifetime
const WARN_AT_PART: u32 = 4;

/// What may call for a certificate
#[derive(Debug)]
pub(super) enum Occasion {
    /// A controller refuses the present one, or shows one of another authority.
    Refused(Target),
    /// The configuration was read again.
    Configured(Box<DaemonConfig>),
    /// The controller has answered.
    Issued(CertificateIssued),
    /// The controller says which authorities there are.
    Authorities(AuthorityUpdate),
}

/// The stream over which certificates are renewed: its ordinal, while there is one
pub(super) type RenewingStream = watch::Receiver<Option<u64>>;

/// How the renewal hears of the session
#[derive(Debug)]
pub(super) struct Link {
    stream: watch::Sender<Option<u64>>,
    occasions: mpsc::Sender<Occasion>,
}

impl Link {
    pub(super) fn new(stream: watch::Sender<Option<u64>>, occasions: mpsc::Sender<Occasion>) -> Self {
        Self { stream, occasions }
    }

    /// A controller admitted the node on the stream with this ordinal
    pub(super) fn connected(&self, capabilities: Capabilities, ordinal: u64) {
        let renews = capabilities.contains(Capabilities::RENEWAL);
        self.stream.send_replace(renews.then_some(ordinal));
    }

    pub(super) fn disconnected(&self) {
        self.stream.send_replace(None);
    }

    /// An answer that finds no room is asked for again, and the authorities are told again on the next stream.
    pub(super) fn tell(&self, occasion: Occasion) {
        if self.occasions.try_send(occasion).is_err() {
            tracing::warn!(
                "what the controller says of certificates is not taken, since too much of it waits"
            );
        }
    }
}

/// Whether another certificate may help against this
pub(super) fn may_help(error: &DialError) -> bool {
    matches!(
        error,
        DialError::CertificateRefused { .. } | DialError::ServerUntrusted { .. }
    )
}

pub(super) struct Renewal {
    node: NodeId,
    certificates: Certificates,
    token: TokenRenewal,
    stream: StreamRenewal,
    told_at: Option<Instant>,
}

impl Renewal {
    /// `share` is the [share](prexorcloud_protocol::renewal::Renewal::new) of this process
    pub(super) fn new(
        config: &DaemonConfig,
        node: NodeId,
        targets: Vec<Target>,
        certificates: Certificates,
        session: SessionHandle<DaemonSession>,
        share: u16,
    ) -> Self {
        Self {
            node,
            token: TokenRenewal::new(config, node, targets, certificates.clone()),
            stream: StreamRenewal::new(node, certificates.clone(), session, share),
            certificates,
            told_at: None,
        }
    }

    pub(super) async fn run(mut self, mut occasions: mpsc::Receiver<Occasion>, mut linked: RenewingStream) {
        loop {
            let left = self.left();
            self.tell(left);
            self.token
                .look(left.is_none_or(|left| left < self.warn_before()))
                .await;
            self.stream.work().await;
            tokio::select! {
                occasion = occasions.recv() => match occasion {
                    None => return,
                    Some(Occasion::Refused(target)) => self.token.refused(target).await,
                    Some(Occasion::Configured(config)) => self.token.configured(&config).await,
                    Some(Occasion::Issued(issued)) => self.stream.issued(&issued).await,
                    Some(Occasion::Authorities(update)) => self.stream.authorities(&update).await,
                },
                changed = linked.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let is_linked = linked.borrow_and_update().is_some();
                    self.stream.linked(is_linked);
                }
                () = due(self.stream.poll_timeout()) => {}
                () = sleep(self.token.pause()) => {}
            }
        }
    }

    /// How long the present certificate counts; `None` = no longer
    fn left(&self) -> Option<Duration> {
        self.certificates
            .not_after()
            .duration_since(SystemTime::now())
            .ok()
    }

    fn warn_before(&self) -> Duration {
        WARN_BEFORE.min(self.certificates.lifetime() / WARN_AT_PART)
    }

    fn tell(&mut self, left: Option<Duration>) {
        let now = Instant::now();
        let told = self.told_at.is_some_and(|at| now.duration_since(at) < DAY);
        if told || left.is_some_and(|left| left >= self.warn_before()) {
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
                tracing::warn!(%node, days, "the node's certificate expires in {days} days and was not renewed: {advice}");
            }
        }
    }
}
