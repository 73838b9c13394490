//! How instances end, and what they leave behind

use std::time::Duration;

use libtest_mimic::Trial;
use prexorcloud_daemon::control::ExitCause;
use prexorcloud_daemon::supervisor::{EphemeralFolder, Event, StopReason};
use rustix::process::{Pid, Signal, kill_process};

use super::stage::{Stage, demo_jar, facts, free_port, spec, until, until_gone, written_process};
use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial(
            "a_crash_gives_the_code_and_the_tail",
            a_crash_gives_the_code_and_the_tail,
        ),
        trial(
            "an_unfinished_last_line_is_in_the_tail",
            an_unfinished_last_line_is_in_the_tail,
        ),
        trial("a_killed_instance_has_code_137", a_killed_instance_has_code_137),
        trial("a_forced_stop_kills_descendants", a_forced_stop_kills_descendants),
        trial(
            "descendants_do_not_outlive_the_main_process",
            descendants_do_not_outlive_the_main_process,
        ),
        trial(
            "a_stubborn_instance_is_killed_after_its_grace",
            a_stubborn_instance_is_killed_after_its_grace,
        ),
        trial("force_overtakes_grace", force_overtakes_grace),
        trial(
            "an_instance_that_is_not_ready_in_time_crashed",
            an_instance_that_is_not_ready_in_time_crashed,
        ),
        trial(
            "an_instance_past_its_lifetime_is_stopped",
            an_instance_past_its_lifetime_is_stopped,
        ),
        trial(
            "a_lost_shim_leaves_an_end_nobody_saw",
            a_lost_shim_leaves_an_end_nobody_saw,
        ),
        trial("a_stopped_shim_hides_no_end", a_stopped_shim_hides_no_end),
        trial(
            "an_ephemeral_folder_goes_with_its_instance",
            an_ephemeral_folder_goes_with_its_instance,
        ),
    ]
}

async fn a_stopped_shim_hides_no_end() {
    for is_held in [false, true] {
        let mut stage = Stage::new();
        let script = "echo 'Done (1s)!'; read word; exit 7";
        stage.start_script(facts("lobby-1", free_port()), script).await;
        stage.ready().await;
        let running = stage.control().read_state().unwrap().unwrap();
        let shim = Pid::from_raw(running.shim.pid).unwrap();
        kill_process(shim, Signal::STOP).unwrap();
        // Somebody who means it stops it again and again.
        let holder = is_held.then(|| {
            tokio::spawn(async move {
                while kill_process(shim, Signal::STOP).is_ok() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            })
        });
        stage
            .supervisor
            .command("lobby-1".parse().unwrap(), "end")
            .unwrap();
        let begun = std::time::Instant::now();
        let exit = stage.exit().await;
        assert_eq!(exit.cause, ExitCause::Exited(7), "{exit:?}");
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
        if let Some(holder) = holder {
            holder.abort();
            let _ = kill_process(shim, Signal::CONT);
        }
        until_gone(&running.shim).await;
    }
}

async fn a_crash_gives_the_code_and_the_tail() {
    let mut stage = Stage::new();
    let facts = facts("lobby-1", free_port());
    let (jar, port) = (demo_jar(), facts.port.to_string());
    let arguments = ["-Xmx64m", "-jar", jar.to_str().unwrap(), "--port", &port];
    let spec = spec("java", &arguments, &stage.workspace("lobby-1"));
    stage.supervisor.start(facts, spec).await.unwrap();
    stage.ready().await;
    let id = "lobby-1".parse().unwrap();
    stage.supervisor.command(id, "spam 1000").unwrap();
    stage.supervisor.command(id, "crash").unwrap();
    let exit = stage.exit().await;
    assert_eq!(exit.cause.code(), 1);
    assert!(exit.is_crash());
    assert_eq!(exit.log_tail.len(), 500);
    assert!(exit.log_tail[0].starts_with("spam line "));
    let trace = exit.log_tail.join("\n");
    assert!(trace.contains("java.lang.IllegalStateException: crash was asked for"));
    assert!(
        trace.trim_end().ends_with(')'),
        "the trace is complete: {}",
        exit.log_tail[499]
    );
}

async fn an_unfinished_last_line_is_in_the_tail() {
    let mut stage = Stage::new();
    stage
        .start_script(facts("lobby-1", free_port()), "echo one; printf two; exit 3")
        .await;
    let exit = stage.exit().await;
    assert_eq!(exit.cause, ExitCause::Exited(3));
    assert_eq!(exit.log_tail, ["one", "two"]);
}

async fn a_killed_instance_has_code_137() {
    let mut stage = Stage::new();
    stage
        .start_script(
            facts("lobby-1", free_port()),
            "echo 'Done (1s)!'; exec sleep 3600",
        )
        .await;
    stage.ready().await;
    let running = stage.control().read_state().unwrap().unwrap();
    kill_process(Pid::from_raw(running.main.pid).unwrap(), Signal::KILL).unwrap();
    let exit = stage.exit().await;
    assert_eq!(exit.cause, ExitCause::Signalled(9));
    assert_eq!(exit.cause.code(), 137);
    assert!(exit.is_crash());
}

/// A child in the same group, and one that left for a session of its own
const WITH_DESCENDANTS: &str = "sleep 3600 & echo $! > child
    setsid sh -c 'echo $$ > daemon; exec sleep 3600' &
    while [ ! -s daemon ]; do sleep 0.01; done
    echo 'Done (1s)!'";

async fn a_forced_stop_kills_descendants() {
    let mut stage = Stage::new();
    stage
        .start_script(
            facts("lobby-1", free_port()),
            &format!("{WITH_DESCENDANTS}; wait"),
        )
        .await;
    stage.ready().await;
    let workspace = stage.workspace("lobby-1");
    let child = written_process(&workspace.join("child")).await;
    let daemon = written_process(&workspace.join("daemon")).await;
    let running = stage.control().read_state().unwrap().unwrap();
    stage.supervisor.stop("lobby-1".parse().unwrap(), true);
    let exit = stage.exit().await;
    assert_eq!(exit.cause, ExitCause::Signalled(9));
    assert!(!exit.is_crash(), "it was asked for");
    for process in [&child, &daemon, &running.main, &running.shim] {
        until_gone(process).await;
    }
}

async fn descendants_do_not_outlive_the_main_process() {
    let mut stage = Stage::new();
    stage
        .start_script(
            facts("lobby-1", free_port()),
            &format!("{WITH_DESCENDANTS}; exit 4"),
        )
        .await;
    let exit = stage.exit().await;
    assert_eq!(exit.cause, ExitCause::Exited(4));
    let workspace = stage.workspace("lobby-1");
    for name in ["child", "daemon"] {
        let pid = std::fs::read_to_string(workspace.join(name)).unwrap();
        let stat = format!("/proc/{}", pid.trim());
        until("the end of a descendant", || {
            (!std::path::Path::new(&stat).exists()).then_some(())
        })
        .await;
    }
}

async fn a_stubborn_instance_is_killed_after_its_grace() {
    let mut stage = Stage::new();
    let mut facts = facts("lobby-1", free_port());
    facts.grace = Duration::from_millis(300);
    let script = "trap 'echo not yet' TERM; echo 'Done (1s)!'; while true; do sleep 0.05; done";
    stage.start_script(facts, script).await;
    stage.ready().await;
    stage.supervisor.stop("lobby-1".parse().unwrap(), false);
    let exit = stage.exit().await;
    assert_eq!(exit.cause, ExitCause::Signalled(9));
    assert!(!exit.is_crash());
    assert!(
        exit.log_tail.iter().any(|line| line == "not yet"),
        "SIGTERM came first"
    );
    let remarks: Vec<_> = exit
        .log_tail
        .iter()
        .filter(|line| line.starts_with("[prexorcloud]"))
        .collect();
    assert_eq!(
        remarks,
        [
            "[prexorcloud] told to stop 0.3 s ago and not ended: terminated",
            &format!(
                "[prexorcloud] terminated {} s ago and not ended: killed",
                stage.supervisor.kill_timeout().as_secs_f64()
            ),
        ]
    );
}

async fn force_overtakes_grace() {
    let mut stage = Stage::new();
    stage
        .start_script(
            facts("lobby-1", free_port()),
            "echo 'Done (1s)!'; exec sleep 3600",
        )
        .await;
    stage.ready().await;
    let id = "lobby-1".parse().unwrap();
    stage.supervisor.stop(id, false);
    let event = stage.event().await;
    assert!(
        matches!(
            event,
            Event::Stopping {
                reason: StopReason::Requested,
                ..
            }
        ),
        "{event:?}"
    );
    stage.supervisor.stop(id, true);
    assert_eq!(stage.exit().await.cause, ExitCause::Signalled(9));
}

async fn an_instance_that_is_not_ready_in_time_crashed() {
    let mut stage = Stage::new();
    let port = free_port();
    let mut facts = facts("lobby-1", port);
    facts.startup_timeout = Duration::from_millis(200);
    stage
        .start_script(facts, "echo still loading; read word; exit 0")
        .await;
    let event = stage.event().await;
    assert!(
        matches!(
            event,
            Event::Stopping {
                reason: StopReason::StartupTimeout,
                ..
            }
        ),
        "{event:?}"
    );
    let exit = stage.exit().await;
    assert_eq!(exit.cause, ExitCause::Exited(0));
    assert!(exit.is_crash());
    let missing = format!("[prexorcloud] waiting for port {port} or a ready line");
    assert_eq!(exit.log_tail, ["still loading", &missing]);
}

async fn an_instance_past_its_lifetime_is_stopped() {
    let mut stage = Stage::new();
    let mut facts = facts("lobby-1", free_port());
    facts.max_lifetime = Some(Duration::from_millis(500));
    stage
        .start_script(facts, "echo 'Done (1s)!'; read word; exit 9")
        .await;
    let exit = stage.exit().await;
    assert_eq!(exit.stopped_for, Some(StopReason::LifetimeOver));
    assert!(!exit.is_crash());
    assert_eq!(
        exit.log_tail.last().unwrap(),
        "[prexorcloud] stopped, since it has run for the 0.5 s that it may run"
    );
}

async fn a_lost_shim_leaves_an_end_nobody_saw() {
    let mut stage = Stage::new();
    stage
        .start_script(
            facts("lobby-1", free_port()),
            "echo 'Done (1s)!'; exec sleep 3600",
        )
        .await;
    stage.ready().await;
    let running = stage.control().read_state().unwrap().unwrap();
    kill_process(Pid::from_raw(running.shim.pid).unwrap(), Signal::KILL).unwrap();
    until_gone(&running.shim).await;
    assert!(
        running.main.is_running().unwrap(),
        "an instance outlives its shim"
    );
    stage.supervisor.stop("lobby-1".parse().unwrap(), true);
    let exit = stage.exit().await;
    assert_eq!(exit.cause, ExitCause::Unobserved);
    assert!(!exit.is_crash());
}

async fn an_ephemeral_folder_goes_with_its_instance() {
    let mut stage = Stage::new();
    let workspace = stage.workspace("lobby-1");
    let mut facts = facts("lobby-1", free_port());
    facts.ephemeral_folder = Some(EphemeralFolder::of(&workspace).unwrap());
    stage.start_script(facts, "touch world; exit 0").await;
    stage.open_consoles();
    stage.exit().await;
    until("its folder is deleted", || (!workspace.exists()).then_some(())).await;
}
