//! One connection to one controller
//!
//! tonic's `Channel` redials by itself, inside a call, as often as it likes. Here a connection is dialled once, with the
//! TLS configuration of the moment, and when it breaks it stays broken and says why. When to dial again is the
//! [`reconnect`](crate::reconnect) policy's decision.

mod body;
mod connection;
mod failure;
mod target;
mod watched;

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prexorcloud_proto::bootstrap_service_client::BootstrapServiceClient;
use prexorcloud_proto::{ExchangeJoinTokenRequest, ExchangeJoinTokenResponse};
use prexorcloud_security::enrolment::Enrolled;
use prexorcloud_security::tls::{ClientTls, TlsError};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;

pub use self::body::ResponseBody;
pub use self::connection::Connection;
pub use self::failure::DialError;
use self::failure::classify;
pub use self::target::{DEFAULT_PORT, InvalidTarget, Target};
use self::watched::Watched;
use crate::server::ALPN_H2;

/// Timings and windows of a [`Dialer`]
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DialOptions {
    /// For name resolution, TCP and TLS together. 10 s.
    pub connect_timeout: Duration,
    /// Silence after which the controller is asked whether it is there (HTTP/2 ping), also without a call. 30 s.
    pub keepalive_interval: Duration,
    /// How long it may take to answer. 10 s.
    pub keepalive_timeout: Duration,
    /// Flow-control window of one call, in bytes. 2 MiB.
    pub stream_window: u32,
    /// Flow-control window of the connection, in bytes. 4 MiB.
    pub connection_window: u32,
    /// The longest HTTP/2 frame that the controller may send, in bytes. 16 KiB: a pong waits behind one of them.
    pub max_frame: u32,
    /// Bytes of one call that may wait in HTTP/2 for the socket. Small keeps a pong ahead of a blob. 256 KiB.
    pub send_buffer: usize,
}

impl Default for DialOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            keepalive_interval: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(10),
            stream_window: 2 * 1024 * 1024,
            connection_window: 4 * 1024 * 1024,
            max_frame: 16 * 1024,
            send_buffer: 256 * 1024,
        }
    }
}

/// The error type of a provider of TLS configurations.
pub type CredentialsError = Box<dyn Error + Send + Sync>;

type TlsProvider = dyn Fn() -> Result<Arc<rustls::ClientConfig>, CredentialsError> + Send + Sync;

/// Dials controllers; clones share the TLS provider
#[derive(Clone)]
pub struct Dialer {
    tls: Arc<TlsProvider>,
    options: DialOptions,
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialer")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Dialer {
    /// A dialer that asks `tls` before each connection, so that a renewed certificate is used from the next one on.
    pub fn new(
        tls: impl Fn() -> Result<Arc<rustls::ClientConfig>, CredentialsError> + Send + Sync + 'static,
        options: DialOptions,
    ) -> Self {
        Self {
            tls: Arc::new(tls),
            options,
        }
    }

    /// A dialer with one TLS configuration.
    #[must_use]
    pub fn with_config(tls: Arc<rustls::ClientConfig>, options: DialOptions) -> Self {
        Self::new(move || Ok(Arc::clone(&tls)), options)
    }

    /// A dialer for a node that has enrolled: believes its authorities and presents its certificate.
    ///
    /// # Errors
    /// [`TlsError`] if what was enrolled cannot be used.
    pub fn of(enrolled: &Enrolled) -> Result<Self, TlsError> {
        let tls = ClientTls::new(&enrolled.anchors)
            .identity(&enrolled.credential)
            .build()?;
        Ok(Self::with_config(tls, DialOptions::default()))
    }

    /// Connects to a controller: TCP, TLS with the host of `target` as the expected name, HTTP/2
    ///
    /// With TLS 1.3 the server judges our certificate after this returns; see [`Connection::failure`].
    ///
    /// # Errors
    /// [`DialError`] prints a sentence for the operator.
    pub async fn dial(&self, target: &Target) -> Result<Connection, DialError> {
        let deadline = Instant::now() + self.options.connect_timeout;
        let late = |stage| {
            move |_| DialError::Timeout {
                target: target.clone(),
                stage,
            }
        };

        let mut config = (self.tls)().map_err(|source| DialError::Credentials {
            source: source.into(),
        })?;
        if !matches!(config.alpn_protocols.as_slice(), [only] if only == ALPN_H2) {
            Arc::make_mut(&mut config).alpn_protocols = vec![ALPN_H2.to_vec()];
        }
        let name = target.server_name().ok_or_else(|| DialError::Resolve {
            target: target.clone(),
            reason: "not a name that a certificate can carry".into(),
        })?;

        let socket = self.open_socket(target, deadline).await?;
        let tls = timeout_at(deadline, TlsConnector::from(config).connect(name, socket))
            .await
            .map_err(late("agreeing on TLS"))?
            .map_err(|error| classify(target, &error))?;
        let certificates = tls
            .get_ref()
            .1
            .peer_certificates()
            .map(<[_]>::to_vec)
            .unwrap_or_default();

        let (watched, seen) = Watched::new(tls);
        let mut http2 = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        http2
            .timer(TokioTimer::new())
            .keep_alive_interval(self.options.keepalive_interval)
            .keep_alive_timeout(self.options.keepalive_timeout)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(self.options.stream_window)
            .initial_connection_window_size(self.options.connection_window)
            .max_frame_size(self.options.max_frame)
            .max_send_buf_size(self.options.send_buffer)
            .max_header_list_size(16 * 1024);
        let (requests, driver) = timeout_at(deadline, http2.handshake(TokioIo::new(watched)))
            .await
            .map_err(late("agreeing on HTTP/2"))?
            .map_err(|error| classify(target, &error))?;
        Ok(Connection::spawn(
            target.clone(),
            certificates,
            requests,
            driver,
            seen,
        ))
    }

    async fn open_socket(&self, target: &Target, deadline: Instant) -> Result<TcpStream, DialError> {
        let host = target.host();
        let addresses: Vec<_> = timeout_at(deadline, lookup_host((host.as_str(), target.port())))
            .await
            .map_err(|_| DialError::Timeout {
                target: target.clone(),
                stage: "resolving the host name",
            })?
            .map_err(|error| DialError::Resolve {
                target: target.clone(),
                reason: error.to_string(),
            })?
            .collect();
        let mut last = DialError::Resolve {
            target: target.clone(),
            reason: "the name has no address".into(),
        };
        let count = addresses.len();
        for (index, address) in addresses.into_iter().enumerate() {
            // An address that swallows packets must leave time for the ones after it.
            let left = u32::try_from(count - index).unwrap_or(u32::MAX);
            let share = deadline.saturating_duration_since(Instant::now()) / left;
            match timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(socket)) => {
                    socket
                        .set_nodelay(true)
                        .map_err(|error| classify(target, &error))?;
                    return Ok(socket);
                }
                Ok(Err(error)) => last = classify(target, &error),
                Err(_) => {
                    last = DialError::Timeout {
                        target: target.clone(),
                        stage: "connecting",
                    }
                }
            }
        }
        Err(last)
    }
}

/// Why a call of its own connection failed
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The controller was not reached, or the connection broke.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The controller answered with a status that is not OK.
    #[error("the controller answered {code:?}: {message}")]
    Status {
        /// The gRPC status code.
        code: tonic::Code,
        /// The controller's sentence.
        message: String,
    },
    /// There was no answer in time.
    #[error("{target}: no answer within {after:?}")]
    DeadlineExceeded {
        /// Who was called.
        target: Target,
        /// The time that was allowed.
        after: Duration,
    },
}

impl CallError {
    /// True where the same call may succeed later, or at another controller.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Dial(error) => !error.needs_operator(),
            Self::Status { code, .. } => matches!(
                code,
                tonic::Code::Unavailable
                    | tonic::Code::DeadlineExceeded
                    | tonic::Code::ResourceExhausted
                    | tonic::Code::Aborted
            ),
            Self::DeadlineExceeded { .. } => true,
        }
    }
}

/// Exchanges a join token for a keystore, on a connection of its own
///
/// `deadline` is for everything from dialling to the answer. The TLS configuration of the dialer must have verified the
/// server (or have decided to trust it) before the token leaves: with rustls, that is when `dial` succeeds.
///
/// # Errors
/// [`CallError::is_transient`] says whether to try again; a refused token is not.
pub async fn exchange_join_token(
    dialer: &Dialer,
    target: &Target,
    request: ExchangeJoinTokenRequest,
    deadline: Duration,
) -> Result<ExchangeJoinTokenResponse, CallError> {
    let call = async {
        let connection = dialer.dial(target).await?;
        let answer = BootstrapServiceClient::new(connection.clone())
            .exchange_join_token(request)
            .await;
        match answer {
            Ok(response) => Ok(response.into_inner()),
            Err(status) => Err(connection.call_error(&status).await),
        }
    };
    timeout(deadline, call).await.unwrap_or_else(|_| {
        Err(CallError::DeadlineExceeded {
            target: target.clone(),
            after: deadline,
        })
    })
}
