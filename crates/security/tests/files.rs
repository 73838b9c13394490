//! Secret files and the lock of a data directory
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::fs::{self, Permissions};
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use prexorcloud_security::files::{self, DataDirLock, FileError, LockError};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn secrets_are_for_their_owner_only_and_replaced_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("secret");
    files::write_secret(&path, b"first").unwrap();
    assert_eq!(
        (mode(&path), files::read_secret(&path, 100).unwrap().as_slice()),
        (0o600, b"first".as_slice())
    );
    // A looser mode of the old file is not inherited.
    fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
    files::write_secret(&path, b"second").unwrap();
    assert_eq!(
        (mode(&path), files::read_secret_text(&path, 6).unwrap().as_str()),
        (0o600, "second")
    );
    files::write_public(&path, b"third").unwrap();
    assert_eq!(
        (mode(&path), files::read_text(&path, 100).unwrap().as_str()),
        (0o644, "third")
    );
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        1,
        "no temporary files are left"
    );
    files::remove(&path).unwrap();
    files::remove(&path).unwrap();
    assert!(files::read(&path, 100).unwrap_err().is_not_found());
}

#[test]
fn a_secret_that_others_can_read_is_refused_with_the_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("secret");
    files::write_secret(&path, b"secret").unwrap();
    for open in [0o640, 0o604, 0o660, 0o644] {
        fs::set_permissions(&path, Permissions::from_mode(open)).unwrap();
        let error = files::read_secret(&path, 100).unwrap_err();
        assert!(
            matches!(error, FileError::TooOpen { mode, .. } if mode == open),
            "{error}"
        );
        assert!(error.to_string().contains("chmod 600"));
    }
}

#[test]
fn reading_is_bounded_and_never_waits() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    files::write_secret(&path, &[b'x'; 101]).unwrap();
    assert!(matches!(
        files::read(&path, 100).unwrap_err(),
        FileError::TooLarge { limit: 100, .. }
    ));
    assert_eq!(files::read(&path, 101).unwrap().len(), 101);
    assert!(matches!(
        files::read(dir.path(), 100).unwrap_err(),
        FileError::NotAFile { .. }
    ));
    // A device reports no length; the limit holds all the same.
    assert!(matches!(
        files::read(Path::new("/dev/zero"), 100).unwrap_err(),
        FileError::NotAFile { .. }
    ));
    assert!(matches!(
        files::read(Path::new("/proc/self/maps"), 10).unwrap_err(),
        FileError::TooLarge { .. }
    ));
    let pipe = dir.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    assert!(matches!(
        files::read(&pipe, 100).unwrap_err(),
        FileError::NotAFile { .. }
    ));
    fs::write(&path, [0xff, 0xfe]).unwrap();
    assert!(matches!(
        files::read_text(&path, 100).unwrap_err(),
        FileError::NotText { .. }
    ));
}

#[test]
fn a_leftover_or_a_planted_link_does_not_catch_the_secret() {
    let dir = tempfile::tempdir().unwrap();
    let (path, elsewhere) = (dir.path().join("secret"), dir.path().join("elsewhere"));
    let temporary = dir.path().join(format!(".secret.{}.tmp", std::process::id()));
    fs::write(&elsewhere, "untouched").unwrap();
    std::os::unix::fs::symlink(&elsewhere, &temporary).unwrap();
    files::write_secret(&path, b"secret").unwrap();
    assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "untouched");
    assert_eq!(files::read_secret_text(&path, 100).unwrap().as_str(), "secret");
    assert!(!temporary.exists());
}

#[test]
fn a_failed_write_says_where_and_leaves_the_old_file() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing/secret");
    let error = files::write_secret(&missing, b"x").unwrap_err();
    assert!(
        error.is_not_found() && error.to_string().contains("missing"),
        "{error}"
    );
    assert!(matches!(
        files::write_secret(Path::new("/"), b"x"),
        Err(FileError::NoFileName { .. })
    ));
    let occupied = dir.path().join("directory");
    fs::create_dir(&occupied).unwrap();
    assert!(files::write_secret(&occupied, b"x").is_err());
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        1,
        "no temporary files are left"
    );
}

#[test]
fn directories_are_private_and_foreign_ones_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let new = dir.path().join("a/b");
    files::ensure_private_dir(&new).unwrap();
    assert_eq!((mode(&new), mode(&dir.path().join("a"))), (0o700, 0o700));
    files::ensure_private_dir(&new).unwrap();

    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    fs::set_permissions(&empty, Permissions::from_mode(0o775)).unwrap();
    files::ensure_private_dir(&empty).unwrap();
    assert_eq!(mode(&empty), 0o700);

    let used = dir.path().join("used");
    fs::create_dir(&used).unwrap();
    fs::write(used.join("file"), "").unwrap();
    fs::set_permissions(&used, Permissions::from_mode(0o755)).unwrap();
    files::ensure_private_dir(&used).unwrap();
    assert_eq!(mode(&used), 0o755);
    fs::set_permissions(&used, Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(
        files::ensure_private_dir(&used),
        Err(FileError::SharedDirectory { .. })
    ));
    assert_eq!(mode(&used), 0o777);
    let file = used.join("file");
    assert!(matches!(
        files::ensure_private_dir(&file),
        Err(FileError::Io { .. })
    ));
}

#[test]
fn a_data_directory_has_one_holder() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("data");
    let lock = DataDirLock::acquire(&home, "controller").unwrap();
    assert_eq!(mode(&home), 0o700);
    let error = DataDirLock::acquire(&home, "controller").unwrap_err();
    let LockError::Held {
        holder: Some(holder), ..
    } = &error
    else {
        panic!("{error}")
    };
    assert_eq!(*holder, format!("controller, pid {}", std::process::id()));
    assert!(error.to_string().contains("in use by another process"), "{error}");
    drop(lock);
    let lock = DataDirLock::acquire(&home, "controller").unwrap();
    assert!(lock.path().exists());
}

#[test]
fn another_process_is_kept_out_and_a_dead_one_locks_nobody_out() {
    let dir = tempfile::tempdir().unwrap();
    // flock(1) of util-linux takes the same lock; it says so on its standard output and keeps it until its
    // input closes.
    let lock_file = dir.path().join("lock");
    fs::write(&lock_file, "daemon, pid 4711\n").unwrap();
    let mut holder = Command::new("flock")
        .args(["--exclusive", "--no-fork"])
        .arg(&lock_file)
        .args(["sh", "-c", "echo held; exec cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("flock (util-linux) must be installed for this test");
    let mut line = String::new();
    BufReader::new(holder.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "held\n");
    let error = DataDirLock::acquire(dir.path(), "controller").unwrap_err();
    assert!(error.to_string().contains("daemon, pid 4711"), "{error}");
    holder.kill().unwrap();
    holder.wait().unwrap();
    DataDirLock::acquire(dir.path(), "controller").unwrap();
}

#[test]
fn a_directory_that_cannot_be_written_is_an_error_with_its_path() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let error = DataDirLock::acquire(&file.join("data"), "controller").unwrap_err();
    assert!(
        matches!(error, LockError::File(_)) && error.to_string().contains("data"),
        "{error}"
    );
}
