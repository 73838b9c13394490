//! The processes that were started with the files of a control folder

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::process::Pid;

use super::identity::{Identity, Stat};

/// The processes whose standard input is `stdin`, or whose standard output or error is `output`; the oldest first
///
/// An instance's main process and all that it started inherit these files, and nobody else has them under these numbers,
/// so an instance is found even where no record names it. One that closed them all is not.
///
/// # Errors
/// If `/proc` cannot be listed, or one of the files cannot be looked at for another reason than that it is missing.
pub fn holders(stdin: &Path, output: &Path) -> io::Result<Vec<Identity>> {
    let (stdin, output) = (place(stdin)?, place(output)?);
    if stdin.is_none() && output.is_none() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for pid in pids()? {
        let holds = |number: u32, file: Option<(u64, u64)>| -> io::Result<bool> {
            let at = place(Path::new(&format!("/proc/{}/fd/{number}", pid.as_raw_pid())))?;
            Ok(at.is_some() && at == file)
        };
        if !(holds(0, stdin)? || holds(1, output)? || holds(2, output)?) {
            continue;
        }
        match Stat::read(pid.as_raw_pid()) {
            Ok(stat) if stat.ended => {}
            Ok(_) => found.extend(gone_is_none(Identity::of(pid))?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    found.sort_by_key(|process| (process.start_time, process.pid));
    Ok(found)
}

/// The shim of this control folder: the process that works in it and was given it as an argument; the oldest of several
///
/// Either alone may be true of an operator who looks around.
///
/// # Errors
/// If `/proc` cannot be listed.
pub fn shim_of(folder: &Path) -> io::Result<Option<Identity>> {
    let Some(here) = place(folder)? else {
        return Ok(None);
    };
    let mut found = Vec::new();
    for pid in pids()? {
        let pid_folder = format!("/proc/{}", pid.as_raw_pid());
        if place(Path::new(&format!("{pid_folder}/cwd")))? != Some(here) {
            continue;
        }
        let arguments = fs::read(format!("{pid_folder}/cmdline"));
        let Some(arguments) = gone_is_none(arguments)? else {
            continue;
        };
        let mut arguments = arguments.split(|byte| *byte == 0);
        if arguments.any(|argument| argument == folder.as_os_str().as_bytes()) {
            found.extend(gone_is_none(Identity::of(pid))?);
        }
    }
    Ok(found
        .into_iter()
        .min_by_key(|process| (process.start_time, process.pid)))
}

/// The shims whose control folder in `run_folder` is gone, and which folder that was
///
/// Each was given its folder as an argument and works in it; the kernel remembers where that was, or knows where it was
/// moved to under its own name. That place comes last.
///
/// # Errors
/// If `/proc` cannot be listed.
pub fn homeless_shims(run_folder: &Path) -> io::Result<Vec<(PathBuf, Identity, Option<PathBuf>)>> {
    let real = run_folder.canonicalize()?;
    let me = rustix::process::geteuid().as_raw();
    let mut found = Vec::new();
    for pid in pids()? {
        let pid_folder = PathBuf::from(format!("/proc/{}", pid.as_raw_pid()));
        let Ok(worked_in) = fs::read_link(pid_folder.join("cwd")) else {
            continue;
        };
        let Some(name) = worked_in.file_name().map(OsStrExt::as_bytes) else {
            continue;
        };
        let was_here = worked_in.parent() == Some(&real);
        let (name, is_moved) = match name.strip_suffix(b" (deleted)") {
            Some(name) if was_here => (name, false),
            None if !was_here => (name, true),
            _ => continue,
        };
        if fs::metadata(&pid_folder).is_ok_and(|it| it.uid() != me) {
            continue;
        }
        let folder = run_folder.join(OsStr::from_bytes(name));
        let Some(arguments) = gone_is_none(fs::read(pid_folder.join("cmdline")))? else {
            continue;
        };
        let mut arguments = arguments.split(|byte| *byte == 0);
        if folder.exists() || !arguments.any(|argument| argument == folder.as_os_str().as_bytes()) {
            continue;
        }
        let moved_to = is_moved.then(|| worked_in.clone());
        found.extend(gone_is_none(Identity::of(pid))?.map(|shim| (folder, shim, moved_to)));
    }
    Ok(found)
}

/// The processes that work in a folder or below it
///
/// # Errors
/// If `/proc` cannot be listed.
pub fn working_below(folder: &Path) -> io::Result<Vec<Identity>> {
    let real = folder.canonicalize()?;
    let mut found = Vec::new();
    for pid in pids()? {
        let worked_in = fs::read_link(format!("/proc/{}/cwd", pid.as_raw_pid()));
        if worked_in.is_ok_and(|folder| folder.starts_with(&real)) {
            found.extend(gone_is_none(Identity::of(pid))?);
        }
    }
    Ok(found)
}

fn pids() -> io::Result<Vec<Pid>> {
    let mut pids = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        pids.extend(name.to_str().and_then(|name| Pid::from_raw(name.parse().ok()?)));
    }
    Ok(pids)
}

/// Which file a path leads to; `None` if to none, or to one of another user's process
fn place(path: &Path) -> io::Result<Option<(u64, u64)>> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some((metadata.dev(), metadata.ino()))),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied
            ) || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn gone_is_none<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error)
            if error.kind() == io::ErrorKind::NotFound
                || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::fs::File;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_process_is_found_by_its_files_and_by_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        let (stdin, log) = (folder.path().join("stdin"), folder.path().join("log"));
        assert!(
            holders(&stdin, &log).unwrap().is_empty(),
            "there are no such files"
        );
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mkfifoat(rustix::fs::CWD, &stdin, mode).unwrap();
        let output = File::create(&log).unwrap();
        // Open here under other numbers: that is no sign of an instance.
        let pipe = File::options().read(true).write(true).open(&stdin).unwrap();
        assert!(holders(&stdin, &log).unwrap().is_empty());
        let mut first = Command::new("sh")
            .args(["-c", "read word", "sh"])
            .arg(folder.path())
            .stdin(pipe.try_clone().unwrap())
            .current_dir(folder.path())
            .spawn()
            .unwrap();
        let identity = |child: &std::process::Child| Identity::of(Pid::from_child(child)).unwrap();
        let expected = identity(&first);
        assert_eq!(holders(&stdin, &log).unwrap(), std::slice::from_ref(&expected));
        // A process that has just become another program has no arguments for a moment.
        let until = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while shim_of(folder.path()).unwrap() != Some(expected.clone()) {
            assert!(std::time::Instant::now() < until, "the process is not found");
            std::thread::yield_now();
        }
        let elsewhere = folder.path().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        let mut second = Command::new("sleep")
            .arg("3600")
            .stdin(Stdio::null())
            .stdout(output)
            .current_dir(&elsewhere)
            .spawn()
            .unwrap();
        assert_eq!(shim_of(&elsewhere).unwrap(), None, "it was not given the folder");
        assert_eq!(
            holders(&stdin, &log).unwrap(),
            [identity(&first), identity(&second)]
        );
        for child in [&mut first, &mut second] {
            child.kill().unwrap();
        }
        // They wait to be reaped, and do not run.
        let ended = |child: &mut std::process::Child| child.wait().unwrap();
        ended(&mut first);
        ended(&mut second);
        assert!(holders(&stdin, &log).unwrap().is_empty());
        assert_eq!(shim_of(folder.path()).unwrap(), None);
    }
}
