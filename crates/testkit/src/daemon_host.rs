//! I/O for a daemon: a stream, a supervisor and a disk around the shipped [`DaemonSession`] and [`DaemonNode`](prexorcloud_protocol::node::DaemonNode)
//!
//! Nothing is decided here. What the machines want done is done by the simulated [`Supervisor`], and what happens there is
//! told to them.

use std::time::Duration;

use prexorcloud_protocol::node::daemon::{DaemonWork, Handed};
use prexorcloud_protocol::proto::{ControllerMessage, DaemonMessage};
use prexorcloud_protocol::{DaemonConfig, DaemonEvent, DaemonSession, Epoch, Received, Session as _};

use crate::action::Action;
use crate::clock::Clock;
use crate::describe;
use crate::facts::DaemonFacts;
use crate::scenario::Peers;
use crate::side::{DaemonSide, DaemonView, Effect, Turn};
use crate::supervisor::{Node, Process, Supervisor, status};
use crate::world::{Timed, wake};

/// How long a service manager takes to start a daemon again that has left.
const RESTART: Duration = Duration::from_secs(10);

/// What a daemon that runs has in memory
#[derive(Clone, Debug)]
struct Running {
    session: DaemonSession,
    node: Node,
    has_stream: bool,
    has_finished: bool,
    /// The epoch on the last message.
    hears: Epoch,
}

/// The host of the daemon
#[derive(Clone, Debug)]
pub struct DaemonHost {
    /// The processes, and what survives the daemon.
    pub supervisor: Supervisor,
    /// What was seen.
    pub facts: DaemonFacts,
    config: DaemonConfig,
    running: Option<Running>,
    boots_at: Option<Duration>,
}

impl DaemonHost {
    pub(crate) fn new(config: DaemonConfig, peers: Peers) -> Self {
        Self {
            supervisor: Supervisor::new(peers),
            facts: DaemonFacts::default(),
            config,
            running: None,
            boots_at: Some(Duration::ZERO),
        }
    }

    /// The session, while the daemon runs.
    #[must_use]
    pub fn session(&self) -> Option<&DaemonSession> {
        self.running.as_ref().map(|running| &running.session)
    }

    fn boot(&mut self, turn: &mut Turn<'_>) {
        turn.note(|| "daemon starts");
        self.boots_at = None;
        self.config.boot_id = format!("booted-at-{:?}", turn.moment());
        let (session, node, faults) = self.supervisor.start_daemon(turn, self.config.clone());
        self.facts.disbelieved.extend(faults);
        self.running = Some(Running {
            session,
            node,
            has_stream: false,
            has_finished: false,
            hears: Epoch::UNFENCED,
        });
    }

    fn stop(&mut self, boots_at: Duration) {
        self.running = None;
        self.supervisor.handle_daemon_gone();
        self.boots_at = Some(boots_at);
    }

    fn leave_if_finished(&mut self, turn: &mut Turn<'_>) {
        let is_over = |running: &Running| running.has_finished && !running.has_stream;
        if self.running.as_ref().is_some_and(is_over) {
            turn.note(|| "daemon has left");
            self.stop(turn.moment() + RESTART);
        }
    }

    fn perform(&mut self, turn: &mut Turn<'_>, work: DaemonWork<Box<Process>>) {
        let Some(running) = &mut self.running else { return };
        let (session, node) = (&mut running.session, &mut running.node);
        self.facts.note_work(&work);
        if let DaemonWork::Spool { report, .. } = &work
            && self.supervisor.disk.is_failing(turn.moment())
        {
            self.facts.note_unwritten(report);
        }
        if let Some(text) = describe::daemon_work(&work) {
            turn.note(|| text);
        }
        match work.hand_to(session, node) {
            Handed::Done => {}
            Handed::Reported { report, observed } => {
                turn.note(|| describe::report(&report, observed));
                self.facts.note_judgement(&report, observed);
            }
            Handed::Left(DaemonWork::Finish { .. }) => {
                session.shut_down();
                running.has_finished = true;
            }
            Handed::Left(work) => self.supervisor.perform(turn, work, session, node),
        }
        self.leave_if_finished(turn);
    }

    fn hear(&mut self, turn: &mut Turn<'_>, event: DaemonEvent) {
        let disk = &mut self.supervisor.disk;
        let Some(running) = &mut self.running else { return };
        self.facts.note_event(&event, running.hears, disk.epoch);
        match running.node.handle_event(turn.now, event) {
            Some(DaemonEvent::FenceRaised(epoch)) => {
                turn.note(|| format!("daemon obeys epoch {epoch} from now on"));
                if disk.write_epoch(turn.moment(), epoch) {
                    running.session.fence_written(epoch);
                } else {
                    running.session.fence_not_written(epoch, "the disk is full");
                }
            }
            Some(DaemonEvent::NodeStatusDue) => {
                // A session that closes meanwhile has no use for it.
                let _ = running.session.send(status(&running.node));
            }
            Some(DaemonEvent::Command {
                instance,
                incarnation,
                line,
                id,
                ..
            }) => {
                let process = self.supervisor.process(instance);
                let result = match process.filter(|process| process.takes_commands()) {
                    Some(_) => {
                        self.facts.typed.insert((instance, line));
                        Ok(())
                    }
                    None => Err(("INSTANCE_NOT_RUNNING", "it does not run".to_owned())),
                };
                turn.note(|| format!("daemon types a command to {instance}: {result:?}"));
                if let (Some(id), Some(running)) = (id, &mut self.running) {
                    running.session.command_written(instance, incarnation, id, result);
                }
            }
            Some(other) => turn.note(|| describe::daemon_event(&other)),
            None => {}
        }
    }
}

impl DaemonSide for DaemonHost {
    fn handle_opened(&mut self, turn: &mut Turn<'_>) {
        if let Some(running) = &mut self.running {
            self.facts.connects += 1;
            running.has_stream = true;
            running.session.handle_connected(turn.now);
        }
    }

    fn handle_message(&mut self, turn: &mut Turn<'_>, received: Received<ControllerMessage>) {
        if let Some(running) = &mut self.running {
            running.hears = Epoch::new(received.message.epoch);
            running.session.handle_message(turn.now, received);
        }
    }

    fn handle_ended(&mut self, turn: &mut Turn<'_>) {
        if let Some(running) = &mut self.running {
            running.session.handle_disconnected(turn.now);
        }
        // Its application does the last work and hears the last events before it exits.
        self.settle(turn);
        if let Some(running) = &mut self.running {
            running.has_stream = false;
        }
        self.leave_if_finished(turn);
    }

    fn poll_transmit(&mut self, _turn: &mut Turn<'_>) -> Option<DaemonMessage> {
        self.running.as_mut()?.session.poll_transmit()
    }

    fn is_established(&self) -> bool {
        self.session().is_some_and(DaemonSession::is_established)
    }

    fn wants_end(&self) -> bool {
        self.session().is_some_and(|session| session.close().is_some())
    }

    fn is_up(&self) -> bool {
        self.running.is_some()
    }

    fn next_wake(&self, clock: &Clock) -> Option<Duration> {
        let machines = self.running.iter();
        let machines = machines.flat_map(|running| [running.session.due_at(), running.node.due_at()]);
        let machines = machines.flatten().map(|at| clock.moment_of(at));
        let supervisor = self.supervisor.next_wake(self.is_up());
        machines.chain(supervisor).chain(self.boots_at).min()
    }

    fn handle_wake(&mut self, turn: &mut Turn<'_>) -> bool {
        if self.boots_at.is_some_and(|at| at <= turn.moment()) {
            self.boot(turn);
            return true;
        }
        let (who, busy) = (format_args!("daemon"), &mut self.facts.busy_timers);
        let running = self.running.as_mut();
        let mut daemon = running.map(|running| (&mut running.session, &mut running.node));
        if let Some((session, node)) = &mut daemon
            && (wake(turn, who, *session, busy) || wake(turn, who, *node, busy))
        {
            return true;
        }
        self.supervisor.handle_wake(turn, daemon)
    }

    fn settle(&mut self, turn: &mut Turn<'_>) -> bool {
        let mut any = false;
        while let Some(Running { session, node, .. }) = &mut self.running {
            if let Some(work) = node.poll_work() {
                self.perform(turn, work);
            } else if let Some(event) = session.poll_event() {
                self.hear(turn, event);
            } else {
                break;
            }
            any = true;
        }
        any
    }

    fn act(&mut self, turn: &mut Turn<'_>, action: &Action) -> Effect {
        if let Action::RestartDaemon(down_for) = action {
            turn.note(|| "daemon is killed");
            self.facts.note_killed();
            self.stop(turn.moment() + *down_for);
            return Ok(());
        }
        let session = self.running.as_mut().map(|running| &mut running.session);
        self.supervisor.act(turn, action, session)
    }

    fn view(&self) -> Option<DaemonView<'_>> {
        Some(DaemonView {
            session: self.session(),
            supervisor: &self.supervisor,
            facts: &self.facts,
        })
    }
}
