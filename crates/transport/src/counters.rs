//! Cheap counts of what passed through; an application exports them as it likes

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($(#[$doc:meta])* $shared:ident => $(#[$snapshot_doc:meta])* $snapshot:ident { $($(#[$field_doc:meta])* $field:ident,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default)]
        pub(crate) struct $shared(Arc<Inner>);

        #[derive(Debug, Default)]
        struct Inner { $($field: AtomicU64,)* }

        impl $shared {
            $(
                pub(crate) fn $field(&self, count: u64) {
                    self.0.$field.fetch_add(count, Ordering::Relaxed);
                }
            )*

            pub(crate) fn snapshot(&self) -> $snapshot {
                $snapshot { $($field: self.0.$field.load(Ordering::Relaxed),)* }
            }
        }

        $(#[$snapshot_doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct $snapshot { $($(#[$field_doc])* pub $field: u64,)* }
    };
}

mod streams {
    use super::*;

    counters! {
        StreamCounters =>
        /// What passed through the streams of one handle or one service, since it was made
        StreamCounts {
            /// Envelopes received.
            messages_in,
            /// Envelopes handed to HTTP/2.
            messages_out,
            /// Envelopes received with a variant that this build does not know.
            unknown_variants,
            /// Streams ended because bytes were no envelope, or an envelope was too long.
            malformed,
            /// Streams opened.
            opened,
            /// Streams that are over.
            closed,
        }
    }
}

mod connections {
    use super::*;

    counters! {
        ConnectionCounters =>
        /// What happened at the listening socket, since the server began to serve
        ConnectionCounts {
            /// Connections accepted by the operating system.
            accepted,
            /// TLS handshakes that failed; a refused client certificate is one of them.
            tls_failures,
            /// TLS handshakes that were not finished in time, or given up for newer ones.
            tls_timeouts,
            /// Connections refused or closed because a bound was reached.
            over_limit,
            /// Errors of `accept`, for instance no file descriptor left.
            accept_errors,
            /// Connections closed through `close_where` or `Peer::close`.
            cut_off,
        }
    }
}

pub(crate) use connections::ConnectionCounters;
pub use connections::ConnectionCounts;
pub(crate) use streams::StreamCounters;
pub use streams::StreamCounts;
