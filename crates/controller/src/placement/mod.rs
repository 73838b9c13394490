//! Where a new instance goes: which nodes may have it, which of them is best, and why none may
//!
//! Nothing here waits or asks: facts of nodes go in, an order of nodes comes out. What two starts at the same time would both
//! take is settled by the task of the node, which looks once more.

mod reasons;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use prexorcloud_protocol::NodeId;

use crate::nodes::NodeSummary;

/// Share of a node's processors that reservations leave alone
const CPU_LEFT_ALONE: f64 = 0.05;

/// Parts of a node's processors
const MILLION: i64 = 1_000_000;

/// What a new instance asks of its node
#[derive(Clone, Debug)]
pub(crate) struct Wish<'a> {
    pub(crate) memory_mb: i64,
    /// Share of the node's processors, 0 to 1; 0 = none
    pub(crate) cpu: f64,
    /// 0 = none
    pub(crate) disk_mb: i64,
    /// `key` or `key=value`
    pub(crate) affinity: &'a [String],
    pub(crate) anti_affinity: &'a [String],
    /// How many ports it may have
    pub(crate) ports: usize,
}

/// What the instances of a node that live have been promised
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Booked {
    pub(crate) instances: usize,
    /// Those of the same group
    pub(crate) of_group: usize,
    pub(crate) memory_mb: i64,
    /// Share of the processors; whole numbers, so that what is taken and given back leaves nothing
    pub(crate) cpu_millionths: i64,
}

/// What is known of a node
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) node: NodeId,
    pub(crate) status: NodeSummary,
    pub(crate) labels: HashMap<String, String>,
    /// What instances may use; 0 = it does not say
    pub(crate) total_memory_mb: i64,
    /// What is used of it, whoever uses it
    pub(crate) used_memory_mb: i64,
    /// Load of all its processors, 0 to 1; `None` = it has not said
    pub(crate) cpu: Option<f64>,
    /// 0 = it does not say
    pub(crate) free_disk_mb: i64,
    pub(crate) booked: Booked,
}

impl Booked {
    /// One more instance
    pub(crate) fn add(&mut self, memory_mb: i32, cpu_millionths: i64) {
        self.instances += 1;
        self.memory_mb += i64::from(memory_mb.max(0));
        self.cpu_millionths += cpu_millionths;
    }

    /// One less, with the same figures
    pub(crate) fn remove(&mut self, memory_mb: i32, cpu_millionths: i64) {
        self.instances -= 1;
        self.memory_mb -= i64::from(memory_mb.max(0));
        self.cpu_millionths -= cpu_millionths;
    }
}

/// A reservation of processors in whole numbers
pub(crate) fn millionths(share: f64) -> i64 {
    #[allow(clippy::cast_possible_truncation, reason = "it was clamped")]
    let parts = (share.clamp(0.0, 1_000.0) * 1e6) as i64;
    parts
}

impl Candidate {
    /// Memory that is promised to nobody; `None` = the node does not say how much it has
    ///
    /// What is used does not count: a server that uses more than it was promised, or that ends just now, would be kept from
    /// coming back, and Java daemons tell what the whole machine uses.
    fn free_memory_mb(&self) -> Option<i64> {
        (self.total_memory_mb > 0).then(|| self.total_memory_mb.saturating_sub(self.booked.memory_mb))
    }

    /// Share of the processors that is neither promised nor busy; a node that has not said counts as `unsaid` busy
    fn idle_cpu(&self, unsaid: f64) -> f64 {
        let promised = ratio(self.booked.cpu_millionths, MILLION);
        let busy = self.cpu.unwrap_or(unsaid).max(promised);
        (1.0 - busy).clamp(0.0, 1.0)
    }

    /// Better is more: Java's weights, so that a fleet looks alike behind either controller
    fn score(&self, wish: &Wish<'_>) -> f64 {
        let memory = match self.free_memory_mb() {
            Some(free) => {
                let unused = self.total_memory_mb.saturating_sub(self.used_memory_mb.max(0));
                ratio(free.min(unused).max(0), self.total_memory_mb)
            }
            None => 0.5,
        };
        let ports = 1.0 - ratio(self.booked.instances, wish.ports).min(1.0);
        0.35 * memory
            + 0.25 * self.idle_cpu(0.5)
            + 0.15 * share(self.booked.instances)
            + 0.10 * ports
            + 0.15 * share(self.booked.of_group)
    }

    /// The first thing that speaks against it
    fn obstacle(&self, wish: &Wish<'_>) -> Option<Obstacle> {
        if self.status != NodeSummary::Online {
            Some(Obstacle::NotReady)
        } else if !self.suits(wish) {
            Some(Obstacle::Labels)
        } else if self.total_memory_mb > 0 && self.total_memory_mb < wish.memory_mb {
            Some(Obstacle::Small)
        } else if self.free_memory_mb().is_some_and(|free| free < wish.memory_mb) {
            Some(Obstacle::Memory)
        } else if wish.cpu > 0.0 && self.idle_cpu(0.0) < wish.cpu + CPU_LEFT_ALONE {
            Some(Obstacle::Cpu)
        } else if wish.disk_mb > 0 && self.free_disk_mb > 0 && self.free_disk_mb < wish.disk_mb {
            Some(Obstacle::Disk)
        } else {
            None
        }
    }

    /// Whether it has the labels that are asked for, and none of those that are not wanted
    fn suits(&self, wish: &Wish<'_>) -> bool {
        let has = |label: &String| match label.split_once('=') {
            Some((key, value)) => self.labels.get(key).is_some_and(|has| has == value),
            None => self.labels.contains_key(label),
        };
        wish.affinity.iter().all(has) && !wish.anti_affinity.iter().any(has)
    }
}

/// Why a node does not take an instance, in the order in which it is looked for
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Obstacle {
    NotReady,
    Labels,
    /// It would not take it if it were empty
    Small,
    Memory,
    Cpu,
    Disk,
}

/// Why no node takes an instance
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoPlace {
    /// It may be another one later
    #[error("{0}")]
    Full(String),
    /// Somebody has to change what is asked for, or the fleet
    #[error("{0}")]
    Never(String),
}

/// The nodes that may have an instance, the best first
///
/// # Errors
/// Why none may, in a sentence that whoever has asked can act on.
pub(crate) fn rank(wish: &Wish<'_>, candidates: &[Candidate]) -> Result<Vec<NodeId>, NoPlace> {
    let mut fitting: Vec<(f64, NodeId)> = candidates
        .iter()
        .filter(|one| one.obstacle(wish).is_none())
        .map(|one| (one.score(wish), one.node))
        .collect();
    if fitting.is_empty() {
        return Err(reasons::why_none(wish, candidates));
    }
    fitting.sort_by(|one, other| other.0.total_cmp(&one.0).then(one.1.cmp(&other.1)));
    Ok(fitting.into_iter().map(|(_, node)| node).collect())
}

/// 1 for none, and less for each
fn share(count: usize) -> f64 {
    ratio(1, count.saturating_add(1))
}

#[allow(
    clippy::cast_precision_loss,
    reason = "figures up to 2^53 are exact, which is more than there is of anything here"
)]
fn ratio<T: TryInto<i64>>(part: T, whole: T) -> f64 {
    let number = |of: T| of.try_into().unwrap_or(i64::MAX) as f64;
    let (part, whole) = (number(part), number(whole));
    if whole <= 0.0 { 1.0 } else { part / whole }
}
