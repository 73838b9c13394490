//! `GET /health` and `GET /ready` for process managers, over plain HTTP on loopback
//!
//! Small enough to be written out: two paths, no body, one answer per connection, everything bounded.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use prexorcloud_logs::Counts;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// The largest request head that is read
const MAX_HEAD: usize = 8 * 1024;

/// How long one exchange may take
const DEADLINE: Duration = Duration::from_secs(5);

/// Exchanges at a time
const MAX_CONNECTIONS: usize = 32;

/// What the endpoint tells
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// The node's id
    pub node_id: String,
    /// Whether a session with a controller is established
    pub connected: bool,
    /// Instances that have a process
    pub instance_count: usize,
    /// The controller that is or was dialled last, as host and port
    pub controller: Option<(String, u16)>,
    /// Log records for the controller, and how many of them were given up
    pub log: Counts,
}

/// Answers until it is dropped
#[derive(Debug)]
pub struct HealthServer {
    address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for HealthServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl HealthServer {
    /// Listens on `address`; `health` is asked for each answer
    ///
    /// # Errors
    /// If the address cannot be listened on.
    pub async fn start(
        address: SocketAddr,
        health: impl Fn() -> Health + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let task = tokio::spawn(serve(listener, Arc::new(health)));
        Ok(Self { address, task })
    }

    /// Where it listens
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn serve(listener: TcpListener, health: Arc<dyn Fn() -> Health + Send + Sync>) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let health = Arc::clone(&health);
                tokio::spawn(async move {
                    // A caller that is slow or gone gets no answer; it is its own loss.
                    let _ = timeout(DEADLINE, exchange(stream, &*health)).await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "health endpoint: accept failed");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

async fn exchange(mut stream: TcpStream, health: &(dyn Fn() -> Health + Send + Sync)) -> io::Result<()> {
    let mut head = Vec::with_capacity(512);
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        if head.len() > MAX_HEAD || stream.read_buf(&mut head).await? == 0 {
            break;
        }
    }
    let line =
        String::from_utf8_lossy(head.split(|byte| *byte == b'\r').next().unwrap_or_default()).into_owned();
    let mut words = line.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = target.split('?').next().unwrap_or_default();
    let (status, body) = answer(method, path, &health());
    let body = body.to_string();
    let length = body.len();
    let shown = if method == "HEAD" { "" } else { body.as_str() };
    let response = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n{shown}"
    );
    stream.write_all(response.as_bytes()).await?;
    stream.shutdown().await
}

fn answer(method: &str, path: &str, health: &Health) -> (&'static str, serde_json::Value) {
    let ready = health.connected;
    match (method, path) {
        ("GET" | "HEAD", "/health") => (
            "200 OK",
            serde_json::json!({
                "status": "UP",
                "nodeId": health.node_id,
                "connected": health.connected,
                "instanceCount": health.instance_count,
                "controller": health.controller.as_ref().map(|(host, port)| {
                    serde_json::json!({ "host": host, "grpcPort": port })
                }),
                "logRecords": health.log.logged,
                "logRecordsDropped": health.log.dropped,
            }),
        ),
        ("GET" | "HEAD", "/ready") => (
            if ready {
                "200 OK"
            } else {
                "503 Service Unavailable"
            },
            serde_json::json!({
                "status": if ready { "READY" } else { "NOT_READY" },
                "nodeId": health.node_id,
                "connected": health.connected,
                "instanceCount": health.instance_count,
            }),
        ),
        (_, "/health" | "/ready") => (
            "405 Method Not Allowed",
            serde_json::json!({ "error": "use GET" }),
        ),
        _ => (
            "404 Not Found",
            serde_json::json!({ "error": "there are /health and /ready" }),
        ),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    async fn request(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn health_is_up_and_ready_follows_the_session() {
        let connected = Arc::new(AtomicBool::new(false));
        let now = Arc::clone(&connected);
        let server = HealthServer::start("127.0.0.1:0".parse().unwrap(), move || Health {
            node_id: "node-1".into(),
            connected: now.load(Ordering::Relaxed),
            instance_count: 3,
            controller: Some(("ctrl".into(), 9090)),
            log: Counts {
                logged: 7,
                dropped: 2,
            },
        })
        .await
        .unwrap();
        let get = async |path: &str| {
            request(
                server.address(),
                &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"),
            )
            .await
        };
        let health = get("/health").await;
        assert!(health.starts_with("HTTP/1.1 200 OK\r\n"), "{health}");
        assert!(health.contains("\"status\":\"UP\"") && health.contains("\"instanceCount\":3"));
        assert!(health.contains("\"logRecords\":7") && health.contains("\"logRecordsDropped\":2"));
        assert!(get("/ready").await.contains("503 Service Unavailable"));
        connected.store(true, Ordering::Relaxed);
        let ready = get("/ready?x=1").await;
        assert!(ready.starts_with("HTTP/1.1 200 OK") && ready.contains("\"status\":\"READY\""));
        assert!(get("/healthz").await.starts_with("HTTP/1.1 404"));
        assert!(
            request(server.address(), "POST /health HTTP/1.1\r\n\r\n")
                .await
                .starts_with("HTTP/1.1 405")
        );
    }
}
