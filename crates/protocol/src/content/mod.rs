//! How the content of templates comes to a node, and what of it stays there
//!
//! | Module | Decides |
//! |---|---|
//! | [`requests`] | which templates a daemon asks its controller for, and what an answer, or none, means for those who wait |
//! | [`transfer`] | what a daemon does next about an artifact that it fetches: call, continue, verify, give up |
//! | [`eviction`] | which entries of a cache go when it is full |
//!
//! A template is named by its name and a hash. The hash names a content and is no checksum: that of a Java controller is of
//! the files before variables are replaced. Whoever keeps an archive keeps the SHA-256 of what was received beside it.

pub mod eviction;
pub mod requests;
pub mod transfer;
