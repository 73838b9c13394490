//! A daemon of your own: enrols, connects, and runs "instances" that are entries of a table
//!
//! ```sh
//! prexorctl token create --node node-1
//! cargo run --example daemon -- controller.example:9090 node-1 ./state pxr_...
//! prexorctl instance start lobby --jar /any.jar
//! ```
//!
//! The token is needed once. Ctrl-C ends the session in order.

use std::error::Error;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use prexorcloud_transport::protocol::fence::EpochFence;
use prexorcloud_transport::protocol::hosted::Hosted;
use prexorcloud_transport::protocol::node::daemon::{DaemonNode, DaemonWork, NodeConfig, Prepared};
use prexorcloud_transport::protocol::node::daemon::{Exit, StopReason};
use prexorcloud_transport::protocol::proto::{NodeStatus, daemon_message::Payload};
use prexorcloud_transport::protocol::{DaemonConfig, DaemonEvent, DaemonSession, GroupName, NodeId};
use prexorcloud_transport::security::certificate_directory::CertificateDirectory;
use prexorcloud_transport::{DaemonRunner, Dialer, SessionHandle, SessionHandler, Target, enrol, say};

/// The machine decides what is to be done about orders; this does it.
struct Node {
    machine: DaemonNode<GroupName>,
}

impl SessionHandler<DaemonSession> for Node {
    async fn handle_event(
        &mut self,
        session: &SessionHandle<DaemonSession>,
        event: DaemonEvent,
    ) -> ControlFlow<()> {
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
                let used_ports: Vec<_> = self.machine.ports().map(i32::from).collect();
                let status = NodeStatus {
                    instance_count: i32::try_from(used_ports.len()).unwrap_or(i32::MAX),
                    used_ports,
                    ..NodeStatus::default()
                };
                // Not connected any more: the next one will be asked for.
                let _ = session.with(|session, _| session.send(Payload::NodeStatus(status)));
            }
            _ => {}
        }
        self.work(session)
    }

    async fn idle(&mut self, session: &SessionHandle<DaemonSession>) -> ControlFlow<()> {
        match self.machine.poll_timeout() {
            Some(deadline) => tokio::time::sleep_until(deadline.at.into()).await,
            None => std::future::pending().await,
        }
        self.machine.handle_timeout(Instant::now());
        self.work(session)
    }
}

impl Node {
    fn work(&mut self, session: &SessionHandle<DaemonSession>) -> ControlFlow<()> {
        while let Some(work) = self.machine.poll_output() {
            if let DaemonWork::Report(report) = &work {
                println!("{} is {}", report.instance, report.state);
            }
            let now = Instant::now();
            match say(session, work) {
                Some(DaemonWork::Prepare { attempt, start }) => {
                    let Ok(launch) = start.group.parse() else { continue };
                    let prepared = Prepared {
                        port: u16::try_from(start.port).unwrap_or(0),
                        grace: Duration::from_secs(30),
                        startup_timeout: Duration::from_secs(60),
                        launch,
                    };
                    self.machine.handle_prepared(now, attempt, prepared);
                }
                Some(DaemonWork::Launch { attempt, .. }) => {
                    // A daemon for real servers starts a process here, and hears later that it is ready.
                    self.machine.handle_launched(now, attempt);
                    self.machine
                        .handle_ready(now, attempt.instance(), attempt.incarnation());
                }
                Some(DaemonWork::Stop {
                    instance,
                    incarnation,
                    ..
                }) => {
                    self.machine
                        .handle_stopping(now, instance, incarnation, StopReason::Requested);
                    let group = session.with(|session, _| session.hosted().get(instance).map(|it| it.group));
                    let Some(group) = group else { continue };
                    let exit = Exit {
                        instance,
                        group,
                        incarnation,
                        code: 0,
                        stopped_for: Some(StopReason::Requested),
                        uptime: Duration::ZERO,
                        report_id: format!("{instance}-{incarnation}"),
                        log_tail: Vec::new(),
                    };
                    self.machine.handle_exited(now, exit);
                }
                Some(DaemonWork::Finish { .. }) => return ControlFlow::Break(()),
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
    let directory = CertificateDirectory::new(folder);
    let enrolled = match (directory.load()?, token) {
        (Some(enrolled), _) => enrolled,
        (None, [token]) => {
            directory.prepare()?;
            let enrolled = enrol(&controller, &token.parse()?, node).await?;
            directory.store(&enrolled)?;
            enrolled
        }
        (None, _) => return Err("this node has no certificate yet: give it a join token".into()),
    };
    let mut config = DaemonConfig::new(node, "example");
    config.total_memory_mb = 1024;
    config.available_cpus = 1;
    let session = DaemonSession::new(config, Hosted::new(), EpochFence::default());
    let runner = DaemonRunner::new(session, Dialer::of(&enrolled)?, [controller])?;
    let mut node = Node {
        machine: DaemonNode::new(NodeConfig::default()),
    };
    let end = runner
        .run(&mut node, async { drop(tokio::signal::ctrl_c().await) })
        .await;
    println!("ended: {end:?}");
    Ok(())
}
