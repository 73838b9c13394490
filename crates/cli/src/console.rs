//! The console of an instance, followed over lost connections
//!
//! [`Console::next`] gives the lines that are kept and then live ones. If the connection is lost or silent for too long,
//! it connects again and asks for what comes after the last line seen; lines that the controller no longer has are
//! reported as a gap, never skipped in silence.

use serde::Deserialize;

use crate::client::{Client, Request};
use crate::event_stream::Event;
use crate::failure::Failure;
use crate::followed::{Came, ENDED, Followed};

pub use crate::outage::GIVE_UP_AFTER;

/// Which part of the console is wanted
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// What is kept, then the end
    Kept,
    /// What is kept, then whatever is printed from now on
    Live,
}

/// A console line
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Line {
    /// Its number in the console of this instance id, from 1
    pub sequence: u64,
    /// Which start of the instance printed it; 0 = unknown
    #[serde(default)]
    pub incarnation: u64,
    /// When, in milliseconds since 1970; 0 = unknown
    #[serde(default)]
    pub timestamp_ms: i64,
    /// What, without its line end, exactly as printed: see [`crate::printable`]
    pub line: String,
}

/// Something to show
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Happening {
    /// The stream is open; lines follow
    Connected,
    /// The stream goes on behind the last line, after it was lost
    Resumed,
    /// A line
    Line(Line),
    /// Lines that nobody can show any more
    Gap {
        /// How many
        missed: u64,
    },
    /// The connection was lost; it is made again
    Lost {
        /// Why
        reason: String,
    },
    /// The controller began to count anew (it was restarted), so lines may have been lost or appear again
    Recounted,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Connected {
    #[serde(default)]
    next_sequence: u64,
    /// Whose numbers they are
    #[serde(default)]
    life: String,
}

#[derive(Deserialize)]
struct Gap {
    #[serde(default)]
    missed: u64,
    #[serde(default)]
    before: u64,
}

/// A console being followed
#[derive(Debug)]
pub struct Console {
    client: Client,
    instance: String,
    extent: Extent,
    /// The first line that is wanted next; 0 = the oldest that is kept
    next: u64,
    stream: Followed,
    connected_before: bool,
    /// The life of the controller whose numbers are known
    life: Option<String>,
    /// Of what is kept when the stream is opened first, only so much is wanted
    tail: Option<u64>,
}

impl Console {
    /// Prepares to follow; the connection is made by the first [`next`](Self::next)
    ///
    /// `from` is the number of the first wanted line, 0 = the oldest that is kept.
    #[must_use]
    pub fn new(client: &Client, instance: &str, from: u64, extent: Extent) -> Self {
        Self {
            client: client.clone(),
            instance: instance.to_owned(),
            extent,
            next: from,
            stream: Followed::default(),
            connected_before: false,
            life: None,
            tail: None,
        }
    }

    /// As [`new`](Self::new), from the last so many of the lines that are kept
    #[must_use]
    pub fn tail(client: &Client, instance: &str, lines: u32, extent: Extent) -> Self {
        Self {
            tail: Some(lines.into()),
            ..Self::new(client, instance, 0, extent)
        }
    }

    /// What comes next; `None` after the end of what was wanted
    ///
    /// May be dropped at any point and called again.
    ///
    /// # Errors
    /// The controller refuses (no such instance, say), speaks something else, or cannot be reached: at once when the
    /// first connection fails, after [`GIVE_UP_AFTER`] later on.
    pub async fn next(&mut self) -> Result<Option<Happening>, Failure> {
        loop {
            if !self.stream.is_open() {
                if self.connect().await? {
                    return Ok(Some(Happening::Connected));
                }
                continue;
            }
            let reason = match self.stream.next().await? {
                Came::Event(event, request) => match self.understand(&event, &request)? {
                    Some(happening) => return Ok(Some(happening)),
                    None => continue,
                },
                Came::Ended if self.extent == Extent::Kept => return Ok(None),
                Came::Ended => ENDED.to_owned(),
                Came::Lost(reason) => reason,
            };
            self.stream.lose(&reason)?;
            return Ok(Some(Happening::Lost { reason }));
        }
    }

    async fn connect(&mut self) -> Result<bool, Failure> {
        let mut query = vec![("follow", (self.extent == Extent::Live).to_string())];
        if self.next > 0 {
            query.push(("from", self.next.to_string()));
        }
        let path = ["instances", self.instance.as_str(), "console"];
        let is_first = !self.connected_before;
        let is_open = self.stream.open(&self.client, &path, &query, is_first).await?;
        self.connected_before |= is_open;
        Ok(is_open)
    }

    fn understand(&mut self, event: &Event, request: &Request) -> Result<Option<Happening>, Failure> {
        let wrong = |error: serde_json::Error| {
            request.unintelligible(format!("an event of kind {:?} is malformed: {error}", event.kind))
        };
        match event.kind.as_str() {
            "connected" => {
                let connected: Connected = serde_json::from_str(&event.data).map_err(wrong)?;
                // Another life may have counted farther already than this stream was.
                let before = self.life.replace(connected.life.clone());
                let is_another = before.as_ref().is_some_and(|before| *before != connected.life);
                let is_behind = connected.next_sequence > 0 && self.next > connected.next_sequence;
                if self.next > 0 && (is_another || is_behind) {
                    self.next = 0;
                    self.life = None;
                    self.stream.leave();
                    return Ok(Some(Happening::Recounted));
                }
                if let Some(lines) = self.tail.take() {
                    self.next = connected.next_sequence.saturating_sub(lines);
                }
                Ok(before.map(|_| Happening::Resumed))
            }
            "line" => {
                let line: Line = serde_json::from_str(&event.data).map_err(wrong)?;
                if line.sequence < self.next {
                    return Ok(None);
                }
                self.next = line.sequence.saturating_add(1);
                Ok(Some(Happening::Line(line)))
            }
            "gap" => {
                let gap: Gap = serde_json::from_str(&event.data).map_err(wrong)?;
                if gap.before > 0 && gap.before <= self.next {
                    return Ok(None);
                }
                self.next = self.next.max(gap.before);
                Ok(Some(Happening::Gap { missed: gap.missed }))
            }
            _ => Ok(None),
        }
    }
}
