//! Commands that the controller wants an answer to
//!
//! A command is written once for each number, and its answer is given as often as it is asked for on its stream. What a
//! stream asked is forgotten with it: nobody asks again on another one.

use std::collections::VecDeque;

use prexorcloud_proto::{CommandWritten, SendCommand, daemon_message};

use super::DaemonSession;
use crate::id::{Incarnation, InstanceId};

/// How many numbers are remembered.
const REMEMBERED: usize = 256;

/// The latest commands of a stream, and what became of them
#[derive(Clone, Debug, Default)]
pub(super) struct Written(VecDeque<(u64, Option<CommandWritten>)>);

impl Written {
    pub(super) fn forget(&mut self) {
        self.0.clear();
    }
}

impl DaemonSession {
    /// Says what became of a command: it was written to the instance's console, or why it was not, as a code and a sentence.
    ///
    /// Without effect for a controller that did not ask, and for a command of an earlier stream.
    pub fn command_written(
        &mut self,
        instance: InstanceId,
        incarnation: Incarnation,
        id: u64,
        result: Result<(), (&str, String)>,
    ) {
        let (error_code, error_message) = match result {
            Ok(()) => (String::new(), String::new()),
            Err((code, message)) => (code.to_owned(), message),
        };
        let answer = CommandWritten {
            instance_id: instance.into(),
            command_id: id,
            error_code,
            error_message,
            incarnation: incarnation.get(),
        };
        let asked = self.written.0.iter_mut().find(|(asked, _)| *asked == id);
        if let Some((_, answered)) = asked
            && answered.is_none()
        {
            *answered = Some(answer.clone());
            self.queue(daemon_message::Payload::CommandWritten(answer));
        }
    }

    /// Remembers a command that wants an answer; true for one that was asked for before.
    pub(super) fn answered_before(&mut self, command: &SendCommand) -> bool {
        let id = command.command_id;
        if id == 0 {
            return false;
        }
        let Some((_, answered)) = self.written.0.iter().find(|(asked, _)| *asked == id) else {
            if self.written.0.len() >= REMEMBERED {
                self.written.0.pop_front();
            }
            self.written.0.push_back((id, None));
            return false;
        };
        if let Some(answer) = answered.clone()
            && self.may_answer("SendCommand")
        {
            self.queue(daemon_message::Payload::CommandWritten(answer));
        }
        true
    }
}
