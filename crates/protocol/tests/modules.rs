//! What a node is told about modules: the plan, and the machine against a daemon that may do anything
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use prexorcloud_protocol::ModuleId;
use prexorcloud_protocol::modules::{
    ANSWER_WITHIN, Action, Distribution, Has, Listing, Output, RETRIES, SENT, SNAPSHOT_WITHIN, UNLOADED,
    Wanted, plan,
};
use prexorcloud_testkit::Clock;
use proptest::prelude::*;

fn id(name: &str) -> ModuleId {
    name.parse().unwrap()
}

fn wanted(name: &str, sha256: &str) -> Wanted {
    Wanted {
        module: id(name),
        version: format!("1.0.{sha256}"),
        sha256: sha256.to_owned(),
    }
}

fn has(sha256: &str, state: &str) -> Has {
    Has {
        version: format!("1.0.{sha256}"),
        sha256: sha256.to_owned(),
        state: state.to_owned(),
        ..Has::default()
    }
}

fn install(name: &str, sha256: &str, previous: Option<&str>) -> Action {
    Action::Install {
        wanted: wanted(name, sha256),
        previous: previous.map(str::to_owned),
    }
}

fn uninstall(name: &str) -> Action {
    Action::Uninstall { module: id(name) }
}

fn start() -> Instant {
    Clock::new().at(Duration::ZERO)
}

fn told(machine: &mut Distribution) -> Vec<Action> {
    let mut actions = Vec::new();
    while let Some(output) = machine.poll_output() {
        if let Output::Tell(action) = output {
            actions.push(action);
        }
    }
    actions
}

#[test]
fn the_plan_brings_what_lacks_and_removes_what_should_not_be_there() {
    let there = BTreeMap::from([
        (id("same"), has("1", "ACTIVE")),
        (id("older"), has("1", "ACTIVE")),
        (id("failed"), has("1", "FAILED")),
        (id("gone"), has("1", UNLOADED)),
        (id("stray"), has("9", "ACTIVE")),
        (id("past"), has("9", UNLOADED)),
    ]);
    let all = [
        wanted("same", "1"),
        wanted("older", "2"),
        wanted("failed", "1"),
        wanted("gone", "1"),
        wanted("new", "1"),
    ];
    let expected = [
        uninstall("stray"),
        install("older", "2", Some("1.0.1")),
        install("failed", "1", None),
        install("gone", "1", None),
        install("new", "1", None),
    ];
    assert_eq!(plan(&all, &there), expected);
}

#[test]
fn a_daemon_that_lists_its_modules_is_sent_what_it_lacks() {
    let now = start();
    let mut machine = Distribution::new(vec![wanted("a", "1"), wanted("b", "1")], BTreeMap::new());
    machine.handle_connected(now, Listing::AfterHandshake);
    assert!(told(&mut machine).is_empty());
    machine.handle_snapshot(
        now,
        [(id("a"), has("1", "ACTIVE")), (id("c"), has("1", "ACTIVE"))],
    );
    assert_eq!(told(&mut machine), [uninstall("c"), install("b", "1", None)]);
    machine.handle_state(now, id("b"), has("1", "ACTIVE"));
    machine.handle_state(now, id("c"), has("1", UNLOADED));
    machine.handle_timeout(now + ANSWER_WITHIN);
    assert!(told(&mut machine).is_empty());
    assert_eq!(machine.poll_timeout(), None);
}

#[test]
fn a_list_that_does_not_come_is_not_waited_for() {
    let now = start();
    let mut machine = Distribution::new(vec![wanted("a", "1")], BTreeMap::new());
    machine.handle_connected(now, Listing::AfterHandshake);
    assert_eq!(machine.poll_timeout(), Some(now + SNAPSHOT_WITHIN));
    machine.handle_timeout(now + SNAPSHOT_WITHIN);
    assert_eq!(told(&mut machine), [install("a", "1", None)]);
}

#[test]
fn a_java_daemon_is_sent_everything_after_each_handshake_and_told_what_left_meanwhile() {
    let now = start();
    let mut machine = Distribution::new(vec![wanted("a", "1"), wanted("b", "1")], BTreeMap::new());
    machine.handle_connected(now, Listing::Never);
    // That it was sent is recorded before it is.
    assert_eq!(machine.poll_output(), Some(Output::Note));
    assert_eq!(
        told(&mut machine),
        [install("a", "1", None), install("b", "1", None)]
    );
    for module in ["a", "b"] {
        // It does not say of which jar it speaks.
        machine.handle_state(now, id(module), has("", "ACTIVE"));
    }
    machine.handle_disconnected(now);
    machine.handle_wanted(now, vec![wanted("b", "2")]);
    assert!(told(&mut machine).is_empty());
    // Another controller process, which has read what was recorded.
    let recorded = machine.has().clone();
    let mut machine = Distribution::new(vec![wanted("b", "2")], recorded);
    machine.handle_connected(now, Listing::Never);
    let actions = told(&mut machine);
    assert_eq!(actions[0], uninstall("a"));
    assert!(matches!(&actions[1], Action::Install { wanted, .. } if wanted.sha256 == "2"));
    machine.handle_state(now, id("a"), has("", UNLOADED));
    assert!(told(&mut machine).is_empty());
}

#[test]
fn what_fails_is_tried_again_later_and_later() {
    let mut now = start();
    let mut machine = Distribution::new(vec![wanted("a", "1")], BTreeMap::new());
    machine.handle_connected(now, Listing::Never);
    for wait in &RETRIES[..4] {
        let wait = *wait;
        assert_eq!(told(&mut machine), [install("a", "1", None)], "after {wait:?}");
        machine.handle_state(now, id("a"), has("1", "FAILED"));
        machine.handle_timeout(now + wait - Duration::from_millis(1));
        assert!(told(&mut machine).is_empty(), "before {wait:?}");
        assert_eq!(machine.poll_timeout(), Some(now + wait));
        now += wait;
        machine.handle_timeout(now);
    }
    // After that, only if something changes.
    assert_eq!(told(&mut machine), [install("a", "1", None)]);
    machine.handle_state(now, id("a"), has("1", "FAILED"));
    assert_eq!(machine.poll_timeout(), None);
    now += Duration::from_secs(100_000);
    machine.handle_timeout(now);
    assert!(told(&mut machine).is_empty());
    assert!(machine.handle_retry(now, id("a")), "an operator asks for it");
    assert_eq!(told(&mut machine), [install("a", "1", None)]);
    assert!(!machine.handle_retry(now, id("a")), "it is on its way");
    assert!(told(&mut machine).is_empty());
    machine.handle_state(now, id("a"), has("1", "FAILED"));
    assert_eq!(machine.poll_timeout(), Some(now + RETRIES[0]), "counted anew");
    // Another jar is another matter.
    machine.handle_wanted(now, vec![wanted("a", "2")]);
    assert_eq!(told(&mut machine).last(), Some(&install("a", "2", Some("1.0.1"))));
}

/// A module that has failed so often that it is given up
fn given_up(lists: Listing) -> (Instant, Distribution) {
    let mut now = start();
    let mut machine = Distribution::new(vec![wanted("a", "1")], BTreeMap::new());
    machine.handle_connected(now, lists);
    if lists == Listing::AfterHandshake {
        machine.handle_snapshot(now, []);
    }
    for _ in RETRIES {
        assert_eq!(told(&mut machine).len(), 1);
        machine.handle_state(now, id("a"), has("1", "FAILED"));
        now = machine.poll_timeout().unwrap_or(now);
        machine.handle_timeout(now);
    }
    assert!(told(&mut machine).is_empty() && machine.poll_timeout().is_none());
    machine.handle_disconnected(now);
    (now, machine)
}

#[test]
fn what_is_given_up_is_begun_anew_by_a_daemon_of_another_opinion_only() {
    let (now, mut machine) = given_up(Listing::AfterHandshake);
    machine.handle_connected(now, Listing::AfterHandshake);
    machine.handle_snapshot(now, [(id("a"), has("1", "FAILED"))]);
    assert!(told(&mut machine).is_empty() && machine.poll_timeout().is_none());
    machine.handle_disconnected(now);
    machine.handle_connected(now, Listing::AfterHandshake);
    machine.handle_snapshot(now, []);
    assert_eq!(told(&mut machine), [install("a", "1", None)]);

    // The version before is back: also that is no news after the next handshake.
    let (now, mut machine) = given_up(Listing::AfterHandshake);
    machine.handle_connected(now, Listing::AfterHandshake);
    machine.handle_snapshot(now, [(id("a"), has("1", "FAILED"))]);
    machine.handle_state(now, id("a"), has("0", "ACTIVE"));
    assert!(told(&mut machine).is_empty(), "it has failed often enough");
    machine.handle_disconnected(now);
    machine.handle_connected(now, Listing::AfterHandshake);
    machine.handle_snapshot(now, [(id("a"), has("0", "ACTIVE"))]);
    assert!(told(&mut machine).is_empty() && machine.poll_timeout().is_none());

    let (now, mut machine) = given_up(Listing::Never);
    machine.handle_connected(now, Listing::Never);
    assert_eq!(told(&mut machine), [install("a", "1", None)]);
}

#[test]
fn an_order_that_was_not_sent_is_given_again_soon() {
    let now = start();
    let mut machine = Distribution::new(vec![wanted("a", "1")], BTreeMap::new());
    machine.handle_connected(now, Listing::Never);
    let sent = told(&mut machine);
    machine.handle_not_sent(now, &sent[0]);
    assert_eq!(machine.poll_timeout(), Some(now + RETRIES[0]));
    // What is said of it too late puts nothing off.
    machine.handle_not_sent(now + Duration::from_secs(1), &sent[0]);
    assert_eq!(machine.poll_timeout(), Some(now + RETRIES[0]));
}

#[test]
fn an_answer_that_does_not_come_and_a_stream_that_breaks_are_failures() {
    let now = start();
    let mut machine = Distribution::new(vec![wanted("a", "1")], BTreeMap::new());
    machine.handle_connected(now, Listing::Never);
    assert_eq!(told(&mut machine).len(), 1);
    machine.handle_timeout(now + ANSWER_WITHIN);
    assert!(told(&mut machine).is_empty());
    let again = now + ANSWER_WITHIN + RETRIES[0];
    machine.handle_timeout(again);
    assert_eq!(told(&mut machine).len(), 1);
    machine.handle_disconnected(again);
    machine.handle_connected(again, Listing::Never);
    assert!(
        told(&mut machine).is_empty(),
        "not at once: it may be what breaks the stream"
    );
    machine.handle_timeout(again + RETRIES[1]);
    assert_eq!(told(&mut machine).len(), 1);
}

#[test]
fn the_reports_of_a_node_are_bounded() {
    let now = start();
    let mut machine = Distribution::new(Vec::new(), BTreeMap::new());
    machine.handle_connected(now, Listing::Never);
    for number in 0..1000 {
        machine.handle_state(now, id(&format!("m{number}")), has("1", "ACTIVE"));
    }
    assert_eq!(machine.has().len(), 256);
    machine.handle_state(now, id("m0"), has("1", UNLOADED));
    machine.handle_state(now, id("later"), has("1", "ACTIVE"));
    assert!(machine.has().contains_key(&id("later")) && !machine.has().contains_key(&id("m0")));
}

#[derive(Clone, Debug)]
enum Step {
    Want(Vec<(u8, u8)>),
    Connect(bool),
    Disconnect,
    Answer { fails: bool },
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        prop::collection::btree_map(0_u8..4, 0_u8..3, 0..4)
            .prop_map(|map| Step::Want(map.into_iter().collect())),
        any::<bool>().prop_map(Step::Connect),
        Just(Step::Disconnect),
        any::<bool>().prop_map(|fails| Step::Answer { fails }),
        (0_u64..4000).prop_map(Step::Pass),
    ]
}

/// A daemon that keeps its modules, or forgets them when it connects anew
#[derive(Default)]
struct Daemon {
    modules: BTreeMap<ModuleId, Has>,
    orders: Vec<Action>,
}

impl Daemon {
    fn answer(&mut self, now: Instant, machine: &mut Distribution, fails: bool) {
        for order in std::mem::take(&mut self.orders) {
            let (module, state) = match order {
                Action::Install { wanted, .. } if fails => (wanted.module, has(&wanted.sha256, "FAILED")),
                Action::Install { wanted, .. } => {
                    let state = has(&wanted.sha256, "ACTIVE");
                    self.modules.insert(wanted.module, state.clone());
                    (wanted.module, state)
                }
                Action::Uninstall { module } => {
                    self.modules.remove(&module);
                    (module, has("", UNLOADED))
                }
            };
            machine.handle_state(now, module, state);
        }
        self.orders.extend(told(machine));
    }
}

proptest! {
    #[test]
    fn in_the_end_every_node_has_what_is_wanted(steps in prop::collection::vec(step(), 0..40), lists: bool) {
        let mut now = start();
        let mut machine = Distribution::new(Vec::new(), BTreeMap::new());
        let (mut daemon, mut last) = (Daemon::default(), Vec::new());
        let mut connected = false;
        let connect = |now, machine: &mut Distribution, daemon: &mut Daemon, restarted: bool| {
            if !lists && restarted {
                daemon.modules.clear();
            }
            daemon.orders.clear();
            match lists {
                true => {
                    machine.handle_connected(now, Listing::AfterHandshake);
                    machine.handle_snapshot(now, daemon.modules.clone());
                }
                false => machine.handle_connected(now, Listing::Never),
            }
        };
        for step in steps {
            match step {
                Step::Want(map) => {
                    last = map.iter().map(|(m, s)| wanted(&format!("m{m}"), &s.to_string())).collect();
                    machine.handle_wanted(now, last.clone());
                }
                Step::Connect(restarted) => {
                    machine.handle_disconnected(now);
                    connect(now, &mut machine, &mut daemon, restarted);
                    connected = true;
                }
                Step::Disconnect => {
                    machine.handle_disconnected(now);
                    connected = false;
                }
                Step::Answer { fails } if connected => daemon.answer(now, &mut machine, fails),
                Step::Answer { .. } => {}
                Step::Pass(seconds) => {
                    now += Duration::from_secs(seconds);
                    machine.handle_timeout(now);
                }
            }
            let sent = told(&mut machine);
            prop_assert!(connected || sent.is_empty(), "{sent:?} to a node that is away");
            daemon.orders.extend(sent);
        }
        machine.handle_disconnected(now);
        connect(now, &mut machine, &mut daemon, false);
        daemon.orders.extend(told(&mut machine));
        for _ in 0..20 {
            daemon.answer(now, &mut machine, false);
            now += RETRIES[4];
            machine.handle_timeout(now);
            daemon.orders.extend(told(&mut machine));
        }
        let found: Vec<_> = daemon.modules.iter().map(|(id, has)| (*id, has.sha256.clone())).collect();
        let mut wanted: Vec<_> = last.iter().map(|wanted| (wanted.module, wanted.sha256.clone())).collect();
        wanted.sort();
        prop_assert_eq!(found, wanted);
        prop_assert!(machine.has().values().all(|has| has.state != SENT));
    }
}
