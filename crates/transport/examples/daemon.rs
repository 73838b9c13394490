//! A daemon of your own: enrols, connects, and runs "instances" that are entries of a table
//!
//! ```sh
//! prexorctl token create --node node-1
//! cargo run -p prexorcloud-transport --example daemon -- controller.example:9090 node-1 ./state pxr_...
//! prexorctl instance start lobby --jar /any.jar
//! ```
//!
//! The token is needed once. Ctrl-C ends the session in order.

use std::collections::HashMap;
use std::error::Error;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use prexorcloud_transport::protocol::node::daemon::{DaemonNode, DaemonNodeConfig, DaemonWork};
use prexorcloud_transport::protocol::node::daemon::{Exit, Handed, Prepared};
use prexorcloud_transport::protocol::proto::daemon_message::Payload;
use prexorcloud_transport::protocol::{DaemonConfig, DaemonEvent, DaemonSession, GroupName, InstanceId};
use prexorcloud_transport::protocol::{NodeId, fence::EpochFence, hosted::Hosted};
use prexorcloud_transport::security::certificate_directory::CertificateDirectory;
use prexorcloud_transport::{DaemonRunner, Dialer, SessionHandle, SessionHandler, Target};
use prexorcloud_transport::{due, enrol_once};

type Session = SessionHandle<DaemonSession>;

/// The machine decides what is to be done about orders; this does it.
struct Node {
    machine: DaemonNode<GroupName>,
    running: HashMap<InstanceId, GroupName>,
}

impl SessionHandler<DaemonSession> for Node {
    type End = String;

    async fn handle_event(&mut self, session: &Session, event: DaemonEvent) -> ControlFlow<String> {
        // What the machine gives back concerns no instance.
        match self.machine.handle_event(Instant::now(), event) {
            Some(DaemonEvent::Connected(connected)) => {
                println!("connected, session {}", connected.session_id)
            }
            // A daemon that survives its process writes the epoch to disk here, before anything is done under it.
            Some(DaemonEvent::FenceRaised(epoch)) => session.with(|session, _| session.fence_written(epoch)),
            Some(DaemonEvent::Disconnected(outcome)) => println!("disconnected: {outcome}"),
            Some(DaemonEvent::Command { instance, line, .. }) => println!("{instance} is told: {line}"),
            Some(DaemonEvent::NodeStatusDue) => {
                let status = Payload::NodeStatus(self.machine.status());
                // Not connected any more: the next one will be asked for.
                let _ = session.with(|session, _| session.send(status));
            }
            _ => {}
        }
        self.work(session)
    }

    async fn idle(&mut self, session: &Session) -> ControlFlow<String> {
        due(self.machine.poll_timeout()).await;
        self.machine.handle_timeout(Instant::now());
        self.work(session)
    }
}

impl Node {
    fn work(&mut self, session: &Session) -> ControlFlow<String> {
        while let Some(work) = self.machine.poll_work() {
            let now = Instant::now();
            // What is to be said is said; what is left is to be done.
            match session.with(|session, _| work.hand_to(session, &mut self.machine)) {
                Handed::Reported { report, .. } => println!("{} is {}", report.instance, report.state),
                Handed::Left(DaemonWork::Prepare { attempt, start, .. }) => {
                    if let Ok(group) = start.group.parse() {
                        let prepared = Prepared::of(&start, group);
                        self.machine.handle_prepared(now, attempt, prepared);
                    }
                }
                Handed::Left(DaemonWork::Launch { attempt, launch }) => {
                    let (instance, incarnation) = (attempt.instance(), attempt.incarnation());
                    // A daemon for real servers starts a process here, and hears later that it is ready.
                    self.running.insert(instance, launch);
                    self.machine.handle_launched(now, attempt);
                    self.machine.handle_ready(now, instance, incarnation);
                }
                Handed::Left(DaemonWork::Stop {
                    instance,
                    incarnation,
                    ..
                }) => {
                    if let Some(group) = self.running.remove(&instance) {
                        let exit = Exit::requested(instance, group, incarnation, Duration::ZERO);
                        self.machine.handle_exited(now, exit);
                    }
                }
                Handed::Left(DaemonWork::Finish { reason }) => return ControlFlow::Break(reason),
                // An entry of a table does not crash, and nothing of it is left on a disk.
                _ => {}
            }
        }
        ControlFlow::Continue(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [controller, node, folder, token @ ..] = words.as_slice() else {
        return Err("usage: daemon HOST:PORT NODE FOLDER [TOKEN]".into());
    };
    let (controller, node): (Target, NodeId) = (controller.parse()?, node.parse()?);
    let token = token.first().map(|token| token.parse()).transpose()?;
    let directory = CertificateDirectory::new(folder);
    let enrolled = enrol_once(&directory, &controller, token.as_ref(), node).await?;
    let mut config = DaemonConfig::new(node, "example");
    config.total_memory_mb = 1024;
    config.available_cpus = 1;
    let session = DaemonSession::new(config, Hosted::new(), EpochFence::default());
    let runner = DaemonRunner::new(session, Dialer::of(&enrolled)?, [controller])?;
    let (machine, running) = (DaemonNode::new(DaemonNodeConfig::default()), HashMap::new());
    let mut node = Node { machine, running };
    let end = runner.run(&mut node, async { drop(tokio::signal::ctrl_c().await) });
    println!("ended: {:?}", end.await);
    Ok(())
}
