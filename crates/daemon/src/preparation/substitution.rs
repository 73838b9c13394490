//! `%KEY%` in the text files of a workspace
//!
//! The folder of a static instance keeps its files, and the next start may have another port. What stood there before a
//! variable was replaced is therefore remembered beside the files, line by line: where the line is still as the last start
//! left it, the next one begins with the variable again. A line that the server or an operator has changed since is theirs.

use std::collections::BTreeMap;
use std::io;

use serde::{Deserialize, Serialize};

use super::PreparationError;
use super::inside::{Inside, InsideError, Kind, Place};
use super::order::Assignment;

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

/// Where the lines of a static instance are remembered
const MEMORY: &str = ".prexorcloud-variables";

/// Whether a folder outlives the start that it is prepared for
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Lifetime {
    OneStart,
    ManyStarts,
}

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

/// A line in which variables were replaced
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Line {
    /// With the variables
    template: String,
    /// As the last start left it, or, if that was cut short, as either of the last two did
    replaced: Vec<String>,
}

/// The lines of a static instance, by file
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Memory {
    files: BTreeMap<String, Vec<Line>>,
}

/// Replaces variables in every text file of the folder
///
/// Symbolic links are not followed, since what they lead to inside is found anyway. A file that is not UTF-8 is left as it
/// is: it may be a server's own data with a familiar suffix. What cannot be read is passed over with a warning: it is no
/// business of the instance, like the `lost+found` of a file system.
pub(super) fn substitute(
    inside: &Inside,
    variables: &BTreeMap<String, String>,
    lifetime: Lifetime,
) -> Result<(), PreparationError> {
    let mut memory = match lifetime {
        Lifetime::OneStart => None,
        Lifetime::ManyStarts => Some(Memory::read(inside)?),
    };
    let mut has_changed = false;
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
        for (name, kind) in entries {
            let place = folder.join(&name);
            match kind {
                Kind::Folder if folder.depth() < MAX_DEPTH => folders.push(place),
                Kind::File(size) if size <= MAX_FILE && is_text(&name.to_string_lossy()) => {
                    has_changed |= substitute_file(inside, &place, variables, memory.as_mut())?;
                }
                Kind::Folder | Kind::File(_) | Kind::Other => {}
            }
        }
    }
    match memory {
        Some(mut memory) if has_changed => {
            memory.settle();
            memory.write(inside)
        }
        _ => Ok(()),
    }
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
    memory: Option<&mut Memory>,
) -> Result<bool, PreparationError> {
    let bytes = match inside.read(place, MAX_FILE) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Ok(false),
        Err(InsideError::Io(error)) if !is_foreign(&error) => {
            return Err(failed(inside, place)(error.into()));
        }
        Err(error) => {
            passed_over(inside, place, &error);
            return Ok(false);
        }
    };
    let Ok(text) = String::from_utf8(bytes) else {
        tracing::debug!(path = %inside.path(place).display(), "not UTF-8, left as it is");
        return Ok(false);
    };
    let name = place.relative().to_string_lossy().into_owned();
    let former = memory.as_ref().and_then(|memory| memory.files.get(&name));
    let (replaced, lines) = replace_lines(&text, former.map_or(&[][..], Vec::as_slice), variables);
    let has_other_lines = former.map_or(&[][..], Vec::as_slice) != lines.as_slice();
    if let Some(memory) = memory
        && has_other_lines
    {
        if lines.is_empty() {
            memory.files.remove(&name);
        } else {
            memory.files.insert(name, lines);
        }
        // Before the file changes, or the variables would be gone if this start ended here.
        memory.write(inside)?;
    }
    if replaced != text {
        inside
            .replace(place, replaced.as_bytes())
            .map_err(failed(inside, place))?;
    }
    Ok(has_other_lines || replaced != text)
}

impl Memory {
    fn read(inside: &Inside) -> Result<Self, PreparationError> {
        let place = Place::root().join(MEMORY.as_ref());
        let bytes = match inside.read(&place, MAX_FILE) {
            Ok(bytes) => bytes,
            Err(InsideError::Io(error)) => return Err(failed(inside, &place)(error.into())),
            Err(error) => {
                tracing::warn!(path = %inside.path(&place).display(), %error, "what variables stood for is not known any more");
                None
            }
        };
        let read = bytes.map(|bytes| serde_json::from_slice(&bytes)).transpose();
        Ok(read
            .unwrap_or_else(|error| {
                tracing::warn!(path = %inside.path(&place).display(), %error, "what variables stood for is not known any more");
                None
            })
            .unwrap_or_default())
    }

    fn write(&self, inside: &Inside) -> Result<(), PreparationError> {
        let place = Place::root().join(MEMORY.as_ref());
        let bytes = serde_json::to_vec_pretty(self)
            .map_err(|error| failed(inside, &place)(io::Error::other(error).into()))?;
        inside.replace(&place, &bytes).map_err(failed(inside, &place))
    }

    /// Every file has its new lines: the former ones do not count any more
    fn settle(&mut self) {
        for line in self.files.values_mut().flatten() {
            if let Some(last) = line.replaced.pop() {
                line.replaced = vec![last];
            }
        }
    }
}

/// The text with variables replaced, and what to remember of it
fn replace_lines(text: &str, former: &[Line], variables: &BTreeMap<String, String>) -> (String, Vec<Line>) {
    let mut left: Vec<&Line> = former.iter().collect();
    let mut lines = Vec::new();
    let mut result = String::with_capacity(text.len() + 64);
    for line in text.split_inclusive('\n') {
        let content = line.trim_end_matches(['\n', '\r']);
        let end = line.get(content.len()..).unwrap_or_default();
        let mut new = replace(content, variables);
        if new != content {
            lines.push(Line {
                template: content.to_owned(),
                replaced: vec![new.clone()],
            });
        } else if let Some(known) = left
            .iter()
            .position(|line| line.replaced.iter().any(|replaced| replaced == content))
        {
            let known = left.remove(known);
            new = replace(&known.template, variables);
            let mut replaced = vec![content.to_owned()];
            if new != content {
                replaced.push(new.clone());
            }
            lines.push(Line {
                template: known.template.clone(),
                replaced,
            });
        }
        result.push_str(&new);
        result.push_str(end);
    }
    (result, lines)
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

        fn start(&self, port: &str, lifetime: Lifetime) {
            let inside = Inside::new(self.0.path()).unwrap();
            substitute(&inside, &map(&[("PORT", port), ("GROUP", "lobby")]), lifetime).unwrap();
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
        folder.start("1", Lifetime::OneStart);
        assert_eq!(folder.text("config/server.PROPERTIES"), "port=1\r\nx=lobby");
        assert_eq!(folder.read("world/level.dat"), b"%PORT%");
        assert_eq!(folder.read("latin.txt"), b"\xe4 %PORT%");
        assert!(!folder.0.path().join(MEMORY).exists());
    }

    #[test]
    fn the_next_start_of_a_static_instance_has_the_variables_again() {
        let folder = Folder::new();
        folder.write(
            "server.properties",
            "motd=%GROUP% on %PORT%\r\nserver-port=%PORT%\r\nview=8\r\n",
        );
        folder.write("config/other.yml", "port: %PORT% # %GROUP%\n");
        folder.start("1", Lifetime::ManyStarts);
        assert_eq!(
            folder.text("server.properties"),
            "motd=lobby on 1\r\nserver-port=1\r\nview=8\r\n"
        );
        // Servers write their configuration anew, in an order of their own.
        folder.write("server.properties", "view=9\nserver-port=1\nmotd=mine\nnew=1\n");
        folder.start("2", Lifetime::ManyStarts);
        assert_eq!(
            folder.text("server.properties"),
            "view=9\nserver-port=2\nmotd=mine\nnew=1\n"
        );
        assert_eq!(folder.text("config/other.yml"), "port: 2 # lobby\n");
        folder.start("2", Lifetime::ManyStarts);
        // An operator's own value stays, also when it is one that a start wrote before.
        folder.write("server.properties", "server-port=1\nmotd=%GROUP%\n");
        folder.start("3", Lifetime::ManyStarts);
        assert_eq!(folder.text("server.properties"), "server-port=1\nmotd=lobby\n");
        assert_eq!(folder.text("config/other.yml"), "port: 3 # lobby\n");
    }

    #[test]
    fn a_start_that_was_cut_short_loses_no_variable() {
        let text = "port=%PORT%\n";
        let (one, lines) = replace_lines(text, &[], &map(&[("PORT", "1")]));
        // Remembered, and the file not written: the variable is still there.
        assert_eq!(replace_lines(text, &lines, &map(&[("PORT", "2")])).0, "port=2\n");
        let (two, both) = replace_lines(&one, &lines, &map(&[("PORT", "2")]));
        for left in [one, two] {
            assert_eq!(replace_lines(&left, &both, &map(&[("PORT", "3")])).0, "port=3\n");
        }
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
        as_nobody(|| folder.start("1", Lifetime::ManyStarts));
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
        // A planted temporary name, and a planted memory.
        std::os::unix::fs::symlink("/nonexistent/x", folder.0.path().join("a.txt.new")).unwrap();
        pipe(MEMORY);
        folder.start("1", Lifetime::ManyStarts);
        assert_eq!(folder.text("a.txt"), "1");
        folder.start("2", Lifetime::ManyStarts);
        assert_eq!(folder.text("a.txt"), "2");
        folder.write(MEMORY, "{ torn");
        folder.start("3", Lifetime::ManyStarts);
        assert_eq!(
            folder.text("a.txt"),
            "2",
            "what it stood for is not known any more"
        );
    }
}
