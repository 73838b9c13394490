//! The program `prexor-shim`, where it stands beside this one
//!
//! It is opened once and run by its descriptor: an upgrade that replaces or removes the files changes nothing for the daemon
//! that runs. One that could not be trusted, or is of another version, is left alone, and so is its absence: this program
//! can do the same, with more memory for every server.

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Its file name
pub const NAME: &str = "prexor-shim";

/// The opened program; it can be run for as long as this lives
#[derive(Debug)]
pub struct SmallShim {
    file: File,
}

impl SmallShim {
    /// The one beside `program`, or `None` if there is none
    ///
    /// # Errors
    /// It cannot be opened, is not as well guarded as `program`, or is not of this version.
    pub fn beside(program: &Path) -> io::Result<Option<Self>> {
        let Some(folder) = std::fs::read_link(program)?.parent().map(Path::to_path_buf) else {
            return Ok(None);
        };
        let path = folder.join(NAME);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(io::Error::new(
                    error.kind(),
                    format!("{}: {error}", path.display()),
                ));
            }
        };
        let refuse = |why: &str| io::Error::other(format!("{} {why}", path.display()));
        if !is_as_guarded(&file.metadata()?, &std::fs::metadata(program)?) {
            return Err(refuse(
                "is no file, or belongs to others or can be written by more than the program beside it",
            ));
        }
        let shim = Self { file };
        let said = Command::new(shim.path())
            .arg("--version")
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output()
            .map_err(|error| refuse(&format!("cannot be run: {error}")))?;
        let expected = concat!("prexor-shim ", env!("CARGO_PKG_VERSION"), "\n");
        if said.stdout != expected.as_bytes() {
            return Err(refuse("is of another version; install both files of a release"));
        }
        Ok(Some(shim))
    }

    /// What to execute
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }
}

/// Whether nobody can have written it who could not have written the program
fn is_as_guarded(shim: &Metadata, program: &Metadata) -> bool {
    const WRITE_OF_OTHERS: u32 = 0o022;
    let more = shim.mode() & WRITE_OF_OTHERS & !program.mode();
    shim.is_file() && shim.uid() == program.uid() && more == 0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn with_shim(text: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let (program, shim) = (folder.path().join("prexorcloud"), folder.path().join(NAME));
        fs::write(&program, "").unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(&shim, text).unwrap();
        fs::set_permissions(&shim, fs::Permissions::from_mode(mode)).unwrap();
        let running = folder.path().join("exe");
        symlink(&program, &running).unwrap();
        (folder, running)
    }

    #[test]
    fn only_one_that_can_be_trusted_is_taken() {
        let none = with_shim("", 0o755);
        fs::remove_file(none.0.path().join(NAME)).unwrap();
        assert!(SmallShim::beside(&none.1).unwrap().is_none());
        let writable = with_shim("", 0o777);
        let error = SmallShim::beside(&writable.1).unwrap_err().to_string();
        assert!(error.contains("written by more"), "{error}");
        let unrelated = with_shim("no program", 0o755);
        let error = SmallShim::beside(&unrelated.1).unwrap_err().to_string();
        assert!(error.contains("cannot be run"), "{error}");
    }
}
