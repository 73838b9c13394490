//! The limits of the contract at their edges: what a peer may send, and what becomes of ours when it is too much
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::HashMap;

use prexorcloud_protocol::limits::{self, fit_daemon, shorten};
use prexorcloud_protocol::proto::daemon_message::Payload;
use prexorcloud_protocol::proto::{CrashReport, DaemonLogRecord, Handshake, NodeStatus, StartInstance};
use prexorcloud_protocol::validate::{Fault, Invalid, command, daemon, handshake, start_instance};

fn start() -> StartInstance {
    StartInstance {
        instance_id: "lobby-1".into(),
        group: "lobby".into(),
        ..Default::default()
    }
}

fn status() -> NodeStatus {
    NodeStatus {
        total_memory_mb: 100,
        ..Default::default()
    }
}

fn crash(log_tail: Vec<String>) -> CrashReport {
    CrashReport {
        instance_id: "lobby-1".into(),
        group: "lobby".into(),
        log_tail,
        ..Default::default()
    }
}

fn shake() -> Handshake {
    Handshake {
        node_id: "node-1".into(),
        version: "1".into(),
        ..Default::default()
    }
}

fn fitted(mut payload: Payload) -> Payload {
    fit_daemon(&mut payload);
    daemon(&payload).unwrap();
    payload
}

fn field(checked: Result<(), Invalid>) -> &'static str {
    checked.map_or_else(|invalid| invalid.field, |()| "")
}

#[test]
fn a_port_ends_at_65535() {
    for (port, expected) in [
        (0, ""),
        (65_535, ""),
        (65_536, "start_instance.port"),
        (-1, "start_instance.port"),
    ] {
        assert_eq!(
            field(start_instance(&StartInstance { port, ..start() })),
            expected,
            "{port}"
        );
    }
}

#[test]
fn nul_ends_neither_an_argument_nor_a_variable() {
    let variable = |key: &str, value: &str| StartInstance {
        env: [(key.to_owned(), value.to_owned())].into(),
        ..start()
    };
    let argument = StartInstance {
        jvm_args: vec!["-Da=b\0".into()],
        ..start()
    };
    assert_eq!(start_instance(&variable("KEY", "value")), Ok(()));
    for order in [variable("KE\0Y", "value"), variable("KEY", "val\0ue"), argument] {
        assert_eq!(start_instance(&order).unwrap_err().fault, Fault::ControlCharacter);
    }
}

#[test]
fn a_command_is_one_line_with_something_in_it() {
    let fault = |line: &str| command(line).err().map(|invalid| invalid.fault);
    assert_eq!(fault("say a\tb"), None);
    assert_eq!(fault(&"x".repeat(1000)), None);
    assert_eq!(fault(&"x".repeat(1001)), Some(Fault::TooLong { limit: 1000 }));
    assert_eq!(fault(" \t"), Some(Fault::Blank));
    for line in ["stop\n", "a\rb", "a\0", "\u{1b}[2J"] {
        assert_eq!(fault(line), Some(Fault::ControlCharacter), "{line:?}");
    }
}

#[test]
fn numbers_of_a_node_status_stay_in_their_range() {
    let checked = |status: NodeStatus| field(daemon(&Payload::NodeStatus(status)));
    for (cpu_usage, expected) in [
        (0.0, ""),
        (1.0, ""),
        (1.01, "node_status.cpu_usage"),
        (-0.01, "node_status.cpu_usage"),
        (f64::NAN, "node_status.cpu_usage"),
        (f64::INFINITY, "node_status.cpu_usage"),
    ] {
        assert_eq!(
            checked(NodeStatus {
                cpu_usage,
                ..status()
            }),
            expected,
            "{cpu_usage}"
        );
    }
    for (used_memory_mb, expected) in [
        (100, ""),
        (101, "node_status.used_memory_mb"),
        (-1, "node_status.used_memory_mb"),
    ] {
        assert_eq!(
            checked(NodeStatus {
                used_memory_mb,
                ..status()
            }),
            expected,
            "{used_memory_mb}"
        );
    }
    for (port, expected) in [
        (1, ""),
        (65_535, ""),
        (0, "node_status.used_ports"),
        (65_536, "node_status.used_ports"),
    ] {
        let used_ports = vec![25_565, port];
        assert_eq!(
            checked(NodeStatus {
                used_ports,
                ..status()
            }),
            expected,
            "{port}"
        );
    }
}

#[test]
fn as_many_and_as_long_as_the_contract_allows() {
    let lines = |count, len| {
        field(daemon(&Payload::CrashReport(Box::new(crash(vec![
            "x".repeat(
                len
            );
            count
        ])))))
    };
    assert_eq!(lines(500, 1), "");
    assert_eq!(lines(501, 1), "crash_report.log_tail");
    assert_eq!(lines(1, 8192), "");
    assert_eq!(lines(1, 8193), "crash_report.log_tail");
}

#[test]
fn a_shortened_text_uses_the_room_it_has() {
    let mut text = "x".repeat(100);
    shorten(&mut text, 40);
    assert_eq!(text, format!("{}... (truncated)", "x".repeat(25)));
    let mut text = "x".repeat(11);
    shorten(&mut text, 10);
    assert_eq!(text, "x".repeat(10), "too little room for the marker");
}

#[test]
fn an_address_that_is_too_long_is_left_out() {
    let long = Handshake {
        advertise_address: "a".repeat(256),
        ..shake()
    };
    let Payload::Handshake(fitted) = fitted(Payload::Handshake(Box::new(long))) else {
        panic!("another message");
    };
    assert_eq!(
        fitted.advertise_address, "",
        "a shortened address is a wrong address"
    );
    assert!(handshake(&fitted).is_ok());
}

#[test]
fn a_measurement_out_of_range_does_not_cost_the_status() {
    let Payload::NodeStatus(status) = fitted(Payload::NodeStatus(NodeStatus {
        cpu_usage: f64::NAN,
        used_memory_mb: 101,
        free_disk_mb: -1,
        instance_count: -1,
        used_ports: vec![0, 25_565, 65_536],
        ..status()
    })) else {
        panic!("another message");
    };
    assert_eq!((status.used_memory_mb, status.used_ports), (100, vec![25_565]));
    assert_eq!(status.cpu_usage, 0.0);
}

#[test]
fn a_cpu_usage_that_is_no_measurement_is_none() {
    for (measured, told) in [
        (f64::NAN, 0.0),
        (f64::INFINITY, 0.0),
        (f64::NEG_INFINITY, 0.0),
        (-0.5, 0.0),
        (1.5, 1.0),
        (0.25, 0.25),
    ] {
        let Payload::NodeStatus(status) = fitted(Payload::NodeStatus(NodeStatus {
            cpu_usage: measured,
            ..status()
        })) else {
            panic!("another message");
        };
        assert_eq!(status.cpu_usage, told, "{measured}");
    }
}

#[test]
fn a_log_record_keeps_as_much_context_as_is_allowed() {
    let mdc: HashMap<_, _> = (0..100).map(|n| (n.to_string(), "v".repeat(2000))).collect();
    let record = DaemonLogRecord {
        mdc,
        ..Default::default()
    };
    let Payload::DaemonLogRecord(record) = fitted(Payload::DaemonLogRecord(Box::new(record))) else {
        panic!("another message");
    };
    assert_eq!(record.mdc.len(), limits::LOG_MDC);
    assert!(
        record
            .mdc
            .values()
            .all(|value| value.len() == limits::LOG_MDC_TEXT)
    );
}
