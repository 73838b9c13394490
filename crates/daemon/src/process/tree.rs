//! The processes that a process started

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;

use rustix::process::{Pid, Signal, pidfd_send_signal};

use super::identity::{Identity, Stat};

/// Process ids of the direct children of `parent`, ended ones that still await their parent included
///
/// # Errors
/// If `/proc` cannot be listed.
pub fn children(parent: Pid) -> io::Result<Vec<Pid>> {
    Ok(processes()?
        .into_iter()
        .filter(|(_, stat)| stat.parent == parent.as_raw_pid())
        .filter_map(|(pid, _)| Pid::from_raw(pid))
        .collect())
}

/// Sends SIGKILL to everything below `root`, and to `root` itself if `including_root`
///
/// A process is signalled only if it still is the one that was listed, so one that ends meanwhile and whose id is reused
/// is left alone. A process that forks faster than this looks may leave a child behind: whoever reaps for the tree (the
/// shim) repeats. Returns how many processes were signalled.
///
/// # Errors
/// If `/proc` cannot be listed, or this user may not signal one of the processes.
pub fn kill_tree(root: &Identity, including_root: bool) -> io::Result<usize> {
    let table = processes()?;
    // Checked after the listing: what it names as children of `root.pid` then are children of `root`.
    if root.open()?.is_none() {
        return Ok(0);
    }
    let mut below = BTreeSet::new();
    let mut frontier = vec![root.pid];
    while let Some(parent) = frontier.pop() {
        for (&pid, stat) in &table {
            if stat.parent == parent && below.insert(pid) {
                frontier.push(pid);
            }
        }
    }
    let mut killed = 0;
    if including_root {
        killed += usize::from(kill(root)?);
    }
    for pid in below {
        if let Some(stat) = table.get(&pid) {
            let process = Identity {
                pid,
                start_time: stat.start_time,
                boot: root.boot.clone(),
            };
            killed += usize::from(kill(&process)?);
        }
    }
    Ok(killed)
}

fn kill(process: &Identity) -> io::Result<bool> {
    let Some(pidfd) = process.open()? else {
        return Ok(false);
    };
    match pidfd_send_signal(&pidfd, Signal::KILL) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::SRCH) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// All processes by id; those that end while they are listed are left out
fn processes() -> io::Result<BTreeMap<i32, Stat>> {
    let mut table = BTreeMap::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        match Stat::read(pid) {
            Ok(stat) => {
                table.insert(pid, stat);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // Without this one the rest would be less than all.
            Err(error) => return Err(error),
        }
    }
    Ok(table)
}
