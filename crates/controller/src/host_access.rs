//! A way in for whoever can read the data folder of a controller that runs
//!
//! A file (0600) in the data folder says where HTTP is served and holds a token that the process made at its start and keeps
//! in memory only. So an operator on the host is never locked out, and what the file gives, the folder gives anyway: the
//! authority's key is beside it.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
};

use prexorcloud_security::{
    files::{self, FileError},
    token::{ApiToken, TokenHash},
};
use serde::{Deserialize, Serialize};

use crate::access::MintError;

/// Name of the file in the data folder
const FILE: &str = "host-access.json";

/// Longest file that is read
const MAX_BYTES: u64 = 4096;

/// Where a controller that runs is asked, and with what
#[derive(Clone, Serialize, Deserialize)]
pub struct HostAccess {
    /// Where it serves HTTP, as this host reaches it
    pub http: SocketAddr,
    /// A bearer token that allows everything; a secret
    pub token: String,
}

impl std::fmt::Debug for HostAccess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostAccess")
            .field("http", &self.http)
            .field("token", &"[secret]")
            .finish()
    }
}

impl HostAccess {
    /// What the controller of this data folder wrote; it runs only if the folder is locked
    ///
    /// # Errors
    /// [`FileError`] when there is none, or it cannot be read.
    pub fn of(data_dir: &Path) -> Result<Self, FileError> {
        let path = data_dir.join(FILE);
        let text = files::read_secret_text(&path, MAX_BYTES)?;
        serde_json::from_str(&text).map_err(|_| FileError::NotText { path })
    }
}

/// The file of this process
pub(crate) struct HostAccessFile {
    path: PathBuf,
}

impl HostAccessFile {
    /// Makes the token and writes the file; the hash is what the token is known by
    pub(crate) fn write(data_dir: &Path, http: SocketAddr) -> Result<(Self, TokenHash), MintError> {
        let token = ApiToken::generate()?;
        let here = match http.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
            ip => ip,
        };
        let access = HostAccess {
            http: SocketAddr::new(here, http.port()),
            token: token.expose().to_owned(),
        };
        let path = data_dir.join(FILE);
        let text = serde_json::to_string(&access).unwrap_or_default();
        files::write_secret(&path, text.as_bytes())?;
        Ok((Self { path }, token.hash()))
    }

    pub(crate) fn remove(self) {
        if let Err(error) = files::remove(&self.path) {
            tracing::debug!(%error, "a file that has become useless stays");
        }
    }
}
