//! The invariants of the roster, under everything that can happen

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use prexorcloud_protocol::instance::{Desired, State};
use proptest::prelude::*;

use crate::actions::{Action, action};
use crate::world::{Follower, World};
use crate::{config, roster};

proptest! {
    #![proptest_config(config())]

    #[test]
    fn roster_keeps_its_invariants(
        actions in prop::collection::vec(action(), 1..80),
        follow_always in any::<bool>(),
        reconnect in any::<bool>(),
    ) {
        let mut world = World {
            now: Instant::now(),
            roster: roster(),
            follower: Follower::default(),
            live: BTreeMap::new(),
            connected: false,
            java: false,
        };
        for action in actions {
            world.step(action)?;
            if follow_always {
                world.follower.follow(&mut world.roster)?;
            }
        }

        // Silence from here on; after a handshake that lists everything that may be there, if need be.
        if reconnect || !world.connected {
            world.step(Action::Agree { java: false })?;
        }
        world.step(Action::Heard)?;
        for _ in 0..200 {
            world.send()?;
            if world.roster.poll_timeout().is_none() {
                break;
            }
            world.step(Action::Fire(Duration::ZERO))?;
        }
        prop_assert!(world.roster.poll_timeout().is_none(), "nothing_waits_for_ever");
        prop_assert_eq!(world.roster.orphans().count(), 0, "nothing_waits_for_ever");
        for known in world.roster.entries() {
            let silent_start = world.java && known.state() == State::Starting;
            let coming_up = known.state().is_coming_up() && !silent_start;
            let waits = known.desired() != Desired::Run || coming_up || known.state() == State::Stopping;
            prop_assert!(known.is_terminal() || !waits, "nothing_waits_for_ever: {known:?}");
        }
        if follow_always {
            world.follower.follow(&mut world.roster)?;
        }
    }
}
