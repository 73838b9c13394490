//! Modules: jars that a controller gives to this node, each run in a process of its own
//!
//! | Module | Does |
//! |---|---|
//! | [`host`] | the process of a module: its start, its life, what is said to it and by it |

pub mod host;
