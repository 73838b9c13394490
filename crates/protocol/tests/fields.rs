//! Which messages are refused for their fields, and what becomes of ours before they are sent
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use prexorcloud_protocol::limits::{self, fit_crash_report, fit_daemon};
use prexorcloud_protocol::payload;
use prexorcloud_protocol::proto::{
    BootstrapCacheEntry, CacheStatus, CompositionPlan, ConfigPatch, ConsoleOutput, CrashReport,
    DaemonLogRecord, DaemonMessage, ErrorReport, ExtensionArtifact, Handshake, HostInfo, InstanceFileContent,
    InstanceStatusUpdate, JarCacheEntry, NodeStatus, Pong, PreWarmCache, PreWarmEntry, ProgramArguments,
    ReadInstanceFile, RunningInstance, RuntimeArtifact, StartInstance, StartInstanceAck, StopInstanceAck,
    TemplateCacheEntry, TemplateRef, WalkInstanceFiles, controller_message, daemon_message,
};
use prexorcloud_protocol::validate::{self, Fault, Invalid};
use prost::Message as _;

/// Three bytes, one UTF-16 code unit: the most that a limit in characters lets through.
fn widest(units: usize) -> String {
    "\u{ffee}".repeat(units)
}

fn start() -> StartInstance {
    StartInstance {
        instance_id: "lobby-1".into(),
        group: "lobby".into(),
        port: 30_000,
        ..Default::default()
    }
}

fn nul(field: &'static str) -> Result<(), Invalid> {
    Err(Invalid {
        field,
        fault: Fault::ControlCharacter,
    })
}

#[test]
fn nothing_in_a_start_that_reaches_a_process_contains_a_nul() {
    type Spoil = fn(&mut StartInstance, String);
    fn plan(start: &mut StartInstance) -> &mut CompositionPlan {
        start.composition_plan.get_or_insert_default()
    }
    let cases: [(&str, Spoil); 21] = [
        ("start_instance.stop_command", |start, text| {
            start.stop_command = text
        }),
        ("start_instance.program_arguments.values", |start, text| {
            start.program_arguments = Some(ProgramArguments {
                values: vec!["--world".into(), text],
            })
        }),
        ("start_instance.jvm_args", |start, text| {
            start.jvm_args = vec!["-Xmx1G".into(), text]
        }),
        ("start_instance.env", |start, text| {
            drop(start.env.insert("KEY".into(), text))
        }),
        ("start_instance.env", |start, text| {
            drop(start.env.insert(text, "value".into()))
        }),
        ("start_instance.jar_file", |start, text| start.jar_file = text),
        ("start_instance.plugin_token", |start, text| {
            start.plugin_token = text
        }),
        ("start_instance.protected_paths", |start, text| {
            start.protected_paths = vec![text]
        }),
        ("start_instance.download_url", |start, text| {
            start.download_url = text
        }),
        ("start_instance.platform", |start, text| start.platform = text),
        ("start_instance.platform_version", |start, text| {
            start.platform_version = text
        }),
        ("start_instance.templates.name", |start, name| {
            start.templates = vec![TemplateRef {
                name,
                ..Default::default()
            }];
        }),
        ("start_instance.templates.name", |start, name| {
            plan(start).templates = vec![TemplateRef {
                name,
                ..Default::default()
            }];
        }),
        (
            "start_instance.composition_plan.runtime.jar_file",
            |start, jar_file| {
                plan(start).runtime = Some(RuntimeArtifact {
                    jar_file,
                    ..Default::default()
                });
            },
        ),
        (
            "start_instance.composition_plan.runtime.download_url",
            |start, download_url| {
                plan(start).runtime = Some(RuntimeArtifact {
                    download_url,
                    ..Default::default()
                });
            },
        ),
        (
            "start_instance.composition_plan.runtime.platform",
            |start, platform| {
                plan(start).runtime = Some(RuntimeArtifact {
                    platform,
                    ..Default::default()
                });
            },
        ),
        (
            "start_instance.composition_plan.runtime.platform_version",
            |start, platform_version| {
                plan(start).runtime = Some(RuntimeArtifact {
                    platform_version,
                    ..Default::default()
                });
            },
        ),
        (
            "start_instance.composition_plan.extensions.file_name",
            |start, file_name| {
                plan(start).extensions = vec![ExtensionArtifact {
                    file_name,
                    ..Default::default()
                }];
            },
        ),
        (
            "start_instance.composition_plan.extensions.download_url",
            |start, download_url| {
                plan(start).extensions = vec![ExtensionArtifact {
                    download_url,
                    ..Default::default()
                }];
            },
        ),
        (
            "start_instance.composition_plan.extensions.install_path",
            |start, install_path| {
                plan(start).extensions = vec![ExtensionArtifact {
                    install_path,
                    ..Default::default()
                }];
            },
        ),
        (
            "start_instance.composition_plan.config_patches.file",
            |start, file| {
                plan(start).config_patches = vec![ConfigPatch {
                    file,
                    ..Default::default()
                }];
            },
        ),
    ];
    for (field, spoil) in cases {
        let mut spoilt = start();
        spoil(&mut spoilt, "a\0b".into());
        assert_eq!(validate::start_instance(&spoilt), nul(field));
        let payload = controller_message::Payload::StartInstance(Box::new(spoilt));
        assert_eq!(validate::controller(&payload), nul(field));

        let mut clean = start();
        spoil(&mut clean, "a b".into());
        assert_eq!(validate::start_instance(&clean), Ok(()), "{field}");
    }
}

/// Each is answered by its request id, with an error that names what is wrong
#[test]
fn questions_about_files_are_not_refused_for_their_words() {
    use controller_message::Payload;
    let text = || "a\0b".to_owned();
    let request_id = || "r-1".to_owned();
    for payload in [
        Payload::WalkInstanceFiles(Box::new(WalkInstanceFiles {
            request_id: request_id(),
            group: text(),
            instance_id: text(),
            ..Default::default()
        })),
        Payload::ReadInstanceFile(Box::new(ReadInstanceFile {
            request_id: request_id(),
            group: text(),
            instance_id: text(),
            path: text(),
            ..Default::default()
        })),
    ] {
        assert_eq!(validate::controller(&payload), Ok(()));
    }
}

#[test]
fn no_path_or_command_of_another_message_contains_a_nul() {
    use controller_message::Payload;
    let text = || "a\0b".to_owned();
    let warm = |entry: PreWarmEntry| {
        Payload::PreWarmCache(PreWarmCache {
            entries: vec![PreWarmEntry::default(), entry],
            ..Default::default()
        })
    };
    for (payload, field) in [
        (
            warm(PreWarmEntry {
                jar_file: text(),
                ..Default::default()
            }),
            "pre_warm_cache.entries.jar_file",
        ),
        (
            warm(PreWarmEntry {
                platform: text(),
                ..Default::default()
            }),
            "pre_warm_cache.entries.platform",
        ),
        (
            warm(PreWarmEntry {
                platform_version: text(),
                ..Default::default()
            }),
            "pre_warm_cache.entries.platform_version",
        ),
        (
            warm(PreWarmEntry {
                download_url: text(),
                ..Default::default()
            }),
            "pre_warm_cache.entries.download_url",
        ),
    ] {
        assert_eq!(validate::controller(&payload), nul(field));
    }
    assert_eq!(validate::command("say \0"), nul("send_command.command"));
    assert_eq!(validate::command("say\thi"), Ok(()));
}

#[test]
fn no_more_memory_is_in_use_than_there_is() {
    let status = |used_memory_mb, total_memory_mb| {
        daemon_message::Payload::NodeStatus(NodeStatus {
            used_memory_mb,
            total_memory_mb,
            ..Default::default()
        })
    };
    let refused = Err(Invalid {
        field: "node_status.used_memory_mb",
        fault: Fault::OutOfRange,
    });
    assert_eq!(validate::daemon(&status(8, 8)), Ok(()));
    assert_eq!(validate::daemon(&status(9, 8)), refused);
    assert_eq!(validate::daemon(&status(1, 0)), refused);
    assert_eq!(validate::daemon(&status(-1, 8)), refused);
    let mut ours = status(9, 8);
    fit_daemon(&mut ours);
    assert_eq!(ours, status(8, 8));
}

fn crash(log_tail: Vec<String>) -> CrashReport {
    CrashReport {
        instance_id: "lobby-1".into(),
        group: "lobby".into(),
        exit_code: 137,
        report_id: "r-1".into(),
        log_tail,
        ..Default::default()
    }
}

/// 500 lines of 8192 characters with three bytes each: 12 MB, and nothing in it breaks a rule of its field.
fn widest_crash() -> CrashReport {
    let line = |number: usize| format!("{number:03}{}", widest(limits::CRASH_TAIL_LINE - 3));
    crash((0..limits::CRASH_TAIL_LINES).map(line).collect())
}

fn accepted(report: &CrashReport) -> Result<(), Invalid> {
    validate::daemon(&daemon_message::Payload::CrashReport(Box::new(report.clone())))
}

#[test]
fn a_crash_report_of_ours_keeps_its_newest_lines_and_says_what_was_cut() {
    let whole = widest_crash();
    let mut report = whole.clone();
    fit_crash_report(&mut report);

    assert!(report.encoded_len() <= limits::CRASH_REPORT_BYTES);
    let room = limits::CRASH_REPORT_BYTES - report.encoded_len();
    assert!(room < 25_000, "another line would have had room: {room}");
    let (marker, kept) = report.log_tail.split_first().unwrap();
    let cut = whole.log_tail.len() - kept.len();
    assert_eq!(kept, &whole.log_tail[cut..]);
    let bytes: usize = whole.log_tail[..cut].iter().map(String::len).sum();
    assert_eq!(
        *marker,
        format!("[prexorcloud] {cut} earlier line(s) of this tail, {bytes} bytes, were cut")
    );
    assert_eq!(accepted(&report), Ok(()));

    let once = report.clone();
    fit_crash_report(&mut report);
    assert_eq!(report, once, "nothing is left to cut");
}

#[test]
fn a_crash_report_that_fits_is_left_alone() {
    let mut report = crash(vec!["x".repeat(2_000); limits::CRASH_TAIL_LINES]);
    let whole = report.clone();
    fit_crash_report(&mut report);
    assert_eq!(report, whole);

    // Small enough in bytes, but with more lines than a tail may have.
    let mut report = crash((0..600).map(|line| line.to_string()).collect());
    fit_crash_report(&mut report);
    assert_eq!(report.log_tail.len(), limits::CRASH_TAIL_LINES);
    assert!(
        report.log_tail[0].contains(" 101 earlier line(s) "),
        "{}",
        report.log_tail[0]
    );
    assert_eq!(report.log_tail[1], "101");
    assert_eq!(accepted(&report), Ok(()));
}

#[test]
fn a_crash_report_is_cut_when_it_has_one_byte_too_many() {
    let mut whole = crash(vec!["x".repeat(8_000); 131]);
    whole.log_tail[0].clear();
    while whole.encoded_len() < limits::CRASH_REPORT_BYTES {
        whole.log_tail[0].push('x');
    }
    assert_eq!(whole.encoded_len(), limits::CRASH_REPORT_BYTES);
    let mut report = whole.clone();
    fit_crash_report(&mut report);
    assert_eq!(report, whole);

    report.log_tail[0].push('x');
    fit_crash_report(&mut report);
    assert!(report.encoded_len() <= limits::CRASH_REPORT_BYTES);
    assert!(
        report.log_tail[0].starts_with("[prexorcloud] "),
        "{}",
        report.log_tail[0]
    );
}

#[test]
fn a_crash_report_of_others_is_accepted_up_to_a_bound() {
    let ascii = crash(vec![
        "x".repeat(limits::CRASH_TAIL_LINE);
        limits::CRASH_TAIL_LINES
    ]);
    assert_eq!(accepted(&ascii), Ok(()), "the longest tail of ASCII lines");
    assert!(ascii.encoded_len() > limits::CRASH_REPORT_BYTES);
    assert_eq!(
        accepted(&widest_crash()),
        Err(Invalid {
            field: "crash_report",
            fault: Fault::TooLarge {
                limit: limits::CRASH_REPORT_BYTES_ACCEPTED
            },
        })
    );
}

#[test]
fn what_has_been_shortened_is_accepted() {
    use daemon_message::Payload;
    let long = || widest(70_000);
    let value = || widest(2_000);
    let name = || "n".repeat(64);
    let map = || {
        (0..500)
            .map(|key| (format!("{key:03}"), value()))
            .collect::<std::collections::HashMap<_, _>>()
    };
    let wide_keys = |units: usize| {
        (0..500)
            .map(|key| (format!("{key:03}{}", widest(units - 3)), value()))
            .collect::<std::collections::HashMap<_, _>>()
    };
    let payloads = [
        Payload::Handshake(Box::new(Handshake {
            node_id: name(),
            version: long(),
            advertise_address: long(),
            boot_id: long(),
            labels: wide_keys(limits::LABEL_KEY),
            running_instances: vec![
                RunningInstance {
                    instance_id: name(),
                    group: name(),
                    port: 65_535,
                    state: 8,
                    incarnation: u64::MAX,
                };
                limits::INSTANCES_PER_NODE
            ],
            host_info: Some(HostInfo {
                os_name: long(),
                java_gc: long(),
                ..Default::default()
            }),
            ..Default::default()
        })),
        Payload::NodeStatus(NodeStatus {
            cpu_usage: f64::NAN,
            total_memory_mb: -1,
            used_memory_mb: i64::MAX,
            free_disk_mb: -1,
            total_disk_mb: i64::MIN,
            instance_count: -1,
            used_ports: (-5..=65_540).collect(),
        }),
        Payload::ConsoleOutput(ConsoleOutput {
            instance_id: name(),
            line: long(),
            timestamp_ms: -1,
            incarnation: u64::MAX,
            sequence: u64::MAX,
        }),
        Payload::CrashReport(Box::new(CrashReport {
            uptime_ms: -1,
            log_tail: vec![widest(9_000); 600],
            ..crash(Vec::new())
        })),
        Payload::CacheStatus(Box::new(CacheStatus {
            templates: vec![
                TemplateCacheEntry {
                    name: name(),
                    hash: widest(limits::HASH),
                    size_bytes: i64::MAX,
                    last_used_ms: i64::MAX,
                };
                5_000
            ],
            jars: vec![
                JarCacheEntry {
                    platform: widest(limits::CACHE_TEXT),
                    version: widest(limits::CACHE_TEXT),
                    jar_file: widest(limits::CACHE_FILE),
                    sha256: widest(limits::HASH),
                    size_bytes: i64::MAX,
                    cached_at_ms: i64::MAX,
                };
                5_000
            ],
            bootstraps: vec![
                BootstrapCacheEntry {
                    config_format: 5,
                    version: widest(limits::CACHE_TEXT),
                    has_cds: true,
                    size_bytes: i64::MAX,
                };
                5_000
            ],
            total_size_bytes: -1,
        })),
        Payload::ErrorReport(ErrorReport {
            error_code: long(),
            error_message: long(),
            context: long(),
            retry_after_seconds: -1,
        }),
        Payload::StartInstanceAck(Box::new(StartInstanceAck {
            instance_id: name(),
            error_message: long(),
            plan_hash: long(),
            error_code: long(),
            retry_after_seconds: -1,
            ..Default::default()
        })),
        Payload::StopInstanceAck(StopInstanceAck {
            instance_id: name(),
            error_message: long(),
            ..Default::default()
        }),
        Payload::DaemonLogRecord(Box::new(DaemonLogRecord {
            timestamp_ms: -1,
            level: long(),
            logger: long(),
            thread: long(),
            message: long(),
            throwable: long(),
            mdc: wide_keys(limits::LOG_MDC_TEXT),
            sequence: u64::MAX,
            dropped: u64::MAX,
        })),
        Payload::DaemonLogRecord(Box::new(DaemonLogRecord {
            mdc: map(),
            ..Default::default()
        })),
    ];
    for mut payload in payloads {
        let name = prexorcloud_protocol::session::kind::of_daemon(&payload);
        assert!(
            validate::daemon(&payload).is_err() || name == "DaemonLogRecord",
            "{name}"
        );
        fit_daemon(&mut payload);
        assert_eq!(validate::daemon(&payload), Ok(()), "{name}");
    }
}

#[test]
fn what_need_not_be_measured_has_its_size_from_its_fields() {
    use daemon_message::Payload;
    let name = || "n".repeat(64);
    let largest = [
        Payload::NodeStatus(NodeStatus {
            cpu_usage: 1.0,
            total_memory_mb: i64::MAX,
            used_memory_mb: i64::MAX,
            free_disk_mb: i64::MAX,
            total_disk_mb: i64::MAX,
            instance_count: i32::MAX,
            used_ports: vec![65_535; 65_535],
        }),
        Payload::InstanceStatus(InstanceStatusUpdate {
            instance_id: name(),
            state: 8,
            port: 65_535,
            player_count: i32::MAX,
            uptime_ms: i64::MAX,
            incarnation: u64::MAX,
            waiting_for: widest(limits::WAITING_FOR),
        }),
        Payload::ConsoleOutput(ConsoleOutput {
            instance_id: name(),
            line: widest(limits::CONSOLE_LINE),
            timestamp_ms: -1,
            incarnation: u64::MAX,
            sequence: u64::MAX,
        }),
        Payload::Pong(Pong { sequence: i64::MAX }),
    ];
    for payload in largest {
        let kind = payload::of_daemon(&payload);
        assert_eq!(validate::daemon(&payload), Ok(()), "{}", kind.name);
        // The envelope adds a few bytes to the payload, and hides none.
        let bytes = DaemonMessage {
            payload: Some(payload),
        }
        .encoded_len();
        assert!(bytes <= kind.max_bytes, "{}: {bytes}", kind.name);
    }
}

#[test]
fn a_message_larger_than_its_kind_is_refused() {
    let content = |bytes: usize| {
        daemon_message::Payload::InstanceFileContent(InstanceFileContent {
            request_id: "r-1".into(),
            content: vec![0; bytes].into(),
            ..Default::default()
        })
    };
    // Beside the content there are its key with a length of three bytes, and the id.
    let largest = (2 << 20) - 4 - 5;
    assert_eq!(validate::daemon(&content(largest)), Ok(()));
    assert_eq!(
        validate::daemon(&content(largest + 1)),
        Err(Invalid {
            field: "instance_file_content",
            fault: Fault::TooLarge { limit: 2 << 20 },
        })
    );
}

#[test]
fn a_cache_entry_that_breaks_a_rule_is_left_out() {
    let entry = |name: &str| TemplateCacheEntry {
        name: name.into(),
        ..Default::default()
    };
    let mut payload = daemon_message::Payload::CacheStatus(Box::new(CacheStatus {
        templates: vec![entry("a"), entry("../b"), entry("c")],
        ..Default::default()
    }));
    assert!(validate::daemon(&payload).is_err());
    fit_daemon(&mut payload);
    let daemon_message::Payload::CacheStatus(status) = payload else {
        panic!("another payload");
    };
    assert_eq!(status.templates, [entry("a"), entry("c")]);
}
