//! The nodes: their sessions, what runs on them, and what operators ask of them
//!
//! ```text
//!   stream ──▶ acceptor (waits for the handshake) ──▶ ┌───────────────┐ ──▶ store
//!   HTTP ────▶ orders ─────────────────────────────▶ │ one task per  │
//!                                                    │ node          │ ──▶ view (read by HTTP and placement)
//!   events of the session ─────────────────────────▶ └───────────────┘
//! ```
//!
//! One task per node is the only writer of that node's records. What is decided, in which order and after which record, is
//! the business of its [machine](prexorcloud_protocol::node::ControllerNode); the task is the I/O around it. Cordoned and
//! draining are facts of the record and survive streams and restarts; reachable and connected are facts of the session.

mod acceptor;
mod cache;
mod commits;
mod crashes;
mod drain;
mod events;
mod files;
mod forwarding;
mod grants;
mod identity;
mod inline;
mod jar;
mod modules;
mod order;
mod pacing;
mod plugins;
mod ready;
mod record;
mod registry;
mod requests;
mod retirement;
mod starts;
mod task;
mod templates;
mod typed;
mod view;

pub(crate) use self::{
    acceptor::StreamAcceptor,
    cache::{CacheView, Warming},
    crashes::{prune as prune_crashes, summarise_all as summarise_crashes},
    files::{FilesAnswer, FilesAsked},
    grants::{Fetching, NotGranted},
    jar::{check_jar, check_sha256, file_name, is_path},
    order::{GroupSays, OrderError, StartOrder, StopAnswer},
    ready::Ready,
    registry::{NOTES, NodeContext, Nodes},
    starts::{check_stop_command, is_live, pinned_version},
    templates::IN_MEMORY as ARCHIVES_IN_MEMORY,
    typed::CommandResult,
    view::{CONTRACT_MATCHES, NodeSummary, NodeView, Vitals, contract_name},
};
