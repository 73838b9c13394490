//! Under which names and addresses the controller's certificate is valid

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::certificate::Certificate;
use crate::name::{excerpt, is_host_name};

/// Most names and addresses in one certificate
pub(crate) const MAX_SERVER_NAMES: usize = 200;

/// The names and addresses that daemons may dial
///
/// Peers compare what they dialled with the certificate, and many dial an address, so addresses belong here
/// as much as names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerNames {
    hosts: BTreeSet<String>,
    addresses: BTreeSet<IpAddr>,
}

/// Not a host name or address that a certificate can carry
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidServerName {
    /// Neither an address nor a host name
    #[error("\"{name}\" is neither an IP address nor a host name")]
    Malformed {
        /// The start of the text
        name: String,
    },
    /// An address that nobody can dial
    #[error("\"{name}\" is not an address that a daemon can dial")]
    NotDialable {
        /// The address
        name: String,
    },
    /// More than 200
    #[error("more than {MAX_SERVER_NAMES} names for one server certificate")]
    TooMany,
}

impl ServerNames {
    /// `localhost`, `127.0.0.1` and `::1`
    #[must_use]
    pub fn loopback() -> Self {
        Self {
            hosts: BTreeSet::from(["localhost".to_owned()]),
            addresses: BTreeSet::from([Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]),
        }
    }

    /// The loopback names, this machine's host name, and every address of an interface that is up, except
    /// link-local ones
    ///
    /// # Errors
    /// When the operating system does not list its interfaces.
    pub fn local() -> io::Result<Self> {
        let mut names = Self::loopback();
        let host = rustix::system::uname();
        if let Ok(host) = host.nodename().to_str()
            && is_host_name(host)
        {
            names.hosts.insert(host.to_ascii_lowercase());
        }
        for interface in if_addrs::get_if_addrs()? {
            if names.len() < MAX_SERVER_NAMES
                && interface.is_oper_up()
                && !interface.is_link_local()
                && dialable(interface.ip())
            {
                names.addresses.insert(interface.ip());
            }
        }
        Ok(names)
    }

    /// Adds a host name or an address; `[::1]` may keep its brackets
    ///
    /// # Errors
    /// [`InvalidServerName`] when it is neither, cannot be dialled, or there are too many.
    pub fn with(mut self, name: &str) -> Result<Self, InvalidServerName> {
        let name = name.trim();
        let bare = name
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .unwrap_or(name);
        if self.len() >= MAX_SERVER_NAMES {
            return Err(InvalidServerName::TooMany);
        }
        if let Ok(address) = bare.parse::<IpAddr>() {
            if !dialable(address) {
                return Err(InvalidServerName::NotDialable { name: excerpt(name) });
            }
            self.addresses.insert(address);
        } else if is_host_name(name) {
            self.hosts.insert(name.to_ascii_lowercase());
        } else {
            return Err(InvalidServerName::Malformed { name: excerpt(name) });
        }
        Ok(self)
    }

    /// Whether `certificate` is valid for everything in here; if not, a new one is due
    #[must_use]
    pub fn are_covered_by(&self, certificate: &Certificate) -> bool {
        self.hosts.iter().all(|host| {
            certificate
                .dns_names()
                .iter()
                .any(|name| name.eq_ignore_ascii_case(host))
        }) && self
            .addresses
            .iter()
            .all(|address| certificate.addresses().contains(address))
    }

    /// The host names, in order
    pub fn hosts(&self) -> impl Iterator<Item = &str> {
        self.hosts.iter().map(String::as_str)
    }

    /// The addresses, in order
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().copied()
    }

    fn len(&self) -> usize {
        self.hosts.len() + self.addresses.len()
    }
}

fn dialable(address: IpAddr) -> bool {
    !address.is_unspecified() && !address.is_multicast() && address != IpAddr::V4(Ipv4Addr::BROADCAST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_are_told_apart() {
        let names = ServerNames::loopback()
            .with("Controller.example")
            .unwrap()
            .with("10.0.0.7")
            .unwrap();
        let names = names.with("[2001:db8::1]").unwrap();
        assert_eq!(
            names.hosts().collect::<Vec<_>>(),
            ["controller.example", "localhost"]
        );
        assert!(
            names
                .addresses()
                .any(|a| a == "2001:db8::1".parse::<IpAddr>().unwrap())
        );
        assert!(
            names
                .addresses()
                .any(|a| a == "10.0.0.7".parse::<IpAddr>().unwrap())
        );
    }

    #[test]
    fn what_nobody_can_dial_is_refused() {
        for bad in ["0.0.0.0", "::", "255.255.255.255", "224.0.0.1"] {
            let error = ServerNames::loopback().with(bad).unwrap_err();
            assert!(
                matches!(error, InvalidServerName::NotDialable { .. }),
                "{bad}: {error}"
            );
        }
        for bad in ["", "a b", "host:9090", "fe80::1%eth0", "under_score", "*.example"] {
            let error = ServerNames::loopback().with(bad).unwrap_err();
            assert!(
                matches!(error, InvalidServerName::Malformed { .. }),
                "{bad}: {error}"
            );
        }
    }

    #[test]
    fn the_number_of_names_is_bounded() {
        let mut names = ServerNames::loopback();
        let refusal = loop {
            match names.clone().with(&format!("h{}.example", names.len())) {
                Ok(more) => names = more,
                Err(error) => break error,
            }
        };
        assert_eq!(
            (names.len(), refusal),
            (MAX_SERVER_NAMES, InvalidServerName::TooMany)
        );
    }

    #[test]
    fn the_local_names_include_loopback() {
        let names = ServerNames::local().unwrap();
        assert!(names.hosts().any(|host| host == "localhost"));
        assert!(names.addresses().any(|a| a == IpAddr::V4(Ipv4Addr::LOCALHOST)));
        assert!(names.addresses().all(dialable));
    }
}
