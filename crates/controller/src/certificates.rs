//! Which certificates no longer count, and the server's own
//!
//! Revocations live in the store; TLS handshakes and calls read a copy in memory. Revoking a node names every
//! certificate that was issued to it until now, closes its session and cuts its connections. A node that enrols again
//! afterwards gets a certificate that counts.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock, PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use prexorcloud_protocol::{Close, Code, NodeId};
use prexorcloud_security::{
    authority::{Authorities, InvalidServerName, IssueError, ServerNames},
    certificate::Certificate,
    credential::Credential,
    identity::PeerIdentity,
    revocation::{RevocationList, RevokedNode, RevokedSerial, SharedRevocations},
    rustls::ServerConfig,
    tls::{Reloadable, ServerTls, TlsError},
    trust::TrustError,
};
use prexorcloud_transport::ServerHandle;

use crate::{
    audit,
    authorities::SharedAuthorities,
    nodes::{NodeView, Nodes, OrderError},
    records::{CertificateRecord, NodeRecord, NodeRevocationRecord},
    store::{self, Expect, Record as _, Store, StoreError, Txn},
    wall_clock::{from_millis, now_millis},
};

/// Longest validity of a node's certificate: what a revocation outlives
const LONGEST_VALIDITY: Duration = Duration::from_secs(366 * 24 * 3600);

/// A day in milliseconds
pub(crate) const DAY_MS: i64 = 24 * 3600 * 1000;

/// How long a session that is told that its certificate is revoked has to take note
const FAREWELL: Duration = Duration::from_millis(500);

/// Times that a revocation is tried anew because certificates were issued meanwhile
const ATTEMPTS: usize = 8;

/// Why there is no server certificate
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerCertificateError {
    /// One of `grpc.names` is no host name or address
    #[error("grpc.names: {0}")]
    Name(#[source] InvalidServerName),
    /// The machine's own names cannot be found out
    #[error("the addresses of this machine cannot be listed: {0}")]
    Interfaces(#[source] std::io::Error),
    /// It could not be issued
    #[error("the server certificate cannot be issued: {0}")]
    Issue(#[from] IssueError),
    /// The authority cannot be trusted
    #[error("the server certificate cannot be used: {0}")]
    Trust(#[from] TrustError),
    /// TLS cannot be set up with it
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] TlsError),
}

/// The server's certificate, renewed in time, and the TLS configuration with it
pub(crate) struct ServerCertificate {
    authorities: SharedAuthorities,
    /// Names beyond those of this machine
    configured: RwLock<Vec<String>>,
    revocations: SharedRevocations,
    credential: RwLock<Credential>,
    config: Reloadable<ServerConfig>,
}

impl ServerCertificate {
    /// Issues a certificate for this machine's names and the `configured` ones
    ///
    /// Its key is never written down, so each start has its own.
    pub(crate) fn issue(
        authorities: SharedAuthorities,
        configured: Vec<String>,
        revocations: SharedRevocations,
    ) -> Result<Self, ServerCertificateError> {
        let (credential, config) = issue(&authorities.current(), &names(&configured)?, &revocations)?;
        let (credential, config) = (RwLock::new(credential), Reloadable::new(config));
        Ok(Self {
            authorities,
            configured: RwLock::new(configured),
            revocations,
            credential,
            config,
        })
    }

    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        self.config.current()
    }

    /// Replaces the certificate when half of its time has passed, when the machine has an address that it does not
    /// name, or when another authority signs; says whether it did
    pub(crate) fn renew_if_due(&self, now: SystemTime) -> Result<bool, ServerCertificateError> {
        let names = names(&self.configured.read().unwrap_or_else(PoisonError::into_inner))?;
        let serves_on = {
            let credential = self.credential.read().unwrap_or_else(PoisonError::into_inner);
            let (leaf, authorities) = (credential.leaf(), self.authorities.current());
            let is_of_signer = leaf.is_signed_by(authorities.signer.certificate());
            is_of_signer && !leaf.renewal_due(now) && names.are_covered_by(leaf)
        };
        if serves_on {
            return Ok(false);
        }
        self.replace(&names)?;
        Ok(true)
    }

    /// Until when it counts
    pub(crate) fn not_after(&self) -> SystemTime {
        let credential = self.credential.read().unwrap_or_else(PoisonError::into_inner);
        credential.leaf().not_after()
    }

    /// Issues another certificate by the authority that signs now, for the same names
    pub(crate) fn renew(&self) -> Result<(), ServerCertificateError> {
        let names = names(&self.configured.read().unwrap_or_else(PoisonError::into_inner))?;
        self.replace(&names)
    }

    /// Issues another certificate, for this machine's names and the `configured` ones from now on
    pub(crate) fn reissue(&self, configured: Vec<String>) -> Result<(), ServerCertificateError> {
        self.replace(&names(&configured)?)?;
        *self.configured.write().unwrap_or_else(PoisonError::into_inner) = configured;
        Ok(())
    }

    fn replace(&self, names: &ServerNames) -> Result<(), ServerCertificateError> {
        let (credential, config) = issue(&self.authorities.current(), names, &self.revocations)?;
        self.config.replace(config);
        *self.credential.write().unwrap_or_else(PoisonError::into_inner) = credential;
        Ok(())
    }
}

fn names(configured: &[String]) -> Result<ServerNames, ServerCertificateError> {
    let local = ServerNames::local().map_err(ServerCertificateError::Interfaces)?;
    let all = configured.iter().try_fold(local, |names, name| names.with(name));
    all.map_err(ServerCertificateError::Name)
}

fn issue(
    authorities: &Authorities,
    names: &ServerNames,
    revocations: &SharedRevocations,
) -> Result<(Credential, Arc<ServerConfig>), ServerCertificateError> {
    let credential = authorities.signer.issue_server(names, SystemTime::now())?;
    let config = ServerTls::new(&credential, &authorities.anchors()?)
        .revocations(revocations)
        .build()?;
    Ok((credential, config))
}

/// What a revocation did
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Revoked {
    pub(crate) serials: Vec<String>,
    pub(crate) closed_connections: usize,
}

/// The certificates of nodes
pub(crate) struct Certificates {
    store: Arc<dyn Store>,
    revocations: SharedRevocations,
    nodes: Arc<Nodes>,
    /// Set once it serves
    server: OnceLock<ServerHandle>,
}

/// Reads what is revoked
pub(crate) async fn load_revocations(store: &dyn Store) -> Result<RevocationList, StoreError> {
    let mut list = RevocationList::new();
    for stored in store::load_all::<CertificateRecord>(store).await?.0 {
        let CertificateRecord {
            serial,
            revoked_at_ms,
            expires_at_ms,
            ..
        } = stored.record;
        if revoked_at_ms == 0 {
            continue;
        }
        match serial.parse() {
            Ok(serial) => list.revoke_serial(RevokedSerial {
                serial,
                revoked_at: from_millis(revoked_at_ms),
                not_after: from_millis(expires_at_ms),
            }),
            Err(error) => tracing::error!(serial, %error, "a revoked serial number cannot be read"),
        }
    }
    for stored in store::load_all::<NodeRevocationRecord>(store).await?.0 {
        let issued_until = from_millis(stored.record.issued_before_ms);
        list.revoke_node(RevokedNode {
            node_id: stored.record.node_id,
            issued_until,
            not_after: issued_until + LONGEST_VALIDITY,
        });
    }
    Ok(list)
}

impl Certificates {
    pub(crate) fn new(store: Arc<dyn Store>, revocations: SharedRevocations, nodes: Arc<Nodes>) -> Self {
        Self {
            store,
            revocations,
            nodes,
            server: OnceLock::new(),
        }
    }

    /// From now on, connections of this server are cut
    pub(crate) fn serve(&self, server: ServerHandle) {
        let _once = self.server.set(server);
    }

    /// Ends the session and the connections of a node that has enrolled again, which are of its former certificate
    pub(crate) async fn cut_superseded(self: &Arc<Self>, node: NodeId) {
        let close = Close::new(
            Code::PermissionDenied,
            "this node has enrolled again, and the client certificate of before no longer counts",
        );
        match self.nodes.close(node, close).await {
            Ok(()) | Err(OrderError::UnknownNode) => {}
            Err(error) => {
                tracing::warn!(%node, %error, "the session of a superseded certificate could not be closed, its connections are cut");
            }
        }
        let certificates = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep(FAREWELL).await;
            certificates.cut_revoked();
        });
    }

    /// Revokes every certificate that was issued to a node until now
    pub(crate) async fn revoke_node(&self, actor: &str, node: NodeId) -> Result<Revoked, OrderError> {
        let id = node.as_str();
        if store::load::<NodeRecord>(&*self.store, id).await?.is_none() {
            return Err(OrderError::UnknownNode);
        }
        let serials = self.record_revocation(actor, id).await?;
        self.revocations.merge(&load_revocations(&*self.store).await?);
        let close = Close::new(
            Code::PermissionDenied,
            "the client certificate is revoked; enrol with a new join token",
        );
        if let Err(error) = self.nodes.close(node, close).await {
            tracing::warn!(%node, %error, "the session of a revoked node could not be closed, its connections are cut");
        }
        // The daemon should read why before the connection goes away.
        tokio::time::sleep(FAREWELL).await;
        let closed_connections = self.cut_revoked();
        let given_up = self.give_up_all(node).await;
        tracing::warn!(%node, serials = serials.len(), given_up, "the certificates of a node were revoked");
        if closed_connections > 0 {
            tracing::warn!(%node, closed_connections, "connections that did not end by themselves were cut");
        }
        Ok(Revoked {
            serials,
            closed_connections,
        })
    }

    /// Frees what the node has claimed, once its session is over; says how many instances that were
    async fn give_up_all(&self, node: NodeId) -> usize {
        let mut attempts = ATTEMPTS;
        loop {
            match self.nodes.give_up_all(node).await {
                Ok(count) => return count,
                // Its connection has just been cut.
                Err(OrderError::Conflict(_)) if attempts > 0 => {
                    attempts -= 1;
                    tokio::time::sleep(FAREWELL / 2).await;
                }
                Err(error) => {
                    tracing::warn!(%node, %error, "the instances of a revoked node could not be given up");
                    return 0;
                }
            }
        }
    }

    async fn record_revocation(&self, actor: &str, node: &str) -> Result<Vec<String>, OrderError> {
        for _ in 0..ATTEMPTS {
            let now = now_millis();
            let revocation = NodeRevocationRecord {
                node_id: node.to_owned(),
                issued_before_ms: now,
            };
            let audit = audit::entry(actor, "node.revoke-certificates", node, "");
            let mut txn = Txn::new().put_record(&revocation).put_record(&audit);
            let mut serials = Vec::new();
            for stored in store::load_all::<CertificateRecord>(&*self.store).await?.0 {
                // What is left out is revoked by the node's record all the same.
                if stored.record.node_id == node
                    && stored.record.revoked_at_ms == 0
                    && serials.len() < Txn::MAX_OPERATIONS / 2 - 2
                {
                    serials.push(stored.record.serial.clone());
                    let revoked = CertificateRecord {
                        revoked_at_ms: now,
                        ..stored.record
                    };
                    txn = txn.replace(stored.revision, &revoked);
                }
            }
            if self.store.txn(txn).await?.committed().is_some() {
                return Ok(serials);
            }
        }
        Err(OrderError::Conflict(
            "certificates are being issued to this node, try again".to_owned(),
        ))
    }

    /// Cuts every connection whose certificate this authority has signed; says how many
    pub(crate) fn cut_signed_by(&self, authority: &Certificate) -> usize {
        let Some(server) = self.server.get() else {
            return 0;
        };
        server.close_where(|peer| {
            let certificate = peer.certificate().map(Certificate::from_der);
            certificate.is_some_and(|certificate| {
                certificate.is_ok_and(|certificate| certificate.is_signed_by(authority))
            })
        })
    }

    /// Cuts every connection whose certificate no longer counts
    fn cut_revoked(&self) -> usize {
        let revocations = self.revocations.current();
        let Some(server) = self.server.get() else {
            return 0;
        };
        server.close_where(|peer| {
            let identity = peer.certificate().map(PeerIdentity::from_der);
            identity
                .is_some_and(|identity| identity.is_ok_and(|peer| revocations.is_revoked(&peer).is_some()))
        })
    }
}

/// How near the end of a certificate is
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Nearness {
    /// Past
    Expired,
    /// It should have been renewed long ago, and soon cannot be
    Alarming,
    /// It should have been renewed
    Overdue,
}

impl Nearness {
    /// Of a certificate that has `left_ms` left; `None` while there is nothing to tell
    ///
    /// 30 and 7 days before the end, and no more than a quarter and a sixteenth of the lifetime: one that renews itself is not told of.
    fn of(left_ms: i64, lifetime: Duration) -> Option<Self> {
        let lifetime_ms = i64::try_from(lifetime.as_millis()).unwrap_or(i64::MAX);
        match left_ms {
            ..=0 => Some(Self::Expired),
            left if left <= (7 * DAY_MS).min(lifetime_ms / 16) => Some(Self::Alarming),
            left if left <= (30 * DAY_MS).min(lifetime_ms / 4) => Some(Self::Overdue),
            _ => None,
        }
    }
}

/// Which ends of certificates were told already
#[derive(Debug, Default)]
pub(crate) struct ToldExpiries(BTreeMap<String, Nearness>);

impl ToldExpiries {
    /// Tells of the certificates that were not renewed and expire soon, or have, each once
    ///
    /// `lifetime` is that of certificates that are issued now.
    pub(crate) fn tell(&mut self, nodes: &[NodeView], now_ms: i64, lifetime: Duration) {
        let mut told = BTreeMap::new();
        for view in nodes {
            let (node, expires_at_ms) = (&view.record.node_id, view.record.certificate_expires_at_ms);
            if expires_at_ms == 0 {
                continue;
            }
            let left = expires_at_ms - now_ms;
            let Some(nearness) = Nearness::of(left, lifetime) else {
                continue;
            };
            told.insert(node.clone(), nearness);
            if self.0.get(node) == Some(&nearness) {
                continue;
            }
            let days = left / DAY_MS;
            match nearness {
                Nearness::Expired => tracing::error!(
                    node,
                    "the certificate of a node has expired: it cannot connect; give its daemon a join token that is bound to it (`prexorctl token create --node {node}`)"
                ),
                Nearness::Alarming => tracing::error!(
                    node,
                    days,
                    "the certificate of a node expires soon: give its daemon a join token that is bound to it (`prexorctl token create --node {node}`)"
                ),
                Nearness::Overdue => tracing::warn!(
                    node,
                    days,
                    "the certificate of a node was not renewed and expires in {days} days: give its daemon a join token that is bound to it (`prexorctl token create --node {node}`)"
                ),
            }
        }
        // A node that has another certificate, or is gone, is told anew when it is time.
        self.0 = told;
    }
}

/// Forgets certificates that expired a while ago, and revocations that only concern such; says how many
pub(crate) async fn prune(store: &dyn Store, now: SystemTime) -> Result<usize, StoreError> {
    // A peer's clock may run late.
    let leeway = Duration::from_secs(7 * 24 * 3600);
    let mut pruned = 0;
    let mut forget = Vec::new();
    for stored in store::load_all::<CertificateRecord>(store).await?.0 {
        if from_millis(stored.record.expires_at_ms) + leeway < now {
            forget.push((stored.record.key(), stored.revision));
        }
    }
    for stored in store::load_all::<NodeRevocationRecord>(store).await?.0 {
        if from_millis(stored.record.issued_before_ms) + LONGEST_VALIDITY + leeway < now {
            forget.push((stored.record.key(), stored.revision));
        }
    }
    for (key, revision) in forget {
        let txn = Txn::new().expect(key.clone(), Expect::At(revision)).delete(key);
        pruned += usize::from(store.txn(txn).await?.committed().is_some());
    }
    Ok(pruned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::NodeRecord;

    #[test]
    fn the_end_of_a_certificate_is_told_once_for_each_threshold() {
        let node = |days: i64| NodeView {
            record: NodeRecord {
                node_id: "node-1".to_owned(),
                certificate_expires_at_ms: days * DAY_MS,
                ..NodeRecord::default()
            },
            ..NodeView::default()
        };
        let year = Duration::from_secs(365 * 24 * 3600);
        let mut told = ToldExpiries::default();
        let mut after = |days, now| {
            told.tell(&[node(days)], now * DAY_MS, year);
            told.0.get("node-1").copied()
        };
        assert_eq!(after(100, 0), None);
        assert_eq!(after(100, 71), Some(Nearness::Overdue));
        assert_eq!(after(100, 94), Some(Nearness::Alarming));
        assert_eq!(after(100, 100), Some(Nearness::Expired));
        // It enrolled again.
        assert_eq!(after(465, 101), None);
        told.tell(&[], 0, year);
        assert!(told.0.is_empty());
    }

    #[test]
    fn a_short_lifetime_is_told_of_when_a_quarter_is_left() {
        let fortnight = Duration::from_secs(14 * 24 * 3600);
        assert_eq!(Nearness::of(4 * DAY_MS, fortnight), None);
        assert_eq!(Nearness::of(3 * DAY_MS, fortnight), Some(Nearness::Overdue));
        assert_eq!(Nearness::of(DAY_MS / 2, fortnight), Some(Nearness::Alarming));
        assert_eq!(Nearness::of(0, fortnight), Some(Nearness::Expired));
    }
}
