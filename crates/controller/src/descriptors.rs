//! How many files this process may have open, divided among those who open them
//!
//! A socket needs a descriptor, and so do the storage and every file that is read for an answer. What strangers may open at
//! each port is therefore bounded by what the process has, and a rest remains that no listener can take.

use prexorcloud_transport::ServerOptions;
use rustix::process::{Resource, getrlimit};

/// With as many, each port has what it has by default
const PLENTY: u64 = 16_384;

/// HTTP connections where descriptors are plenty
const HTTP: usize = 1_024;

/// How many HTTP connections there may be
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HttpBounds {
    pub(crate) connections: usize,
}

/// What each port may have open
#[derive(Clone, Debug)]
pub(crate) struct Shares {
    pub(crate) http: HttpBounds,
    pub(crate) grpc: ServerOptions,
}

impl Shares {
    /// Divides what this process may have open
    pub(crate) fn of_this_process() -> Self {
        let limit = getrlimit(Resource::Nofile).current;
        if let Some(limit) = limit.filter(|limit| *limit < PLENTY) {
            tracing::warn!(
                open_files = limit,
                daemons = share(limit, 2, usize::MAX),
                "few files may be open at once, which bounds how many daemons and callers can be connected; raise the hard limit (LimitNOFILE of the unit, `ulimit -Hn`) to {PLENTY}"
            );
        }
        Self::of(limit)
    }

    fn of(limit: Option<u64>) -> Self {
        let limit = limit.unwrap_or(PLENTY).min(PLENTY);
        let mut grpc = ServerOptions::default();
        grpc.max_connections = share(limit, 2, grpc.max_connections);
        grpc.max_anonymous_connections = share(limit, 16, grpc.max_anonymous_connections);
        grpc.max_tls_handshakes = share(limit, 16, grpc.max_tls_handshakes);
        Self {
            http: HttpBounds {
                connections: share(limit, 8, HTTP),
            },
            grpc,
        }
    }
}

/// One part in `parts`, if that is not more than is wanted anyway
fn share(limit: u64, parts: u64, most: usize) -> usize {
    usize::try_from(limit / parts)
        .unwrap_or(usize::MAX)
        .clamp(4, most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ports_together_leave_a_part_to_everybody_else() {
        for limit in [256, 1024, 4096, 65_536] {
            let shares = Shares::of(Some(limit));
            let ports =
                shares.http.connections + shares.grpc.max_connections + shares.grpc.max_tls_handshakes;
            assert!(ports as u64 <= limit * 3 / 4, "{ports} of {limit}");
        }
        let plenty = Shares::of(None);
        assert_eq!(
            (plenty.http.connections, plenty.grpc.max_connections),
            (1024, 8192)
        );
    }
}
