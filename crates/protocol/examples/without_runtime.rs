//! Both sides of a session without an async runtime: two threads, blocking TCP, a framing of its own
//!
//! ```sh
//! cargo run --example without_runtime
//! ```
//!
//! The protocol crate alone decides everything; [`drive`] is the whole driver. gRPC, TLS and reconnection are what
//! `prexorcloud-transport` adds.

#![allow(
    clippy::disallowed_methods,
    reason = "the driver is the one who has the clock"
)]

use std::error::Error;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use prexorcloud_protocol::fence::EpochFence;
use prexorcloud_protocol::hosted::Hosted;
use prexorcloud_protocol::instance::State;
use prexorcloud_protocol::node::controller::{ControllerNode, ControllerWork, OrderId};
use prexorcloud_protocol::proto::StartInstance;
use prexorcloud_protocol::roster::InstanceEvent;
use prexorcloud_protocol::session::controller::Admission;
use prexorcloud_protocol::session::daemon::StatusReport;
use prexorcloud_protocol::{
    Close, Code, ControllerConfig, ControllerEvent, ControllerSession, DaemonConfig, DaemonEvent,
    DaemonSession, NodeId, Received, Session,
};
use prost::Message;

type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

/// Drives one stream of a session until either side ends it
///
/// A turn has a fixed order: what is due, what is to be written, what there is to tell, then exactly one new input.
fn drive<S>(
    session: &mut S,
    mut stream: TcpStream,
    mut handle: impl FnMut(&mut S, Instant, S::Event),
) -> Outcome
where
    S: Session<Incoming: Message + Default + Send + 'static, Outgoing: Message>,
{
    let (sender, frames) = channel();
    let mut reader = stream.try_clone()?;
    std::thread::spawn(move || {
        let mut len = [0; 4];
        while reader.read_exact(&mut len).is_ok() {
            let mut frame = Vec::new();
            let wanted = u64::from(u32::from_be_bytes(len));
            let Ok(_) = (&mut reader).take(wanted).read_to_end(&mut frame) else {
                return;
            };
            let Ok(message) = S::Incoming::decode(frame.as_slice()) else {
                return;
            };
            if sender.send(message).is_err() {
                return;
            }
        }
    });
    session.handle_connected(Instant::now());
    loop {
        let now = Instant::now();
        session.handle_timeout(now);
        loop {
            if let Some(message) = session.poll_transmit() {
                let bytes = message.encode_to_vec();
                stream.write_all(&u32::try_from(bytes.len())?.to_be_bytes())?;
                stream.write_all(&bytes)?;
            } else if let Some(event) = session.poll_event() {
                handle(session, now, event);
            } else {
                break;
            }
        }
        if session.close().is_some() {
            break;
        }
        let wait = session
            .poll_timeout()
            .map_or(Duration::MAX, |deadline| deadline.at - now);
        match frames.recv_timeout(wait) {
            Ok(message) => session.handle_message(Instant::now(), Received::from(message)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    // The other side's reader ends, and so does ours.
    let _ = stream.shutdown(std::net::Shutdown::Both);
    session.handle_disconnected(Instant::now());
    while let Some(event) = session.poll_event() {
        handle(session, Instant::now(), event);
    }
    Ok(())
}

fn daemon(stream: TcpStream, node: NodeId) -> Outcome {
    let config = DaemonConfig::new(node, "example");
    let mut session = DaemonSession::new(config, Hosted::new(), EpochFence::default());
    drive(&mut session, stream, |session, _, event| match event {
        DaemonEvent::Start(order) => {
            let (instance, incarnation) = (order.instance, order.incarnation);
            let (player_count, uptime) = (0, Duration::ZERO);
            let mut is = |state| {
                session.report(&StatusReport {
                    instance,
                    incarnation,
                    state,
                    player_count,
                    uptime,
                })
            };
            is(State::Preparing);
            is(State::Starting);
            is(State::Running);
            session.start_accepted(instance, incarnation, "");
        }
        // A daemon that is to outlive its process writes the epoch down first.
        DaemonEvent::FenceRaised(epoch) => session.fence_written(epoch),
        DaemonEvent::Connected(_) => println!("daemon: connected"),
        DaemonEvent::Disconnected(outcome) => println!("daemon: {outcome}"),
        _ => {}
    })
}

/// What the machine wants done; all that is to be kept is kept in memory
fn work(node: &mut ControllerNode, session: &mut ControllerSession, now: Instant) {
    while let Some(work) = node.poll_work() {
        match work.hand_to(now, session) {
            Some(ControllerWork::Admit { hello }) => node.handle_admission(now, hello, Admission::default()),
            Some(ControllerWork::Commit(commit)) => node.handle_committed(now, commit.id),
            Some(ControllerWork::Answer { result, .. }) => println!("controller: start lobby-1: {result:?}"),
            Some(ControllerWork::News(InstanceEvent::Changed { instance, to, .. })) => {
                println!("controller: {instance} is {to}");
                if to == State::Running {
                    session.close_with(Close::new(Code::Ok, "enough seen"));
                }
            }
            _ => {}
        }
    }
    node.feed(session);
}

fn controller(stream: TcpStream, name: NodeId) -> Outcome {
    // The identity is what a certificate would say. Its instances outlive the stream, and so does the machine that knows
    // them; one that minds its deadlines asks it for the next one, too.
    let mut session = ControllerSession::new(ControllerConfig::default(), name, 1);
    let mut node = ControllerNode::new(name);
    drive(&mut session, stream, |session, now, event| {
        let stream = session.stream();
        if let Some(ControllerEvent::Established) = node.handle_event(now, stream, event) {
            let start = StartInstance {
                instance_id: "lobby-1".into(),
                group: "lobby".into(),
                port: 30_000,
                incarnation: 1,
                ..StartInstance::default()
            };
            node.start(now, OrderId(1), Box::new(start));
        }
        work(&mut node, session, now);
    })
}

fn main() -> Outcome {
    let node: NodeId = "node-1".parse()?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let dialled = TcpStream::connect(listener.local_addr()?)?;
    let (accepted, _) = listener.accept()?;
    let daemon = std::thread::spawn(move || daemon(dialled, node));
    controller(accepted, node)?;
    daemon.join().map_err(|_| "the daemon's thread panicked")?
}
