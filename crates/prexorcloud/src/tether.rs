//! Processes that must not outlive the one that started them
//!
//! A tethered process ends when its standard input does, which the kernel guarantees whatever happens to the other end. A
//! daemon's instances are meant to outlive it, so whoever wants a whole cluster gone adopts them ([`adopt_orphans`])
//! and ends them in the end ([`end_descendants`]).

use std::io;

use prexorcloud_daemon::process::children;
use rustix::process::{Signal, WaitOptions};
use tokio::io::AsyncReadExt as _;

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
/// Needs [`adopt_orphans`]: killing direct children until there are none then reaches all of them. The id of a child
/// cannot be reused before it is reaped here.
pub fn end_descendants() -> io::Result<()> {
    let me = rustix::process::getpid();
    loop {
        for child in children(me)? {
            // It may have ended meanwhile.
            let _ = rustix::process::kill_process(child, Signal::KILL);
        }
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::CHILD) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}
