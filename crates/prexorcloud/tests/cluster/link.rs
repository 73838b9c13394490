//! A link between daemon and controller that can be made to fail

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A proxy on a port of its own
pub struct Link {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    is_stalled: AtomicBool,
    is_over: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
}

impl Link {
    /// Everything goes through to `target`
    pub fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::<Shared>::default();
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                if accepting.is_over.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(far) = TcpStream::connect(target) else {
                    continue;
                };
                accepting.carry(&near, &far);
                accepting.carry(&far, &near);
                accepting.open.lock().unwrap().extend([near, far]);
            }
        });
        Self { address, shared }
    }

    /// Nothing gets through any more, and nobody is told
    pub fn stall(&self) {
        self.shared.is_stalled.store(true, Ordering::Relaxed);
    }

    /// What was on its way is lost with its connections; new ones are as before
    pub fn cut(&self) {
        for stream in self.shared.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        self.shared.is_stalled.store(false, Ordering::Relaxed);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        self.cut();
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn carry(self: &Arc<Self>, from: &TcpStream, to: &TcpStream) {
        let (shared, mut from, mut to) = (
            Arc::clone(self),
            from.try_clone().unwrap(),
            to.try_clone().unwrap(),
        );
        from.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 16 * 1024];
            loop {
                if shared.is_stalled.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(20));
                    // Only to learn of the cut: what waits is not taken.
                    if from.peek(&mut buffer[..1]).is_ok_and(|length| length == 0) {
                        return;
                    }
                    continue;
                }
                match from.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(length) => {
                        // What was read when the stall began gets nowhere either.
                        while shared.is_stalled.load(Ordering::Relaxed) {
                            std::thread::sleep(Duration::from_millis(20));
                        }
                        if to.write_all(&buffer[..length]).is_err() {
                            break;
                        }
                    }
                    Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                    Err(_) => break,
                }
            }
            let _ = to.shutdown(Shutdown::Both);
            let _ = from.shutdown(Shutdown::Both);
        });
    }
}
