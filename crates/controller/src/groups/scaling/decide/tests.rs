//! What is decided, by example and by worlds that carry it out
#![allow(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;

use super::*;

const HOUR: i64 = 3_600_000;

fn wish(mode: Mode, min: usize, max: usize) -> Wish {
    Wish {
        group: "lobby".parse().unwrap(),
        mode,
        min,
        max,
        names: Vec::new(),
        keeps_files: false,
        seats: 10,
        scale_up_threshold: 0.8,
        scale_up_margin: 0.0,
        scale_down_after_ms: 300_000,
        cooldown_ms: 60_000,
        replaces_clean_exits: true,
        node_grace_ms: Some(120_000),
    }
}

fn history() -> History {
    History {
        counts_players: true,
        ..History::default()
    }
}

fn server(number: usize, state: State) -> Observed {
    Observed {
        instance: format!("lobby-{number}").parse().unwrap(),
        incarnation: 1,
        node: "node-1".parse().unwrap(),
        state,
        is_wanted: true,
        is_lost: false,
        players: 0,
        empty_since_ms: (state == State::Running).then_some(0),
        away_since_ms: None,
        ready_at_ms: 0,
        ended_at_ms: 0,
        cause: String::new(),
    }
}

fn with_players(number: usize, players: u32) -> Observed {
    Observed {
        players,
        empty_since_ms: (players == 0).then_some(0),
        ..server(number, State::Running)
    }
}

/// What a plan does, in the words of tests: `+lobby-1`, `-lobby-2`, `!lobby-3`
fn steps(plan: &Plan) -> Vec<String> {
    let sign = |kind| match kind {
        StepKind::Start => '+',
        StepKind::Stop => '-',
        StepKind::GiveUp => '!',
    };
    let steps = plan.steps.iter();
    steps
        .map(|step| format!("{}{}", sign(step.kind), step.instance))
        .collect()
}

fn told(plan: &Plan) -> Vec<String> {
    plan.notes.iter().map(ToString::to_string).collect()
}

#[test]
fn what_is_missing_is_started_under_the_lowest_free_names() {
    let plan = decide(
        HOUR,
        &wish(Mode::Dynamic, 3, 5),
        &[server(2, State::Running)],
        &history(),
    );
    assert_eq!(steps(&plan), ["+lobby-1", "+lobby-3"]);
    assert_eq!(
        (plan.desired, plan.serving, plan.standing),
        (3, 1, Standing::Changing)
    );
    assert_eq!(plan.steps[0].why.to_string(), "1 of at least 3 are there");
    assert!(!plan.scales);
    // One that ends keeps its name until it has ended.
    let ending = [server(1, State::Stopping), server(2, State::Crashed)];
    let plan = decide(HOUR, &wish(Mode::Static, 1, 5), &ending, &history());
    assert_eq!(steps(&plan), ["+lobby-2"]);
    let nine_and_ten = [server(10, State::Running), server(9, State::Running)];
    let plan = decide(HOUR, &wish(Mode::Static, 1, 50), &nine_and_ten, &history());
    assert_eq!(steps(&plan), ["-lobby-10"], "people count that way");
}

#[test]
fn a_static_number_is_kept_from_both_sides() {
    let three = [with_players(1, 0), with_players(2, 7), with_players(3, 4)];
    let plan = decide(HOUR, &wish(Mode::Static, 1, 5), &three, &history());
    assert_eq!(steps(&plan), ["-lobby-1", "-lobby-3"], "the fewest players first");
    assert_eq!(
        plan.steps[0].why.to_string(),
        "3 are there and 1 are wanted; it has the fewest players"
    );
    let plan = decide(HOUR, &wish(Mode::Static, 3, 5), &three, &history());
    assert_eq!((plan.steps.len(), plan.standing), (0, Standing::Settled));
}

#[test]
fn what_people_started_stays_and_comes_back() {
    let wish = wish(Mode::Manual, 1, 5);
    let mut servers = [server(1, State::Running), server(4, State::Running)];
    assert_eq!(steps(&decide(HOUR, &wish, &servers, &history())), [""; 0]);
    servers[1].state = State::Crashed;
    let plan = decide(HOUR, &wish, &servers, &history());
    assert_eq!((steps(&plan), plan.desired), (vec!["+lobby-4".to_owned()], 2));
    assert_eq!(plan.steps[0].why, Why::EndedByItself);
    // What somebody stopped is stopped, and what ended before anybody looked is forgotten.
    let mut stopped = servers.clone();
    stopped[1].is_wanted = false;
    assert_eq!(steps(&decide(HOUR, &wish, &stopped, &history())), [""; 0]);
    let late = History {
        known_since_ms: 1,
        ..history()
    };
    assert_eq!(steps(&decide(HOUR, &wish, &servers, &late)), [""; 0]);
}

#[test]
fn players_bring_servers_and_take_them_along() {
    let wish = wish(Mode::Dynamic, 1, 3);
    let plan = decide(HOUR, &wish, &[with_players(1, 7)], &history());
    assert_eq!(steps(&plan), [""; 0], "70 % is below the threshold");
    let plan = decide(HOUR, &wish, &[with_players(1, 8)], &history());
    assert_eq!((steps(&plan), plan.scales), (vec!["+lobby-2".to_owned()], true));
    assert_eq!(
        plan.steps[0].why.to_string(),
        "8 players on 10 seats need 2 servers"
    );
    // One that comes up has its seats already.
    let coming = [with_players(1, 8), server(2, State::Starting)];
    assert_eq!(steps(&decide(HOUR, &wish, &coming, &history())), [""; 0]);
    let margin = Wish {
        scale_up_margin: 0.1,
        ..wish.clone()
    };
    let plan = decide(HOUR, &margin, &[with_players(1, 7)], &history());
    assert_eq!(steps(&plan), ["+lobby-2"], "a seat is kept free");
    let crowd = [with_players(1, 10), with_players(2, 10), with_players(3, 10)];
    assert_eq!(steps(&decide(HOUR, &wish, &crowd, &history())), [""; 0]);

    let two = [with_players(1, 0), with_players(2, 3)];
    let plan = decide(HOUR, &wish, &two, &history());
    assert_eq!((steps(&plan), plan.scales), (vec!["-lobby-1".to_owned()], true));
    assert_eq!(
        plan.steps[0].why.to_string(),
        "it has been empty for 3600 s, and 1 servers are enough"
    );
    let plan = decide(299_999, &wish, &two, &history());
    assert_eq!((steps(&plan), plan.due_at_ms), (vec![], Some(300_000)));
    let busy = [with_players(1, 0), with_players(2, 8)];
    assert_eq!(
        steps(&decide(HOUR, &wish, &busy, &history())),
        [""; 0],
        "it is needed"
    );
    let only = [with_players(1, 0)];
    assert_eq!(steps(&decide(HOUR, &wish, &only, &history())), [""; 0]);
    // Of servers that say nothing of players none is taken for empty.
    let silent = History::default();
    let plan = decide(HOUR, &wish, &two, &silent);
    assert_eq!(steps(&plan), [""; 0]);
    assert!(
        told(&plan)[0].starts_with("its servers have never said"),
        "{plan:?}"
    );
}

#[test]
fn between_two_changes_for_players_there_is_some_time() {
    let wish = wish(Mode::Dynamic, 1, 9);
    let changed = History {
        scaled_at_ms: HOUR,
        ..history()
    };
    let full = [with_players(1, 10)];
    let plan = decide(HOUR + 59_999, &wish, &full, &changed);
    assert_eq!((steps(&plan), plan.due_at_ms), (vec![], Some(HOUR + 60_000)));
    assert_eq!(plan.standing, Standing::Short);
    assert_eq!(
        steps(&decide(HOUR + 60_000, &wish, &full, &changed)),
        ["+lobby-2"]
    );
    let empty = [with_players(1, 0), with_players(2, 1)];
    let plan = decide(HOUR + 59_999, &wish, &empty, &changed);
    assert_eq!((steps(&plan), plan.due_at_ms), (vec![], Some(HOUR + 60_000)));
    // The minimum waits for nothing.
    let none = decide(HOUR, &wish, &[], &changed);
    assert_eq!(steps(&none), ["+lobby-1"]);
}

#[test]
fn a_node_that_is_away_has_time_to_come_back() {
    let mut servers = [server(1, State::Running), server(2, State::Running)];
    servers[1].away_since_ms = Some(HOUR);
    servers[1].node = "node-2".parse().unwrap();
    let wish = wish(Mode::Static, 2, 2);
    let plan = decide(HOUR + 119_999, &wish, &servers, &history());
    assert_eq!((steps(&plan), plan.due_at_ms), (vec![], Some(HOUR + 120_000)));
    let plan = decide(HOUR + 120_000, &wish, &servers, &history());
    assert_eq!(steps(&plan), ["!lobby-2"]);
    assert_eq!(
        plan.steps[0].why.to_string(),
        "its node node-2 has been away for 120 s"
    );
    // Once that is recorded, its name is free for another node.
    servers[1].state = State::Crashed;
    servers[1].is_lost = true;
    assert_eq!(
        steps(&decide(HOUR + 120_000, &wish, &servers, &history())),
        ["+lobby-2"]
    );
    servers[1].state = State::Running;
    for waiting in [
        Wish {
            keeps_files: true,
            ..wish.clone()
        },
        Wish {
            node_grace_ms: None,
            ..wish.clone()
        },
    ] {
        let plan = decide(HOUR * 9, &waiting, &servers, &history());
        assert_eq!(steps(&plan), [""; 0]);
        assert!(told(&plan)[0].starts_with("node-2 is away"), "{plan:?}");
    }
    // Where enough others serve, nothing is given up.
    let fewer = self::wish(Mode::Dynamic, 1, 2);
    assert_eq!(steps(&decide(HOUR * 9, &fewer, &servers, &history())), [""; 0]);
}

#[test]
fn pauses_holds_and_restarts_keep_from_starting() {
    let wish = wish(Mode::Static, 1, 5);
    let paused = History {
        paused_until_ms: HOUR,
        cause: "OOM".to_owned(),
        ..history()
    };
    let plan = decide(HOUR - 1, &wish, &[], &paused);
    assert_eq!((steps(&plan), plan.standing), (vec![], Standing::Paused));
    assert_eq!(
        (told(&plan)[0].as_str(), plan.due_at_ms),
        ("its servers crash: OOM", Some(HOUR))
    );
    assert_eq!(steps(&decide(HOUR, &wish, &[], &paused)), ["+lobby-1"]);
    let two = [with_players(1, 1), with_players(2, 1)];
    let plan = decide(HOUR - 1, &wish, &two, &paused);
    assert_eq!(steps(&plan), ["-lobby-2"], "what is too much may still go");
    let held = History {
        held_by: Some("admin:first".to_owned()),
        ..history()
    };
    for servers in [&two[..], &[]] {
        let plan = decide(HOUR, &wish, servers, &held);
        assert_eq!((steps(&plan), plan.standing), (vec![], Standing::Held));
        assert_eq!(told(&plan), ["admin:first has paused it"]);
    }
    let settling = History {
        settled_at_ms: HOUR,
        ..history()
    };
    let plan = decide(HOUR - 1, &wish, &[], &settling);
    assert_eq!((steps(&plan), plan.standing), (vec![], Standing::Waiting));
    assert_eq!(plan.due_at_ms, Some(HOUR));
    assert_eq!(steps(&decide(HOUR, &wish, &[], &settling)), ["+lobby-1"]);
}

#[test]
fn what_ended_well_is_missed_or_not_as_the_group_says() {
    let ended = [server(1, State::Stopped), server(2, State::Running)];
    let missed = wish(Mode::Static, 2, 5);
    assert_eq!(steps(&decide(HOUR, &missed, &ended, &history())), ["+lobby-1"]);
    let done = Wish {
        replaces_clean_exits: false,
        ..missed
    };
    let plan = decide(HOUR, &done, &ended, &history());
    assert_eq!((steps(&plan), plan.desired), (vec![], 1));
    let crashed = [server(1, State::Crashed), server(2, State::Running)];
    assert_eq!(steps(&decide(HOUR, &done, &crashed, &history())), ["+lobby-1"]);
}

#[test]
fn configured_names_are_all_that_there_is() {
    let names = ["world", "nether"].map(|name| name.parse().unwrap()).to_vec();
    let wish = Wish {
        names,
        keeps_files: true,
        ..wish(Mode::Static, 3, 5)
    };
    let plan = decide(HOUR, &wish, &[], &history());
    assert_eq!(steps(&plan), ["+world", "+nether"]);
    assert!(told(&plan)[0].contains("1 more are wanted, and all of staticInstanceNames are in use"));
}

#[test]
fn what_is_leaving_needs_room_until_it_is_gone() {
    let wish = wish(Mode::Static, 2, 2);
    let leaving = [server(1, State::Draining), server(2, State::Running)];
    let plan = decide(HOUR, &wish, &leaving, &history());
    assert_eq!((steps(&plan), plan.standing), (vec![], Standing::Short));
    assert_eq!(told(&plan), ["1 more are wanted, and maxInstances is 2"]);
}

/// A world in which plans are carried out, servers come up and players stay
#[derive(Clone, Debug)]
struct World {
    now_ms: i64,
    wish: Wish,
    history: History,
    servers: Vec<Observed>,
}

impl World {
    fn carry_out(&mut self) -> Plan {
        let plan = decide(self.now_ms, &self.wish, &self.servers, &self.history);
        for step in &plan.steps {
            let place = self.servers.iter().position(|one| one.instance == step.instance);
            match step.kind {
                StepKind::Start => {
                    let number = 1;
                    let fresh = Observed {
                        instance: step.instance,
                        ..server(number, State::Scheduled)
                    };
                    match place {
                        Some(place) => {
                            assert!(self.servers[place].state.is_terminal(), "{step:?} lives");
                            self.servers[place] = fresh;
                        }
                        None => self.servers.push(fresh),
                    }
                }
                StepKind::Stop => {
                    let one = &mut self.servers[place.unwrap()];
                    one.state = State::Stopping;
                    one.is_wanted = false;
                }
                StepKind::GiveUp => {
                    let one = &mut self.servers[place.unwrap()];
                    one.state = State::Crashed;
                    one.is_lost = true;
                    one.ended_at_ms = self.now_ms;
                    one.away_since_ms = None;
                }
            }
        }
        if plan.scales {
            self.history.scaled_at_ms = self.now_ms;
        }
        plan
    }

    fn pass(&mut self, for_ms: i64) {
        self.now_ms += for_ms;
        for one in &mut self.servers {
            one.state = match one.state {
                State::Scheduled => State::Starting,
                State::Starting | State::Preparing => State::Running,
                State::Stopping | State::Draining => State::Stopped,
                State::Running if !one.is_wanted => State::Stopping,
                state => state,
            };
            let is_empty = one.state == State::Running && one.players == 0;
            one.empty_since_ms = is_empty.then(|| one.empty_since_ms.unwrap_or(self.now_ms));
        }
    }

    fn live(&self) -> usize {
        self.servers.iter().filter(|one| !one.state.is_terminal()).count()
    }
}

fn states() -> impl Strategy<Value = State> {
    prop_oneof![
        Just(State::Scheduled),
        Just(State::Starting),
        Just(State::Running),
        Just(State::Draining),
        Just(State::Stopping),
        Just(State::Stopped),
        Just(State::Crashed),
    ]
}

fn worlds() -> impl Strategy<Value = World> {
    let servers = proptest::collection::btree_map(
        1_usize..12,
        (
            states(),
            0_u32..=12,
            any::<bool>(),
            proptest::option::of(0_i64..HOUR),
        ),
        0..9,
    );
    let mode = prop_oneof![Just(Mode::Dynamic), Just(Mode::Static), Just(Mode::Manual)];
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    (mode, 0_usize..6, 0_usize..6, servers, flags, 0_i64..200_000).prop_map(
        |(mode, min, more, servers, (replaces, keeps_files, counts_players), cooldown_ms)| {
            let servers = servers
                .into_iter()
                .map(|(number, (state, players, is_wanted, away))| {
                    let players = if state == State::Running { players } else { 0 };
                    Observed {
                        is_wanted,
                        away_since_ms: away.filter(|_| !state.is_terminal()),
                        players,
                        empty_since_ms: (state == State::Running && players == 0).then_some(0),
                        ..server(number, state)
                    }
                });
            World {
                now_ms: HOUR,
                wish: Wish {
                    cooldown_ms,
                    keeps_files,
                    replaces_clean_exits: replaces,
                    ..wish(mode, min, min + more)
                },
                history: History {
                    counts_players,
                    ..History::default()
                },
                servers: servers.collect(),
            }
        },
    )
}

proptest! {
    #[test]
    fn a_group_converges_and_then_rests(mut world in worlds()) {
        for _ in 0..60 {
            world.carry_out();
            world.pass(60_000);
        }
        for _ in 0..20 {
            let plan = world.carry_out();
            prop_assert_eq!(steps(&plan), Vec::<String>::new(), "{:?}", world);
            world.pass(60_000);
        }
        let plan = world.carry_out();
        let (live, max) = (world.live(), world.wish.max);
        prop_assert!(plan.serving >= plan.desired.min(max), "{:?} {:?}", plan, world);
        if world.wish.mode == Mode::Static {
            prop_assert_eq!(live, plan.desired);
        }
    }

    #[test]
    fn never_more_than_the_maximum(mut world in worlds()) {
        for _ in 0..12 {
            let before = world.live();
            world.carry_out();
            prop_assert!(world.live() <= world.wish.max.max(before), "{:?}", world);
            world.pass(30_000);
        }
    }

    #[test]
    fn never_below_the_minimum_by_a_stop(world in worlds()) {
        let serves = |world: &World| world.servers.iter().filter(|one| one.serves()).count();
        let mut after = world.clone();
        let plan = after.carry_out();
        let stopped = plan.steps.iter().any(|step| step.kind == StepKind::Stop);
        let floor = world.wish.min.min(serves(&world));
        if stopped && world.wish.replaces_clean_exits {
            prop_assert!(serves(&after) >= floor, "{:?} {:?}", plan, world);
        }
    }

    #[test]
    fn nothing_is_started_while_it_is_paused(world in worlds(), cause in 0..3) {
        let mut history = world.history.clone();
        match cause {
            0 => history.paused_until_ms = world.now_ms + 1,
            1 => history.held_by = Some("admin:first".to_owned()),
            _ => history.settled_at_ms = world.now_ms + 1,
        }
        let plan = decide(world.now_ms, &world.wish, &world.servers, &history);
        prop_assert!(plan.steps.iter().all(|step| step.kind != StepKind::Start));
        prop_assert!(!plan.notes.is_empty(), "it says why");
    }

    #[test]
    fn the_order_of_what_is_observed_does_not_matter(world in worlds(), seed in any::<u64>()) {
        let mut shuffled = world.servers.clone();
        let mut state = seed;
        for place in (1..shuffled.len()).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            shuffled.swap(place, usize::try_from(state >> 33).unwrap() % (place + 1));
        }
        prop_assert_eq!(
            decide(world.now_ms, &world.wish, &world.servers, &world.history),
            decide(world.now_ms, &world.wish, &shuffled, &world.history)
        );
    }

    #[test]
    fn what_is_done_is_done_once_to_each(world in worlds()) {
        let plan = decide(world.now_ms, &world.wish, &world.servers, &world.history);
        let names: BTreeSet<InstanceId> = plan.steps.iter().map(|step| step.instance).collect();
        prop_assert_eq!(names.len(), plan.steps.len(), "{:?}", plan);
    }
}
