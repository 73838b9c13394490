//! Files of a control folder that have lost their names while processes have them open
//!
//! Whoever removes or replaces a file takes it from the folder, and not from the server that writes to it or the shim that
//! holds its lock. As long as these live, the file is found among what they have open; it is kept from then on, and read
//! through this process's own descriptor, whatever becomes of them.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};

use crate::durable;

use super::{CONSOLE, ControlDir, EXIT, LOCK, RunningRecord, STDIN};

/// A file that its name does not lead to any more
#[derive(Debug)]
pub(super) struct Lost {
    name: &'static str,
    file: OwnedFd,
}

impl Lost {
    pub(super) fn path_of(lost: &[Self], name: &str) -> Option<PathBuf> {
        let lost = lost.iter().find(|lost| lost.name == name)?;
        Some(durable::own(lost.file.as_fd()))
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }
}

/// What the processes of this start have open and the folder does not name
pub(super) fn find(control: &ControlDir, running: &RunningRecord) -> io::Result<Vec<Lost>> {
    let mut found = Vec::new();
    let mut seek = |pid: i32, number: Option<i32>, names: &[&'static str]| -> io::Result<()> {
        for descriptor in descriptors(pid, number)? {
            // A server may have put anything in its place: only what was in this folder is ours.
            let Some(name) = names
                .iter()
                .find(|name| leads_to(&descriptor, &control.path().join(name)))
            else {
                continue;
            };
            let is_named =
                place(&descriptor).is_some_and(|there| place(&control.path().join(name)) == Some(there));
            if is_named || found.iter().any(|lost: &Lost| lost.name == *name) {
                continue;
            }
            // No more than a name: a FIFO gets neither a reader nor a writer by it.
            match openat(CWD, &descriptor, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
                Ok(file) => found.push(Lost { name, file }),
                Err(rustix::io::Errno::NOENT | rustix::io::Errno::SRCH) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    };
    if running.main.is_running()? {
        seek(running.main.pid, Some(0), &[STDIN])?;
        seek(running.main.pid, Some(1), &[CONSOLE])?;
        seek(running.main.pid, Some(2), &[CONSOLE])?;
    }
    if running.shim.is_running()? && running.shim != running.main {
        seek(running.shim.pid, None, &[LOCK, EXIT])?;
    }
    Ok(found)
}

fn descriptors(pid: i32, number: Option<i32>) -> io::Result<Vec<PathBuf>> {
    let folder = PathBuf::from(format!("/proc/{pid}/fd"));
    if let Some(number) = number {
        return Ok(vec![folder.join(number.to_string())]);
    }
    match fs::read_dir(&folder) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied
            ) =>
        {
            Ok(Vec::new())
        }
        Err(error) => Err(error),
    }
}

/// Whether it was opened under this name, which may be another's by now
fn leads_to(descriptor: &Path, name: &Path) -> bool {
    let Ok(target) = fs::read_link(descriptor) else {
        return false;
    };
    let target = target.as_os_str().as_encoded_bytes();
    let target = target.strip_suffix(b" (deleted)").unwrap_or(target);
    let named = |name: &Path| name.as_os_str().as_encoded_bytes() == target;
    // The kernel tells names without links on the way to them.
    let real = || {
        let folder = name.parent()?.canonicalize().ok()?;
        Some(folder.join(name.file_name()?))
    };
    named(name) || real().is_some_and(|real| named(&real))
}

fn place(path: &Path) -> Option<(u64, u64)> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}
