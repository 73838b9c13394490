//! The address of a controller as people write it

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// The port of a controller that is not told otherwise.
pub const DEFAULT_PORT: u16 = 9090;

/// The address of a controller: a host name or an IP address, and a port
///
/// Written `host:port`, `host` (port 9090), `[::1]:9090`, or with `https://` before it. The host is also the name that
/// the controller's certificate must carry.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Target {
    host: Host,
    port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Host {
    Name(String),
    Address(IpAddr),
}

/// Why a text is not the address of a controller
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not the address of a controller ({reason}): write host:port, for instance controller.example:9090"
)]
pub struct InvalidTarget {
    /// What was written.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl Target {
    /// An address from its parts.
    ///
    /// # Errors
    /// [`InvalidTarget`] if the host is neither a host name nor an IP address, or the port is 0.
    pub fn new(host: &str, port: u16) -> Result<Self, InvalidTarget> {
        let invalid = |reason| InvalidTarget {
            text: host.chars().take(300).collect(),
            reason,
        };
        if port == 0 {
            return Err(invalid("port 0"));
        }
        let bare = host
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .unwrap_or(host);
        if let Ok(address) = bare.parse::<IpAddr>() {
            return Ok(Self {
                host: Host::Address(address),
                port,
            });
        }
        let name = bare.strip_suffix('.').unwrap_or(bare);
        if name.is_empty() || bare != host {
            return Err(invalid("no host"));
        }
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if name.len() > 253 || !name.split('.').all(label) {
            return Err(invalid("not a host name"));
        }
        Ok(Self {
            host: Host::Name(name.to_ascii_lowercase()),
            port,
        })
    }

    /// Parses `text`; where it names no port, `default_port` is taken.
    ///
    /// # Errors
    /// [`InvalidTarget`]
    pub fn parse(text: &str, default_port: u16) -> Result<Self, InvalidTarget> {
        let invalid = |reason| InvalidTarget {
            text: text.chars().take(300).collect(),
            reason,
        };
        let rest = text.trim();
        let rest = rest.strip_prefix("https://").unwrap_or(rest);
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.parse::<Ipv6Addr>().is_ok() {
            let is_port = |text: &str| text.len() > 1 && text.bytes().all(|byte| byte.is_ascii_digit());
            return match rest.rsplit_once(':') {
                // `::1:9090` is an address, and hardly the one that was meant.
                Some((address, last)) if is_port(last) && address.parse::<Ipv6Addr>().is_ok() => Err(
                    invalid("an address that may end with a port needs brackets: [address]:port"),
                ),
                _ => Self::new(rest, default_port),
            };
        }
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, _)) if host.contains(':') && !host.starts_with('[') => {
                return Err(invalid("not a host name"));
            }
            Some((host, port)) if !port.ends_with(']') => {
                if !port.bytes().all(|byte| byte.is_ascii_digit()) {
                    return Err(invalid("the port is no number"));
                }
                (
                    host,
                    port.parse()
                        .map_err(|_| invalid("the port is not between 1 and 65535"))?,
                )
            }
            _ => (rest, default_port),
        };
        Self::new(host, port).map_err(|error| invalid(error.reason))
    }

    /// The host, without brackets.
    #[must_use]
    pub fn host(&self) -> String {
        match &self.host {
            Host::Name(name) => name.clone(),
            Host::Address(address) => address.to_string(),
        }
    }

    /// The port, never 0.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// True for an address that means another machine to everyone: this host itself, or no host at all.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match &self.host {
            Host::Name(name) => name == "localhost" || name.ends_with(".localhost"),
            Host::Address(address) => {
                let address = address.to_canonical();
                address.is_loopback() || address.is_unspecified()
            }
        }
    }

    pub(super) fn server_name(&self) -> Option<rustls::pki_types::ServerName<'static>> {
        match &self.host {
            Host::Name(name) => rustls::pki_types::ServerName::try_from(name.clone()).ok(),
            Host::Address(address) => Some((*address).into()),
        }
    }
}

impl FromStr for Target {
    type Err = InvalidTarget;

    fn from_str(text: &str) -> Result<Self, InvalidTarget> {
        Self::parse(text, DEFAULT_PORT)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Address(IpAddr::V6(address)) => write!(f, "[{address}]:{}", self.port),
            Host::Address(address) => write!(f, "{address}:{}", self.port),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn what_people_write_is_understood() {
        for (text, canonical) in [
            ("controller.example:9091", "controller.example:9091"),
            ("Controller.Example", "controller.example:9090"),
            ("controller.example.:9090", "controller.example:9090"),
            ("10.0.0.7:1", "10.0.0.7:1"),
            ("::1", "[::1]:9090"),
            ("[::1]", "[::1]:9090"),
            ("2001:db8::9090", "[2001:db8::9090]:9090"),
            ("1:2:3:4:5:6:7:9090", "[1:2:3:4:5:6:7:9090]:9090"),
            ("[fe80::1]:65535", "[fe80::1]:65535"),
            (" https://controller:9090/ ", "controller:9090"),
            ("mc_host-1:9090", "mc_host-1:9090"),
        ] {
            let target: Target = text.parse().unwrap();
            assert_eq!(target.to_string(), canonical, "{text}");
            assert_eq!(canonical.parse::<Target>().unwrap(), target, "{text}");
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for text in [
            "",
            " ",
            ":",
            ":9090",
            "host:",
            "host:0",
            "host:65536",
            "host:99999",
            "host:port",
            "host:-1",
            "host:+1",
            "a b:9090",
            "http://host:9090",
            "host/path:9090",
            "[host]:9090",
            "[::1",
            "::1]",
            "a:b:c",
            "::1:9090",
            "fe80::1:65535",
            "-a:1",
            "a..b:1",
            "bad:bad",
            "[]:1",
            "ü:1",
        ] {
            assert!(text.parse::<Target>().is_err(), "{text:?}");
        }
        assert!("a.".repeat(200).parse::<Target>().is_err());
    }

    #[test]
    fn this_host_is_recognised() {
        for text in [
            "localhost",
            "LOCALHOST:1",
            "a.localhost",
            "127.0.0.1",
            "127.9.9.9",
            "0.0.0.0",
            "::1",
            "::",
            "[::ffff:127.0.0.1]:1",
        ] {
            assert!(text.parse::<Target>().unwrap().is_local(), "{text}");
        }
        for text in ["localhost.example", "128.0.0.1", "10.0.0.1", "2001:db8::1"] {
            assert!(!text.parse::<Target>().unwrap().is_local(), "{text}");
        }
    }
}
