//! Hosts that nobody of this repository wrote, against the shipped other side
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod controllers;
mod daemons;

use std::time::Duration;

use prexorcloud_testkit::{ControllerSide, DaemonSide, Pair};

const LOBBY: &str = "lobby-1";
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn apply<D: DaemonSide, C: ControllerSide>(pair: &mut Pair<D, C>, action: &str) {
    pair.apply(&action.parse().unwrap()).unwrap();
}
