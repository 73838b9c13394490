//! One step after the other

use std::time::Duration;

use prexorcloud_protocol::Received;
use prexorcloud_protocol::proto::{ControllerMessage, DaemonMessage};
use prexorcloud_protocol::session::kind;
use prost::Message as _;

use super::dialler::Dialler;
use super::seat::Seat;
use super::{End, Pair, Stream, Violation};
use crate::scenario::Peers;
use crate::side::{ControllerSide, DaemonSide};
use crate::world::earlier;
use crate::{describe, dialect, invariants};

/// How long the transport of either side takes to write what is left before it ends a stream anyway.
const DRAIN: Duration = Duration::from_secs(5);

/// How often a plugin on a Java node repeats what its daemon does not say.
const PLUGIN_INTERVAL: Duration = Duration::from_secs(5);

impl<D: DaemonSide, C: ControllerSide> Pair<D, C> {
    /// The moment at which something happens next; `None` if nothing ever will.
    #[must_use]
    pub fn next_moment(&self) -> Option<Duration> {
        let daemon_wakes = self.daemon.asleep_until;
        let mut next = self.daemon.host.next_wake(&self.daemon.clock);
        next = earlier(next, self.dialler.at).map(|at| at.max(daemon_wakes));
        for seat in &self.controllers {
            let wake = seat.host.next_wake(&seat.clock);
            next = earlier(next, wake.map(|at| at.max(seat.asleep_until)));
        }
        for stream in &self.streams {
            let controller = self.controllers.get(stream.controller);
            let controller_wakes = controller.map(|seat| seat.asleep_until).unwrap_or_default();
            let down = stream.daemon_due().map(|at| at.max(daemon_wakes));
            let up = stream.controller_due().map(|at| at.max(controller_wakes));
            for at in [down, up, stream.daemon_closes_by, stream.controller_closes_by] {
                next = earlier(next, at);
            }
        }
        if !self.daemon.host.plugins().is_empty() {
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
        self.check(&invariants::always())
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
        for seat in &mut self.controllers {
            let due = seat.host.next_wake(&seat.clock).is_some_and(|at| at <= now);
            let store = &mut self.store;
            if due
                && !seat.is_asleep(now)
                && seat.with(&mut self.world, |host, turn| host.handle_wake(turn, store))
            {
                return;
            }
        }
        if !self.daemon.is_asleep(now) {
            let seat = &mut self.daemon;
            let due = seat.host.next_wake(&seat.clock).is_some_and(|at| at <= now);
            if due && seat.with(&mut self.world, |host, turn| host.handle_wake(turn)) {
                return;
            }
            if self.dialler.at.is_some_and(|at| at <= now) {
                return self.dial();
            }
        }
        for index in 0..self.streams.len() {
            if self.deliver_down(index) || self.deliver_up(index) || self.close_overdue(index) {
                return;
            }
        }
        if self.plugin_at <= now {
            self.plugin_at = now + PLUGIN_INTERVAL;
            for (instance, start) in self.daemon.host.plugins() {
                if let Some(leader) = self
                    .controllers
                    .last_mut()
                    .filter(|leader| !leader.is_asleep(now))
                {
                    leader.with(&mut self.world, |host, turn| {
                        host.handle_ready(turn, instance, start)
                    });
                }
            }
        }
    }

    fn dial(&mut self) {
        self.dialler.at = None;
        let now = self.world.now;
        let leader = self.controllers.len().saturating_sub(1);
        let mut deposed = self.controllers.iter().take(leader);
        let target = std::mem::take(&mut self.dials_deposed)
            .then(|| deposed.rposition(|seat| seat.host.is_up()))
            .flatten()
            .unwrap_or(leader);
        let answers = |seat: &&mut Seat<C>| seat.host.is_up() && !seat.is_asleep(now);
        let is_cut = self.partitioned;
        let Some(controller) = self
            .controllers
            .get_mut(target)
            .filter(|seat| !is_cut && answers(seat))
        else {
            self.world.note(|| "daemon dials in vain");
            return self.dialler.plan(now, &mut self.world.rng);
        };
        self.streams_opened += 1;
        let id = self.streams_opened;
        self.world
            .note(|| format!("stream {id} opens between daemon and {}", name(target)));
        controller.with(&mut self.world, |host, turn| host.handle_opened(turn, id));
        self.streams.push(Stream::new(id, target, self.quality));
        self.current = Some(id);
        self.daemon
            .with(&mut self.world, |host, turn| host.handle_opened(turn));
    }

    fn deliver_down(&mut self, index: usize) -> bool {
        let now = self.world.now;
        let Some(stream) = self.streams.get_mut(index) else {
            return false;
        };
        if self.daemon.is_asleep(now) || stream.daemon_due().is_none_or(|at| at > now) {
            return false;
        }
        let is_current = self.current == Some(stream.id);
        match stream.down.receive(now) {
            Some(received) => {
                let id = stream.id;
                self.world
                    .note(|| format!("{id} daemon <- {}", describe::down(&received.message)));
                if is_current {
                    self.daemon
                        .with(&mut self.world, |host, turn| host.handle_message(turn, received));
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
                let name = name(stream.controller);
                let text = || format!("{id} {name} <- {}", describe::up(&received.message));
                self.world.note(text);
                controller.with(&mut self.world, |host, turn| {
                    host.handle_message(turn, id, received);
                });
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
        if self.current == Some(stream.id) {
            self.current = None;
            self.daemon
                .with(&mut self.world, |host, turn| host.handle_ended(turn));
            if self.daemon.host.is_up() {
                self.dialler.plan(self.world.now, &mut self.world.rng);
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
        let id = stream.id;
        if let Some(controller) = self.controllers.get_mut(stream.controller) {
            controller.with(&mut self.world, |host, turn| host.handle_ended(turn, id));
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
                any |= self.daemon.with(&mut self.world, |host, turn| host.settle(turn));
            }
            for seat in self.controllers.iter_mut().filter(|seat| !seat.is_asleep(now)) {
                let store = &mut self.store;
                any |= seat.with(&mut self.world, |host, turn| host.settle(turn, store));
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
        self.review_daemon();
        self.streams.retain(|stream| !stream.is_over());
        if self.is_disturbed() {
            self.undisturbed_since = self.undisturbed_since.max(now);
        }
    }

    /// Takes note of what has become of the daemon.
    fn review_daemon(&mut self) {
        let now = self.world.now;
        let view = self.daemon.host.view();
        if let Some(session) = view.and_then(|view| view.session) {
            self.highest_epoch = self.highest_epoch.max(session.fence().highest().get());
        }
        if let Some(view) = view
            && self.store.drain.is_some_and(|drain| drain.deadline <= now)
        {
            // What is late is killed.
            let late = view.supervisor.live().map(|process| process.instance);
            self.forced.extend(late);
        }
        if !self.daemon.host.is_up() {
            if let Some(view) = view {
                // What could not be written down is forgotten.
                self.highest_epoch = self.highest_epoch.min(view.supervisor.disk.epoch.get());
            }
            self.dialler = Dialler::default();
        } else if self.current.is_none() && self.dialler.at.is_none() {
            self.dialler.at = Some(now);
        }
        if self.current.is_some() && self.daemon.host.is_established() {
            self.dialler.succeed();
        }
    }

    fn transmit_up(&mut self, index: usize) -> bool {
        let now = self.world.now;
        let Some(stream) = self.streams.get_mut(index) else {
            return false;
        };
        if self.daemon.is_asleep(now) || stream.daemon_end == End::Over || self.current != Some(stream.id) {
            return false;
        }
        let id = stream.id;
        let mut any = false;
        let mut drained = false;
        while stream.up.has_room() {
            let polled = self
                .daemon
                .with(&mut self.world, |host, turn| host.poll_transmit(turn));
            let Some(mut message) = polled else {
                drained = true;
                break;
            };
            any = true;
            let name = name_up(&message);
            if stream.first_up.is_none() && name != "Handshake" {
                self.departures
                    .before_handshake
                    .push(format!("the daemon began stream {id} with {name}"));
            }
            stream.first_up.get_or_insert(name);
            // Lines are the server's business, commands the operator's, and pings that have piled up are answered at once.
            // What a side of somebody's own says is its own business.
            if !matches!(name, "ConsoleOutput" | "CommandWritten" | "Pong")
                && self.daemon.host.view().is_some()
            {
                self.busiest_second = self.busiest_second.max(stream.count(now));
            }
            if let (Some(view), Some(payload)) = (self.daemon.host.view(), &message.payload) {
                self.departures.note_up(view.supervisor, payload);
            }
            dialect::up(self.peers, &mut message);
            self.world
                .note(|| format!("{id} daemon -> {}", describe::up(&message)));
            self.recording.sent_up(id, &message);
            let bytes = message.encoded_len();
            stream.up.send(now, &mut self.world.rng, message.into(), bytes);
        }
        if self.daemon.host.wants_end() {
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
        let leader = self.controllers.len().saturating_sub(1);
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
        let (name_of_host, is_deposed) = (name(stream.controller), stream.controller < leader);
        let mut any = false;
        let mut drained = false;
        while stream.down.has_room() {
            let polled = controller.with(&mut self.world, |host, turn| host.poll_transmit(turn, id));
            let Some(mut message) = polled else {
                drained = true;
                break;
            };
            any = true;
            let name = name_down(&message);
            // That of a plain controller takes its time.
            let is_free = self.peers == Peers::PlainController;
            if stream.first_down.is_none() && name != "HandshakeAck" && !is_free {
                self.departures
                    .before_ack
                    .push(format!("{name_of_host} began stream {id} with {name}"));
            }
            stream.first_down.get_or_insert(name);
            // How many commands there are is the operator's business.
            if name != "SendCommand" && controller.host.view().is_some() {
                self.busiest_second = self.busiest_second.max(stream.count(now));
            }
            // One that shows nothing has records of its own.
            if let (Some(_), Some(payload)) = (controller.host.view(), &message.payload) {
                self.departures.note_down(&self.store, is_deposed, payload);
            }
            dialect::down(self.peers, &mut message);
            self.world
                .note(|| format!("{id} {name_of_host} -> {}", describe::down(&message)));
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
        if controller.host.wants_end(id) {
            if drained {
                self.controller_notices_end(index);
                return true;
            }
            stream.controller_closes_by.get_or_insert(now + DRAIN);
        }
        any
    }
}

/// A controller's name in the log.
pub(super) fn name(index: usize) -> String {
    format!("controller {}", index + 1)
}

pub(super) fn name_up(message: &DaemonMessage) -> &'static str {
    message.payload.as_ref().map_or("nothing", kind::of_daemon)
}

pub(super) fn name_down(message: &ControllerMessage) -> &'static str {
    message.payload.as_ref().map_or("nothing", kind::of_controller)
}
