//! The memory of a server that holds many idle daemons, in a process of its own

use std::io::{BufRead as _, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use prexorcloud_transport::{DialOptions, Dialer, Target};

use crate::pki::Pki;
use crate::report::{Aim, Report, Row};
use crate::rig::{BareDaemon, CHUNK_BYTES, Daemon, serve_bare, serve_product};

/// The first argument of the process that is measured.
pub const ROLE: &str = "idle-server";
/// Its second argument, where nothing of ours is to be in it.
pub const BARE: &str = "bare";

/// The most that one idle daemon may cost, in KiB.
const AIM_KIB: f64 = 64.0;

pub fn run(report: &mut Report, daemons: usize) -> Result<()> {
    eprintln!("idle: {daemons} daemons");
    let pki = Pki::create()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ours = runtime.block_on(async {
        let mut server = Process::start(false, &pki)?;
        let target: Target = server.address.parse()?;
        let dialer = Dialer::with_config(pki.client()?, DialOptions::default());
        // What the first connection makes the process load is not the cost of a connection.
        let mut held = vec![Daemon::connect_with(&dialer, &target).await?];
        let before = server.settled()?;
        for _ in 0..daemons {
            held.push(Daemon::connect_with(&dialer, &target).await?);
        }
        Ok::<_, anyhow::Error>((server.settled()? - before) / daemons as f64)
    })?;
    let theirs = runtime.block_on(async {
        let mut server = Process::start(true, &pki)?;
        let url = format!("https://{}", server.address);
        let mut held = vec![BareDaemon::connect(&pki, &url).await?];
        let before = server.settled()?;
        for _ in 0..daemons {
            held.push(BareDaemon::connect(&pki, &url).await?);
        }
        Ok::<_, anyhow::Error>((server.settled()? - before) / daemons as f64)
    })?;
    let name = format!("memory of the controller per idle daemon, {daemons} of them");
    report.add(
        Row::new("idle", name, ours, "KiB")
            .beside(theirs)
            .aim(Aim::ValueAtMost(AIM_KIB)),
    );
    Ok(())
}

/// A server in another process
struct Process {
    child: Child,
    stdin: ChildStdin,
    stdout: std::io::BufReader<ChildStdout>,
    address: String,
}

impl Process {
    fn start(bare: bool, pki: &Pki) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(ROLE).stdin(Stdio::piped()).stdout(Stdio::piped());
        if bare {
            command.arg(BARE);
        }
        let mut child = command.spawn()?;
        let mut stdin = child.stdin.take().context("no stdin")?;
        let mut stdout = std::io::BufReader::new(child.stdout.take().context("no stdout")?);
        writeln!(stdin, "{}", serde_json::to_string(pki)?)?;
        let mut address = String::new();
        stdout.read_line(&mut address)?;
        Ok(Self {
            child,
            stdin,
            stdout,
            address: address.trim().to_owned(),
        })
    }

    /// The resident memory in KiB, once it stops changing.
    fn settled(&mut self) -> Result<f64> {
        let limit = Instant::now() + Duration::from_secs(30);
        let mut last = self.resident()?;
        let mut same = 0;
        while same < 5 {
            if Instant::now() > limit {
                bail!("the memory of the server does not settle");
            }
            std::thread::sleep(Duration::from_millis(100));
            let now = self.resident()?;
            same = if (now - last).abs() <= 64.0 { same + 1 } else { 0 };
            last = now;
        }
        Ok(last)
    }

    fn resident(&mut self) -> Result<f64> {
        writeln!(self.stdin)?;
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        line.trim()
            .parse()
            .with_context(|| format!("the server said {line:?}"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The other process: serves, and answers each line with its resident memory.
pub fn serve(bare: bool) -> Result<()> {
    let mut lines = std::io::stdin().lines();
    let pki: Pki = serde_json::from_str(&lines.next().context("no credentials")??)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let say = |text: String| -> Result<()> {
        let mut stdout = std::io::stdout().lock();
        writeln!(stdout, "{text}")?;
        Ok(stdout.flush()?)
    };
    if bare {
        runtime.spawn(async move {
            if let Err(error) = serve_bare(&pki, CHUNK_BYTES, |address| say(address.to_string())).await {
                eprintln!("the server failed: {error:#}");
            }
        });
    } else {
        let server = runtime.block_on(serve_product(&pki))?;
        say(server.local_addr().to_string())?;
    }
    for line in lines {
        line?;
        let status = std::fs::read_to_string("/proc/self/status")?;
        let resident = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .context("no VmRSS")?;
        say(resident.trim().trim_end_matches("kB").trim().to_owned())?;
    }
    Ok(())
}
