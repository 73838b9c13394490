//! A node under test, and words for what it does

use std::time::{Duration, Instant};

use prexorcloud_protocol::node::daemon::{
    Attempt, DaemonNode, DaemonNodeConfig, DaemonWork, Exit, Kept, Prepared, StopReason,
};
use prexorcloud_protocol::proto::{StartFailureDisposition, StartInstance, StartPreparationStage};
use prexorcloud_protocol::session::daemon::{StartOrder, StartRejection};
use prexorcloud_protocol::{Incarnation, InstanceId, StopMode};
use prexorcloud_testkit::Clock;

pub type Work = DaemonWork<&'static str>;

pub struct World {
    clock: Clock,
    pub elapsed: Duration,
    pub node: DaemonNode<&'static str>,
}

pub fn id(name: &str) -> InstanceId {
    name.parse().unwrap()
}

pub fn order(name: &str, incarnation: u64, port: i32) -> StartOrder {
    StartOrder {
        instance: id(name),
        group: "lobby".parse().unwrap(),
        incarnation: Incarnation::new(incarnation),
        start: Box::new(StartInstance {
            instance_id: name.into(),
            port,
            incarnation,
            ..StartInstance::default()
        }),
        trace: None,
    }
}

pub fn prepared(port: u16) -> Prepared<&'static str> {
    Prepared {
        port,
        grace: Duration::from_secs(30),
        startup_timeout: Duration::from_secs(60),
        launch: "launch",
    }
}

pub fn rejection() -> StartRejection {
    StartRejection {
        stage: StartPreparationStage::RuntimeProvision,
        error_code: "RUNTIME_PROVISION_FAILED".into(),
        message: "no jar".into(),
        disposition: StartFailureDisposition::Permanent,
        retry_after: Duration::ZERO,
        plan_hash: String::new(),
    }
}

pub fn exit(name: &str, incarnation: u64, code: i32, stopped_for: Option<StopReason>) -> Exit {
    Exit {
        instance: id(name),
        group: "lobby".parse().unwrap(),
        incarnation: Incarnation::new(incarnation),
        code,
        stopped_for,
        uptime: Duration::from_secs(5),
        report_id: format!("report-{name}-{incarnation}"),
        log_tail: vec!["last words".into()],
    }
}

/// One word or two for a piece of work.
pub fn word(work: &Work) -> String {
    match work {
        DaemonWork::Prepare { .. } => "prepare".into(),
        DaemonWork::CancelPreparation { .. } => "cancel".into(),
        DaemonWork::Launch { .. } => "launch".into(),
        DaemonWork::Stop { mode, .. } => match mode {
            StopMode::Graceful => "stop".into(),
            StopMode::Force => "kill".into(),
        },
        DaemonWork::Spool { .. } => "spool".into(),
        DaemonWork::Report(report) => report.state.to_string(),
        DaemonWork::AcceptStart { .. } => "accept".into(),
        DaemonWork::RejectStart { rejection, .. } => rejection.error_code.clone(),
        DaemonWork::AcknowledgeStop { result: Ok(()), .. } => "stop-ack".into(),
        DaemonWork::AcknowledgeStop { result: Err(_), .. } => "stop-refused".into(),
        DaemonWork::TellCrash { kept, .. } => match kept {
            Kept::OnDisk => "crash".into(),
            Kept::InMemory => "crash-in-memory".into(),
        },
        DaemonWork::TellSpooledCrashes => "crashes".into(),
        DaemonWork::ForgetCrash { .. } => "forget".into(),
        DaemonWork::Settle { .. } => "settle".into(),
        DaemonWork::AcknowledgeShutdown { running, .. } => format!("shutdown-ack {running}"),
        DaemonWork::Finish { reason } => format!("finish {reason}"),
    }
}

impl World {
    pub fn new() -> Self {
        Self {
            clock: Clock::new(),
            elapsed: Duration::ZERO,
            node: DaemonNode::new(DaemonNodeConfig::default()),
        }
    }

    pub fn now(&self) -> Instant {
        self.clock.at(self.elapsed)
    }

    pub fn pass(&mut self, time: Duration) {
        self.elapsed += time;
        self.node.handle_timeout(self.now());
    }

    pub fn drain(&mut self) -> Vec<Work> {
        std::iter::from_fn(|| self.node.poll_work()).collect()
    }

    pub fn words(&mut self) -> String {
        self.drain().iter().map(word).collect::<Vec<_>>().join(", ")
    }

    /// Orders a start that is expected to be prepared.
    pub fn preparing(&mut self, name: &str, incarnation: u64, port: i32) -> Attempt {
        self.node.handle_start(self.now(), order(name, incarnation, port));
        let attempt = self.drain().into_iter().find_map(|work| match work {
            DaemonWork::Prepare { attempt, .. } => Some(attempt),
            _ => None,
        });
        attempt.expect("the start is prepared")
    }

    pub fn launching(&mut self, name: &str, incarnation: u64, port: u16) -> Attempt {
        let attempt = self.preparing(name, incarnation, i32::from(port));
        self.node.handle_prepared(self.now(), attempt, prepared(port));
        assert_eq!(self.words(), "launch");
        attempt
    }

    pub fn starting(&mut self, name: &str, incarnation: u64, port: u16) -> Attempt {
        let attempt = self.launching(name, incarnation, port);
        self.node.handle_launched(self.now(), attempt);
        assert_eq!(self.words(), "STARTING, accept");
        attempt
    }

    pub fn running(&mut self, name: &str, incarnation: u64, port: u16) {
        self.starting(name, incarnation, port);
        self.node
            .handle_ready(self.now(), id(name), Incarnation::new(incarnation));
        assert_eq!(self.words(), "RUNNING");
    }

    pub fn stop(&mut self, name: &str, incarnation: u64, mode: StopMode) {
        self.node
            .handle_stop(self.now(), id(name), Incarnation::new(incarnation), mode);
    }

    pub fn exits(&mut self, name: &str, incarnation: u64, code: i32, stopped_for: Option<StopReason>) {
        self.node
            .handle_exited(self.now(), exit(name, incarnation, code, stopped_for));
    }

    pub fn spooled(&mut self, name: &str, incarnation: u64) {
        self.node
            .handle_spooled(self.now(), id(name), Incarnation::new(incarnation));
    }
}
