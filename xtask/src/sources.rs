//! Files that something is made from, and one digest of them

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

/// All files below `folder`, in the order of their names
pub(crate) fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    Ok(files)
}

/// The name of a file below `folder`, from there
pub(crate) fn relative(folder: &Path, path: &Path) -> Result<String> {
    let name = path
        .strip_prefix(folder)?
        .to_str()
        .context("a file name is not UTF-8")?;
    Ok(name.to_owned())
}

/// One digest over the bytes of files below `folder`, and over their names from there
pub(crate) fn digest(folder: &Path, files: &[PathBuf]) -> Result<String> {
    let mut digest = Sha256::new();
    for path in files {
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        digest.update(format!("{}\0{}\0", relative(folder, path)?, bytes.len()));
        digest.update(bytes);
    }
    Ok(digest
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}
