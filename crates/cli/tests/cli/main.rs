//! The real program against a controller whose every byte the test decides
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod cache;
mod console;
mod groups;
mod hostile;
mod logs;
mod output;
mod requests;
mod server;
mod settings;
mod templates;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A home folder of its own, so that nothing of the machine's user is read
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        use std::os::unix::fs::PermissionsExt as _;
        let file = self.path().join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        file
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_prexorctl"));
        command
            .args(arguments)
            .env_clear()
            .env("HOME", self.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }
}

/// What the program left behind
#[derive(Debug)]
struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().expect("ended by itself"),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// Runs the program against a server, signed in
fn run(server: &server::Server, arguments: &[&str]) -> Ran {
    let home = Home::new();
    home.command(arguments)
        .env("PREXORCTL_CONTROLLER", server.url())
        .env("PREXOR_TOKEN", "prx_test")
        .output()
        .unwrap()
        .into()
}
