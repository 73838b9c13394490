//! What makes a server ready, from the order to start it

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use prexorcloud_proto::{ConfigFormat, InstanceCategory, ReadinessSignal, StartInstance};

use super::Platform;
use crate::limits;

/// The longest text of a [`LineText`], in UTF-16 units.
pub const MAX_LINE_TEXT: usize = limits::READY_LINE;

/// What makes a server ready, beside its plugin, which always does
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Rule {
    /// The ready line of its platform.
    Platform(Platform),
    /// The line that the order names.
    Line(LineText),
    /// Its port, because the order says so.
    Port,
    /// Nothing else, because the order says so.
    Plugin,
    /// Nothing is known of it: the ready line of any platform, or its port, unless it says itself what it is.
    #[default]
    Unknown,
}

impl Rule {
    /// What an order to start says: itself, or by the name of the platform, its configuration files, or its jar.
    #[must_use]
    pub fn of(start: &StartInstance) -> Self {
        if let Some(asked) = &start.readiness {
            match ReadinessSignal::try_from(asked.signal) {
                Ok(ReadinessSignal::ReadyLine) => {
                    if let Ok(text) = LineText::new(&asked.line) {
                        return Self::Line(text);
                    }
                }
                Ok(ReadinessSignal::OpenPort) => return Self::Port,
                Ok(ReadinessSignal::PluginCall) => return Self::Plugin,
                Ok(ReadinessSignal::Unspecified) | Err(_) => {}
            }
        }
        let runtime = start
            .composition_plan
            .as_ref()
            .and_then(|plan| plan.runtime.as_ref());
        let (platform, format, category, jar) = match runtime {
            Some(runtime) => (
                &runtime.platform,
                runtime.config_format,
                runtime.category,
                &runtime.jar_file,
            ),
            None => (
                &start.platform,
                start.config_format,
                start.category,
                &start.jar_file,
            ),
        };
        let format = ConfigFormat::try_from(format).unwrap_or_default();
        let category = InstanceCategory::try_from(category).unwrap_or_default();
        Platform::named(platform)
            .or_else(|| Platform::of_format(format, category))
            .or_else(|| Platform::named(jar))
            .map_or(Self::Unknown, Self::Platform)
    }
}

/// The form in which a rule is kept; [`FromStr`] reads it again.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Platform(platform) => write!(f, "platform:{}", platform.as_str()),
            Self::Line(text) => write!(f, "line:{text}"),
            Self::Port => f.write_str("port"),
            Self::Plugin => f.write_str("plugin"),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

/// A text that no [`Rule`] is kept as
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is no rule of readiness")]
pub struct UnknownRule;

impl FromStr for Rule {
    type Err = UnknownRule;

    fn from_str(text: &str) -> Result<Self, UnknownRule> {
        if let Some(line) = text.strip_prefix("line:") {
            return LineText::new(line).map(Self::Line).map_err(|_| UnknownRule);
        }
        match text {
            "port" => Ok(Self::Port),
            "plugin" => Ok(Self::Plugin),
            "unknown" => Ok(Self::Unknown),
            text => Platform::ALL
                .into_iter()
                .find(|platform| text.strip_prefix("platform:") == Some(platform.as_str()))
                .map(Self::Platform)
                .ok_or(UnknownRule),
        }
    }
}

/// How a server that is configured says that it is ready: the beginning of its message, or, after a `*`, any part of the line
///
/// The beginning is what a player cannot write: what players say has their name before it. A text that may stand anywhere is
/// for logs whose form is not known here, and lines of the form `<name> text` are left out all the same.
///
/// ```
/// use prexorcloud_protocol::readiness::{Evidence, Eyes, Judge, LineText, Rule, Verdict};
///
/// let rule = Rule::Line(LineText::new("Lobby is open")?);
/// let mut judge = Judge::new(rule, 25_565, Eyes::OnTheNode);
/// assert!(matches!(judge.handle_line("[12:00:00 INFO]: Steve: Lobby is open"), Verdict::Waiting(_)));
/// let line = "12:00:01.250 [main] INFO net.minestom.lobby.Main - Lobby is open on port 25565";
/// assert_eq!(judge.handle_line(line), Verdict::Ready(Evidence::Line));
/// # Ok::<(), prexorcloud_protocol::readiness::InvalidLine>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineText {
    text: Arc<str>,
    is_anywhere: bool,
}

/// Why a text cannot tell a ready line
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidLine {
    /// Every line would have it.
    #[error("the text of a ready line must not be blank")]
    Blank,
    /// It is too long.
    #[error("the text of a ready line has at most {limit} characters")]
    TooLong {
        /// How long it may be.
        limit: usize,
    },
    /// A line as it is compared holds none.
    #[error("the text of a ready line has no control characters")]
    Control,
}

impl LineText {
    /// A text of at most [`MAX_LINE_TEXT`] characters that is not blank and has no control characters.
    ///
    /// # Errors
    /// [`InvalidLine`] says what is wrong with it.
    pub fn new(text: &str) -> Result<Self, InvalidLine> {
        if !limits::fits(text, MAX_LINE_TEXT) {
            return Err(InvalidLine::TooLong { limit: MAX_LINE_TEXT });
        }
        if text.chars().any(char::is_control) {
            return Err(InvalidLine::Control);
        }
        let (wanted, is_anywhere) = match text.strip_prefix('*') {
            Some(wanted) => (wanted, true),
            None => (text, false),
        };
        let wanted = wanted.trim();
        if wanted.is_empty() {
            return Err(InvalidLine::Blank);
        }
        Ok(Self {
            text: wanted.into(),
            is_anywhere,
        })
    }

    /// Whether a line without colours, or the message in it, is the one.
    pub(super) fn is_in(&self, plain: &str, message: &str) -> bool {
        if self.is_anywhere {
            !message.starts_with('<') && plain.contains(&*self.text)
        } else {
            message.starts_with(&*self.text)
        }
    }
}

impl fmt::Display for LineText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_anywhere {
            f.write_str("*")?;
        }
        f.write_str(&self.text)
    }
}
