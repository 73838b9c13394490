//! Where sockets come from, and who of them has the most

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// Addresses that one party can have at will: an IPv4 address, or the /64 of an IPv6 address
///
/// What is bounded per party is counted by it. An IPv4 address that came as an IPv6 one is the IPv4 address.
///
/// ```
/// use prexorcloud_transport::server::Source;
///
/// let of = |address: &str| address.parse().map(Source::of);
/// assert_eq!(of("2001:db8::7")?, of("2001:db8::8")?);
/// assert_eq!(of("::ffff:192.0.2.7")?.to_string(), "192.0.2.7");
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source(IpAddr);

impl Source {
    /// The party that an address belongs to
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
            }
            address => address,
        })
    }
}

/// The IPv4 address, or the first address of the network.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Sockets by their number, which rises, and by their source
///
/// The source with the most is found without looking at all of them.
#[derive(Debug)]
pub(super) struct BySource<T> {
    sources: BTreeMap<Source, BTreeMap<u64, T>>,
    /// How many sockets a source has, and which it is.
    ranks: BTreeMap<(usize, Source), ()>,
    len: usize,
}

impl<T> Default for BySource<T> {
    fn default() -> Self {
        Self {
            sources: BTreeMap::new(),
            ranks: BTreeMap::new(),
            len: 0,
        }
    }
}

impl<T> BySource<T> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn insert(&mut self, source: Source, id: u64, value: T) {
        let sockets = self.sources.entry(source).or_default();
        let before = sockets.len();
        if sockets.insert(id, value).is_none() {
            self.len += 1;
            self.ranks.remove(&(before, source));
            self.ranks.insert((before + 1, source), ());
        }
    }

    pub(super) fn remove(&mut self, source: Source, id: u64) -> Option<T> {
        let sockets = self.sources.get_mut(&source)?;
        let before = sockets.len();
        let removed = sockets.remove(&id)?;
        self.len -= 1;
        self.ranks.remove(&(before, source));
        match before - 1 {
            0 => drop(self.sources.remove(&source)),
            left => drop(self.ranks.insert((left, source), ())),
        }
        Some(removed)
    }

    /// Takes one socket of the source that has the most, the one that `which` chooses.
    pub(super) fn displace(
        &mut self,
        which: impl FnOnce(&BTreeMap<u64, T>) -> Option<u64>,
    ) -> Option<(u64, T)> {
        let (&(_, busiest), ()) = self.ranks.last_key_value()?;
        let id = which(self.sources.get(&busiest)?)?;
        Some((id, self.remove(busiest, id)?))
    }

    pub(super) fn take(&mut self) -> impl Iterator<Item = T> + use<T> {
        let taken = std::mem::take(self);
        taken.sources.into_values().flat_map(BTreeMap::into_values)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn source(address: &str) -> Source {
        Source::of(address.parse().unwrap())
    }

    #[test]
    fn a_source_is_what_one_party_can_have() {
        assert_eq!(source("::ffff:192.0.2.7"), source("192.0.2.7"));
        assert_ne!(source("192.0.2.7"), source("192.0.2.8"));
        assert_eq!(source("2001:db8:0:1::7"), source("2001:db8:0:1:ffff::1"));
        assert_ne!(source("2001:db8:0:1::7"), source("2001:db8:0:2::7"));
    }

    #[test]
    fn the_busiest_source_gives_one_up() {
        let mut sockets = BySource::default();
        for (id, address) in [
            (1, "192.0.2.1"),
            (2, "192.0.2.2"),
            (3, "192.0.2.2"),
            (4, "192.0.2.3"),
        ] {
            sockets.insert(source(address), id, ());
        }
        let newest = |sockets: &BTreeMap<u64, ()>| sockets.last_key_value().map(|(id, ())| *id);
        assert_eq!(sockets.displace(newest), Some((3, ())));
        assert_eq!(sockets.remove(source("192.0.2.2"), 3), None, "it is gone");
        assert_eq!(sockets.remove(source("192.0.2.3"), 4), Some(()));
        assert_eq!(sockets.len(), 2);
        assert_eq!(sockets.take().count(), 2);
        assert_eq!((sockets.len(), sockets.displace(newest)), (0, None));
    }
}
