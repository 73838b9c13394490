//! The invariants of the lifecycle, under everything that can happen

use std::time::{Duration, Instant};

use prexorcloud_protocol::instance::{
    Cause, CrashVerdict, Desired, Judgement, Lifecycle, LifecycleOutput, Report, State,
};
use prexorcloud_protocol::peer::DaemonPeer;
use prexorcloud_protocol::{Capabilities, Incarnation, StopMode, Verdict};
use proptest::prelude::*;

use crate::{CURRENT, LIFETIME, config, java, ours, spec};

#[derive(Clone, Debug)]
enum Action {
    Pass(Duration),
    Fire(Duration),
    FireNow,
    Connect(DaemonPeer),
    Disconnect,
    Silence,
    Heard,
    MarkDispatched,
    Redispatch,
    StartAccepted,
    StartFailed,
    Report {
        incarnation: u64,
        state: State,
        players: i32,
        uptime: Duration,
    },
    Ready,
    Crash {
        incarnation: u64,
    },
    Stop(StopMode),
    StopAcknowledged {
        conclusive: bool,
    },
    StopRefused {
        after: Duration,
    },
    StopRepeated,
    StopContradicted,
    Drain,
    Undrain,
    Lost,
    Gone,
    Lives(bool),
}

fn delays() -> impl Strategy<Value = Duration> {
    prop_oneof![
        4 => (0..90_000_u64).prop_map(Duration::from_millis),
        1 => (0..1_000_000_000_u64).prop_map(Duration::from_secs),
    ]
}

fn action() -> impl Strategy<Value = Action> {
    let state = prop::sample::select(&State::ALL[..]);
    let live = prop::sample::select(&State::ALL[..6]);
    let incarnation = prop_oneof![6 => Just(5_u64), 2 => Just(0_u64), 1 => Just(4_u64), 1 => Just(6_u64)];
    let mode = prop_oneof![Just(StopMode::Graceful), Just(StopMode::Force)];
    prop_oneof![
        2 => delays().prop_map(Action::Pass),
        4 => prop_oneof![3 => Just(Duration::ZERO), 1 => delays()].prop_map(Action::Fire),
        1 => Just(Action::FireNow),
        2 => prop::sample::select(vec![ours(), java(), DaemonPeer::of(Capabilities::SESSION)]).prop_map(Action::Connect),
        1 => Just(Action::Silence),
        1 => Just(Action::Heard),
        1 => Just(Action::Disconnect),
        3 => Just(Action::MarkDispatched),
        2 => Just(Action::Redispatch),
        2 => Just(Action::StartAccepted),
        1 => Just(Action::StartFailed),
        8 => (incarnation.clone(), prop_oneof![6 => live, 1 => state], any::<i32>(), delays()).prop_map(
            |(incarnation, state, players, uptime)| Action::Report { incarnation, state, players, uptime }
        ),
        2 => Just(Action::Ready),
        1 => incarnation.prop_map(|incarnation| Action::Crash { incarnation }),
        2 => mode.prop_map(Action::Stop),
        2 => any::<bool>().prop_map(|conclusive| Action::StopAcknowledged { conclusive }),
        2 => delays().prop_map(|after| Action::StopRefused { after }),
        1 => Just(Action::StopRepeated),
        1 => Just(Action::StopContradicted),
        2 => Just(Action::Drain),
        2 => Just(Action::Undrain),
        1 => Just(Action::Lost),
        1 => Just(Action::Gone),
        1 => any::<bool>().prop_map(Action::Lives),
    ]
}

/// What the invariants need to remember from one step to the next.
struct Watcher {
    /// Where the last polled change ended.
    told: State,
}

impl Watcher {
    fn poll(&mut self, lifecycle: &mut Lifecycle) -> Result<usize, TestCaseError> {
        let mut changes = 0;
        while let Some(output) = lifecycle.poll_output() {
            if let LifecycleOutput::Changed { from, to, .. } = output {
                prop_assert_eq!(from, self.told, "changes_are_chained");
                self.told = to;
                changes += 1;
            }
        }
        prop_assert_eq!(self.told, lifecycle.state(), "changes_are_chained");
        Ok(changes)
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn lifecycle_keeps_its_invariants(
        actions in prop::collection::vec(action(), 1..60),
        poll_always in any::<bool>(),
        lifetime in prop_oneof![Just(None), Just(Some(LIFETIME))],
    ) {
        let mut now = Instant::now();
        let mut lifecycle = Lifecycle::new(now, spec(lifetime));
        let mut watcher = Watcher { told: State::Scheduled };
        let mut asked = false;

        for action in actions {
            let before = lifecycle.clone();
            let mut fired = false;
            let mut judgement = None;
            match action.clone() {
                Action::Pass(delay) => now += delay,
                Action::Fire(late) => {
                    if let Some(deadline) = lifecycle.poll_timeout() {
                        now = now.max(deadline.at) + late;
                    }
                    lifecycle.handle_timeout(now);
                    fired = true;
                }
                Action::FireNow => {
                    lifecycle.handle_timeout(now);
                    fired = true;
                }
                Action::Connect(peer) => lifecycle.handle_connected(now, peer),
                Action::Silence => lifecycle.handle_silence(),
                Action::Heard => lifecycle.handle_heard(now),
                Action::Disconnect => lifecycle.handle_disconnected(now),
                Action::MarkDispatched => lifecycle.mark_dispatched(),
                Action::Redispatch => lifecycle.handle_redispatch(now),
                Action::StartAccepted => lifecycle.handle_start_accepted(now),
                Action::StartFailed => lifecycle.handle_start_failed(now),
                Action::Report { incarnation, state, players, uptime } => {
                    let incarnation = Incarnation::new(incarnation);
                    let report = Report { incarnation, state, port: 0, player_count: players, uptime };
                    judgement = Some(lifecycle.handle_report(now, report));
                }
                Action::Ready => judgement = Some(lifecycle.handle_ready(now)),
                Action::Crash { incarnation } => {
                    let verdict = lifecycle.handle_crash(now, Incarnation::new(incarnation));
                    if verdict == CrashVerdict::Stale {
                        prop_assert_eq!(&lifecycle, &before, "stale_news_changes_nothing");
                    } else {
                        prop_assert!(lifecycle.is_terminal());
                    }
                }
                Action::Stop(mode) => {
                    let verdict = lifecycle.request_stop(now, mode);
                    prop_assert!(!matches!(verdict, Verdict::Denied(_)));
                    prop_assert!(lifecycle.is_terminal() || lifecycle.desired() >= Desired::from(mode));
                }
                Action::StopAcknowledged { conclusive } => lifecycle.handle_stop_acknowledged(now, conclusive),
                Action::StopRefused { after } => {
                    lifecycle.handle_stop_refused(now, after);
                    let due = lifecycle.poll_timeout().filter(|_| lifecycle.state() == State::Stopping);
                    prop_assert!(due.is_none_or(|due| due.at > now + after), "a refused stop is not overdue");
                }
                Action::StopRepeated => lifecycle.handle_stop_repeated(now),
                Action::StopContradicted => lifecycle.handle_stop_contradicted(),
                Action::Drain => drop(lifecycle.request_drain(now)),
                Action::Undrain => drop(lifecycle.cancel_drain(now)),
                Action::Lost => lifecycle.handle_lost(now, Cause::DeclaredLost),
                Action::Gone => lifecycle.handle_gone(now, Cause::Reconciled),
                Action::Lives(lives) => lifecycle.note_lives(lives),
            }

            if let Some(judgement) = judgement {
                match judgement {
                    Judgement::Applied { from, to } => {
                        prop_assert_eq!((before.state(), lifecycle.state()), (from, to));
                    }
                    Judgement::Duplicate => prop_assert_eq!(before.state(), lifecycle.state()),
                    _ => prop_assert_eq!(&lifecycle, &before, "stale_news_changes_nothing"),
                }
            }
            if let Action::Report { incarnation, .. } | Action::Crash { incarnation } = action
                && ![0, CURRENT.get()].contains(&incarnation)
            {
                prop_assert_eq!(&lifecycle, &before, "stale_news_changes_nothing");
            }
            if before.is_terminal() && lifecycle.state() != before.state() {
                let is_asked = matches!(action, Action::Stop(_)) && lifecycle.state() == State::Stopping;
                prop_assert!(before.is_lost(), "terminal_is_final");
                prop_assert!(before.desired() == Desired::Run || is_asked, "terminal_is_final");
                prop_assert!(!lifecycle.is_terminal() && !lifecycle.is_lost(), "terminal_is_final");
            }
            if lifecycle.is_terminal() {
                prop_assert_eq!(lifecycle.poll_timeout(), None, "terminal_is_final");
            }
            let taken_back = before.state() == State::Stopping && lifecycle.state() == State::Running;
            prop_assert!(lifecycle.desired() >= before.desired() || taken_back, "desired_never_relaxes");
            asked |= matches!(action, Action::Stop(_)) && !before.is_terminal();
            prop_assert!(!asked || lifecycle.desired() != Desired::Run, "desired_never_relaxes");
            prop_assert!(!lifecycle.is_lost() || lifecycle.is_terminal());
            if before.state() == State::Draining && before.is_drain_requested() {
                let reported_running = matches!(action, Action::Report { state: State::Running, .. } | Action::Ready);
                prop_assert!(
                    !reported_running || lifecycle.state() == State::Draining, "requested_drain_survives_reports"
                );
            }
            prop_assert!(lifecycle.player_count() >= 0);
            if fired {
                let later = lifecycle.poll_timeout().is_none_or(|deadline| deadline.at > now);
                prop_assert!(later, "no_deadline_in_the_past_after_timeout");
            }
            if poll_always {
                let changes = watcher.poll(&mut lifecycle)?;
                prop_assert!(!fired || changes <= 1, "timeouts_do_not_burst");
            }
        }
        watcher.poll(&mut lifecycle)?;
    }

    #[test]
    fn desired_stop_is_eventually_terminal(
        actions in prop::collection::vec(action(), 0..40),
        mode in prop_oneof![Just(StopMode::Graceful), Just(StopMode::Force)],
        late in delays(),
    ) {
        let mut now = Instant::now();
        let mut lifecycle = Lifecycle::new(now, spec(Some(LIFETIME)));
        for action in actions {
            match action {
                Action::Pass(delay) => now += delay,
                Action::Fire(_) | Action::FireNow => lifecycle.handle_timeout(now),
                Action::Connect(peer) => lifecycle.handle_connected(now, peer),
                Action::Silence => lifecycle.handle_silence(),
                Action::Heard => lifecycle.handle_heard(now),
                Action::Disconnect => lifecycle.handle_disconnected(now),
                Action::MarkDispatched => lifecycle.mark_dispatched(),
                Action::Report { incarnation, state, .. } => {
                    let _ = lifecycle.handle_report(
                        now,
                        Report { incarnation: Incarnation::new(incarnation), ..Report::of(state) },
                    );
                }
                Action::StopAcknowledged { conclusive } => lifecycle.handle_stop_acknowledged(now, conclusive),
                Action::StopRefused { after } => lifecycle.handle_stop_refused(now, after),
                Action::StopRepeated => lifecycle.handle_stop_repeated(now),
                Action::StopContradicted => lifecycle.handle_stop_contradicted(),
                _ => {}
            }
        }
        let _ = lifecycle.request_stop(now, mode);
        lifecycle.handle_connected(now, ours());
        // From here on the daemon is mute. At most four timers: two stages, one late each.
        for _ in 0..4 {
            let Some(deadline) = lifecycle.poll_timeout() else { break };
            now = now.max(deadline.at) + late;
            lifecycle.handle_timeout(now);
        }
        prop_assert!(lifecycle.is_terminal(), "{:?}", lifecycle);
    }
}
