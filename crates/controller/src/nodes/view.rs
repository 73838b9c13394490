//! What others see of a node, without asking its task

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use prexorcloud_proto as proto;
use prexorcloud_protocol::{InstanceId, ModuleId, compat::ContractMatch, modules::Has};
use prexorcloud_transport::Peer;

use super::{CacheView, pacing::Turn};
use crate::{records::NodeRecord, wall_clock::now_millis};

/// A node as last seen
#[derive(Clone, Debug, Default)]
pub(crate) struct NodeView {
    /// What is recorded; cordon and drain among it
    pub(crate) record: NodeRecord,
    /// The present session
    pub(crate) session: Option<SessionView>,
    /// The last load report, kept after a disconnect
    pub(crate) load: Option<proto::NodeStatus>,
    /// When something came from it, in milliseconds since 1970; 0 = not since this controller started
    pub(crate) heard_at_ms: i64,
    /// Instances that have not ended
    pub(crate) live_instances: usize,
    /// What changes too often to be recorded
    pub(crate) vitals: HashMap<InstanceId, Vitals>,
    /// What those that start wait for
    pub(crate) waiting: HashMap<InstanceId, String>,
    /// Another daemon that came with this node's identity while this one answered
    pub(crate) rival: Option<Rival>,
    /// What it keeps for later starts
    pub(crate) cache: CacheView,
    /// Its modules, as it said or as they were sent
    pub(crate) modules: Arc<BTreeMap<ModuleId, Has>>,
    /// The events that its present session subscribed to, by their Java names
    pub(crate) event_types: Arc<[String]>,
}

/// Whoever was turned away because the node's own daemon is there and answers
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rival {
    /// Where it came from last
    pub(crate) address: SocketAddr,
    pub(crate) at_ms: i64,
    /// How often it came since this controller started
    pub(crate) attempts: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct SessionView {
    pub(crate) session_id: String,
    /// The process that the daemon is; empty = it does not say
    pub(crate) boot_id: String,
    pub(crate) since_ms: i64,
    pub(crate) unreachable: bool,
    /// Whether the daemon was built from the same contract
    pub(crate) contract: ContractMatch,
}

/// What the node's task keeps beside a stream
pub(super) struct StreamNotes {
    pub(super) peer: Peer,
    /// What others will see of the session once it counts
    pub(super) session: Option<SessionView>,
    /// Held until its handshake is decided on
    pub(super) turn: Option<Turn>,
}

/// Facts of a running instance that are not recorded
#[derive(Copy, Clone, Debug, Default)]
pub(crate) struct Vitals {
    pub(crate) player_count: i32,
    /// As of `at_ms`
    pub(crate) uptime_ms: i64,
    pub(crate) at_ms: i64,
}

impl Vitals {
    /// As of now
    pub(super) fn of(player_count: i32, uptime: Duration) -> Self {
        Self {
            player_count,
            uptime_ms: i64::try_from(uptime.as_millis()).unwrap_or(i64::MAX),
            at_ms: now_millis(),
        }
    }
}

/// The one word that summarises a node
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum NodeSummary {
    Online,
    Unreachable,
    Draining,
    Cordoned,
    Offline,
}

impl NodeSummary {
    pub(crate) const ALL: [Self; 5] = [
        Self::Online,
        Self::Unreachable,
        Self::Draining,
        Self::Cordoned,
        Self::Offline,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Online => "ONLINE",
            Self::Unreachable => "UNREACHABLE",
            Self::Draining => "DRAINING",
            Self::Cordoned => "CORDONED",
            Self::Offline => "OFFLINE",
        }
    }
}

/// What a comparison of contracts can come to
pub(crate) const CONTRACT_MATCHES: [ContractMatch; 3] = [
    ContractMatch::Same,
    ContractMatch::Different,
    ContractMatch::Unknown,
];

/// How the outcome of such a comparison is shown
pub(crate) const fn contract_name(contract: ContractMatch) -> &'static str {
    match contract {
        ContractMatch::Same => "SAME",
        ContractMatch::Different => "DIFFERENT",
        ContractMatch::Unknown => "UNKNOWN",
    }
}

impl NodeView {
    /// Memory that instances may use: what the daemon offered at its handshake, or what it reports, whichever is less. One
    /// that announces nothing reports all of its machine's.
    pub(crate) fn total_memory_mb(&self) -> i64 {
        let reported = self.load.as_ref().map_or(0, |load| load.total_memory_mb);
        match (self.record.total_memory_mb, reported) {
            (offered, 0) => offered,
            (0, reported) => reported,
            (offered, reported) => offered.min(reported),
        }
    }

    pub(crate) fn status(&self) -> NodeSummary {
        match &self.session {
            None => NodeSummary::Offline,
            Some(session) if session.unreachable => NodeSummary::Unreachable,
            Some(_) if self.record.drain.is_some() => NodeSummary::Draining,
            Some(_) if self.record.cordoned => NodeSummary::Cordoned,
            Some(_) => NodeSummary::Online,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_a_daemon_offers_and_what_it_reports_the_smaller_counts() {
        let view = |offered, reported: Option<i64>| NodeView {
            record: NodeRecord {
                total_memory_mb: offered,
                ..NodeRecord::default()
            },
            load: reported.map(|total_memory_mb| proto::NodeStatus {
                total_memory_mb,
                ..proto::NodeStatus::default()
            }),
            ..NodeView::default()
        };
        for (offered, reported, total) in [
            (19_284, Some(24_105), 19_284),
            (19_284, Some(16_000), 16_000),
            (19_284, None, 19_284),
            (0, Some(24_105), 24_105),
            (19_284, Some(0), 19_284),
        ] {
            assert_eq!(view(offered, reported).total_memory_mb(), total);
        }
    }
}
