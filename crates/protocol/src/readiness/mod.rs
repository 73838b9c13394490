//! When a server is ready for players: one rule, whoever judges by it
//!
//! A process that runs is not a server that plays, and neither is an open port: a game server binds its port first, and
//! loads its worlds afterwards. What shows that it is ready is the line that its platform prints when everything is
//! loaded, or the plugin inside of it, which says so. The port counts where no such line is known, or where the order
//! says so.
//!
//! A daemon judges by its own eyes; for one that does not (the Java daemon), the controller judges by the console lines
//! that come over the stream. Both ask a [`Judge`], which is made from the [`Rule`] of the order to start. A judge knows no
//! port, no file and no time: it is told facts, and says what is missing.
//!
//! ```
//! use prexorcloud_protocol::proto::StartInstance;
//! use prexorcloud_protocol::readiness::{Evidence, Eyes, Judge, Rule, Verdict};
//!
//! let start = StartInstance { jar_file: "paper-1.21.4-232.jar".into(), port: 25_565, ..Default::default() };
//! let mut judge = Judge::new(Rule::of(&start), 25_565, Eyes::OnTheNode);
//! assert!(!judge.asks_port(), "a Paper server has its port long before its worlds");
//! assert_eq!(
//!     judge.waiting().to_string(),
//!     "waiting for the ready line (Done (1.2s)! For help) or the plugin's call"
//! );
//!
//! let by_a_player = judge.handle_line("[12:00:00 INFO]: <Steve> Done (1s)! For help");
//! assert!(matches!(by_a_player, Verdict::Waiting(_)));
//! let by_the_server = judge.handle_line("[12:00:07 INFO]: Done (6.217s)! For help, type \"help\"");
//! assert_eq!(by_the_server, Verdict::Ready(Evidence::Line));
//! ```
//!
//! # What is bounded
//! A judge keeps no line. Of a line it looks at the first [`LINE_BYTES`] bytes, once from left to right.

mod line;
mod platform;
mod rule;

use std::fmt;

pub use line::{LINE_BYTES, message, plain};
pub use platform::Platform;
pub use rule::{InvalidLine, LineText, MAX_LINE_TEXT, Rule, UnknownRule};

/// What whoever judges can see
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Eyes {
    /// The console, and whether the port is open: the daemon of the node.
    OnTheNode,
    /// The console lines that a daemon forwards, and nothing else: a controller, for a daemon that does not judge.
    OnTheConsole,
}

/// What showed that a server is ready
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Evidence {
    /// It printed its ready line.
    Line,
    /// Its port takes connections.
    Port,
    /// The plugin inside of it said so.
    Plugin,
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Line => "its ready line",
            Self::Port => "its port",
            Self::Plugin => "its plugin",
        })
    }
}

/// Whether a server is ready
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// Not yet; this is missing.
    Waiting(Waiting),
    /// It is, and this showed it.
    Ready(Evidence),
}

/// What is missing until a server is ready; [`Display`](fmt::Display) says it to people
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    rule: Rule,
    announced: Option<Platform>,
    port: u16,
    eyes: Eyes,
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = self.port;
        if let Some(platform) = expected(&self.rule, self.announced) {
            let example = platform.example();
            return write!(f, "waiting for the ready line ({example}) or the plugin's call");
        }
        match (&self.rule, self.eyes) {
            (Rule::Line(text), _) => {
                write!(f, "waiting for the ready line ({text}) or the plugin's call")
            }
            (Rule::Plugin, _) => f.write_str("waiting for the plugin's call"),
            (Rule::Port, Eyes::OnTheNode) => write!(f, "waiting for port {port}"),
            (Rule::Platform(_) | Rule::Unknown, Eyes::OnTheNode) => {
                write!(f, "waiting for port {port} or a ready line")
            }
            (Rule::Port, Eyes::OnTheConsole) => write!(
                f,
                "waiting for the plugin's call: whether port {port} is open can only be seen on the node, whose daemon does not look"
            ),
            (Rule::Platform(_) | Rule::Unknown, Eyes::OnTheConsole) => f.write_str(
                "waiting for a ready line or the plugin's call: no ready line of this jar is known, and the port can only be seen on the node, whose daemon does not look",
            ),
        }
    }
}

/// The platform whose ready line counts, and no other.
const fn expected(rule: &Rule, announced: Option<Platform>) -> Option<Platform> {
    match rule {
        Rule::Platform(platform) => Some(*platform),
        Rule::Unknown => announced,
        Rule::Line(_) | Rule::Port | Rule::Plugin => None,
    }
}

/// Says whether a server is ready, from what is seen of it
///
/// It judges one start. Readiness is not taken back: once a fact has made a server ready, its judge has nothing more to say,
/// and can be dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judge {
    rule: Rule,
    port: u16,
    eyes: Eyes,
    /// What the server said that it is, where the order did not.
    announced: Option<Platform>,
}

impl Judge {
    /// The judge of a server on `port` that is ready by `rule`.
    #[must_use]
    pub const fn new(rule: Rule, port: u16, eyes: Eyes) -> Self {
        Self {
            rule,
            port,
            eyes,
            announced: None,
        }
    }

    /// The server printed a line.
    ///
    /// A server whose platform the order does not tell says itself what it is in one of its first lines, before it opens its
    /// port. From then on its port says nothing any more, and its ready line everything.
    ///
    /// ```
    /// use prexorcloud_protocol::readiness::{Evidence, Eyes, Judge, Rule, Verdict};
    ///
    /// let mut judge = Judge::new(Rule::Unknown, 25_565, Eyes::OnTheNode);
    /// assert!(judge.asks_port());
    /// let _ = judge.handle_line("[12:00:00] [Server thread/INFO]: Starting minecraft server version 1.21.4");
    /// assert!(!judge.asks_port());
    /// assert!(matches!(judge.handle_port_open(), Verdict::Waiting(_)));
    /// ```
    pub fn handle_line(&mut self, line: &str) -> Verdict {
        let plain = plain(line);
        let message = message(&plain);
        let expected = expected(&self.rule, self.announced);
        let is_ready = match &self.rule {
            Rule::Platform(_) | Rule::Unknown => Platform::ALL
                .into_iter()
                .filter(|platform| expected.is_none_or(|expected| expected == *platform))
                .any(|platform| platform.is_ready_line(message)),
            Rule::Line(text) => text.is_in(&plain, message),
            Rule::Port | Rule::Plugin => false,
        };
        if is_ready {
            return Verdict::Ready(Evidence::Line);
        }
        if self.rule == Rule::Unknown && self.announced.is_none() {
            self.announced = Platform::announced_by(message);
        }
        Verdict::Waiting(self.waiting())
    }

    /// The port takes connections. Every line that was printed before must have been told already.
    pub fn handle_port_open(&mut self) -> Verdict {
        if self.asks_port() {
            Verdict::Ready(Evidence::Port)
        } else {
            Verdict::Waiting(self.waiting())
        }
    }

    /// The plugin inside of the server says that it is ready, which counts by every rule.
    pub fn handle_plugin(&mut self) -> Verdict {
        Verdict::Ready(Evidence::Plugin)
    }

    /// Whether an open port would make the server ready, so that it is worth asking. Some servers complain about each
    /// connection that says nothing, so a port that does not count should be left alone.
    #[must_use]
    pub fn asks_port(&self) -> bool {
        self.eyes == Eyes::OnTheNode
            && match self.rule {
                Rule::Port => true,
                Rule::Unknown => self.announced.is_none(),
                Rule::Platform(_) | Rule::Line(_) | Rule::Plugin => false,
            }
    }

    /// What is missing.
    #[must_use]
    pub fn waiting(&self) -> Waiting {
        Waiting {
            rule: self.rule.clone(),
            announced: self.announced,
            port: self.port,
            eyes: self.eyes,
        }
    }
}
