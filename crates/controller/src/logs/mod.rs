//! The last records of the controller's own log and of each daemon's, and live views of them
//!
//! They are in memory only, and outlast the connection of a daemon but not the removal of its node. Readers pull: whoever is slow
//! misses records and is told how many, and no record waits for a reader. A position is valid in one life of the controller, which
//! has a name, so that whoever comes back after a restart can tell.

mod ring;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use prexorcloud_logs::{Mirror, Record, record, visible};
use prexorcloud_proto::DaemonLogRecord;
use prexorcloud_protocol::{NodeId, limits};
use tokio_util::sync::CancellationToken;

pub(crate) use ring::{CAPACITY, Filter, From, LogItem, LogReader, LogRecord, Received, Ring};

use crate::wall_clock::now_millis;

/// Records of the controller itself that are taken together
const BATCH: usize = 256;

/// Bytes of a record's context that are kept
const MOST_CONTEXT: usize = 16 * 1024;

/// All logs of one life of a controller
#[derive(Debug)]
pub(crate) struct Logs {
    /// A name for this life
    pub(crate) life: String,
    own: Arc<Ring>,
    nodes: Mutex<BTreeMap<NodeId, OfNode>>,
}

#[derive(Debug, Default)]
struct OfNode {
    ring: Arc<Ring>,
    /// The process that its daemon was at last
    boot_id: String,
}

impl Default for Logs {
    fn default() -> Self {
        let life = uuid::Uuid::new_v4().simple().to_string();
        Self {
            life: life.get(..12).unwrap_or_default().to_owned(),
            own: Arc::default(),
            nodes: Mutex::default(),
        }
    }
}

impl Logs {
    /// The log of the controller itself
    pub(crate) fn own(&self) -> Arc<Ring> {
        Arc::clone(&self.own)
    }

    /// The log of a node's daemon, empty if none has come yet
    pub(crate) fn of_node(&self, node: NodeId) -> Arc<Ring> {
        Arc::clone(&self.nodes().entry(node).or_default().ring)
    }

    /// What came of a node's log
    pub(crate) fn received_of(&self, node: NodeId) -> Received {
        let nodes = self.nodes();
        nodes
            .get(&node)
            .map(|log| log.ring.received())
            .unwrap_or_default()
    }

    /// What came of all nodes' logs
    pub(crate) fn received_of_all(&self) -> Received {
        let mut all = Received::default();
        for log in self.nodes().values() {
            let received = log.ring.received();
            all.records = all.records.saturating_add(received.records);
            all.lost = all.lost.saturating_add(received.lost);
        }
        all
    }

    /// A node's daemon has connected; another process of it counts anew
    pub(crate) fn connected(&self, node: NodeId, boot_id: &str) {
        let mut nodes = self.nodes();
        let log = nodes.entry(node).or_default();
        if log.boot_id != boot_id || boot_id.is_empty() {
            boot_id.clone_into(&mut log.boot_id);
            log.ring.begin();
        }
    }

    /// Adds what a daemon has sent
    pub(crate) fn append(&self, node: NodeId, sent: DaemonLogRecord) {
        let (number, dropped) = (sent.sequence, sent.dropped);
        self.of_node(node).append(from_daemon(sent), number, dropped);
    }

    /// The node is removed
    pub(crate) fn forget(&self, node: NodeId) {
        let forgotten = self.nodes().remove(&node);
        if let Some(log) = forgotten {
            log.ring.forget();
        }
    }

    /// Keeps what the controller itself logs, until it stops
    pub(crate) async fn follow(&self, mirror: Mirror, stopping: CancellationToken) {
        let mut records = Vec::new();
        loop {
            tokio::select! {
                _ = mirror.next(&mut records, BATCH) => {}
                () = stopping.cancelled() => return mirror.close(),
            }
            for record in records.drain(..) {
                let number = record.number;
                self.own
                    .append(from_own(record), number, number.saturating_sub(1));
            }
        }
    }

    fn nodes(&self) -> MutexGuard<'_, BTreeMap<NodeId, OfNode>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn from_own(record: Record) -> LogRecord {
    LogRecord {
        ts: record.timestamp_ms,
        level: record.level.to_string(),
        logger: record.logger,
        thread: record.thread,
        message: record.message,
        throwable: record.throwable,
        mdc: record.context.into_iter().collect(),
        ..LogRecord::default()
    }
}

/// What somebody else has written is made harmless, and loses the secrets that are known by their place
fn from_daemon(sent: DaemonLogRecord) -> LogRecord {
    let ts = match sent.timestamp_ms {
        ts if ts > 0 => ts,
        _ => now_millis(),
    };
    LogRecord {
        ts,
        level: record::name(&sent.level, limits::LOG_LEVEL),
        logger: record::name(&sent.logger, limits::LOG_LOGGER),
        thread: record::name(&sent.thread, limits::LOG_THREAD),
        message: record::message(&sent.message),
        throwable: record::throwable(&sent.throwable),
        mdc: context(sent.mdc),
        ..LogRecord::default()
    }
}

/// So much of it as can be shown: whoever follows takes events of a bounded size
fn context(mdc: HashMap<String, String>) -> BTreeMap<String, String> {
    let (mut kept, mut bytes, mut left_out) = (BTreeMap::new(), 0, 0_usize);
    for (name, value) in mdc {
        let value = record::value(&name, &value);
        let name = visible::one_line(&name).into_owned();
        if bytes + name.len() + value.len() > MOST_CONTEXT {
            left_out += 1;
            continue;
        }
        bytes += name.len() + value.len();
        kept.insert(name, value);
    }
    if left_out > 0 {
        kept.insert("...".to_owned(), format!("{left_out} more are left out"));
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_daemon_sends_is_harmless_and_without_its_secrets() {
        let sent = DaemonLogRecord {
            level: "WARN\u{1b}".to_owned(),
            logger: "a.b\nC".to_owned(),
            message: "one\ntwo \u{1b}[2J of https://u:hunter2@h/".to_owned(),
            throwable: "E\n\tat x\u{7}".to_owned(),
            mdc: [("db.password", "hunter2"), ("k\u{202e}", "v\r")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            ..DaemonLogRecord::default()
        };
        let kept = from_daemon(sent);
        assert!(kept.ts > 0);
        assert_eq!(
            (kept.level.as_str(), kept.logger.as_str()),
            ("WARN\\u{1b}", "a.b\\nC")
        );
        assert_eq!(kept.message, "one\\ntwo \\u{1b}[2J of https://***@h/");
        assert_eq!(kept.throwable, "E\n\tat x\\u{7}");
        let mdc: Vec<_> = kept
            .mdc
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        assert_eq!(mdc, [("db.password", "***"), ("k\\u{202e}", "v\\r")]);
    }
}
