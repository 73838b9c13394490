//! The async driver of PrexorCloud sessions: mTLS server, reconnecting client, envelope codec
