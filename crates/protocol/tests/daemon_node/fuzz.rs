//! Random controllers, processes, disks and streams against the session and the node together
//!
//! Each seed is a life of some hundred steps, then a time in which everything is answered. What must hold throughout
//! stands in [`Host`], what must hold in the end in [`Host::check_at_rest`].

use std::time::Duration;

use prexorcloud_protocol::Capabilities;
use prexorcloud_protocol::proto::controller_message::Payload as FromController;
use prexorcloud_protocol::proto::daemon_message::Payload as FromDaemon;
use prexorcloud_protocol::proto::{CrashReportAck, Ping, SendCommand, StopInstance};
use prexorcloud_testkit::Rng;

use crate::host::{Host, IDS, acknowledgement, id, start};

const SEEDS: u64 = 300;
const STEPS: u32 = 400;

struct Life {
    rng: Rng,
    host: Host,
    /// Whether some of the controllers announce nothing.
    meets_java: bool,
    pings: i64,
}

impl Life {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let meets_java = rng.chance(40);
        Self {
            rng,
            host: Host::new(),
            meets_java,
            pings: 0,
        }
    }

    fn incarnation(&mut self) -> u64 {
        if self.meets_java && self.rng.chance(50) {
            0
        } else {
            1 + self.rng.below(6)
        }
    }

    fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.rng.below(len as u64)).unwrap()
    }

    fn step(&mut self) {
        let number = self.rng.below(IDS);
        let incarnation = self.incarnation();
        match self.rng.below(19) {
            0 => self.host.connect(),
            1 => {
                let capabilities = if self.meets_java && self.rng.chance(50) {
                    Capabilities::NONE
                } else {
                    Capabilities::SESSION
                };
                self.host.receive(acknowledgement(capabilities), 0);
            }
            2 => self.host.disconnect(),
            3..=5 => {
                // Fewer ports than ids, so that some starts are refused for it.
                let port = i32::try_from(30_000 + number % (IDS - 1)).unwrap();
                self.host.receive(start(number, incarnation, port), 0);
            }
            6 | 7 => {
                let stop = StopInstance {
                    instance_id: id(number).into(),
                    force: self.rng.chance(40),
                    incarnation,
                };
                self.host.receive(FromController::StopInstance(stop), 0);
            }
            8 => {
                self.pings += 1;
                let answered = self.index(usize::try_from(self.pings).unwrap() + 3);
                let ping = Ping {
                    sequence: self.pings,
                    answered: i64::try_from(answered).unwrap(),
                };
                self.host.receive(FromController::Ping(ping), 0);
            }
            9 if self.host.preparing() > 0 => {
                let index = self.index(self.host.preparing());
                let succeeds = self.rng.chance(70);
                self.host.prepared(index, succeeds);
            }
            10 if self.host.launching() > 0 => {
                let index = self.index(self.host.launching());
                let succeeds = self.rng.chance(80);
                self.host.launched(index, succeeds);
            }
            11 => self.host.ready(id(number)),
            12 => {
                let code = i32::from(self.rng.chance(50));
                self.host.exits(id(number), code);
            }
            13 => {
                let succeeds = self.rng.chance(70);
                self.host.spooled(succeeds);
            }
            14 => self.host.settled(),
            15 => {
                let told = self.crashes_told();
                if let Some(report_id) = self.rng.pick(&told).cloned() {
                    self.host
                        .receive(FromController::CrashReportAck(CrashReportAck { report_id }), 0);
                }
            }
            16 => {
                let time = Duration::from_millis(1 << self.rng.below(17));
                self.host.pass(time);
            }
            17 => {
                let succeeds = self.rng.chance(70);
                self.host.epoch_written(succeeds);
            }
            18 => {
                let command = SendCommand {
                    instance_id: id(number).into(),
                    command: "say hi".into(),
                    incarnation,
                    ..Default::default()
                };
                let epoch = self.rng.below(6);
                self.host.receive(FromController::SendCommand(command), epoch);
            }
            _ => {}
        }
    }

    fn crashes_told(&self) -> Vec<String> {
        let report_id = |message: &FromDaemon| match message {
            FromDaemon::CrashReport(report) => Some(report.report_id.clone()),
            _ => None,
        };
        self.host.sent.iter().filter_map(report_id).collect()
    }

    /// A true controller connects and confirms everything; all work succeeds.
    fn quiet_down(&mut self) {
        self.host.disconnect();
        self.host.connect();
        self.host.sent.clear();
        let epoch = self.host.session.fence().highest().get();
        self.host.receive(acknowledgement(Capabilities::SESSION), epoch);
        for _ in 0..20 {
            self.host.finish_everything();
            for report_id in self.crashes_told() {
                self.host.receive(
                    FromController::CrashReportAck(CrashReportAck { report_id }),
                    epoch,
                );
            }
            self.host.sent.clear();
            let answered = self.pings;
            self.pings += 1;
            let ping = Ping {
                sequence: self.pings,
                answered,
            };
            self.host.receive(FromController::Ping(ping), epoch);
            self.host.pass(Duration::from_secs(1));
        }
        assert!(self.host.session.is_established());
        self.host.check_at_rest();
    }
}

#[test]
fn a_daemon_comes_to_rest_after_anything_at_all() {
    for seed in 0..SEEDS {
        let life = std::panic::catch_unwind(|| {
            let mut life = Life::new(seed);
            for _ in 0..STEPS {
                life.step();
            }
            life.quiet_down();
        });
        assert!(life.is_ok(), "seed {seed}: what failed stands above");
    }
}
