//! A controller or daemon as a child process

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::timeout;

const LONGEST_ANNOUNCEMENT: u64 = 64 * 1024;
const TAIL_BYTES: u64 = 16 * 1024;

/// A child process that writes its log to a file and dies with this one
#[derive(Debug)]
pub struct Process {
    name: &'static str,
    child: Child,
    /// Held apart from the child, because waiting for a child closes its standard input
    _tether: Option<ChildStdin>,
    log: PathBuf,
}

impl Process {
    /// Starts `prexorcloud <role> --config <config>`
    pub fn start(name: &'static str, config: &Path, log: &Path) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let file = File::options()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(log)
            .with_context(|| format!("cannot write {}", log.display()))?;
        let mut child = Command::new(program)
            .arg(name)
            .arg("--config")
            .arg(config)
            .args(["--announce", "--tether"])
            .env_remove("PREXORCLOUD_CONFIG")
            // Standard input is the tether: it ends when this process does.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(file)
            // Ctrl-C is for this process alone, which then ends its children in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start the {name}"))?;
        Ok(Self {
            name,
            _tether: child.stdin.take(),
            child,
            log: log.to_owned(),
        })
    }

    /// Waits until the process says that it serves
    pub async fn ready<T: DeserializeOwned>(&mut self, limit: Duration) -> anyhow::Result<T> {
        let name = self.name;
        let Some(stdout) = self.child.stdout.take() else {
            bail!("the {name} was asked for its announcement before");
        };
        let mut line = String::new();
        let read = async {
            BufReader::new(stdout.take(LONGEST_ANNOUNCEMENT))
                .read_line(&mut line)
                .await
        };
        match timeout(limit, read).await {
            Err(_) => bail!("the {name} did not become ready within {} s", limit.as_secs()),
            Ok(Err(error)) => return Err(error).with_context(|| format!("cannot read from the {name}")),
            Ok(Ok(0)) => {
                let status = self.ended(Duration::from_secs(5)).await?;
                bail!(
                    "the {name} ended ({status}) before it was ready: {}",
                    self.last_line()
                );
            }
            Ok(Ok(_)) => {}
        }
        serde_json::from_str(&line)
            .with_context(|| format!("the {name} announced itself in other words: {line}"))
    }

    /// Waits until the process ends by itself
    pub async fn ended(&mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        match timeout(limit, self.child.wait()).await {
            Ok(status) => status.with_context(|| format!("cannot wait for the {}", self.name)),
            Err(_) => bail!("the {} did not end within {} s", self.name, limit.as_secs()),
        }
    }

    /// Resolves when the process has ended, whenever that is
    pub async fn gone(&mut self) -> anyhow::Result<ExitStatus> {
        self.child
            .wait()
            .await
            .with_context(|| format!("cannot wait for the {}", self.name))
    }

    /// Asks it to end, as a service manager would
    pub fn terminate(&self) -> anyhow::Result<()> {
        let pid = self
            .child
            .id()
            .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        if let Some(pid) = pid {
            rustix::process::kill_process(pid, Signal::TERM)
                .with_context(|| format!("cannot signal the {}", self.name))?;
        }
        Ok(())
    }

    pub fn name(&self) -> &'static str {
        self.name
    }

    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// The last lines of its log
    pub fn tail(&self, lines: usize) -> Vec<String> {
        let text = tail(&self.log).unwrap_or_default();
        let all: Vec<&str> = text.lines().collect();
        let from = all.len().saturating_sub(lines);
        all.iter().skip(from).map(|line| (*line).to_owned()).collect()
    }

    fn last_line(&self) -> String {
        self.tail(1).pop().unwrap_or_else(|| "it said nothing".to_owned())
    }
}

fn tail(file: &Path) -> std::io::Result<String> {
    let mut file = File::open(file)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
