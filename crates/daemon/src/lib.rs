//! The PrexorCloud node daemon as a library: preparation, supervision, console
