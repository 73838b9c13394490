//! The one line with which a child process says that it serves

use std::io;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// A controller serves
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ControllerReady {
    pub grpc: SocketAddr,
    pub http: SocketAddr,
    /// What daemons recognise the cluster by
    pub pin: String,
}

/// A daemon is enrolled and works
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct DaemonReady {
    pub node: String,
    /// Instances that it found running
    pub adopted: usize,
}

impl ControllerReady {
    pub fn print(&self) -> io::Result<()> {
        print(self)
    }
}

impl DaemonReady {
    pub fn print(&self) -> io::Result<()> {
        print(self)
    }
}

/// Writes past the standard library, which takes a closed standard output for one that wants nothing
fn print(ready: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_string(ready)?.into_bytes();
    line.push(b'\n');
    let stdout = io::stdout();
    // What was closed when the program started leads there since.
    let is_null = rustix::fs::fstat(&stdout)
        .ok()
        .zip(rustix::fs::stat("/dev/null").ok())
        .is_some_and(|(out, null)| out.st_rdev == null.st_rdev && out.st_mode == null.st_mode);
    if is_null {
        return Err(io::Error::other("standard output is closed, or is /dev/null"));
    }
    let mut rest = line.as_slice();
    while !rest.is_empty() {
        match rustix::io::write(&stdout, rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => rest = rest.get(count..).unwrap_or_default(),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
