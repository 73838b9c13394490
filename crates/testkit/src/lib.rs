//! Virtual clock, faulty link and two-peer simulation for PrexorCloud protocol tests
