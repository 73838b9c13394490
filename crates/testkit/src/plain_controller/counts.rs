//! The instances as a controller that announces nothing counts them

use std::collections::BTreeMap;
use std::time::Duration;

use prexorcloud_protocol::InstanceId;
use prexorcloud_protocol::instance::State;
use prexorcloud_protocol::proto::{StartFailureDisposition, StartInstance, StartInstanceAck};
use prexorcloud_protocol::session::error_code;

use super::TICK;

/// How often a start that failed for now is tried
const ATTEMPTS: u32 = 3;

/// An instance as this controller counts it
#[derive(Clone, Debug)]
pub struct Counted {
    /// What it takes it for.
    pub state: State,
    /// What it sends again; nothing of an instance that it found listed.
    start: Option<Box<StartInstance>>,
    attempts: u32,
    /// Before this moment it is not sent again.
    not_before: Duration,
}

/// All that it counts, ended instances with it
#[derive(Clone, Debug, Default)]
pub struct Counts(BTreeMap<InstanceId, Counted>);

/// Whether the table of the Java controller lets an instance go from one state to the other.
const fn may_follow(from: State, to: State) -> bool {
    use State::{Crashed, Draining, Preparing, Running, Scheduled, Starting, Stopped, Stopping};
    match to {
        Scheduled => matches!(from, Preparing | Starting),
        Preparing => matches!(from, Scheduled),
        Starting => matches!(from, Scheduled | Preparing),
        Running => matches!(from, Scheduled | Preparing | Starting | Draining),
        Draining => matches!(from, Running),
        Stopping => matches!(from, Scheduled | Preparing | Starting | Running | Draining),
        Stopped | Crashed => !from.is_terminal(),
    }
}

impl Counts {
    /// Those of one state.
    pub fn in_state(&self, state: State) -> impl Iterator<Item = InstanceId> {
        let counted = self.0.iter().filter(move |(_, known)| known.state == state);
        counted.map(|(instance, _)| *instance)
    }

    pub(super) fn state(&self, instance: InstanceId) -> Option<State> {
        self.0.get(&instance).map(|known| known.state)
    }

    pub(super) fn lives(&self, instance: InstanceId) -> bool {
        self.state(instance).is_some_and(|state| !state.is_terminal())
    }

    /// What is said of an instance, by whomever, on whatever stream.
    pub(super) fn hear(&mut self, instance: &str, state: State) {
        let known = InstanceId::new(instance).ok();
        let known = known.and_then(|instance| self.0.get_mut(&instance));
        if let Some(known) = known.filter(|known| may_follow(known.state, state)) {
            known.state = state;
        }
    }

    /// It is there from now on, also over another that has ended.
    pub(super) fn enter(&mut self, instance: InstanceId, start: Option<Box<StartInstance>>, now: Duration) {
        let state = if start.is_some() {
            State::Scheduled
        } else {
            State::Running
        };
        let counted = Counted {
            state,
            start,
            attempts: 0,
            not_before: now + TICK,
        };
        self.0.insert(instance, counted);
    }

    pub(super) fn crash(&mut self, is_lost: impl Fn(InstanceId) -> bool) {
        for (instance, known) in &mut self.0 {
            if !known.state.is_terminal() && is_lost(*instance) {
                known.state = State::Crashed;
            }
        }
    }

    /// Every start that is due again: of what does not run yet.
    pub(super) fn starts_due(&mut self, now: Duration) -> impl Iterator<Item = Box<StartInstance>> {
        let is_due = move |known: &&mut Counted| known.state.is_coming_up() && known.not_before <= now;
        let due = self.0.values_mut().filter(is_due);
        due.filter_map(move |known| {
            known.not_before = now + TICK;
            known.start.clone()
        })
    }

    pub(super) fn handle_start_ack(&mut self, now: Duration, ack: &StartInstanceAck) {
        let is_repeated = [
            error_code::INSTANCE_ALREADY_RUNNING,
            error_code::INSTANCE_ALREADY_STARTING,
        ]
        .contains(&ack.error_code.as_str());
        let known = InstanceId::new(&ack.instance_id).ok();
        let Some(known) = known.and_then(|instance| self.0.get_mut(&instance)) else {
            return;
        };
        if ack.accepted || is_repeated {
            known.attempts = 0;
            return;
        }
        known.attempts += 1;
        let is_transient = ack.failure_disposition == StartFailureDisposition::Transient as i32;
        let state = if is_transient && known.attempts <= ATTEMPTS {
            let wait = ack.retry_after_seconds.max(1).unsigned_abs();
            known.not_before = now + Duration::from_secs(wait.into());
            State::Scheduled
        } else {
            State::Crashed
        };
        self.hear(&ack.instance_id, state);
    }
}
