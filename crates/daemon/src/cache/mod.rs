//! What a node keeps of what it was sent, so that it is sent once

pub(crate) mod bootstrap;
pub(crate) mod templates;
