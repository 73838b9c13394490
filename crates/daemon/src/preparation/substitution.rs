//! `%KEY%` in the text files of a workspace
//!
//! It is done in what templates bring, before that gets to the files of the instance: a file that a server or an operator wrote may have
//! percent signs of its own, and what is there after one start is no place for variables at the next.

use std::collections::BTreeMap;
use std::io;

use super::inside::{Entry, Inside, InsideError, Place};
use super::notes::Notes;
use super::order::Assignment;
use super::{PreparationError, merge};

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

/// Variables of a file of which each is tried alone, to name the one that breaks it
const TRIED: usize = 64;

/// What `%KEY%` means for an instance; the daemon's own keys win over the order's
pub(super) fn variables(order: &Assignment, node_id: &str) -> BTreeMap<String, String> {
    let mut variables = order.variables.clone();
    variables.extend(own_variables(order, node_id));
    variables
}

/// The keys that are the daemon's own, none of which is secret
fn own_variables(order: &Assignment, node_id: &str) -> BTreeMap<String, String> {
    let own = [
        ("PORT", order.port.to_string()),
        ("INSTANCE_ID", order.instance.to_string()),
        ("INSTANCE_NAME", order.instance.to_string()),
        ("GROUP", order.group.to_string()),
        ("NODE_ID", node_id.to_owned()),
        ("MEMORY", order.memory_mb.to_string()),
        ("MAX_PLAYERS", order.max_players.to_string()),
    ];
    own.into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
}

/// The arguments that the order has for its program, with the daemon's own keys replaced; others may be secret
pub(super) fn program_arguments(order: &Assignment, node_id: &str) -> Option<Vec<String>> {
    let arguments = order.program_arguments.as_ref()?;
    let variables = own_variables(order, node_id);
    Some(
        arguments
            .iter()
            .map(|argument| replace(argument, &variables))
            .collect(),
    )
}

/// Replaces variables in every text file of the folder
///
/// Symbolic links are not followed, since what they lead to inside is found anyway. A file that is not UTF-8 is left as it
/// is: it may be a server's own data with a familiar suffix. What cannot be read is passed over with a warning: it is no
/// business of the instance, like the `lost+found` of a file system. What is too large or too deep is noted.
///
/// A value that makes a YAML, TOML or JSON file unreadable is refused: quotes, backslashes and line breaks mean something there, and how
/// they have to be written depends on the place, which the template knows and this does not.
pub(super) fn substitute(
    inside: &Inside,
    variables: &BTreeMap<String, String>,
    notes: &mut Notes,
) -> Result<(), PreparationError> {
    let mut folders = vec![Place::root()];
    while let Some(folder) = folders.pop() {
        let entries = match inside.list(&folder) {
            Ok(entries) => entries,
            Err(error) if folder.depth() > 0 && is_foreign(&error) => {
                passed_over(inside, &folder, &error);
                continue;
            }
            Err(error) => return Err(failed(inside, &folder)(error.into())),
        };
        for (name, entry) in entries {
            let place = folder.join(&name);
            match entry {
                Entry::Folder if folder.depth() < MAX_DEPTH => folders.push(place),
                Entry::Folder => notes.add(format!(
                    "{} is more than {MAX_DEPTH} folders deep: variables in its files are not replaced",
                    place.relative().display()
                )),
                Entry::File if is_text(&name.to_string_lossy()) => {
                    substitute_file(inside, &place, variables, notes)?;
                }
                Entry::File | Entry::Link | Entry::Special => {}
            }
        }
    }
    Ok(())
}

fn failed(inside: &Inside, place: &Place) -> impl FnOnce(InsideError) -> PreparationError {
    let path = inside.path(place);
    move |error| PreparationError::Substitution {
        path,
        error: match error {
            InsideError::Io(error) => error,
            other => io::Error::other(other.to_string()),
        },
    }
}

/// Not ours to read, or not there any more
fn is_foreign(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::PermissionDenied | io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    ) || error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error())
}

fn passed_over(inside: &Inside, place: &Place, error: &dyn std::fmt::Display) {
    tracing::warn!(path = %inside.path(place).display(), %error, "passed over, variables in it are not replaced");
}

fn is_text(name: &str) -> bool {
    let name = name.to_lowercase();
    SUFFIXES.iter().any(|suffix| name.ends_with(suffix))
}

fn substitute_file(
    inside: &Inside,
    place: &Place,
    variables: &BTreeMap<String, String>,
    notes: &mut Notes,
) -> Result<(), PreparationError> {
    let mut broken_by = None;
    let edit = |bytes: &[u8]| {
        let Ok(text) = str::from_utf8(bytes) else {
            tracing::debug!(path = %inside.path(place).display(), "not UTF-8, left as it is");
            return None;
        };
        if !text.contains('%') {
            return None;
        }
        let replaced = Some(replace(text, variables)).filter(|replaced| replaced != text)?;
        broken_by = breaking(&place.relative().to_string_lossy(), text, &replaced, variables);
        broken_by.is_none().then(|| replaced.into_bytes())
    };
    let edited = inside.edit(place, MAX_FILE, edit);
    if let Some(variable) = broken_by {
        return Err(PreparationError::Unreadable {
            file: place.relative().to_string_lossy().into_owned(),
            variable,
        });
    }
    match edited {
        Ok(()) => Ok(()),
        Err(InsideError::TooLarge(limit)) => {
            notes.add(format!(
                "{} is larger than {limit} bytes: variables in it are not replaced",
                place.relative().display()
            ));
            Ok(())
        }
        Err(InsideError::Io(error)) if !is_foreign(&error) => Err(failed(inside, place)(error.into())),
        Err(error) => {
            passed_over(inside, place, &error);
            Ok(())
        }
    }
}

/// The variable whose value makes a file unreadable that could be read, or all of them where no single one does
///
/// A place that waits for a number may be no place for `%KEY%`, so a file could be read if it can be with other values in it.
fn breaking(file: &str, text: &str, replaced: &str, variables: &BTreeMap<String, String>) -> Option<String> {
    if merge::is_readable(file, replaced)? {
        return None;
    }
    let used: Vec<&String> = variables
        .keys()
        .filter(|key| text.contains(&format!("%{key}%")))
        .collect();
    // Different, since keys of a section may be made of them.
    let harmless: BTreeMap<String, String> = used
        .iter()
        .zip(1000..)
        .map(|(key, number)| ((*key).clone(), number.to_string()))
        .collect();
    let is_readable =
        |values: &BTreeMap<String, String>| merge::is_readable(file, &replace(text, values)) == Some(true);
    if !is_readable(&harmless) {
        return None;
    }
    let breaks = |key: &&&String| {
        let mut values = harmless.clone();
        values.extend(variables.get(**key).map(|value| ((**key).clone(), value.clone())));
        !is_readable(&values)
    };
    match used.iter().take(TRIED).find(breaks) {
        Some(key) => Some((*key).clone()),
        None => {
            let all: Vec<&str> = used.iter().take(TRIED).map(|key| key.as_str()).collect();
            Some(all.join(", "))
        }
    }
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

    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
            let path = self.0.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }

        fn read(&self, name: &str) -> Vec<u8> {
            fs::read(self.0.path().join(name)).unwrap()
        }

        fn text(&self, name: &str) -> String {
            String::from_utf8(self.read(name)).unwrap()
        }

        fn start(&self, port: &str) -> Vec<String> {
            let inside = Inside::new(self.0.path()).unwrap();
            let variables = map(&[("PORT", port), ("GROUP", "lobby")]);
            let mut notes = Notes::default();
            substitute(&inside, &variables, &mut notes).unwrap();
            notes.into_lines()
        }

        fn refusal(&self, value: &str) -> Option<PreparationError> {
            let inside = Inside::new(self.0.path()).unwrap();
            let variables = map(&[("PORT", "1"), ("MOTD", value)]);
            substitute(&inside, &variables, &mut Notes::default()).err()
        }
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
        let folder = Folder::new();
        folder.write("config/server.PROPERTIES", "port=%PORT%\r\nx=%GROUP%");
        folder.write("world/level.dat", "%PORT%");
        folder.write("latin.txt", b"\xe4 %PORT%");
        std::os::unix::fs::symlink("/etc/hostname", folder.0.path().join("link.txt")).unwrap();
        std::os::unix::fs::symlink("..", folder.0.path().join("config/loop")).unwrap();
        folder.start("1");
        assert_eq!(folder.text("config/server.PROPERTIES"), "port=1\r\nx=lobby");
        assert_eq!(folder.read("world/level.dat"), b"%PORT%");
        assert_eq!(folder.read("latin.txt"), b"\xe4 %PORT%");
    }

    /// Root may read everything, so the work is done as somebody else
    fn as_nobody(work: impl FnOnce() + Send) {
        let done = std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    if rustix::process::geteuid().is_root() {
                        rustix::thread::set_thread_uid(rustix::process::Uid::from_raw(65_534)).unwrap();
                    }
                    work();
                })
                .join()
        });
        done.unwrap();
    }

    #[test]
    fn what_may_not_be_read_is_passed_over() {
        let folder = Folder::new();
        folder.write("a.txt", "%PORT%");
        folder.write("lost+found/b.txt", "%PORT%");
        folder.write("locked.txt", "%PORT%");
        let mode = |name: &str, mode: u32| {
            fs::set_permissions(folder.0.path().join(name), fs::Permissions::from_mode(mode)).unwrap();
        };
        for (name, bits) in [("", 0o777), ("lost+found", 0), ("locked.txt", 0)] {
            mode(name, bits);
        }
        as_nobody(|| drop(folder.start("1")));
        mode("lost+found", 0o700);
        mode("locked.txt", 0o600);
        assert_eq!(folder.text("a.txt"), "1");
        assert_eq!(folder.text("lost+found/b.txt"), "%PORT%");
        assert_eq!(folder.text("locked.txt"), "%PORT%");
    }

    #[test]
    fn what_is_hostile_is_passed_over() {
        let folder = Folder::new();
        folder.write("a.txt", "%PORT%");
        let pipe = |name: &str| {
            let path = folder.0.path().join(name);
            rustix::fs::mknodat(
                rustix::fs::CWD,
                &path,
                rustix::fs::FileType::Fifo,
                0o600.into(),
                0,
            )
            .unwrap();
        };
        pipe("pipe.yml");
        let _socket = std::os::unix::net::UnixListener::bind(folder.0.path().join("socket.yml")).unwrap();
        let sparse = fs::File::create(folder.0.path().join("sparse.yml")).unwrap();
        sparse.set_len(1 << 40).unwrap();
        // A planted temporary name.
        std::os::unix::fs::symlink("/nonexistent/x", folder.0.path().join("a.txt.new")).unwrap();
        let notes = folder.start("1");
        assert_eq!(folder.text("a.txt"), "1");
        assert_eq!(
            notes,
            ["sparse.yml is larger than 4194304 bytes: variables in it are not replaced"]
        );
    }

    #[test]
    fn what_is_too_deep_is_noted() {
        let folder = Folder::new();
        let deep = |depth: usize| "d/".repeat(depth);
        folder.write(&format!("{}a.txt", deep(MAX_DEPTH)), "%PORT%");
        folder.write(&format!("{}a.txt", deep(MAX_DEPTH + 1)), "%PORT%");
        let notes = folder.start("1");
        assert_eq!(folder.text(&format!("{}a.txt", deep(MAX_DEPTH))), "1");
        assert_eq!(folder.text(&format!("{}a.txt", deep(MAX_DEPTH + 1))), "%PORT%");
        let [note] = &notes[..] else { panic!("{notes:?}") };
        assert!(note.contains("more than 32 folders deep"), "{note}");
    }

    #[test]
    fn a_value_that_makes_a_file_unreadable_is_refused_by_its_name() {
        for (file, text, value) in [
            ("c/a.yml", "port: %PORT%\nmotd: '%MOTD%'\n", "it's"),
            ("c/a.yaml", "motd: \"%MOTD%\"\n", "C:\\q"),
            (
                "c/a.json",
                "{\"port\": %PORT%, \"motd\": \"%MOTD%\"}",
                "say \"hi\"",
            ),
            ("c/a.json", "{\"motd\": \"%MOTD%\"}", "two\nlines"),
            ("c/a.toml", "port = %PORT%\nmotd = \"%MOTD%\"\n", "a\\qb"),
            ("c/a.TOML", "motd = \"%MOTD%\"\n", "two\nlines"),
        ] {
            let folder = Folder::new();
            folder.write(file, text);
            let error = folder.refusal(value).unwrap_or_else(|| panic!("{file}: {value}"));
            let said = error.to_string();
            assert!(said.contains("MOTD") && said.contains(file), "{said}");
            assert!(!said.contains(value) && !said.contains("PORT"), "{said}");
            assert_eq!(error.code(), "VARIABLE_SUBSTITUTION_FAILED");
            assert_eq!(
                error.disposition(),
                prexorcloud_proto::StartFailureDisposition::Permanent
            );
            assert_eq!(folder.text(file), text, "the file is what it was");
            // What fits there is put there.
            let folder = Folder::new();
            folder.write(file, text);
            assert!(folder.refusal("hello").is_none());
            assert!(folder.text(file).contains("hello"));
        }
    }

    #[test]
    fn what_could_not_be_read_before_or_has_no_such_rules_takes_any_value() {
        for (file, text) in [
            ("a.json", "// no JSON\n{\"motd\": \"%MOTD%\"}"),
            ("a.yml", "motd: '%MOTD%\n"),
            ("a.toml", "motd \"%MOTD%\"\n"),
            ("a.properties", "motd=%MOTD%\n"),
            ("a.txt", "'%MOTD%"),
        ] {
            let folder = Folder::new();
            folder.write(file, text);
            assert!(folder.refusal("it's \"q\" \\").is_none(), "{file}");
            assert!(folder.text(file).contains("it's"), "{file}");
        }
    }
}
