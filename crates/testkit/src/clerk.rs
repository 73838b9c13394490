//! What a controller has under way with its store: admissions and a commit

use std::collections::BTreeMap;
use std::time::Duration;

use prexorcloud_protocol::handshake::controller::Hello;
use prexorcloud_protocol::node::controller::{Commit, CommitFailure, ControllerNode};
use prexorcloud_protocol::roster::GroupPolicy;
use prexorcloud_protocol::session::controller::Admission;
use prexorcloud_protocol::{Close, Code, ControllerSession, Epoch, NodeId};

use crate::facts::ControllerFacts;
use crate::store::Store;
use crate::world::Turn;

/// The part of a controller's host that waits for the store
#[derive(Clone, Debug)]
pub(crate) struct Clerk {
    /// The controller's name, and the epoch of its leadership.
    name: String,
    pub(crate) epoch: Epoch,
    /// Another controller leads: the store takes nothing any more.
    pub(crate) is_deposed: bool,
    pub(crate) redirects: bool,
    pub(crate) admission_delay: Option<Duration>,
    admissions: Vec<(Duration, Box<Hello>)>,
    commit: Option<(Duration, Commit)>,
}

impl Clerk {
    pub(crate) const fn of(name: String) -> Self {
        Self {
            name,
            epoch: Epoch::UNFENCED,
            is_deposed: false,
            redirects: false,
            admission_delay: None,
            admissions: Vec::new(),
            commit: None,
        }
    }

    /// The machine of a controller that starts: it leads from now on, unless it is deposed, and knows what is recorded.
    pub(crate) fn start_controller(
        &mut self,
        turn: &mut Turn<'_>,
        store: &mut Store,
        node: NodeId,
        facts: &mut ControllerFacts,
    ) -> ControllerNode {
        if !self.is_deposed {
            self.epoch = store.take_lead();
        }
        turn.note(|| format!("{} starts, epoch {}", self.name, self.epoch));
        let mut node = ControllerNode::new(node);
        let refused = node.restore(turn.now, store.entries());
        node.set_drain(turn.now, store.drain_at(turn));
        let told = |(entry, reason)| format!("restore {entry:?}: {reason}");
        facts.denied.extend(refused.into_iter().map(told));
        node
    }

    /// The controller is killed, and with it what was under way.
    pub(crate) fn forget(&mut self) {
        self.admissions.clear();
        self.commit = None;
    }

    pub(crate) fn admit(&mut self, turn: &mut Turn<'_>, hello: Box<Hello>) {
        let usual = turn.rng().between(Duration::ZERO, Duration::from_millis(20));
        let due = turn.moment() + self.admission_delay.take().unwrap_or(usual);
        self.admissions.push((due, hello));
    }

    pub(crate) fn commit(&mut self, turn: &mut Turn<'_>, store: &Store, commit: Commit) {
        let delay = turn.rng().between(Duration::ZERO, store.commit_delay);
        self.commit = Some((turn.moment() + delay, commit));
    }

    /// Records that the node is drained.
    pub(crate) fn record_drained(&self, turn: &mut Turn<'_>, store: &mut Store, node: &mut ControllerNode) {
        let is_written = !self.is_deposed && store.attempt(turn.moment()).is_ok();
        turn.note(|| format!("{}: the node is drained, recorded: {is_written}", self.name));
        if is_written {
            store.drain = None;
            node.handle_drain_recorded();
        } else {
            node.handle_drain_failed(turn.now);
        }
    }

    pub(crate) fn next_due(&self) -> Option<Duration> {
        let admissions = self.admissions.iter().map(|(due, _)| *due);
        admissions.chain(self.commit.as_ref().map(|(due, _)| *due)).min()
    }

    /// Finishes one thing that is due, tells the machine, and says whether anything was.
    pub(crate) fn handle_wake(
        &mut self,
        turn: &mut Turn<'_>,
        store: &mut Store,
        node: &mut ControllerNode,
        sessions: &mut BTreeMap<u32, ControllerSession>,
        facts: &mut ControllerFacts,
    ) -> bool {
        let moment = turn.moment();
        let is_due = |(due, _): &(Duration, Box<Hello>)| *due <= moment;
        if let Some(index) = self.admissions.iter().position(is_due) {
            let (_, hello) = self.admissions.remove(index);
            self.decide(turn, store, node, sessions, hello);
            return true;
        }
        let Some((_, commit)) = self.commit.take_if(|(due, _)| *due <= moment) else {
            return false;
        };
        let written = if self.is_deposed {
            Err(CommitFailure::Conflict("another controller leads".to_owned()))
        } else {
            store.commit(moment, &commit, &facts.seen)
        };
        match written {
            Ok(()) => {
                let changes = commit.changes.iter();
                changes.for_each(|change| facts.note_change(change));
                node.handle_committed(turn.now, commit.id);
            }
            Err(failure) => {
                turn.note(|| format!("{}: not written: {failure}", self.name));
                node.handle_commit_failed(turn.now, commit.id, failure);
            }
        }
        true
    }

    fn decide(
        &mut self,
        turn: &Turn<'_>,
        store: &mut Store,
        node: &mut ControllerNode,
        sessions: &mut BTreeMap<u32, ControllerSession>,
        hello: Box<Hello>,
    ) {
        let stream = hello.stream.stream();
        if std::mem::take(&mut self.redirects) {
            let session = u32::try_from(stream.get())
                .ok()
                .and_then(|id| sessions.get_mut(&id));
            if let Some(session) = session {
                session.redirect("leader.example:9090".to_owned(), Vec::new());
            }
        } else if !self.is_deposed
            && let Err(failure) = store.attempt(turn.moment())
        {
            let close = Close::new(Code::Unavailable, failure.to_string());
            node.handle_admission_failed(turn.now, stream, close);
        } else {
            let groups = if store.refuses_unknown {
                GroupPolicy::Only(Vec::new())
            } else {
                GroupPolicy::AdoptAny
            };
            let admission = Admission {
                session_id: format!("{}/{}", self.name, stream.get()),
                epoch: self.epoch,
                groups,
                ..Default::default()
            };
            node.handle_admission(turn.now, hello, admission);
        }
    }
}
