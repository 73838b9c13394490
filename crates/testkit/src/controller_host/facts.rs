//! What is remembered of a controller for the invariants

use std::collections::{BTreeMap, BTreeSet};

use prexorcloud_protocol::instance::{Cause, Desired};
use prexorcloud_protocol::node::controller::Change;
use prexorcloud_protocol::proto::{ConsoleOutput, controller_message};
use prexorcloud_protocol::roster::{InstanceEvent, Roster};
use prexorcloud_protocol::session::controller::ControllerOutcome;
use prexorcloud_protocol::{ControllerEvent, Incarnation, InstanceId, StopMode};

use super::Store;
use super::store::{Seen, Sightings};

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
    /// Starts and stops that left without the record that they depend on.
    pub unrecorded: Vec<String>,
    /// Acknowledgements that left without the record that they promise.
    pub unfounded: Vec<String>,
    silent: BTreeSet<u32>,
    pub(super) seen: Sightings,
}

impl ControllerFacts {
    /// The machine leaves an event to the application.
    pub(super) fn note_event(&mut self, stream: u32, roster: &Roster, event: ControllerEvent) {
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
            ControllerEvent::Ignored(anomaly) => self.ignored.push(anomaly.to_string()),
            ControllerEvent::DaemonError(report) => {
                *self.daemon_errors.entry(report.error_code).or_default() += 1;
            }
            ControllerEvent::Closed(outcome) => self.closed.entry(stream).or_default().push(outcome),
            _ => {}
        }
    }

    pub(super) fn note_news(&mut self, news: &InstanceEvent) {
        match *news {
            InstanceEvent::Changed {
                instance,
                incarnation,
                to: state,
                cause,
                ..
            } => {
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

    /// A wish that is committed is a reason.
    pub(super) fn note_change(&mut self, change: &Change) {
        if let Change::Instance(snapshot) = change
            && snapshot.desired.stop_mode().is_some()
        {
            self.may_stop.insert((snapshot.instance, snapshot.incarnation));
        }
    }

    /// A message leaves; what it depends on must be written.
    pub(crate) fn note_departure(
        &mut self,
        store: &Store,
        is_deposed: bool,
        payload: &controller_message::Payload,
    ) {
        use controller_message::Payload;
        match payload {
            Payload::StartInstance(start) => {
                let recorded = InstanceId::new(&start.instance_id)
                    .is_ok_and(|id| store.has_recorded(id, Incarnation::new(start.incarnation)));
                if !recorded {
                    let (id, incarnation) = (&start.instance_id, start.incarnation);
                    self.unrecorded
                        .push(format!("{id}#{incarnation} is started and not recorded"));
                }
            }
            // What a deposed controller sends is the business of the fence.
            Payload::StopInstance(stop) if !is_deposed => {
                let mode = if stop.force {
                    StopMode::Force
                } else {
                    StopMode::Graceful
                };
                let record = InstanceId::new(&stop.instance_id)
                    .ok()
                    .and_then(|id| store.records.get(&id));
                let unwanted = record.filter(|record| {
                    record.start.incarnation == stop.incarnation
                        && !record.state.is_terminal()
                        && record.desired < Desired::from(mode)
                });
                if let Some(record) = unwanted {
                    let (id, incarnation) = (&stop.instance_id, stop.incarnation);
                    let (state, desired) = (record.state, record.desired);
                    self.unrecorded.push(format!(
                        "{id}#{incarnation} is stopped ({mode:?}) and recorded as {state}, {desired:?}"
                    ));
                }
            }
            Payload::CrashReportAck(ack) if !store.crashes.contains_key(&ack.report_id) => {
                self.unfounded
                    .push(format!("{} is acknowledged and not stored", ack.report_id));
            }
            _ => {}
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
