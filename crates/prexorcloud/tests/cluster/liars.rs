//! What peers and strangers can put into the controller's log: nothing that looks like its own, and not much

use std::io::Write as _;
use std::net::TcpStream;
use std::ops::ControlFlow;

use prexorcloud_security::certificate_directory::CertificateDirectory;
use prexorcloud_transport::protocol::proto::{ErrorReport, ShutdownNodeAck, daemon_message::Payload};
use prexorcloud_transport::protocol::session::Class;
use prexorcloud_transport::protocol::{
    DaemonConfig, DaemonEvent, DaemonSession, fence::EpochFence, hosted::Hosted,
};
use prexorcloud_transport::{DaemonRunner, Dialer, SessionHandle, SessionHandler, enrol_once};

use crate::rig::{Rig, eventually};

/// Reports and acknowledgements that a liar sends
const REPORTS: usize = 10_000;

/// A daemon that does nothing but to report errors
struct Liar {
    is_connected: bool,
    left: usize,
}

impl SessionHandler<DaemonSession> for Liar {
    type End = ();

    async fn handle_event(
        &mut self,
        session: &SessionHandle<DaemonSession>,
        event: DaemonEvent,
    ) -> ControlFlow<()> {
        match event {
            DaemonEvent::Connected(_) => self.is_connected = true,
            DaemonEvent::FenceRaised(epoch) => session.with(|session, _| session.fence_written(epoch)),
            _ => {}
        }
        ControlFlow::Continue(())
    }

    async fn idle(&mut self, session: &SessionHandle<DaemonSession>) -> ControlFlow<()> {
        if !self.is_connected {
            return std::future::pending().await;
        }
        if self.left == 0 {
            return ControlFlow::Break(());
        }
        let report = Payload::ErrorReport(ErrorReport {
            error_code: "X\nforged-code".to_owned(),
            error_message: format!(
                "no\n2026-01-01T00:00:00Z ERROR forged: by a peer\r\u{2028}{}",
                "y".repeat(900)
            ),
            context: "lobby-1\nforged-context".to_owned(),
            retry_after_seconds: 0,
        });
        // One message at a time: what there is room for is one.
        let payload = match self.left % 2 {
            0 => report,
            _ => Payload::ShutdownNodeAck(ShutdownNodeAck::default()),
        };
        let sent = session.wait_for(|session, _| {
            session
                .has_room(Class::Control, 8192)
                .then(|| session.send(payload.clone()).is_ok())
        });
        if sent.await != Some(true) {
            return ControlFlow::Break(());
        }
        self.left -= 1;
        ControlFlow::Continue(())
    }
}

#[test]
fn a_peer_forges_no_line_of_the_log_and_does_not_fill_it() {
    let rig = Rig::with_controller();
    let token = rig.token(&["--node", "liar"]).parse().unwrap();
    let target = rig.grpc().to_string().parse().unwrap();
    let directory = CertificateDirectory::new(rig.path("liar"));
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let node = "liar".parse().unwrap();
        let enrolled = enrol_once(&directory, &target, Some(&token), node).await.unwrap();
        let session = DaemonSession::new(DaemonConfig::new(node, "1"), Hosted::new(), EpochFence::default());
        let runner = DaemonRunner::new(session, Dialer::of(&enrolled).unwrap(), [target]).unwrap();
        let mut liar = Liar {
            is_connected: false,
            left: REPORTS,
        };
        runner.run(&mut liar, std::future::pending()).await;
        assert_eq!(liar.left, 0);
    });
    eventually("the end of the liar's session", || {
        rig.log_text("controller").contains("session ended").then_some(())
    });
    let log = rig.log_text("controller");
    assert!(
        log.contains("the daemon reports an error") && log.contains("forged"),
        "{log}"
    );
    for line in log.lines() {
        let is_forged = line.starts_with("2026-01-01") || line.starts_with("forged");
        assert!(!is_forged, "{line}");
    }
    assert!(log.contains("repeats itself"), "it is told that more came");
    let bytes = log.len();
    assert!(bytes < 512 * 1024, "{bytes} bytes of log for {REPORTS} reports");
}

#[test]
fn strangers_that_do_not_get_in_are_told_once_and_counted() {
    let rig = Rig::with_controller();
    for _ in 0..200 {
        let mut stranger = TcpStream::connect(rig.grpc()).unwrap();
        stranger.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        // Waits until the controller has made up its mind.
        let _ = std::io::copy(&mut stranger, &mut std::io::sink());
    }
    let log = rig.log_text("controller");
    let lines: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("TLS handshake"))
        .collect();
    assert!((1..=3).contains(&lines.len()), "{lines:#?}");
    assert!(lines[0].contains("count=1"), "{lines:#?}");
}
