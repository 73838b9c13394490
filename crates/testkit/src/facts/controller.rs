//! What is remembered of a controller for the invariants

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use prexorcloud_protocol::instance::{Cause, State};
use prexorcloud_protocol::node::controller::{Change, CommitFailure, OrderOutcome, OrderRefusal};
use prexorcloud_protocol::proto::{CommandWritten, ConsoleOutput};
use prexorcloud_protocol::roster::{InstanceEvent, Roster};
use prexorcloud_protocol::session::controller::ControllerOutcome;
use prexorcloud_protocol::{ControllerEvent, Incarnation, InstanceId};

use crate::store::{Seen, Sightings};

/// What the host remembers for the invariants
#[derive(Clone, Debug, Default)]
pub struct ControllerFacts {
    /// How each stream of this controller ended, as its session told it.
    pub closed: BTreeMap<u32, Vec<ControllerOutcome>>,
    /// The last console line of each incarnation.
    pub console: BTreeMap<(String, u64), u64>,
    /// Console lines that came out of order or with another line's text, and gaps that were not counted right.
    pub console_faults: Vec<String>,
    /// Console lines that were handed on although they name another incarnation than the current one.
    pub misplaced_lines: Vec<String>,
    /// How many console lines arrived.
    pub console_lines: u64,
    /// How many gap records arrived.
    pub gap_records: u64,
    /// How often the node was found unreachable.
    pub unreachable: u64,
    /// How often it answered again.
    pub recovered: u64,
    /// Machines that wanted to be woken at a moment that had passed, right after they were woken.
    pub busy_timers: Vec<String>,
    /// Records that could not be restored, and orders that were built on something else than what is recorded.
    pub denied: Vec<String>,
    /// The incarnations that this controller has reason to stop.
    pub may_stop: BTreeSet<(InstanceId, Incarnation)>,
    /// News of an unreachable node that was unreachable already, and the like.
    pub heartbeat_faults: Vec<String>,
    /// Errors that the daemon reported, by code.
    pub daemon_errors: BTreeMap<String, u64>,
    /// What the sessions ignored.
    pub ignored: Vec<String>,
    /// Instances that were up and counted as ended because a start was rejected.
    pub rejected_live: Vec<String>,
    /// What this controller has concluded to have ended, and when.
    pub ends: Vec<Ended>,
    /// The commands that want an answer, by their stream and number.
    pub typed: BTreeMap<(u32, u64), Typed>,
    /// Commands that were written although nobody wanted it, and second answers that say something else.
    pub answer_faults: Vec<String>,
    /// When the node was found to be drained.
    pub drained: Vec<Duration>,
    /// The starts that their daemon said to have begun.
    begun: BTreeSet<(InstanceId, Incarnation)>,
    silent: BTreeSet<u32>,
    pub(crate) seen: Sightings,
}

/// A console command, and what the daemon said of it
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Typed {
    /// The instance.
    pub instance: InstanceId,
    /// The line.
    pub line: String,
    /// Whether it was written to the console; `None` = nothing was said.
    pub written: Option<bool>,
}

/// An end as a controller concluded it
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// When.
    pub at: Duration,
    /// The instance.
    pub instance: InstanceId,
    /// Which start of the id it is.
    pub incarnation: Incarnation,
    /// From what.
    pub cause: Cause,
    /// The daemon had said that it had begun.
    pub had_begun: bool,
}

impl ControllerFacts {
    /// The machine leaves an event to the application.
    pub(crate) fn note_event(&mut self, stream: u32, roster: &Roster, event: ControllerEvent) {
        match event {
            ControllerEvent::Console(output) => {
                self.note_place(roster, &output);
                self.note_console(&output);
            }
            ControllerEvent::Unreachable { .. } => {
                self.unreachable += 1;
                if !self.silent.insert(stream) {
                    self.heartbeat_faults
                        .push(format!("stream {stream} is unreachable twice"));
                }
            }
            ControllerEvent::Recovered { .. } => {
                self.recovered += 1;
                if !self.silent.remove(&stream) {
                    self.heartbeat_faults
                        .push(format!("stream {stream} recovers from nothing"));
                }
            }
            ControllerEvent::CommandWritten(answer) => self.note_written(stream, &answer),
            ControllerEvent::Ignored(anomaly) => self.ignored.push(anomaly.to_string()),
            ControllerEvent::DaemonError(report) => {
                *self.daemon_errors.entry(report.error_code).or_default() += 1;
            }
            ControllerEvent::Closed(outcome) => self.closed.entry(stream).or_default().push(outcome),
            _ => {}
        }
    }

    fn note_written(&mut self, stream: u32, answer: &CommandWritten) {
        let said = answer.error_code.is_empty();
        let number = answer.command_id;
        match self.typed.get_mut(&(stream, number)) {
            Some(typed) if typed.written.is_none_or(|before| before == said) => typed.written = Some(said),
            // A command of an earlier start that is repeated on a later stream is refused there.
            None if !said => {}
            asked => {
                let fault = format!("stream {stream} answers command {number} ({asked:?}) with {said}");
                self.answer_faults.push(fault);
            }
        }
    }

    /// An order was answered: what is built on something else than what is recorded is a mistake.
    pub(crate) fn note_answer(
        &mut self,
        what: &str,
        result: &Result<OrderOutcome, OrderRefusal>,
        is_deposed: bool,
    ) {
        if let Err(OrderRefusal::NotRecorded(CommitFailure::Conflict(why))) = result
            && !is_deposed
        {
            self.denied.push(format!("{what}: {why}"));
        }
    }

    /// The controller is killed: nobody is left to be told of the ends of its streams.
    pub(crate) fn note_killed<'a>(&mut self, streams: impl Iterator<Item = &'a u32>) {
        for stream in streams {
            let told = self.closed.entry(*stream).or_default();
            if told.is_empty() {
                told.push(ControllerOutcome::StreamEnded);
            }
        }
    }

    pub(crate) fn note_news(&mut self, at: Duration, news: &InstanceEvent) {
        match *news {
            InstanceEvent::Changed {
                instance,
                incarnation,
                from,
                to: state,
                cause,
                ..
            } => {
                let start = (instance, incarnation);
                if matches!(
                    state,
                    State::Preparing | State::Starting | State::Running | State::Draining
                ) {
                    self.begun.insert(start);
                }
                if state.is_terminal() {
                    let had_begun = self.begun.contains(&start);
                    self.ends.push(Ended {
                        at,
                        instance,
                        incarnation,
                        cause,
                        had_begun,
                    });
                }
                let was_up = matches!(from, State::Running | State::Draining);
                if was_up && cause == Cause::StartFailed {
                    let fault =
                        format!("{instance}#{incarnation} was {from} and counts as {state}: a start failed");
                    self.rejected_live.push(fault);
                }
                let before = self.seen.get(&(instance, incarnation));
                let is_taken_back =
                    cause == Cause::TakenBack || before.is_some_and(|before| before.is_taken_back);
                let seen = Seen {
                    state,
                    cause,
                    is_taken_back,
                };
                self.seen.insert((instance, incarnation), seen);
            }
            InstanceEvent::OrphanStopped {
                instance,
                incarnation,
                ..
            } => {
                self.may_stop.insert((instance, incarnation));
            }
            _ => {}
        }
    }

    /// Whether the daemon said that this start had begun.
    #[must_use]
    pub fn had_begun(&self, instance: InstanceId, incarnation: Incarnation) -> bool {
        self.begun.contains(&(instance, incarnation))
    }

    /// A wish that is committed is a reason.
    pub(crate) fn note_change(&mut self, change: &Change) {
        if let Change::Instance(snapshot) = change
            && snapshot.desired.stop_mode().is_some()
        {
            self.may_stop.insert((snapshot.instance, snapshot.incarnation));
        }
    }

    fn note_place(&mut self, roster: &Roster, output: &ConsoleOutput) {
        let named = Incarnation::new(output.incarnation);
        let known = InstanceId::new(&output.instance_id)
            .ok()
            .and_then(|id| roster.get(id));
        let current = known.map_or(Incarnation::default(), |known| known.incarnation());
        if named.is_known() && named != current {
            let fault = format!(
                "a line of {}#{named} while #{current} is current",
                output.instance_id
            );
            self.misplaced_lines.push(fault);
        }
    }

    fn note_console(&mut self, output: &ConsoleOutput) {
        let ConsoleOutput {
            instance_id,
            incarnation,
            sequence,
            line,
            ..
        } = output;
        self.console_lines += 1;
        if *sequence == 0 {
            return;
        }
        let last = self
            .console
            .entry((instance_id.clone(), *incarnation))
            .or_default();
        let lost = line
            .strip_prefix("[prexorcloud] ")
            .and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
        let fault = match lost {
            _ if *sequence <= *last => Some(format!("line {sequence} after line {last}")),
            Some(lost) if lost > *sequence - *last => {
                Some(format!("{lost} lost between line {last} and {sequence}"))
            }
            Some(_) => None,
            None if *line != format!("line {sequence}") => Some(format!("line {sequence} reads {line:?}")),
            None => None,
        };
        self.gap_records += u64::from(lost.is_some());
        *last = *sequence;
        if let Some(fault) = fault {
            self.console_faults
                .push(format!("{instance_id}#{incarnation}: {fault}"));
        }
    }
}
