//! The one line with which a child process says that it serves

use std::io::{self, Write as _};
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

fn print(ready: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_string(ready)?;
    line.push('\n');
    let mut stdout = io::stdout();
    stdout.write_all(line.as_bytes())?;
    stdout.flush()
}
