//! Which controller to dial next, and how long to wait before
//!
//! A pure policy: it is told how attempts end and what controllers announce, and names the next attempt. Time and
//! randomness stay outside.
//!
//! - The first attempt goes out at once. After that the wait is drawn evenly from zero up to a ceiling that starts at
//!   [`Backoff::initial`] and doubles with each attempt up to [`Backoff::max`] ("full jitter": daemons that lost their
//!   controller together do not come back together). An accepted handshake sets the ceiling back.
//! - After a session was lost no wait is longer than 10 s until two minutes have been waited in all: a Java controller places
//!   the instances of a node elsewhere that stays away for 30 s. Then the ceiling is what it would have been.
//! - An attempt that got no handshake accepted moves on to the next controller of the list, round and round. One
//!   that did is followed by a second try at the same controller.
//! - A redirect names the next target, dialled without waiting the first time. If it leads nowhere, the
//!   list goes on; a leader that accepts the handshake joins it.
//! - A controller that has no room yet says when it will have: the same one is dialled after that time, and up to half of
//!   it more.
//! - Controllers that a controller announces join the end of the list. None ever leaves it.
//!
//! ```
//! use prexorcloud_transport::reconnect::{Backoff, Ended, Reconnect};
//!
//! let seeds = ["controller-1:9090".parse()?, "controller-2:9090".parse()?];
//! let mut policy = Reconnect::new(Backoff::default(), seeds)?;
//! assert_eq!(policy.next_attempt(0.5).target.to_string(), "controller-1:9090");
//! policy.ended(&Ended::Failed);
//! let attempt = policy.next_attempt(0.5);
//! assert_eq!((attempt.target.to_string().as_str(), attempt.delay.as_millis()), ("controller-2:9090", 500));
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```

use std::time::Duration;

use crate::client::Target;

/// The list holds at most this many controllers; announcements beyond it are ignored.
pub const MAX_CANDIDATES: usize = 64;

/// The longest wait soon after a session was lost.
const SOON_MAX: Duration = Duration::from_secs(10);

/// How long "soon" is, in waits.
const SOON: Duration = Duration::from_secs(120);

/// How long to wait between attempts
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The ceiling of the first wait. 1 s.
    pub initial: Duration,
    /// The highest ceiling. 60 s.
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            initial: Duration::from_secs(1),
            max: Duration::from_secs(60),
        }
    }
}

impl Backoff {
    /// The longest wait after `failures` attempts in a row without an accepted handshake.
    #[must_use]
    pub fn ceiling(&self, failures: u32) -> Duration {
        let factor = 1u32.checked_shl(failures).unwrap_or(u32::MAX);
        self.initial.checked_mul(factor).unwrap_or(self.max).min(self.max)
    }
}

/// The list of controllers is empty
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no controller is configured: name at least one, as host:port")]
pub struct NoTargets;

/// The next thing to do
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Whom to dial.
    pub target: Target,
    /// How long to wait before.
    pub delay: Duration,
}

/// How an attempt ended
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The handshake had been accepted.
    Established,
    /// It never came to that.
    Failed,
    /// The controller named the one to talk to, as `host:port`.
    Redirected(String),
    /// The controller has no room now, and named the time after which it will.
    Postponed(Duration),
}

/// The policy; see the [module](self)
#[derive(Clone, Debug)]
pub struct Reconnect {
    backoff: Backoff,
    /// Never empty; the rotation goes on behind `position`.
    candidates: Vec<Target>,
    position: usize,
    /// One of the candidates, or where a redirect leads.
    current: Target,
    /// Attempts in a row without an accepted handshake.
    failures: u32,
    /// The next attempt need not wait.
    immediate: bool,
    /// A redirect was followed without waiting since the last accepted handshake.
    redirected: bool,
    /// The controller has asked for this wait.
    postponed: Option<Duration>,
    /// How much has been waited since a session was lost; absent before the first one.
    waited: Option<Duration>,
    advertised: Vec<Target>,
}

impl Reconnect {
    /// A policy over the configured controllers, in their order; repeated ones count once.
    ///
    /// # Errors
    /// [`NoTargets`] if there is none.
    pub fn new(backoff: Backoff, seeds: impl IntoIterator<Item = Target>) -> Result<Self, NoTargets> {
        let mut candidates: Vec<Target> = Vec::new();
        for seed in seeds {
            if !candidates.contains(&seed) && candidates.len() < MAX_CANDIDATES {
                candidates.push(seed);
            }
        }
        let current = candidates.first().ok_or(NoTargets)?.clone();
        Ok(Self {
            backoff,
            candidates,
            position: 0,
            current,
            failures: 0,
            immediate: true,
            redirected: false,
            postponed: None,
            waited: None,
            advertised: Vec::new(),
        })
    }

    /// Whom to dial next, and when. `random` is drawn evenly from 0.0 up to 1.0.
    pub fn next_attempt(&mut self, random: f64) -> Attempt {
        let random = if random.is_finite() {
            random.clamp(0.0, 1.0)
        } else {
            1.0
        };
        let postponed = self.postponed.take();
        let delay = if std::mem::take(&mut self.immediate) {
            Duration::ZERO
        } else if let Some(wait) = postponed {
            wait.min(self.backoff.max).mul_f64(1.0 + random / 2.0)
        } else {
            self.ceiling().mul_f64(random)
        };
        self.waited = self.waited.map(|waited| waited.saturating_add(delay));
        Attempt {
            target: self.current.clone(),
            delay,
        }
    }

    fn ceiling(&self) -> Duration {
        let ceiling = self.backoff.ceiling(self.failures.saturating_sub(1));
        match self.waited {
            Some(waited) if waited < SOON => ceiling.min(SOON_MAX),
            _ => ceiling,
        }
    }

    /// The target of the present attempt, or of the next one if none is under way.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.current
    }

    /// Every controller known, in the order of dialling.
    #[must_use]
    pub fn candidates(&self) -> &[Target] {
        &self.candidates
    }

    /// The controllers of the last announcement, to be kept for the next start.
    #[must_use]
    pub fn advertised(&self) -> &[Target] {
        &self.advertised
    }

    /// The handshake was accepted: the waits start over, and a controller found by redirect joins the list.
    pub fn handshaken(&mut self) {
        self.failures = 0;
        self.redirected = false;
        self.waited = Some(Duration::ZERO);
        let current = self.current.clone();
        self.join(&current);
        self.settle_on(current);
    }

    /// Merges the controllers that the present one announced; true if the announcement differs from the last one
    ///
    /// Entries without a port get the one of the present target. What cannot be parsed, and what would mean this host
    /// itself, is left out.
    pub fn learned<T: AsRef<str>>(&mut self, announced: &[T]) -> bool {
        let port = self.current.port();
        let mut advertised: Vec<Target> = Vec::new();
        for entry in announced {
            if let Ok(target) = Target::parse(entry.as_ref(), port)
                && !target.is_local()
                && !advertised.contains(&target)
                && advertised.len() < MAX_CANDIDATES
            {
                advertised.push(target);
            }
        }
        for target in &advertised {
            self.join(target);
        }
        let changed = !advertised.is_empty() && advertised != self.advertised;
        if changed {
            self.advertised = advertised;
        }
        changed
    }

    /// The attempt is over.
    pub fn ended(&mut self, how: &Ended) {
        match how {
            Ended::Established => self.failures = 0,
            Ended::Failed => self.fail(),
            Ended::Redirected(leader) => match self.accept_redirect(leader) {
                Some(target) => {
                    self.settle_on(target);
                    self.failures = self.failures.saturating_add(1);
                    self.immediate = !std::mem::replace(&mut self.redirected, true);
                }
                None => self.fail(),
            },
            Ended::Postponed(wait) => self.postponed = Some(*wait),
        }
    }

    fn fail(&mut self) {
        self.failures = self.failures.saturating_add(1);
        self.position = (self.position + 1) % self.candidates.len().max(1);
        if let Some(next) = self.candidates.get(self.position) {
            self.current = next.clone();
        }
    }

    fn join(&mut self, target: &Target) {
        if !self.candidates.contains(target) && self.candidates.len() < MAX_CANDIDATES {
            self.candidates.push(target.clone());
        }
    }

    fn settle_on(&mut self, target: Target) {
        if let Some(position) = self.candidates.iter().position(|candidate| *candidate == target) {
            self.position = position;
        }
        self.current = target;
    }

    /// A redirect to where we are already, or to this host from another one, would lead in a circle.
    fn accept_redirect(&self, leader: &str) -> Option<Target> {
        let target = Target::parse(leader, self.current.port()).ok()?;
        let circular = target == self.current || (target.is_local() && !self.current.is_local());
        (!circular).then_some(target)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use proptest::prelude::*;

    use super::*;

    fn target(text: &str) -> Target {
        text.parse().unwrap()
    }

    fn over(seeds: &[&str]) -> Reconnect {
        Reconnect::new(Backoff::default(), seeds.iter().map(|seed| target(seed))).unwrap()
    }

    fn dialled(policy: &mut Reconnect) -> String {
        policy.next_attempt(0.5).target.to_string()
    }

    #[test]
    fn an_empty_list_is_refused() {
        assert_eq!(Reconnect::new(Backoff::default(), []).unwrap_err(), NoTargets);
    }

    #[test]
    fn the_first_attempt_does_not_wait_and_the_ceiling_doubles_to_its_maximum() {
        let mut policy = over(&["a:1"]);
        assert_eq!(policy.next_attempt(1.0).delay, Duration::ZERO);
        let mut waits = Vec::new();
        for _ in 0..9 {
            policy.ended(&Ended::Failed);
            waits.push(policy.next_attempt(1.0).delay.as_secs());
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    }

    #[test]
    fn a_controller_that_names_a_time_is_dialled_again_after_it() {
        let mut policy = over(&["a:1", "b:1"]);
        policy.next_attempt(0.0);
        policy.ended(&Ended::Postponed(Duration::from_secs(4)));
        let least = policy.clone().next_attempt(0.0);
        assert_eq!(
            (least.target.to_string().as_str(), least.delay.as_secs()),
            ("a:1", 4)
        );
        assert_eq!(policy.next_attempt(1.0).delay.as_secs(), 6);
        // Nobody is held off for ever, and the next failure is like any other.
        policy.ended(&Ended::Postponed(Duration::MAX));
        assert_eq!(policy.next_attempt(0.0).delay.as_secs(), 60);
        policy.ended(&Ended::Failed);
        assert_eq!(policy.next_attempt(1.0).delay.as_secs(), 1);
    }

    #[test]
    fn soon_after_the_loss_of_a_session_no_wait_is_long() {
        let mut policy = over(&["a:1"]);
        policy.next_attempt(0.0);
        policy.handshaken();
        policy.ended(&Ended::Established);
        let mut waited = Duration::ZERO;
        while waited < Duration::from_secs(120) {
            let wait = policy.next_attempt(1.0).delay;
            assert!(wait <= Duration::from_secs(10), "{wait:?} after {waited:?}");
            waited += wait;
            policy.ended(&Ended::Failed);
        }
        assert_eq!(policy.next_attempt(1.0).delay, Duration::from_secs(60));
        // Whom a controller asks to wait does, and another session begins it anew.
        policy.ended(&Ended::Postponed(Duration::from_secs(40)));
        assert_eq!(policy.next_attempt(0.0).delay, Duration::from_secs(40));
        policy.handshaken();
        for _ in 0..8 {
            policy.ended(&Ended::Failed);
        }
        assert_eq!(policy.next_attempt(1.0).delay, Duration::from_secs(10));
    }

    #[test]
    fn jitter_covers_everything_from_nothing_to_the_ceiling() {
        let mut policy = over(&["a:1"]);
        policy.next_attempt(0.0);
        policy.ended(&Ended::Failed);
        policy.ended(&Ended::Failed);
        assert_eq!(policy.next_attempt(0.0).delay, Duration::ZERO);
        assert_eq!(policy.next_attempt(0.25).delay, Duration::from_millis(500));
        assert_eq!(policy.next_attempt(f64::NAN).delay, Duration::from_secs(2));
    }

    #[test]
    fn failures_rotate_through_the_list() {
        let mut policy = over(&["a:1", "b:1", "a:1", "c:1"]);
        let mut order = Vec::new();
        for _ in 0..5 {
            order.push(dialled(&mut policy));
            policy.ended(&Ended::Failed);
        }
        assert_eq!(order, ["a:1", "b:1", "c:1", "a:1", "b:1"]);
    }

    #[test]
    fn an_established_stream_is_followed_by_one_more_try_at_the_same_controller() {
        let mut policy = over(&["a:1", "b:1"]);
        policy.next_attempt(0.5);
        for _ in 0..5 {
            policy.ended(&Ended::Failed);
        }
        assert_eq!(dialled(&mut policy), "b:1");
        policy.handshaken();
        policy.ended(&Ended::Established);
        let again = policy.next_attempt(1.0);
        assert_eq!(
            (again.target.to_string().as_str(), again.delay.as_secs()),
            ("b:1", 1),
            "waits start over"
        );
        policy.ended(&Ended::Failed);
        assert_eq!(dialled(&mut policy), "a:1");
    }

    #[test]
    fn a_redirect_is_followed_at_once_and_then_the_list_goes_on() {
        let mut policy = over(&["a:1", "b:1"]);
        policy.next_attempt(0.5);
        policy.ended(&Ended::Redirected("leader:9".into()));
        let attempt = policy.next_attempt(1.0);
        assert_eq!(
            (attempt.target.to_string().as_str(), attempt.delay),
            ("leader:9", Duration::ZERO)
        );
        policy.ended(&Ended::Failed);
        assert_eq!(dialled(&mut policy), "b:1");
    }

    #[test]
    fn controllers_that_redirect_to_each_other_are_dialled_ever_more_slowly() {
        let mut policy = over(&["a:1", "b:1"]);
        policy.next_attempt(1.0);
        let mut waits = Vec::new();
        for leader in ["b:1", "a:1", "b:1", "a:1"] {
            policy.ended(&Ended::Redirected(leader.into()));
            let attempt = policy.next_attempt(1.0);
            assert_eq!(attempt.target.to_string(), leader);
            waits.push(attempt.delay.as_secs());
        }
        assert_eq!(waits, [0, 2, 4, 8]);
    }

    #[test]
    fn after_an_accepted_handshake_a_redirect_is_followed_at_once_again() {
        let mut policy = over(&["a:1", "b:1"]);
        policy.next_attempt(1.0);
        for leader in ["b:1", "a:1"] {
            policy.ended(&Ended::Redirected(leader.into()));
            assert_eq!(policy.next_attempt(1.0).delay, Duration::ZERO);
            policy.handshaken();
        }
    }

    #[test]
    fn the_ceiling_never_comes_down_by_itself() {
        let backoff = Backoff::default();
        for failures in [6, 31, 32, 33, 64, u32::MAX] {
            assert_eq!(backoff.ceiling(failures), backoff.max, "{failures}");
        }
    }

    #[test]
    fn useless_redirects_count_as_failures() {
        for leader in [
            "",
            "host:0",
            "host:99999",
            "host:notaport",
            "a:1",
            "localhost:1",
            "127.0.0.1:9",
        ] {
            let mut policy = over(&["a:1", "b:1"]);
            policy.next_attempt(0.5);
            policy.ended(&Ended::Redirected(leader.into()));
            assert_eq!(dialled(&mut policy), "b:1", "{leader:?}");
        }
        let mut on_one_host = over(&["127.0.0.1:1"]);
        on_one_host.ended(&Ended::Redirected("127.0.0.1:2".into()));
        assert_eq!(dialled(&mut on_one_host), "127.0.0.1:2");
    }

    #[test]
    fn a_leader_that_accepts_joins_the_list() {
        let mut policy = over(&["a:1"]);
        policy.ended(&Ended::Redirected("leader:9".into()));
        policy.handshaken();
        policy.ended(&Ended::Established);
        assert_eq!(dialled(&mut policy), "leader:9");
        policy.ended(&Ended::Failed);
        assert_eq!(dialled(&mut policy), "a:1");
        assert_eq!(policy.candidates().len(), 2);
    }

    #[test]
    fn announced_controllers_join_the_list_and_useless_ones_do_not() {
        let mut policy = over(&["a:9000", "b:1"]);
        assert!(policy.learned(&[
            "c",
            "a:9000",
            "localhost:1",
            "0.0.0.0:1",
            "::1",
            "bad:bad",
            "",
            "c:9000"
        ]));
        let known: Vec<_> = policy.candidates().iter().map(ToString::to_string).collect();
        assert_eq!(
            known,
            ["a:9000", "b:1", "c:9000"],
            "the port of the present controller is the default"
        );
        assert_eq!(policy.target(), &target("a:9000"));
        assert!(!policy.learned(&["c:9000", "a:9000"]), "the same announcement");
        assert!(!policy.learned::<&str>(&[]), "nothing announced");
        assert!(policy.learned(&["d:1"]));
        assert_eq!(policy.candidates().len(), 4, "none is forgotten");
    }

    #[test]
    fn announcements_cannot_grow_the_list_without_bound() {
        let mut policy = over(&["a:1"]);
        for round in 0..100 {
            let many: Vec<_> = (0..1000).map(|index| format!("h{round}-{index}:1")).collect();
            policy.learned(&many);
        }
        assert_eq!(policy.candidates().len(), MAX_CANDIDATES);
        assert!(policy.advertised().len() <= MAX_CANDIDATES);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Attempt(f64),
        Handshaken,
        Established,
        Failed,
        Redirected(String),
        Learned(Vec<String>),
    }

    fn step() -> impl Strategy<Value = Step> {
        let address = prop_oneof!["[a-d]:[1-3]", "localhost", ".{0,12}"];
        prop_oneof![
            any::<f64>().prop_map(Step::Attempt),
            Just(Step::Handshaken),
            Just(Step::Established),
            Just(Step::Failed),
            address.clone().prop_map(Step::Redirected),
            prop::collection::vec(address, 0..4).prop_map(Step::Learned),
        ]
    }

    proptest! {
        #[test]
        fn invariants_hold_whatever_happens(steps in prop::collection::vec(step(), 0..60)) {
            let mut policy = over(&["a:1", "b:2"]);
            let mut first = true;
            let mut immediate_allowed = true;
            for step in steps {
                let known = policy.candidates().to_vec();
                match step {
                    Step::Attempt(random) => {
                        let attempt = policy.next_attempt(random);
                        prop_assert!(attempt.delay <= Duration::from_secs(60));
                        prop_assert_eq!(&attempt.target, policy.target());
                        if !immediate_allowed && !first && (0.1..1.0).contains(&random) {
                            prop_assert!(attempt.delay >= Duration::from_millis(100), "waits between attempts");
                        }
                        first = false;
                        immediate_allowed = false;
                    }
                    Step::Handshaken => policy.handshaken(),
                    Step::Established => policy.ended(&Ended::Established),
                    Step::Failed => policy.ended(&Ended::Failed),
                    Step::Redirected(leader) => {
                        policy.ended(&Ended::Redirected(leader));
                        immediate_allowed = true;
                    }
                    Step::Learned(announced) => {
                        policy.learned(&announced);
                    }
                }
                prop_assert!(policy.candidates().starts_with(&known), "none is forgotten, the order stays");
                prop_assert!(policy.candidates().len() <= MAX_CANDIDATES);
            }
            // From any state, failing long enough tries every controller.
            let mut tried = std::collections::BTreeSet::new();
            for _ in 0..=policy.candidates().len() {
                tried.insert(policy.next_attempt(0.5).target);
                policy.ended(&Ended::Failed);
            }
            prop_assert!(policy.candidates().iter().all(|candidate| tried.contains(candidate)));
        }
    }
}
