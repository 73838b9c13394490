//! The join token: where it comes from, and how it goes once it is used

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use prexorcloud_security::token::JoinToken;

use super::{ConfigError, Settings};
use crate::durable;

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
        let token = parse("enrolment.join_token", &inline)?;
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
    let text = fs::read_to_string(&path).map_err(|error| unreadable(error.to_string()))?;
    let token = parse("enrolment.join_token_file", &text)?;
    Ok(Some((token, TokenSource::TokenFile(path))))
}

fn parse(key: &'static str, text: &str) -> Result<JoinToken, ConfigError> {
    JoinToken::parse(text).map_err(|error| ConfigError::InvalidToken {
        key,
        detail: error.to_string(),
    })
}

impl TokenSource {
    /// Removes the token, so that a used secret does not lie around
    ///
    /// # Errors
    /// Failures of the file system, or a configuration file that was changed meanwhile and cannot be understood.
    pub fn remove(&self) -> io::Result<()> {
        match self {
            Self::Elsewhere => Ok(()),
            Self::TokenFile(path) => durable::remove(path),
            Self::ConfigFile(path) => {
                let text = fs::read_to_string(path)?;
                let permissions = fs::metadata(path)?.permissions();
                let is_yaml = path
                    .extension()
                    .is_some_and(|extension| extension == "yml" || extension == "yaml");
                let without = if is_yaml {
                    without_yaml_token(&text)
                } else {
                    without_toml_token(&text)?
                };
                durable::replace(path, without.as_bytes())?;
                fs::set_permissions(path, permissions)
            }
        }
    }
}

fn without_toml_token(text: &str) -> io::Result<String> {
    let mut document: toml_edit::DocumentMut = text
        .parse()
        .map_err(|error: toml_edit::TomlError| io::Error::new(io::ErrorKind::InvalidData, error))?;
    if let Some(section) = document
        .get_mut("enrolment")
        .and_then(|item| item.as_table_like_mut())
    {
        section.remove("join_token");
    }
    Ok(document.to_string())
}

/// A Java daemon's file: the value goes, the line and everything else stay
fn without_yaml_token(text: &str) -> String {
    text.split_inclusive('\n')
        .map(|line| match line.find("joinToken:") {
            Some(at) if line.get(..at).is_some_and(|indent| indent.trim().is_empty()) => {
                let end = if line.ends_with('\n') { "\n" } else { "" };
                format!("{}joinToken: \"\"{end}", line.get(..at).unwrap_or_default())
            }
            _ => line.to_owned(),
        })
        .collect()
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
            error.contains("enrolment.join_token") && !error.contains("hunter2"),
            "{error}"
        );
    }

    #[test]
    fn the_token_of_a_java_file_is_blanked() {
        let text = format!("security:\n  joinToken: \"{TOKEN}\"\n  certificateDir: x\n");
        assert_eq!(
            without_yaml_token(&text),
            "security:\n  joinToken: \"\"\n  certificateDir: x\n"
        );
    }
}
