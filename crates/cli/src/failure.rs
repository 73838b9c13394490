//! What can go wrong, and the exit code of each

use std::io;
use std::process::ExitCode;

use crate::settings::SettingsError;

/// Why a command did not do what it was asked to
///
/// Each message is one sentence for the operator; [`hint`](Self::hint) says what to do next.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The arguments contradict each other, or a file they name cannot be used
    #[error("{message}")]
    Usage {
        /// What is wrong with them
        message: String,
    },
    /// The settings cannot be used
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// What was named is not there
    #[error("{message}")]
    NoSuch {
        /// What it is, and where to see what there is
        message: String,
    },
    /// Nobody answered
    #[error("no answer from the controller at {controller}: {reason}")]
    Unreachable {
        /// The base URL
        controller: String,
        /// What the network said
        reason: String,
    },
    /// The controller said no
    #[error("{message}{}", status_note(*.status))]
    Refused {
        /// The HTTP status
        status: u16,
        /// The controller's code, `NOT_FOUND` for example; empty if it gave none
        code: String,
        /// The controller's words
        message: String,
    },
    /// The answer is not one that this program understands
    #[error("the answer of {controller} to {request} is not understood: {reason}")]
    Unintelligible {
        /// The base URL
        controller: String,
        /// Method and path
        request: String,
        /// What is wrong with it
        reason: String,
    },
    /// The answer is larger than anything the controller sends
    #[error("the answer of {controller} to {request} is larger than {limit} bytes and was not read")]
    TooLarge {
        /// The base URL
        controller: String,
        /// Method and path
        request: String,
        /// The limit, in bytes
        limit: usize,
    },
    /// What was waited for did not happen in time
    #[error("{awaited} did not happen within {seconds} s; the last thing seen was {seen}")]
    TimedOut {
        /// What was waited for
        awaited: String,
        /// For how long
        seconds: u64,
        /// What was true at the end
        seen: String,
    },
    /// What was waited for cannot happen any more
    #[error("{instance} is {state}, so it will not be {awaited}{}", because(.reason))]
    Missed {
        /// The instance
        instance: String,
        /// Its state
        state: String,
        /// The state that was waited for
        awaited: String,
        /// The controller's words about it, if any
        reason: Option<String>,
        /// Whether a crash report says more
        has_report: bool,
    },
    /// Some of what was asked for was done
    #[error("{message}")]
    Partly {
        /// How much, and why not all
        message: String,
    },
    /// Standard output cannot be written
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

fn status_note(status: u16) -> String {
    format!(" (HTTP {status})")
}

fn because(reason: &Option<String>) -> String {
    reason
        .as_ref()
        .map_or_else(String::new, |reason| format!(": {reason}"))
}

/// The exit codes, as shown by `prexorctl --help`
pub const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    refused or failed; the message says why
  2    not signed in, or the token is not valid (HTTP 401)
  3    signed in, but without the permission (HTTP 403)
  4    no such thing
  5    the controller did not answer
  64   the command line, a folder or a settings file is wrong
  124  --wait ran out of time; the request itself was accepted";

/// Wrong command line or settings, from sysexits.h; 2 is taken by HTTP 401
pub const EXIT_USAGE: u8 = 64;

impl Failure {
    /// The exit code of the process
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Usage { .. } | Self::Settings(_) => EXIT_USAGE,
            Self::Unreachable { .. } => 5,
            Self::Refused { status: 401, .. } => 2,
            Self::Refused { status: 403, .. } => 3,
            Self::Refused { status: 404, .. } | Self::NoSuch { .. } => 4,
            Self::TimedOut { .. } => 124,
            Self::Refused { .. }
            | Self::Unintelligible { .. }
            | Self::TooLarge { .. }
            | Self::Missed { .. }
            | Self::Partly { .. }
            | Self::Output(_) => 1,
        })
    }

    /// Whether trying again later could help
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused { status, .. } => matches!(status, 429 | 500 | 502 | 503 | 504),
            _ => false,
        }
    }

    /// What to do next, if there is something to do
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Unreachable { .. } => {
                "Is it running (`prexorcloud controller`)? Another address: --controller URL or PREXORCTL_CONTROLLER."
                    .to_owned()
            }
            Self::Refused { status: 401, .. } => {
                "Give a token: --token-file FILE, PREXOR_TOKEN, or a context in ~/.prexorcloud/config.toml. \
                 A new controller writes one to admin.token in its data folder."
                    .to_owned()
            }
            Self::Refused { status: 403, .. } => {
                "This token lacks the permission for that; ask an administrator.".to_owned()
            }
            Self::Refused { code, .. } if code == "NODE_NOT_CONNECTED" => {
                "See which nodes are connected: prexorctl node list".to_owned()
            }
            Self::Refused { code, .. } if code == "NO_CAPACITY" => {
                "Enrol a node (prexorctl token create), or see why none takes it: prexorctl node list".to_owned()
            }
            Self::Refused {
                status: 300..=399, ..
            } => "Name the controller that answers directly: --controller URL".to_owned(),
            Self::Refused { status: 503, .. } => "It may be starting, stopping or out of disk space: GET /api/v1/system/ready says which. Try again shortly.".to_owned(),
            Self::Unintelligible { .. } | Self::TooLarge { .. } => {
                "Is this address a PrexorCloud controller's HTTP port? `prexorctl version` shows both versions.".to_owned()
            }
            Self::Missed {
                instance, has_report, ..
            } => match has_report {
                true => format!("See why: prexorctl crash list --instance {instance}"),
                false => format!("See what is known of it: prexorctl instance show {instance}"),
            },
            Self::TimedOut { .. } => "It may still happen; look again with the list and show commands.".to_owned(),
            Self::Settings(error) => return error.hint(),
            _ => return None,
        };
        Some(hint)
    }
}
