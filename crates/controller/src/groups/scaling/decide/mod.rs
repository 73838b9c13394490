//! The comparison of what is desired with what is observed
//!
//! # Properties
//! Checked below, by worlds that carry plans out:
//! - `a_group_converges_and_then_rests`: with players who stay, it comes to a number within its bounds, and nothing is done any more;
//! - `never_more_than_the_maximum`, `nothing_is_started_while_it_is_paused`, `the_order_of_what_is_observed_does_not_matter`.

use std::{cmp::Reverse, collections::BTreeSet};

use prexorcloud_protocol::{InstanceId, instance::State};

use super::{History, Mode, Observed, Plan, Standing, Step, StepKind, Why, Wish};

/// What is to be done about a group at a moment, in milliseconds since 1970
pub(crate) fn decide(now_ms: i64, wish: &Wish, observed: &[Observed], history: &History) -> Plan {
    let mut all: Vec<&Observed> = observed.iter().collect();
    all.sort_by_key(|one| natural(&one.instance));
    Decision {
        now_ms,
        wish,
        history,
        all,
        due_at_ms: None,
        notes: Vec::new(),
    }
    .plan()
}

/// Names in the order in which people count: `lobby-9` before `lobby-10`
fn natural(instance: &InstanceId) -> (String, u64, String) {
    let text = instance.to_string();
    let numbered = text
        .rsplit_once('-')
        .and_then(|(group, number)| Some((group.to_owned(), number.parse().ok()?)));
    let (group, number) = numbered.unwrap_or_else(|| (text.clone(), 0));
    (group, number, text)
}

struct Decision<'a> {
    now_ms: i64,
    wish: &'a Wish,
    history: &'a History,
    /// In the order of their names
    all: Vec<&'a Observed>,
    due_at_ms: Option<i64>,
    notes: Vec<Why>,
}

impl Decision<'_> {
    fn plan(mut self) -> Plan {
        let serving: Vec<&Observed> = self.all.iter().copied().filter(|one| one.serves()).collect();
        let overdue: BTreeSet<InstanceId> = self.overdue(&serving);
        let present: Vec<&Observed> = serving
            .iter()
            .copied()
            .filter(|one| !overdue.contains(&one.instance))
            .collect();
        let floor = self.floor();
        let revived = self.revived();
        let by_players = match self.wish.mode {
            Mode::Dynamic => self.by_players(&present),
            Mode::Static | Mode::Manual => 0,
        };
        let desired = match self.wish.mode {
            Mode::Manual => floor.max(serving.len() + revived.len()),
            Mode::Static | Mode::Dynamic => floor.max(by_players),
        }
        .min(self.wish.max);
        let mut plan = Plan {
            desired,
            serving: serving.len(),
            standing: Standing::Settled,
            steps: Vec::new(),
            notes: Vec::new(),
            scales: false,
            due_at_ms: None,
        };
        if let Some((standing, why)) = self.kept_from_everything() {
            plan.standing = standing;
            plan.notes.push(why);
            plan.due_at_ms = self.due_at_ms;
            return plan;
        }
        let missing = desired.saturating_sub(present.len());
        for one in serving
            .iter()
            .filter(|one| overdue.contains(&one.instance))
            .take(missing)
        {
            let for_ms = one.away_since_ms.map_or(0, |since| self.now_ms - since);
            let why = Why::NodeAway {
                node: one.node,
                for_ms,
            };
            plan.steps.push(step(one.instance, StepKind::GiveUp, why));
        }
        let is_paused = self.is_paused();
        let missing = missing.saturating_sub(plan.steps.len());
        let missing = self.cooled(missing, floor.saturating_sub(present.len()), desired);
        if is_paused {
            let cause = self.history.cause.clone();
            self.notes.push(Why::Paused { cause });
        } else {
            self.start(&mut plan, missing, floor, &present, &revived);
        }
        let given_up: BTreeSet<InstanceId> = plan.give_ups().collect();
        let rest: Vec<&Observed> = serving
            .iter()
            .copied()
            .filter(|one| !given_up.contains(&one.instance))
            .collect();
        self.stop(&mut plan, &rest, floor.max(by_players));
        if self.wish.keeps_files || self.wish.node_grace_ms.is_none() {
            let away = serving.iter().filter(|one| one.away_since_ms.is_some());
            self.notes
                .extend(away.map(|one| Why::WaitsForNode { node: one.node }));
        }
        plan.standing = if is_paused {
            Standing::Paused
        } else if !plan.steps.is_empty() || serving.iter().any(|one| one.state.is_coming_up()) {
            Standing::Changing
        } else if present.len() < desired {
            Standing::Short
        } else {
            Standing::Settled
        };
        self.notes.dedup();
        plan.notes = self.notes;
        plan.due_at_ms = self.due_at_ms;
        plan
    }

    /// Notes that something is to be looked at then
    fn due(&mut self, at_ms: i64) {
        if at_ms > self.now_ms {
            self.due_at_ms = Some(self.due_at_ms.map_or(at_ms, |due| due.min(at_ms)));
        }
    }

    fn kept_from_everything(&mut self) -> Option<(Standing, Why)> {
        if let Some(by) = &self.history.held_by {
            return Some((Standing::Held, Why::Held { by: by.clone() }));
        }
        if self.history.settled_at_ms > self.now_ms {
            self.due(self.history.settled_at_ms);
            return Some((Standing::Waiting, Why::Settling));
        }
        None
    }

    fn is_paused(&mut self) -> bool {
        self.due(self.history.paused_until_ms);
        self.history.paused_until_ms > self.now_ms
    }

    /// What serves on nodes that have been away for too long
    fn overdue(&mut self, serving: &[&Observed]) -> BTreeSet<InstanceId> {
        let Some(grace) = self.wish.node_grace_ms.filter(|_| !self.wish.keeps_files) else {
            return BTreeSet::new();
        };
        let mut overdue = BTreeSet::new();
        for one in serving {
            let Some(since) = one.away_since_ms else { continue };
            let at = since.saturating_add(grace);
            if at <= self.now_ms {
                overdue.insert(one.instance);
            } else {
                self.due(at);
            }
        }
        overdue
    }

    /// The number that is kept whatever players do
    fn floor(&self) -> usize {
        let min = self.wish.min.min(self.wish.max);
        if self.wish.replaces_clean_exits {
            return min;
        }
        let is_done = |one: &&&Observed| one.state == State::Stopped && self.is_missed(one);
        min.saturating_sub(self.all.iter().filter(is_done).count())
    }

    /// Whether it ended by itself since this group is looked after
    fn is_missed(&self, one: &Observed) -> bool {
        one.ended_by_itself() && one.ended_at_ms >= self.history.known_since_ms
    }

    /// What people have started and what ended by itself, where they decide
    fn revived(&self) -> Vec<InstanceId> {
        if self.wish.mode != Mode::Manual {
            return Vec::new();
        }
        let is_one = |one: &&&Observed| {
            self.is_missed(one) && (one.state == State::Crashed || self.wish.replaces_clean_exits)
        };
        self.all.iter().filter(is_one).map(|one| one.instance).collect()
    }

    /// The number that players need
    fn by_players(&self, present: &[&Observed]) -> usize {
        let Wish {
            seats,
            scale_up_threshold: threshold,
            scale_up_margin: margin,
            max,
            ..
        } = *self.wish;
        if seats == 0 || threshold <= 0.0 {
            return 0;
        }
        let players = players_of(present);
        if players == 0 && margin <= 0.0 {
            return 0;
        }
        #[allow(clippy::cast_precision_loss, reason = "players are not that many")]
        let taken = players as f64 + margin * f64::from(seats);
        let mut needed = 1;
        #[allow(clippy::cast_precision_loss, reason = "servers are not that many")]
        while needed < max && taken >= threshold * f64::from(seats) * needed as f64 {
            needed += 1;
        }
        needed
    }

    /// Of what is missing, what may be started now: beyond the minimum only some time after the last change
    fn cooled(&mut self, missing: usize, below_floor: usize, desired: usize) -> usize {
        let is_for_players = self.wish.mode == Mode::Dynamic && missing > below_floor;
        let until = self.history.scaled_at_ms.saturating_add(self.wish.cooldown_ms);
        if !is_for_players || until <= self.now_ms {
            return missing;
        }
        self.due(until);
        self.notes.push(Why::Cooling { wanted: desired });
        below_floor.min(missing)
    }

    fn start(
        &mut self,
        plan: &mut Plan,
        missing: usize,
        floor: usize,
        present: &[&Observed],
        revived: &[InstanceId],
    ) {
        let is_live = |one: &&&Observed| !one.state.is_terminal();
        let taken: BTreeSet<InstanceId> = self.all.iter().filter(is_live).map(|one| one.instance).collect();
        let room = self.wish.max.saturating_sub(taken.len());
        let count = missing.min(room);
        if count < missing {
            let (missing, max) = (missing - count, self.wish.max);
            self.notes.push(Why::AtMaximum { missing, max });
        }
        let given_up: BTreeSet<InstanceId> = plan.give_ups().collect();
        let mut names = Vec::with_capacity(count);
        for name in revived.iter().copied().chain(self.free_names(&taken)) {
            if names.len() == count {
                break;
            }
            let is_free = !taken.contains(&name) && !given_up.contains(&name);
            if is_free && !names.contains(&name) {
                names.push(name);
            }
        }
        if names.len() < count {
            let missing = count - names.len();
            self.notes.push(Why::NoName { missing });
        }
        let players = players_of(present);
        let seats = u64::from(self.wish.seats) * u64::try_from(present.len()).unwrap_or(u64::MAX);
        for (index, name) in names.into_iter().enumerate() {
            let serving = present.len() + index;
            let why = if revived.contains(&name) {
                Why::EndedByItself
            } else if serving < floor {
                let min = self.wish.min;
                Why::BelowMinimum { serving, min }
            } else {
                plan.scales = true;
                let wanted = plan.desired;
                Why::Players {
                    players,
                    seats,
                    wanted,
                }
            };
            plan.steps.push(step(name, StepKind::Start, why));
        }
    }

    /// The names that the group has, in the order in which they are used
    fn free_names<'s>(
        &'s self,
        taken: &'s BTreeSet<InstanceId>,
    ) -> Box<dyn Iterator<Item = InstanceId> + 's> {
        if !self.wish.names.is_empty() {
            return Box::new(self.wish.names.iter().copied());
        }
        let group = self.wish.group;
        // Of so many numbers one is free for each that is still needed.
        let most = u32::try_from(taken.len() + self.wish.max + 1).unwrap_or(u32::MAX);
        Box::new((1..=most).filter_map(move |number| format!("{group}-{number}").parse().ok()))
    }

    fn stop(&mut self, plan: &mut Plan, serving: &[&Observed], needed: usize) {
        let wanted = needed.min(self.wish.max);
        let mut candidates = serving.to_vec();
        match self.wish.mode {
            Mode::Manual => return,
            Mode::Static => {}
            // What is away may not come back, and takes nobody's place.
            Mode::Dynamic => candidates.retain(|one| one.away_since_ms.is_none()),
        }
        let surplus = candidates.len().saturating_sub(wanted);
        if surplus == 0 {
            return;
        }
        // What is away, and what nobody can play on yet; then the last ones of those with the fewest players.
        candidates.sort_by_key(|one| {
            let is_there = one.away_since_ms.is_none();
            let name = Reverse(natural(&one.instance));
            (is_there, one.state == State::Running, one.players, name)
        });
        if self.wish.mode == Mode::Static {
            let serving = serving.len();
            for one in candidates.into_iter().take(surplus) {
                let why = Why::AboveNumber { serving, wanted };
                plan.steps.push(step(one.instance, StepKind::Stop, why));
            }
            return;
        }
        if !self.history.counts_players {
            self.notes.push(Why::PlayersUnknown);
            return;
        }
        let cooled_at = self.history.scaled_at_ms.saturating_add(self.wish.cooldown_ms);
        let mut ripe = None;
        for one in candidates {
            let Some(since) = one.empty_since_ms.filter(|_| one.players == 0) else {
                continue;
            };
            let at = since.saturating_add(self.wish.scale_down_after_ms).max(cooled_at);
            if at <= self.now_ms && one.state == State::Running {
                ripe = ripe.or(Some((one, since)));
            } else {
                self.due(at);
            }
        }
        if let Some((one, since)) = ripe {
            let for_ms = self.now_ms - since;
            let why = Why::Empty { for_ms, wanted };
            plan.steps.push(step(one.instance, StepKind::Stop, why));
            plan.scales = true;
        }
    }
}

fn step(instance: InstanceId, kind: StepKind, why: Why) -> Step {
    Step { instance, kind, why }
}

fn players_of(servers: &[&Observed]) -> u64 {
    servers.iter().map(|one| u64::from(one.players)).sum()
}

#[cfg(test)]
mod tests;
