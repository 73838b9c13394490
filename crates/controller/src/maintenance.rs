//! What has to happen now and then: forgetting what is old, renewing what runs out

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio_util::sync::CancellationToken;

use crate::{
    access::AccessTokens,
    audit,
    certificates::{self, ServerCertificate, ToldExpiries},
    fleet::Fleet,
    join_tokens::JoinTokens,
    nodes::{Nodes, prune_crashes},
    store::{Store, StoreError},
    templates::Templates,
    wall_clock::now_millis,
};

/// After the start, when everything else has settled
const FIRST: Duration = Duration::from_secs(60);

const INTERVAL: Duration = Duration::from_secs(3600);

pub(crate) struct Maintenance {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) tokens: JoinTokens,
    pub(crate) templates: Templates,
    pub(crate) nodes: Arc<Nodes>,
    pub(crate) certificate: Arc<ServerCertificate>,
    pub(crate) keep_crashes: usize,
}

impl Maintenance {
    pub(crate) async fn run(self, stopping: CancellationToken) {
        let mut wait = FIRST;
        let mut told = ToldExpiries::default();
        loop {
            tokio::select! {
                () = stopping.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
            wait = INTERVAL;
            let lifetime = self.nodes.context().config.certificates.node_lifetime;
            told.tell(&self.nodes.views(), now_millis(), lifetime);
            match self.certificate.renew_if_due(SystemTime::now()) {
                Ok(true) => tracing::info!("the server certificate was renewed"),
                Ok(false) => {}
                Err(error) => {
                    tracing::error!(%error, "the server certificate could not be renewed, trying again")
                }
            }
            match self.forget_what_is_old().await {
                Ok(0) => {}
                Ok(records) => tracing::info!(records, "old records were deleted"),
                Err(error) => tracing::warn!(%error, "old records could not be deleted, trying again"),
            }
            self.nodes.context().grants.prune(Instant::now());
            match self.templates.collect().await {
                Ok(collected) if collected.blobs == 0 => {}
                Ok(collected) => {
                    tracing::info!(blobs = collected.blobs, "bytes that no template has were deleted")
                }
                Err(error) => {
                    tracing::warn!(%error, "bytes that no template has could not be deleted, trying again");
                }
            }
        }
    }

    async fn forget_what_is_old(&self) -> Result<usize, StoreError> {
        let store = &*self.store;
        let now = SystemTime::now();
        let mut records = self.tokens.prune(now).await?;
        records += AccessTokens::new(Arc::clone(&self.store))
            .prune(now_millis())
            .await?;
        records += audit::prune(store).await?;
        records += prune_crashes(store, self.keep_crashes).await?;
        records += Fleet::new(Arc::clone(&self.nodes)).prune().await?;
        records += certificates::prune(store, now).await?;
        Ok(records)
    }
}
