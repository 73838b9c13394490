//! The HTTP listener: bounded connections, slow clients cut, graceful end

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use tokio::{
    net::TcpListener,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    answering::Answering,
    connections::{Bounds, Connections},
    socket::Socket,
};
use crate::descriptors::HttpBounds;

/// From the connection, or the end of a request, to the end of the next request's head; a head that has begun has
/// [less](Socket)
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long requests under way may take at the end
const DRAIN: Duration = Duration::from_secs(5);

/// Bytes of a request's head, and of what is read ahead of its body: whoever has not finished a head holds no more
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// Wait after a failed accept: the process is out of file descriptors, and trying at once makes it worse
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Why the HTTP listener is not there
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpServerError {
    /// Somebody else listens there
    #[error("http.listen: {address} is in use by another process: stop that one, or choose another port")]
    InUse {
        /// The address
        address: SocketAddr,
    },
    /// The address is not allowed or not of this machine
    #[error("http.listen: cannot listen on {address}: {source}")]
    Io {
        /// The address
        address: SocketAddr,
        /// What the system said
        source: io::Error,
    },
}

/// A bound listener
pub(crate) struct HttpServer {
    listener: TcpListener,
    address: SocketAddr,
    bounds: HttpBounds,
}

impl HttpServer {
    pub(crate) async fn bind(address: SocketAddr, bounds: HttpBounds) -> Result<Self, HttpServerError> {
        let bound = async {
            let listener = TcpListener::bind(address).await?;
            let address = listener.local_addr()?;
            Ok::<_, io::Error>((listener, address))
        };
        match bound.await {
            Ok((listener, address)) => Ok(Self {
                listener,
                address,
                bounds,
            }),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(HttpServerError::InUse { address }),
            Err(source) => Err(HttpServerError::Io { address, source }),
        }
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stopping`, then lets requests under way finish
    pub(crate) fn serve(self, router: Router, stopping: CancellationToken) -> JoinHandle<()> {
        tokio::spawn(async move {
            let graceful = GracefulShutdown::new();
            let connections = Connections::new(Bounds {
                connections: self.bounds.connections,
                followers: self.bounds.connections / 4,
            });
            let mut failing = false;
            loop {
                let accepted = tokio::select! {
                    () = stopping.cancelled() => break,
                    accepted = self.listener.accept() => accepted,
                };
                let stream = match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        if !failing {
                            tracing::warn!(%error, "HTTP connections cannot be accepted, trying on");
                        }
                        failing = true;
                        sleep(ACCEPT_RETRY).await;
                        continue;
                    }
                };
                failing = false;
                // Console lines are small and should not wait for each other.
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "an HTTP connection ended before it began");
                    continue;
                }
                let Some(place) = connections.admit() else {
                    continue;
                };
                let mut http = http1::Builder::new();
                http.timer(TokioTimer::new())
                    .header_read_timeout(IDLE_TIMEOUT)
                    .max_buf_size(MAX_HEAD_BYTES)
                    .max_headers(64);
                let is_answering = Arc::default();
                let socket = Socket::new(stream, Arc::clone(&is_answering));
                let service = Answering {
                    router: router.clone(),
                    connection: Arc::clone(&place),
                    is_answering,
                };
                let connection = graceful.watch(http.serve_connection(TokioIo::new(socket), service));
                tokio::spawn(async move {
                    tokio::select! {
                        ended = connection => if let Err(error) = ended {
                            tracing::debug!(%error, "an HTTP connection broke");
                        },
                        () = place.displaced() => {}
                    }
                });
            }
            drop(self.listener);
            if timeout(DRAIN, graceful.shutdown()).await.is_err() {
                tracing::warn!("HTTP requests were cut at the end");
            }
        })
    }
}
