//! How a controller treats its daemons

use std::time::Duration;

use crate::capability::Capabilities;
use crate::heartbeat::HeartbeatConfig;
use crate::outbox::Bounds;

/// How a controller treats its daemons
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ControllerConfig {
    /// When to ping, and when to give a node up. Every 30 s, after three.
    pub heartbeat: HeartbeatConfig,
    /// How long the first message may take. 10 s.
    pub handshake_timeout: Duration,
    /// How long the application may take to decide on a handshake. 10 s.
    pub admission_timeout: Duration,
    /// What is announced beyond protocol version 1. [`Capabilities::SESSION`].
    pub capabilities: Capabilities,
    /// How much may wait for a daemon that reads slowly.
    pub bounds: Bounds,
}

impl Default for ControllerConfig {
    /// Ping every 30 s, three missed; 10 s for the handshake, 10 s for the decision; [`Capabilities::SESSION`].
    fn default() -> Self {
        Self {
            heartbeat: HeartbeatConfig::default(),
            handshake_timeout: Duration::from_secs(10),
            admission_timeout: Duration::from_secs(10),
            capabilities: Capabilities::SESSION,
            bounds: Bounds::default(),
        }
    }
}
