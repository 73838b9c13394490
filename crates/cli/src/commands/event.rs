//! `prexorctl event watch`

use serde_json::{Map, Value, json};

use crate::client::{Client, Request};
use crate::event_stream::Event;
use crate::failure::Failure;
use crate::followed::{Came, ENDED, Followed};
use crate::output::{Colour, Output, Paint, remark};
use crate::printable;

/// Characters of a field that a line shows
const LONGEST_FIELD: usize = 200;

/// Shows what happens until Ctrl-C
pub(super) async fn watch(
    kinds: &[String],
    since: Option<u64>,
    client: &Client,
    output: &Output,
) -> Result<(), Failure> {
    let view = View {
        output,
        notes: Paint::for_stderr(!output.paint().is_enabled()),
    };
    let mut watching = Watching {
        client,
        kinds: kinds.join(","),
        cursor: since,
        check: None,
        stream: Followed::default(),
        has_connected: false,
    };
    tokio::select! {
        biased;
        interrupted = tokio::signal::ctrl_c() => Ok(interrupted?),
        ended = watching.run(&view) => ended,
    }
}

struct View<'a> {
    output: &'a Output,
    notes: Paint,
}

struct Watching<'a> {
    client: &'a Client,
    kinds: String,
    /// The last event that was seen; `None` for what happens from now on
    cursor: Option<u64>,
    /// What tells it from an event that has the same number in another log
    check: Option<String>,
    stream: Followed,
    has_connected: bool,
}

impl Watching<'_> {
    /// Goes on over lost connections until the controller has been away for too long
    async fn run(&mut self, view: &View<'_>) -> Result<(), Failure> {
        loop {
            if !self.stream.is_open() {
                self.connect().await?;
                continue;
            }
            let reason = match self.stream.next().await? {
                Came::Event(event, request) => match self.show(&event, &request, view)? {
                    Some(reason) => reason,
                    None => continue,
                },
                Came::Ended => ENDED.to_owned(),
                Came::Lost(reason) => reason,
            };
            self.stream.lose(&reason)?;
            view.note(&format!("{reason}; connecting again"));
        }
    }

    async fn connect(&mut self) -> Result<(), Failure> {
        let mut query = Vec::new();
        if !self.kinds.is_empty() {
            query.push(("type", self.kinds.clone()));
        }
        if let Some(cursor) = self.cursor {
            query.push(("lastSequence", cursor.to_string()));
        }
        if let Some(check) = &self.check {
            query.push(("lastCheck", check.clone()));
        }
        let path = ["events", "stream"];
        let is_first = !self.has_connected;
        self.has_connected |= self.stream.open(self.client, &path, &query, is_first).await?;
        Ok(())
    }

    /// Shows one event; gives why the stream ends, if it says so
    fn show(&mut self, event: &Event, request: &Request, view: &View<'_>) -> Result<Option<String>, Failure> {
        let fields: Map<String, Value> = serde_json::from_str(&event.data).map_err(|error| {
            request.unintelligible(format!("an event of kind {:?} is malformed: {error}", event.kind))
        })?;
        match event.kind.as_str() {
            "connected" => {
                // From here on nothing is missed, also if nothing happens before the connection breaks.
                let latest = fields.get("latestSequence").and_then(Value::as_u64);
                self.cursor = self.cursor.or(latest);
            }
            "error" => {
                let message = fields.get("message").and_then(Value::as_str).unwrap_or_default();
                return Ok(Some(printable::short(message, LONGEST_FIELD).to_string()));
            }
            _ => {
                view.show(&event.data, &fields)?;
                if let Some(reached) = event.id.as_deref().and_then(|id| id.parse().ok()) {
                    self.cursor = Some(reached);
                    let check = fields.get("check").and_then(Value::as_str);
                    self.check = check.map(str::to_owned);
                }
            }
        }
        Ok(None)
    }
}

impl View<'_> {
    fn show(&self, data: &str, fields: &Map<String, Value>) -> Result<(), Failure> {
        if self.output.is_json() {
            return self.output.text(&printable::json(data));
        }
        let kind = fields.get("type").and_then(Value::as_str).unwrap_or_default();
        if kind == "RESYNC_REQUIRED" {
            let number = |name: &str| fields.get(name).and_then(Value::as_u64).unwrap_or(0);
            self.note(&format!(
                "events after {} are not in the controller's log any more; it goes from {} to {}",
                number("lastSequence"),
                number("earliestSequence"),
                number("latestSequence")
            ));
            return Ok(());
        }
        let sequence = fields.get("sequence").and_then(Value::as_u64).unwrap_or(0);
        let mut line = format!("{sequence:>8}  {}", printable::short(kind, LONGEST_FIELD));
        for (name, value) in fields {
            if !["type", "sequence", "check"].contains(&name.as_str()) {
                let value = match value {
                    Value::String(text) => text.clone(),
                    other => json!(other).to_string(),
                };
                let name = printable::short(name, LONGEST_FIELD);
                line.push_str(&format!("  {name}={}", printable::short(&value, LONGEST_FIELD)));
            }
        }
        self.output.text(&line)
    }

    /// Says something that is not an event
    fn note(&self, text: &str) {
        remark(self.notes.paint(Colour::Moving, &format!("-- {text} --")));
    }
}
