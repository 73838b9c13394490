//! Who signs for this cluster, and whom its nodes believe
//!
//! Nearly always that is one authority. While another takes its place there are two: see `rotation`.

use std::sync::{Arc, PoisonError, RwLock};

use prexorcloud_security::{
    authority::{Authorities, Authority},
    token::CaPin,
};

/// The authorities as they are now; clones share them
#[derive(Clone, Debug)]
pub struct SharedAuthorities(Arc<RwLock<Arc<Authorities>>>);

impl SharedAuthorities {
    /// These, until they are [replaced](Self::replace)
    #[must_use]
    pub fn new(authorities: Authorities) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(authorities))))
    }

    /// One, and no other
    #[must_use]
    pub fn only(signer: Authority) -> Self {
        Self::new(Authorities {
            signer,
            next: None,
            former: None,
        })
    }

    /// As they are now; take them once per certificate
    #[must_use]
    pub fn current(&self) -> Arc<Authorities> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What is signed and said from now on is by these
    pub fn replace(&self, authorities: Authorities) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(authorities);
    }

    /// By what a daemon recognises this cluster before it has a certificate
    #[must_use]
    pub fn pin(&self) -> CaPin {
        CaPin::of(self.current().signer.certificate())
    }
}

/// What is to be believed, as PEM, the one that signs first
pub(crate) fn anchors_pem(authorities: &Authorities) -> Vec<u8> {
    let anchors = [
        Some(authorities.signer.certificate()),
        authorities.next.as_ref(),
        authorities.former.as_ref(),
    ];
    let pem: String = anchors
        .into_iter()
        .flatten()
        .map(|anchor| anchor.to_pem())
        .collect();
    pem.into_bytes()
}
