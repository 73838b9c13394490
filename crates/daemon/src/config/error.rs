//! What is wrong with a configuration, and where

use std::fmt;

/// Where a value came from
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A line of the file
    File {
        /// Its name
        file: String,
        /// From 1
        line: usize,
    },
    /// An environment variable
    Environment {
        /// Its name
        variable: String,
    },
    /// Nobody set it
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { file, line } => write!(f, "{file}:{line}"),
            Self::Environment { variable } => f.write_str(variable),
            Self::Default => f.write_str("default"),
        }
    }
}

/// The first thing that is wrong with a configuration
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read
    #[error("{file} cannot be read: {detail}")]
    Unreadable {
        /// Its name
        file: String,
        /// What the system said
        detail: String,
    },
    /// The file is not TOML, or not YAML if it is a Java daemon's
    #[error("{origin}: {detail}")]
    Syntax {
        /// Where
        origin: Origin,
        /// What the parser said
        detail: String,
    },
    /// No such key
    #[error("{origin}: unknown key `{key}`{}", suggestion(nearest.as_deref()))]
    UnknownKey {
        /// Where
        origin: Origin,
        /// The key as written, with its section
        key: String,
        /// The known key that resembles it most, if one does
        nearest: Option<String>,
    },
    /// The value has the wrong type or is out of range
    #[error("{origin}: `{key}` must be {expected}, not {found}")]
    InvalidValue {
        /// Where
        origin: Origin,
        /// The key with its section
        key: String,
        /// What it must be
        expected: String,
        /// What it is
        found: String,
    },
    /// The join token is not one; its text is a secret and is not repeated
    #[error("{origin}: `{key}`: {detail}")]
    InvalidToken {
        /// Where
        origin: Origin,
        /// The key that holds it or names the file, as written
        key: String,
        /// What is wrong
        detail: String,
    },
}

fn suggestion(nearest: Option<&str>) -> String {
    nearest
        .map(|nearest| format!(", did you mean `{nearest}`?"))
        .unwrap_or_default()
}
