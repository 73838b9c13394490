//! Too few descriptors, a full disk: slower, and nothing else

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use libtest_mimic::Trial;
use prexorcloud_daemon::control::{ControlDir, ExitCause};
use prexorcloud_daemon::process::descriptors;
use prexorcloud_daemon::supervisor::{Event, Supervisor};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::stage::{Stage, facts, free_port, only_control, settings, until, until_gone};
use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial(
            "few_descriptors_cost_no_instance_and_force_nobody",
            few_descriptors_cost_no_instance_and_force_nobody,
        ),
        trial(
            "what_cannot_be_read_refuses_the_start_and_changes_nothing",
            what_cannot_be_read_refuses_the_start_and_changes_nothing,
        ),
        trial(
            "an_instance_starts_with_the_limit_of_before",
            an_instance_starts_with_the_limit_of_before,
        ),
        trial(
            "an_instance_takes_two_descriptors",
            an_instance_takes_two_descriptors,
        ),
        trial(
            "who_cannot_look_does_not_judge_a_start",
            who_cannot_look_does_not_judge_a_start,
        ),
        trial("a_full_disk_falsifies_no_end", a_full_disk_falsifies_no_end),
    ]
}

/// A script that obeys its stop word, and says so
const OBEDIENT: &str = "echo 'Done (1s)!'; read word; echo \"got $word\"; exit 0";

/// A daemon under a limit of open files: adopts, stops what it adopted in order, and prints what it sees
///
/// `limit` is a number for a hard limit from the start, or `adopt` for none left while it adopts the first time.
pub fn run(arguments: impl IntoIterator<Item = std::ffi::OsString>) -> ExitCode {
    let mut arguments = arguments
        .into_iter()
        .map(|argument| argument.into_string().unwrap());
    let (folder, limit) = (
        PathBuf::from(arguments.next().unwrap()),
        arguments.next().unwrap(),
    );
    if let Ok(limit) = limit.parse() {
        let limit = Some(limit);
        setrlimit(
            Resource::Nofile,
            Rlimit {
                current: limit,
                maximum: limit,
            },
        )
        .unwrap();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(scarce(folder, limit == "adopt"));
    runtime.shutdown_background();
    ExitCode::SUCCESS
}

async fn scarce(folder: PathBuf, is_refused: bool) {
    let (supervisor, mut reports) = Supervisor::new(settings(&folder)).unwrap();
    descriptors::raise_limit();
    if is_refused {
        let before = getrlimit(Resource::Nofile);
        let none = Rlimit {
            current: Some(3),
            maximum: before.maximum,
        };
        setrlimit(Resource::Nofile, none).unwrap();
        let refused = supervisor.adopt().await;
        setrlimit(Resource::Nofile, before).unwrap();
        println!("refused: {}", refused.unwrap_err());
    }
    let adopted = supervisor.adopt().await.unwrap();
    println!("adopted {}", adopted.len());
    for instance in &adopted {
        assert!(instance.is_running && instance.damage.is_none(), "{instance:?}");
        // Taken before the process is watched, or after; both must do.
        assert!(supervisor.stop(instance.facts.instance, false));
    }
    let mut left = adopted.len();
    while left > 0 {
        if let Event::Exited(exit) = reports.events.recv().await.unwrap() {
            println!("exited {:?} {:?}", exit.cause, exit.log_tail);
            assert!(supervisor.settle(exit.instance, exit.incarnation));
            left -= 1;
        }
    }
}

/// Runs the daemon above to its end and gives what it printed
async fn printed(folder: &Path, limit: &str) -> Vec<String> {
    let mut daemon = Command::new(std::env::current_exe().unwrap())
        .arg("role-scarce")
        .arg(folder)
        .arg(limit)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let stdout = BufReader::new(daemon.stdout.take().unwrap());
    let lines = tokio::task::spawn_blocking(|| stdout.lines().map(Result::unwrap).collect::<Vec<_>>());
    let lines = tokio::time::timeout(Duration::from_secs(120), lines).await;
    let mut daemon = KilledAtLast(daemon);
    let lines = lines.expect("the daemon ends").unwrap();
    assert!(daemon.0.wait().unwrap().success(), "{lines:?}");
    lines
}

struct KilledAtLast(Child);

impl Drop for KilledAtLast {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn with_instances(count: usize) -> Stage {
    let mut stage = Stage::new();
    for number in 1..=count {
        stage
            .start_script(facts(&format!("lobby-{number}"), free_port()), OBEDIENT)
            .await;
    }
    for _ in 0..count {
        stage.ready().await;
    }
    stage.supervisor.detach();
    stage
}

async fn few_descriptors_cost_no_instance_and_force_nobody() {
    let stage = with_instances(30).await;
    let lines = printed(stage.folder.path(), "40").await;
    assert_eq!(lines[0], "adopted 30", "{lines:?}");
    assert_eq!(lines.len(), 31);
    for line in &lines[1..] {
        assert_eq!(
            line, "exited Exited(0) [\"Done (1s)!\", \"got stop\"]",
            "{lines:?}"
        );
    }
    let names = fs::read_dir(stage.folder.path().join("run")).unwrap();
    for name in names {
        let name = name.unwrap().file_name();
        assert!(!name.to_str().unwrap().starts_with('.'), "{name:?}");
    }
}

async fn what_cannot_be_read_refuses_the_start_and_changes_nothing() {
    let stage = with_instances(3).await;
    let lines = printed(stage.folder.path(), "adopt").await;
    assert!(
        lines[0].starts_with("refused: ") && lines[0].contains("Too many open files"),
        "{lines:?}"
    );
    assert_eq!(lines[1], "adopted 3", "{lines:?}");
    assert!(
        lines[2..].iter().all(|line| line.starts_with("exited Exited(0)")),
        "{lines:?}"
    );
}

async fn an_instance_starts_with_the_limit_of_before() {
    let before = descriptors::raise_limit().before;
    let mut stage = Stage::new();
    stage
        .start_script(facts("lobby-1", free_port()), "ulimit -n; ulimit -Hn")
        .await;
    let exit = stage.exit().await;
    let limit = getrlimit(Resource::Nofile);
    let text = |limit: Option<u64>| limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string());
    assert_eq!(exit.log_tail, [text(before), text(limit.maximum)]);
    assert_eq!(
        limit.current, limit.maximum,
        "the daemon itself has what there is"
    );
}

async fn an_instance_takes_two_descriptors() {
    let folder = tempfile::tempdir().unwrap();
    // A process of its own: the others of this one open and close files all the time.
    let output = Command::new(std::env::current_exe().unwrap())
        .arg("role-count")
        .arg(folder.path())
        .output()
        .unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    let per_instance = descriptors::PER_INSTANCE;
    assert_eq!(
        told.trim(),
        format!("{per_instance} each"),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Counts what ten instances take that run and whose consoles are read
pub fn count(folder: PathBuf) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut stage = Stage::with(|settings| settings.run_folder = folder.join("run"));
        stage.open_consoles();
        let open = || fs::read_dir("/proc/self/fd").unwrap().count();
        let before = open();
        for number in 1..=10 {
            stage
                .start_script(facts(&format!("lobby-{number}"), free_port()), OBEDIENT)
                .await;
        }
        let mut ready = 0;
        while ready < 10 {
            ready += usize::from(matches!(stage.event().await, Event::Ready { .. }));
        }
        // What a start needs is given back soon.
        let enough = before + 10 * usize::try_from(descriptors::PER_INSTANCE).unwrap();
        until("few open files", || (open() <= enough).then_some(())).await;
        println!("{} each", (open() - before).div_ceil(10));
        for number in 1..=10 {
            stage
                .supervisor
                .stop(format!("lobby-{number}").parse().unwrap(), true);
        }
        for _ in 0..10 {
            stage.exit().await;
        }
    });
    ExitCode::SUCCESS
}

async fn who_cannot_look_does_not_judge_a_start() {
    let output = Command::new(std::env::current_exe().unwrap())
        .arg("role-starve")
        .output()
        .unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(told.trim(), "ready once it could be read", "{errors}");
}

/// An instance whose time to start is over while there is no descriptor to read its console with
pub fn starve() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut stage = Stage::new();
        let mut facts = facts("lobby-1", free_port());
        facts.startup_timeout = Duration::from_secs(2);
        let script = "read word; echo 'Done (1s)!'; read word; exit 0";
        stage.start_script(facts, script).await;
        let mut stdin = fs::File::options()
            .write(true)
            .open(only_control(stage.folder.path()).stdin())
            .unwrap();
        let limit = getrlimit(Resource::Nofile);
        let few = Rlimit {
            current: Some(64),
            ..limit
        };
        setrlimit(Resource::Nofile, few).unwrap();
        let mut taken = Vec::new();
        while let Ok(file) = fs::File::open("/dev/null") {
            taken.push(file);
        }
        stdin.write_all(b"go\n").unwrap();
        // Twice its time to start.
        let early = tokio::time::timeout(Duration::from_secs(4), stage.event()).await;
        assert!(early.is_err(), "it is judged: {early:?}");
        drop(taken);
        setrlimit(Resource::Nofile, limit).unwrap();
        stage.ready().await;
        println!("ready once it could be read");
        stage.supervisor.stop("lobby-1".parse().unwrap(), true);
        stage.exit().await;
    });
    ExitCode::SUCCESS
}

/// The control folders on a file system that is full by the time that the instances end
///
/// That takes a mount: in a namespace of its own, so that nobody else sees it and nothing stays of it.
async fn a_full_disk_falsifies_no_end() {
    let folder = tempfile::tempdir().unwrap();
    let ran = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c"])
        .arg("mount -t tmpfs -o size=2m tmpfs \"$1\" && exec \"$2\" role-full \"$1\"")
        .arg("sh")
        .arg(folder.path())
        .arg(std::env::current_exe().unwrap())
        .output()
        .unwrap();
    let (said, error) = (
        String::from_utf8_lossy(&ran.stdout),
        String::from_utf8_lossy(&ran.stderr),
    );
    if !ran.status.success() && !said.contains("mounted") {
        eprintln!("no file system can be mounted here, so none can be full: {error}");
        return;
    }
    assert_eq!(said.lines().last(), Some("all ends are true"), "{said}\n{error}");
}

pub fn full(folder: PathBuf) -> ExitCode {
    println!("mounted");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut stage = Stage::with(|settings| settings.run_folder = folder.join("run"));
        let codes = [0, 3];
        for code in codes {
            let script = format!("echo 'Done (1s)!'; read word; exit {code}");
            stage
                .start_script(facts(&format!("lobby-{code}"), free_port()), &script)
                .await;
            stage.ready().await;
        }
        let mut controls: Vec<_> = fs::read_dir(folder.join("run"))
            .unwrap()
            .map(|entry| ControlDir::new(entry.unwrap().path()))
            .collect();
        controls.sort_by_key(|control| control.path().to_path_buf());
        fill(&folder);
        // One is stopped, the other one ends by itself; the daemon is gone by then.
        assert!(stage.supervisor.stop("lobby-0".parse().unwrap(), false));
        fs::write(controls[1].stdin(), "go\n").unwrap();
        stage.supervisor.detach();
        for control in &controls {
            let running = control.read_state().unwrap().unwrap();
            until_gone(&running.shim).await;
        }
        // However often the daemon comes and goes, the ends are the same.
        for _ in 0..3 {
            let mut settings = settings(stage.folder.path());
            settings.run_folder = folder.join("run");
            let (supervisor, mut reports) = Supervisor::new(settings).unwrap();
            assert_eq!(supervisor.adopt().await.unwrap().len(), 2);
            let mut ends = Vec::new();
            while ends.len() < 2 {
                if let Event::Exited(exit) = reports.events.recv().await.unwrap() {
                    ends.push((exit.instance.to_string(), exit.cause.clone(), exit.is_crash()));
                }
            }
            ends.sort_by_key(|(instance, ..)| instance.clone());
            assert_eq!(
                ends,
                [
                    ("lobby-0".to_owned(), ExitCause::Exited(0), false),
                    ("lobby-3".to_owned(), ExitCause::Exited(3), true)
                ]
            );
            supervisor.detach();
        }
        // They can be let go of, too: the next daemon finds nothing of them.
        let mut settings = settings(stage.folder.path());
        settings.run_folder = folder.join("run");
        let (supervisor, mut reports) = Supervisor::new(settings.clone()).unwrap();
        assert_eq!(supervisor.adopt().await.unwrap().len(), 2);
        let mut settled = 0;
        while settled < 2 {
            match reports.events.recv().await.unwrap() {
                Event::Exited(exit) => assert!(supervisor.settle(exit.instance, exit.incarnation)),
                Event::Settled { .. } => settled += 1,
                _ => {}
            }
        }
        supervisor.detach();
        let (supervisor, _reports) = Supervisor::new(settings).unwrap();
        assert!(supervisor.adopt().await.unwrap().is_empty());
        println!("all ends are true");
    });
    runtime.shutdown_background();
    ExitCode::SUCCESS
}

fn fill(folder: &Path) {
    use std::io::Write as _;
    let mut file = fs::File::create(folder.join("filler")).unwrap();
    for size in [4096, 1] {
        while file.write_all(&vec![b'x'; size]).is_ok() {}
    }
    assert!(fs::write(folder.join("more"), "x").is_err(), "the disk is full");
}
