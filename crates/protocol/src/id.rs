//! Names and numbers that have been checked
//!
//! Node, instance, group, template and module names end up in file paths, certificates and log lines, so every one of
//! them obeys the safe-name rule of the contract: `^[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}$`. A value of these types has
//! passed it. They are stored inline, so copying one never allocates.

use std::fmt;
use std::str::FromStr;

/// The longest name, in bytes (and characters: names are ASCII).
pub const MAX_NAME_LEN: usize = 64;

/// The bytes of a checked name; unused bytes are zero.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Name {
    bytes: [u8; MAX_NAME_LEN],
    len: u8,
}

impl Ord for Name {
    /// Like the text. Eight bytes at a time, because every message about an instance is looked up by name.
    #[inline]
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let (words, _) = self.bytes.as_chunks();
        let (others, _) = other.bytes.as_chunks();
        for (a, b) in words.iter().zip(others) {
            let (a, b) = (u64::from_be_bytes(*a), u64::from_be_bytes(*b));
            if a != b {
                return a.cmp(&b);
            }
        }
        // Unused bytes are zero and no name contains one, so the lengths are equal, too.
        std::cmp::Ordering::Equal
    }
}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// What is wrong with a name
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NameFault {
    /// The name has no character.
    Empty,
    /// The name has more than [`MAX_NAME_LEN`] bytes.
    TooLong {
        /// How many bytes it has.
        len: usize,
    },
    /// The first character is not an ASCII letter or digit.
    BadStart {
        /// The offending character.
        found: char,
    },
    /// A later character is not an ASCII letter, digit, dot, underscore or hyphen.
    BadCharacter {
        /// The offending character.
        found: char,
    },
}

/// A string that is not a safe name
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct InvalidName {
    /// What the name was meant for, for instance `node id`.
    pub kind: &'static str,
    /// What is wrong with it.
    pub fault: NameFault,
}

impl fmt::Display for InvalidName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, fault } = self;
        match fault {
            NameFault::Empty => write!(f, "{kind} is empty"),
            NameFault::TooLong { len } => {
                write!(f, "{kind} has {len} bytes, at most {MAX_NAME_LEN} are allowed")
            }
            NameFault::BadStart { found } => {
                write!(
                    f,
                    "{kind} starts with {found:?}, it must start with a letter or digit"
                )
            }
            NameFault::BadCharacter { found } => {
                write!(
                    f,
                    "{kind} contains {found:?}, only letters, digits, '.', '_' and '-' are allowed"
                )
            }
        }
    }
}

impl std::error::Error for InvalidName {}

impl Name {
    fn new(kind: &'static str, text: &str) -> Result<Self, InvalidName> {
        let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        let raw = text.as_bytes();
        let starts_well = raw.first().is_some_and(u8::is_ascii_alphanumeric);
        let mut bytes = [0; MAX_NAME_LEN];
        // Every message about an instance comes through here, so what is wrong with a name is looked for only if
        // something is.
        match bytes.get_mut(..raw.len()) {
            Some(room) if starts_well && raw.iter().all(allowed) => {
                room.copy_from_slice(raw);
                Ok(Self {
                    bytes,
                    len: raw.len() as u8,
                })
            }
            _ => Err(InvalidName {
                kind,
                fault: Self::fault(text),
            }),
        }
    }

    #[cold]
    fn fault(text: &str) -> NameFault {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let Some(first) = text.chars().next() else {
            return NameFault::Empty;
        };
        if text.len() > MAX_NAME_LEN {
            return NameFault::TooLong { len: text.len() };
        }
        match text.chars().find(|&c| !allowed(c)) {
            Some(found) if first.is_ascii_alphanumeric() => NameFault::BadCharacter { found },
            _ => NameFault::BadStart { found: first },
        }
    }

    fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }

    fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }
}

macro_rules! name_type {
    ($(#[$meta:meta])* $name:ident, $kind:literal) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub struct $name(Name);

        impl $name {
            /// Checks `text` against the safe-name rule.
            ///
            /// # Errors
            /// [`InvalidName`] says which rule is broken and by what.
            pub fn new(text: &str) -> Result<Self, InvalidName> {
                Name::new($kind, text).map(Self)
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                self.0.as_str()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.as_str())
            }
        }

        impl std::hash::Hash for $name {
            fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
                self.as_str().hash(state);
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                self.as_str()
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                self.as_str()
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                Self::new(text)
            }
        }

        impl TryFrom<&str> for $name {
            type Error = InvalidName;

            fn try_from(text: &str) -> Result<Self, InvalidName> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.as_str().to_owned()
            }
        }
    };
}

name_type! {
    /// The name of a host that runs a daemon; equals the identity in its certificate
    ///
    /// ```
    /// use prexorcloud_protocol::NodeId;
    ///
    /// assert_eq!(NodeId::new("node-1").unwrap().as_str(), "node-1");
    /// assert!(NodeId::new("../etc").is_err());
    /// ```
    NodeId, "node id"
}
name_type! {
    /// The name of one game server or proxy; ids are reused, an [`Incarnation`] tells the uses apart
    InstanceId, "instance id"
}
name_type! {
    /// The name of a group of instances
    GroupName, "group name"
}
name_type! {
    /// The name of a template
    TemplateName, "template name"
}
name_type! {
    /// The id of a module
    ModuleId, "module id"
}

/// The number of a controller's term of leadership; commands of a lower epoch than the highest seen are refused
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(u64);

impl Epoch {
    /// Zero: the sender does not take part in fencing.
    pub const UNFENCED: Self = Self(0);

    /// The highest epoch that is obeyed.
    ///
    /// Whoever is obeyed at `u64::MAX` can never be deposed, as no epoch is higher. Leaderships, of which a controller
    /// counts one with each start, do not come near this; what is above it is a mistake.
    pub const MAX_OBEYED: Self = Self(1 << 62);

    /// An epoch as it stands on the wire.
    #[must_use]
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// The epoch as it stands on the wire.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Whether the sender takes part in fencing.
    #[must_use]
    pub const fn is_fenced(self) -> bool {
        self.0 != 0
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which start of an instance id a message is about
///
/// The controller chooses a number that is higher than every earlier one of the same id. Zero means that the peer does
/// not know incarnations (the Java implementation) and its messages are judged by state alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(u64);

impl Incarnation {
    /// Zero: the peer does not say.
    pub const UNKNOWN: Self = Self(0);

    /// The highest incarnation that is believed of a peer, so that none can use up the numbers of an id; our own may go on
    /// above it.
    pub const MAX_LISTED: Self = Self(1 << 62);

    /// The highest incarnation that a daemon starts: half as much again as [`MAX_LISTED`](Self::MAX_LISTED), because a
    /// controller counts on from what a peer listed. Above it a start is refused, as a later one could soon not be told
    /// from it; with `u64::MAX`, none ever.
    pub const MAX_STARTED: Self = Self(3 << 61);

    /// An incarnation as it stands on the wire.
    #[must_use]
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// The incarnation as it stands on the wire.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Whether the peer names an incarnation at all.
    #[must_use]
    pub const fn is_known(self) -> bool {
        self.0 != 0
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
