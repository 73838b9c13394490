//! Why no node takes an instance, in a sentence that whoever has asked can act on

use std::fmt::Write as _;

use super::{CPU_LEFT_ALONE, Candidate, NoPlace, Obstacle, Wish};

/// Names that a sentence lists
const NAMED: usize = 3;

pub(super) fn why_none(wish: &Wish<'_>, candidates: &[Candidate]) -> NoPlace {
    if wish.cpu > 1.0 - CPU_LEFT_ALONE {
        return NoPlace::Never(format!(
            "no node can keep {:.0} % of its processors for one server: cpuReservation is a share of all of them, 0.95 at most",
            wish.cpu * 100.0
        ));
    }
    if candidates.is_empty() {
        return NoPlace::Full(
            "no node is ready: there is none yet. Make a token with prexorctl token create, and start a daemon with it"
                .to_owned(),
        );
    }
    let with = |obstacle| {
        candidates
            .iter()
            .filter(move |one| one.obstacle(wish) == Some(obstacle))
    };
    let ready = candidates.len() - with(Obstacle::NotReady).count();
    if ready == 0 {
        return NoPlace::Full(format!("no node is ready: {}", away(candidates)));
    }
    if with(Obstacle::Labels).count() == ready {
        return NoPlace::Never(
            "no node that is ready has the labels that nodeAffinity asks for and none of nodeAntiAffinity: change them, or the labels of a node"
                .to_owned(),
        );
    }
    if with(Obstacle::Labels).count() + with(Obstacle::Small).count() == ready
        && let Some(largest) = with(Obstacle::Small).max_by_key(|one| one.total_memory_mb)
    {
        return NoPlace::Never(format!(
            "{} MiB of memory are more than any node that is ready has: the largest, {}, has {} MiB for instances. Ask for less, or add a node",
            wish.memory_mb, largest.node, largest.total_memory_mb
        ));
    }
    let mut reasons = Vec::new();
    if let Some(best) = with(Obstacle::Memory).max_by_key(|one| one.free_memory_mb()) {
        reasons.push(format!(
            "{} of {} MiB are left on {}",
            best.free_memory_mb().unwrap_or(0).max(0),
            wish.memory_mb,
            listed(with(Obstacle::Memory), best)
        ));
    }
    if let Some(best) =
        with(Obstacle::Cpu).max_by(|one, other| one.idle_cpu(0.0).total_cmp(&other.idle_cpu(0.0)))
    {
        reasons.push(format!(
            "{:.0} % of the processors are left on {}, where cpuReservation asks for {:.0} %",
            best.idle_cpu(0.0) * 100.0,
            listed(with(Obstacle::Cpu), best),
            wish.cpu * 100.0
        ));
    }
    if let Some(best) = with(Obstacle::Disk).max_by_key(|one| one.free_disk_mb) {
        reasons.push(format!(
            "{} of {} MiB of disk are left on {}",
            best.free_disk_mb,
            wish.disk_mb,
            listed(with(Obstacle::Disk), best)
        ));
    }
    for (obstacle, what) in [
        (Obstacle::Small, "too small"),
        (Obstacle::Labels, "without the labels"),
        (Obstacle::NotReady, "not ready"),
    ] {
        match with(obstacle).count() {
            0 => {}
            count => reasons.push(format!("{count} {what}")),
        }
    }
    NoPlace::Full(format!(
        "no node has room: {}. Stop something, ask for less, or add a node",
        reasons.join("; ")
    ))
}

/// The best of some nodes, and how many others there are
fn listed<'a>(all: impl Iterator<Item = &'a Candidate>, best: &Candidate) -> String {
    match all.count() {
        ..=1 => best.node.to_string(),
        2 => format!("{}, and less on another node", best.node),
        count => format!("{}, and less on {} other nodes", best.node, count - 1),
    }
}

/// Nodes that are not ready, with what they are
fn away(candidates: &[Candidate]) -> String {
    let mut said = String::new();
    for (at, one) in candidates.iter().take(NAMED).enumerate() {
        let comma = if at == 0 { "" } else { ", " };
        let _ = write!(said, "{comma}{} is {}", one.node, one.status.name());
    }
    if candidates.len() > NAMED {
        let _ = write!(said, ", and {} others", candidates.len() - NAMED);
    }
    said
}
