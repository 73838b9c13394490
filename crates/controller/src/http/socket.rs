//! A socket whose request heads must not trickle, and whose answers must be read
//!
//! Between two requests a connection may be silent for as long as hyper allows. Once a head has begun it must be complete
//! soon, since hyper holds it in memory meanwhile. An answer may be read as slowly as its client likes, but for one that takes
//! nothing at all: it would keep the place of a stream for ever, also where its machine is long gone.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};

/// From the first byte of a request's head to its last
const HEAD: Duration = Duration::from_secs(5);

/// How long a client may take none of the bytes that wait for it
const TAKEN: Duration = Duration::from_secs(60);

pub(super) struct Socket {
    stream: TcpStream,
    /// Whether a request was read to the end of its head and is not answered.
    is_answering: Arc<AtomicBool>,
    head: Option<Pin<Box<Sleep>>>,
    /// Since bytes wait that the client does not take
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Socket {
    pub(super) fn new(stream: TcpStream, is_answering: Arc<AtomicBool>) -> Self {
        Self {
            stream,
            is_answering,
            head: None,
            stalled: None,
        }
    }

    /// Gives up on a client that takes nothing
    fn written(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(TAKEN)));
        stalled.as_mut().poll(context).map(|()| {
            Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the client does not read its answer",
            ))
        })
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.is_answering.load(Ordering::Relaxed) {
            this.head = None;
            return Pin::new(&mut this.stream).poll_read(context, buffer);
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(context, buffer);
        if buffer.filled().len() > before && this.head.is_none() {
            this.head = Some(Box::pin(sleep(HEAD)));
        }
        if read.is_pending()
            && let Some(head) = &mut this.head
            && head.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the head of a request was not complete in time",
            )));
        }
        read
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, buffer);
        self.written(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, buffers);
        self.written(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::convert::Infallible;

    use axum::{body::Body, response::Response};
    use futures_util::stream;
    use hyper::{server::conn::http1, service::service_fn};
    use hyper_util::rt::TokioIo;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
        sync::Semaphore,
        time::{Instant, timeout},
    };

    use super::*;

    /// Serves a stream without an end, which keeps a place; gives the client
    async fn serve(places: &Arc<Semaphore>) -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let is_answering = Arc::new(AtomicBool::new(true));
        let socket = Socket::new(listener.accept().await.unwrap().0, is_answering);
        let places = Arc::clone(places);
        let service = service_fn(move |_| {
            let place = Arc::clone(&places).try_acquire_owned().unwrap();
            let pieces = stream::repeat_with(move || {
                let _held = &place;
                Ok::<_, Infallible>(vec![b'x'; 16 * 1024])
            });
            std::future::ready(Ok::<_, Infallible>(Response::new(Body::from_stream(pieces))))
        });
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(socket), service));
        client
            .write_all(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
            .await
            .unwrap();
        // It has its place by then.
        client.read_u8().await.unwrap();
        client
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_never_reads_loses_its_place_and_a_slow_one_does_not() {
        let places = Arc::new(Semaphore::new(1));
        let begun = Instant::now();
        let silent = serve(&places).await;
        let freed = timeout(2 * TAKEN, Arc::clone(&places).acquire_owned()).await;
        drop(freed.unwrap().unwrap());
        assert!(begun.elapsed() >= TAKEN);
        drop(silent);

        let mut slow = serve(&places).await;
        // As much as the buffers of a connection hold, so that more can be written each time.
        let mut piece = vec![0; 8 * 1024 * 1024];
        for _ in 0..4 {
            assert!(
                timeout(TAKEN * 3 / 4, places.acquire()).await.is_err(),
                "its place is kept"
            );
            slow.read_exact(&mut piece).await.unwrap();
        }
    }
}
