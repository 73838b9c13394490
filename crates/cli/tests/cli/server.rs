//! A server that sends exactly the bytes it is told to

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// A request as received
#[derive(Clone, Debug)]
pub struct Request {
    pub line: String,
    pub headers: String,
    pub body: String,
}

impl Request {
    pub fn has_header(&self, text: &str) -> bool {
        self.headers.lines().any(|line| line.eq_ignore_ascii_case(text))
    }
}

/// What to send for one request, each piece written on its own; then the connection is closed
pub type Reply = Vec<Vec<u8>>;

pub struct Server {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    accepting: Option<JoinHandle<()>>,
}

impl Server {
    /// Answers the first request with the first reply and so on; the last reply is repeated
    pub fn replying(replies: Vec<Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        let accepting = std::thread::spawn(move || {
            let mut replies: VecDeque<Reply> = replies.into();
            for connection in listener.incoming() {
                let mut connection = connection.unwrap();
                connection
                    .set_read_timeout(Some(Duration::from_secs(20)))
                    .unwrap();
                connection
                    .set_write_timeout(Some(Duration::from_secs(20)))
                    .unwrap();
                let Some(request) = receive(&mut connection) else {
                    return;
                };
                seen.lock().unwrap().push(request);
                let reply = if replies.len() > 1 {
                    replies.pop_front().unwrap()
                } else {
                    replies.front().cloned().unwrap_or_default()
                };
                connection.set_nodelay(true).unwrap();
                for piece in reply {
                    // The client may have had enough.
                    if connection.write_all(&piece).is_err() {
                        break;
                    }
                }
            }
        });
        Self {
            address,
            requests,
            accepting: Some(accepting),
        }
    }

    /// Answers everything with this JSON
    pub fn json(status: u16, body: &str) -> Self {
        Self::replying(vec![json(status, body)])
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    pub fn only_request(&self) -> Request {
        let requests = self.requests();
        assert_eq!(requests.len(), 1, "{requests:?}");
        requests.into_iter().next().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A connection that says nothing is the sign to end.
        drop(TcpStream::connect(self.address));
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

pub fn json(status: u16, body: &str) -> Reply {
    let head = format!(
        "HTTP/1.1 {status} Whatever\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    vec![head.into_bytes(), body.as_bytes().to_vec()]
}

/// An event stream that ends after these pieces
pub fn events(pieces: &[&str]) -> Reply {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
    let mut reply = vec![head.as_bytes().to_vec()];
    reply.extend(pieces.iter().map(|piece| piece.as_bytes().to_vec()));
    reply
}

/// Reads one request; `None` if the peer closed instead
pub fn receive(connection: &mut TcpStream) -> Option<Request> {
    let mut received = Vec::new();
    let mut byte = [0];
    while !received.ends_with(b"\r\n\r\n") {
        match connection.read(&mut byte) {
            Ok(1) => received.push(byte[0]),
            _ => return None,
        }
    }
    let head = String::from_utf8(received).unwrap();
    let (line, headers) = head.split_once("\r\n").unwrap();
    let length = headers
        .lines()
        .find_map(|header| {
            header
                .to_ascii_lowercase()
                .strip_prefix("content-length: ")?
                .parse::<usize>()
                .ok()
        })
        .unwrap_or(0);
    let mut body = vec![0; length];
    connection.read_exact(&mut body).unwrap();
    Some(Request {
        line: line.to_owned(),
        headers: headers.to_owned(),
        body: String::from_utf8(body).unwrap(),
    })
}
