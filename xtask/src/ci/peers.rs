//! The steps with peers that somebody else could have written: the interoperability tests in Python, and the table of payloads

use anyhow::Result;

use super::{Context, Outcome, run as run_command};
use crate::conformance::{self, Payloads};
use crate::peers::{self, Missing};

pub(super) fn run(ci: &Context) -> Result<Outcome> {
    let python = match peers::python(&ci.root, &ci.target)? {
        Ok(python) => python,
        Err(Missing(reason)) => return Ok(ci.without(reason)),
    };
    let programs = peers::programs(&ci.root, &ci.target)?;
    run_command(&mut peers::script(&ci.root, &python, &programs, "run.py"))
}

pub(super) fn payloads(ci: &Context) -> Result<Outcome> {
    match conformance::command(&ci.root, &ci.target, &Payloads::default())? {
        Ok(mut command) => run_command(&mut command),
        Err(Missing(reason)) => Ok(ci.without(reason)),
    }
}
