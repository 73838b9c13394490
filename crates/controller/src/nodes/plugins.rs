//! The credentials of the plugins inside the servers of a node, as they are recorded: by their hashes

use std::time::{Duration, Instant};

use prexorcloud_proto::StartInstance;
use prexorcloud_protocol::{Incarnation, instance::State};

use super::{commits::ATTEMPTS, starts::is_live, task::Node};
use crate::{
    records::{InstanceRecord, PluginCredential},
    store::{self, Store, StoreError, Txn},
    wall_clock::now_millis,
    workloads::{Digest, LIFE, Workload, Workloads, digest},
};

impl InstanceRecord {
    /// Keeps of the token in its start only what recognises it
    pub(super) fn keep_plugin_hash(&mut self) {
        if let Some(start) = &mut self.start
            && !start.plugin_token.is_empty()
        {
            let token = std::mem::take(&mut start.plugin_token);
            self.plugin_credentials = vec![PluginCredential {
                hash: digest(&token).to_vec(),
                expires_at_ms: 0,
            }];
        }
    }
}

impl Node {
    /// The plugin inside of what is started with this may call from now on
    pub(super) fn admit_plugin(&self, start: &StartInstance) {
        if let Some(workload) = self.workload_of(start)
            && !start.plugin_token.is_empty()
        {
            self.context
                .workloads
                .admit(digest(&start.plugin_token), workload, None);
        }
    }

    fn workload_of(&self, start: &StartInstance) -> Option<Workload> {
        Some(Workload {
            node: self.id,
            instance: start.instance_id.parse().ok()?,
            incarnation: Incarnation::new(start.incarnation),
        })
    }

    /// The plugins inside of what was recorded as alive may call again; what may have to be started again gets another token,
    /// since nobody knows the first one any more
    pub(super) fn readmit_plugins(&self, record: &mut InstanceRecord) {
        record.keep_plugin_hash();
        let state = State::try_from(record.state);
        let (now, clock) = (Instant::now(), now_millis());
        let Some(workload) = record.start.as_ref().and_then(|start| self.workload_of(start)) else {
            return;
        };
        let is_launched = state.is_ok_and(|state| !matches!(state, State::Scheduled | State::Preparing));
        for credential in &record.plugin_credentials {
            let expires = match credential.expires_at_ms - clock {
                _ if credential.expires_at_ms == 0 && !is_launched => None,
                // When it was launched is not recorded.
                _ if credential.expires_at_ms == 0 => Some(now + LIFE),
                left @ 0.. => Some(now + Duration::from_millis(left.unsigned_abs())),
                ago => now
                    .checked_sub(Duration::from_millis(ago.unsigned_abs()))
                    .or(Some(now)),
            };
            if let Ok(hash) = Digest::try_from(credential.hash.as_slice()) {
                self.context.workloads.admit(hash, workload, expires);
            }
        }
        if is_launched || record.plugin_credentials.is_empty() {
            return;
        }
        let (Ok(token), Some(start)) = (Workloads::mint(), &mut record.start) else {
            return;
        };
        let hash = digest(&token);
        start.plugin_token = token;
        self.context.workloads.admit(hash, workload, None);
        let store = std::sync::Arc::clone(&self.context.store);
        tokio::spawn(async move {
            let credential = PluginCredential {
                hash: hash.to_vec(),
                expires_at_ms: 0,
            };
            if let Err(error) = super::plugins::record(&*store, workload, credential, false).await {
                tracing::warn!(instance = %workload.instance, %error, "the credential of a plugin could not be recorded");
            }
        });
    }
}

/// Records a credential of a start, in place of those before or beside them; whether that start is not over
pub(super) async fn record(
    store: &dyn Store,
    workload: Workload,
    credential: PluginCredential,
    is_only: bool,
) -> Result<bool, StoreError> {
    for _ in 0..ATTEMPTS {
        let found = store::load::<InstanceRecord>(store, workload.instance.as_str()).await?;
        let Some(found) = found.filter(|found| {
            let incarnation = found.record.start.as_ref().map(|start| start.incarnation);
            found.record.node_id == workload.node.as_str()
                && incarnation == Some(workload.incarnation.get())
                && is_live(&found.record)
        }) else {
            return Ok(false);
        };
        let mut record = found.record;
        record.keep_plugin_hash();
        if is_only {
            record.plugin_credentials.clear();
        }
        record.plugin_credentials.push(credential.clone());
        if store
            .txn(Txn::new().replace(found.revision, &record))
            .await?
            .committed()
            .is_some()
        {
            return Ok(true);
        }
    }
    Err(StoreError::Io {
        detail: format!("{} is changed by too many at once", workload.instance),
    })
}
