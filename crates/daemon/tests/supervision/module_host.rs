//! Hosts of modules as real processes, most of them bad ones

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use libtest_mimic::Trial;
use prexorcloud_daemon::modules::host::machine::{Greeting, ModuleState, Patience, Report};
use prexorcloud_daemon::modules::host::{CONSOLE_FILE, Host, HostSettings, News, Tell};

use super::stage::{PATIENCE, spec, this_executable, until, until_gone, written_process};
use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial(
            "the_sample_module_prints_an_event_in_its_host",
            the_sample_module_prints_an_event,
        ),
        trial(
            "a_host_that_ends_at_once_has_failed",
            a_host_that_ends_at_once_has_failed,
        ),
        trial(
            "a_host_that_is_never_ready_is_killed",
            a_host_that_is_never_ready_is_killed,
        ),
        trial(
            "a_host_that_writes_garbage_is_killed",
            a_host_that_writes_garbage_is_killed,
        ),
        trial(
            "a_host_that_hangs_at_its_stop_is_killed_with_its_children",
            a_host_that_hangs_at_its_stop_is_killed_with_its_children,
        ),
        trial("a_flood_of_a_host_is_bounded", a_flood_of_a_host_is_bounded),
        trial("a_host_beyond_its_memory_ends", a_host_beyond_its_memory_ends),
        trial(
            "a_host_that_does_not_read_is_told_of_the_gap",
            a_host_that_does_not_read_is_told_of_the_gap,
        ),
        trial(
            "a_burst_of_events_comes_whole_and_in_order",
            a_burst_of_events_comes_whole_and_in_order,
        ),
        trial(
            "a_host_that_crashes_hears_what_it_missed",
            a_host_that_crashes_hears_what_it_missed,
        ),
        trial(
            "a_host_that_crashes_is_started_again",
            a_host_that_crashes_is_started_again,
        ),
        trial(
            "a_host_that_hangs_while_it_works_is_started_again",
            a_host_that_hangs_while_it_works_is_started_again,
        ),
        trial("a_killed_daemon_leaves_no_host", a_killed_daemon_leaves_no_host),
    ]
}

const READY: &str = r#"read hello; echo '{"type":"ready","protocol":1}'; read start;"#;
const ANSWERING: &str = r#"read hello; echo '{"type":"ready","protocol":1,"pings":true}'; read start;"#;
const ACTIVE: &str = r#"echo '{"type":"state","state":"ACTIVE"}';"#;

fn settings(folder: &Path, script: &str) -> HostSettings {
    HostSettings {
        shim: this_executable("role-shim"),
        folder: folder.to_path_buf(),
        spec: spec("/bin/sh", &["-c", script], &folder.join("data")),
        memory: None,
        greeting: Greeting {
            module: "m".into(),
            version: "1.0.0".into(),
            node: "node-1".into(),
            folder: folder.join("data").to_str().unwrap().to_owned(),
        },
        patience: Patience {
            ready: Duration::from_secs(20),
            stop: PATIENCE,
            first_pause: Duration::from_millis(10),
            ..Patience::default()
        },
        proven: false,
    }
}

#[derive(Default, Clone)]
struct Heard(Arc<Mutex<Vec<News>>>);

impl Heard {
    fn tell(&self) -> Tell {
        let heard = self.clone();
        Arc::new(move |news| heard.0.lock().unwrap().push(news))
    }

    fn states(&self) -> Vec<Report> {
        let news = self.0.lock().unwrap();
        let state = |news: &News| match news {
            News::State(report) => Some(report.clone()),
            News::Listen(_) => None,
        };
        news.iter().filter_map(state).collect()
    }

    async fn state(&self, state: ModuleState) -> Report {
        until("a state", || {
            self.states()
                .into_iter()
                .rev()
                .find(|report| report.state == state)
        })
        .await
    }
}

async fn console_has(folder: &Path, text: &str) {
    until("a line of the console", || {
        let console = std::fs::read_to_string(folder.join(CONSOLE_FILE)).ok()?;
        console.contains(text).then_some(())
    })
    .await;
}

fn start(settings: HostSettings) -> (Host, Heard) {
    let heard = Heard::default();
    (Host::start(settings, heard.tell()).unwrap(), heard)
}

async fn fails(settings: HostSettings, with: &str) {
    let (host, heard) = start(settings);
    let report = host.settled().await;
    assert_eq!(report.state, ModuleState::Failed);
    assert!(report.error.contains(with), "{}", report.error);
    host.stop().await;
    assert_eq!(heard.states(), [report]);
}

async fn the_sample_module_prints_an_event() {
    const EVENT: &str = "me.prexorjustin.prexorcloud.api.event.events.InstanceStateChangedEvent";
    let folder = tempfile::tempdir().unwrap();
    let mut settings = settings(folder.path(), "");
    let jar = Path::new(env!("CARGO_MANIFEST_DIR")).join("../prexorcloud/assets/sample-module.jar");
    let class = "me.prexorjustin.prexorcloud.module.sample.SampleModule";
    settings.spec.program = "java".into();
    settings.spec.arguments = vec![
        "-Xmx32m".into(),
        "-cp".into(),
        jar.to_str().unwrap().into(),
        class.into(),
    ];
    let (host, heard) = start(settings);
    let report = host.settled().await;
    assert_eq!((report.state, report.error.as_str()), (ModuleState::Active, ""));
    let listens = News::Listen(BTreeSet::from([EVENT.to_owned()]));
    assert!(heard.0.lock().unwrap().contains(&listens));
    host.event(
        EVENT,
        b"{\"instanceId\": \"lobby-\\u00fc\",\n \"n\": [1, {}]}"[..].into(),
        7,
    );
    console_has(
        folder.path(),
        "#7 {\"instanceId\": \"lobby-\\u00fc\",  \"n\": [1, {}]}",
    )
    .await;
    // A Java controller has no numbers.
    host.event(EVENT, b"{}"[..].into(), 0);
    console_has(folder.path(), "#0 {}").await;
    host.stop().await;
    console_has(folder.path(), "says goodbye").await;
    heard.state(ModuleState::Stopping).await;
    // Another version may listen next, and is told what came meanwhile.
    assert!(!heard.0.lock().unwrap().contains(&News::Listen(BTreeSet::new())));
}

async fn a_host_that_ends_at_once_has_failed() {
    let folder = tempfile::tempdir().unwrap();
    fails(
        settings(folder.path(), "echo no room >&2; exit 7"),
        "exit code 7; it said at last: no room",
    )
    .await;
    let mut settings = settings(folder.path(), "");
    settings.spec.program = "/no/such/program".into();
    fails(settings, "it cannot be executed").await;
}

async fn a_host_that_is_never_ready_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = settings(folder.path(), "echo $$ > pid; sleep 1000");
    settings.patience.ready = Duration::from_millis(300);
    fails(settings, "not ready within 0.3 s").await;
    let process = folder.path().join("data/pid");
    if process.exists() {
        let pid: i32 = std::fs::read_to_string(process).unwrap().trim().parse().unwrap();
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }
}

async fn a_host_that_writes_garbage_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    fails(settings(folder.path(), "yes"), "32 lines that are no messages").await;
    let endless = "head -c 10000000 /dev/zero; sleep 1000";
    let mut settings = settings(folder.path(), endless);
    settings.patience.mistakes = 1;
    fails(settings, "a line of more than 65536 bytes").await;
}

async fn a_host_that_hangs_at_its_stop_is_killed_with_its_children() {
    let folder = tempfile::tempdir().unwrap();
    let script = format!(
        "trap '' TERM; {READY} {ACTIVE} setsid sleep 1000 & echo $! > child; echo $$ > pid; while :; do sleep 1000; done"
    );
    let mut settings = settings(folder.path(), &script);
    settings.patience.stop = Duration::from_millis(100);
    let (host, heard) = start(settings);
    let child = written_process(&folder.path().join("data/child")).await;
    let process = written_process(&folder.path().join("data/pid")).await;
    heard.state(ModuleState::Active).await;
    host.stop().await;
    for process in [process, child] {
        assert!(!process.is_running().unwrap());
    }
    assert_eq!(heard.states().last().unwrap().state, ModuleState::Stopping);
}

async fn a_flood_of_a_host_is_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let script = format!(
        "{READY} {ACTIVE} yes 'all work and no play' | head -c 50000000 >&2; echo '{{\"type\":\"subscribe\",\"event_types\":[\"a.B\"]}}'; read stop"
    );
    let (host, heard) = start(settings(folder.path(), &script));
    // It has not been held up.
    until("the end of the flood", || {
        heard
            .0
            .lock()
            .unwrap()
            .iter()
            .any(|news| matches!(news, News::Listen(_)))
            .then_some(())
    })
    .await;
    host.stop().await;
    let size: u64 = std::fs::read_dir(folder.path())
        .unwrap()
        .flatten()
        .filter(|entry| entry.file_name().to_str().unwrap().starts_with("console"))
        .map(|entry| entry.metadata().unwrap().len())
        .sum();
    assert!(size < 3 * 1024 * 1024, "{size}");
}

async fn a_host_beyond_its_memory_ends() {
    let folder = tempfile::tempdir().unwrap();
    let script = "x=$(head -c 300000000 /dev/zero | tr '\\0' x); sleep 1000";
    let mut limited = settings(folder.path(), script);
    limited.memory = Some(64 * 1024 * 1024);
    fails(limited, "its host has ended before it was ready").await;
}

async fn a_host_that_does_not_read_is_told_of_the_gap() {
    let folder = tempfile::tempdir().unwrap();
    let script = format!(
        "{READY} {ACTIVE} while [ ! -e go ]; do sleep 0.05; done; grep -m1 '\"gap\"' >&2; grep -m1 stop"
    );
    let (host, heard) = start(settings(folder.path(), &script));
    heard.state(ModuleState::Active).await;
    let payload = bytes(1024 * 1024);
    for _ in 0..200 {
        host.event("a.B", payload.clone(), 0);
    }
    std::fs::write(folder.path().join("data/go"), "").unwrap();
    // What comes when there is room again shows what was left out.
    until("the gap", || {
        host.event("a.B", b"{}"[..].into(), 0);
        let console = std::fs::read_to_string(folder.path().join(CONSOLE_FILE)).ok()?;
        console.contains("\"missed\":").then_some(())
    })
    .await;
    host.stop().await;
}

/// As after a time in which the daemon was away
async fn a_burst_of_events_comes_whole_and_in_order() {
    const EVENTS: u64 = 5000;
    let folder = tempfile::tempdir().unwrap();
    let script = format!("{READY} {ACTIVE} head -n {} >got; echo all >&2", EVENTS + 1);
    let (host, heard) = start(settings(folder.path(), &script));
    heard.state(ModuleState::Active).await;
    for sequence in 1..=EVENTS {
        host.event("a.B", b"{}"[..].into(), sequence);
    }
    host.lose(7);
    console_has(folder.path(), "all").await;
    let got = std::fs::read_to_string(folder.path().join("data/got")).unwrap();
    let event =
        |sequence| format!(r#"{{"type":"event","event_type":"a.B","sequence":{sequence},"payload":{{}}}}"#);
    let mut expected: Vec<String> = (1..=EVENTS).map(event).collect();
    expected.push(r#"{"type":"gap","missed":7}"#.to_owned());
    assert!(got.lines().eq(expected), "{got:.2000}");
    host.stop().await;
}

fn bytes(length: usize) -> bytes::Bytes {
    format!("\"{}\"", "x".repeat(length)).into()
}

async fn a_host_that_crashes_hears_what_it_missed() {
    let folder = tempfile::tempdir().unwrap();
    // The first process ends when told to; the second one says what it hears.
    let script = format!(
        "if [ -e second ]; then {READY} {ACTIVE} read line; echo \"$line\" >&2; read line; else touch second; {READY} {ACTIVE} while [ ! -e go ]; do sleep 0.05; done; fi"
    );
    let (host, heard) = start(HostSettings {
        patience: Patience {
            first_pause: Duration::from_secs(2),
            ..settings(folder.path(), "").patience
        },
        ..settings(folder.path(), &script)
    });
    heard.state(ModuleState::Active).await;
    // It does not read this one; what comes while nothing runs is missed as well.
    host.event("a.B", b"{}"[..].into(), 1);
    std::fs::write(folder.path().join("data/go"), "").unwrap();
    heard.state(ModuleState::Waiting).await;
    host.event("a.B", b"{}"[..].into(), 2);
    host.lose(3);
    until("the second process", || {
        (heard
            .states()
            .iter()
            .filter(|report| report.state == ModuleState::Active)
            .count()
            == 2)
            .then_some(())
    })
    .await;
    host.event("a.B", b"{}"[..].into(), 3);
    // The first was written to a process that had not read it: whether it counts as missed is not known.
    console_has(folder.path(), r#"{"type":"gap","missed":4}"#).await;
    host.stop().await;
}

async fn a_host_that_crashes_is_started_again() {
    let folder = tempfile::tempdir().unwrap();
    let script = format!("{READY} {ACTIVE} echo x >> starts; exit 1");
    let (host, heard) = start(settings(folder.path(), &script));
    let report = heard.state(ModuleState::Failed).await;
    assert!(
        report.error.starts_with("given up after 5 failures in a row"),
        "{}",
        report.error
    );
    assert_eq!(
        std::fs::read_to_string(folder.path().join("data/starts")).unwrap(),
        "x\n".repeat(5)
    );
    let words: Vec<_> = heard.states().iter().map(|report| report.state).collect();
    let (active, waiting) = (ModuleState::Active, ModuleState::Waiting);
    assert_eq!(
        words,
        [
            active,
            waiting,
            active,
            waiting,
            active,
            waiting,
            active,
            waiting,
            active,
            ModuleState::Failed
        ]
    );
    host.stop().await;
}

/// Hosts a module until it is killed
pub fn run(mut arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let folder = std::path::PathBuf::from(arguments.next().expect("a folder"));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let script =
            format!("{READY} {ACTIVE} setsid sleep 1000 & echo $! > child; echo $$ > pid; sleep 1000");
        let host = Host::start(settings(&folder, &script), Arc::new(|_| {})).expect("a host");
        host.settled().await;
        std::future::pending().await
    })
}

async fn a_killed_daemon_leaves_no_host() {
    let folder = tempfile::tempdir().unwrap();
    let mut daemon = Command::new(std::env::current_exe().unwrap())
        .arg("role-module-host")
        .arg(folder.path())
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let child = written_process(&folder.path().join("data/child")).await;
    let process = written_process(&folder.path().join("data/pid")).await;
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    until_gone(&process).await;
    until_gone(&child).await;
    // The next one is not in its way.
    let (host, heard) = start(settings(folder.path(), &format!("{READY} {ACTIVE} read stop")));
    heard.state(ModuleState::Active).await;
    host.stop().await;
}

async fn a_host_that_hangs_while_it_works_is_started_again() {
    let folder = tempfile::tempdir().unwrap();
    // It answers one ping, and then nothing more.
    let answer = r#"read ping; echo '{"type":"pong","number":1}'; echo answered >&2; exec sleep 1000"#;
    let mut settings = settings(folder.path(), &format!("{ANSWERING} {ACTIVE} {answer}"));
    settings.patience.ping = Duration::from_millis(20);
    settings.patience.pong = Duration::from_millis(200);
    let (host, heard) = start(settings);
    assert_eq!(host.settled().await.state, ModuleState::Active);
    console_has(folder.path(), "answered").await;
    let waiting = heard.state(ModuleState::Waiting).await;
    assert!(waiting.error.contains("it hangs"), "{}", waiting.error);
    until("the next one", || {
        let active = |report: &&Report| report.state == ModuleState::Active;
        (heard.states().iter().filter(active).count() >= 2).then_some(())
    })
    .await;
    host.stop().await;
}
