//! What has happened: one log with numbers, written with the change that each event is about
//!
//! An event is appended in the transaction that records its change ([`Txn::append`](crate::store::Txn::append)), so it never
//! lies and is never lost. The log has bounds in entries and bytes; whoever was away for longer is told what is missing.
//!
//! What comes many times a second (load, consoles, metrics of servers, sums of a group) is not in it: nobody needs what it was
//! an hour ago, and a commit for each would cost more than all the rest. Whoever subscribes to those gets none, as with those
//! that the Java controller has a class for and never publishes.

mod classes;
mod feed;

use serde::Serialize;

pub(crate) use self::{
    classes::{Class, Named},
    feed::{Batch, Feed, Follower, LoggedEvent},
};
use crate::{records::EventRecord, store::Txn, wall_clock::now_millis};

/// Bytes of a crash's last lines that its event carries; the record has them all
const MAX_TAIL_BYTES: usize = 32 * 1024;

/// The kind of an entry that stands for events which could not be written, in the place of which it came
pub(crate) const LOST: &str = "EVENTS_LOST";

/// The state that the Java controller gives what has none
pub(crate) const SCHEDULED: &str = "SCHEDULED";

macro_rules! events {
    ($($variant:ident $kind:literal { $($field:ident: $type:ty),* $(,)? })*) => {
        /// Something that happened, with its fields in the order of its Java class
        #[derive(Clone, Debug, PartialEq, Serialize)]
        #[serde(untagged, rename_all_fields = "camelCase")]
        pub(crate) enum Event {
            $($variant { $($field: $type),* },)*
        }

        impl Event {
            fn kind(&self) -> &'static str {
                match self {
                    $(Self::$variant { .. } => $kind,)*
                }
            }

            #[cfg(test)]
            const KINDS: &'static [&'static str] = &[$($kind),*];
        }
    };
}

events! {
    NodeConnected "NODE_CONNECTED" { node_id: String, session_id: String, timestamp: String }
    NodeDisconnected "NODE_DISCONNECTED" { node_id: String, reason: String, timestamp: String }
    NodeHeartbeatStale "NODE_HEARTBEAT_STALE" { node_id: String, missed_pongs: u32, last_heartbeat_at: String }
    NodeHeartbeatResumed "NODE_HEARTBEAT_RESUMED" { node_id: String, last_heartbeat_at: String }
    NodeDrainRequested "NODE_DRAIN_REQUESTED" {
        node_id: String, shutdown_after_drain: bool, drain_timeout_seconds: i64, kick_message: String, timestamp: String,
    }
    NodeDrainCompleted "NODE_DRAIN_COMPLETED" { node_id: String, timestamp: String }
    NodeCacheStatus "NODE_CACHE_STATUS" { node_id: String, total_size_bytes: i64, timestamp: String }
    InstanceStateChanged "INSTANCE_STATE_CHANGED" {
        instance_id: String, group: String, node_id: String, old_state: String, new_state: String,
    }
    InstanceCrashed "INSTANCE_CRASHED" {
        instance_id: String, group: String, node_id: String, exit_code: i32, classification: String,
        log_tail: Vec<String>, uptime_ms: i64,
    }
    GroupCreated "GROUP_CREATED" { group_name: String }
    GroupUpdated "GROUP_UPDATED" { group_name: String }
    GroupDeleted "GROUP_DELETED" { group_name: String }
    GroupCrashLoop "GROUP_CRASH_LOOP" { group: String, crash_count: usize, window_start: String }
    DeploymentCreated "DEPLOYMENT_CREATED" { group_name: String, revision: u32, strategy: String }
    DeploymentCompleted "DEPLOYMENT_COMPLETED" { group_name: String, revision: u32, outcome: String }
    TemplateUpdated "TEMPLATE_UPDATED" { template_name: String, old_hash: String, new_hash: String }
    ModuleLoaded "MODULE_LOADED" { module_name: String, has_frontend: bool }
    ModuleUnloaded "MODULE_UNLOADED" { module_name: String }
    EventsLost "EVENTS_LOST" { node_id: String, missed: u64 }
}

impl Txn {
    /// Adds an event about what this transaction changes
    #[must_use]
    pub(crate) fn tell(self, event: &Event) -> Self {
        let record = EventRecord {
            kind: event.kind().to_owned(),
            at_ms: now_millis(),
            payload_json: serde_json::to_string(event).unwrap_or_else(|_| "{}".to_owned()),
        };
        self.append(prost::Message::encode_to_vec(&record))
    }

    /// The same for as many as there are
    #[must_use]
    pub(crate) fn tell_all<'a>(self, events: impl IntoIterator<Item = &'a Event>) -> Self {
        events.into_iter().fold(self, |txn, event| txn.tell(event))
    }
}

/// A time as Java writes an `Instant` of whole milliseconds
pub(crate) fn instant(millis: i64) -> String {
    jiff::Timestamp::from_millisecond(millis)
        .map_or_else(|_| "1970-01-01T00:00:00Z".to_owned(), |at| at.to_string())
}

/// The name of a state in an event
pub(crate) fn state_name(state: prexorcloud_proto::InstanceState) -> String {
    match state {
        prexorcloud_proto::InstanceState::Unspecified => SCHEDULED.to_owned(),
        state => state.as_str_name().to_owned(),
    }
}

/// The last lines of a console that an event has room for
pub(crate) fn tail(lines: &[String]) -> Vec<String> {
    let mut room = MAX_TAIL_BYTES;
    let fits = |line: &&String| {
        let left = room.checked_sub(line.len() + 1);
        room = left.unwrap_or(0);
        left.is_some()
    };
    let mut kept: Vec<String> = lines.iter().rev().take_while(fits).cloned().collect();
    kept.reverse();
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_has_a_class() {
        for kind in Event::KINDS {
            // Nobody subscribes to it: it is told to all.
            assert!(*kind == LOST || Class::of_kind(kind).is_some(), "{kind}");
        }
    }

    #[test]
    fn an_event_is_written_as_java_writes_it() {
        let event = Event::NodeHeartbeatStale {
            node_id: "node-1".to_owned(),
            missed_pongs: 3,
            last_heartbeat_at: instant(1_700_000_000_000),
        };
        assert_eq!(
            serde_json::to_string(&event).unwrap_or_default(),
            r#"{"nodeId":"node-1","missedPongs":3,"lastHeartbeatAt":"2023-11-14T22:13:20Z"}"#
        );
        let changed = Event::InstanceStateChanged {
            instance_id: "lobby-1".to_owned(),
            group: "lobby".to_owned(),
            node_id: "node-1".to_owned(),
            old_state: state_name(prexorcloud_proto::InstanceState::Unspecified),
            new_state: state_name(prexorcloud_proto::InstanceState::Preparing),
        };
        assert_eq!(
            serde_json::to_string(&changed).unwrap_or_default(),
            r#"{"instanceId":"lobby-1","group":"lobby","nodeId":"node-1","oldState":"SCHEDULED","newState":"PREPARING"}"#
        );
    }

    #[test]
    fn the_end_of_a_long_console_is_kept() {
        let lines: Vec<String> = (0..100).map(|number| format!("{number:>4096}")).collect();
        let kept = tail(&lines);
        assert_eq!(kept.len(), 7);
        assert_eq!(kept.last(), lines.last());
        assert_eq!(tail(&["x".repeat(MAX_TAIL_BYTES)]), Vec::<String>::new());
    }
}
