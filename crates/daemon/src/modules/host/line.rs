//! The lines that daemon and host exchange, version 1: `docs/module-host.md` says what each means
//!
//! One JSON object a line, with its `type` first in importance and in any place. A type that is not known is ignored, so that either
//! side may learn more; what is no such object is a mistake of the other side.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

/// The version of the protocol
pub const PROTOCOL: u32 = 1;

/// Bytes of the longest line that a host may write, without its end
pub const MAX_LINE: usize = 64 * 1024;

/// Bytes of the largest payload of an event
pub const MAX_PAYLOAD: usize = 4 * 1024 * 1024;

/// Types of events that one module may listen to
pub const MAX_TYPES: usize = 64;

/// Bytes of the longest type of an event
pub const MAX_TYPE: usize = 256;

/// What a host is told
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Told<'a> {
    Hello {
        protocol: u32,
        module: &'a str,
        version: &'a str,
        node: &'a str,
        folder: &'a str,
    },
    Start,
    Gap {
        missed: u64,
    },
    Ping {
        number: u64,
    },
    Stop {
        grace_ms: u64,
    },
}

impl Told<'_> {
    pub(super) fn line(&self) -> String {
        // A value of strings and numbers has always a text.
        let mut line = serde_json::to_string(self).unwrap_or_default();
        line.push('\n');
        line
    }
}

/// The line of an event, with the payload as it came; `None` if that is no JSON. It has a number unless that is 0
pub(super) fn event(event_type: &str, payload: &[u8], sequence: u64) -> Option<String> {
    let _: serde::de::IgnoredAny = serde_json::from_slice(payload).ok()?;
    let payload = std::str::from_utf8(payload).ok()?;
    let name = serde_json::to_string(event_type).ok()?;
    let mut line = String::with_capacity(payload.len() + name.len() + 96);
    let _ = write!(line, "{{\"type\":\"event\",\"event_type\":{name},");
    if sequence != 0 {
        let _ = write!(line, "\"sequence\":{sequence},");
    }
    line.push_str("\"payload\":");
    // In JSON a line ends between values only, where a blank means the same.
    line.extend(payload.chars().map(|letter| match letter {
        '\n' | '\r' => ' ',
        letter => letter,
    }));
    line.push_str("}\n");
    Some(line)
}

/// What a host says
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// It has understood the greeting, and speaks this version
    Ready {
        /// The version
        protocol: u32,
        /// Whether it answers pings
        answers_pings: bool,
    },
    /// The answer to a ping
    Pong {
        /// Which
        number: u64,
    },
    /// The module is in this state
    State {
        /// As it is written
        state: HostState,
        /// Why
        error: String,
    },
    /// A line for the log
    Log {
        /// `ERROR`, `WARN`, `INFO`, `DEBUG` or `TRACE`; what else it is counts as `INFO`
        level: String,
        /// What is told
        message: String,
    },
    /// The module listens to these
    Subscribe(Vec<String>),
    /// It does not any more
    Unsubscribe(Vec<String>),
    /// It has ended what it did, and the process is about to
    Stopped,
    /// A type of a later version
    Unknown(String),
}

/// What a host may say of its module
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum HostState {
    /// It works
    Active,
    /// It works as soon as something else is there
    Waiting,
    /// It cannot work
    Failed,
}

#[derive(Deserialize)]
struct Raw {
    #[serde(rename = "type")]
    kind: String,
    protocol: Option<u32>,
    #[serde(default)]
    pings: bool,
    number: Option<u64>,
    state: Option<HostState>,
    #[serde(default)]
    error: String,
    #[serde(default)]
    level: String,
    message: Option<String>,
    event_types: Option<Vec<String>>,
}

/// What a line says; the error says what is wrong with it
pub(super) fn read(line: &[u8]) -> Result<Said, String> {
    let kind: Kind =
        serde_json::from_slice(line).map_err(|error| format!("no object with a type: {error}"))?;
    let known = [
        "ready",
        "state",
        "log",
        "subscribe",
        "unsubscribe",
        "stopped",
        "pong",
    ];
    if !known.contains(&kind.kind.as_str()) {
        return Ok(Said::Unknown(kind.kind));
    }
    let raw: Raw = serde_json::from_slice(line).map_err(|error| format!("{}: {error}", kind.kind))?;
    let missing = |field: &str| format!("{} without `{field}`", kind.kind);
    Ok(match raw.kind.as_str() {
        "ready" => Said::Ready {
            protocol: raw.protocol.ok_or_else(|| missing("protocol"))?,
            answers_pings: raw.pings,
        },
        "pong" => Said::Pong {
            number: raw.number.ok_or_else(|| missing("number"))?,
        },
        "state" => Said::State {
            state: raw.state.ok_or_else(|| missing("state"))?,
            error: raw.error,
        },
        "log" => Said::Log {
            level: raw.level,
            message: raw.message.ok_or_else(|| missing("message"))?,
        },
        "subscribe" => Said::Subscribe(types(raw.event_types.ok_or_else(|| missing("event_types"))?)?),
        "unsubscribe" => Said::Unsubscribe(types(raw.event_types.ok_or_else(|| missing("event_types"))?)?),
        _ => Said::Stopped,
    })
}

#[derive(Deserialize)]
struct Kind {
    #[serde(rename = "type")]
    kind: String,
}

fn types(types: Vec<String>) -> Result<Vec<String>, String> {
    if types.is_empty() || types.len() > MAX_TYPES {
        return Err(format!("{} types of events, not 1 to {MAX_TYPES}", types.len()));
    }
    match types
        .iter()
        .find(|name| name.trim().is_empty() || name.len() > MAX_TYPE)
    {
        Some(_) => Err(format!(
            "a type of an event that is blank, or has more than {MAX_TYPE} bytes"
        )),
        None => Ok(types),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn lines_of_a_host_are_read() {
        for (line, said) in [
            (
                r#"{"type":"ready","protocol":1}"#,
                Said::Ready {
                    protocol: 1,
                    answers_pings: false,
                },
            ),
            (
                r#"{"type":"ready","protocol":1,"pings":true}"#,
                Said::Ready {
                    protocol: 1,
                    answers_pings: true,
                },
            ),
            (r#"{"type":"pong","number":7}"#, Said::Pong { number: 7 }),
            (
                r#"{"state":"ACTIVE","type":"state","later":[{}]}"#,
                Said::State {
                    state: HostState::Active,
                    error: String::new(),
                },
            ),
            (
                r#"{"type":"log","message":"one\ntwo"}"#,
                Said::Log {
                    level: String::new(),
                    message: "one\ntwo".into(),
                },
            ),
            (
                r#"{"type":"subscribe","event_types":["a.B"]}"#,
                Said::Subscribe(vec!["a.B".into()]),
            ),
            (r#"{"type":"stopped"}"#, Said::Stopped),
            (r#"{"type":"metrics","state":7}"#, Said::Unknown("metrics".into())),
        ] {
            assert_eq!(read(line.as_bytes()).unwrap(), said, "{line}");
        }
    }

    #[test]
    fn what_is_no_line_of_ours_is_a_mistake() {
        let many = format!(
            r#"{{"type":"subscribe","event_types":["a"{}]}}"#,
            ",\"b\"".repeat(MAX_TYPES)
        );
        let deep = "[".repeat(100_000);
        for line in [
            "",
            "hello",
            "{}",
            "[]",
            "null",
            "{\"type\":1}",
            "{\"type\":\"ready\"}",
            "{\"type\":\"pong\"}",
            "\u{0}",
            deep.as_str(),
            r#"{"type":"state","state":"UNLOADED"}"#,
            r#"{"type":"subscribe","event_types":[" "]}"#,
            r#"{"type":"subscribe","event_types":[]}"#,
            many.as_str(),
        ] {
            assert!(read(line.as_bytes()).is_err(), "{line:.50}");
        }
        assert!(read(b"{\"type\":\"log\",\"message\":\"\xff\"}").is_err());
    }

    #[test]
    fn an_event_is_one_line_with_its_payload_as_it_came() {
        let line = event(
            "a.B",
            b"{\r\n \"n\": 12345678901234567890123, \"z\": \"\\n\", \"a\": 1.10}",
            0,
        )
        .unwrap();
        assert_eq!(
            line,
            "{\"type\":\"event\",\"event_type\":\"a.B\",\"payload\":{   \"n\": 12345678901234567890123, \"z\": \"\\n\", \"a\": 1.10}}\n"
        );
        assert_eq!(event("a.B", b"{", 0), None);
        assert_eq!(event("a.B", b"{} {}", 7), None);
        let told = Told::Stop { grace_ms: 5 }.line();
        assert_eq!(told, "{\"type\":\"stop\",\"grace_ms\":5}\n");
    }
}
