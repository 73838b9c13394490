//! Lines on disk, rolled by size
//!
//! Lines go through a bounded queue to a thread of their own, because a disk may hang. What finds no room there, or cannot be
//! written, is dropped and counted. A file that was taken away, or whose folder was, is made anew: a line that went to a file
//! without a name would be lost without anybody knowing.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes of lines that wait for the disk at most
const MOST_WAITING: usize = 4 * 1024 * 1024;

/// How much is kept
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileLimits {
    /// The file is rolled before it would have more bytes than this.
    pub bytes: u64,
    /// How many former files stay beside it, `.1` the newest.
    pub former: usize,
}

/// Says what becomes of the file: `Err` when lines cannot be written any more, `Ok` with how many are missing when they can again
pub type Tell = Box<dyn Fn(Result<u64, &io::Error>) + Send>;

/// A file that takes lines; clones are the same file
#[derive(Clone)]
pub struct RollingFile(Arc<Shared>);

struct Shared {
    waiting: Mutex<Waiting>,
    changed: Condvar,
    lost: AtomicU64,
}

#[derive(Default)]
struct Waiting {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Lines are with the thread.
    is_writing: bool,
}

impl std::fmt::Debug for RollingFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RollingFile").finish_non_exhaustive()
    }
}

impl RollingFile {
    /// Begins to write to `path`, behind what is there; whether that works turns out with the first line
    ///
    /// # Errors
    /// If there is no thread for it.
    pub fn start(path: PathBuf, limits: FileLimits, tell: Tell) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            waiting: Mutex::default(),
            changed: Condvar::new(),
            lost: AtomicU64::new(0),
        });
        let writer = Writer {
            path,
            limits,
            open: None,
            missing: 0,
            is_told: false,
            tell,
        };
        let theirs = Arc::clone(&shared);
        thread::Builder::new()
            .name("log-file".to_owned())
            .spawn(move || theirs.write(writer))?;
        Ok(Self(shared))
    }

    /// Takes a line with its end; never waits.
    pub fn write(&self, line: &[u8]) {
        let mut waiting = self.0.waiting();
        if waiting.bytes + line.len() > MOST_WAITING {
            drop(waiting);
            self.0.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        waiting.bytes += line.len();
        waiting.lines.push_back(line.to_vec());
        drop(waiting);
        self.0.changed.notify_all();
    }

    /// How many lines could not be written so far.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.0.lost.load(Ordering::Relaxed)
    }

    /// Waits until everything is written or given up, at most for so long; says whether that is so.
    pub fn flush(&self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        let mut waiting = self.0.waiting();
        while waiting.is_writing || !waiting.lines.is_empty() {
            let Some(left) = until.checked_duration_since(Instant::now()) else {
                return false;
            };
            let woken = self.0.changed.wait_timeout(waiting, left);
            waiting = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what comes, for as long as the process lives.
    fn write(&self, mut writer: Writer) {
        let mut waiting = self.waiting();
        loop {
            if waiting.lines.is_empty() {
                waiting.is_writing = false;
                self.changed.notify_all();
                waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let lines = std::mem::take(&mut waiting.lines);
            (waiting.bytes, waiting.is_writing) = (0, true);
            drop(waiting);
            let lost = writer.write_all(&lines);
            self.lost.fetch_add(lost, Ordering::Relaxed);
            waiting = self.waiting();
        }
    }
}

struct Writer {
    path: PathBuf,
    limits: FileLimits,
    open: Option<Open>,
    /// Lines that could not be written since the last one that could
    missing: u64,
    is_told: bool,
    tell: Tell,
}

struct Open {
    file: File,
    bytes: u64,
    /// The last line has no end.
    is_torn: bool,
}

impl Writer {
    /// Says how many lines are lost.
    fn write_all(&mut self, lines: &VecDeque<Vec<u8>>) -> u64 {
        if self.open.as_ref().is_some_and(|open| !open.is_at(&self.path)) {
            self.open = None;
        }
        let mut lost = 0;
        for line in lines {
            match self.write(line) {
                Ok(()) => {
                    let missing = std::mem::take(&mut self.missing);
                    if std::mem::take(&mut self.is_told) {
                        self.say(Ok(missing));
                    }
                }
                Err(error) => {
                    lost += 1;
                    self.missing += 1;
                    if !std::mem::replace(&mut self.is_told, true) {
                        self.say(Err(&error));
                    }
                }
            }
        }
        lost
    }

    /// Tells it; whoever hears it may fail, and the lines after this one are written all the same.
    fn say(&self, what: Result<u64, &io::Error>) {
        let _ = catch_unwind(AssertUnwindSafe(|| (self.tell)(what)));
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let length = line.len() as u64;
        if let Some(open) = self
            .open
            .take_if(|open| open.bytes > 0 && open.bytes.saturating_add(length) > self.limits.bytes)
        {
            drop(open);
            self.roll()?;
        }
        if self.open.is_none() {
            self.open = Some(Open::at(&self.path)?);
        }
        match &mut self.open {
            Some(open) => open.write(line),
            None => Ok(()),
        }
    }

    /// Makes room for a new file; the oldest goes.
    fn roll(&self) -> io::Result<()> {
        if self.limits.former == 0 {
            return fs::remove_file(&self.path);
        }
        for number in (1..self.limits.former).rev() {
            match fs::rename(self.former(number), self.former(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        fs::rename(&self.path, self.former(1))
    }

    fn former(&self, number: usize) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(format!(".{number}"));
        PathBuf::from(name)
    }
}

impl Open {
    fn at(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder)?;
        }
        // Whoever may read what a node does is for its operator to say.
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o640)
            .open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self {
            file,
            bytes,
            is_torn: false,
        })
    }

    /// Whether it is the file that has the name; it may have been moved or deleted.
    fn is_at(&self, path: &Path) -> bool {
        match (self.file.metadata(), fs::metadata(path)) {
            (Ok(open), Ok(named)) => (open.dev(), open.ino()) == (named.dev(), named.ino()),
            _ => false,
        }
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        if self.is_torn {
            self.write_some(b"\n")?;
        }
        self.write_some(line)
    }

    fn write_some(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.file.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    self.bytes += written as u64;
                    bytes = bytes.get(written..).unwrap_or_default();
                    self.is_torn = !bytes.is_empty();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::sync::mpsc;

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    struct Case {
        folder: tempfile::TempDir,
        file: RollingFile,
        told: mpsc::Receiver<Result<u64, io::ErrorKind>>,
    }

    impl Case {
        fn new(bytes: u64, former: usize) -> Self {
            Self::at(bytes, former, |folder| folder.join("logs/x.log"))
        }

        fn at(bytes: u64, former: usize, path: impl FnOnce(&Path) -> PathBuf) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let (tell, told) = mpsc::channel();
            let tell: Tell = Box::new(move |what| tell.send(what.map_err(io::Error::kind)).unwrap());
            let file = RollingFile::start(path(folder.path()), FileLimits { bytes, former }, tell).unwrap();
            Self { folder, file, told }
        }

        fn write(&self, line: &str) {
            self.file.write(format!("{line}\n").as_bytes());
            assert!(self.file.flush(SOON));
        }

        fn read(&self, name: &str) -> String {
            fs::read_to_string(self.folder.path().join(name)).unwrap()
        }
    }

    #[test]
    fn a_full_file_is_rolled_and_the_oldest_goes() {
        let case = Case::new(20, 2);
        for number in 0..8 {
            case.write(&format!("line {number:>4}"));
        }
        // Two lines of ten bytes are a file.
        assert_eq!(case.read("logs/x.log"), "line    6\nline    7\n");
        assert_eq!(case.read("logs/x.log.1"), "line    4\nline    5\n");
        assert_eq!(case.read("logs/x.log.2"), "line    2\nline    3\n");
        assert_eq!(fs::read_dir(case.folder.path().join("logs")).unwrap().count(), 3);
        // A line that is larger than a file has one of its own.
        case.write(&"x".repeat(100));
        assert_eq!(case.read("logs/x.log").len(), 101);
        assert_eq!(case.file.lost(), 0);
    }

    #[test]
    fn one_goes_on_behind_what_is_there() {
        let case = Case::at(1000, 1, |folder| {
            fs::write(folder.join("x.log"), "before\n").unwrap();
            folder.join("x.log")
        });
        case.write("after");
        assert_eq!(case.read("x.log"), "before\nafter\n");
    }

    #[test]
    fn a_file_or_folder_that_is_taken_away_is_made_anew() {
        let case = Case::new(1000, 1);
        case.write("one");
        fs::remove_dir_all(case.folder.path().join("logs")).unwrap();
        case.write("two");
        assert_eq!(case.read("logs/x.log"), "two\n");
        fs::rename(
            case.folder.path().join("logs/x.log"),
            case.folder.path().join("logs/moved"),
        )
        .unwrap();
        case.write("three");
        assert_eq!(
            (case.read("logs/x.log"), case.read("logs/moved")),
            ("three\n".into(), "two\n".into())
        );
        assert_eq!(case.file.lost(), 0);
    }

    #[test]
    fn what_cannot_be_written_is_counted_and_told_once() {
        let case = Case::new(1000, 1);
        // A file where the folder should be.
        fs::write(case.folder.path().join("logs"), "").unwrap();
        for _ in 0..3 {
            case.write("lost");
        }
        assert_eq!(case.file.lost(), 3);
        assert!(case.told.try_recv().unwrap().is_err());
        assert!(case.told.try_recv().is_err(), "said once");
        fs::remove_file(case.folder.path().join("logs")).unwrap();
        case.write("kept");
        assert_eq!(case.told.try_recv().unwrap(), Ok(3));
        assert_eq!(case.read("logs/x.log"), "kept\n");
    }

    #[test]
    fn whoever_is_told_may_fail() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("logs/x.log");
        fs::write(folder.path().join("logs"), "").unwrap();
        let limits = FileLimits {
            bytes: 1000,
            former: 1,
        };
        let file = RollingFile::start(path.clone(), limits, Box::new(|_| panic!("nobody listens"))).unwrap();
        let write = |line: &[u8]| {
            file.write(line);
            assert!(file.flush(SOON));
        };
        write(b"lost\n");
        fs::remove_file(folder.path().join("logs")).unwrap();
        write(b"one\n");
        write(b"two\n");
        assert_eq!(
            (file.lost(), fs::read_to_string(path).unwrap().as_str()),
            (1, "one\ntwo\n")
        );
    }

    #[test]
    fn a_disk_without_room_holds_nobody_up() {
        let case = Case::at(1000, 1, |_| PathBuf::from("/dev/full"));
        case.write("lost");
        assert_eq!(case.told.try_recv().unwrap(), Err(io::ErrorKind::StorageFull));
        assert_eq!(case.file.lost(), 1);
    }
}
