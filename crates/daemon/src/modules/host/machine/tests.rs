#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use super::*;

struct World {
    machine: HostMachine,
    now: Instant,
}

impl World {
    fn new(proven: bool) -> Self {
        let greeting = Greeting {
            module: "m".into(),
            version: "1.0.0".into(),
            node: "n".into(),
            folder: "/f".into(),
        };
        let now = Instant::now();
        Self {
            machine: HostMachine::new(now, greeting, Patience::default(), proven),
            now,
        }
    }

    fn work(&mut self) -> Vec<Work> {
        std::iter::from_fn(|| self.machine.poll_work()).collect()
    }

    fn line(&mut self, line: &str) {
        self.machine.handle_line(self.now, line.as_bytes());
    }

    /// Lets the time come that it waits for
    fn due(&mut self) {
        self.now = self.machine.poll_timeout().unwrap();
        self.machine.handle_timeout(self.now);
    }

    fn works(proven: bool) -> Self {
        let mut world = Self::new(proven);
        world.start();
        world
    }

    fn start(&mut self) {
        assert_eq!(self.work().last(), Some(&Work::Launch));
        self.machine.handle_launched(self.now);
        self.line(r#"{"type":"ready","protocol":1}"#);
        self.line(r#"{"type":"state","state":"ACTIVE"}"#);
        let work = self.work();
        assert!(work.contains(&report(ModuleState::Active, "")), "{work:?}");
    }

    fn failure(&mut self) -> String {
        let work = self.work();
        let failed = work.into_iter().find_map(|work| match work {
            Work::Report(Report {
                state: ModuleState::Failed,
                error,
            }) => Some(error),
            _ => None,
        });
        failed.unwrap()
    }
}

fn report(state: ModuleState, error: &str) -> Work {
    Work::Report(Report {
        state,
        error: error.into(),
    })
}

#[test]
fn a_host_is_greeted_started_and_stopped() {
    let mut world = World::new(false);
    assert_eq!(world.work(), [Work::Launch]);
    world.machine.handle_launched(world.now);
    let hello = r#"{"type":"hello","protocol":1,"module":"m","version":"1.0.0","node":"n","folder":"/f"}"#;
    assert_eq!(world.work(), [Work::Write(format!("{hello}\n"))]);
    world.line(r#"{"type":"ready","protocol":1}"#);
    assert_eq!(world.work(), [Work::Write("{\"type\":\"start\"}\n".into())]);
    world.line(r#"{"type":"subscribe","event_types":["a.B"]}"#);
    world.line(r#"{"type":"state","state":"ACTIVE"}"#);
    let types = BTreeSet::from(["a.B".to_owned()]);
    assert_eq!(
        world.work(),
        [Work::Listen(types), report(ModuleState::Active, "")]
    );
    world.machine.handle_stop(world.now);
    let stop = Work::Write("{\"type\":\"stop\",\"grace_ms\":10000}\n".into());
    assert_eq!(world.work(), [stop, report(ModuleState::Stopping, "")]);
    world.line(r#"{"type":"stopped"}"#);
    world.machine.handle_exited(world.now, "exit code 0");
    // Whether its module still counts as listening is for whoever stopped it to say: another version may be next.
    assert_eq!(world.work(), []);
    assert!(world.machine.is_over());
}

#[test]
fn one_that_has_never_worked_gets_one_try() {
    for (until, expected) in [(0, "not ready within 20 s"), (1, "did not start within 30 s")] {
        let mut world = World::new(false);
        world.machine.handle_launched(world.now);
        if until == 1 {
            world.line(r#"{"type":"ready","protocol":1}"#);
        }
        world.work();
        world.due();
        assert_eq!(world.work(), [Work::Kill]);
        world.machine.handle_exited(world.now, "killed by signal 9");
        assert!(world.failure().contains(expected));
        assert!(world.machine.is_over());
    }
    let mut world = World::new(false);
    world.machine.handle_launched(world.now);
    world.work();
    world.machine.handle_exited(world.now, "exit code 1");
    assert_eq!(
        world.failure(),
        "its host has ended before it was ready: exit code 1"
    );
    let mut world = World::new(false);
    world.machine.handle_launch_failed(world.now, "no java");
    assert!(world.failure().contains("no java"));
    assert!(world.machine.is_over());
}

#[test]
fn one_that_has_worked_is_started_again_with_growing_pauses_until_it_is_given_up() {
    let mut world = World::works(false);
    let mut pauses = Vec::new();
    for failure in 1..=5 {
        world.machine.handle_exited(world.now, "exit code 1");
        if failure == 5 {
            break;
        }
        let since = world.now;
        let work = world.work();
        assert!(
            matches!(&work[..], [Work::Report(Report { state: ModuleState::Waiting, error })] if error.contains("exit code 1"))
        );
        world.due();
        pauses.push((world.now - since).as_secs());
        world.start();
    }
    assert_eq!(pauses, [1, 2, 4, 8]);
    assert!(world.failure().starts_with("given up after 5 failures in a row"));
    assert!(world.machine.is_over());
}

#[test]
fn failures_are_forgotten_after_a_while_of_work() {
    let mut world = World::works(true);
    for _ in 0..20 {
        world.now += Duration::from_secs(60);
        world.machine.handle_exited(world.now, "exit code 1");
        let since = world.now;
        world.due();
        assert_eq!(world.now - since, Duration::from_secs(1));
        world.start();
    }
}

#[test]
fn garbage_is_counted_and_ends_it() {
    let mut world = World::works(true);
    for _ in 0..31 {
        world.line("hello");
    }
    let work = world.work();
    assert_eq!(work.len(), 1, "it is said once: {work:?}");
    assert_eq!(world.machine.mistakes(), 31);
    world.line(r#"{"type":"later"}"#);
    world.line(r#"{"type":"later"}"#);
    assert_eq!(world.work().len(), 1, "what is unknown is no mistake");
    world.machine.handle_overlong();
    assert_eq!(world.work(), [Work::Kill]);
    world.line("hello");
    world.machine.handle_exited(world.now, "killed by signal 9");
    let work = world.work();
    assert!(
        matches!(&work[..], [Work::Report(Report { state: ModuleState::Waiting, error })] if error.contains("32 lines")),
        "{work:?}"
    );
}

#[test]
fn changes_that_nobody_could_follow_are_mistakes() {
    let mut world = World::works(true);
    for count in 0..200 {
        let state = ["ACTIVE", "WAITING"][count % 2];
        world.line(&format!(r#"{{"type":"state","state":"{state}"}}"#));
    }
    let work = world.work();
    let reports = work.iter().filter(|work| matches!(work, Work::Report(_))).count();
    assert!((50..=64).contains(&reports), "{reports}");
    assert!(work.contains(&Work::Kill));
}

#[test]
fn one_that_does_not_stop_is_killed_and_is_no_failure() {
    let mut world = World::works(true);
    world.machine.handle_stop(world.now);
    world.work();
    world.due();
    assert!(matches!(&world.work()[..], [Work::Complain(text), Work::Kill] if text.contains("10 s")));
    assert_eq!(world.machine.poll_timeout(), None);
    world.machine.handle_exited(world.now, "killed by signal 9");
    assert_eq!(world.work(), []);
    assert!(world.machine.is_over());
}

#[test]
fn a_stop_counts_at_any_time() {
    // While it is launched.
    let mut world = World::new(true);
    world.work();
    world.machine.handle_stop(world.now);
    world.machine.handle_launched(world.now);
    assert_eq!(world.work(), [Work::Kill]);
    world.machine.handle_exited(world.now, "killed by signal 9");
    assert!(world.machine.is_over());
    // While it rests.
    let mut world = World::works(true);
    world.machine.handle_exited(world.now, "exit code 1");
    world.work();
    world.machine.handle_stop(world.now);
    assert!(world.machine.is_over());
    // After the end, and while it is killed.
    world.machine.handle_stop(world.now);
    assert!(world.machine.is_over());
    let mut world = World::works(true);
    world.line(r#"{"type":"state","state":"FAILED","error":"no"}"#);
    assert_eq!(world.work(), [Work::Kill]);
    world.machine.handle_stop(world.now);
    world.machine.handle_exited(world.now, "killed by signal 9");
    assert_eq!(world.work(), []);
    assert!(world.machine.is_over());
}

#[test]
fn another_version_of_the_protocol_is_no_match() {
    let mut world = World::new(false);
    world.machine.handle_launched(world.now);
    world.line(r#"{"type":"ready","protocol":2}"#);
    world.machine.handle_exited(world.now, "killed by signal 9");
    assert!(world.failure().contains("version 2"));
}

/// One that answers pings, and works
fn pinged() -> World {
    let mut world = World::new(true);
    world.machine.handle_launched(world.now);
    world.line(r#"{"type":"ready","protocol":1,"pings":true}"#);
    world.line(r#"{"type":"state","state":"ACTIVE"}"#);
    world.work();
    world
}

fn ping(number: u64) -> Work {
    Work::Write(format!("{{\"type\":\"ping\",\"number\":{number}}}\n"))
}

#[test]
fn one_that_hangs_is_killed_and_started_again() {
    let mut world = pinged();
    for number in 1..=3 {
        let before = world.now;
        world.due();
        assert_eq!(world.now - before, Duration::from_secs(30));
        assert_eq!(world.work(), [ping(number)]);
        world.line(&format!(r#"{{"type":"pong","number":{number}}}"#));
    }
    world.due();
    assert_eq!(world.work(), [ping(4)]);
    // What it does meanwhile is no answer.
    world.line(r#"{"type":"log","message":"busy"}"#);
    world.line(r#"{"type":"pong","number":3}"#);
    assert_eq!(world.machine.mistakes(), 1);
    world.work();
    let before = world.now;
    world.due();
    assert_eq!(world.now - before, Duration::from_secs(60));
    assert_eq!(world.work(), [Work::Kill]);
    world.machine.handle_exited(world.now, "killed by signal 9");
    let work = world.work();
    assert!(
        matches!(&work[..], [Work::Report(Report { state: ModuleState::Waiting, error })] if error.contains("it hangs")),
        "{work:?}"
    );
    world.due();
    assert_eq!(world.work(), [Work::Launch]);
}

#[test]
fn one_that_does_not_know_pings_gets_none() {
    let mut world = World::works(true);
    assert_eq!(world.machine.poll_timeout(), None);
    world.line(r#"{"type":"pong","number":0}"#);
    assert_eq!(world.machine.mistakes(), 1);
    // And what the next process says counts for that one.
    let mut world = pinged();
    world.machine.handle_exited(world.now, "exit code 1");
    world.work();
    world.due();
    world.start();
    assert_eq!(world.machine.poll_timeout(), None);
}
