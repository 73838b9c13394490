//! Commands that were typed and whose fate the daemon has not told yet

use std::collections::BTreeMap;

use prexorcloud_proto::CommandWritten;
use prexorcloud_protocol::InstanceId;
use tokio::sync::oneshot;

use super::{OrderError, task::Node};
use crate::trace;

/// Commands of a node that wait for its daemon
const MAX_WAITING: usize = 1024;

/// What became of a command
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CommandResult {
    /// The daemon has written it to the console
    Written,
    /// The daemon has not, and says why
    NotWritten {
        /// In one word
        code: String,
        /// In one sentence
        message: String,
    },
    /// Nobody knows, for this reason
    Unconfirmed(&'static str),
}

/// Who waits for which number of a command
#[derive(Default)]
pub(super) struct Typed(BTreeMap<u64, oneshot::Sender<CommandResult>>);

impl Node {
    pub(super) fn command(
        &mut self,
        instance: InstanceId,
        line: &str,
    ) -> Result<Option<oneshot::Receiver<CommandResult>>, OrderError> {
        self.typed.0.retain(|_, waiting| !waiting.is_closed());
        if self.typed.0.len() >= MAX_WAITING {
            return Err(OrderError::Busy);
        }
        let Some(id) = self.machine.command(instance, line, trace::current())? else {
            return Ok(None);
        };
        let (told, waiting) = oneshot::channel();
        self.typed.0.insert(id, told);
        Ok(Some(waiting))
    }

    pub(super) fn handle_command_written(&mut self, written: CommandWritten) {
        let Some(waiting) = self.typed.0.remove(&written.command_id) else {
            tracing::debug!(node = %self.id, command = written.command_id, "nobody waits for the fate of a command");
            return;
        };
        let result = match written.error_code.is_empty() {
            true => CommandResult::Written,
            false => CommandResult::NotWritten {
                code: written.error_code,
                message: written.error_message,
            },
        };
        // Whoever asked may have given up.
        let _ = waiting.send(result);
    }

    /// The answers to them will not come, or too late
    pub(super) fn give_up_typed(&mut self, why: &'static str) {
        for waiting in std::mem::take(&mut self.typed.0).into_values() {
            let _ = waiting.send(CommandResult::Unconfirmed(why));
        }
    }
}
