//! What each action of a scenario does

use std::time::Duration;

use prexorcloud_protocol::InstanceId;
use prexorcloud_protocol::instance::State;

use super::dialler::Dialler;
use super::seat::Seat;
use super::{End, Pair, Violation};
use crate::action::{Action, Direction, Side};
use crate::invariants;
use crate::link::Quality;
use crate::side::{ControllerSide, DaemonSide, Effect, NoEffect};

/// Kills a controller that will not come back while anybody looks.
const FOR_GOOD: Action = Action::RestartController(Duration::from_secs(u64::MAX / 4));

/// The effect of an action that is none where everything is so already.
fn changed(is_changed: bool) -> Effect {
    if is_changed {
        Ok(())
    } else {
        Err(NoEffect::because("it is so already"))
    }
}

impl<D: DaemonSide, C: ControllerSide> Pair<D, C> {
    /// Performs one action, carries out what follows from it at once, and checks every invariant.
    ///
    /// An action that had no effect says so in the log: at once, or where its answer comes later.
    ///
    /// # Errors
    /// The first broken invariant.
    pub fn apply(&mut self, action: &Action) -> Result<(), Violation> {
        if let Action::Wait(time) = action {
            self.run_for(*time)?;
        } else {
            self.world.note(|| format!("* {action}"));
            if let Err(none) = self.act(action) {
                self.world.note(|| none.to_string());
            }
            self.settle();
        }
        self.check(&invariants::always())
    }

    fn act(&mut self, action: &Action) -> Effect {
        let now = self.world.now;
        match action {
            Action::Wait(_) => Ok(()),
            Action::Start(..)
            | Action::Stop(_)
            | Action::Drain(_)
            | Action::Undrain(_)
            | Action::DrainNode { .. }
            | Action::UndrainNode
            | Action::Forget(_)
            | Action::DeclareLost(_)
            | Action::Abandon(_)
            | Action::ShutDownNode
            | Action::CloseSession
            | Action::Template(_) => self.lead(action),
            Action::Kill(instance) => {
                self.forced.insert(*instance);
                self.lead(action)
            }
            Action::Command(instance, line) => {
                // Every command is another one, so that none can arrive twice unnoticed.
                self.commands += 1;
                let line = format!("{line} {}", self.commands);
                self.lead(&Action::Command(*instance, line))
            }
            Action::Redirect | Action::SlowAdmission(_) => self.have_leader(action),
            Action::Crash(_) | Action::Exit(_) | Action::Flood(..) | Action::FailDisk(_) => self
                .daemon
                .with(&mut self.world, |host, turn| host.act(turn, action)),
            Action::AdoptUnknown(any) => {
                self.store.refuses_unknown = !*any;
                Ok(())
            }
            Action::SlowStore(time) => {
                self.store.commit_delay = *time;
                Ok(())
            }
            Action::FailStore(time) => {
                self.store.fails_until = now + *time;
                Ok(())
            }
            Action::FailCommit => {
                self.store.fails_once = true;
                Ok(())
            }
            Action::Cordon(cordoned) => {
                let before = std::mem::replace(&mut self.cordoned, *cordoned);
                self.store.cordoned = *cordoned;
                changed(before != *cordoned)
            }
            Action::Break {
                keep_up,
                keep_down,
                daemon_notices,
                controller_notices,
            } => {
                for stream in &mut self.streams {
                    stream.up.cut(*keep_up);
                    stream.down.cut(*keep_down);
                    stream.daemon_end.no_later_than(now + *daemon_notices);
                    stream.controller_end.no_later_than(now + *controller_notices);
                }
                self.with_streams()
            }
            Action::Partition => changed(!std::mem::replace(&mut self.partitioned, true)),
            Action::Heal => {
                if self.is_disturbed() {
                    // What was in the way was there until this moment, although nothing has happened for long.
                    self.undisturbed_since = self.undisturbed_since.max(self.world.now);
                }
                self.heal();
                Ok(())
            }
            Action::Latency(latency, jitter) => {
                self.set_quality(Quality {
                    latency: *latency,
                    jitter: *jitter,
                    ..self.quality
                });
                Ok(())
            }
            Action::Narrow(bytes) => {
                let window = usize::try_from(*bytes).unwrap_or(usize::MAX);
                self.set_quality(Quality {
                    bytes_per_second: *bytes,
                    window,
                    ..self.quality
                });
                Ok(())
            }
            Action::Stall(direction) => {
                self.stall(Some(*direction), true);
                self.with_streams()
            }
            Action::Resume => {
                let is_stalled = |stream: &super::Stream| stream.up.is_stalled() || stream.down.is_stalled();
                let any = self.streams.iter().any(is_stalled);
                self.stall(None, false);
                changed(any)
            }
            Action::RestartDaemon(_) => self.kill_daemon(action),
            Action::RestartController(_) => {
                self.kill_controller(self.controllers.len().saturating_sub(1), action)
            }
            Action::Failover => self.fail_over(),
            Action::DialDeposed => {
                self.dials_deposed = self.controllers.len() > 1;
                match self.dials_deposed {
                    true => Ok(()),
                    false => Err(NoEffect::because("no controller has been deposed")),
                }
            }
            Action::DeposedStopsAll => self.have_deposed_stop_all(),
            Action::Leap(side, by) => {
                self.undisturbed_since = self.undisturbed_since.max(now);
                self.time_was_bent = true;
                match side {
                    Side::Daemon => self.daemon.clock.leap(*by),
                    Side::Controller => self
                        .controllers
                        .last_mut()
                        .into_iter()
                        .for_each(|c| c.clock.leap(*by)),
                }
                Ok(())
            }
            Action::Suspend(side, time) => {
                self.time_was_bent = true;
                let until = now + *time;
                self.undisturbed_since = self.undisturbed_since.max(until);
                match side {
                    Side::Daemon => self.daemon.asleep_until = until,
                    Side::Controller => {
                        self.controllers
                            .last_mut()
                            .into_iter()
                            .for_each(|c| c.asleep_until = until);
                    }
                }
                Ok(())
            }
            Action::Replay(direction, back) => self.replay(*direction, *back),
            Action::Inject(direction, garbage) => self.inject(*direction, *garbage),
        }
    }

    /// Has the controller that leads do something, if it can do anything now.
    fn lead(&mut self, action: &Action) -> Effect {
        let now = self.world.now;
        let can_act = |leader: &&Seat<C>| leader.host.is_up() && !leader.is_asleep(now);
        if self.controllers.last().is_none_or(|leader| !can_act(&leader)) {
            return Err(NoEffect::because("no controller can do anything"));
        }
        self.have_leader(action)
    }

    fn have_leader(&mut self, action: &Action) -> Effect {
        let store = &mut self.store;
        match self.controllers.last_mut() {
            Some(leader) => leader.with(&mut self.world, |host, turn| host.act(turn, store, action)),
            None => Ok(()),
        }
    }

    fn have_deposed_stop_all(&mut self) -> Effect {
        let now = self.world.now;
        let leader = self.controllers.len().saturating_sub(1);
        let mut effect = Err(NoEffect::because("no deposed controller can do anything"));
        for deposed in self.controllers.iter_mut().take(leader) {
            if !deposed.host.is_up() || deposed.is_asleep(now) {
                continue;
            }
            let roster = deposed.host.view().and_then(|view| view.roster());
            let known = roster.into_iter().flat_map(|roster| roster.entries());
            self.forced.extend(known.map(|known| known.instance()));
            let store = &mut self.store;
            effect = deposed.with(&mut self.world, |host, turn| {
                host.act(turn, store, &Action::DeposedStopsAll)
            });
        }
        effect
    }

    fn with_streams(&self) -> Effect {
        if self.streams.is_empty() {
            return Err(NoEffect::because("no stream is open"));
        }
        Ok(())
    }

    fn heal(&mut self) {
        self.partitioned = false;
        self.store.heal();
        self.set_quality(Quality::default());
        self.stall(None, false);
        // A host that has nothing to heal need not say so.
        let _ = self
            .daemon
            .with(&mut self.world, |host, turn| host.act(turn, &Action::Heal));
        for controller in &mut self.controllers {
            let store = &mut self.store;
            let _ = controller.with(&mut self.world, |host, turn| host.act(turn, store, &Action::Heal));
        }
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

    fn kill_daemon(&mut self, action: &Action) -> Effect {
        self.daemon
            .with(&mut self.world, |host, turn| host.act(turn, action))?;
        let heard_at = self.world.now + self.quality.latency;
        let keep = self.world.rng.below(4) as usize;
        self.current = None;
        self.dialler = Dialler::default();
        for stream in &mut self.streams {
            if stream.daemon_end != End::Over {
                stream.daemon_end = End::Over;
                stream.daemon_closes_by = None;
                stream.down.cut(0);
                stream.up.cut(keep);
                stream.controller_end.no_later_than(heard_at);
            }
        }
        Ok(())
    }

    fn kill_controller(&mut self, index: usize, action: &Action) -> Effect {
        let store = &mut self.store;
        if let Some(controller) = self.controllers.get_mut(index) {
            controller.with(&mut self.world, |host, turn| host.act(turn, store, action))?;
        }
        let heard_at = self.world.now + self.quality.latency;
        let keep = self.world.rng.below(4) as usize;
        let its = |stream: &&mut super::Stream| stream.controller == index;
        for stream in self.streams.iter_mut().filter(its) {
            if stream.controller_end != End::Over {
                stream.controller_end = End::Over;
                stream.controller_closes_by = None;
                stream.up.cut(0);
                stream.down.cut(keep);
                stream.daemon_end.no_later_than(heard_at);
            }
        }
        Ok(())
    }

    fn fail_over(&mut self) -> Effect {
        let Some(leader) = self.controllers.last_mut() else {
            return Ok(());
        };
        let next = leader.with(&mut self.world, |host, turn| host.depose(turn));
        let next = next.ok_or_else(|| NoEffect::because("there is no other controller"))?;
        self.controllers.push(Seat::of(next));
        // Two that believe in themselves are enough; the eldest goes.
        match self.controllers.len().checked_sub(3) {
            Some(elder) => self.kill_controller(elder, &FOR_GOOD),
            None => Ok(()),
        }
    }

    /// Undoes everything that was done to the hosts and the network, for the rest of the run.
    pub(super) fn heal_for_good(&mut self) -> Result<(), Violation> {
        self.world.note(|| "* everything heals");
        self.heal();
        self.dials_deposed = false;
        let now = self.world.now;
        self.daemon.asleep_until = self.daemon.asleep_until.min(now);
        self.undisturbed_since = now;
        let leader = self.controllers.len().saturating_sub(1);
        for index in 0..self.controllers.len() {
            let Some(controller) = self.controllers.get_mut(index) else {
                continue;
            };
            controller.asleep_until = controller.asleep_until.min(now);
            if index < leader && controller.host.is_up() {
                // It cannot go if nobody can kill it; then it has no stream for long.
                let _ = self.kill_controller(index, &FOR_GOOD);
            }
        }
        self.settle();
        self.check(&invariants::always())
    }

    /// What the controller that leads believes of an instance.
    #[must_use]
    pub fn believed(&self, instance: &str) -> Option<State> {
        let instance = InstanceId::new(instance).ok()?;
        self.controller()
            .view()?
            .roster()?
            .get(instance)
            .map(|known| known.state())
    }

    /// What is true of the last process of an instance.
    #[must_use]
    pub fn real(&self, instance: &str) -> Option<State> {
        let instance = InstanceId::new(instance).ok()?;
        let process = self.daemon_view()?.supervisor.last_process(instance);
        process.map(|process| process.state)
    }
}
