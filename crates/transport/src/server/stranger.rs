//! What somebody without a certificate may send: enough to enrol
//!
//! Whatever waits in HTTP/2 for a call that has not read it is bounded by the windows, so they are the budget of all
//! strangers together: with the defaults 512 connections of two calls of 9 KiB each, 9 MiB.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::http2::Builder;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use prexorcloud_protocol::limits::BOOTSTRAP_BYTES;
use tokio::time::{Sleep, sleep};
use tonic::Status;

use super::ServerOptions;

/// A message with its prefix, and a little for what surrounds it.
const BODY_BYTES: u32 = BOOTSTRAP_BYTES as u32 + 1024;

/// HTTP/2 as small as a call for a certificate allows.
pub(super) fn http2(options: &ServerOptions) -> Builder<TokioExecutor> {
    let mut http2 = Builder::new(TokioExecutor::new());
    http2
        .timer(TokioTimer::new())
        .keep_alive_interval(options.keepalive_interval)
        .keep_alive_timeout(options.keepalive_timeout)
        .max_concurrent_streams(options.max_concurrent_streams.min(options.max_anonymous_streams))
        .max_pending_accept_reset_streams(Some(4))
        .initial_stream_window_size(options.stream_window.min(BODY_BYTES))
        .max_send_buf_size(options.send_buffer.min(16 * 1024))
        .max_header_list_size(options.max_header_list.min(BOOTSTRAP_BYTES as u32));
    http2
}

/// The request of a stranger: no more bytes than a call for a certificate needs, and in time
pub(super) struct Request {
    body: Incoming,
    left: usize,
    timeout: Duration,
    until: Pin<Box<Sleep>>,
}

impl Request {
    pub(super) fn new(body: Incoming, timeout: Duration) -> Self {
        Self {
            body,
            left: BODY_BYTES as usize,
            timeout,
            until: Box::pin(sleep(timeout)),
        }
    }
}

impl Body for Request {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        match Pin::new(&mut this.body).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                match this.left.checked_sub(bytes) {
                    Some(left) => {
                        this.left = left;
                        Poll::Ready(Some(Ok(frame)))
                    }
                    None => Poll::Ready(Some(Err(too_large()))),
                }
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(Status::from_error(error.into())))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => {
                if this.until.as_mut().poll(context).is_pending() {
                    return Poll::Pending;
                }
                Poll::Ready(Some(Err(Status::deadline_exceeded(format!(
                    "the request had not arrived after {} s; without a client certificate that is all there is",
                    this.timeout.as_secs()
                )))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn too_large() -> Status {
    Status::resource_exhausted(format!(
        "without a client certificate a request has at most {BOOTSTRAP_BYTES} bytes"
    ))
}
