//! The nodes: their sessions, what runs on them, and what operators ask of them
//!
//! ```text
//!   stream ──▶ doorman (waits for the handshake) ──▶ ┌───────────────┐ ──▶ store
//!   HTTP ────▶ orders ─────────────────────────────▶ │ one task per  │
//!                                                    │ node          │ ──▶ view (read by HTTP and placement)
//!   events of the session ─────────────────────────▶ └───────────────┘
//! ```
//!
//! One task per node is the only writer of that node's records, so "write, then act" is the order of its statements.
//! It holds the node's roster between streams, and hands it to the session of the newest stream. Cordoned and draining
//! are facts of the record and survive streams and restarts; reachable and connected are facts of the session.

mod crashes;
mod doorman;
mod drain;
mod launch;
mod node;
mod order;
mod persistence;
mod registry;
mod requests;
mod session_events;
mod view;

pub(crate) use self::{
    crashes::prune as prune_crashes,
    doorman::Doorman,
    launch::{file_name, is_live},
    order::{OrderError, StartOrder, StopAnswer},
    registry::{Nodes, Surroundings},
    view::{NodeStatus, NodeView, Vitals},
};
