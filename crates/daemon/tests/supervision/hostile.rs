//! Servers that turn against what watches over them

use std::fs;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use prexorcloud_daemon::control::ExitCause;
use prexorcloud_daemon::supervisor::EphemeralFolder;

use super::stage::{Stage, facts, free_port, until, until_gone, written_process};
use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial(
            "a_server_that_kills_its_shim_and_forks_away_leaves_nothing",
            a_server_that_kills_its_shim_and_forks_away_leaves_nothing,
        ),
        trial(
            "a_replaced_console_is_neither_followed_nor_waited_for",
            a_replaced_console_is_neither_followed_nor_waited_for,
        ),
        trial(
            "a_console_that_is_mostly_a_hole_costs_no_time",
            a_console_that_is_mostly_a_hole_costs_no_time,
        ),
        trial(
            "a_replaced_standard_input_is_not_written_through",
            a_replaced_standard_input_is_not_written_through,
        ),
        trial(
            "what_a_server_leaves_in_its_folder_goes_and_nothing_else",
            what_a_server_leaves_in_its_folder_goes_and_nothing_else,
        ),
        trial(
            "a_crash_log_outlives_its_instance",
            a_crash_log_outlives_its_instance,
        ),
    ]
}

async fn a_server_that_kills_its_shim_and_forks_away_leaves_nothing() {
    let mut stage = Stage::new();
    let script = "setsid sh -c 'echo $$ > daemon; exec sleep 3600' &
        while [ ! -s daemon ]; do sleep 0.01; done
        echo 'Done (1s)!'; read word; kill -9 $PPID; echo 'bye'; exit 5";
    stage.start_script(facts("lobby-1", free_port()), script).await;
    stage.ready().await;
    stage
        .supervisor
        .command("lobby-1".parse().unwrap(), "go")
        .unwrap();
    let daemon = written_process(&stage.workspace("lobby-1").join("daemon")).await;
    let exit = stage.exit().await;
    assert_eq!(exit.cause, ExitCause::Unobserved, "5 is what nobody saw");
    assert!(exit.is_crash());
    assert_eq!(exit.log_tail, ["Done (1s)!", "bye"]);
    until_gone(&daemon).await;
}

async fn a_replaced_console_is_neither_followed_nor_waited_for() {
    for plant in ["ln -s \"$PWD/secret\"", "mkfifo", "mkdir", "truncate -s 1T"] {
        let mut stage = Stage::new();
        stage.open_consoles();
        let secret = stage.workspace("lobby-1").join("secret");
        fs::write(&secret, "a secret of somebody else\n").unwrap();
        let script = format!(
            "log=$(readlink /proc/self/fd/1); echo before; rm -f \"$log\"; {plant} \"$log\"; echo after; exit 4"
        );
        stage.start_script(facts("lobby-1", free_port()), &script).await;
        let began = Instant::now();
        let exit = stage.exit().await;
        assert_eq!(exit.cause, ExitCause::Exited(4), "{plant}");
        assert!(began.elapsed() < Duration::from_secs(30), "{plant}");
        let shown = format!("{:?} {:?}", exit.log_tail, stage.console);
        assert!(!shown.contains("secret of"), "{plant}: {shown}");
        assert_eq!(fs::read(&secret).unwrap(), b"a secret of somebody else\n");
    }
}

async fn a_console_that_is_mostly_a_hole_costs_no_time() {
    let mut stage = Stage::new();
    stage.open_consoles();
    let script = "truncate -s 4T /proc/self/fd/1; echo; echo bye; exit 3";
    stage.start_script(facts("lobby-1", free_port()), script).await;
    let began = Instant::now();
    let exit = stage.exit().await;
    assert_eq!(exit.cause, ExitCause::Exited(3));
    assert_eq!(exit.log_tail.last().unwrap(), "bye");
    if !stage.console.iter().any(|(_, line)| line == "bye") {
        stage.line("bye").await;
    }
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
}

async fn a_replaced_standard_input_is_not_written_through() {
    let mut stage = Stage::new();
    let outside = stage.folder.path().join("outside");
    fs::write(&outside, "untouched").unwrap();
    let script = format!(
        "in=$(readlink /proc/self/fd/0); rm \"$in\"; ln -s {} \"$in\"; echo 'Done (1s)!'; exec sleep 3600",
        outside.display()
    );
    stage.start_script(facts("lobby-1", free_port()), &script).await;
    stage.ready().await;
    assert!(stage.supervisor.stop("lobby-1".parse().unwrap(), false));
    // It cannot be asked, so it is terminated.
    let exit = stage.exit().await;
    assert_eq!(exit.cause, ExitCause::Signalled(15));
    assert!(!exit.is_crash());
    assert_eq!(fs::read(&outside).unwrap(), b"untouched");
}

async fn what_a_server_leaves_in_its_folder_goes_and_nothing_else() {
    let mut stage = Stage::with(|settings| settings.keep_crashed = Duration::ZERO);
    let outside = stage.folder.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), "untouched").unwrap();
    let workspace = stage.workspace("lobby-1");
    let mut facts = facts("lobby-1", free_port());
    facts.ephemeral_folder = Some(EphemeralFolder::of(&workspace).unwrap());
    let script = format!(
        "ln -s {outside} link; ln {outside}/file hard; mkfifo a.hprof; ln -s {outside}/file hs_err_pid7.log
        truncate -s 1T huge; mkdir -p closed/in; chmod 0 closed/in closed
        i=0; while [ $i -lt 300 ]; do mkdir d; cd d; i=$((i+1)); done; exit 1",
        outside = outside.display()
    );
    stage.start_script(facts, &script).await;
    stage.open_consoles();
    stage.exit().await;
    // A FIFO and a link explain no crash.
    until("its folder is deleted", || {
        let mut left = fs::read_dir(workspace.parent().unwrap()).unwrap();
        left.next().is_none().then_some(())
    })
    .await;
    assert_eq!(fs::read(outside.join("file")).unwrap(), b"untouched");
}

async fn a_crash_log_outlives_its_instance() {
    for (budget, is_kept) in [(1 << 20, true), (0, false)] {
        let mut stage = Stage::with(|settings| {
            settings.keep_crashed = Duration::ZERO;
            let instances = settings.run_folder.with_file_name("groups");
            settings.dumps = Some((instances, budget));
        });
        let workspace = stage.folder.path().join("groups/lobby/lobby-1");
        fs::create_dir_all(&workspace).unwrap();
        let mut facts = facts("lobby-1", free_port());
        facts.ephemeral_folder = Some(EphemeralFolder::of(&workspace).unwrap());
        let script = format!(
            "echo '# SIGSEGV' > {}/hs_err_pid$$.log; exit 134",
            workspace.display()
        );
        stage.start_script(facts, &script).await;
        stage.open_consoles();
        stage.exit().await;
        until("its control folder is deleted", || {
            let mut left = fs::read_dir(stage.folder.path().join("run")).unwrap();
            left.next().is_none().then_some(())
        })
        .await;
        let names: Vec<String> = fs::read_dir(workspace.parent().unwrap())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        assert_eq!(names.len(), usize::from(is_kept), "{names:?}");
        assert!(
            names.iter().all(|name| name.starts_with("lobby-1@crashed-")),
            "{names:?}"
        );
    }
}
