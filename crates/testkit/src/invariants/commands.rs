//! Console commands: typed once or not at all, and what is said of it is so

use std::collections::BTreeSet;

use super::{ensure, none_of};
use crate::facts::STALE_MARK;
use crate::pair::Pair;
use crate::side::{ControllerSide, DaemonSide};

/// A console command is typed once or not at all.
pub fn commands_arrive_at_most_once<D: DaemonSide, C: ControllerSide>(
    pair: &Pair<D, C>,
) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    let daemon = shown!(pair.daemon_view());
    daemon
        .facts
        .commands
        .iter()
        .filter(|(_, line)| line != STALE_MARK)
        .try_for_each(|command| {
            ensure(seen.insert(command), || {
                format!("{} is told {:?} twice", command.0, command.1)
            })
        })
}

/// What is said to have been written to a console was written there, and wanted.
pub fn a_command_said_to_be_written_was<D: DaemonSide, C: ControllerSide>(
    pair: &Pair<D, C>,
) -> Result<(), String> {
    let daemon = shown!(pair.daemon_view());
    let facts = shown!(pair.controller().view()).facts;
    none_of(&facts.answer_faults)?;
    let said = facts.typed.values();
    said.filter(|typed| typed.written == Some(true))
        .try_for_each(|typed| {
            let command = (typed.instance, typed.line.clone());
            ensure(daemon.facts.typed.contains(&command), || {
                format!("{:?} was never written to {}", typed.line, typed.instance)
            })
        })
}

/// On a stream that is still open every command that wants an answer has one.
pub fn every_command_is_answered<D: DaemonSide, C: ControllerSide>(pair: &Pair<D, C>) -> Result<(), String> {
    let view = shown!(pair.controller().view());
    let current = view.node.and_then(|node| node.current_stream());
    let on_current = view.facts.typed.iter();
    on_current
        .filter(|((stream, _), _)| current.is_some_and(|current| current.get() == u64::from(*stream)))
        .try_for_each(|(_, typed)| {
            ensure(typed.written.is_some(), || {
                format!("nothing is said of {:?} to {}", typed.line, typed.instance)
            })
        })
}
