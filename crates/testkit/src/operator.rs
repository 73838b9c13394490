//! What the simulated operator orders, and what an attacker does past the machine

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Instant;

use prexorcloud_protocol::node::controller::{ControllerNode, Drain, OrderId};
use prexorcloud_protocol::proto::{StartInstance, StopInstance, TemplateData, controller_message};
use prexorcloud_protocol::{Close, Code, Incarnation, InstanceId, StopMode};

use crate::action::Action;
use crate::behaviour::Behaviour;
use crate::controller_host::ControllerHost;
use crate::facts::Typed;
use crate::side::{Effect, NoEffect};
use crate::store::{PlannedDrain, Store};
use crate::world::Turn;

/// The orders whose answer comes later
#[derive(Clone, Debug)]
pub(crate) struct Orders {
    /// Which controller of the cluster gives them.
    number: u64,
    given: u64,
    waiting: BTreeMap<OrderId, String>,
}

impl Orders {
    pub(crate) const fn of(number: u64) -> Self {
        Self {
            number,
            given: 0,
            waiting: BTreeMap::new(),
        }
    }

    pub(crate) const fn number(&self) -> u64 {
        self.number
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(crate) fn forget(&mut self) {
        self.waiting.clear();
    }

    fn give(&mut self, what: String) -> OrderId {
        self.given += 1;
        let order = OrderId(self.given);
        self.waiting.insert(order, what);
        order
    }

    /// An order has been answered; gives what it was.
    pub(crate) fn answered(&mut self, order: OrderId) -> String {
        self.waiting.remove(&order).unwrap_or_default()
    }
}

const AWAY: NoEffect = NoEffect(std::borrow::Cow::Borrowed("the node is not connected"));

/// Does what a scenario orders.
pub(crate) fn act(
    host: &mut ControllerHost,
    turn: &mut Turn<'_>,
    store: &mut Store,
    action: &Action,
) -> Effect {
    match action {
        Action::Start(instance, behaviour) => start(host, turn, store, *instance, behaviour),
        Action::Stop(instance) => stop(host, turn, *instance, StopMode::Graceful),
        Action::Kill(instance) => stop(host, turn, *instance, StopMode::Force),
        Action::Drain(instance) => at_once(host, turn, format!("drain {instance}"), |node, now| {
            node.drain_instance(now, *instance)
        }),
        Action::Undrain(instance) => at_once(host, turn, format!("undrain {instance}"), |node, now| {
            node.undrain_instance(now, *instance)
        }),
        Action::DrainNode { within, shutdown } => {
            let deadline = turn.moment() + *within;
            store.drain = Some(PlannedDrain {
                deadline,
                shutdown: *shutdown,
            });
            drain_node(host, turn, store)
        }
        Action::UndrainNode => {
            store.drain = None;
            drain_node(host, turn, store)
        }
        Action::Forget(instance) => later(host, turn, format!("forget {instance}"), |node, now, order| {
            node.forget(now, order, *instance)
        }),
        Action::DeclareLost(instance) => declare_lost(host, turn, *instance),
        Action::Abandon(instance) => {
            if host.current_session().is_some() {
                return Err(NoEffect::because("the node is connected"));
            }
            declare_lost(host, turn, *instance)?;
            later(host, turn, format!("forget {instance}"), |node, now, order| {
                node.forget(now, order, *instance)
            })
        }
        Action::ShutDownNode => at_once(host, turn, "shut down".to_owned(), |node, _| {
            node.shut_down("the operator said so")
        }),
        Action::CloseSession => {
            let close = Close::new(Code::Unavailable, "the operator said so");
            host.current_session().ok_or(AWAY)?.close_with(close);
            Ok(())
        }
        Action::Template(bytes) => {
            let template = TemplateData {
                template_name: "lobby".to_owned(),
                tar_gz: vec![0; *bytes].into(),
                ..Default::default()
            };
            let payload = controller_message::Payload::TemplateData(Box::new(template));
            let sent = host.current_session().ok_or(AWAY)?.send(payload);
            sent.map_err(|error| NoEffect::because(error.to_string()))
        }
        Action::Command(instance, line) => command(host, turn, *instance, line),
        Action::Redirect => {
            host.clerk.redirects = true;
            Ok(())
        }
        Action::SlowAdmission(time) => {
            host.clerk.admission_delay = Some(*time);
            Ok(())
        }
        Action::Heal => {
            host.clerk.redirects = false;
            host.clerk.admission_delay = None;
            Ok(())
        }
        Action::RestartController(down_for) => {
            host.kill(turn, *down_for);
            Ok(())
        }
        Action::DeposedStopsAll => stop_everything(host, turn),
        _ => Err(NoEffect::because("no controller knows such an action")),
    }
}

fn command(host: &mut ControllerHost, turn: &mut Turn<'_>, instance: InstanceId, line: &str) -> Effect {
    let mut number = None;
    at_once(host, turn, format!("command {instance}"), |node, _| {
        let sent = node.command(instance, line, None);
        number = sent.as_ref().ok().copied().flatten();
        sent
    })?;
    let stream = host.node_mut().and_then(|node| node.current_stream());
    let stream = stream.and_then(|stream| u32::try_from(stream.get()).ok());
    if let (Some(stream), Some(number)) = (stream, number) {
        let typed = Typed {
            instance,
            line: line.to_owned(),
            written: None,
        };
        host.facts.typed.insert((stream, number), typed);
    }
    Ok(())
}

/// An order whose answer comes later, and says then whether it had an effect.
fn later(
    host: &mut ControllerHost,
    turn: &Turn<'_>,
    what: String,
    give: impl FnOnce(&mut ControllerNode, Instant, OrderId),
) -> Effect {
    let order = host.orders.give(what);
    match host.node_mut() {
        Some(node) => give(node, turn.now, order),
        None => host.orders.forget(),
    }
    Ok(())
}

/// An order that is answered at once.
fn at_once<R: Debug>(
    host: &mut ControllerHost,
    turn: &mut Turn<'_>,
    what: String,
    give: impl FnOnce(&mut ControllerNode, Instant) -> R,
) -> Effect {
    if let Some(node) = host.node_mut() {
        let result = format!("{:?}", give(node, turn.now));
        let had_effect = !["Err", "Denied", "AlreadyInEffect"]
            .iter()
            .any(|no| result.starts_with(no));
        turn.note(|| format!("{}: {what}: {result}", host.name));
        if !had_effect {
            return Err(NoEffect::because(result));
        }
    }
    Ok(())
}

/// The operator wants an instance started, with an incarnation that is new as far as he can see.
fn start(
    host: &mut ControllerHost,
    turn: &Turn<'_>,
    store: &Store,
    instance: InstanceId,
    behaviour: &Behaviour,
) -> Effect {
    let recorded = store.incarnations.get(&instance).copied().unwrap_or_default();
    let known = host.roster().and_then(|roster| roster.get(instance));
    let known = known.map_or(0, |known| known.incarnation().get());
    let start = StartInstance {
        incarnation: recorded.max(known) + 1,
        ..start_of(instance, behaviour)
    };
    let what = format!("start {instance}#{}", start.incarnation);
    later(host, turn, what, |node, now, order| {
        node.start(now, order, Box::new(start))
    })
}

fn stop(host: &mut ControllerHost, turn: &Turn<'_>, instance: InstanceId, mode: StopMode) -> Effect {
    let what = format!("stop {instance} ({mode:?})");
    later(host, turn, what, |node, now, order| {
        node.stop(now, order, instance, mode)
    })
}

fn declare_lost(host: &mut ControllerHost, turn: &Turn<'_>, instance: InstanceId) -> Effect {
    let what = format!("declare {instance} lost");
    later(host, turn, what, |node, now, order| {
        node.declare_lost(now, order, instance)
    })
}

fn drain_node(host: &mut ControllerHost, turn: &mut Turn<'_>, store: &Store) -> Effect {
    let drain: Option<Drain> = store.drain_at(turn);
    match host.node_mut() {
        Some(node) if drain.is_none() && !node.is_draining() => {
            Err(NoEffect::because("the node is not draining"))
        }
        Some(node) => {
            node.set_drain(turn.now, drain);
            Ok(())
        }
        None => Err(NoEffect::because("the controller is down")),
    }
}

/// A server on a Java node says that it is ready, past its daemon.
pub(crate) fn hear_plugin(
    host: &mut ControllerHost,
    turn: &mut Turn<'_>,
    instance: InstanceId,
    start: Incarnation,
) {
    let known = host.roster().and_then(|roster| roster.get(instance));
    let is_its = |given: Incarnation| !start.is_known() || given == start;
    let is_awaited = known.is_some_and(|known| known.state().is_coming_up() && is_its(known.incarnation()));
    if host.peers.has_java_daemon() && is_awaited {
        let what = format!("{instance} is ready");
        let _ = at_once(host, turn, what, |node, now| node.ready(now, instance));
    }
}

/// A deposed controller stops everything it knows of, without writing that down.
fn stop_everything(host: &mut ControllerHost, turn: &mut Turn<'_>) -> Effect {
    let roster = host.roster().into_iter().flat_map(|roster| roster.entries());
    let known: Vec<_> = roster
        .map(|entry| (entry.instance(), entry.incarnation()))
        .collect();
    let name = host.name.clone();
    let session = host.current_session().ok_or(AWAY)?;
    for &(instance, incarnation) in &known {
        let stop = StopInstance {
            instance_id: instance.into(),
            force: true,
            incarnation: incarnation.get(),
        };
        turn.note(|| format!("{name} (deposed) stops {instance}"));
        // A stream that is closing takes no more.
        let _ = session.send(controller_message::Payload::StopInstance(stop));
    }
    host.facts.may_stop.extend(known.iter().copied());
    if known.is_empty() {
        return Err(NoEffect::because("it knows of no instance"));
    }
    Ok(())
}

/// What every operator asks for, with no incarnation yet.
pub(crate) fn start_of(instance: InstanceId, behaviour: &Behaviour) -> StartInstance {
    StartInstance {
        instance_id: instance.into(),
        group: "simulated".to_owned(),
        port: port_of(instance),
        jar_file: behaviour.to_string(),
        startup_timeout_seconds: behaviour.startup_timeout_seconds,
        shutdown_grace_seconds: behaviour.grace_seconds,
        max_lifetime_seconds: behaviour.lifetime_seconds,
        ..Default::default()
    }
}

/// A port that no other instance has.
fn port_of(instance: InstanceId) -> i32 {
    30_000 + instance.as_str().bytes().map(i32::from).sum::<i32>()
}
