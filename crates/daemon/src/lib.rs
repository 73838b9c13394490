//! The PrexorCloud node daemon as a library: preparation, supervision, console

#![warn(missing_docs)]

pub mod console;
pub mod control;
pub mod durable;
pub mod preparation;
pub mod process;
mod readable;
pub mod shim;
pub mod standin;
pub mod supervisor;
