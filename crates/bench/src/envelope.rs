//! Encoding and decoding of every envelope, with contents of a usual size

use std::hint::black_box;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use prexorcloud_proto::{
    self as proto, ControllerMessage, DaemonMessage, controller_message, daemon_message,
};
use prexorcloud_transport::codec::{Envelope, decode};

use crate::report::{Report, Row, median};

const ROUNDS: usize = 5_000;
const REPETITIONS: usize = 5;

pub fn run(report: &mut Report) {
    eprintln!("envelope: {ROUNDS} rounds per measurement");
    for (name, message) in from_daemon() {
        measure(report, &format!("DaemonMessage.{name}"), &message);
    }
    for (name, message) in from_controller() {
        measure(report, &format!("ControllerMessage.{name}"), &message);
    }
}

fn measure<M: Envelope>(report: &mut Report, name: &str, message: &M) {
    let bytes = Bytes::from(message.encode_to_vec());
    let size = bytes.len();
    let mut buffer = BytesMut::with_capacity(size);
    let encoding = time(|| {
        buffer.clear();
        let _ = black_box(message.encode(&mut buffer));
    });
    let decoding = time(|| {
        let _ = black_box(decode::<M>(&mut bytes.clone()));
    });
    report.add(Row::new(
        "encode",
        format!("{name}, {size} bytes"),
        encoding,
        "ns",
    ));
    report.add(Row::new(
        "decode",
        format!("{name}, {size} bytes"),
        decoding,
        "ns",
    ));
}

fn time(mut act: impl FnMut()) -> f64 {
    let repetition = |_| {
        let start = Instant::now();
        (0..ROUNDS).for_each(|_| act());
        start.elapsed().as_nanos() as f64 / ROUNDS as f64
    };
    median((0..REPETITIONS).map(repetition).collect())
}

fn text(length: usize) -> String {
    "x".repeat(length)
}

fn hash() -> String {
    "0123456789abcdef".repeat(4)
}

fn from_daemon() -> Vec<(&'static str, DaemonMessage)> {
    use daemon_message::Payload;
    let payloads = vec![
        (
            "handshake",
            Payload::Handshake(Box::new(proto::Handshake {
                node_id: "node-1".into(),
                version: "1.0.0".into(),
                running_instances: (0..20)
                    .map(|index| proto::RunningInstance {
                        instance_id: format!("lobby-{index}"),
                        group: "lobby".into(),
                        port: 30_000 + index,
                        state: proto::InstanceState::Running as i32,
                        incarnation: 1,
                    })
                    .collect(),
                labels: [("zone".to_owned(), "eu-1".to_owned())].into(),
                protocol_version: 1,
                ..Default::default()
            })),
        ),
        (
            "node_status",
            Payload::NodeStatus(proto::NodeStatus {
                cpu_usage: 0.25,
                total_memory_mb: 65_536,
                used_memory_mb: 32_768,
                free_disk_mb: 500_000,
                instance_count: 20,
                used_ports: (30_000..30_020).collect(),
                total_disk_mb: 1_000_000,
            }),
        ),
        (
            "instance_status",
            Payload::InstanceStatus(proto::InstanceStatusUpdate {
                instance_id: "lobby-1".into(),
                state: proto::InstanceState::Running as i32,
                port: 30_000,
                player_count: 7,
                uptime_ms: 60_000,
                incarnation: 1,
                waiting_for: String::new(),
            }),
        ),
        (
            "console_output",
            Payload::ConsoleOutput(proto::ConsoleOutput {
                instance_id: "lobby-1".into(),
                line: text(96),
                timestamp_ms: 1_790_000_000_000,
                incarnation: 1,
                sequence: 100_000,
            }),
        ),
        (
            "crash_report",
            Payload::CrashReport(Box::new(proto::CrashReport {
                instance_id: "lobby-1".into(),
                group: "lobby".into(),
                exit_code: 137,
                log_tail: vec![text(96); 100],
                uptime_ms: 60_000,
                incarnation: 1,
                report_id: text(36),
            })),
        ),
        ("pong", Payload::Pong(proto::Pong { sequence: 1_000 })),
        (
            "template_request",
            Payload::TemplateRequest(proto::TemplateRequest {
                template_name: "lobby".into(),
                known_hash: hash(),
                wanted_hash: hash(),
            }),
        ),
        (
            "cache_status",
            Payload::CacheStatus(Box::new(proto::CacheStatus {
                jars: vec![
                    proto::JarCacheEntry {
                        platform: "paper".into(),
                        version: "1.21".into(),
                        jar_file: "paper.jar".into(),
                        size_bytes: 50_000_000,
                        sha256: hash(),
                        cached_at_ms: 1_790_000_000_000,
                    };
                    10
                ],
                ..Default::default()
            })),
        ),
        ("error_report", Payload::ErrorReport(error_report())),
        (
            "shutdown_node_ack",
            Payload::ShutdownNodeAck(proto::ShutdownNodeAck {
                running_instances: 20,
                estimated_drain_seconds: 30,
            }),
        ),
        (
            "start_instance_ack",
            Payload::StartInstanceAck(Box::new(proto::StartInstanceAck {
                instance_id: "lobby-1".into(),
                accepted: true,
                plan_hash: hash(),
                stage: proto::StartPreparationStage::ProcessStart as i32,
                incarnation: 1,
                ..Default::default()
            })),
        ),
        (
            "stop_instance_ack",
            Payload::StopInstanceAck(proto::StopInstanceAck {
                instance_id: "lobby-1".into(),
                accepted: true,
                incarnation: 1,
                ..Default::default()
            }),
        ),
        (
            "daemon_log_record",
            Payload::DaemonLogRecord(Box::new(proto::DaemonLogRecord {
                timestamp_ms: 1_790_000_000_000,
                level: "INFO".into(),
                logger: text(30),
                thread: "main".into(),
                message: text(100),
                ..Default::default()
            })),
        ),
        (
            "module_state_update",
            Payload::ModuleStateUpdate(Box::new(proto::ModuleStateUpdate {
                module_id: "stats".into(),
                state: "ACTIVE".into(),
                updated_at_ms: 1_790_000_000_000,
                ..Default::default()
            })),
        ),
        (
            "event_subscribe",
            Payload::EventSubscribe(proto::EventSubscribe {
                event_types: vec![text(60); 4],
                ..Default::default()
            }),
        ),
        (
            "event_unsubscribe",
            Payload::EventUnsubscribe(proto::EventUnsubscribe {
                event_types: vec![text(60); 4],
            }),
        ),
        (
            "instance_file_tree",
            Payload::InstanceFileTree(proto::InstanceFileTree {
                request_id: text(36),
                entries: vec![
                    proto::FileEntry {
                        path: text(40),
                        size_bytes: 4_096,
                        modified_at_ms: 1_790_000_000_000,
                        ..Default::default()
                    };
                    100
                ],
                ..Default::default()
            }),
        ),
        (
            "instance_file_content",
            Payload::InstanceFileContent(proto::InstanceFileContent {
                request_id: text(36),
                content: vec![7; 64 * 1024].into(),
                total_size_bytes: 64 * 1024,
                ..Default::default()
            }),
        ),
    ];
    payloads
        .into_iter()
        .map(|(name, payload)| {
            (
                name,
                DaemonMessage {
                    payload: Some(payload),
                },
            )
        })
        .collect()
}

fn error_report() -> proto::ErrorReport {
    proto::ErrorReport {
        error_code: "CACHE_DOWNLOAD_FAILED".into(),
        error_message: text(100),
        context: "lobby-1".into(),
        retry_after_seconds: 30,
    }
}

fn from_controller() -> Vec<(&'static str, ControllerMessage)> {
    use controller_message::Payload;
    let payloads = vec![
        (
            "handshake_ack",
            Payload::HandshakeAck(Box::new(proto::HandshakeAck {
                session_id: text(36),
                heartbeat_interval_ms: 30_000,
                controller_api_port: 8_080,
                protocol_version: 1,
                protocol_compatible: true,
                epoch: 3,
                controller_grpc_addrs: vec!["controller-1:9090".into(), "controller-2:9090".into()],
                ..Default::default()
            })),
        ),
        (
            "start_instance",
            Payload::StartInstance(Box::new(proto::StartInstance {
                instance_id: "lobby-1".into(),
                group: "lobby".into(),
                port: 30_000,
                memory_mb: 2_048,
                jvm_args: vec![text(30); 6],
                env: [("TZ".to_owned(), "UTC".to_owned())].into(),
                jar_file: "paper.jar".into(),
                templates: vec![
                    proto::TemplateRef {
                        name: "lobby".into(),
                        hash: hash()
                    };
                    2
                ],
                download_url: text(80),
                incarnation: 1,
                ..Default::default()
            })),
        ),
        (
            "stop_instance",
            Payload::StopInstance(proto::StopInstance {
                instance_id: "lobby-1".into(),
                incarnation: 1,
                ..Default::default()
            }),
        ),
        (
            "send_command",
            Payload::SendCommand(proto::SendCommand {
                instance_id: "lobby-1".into(),
                command: text(30),
                incarnation: 1,
                ..Default::default()
            }),
        ),
        (
            "ping",
            Payload::Ping(proto::Ping {
                sequence: 1_000,
                answered: 0,
            }),
        ),
        (
            "template_data",
            Payload::TemplateData(Box::new(proto::TemplateData {
                template_name: "lobby".into(),
                hash: hash(),
                tar_gz: vec![7; 64 * 1024].into(),
                ..Default::default()
            })),
        ),
        (
            "template_up_to_date",
            Payload::TemplateUpToDate(proto::TemplateUpToDate {
                template_name: "lobby".into(),
            }),
        ),
        (
            "shutdown_node",
            Payload::ShutdownNode(proto::ShutdownNode { reason: text(30) }),
        ),
        (
            "pre_warm_cache",
            Payload::PreWarmCache(proto::PreWarmCache {
                entries: vec![Default::default(); 4],
                ..Default::default()
            }),
        ),
        (
            "request_cache_status",
            Payload::RequestCacheStatus(proto::RequestCacheStatus {}),
        ),
        ("error_report", Payload::ErrorReport(Box::new(error_report()))),
        (
            "module_install",
            Payload::ModuleInstall(Box::new(proto::ModuleInstall {
                module_id: "stats".into(),
                version: "1.0.0".into(),
                sha256: hash(),
                jar_bytes: vec![7; 64 * 1024].into(),
                manifest_yaml: text(300),
                ..Default::default()
            })),
        ),
        (
            "module_uninstall",
            Payload::ModuleUninstall(proto::ModuleUninstall {
                module_id: "stats".into(),
            }),
        ),
        (
            "module_event",
            Payload::ModuleEvent(proto::ModuleEvent {
                event_type: text(60),
                payload_json: vec![b'x'; 300].into(),
                ..Default::default()
            }),
        ),
        (
            "walk_instance_files",
            Payload::WalkInstanceFiles(Box::new(proto::WalkInstanceFiles {
                request_id: text(36),
                group: "lobby".into(),
                instance_id: "lobby-1".into(),
                max_entries: 1_000,
                ..Default::default()
            })),
        ),
        (
            "read_instance_file",
            Payload::ReadInstanceFile(Box::new(proto::ReadInstanceFile {
                request_id: text(36),
                group: "lobby".into(),
                instance_id: "lobby-1".into(),
                path: "logs/latest.log".into(),
                max_bytes: 65_536,
                tail: true,
            })),
        ),
        (
            "crash_report_ack",
            Payload::CrashReportAck(proto::CrashReportAck { report_id: text(36) }),
        ),
        (
            "console_output_ack",
            Payload::ConsoleOutputAck(proto::ConsoleOutputAck {
                instance_id: "lobby-1".into(),
                incarnation: 7,
                sequence: 123_456,
            }),
        ),
    ];
    let envelope = |(name, payload)| {
        (
            name,
            ControllerMessage {
                payload: Some(payload),
                epoch: 3,
                ..Default::default()
            },
        )
    };
    payloads.into_iter().map(envelope).collect()
}
