//! Files inside of messages: the next one leaves when its stream has sent the one before
//!
//! A daemon that does not read holds up nobody but itself: one file waits in memory, the others on disk.

use prexorcloud_protocol::{ControllerSession, session::Class};
use prexorcloud_transport::SessionHandle;

/// Whether a stream has nothing large to send any more
pub(super) fn is_next(session: &ControllerSession) -> bool {
    session.queued(Class::Bulk) == 0
}

/// Waits for that; `false` if the session is over
pub(super) async fn until_next(session: &SessionHandle<ControllerSession>) -> bool {
    let room = session.wait_for(|session, _| {
        let is_established = session.is_established();
        (!is_established || is_next(session)).then_some(is_established)
    });
    room.await == Some(true)
}
