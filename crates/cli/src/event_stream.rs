//! Server-sent events, decoded as they arrive
//!
//! Bytes go in as the network cuts them, whole events come out. A line, an event and the queue of decoded events are
//! bounded, so a peer that never ends a line costs memory once and is then refused.

use std::collections::VecDeque;

/// The largest event that is accepted, in bytes: a console line is at most 4 KiB, and JSON can make six bytes of one
pub const MAX_EVENT_BYTES: usize = 256 * 1024;

/// One event
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// Its kind; empty means `message`
    pub kind: String,
    /// Its payload; several `data` lines are joined by line feeds
    pub data: String,
    /// The id that the stream stands at, if it ever gave one
    pub id: Option<String>,
}

/// The peer does not send events
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// More than [`MAX_EVENT_BYTES`] without an end of the event
    #[error("an event is larger than {MAX_EVENT_BYTES} bytes")]
    TooLarge,
}

/// Turns bytes into events
#[derive(Clone, Debug, Default)]
pub struct Decoder {
    line: Vec<u8>,
    /// The last line ended with a carriage return, so a line feed that follows belongs to it
    after_return: bool,
    begun: bool,
    kind: String,
    data: String,
    has_data: bool,
    id: Option<String>,
    events: VecDeque<Event>,
}

impl Decoder {
    /// Takes in what arrived
    ///
    /// # Errors
    /// [`StreamError::TooLarge`]; the connection should be closed, the decoder is of no more use.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), StreamError> {
        for &byte in bytes {
            let after_return = std::mem::replace(&mut self.after_return, byte == b'\r');
            match byte {
                b'\n' if after_return => {}
                b'\n' | b'\r' => self.end_line(),
                _ => {
                    if self.line.len() + self.data.len() >= MAX_EVENT_BYTES {
                        return Err(StreamError::TooLarge);
                    }
                    self.line.push(byte);
                }
            }
        }
        Ok(())
    }

    /// The next whole event
    pub fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        let text = String::from_utf8_lossy(&line);
        let mut text = text.as_ref();
        if !std::mem::replace(&mut self.begun, true) {
            text = text.strip_prefix('\u{feff}').unwrap_or(text);
        }
        if text.is_empty() {
            self.end_event();
        } else if !text.starts_with(':') {
            let (field, value) = text.split_once(':').unwrap_or((text, ""));
            self.field(field, value.strip_prefix(' ').unwrap_or(value));
        }
        // Keep the allocation for the next line.
        self.line = line;
        self.line.clear();
    }

    fn field(&mut self, field: &str, value: &str) {
        match field {
            "event" => value.clone_into(&mut self.kind),
            "data" => {
                if self.has_data {
                    self.data.push('\n');
                }
                self.data.push_str(value);
                self.has_data = true;
            }
            "id" if !value.contains('\0') => self.id = Some(value.to_owned()),
            // `retry` is a wish about reconnecting, which is decided elsewhere; others are unknown.
            _ => {}
        }
    }

    fn end_event(&mut self) {
        let kind = std::mem::take(&mut self.kind);
        let data = std::mem::take(&mut self.data);
        if std::mem::take(&mut self.has_data) {
            self.events.push_back(Event {
                kind,
                data,
                id: self.id.clone(),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn decode(pieces: &[&[u8]]) -> Vec<Event> {
        let mut decoder = Decoder::default();
        let mut events = Vec::new();
        for piece in pieces {
            decoder.feed(piece).unwrap();
            while let Some(event) = decoder.next_event() {
                events.push(event);
            }
        }
        events
    }

    const STREAM: &str = "\u{feff}: hello\n\nevent: connected\ndata: {\"a\":1}\n\nid: 7\nevent: line\ndata:  two\ndata: lines\n\
        \n:keep-alive\n\nretry: 5\nunknown: x\ndata\n\nid: 8\n\ndata: Grüße\r\n\r\nevent: last\ndata: never ended\n";

    #[test]
    fn events_come_out_whole_wherever_the_bytes_are_cut() {
        let whole = decode(&[STREAM.as_bytes()]);
        let expected = [
            ("connected", "{\"a\":1}", None),
            ("line", " two\nlines", Some("7")),
            ("", "", Some("7")),
            ("", "Grüße", Some("8")),
        ];
        assert_eq!(whole.len(), expected.len(), "{whole:?}");
        for (event, (kind, data, id)) in whole.iter().zip(expected) {
            assert_eq!(
                (event.kind.as_str(), event.data.as_str(), event.id.as_deref()),
                (kind, data, id)
            );
        }
        for cut in 0..STREAM.len() {
            let (left, right) = STREAM.as_bytes().split_at(cut);
            assert_eq!(decode(&[left, right]), whole, "cut at {cut}");
        }
        let bytes: Vec<&[u8]> = STREAM.as_bytes().chunks(1).collect();
        assert_eq!(decode(&bytes), whole);
    }

    #[test]
    fn every_kind_of_line_end_is_understood() {
        for end in ["\n", "\r\n", "\r"] {
            let text = format!("event: line{end}data: x{end}{end}data: y{end}{end}");
            let events = decode(&[text.as_bytes()]);
            assert_eq!(events.len(), 2, "{end:?}: {events:?}");
        }
    }

    #[test]
    fn a_peer_that_never_ends_an_event_is_refused() {
        let mut endless_line = Decoder::default();
        let piece = vec![b'x'; 64 * 1024];
        let outcome = (0..100).try_for_each(|_| endless_line.feed(&piece));
        assert_eq!(outcome, Err(StreamError::TooLarge));

        let mut endless_event = Decoder::default();
        let outcome = (0..100_000).try_for_each(|_| endless_event.feed(b"data: more of the same\n"));
        assert_eq!(outcome, Err(StreamError::TooLarge));
    }

    #[test]
    fn bytes_that_are_not_text_are_replaced() {
        let events = decode(&[b"data: \xff\xfe\n\n"]);
        assert_eq!(events.first().unwrap().data, "\u{fffd}\u{fffd}");
    }
}
