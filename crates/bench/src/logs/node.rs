//! The other process: a daemon that is told to log faster than its log may go to the controller

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use prexorcloud_daemon::{Daemon, OwnProgram, Surroundings, config};
use prexorcloud_logs::{Mirror, MirrorLayer};
use serde::{Deserialize, Serialize};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{layer::SubscriberExt as _, util::SubscriberInitExt as _};

use super::{MESSAGE, NODE, RATE};

/// The first argument of the process that is the daemon
pub const ROLE: &str = "logs-node";

/// What one flood was, and what became of all records so far
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Flooded {
    /// Records of this flood
    pub offered: u64,
    /// How long it took, in seconds
    pub seconds: f64,
    /// How long whoever logged was held up by it, in seconds
    pub logging: f64,
    /// Records that the daemon has logged since it started
    pub logged: u64,
}

/// The daemon in another process; it is killed with this
pub struct Node {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Node {
    /// Starts it; it joins with the token, and keeps everything in the folder
    pub fn start(folder: &Path, endpoint: &str, token: &str) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(ROLE)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdin = child.stdin.take().context("no stdin")?;
        let stdout = BufReader::new(child.stdout.take().context("no stdout")?);
        let mut node = Self { child, stdin, stdout };
        // Not by its arguments, which everybody can see.
        writeln!(node.stdin, "{}\n{endpoint}\n{token}", folder.display())?;
        let ready = node.line()?;
        if ready != "ready" {
            bail!("the daemon said {ready:?}");
        }
        Ok(node)
    }

    /// The id of its process
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Makes it log for so long, and waits until it has
    pub fn flood(&mut self, time: Duration) -> Result<Flooded> {
        writeln!(self.stdin, "{}", time.as_millis())?;
        Ok(serde_json::from_str(&self.line()?)?)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may be dead already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The other process: serves until it is killed, or left alone
pub fn serve() -> Result<()> {
    let mirror = Mirror::new(LevelFilter::INFO);
    tracing_subscriber::registry()
        .with(LevelFilter::INFO)
        .with(MirrorLayer::new(mirror.clone()))
        .init();
    let mut lines = std::io::stdin().lines();
    let mut next = || {
        lines
            .next()
            .context("nobody says what to do")?
            .map_err(anyhow::Error::from)
    };
    let (folder, endpoint, token) = (next()?, next()?, next()?);
    let settings = serde_json::json!({
        "node_id": NODE,
        "data_dir": folder,
        "controller": { "endpoints": [endpoint] },
        "enrolment": { "join_token": token },
        "health": { "enabled": false },
        "reconnect": { "initial_delay_ms": 100, "max_delay_ms": 500 },
    });
    let config = config::parse(&toml::to_string(&settings)?, "bench", [])?.config;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let surroundings = Surroundings {
        log: Some(mirror.clone()),
    };
    let daemon = runtime.block_on(Daemon::start_within(surroundings, config, OwnProgram::current()))?;
    println!("ready");
    while let Ok(line) = next() {
        let flooded = flood(Duration::from_millis(line.parse()?), &mirror);
        println!("{}", serde_json::to_string(&flooded)?);
    }
    runtime.block_on(daemon.shutdown());
    Ok(())
}

fn flood(time: Duration, mirror: &Mirror) -> Flooded {
    let begun = Instant::now();
    let (mut offered, mut logging) = (0, Duration::ZERO);
    while begun.elapsed() < time {
        let due = (begun.elapsed().as_secs_f64() * RATE) as u64;
        let asked = Instant::now();
        while offered < due {
            offered += 1;
            tracing::info!(number = offered, "{MESSAGE}");
        }
        logging += asked.elapsed();
        std::thread::sleep(Duration::from_millis(1));
    }
    Flooded {
        offered,
        seconds: begun.elapsed().as_secs_f64(),
        logging: logging.as_secs_f64(),
        logged: mirror.counts().logged,
    }
}
