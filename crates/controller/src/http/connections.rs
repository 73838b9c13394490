//! Which HTTP connections are open, what they are doing, and who gives way
//!
//! A connection that asks for nothing has no claim to its place: when there are too many, the one that has been idle for
//! longest is closed for the next. One whose request is under way keeps its place, but not for ever. If all of them work, a
//! few more are let in to ask how the controller is ([`Place::Spare`]), so that a busy controller is not taken for a
//! dead one.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

/// Connections beyond the bound that are served the state of the controller and nothing else
const SPARE: usize = 16;

/// A request under way may be cut for a newcomer when it has taken so long; no handler works for that long, so its
/// caller does not read
const STUCK: Duration = Duration::from_secs(60);

/// How many connections there may be
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) connections: usize,
    /// Those among them whose answer goes on until the caller leaves
    pub(super) followers: usize,
}

/// What a connection may ask for
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Full,
    Spare,
}

#[derive(Debug)]
pub(super) struct Connections {
    bounds: Bounds,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    open: BTreeMap<u64, Open>,
    /// Connections in the order in which they became idle or busy, oldest first
    idle: BTreeMap<u64, u64>,
    busy: BTreeMap<u64, (u64, Instant)>,
    followers: usize,
    spare: usize,
    next: u64,
}

#[derive(Debug)]
struct Open {
    place: Place,
    activity: Activity,
    /// Its key in the order of that activity
    since: u64,
    closed: Arc<Notify>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Activity {
    Idle,
    Busy,
    Following,
}

impl State {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn set(&mut self, id: u64, activity: Activity) {
        let since = self.number();
        let Some(open) = self.open.get_mut(&id) else {
            return;
        };
        let (before, then) = (open.activity, open.since);
        (open.activity, open.since) = (activity, since);
        self.leave(before, then);
        match activity {
            Activity::Idle => drop(self.idle.insert(since, id)),
            Activity::Busy => drop(self.busy.insert(since, (id, Instant::now()))),
            Activity::Following => self.followers += 1,
        }
    }

    fn leave(&mut self, activity: Activity, since: u64) {
        match activity {
            Activity::Idle => drop(self.idle.remove(&since)),
            Activity::Busy => drop(self.busy.remove(&since)),
            Activity::Following => self.followers -= 1,
        }
    }

    fn remove(&mut self, id: u64) -> Option<Open> {
        let open = self.open.remove(&id)?;
        self.leave(open.activity, open.since);
        self.spare -= usize::from(open.place == Place::Spare);
        Some(open)
    }

    /// Closes the connection of this place that has the least claim to it; false if all have one.
    fn displace(&mut self, place: Place) -> bool {
        let has_it = |id: &&u64| self.open.get(id).is_some_and(|open| open.place == place);
        let idle = self.idle.values().find(has_it);
        let stuck = || {
            let stuck = self
                .busy
                .values()
                .take_while(|(_, since)| since.elapsed() > STUCK);
            stuck.map(|(id, _)| id).find(has_it)
        };
        let Some(open) = idle.or_else(stuck).copied().and_then(|id| self.remove(id)) else {
            return false;
        };
        open.closed.notify_one();
        true
    }
}

impl Connections {
    pub(super) fn new(bounds: Bounds) -> Arc<Self> {
        Arc::new(Self {
            bounds,
            state: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a new connection; `None` if there is none
    pub(super) fn admit(self: &Arc<Self>) -> Option<Arc<Connection>> {
        let mut state = self.lock();
        let is_full = state.open.len() - state.spare >= self.bounds.connections;
        let place = if !is_full || state.displace(Place::Full) {
            Place::Full
        } else if state.spare < SPARE || state.displace(Place::Spare) {
            Place::Spare
        } else {
            return None;
        };
        state.spare += usize::from(place == Place::Spare);
        let (id, since) = (state.number(), state.number());
        let closed = Arc::new(Notify::new());
        let open = Open {
            place,
            activity: Activity::Idle,
            since,
            closed: Arc::clone(&closed),
        };
        state.open.insert(id, open);
        state.idle.insert(since, id);
        drop(state);
        let all = Arc::clone(self);
        Some(Arc::new(Connection {
            all,
            id,
            place,
            closed,
        }))
    }
}

/// The place of one connection, for as long as it is held
#[derive(Debug)]
pub(super) struct Connection {
    all: Arc<Connections>,
    id: u64,
    pub(super) place: Place,
    closed: Arc<Notify>,
}

impl Connection {
    /// Completes when the place was given to another connection.
    pub(super) async fn displaced(&self) {
        self.closed.notified().await;
    }

    /// A request is under way until the result is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> Request {
        self.all.lock().set(self.id, Activity::Busy);
        Request(Arc::clone(self))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.all.lock().remove(self.id);
    }
}

/// A request under way
#[derive(Debug)]
pub(super) struct Request(Arc<Connection>);

impl Request {
    /// Its answer has no end; false if there are too many of those.
    pub(super) fn follow(&self) -> bool {
        let Connection { all, id, .. } = &*self.0;
        let mut state = all.lock();
        let has_room = state.followers < all.bounds.followers;
        if has_room {
            state.set(*id, Activity::Following);
        }
        has_room
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        self.0.all.lock().set(self.0.id, Activity::Idle);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use futures_util::FutureExt as _;

    use super::*;

    fn connections() -> Arc<Connections> {
        Connections::new(Bounds {
            connections: 2,
            followers: 1,
        })
    }

    fn is_displaced(connection: &Connection) -> bool {
        connection.displaced().now_or_never().is_some()
    }

    #[test]
    fn the_one_that_was_idle_for_longest_gives_way() {
        let all = connections();
        let (first, second) = (all.admit().unwrap(), all.admit().unwrap());
        drop(first.begin());
        let third = all.admit().unwrap();
        assert_eq!(
            [&first, &second, &third].map(|it| is_displaced(it)),
            [false, true, false]
        );
        assert_eq!(third.place, Place::Full);
    }

    #[test]
    fn those_that_work_stay_and_the_state_can_be_asked_beside_them() {
        let all = connections();
        let working: Vec<_> = (0..2).map(|_| all.admit().unwrap().begin()).collect();
        let spare: Vec<_> = (0..SPARE).map(|_| all.admit().unwrap()).collect();
        assert!(spare.iter().all(|connection| connection.place == Place::Spare));
        // A spare place is given on like any other.
        assert!(all.admit().is_some() && is_displaced(&spare[0]));
        drop(working);
        assert_eq!(all.admit().unwrap().place, Place::Full);
    }

    #[test]
    fn followers_are_few() {
        let all = connections();
        let first = all.admit().unwrap().begin();
        let second = all.admit().unwrap().begin();
        assert!(first.follow() && !second.follow());
        drop(first);
        assert!(second.follow());
    }
}
