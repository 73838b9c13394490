//! The log of the controller or of a daemon, followed over lost connections and restarts of the controller
//!
//! [`LogStream::next`] gives what is kept and then what comes. A position is an id of the controller's life and a number in it:
//! after a lost connection the stream goes on behind the last one seen, and a controller that lives anew is noticed and said.

use serde::Deserialize;
use serde_json::Value;

use crate::client::{Client, Request};
use crate::event_stream::Event;
use crate::failure::Failure;
use crate::followed::{Came, ENDED, Followed};

/// A record
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct LogRecord {
    /// Its place in the log, from 1
    pub seq: u64,
    /// When, in milliseconds since 1970
    pub ts: i64,
    /// How important it is
    pub level: String,
    /// What logged it
    pub logger: String,
    /// Where
    pub thread: String,
    /// The text
    pub message: String,
    /// The error with its causes, if there is one
    pub throwable: String,
    /// Further context
    pub mdc: std::collections::BTreeMap<String, String>,
    /// Records that were lost before it, on their way to the controller
    pub lost: u64,
    /// As the controller sent it
    #[serde(skip)]
    pub json: Value,
}

impl Default for LogRecord {
    fn default() -> Self {
        Self {
            seq: 0,
            ts: 0,
            level: "INFO".to_owned(),
            logger: String::new(),
            thread: String::new(),
            message: String::new(),
            throwable: String::new(),
            mdc: std::collections::BTreeMap::new(),
            lost: 0,
            json: Value::Null,
        }
    }
}

impl LogRecord {
    /// Understands what the controller sent
    ///
    /// # Errors
    /// It is no record.
    pub fn of(json: Value) -> Result<Self, serde_json::Error> {
        let mut record = Self::deserialize(&json)?;
        record.json = json;
        Ok(record)
    }
}

/// Something to show
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LogHappening {
    /// A record
    Record(Box<LogRecord>),
    /// Records that nobody can show any more
    Gap {
        /// How many
        missed: u64,
    },
    /// The connection was lost; it is made again
    Lost {
        /// Why
        reason: String,
    },
    /// The connection is there again, and nothing was missed
    Resumed,
    /// The controller was restarted: what it had not shown before is gone
    Restarted,
}

#[derive(Deserialize)]
struct Connected {
    #[serde(default)]
    life: String,
    #[serde(default)]
    received: u64,
}

#[derive(Deserialize)]
struct Gap {
    #[serde(default)]
    missed: u64,
}

/// A log being followed
#[derive(Debug)]
pub struct LogStream {
    client: Client,
    path: Vec<String>,
    query: Vec<(&'static str, String)>,
    tail: u32,
    /// The last position seen
    after: Option<String>,
    life: Option<String>,
    stream: Followed,
}

impl LogStream {
    /// Prepares to follow what is at `path`; the connection is made by the first [`next`](Self::next)
    #[must_use]
    pub fn new(client: &Client, path: &[&str], query: Vec<(&'static str, String)>, tail: u32) -> Self {
        Self {
            client: client.clone(),
            path: path.iter().map(|&part| part.to_owned()).collect(),
            query,
            tail,
            after: None,
            life: None,
            stream: Followed::default(),
        }
    }

    /// What comes next. It never ends but with an error. May be dropped at any point and called again.
    ///
    /// # Errors
    /// The controller refuses, speaks something else, or cannot be reached: at once when the first connection fails, after
    /// [`GIVE_UP_AFTER`](crate::console::GIVE_UP_AFTER) later on.
    pub async fn next(&mut self) -> Result<LogHappening, Failure> {
        loop {
            if !self.stream.is_open() {
                self.connect().await?;
                continue;
            }
            let reason = match self.stream.next().await? {
                Came::Event(event, request) => match self.understand(&event, &request)? {
                    Some(happening) => return Ok(happening),
                    None => continue,
                },
                Came::Ended => ENDED.to_owned(),
                Came::Lost(reason) => reason,
            };
            self.stream.lose(&reason)?;
            return Ok(LogHappening::Lost { reason });
        }
    }

    async fn connect(&mut self) -> Result<bool, Failure> {
        let mut query = self.query.clone();
        match &self.after {
            Some(after) => query.push(("after", after.clone())),
            None => query.push(("tail", self.tail.to_string())),
        }
        let path: Vec<&str> = self.path.iter().map(String::as_str).collect();
        self.stream
            .open(&self.client, &path, &query, self.life.is_none())
            .await
    }

    fn understand(&mut self, event: &Event, request: &Request) -> Result<Option<LogHappening>, Failure> {
        let wrong = |error: serde_json::Error| {
            request.unintelligible(format!("an event of kind {:?} is malformed: {error}", event.kind))
        };
        match event.kind.as_str() {
            "connected" => {
                let connected: Connected = serde_json::from_str(&event.data).map_err(wrong)?;
                if self.after.is_none() && self.tail == 0 {
                    self.after = Some(format!("{}-{}", connected.life, connected.received));
                }
                let before = self.life.replace(connected.life.clone());
                Ok(before.map(|before| match before == connected.life {
                    true => LogHappening::Resumed,
                    false => LogHappening::Restarted,
                }))
            }
            "log" => {
                let json = serde_json::from_str(&event.data).map_err(wrong)?;
                let record = LogRecord::of(json).map_err(wrong)?;
                self.after.clone_from(&event.id);
                Ok(Some(LogHappening::Record(Box::new(record))))
            }
            "gap" => {
                let gap: Gap = serde_json::from_str(&event.data).map_err(wrong)?;
                Ok(Some(LogHappening::Gap { missed: gap.missed }))
            }
            _ => Ok(None),
        }
    }
}
