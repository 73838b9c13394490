//! Protocol version window, contract digests and the schema change classifier of PrexorCloud
