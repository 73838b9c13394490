//! What the simulated operator orders

use std::time::Duration;

use prexorcloud_protocol::proto::{StartInstance, TemplateData, controller_message};
use prexorcloud_protocol::roster::{InstanceEvent, Roster};
use prexorcloud_protocol::{Close, Code, ControllerSession, InstanceId, StopMode, Verdict};

use super::{Commit, ControllerHost, Store};
use crate::behaviour::Behaviour;
use crate::world::World;

impl ControllerHost {
    /// From now on the present incarnation may be stopped.
    pub(super) fn may_stop(&mut self, instance: InstanceId) {
        if let Some(known) = self.roster().and_then(|roster| roster.get(instance)) {
            let incarnation = known.incarnation();
            self.facts.may_stop.insert((instance, incarnation));
        }
    }

    /// Gives an order to whoever holds the roster.
    pub(super) fn order<R>(
        &mut self,
        session: impl FnOnce(&mut ControllerSession) -> Option<R>,
        roster: impl FnOnce(&mut Roster) -> R,
    ) -> Option<R> {
        let holder = self.current.and_then(|stream| self.sessions.get_mut(&stream));
        match holder.filter(|session| session.is_established()) {
            Some(holder) => session(holder),
            None => self.parked.as_mut().map(roster),
        }
    }

    /// The operator wants an instance started; `false` if it is alive or about to be.
    pub(crate) fn start(
        &mut self,
        world: &mut World,
        store: &Store,
        instance: InstanceId,
        behaviour: &Behaviour,
    ) -> bool {
        let about_to = |commit: &(Duration, Commit)| match &commit.1 {
            Commit::Start(start) => start.instance_id == instance.as_str(),
            Commit::Event(
                InstanceEvent::Adopted {
                    instance: adopted, ..
                },
                _,
            ) => *adopted == instance,
            _ => false,
        };
        let alive = self
            .roster()
            .and_then(|roster| roster.get(instance))
            .is_some_and(|known| !known.is_terminal());
        if alive || self.commits.iter().any(about_to) {
            return false;
        }
        let highest = store.incarnations.get(&instance).copied().unwrap_or_default();
        let known = self
            .roster()
            .and_then(|roster| roster.get(instance))
            .map_or(0, |known| known.incarnation().get());
        let start = StartInstance {
            instance_id: instance.into(),
            group: "simulated".to_owned(),
            port: port_of(instance),
            jar_file: behaviour.to_string(),
            startup_timeout_seconds: behaviour.startup_timeout_seconds,
            shutdown_grace_seconds: behaviour.grace_seconds,
            max_lifetime_seconds: behaviour.lifetime_seconds,
            incarnation: highest.max(known) + 1,
            ..Default::default()
        };
        self.commit(world, Commit::Start(Box::new(start)));
        true
    }

    /// The operator wants an instance stopped.
    pub(crate) fn stop(&mut self, world: &mut World, instance: InstanceId, mode: StopMode) {
        self.commit(world, Commit::Stop(instance, mode));
    }

    /// The operator wants an ended instance forgotten.
    pub(crate) fn forget(&mut self, world: &mut World, instance: InstanceId) {
        self.commit(world, Commit::Forget(instance));
    }

    pub(crate) fn shut_down_node(&mut self) {
        if let Some(session) = self.current.and_then(|stream| self.sessions.get_mut(&stream)) {
            let _ = session.shut_down_node("the operator said so");
        }
    }

    pub(crate) fn close_session(&mut self) {
        if let Some(session) = self.current.and_then(|stream| self.sessions.get_mut(&stream)) {
            session.close_with(Close::new(Code::Unavailable, "the operator said so"));
        }
    }

    pub(crate) fn send_template(&mut self, bytes: usize) {
        if let Some(session) = self.current.and_then(|stream| self.sessions.get_mut(&stream)) {
            let template = TemplateData {
                template_name: "lobby".to_owned(),
                tar_gz: vec![0; bytes].into(),
                ..Default::default()
            };
            let _ = session.send(controller_message::Payload::TemplateData(Box::new(template)));
        }
    }

    /// The operator gives up an instance whose node stays away.
    pub(crate) fn declare_lost(&mut self, world: &World, instance: InstanceId) -> Option<Verdict> {
        let now = self.local(world);
        self.order(|_| None, |roster| roster.declare_lost(now, instance))
    }

    /// A deposed controller's wish goes out without being stored.
    pub(crate) fn stop_everything(&mut self, world: &mut World) {
        let now = self.local(world);
        let known: Vec<InstanceId> = self
            .roster()
            .map(|roster| roster.entries().map(|entry| entry.instance()).collect())
            .unwrap_or_default();
        for instance in known {
            self.may_stop(instance);
            let mode = StopMode::Force;
            let verdict = self.order(
                |session| session.stop(now, instance, mode),
                |roster| roster.stop(now, instance, mode),
            );
            world.note(|| format!("{} (deposed) stops {instance}: {verdict:?}", self.name));
        }
    }

    pub(crate) fn drain(&mut self, world: &World, instance: InstanceId, drain: bool) -> Option<Verdict> {
        let now = self.local(world);
        if drain {
            self.order(
                |session| session.drain(now, instance),
                |roster| roster.drain(now, instance),
            )
        } else {
            self.order(
                |session| session.undrain(now, instance),
                |roster| roster.undrain(now, instance),
            )
        }
    }

    pub(crate) fn command(&mut self, instance: InstanceId, line: &str) -> Option<String> {
        let session = self.current.and_then(|stream| self.sessions.get_mut(&stream))?;
        Some(format!("{:?}", session.command(instance, line, None)))
    }

    /// A server on a Java node says that it is ready, past its daemon.
    pub(crate) fn ready(&mut self, world: &World, instance: InstanceId) {
        let now = self.local(world);
        let is_news = self
            .roster()
            .and_then(|roster| roster.get(instance))
            .is_some_and(|known| known.state().is_coming_up() && self.is_java_daemon);
        if is_news {
            self.order(
                |session| session.ready(now, instance),
                |roster| roster.ready(now, instance),
            );
        }
    }
}

/// A port that no other instance has.
fn port_of(instance: InstanceId) -> i32 {
    30_000 + instance.as_str().bytes().map(i32::from).sum::<i32>()
}
