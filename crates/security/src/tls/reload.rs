//! Configurations that can be exchanged while connections are open

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;

/// A value that is read on every connection and replaced now and then
///
/// Open connections keep what they started with; the next one takes the new value. Nobody waits for anybody.
pub struct Reloadable<T>(ArcSwap<T>);

/// The server's TLS configuration: replace it after a renewal or a rotation of the authority
pub type ServerMaterial = Reloadable<rustls::ServerConfig>;

/// A client's TLS configuration: replace it after a renewal
pub type ClientMaterial = Reloadable<rustls::ClientConfig>;

impl<T> Reloadable<T> {
    /// Starts with `value`
    #[must_use]
    pub fn new(value: Arc<T>) -> Self {
        Self(ArcSwap::new(value))
    }

    /// The value as it is now; take it once per connection
    #[must_use]
    pub fn current(&self) -> Arc<T> {
        self.0.load_full()
    }

    /// Replaces the value for connections from now on
    pub fn replace(&self, value: Arc<T>) {
        self.0.store(value);
    }
}

impl<T> fmt::Debug for Reloadable<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reloadable").finish_non_exhaustive()
    }
}
