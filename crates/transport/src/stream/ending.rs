//! What a status means that ends a stream, and which one a session ends it with

use std::error::Error;
use std::time::Duration;

use prexorcloud_protocol::{Close, Code};
use tonic::Status;
use tonic::metadata::MetadataMap;

use crate::codec::NotAnEnvelope;
use crate::gate::MadeHere;

/// How gRPC names the time after which a call may be repeated.
const RETRY_PUSHBACK: &str = "grpc-retry-pushback-ms";

/// A longer sentence is cut.
const MAX_STATUS_CHARS: usize = 1024;

/// Where a status comes from that ended the incoming half
pub(super) enum Origin {
    /// The connection, with the innermost cause.
    Connection(String),
    /// Sent by the peer.
    Peer,
    /// Made here, because of what the peer sent.
    Bytes,
}

/// tonic reports all three in one type; its own messages about framing are told apart by how they begin
pub(super) fn origin(status: &Status) -> Origin {
    if let Some(source) = status.source() {
        if source.is::<MadeHere>() {
            return Origin::Bytes;
        }
        return match source.downcast_ref::<NotAnEnvelope>() {
            Some(_) => Origin::Bytes,
            None => Origin::Connection(innermost(source)),
        };
    }
    match status.message() {
        "Unexpected EOF decoding stream." => {
            Origin::Connection("the stream was cut off inside a message".into())
        }
        message if message.starts_with("protocol error: missing grpc-status") => {
            Origin::Connection("the peer reset the stream without a status".into())
        }
        message
            if message.starts_with("protocol error: received message with")
                || message.starts_with("Error, decoded message length too large") =>
        {
            Origin::Bytes
        }
        _ => Origin::Peer,
    }
}

/// The text of the last error of the chain, which is the one that says what happened.
pub(crate) fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// The status that ends a stream for the reason `close`; `None` is OK.
pub(crate) fn status_of(close: &Close) -> Option<Status> {
    let code = match close.code {
        Code::Ok => return None,
        Code::Cancelled => tonic::Code::Cancelled,
        Code::InvalidArgument => tonic::Code::InvalidArgument,
        Code::DeadlineExceeded => tonic::Code::DeadlineExceeded,
        Code::PermissionDenied => tonic::Code::PermissionDenied,
        Code::ResourceExhausted => tonic::Code::ResourceExhausted,
        Code::FailedPrecondition => tonic::Code::FailedPrecondition,
        Code::Aborted => tonic::Code::Aborted,
        Code::Unavailable => tonic::Code::Unavailable,
    };
    // The status travels as a header, and headers have a limit.
    let message = close.message.chars().take(MAX_STATUS_CHARS).collect::<String>();
    let mut metadata = MetadataMap::new();
    if let Some(wait) = close.retry_after {
        let millis = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
        metadata.insert(RETRY_PUSHBACK, millis.into());
    }
    Some(Status::with_metadata(code, message, metadata))
}

/// When the peer that sent this status wants to be asked again, if it says
pub(super) fn retry_after(status: &Status) -> Option<Duration> {
    let millis = status.metadata().get(RETRY_PUSHBACK)?.to_str().ok()?;
    millis
        .parse::<u32>()
        .ok()
        .map(|millis| Duration::from_millis(millis.into()))
}
