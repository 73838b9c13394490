//! Another authority in the place of the one that signs, step by step and on command
//!
//! ```text
//!   one ──prepare──▶ one signs, the next is believed too ──activate──▶ the next signs, the former is believed still ──retire──▶ one
//!        ◀──discard──┘
//! ```
//!
//! Daemons that announce `renewal/1` are told over their streams whom to believe, say what they have written down, and get
//! certificates of the new authority. Others cannot be told: they keep what they enrolled with and have to enrol again, which is why
//! a step that would lock nodes out names them and is refused, unless that is wanted.
//!
//! The moment of an activation is one transaction that names the authority in the controller's record. All else follows the record,
//! and is done again after a crash by the next start, or by the same command.

use std::{sync::Arc, time::SystemTime};

use prexorcloud_security::{
    authority::{Authorities, AuthorityFolder, LoadError},
    certificate::Certificate,
};
use tokio::sync::Mutex;

use crate::{
    audit,
    authorities::SharedAuthorities,
    certificates::{Certificates, ServerCertificate, ServerCertificateError},
    nodes::{NodeView, Nodes},
    records::{ControllerRecord, NodeRecord},
    store::{self, Expect, Record as _, Store, StoreError, Txn},
};

/// Times that a step is tried anew because the controller's record changed meanwhile
const ATTEMPTS: usize = 8;

/// Nodes that a refusal names; it says how many more there are
const NAMED: usize = 16;

/// Why a step was not taken
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum RotationError {
    /// There is nothing to do this with
    #[error("{0}")]
    OutOfOrder(&'static str),
    /// Nodes would be locked out
    #[error(
        "{step} would lock out {}: {why}; force it, and give each of their daemons a join token that is bound to it",
        listed(nodes)
    )]
    LocksOut {
        step: &'static str,
        nodes: Vec<String>,
        why: &'static str,
    },
    /// The files cannot be read or written
    #[error(transparent)]
    Files(#[from] LoadError),
    /// The server's certificate cannot be issued
    #[error(transparent)]
    Server(#[from] ServerCertificateError),
    /// The storage failed
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The controller's record is changed by others
    #[error("the controller's record is being changed, try again")]
    Conflict,
    /// The controller stops
    #[error("the controller is stopping")]
    Stopping,
}

fn listed(nodes: &[String]) -> String {
    let named = nodes
        .iter()
        .take(NAMED)
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(", ");
    match nodes.len().saturating_sub(NAMED) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

/// What a node has of the authorities
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodeTrust {
    pub(crate) node: String,
    /// SHA-256 of the authority of its certificate; empty = not known
    pub(crate) signed_by: String,
    /// SHA-256 of what it believes; empty = it does not say, as Java daemons do
    pub(crate) trusts: Vec<String>,
    pub(crate) is_connected: bool,
}

/// The authorities, and what nodes have of them
#[derive(Debug)]
pub(crate) struct Overview {
    pub(crate) authorities: Arc<Authorities>,
    pub(crate) nodes: Vec<NodeTrust>,
}

/// The steps; one at a time
pub(crate) struct Rotation {
    store: Arc<dyn Store>,
    folder: AuthorityFolder,
    authorities: SharedAuthorities,
    server: Arc<ServerCertificate>,
    certificates: Arc<Certificates>,
    nodes: Arc<Nodes>,
    turn: Mutex<()>,
}

impl Rotation {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        folder: AuthorityFolder,
        authorities: SharedAuthorities,
        server: Arc<ServerCertificate>,
        certificates: Arc<Certificates>,
        nodes: Arc<Nodes>,
    ) -> Self {
        Self {
            store,
            folder,
            authorities,
            server,
            certificates,
            nodes,
            turn: Mutex::new(()),
        }
    }

    pub(crate) fn overview(&self) -> Overview {
        let nodes = self.nodes.views();
        Overview {
            authorities: self.authorities.current(),
            nodes: nodes.iter().map(trust_of).collect(),
        }
    }

    /// Until when the controller's own certificate counts, and that of the authority
    pub(crate) fn ends(&self) -> (SystemTime, SystemTime) {
        let authority = self.authorities.current().signer.certificate().not_after();
        (self.server.not_after(), authority)
    }

    /// Makes the authority that is to sign next, and has nodes believe it
    pub(crate) async fn prepare(&self, actor: &str) -> Result<Overview, RotationError> {
        let _turn = self.turn.lock().await;
        if self.authorities.current().former.is_some() {
            return Err(RotationError::OutOfOrder(
                "the former authority is believed still: retire it first",
            ));
        }
        let next = self.on_disk(|folder| folder.prepare(SystemTime::now())).await?;
        self.note(actor, "authority.prepare", &next).await?;
        self.reload().await?;
        tracing::info!(authority = %next.fingerprint(), "an authority was prepared, and nodes are told to believe it");
        Ok(self.overview())
    }

    /// Gives up the authority that was to sign next
    pub(crate) async fn discard(&self, actor: &str) -> Result<Overview, RotationError> {
        let _turn = self.turn.lock().await;
        let next = self.next()?;
        self.note(actor, "authority.discard", &next).await?;
        self.on_disk(|folder| folder.discard_next()).await?;
        self.reload().await?;
        Ok(self.overview())
    }

    /// The authority that was prepared signs from now on; the one before is believed still
    pub(crate) async fn activate(&self, actor: &str, force: bool) -> Result<Overview, RotationError> {
        let _turn = self.turn.lock().await;
        let next = self.next()?;
        let fingerprint = next.fingerprint().to_string();
        self.permit(force, "activating it", "they do not believe it yet", |node| {
            !node.trusts.contains(&fingerprint)
        })?;
        self.on_disk(|folder| folder.keep_signer()).await?;
        self.name(actor, "authority.activate", &fingerprint).await?;
        self.reload().await?;
        tracing::warn!(
            authority = fingerprint,
            "another authority signs now; join tokens that were made before are of no use"
        );
        Ok(self.overview())
    }

    /// The former authority is believed no more, and what it signed counts no more
    pub(crate) async fn retire(&self, actor: &str, force: bool) -> Result<Overview, RotationError> {
        let _turn = self.turn.lock().await;
        let authorities = self.authorities.current();
        let Some(former) = authorities.former.clone() else {
            return Err(RotationError::OutOfOrder("there is no former authority"));
        };
        let signer = authorities.signer.fingerprint().to_string();
        self.permit(force, "retiring it", "their certificates are of it", |node| {
            node.signed_by != signer
        })?;
        self.note(actor, "authority.retire", &former).await?;
        self.on_disk(|folder| folder.forget_former()).await?;
        self.reload().await?;
        let cut = self.certificates.cut_signed_by(&former);
        tracing::warn!(authority = %former.fingerprint(), connections = cut, "the former authority is believed no more");
        Ok(self.overview())
    }

    fn next(&self) -> Result<Certificate, RotationError> {
        let next = self.authorities.current().next.clone();
        next.ok_or(RotationError::OutOfOrder("no authority is prepared"))
    }

    fn permit(
        &self,
        force: bool,
        step: &'static str,
        why: &'static str,
        is_locked_out: impl Fn(&NodeTrust) -> bool,
    ) -> Result<(), RotationError> {
        let nodes: Vec<String> = self
            .overview()
            .nodes
            .into_iter()
            .filter(is_locked_out)
            .map(|node| node.node)
            .collect();
        match nodes.is_empty() || force {
            true => Ok(()),
            false => Err(RotationError::LocksOut { step, nodes, why }),
        }
    }

    /// Reads what is on disk now, and has everybody go by it
    async fn reload(&self) -> Result<(), RotationError> {
        let record = store::load::<ControllerRecord>(&*self.store, ControllerRecord::ONLY).await?;
        let named = record.map(|found| found.record.authority).unwrap_or_default();
        let authorities = self.on_disk(move |folder| folder.load(&named)).await?;
        self.authorities.replace(authorities);
        self.server.renew()?;
        self.nodes.tell_authorities();
        Ok(())
    }

    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&AuthorityFolder) -> Result<T, LoadError> + Send + 'static,
    ) -> Result<T, RotationError> {
        let folder = self.folder.clone();
        let done = tokio::task::spawn_blocking(move || work(&folder)).await;
        Ok(done.map_err(|_| RotationError::Stopping)??)
    }

    async fn note(&self, actor: &str, action: &str, about: &Certificate) -> Result<(), RotationError> {
        let entry = audit::entry(actor, action, &about.fingerprint().to_string(), about.subject());
        // A put without a condition cannot conflict.
        let _ = self.store.txn(Txn::new().put_record(&entry)).await?;
        Ok(())
    }

    /// The one moment of an activation
    async fn name(&self, actor: &str, action: &str, fingerprint: &str) -> Result<(), RotationError> {
        for _ in 0..ATTEMPTS {
            let found = store::load::<ControllerRecord>(&*self.store, ControllerRecord::ONLY).await?;
            let found = found.ok_or(RotationError::Conflict)?;
            let record = ControllerRecord {
                authority: fingerprint.to_owned(),
                ..found.record
            };
            let txn = Txn::new()
                .expect(record.key(), Expect::At(found.revision))
                .put_record(&record)
                .put_record(&audit::entry(actor, action, fingerprint, ""));
            if self.store.txn(txn).await?.committed().is_some() {
                return Ok(());
            }
        }
        Err(RotationError::Conflict)
    }
}

fn trust_of(view: &NodeView) -> NodeTrust {
    let NodeRecord {
        node_id,
        signed_by,
        trusts,
        ..
    } = &view.record;
    NodeTrust {
        node: node_id.clone(),
        signed_by: signed_by.clone(),
        trusts: trusts.clone(),
        is_connected: view.session.is_some(),
    }
}
