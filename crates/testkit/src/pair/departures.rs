//! What left although it must not have

use prexorcloud_protocol::instance::{Desired, State};
use prexorcloud_protocol::proto::{RunningInstance, controller_message, daemon_message};
use prexorcloud_protocol::session::error_code;
use prexorcloud_protocol::{Incarnation, InstanceId, StopMode};

use crate::store::Store;
use crate::supervisor::Supervisor;

/// Messages that were put on a stream although something spoke against it
#[derive(Clone, Debug, Default)]
pub(crate) struct Departures {
    /// Streams of the daemon that began with something else than a handshake.
    pub(crate) before_handshake: Vec<String>,
    /// Streams on which the controller said something before its acknowledgement.
    pub(crate) before_ack: Vec<String>,
    /// Starts and stops that left without the record that they depend on.
    pub(crate) unrecorded: Vec<String>,
    /// Acknowledgements that left without the record that they promise.
    pub(crate) unfounded: Vec<String>,
    /// Starts that were rejected although their process is up.
    pub(crate) rejected_live: Vec<String>,
    /// Instances that a handshake listed among those that live, and that do not.
    pub(crate) ghosts: Vec<String>,
}

impl Departures {
    /// A message of the daemon leaves; what it rejects must not be up.
    pub(super) fn note_up(&mut self, supervisor: &Supervisor, payload: &daemon_message::Payload) {
        let ack = match payload {
            daemon_message::Payload::Handshake(handshake) => {
                return self.note_ghosts(&handshake.running_instances);
            }
            daemon_message::Payload::StartInstanceAck(ack) => ack,
            _ => return,
        };
        // These say that it is up, or about to be.
        let is_repeated = [
            error_code::INSTANCE_ALREADY_RUNNING,
            error_code::INSTANCE_ALREADY_STARTING,
        ]
        .contains(&ack.error_code.as_str());
        if ack.accepted || is_repeated {
            return;
        }
        let is_it = |process: &&crate::supervisor::Process| {
            process.instance.as_str() == ack.instance_id && process.incarnation.get() == ack.incarnation
        };
        let mut launched = supervisor.disk.processes.iter();
        if ack.incarnation != 0 && launched.find(is_it).is_some_and(|process| process.is_live()) {
            let (id, incarnation, code) = (&ack.instance_id, ack.incarnation, &ack.error_code);
            self.rejected_live
                .push(format!("{id}#{incarnation} is up and rejected: {code}"));
        }
    }

    /// A Java controller takes each for running.
    fn note_ghosts(&mut self, listed: &[RunningInstance]) {
        let ended = [State::Stopped, State::Crashed].map(State::to_wire);
        for ghost in listed.iter().filter(|listed| ended.contains(&listed.state)) {
            let (id, incarnation) = (&ghost.instance_id, ghost.incarnation);
            self.ghosts
                .push(format!("{id}#{incarnation} has ended and is listed as alive"));
        }
    }

    /// A message of a controller leaves; what it depends on must be written.
    pub(super) fn note_down(
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
}
