//! Single values in a server's own configuration files
//!
//! A patch changes lines and leaves the rest of a file, comments included, as it is. It understands what Java daemons
//! understand: `key=value` properties, `key = value` lines of TOML, and YAML keys, dotted ones by indentation.

use std::fs;
use std::io;
use std::path::Path;

use prexorcloud_proto::{ConfigPatch, ConfigPatchOp};

use super::PreparationError;
use super::workspace::Workspace;
use crate::durable;

/// Larger files are no configuration
const MAX_FILE: u64 = 16 * 1024 * 1024;

/// Stands for the trimmed content of `forwarding.secret` in the workspace
const FORWARDING_SECRET: &str = "%FORWARDING_SECRET%";

/// Applies the patches in order
///
/// A patch for a file that does not exist is passed over with a warning, as the server has not written it yet; one that
/// leads out of the workspace, or that this daemon cannot carry out, is an error.
pub(super) fn apply(workspace: &Workspace, patches: &[ConfigPatch]) -> Result<(), PreparationError> {
    for patch in patches {
        if patch.file.trim().is_empty() || patch.key.is_empty() {
            continue;
        }
        let permanent = |problem: String| PreparationError::ConfigPatch {
            file: patch.file.clone(),
            problem,
            is_transient: false,
        };
        let failed = |error: io::Error| PreparationError::ConfigPatch {
            file: patch.file.clone(),
            problem: error.to_string(),
            is_transient: true,
        };
        let path = workspace
            .resolve(&patch.file)
            .ok_or_else(|| permanent("it leads out of the instance's folder".into()))?;
        let op = ConfigPatchOp::try_from(patch.op)
            .map_err(|_| permanent(format!("operation {} is not known here", patch.op)))?;
        let Some(text) = read(&path).map_err(failed)? else {
            tracing::warn!(
                file = patch.file,
                "config patch passed over: there is no such file"
            );
            continue;
        };
        let Some(value) = value(workspace, &patch.value).map_err(failed)? else {
            tracing::warn!(
                file = patch.file,
                "config patch passed over: forwarding.secret is missing"
            );
            continue;
        };
        if value.contains(['\n', '\r']) || patch.key.contains(['\n', '\r']) {
            return Err(permanent("key and value must be one line".into()));
        }
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .to_lowercase();
        let patched = match op {
            ConfigPatchOp::Regex => {
                return Err(permanent(
                    "regular expressions are not supported by this daemon yet".into(),
                ));
            }
            ConfigPatchOp::Set | ConfigPatchOp::Replace => {
                let append = op == ConfigPatchOp::Set;
                if name.ends_with(".properties") {
                    properties(&text, &patch.key, &value, append)
                } else if name.ends_with(".toml") {
                    toml(&text, &patch.key, &value, append)
                } else if name.ends_with(".yml") || name.ends_with(".yaml") {
                    yaml(&text, &patch.key, &value, append)
                } else {
                    tracing::warn!(
                        file = patch.file,
                        "config patch passed over: unknown kind of file"
                    );
                    continue;
                }
            }
        };
        if patched != text {
            let permissions = fs::metadata(&path).map_err(failed)?.permissions();
            durable::replace(&path, patched.as_bytes()).map_err(failed)?;
            fs::set_permissions(&path, permissions).map_err(failed)?;
        }
    }
    Ok(())
}

fn read(path: &Path) -> io::Result<Option<String>> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.len() > MAX_FILE => {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the file is too large",
            ));
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    }
    fs::read_to_string(path).map(Some)
}

fn value(workspace: &Workspace, value: &str) -> io::Result<Option<String>> {
    if !value.contains(FORWARDING_SECRET) {
        return Ok(Some(value.to_owned()));
    }
    let Some(path) = workspace.resolve("forwarding.secret") else {
        return Ok(None);
    };
    Ok(read(&path)?
        .map(|secret| secret.trim().to_owned())
        .filter(|secret| !secret.is_empty())
        .map(|secret| value.replace(FORWARDING_SECRET, &secret)))
}

fn properties(text: &str, key: &str, value: &str, append: bool) -> String {
    let start = format!("{key}=");
    let new = format!("{key}={value}");
    edit_line(
        text,
        |line| line.trim().starts_with(&start).then(|| new.clone()),
        append.then_some(&new),
    )
}

fn toml(text: &str, key: &str, value: &str, append: bool) -> String {
    let start = format!("{key} =");
    let new = format!("{key} = {}", rendered(value));
    edit_line(
        text,
        |line| line.trim().starts_with(&start).then(|| new.clone()),
        append.then_some(&new),
    )
}

fn yaml(text: &str, key: &str, value: &str, append: bool) -> String {
    let value = rendered(value);
    let sections: Vec<&str> = key.split('.').collect();
    let [flat] = sections.as_slice() else {
        return yaml_nested(text, &sections, &value);
    };
    let start = format!("{flat}:");
    let new = format!("{flat}: {value}");
    let edit = |line: &str| {
        let trimmed = line.trim_start();
        let indent = line.get(..line.len() - trimmed.len()).unwrap_or_default();
        trimmed.starts_with(&start).then(|| format!("{indent}{new}"))
    };
    edit_line(text, edit, append.then_some(&new))
}

/// Descends section by section; a path that is not there changes nothing
fn yaml_nested(text: &str, sections: &[&str], value: &str) -> String {
    let mut wanted = sections.iter().peekable();
    // The indentation of the section that we are in; its keys are deeper.
    let mut parent: Option<usize> = None;
    // The indentation of the keys directly in that section.
    let mut level: Option<usize> = None;
    let mut target = None;
    for (number, line) in text.lines().enumerate() {
        let trimmed = line.trim_start();
        if trimmed.is_empty() || trimmed.starts_with('#') {
            continue;
        }
        let indent = line.len() - trimmed.len();
        if parent.is_some_and(|parent| indent <= parent) {
            break;
        }
        let level_now = *level.get_or_insert(indent);
        if indent != level_now {
            continue;
        }
        let Some(key) = wanted.peek() else { break };
        if trimmed
            .strip_prefix(**key)
            .is_some_and(|rest| rest.starts_with(':'))
        {
            wanted.next();
            if wanted.peek().is_none() {
                target = Some((number, indent));
                break;
            }
            parent = Some(indent);
            level = None;
        }
    }
    let (Some((target, indent)), Some(key)) = (target, sections.last()) else {
        tracing::warn!(
            key = sections.join("."),
            "config patch passed over: there is no such key"
        );
        return text.to_owned();
    };
    let mut number = 0;
    let edit = |_: &str| {
        let is_target = number == target;
        number += 1;
        is_target.then(|| format!("{}{key}: {value}", " ".repeat(indent)))
    };
    edit_line(text, edit, None)
}

/// Replaces the first line for which `edit` has a new one, or appends `otherwise`; line ends stay as they are
fn edit_line(text: &str, mut edit: impl FnMut(&str) -> Option<String>, otherwise: Option<&String>) -> String {
    let mut result = String::with_capacity(text.len() + 64);
    let mut is_done = false;
    for line in text.split_inclusive('\n') {
        let content = line.trim_end_matches(['\n', '\r']);
        let end = line.get(content.len()..).unwrap_or_default();
        match if is_done { None } else { edit(content) } {
            Some(new) => {
                is_done = true;
                result.push_str(&new);
            }
            None => result.push_str(content),
        }
        result.push_str(end);
    }
    if !is_done && let Some(new) = otherwise {
        if !result.is_empty() && !result.ends_with('\n') {
            result.push('\n');
        }
        result.push_str(new);
        result.push('\n');
    }
    result
}

/// Numbers and booleans bare, everything else quoted
fn rendered(value: &str) -> String {
    let digits = value.strip_prefix('-').unwrap_or(value);
    let all_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_number = match digits.split_once('.') {
        Some((whole, fraction)) => all_digits(whole) && all_digits(fraction),
        None => all_digits(digits),
    };
    if is_number || value.eq_ignore_ascii_case("true") || value.eq_ignore_ascii_case("false") {
        value.to_owned()
    } else {
        format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_are_set_or_appended() {
        assert_eq!(
            properties("# top\r\na=1\r\nb=2", "a", "9", true),
            "# top\r\na=9\r\nb=2"
        );
        assert_eq!(properties("a=1", "c", "3", true), "a=1\nc=3\n");
        assert_eq!(
            properties("a=1\n", "c", "3", false),
            "a=1\n",
            "replace creates nothing"
        );
    }

    #[test]
    fn values_are_quoted_as_needed() {
        assert_eq!(
            toml("bind = \"x\"\nport = 1\n", "port", "25577", true),
            "bind = \"x\"\nport = 25577\n"
        );
        assert_eq!(
            toml("motd = 1\n", "motd", "a \"b\"", true),
            "motd = \"a \\\"b\\\"\"\n"
        );
        for bare in ["1", "-1.5", "true", "FALSE"] {
            assert_eq!(rendered(bare), bare);
        }
        for quoted in ["", "1.", "0.0.0.0:25577", "-"] {
            assert_eq!(rendered(quoted), format!("\"{quoted}\""));
        }
    }

    #[test]
    fn nested_yaml_keys_are_found_by_indentation() {
        let text = "bedrock:\n  address: 0.0.0.0\n  port: 19132\n# remote\nremote:\n  # where\n  address: auto\n  port: 25565\n";
        let patched = yaml(text, "remote.address", "127.0.0.1", false);
        assert_eq!(patched, text.replace("address: auto", "address: \"127.0.0.1\""));
        assert_eq!(yaml(text, "remote.missing", "x", true), text);
        assert_eq!(yaml(text, "missing.address", "x", true), text);
        let deep = "a:\n  b:\n    c: 1\n  c: 2\n";
        assert_eq!(yaml(deep, "a.c", "3", true), "a:\n  b:\n    c: 1\n  c: 3\n");
    }

    #[test]
    fn flat_yaml_keys_keep_their_indentation() {
        assert_eq!(
            yaml("settings:\n  bungeecord: false\n", "bungeecord", "true", true),
            "settings:\n  bungeecord: true\n"
        );
        assert_eq!(yaml("a: 1\n", "b", "2", true), "a: 1\nb: 2\n");
    }
}
