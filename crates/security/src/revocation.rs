//! Which certificates no longer count, although they have not expired
//!
//! A certificate is revoked by its serial number. A node is revoked as a whole by a moment: everything issued
//! to it up to then stops counting, and a certificate that it gets afterwards does count, so a node that
//! enrols again is not locked out.
//!
//! The TLS verifier of [`crate::tls`] reads the shared list at each handshake. Connections that are open
//! already are the controller's part: it asks [`RevocationList::is_revoked`] for each and closes those.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::pki_types::CertificateRevocationListDer;

use crate::certificate::Serial;
use crate::identity::PeerIdentity;

/// Revoked serial numbers and nodes, at one moment
///
/// A plain value: build it from the store, change it, and publish it with [`SharedRevocations::replace`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RevocationList {
    serials: BTreeMap<Serial, RevokedSerial>,
    nodes: BTreeMap<String, RevokedNode>,
}

/// One revoked certificate
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevokedSerial {
    /// Serial number of the certificate
    pub serial: Serial,
    /// When it was revoked
    pub revoked_at: SystemTime,
    /// Last valid moment of the certificate: afterwards the entry is no longer needed
    pub not_after: SystemTime,
}

/// Every certificate of a node up to a moment
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevokedNode {
    /// The node
    pub node_id: String,
    /// Certificates issued at this moment or earlier do not count
    pub issued_until: SystemTime,
    /// Latest last valid moment of those certificates: afterwards the entry is no longer needed
    pub not_after: SystemTime,
}

/// Why a certificate does not count
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revoked {
    /// Its serial number is on the list
    Serial,
    /// The node was revoked after the certificate was issued
    Node,
}

impl RevocationList {
    /// An empty list
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a certificate; the earlier moment counts if it is on the list already
    pub fn revoke_serial(&mut self, revoked: RevokedSerial) {
        let entry = self
            .serials
            .entry(revoked.serial.clone())
            .or_insert_with(|| revoked.clone());
        entry.revoked_at = entry.revoked_at.min(revoked.revoked_at);
        entry.not_after = entry.not_after.max(revoked.not_after);
    }

    /// Adds a node; the later moment counts if it is on the list already
    pub fn revoke_node(&mut self, revoked: RevokedNode) {
        let entry = self
            .nodes
            .entry(revoked.node_id.clone())
            .or_insert_with(|| revoked.clone());
        entry.issued_until = entry.issued_until.max(revoked.issued_until);
        entry.not_after = entry.not_after.max(revoked.not_after);
    }

    /// Takes a certificate off the list; says whether it was on it
    pub fn restore_serial(&mut self, serial: &Serial) -> bool {
        self.serials.remove(serial).is_some()
    }

    /// Takes a node off the list; says whether it was on it
    pub fn restore_node(&mut self, node_id: &str) -> bool {
        self.nodes.remove(node_id).is_some()
    }

    /// Whether the peer's certificate no longer counts, and why
    #[must_use]
    pub fn is_revoked(&self, peer: &PeerIdentity) -> Option<Revoked> {
        if self.serials.contains_key(&peer.serial) {
            return Some(Revoked::Serial);
        }
        let node = self.nodes.get(peer.node_id()?)?;
        (peer.issued_at <= node.issued_until).then_some(Revoked::Node)
    }

    /// Drops entries whose certificates have expired anyway; says how many
    ///
    /// `leeway` keeps an entry a little longer, for peers whose clock runs late.
    pub fn prune(&mut self, now: SystemTime, leeway: Duration) -> usize {
        let before = self.len();
        let over = |not_after: SystemTime| not_after.checked_add(leeway).is_some_and(|end| end < now);
        self.serials.retain(|_, revoked| !over(revoked.not_after));
        self.nodes.retain(|_, revoked| !over(revoked.not_after));
        before - self.len()
    }

    /// The revoked certificates, by serial number
    pub fn serials(&self) -> impl Iterator<Item = &RevokedSerial> {
        self.serials.values()
    }

    /// The revoked nodes, by id
    pub fn nodes(&self) -> impl Iterator<Item = &RevokedNode> {
        self.nodes.values()
    }

    /// Number of entries
    #[must_use]
    pub fn len(&self) -> usize {
        self.serials.len() + self.nodes.len()
    }

    /// Whether nothing is revoked
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The list that TLS verifiers read: one writer, any number of readers that never wait
#[derive(Clone, Debug, Default)]
pub struct SharedRevocations(Arc<ArcSwap<RevocationList>>);

impl SharedRevocations {
    /// Shares a list
    #[must_use]
    pub fn new(list: RevocationList) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(list)))
    }

    /// The list as it is now
    #[must_use]
    pub fn current(&self) -> Arc<RevocationList> {
        self.0.load_full()
    }

    /// Adds everything on `list` to the shared list; the next handshake sees it
    ///
    /// Unlike [`SharedRevocations::replace`], this loses nothing when two callers read the store and publish in another
    /// order than they read.
    pub fn merge(&self, list: &RevocationList) {
        self.0.rcu(|current| {
            let mut merged = RevocationList::clone(current);
            list.serials()
                .cloned()
                .for_each(|revoked| merged.revoke_serial(revoked));
            list.nodes()
                .cloned()
                .for_each(|revoked| merged.revoke_node(revoked));
            merged
        });
    }

    /// Replaces the list, be it newer or older; the next handshake sees it
    pub fn replace(&self, list: RevocationList) {
        self.0.store(Arc::new(list));
    }
}

/// A revocation list signed by the authority, in X.509 form
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crl {
    der: CertificateRevocationListDer<'static>,
    this_update: SystemTime,
    next_update: SystemTime,
}

impl Crl {
    pub(crate) fn new(
        der: CertificateRevocationListDer<'static>,
        this_update: SystemTime,
        next_update: SystemTime,
    ) -> Self {
        Self {
            der,
            this_update,
            next_update,
        }
    }

    /// The encoding
    #[must_use]
    pub fn der(&self) -> &CertificateRevocationListDer<'static> {
        &self.der
    }

    /// The list as PEM
    #[must_use]
    pub fn to_pem(&self) -> String {
        crate::pem::encode("X509 CRL", &self.der).to_string()
    }

    /// Readers fetch a successor by then
    #[must_use]
    pub fn next_update(&self) -> SystemTime {
        self.next_update
    }

    /// Whether a successor should be signed: half of the list's life is over
    #[must_use]
    pub fn refresh_due(&self, now: SystemTime) -> bool {
        let life = self
            .next_update
            .duration_since(self.this_update)
            .unwrap_or_default();
        self.this_update
            .checked_add(life / 2)
            .is_none_or(|due| now >= due)
    }
}
