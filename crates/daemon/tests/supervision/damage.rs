//! Records that are torn, stray or gone: no living instance is dropped

use std::fs;

use libtest_mimic::Trial;
use prexorcloud_daemon::control::{ControlDir, ExitCause};
use prexorcloud_daemon::supervisor::{Adopted, Found, InstanceFacts, StopReason, Supervisor};
use rustix::process::{Pid, Signal, kill_process};

use super::stage::{Stage, facts, free_port, settings, until, until_gone, written_process};
use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial(
            "a_torn_record_drops_no_living_instance",
            a_torn_record_drops_no_living_instance,
        ),
        trial(
            "a_stray_settled_mark_drops_no_living_instance",
            a_stray_settled_mark_drops_no_living_instance,
        ),
        trial(
            "an_instance_without_shim_and_records_is_found_by_its_files",
            an_instance_without_shim_and_records_is_found_by_its_files,
        ),
        trial(
            "a_folder_that_was_set_aside_is_taken_back_if_something_lives",
            a_folder_that_was_set_aside_is_taken_back_if_something_lives,
        ),
        trial(
            "an_end_is_told_although_nothing_says_whose_it_was",
            an_end_is_told_although_nothing_says_whose_it_was,
        ),
        trial(
            "an_earlier_start_whose_end_was_not_noted_hides_no_later_one",
            an_earlier_start_whose_end_was_not_noted_hides_no_later_one,
        ),
        trial(
            "a_record_of_another_start_is_not_believed",
            a_record_of_another_start_is_not_believed,
        ),
        trial(
            "a_removed_control_folder_hides_no_living_instance",
            a_removed_control_folder_hides_no_living_instance,
        ),
        trial(
            "a_control_folder_that_was_moved_away_is_moved_back",
            a_control_folder_that_was_moved_away_is_moved_back,
        ),
        trial(
            "a_console_log_that_lost_its_name_is_read_on",
            a_console_log_that_lost_its_name_is_read_on,
        ),
        trial(
            "a_shim_that_starts_nothing_is_not_waited_for",
            a_shim_that_starts_nothing_is_not_waited_for,
        ),
    ]
}

const OBEDIENT: &str = "echo 'Done (1s)!'; read word; echo \"got $word\"; exit 0";

/// An instance that is ready, and whose daemon is gone
async fn left_behind(script: &str) -> (Stage, ControlDir) {
    let mut stage = Stage::new();
    stage.start_script(facts("lobby-1", free_port()), script).await;
    stage.ready().await;
    stage.supervisor.detach();
    let control = stage.control();
    (stage, control)
}

async fn adopt(stage: &mut Stage) -> Vec<Adopted> {
    let (supervisor, reports) = Supervisor::new(settings(stage.folder.path())).unwrap();
    stage.supervisor = supervisor;
    stage.reports = reports;
    stage.supervisor.adopt().await.unwrap()
}

/// Stops the instance as an operator would, and sees that it was asked
async fn stops_in_order(stage: &mut Stage) {
    assert!(stage.supervisor.stop("lobby-1".parse().unwrap(), false));
    let exit = stage.exit().await;
    assert_eq!(exit.cause, ExitCause::Exited(0), "{exit:?}");
    assert_eq!(exit.stopped_for, Some(StopReason::Requested));
    assert_eq!(exit.log_tail, ["Done (1s)!", "got stop"]);
}

/// The control folder of one of several instances
fn control_of(stage: &Stage, id: &str) -> std::path::PathBuf {
    let named = |path: &std::path::PathBuf| {
        path.file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .starts_with(&format!("{id}@"))
    };
    fs::read_dir(stage.folder.path().join("run"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(named)
        .unwrap()
}

async fn a_record_of_another_start_is_not_believed() {
    for name in ["instance.json", "state.json"] {
        let mut stage = Stage::new();
        for id in ["lobby-1", "lobby-2"] {
            stage.start_script(facts(id, free_port()), OBEDIENT).await;
            stage.ready().await;
        }
        stage.supervisor.detach();
        let (first, second) = (control_of(&stage, "lobby-1"), control_of(&stage, "lobby-2"));
        fs::copy(first.join(name), second.join(name)).unwrap();

        let mut adopted = adopt(&mut stage).await;
        adopted.sort_by_key(|adopted| adopted.facts.instance);
        let seen: Vec<_> = adopted
            .iter()
            .map(|adopted| {
                (
                    adopted.facts.instance.as_str(),
                    adopted.is_running,
                    adopted.damage.is_some(),
                )
            })
            .collect();
        assert_eq!(
            seen,
            [("lobby-1", true, false), ("lobby-2", true, true)],
            "{name}"
        );
        assert_ne!(adopted[0].pid, adopted[1].pid, "{name}");
        for id in ["lobby-1", "lobby-2"] {
            assert!(stage.supervisor.stop(id.parse().unwrap(), false));
            let exit = stage.exit().await;
            assert_eq!(
                (exit.instance.as_str(), &exit.cause),
                (id, &ExitCause::Exited(0)),
                "{name}: {exit:?}"
            );
            assert_eq!(exit.stopped_for, Some(StopReason::Requested));
        }
    }
}

async fn a_removed_control_folder_hides_no_living_instance() {
    for script in [
        OBEDIENT,
        "echo 'Done (1s)!'; read word; echo \"got $word\"; exit 3",
    ] {
        let (mut stage, control) = left_behind(script).await;
        fs::remove_dir_all(control.path()).unwrap();
        for found in [Found::Starting, Found::Running] {
            // Another daemon after this one finds it, too.
            let [adopted] = &adopt(&mut stage).await[..] else {
                panic!("not found");
            };
            assert!(adopted.is_running);
            let facts = &adopted.facts;
            assert_eq!(
                (
                    facts.instance.as_str(),
                    facts.group.as_str(),
                    facts.incarnation.get()
                ),
                ("lobby-1", "lobby", 7)
            );
            let damage = adopted.damage.as_deref().unwrap_or_default();
            assert!(damage.contains("somebody removed its control folder"), "{damage}");
            assert_eq!(adopted.found, found);
            if found == Found::Starting {
                stage.ready().await;
            }
            stage.supervisor.detach();
        }
        adopt(&mut stage).await;
        stage.open_consoles();
        assert!(stage.supervisor.stop("lobby-1".parse().unwrap(), false));
        let exit = stage.exit().await;
        let code = if script == OBEDIENT { 0 } else { 3 };
        assert_eq!(exit.cause, ExitCause::Exited(code), "{exit:?}");
        assert_eq!(exit.stopped_for, Some(StopReason::Requested));
        assert_eq!(exit.log_tail, ["Done (1s)!", "got stop"]);
        until("the folder being removed", || {
            (!control.path().exists()).then_some(())
        })
        .await;
    }
}

async fn a_control_folder_that_was_moved_away_is_moved_back() {
    let (mut stage, control) = left_behind(OBEDIENT).await;
    let elsewhere = tempfile::tempdir_in(stage.folder.path()).unwrap();
    let name = control.path().file_name().unwrap();
    fs::rename(control.path(), elsewhere.path().join(name)).unwrap();
    let [adopted] = &adopt(&mut stage).await[..] else {
        panic!("not found");
    };
    assert!(adopted.is_running && control.path().exists());
    assert_eq!((adopted.found, adopted.damage.as_deref()), (Found::Running, None));
    stage.open_consoles();
    stops_in_order(&mut stage).await;
}

async fn a_console_log_that_lost_its_name_is_read_on() {
    for replaced in [false, true] {
        let (mut stage, control) = left_behind(OBEDIENT).await;
        fs::remove_file(control.console_log()).unwrap();
        if replaced {
            fs::write(control.console_log(), "Somebody else's\n").unwrap();
        }
        let [adopted] = &adopt(&mut stage).await[..] else {
            panic!("not found");
        };
        let damage = adopted.damage.as_deref().unwrap_or_default();
        assert!(damage.contains("removed or replaced console.log"), "{damage}");
        stage.open_consoles();
        stage.line("Done (1s)!").await;
        stops_in_order(&mut stage).await;
        assert!(!stage.console.iter().any(|(_, line)| line.contains("Somebody")));

        // The same while the daemon is there.
        let mut stage = Stage::new();
        stage.open_consoles();
        stage.start_script(facts("lobby-1", free_port()), OBEDIENT).await;
        stage.line("Done (1s)!").await;
        let control = stage.control();
        fs::remove_file(control.console_log()).unwrap();
        if replaced {
            fs::write(control.console_log(), "Somebody else's\n").unwrap();
        }
        stops_in_order(&mut stage).await;
    }
}

async fn a_torn_record_drops_no_living_instance() {
    for name in ["instance.json", "state.json", "stop.json", "ready", "settled"] {
        for damage in ["torn", "empty", "folder", "link"] {
            let is_mark = ["ready", "settled"].contains(&name);
            if is_mark && ["torn", "empty"].contains(&damage) {
                // Any content is the mark.
                continue;
            }
            let (mut stage, control) = left_behind(OBEDIENT).await;
            let path = control.path().join(name);
            fs::remove_file(&path).unwrap();
            match damage {
                "torn" => fs::write(&path, "{\"instance\":\"lob").unwrap(),
                "empty" => fs::write(&path, "").unwrap(),
                "folder" => fs::create_dir(&path).unwrap(),
                _ => std::os::unix::fs::symlink("/etc/passwd", &path).unwrap(),
            }
            let adopted = adopt(&mut stage).await;
            assert_eq!(adopted.len(), 1, "{name} {damage}");
            let InstanceFacts {
                instance,
                group,
                incarnation,
                ..
            } = &adopted[0].facts;
            assert_eq!(
                (instance.as_str(), group.as_str(), incarnation.get()),
                ("lobby-1", "lobby", 7)
            );
            assert!(adopted[0].is_running, "{name} {damage}");
            let told = adopted[0].damage.as_deref().unwrap_or_default();
            assert!(told.contains(name), "{name} {damage}: {told}");
            stops_in_order(&mut stage).await;
        }
    }
}

async fn a_stray_settled_mark_drops_no_living_instance() {
    for content in ["", "true"] {
        let (mut stage, control) = left_behind(OBEDIENT).await;
        fs::write(control.path().join("settled"), content).unwrap();
        let adopted = adopt(&mut stage).await;
        assert_eq!(adopted.len(), 1);
        assert_eq!(adopted[0].found, Found::Running);
        assert!(adopted[0].damage.is_some());
        stage.supervisor.detach();
        let again = adopt(&mut stage).await;
        assert_eq!(again.len(), 1);
        assert_eq!(again[0].damage, None, "the mark was taken back");
        stops_in_order(&mut stage).await;
    }
}

async fn an_instance_without_shim_and_records_is_found_by_its_files() {
    let (mut stage, control) = left_behind("echo $$ > pid; echo 'Done (1s)!'; exec sleep 3600").await;
    let main = written_process(&stage.workspace("lobby-1").join("pid")).await;
    let running = control.read_state().unwrap().unwrap();
    kill_process(Pid::from_raw(running.shim.pid).unwrap(), Signal::KILL).unwrap();
    until_gone(&running.shim).await;
    for name in ["state.json", "instance.json"] {
        fs::remove_file(control.path().join(name)).unwrap();
    }
    let adopted = adopt(&mut stage).await;
    assert_eq!((adopted.len(), adopted[0].pid), (1, main.pid));
    assert!(stage.supervisor.stop("lobby-1".parse().unwrap(), true));
    let exit = stage.exit().await;
    assert_eq!(exit.cause, ExitCause::Unobserved);
    assert!(!exit.is_crash(), "it was asked for");
    until_gone(&main).await;
}

async fn a_folder_that_was_set_aside_is_taken_back_if_something_lives() {
    let (mut stage, control) = left_behind(OBEDIENT).await;
    let name = control.path().file_name().unwrap().to_str().unwrap().to_owned();
    let aside = control.path().with_file_name(format!(".unreadable-{name}"));
    fs::rename(control.path(), &aside).unwrap();
    let dead = control.path().with_file_name(".unreadable-lobby-2@5-0");
    fs::create_dir(&dead).unwrap();
    assert_eq!(adopt(&mut stage).await.len(), 1);
    assert!(control.path().exists() && !aside.exists() && dead.exists());
    stops_in_order(&mut stage).await;
}

async fn an_end_is_told_although_nothing_says_whose_it_was() {
    let (mut stage, control) = left_behind("echo 'Done (1s)!'; read word; exit 3").await;
    let running = control.read_state().unwrap().unwrap();
    fs::write(control.path().join("state.json"), "{").unwrap();
    fs::write(control.path().join("instance.json"), "{").unwrap();
    fs::write(control.stdin(), "go\n").unwrap();
    until_gone(&running.shim).await;
    let adopted = adopt(&mut stage).await;
    assert_eq!(adopted.len(), 1);
    assert!(!adopted[0].is_running);
    let exit = stage.exit().await;
    assert_eq!(exit.cause, ExitCause::Exited(3));
    assert_eq!((exit.incarnation.get(), exit.group.as_str()), (7, "lobby"));
}

async fn an_earlier_start_whose_end_was_not_noted_hides_no_later_one() {
    let (mut stage, control) = left_behind("echo 'Done (1s)!'; read word; exit 3").await;
    let running = control.read_state().unwrap().unwrap();
    fs::write(control.stdin(), "go\n").unwrap();
    until_gone(&running.shim).await;
    // The same id again, while the former folder says nothing of being settled.
    let (supervisor, reports) = Supervisor::new(settings(stage.folder.path())).unwrap();
    (stage.supervisor, stage.reports) = (supervisor, reports);
    stage.start_script(facts("lobby-1", free_port()), OBEDIENT).await;
    stage.ready().await;
    stage.supervisor.detach();
    let adopted = adopt(&mut stage).await;
    assert_eq!(adopted.len(), 1);
    assert!(adopted[0].is_running);
    stops_in_order(&mut stage).await;
}

async fn a_shim_that_starts_nothing_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run/lobby-1@5-0@7.30000.lobby");
    fs::create_dir_all(&run).unwrap();
    let facts_of = |stage: &Stage| fs::read(stage.control().path().join("instance.json")).unwrap();
    let (mut other, _) = left_behind(OBEDIENT).await;
    fs::write(run.join("instance.json"), facts_of(&other)).unwrap();
    // As a shim that hangs before it has started anything: it works in the folder and holds its lock.
    let mut shim = std::process::Command::new("sh")
        .args(["-c", "exec 9>>shim.lock; flock 9; sleep 3600; exit", "sh"])
        .arg(&run)
        .current_dir(&run)
        .spawn()
        .unwrap();
    until("the lock", || {
        ControlDir::new(&run).try_lock().unwrap().is_none().then_some(())
    })
    .await;
    let (supervisor, _reports) = Supervisor::new(settings(folder.path())).unwrap();
    assert!(supervisor.adopt().await.unwrap().is_empty());
    assert!(!run.exists());
    shim.wait().unwrap();
    adopt(&mut other).await;
    stops_in_order(&mut other).await;
}
