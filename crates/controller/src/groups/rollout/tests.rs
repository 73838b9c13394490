//! What is decided, by example and by worlds that carry it out
#![allow(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;

use super::*;

const TIMEOUT_MS: i64 = 600_000;

fn name(number: usize) -> InstanceId {
    format!("lobby-{number}").parse().unwrap()
}

fn server(number: usize, content: u32, stage: Stage) -> Server {
    Server {
        instance: name(number),
        content,
        stage,
        players: 0,
    }
}

fn to(content: u32, batch: usize) -> Rollout {
    Rollout {
        phase: Phase::Active,
        content,
        in_force: 1,
        batch,
        since_ms: 1000,
        timeout_ms: TIMEOUT_MS,
        replacing: BTreeMap::new(),
    }
}

fn replacing(rollout: Rollout, numbers: &[usize]) -> Rollout {
    let replacing = numbers.iter().map(|number| (name(*number), 1000)).collect();
    Rollout { replacing, ..rollout }
}

#[test]
fn those_that_serve_nobody_are_replaced_first_and_then_those_with_the_fewest_players() {
    let mut servers = vec![
        server(1, 1, Stage::Serving),
        server(2, 1, Stage::Serving),
        server(3, 1, Stage::ComingUp),
        server(4, 1, Stage::Away),
        server(5, 2, Stage::Serving),
    ];
    servers[0].players = 7;
    let verdict = decide(2000, &to(2, 2), &servers, 4);
    assert_eq!(verdict.stop, [name(3), name(2)]);
    assert_eq!((verdict.updated, verdict.total, verdict.room), (1, 5, 0));
    assert_eq!(verdict.due_at_ms, Some(2000 + TIMEOUT_MS));
    assert_eq!(
        rehearse(&to(2, 2), &servers, 4),
        [vec![name(2), name(3)], vec![name(4), name(1)]]
    );
}

#[test]
fn what_is_being_replaced_goes_through_every_stage() {
    let rollout = replacing(to(2, 1), &[1]);
    let of = |content, stage| {
        decide(
            2000,
            &rollout,
            &[server(1, content, stage), server(2, 1, Stage::Serving)],
            2,
        )
    };
    // The stop may not have been carried out.
    assert_eq!(
        (of(1, Stage::Serving).stop, of(1, Stage::Serving).start),
        (vec![name(1)], vec![])
    );
    for stage in [Stage::Ending, Stage::ComingUp] {
        let verdict = of(1, stage);
        assert_eq!(
            (verdict.stop, verdict.start, verdict.replacing.len()),
            (vec![], vec![], 1)
        );
    }
    for stage in [Stage::Ended, Stage::Failed { at_ms: 5000 }] {
        let verdict = of(1, stage);
        assert_eq!(
            (verdict.stop, verdict.start),
            (vec![], vec![name(1)]),
            "{stage:?}"
        );
    }
    // One is ready, and the next one goes.
    let verdict = of(2, Stage::Serving);
    assert_eq!(verdict.replacing.keys().copied().collect::<Vec<_>>(), [name(2)]);
    assert_eq!(verdict.stop, [name(2)]);
    // Nobody waits for a node that is away, and it is not done without it.
    let verdict = decide(
        2000,
        &rollout,
        &[server(1, 1, Stage::Away), server(2, 2, Stage::Serving)],
        2,
    );
    assert_eq!((verdict.replacing.len(), verdict.end), (0, None));
}

#[test]
fn what_is_missing_already_leaves_less_to_be_stopped() {
    let servers = [
        server(1, 1, Stage::Serving),
        server(2, 1, Stage::Serving),
        server(3, 1, Stage::Ended),
    ];
    let stopped = |min| decide(2000, &to(2, 1), &servers, min).stop;
    assert_eq!(stopped(3), []);
    assert_eq!(stopped(2), [name(1)]);
}

#[test]
fn it_is_not_done_before_what_comes_up_with_it_is_ready() {
    let of = |stage| {
        decide(
            2000,
            &to(2, 1),
            &[server(1, 2, stage), server(2, 2, Stage::Serving)],
            2,
        )
        .end
    };
    assert_eq!(of(Stage::ComingUp), None);
    assert_eq!(of(Stage::Serving), Some(End::Done));
}

#[test]
fn a_failure_of_before_counts_for_nothing_and_one_of_now_halts() {
    let servers = |at_ms| {
        vec![
            server(1, 2, Stage::Failed { at_ms }),
            server(2, 1, Stage::Serving),
        ]
    };
    let rollout = to(2, 1);
    assert_eq!(decide(2000, &rollout, &servers(999), 2).end, None);
    let verdict = decide(2000, &rollout, &servers(1000), 2);
    let halted = End::Halted(Halt::Failed { instance: name(1) });
    assert_eq!((verdict.end, verdict.stop), (Some(halted), vec![]));
    let old = [
        server(1, 1, Stage::Failed { at_ms: 1500 }),
        server(2, 1, Stage::Serving),
    ];
    assert_eq!(decide(2000, &rollout, &old, 2).end, None, "the old ones may fail");
}

#[test]
fn a_replacement_that_is_late_halts_and_comes_back_as_it_was() {
    let rollout = replacing(to(2, 1), &[1]);
    let servers = [server(1, 1, Stage::Ended), server(2, 1, Stage::Serving)];
    assert_eq!(decide(1000 + TIMEOUT_MS - 1, &rollout, &servers, 2).end, None);
    let verdict = decide(1000 + TIMEOUT_MS, &rollout, &servers, 2);
    let after_ms = TIMEOUT_MS;
    let late = Halt::Late {
        instance: name(1),
        after_ms,
    };
    assert_eq!(verdict.end, Some(End::Halted(late)));
    assert_eq!((verdict.start, verdict.stop), (vec![name(1)], vec![]));
    let halted = Rollout {
        phase: Phase::Halted,
        ..rollout
    };
    assert_eq!(halted.content_of(name(1), None, &mut 9), 1);
    let ready = [server(1, 2, Stage::Serving), server(2, 2, Stage::Serving)];
    let verdict = decide(i64::MAX / 2, &replacing(to(2, 1), &[1]), &ready, 2);
    assert_eq!(
        verdict.end,
        Some(End::Done),
        "it is there, however late anybody looks"
    );
}

#[test]
fn what_is_started_meanwhile_has_the_right_content() {
    let rollout = replacing(to(2, 2), &[1]);
    let mut room = 1;
    assert_eq!(
        rollout.content_of(name(1), Some(1), &mut room),
        2,
        "it is being replaced"
    );
    assert_eq!((rollout.content_of(name(7), None, &mut room), room), (2, 0));
    assert_eq!(
        rollout.content_of(name(8), None, &mut room),
        1,
        "the batch is full"
    );
    let paused = Rollout {
        phase: Phase::Paused,
        ..rollout.clone()
    };
    assert_eq!(paused.content_of(name(1), Some(1), &mut 5), 2);
    assert_eq!(
        paused.content_of(name(3), Some(2), &mut 5),
        2,
        "it had it already"
    );
    assert_eq!(paused.content_of(name(3), Some(1), &mut 5), 1);
    for phase in [Phase::Halted, Phase::Over] {
        let rollout = Rollout {
            phase,
            ..rollout.clone()
        };
        assert_eq!(rollout.content_of(name(1), Some(2), &mut 5), 1, "{phase:?}");
    }
}

/// Servers with somebody who carries out what is decided, and forgets it now and then
#[derive(Clone, Debug)]
struct World {
    rollout: Rollout,
    servers: Vec<Server>,
    min: usize,
    now_ms: i64,
    /// By name: how often what comes up with the new content fails
    broken: BTreeSet<InstanceId>,
    /// Which decisions are recorded and then lost, because the controller is killed
    kills: Vec<bool>,
    turn: usize,
    halts: usize,
    is_done: bool,
}

impl World {
    fn turn(&mut self) -> Verdict {
        self.now_ms += 1000;
        let verdict = decide(self.now_ms, &self.rollout, &self.servers, self.min);
        // What is recorded in one transaction.
        self.rollout.replacing.clone_from(&verdict.replacing);
        match &verdict.end {
            Some(End::Done) => {
                self.rollout.phase = Phase::Over;
                self.rollout.in_force = self.rollout.content;
                self.is_done = true;
            }
            Some(End::Halted(_)) => {
                self.rollout.phase = Phase::Halted;
                self.halts += 1;
            }
            None => {}
        }
        let is_killed = self.kills.get(self.turn).copied().unwrap_or(false);
        self.turn += 1;
        if is_killed {
            return verdict;
        }
        let mut room = verdict.room;
        let mut starts = verdict.start.clone();
        for one in &mut self.servers {
            // The healing of what has ended by itself.
            if matches!(one.stage, Stage::Failed { .. }) && !starts.contains(&one.instance) {
                starts.push(one.instance);
            }
            if verdict.stop.contains(&one.instance) {
                one.stage = Stage::Ending;
            }
        }
        for instance in starts {
            let content = {
                let last = self.servers.iter().find(|one| one.instance == instance);
                let last = last.map(|one| one.content);
                self.rollout.content_of(instance, last, &mut room)
            };
            let known = self.servers.iter_mut().find(|one| one.instance == instance);
            let known = known.unwrap();
            known.content = content;
            known.stage = Stage::ComingUp;
        }
        verdict
    }

    /// Daemons do what they were told before
    fn pass(&mut self) {
        for one in &mut self.servers {
            one.stage = match one.stage {
                Stage::Ending => Stage::Ended,
                Stage::ComingUp if one.content == 2 && self.broken.contains(&one.instance) => {
                    Stage::Failed { at_ms: self.now_ms }
                }
                Stage::ComingUp => Stage::Serving,
                stage => stage,
            };
        }
    }

    /// Servers that are not as they were, and not ready as they are to be
    fn on_the_way(&self) -> usize {
        let is_one = |one: &&Server| {
            let is_replaced = self.rollout.replacing.contains_key(&one.instance);
            is_replaced || one.content == 2 && one.stage == Stage::ComingUp
        };
        self.servers.iter().filter(is_one).count()
    }

    fn serving(&self) -> usize {
        self.servers
            .iter()
            .filter(|one| one.stage == Stage::Serving)
            .count()
    }
}

fn worlds(has_broken: bool) -> impl Strategy<Value = World> {
    let broken = prop::collection::btree_set(1_usize..9, usize::from(has_broken)..4);
    let kills = prop::collection::vec(any::<bool>(), 0..12);
    (1_usize..9, 1_usize..5, 0_usize..9, broken, kills, 0_u32..5).prop_map(
        move |(count, batch, min, broken, kills, players)| World {
            rollout: to(2, batch),
            servers: (1..=count)
                .map(|number| Server {
                    players: players * u32::try_from(number % 3).unwrap(),
                    ..server(number, 1, Stage::Serving)
                })
                .collect(),
            min: min.min(count),
            now_ms: 1000,
            broken: match has_broken {
                true => broken
                    .into_iter()
                    .map(|number| name((number - 1) % count + 1))
                    .collect(),
                false => BTreeSet::new(),
            },
            kills,
            turn: 0,
            halts: 0,
            is_done: false,
        },
    )
}

proptest! {
    #[test]
    fn a_rollout_ends_with_one_content(mut world in worlds(false)) {
        for _ in 0..80 {
            world.turn();
            world.pass();
        }
        prop_assert!(world.is_done, "{world:?}");
        prop_assert!(world.servers.iter().all(|one| one.content == 2 && one.stage == Stage::Serving), "{world:?}");
        let verdict = world.turn();
        prop_assert_eq!((verdict.stop, verdict.start, verdict.end), (vec![], vec![], None));
    }

    #[test]
    fn never_more_than_the_batch_at_once(mut world in worlds(false)) {
        for _ in 0..80 {
            world.turn();
            prop_assert!(world.on_the_way() <= world.rollout.batch, "{world:?}");
            world.pass();
        }
    }

    #[test]
    fn never_below_the_minimum_less_the_batch(mut world in worlds(true)) {
        let least = world.min.saturating_sub(world.rollout.batch);
        for _ in 0..80 {
            world.turn();
            prop_assert!(world.serving() >= least, "{} of {least}: {world:?}", world.serving());
            world.pass();
        }
    }

    #[test]
    fn the_first_failure_halts_it(mut world in worlds(true)) {
        let batch = world.rollout.batch;
        for _ in 0..80 {
            let was_halted = world.halts > 0;
            let verdict = world.turn();
            prop_assert!(!was_halted || verdict.stop.is_empty(), "{verdict:?} {world:?}");
            world.pass();
        }
        prop_assert_eq!((world.halts, world.is_done), (1, false));
        // The others run on, and those that have failed are back as they were.
        prop_assert_eq!(world.serving(), world.servers.len(), "{:?}", world);
        let failed = world.broken.clone();
        prop_assert!(world.servers.iter().all(|one| one.content == 1 || !failed.contains(&one.instance)));
        prop_assert!(batch >= 1);
    }

    #[test]
    fn a_decision_that_is_lost_is_made_again(mut world in worlds(false)) {
        world.kills.clear();
        while !world.is_done {
            let mut killed = world.clone();
            killed.kills = vec![true; killed.turn + 1];
            killed.turn();
            // Nothing was carried out, and nothing has happened: the same again, of what is not begun nothing more.
            let again = decide(killed.now_ms, &killed.rollout, &killed.servers, killed.min);
            let first = world.turn();
            let stops = |stop: &[InstanceId]| stop.iter().copied().collect::<BTreeSet<_>>();
            prop_assert_eq!(stops(&again.stop), stops(&first.stop));
            prop_assert_eq!(stops(&again.start), stops(&first.start));
            prop_assert_eq!(&again.replacing, &first.replacing);
            world.pass();
        }
    }

    #[test]
    fn every_rollout_can_be_rolled_back(mut world in worlds(true), after in 0_usize..40) {
        for _ in 0..after {
            world.turn();
            world.pass();
        }
        // What was in force is wanted again, from wherever it is.
        world.rollout.phase = Phase::Active;
        world.rollout.content = 1;
        world.rollout.since_ms = world.now_ms + 1;
        world.is_done = false;
        for _ in 0..80 {
            world.turn();
            world.pass();
        }
        prop_assert!(world.is_done, "{world:?}");
        prop_assert!(world.servers.iter().all(|one| one.content == 1 && one.stage == Stage::Serving), "{world:?}");
    }

    #[test]
    fn the_order_of_what_is_observed_does_not_matter(mut world in worlds(true), turns in 0_usize..9) {
        for _ in 0..turns {
            world.turn();
            world.pass();
        }
        let mut other = world.servers.clone();
        other.reverse();
        let of = |servers: &[Server]| decide(world.now_ms, &world.rollout, servers, world.min);
        prop_assert_eq!(of(&world.servers), of(&other));
    }
}
