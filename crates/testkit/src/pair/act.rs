//! What each action of a scenario does

use std::time::Duration;

use prexorcloud_protocol::instance::State;
use prexorcloud_protocol::{InstanceId, StopMode};

use super::{End, Pair, Violation};
use crate::action::{Action, Direction, Side};
use crate::controller_host::{ControllerHost, Store};
use crate::invariants;
use crate::link::Quality;
use crate::world::World;

impl Pair {
    /// Performs one action, carries out what follows from it at once, and checks every invariant.
    ///
    /// # Errors
    /// The first broken invariant.
    pub fn apply(&mut self, action: &Action) -> Result<(), Violation> {
        if let Action::Wait(time) = action {
            self.run_for(*time)?;
        } else {
            self.world.note(|| format!("* {action}"));
            self.perform_action(action);
            self.tell_controllers();
            self.settle();
        }
        self.check(invariants::ALWAYS)
    }

    fn perform_action(&mut self, action: &Action) {
        match action {
            Action::Wait(_) => {}
            Action::Start(instance, behaviour) => {
                self.lead(|leader, world, store| leader.start(world, store, *instance, behaviour));
            }
            Action::Stop(instance) => self.stop(*instance, StopMode::Graceful),
            Action::Kill(instance) => {
                self.forced.insert(*instance);
                self.stop(*instance, StopMode::Force);
            }
            Action::Drain(instance) => self.lead(|leader, world, _| leader.drain(world, *instance, true)),
            Action::Undrain(instance) => self.lead(|leader, world, _| leader.drain(world, *instance, false)),
            Action::Forget(instance) => self.lead(|leader, world, _| leader.forget(world, *instance)),
            Action::DeclareLost(instance) => {
                self.lead(|leader, world, _| leader.declare_lost(world, *instance));
            }
            Action::Abandon(instance) => self.lead(|leader, world, _| leader.abandon(world, *instance)),
            Action::AdoptUnknown(any) => self.adopts_unknown = *any,
            Action::ShutDownNode => self.lead(|leader, world, _| leader.shut_down_node(world)),
            Action::CloseSession => self.lead(|leader, world, _| leader.close_session(world)),
            Action::Template(bytes) => self.lead(|leader, world, _| leader.send_template(world, *bytes)),
            Action::SlowStore(time) => self.store.commit_delay = *time,
            Action::FailStore(time) => self.store.fails_until = self.world.now + *time,
            Action::FailCommit => self.store.fails_once = true,
            Action::Command(instance, line) => {
                // Every command is another one, so that none can arrive twice unnoticed.
                self.commands += 1;
                let line = format!("{line} {}", self.commands);
                self.lead(|leader, world, _| leader.command(world, *instance, &line));
            }
            Action::Crash(instance) => {
                self.daemon.end_process(&mut self.world, *instance, true);
            }
            Action::Exit(instance) => {
                self.daemon.end_process(&mut self.world, *instance, false);
            }
            Action::Flood(instance, lines) => {
                self.daemon.flood(*instance, *lines);
            }
            Action::Cordon(cordoned) => {
                self.cordoned = *cordoned;
                self.store.cordoned = *cordoned;
            }
            Action::Break {
                keep_up,
                keep_down,
                daemon_notices,
                controller_notices,
            } => {
                let now = self.world.now;
                if self.streams.is_empty() {
                    self.world.note(|| "no effect: no stream is open");
                }
                for stream in &mut self.streams {
                    stream.up.cut(*keep_up);
                    stream.down.cut(*keep_down);
                    stream.daemon_end.no_later_than(now + *daemon_notices);
                    stream.controller_end.no_later_than(now + *controller_notices);
                }
            }
            Action::Partition => self.partitioned = true,
            Action::Heal => {
                self.partitioned = false;
                self.store.heal();
                self.set_quality(Quality::default());
                self.stall(None, false);
            }
            Action::Latency(latency, jitter) => {
                self.set_quality(Quality {
                    latency: *latency,
                    jitter: *jitter,
                    ..self.quality
                });
            }
            Action::Narrow(bytes) => {
                let window = usize::try_from(*bytes).unwrap_or(usize::MAX);
                self.set_quality(Quality {
                    bytes_per_second: *bytes,
                    window,
                    ..self.quality
                });
            }
            Action::Stall(direction) => self.stall(Some(*direction), true),
            Action::Resume => self.stall(None, false),
            Action::RestartDaemon(down_for) => self.kill_daemon(*down_for),
            Action::RestartController(down_for) => {
                let leader = self.controllers.len().saturating_sub(1);
                self.kill_controller(leader, *down_for);
            }
            Action::Failover => self.fail_over(),
            Action::DialDeposed => self.dials_deposed = true,
            Action::DeposedStopsAll => {
                let now = self.world.now;
                let awake = |c: &&mut ControllerHost| c.deposed && c.is_up() && !c.is_asleep(now);
                let mut deposed = self.controllers.iter_mut().filter(awake).peekable();
                if deposed.peek().is_none() {
                    self.world
                        .note(|| "no effect: no deposed controller can do anything");
                }
                for deposed in deposed {
                    self.forced.extend(deposed.stop_everything(&mut self.world));
                }
            }
            Action::Redirect => {
                if let Some(leader) = self.controllers.last_mut() {
                    leader.redirects = true;
                }
            }
            Action::SlowAdmission(time) => {
                if let Some(leader) = self.controllers.last_mut() {
                    leader.admission_delay = Some(*time);
                }
            }
            Action::Leap(Side::Daemon, by) => {
                self.undisturbed_since = self.undisturbed_since.max(self.world.now);
                self.time_was_bent = true;
                self.daemon.clock.leap(*by);
            }
            Action::Leap(Side::Controller, by) => {
                self.undisturbed_since = self.undisturbed_since.max(self.world.now);
                self.time_was_bent = true;
                if let Some(leader) = self.controllers.last_mut() {
                    leader.clock.leap(*by);
                }
            }
            Action::Suspend(side, time) => {
                self.time_was_bent = true;
                let until = self.world.now + *time;
                self.undisturbed_since = self.undisturbed_since.max(until);
                match side {
                    Side::Daemon => self.daemon.asleep_until = until,
                    Side::Controller => {
                        if let Some(leader) = self.controllers.last_mut() {
                            leader.asleep_until = until;
                        }
                    }
                }
            }
            Action::Replay(direction, back) => self.replay(*direction, *back),
            Action::Inject(direction, garbage) => self.inject(*direction, *garbage),
        }
    }

    /// Has the controller that leads do something, if it can do anything now.
    fn lead(&mut self, act: impl FnOnce(&mut ControllerHost, &mut World, &mut Store)) {
        let now = self.world.now;
        let leader = self.controllers.last_mut();
        match leader.filter(|leader| leader.is_up() && !leader.is_asleep(now)) {
            Some(leader) => act(leader, &mut self.world, &mut self.store),
            None => self.world.note(|| "no effect: no controller can do anything"),
        }
    }

    fn stop(&mut self, instance: InstanceId, mode: StopMode) {
        self.lead(|leader, world, _| leader.stop(world, instance, mode));
    }

    fn set_quality(&mut self, quality: Quality) {
        self.quality = quality;
        for stream in &mut self.streams {
            stream.up.set_quality(quality);
            stream.down.set_quality(quality);
        }
    }

    fn stall(&mut self, direction: Option<Direction>, stalled: bool) {
        for stream in &mut self.streams {
            if direction != Some(Direction::Down) {
                stream.up.stall(stalled);
            }
            if direction != Some(Direction::Up) {
                stream.down.stall(stalled);
            }
        }
    }

    fn kill_daemon(&mut self, down_for: Duration) {
        let heard_at = self.world.now + self.quality.latency;
        let keep = self.world.rng.below(4) as usize;
        for stream in &mut self.streams {
            if stream.daemon_end != End::Over {
                stream.daemon_end = End::Over;
                stream.daemon_closes_by = None;
                stream.down.cut(0);
                stream.up.cut(keep);
                stream.controller_end.no_later_than(heard_at);
            }
        }
        self.daemon.kill(&mut self.world, down_for);
    }

    fn kill_controller(&mut self, index: usize, down_for: Duration) {
        let heard_at = self.world.now + self.quality.latency;
        let keep = self.world.rng.below(4) as usize;
        for stream in self
            .streams
            .iter_mut()
            .filter(|stream| stream.controller == index)
        {
            if stream.controller_end != End::Over {
                stream.controller_end = End::Over;
                stream.controller_closes_by = None;
                stream.up.cut(0);
                stream.down.cut(keep);
                stream.daemon_end.no_later_than(heard_at);
            }
        }
        if let Some(controller) = self.controllers.get_mut(index) {
            controller.kill(&mut self.world, down_for);
        }
    }

    fn fail_over(&mut self) {
        // Two that believe in themselves are enough; the eldest goes.
        let elder = self.controllers.len().checked_sub(2);
        if let Some(elder) = elder {
            self.kill_controller(elder, Duration::MAX / 4);
        }
        if let Some(leader) = self.controllers.last_mut() {
            leader.deposed = true;
        }
        self.add_controller(self.world.now);
        self.tell_controllers();
    }

    /// What holds for every controller, also for the next one.
    fn tell_controllers(&mut self) {
        for controller in &mut self.controllers {
            controller.adopts_unknown = self.adopts_unknown;
        }
    }

    /// Undoes everything that was done to the hosts and the network, for the rest of the run.
    pub(super) fn heal_for_good(&mut self) -> Result<(), Violation> {
        self.world.note(|| "* everything heals");
        self.perform_action(&Action::Heal);
        self.tell_controllers();
        self.dials_deposed = false;
        let now = self.world.now;
        self.daemon.asleep_until = self.daemon.asleep_until.min(now);
        for index in 0..self.controllers.len() {
            let Some(controller) = self.controllers.get_mut(index) else {
                continue;
            };
            controller.asleep_until = controller.asleep_until.min(now);
            if controller.deposed && controller.is_up() {
                self.kill_controller(index, Duration::MAX / 4);
            } else if !controller.deposed {
                controller.redirects = false;
                controller.admission_delay = None;
            }
        }
        self.settle();
        self.check(invariants::ALWAYS)
    }

    /// What the controller that leads believes of an instance.
    #[must_use]
    pub fn believed(&self, instance: &str) -> Option<State> {
        let instance = InstanceId::new(instance).ok()?;
        self.controller()
            .roster()?
            .get(instance)
            .map(|known| known.state())
    }

    /// What is true of the last process of an instance.
    #[must_use]
    pub fn real(&self, instance: &str) -> Option<State> {
        let instance = InstanceId::new(instance).ok()?;
        self.daemon.last_process(instance).map(|process| process.state)
    }
}
