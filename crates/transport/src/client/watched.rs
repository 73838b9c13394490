//! Keeps the TLS error that a connection broke with
//!
//! HTTP/2 turns an I/O error into its text on the way up, and with it the difference between a refused certificate and
//! a cut cable is gone. This wrapper sees the error first.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The first TLS error of a connection
#[derive(Clone, Debug, Default)]
pub(super) struct Seen(Arc<OnceLock<rustls::Error>>);

impl Seen {
    pub(super) fn get(&self) -> Option<rustls::Error> {
        self.0.get().cloned()
    }

    fn note<T>(&self, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(error)) = &result
            && let Some(error) = error
                .get_ref()
                .and_then(|inner| inner.downcast_ref::<rustls::Error>())
        {
            let _ = self.0.set(error.clone());
        }
        result
    }
}

/// A stream that notes its TLS errors
#[derive(Debug)]
pub(super) struct Watched<T> {
    stream: T,
    seen: Seen,
}

impl<T> Watched<T> {
    pub(super) fn new(stream: T) -> (Self, Seen) {
        let seen = Seen::default();
        (
            Self {
                stream,
                seen: seen.clone(),
            },
            seen,
        )
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_read(context, into);
        self.seen.note(result)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.seen.note(result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(context);
        self.seen.note(result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_shutdown(context);
        self.seen.note(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.seen.note(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
