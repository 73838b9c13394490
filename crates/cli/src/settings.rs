//! Where the controller is, and who we are to it
//!
//! Each of the two is looked up on its own: command line, then environment, then the context of the settings file, then
//! the default. A token never comes from the command line, because arguments are public on a machine.
//!
//! The file is `~/.prexorcloud/config.toml` (another one: `PREXORCTL_CONFIG`):
//!
//! ```toml
//! current_context = "home"
//!
//! [contexts.home]
//! controller = "http://127.0.0.1:8080"
//! token_file = "/var/lib/prexorcloud/admin.token"    # or: token = "prx_..."
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use reqwest::Url;
use serde::Deserialize;

/// Where a controller listens unless told otherwise
pub const DEFAULT_CONTROLLER: &str = "http://127.0.0.1:8080";

/// Environment variables that name the controller, the first one that is set wins
pub const CONTROLLER_VARIABLES: [&str; 2] = ["PREXORCTL_CONTROLLER", "PREXOR_CONTROLLER"];

/// The environment variable that holds a token
pub const TOKEN_VARIABLE: &str = "PREXOR_TOKEN";

/// The environment variable that names the context
pub const CONTEXT_VARIABLE: &str = "PREXOR_CONTEXT";

/// The environment variable that names the settings file
pub const FILE_VARIABLE: &str = "PREXORCTL_CONFIG";

const LARGEST_FILE: u64 = 1024 * 1024;
const LONGEST_TOKEN: usize = 8 * 1024;

/// A bearer token; `Debug` does not show it
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Takes the text of a token, without white space around it
    ///
    /// # Errors
    /// [`SettingsError::BadToken`] if it is empty, longer than 8 KiB, or holds anything but visible ASCII characters.
    pub fn new(text: &str, source: &str) -> Result<Self, SettingsError> {
        let text = without_mark(text.trim()).trim();
        let visible = text.bytes().all(|byte| byte.is_ascii_graphic());
        if text.is_empty() || text.len() > LONGEST_TOKEN || !visible {
            return Err(SettingsError::BadToken {
                place: source.to_owned(),
            });
        }
        Ok(Self(text.to_owned()))
    }

    /// Reads a token from a file that holds nothing else
    ///
    /// # Errors
    /// The file cannot be read, is open to others, or holds no token.
    pub fn read(file: &Path) -> Result<Self, SettingsError> {
        Self::new(&read_private(file)?, &file.display().to_string())
    }

    /// The secret itself
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("[secret]")
    }
}

/// A controller and the token for it
#[derive(Clone, Debug)]
pub struct Target {
    /// The base URL, without a path
    pub controller: Url,
    /// `None` = only what is public can be asked
    pub token: Option<Token>,
    /// Trust only the certificates in this PEM file for `https`; `None` = those that the system trusts
    pub ca_file: Option<PathBuf>,
}

/// What the command line says about the target
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--controller`
    pub controller: Option<String>,
    /// `--token-file`
    pub token_file: Option<PathBuf>,
    /// `--context`
    pub context: Option<String>,
    /// `--ca-file`
    pub ca_file: Option<PathBuf>,
}

/// Why the settings cannot be used
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// A file cannot be read
    #[error("cannot read {file}: {reason}")]
    Unreadable {
        /// Which
        file: String,
        /// What the system said
        reason: String,
    },
    /// A file with secrets is open to others
    #[error("{file} holds a secret, but others may read or change it (mode {mode:03o})")]
    Exposed {
        /// Which
        file: String,
        /// Its permission bits
        mode: u32,
    },
    /// The settings file is not understood
    #[error("{file}: {reason}")]
    Malformed {
        /// Which
        file: String,
        /// Where and why
        reason: String,
    },
    /// There is no such context
    #[error("there is no context {name:?} in {file}; it has: {known}")]
    UnknownContext {
        /// The name asked for
        name: String,
        /// The settings file
        file: String,
        /// The contexts that exist
        known: String,
    },
    /// Not a URL of a controller
    #[error("{url:?} (from {place}) is not the URL of a controller: {reason}")]
    BadController {
        /// As given
        url: String,
        /// Where it came from
        place: String,
        /// Why not
        reason: &'static str,
    },
    /// Not a token
    #[error("{place} holds no usable token: one line of visible characters is expected")]
    BadToken {
        /// Where it came from
        place: String,
    },
}

impl SettingsError {
    /// What to do next
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Exposed { file, .. } => Some(format!("Close it: chmod 600 {file}")),
            Self::BadController { .. } => Some("For example: --controller http://127.0.0.1:8080".to_owned()),
            _ => None,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    current_context: Option<String>,
    #[serde(default)]
    contexts: BTreeMap<String, Context>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Context {
    controller: Option<String>,
    token: Option<String>,
    token_file: Option<PathBuf>,
    ca_file: Option<PathBuf>,
}

/// Puts the target together
///
/// `environment` looks a variable up; white space around its value means nothing, and an empty one counts as not set.
///
/// # Errors
/// See [`SettingsError`]. A settings file that does not exist is no error, unless a context was asked for by name.
pub fn resolve(
    overrides: &Overrides,
    environment: impl Fn(&str) -> Option<String>,
) -> Result<Target, SettingsError> {
    let variable = |name: &str| {
        let value = environment(name)?.trim().to_owned();
        (!value.is_empty()).then_some(value)
    };
    let context = context(overrides, &variable)?;

    let from_environment = || {
        CONTROLLER_VARIABLES
            .iter()
            .find_map(|name| variable(name).map(|value| (value, (*name).to_owned())))
    };
    let from_flag = overrides
        .controller
        .clone()
        .map(|value| (value, "--controller".to_owned()));
    let (controller, place) = from_flag
        .or_else(from_environment)
        .or_else(|| {
            context
                .controller
                .map(|value| (value, "the settings file".to_owned()))
        })
        .unwrap_or_else(|| (DEFAULT_CONTROLLER.to_owned(), "the default".to_owned()));

    let token = if let Some(file) = &overrides.token_file {
        Some(Token::read(file)?)
    } else if let Some(text) = variable(TOKEN_VARIABLE) {
        Some(Token::new(&text, TOKEN_VARIABLE)?)
    } else if let Some(text) = context.token {
        Some(Token::new(&text, "the settings file")?)
    } else if let Some(file) = &context.token_file {
        Some(Token::read(file)?)
    } else {
        None
    };

    Ok(Target {
        controller: parse_controller(&controller, &place)?,
        token,
        ca_file: overrides.ca_file.clone().or(context.ca_file),
    })
}

fn context(
    overrides: &Overrides,
    variable: &impl Fn(&str) -> Option<String>,
) -> Result<Context, SettingsError> {
    let wanted = overrides.context.clone().or_else(|| variable(CONTEXT_VARIABLE));
    let file = variable(FILE_VARIABLE)
        .map(PathBuf::from)
        .or_else(|| variable("HOME").map(|home| Path::new(&home).join(".prexorcloud").join("config.toml")));
    let Some(file) = file else {
        return match wanted {
            None => Ok(Context::default()),
            Some(name) => Err(SettingsError::UnknownContext {
                name,
                file: "the settings file".to_owned(),
                known: "nothing, because HOME is not set".to_owned(),
            }),
        };
    };
    let shown = file.display().to_string();
    if !file.exists() {
        return match wanted {
            None => Ok(Context::default()),
            Some(name) => Err(SettingsError::UnknownContext {
                name,
                file: shown,
                known: "nothing, because the file does not exist".to_owned(),
            }),
        };
    }
    let text = read_private(&file)?;
    let mut parsed: File = toml::from_str(&text).map_err(|error| SettingsError::Malformed {
        file: shown.clone(),
        reason: one_line(&text, &error),
    })?;
    let Some(name) = wanted.or(parsed.current_context) else {
        return Ok(Context::default());
    };
    parsed
        .contexts
        .remove(&name)
        .ok_or_else(|| SettingsError::UnknownContext {
            name,
            file: shown,
            known: if parsed.contexts.is_empty() {
                "none".to_owned()
            } else {
                parsed.contexts.into_keys().collect::<Vec<_>>().join(", ")
            },
        })
}

/// Without the excerpt that the parser would show, which may hold a token
fn one_line(text: &str, error: &toml::de::Error) -> String {
    let line = error.span().map_or(1, |span| {
        text.get(..span.start).map_or(1, |before| {
            before.bytes().filter(|byte| *byte == b'\n').count() + 1
        })
    });
    format!(
        "line {line}: {}",
        error.message().lines().next().unwrap_or("not TOML")
    )
}

fn parse_controller(text: &str, place: &str) -> Result<Url, SettingsError> {
    let wrong = |reason| SettingsError::BadController {
        url: text.to_owned(),
        place: place.to_owned(),
        reason,
    };
    let mut url = Url::parse(text.trim()).map_err(|_| wrong("it is no URL"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(wrong("it must begin with http:// or https://"));
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err(wrong("the host is missing"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("a user or password does not belong into it"));
    }
    if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("nothing may follow the host and port"));
    }
    url.set_path("/");
    Ok(url)
}

/// Reads a small text file that only its owner may read
fn read_private(file: &Path) -> Result<String, SettingsError> {
    let opened = open(file)?;
    let mode = opened
        .metadata()
        .map_err(|error| unreadable(file, &error))?
        .mode();
    if mode & 0o077 != 0 {
        return Err(SettingsError::Exposed {
            file: file.display().to_string(),
            mode: mode & 0o777,
        });
    }
    read(file, opened)
}

/// Reads a small text file that anybody may read
pub(crate) fn read_public(file: &Path) -> Result<String, SettingsError> {
    read(file, open(file)?)
}

fn unreadable(file: &Path, reason: &impl fmt::Display) -> SettingsError {
    SettingsError::Unreadable {
        file: file.display().to_string(),
        reason: reason.to_string(),
    }
}

fn open(file: &Path) -> Result<std::fs::File, SettingsError> {
    // Without O_NONBLOCK, opening a named pipe would wait for its writer.
    let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
    let opened = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(nonblocking)
        .open(file)
        .map_err(|error| unreadable(file, &error))?;
    let facts = opened.metadata().map_err(|error| unreadable(file, &error))?;
    if facts.is_file() {
        Ok(opened)
    } else {
        Err(unreadable(file, &"it is not a regular file"))
    }
}

fn read(file: &Path, opened: std::fs::File) -> Result<String, SettingsError> {
    let mut bytes = Vec::new();
    opened
        .take(LARGEST_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| unreadable(file, &error))?;
    if bytes.len() as u64 > LARGEST_FILE {
        return Err(unreadable(file, &"it is larger than 1 MiB"));
    }
    let text = String::from_utf8(bytes).map_err(|_| unreadable(file, &"it is not UTF-8 text"))?;
    Ok(without_mark(&text).to_owned())
}

/// The text without the byte order mark that some editors put before it
#[must_use]
pub(crate) fn without_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    struct Home(tempfile::TempDir);

    impl Home {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn write(&self, name: &str, text: &str, mode: u32) -> PathBuf {
            let file = self.0.path().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, text).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            file
        }

        fn resolve(
            &self,
            overrides: &Overrides,
            variables: &[(&str, &str)],
        ) -> Result<Target, SettingsError> {
            resolve(overrides, |name| match name {
                "HOME" => Some(self.0.path().display().to_string()),
                _ => variables
                    .iter()
                    .find(|(known, _)| *known == name)
                    .map(|(_, value)| (*value).to_owned()),
            })
        }
    }

    #[test]
    fn each_source_gives_way_to_the_one_before_it() {
        let home = Home::new();
        let target = home.resolve(&Overrides::default(), &[]).unwrap();
        assert_eq!(target.controller.as_str(), "http://127.0.0.1:8080/");
        assert_eq!(target.token, None);

        let file = "current_context = 'a'\n[contexts.a]\ncontroller = 'http://a:1'\ntoken = 'from-file'\n[contexts.b]\ncontroller = 'http://b:2'\n";
        home.write(".prexorcloud/config.toml", file, 0o600);
        let target = home.resolve(&Overrides::default(), &[]).unwrap();
        assert_eq!(target.controller.as_str(), "http://a:1/");
        assert_eq!(target.token.unwrap().expose(), "from-file");

        let variables = [
            ("PREXOR_CONTROLLER", "http://env:3"),
            ("PREXOR_TOKEN", " from-env\n"),
        ];
        let target = home.resolve(&Overrides::default(), &variables).unwrap();
        assert_eq!(target.controller.as_str(), "http://env:3/");
        assert_eq!(target.token.unwrap().expose(), "from-env");

        let both = [
            ("PREXOR_CONTROLLER", "http://env:3"),
            ("PREXORCTL_CONTROLLER", "http://own:4"),
        ];
        let target = home.resolve(&Overrides::default(), &both).unwrap();
        assert_eq!(target.controller.as_str(), "http://own:4/");

        let overrides = Overrides {
            controller: Some("https://flag.example:5/".to_owned()),
            token_file: Some(home.write("token", "from-flag\n", 0o600)),
            ..Overrides::default()
        };
        let target = home.resolve(&overrides, &variables).unwrap();
        assert_eq!(target.controller.as_str(), "https://flag.example:5/");
        assert_eq!(target.token.unwrap().expose(), "from-flag");

        let target = home
            .resolve(&Overrides::default(), &[("PREXOR_CONTEXT", "b")])
            .unwrap();
        assert_eq!(target.controller.as_str(), "http://b:2/");
    }

    #[test]
    fn what_editors_leave_does_no_harm() {
        let home = Home::new();
        let token_file = home.write("token", "\u{feff} prx_secret \r\n\r\n", 0o600);
        let file = format!(
            "\u{feff}current_context = 'a'\r\n \r\n[contexts.a] \r\ncontroller = ' http://[::1]:1 '\r\ntoken_file = {token_file:?} \r\n"
        );
        home.write(".prexorcloud/config.toml", &file, 0o600);
        let target = home
            .resolve(&Overrides::default(), &[("PREXOR_CONTEXT", "a\r\n")])
            .unwrap();
        assert_eq!(target.controller.as_str(), "http://[::1]:1/");
        assert_eq!(target.token.unwrap().expose(), "prx_secret");
        home.write(".prexorcloud/config.toml", "\u{feff}\r\nnope = 1\r\n", 0o600);
        let text = home.resolve(&Overrides::default(), &[]).unwrap_err().to_string();
        assert!(text.contains("line 2"), "{text}");
    }

    #[test]
    fn files_with_secrets_must_be_private() {
        let home = Home::new();
        home.write(".prexorcloud/config.toml", "", 0o644);
        let refused = home.resolve(&Overrides::default(), &[]).unwrap_err();
        assert!(
            matches!(refused, SettingsError::Exposed { mode: 0o644, .. }),
            "{refused}"
        );
        assert!(refused.hint().unwrap().starts_with("Close it: chmod 600"));
    }

    #[test]
    fn mistakes_are_named_without_showing_secrets() {
        let home = Home::new();
        home.write(
            ".prexorcloud/config.toml",
            "[contexts.a]\ntokn = 'prx_secret'\n",
            0o600,
        );
        let text = home.resolve(&Overrides::default(), &[]).unwrap_err().to_string();
        assert!(
            text.contains("line 2") && text.contains("tokn") && !text.contains("prx_secret"),
            "{text}"
        );

        home.write(
            ".prexorcloud/config.toml",
            "[contexts.a]\ntoken = prx_secret\n",
            0o600,
        );
        let text = home.resolve(&Overrides::default(), &[]).unwrap_err().to_string();
        assert!(text.contains("line 2") && !text.contains("prx_secret"), "{text}");

        home.write(".prexorcloud/config.toml", "[contexts.a]\n[contexts.b]\n", 0o600);
        let text = home
            .resolve(&Overrides::default(), &[("PREXOR_CONTEXT", "c")])
            .unwrap_err()
            .to_string();
        assert!(text.ends_with("it has: a, b"), "{text}");

        for wrong in ["prx token", "", "a\nb", "ü", "\u{1b}[2J"] {
            assert!(Token::new(wrong, "test").is_err(), "{wrong:?}");
        }
        assert_eq!(
            format!("{:?}", Token::new("prx_secret", "test").unwrap()),
            "[secret]"
        );
    }

    #[test]
    fn a_controller_is_a_plain_address() {
        for wrong in [
            "localhost:8080",
            "ftp://a",
            "http://",
            "http://u:p@a",
            "http://a/api",
            "http://a?x",
            "",
            "nope",
        ] {
            assert!(parse_controller(wrong, "test").is_err(), "{wrong:?}");
        }
        for right in ["http://a", "http://a:1/", "https://[::1]:8443", " http://a "] {
            assert!(parse_controller(right, "test").is_ok(), "{right:?}");
        }
    }
}
