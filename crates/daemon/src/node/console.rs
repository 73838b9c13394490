//! Console lines on their way to the controller, as fast as it takes them
//!
//! A line is handed to the session only when its outbox has room, so the session sheds none: what does not fit waits in
//! the log on disk. A batch belongs to one stream: on the next one come first the lines that did not arrive on this.

use std::collections::VecDeque;

use prexorcloud_proto::ConsoleOutput;
use prexorcloud_protocol::DaemonSession;
use prexorcloud_protocol::session::Class;
use prexorcloud_transport::SessionHandle;
use tokio::sync::mpsc;

use crate::console::ConsoleLine;
use crate::supervisor::ConsoleBatch;

/// Bytes of a message beside its text and its instance id, rounded up
const OVERHEAD: usize = 64;

/// Forwards batches until there are no more
pub(super) async fn forward(
    session: SessionHandle<DaemonSession>,
    mut batches: mpsc::Receiver<ConsoleBatch>,
) {
    while let Some(mut batch) = batches.recv().await {
        let mut lines = VecDeque::from(std::mem::take(&mut batch.lines));
        let all = session
            .wait_for(|session, _| {
                if !session.is_established() || session.stream_ordinal() != batch.stream {
                    return Some(false);
                }
                while let Some(line) = lines.front() {
                    let length = line.text.len() + batch.instance.as_str().len() + OVERHEAD;
                    if !session.has_room(Class::BestEffort, length) {
                        return None;
                    }
                    if let Some(line) = lines.pop_front() {
                        session.console(output(&batch, line));
                    }
                }
                Some(true)
            })
            .await;
        match all {
            Some(true) => batch.accept(),
            // The stream is gone: what has not arrived comes again on the next one.
            Some(false) => drop(batch),
            None => return,
        }
    }
}

fn output(batch: &ConsoleBatch, line: ConsoleLine) -> ConsoleOutput {
    ConsoleOutput {
        instance_id: batch.instance.into(),
        line: line.text,
        timestamp_ms: line.timestamp_ms,
        incarnation: batch.incarnation.get(),
        sequence: line.sequence,
    }
}
