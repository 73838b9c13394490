//! One step after the other

use std::time::Duration;

use prexorcloud_protocol::proto::{ControllerMessage, DaemonMessage};
use prexorcloud_protocol::session::kind;
use prexorcloud_protocol::{Received, Session as _};
use prost::Message as _;

use super::{End, Pair, Stream, Violation};
use crate::scenario::Peers;
use crate::world::earlier;
use crate::{describe, dialect, invariants};

/// How long the transport of either side takes to write what is left before it ends a stream anyway.
const DRAIN: Duration = Duration::from_secs(5);

/// How often a plugin on a Java node repeats what its daemon does not say.
const PLUGIN_INTERVAL: Duration = Duration::from_secs(5);

impl Pair {
    /// The moment at which something happens next; `None` if nothing ever will.
    #[must_use]
    pub fn next_moment(&self) -> Option<Duration> {
        let mut next = self.daemon.next_wake();
        next = earlier(
            next,
            self.daemon.dials_at.map(|at| at.max(self.daemon.asleep_until)),
        );
        for controller in &self.controllers {
            next = earlier(next, controller.next_wake());
        }
        for stream in &self.streams {
            next = earlier(
                next,
                stream.daemon_due().map(|at| at.max(self.daemon.asleep_until)),
            );
            let sleeps = self
                .controllers
                .get(stream.controller)
                .map(|controller| controller.asleep_until);
            next = earlier(
                next,
                stream
                    .controller_due()
                    .map(|at| at.max(sleeps.unwrap_or_default())),
            );
            for by in [stream.daemon_closes_by, stream.controller_closes_by] {
                next = earlier(next, by);
            }
        }
        if self.peers == Peers::JavaDaemon && !self.daemon.ready_instances().is_empty() {
            next = earlier(next, Some(self.plugin_at));
        }
        next.map(|at| at.max(self.world.now))
    }

    /// Goes to the next moment and lets one thing happen there.
    ///
    /// # Errors
    /// The first broken invariant. A pair that has broken one makes no further step.
    pub fn step(&mut self) -> Result<(), Violation> {
        let Some(next) = self.next_moment() else {
            return Ok(());
        };
        self.pass_to(next);
        self.steps += 1;
        self.steps_at_this_moment += 1;
        self.perform();
        self.settle();
        self.check(invariants::ALWAYS)
    }

    pub(super) fn pass_to(&mut self, moment: Duration) {
        if moment > self.world.now {
            self.world.now = moment;
            self.steps_at_this_moment = 0;
        }
    }

    /// Lets the first thing that is due happen.
    fn perform(&mut self) {
        let now = self.world.now;
        for controller in &mut self.controllers {
            let due = !controller.is_asleep(now) && controller.next_wake().is_some_and(|at| at <= now);
            if due && controller.handle_wake(&mut self.world, &mut self.store) {
                return;
            }
        }
        if !self.daemon.is_asleep(now) {
            if self.daemon.next_wake().is_some_and(|at| at <= now) && self.daemon.handle_wake(&mut self.world)
            {
                return;
            }
            if self.daemon.dials_at.is_some_and(|at| at <= now) {
                return self.dial();
            }
        }
        for index in 0..self.streams.len() {
            if self.deliver_down(index) || self.deliver_up(index) || self.close_overdue(index) {
                return;
            }
        }
        if self.peers == Peers::JavaDaemon && self.plugin_at <= now {
            self.plugin_at = now + PLUGIN_INTERVAL;
            for instance in self.daemon.ready_instances() {
                if let Some(leader) = self
                    .controllers
                    .last_mut()
                    .filter(|leader| !leader.is_asleep(now))
                {
                    leader.ready(&mut self.world, instance);
                }
            }
        }
    }

    fn dial(&mut self) {
        self.daemon.dials_at = None;
        let now = self.world.now;
        let deposed = std::mem::take(&mut self.dials_deposed)
            .then(|| {
                self.controllers
                    .iter()
                    .rposition(|controller| controller.deposed && controller.is_up())
            })
            .flatten();
        let target = deposed.unwrap_or(self.controllers.len().saturating_sub(1));
        let answers = |controller: &crate::controller_host::ControllerHost| {
            controller.is_up() && !controller.is_asleep(now)
        };
        let quality = self.quality;
        let Some(controller) = self
            .controllers
            .get_mut(target)
            .filter(|c| !self.partitioned && answers(c))
        else {
            self.world.note(|| "daemon dials in vain");
            return self.daemon.plan_dial(&mut self.world);
        };
        self.streams_opened += 1;
        let id = self.streams_opened;
        self.world
            .note(|| format!("stream {id} opens between daemon and {}", controller.name));
        controller.open(&self.world, id);
        self.streams.push(Stream::new(id, target, quality));
        self.daemon.stream = Some(id);
        self.daemon.facts.connects += 1;
        self.daemon
            .with_session(&self.world, |session, now| session.handle_connected(now));
    }

    fn deliver_down(&mut self, index: usize) -> bool {
        let now = self.world.now;
        let Some(stream) = self.streams.get_mut(index) else {
            return false;
        };
        if self.daemon.is_asleep(now) || stream.daemon_due().is_none_or(|at| at > now) {
            return false;
        }
        let is_current = self.daemon.stream == Some(stream.id);
        match stream.down.receive(now) {
            Some(received) => {
                let id = stream.id;
                self.world
                    .note(|| format!("{id} daemon <- {}", describe::down(&received.message)));
                if is_current {
                    self.daemon
                        .with_session(&self.world, |session, now| session.handle_message(now, received));
                }
            }
            None => self.daemon_notices_end(index),
        }
        true
    }

    fn deliver_up(&mut self, index: usize) -> bool {
        let now = self.world.now;
        let Some(stream) = self.streams.get_mut(index) else {
            return false;
        };
        let Some(controller) = self.controllers.get_mut(stream.controller) else {
            return false;
        };
        if controller.is_asleep(now) || stream.controller_due().is_none_or(|at| at > now) {
            return false;
        }
        match stream.up.receive(now) {
            Some(received) => {
                let id = stream.id;
                let text = || format!("{id} {} <- {}", controller.name, describe::up(&received.message));
                self.world.note(text);
                let local = controller.clock.at(now);
                if let Some(session) = controller.sessions.get_mut(&id) {
                    session.handle_message(local, received);
                }
            }
            None => self.controller_notices_end(index),
        }
        true
    }

    /// The daemon's end of a stream is over; if it is the daemon that ends it, the controller hears of it.
    pub(super) fn daemon_notices_end(&mut self, index: usize) {
        let heard_at = self.world.now + self.quality.latency;
        let Some(stream) = self.streams.get_mut(index) else {
            return;
        };
        stream.daemon_end = End::Over;
        stream.daemon_closes_by = None;
        stream.down.cut(0);
        if !stream.up.is_cut() {
            stream.controller_end.no_later_than(heard_at);
        }
        if self.daemon.stream == Some(stream.id) {
            self.daemon.stream = None;
            self.daemon
                .with_session(&self.world, |session, now| session.handle_disconnected(now));
            if self.daemon.is_leaving() {
                // Its application hears the last events before it exits.
                self.daemon.handle_events(&mut self.world, None);
                self.daemon.leave(&mut self.world);
            } else if self.daemon.is_up() {
                self.daemon.plan_dial(&mut self.world);
            }
        }
    }

    /// The controller's end of a stream is over; if it is the controller that ends it, the daemon hears of it.
    pub(super) fn controller_notices_end(&mut self, index: usize) {
        let heard_at = self.world.now + self.quality.latency;
        let Some(stream) = self.streams.get_mut(index) else {
            return;
        };
        stream.controller_end = End::Over;
        stream.controller_closes_by = None;
        stream.up.cut(0);
        if !stream.down.is_cut() {
            stream.daemon_end.no_later_than(heard_at);
        }
        if let Some(controller) = self.controllers.get_mut(stream.controller) {
            let now = controller.clock.at(self.world.now);
            if let Some(session) = controller.sessions.get_mut(&stream.id) {
                session.handle_disconnected(now);
            }
        }
    }

    /// Ends a stream whose last words nobody takes.
    fn close_overdue(&mut self, index: usize) -> bool {
        let now = self.world.now;
        let Some(stream) = self.streams.get(index) else {
            return false;
        };
        let passed = |by: Option<Duration>| by.is_some_and(|by| by <= now);
        if passed(stream.daemon_closes_by) {
            self.daemon_notices_end(index);
        } else if passed(stream.controller_closes_by) {
            self.controller_notices_end(index);
        } else {
            return false;
        }
        true
    }

    /// Carries out everything that follows from what has just happened.
    pub(super) fn settle(&mut self) {
        let now = self.world.now;
        // Bounded: every round takes events or messages out, and only inputs put new ones in.
        let mut is_settled = false;
        for _ in 0..10_000 {
            let mut any = false;
            if !self.daemon.is_asleep(now) {
                let epoch = self.epoch_of_current_stream();
                any |= self.daemon.handle_events(&mut self.world, epoch);
            }
            for controller in self
                .controllers
                .iter_mut()
                .filter(|controller| !controller.is_asleep(now))
            {
                any |= controller.handle_events(&mut self.world, &self.store);
            }
            for index in 0..self.streams.len() {
                any |= self.transmit_up(index) | self.transmit_down(index);
            }
            if !any {
                is_settled = true;
                break;
            }
        }
        if !is_settled {
            self.endless
                .push("the two answer each other without end".to_owned());
        }
        if let Some(session) = self.daemon.session() {
            self.highest_epoch = self.highest_epoch.max(session.fence().highest().get());
        }
        self.bury();
        if self.is_disturbed() {
            self.undisturbed_since = self.undisturbed_since.max(now);
        }
    }

    fn epoch_of_current_stream(&self) -> Option<prexorcloud_protocol::Epoch> {
        let stream = self
            .streams
            .iter()
            .find(|stream| Some(stream.id) == self.daemon.stream)?;
        self.controllers
            .get(stream.controller)
            .map(|controller| controller.epoch)
    }

    fn transmit_up(&mut self, index: usize) -> bool {
        let now = self.world.now;
        let Some(stream) = self.streams.get_mut(index) else {
            return false;
        };
        if self.daemon.is_asleep(now)
            || stream.daemon_end == End::Over
            || self.daemon.stream != Some(stream.id)
        {
            return false;
        }
        let id = stream.id;
        let mut any = false;
        let mut drained = false;
        while stream.up.has_room() {
            let polled = self
                .daemon
                .with_session(&self.world, |session, _| session.poll_transmit())
                .flatten();
            let Some(mut message) = polled else {
                drained = true;
                break;
            };
            any = true;
            let name = name_up(&message);
            if stream.first_up.is_none() && name != "Handshake" {
                self.first_up_faults
                    .push(format!("the daemon began stream {id} with {name}"));
            }
            stream.first_up.get_or_insert(name);
            // Lines are the server's business, and pings that have piled up are answered at once.
            if !matches!(name, "ConsoleOutput" | "Pong") {
                self.busiest_second = self.busiest_second.max(stream.count(now));
            }
            dialect::up(self.peers, &mut message);
            self.world
                .note(|| format!("{id} daemon -> {}", describe::up(&message)));
            self.recording.sent_up(id, &message);
            let bytes = message.encoded_len();
            stream.up.send(now, &mut self.world.rng, message.into(), bytes);
        }
        if self
            .daemon
            .session()
            .is_some_and(|session| session.close().is_some())
        {
            if drained {
                self.daemon_notices_end(index);
                return true;
            }
            stream.daemon_closes_by.get_or_insert(now + DRAIN);
        }
        any
    }

    fn transmit_down(&mut self, index: usize) -> bool {
        let now = self.world.now;
        let Some(stream) = self.streams.get_mut(index) else {
            return false;
        };
        let Some(controller) = self.controllers.get_mut(stream.controller) else {
            return false;
        };
        let id = stream.id;
        if controller.is_asleep(now) || stream.controller_end == End::Over {
            return false;
        }
        let Some(session) = controller.sessions.get_mut(&id) else {
            return false;
        };
        let mut any = false;
        let mut drained = false;
        while stream.down.has_room() {
            let Some(mut message) = session.poll_transmit() else {
                drained = true;
                break;
            };
            any = true;
            let name = name_down(&message);
            if stream.first_down.is_none() && name != "HandshakeAck" {
                self.first_down_faults
                    .push(format!("{} began stream {id} with {name}", controller.name));
            }
            stream.first_down.get_or_insert(name);
            // How many commands there are is the operator's business.
            if name != "SendCommand" {
                self.busiest_second = self.busiest_second.max(stream.count(now));
            }
            if let Some(payload) = &message.payload {
                let is_deposed = controller.deposed;
                controller.facts.note_departure(&self.store, is_deposed, payload);
            }
            dialect::down(self.peers, &mut message);
            self.world
                .note(|| format!("{id} {} -> {}", controller.name, describe::down(&message)));
            self.recording.sent_down(id, &message);
            let bytes = message.encoded_len();
            stream
                .down
                .send(now, &mut self.world.rng, Received::from(message), bytes);
            stream.sent_down += 1;
            if stream.sent_down == 2 && self.peers == Peers::JavaController {
                // The Java leader's first command overtakes its acknowledgement.
                stream.down.swap_last();
            }
        }
        if session.close().is_some() {
            if drained {
                self.controller_notices_end(index);
                return true;
            }
            stream.controller_closes_by.get_or_insert(now + DRAIN);
        }
        any
    }

    /// Forgets streams that are over at both ends.
    fn bury(&mut self) {
        for stream in self
            .streams
            .iter()
            .filter(|stream| stream.controller_end == End::Over)
        {
            if let Some(controller) = self.controllers.get_mut(stream.controller) {
                let idle = controller
                    .sessions
                    .get(&stream.id)
                    .is_some_and(|session| session.events_pending() == 0);
                if idle && !controller.is_asleep(self.world.now) {
                    controller.sessions.remove(&stream.id);
                }
            }
        }
        self.streams.retain(|stream| !stream.is_over());
    }
}

pub(super) fn name_up(message: &DaemonMessage) -> &'static str {
    message.payload.as_ref().map_or("nothing", kind::of_daemon)
}

pub(super) fn name_down(message: &ControllerMessage) -> &'static str {
    message.payload.as_ref().map_or("nothing", kind::of_controller)
}
