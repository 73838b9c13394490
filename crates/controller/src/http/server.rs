//! The HTTP listener: bounded connections, slow clients cut, graceful end

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::{
    net::TcpListener,
    sync::Semaphore,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

/// Connections at the same time; more wait in the operating system's queue
const MAX_CONNECTIONS: usize = 1024;

/// From the connection, or the end of a request, to the end of the next request's head
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// How long requests under way may take at the end
const DRAIN: Duration = Duration::from_secs(5);

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
}

impl HttpServer {
    pub(crate) async fn bind(address: SocketAddr) -> Result<Self, HttpServerError> {
        let bound = async {
            let listener = TcpListener::bind(address).await?;
            let address = listener.local_addr()?;
            Ok::<_, io::Error>((listener, address))
        };
        match bound.await {
            Ok((listener, address)) => Ok(Self { listener, address }),
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
            let connections = GracefulShutdown::new();
            let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
            loop {
                let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
                    break;
                };
                let accepted = tokio::select! {
                    () = stopping.cancelled() => break,
                    accepted = self.listener.accept() => accepted,
                };
                let stream = match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        tracing::warn!(%error, "an HTTP connection could not be accepted");
                        sleep(ACCEPT_RETRY).await;
                        continue;
                    }
                };
                // Console lines are small and should not wait for each other.
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "an HTTP connection ended before it began");
                    continue;
                }
                let mut http = http1::Builder::new();
                http.timer(TokioTimer::new())
                    .header_read_timeout(HEAD_TIMEOUT)
                    .max_headers(64);
                let service = TowerToHyperService::new(router.clone());
                let connection = connections.watch(http.serve_connection(TokioIo::new(stream), service));
                tokio::spawn(async move {
                    if let Err(error) = connection.await {
                        tracing::debug!(%error, "an HTTP connection broke");
                    }
                    drop(permit);
                });
            }
            drop(self.listener);
            if timeout(DRAIN, connections.shutdown()).await.is_err() {
                tracing::warn!("HTTP requests were cut at the end");
            }
        })
    }
}
