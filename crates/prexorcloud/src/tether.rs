//! Processes that must not outlive the one that started them
//!
//! A tethered process ends when its standard input does, which the kernel guarantees whatever happens to the other end. A
//! daemon's instances are meant to outlive it, so whoever wants a whole cluster gone adopts them ([`adopt_orphans`])
//! and ends them in the end ([`end_descendants`]).

use std::io;
use std::time::{Duration, Instant};

use prexorcloud_daemon::process::{Identity, children, kill_tree};
use rustix::process::WaitOptions;
use tokio::io::AsyncReadExt as _;

/// How long killed processes may take to be gone
const LIMIT: Duration = Duration::from_secs(10);

/// Between two looks at what is left
const LOOK: Duration = Duration::from_millis(2);

/// Resolves when standard input ends, or never without a tether
pub async fn cut(tethered: bool) {
    if !tethered {
        return std::future::pending().await;
    }
    let mut stdin = tokio::io::stdin();
    let mut ignored = [0; 64];
    while let Ok(1..) = stdin.read(&mut ignored).await {}
}

/// From now on, descendants that lose their parent become children of this process
pub fn adopt_orphans() -> io::Result<()> {
    Ok(rustix::process::set_child_subreaper(Some(
        rustix::process::getpid(),
    ))?)
}

/// Kills and reaps every process that this one started, and everything that those left behind
///
/// Needs [`adopt_orphans`]: killing direct children until there are none then reaches all of them. It looks again and
/// again instead of waiting for a child, because the runtime reaps children, too, and each death can bring new ones.
///
/// # Errors
/// `/proc` cannot be read, or a process does not even end when it is killed.
pub fn end_descendants() -> io::Result<()> {
    let own = rustix::process::getpid();
    let me = Identity::of(own)?;
    let deadline = Instant::now() + LIMIT;
    loop {
        let children = children(own)?;
        if children.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(io::Error::other(format!("{} do not end", children.len())));
        }
        // By identity, so that nobody is hit who was given the id of one that just ended.
        kill_tree(&me, false)?;
        while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
        std::thread::sleep(LOOK);
    }
}
