//! A daemon and its controllers against each other, without a network and without waiting
//!
//! The sessions of `prexorcloud-protocol` know neither sockets nor clocks. This crate puts a
//! [`DaemonSession`](prexorcloud_protocol::DaemonSession) and as many
//! [`ControllerSession`](prexorcloud_protocol::ControllerSession)s as there are streams into a simulated world: hosts
//! with clocks that leap, links that are slow, narrow, half-open or cut, processes that crash or do not obey,
//! controllers that are killed or deposed. An hour passes in milliseconds, and the same seed gives the same hour.
//!
//! | Module | Holds |
//! |---|---|
//! | [`clock`] | time that passes only when told to |
//! | [`link`] | one direction of a stream |
//! | [`behaviour`] | what a simulated process does with its life |
//! | [`side`] | what a pair needs of the host on either side, shipped or of your own |
//! | [`daemon_host`], [`supervisor`] | the shipped daemon's machines, their processes and their disk |
//! | [`plain`] | a daemon that announces nothing, and shares nothing with the shipped one |
//! | [`controller_host`], [`store`] | the shipped controller's machines, an operator, and what survives them |
//! | [`facts`] | what both remember for the invariants |
//! | [`pair`] | the world, step by step |
//! | [`action`], [`scenario`] | what may happen, and a text for it that can be committed and replayed |
//! | [`invariants`] | what must be true after every step, by name |
//! | [`log`] | what happened, byte for byte the same for the same seed |
//!
//! ```
//! use std::time::Duration;
//! use prexorcloud_protocol::instance::State;
//! use prexorcloud_testkit::{Action, Behaviour, Pair};
//!
//! let mut pair = Pair::new(1);
//! pair.start("lobby-1", Behaviour::default()).unwrap();
//! pair.run_until(Duration::from_secs(30), |pair| pair.believed("lobby-1") == Some(State::Running)).unwrap();
//!
//! // The daemon is killed and comes back; the server never noticed.
//! pair.apply(&Action::RestartDaemon(Duration::from_secs(5))).unwrap();
//! pair.run_until(Duration::from_secs(60), Pair::is_established).unwrap();
//! assert_eq!(pair.believed("lobby-1"), Some(State::Running));
//! assert_eq!(pair.daemon().facts.launches.len(), 1);
//!
//! // Everything heals, half an hour passes, and every invariant is checked once more.
//! pair.come_to_rest().unwrap();
//! println!("{}", pair.log());
//! ```
//!
//! [`Pair::step`] is the driver loop, in virtual time: the earliest of what is due on any clock or link happens, then every
//! session is polled until it has nothing to say.
//!
//! # Finding a bug, and keeping it
//! [`Scenario::random`] makes a scenario from a seed, [`Scenario::run`] plays it, [`Scenario::minimised`] makes a
//! failing one as short as it gets, and its text can be committed: `crates/protocol/tests/scenarios/` holds such files,
//! and each of them is replayed by the tests of that crate.
#![warn(missing_docs)]

pub mod action;
pub mod behaviour;
mod clerk;
pub mod clock;
pub mod controller_host;
pub mod daemon_host;
mod describe;
mod dialect;
pub mod facts;
pub mod invariants;
pub mod link;
pub mod log;
mod operator;
pub mod pair;
pub mod plain;
pub mod plain_controller;
pub mod rng;
pub mod scenario;
pub mod side;
pub mod store;
pub mod supervisor;
mod text;
mod world;

pub use action::{Action, Direction, Garbage, Side};
pub use behaviour::Behaviour;
pub use clock::Clock;
pub use controller_host::ControllerHost;
pub use daemon_host::DaemonHost;
pub use link::{Link, Quality};
pub use log::Log;
pub use pair::{NODE, Pair, RunError, Violation};
pub use plain::PlainDaemon;
pub use plain_controller::PlainController;
pub use rng::Rng;
pub use scenario::{Failure, ParseError, Peers, Scenario};
pub use side::{ControllerSide, DaemonSide, Turn};
