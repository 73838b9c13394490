//! A disk of a few megabytes, which programs can be put on and a test can fill

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A tmpfs that only processes in its mount namespace see
pub struct SmallDisk {
    /// Holds the namespace
    holder: Child,
    /// Where it is mounted, for those inside
    folder: PathBuf,
}

/// Makes the namespace: `unshare` without a user namespace for root, with one for everybody else
fn unshare() -> Command {
    let mut command = Command::new("unshare");
    command.arg("--mount");
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command
}

/// Why there can be no small disk on this machine
pub fn refusal() -> Option<&'static str> {
    let tried = unshare()
        .args(["mount", "-t", "tmpfs", "tmpfs", "/mnt"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    match tried {
        Ok(status) if status.success() => None,
        Ok(_) => Some("not run: mounts are not allowed here"),
        Err(_) => Some("not run: there is no unshare here"),
    }
}

impl SmallDisk {
    /// Mounts `megabytes` on `folder`
    pub fn new(folder: &Path, megabytes: u32) -> Self {
        fs::create_dir_all(folder).unwrap();
        let script =
            format!("mount -t tmpfs -o size={megabytes}m,mode=0700 tmpfs \"$0\" && echo mounted && exec cat");
        let mut holder = unshare()
            .args(["sh", "-c", &script])
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(holder.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "mounted\n");
        Self {
            holder,
            folder: folder.to_owned(),
        }
    }

    /// The command that starts a program inside
    pub fn entrance(&self) -> Vec<String> {
        let user: &[&str] = if rustix::process::geteuid().is_root() {
            &[]
        } else {
            &["--user", "--preserve-credentials"]
        };
        let target = self.holder.id().to_string();
        [&["nsenter", "--target", &target, "--mount"], user, &["--"]]
            .concat()
            .into_iter()
            .map(str::to_owned)
            .collect()
    }

    /// A file on the disk, as the test sees it
    pub fn path(&self, name: &str) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.holder.id()));
        root.join(self.folder.strip_prefix("/").unwrap()).join(name)
    }

    /// Leaves not a byte
    pub fn fill(&self) {
        let mut ballast = File::options()
            .create(true)
            .append(true)
            .open(self.path("ballast"))
            .unwrap();
        for size in [1 << 20, 4096, 1] {
            while ballast.write_all(&vec![0; size]).is_ok() {}
        }
    }

    /// Makes room again
    pub fn free(&self) {
        fs::remove_file(self.path("ballast")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
