//! One node of the cluster, for as long as it lives
//!
//! A session decides what a stream may carry; a node machine decides what is done about it, across streams. It sees
//! facts of those who act (processes, disks, the session) and gives them work in order, so that an application is only
//! the I/O around it, and a simulation can drive the very rules that are shipped.

pub mod controller;
pub mod daemon;

pub use controller::ControllerNode;
pub use daemon::DaemonNode;
