//! A line between two programs that carries so many bytes a second, shared fairly by the connections on it

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;

/// Bytes that one connection sends before another has its turn
const TURN: usize = 16 * 1024;

/// How much later than it should a timer may wake whoever waits, without slowing the line
const LATE: Duration = Duration::from_millis(5);

/// Connections to it go on to where it leads; it ends with this
pub struct Line {
    address: SocketAddr,
    _runtime: tokio::runtime::Runtime,
}

impl Line {
    /// A line to this address
    pub fn to(target: &str, bytes_per_second: u32) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let address = listener.local_addr().context("no address")?;
        let target = target.to_owned();
        // One for each direction; whoever waits longest is next.
        let [there, back] = [(); 2].map(|()| Arc::new(Mutex::new(Instant::now())));
        runtime.spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let (target, there, back) = (target.clone(), Arc::clone(&there), Arc::clone(&back));
                tokio::spawn(async move {
                    let Ok(far) = TcpStream::connect(&target).await else {
                        return;
                    };
                    for socket in [&near, &far] {
                        let _ = socket.set_nodelay(true);
                    }
                    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
                    let _ = tokio::join!(
                        carry(near_in, far_out, there, bytes_per_second),
                        carry(far_in, near_out, back, bytes_per_second)
                    );
                });
            }
        });
        Ok(Self {
            address,
            _runtime: runtime,
        })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn carry(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    free_at: Arc<Mutex<Instant>>,
    bytes_per_second: u32,
) -> std::io::Result<()> {
    let mut buffer = vec![0; TURN];
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return to.shutdown().await;
        }
        {
            // The line is taken until the last byte has left.
            let mut free_at = free_at.lock().await;
            let now = Instant::now();
            let begun = (*free_at).max(now.checked_sub(LATE).unwrap_or(now));
            *free_at = begun + Duration::from_secs(1).mul_f64(count as f64 / f64::from(bytes_per_second));
            tokio::time::sleep_until((*free_at).into()).await;
        }
        to.write_all(buffer.get(..count).unwrap_or_default()).await?;
    }
}
