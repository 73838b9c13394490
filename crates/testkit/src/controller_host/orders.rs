//! What the simulated operator orders

use std::fmt::{self, Debug};
use std::time::Instant;

use prexorcloud_protocol::node::controller::{ControllerNode, OrderId};
use prexorcloud_protocol::proto::{StartInstance, StopInstance, TemplateData, controller_message};
use prexorcloud_protocol::{Close, Code, ControllerSession, InstanceId, StopMode, Verdict};

use super::{ControllerHost, Store};
use crate::behaviour::Behaviour;
use crate::world::World;

impl ControllerHost {
    /// An order whose answer comes later.
    fn order(
        &mut self,
        world: &World,
        what: fmt::Arguments<'_>,
        give: impl FnOnce(&mut ControllerNode, Instant, OrderId),
    ) {
        let now = self.local(world);
        if let Some(node) = &mut self.node {
            self.orders_given += 1;
            let order = OrderId(self.orders_given);
            self.orders.insert(order, what.to_string());
            give(node, now, order);
        }
    }

    /// An order that is answered at once.
    fn at_once<R: Debug>(
        &mut self,
        world: &mut World,
        what: fmt::Arguments<'_>,
        give: impl FnOnce(&mut ControllerNode, Instant) -> R,
    ) {
        let now = self.local(world);
        if let Some(node) = &mut self.node {
            let result = give(node, now);
            world.note(|| format!("{}: {what}: {result:?}", self.name));
        }
    }

    /// Something done to the stream that counts.
    fn with_current(&mut self, world: &mut World, act: impl FnOnce(&mut ControllerSession)) {
        let current = self.node.as_ref().and_then(ControllerNode::current_stream);
        match current.and_then(|stream| self.session(stream)) {
            Some(session) => act(session),
            None => world.note(|| "no effect: the node is not connected"),
        }
    }

    /// The operator wants an instance started, with an incarnation that is new as far as he can see.
    pub(crate) fn start(
        &mut self,
        world: &World,
        store: &Store,
        instance: InstanceId,
        behaviour: &Behaviour,
    ) {
        let recorded = store.incarnations.get(&instance).copied().unwrap_or_default();
        let known = self.roster().and_then(|roster| roster.get(instance));
        let known = known.map_or(0, |known| known.incarnation().get());
        let start = StartInstance {
            instance_id: instance.into(),
            group: "simulated".to_owned(),
            port: port_of(instance),
            jar_file: behaviour.to_string(),
            startup_timeout_seconds: behaviour.startup_timeout_seconds,
            shutdown_grace_seconds: behaviour.grace_seconds,
            max_lifetime_seconds: behaviour.lifetime_seconds,
            incarnation: recorded.max(known) + 1,
            ..Default::default()
        };
        let what = format_args!("start {instance}#{}", start.incarnation);
        self.order(world, what, |node, now, order| {
            node.start(now, order, Box::new(start.clone()));
        });
    }

    pub(crate) fn stop(&mut self, world: &World, instance: InstanceId, mode: StopMode) {
        let what = format_args!("stop {instance} ({mode:?})");
        self.order(world, what, |node, now, order| {
            node.stop(now, order, instance, mode)
        });
    }

    pub(crate) fn forget(&mut self, world: &World, instance: InstanceId) {
        let what = format_args!("forget {instance}");
        self.order(world, what, |node, now, order| node.forget(now, order, instance));
    }

    pub(crate) fn declare_lost(&mut self, world: &World, instance: InstanceId) {
        let what = format_args!("declare {instance} lost");
        self.order(world, what, |node, now, order| {
            node.declare_lost(now, order, instance)
        });
    }

    /// The operator gives an instance up and deletes its record, while its node is away.
    pub(crate) fn abandon(&mut self, world: &mut World, instance: InstanceId) {
        if self
            .node
            .as_ref()
            .is_some_and(|node| node.current_stream().is_some())
        {
            return world.note(|| "no effect: the node is connected");
        }
        self.declare_lost(world, instance);
        self.forget(world, instance);
    }

    pub(crate) fn drain(&mut self, world: &mut World, instance: InstanceId, drain: bool) {
        self.at_once(
            world,
            format_args!("drain {instance} ({drain})"),
            |node, now| -> Verdict {
                if drain {
                    node.drain_instance(now, instance)
                } else {
                    node.undrain_instance(now, instance)
                }
            },
        );
    }

    pub(crate) fn command(&mut self, world: &mut World, instance: InstanceId, line: &str) {
        self.at_once(world, format_args!("command {instance}"), |node, _| {
            node.command(instance, line, None)
        });
    }

    /// A server on a Java node says that it is ready, past its daemon.
    pub(crate) fn ready(&mut self, world: &mut World, instance: InstanceId) {
        let known = self.roster().and_then(|roster| roster.get(instance));
        if self.is_java_daemon && known.is_some_and(|known| known.state().is_coming_up()) {
            self.at_once(world, format_args!("{instance} is ready"), |node, now| {
                node.ready(now, instance)
            });
        }
    }

    pub(crate) fn shut_down_node(&mut self, world: &mut World) {
        self.at_once(world, format_args!("shut down"), |node, _| {
            node.shut_down("the operator said so")
        });
    }

    pub(crate) fn close_session(&mut self, world: &mut World) {
        self.with_current(world, |session| {
            session.close_with(Close::new(Code::Unavailable, "the operator said so"));
        });
    }

    pub(crate) fn send_template(&mut self, world: &mut World, bytes: usize) {
        self.with_current(world, |session| {
            let template = TemplateData {
                template_name: "lobby".to_owned(),
                tar_gz: vec![0; bytes].into(),
                ..Default::default()
            };
            let _ = session.send(controller_message::Payload::TemplateData(Box::new(template)));
        });
    }
}

/// What an attacker does, past the machine
impl ControllerHost {
    /// A deposed controller stops everything it knows of, without writing that down, and says what that is.
    pub(crate) fn stop_everything(&mut self, world: &mut World) -> Vec<InstanceId> {
        let known: Vec<_> = self
            .roster()
            .into_iter()
            .flat_map(|roster| roster.entries())
            .map(|entry| (entry.instance(), entry.incarnation()))
            .collect();
        for &(instance, incarnation) in &known {
            self.facts.may_stop.insert((instance, incarnation));
            let stop = StopInstance {
                instance_id: instance.into(),
                force: true,
                incarnation: incarnation.get(),
            };
            world.note(|| format!("{} (deposed) stops {instance}", self.name));
            self.with_current(world, |session| {
                let _ = session.send(controller_message::Payload::StopInstance(stop));
            });
        }
        known.into_iter().map(|(instance, _)| instance).collect()
    }
}

/// A port that no other instance has.
fn port_of(instance: InstanceId) -> i32 {
    30_000 + instance.as_str().bytes().map(i32::from).sum::<i32>()
}
