//! `prexorctl instance files`

use std::io::{self, IsTerminal as _, Write as _};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::arguments::FilesCommand;
use crate::client::Client;
use crate::failure::Failure;
use crate::output::{Output, remark};
use crate::printable;
use crate::resource::{FileContent, FileEntry, FileTree};

pub(super) async fn run(command: FilesCommand, client: &Client, output: &Output) -> Result<(), Failure> {
    match command {
        FilesCommand::Ls {
            id,
            folder,
            limit,
            depth,
        } => {
            let wanted = [("maxEntries", limit.to_string()), ("maxDepth", depth.to_string())];
            let answer = client
                .get::<FileTree>(&["instances", &id, "files"], &wanted)
                .await?;
            if output.is_json() {
                return output.json(&answer.json);
            }
            list(&answer.value, folder.as_deref(), output)
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

fn list(tree: &FileTree, folder: Option<&str>, output: &Output) -> Result<(), Failure> {
    let folder = folder.map(|folder| folder.trim_start_matches("./").trim_matches('/'));
    let folder = folder.filter(|folder| !folder.is_empty() && *folder != ".");
    let is_in = |entry: &&FileEntry| match folder {
        None => true,
        Some(folder) => entry
            .path
            .strip_prefix(folder)
            .is_some_and(|rest| rest.starts_with('/') || (rest.is_empty() && entry.summary)),
    };
    let rows = tree.entries.iter().filter(is_in).map(|entry| {
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
