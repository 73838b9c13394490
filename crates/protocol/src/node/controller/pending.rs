//! What waits for a commit of its own: orders, stops of a drain, and crash reports

use prexorcloud_proto::StartInstance;

use super::OrderId;
use super::commits::Purpose;
use super::crashes::Crash;
use super::records::Records;
use crate::id::{Incarnation, InstanceId};
use crate::verdict::StopMode;

/// Something that waits for a commit of its own.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Pending {
    Start {
        order: OrderId,
        start: Box<StartInstance>,
    },
    Stop {
        /// Nobody waits for the answer of a stop that belongs to a drain.
        order: Option<OrderId>,
        instance: InstanceId,
        mode: StopMode,
    },
    Forget {
        order: OrderId,
        instance: InstanceId,
    },
    Crash(Crash),
}

impl Pending {
    /// Who waits for the answer.
    const fn order(&self) -> Option<OrderId> {
        match self {
            Self::Start { order, .. } | Self::Forget { order, .. } => Some(*order),
            Self::Stop { order, .. } => *order,
            Self::Crash(_) => None,
        }
    }

    /// The instance of an order: of what somebody waits for, who hears of it if the storage fails.
    fn ordered(&self) -> Option<InstanceId> {
        match self {
            Self::Start { start, .. } => InstanceId::new(&start.instance_id).ok(),
            Self::Stop {
                order: Some(_),
                instance,
                ..
            }
            | Self::Forget { instance, .. } => Some(*instance),
            Self::Stop { order: None, .. } | Self::Crash(_) => None,
        }
    }
}

impl Records {
    pub(super) fn push(&mut self, pending: Pending) {
        self.waiting.push_back(pending);
    }

    /// How many orders and reports wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    fn pending(&self) -> impl Iterator<Item = &Pending> {
        let under_way = self.under_way.as_ref().and_then(|(_, purpose)| match purpose {
            Purpose::Pending(pending, _) => Some(pending),
            Purpose::Snapshots(_) | Purpose::Surplus(_) => None,
        });
        under_way.into_iter().chain(&self.waiting)
    }

    /// Whether a crash report waits already.
    pub(super) fn has_crash(&self, report_id: &str) -> bool {
        let is_that = |pending: &Pending| matches!(pending, Pending::Crash(crash) if crash.is(report_id));
        self.pending().any(is_that)
    }

    /// Starts that wait to be recorded.
    pub(super) fn starts(&self) -> impl Iterator<Item = &StartInstance> {
        self.pending().filter_map(|pending| match pending {
            Pending::Start { start, .. } => Some(&**start),
            _ => None,
        })
    }

    /// The incarnation of a start of this id that waits to be recorded.
    pub(super) fn start_of(&self, instance: InstanceId) -> Option<Incarnation> {
        self.starts()
            .find(|start| start.instance_id == instance.as_str())
            .map(|start| Incarnation::new(start.incarnation))
    }

    pub(super) fn has_starts(&self) -> bool {
        self.starts().next().is_some()
    }

    /// Whether a stop that a drain wants waits to be recorded.
    pub(super) fn has_stop_of_drain(&self) -> bool {
        self.pending()
            .any(|pending| matches!(pending, Pending::Stop { order: None, .. }))
    }

    /// What a drain wants stopped and nobody has begun to record is not wanted any more.
    pub(super) fn withdraw_drain(&mut self) {
        self.waiting
            .retain(|pending| !matches!(pending, Pending::Stop { order: None, .. }));
    }

    /// The ports of starts that wait to be recorded.
    pub(super) fn ports(&self) -> impl Iterator<Item = u16> + '_ {
        self.starts().filter_map(|start| u16::try_from(start.port).ok())
    }

    /// Takes what is next of what waits. While the storage is left in peace that is an order: nobody but the storage
    /// knows whether it would be refused, too. One that needs a record first holds up the orders of its own instance.
    pub(super) fn take_waiting(&mut self) -> Option<Pending> {
        if self.retry_at.is_none() {
            return self.waiting.pop_front();
        }
        let mut held = Vec::new();
        let next = self.waiting.iter().position(|pending| {
            let Some(instance) = pending.ordered() else {
                return false;
            };
            let must_wait = held.contains(&instance) || self.needs_snapshots(pending);
            if must_wait {
                held.push(instance);
            }
            !must_wait
        })?;
        self.waiting.remove(next)
    }

    pub(super) fn next_needs_snapshots(&self) -> bool {
        self.waiting
            .front()
            .is_none_or(|pending| self.needs_snapshots(pending))
    }

    /// Whether an order needs a record that is behind: a start and a forgetting look at the end, and the storage would
    /// take the id for alive.
    fn needs_snapshots(&self, pending: &Pending) -> bool {
        let instance = match pending {
            Pending::Start { .. } | Pending::Forget { .. } => pending.ordered(),
            Pending::Stop { .. } | Pending::Crash(_) => None,
        };
        instance.is_some_and(|instance| {
            let mut refused = self.refused.iter().map(|snapshot| snapshot.instance);
            self.dirty.contains_key(&instance) || refused.any(|behind| behind == instance)
        })
    }

    /// Gives an order up that nobody waits for any more; says whether it had not been begun.
    pub(super) fn withdraw(&mut self, order: OrderId) -> bool {
        let before = self.waiting.len();
        self.waiting.retain(|pending| pending.order() != Some(order));
        self.waiting.len() < before
    }

    /// The orders that wait for the record of an instance, which the storage refuses.
    pub(super) fn take_orders_behind(&mut self, instance: InstanceId) -> Vec<OrderId> {
        let mut orders = Vec::new();
        self.waiting.retain(|pending| {
            let order = match pending {
                Pending::Start { order, start } if start.instance_id == instance.as_str() => order,
                Pending::Forget {
                    order,
                    instance: wanted,
                } if *wanted == instance => order,
                _ => return true,
            };
            orders.push(*order);
            false
        });
        self.unanswered.retain(|(wanted, order, _)| {
            let is_other = *wanted != instance;
            if !is_other {
                orders.push(*order);
            }
            is_other
        });
        orders
    }
}
