//! Responses without the header that tonic cannot survive
//!
//! tonic decodes `grpc-status-details-bin` with an `expect`: a controller that sends something else there would take the
//! calling task down. Nothing of ours reads it, so it is removed before tonic sees it, from headers and from trailers.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::connection::Inner;

const STATUS_DETAILS: &str = "grpc-status-details-bin";

/// The body of a response; keeps its connection open
pub struct ResponseBody {
    body: Incoming,
    _connection: Arc<Inner>,
}

impl ResponseBody {
    pub(super) fn new(body: Incoming, connection: Arc<Inner>) -> Self {
        Self {
            body,
            _connection: connection,
        }
    }
}

impl fmt::Debug for ResponseBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.body.fmt(f)
    }
}

pub(super) fn strip(headers: &mut HeaderMap) {
    headers.remove(STATUS_DETAILS);
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let mut frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(Ok(frame)) = &mut frame
            && let Some(trailers) = frame.trailers_mut()
        {
            strip(trailers);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
