//! One stream between the daemon and a controller

use std::time::Duration;

use prexorcloud_protocol::Received;
use prexorcloud_protocol::proto::{ControllerMessage, DaemonMessage};

use crate::link::{Link, Quality};

/// How far one end of a stream is from its end
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The stream is open, as far as this end knows.
    Open,
    /// This end notices at this moment, and not before what is on its way has arrived.
    NoticesAt(Duration),
    /// This end knows.
    Over,
}

impl End {
    pub(super) fn no_later_than(&mut self, moment: Duration) {
        *self = match *self {
            Self::Open => Self::NoticesAt(moment),
            Self::NoticesAt(earlier) => Self::NoticesAt(earlier.min(moment)),
            Self::Over => Self::Over,
        };
    }
}

/// A stream
#[derive(Clone, Debug)]
pub struct Stream {
    /// Its number, from 1.
    pub id: u32,
    /// The controller at its other end, by its position in [`Pair::controllers`](crate::Pair::controllers).
    pub controller: usize,
    /// What the daemon sends.
    pub up: Link<Received<DaemonMessage>>,
    /// What the controller sends.
    pub down: Link<Received<ControllerMessage>>,
    /// What the daemon knows of the stream's end.
    pub daemon_end: End,
    /// What the controller knows of the stream's end.
    pub controller_end: End,
    /// The kind of the first message that the daemon sent.
    pub first_up: Option<&'static str>,
    /// The kind of the first message that the controller sent.
    pub first_down: Option<&'static str>,
    pub(super) sent_down: u64,
    /// The virtual second that is counted, and how many messages were sent in it, console lines aside.
    pub(super) second: (u64, u32),
    pub(super) daemon_closes_by: Option<Duration>,
    pub(super) controller_closes_by: Option<Duration>,
}

impl Stream {
    pub(super) fn new(id: u32, controller: usize, quality: Quality) -> Self {
        Self {
            id,
            controller,
            up: Link::new(quality),
            down: Link::new(quality),
            daemon_end: End::Open,
            controller_end: End::Open,
            first_up: None,
            first_down: None,
            sent_down: 0,
            second: (0, 0),
            daemon_closes_by: None,
            controller_closes_by: None,
        }
    }

    /// Counts a message, and gives how many there were in this virtual second.
    pub(super) fn count(&mut self, now: Duration) -> u32 {
        if self.second.0 != now.as_secs() {
            self.second = (now.as_secs(), 0);
        }
        self.second.1 += 1;
        self.second.1
    }

    /// Whether both ends know that it is over.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.daemon_end == End::Over && self.controller_end == End::Over
    }

    /// When something arrives at the daemon's end, be it the end.
    pub(super) fn daemon_due(&self) -> Option<Duration> {
        Self::due(self.daemon_end, &self.down)
    }

    /// When something arrives at the controller's end, be it the end.
    pub(super) fn controller_due(&self) -> Option<Duration> {
        Self::due(self.controller_end, &self.up)
    }

    fn due<M>(end: End, link: &Link<M>) -> Option<Duration> {
        match end {
            End::Over => None,
            End::NoticesAt(moment) if link.is_empty() => Some(moment),
            End::Open | End::NoticesAt(_) => link.next_due(),
        }
    }
}
