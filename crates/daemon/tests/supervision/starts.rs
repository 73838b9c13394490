//! Starting, the console, commands

use std::net::TcpListener;
use std::time::Duration;

use libtest_mimic::Trial;
use prexorcloud_daemon::console::tail;
use prexorcloud_daemon::control::ExitCause;
use prexorcloud_daemon::supervisor::{CommandError, StartError, StopReason};
use prexorcloud_protocol::Incarnation;
use prexorcloud_protocol::readiness::{LineText, Platform, Rule};

use super::stage::{Stage, demo_jar, facts, free_port, only_control, spec, until, until_gone};
use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial(
            "the_stand_in_gets_ready_answers_and_stops",
            the_stand_in_gets_ready_answers_and_stops,
        ),
        trial(
            "a_jvm_gets_ready_answers_and_stops",
            a_jvm_gets_ready_answers_and_stops,
        ),
        trial(
            "a_missing_program_is_a_clear_error",
            a_missing_program_is_a_clear_error,
        ),
        trial("a_missing_shim_is_a_clear_error", a_missing_shim_is_a_clear_error),
        trial("one_id_runs_once", one_id_runs_once),
        trial(
            "secrets_are_in_the_environment_only",
            secrets_are_in_the_environment_only,
        ),
        trial("a_stuck_console_does_not_block", a_stuck_console_does_not_block),
        trial(
            "an_ended_instance_takes_no_commands",
            an_ended_instance_takes_no_commands,
        ),
        trial(
            "a_console_that_nobody_takes_is_bounded",
            a_console_that_nobody_takes_is_bounded,
        ),
        trial(
            "an_open_port_means_ready_where_the_order_says_so",
            an_open_port_means_ready_where_the_order_says_so,
        ),
        trial(
            "a_server_with_an_open_port_is_ready_when_it_says_so",
            a_server_with_an_open_port_is_ready_when_it_says_so,
        ),
        trial(
            "a_ready_line_without_an_end_counts",
            a_ready_line_without_an_end_counts,
        ),
        trial("a_plugin_makes_its_server_ready", a_plugin_makes_its_server_ready),
        trial(
            "a_start_that_takes_too_long_says_what_was_missing",
            a_start_that_takes_too_long_says_what_was_missing,
        ),
    ]
}

async fn a_ready_line_without_an_end_counts() {
    let mut stage = Stage::new();
    let script = "echo Loading; printf 'Done (1s)! '; read word; echo; exit 0";
    stage.start_script(facts("lobby-1", free_port()), script).await;
    stage.ready().await;
    stage.supervisor.stop("lobby-1".parse().unwrap(), false);
    assert_eq!(stage.exit().await.log_tail, ["Loading", "Done (1s)! "]);
    // What is only the beginning of another line is none, until nothing follows.
    let script = "printf 'Done'; sleep 0.2; printf ' (1s)'; sleep 0.2; echo ' no'; read word; exit 0";
    let mut facts = facts("lobby-1", free_port());
    facts.readiness = Rule::Line(LineText::new("Done (1s)!").unwrap());
    facts.startup_timeout = Duration::from_secs(3);
    let mut stage = Stage::new();
    stage.start_script(facts, script).await;
    let exit = stage.exit().await;
    assert_eq!(exit.stopped_for, Some(StopReason::StartupTimeout));
}

async fn tour(stage: &mut Stage) {
    stage.ready().await;
    let id = "lobby-1".parse().unwrap();
    stage.line("Done (").await;
    stage.supervisor.command(id, "say grüße").unwrap();
    let answer = stage.line("grüße").await;
    assert!(answer.ends_with("INFO]: [Server] grüße"), "{answer}");
    stage.supervisor.command(id, "spam 3").unwrap();
    stage.line("spam line 3 of 3").await;
    assert!(stage.supervisor.stop(id, false));
    let exit = stage.exit().await;
    assert_eq!(exit.cause, ExitCause::Exited(0));
    assert!(!exit.is_crash());
    assert!(exit.log_tail.last().unwrap().contains("All dimensions are saved"));
    let numbers: Vec<u64> = stage.console.iter().map(|(sequence, _)| *sequence).collect();
    let count = numbers.len() as u64;
    assert_eq!(numbers, (1..=count).collect::<Vec<_>>());
    assert_eq!(
        count as usize,
        exit.log_tail.len(),
        "the whole console was handed over"
    );
    let run = stage.folder.path().join("run");
    until("an empty run folder", || {
        std::fs::read_dir(&run).unwrap().next().is_none().then_some(())
    })
    .await;
    assert_eq!(stage.supervisor.count(), 0);
}

async fn the_stand_in_gets_ready_answers_and_stops() {
    let mut stage = Stage::new();
    stage.open_consoles();
    stage.start_standin(facts("lobby-1", free_port())).await;
    tour(&mut stage).await;
}

async fn a_jvm_gets_ready_answers_and_stops() {
    let mut stage = Stage::new();
    stage.open_consoles();
    let facts = facts("lobby-1", free_port());
    let (jar, port) = (demo_jar(), facts.port.to_string());
    let arguments = [
        "-Xmx64m",
        "-jar",
        jar.to_str().unwrap(),
        "--port",
        &port,
        "--nogui",
    ];
    let spec = spec("java", &arguments, &stage.workspace("lobby-1"));
    stage.supervisor.start(facts, spec).await.unwrap();
    tour(&mut stage).await;
}

async fn a_missing_program_is_a_clear_error() {
    let stage = Stage::new();
    let spec = spec("/no/such/java", &[], &stage.workspace("lobby-1"));
    let error = stage
        .supervisor
        .start(facts("lobby-1", free_port()), spec)
        .await
        .unwrap_err();
    assert!(
        matches!(error, StartError::Spawn { not_found: true, .. }),
        "{error}"
    );
    assert!(error.to_string().contains("/no/such/java"));
    assert_eq!(stage.supervisor.count(), 0);
    let run = stage.folder.path().join("run");
    assert_eq!(
        std::fs::read_dir(run).unwrap().count(),
        0,
        "nothing is left behind"
    );
}

async fn a_missing_shim_is_a_clear_error() {
    let stage = Stage::with(|settings| settings.shim.program = "/no/such/shim".into());
    let spec = spec("/bin/true", &[], &stage.workspace("lobby-1"));
    let error = stage
        .supervisor
        .start(facts("lobby-1", free_port()), spec)
        .await
        .unwrap_err();
    assert!(matches!(error, StartError::Shim { .. }), "{error}");
    assert!(error.to_string().contains("/no/such/shim"));
    assert_eq!(stage.supervisor.count(), 0);
}

async fn one_id_runs_once() {
    let mut stage = Stage::new();
    stage.start_standin(facts("lobby-1", free_port())).await;
    let spec = spec("/bin/true", &[], &stage.workspace("lobby-1"));
    let second = stage.supervisor.start(facts("lobby-1", free_port()), spec).await;
    assert!(matches!(second, Err(StartError::AlreadyRunning)));
    stage.supervisor.stop("lobby-1".parse().unwrap(), true);
    stage.exit().await;
}

async fn secrets_are_in_the_environment_only() {
    let mut stage = Stage::new();
    let workspace = stage.workspace("lobby-1");
    let mut spec = spec("/bin/sh", &["-c", "echo \"Done (1s)!\"; read line"], &workspace);
    spec.environment
        .insert("CLOUD_PLUGIN_TOKEN".into(), "s3cret-token".into());
    stage
        .supervisor
        .start(facts("lobby-1", free_port()), spec)
        .await
        .unwrap();
    stage.ready().await;
    let control = stage.control();
    let running = control.read_state().unwrap().unwrap();
    let environ = std::fs::read(format!("/proc/{}/environ", running.main.pid)).unwrap();
    assert!(contains(&environ, b"s3cret-token"), "the instance has it");
    for pid in [running.main.pid, running.shim.pid] {
        let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap();
        assert!(!contains(&arguments, b"s3cret-token"));
    }
    for entry in std::fs::read_dir(control.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap() != "stdin" {
            assert!(
                !contains(&std::fs::read(&path).unwrap(), b"s3cret-token"),
                "{path:?}"
            );
        }
    }
    stage.supervisor.stop("lobby-1".parse().unwrap(), true);
    stage.exit().await;
    until_gone(&running.shim).await;
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

async fn a_stuck_console_does_not_block() {
    let mut stage = Stage::new();
    let mut facts = facts("lobby-1", free_port());
    facts.grace = Duration::from_secs(3600);
    stage
        .start_script(facts, "echo 'Done (1s)!'; exec sleep 3600")
        .await;
    stage.ready().await;
    let id = "lobby-1".parse().unwrap();
    let long = format!("say {}", "x".repeat(900));
    let mut accepted = 0;
    let error = loop {
        match stage.supervisor.command(id, &long) {
            Ok(()) => accepted += 1,
            Err(error) => break error,
        }
        assert!(accepted < 1000, "the pipe never fills");
    };
    assert!(matches!(error, CommandError::Stuck), "{error}");
    // The stop word has no room either, so nothing is gained by waiting out the grace.
    while stage.supervisor.command(id, "x").is_ok() {}
    stage.supervisor.stop(id, false);
    assert_eq!(stage.exit().await.cause, ExitCause::Signalled(15));
}

async fn an_ended_instance_takes_no_commands() {
    let mut stage = Stage::new();
    stage.start_script(facts("lobby-1", free_port()), "exit 0").await;
    let id = "lobby-1".parse().unwrap();
    until("the end", || {
        matches!(
            stage.supervisor.command(id, "list"),
            Err(CommandError::NotRunning)
        )
        .then_some(())
    })
    .await;
    assert_eq!(stage.exit().await.cause, ExitCause::Exited(0));
    assert!(!stage.supervisor.stop("unknown".parse().unwrap(), false));
}

/// The order of a real server: first its port, then its worlds
async fn a_server_with_an_open_port_is_ready_when_it_says_so() {
    const LINE: &str = "waiting for the ready line (Done (1.2s)! For help) or the plugin's call";
    let script = "echo '[12:00:00] [ServerMain/INFO]: Starting minecraft server version 1.21.4'
        read join; echo '[12:00:01] [Async Chat Thread - #0/INFO]: <Steve> Done (1s)! For help'
        read world; echo '[12:00:06] [Server thread/INFO]: Done (6.217s)! For help, type \"help\"'
        exec sleep 3600";
    for rule in [Rule::Unknown, Rule::Platform(Platform::Minecraft)] {
        let mut stage = Stage::new();
        stage.open_consoles();
        // Whoever it belongs to: the instance has its port from the beginning.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut facts = facts("lobby-1", listener.local_addr().unwrap().port());
        facts.readiness = rule;
        stage.start_script(facts, script).await;
        stage.waits_for(LINE).await;
        let id = "lobby-1".parse().unwrap();
        stage.supervisor.command(id, "join").unwrap();
        stage.line("<Steve>").await;
        stage.supervisor.command(id, "world").unwrap();
        stage.ready().await;
        assert_eq!(stage.waiting.last().unwrap(), LINE);
        stage.supervisor.stop(id, true);
        stage.exit().await;
    }
}

async fn a_plugin_makes_its_server_ready() {
    let mut stage = Stage::new();
    let mut facts = facts("lobby-1", free_port());
    facts.readiness = Rule::Plugin;
    let (id, incarnation) = (facts.instance, facts.incarnation);
    stage
        .start_script(facts, "echo 'Done (1s)! For help'; exec sleep 3600")
        .await;
    stage.waits_for("waiting for the plugin's call").await;
    stage.supervisor.plugin_ready(id, Incarnation::new(99));
    stage.supervisor.plugin_ready(id, incarnation);
    stage.ready().await;
    // It repeats itself.
    stage.supervisor.plugin_ready(id, incarnation);
    stage.supervisor.stop(id, true);
    let exit = stage.exit().await;
    assert_eq!(exit.stopped_for, Some(StopReason::Requested));
}

async fn a_start_that_takes_too_long_says_what_was_missing() {
    let mut stage = Stage::new();
    let mut facts = facts("lobby-1", free_port());
    facts.readiness = Rule::Line(LineText::new("Lobby is open").unwrap());
    facts.startup_timeout = Duration::from_millis(300);
    stage
        .start_script(facts, "echo '<Steve> Lobby is open'; read word; exit 0")
        .await;
    let exit = stage.exit().await;
    assert_eq!(exit.stopped_for, Some(StopReason::StartupTimeout));
    let last = exit.log_tail.last().unwrap();
    assert_eq!(
        last,
        "[prexorcloud] waiting for the ready line (Lobby is open) or the plugin's call"
    );
}

async fn an_open_port_means_ready_where_the_order_says_so() {
    let mut stage = Stage::new();
    let port = free_port();
    let mut facts = facts("lobby-1", port);
    facts.readiness = Rule::Port;
    // What it prints does not count.
    stage
        .start_script(facts, "echo 'Done (1s)! For help'; exec sleep 3600")
        .await;
    stage.waits_for(&format!("waiting for port {port}")).await;
    let _listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    stage.ready().await;
    assert!(only_control(stage.folder.path()).path().join("ready").exists());
    stage.supervisor.stop("lobby-1".parse().unwrap(), true);
    stage.exit().await;
}

async fn a_console_that_nobody_takes_is_bounded() {
    let backlog = 400_000;
    let mut stage = Stage::with(|settings| settings.retention.backlog = backlog);
    stage.start_standin(facts("lobby-1", free_port())).await;
    stage.ready().await;
    let id = "lobby-1".parse().unwrap();
    stage.supervisor.command(id, "spam 50000").unwrap();
    let control = stage.control();
    until("the flood is written and shed", || {
        let written = std::fs::metadata(control.console_log()).unwrap().len();
        let cursor = std::fs::read_to_string(control.cursor()).unwrap_or_default();
        let delivered: u64 = cursor.split(' ').next()?.parse().ok()?;
        let is_written = tail(&control.console_log(), 1).unwrap()[0].ends_with("50000 of 50000");
        (is_written && written - delivered <= backlog).then_some(())
    })
    .await;
    stage.open_consoles();
    stage.line("spam line 50000 of 50000").await;
    let (gap, notice) = &stage.console[0];
    assert!(
        notice.starts_with("[prexorcloud] ") && notice.ends_with("were dropped here"),
        "{notice}"
    );
    // What remains keeps its numbers, without a further gap.
    for (index, (sequence, _)) in stage.console.iter().enumerate() {
        assert_eq!(*sequence, gap + index as u64);
    }
    stage.supervisor.stop(id, true);
    stage.exit().await;
}
