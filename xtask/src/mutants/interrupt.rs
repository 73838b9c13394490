//! What has to be stopped and removed when somebody presses Ctrl-C
//!
//! Children run in process groups of their own, so that a time-out can end one with everything it has started. The
//! terminal's Ctrl-C then no longer reaches them; this module passes it on.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::signal::unix::{SignalKind, signal};

struct Remains {
    groups: Vec<Pid>,
    folders: Vec<PathBuf>,
}

static REMAINS: Mutex<Remains> = Mutex::new(Remains {
    groups: Vec::new(),
    folders: Vec::new(),
});

fn remains() -> MutexGuard<'static, Remains> {
    REMAINS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on SIGINT and SIGTERM stop the children, remove the folders and end this process.
pub fn watch() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        std::thread::spawn(|| {
            let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_io().build() else {
                return;
            };
            // Without a handler a signal ends this process as it always does, only less tidily.
            let number = runtime.block_on(async {
                let mut interrupted = signal(SignalKind::interrupt()).ok()?;
                let mut terminated = signal(SignalKind::terminate()).ok()?;
                std::future::poll_fn(|context| {
                    if interrupted.poll_recv(context).is_ready() {
                        return std::task::Poll::Ready(Some(2));
                    }
                    terminated.poll_recv(context).map(|_| Some(15))
                })
                .await
            });
            if let Some(number) = number {
                // Held until the end, so that nothing new is started.
                let remains = remains();
                for group in &remains.groups {
                    let _ = kill_process_group(*group, Signal::KILL);
                }
                for folder in &remains.folders {
                    let _ = std::fs::remove_dir_all(folder);
                }
                std::process::exit(128 + number);
            }
        });
    });
}

/// A folder that must not stay behind.
pub fn remove_when_interrupted(folder: &Path) {
    remains().folders.push(folder.to_owned());
}

/// A child in a process group of its own, which ends with this value
pub struct Group {
    pub child: Child,
    id: Option<Pid>,
}

impl Group {
    /// Starts a command.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn spawn(command: &mut Command) -> io::Result<Self> {
        // Locked over both steps, or else a child could be started and not be known yet.
        let mut remains = remains();
        let child = command.process_group(0).spawn()?;
        let id = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        remains.groups.extend(id);
        Ok(Self { child, id })
    }

    /// Ends the child and everything it has started.
    pub fn kill(&mut self) {
        if let Some(id) = self.id {
            let _ = kill_process_group(id, Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        remains().groups.retain(|group| Some(*group) != self.id);
    }
}
