//! Build, contract and release tasks of the workspace, as functions that tests can call

pub mod bench;
pub mod ci;
pub mod codegen;
pub mod contract;
pub mod demo_jar;
pub mod mutants;
pub mod tidy;
