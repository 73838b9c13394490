//! Crash reports on disk until a controller has them
//!
//! A report is written durably before the instance's end counts as told, and deleted when a controller has confirmed it.
//! Its id is made of the instance and its incarnation, so that an end that is told twice, because the daemon was killed in
//! between or its disk was full, is one report.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use prexorcloud_proto::CrashReport;
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use crate::durable;
use crate::supervisor::Exit;

/// The most reports that are kept; the oldest is given up for a new one
const MAX_REPORTS: usize = 256;

/// The largest report that is read back
const MAX_REPORT_BYTES: u64 = 32 * 1024 * 1024;

const SUFFIX: &str = ".crash";

/// The folder of unconfirmed crash reports
#[derive(Debug)]
pub(super) struct CrashSpool {
    folder: PathBuf,
}

impl CrashSpool {
    /// Opens the folder, which is created if it is missing
    pub(super) fn open(folder: PathBuf) -> io::Result<Self> {
        durable::private_folder(&folder)?;
        Ok(Self { folder })
    }

    /// Writes a report down
    pub(super) fn put(&self, report: &CrashReport) -> io::Result<()> {
        let mut kept = self.paths()?;
        while kept.len() >= MAX_REPORTS {
            let oldest = kept.remove(0);
            tracing::warn!(file = %oldest.display(), "too many crash reports wait for a controller; the oldest is given up");
            durable::remove(&oldest)?;
        }
        durable::replace(&self.path(&report.report_id), &report.encode_to_vec())
    }

    /// Forgets a report that a controller has
    pub(super) fn confirmed(&self, report_id: &str) -> io::Result<()> {
        // The id comes back from the controller: only one of ours may name a file.
        if is_report_id(report_id) {
            durable::remove(&self.path(report_id))
        } else {
            Ok(())
        }
    }

    /// All reports, oldest first; files that were read and are no report are deleted with a warning
    pub(super) fn pending(&self) -> io::Result<Vec<CrashReport>> {
        let mut reports = Vec::new();
        for path in self.paths()? {
            match read(&path) {
                Ok(report) => reports.push(report),
                Err(error) if !durable::is_damage(&error) => return Err(error),
                Err(error) => {
                    tracing::warn!(file = %path.display(), %error, "not a crash report, deleting it");
                    durable::remove(&path)?;
                }
            }
        }
        Ok(reports)
    }

    fn path(&self, report_id: &str) -> PathBuf {
        self.folder.join(format!("{report_id}{SUFFIX}"))
    }

    fn paths(&self) -> io::Result<Vec<PathBuf>> {
        let mut paths = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let path = entry.path();
            let is_report = path.to_str().is_some_and(|path| path.ends_with(SUFFIX));
            if is_report && entry.file_type()?.is_file() {
                paths.push((entry.metadata()?.modified()?, path));
            }
        }
        paths.sort();
        Ok(paths.into_iter().map(|(_, path)| path).collect())
    }
}

fn read(path: &Path) -> io::Result<CrashReport> {
    let invalid = |problem: &str| io::Error::new(io::ErrorKind::InvalidData, problem.to_owned());
    let bytes = durable::read_bounded(path, MAX_REPORT_BYTES)?.unwrap_or_default();
    let report = CrashReport::decode(bytes.as_slice()).map_err(|error| invalid(&error.to_string()))?;
    if is_report_id(&report.report_id) {
        Ok(report)
    } else {
        Err(invalid("it has no id"))
    }
}

/// What a report of this end is called: the same after each restart, whatever is known of the end by then
///
/// A start of a controller that numbers none is told apart by its time.
pub(super) fn report_id(exit: &Exit) -> String {
    let start = if exit.incarnation.is_known() {
        i64::try_from(exit.incarnation.get()).unwrap_or(i64::MAX)
    } else {
        exit.started_at_ms
    };
    let mut digest = Sha256::new();
    digest.update(format!("{} {} {start}", exit.instance, exit.incarnation.get()));
    let digest = digest.finalize();
    digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

fn is_report_id(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::time::Duration;

    use prexorcloud_protocol::Incarnation;

    use super::*;
    use crate::control::ExitCause;

    fn exit(incarnation: u64) -> Exit {
        Exit {
            instance: "lobby-1".parse().unwrap(),
            group: "lobby".parse().unwrap(),
            incarnation: Incarnation::new(incarnation),
            port: 30_000,
            cause: ExitCause::Signalled(9),
            stopped_for: None,
            uptime: Duration::from_millis(1234),
            started_at_ms: 1000,
            exited_at_ms: 2234,
            log_tail: vec!["last words".into()],
        }
    }

    fn report(exit: &Exit) -> CrashReport {
        CrashReport {
            instance_id: exit.instance.to_string(),
            incarnation: exit.incarnation.get(),
            log_tail: exit.log_tail.clone(),
            report_id: report_id(exit),
            ..CrashReport::default()
        }
    }

    #[test]
    fn reports_survive_until_they_are_confirmed() {
        let folder = tempfile::tempdir().unwrap();
        let spool = CrashSpool::open(folder.path().join("crashes")).unwrap();
        let (first, second) = (report(&exit(1)), report(&exit(2)));
        assert_ne!(first.report_id, second.report_id);
        let later = Exit {
            exited_at_ms: 999_999,
            cause: ExitCause::Unobserved,
            ..exit(1)
        };
        assert_eq!(
            report_id(&later),
            report_id(&exit(1)),
            "the same end is the same report"
        );
        let unnumbered = |started_at_ms| {
            report_id(&Exit {
                started_at_ms,
                ..exit(0)
            })
        };
        assert_ne!(
            unnumbered(1000),
            unnumbered(1001),
            "two starts that nobody numbered"
        );
        spool.put(&first).unwrap();
        spool.put(&second).unwrap();
        spool.put(&first).unwrap();
        drop(spool);
        let spool = CrashSpool::open(folder.path().join("crashes")).unwrap();
        assert_eq!(spool.pending().unwrap().len(), 2);
        spool.confirmed(&first.report_id).unwrap();
        spool.confirmed("../../etc/passwd").unwrap();
        assert_eq!(spool.pending().unwrap(), [second]);
    }

    #[test]
    fn a_torn_file_is_dropped_and_the_folder_is_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let spool = CrashSpool::open(folder.path().to_path_buf()).unwrap();
        fs::write(folder.path().join("x.crash"), b"\xff\xff\xff").unwrap();
        assert!(spool.pending().unwrap().is_empty());
        for at in 0..=MAX_REPORTS {
            spool.put(&report(&exit(u64::try_from(at).unwrap()))).unwrap();
        }
        assert_eq!(spool.pending().unwrap().len(), MAX_REPORTS);
    }
}
