//! `prexorctl instance files`

use std::io::{self, IsTerminal as _, Write as _};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;

use crate::arguments::FilesCommand;
use crate::client::{Answer, Client};
use crate::failure::Failure;
use crate::output::{Output, remark};
use crate::printable;
use crate::resource::{FileContent, FileEntry, FileTree};

/// The most that a daemon lists of an instance
const MAX_ENTRIES: i32 = 131_072;
const MAX_DEPTH: i32 = 64;

pub(super) async fn run(command: FilesCommand, client: &Client, output: &Output) -> Result<(), Failure> {
    match command {
        FilesCommand::Ls {
            id,
            folder,
            limit,
            depth,
        } => {
            let folder = folder.as_deref().map(plain).transpose()?;
            let folder = folder.filter(|folder| !folder.is_empty());
            let mut wanted = vec![("maxEntries", limit.to_string())];
            let mut deep = depth;
            if let Some(folder) = &folder {
                // A walk is one of all folders: it has to come as far as this one, and not to sum up what it is in.
                wanted = ["maxEntries", "summarizeThreshold"]
                    .map(|limit| (limit, MAX_ENTRIES.to_string()))
                    .to_vec();
                deep = depth.saturating_add(i32::try_from(folder.split('/').count()).unwrap_or(MAX_DEPTH));
            }
            wanted.push(("maxDepth", deep.min(MAX_DEPTH).to_string()));
            let mut answer = client
                .get::<FileTree>(&["instances", &id, "files"], &wanted)
                .await?;
            if let Some(folder) = &folder {
                let limit = usize::try_from(limit).unwrap_or(usize::MAX);
                answer = part(answer, folder, limit)?;
            }
            match output.is_json() {
                true => output.json(&answer.json),
                false => list(&answer.value, output),
            }
        }
        FilesCommand::Cat {
            id,
            path,
            bytes,
            tail,
        } => {
            let wanted = [
                ("path", path),
                ("maxBytes", bytes.to_string()),
                ("tail", tail.to_string()),
            ];
            let answer = client
                .get::<FileContent>(&["instances", &id, "files", "content"], &wanted)
                .await?;
            if output.is_json() {
                return output.json(&answer.json);
            }
            print(&answer.value, tail, client)
        }
    }
}

/// Of a walk what is in a folder, or the file of that name
fn part(mut whole: Answer<FileTree>, folder: &str, limit: usize) -> Result<Answer<FileTree>, Failure> {
    let is_in = |entry: &FileEntry| {
        let rest = entry.path.strip_prefix(folder);
        rest.is_some_and(|rest| {
            rest.starts_with('/') || (rest.is_empty() && (entry.summary || !entry.is_dir))
        })
    };
    let tree = &mut whole.value;
    if !tree
        .entries
        .iter()
        .any(|entry| entry.path == folder || is_in(entry))
    {
        let message = match tree.truncated {
            true => {
                format!("{folder} is not among what a walk of this instance finds: it has too many files")
            }
            false => format!("there is no {folder} in the folder of this instance"),
        };
        return Err(Failure::NoSuch { message });
    }
    let shown = whole.json["entries"].as_array().cloned().unwrap_or_default();
    let entries = std::mem::take(&mut tree.entries);
    let mut those: Vec<_> = entries
        .into_iter()
        .zip(shown)
        .filter(|(entry, _)| is_in(entry))
        .collect();
    tree.truncated |= those.len() > limit;
    those.truncate(limit);
    let shown: Vec<Value>;
    (tree.entries, shown) = those.into_iter().unzip();
    whole.json["entries"] = shown.into();
    whole.json["truncated"] = tree.truncated.into();
    Ok(whole)
}

fn list(tree: &FileTree, output: &Output) -> Result<(), Failure> {
    let rows = tree.entries.iter().map(|entry| {
        let (size, path) = match (entry.is_dir, entry.summary) {
            (_, true) => (
                entry.size_bytes.to_string(),
                format!("{}/ ({} entries, not listed)", entry.path, entry.child_count),
            ),
            (true, false) => ("-".to_owned(), format!("{}/", entry.path)),
            (false, false) => (entry.size_bytes.to_string(), entry.path.clone()),
        };
        vec![size, output.ago(entry.modified_at.as_deref()), path]
    });
    output.table(&["BYTES", "CHANGED", "PATH"], rows.collect(), "No files.")?;
    if tree.truncated {
        remark("There is more: --limit and --depth say how much is listed.");
    }
    Ok(())
}

/// A path as the daemon writes it
fn plain(path: &str) -> Result<String, Failure> {
    let names: Vec<&str> = path
        .split('/')
        .filter(|name| !name.is_empty() && *name != ".")
        .collect();
    if names.contains(&"..") {
        return Err(Failure::Usage {
            message: format!(
                "{path} leads elsewhere: write a folder from that of the instance, without \"..\""
            ),
        });
    }
    Ok(names.join("/"))
}

/// Bytes as they are, and on a terminal nothing that it would obey
fn print(found: &FileContent, tail: bool, client: &Client) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    let is_seen = stdout.is_terminal();
    if found.encoding == "base64" {
        if is_seen {
            let why = "this is no text: redirect it to a file, or use -o json";
            return Err(io::Error::other(why).into());
        }
        let bytes = STANDARD.decode(&found.content);
        let bytes = bytes.map_err(|error| Failure::Unintelligible {
            controller: client.controller().to_owned(),
            request: "GET .../files/content".to_owned(),
            reason: error.to_string(),
        })?;
        stdout.write_all(&bytes)?;
    } else if is_seen {
        for line in found.content.lines() {
            writeln!(stdout, "{}", printable::line(line))?;
        }
    } else {
        stdout.write_all(found.content.as_bytes())?;
    }
    stdout.flush()?;
    if found.truncated {
        let part = if tail { "end" } else { "beginning" };
        let size = found.total_size_bytes;
        remark(format_args!(
            "This is the {part} of {size} bytes (--bytes, --tail)."
        ));
    }
    Ok(())
}
