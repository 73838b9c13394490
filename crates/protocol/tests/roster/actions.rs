//! Everything that can happen to a roster, at random

use std::time::Duration;

use prexorcloud_protocol::StopMode;
use prexorcloud_protocol::instance::State;
use prexorcloud_protocol::proto::RunningInstance;
use proptest::prelude::*;

use crate::listed;

#[derive(Clone, Debug)]
pub(crate) enum Action {
    Pass(Duration),
    Fire(Duration),
    FireNow,
    Handshake {
        java: bool,
        reported: Vec<RunningInstance>,
        elsewhere: bool,
        only_lobby: bool,
    },
    /// A handshake in which the daemon lists what the controller believes in.
    Agree {
        java: bool,
    },
    Disconnect,
    Silence,
    Heard,
    Start {
        name: &'static str,
        higher: u64,
    },
    Restart {
        name: &'static str,
        incarnation: u64,
    },
    Stop {
        name: &'static str,
        mode: StopMode,
    },
    Drain {
        name: &'static str,
    },
    Undrain {
        name: &'static str,
    },
    Forget {
        name: &'static str,
    },
    Lose {
        name: &'static str,
    },
    Ready {
        name: &'static str,
    },
    /// Messages; `behind` is how far their incarnation lies behind the current one, `None` if they name none.
    Status {
        name: &'static str,
        behind: Option<u64>,
        state: i32,
    },
    StartAck {
        name: &'static str,
        behind: Option<u64>,
        accepted: bool,
        permanent: bool,
        seconds: i32,
    },
    StopAck {
        name: &'static str,
        behind: Option<u64>,
        accepted: bool,
    },
    Crash {
        name: &'static str,
        behind: Option<u64>,
    },
    Send,
}

pub(crate) fn names() -> impl Strategy<Value = &'static str> + Clone {
    prop::sample::select(&["a", "b", "c"][..])
}

pub(crate) fn delays() -> impl Strategy<Value = Duration> {
    prop_oneof![
        4 => (0..40_000_u64).prop_map(Duration::from_millis),
        1 => (0..1_000_000_000_u64).prop_map(Duration::from_secs),
    ]
}

pub(crate) fn reported() -> impl Strategy<Value = Vec<RunningInstance>> {
    let one = (names(), any::<bool>(), -1..10_i32, 0..6_u64).prop_map(|(name, lobby, state, incarnation)| {
        RunningInstance {
            group: if lobby { "lobby" } else { "other" }.into(),
            state,
            ..listed(name, incarnation, State::Running)
        }
    });
    prop::collection::vec(one, 0..5)
}

pub(crate) fn action() -> impl Strategy<Value = Action> {
    let behind = prop_oneof![6 => Just(Some(0_u64)), 2 => Just(None), 1 => Just(Some(1_u64)), 1 => Just(Some(u64::MAX))];
    let mode = prop_oneof![Just(StopMode::Graceful), Just(StopMode::Force)];
    let (b1, b2, b3, b4) = (behind.clone(), behind.clone(), behind.clone(), behind);
    prop_oneof![
        2 => delays().prop_map(Action::Pass),
        5 => prop_oneof![3 => Just(Duration::ZERO), 1 => delays()].prop_map(Action::Fire),
        1 => Just(Action::FireNow),
        2 => (any::<bool>(), reported(), any::<bool>(), any::<bool>()).prop_map(
            |(java, reported, elsewhere, only_lobby)| Action::Handshake { java, reported, elsewhere, only_lobby }
        ),
        3 => any::<bool>().prop_map(|java| Action::Agree { java }),
        1 => Just(Action::Disconnect),
        1 => Just(Action::Silence),
        1 => Just(Action::Heard),
        5 => (names(), 0..3_u64).prop_map(|(name, higher)| Action::Start { name, higher }),
        1 => (names(), 0..4_u64).prop_map(|(name, incarnation)| Action::Restart { name, incarnation }),
        2 => (names(), mode).prop_map(|(name, mode)| Action::Stop { name, mode }),
        1 => names().prop_map(|name| Action::Drain { name }),
        1 => names().prop_map(|name| Action::Undrain { name }),
        1 => names().prop_map(|name| Action::Forget { name }),
        1 => names().prop_map(|name| Action::Lose { name }),
        1 => names().prop_map(|name| Action::Ready { name }),
        8 => (names(), b1, prop_oneof![6 => 1..7_i32, 1 => any::<i32>(), 1 => 1..9_i32]).prop_map(
            |(name, behind, state)| Action::Status { name, behind, state }
        ),
        4 => (names(), b2, any::<bool>(), any::<bool>(), -1..9_i32).prop_map(
            |(name, behind, accepted, permanent, seconds)| Action::StartAck {
                name, behind, accepted, permanent, seconds
            }
        ),
        2 => (names(), b3, any::<bool>()).prop_map(
            |(name, behind, accepted)| Action::StopAck { name, behind, accepted }
        ),
        1 => (names(), b4).prop_map(|(name, behind)| Action::Crash { name, behind }),
        4 => Just(Action::Send),
    ]
}
