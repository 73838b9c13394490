//! Signals: what they mean to the programs, and what of that their children inherit; and a program whose file is gone

use std::fs;
use std::process::Command;
use std::sync::{Arc, Mutex};

use prexorcloud_daemon::process::signals::{MEANINGLESS, OF_OPERATORS};
use rustix::process::{Pid, Signal, kill_process};

use crate::rig::{Rig, eventually, get};

fn status(process: Pid, line: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let found = status.lines().find_map(|other| other.strip_prefix(line));
    found.unwrap().trim().to_owned()
}

fn mask(process: Pid, line: &str) -> u64 {
    u64::from_str_radix(&status(process, line), 16).unwrap()
}

/// The processes of the rig that are called so
fn called(rig: &Rig, name: &str) -> Vec<Pid> {
    let processes = rig.processes().into_iter();
    processes
        .filter(|process| {
            let arguments = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&arguments).contains(&format!("\0{name}\0"))
        })
        .collect()
}

#[test]
fn signals_of_operators_end_no_shim_and_lose_no_exit_code() {
    let rig = Rig::with_node();
    rig.start_standin("lobby-1");
    let shims = called(&rig, "shim");
    let [shim] = shims[..] else {
        panic!("{shims:?}");
    };
    assert_eq!(status(shim, "Name:"), "prexor-shim");
    // The small one, which stands beside the program.
    let runs = fs::read_link(format!("/proc/{shim}/exe")).unwrap();
    assert!(runs.ends_with("prexor-shim"), "{runs:?}");
    for signal in OF_OPERATORS {
        kill_process(shim, signal).unwrap();
    }
    for process in [shim, rig.pid("controller"), rig.pid("daemon")] {
        for signal in MEANINGLESS {
            kill_process(process, signal).unwrap();
        }
        // The real-time signals have no names.
        for number in [35, 50, 64] {
            let sent = Command::new("kill")
                .args([format!("-{number}"), process.to_string()])
                .status();
            assert!(sent.unwrap().success());
        }
    }
    rig.command("lobby-1", "list", "players online");
    assert!(get(&rig, "/api/v1/system/ready").starts_with("HTTP/1.1 200"));
    assert_eq!(rig.ctl(&["instance", "exec", "lobby-1", "crash"]).code, 0);
    rig.await_instance("lobby-1", "CRASHED");
    let crashes = rig.ctl(&["crash", "list", "-o", "json"]).json();
    assert_eq!(crashes[0]["exitCode"], 1, "{crashes}");
}

#[test]
fn a_hangup_reloads_the_log_filter_and_the_certificates() {
    let mut rig = Rig::with_node();
    let names = || String::from_utf8_lossy(&server_certificate(&rig)).into_owned();
    assert!(!names().contains("reloaded.example"));
    let debugged = |rig: &Rig, role: &str| rig.log_text(role).contains("DEBUG");
    assert!(!debugged(&rig, "controller") && !debugged(&rig, "daemon"));

    let file = rig.path("controller.toml");
    let before = fs::read_to_string(&file).unwrap();
    let with_name = before.replace("[grpc]\n", "[grpc]\nnames = [\"reloaded.example\"]\n");
    rig.write(
        "controller.toml",
        &format!("{with_name}\n[log]\nfilter = \"debug\"\n"),
    );
    kill_process(rig.pid("controller"), Signal::HUP).unwrap();
    eventually("a certificate for the new name", || {
        names().contains("reloaded.example").then_some(())
    });
    eventually("the controller's filter", || {
        debugged(&rig, "controller").then_some(())
    });

    // What cannot be read changes nothing, and is said.
    rig.write("controller.toml", "[log]\nfilter = 7\n");
    kill_process(rig.pid("controller"), Signal::HUP).unwrap();
    eventually("the complaint", || {
        rig.log_text("controller")
            .contains("SIGHUP: everything stays as it is: ")
            .then_some(())
    });
    assert!(names().contains("reloaded.example"));

    // The node is revoked, and gets a new certificate from somewhere else while its daemon runs.
    rig.start_standin("lobby-1");
    assert_eq!(rig.ctl(&["node", "revoke-cert", "node-1"]).code, 0);
    eventually("the node being cut off", || {
        (rig.node("node-1")["connected"] == false).then_some(())
    });
    let daemon = rig.pid("daemon");
    rig.exchange_certificate("node-1");
    let file = fs::read_to_string(rig.path("daemon.toml")).unwrap();
    rig.write("daemon.toml", &format!("{file}\n[log]\nfilter = \"debug\"\n"));
    kill_process(daemon, Signal::HUP).unwrap();
    rig.await_node("ONLINE");
    eventually("the daemon's filter", || debugged(&rig, "daemon").then_some(()));
    assert_eq!(rig.pid("daemon"), daemon);
    rig.command("lobby-1", "list", "players online");
    assert_eq!(rig.stop_daemon().code(), Some(0));
    assert_eq!(rig.stop_controller().code(), Some(0));
}

/// What the controller shows to whoever connects
fn server_certificate(rig: &Rig) -> Vec<u8> {
    #[derive(Debug)]
    struct Seen(Arc<Mutex<Vec<u8>>>);
    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
    impl ServerCertVerifier for Seen {
        fn verify_server_cert(
            &self,
            leaf: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, rustls::Error> {
            *self.0.lock().unwrap() = leaf.to_vec();
            Err(rustls::Error::General("seen".into()))
        }
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &rustls::DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Err(rustls::Error::General("seen".into()))
        }
        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &rustls::DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Err(rustls::Error::General("seen".into()))
        }
        fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
            vec![rustls::SignatureScheme::ECDSA_NISTP256_SHA256]
        }
    }
    let seen = Arc::new(Mutex::new(Vec::new()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Seen(Arc::clone(&seen))))
        .with_no_client_auth();
    let name = ServerName::from(rig.grpc().ip());
    let mut session = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut socket = std::net::TcpStream::connect(rig.grpc()).unwrap();
    let _ = session.complete_io(&mut socket);
    let leaf = seen.lock().unwrap();
    assert!(!leaf.is_empty());
    leaf.clone()
}

#[test]
fn what_the_daemon_was_started_to_ignore_or_block_is_not_handed_on() {
    let mut rig = Rig::with_controller();
    let token = rig.token(&["--node", "node-1"]);
    rig.configure_daemon(&token);
    let blocked = Command::new("env").args(["--block-signal=TERM", "true"]).status();
    let mut script = "trap '' HUP INT QUIT USR1 USR2 CHLD TTOU; exec \"$0\" \"$@\"".to_owned();
    if blocked.is_ok_and(|status| status.success()) {
        script = script.replace(
            "exec",
            "exec env --block-signal=TERM --block-signal=USR1 --block-signal=INT",
        );
    } else {
        eprintln!("not shown for blocked signals: this env cannot block any");
    }
    rig.wrap_in_shell(&script);
    rig.start_daemon();
    rig.await_node("ONLINE");
    let daemon = rig.pid("daemon");
    assert_eq!(mask(daemon, "SigBlk:"), 0);
    rig.start_standin("lobby-1");
    let servers = called(&rig, "standin-server");
    let [server] = servers[..] else {
        panic!("{servers:?}");
    };
    assert_eq!(mask(server, "SigBlk:"), 0);
    // A Rust program ignores SIGPIPE by itself; real-time signals are nobody's here.
    let pipe = 1 << (Signal::PIPE.as_raw() - 1);
    assert_eq!(mask(server, "SigIgn:") & 0x7fff_ffff & !pipe, 0);
    // Also the daemon itself ends as it should.
    assert_eq!(rig.stop_daemon().code(), Some(0));
}

#[test]
fn a_daemon_starts_instances_after_its_release_was_replaced_or_removed() {
    let mut rig = Rig::with_controller();
    let token = rig.token(&["--node", "node-1"]);
    rig.configure_daemon(&token);
    let release = rig.path("release-1");
    fs::create_dir(&release).unwrap();
    let program = release.join("prexorcloud");
    let built = env!("CARGO_BIN_EXE_prexorcloud");
    if fs::hard_link(built, &program).is_err() {
        fs::copy(built, &program).unwrap();
    }
    rig.wrap_in_shell(&format!("exec {} \"$@\"", program.display()));
    rig.start_daemon();
    rig.await_node("ONLINE");

    // An upgrade in place: another file of that name, which would not even run.
    let newer = release.join("newer");
    fs::write(&newer, "not a program").unwrap();
    fs::rename(&newer, &program).unwrap();
    rig.start_standin("lobby-1");
    rig.command("lobby-1", "list", "players online");

    fs::remove_dir_all(&release).unwrap();
    rig.start_standin("lobby-2");
    rig.command("lobby-2", "list", "players online");
    assert_eq!(rig.ctl(&["instance", "stop", "lobby-2", "--wait"]).code, 0);

    // The next release goes on with what is there.
    assert_eq!(rig.stop_daemon().code(), Some(0));
    rig.wrap("daemon", &[]);
    assert!(rig.start_daemon() >= 1);
    rig.await_node("ONLINE");
    rig.command("lobby-1", "say still here", "still here");
}
