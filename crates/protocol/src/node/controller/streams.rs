//! Which stream counts, and how another one takes its place

use std::time::{Duration, Instant};

use prexorcloud_proto::RunningInstance;

use super::{Contest, ControllerNode, ControllerWork, StreamId};
use crate::handshake::controller::Hello;
use crate::peer::DaemonPeer;
use crate::reconcile::ReconcilePolicy;
use crate::roster::StreamOrder;
use crate::session::controller::{AcceptError, Admission};
use crate::session::{Close, Code};
use crate::time::after;

/// What the former stream of a node is told when another one has taken its place.
pub const REPLACED: &str = "a newer stream of the same node took over";

/// What a newcomer is told while the daemon that is there answers.
pub const HELD: &str = "another daemon with the identity of this node is connected, and answers";

/// How long the daemon that is there has to answer, when another one comes.
pub const ANSWERS_WITHIN: Duration = Duration::from_secs(5);

/// For how long an answer counts for whoever else comes.
const ANSWER_COUNTS_FOR: Duration = Duration::from_secs(1);

/// When a newcomer that was turned away should come again: not sooner than an operator can do something about it.
const RIVAL_COMES_AGAIN: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug)]
pub(super) struct Current {
    pub(super) stream: StreamId,
    pub(super) peer: DaemonPeer,
}

/// A stream on its way to become the current one.
#[derive(Clone, Debug)]
enum Newcomer {
    /// The application records the node, and holds the handshake meanwhile.
    Recording { order: StreamOrder },
    /// The session has been told to accept.
    Accepting {
        order: StreamOrder,
        listed: Vec<RunningInstance>,
        policy: Box<ReconcilePolicy>,
    },
}

impl Newcomer {
    fn order(&self) -> &StreamOrder {
        match self {
            Self::Recording { order } | Self::Accepting { order, .. } => order,
        }
    }
}

/// A newcomer that may be another daemon than the one that is there, until that one has answered, or has not.
#[derive(Clone, Debug)]
struct Challenge {
    hello: Box<Hello>,
    until: Instant,
}

/// The streams of the node that are not over.
#[derive(Clone, Debug, Default)]
pub(super) struct Streams {
    current: Option<Current>,
    newcomer: Option<Newcomer>,
    challenge: Option<Challenge>,
    /// When the current stream last answered a probe.
    answered_at: Option<Instant>,
    /// A handshake that waits for the newcomer's admission to be over.
    waiting: Option<Box<Hello>>,
}

impl Streams {
    pub(super) const fn current(&self) -> Option<&Current> {
        self.current.as_ref()
    }

    pub(super) const fn is_admitting(&self) -> bool {
        self.newcomer.is_some() || self.challenge.is_some() || self.waiting.is_some()
    }

    /// When the current stream has to have answered.
    pub(super) fn challenge_until(&self) -> Option<Instant> {
        self.challenge.as_ref().map(|challenge| challenge.until)
    }

    fn is_challenger(&self, stream: StreamId) -> bool {
        let challenge = self.challenge.as_ref();
        challenge.is_some_and(|challenge| challenge.hello.stream.stream() == stream)
    }

    fn is_current(&self, stream: StreamId) -> bool {
        self.current.is_some_and(|current| current.stream == stream)
    }

    fn is_newcomer(&self, stream: StreamId) -> bool {
        self.newcomer
            .as_ref()
            .is_some_and(|newcomer| newcomer.order().stream() == stream)
    }

    fn is_waiting(&self, stream: StreamId) -> bool {
        self.waiting
            .as_ref()
            .is_some_and(|hello| hello.stream.stream() == stream)
    }

    /// Whether a stream that is on its way already was opened after this one.
    fn is_overtaken(&self, order: &StreamOrder) -> bool {
        let newcomer = self.newcomer.as_ref().map(Newcomer::order);
        let waiting = self.waiting.as_ref().map(|hello| &hello.stream);
        let challenger = self.challenge.as_ref().map(|challenge| &challenge.hello.stream);
        newcomer
            .into_iter()
            .chain(waiting)
            .chain(challenger)
            .any(|other| order.is_older_than(other))
    }
}

impl ControllerNode {
    /// Whether the stream is the current one.
    #[must_use]
    pub fn is_current(&self, stream: StreamId) -> bool {
        self.streams.is_current(stream)
    }

    /// A handshake has come in, and its session waits for a decision.
    pub fn handle_hello(&mut self, now: Instant, hello: Box<Hello>) {
        let order = &hello.stream;
        if hello.node_id != self.node() {
            let close = Close::new(Code::PermissionDenied, AcceptError::ForeignHello.to_string());
            self.close(order.stream(), close);
        } else if !self.roster.admits(order) || self.streams.is_overtaken(order) {
            self.turn_away(order.stream());
        } else {
            if self.is_same_process(order) == Some(true)
                && let Some(challenge) = self.streams.challenge.take()
            {
                // The daemon that is there shows itself that it lives.
                self.turn_rival_away(&challenge.hello);
            }
            if let Some(older) = self.streams.waiting.replace(hello) {
                self.turn_away(older.stream.stream());
            }
            self.admit_next(now);
        }
        self.settle(now);
    }

    /// The node is recorded as seen, and this is the answer to its handshake.
    pub fn handle_admission(&mut self, now: Instant, mut hello: Box<Hello>, admission: Admission) {
        // Else the stream has ended meanwhile.
        if matches!(&self.streams.newcomer, Some(Newcomer::Recording { order }) if *order == hello.stream) {
            let policy = ReconcilePolicy {
                elsewhere: admission.elsewhere.clone(),
                groups: admission.groups.clone(),
                peer: DaemonPeer::from_handshake(&hello.handshake, hello.capabilities),
            };
            let mut listed = std::mem::take(&mut hello.handshake.running_instances);
            listed.append(&mut hello.handshake.ended_instances);
            self.streams.newcomer = Some(Newcomer::Accepting {
                order: hello.stream.clone(),
                listed,
                policy: Box::new(policy),
            });
            self.work.push_back(ControllerWork::Accept { hello, admission });
        }
        self.settle(now);
    }

    /// The node could not be recorded, or is not to be admitted.
    pub fn handle_admission_failed(&mut self, now: Instant, stream: StreamId, close: Close) {
        if self.streams.is_newcomer(stream) {
            self.streams.newcomer = None;
            self.close(stream, close);
            self.admit_next(now);
        }
        self.settle(now);
    }

    /// A session has accepted its stream, which is the current one from now on.
    pub(super) fn handle_established(&mut self, now: Instant, stream: StreamId) {
        if !self.streams.is_newcomer(stream) {
            return;
        }
        if let Some(Newcomer::Accepting {
            order,
            listed,
            policy,
        }) = self.streams.newcomer.take()
        {
            let peer = policy.peer;
            if let Some(former) = self.streams.current.replace(Current { stream, peer }) {
                let close = Close::new(Code::Aborted, REPLACED);
                self.close(former.stream, close);
            }
            self.streams.answered_at = None;
            self.roster.admit(&order);
            self.roster.handle_handshake(now, &listed, &policy);
        }
        self.admit_next(now);
    }

    /// The current stream's daemon has answered: whoever else came in meanwhile is not it.
    pub(super) fn handle_answered(&mut self, now: Instant) {
        self.streams.answered_at = Some(now);
        if let Some(challenge) = self.streams.challenge.take() {
            self.turn_rival_away(&challenge.hello);
        }
        self.admit_next(now);
    }

    /// The current stream's daemon has not answered in time, if so.
    pub(super) fn handle_challenge_timeout(&mut self, now: Instant) {
        let Some(challenge) = self.streams.challenge.take_if(|challenge| challenge.until <= now) else {
            return;
        };
        self.tell_contest(&challenge.hello, Contest::Replaced);
        self.record(challenge.hello);
    }

    /// A stream is over, wherever it stood.
    pub(super) fn handle_closed(&mut self, now: Instant, stream: StreamId) {
        if self.streams.is_current(stream) {
            self.streams.current = None;
            self.roster.handle_disconnected(now);
            if let Some(challenge) = self.streams.challenge.take() {
                self.record(challenge.hello);
            }
        } else if self.streams.is_challenger(stream) {
            self.streams.challenge = None;
            self.admit_next(now);
        } else if self.streams.is_waiting(stream) {
            self.streams.waiting = None;
        } else if self.streams.is_newcomer(stream) {
            self.streams.newcomer = None;
            self.admit_next(now);
        }
    }

    fn admit_next(&mut self, now: Instant) {
        while self.streams.newcomer.is_none() && self.streams.challenge.is_none() {
            let Some(hello) = self.streams.waiting.take() else {
                return;
            };
            let holder = self
                .streams
                .current
                .filter(|_| self.is_same_process(&hello.stream) != Some(true));
            let Some(Current { stream, .. }) = holder else {
                return self.record(hello);
            };
            let counts = |at: Instant| now.saturating_duration_since(at) < ANSWER_COUNTS_FOR;
            if self.streams.answered_at.is_some_and(counts) {
                self.turn_rival_away(&hello);
            } else {
                let until = after(now, ANSWERS_WITHIN);
                self.streams.challenge = Some(Challenge { hello, until });
                self.work.push_back(ControllerWork::Probe { stream });
            }
        }
    }

    /// Has the node recorded as seen, the first step of an admission.
    fn record(&mut self, hello: Box<Hello>) {
        self.streams.newcomer = Some(Newcomer::Recording {
            order: hello.stream.clone(),
        });
        self.work.push_back(ControllerWork::Admit { hello });
    }

    /// Whether a stream comes from the process that the current one comes from; `None` if one of them does not say.
    fn is_same_process(&self, order: &StreamOrder) -> Option<bool> {
        self.roster.newest()?.is_same_process(order)
    }

    fn tell_contest(&mut self, challenger: &Hello, outcome: Contest) {
        if let Some(Current { stream: holder, .. }) = self.streams.current {
            self.work.push_back(ControllerWork::Contested {
                holder,
                challenger: challenger.stream.stream(),
                is_another: self.is_same_process(&challenger.stream) == Some(false),
                outcome,
            });
        }
    }

    fn turn_rival_away(&mut self, hello: &Hello) {
        self.tell_contest(hello, Contest::Kept);
        let close = Close::new(Code::Aborted, HELD).again_after(RIVAL_COMES_AGAIN);
        self.close(hello.stream.stream(), close);
    }

    fn turn_away(&mut self, stream: StreamId) {
        self.close(
            stream,
            Close::new(Code::Aborted, AcceptError::Superseded.to_string()),
        );
    }

    fn close(&mut self, stream: StreamId, close: Close) {
        self.work.push_back(ControllerWork::Close { stream, close });
    }
}
