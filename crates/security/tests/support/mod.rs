//! Two rustls peers joined by byte pipes, and a clock that stands still
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prexorcloud_security::authority::{Authority, AuthorityPolicy, ServerNames};
use prexorcloud_security::credential::Credential;
use prexorcloud_security::tls::{TimeProvider, server_name};
use rustls::pki_types::UnixTime;
use rustls::{ClientConfig, ClientConnection, Error, ServerConfig, ServerConnection};

pub const DAY: Duration = Duration::from_secs(86_400);

/// 2026-01-01T00:00:00Z
pub fn epoch() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_767_225_600)
}

#[derive(Debug)]
pub struct StoppedClock(pub SystemTime);

impl TimeProvider for StoppedClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(
            self.0.duration_since(UNIX_EPOCH).ok()?,
        ))
    }
}

pub fn clock(at: SystemTime) -> Arc<dyn TimeProvider> {
    Arc::new(StoppedClock(at))
}

pub fn authority() -> Authority {
    Authority::create(&AuthorityPolicy::default(), epoch()).unwrap()
}

pub fn server_of(authority: &Authority) -> Credential {
    let names = ServerNames::loopback()
        .with("controller.example")
        .unwrap()
        .with("10.0.0.7")
        .unwrap();
    authority.issue_server(&names, epoch()).unwrap()
}

/// What a handshake came to
pub struct Meeting {
    pub client: ClientConnection,
    pub server: ServerConnection,
    pub client_error: Option<Error>,
    pub server_error: Option<Error>,
    /// Application bytes that reached the server
    pub received: Vec<u8>,
}

impl Meeting {
    pub fn succeeded(&self) -> bool {
        self.client_error.is_none()
            && self.server_error.is_none()
            && !self.client.is_handshaking()
            && !self.server.is_handshaking()
    }

    pub fn client_certificates(&self) -> Option<usize> {
        self.server.peer_certificates().map(<[_]>::len)
    }
}

pub const SECRET: &[u8] = b"the join token";

/// Lets two peers shake hands over `host`; the client has [`SECRET`] ready to send from the first moment
pub fn meet(client: Arc<ClientConfig>, server: Arc<ServerConfig>, host: &str) -> Meeting {
    let client = ClientConnection::new(client, server_name(host).unwrap()).unwrap();
    let server = ServerConnection::new(server).unwrap();
    let mut meeting = Meeting {
        client,
        server,
        client_error: None,
        server_error: None,
        received: Vec::new(),
    };
    meeting.client.writer().write_all(SECRET).unwrap();
    // Each round moves everything that either side has to say; a handshake takes four, and nothing here can
    // wait.
    for _ in 0..16 {
        let mut up = Vec::new();
        while meeting.client.wants_write() {
            meeting.client.write_tls(&mut up).unwrap();
        }
        let mut unread = up.as_slice();
        while !unread.is_empty() && meeting.server_error.is_none() {
            meeting.server.read_tls(&mut unread).unwrap();
            match meeting.server.process_new_packets() {
                Ok(_) => drain(&mut meeting),
                Err(error) => meeting.server_error = Some(error),
            }
        }
        let mut down = Vec::new();
        while meeting.server.wants_write() {
            meeting.server.write_tls(&mut down).unwrap();
        }
        let mut unread = down.as_slice();
        while !unread.is_empty() && meeting.client_error.is_none() {
            meeting.client.read_tls(&mut unread).unwrap();
            if let Err(error) = meeting.client.process_new_packets() {
                meeting.client_error = Some(error);
            }
        }
        if up.is_empty() && down.is_empty() {
            break;
        }
    }
    meeting
}

fn drain(meeting: &mut Meeting) {
    let mut buffer = [0; 256];
    while let Ok(read @ 1..) = meeting.server.reader().read(&mut buffer) {
        meeting.received.extend_from_slice(&buffer[..read]);
    }
}
