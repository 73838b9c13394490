//! `%KEY%` in the text files of a workspace

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use super::PreparationError;
use super::order::Assignment;
use crate::durable;

/// Files that hold text in which variables are replaced
const SUFFIXES: [&str; 8] = [
    ".properties",
    ".yml",
    ".yaml",
    ".toml",
    ".json",
    ".cfg",
    ".conf",
    ".txt",
];

/// Larger files are no configuration
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// How deep folders are followed
const MAX_DEPTH: usize = 32;

/// What `%KEY%` means for an instance; the daemon's own keys win over the order's
pub(super) fn variables(order: &Assignment, node_id: &str) -> BTreeMap<String, String> {
    let mut variables = order.variables.clone();
    for (key, value) in [
        ("PORT", order.port.to_string()),
        ("INSTANCE_ID", order.instance.to_string()),
        ("INSTANCE_NAME", order.instance.to_string()),
        ("GROUP", order.group.to_string()),
        ("NODE_ID", node_id.to_owned()),
        ("MEMORY", order.memory_mb.to_string()),
        ("MAX_PLAYERS", order.max_players.to_string()),
    ] {
        variables.insert(key.to_owned(), value);
    }
    variables
}

/// Replaces variables in every text file below `folder`
///
/// Symbolic links are not followed, and a file that is not UTF-8 is left as it is: it may be a server's own data with a
/// familiar suffix.
pub(super) fn substitute(
    folder: &Path,
    variables: &BTreeMap<String, String>,
) -> Result<(), PreparationError> {
    let failed = |path: &Path| {
        let path = path.to_path_buf();
        move |error| PreparationError::Substitution { path, error }
    };
    let mut folders = vec![(folder.to_path_buf(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(failed(&folder))? {
            let entry = entry.map_err(failed(&folder))?;
            let path = entry.path();
            let metadata = match fs::symlink_metadata(&path) {
                Ok(metadata) => metadata,
                // A running neighbour may clean up; what is gone needs no variables.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed(&path)(error)),
            };
            if metadata.is_dir() {
                if depth < MAX_DEPTH {
                    folders.push((path, depth + 1));
                }
            } else if metadata.is_file() && metadata.len() <= MAX_FILE && is_text(&path) {
                substitute_file(&path, variables).map_err(failed(&path))?;
            }
        }
    }
    Ok(())
}

fn is_text(path: &Path) -> bool {
    let name = path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .to_lowercase();
    SUFFIXES.iter().any(|suffix| name.ends_with(suffix))
}

fn substitute_file(path: &Path, variables: &BTreeMap<String, String>) -> io::Result<()> {
    let Ok(text) = String::from_utf8(fs::read(path)?) else {
        tracing::debug!(file = %path.display(), "not UTF-8, left as it is");
        return Ok(());
    };
    let replaced = replace(&text, variables);
    if replaced == text {
        return Ok(());
    }
    let permissions = fs::metadata(path)?.permissions();
    durable::replace(path, replaced.as_bytes())?;
    fs::set_permissions(path, permissions)
}

/// One pass from left to right: a value that looks like a variable is not replaced again
fn replace(text: &str, variables: &BTreeMap<String, String>) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('%') {
        let (before, from) = rest.split_at(start);
        result.push_str(before);
        let after = from.get(1..).unwrap_or_default();
        let end = after.find('%');
        match end.and_then(|end| Some((variables.get(after.get(..end)?)?, after.get(end + 1..)?))) {
            Some((value, after)) => {
                result.push_str(value);
                rest = after;
            }
            None => {
                result.push('%');
                rest = after;
            }
        }
    }
    result.push_str(rest);
    result
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn known_variables_are_replaced_and_others_stay() {
        let variables = map(&[("PORT", "25565"), ("A", "%PORT%")]);
        assert_eq!(replace("port=%PORT%%PORT%", &variables), "port=2556525565");
        assert_eq!(
            replace("100% of %UNKNOWN% %PORT%", &variables),
            "100% of %UNKNOWN% 25565"
        );
        assert_eq!(
            replace("%A%", &variables),
            "%PORT%",
            "values are not replaced again"
        );
        assert_eq!(replace("%", &variables), "%");
        assert_eq!(replace("%%PORT%", &variables), "%25565");
    }

    #[test]
    fn only_text_files_change() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        };
        write("config/server.PROPERTIES", b"port=%PORT%");
        write("world/level.dat", b"%PORT%");
        write("latin.txt", b"\xe4 %PORT%");
        std::os::unix::fs::symlink("/etc/hostname", folder.path().join("link.txt")).unwrap();
        substitute(folder.path(), &map(&[("PORT", "1")])).unwrap();
        let read = |name: &str| fs::read(folder.path().join(name)).unwrap();
        assert_eq!(read("config/server.PROPERTIES"), b"port=1");
        assert_eq!(read("world/level.dat"), b"%PORT%");
        assert_eq!(read("latin.txt"), b"\xe4 %PORT%");
    }
}
