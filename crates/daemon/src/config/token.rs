//! The join token: where it comes from, and how it goes once it is used

use std::fs;
use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use prexorcloud_security::files::without_mark;
use prexorcloud_security::token::JoinToken;
use toml::de::{DeTable, DeValue};

use super::{ConfigError, Settings};
use crate::durable;
use crate::yaml::{self, Content, Node};

/// The largest token file that is read
const MAX_TOKEN_FILE: u64 = 4096;

/// Where a join token came from, and so where it is to be removed once it is used
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenSource {
    /// The configuration file
    ConfigFile(PathBuf),
    /// A file of its own
    TokenFile(PathBuf),
    /// The environment or a program: nothing to remove
    Elsewhere,
}

pub(super) fn read(
    settings: &Settings,
    file: Option<&Path>,
) -> Result<Option<(JoinToken, TokenSource)>, ConfigError> {
    let inline = settings.text("enrolment.join_token", String::new())?;
    let token_file = settings.optional_path("enrolment.join_token_file")?;
    if !inline.trim().is_empty() {
        let token = parse(settings, "enrolment.join_token", &inline)?;
        let source = match file {
            Some(file) if settings.is_from_file("enrolment.join_token") => {
                TokenSource::ConfigFile(file.to_path_buf())
            }
            _ => TokenSource::Elsewhere,
        };
        return Ok(Some((token, source)));
    }
    let Some(path) = token_file else {
        return Ok(None);
    };
    let unreadable = |detail: String| ConfigError::Unreadable {
        file: path.display().to_string(),
        detail,
    };
    match fs::metadata(&path) {
        // Deleted after use: the node is enrolled, and if not, enrolment says so.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error.to_string())),
        Ok(metadata) if !metadata.is_file() || metadata.len() > MAX_TOKEN_FILE => {
            return Err(unreadable("it is not a file with a token".to_owned()));
        }
        Ok(_) => {}
    }
    let bytes = fs::read(&path).map_err(|error| unreadable(error.to_string()))?;
    let text =
        String::from_utf8(bytes).map_err(|_| unreadable("it is not a file with a token".to_owned()))?;
    let token = parse(settings, "enrolment.join_token_file", &text)?;
    Ok(Some((token, TokenSource::TokenFile(path))))
}

fn parse(settings: &Settings, key: &'static str, text: &str) -> Result<JoinToken, ConfigError> {
    JoinToken::parse(text).map_err(|error| {
        let (origin, key) = settings.place(key);
        let detail = error.to_string();
        ConfigError::InvalidToken { origin, key, detail }
    })
}

impl TokenSource {
    /// What is wrong with where the token lies, if others can read it there, in a sentence
    pub(super) fn exposure(&self) -> Option<String> {
        let path = match self {
            Self::ConfigFile(path) | Self::TokenFile(path) => path,
            Self::Elsewhere => return None,
        };
        let mode = fs::metadata(path).ok()?.mode() & 0o777;
        (mode & 0o004 != 0).then(|| {
            let path = path.display();
            format!("{path} holds a join token, and everybody on this machine can read it (mode {mode:03o}): chmod 600 {path}")
        })
    }

    /// Removes the token, so that a used secret does not lie around
    ///
    /// # Errors
    /// Failures of the file system, or a configuration file that was changed meanwhile and cannot be understood.
    pub fn remove(&self) -> io::Result<()> {
        match self {
            Self::Elsewhere => Ok(()),
            Self::TokenFile(path) => durable::remove(path),
            Self::ConfigFile(path) => {
                // What a link leads to is edited, and the link stays.
                let path = fs::canonicalize(path)?;
                let text =
                    String::from_utf8(fs::read(&path)?).map_err(|_| not_removed("it is not UTF-8 text"))?;
                let permissions = fs::metadata(&path)?.permissions();
                let is_yaml = path
                    .extension()
                    .is_some_and(|extension| extension == "yml" || extension == "yaml");
                let without = without_token(&text, is_yaml)?;
                durable::replace(&path, without.as_bytes())?;
                fs::set_permissions(&path, permissions)
            }
        }
    }
}

fn not_removed(problem: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("{problem}; remove the token by hand"),
    )
}

/// Where a token stands
enum Place {
    /// On a line of its own, which goes with it
    Line(Range<usize>),
    /// Beside other things: its value becomes an empty one
    Value(Range<usize>),
}

/// The text without the token, and everything else in it as it was
fn without_token(text: &str, is_yaml: bool) -> io::Result<String> {
    let places = |text: &str| {
        if is_yaml {
            yaml_tokens(text)
        } else {
            toml_token(text)
        }
    };
    let mark = text.len() - without_mark(text).len();
    let mut left = text.to_owned();
    for place in places(without_mark(text))?.into_iter().rev() {
        let (range, instead) = match place {
            Place::Line(range) => (range, ""),
            Place::Value(range) => (range, "\"\""),
        };
        let range = range.start + mark..range.end + mark;
        if left.get(range.clone()).is_none() {
            return Err(not_removed("the place of the token is not clear"));
        }
        left.replace_range(range, instead);
    }
    if places(without_mark(&left))?.is_empty() {
        Ok(left)
    } else {
        Err(not_removed("the token cannot be told from what is around it"))
    }
}

fn toml_token(text: &str) -> io::Result<Vec<Place>> {
    let table = DeTable::parse(text).map_err(|error| not_removed(error.message()))?;
    let found = match table.get_ref().get("enrolment").map(toml::Spanned::get_ref) {
        Some(DeValue::Table(section)) => section.get_key_value("join_token"),
        _ => None,
    };
    let Some((key, value)) = found else {
        return Ok(Vec::new());
    };
    if matches!(value.get_ref(), DeValue::String(text) if text.is_empty()) {
        return Ok(Vec::new());
    }
    let (key, value) = (key.span(), value.span());
    let before = text.get(..key.start).unwrap_or_default();
    let start = before.rfind('\n').map_or(0, |at| at + 1);
    let after = text.get(value.end..).unwrap_or_default();
    let end = after.find('\n').map_or(text.len(), |at| value.end + at + 1);
    let indent = text.get(start..key.start).unwrap_or_default();
    let rest = text.get(value.end..end).unwrap_or_default().trim_start();
    let place = if indent.trim().is_empty() && (rest.is_empty() || rest.starts_with('#')) {
        Place::Line(start..end)
    } else {
        Place::Value(value)
    };
    Ok(Vec::from([place]))
}

/// Every token of a Java daemon's file, in order
fn yaml_tokens(text: &str) -> io::Result<Vec<Place>> {
    let stream = yaml::parse(text).map_err(|error| not_removed(&error.detail))?;
    let root: Vec<Node> = stream.root.into_iter().collect();
    let of = |nodes: &[Node], name: &str| -> Vec<Node> {
        nodes
            .iter()
            .filter_map(|node| match &node.content {
                Content::Mapping(entries) => Some(entries),
                _ => None,
            })
            .flatten()
            .filter(|(key, _)| key.text() == Some(name))
            .map(|(_, value)| value.clone())
            .collect()
    };
    Ok(of(&of(&root, "security"), "joinToken")
        .into_iter()
        .filter(|token| token.text().is_none_or(|text| !text.is_empty()))
        .map(|token| Place::Value(token.bytes))
        .collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::config::load;

    const TOKEN: &str = "pxr_abcdefghijklmnopqrstuvwxyz012345";

    #[test]
    fn a_used_token_leaves_the_file_and_nothing_else_does() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("daemon.toml");
        let text = format!(
            "# mine\nnode_id = \"a\"\n[enrolment] # once\njoin_token = \"{TOKEN}\"\ntrust_on_first_use = true\n"
        );
        fs::write(&path, &text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let config = load(Some(&path), []).unwrap().config;
        let (token, source) = config.enrolment.token.unwrap();
        assert_eq!(token.expose(), TOKEN);
        source.remove().unwrap();
        let left = fs::read_to_string(&path).unwrap();
        assert_eq!(left, text.replace(&format!("join_token = \"{TOKEN}\"\n"), ""));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert!(load(Some(&path), []).unwrap().config.enrolment.token.is_none());
    }

    #[test]
    fn a_token_from_the_environment_leaves_the_file_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("daemon.toml");
        fs::write(&path, "").unwrap();
        let variable = (
            "PREXORCLOUD_DAEMON_ENROLMENT_JOIN_TOKEN".to_owned(),
            TOKEN.to_owned(),
        );
        let config = load(Some(&path), [variable]).unwrap().config;
        assert_eq!(config.enrolment.token.unwrap().1, TokenSource::Elsewhere);
    }

    #[test]
    fn a_token_file_is_deleted_and_may_then_be_missing() {
        let folder = tempfile::tempdir().unwrap();
        let token_file = folder.path().join("token");
        fs::write(&token_file, format!("{TOKEN}\n")).unwrap();
        let path = folder.path().join("daemon.toml");
        fs::write(&path, format!("[enrolment]\njoin_token_file = {token_file:?}\n")).unwrap();
        for (mode, warned) in [(0o644, true), (0o640, false), (0o600, false)] {
            fs::set_permissions(&token_file, fs::Permissions::from_mode(mode)).unwrap();
            let warnings = load(Some(&path), []).unwrap().warnings;
            assert_eq!(warnings.len(), usize::from(warned), "{warnings:?}");
            assert!(!warned || warnings[0].ends_with(&format!("chmod 600 {}", token_file.display())));
        }
        let (_, source) = load(Some(&path), []).unwrap().config.enrolment.token.unwrap();
        source.remove().unwrap();
        assert!(!token_file.exists());
        assert!(load(Some(&path), []).unwrap().config.enrolment.token.is_none());
    }

    #[test]
    fn a_malformed_token_is_not_repeated() {
        let text = "[enrolment]\njoin_token = \"pxr_hunter2\"\n";
        let error = crate::config::parse(text, "daemon.toml", [])
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("daemon.toml:2: `enrolment.join_token`: ") && !error.contains("hunter2"),
            "{error}"
        );
    }

    #[test]
    fn only_the_token_leaves_a_file_however_it_is_written() {
        for (before, after) in [
            (
                "\u{feff}# mine\r\n[enrolment] # once\r\njoin_token = 'TOKEN' # soon gone\r\nx = 1\r\n",
                "\u{feff}# mine\r\n[enrolment] # once\r\nx = 1\r\n",
            ),
            (
                "enrolment.join_token = 'TOKEN' # c\n",
                "enrolment.join_token = \"\" # c\n",
            ),
            (
                "enrolment = { join_token = 'TOKEN', trust_on_first_use = true }",
                "enrolment = { join_token = \"\", trust_on_first_use = true }",
            ),
            ("a = 1\n", "a = 1\n"),
        ] {
            assert_eq!(
                without_token(&before.replace("TOKEN", TOKEN), false).unwrap(),
                after
            );
        }
        for (before, after) in [
            (
                "security:\n  joinToken: \"TOKEN\"\n  certificateDir: x\n",
                "security:\n  joinToken: \"\"\n  certificateDir: x\n",
            ),
            (
                "\u{feff}a: ä\r\nsecurity: # here\r\n  joinToken: TOKEN   # once \r\n",
                "\u{feff}a: ä\r\nsecurity: # here\r\n  joinToken: \"\"   # once \r\n",
            ),
            (
                "security: {joinToken: TOKEN, certificateDir: x}\n",
                "security: {joinToken: \"\", certificateDir: x}\n",
            ),
            (
                "security:\n  joinToken: 'TOKEN'\n  joinToken: TOKEN",
                "security:\n  joinToken: \"\"\n  joinToken: \"\"",
            ),
        ] {
            assert_eq!(
                without_token(&before.replace("TOKEN", TOKEN), true).unwrap(),
                after
            );
        }
        let block = "security:\n  joinToken: |\n    TOKEN\nnodeId: a\n".replace("TOKEN", TOKEN);
        match without_token(&block, true) {
            Ok(left) => assert!(!left.contains(TOKEN) && left.ends_with("\nnodeId: a\n"), "{left}"),
            Err(error) => assert!(error.to_string().contains("by hand"), "{error}"),
        }
    }

    #[test]
    fn a_token_behind_a_link_leaves_the_file_and_the_link_stays() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("real.toml"), folder.path().join("daemon.toml"));
        fs::write(&file, format!("[enrolment]\njoin_token = \"{TOKEN}\"\n")).unwrap();
        std::os::unix::fs::symlink("real.toml", &link).unwrap();
        let (_, source) = load(Some(&link), []).unwrap().config.enrolment.token.unwrap();
        source.remove().unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(&file).unwrap(), "[enrolment]\n");
    }

    #[test]
    fn a_pasted_token_file_may_have_marks_and_blank_lines() {
        let folder = tempfile::tempdir().unwrap();
        let token_file = folder.path().join("token");
        let path = folder.path().join("daemon.toml");
        fs::write(&path, format!("[enrolment]\njoin_token_file = {token_file:?}\n")).unwrap();
        for text in [
            format!("\u{feff}{TOKEN}\r\n\r\n"),
            format!(" \t{TOKEN} \n"),
            format!("\u{feff}\n{TOKEN}"),
        ] {
            fs::write(&token_file, &text).unwrap();
            let token = load(Some(&path), []).unwrap().config.enrolment.token.unwrap().0;
            assert_eq!(token.expose(), TOKEN, "{text:?}");
        }
    }
}
