//! What makes a server ready, as operators say it

use prexorcloud_proto::{ReadinessRule, ReadinessSignal};
use prexorcloud_protocol::readiness::LineText;
use serde::Deserialize;

/// What makes the server ready, if not what its platform prints
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Ready {
    /// Its port
    Port,
    /// Its plugin
    Plugin,
    /// A line: the beginning of its message, or any part after a `*`
    Line(String),
}

impl Ready {
    /// As daemons take it
    ///
    /// # Errors
    /// Why the line cannot be one.
    pub(crate) fn rule(self) -> Result<ReadinessRule, String> {
        let (signal, line) = match self {
            Self::Port => (ReadinessSignal::OpenPort, String::new()),
            Self::Plugin => (ReadinessSignal::PluginCall, String::new()),
            Self::Line(line) => {
                LineText::new(&line).map_err(|error| format!("ready.line: {error}"))?;
                (ReadinessSignal::ReadyLine, line)
            }
        };
        Ok(ReadinessRule {
            signal: signal.into(),
            line,
        })
    }
}
