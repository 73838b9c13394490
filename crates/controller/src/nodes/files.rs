//! Questions about the files of instances, and who waits for their answers

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use prexorcloud_proto::{
    InstanceFileContent, InstanceFileTree, ReadInstanceFile, WalkInstanceFiles, controller_message,
};
use tokio::sync::oneshot;

use super::{OrderError, task::Node};

/// How long a daemon has to answer (java-controller.md 7.5)
pub(super) const ANSWERED_WITHIN: Duration = Duration::from_secs(20);

/// Questions to a node that may wait for an answer at a time
const MAX_WAITING: usize = 32;

/// What is asked of a daemon
#[derive(Clone, Debug)]
pub(crate) enum FilesAsked {
    Walk(WalkInstanceFiles),
    Read(ReadInstanceFile),
}

/// What a daemon answers; the error in it is the daemon's
#[derive(Clone, Debug)]
pub(crate) enum FilesAnswer {
    Tree(InstanceFileTree),
    Content(InstanceFileContent),
}

/// Who waits for the answer to which question
#[derive(Default)]
pub(super) struct Asked(HashMap<String, (Instant, oneshot::Sender<FilesAnswer>)>);

impl Node {
    /// Asks the daemon; the receiver ends without an answer if its stream does
    pub(super) fn ask_about_files(
        &mut self,
        asked: FilesAsked,
    ) -> Result<oneshot::Receiver<FilesAnswer>, OrderError> {
        let now = Instant::now();
        let waiting = &mut self.asked.0;
        waiting
            .retain(|_, (since, reply)| !reply.is_closed() && now.duration_since(*since) < ANSWERED_WITHIN);
        if waiting.len() >= MAX_WAITING {
            return Err(OrderError::Busy);
        }
        let request_id = uuid::Uuid::new_v4().to_string();
        let payload = match asked {
            FilesAsked::Walk(asked) => {
                let request_id = request_id.clone();
                controller_message::Payload::WalkInstanceFiles(Box::new(WalkInstanceFiles {
                    request_id,
                    ..asked
                }))
            }
            FilesAsked::Read(asked) => {
                let request_id = request_id.clone();
                controller_message::Payload::ReadInstanceFile(Box::new(ReadInstanceFile {
                    request_id,
                    ..asked
                }))
            }
        };
        self.send_now(payload)?;
        let (reply, answer) = oneshot::channel();
        self.asked.0.insert(request_id, (now, reply));
        Ok(answer)
    }

    pub(super) fn handle_files(&mut self, request_id: &str, answer: FilesAnswer) {
        match self.asked.0.remove(request_id) {
            // Whoever asked may have given up.
            Some((_, reply)) => drop(reply.send(answer)),
            None => {
                tracing::debug!(node = %self.id, request = request_id, "nobody waits for an answer about files");
            }
        }
    }

    /// The answers will not come: they belong to a stream that is over
    pub(super) fn give_up_files(&mut self) {
        self.asked.0.clear();
    }
}
