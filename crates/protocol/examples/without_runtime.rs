//! Both sides of a session without an async runtime: two threads, blocking TCP, a framing of its own
//!
//! ```sh
//! cargo run -p prexorcloud-protocol --example without_runtime
//! ```
//!
//! [`drive`] is the whole driver. gRPC, TLS and reconnection are what `prexorcloud-transport` adds.

#![allow(clippy::disallowed_methods, reason = "a driver has a clock")]

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use prexorcloud_protocol::node::controller::{ControllerNode, ControllerWork as Work, OrderId};
use prexorcloud_protocol::session::{controller::Admission, daemon::StatusReport};
use prexorcloud_protocol::{Close, Code, ControllerConfig, ControllerSession, DaemonConfig, DaemonEvent};
use prexorcloud_protocol::{DaemonSession, NodeId, Received, Session, fence::EpochFence, hosted::Hosted};
use prexorcloud_protocol::{instance::State, limits, proto::StartInstance, roster::InstanceEvent};
use prost::Message;

type Outcome = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// Drives one stream to its end; a turn is what is due, what is to be written, what there is to tell, one new input.
fn drive<S>(session: &mut S, mut stream: TcpStream, mut handle: impl FnMut(&mut S, S::Event)) -> Outcome
where
    S: Session<Incoming: Message + Default + Send + 'static, Outgoing: Message>,
{
    let (sender, incoming) = channel();
    let mut reader = stream.try_clone()?;
    std::thread::spawn(move || -> Outcome {
        loop {
            let mut length = [0; 4];
            reader.read_exact(&mut length)?;
            let length = usize::try_from(u32::from_be_bytes(length))?;
            let mut frame = vec![0; length.min(limits::MAX_MESSAGE_BYTES)];
            reader.read_exact(&mut frame)?;
            sender.send(S::Incoming::decode(frame.as_slice())?)?;
        }
    });
    session.handle_connected(Instant::now());
    while session.close().is_none() {
        session.handle_timeout(Instant::now());
        loop {
            while let Some(message) = session.poll_transmit() {
                let frame = message.encode_to_vec();
                stream.write_all(&u32::try_from(frame.len())?.to_be_bytes())?;
                stream.write_all(&frame)?;
            }
            match session.poll_event() {
                Some(event) => handle(session, event),
                None => break,
            }
        }
        let due = session.poll_timeout();
        match incoming.recv_timeout(due.map_or(Duration::MAX, |due| due.at - Instant::now())) {
            Ok(message) => session.handle_message(Instant::now(), Received::from(message)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    let _ = stream.shutdown(Shutdown::Both);
    session.handle_disconnected(Instant::now());
    while let Some(event) = session.poll_event() {
        handle(session, event);
    }
    Ok(())
}

fn daemon(stream: TcpStream, node: NodeId) -> Outcome {
    let config = DaemonConfig::new(node, "example");
    let mut session = DaemonSession::new(config, Hosted::new(), EpochFence::default());
    drive(&mut session, stream, |session, event| match event {
        DaemonEvent::Start(order) => {
            // Nothing is started here; a daemon reports each of these when it is true.
            for state in [State::Preparing, State::Starting, State::Running] {
                session.report(&StatusReport::new(order.instance, order.incarnation, state));
            }
            session.start_accepted(order.instance, order.incarnation, "");
        }
        // A daemon that is to outlive its process writes the epoch down first.
        DaemonEvent::FenceRaised(epoch) => session.fence_written(epoch),
        DaemonEvent::Connected(_) => println!("daemon: connected"),
        DaemonEvent::Disconnected(outcome) => println!("daemon: {outcome}"),
        _ => {}
    })
}

fn controller(stream: TcpStream, name: NodeId) -> Outcome {
    // The name is what a certificate would say, and this is the node's first stream. Its machine outlives the stream.
    let mut session = ControllerSession::new(ControllerConfig::default(), name, 1);
    let mut node = ControllerNode::new(name);
    let start = StartInstance {
        instance_id: "lobby-1".into(),
        group: "lobby".into(),
        port: 30_000,
        incarnation: 1,
        ..StartInstance::default()
    };
    node.start(Instant::now(), OrderId(1), Box::new(start));
    drive(&mut session, stream, |session, event| {
        let now = Instant::now();
        let _ = node.handle_event(now, session.stream(), event);
        while let Some(work) = node.poll_work() {
            match work.hand_to(now, session) {
                Some(Work::Admit { hello }) => node.handle_admission(now, hello, Admission::default()),
                // A controller writes it down, and says so when it is written.
                Some(Work::Commit(commit)) => node.handle_committed(now, commit.id),
                Some(Work::News(InstanceEvent::Changed { instance, to, .. })) => {
                    println!("controller: {instance} is {to}");
                    if to == State::Running {
                        session.close_with(Close::new(Code::Ok, "enough seen"));
                    }
                }
                _ => {}
            }
        }
        node.feed(session);
    })
}

fn main() -> Outcome {
    let node: NodeId = "node-1".parse()?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let daemon = std::thread::spawn(move || daemon(TcpStream::connect(address)?, node));
    controller(listener.accept()?.0, node)?;
    daemon.join().map_err(|_| "the daemon's thread panicked")?
}
