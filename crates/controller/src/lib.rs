//! The PrexorCloud controller as a library: node sessions, stores, services
