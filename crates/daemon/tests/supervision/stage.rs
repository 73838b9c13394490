//! A temporary folder, a supervisor in it, and ways to wait for facts

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use prexorcloud_daemon::control::{ControlDir, LaunchSpec};
use prexorcloud_daemon::process::{Identity, kill_tree};
use prexorcloud_daemon::supervisor::{
    ConsoleBatch, Event, Exit, InstanceFacts, Receiver, Reports, Settings, ShimCommand, Supervisor,
};
use prexorcloud_protocol::Incarnation;
use prexorcloud_protocol::readiness::Rule;
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

/// Longer than anything takes on a loaded machine; only a failure waits this long
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Stage {
    pub folder: TempDir,
    pub supervisor: Supervisor,
    pub reports: Reports,
    pub console: Vec<(u64, String)>,
    /// What instances were waiting for, on their way to ready
    pub waiting: Vec<String>,
}

impl Stage {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = settings(folder.path());
        change(&mut settings);
        let (supervisor, reports) = Supervisor::new(settings).unwrap();
        Self {
            folder,
            supervisor,
            reports,
            console: Vec::new(),
            waiting: Vec::new(),
        }
    }

    pub fn workspace(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join("instances").join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    /// Starts a shell script as an instance
    pub async fn start_script(&self, facts: InstanceFacts, script: &str) {
        let workspace = self.workspace(facts.instance.as_str());
        let spec = spec("/bin/sh", &["-c", script], &workspace);
        self.supervisor.start(facts, spec).await.unwrap();
    }

    pub async fn start_standin(&self, facts: InstanceFacts) {
        let workspace = self.workspace(facts.instance.as_str());
        let spec = standin(facts.port, &workspace);
        self.supervisor.start(facts, spec).await.unwrap();
    }

    /// The next event that is more than waiting, while console lines are collected
    pub async fn event(&mut self) -> Event {
        let wait = async {
            loop {
                tokio::select! {
                    event = self.reports.events.recv() => match event.unwrap() {
                        Event::Waiting { waiting, .. } => self.waiting.push(waiting),
                        event => return event,
                    },
                    batch = self.reports.consoles.recv() => {
                        let batch = batch.unwrap();
                        self.keep(batch);
                    }
                }
            }
        };
        timeout(PATIENCE, wait).await.expect("no event")
    }

    pub async fn ready(&mut self) {
        let event = self.event().await;
        assert!(matches!(event, Event::Ready { .. }), "{event:?}");
    }

    /// Waits until the instance says that it waits for this
    pub async fn waits_for(&mut self, text: &str) {
        let wait = async {
            while !self.waiting.iter().any(|waiting| waiting == text) {
                match self.reports.events.recv().await.unwrap() {
                    Event::Waiting { waiting, .. } => self.waiting.push(waiting),
                    event => panic!("{event:?}"),
                }
            }
        };
        timeout(PATIENCE, wait)
            .await
            .unwrap_or_else(|_| panic!("{text:?} is not among {:?}", self.waiting));
    }

    /// The end of the instance, whatever is told before; it is settled
    pub async fn exit(&mut self) -> Box<Exit> {
        loop {
            if let Event::Exited(exit) = self.event().await {
                assert!(self.supervisor.settle(exit.instance, exit.incarnation));
                return exit;
            }
        }
    }

    /// Waits until a console line contains `text`; consoles must be open
    pub async fn line(&mut self, text: &str) -> String {
        let mut looked = 0;
        let wait = async {
            loop {
                if let Some((_, line)) = self.console[looked..]
                    .iter()
                    .find(|(_, line)| line.contains(text))
                {
                    return line.clone();
                }
                looked = self.console.len();
                let batch = self.reports.consoles.recv().await.unwrap();
                self.keep(batch);
            }
        };
        timeout(PATIENCE, wait)
            .await
            .unwrap_or_else(|_| panic!("no line with {text:?}"))
    }

    pub fn open_consoles(&self) {
        self.supervisor.open_consoles(1, Receiver::Numbered);
    }

    /// Takes the lines; they have arrived
    fn keep(&mut self, batch: ConsoleBatch) {
        let (instance, incarnation) = (batch.instance, batch.incarnation);
        let last = batch.lines.last().unwrap().sequence;
        self.console
            .extend(batch.lines.iter().map(|line| (line.sequence, line.text.clone())));
        batch.accept();
        self.supervisor.console_arrived(instance, incarnation, last);
    }

    /// The control folder of the only instance
    pub fn control(&self) -> ControlDir {
        only_control(self.folder.path())
    }
}

/// A test that fails leaves no process behind
impl Drop for Stage {
    fn drop(&mut self) {
        for entry in std::fs::read_dir(self.folder.path().join("run"))
            .into_iter()
            .flatten()
            .flatten()
        {
            if let Ok(Some(running)) = ControlDir::new(entry.path()).read_state() {
                let _ = kill_tree(&running.main, true);
            }
        }
    }
}

pub fn only_control(folder: &Path) -> ControlDir {
    let folders: Vec<_> = std::fs::read_dir(folder.join("run"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert_eq!(folders.len(), 1, "{folders:?}");
    ControlDir::new(folders[0].clone())
}

pub fn this_executable(role: &str) -> ShimCommand {
    ShimCommand {
        program: std::env::current_exe().unwrap(),
        arguments: vec![role.to_owned()],
    }
}

pub fn settings(folder: &Path) -> Settings {
    let mut settings = Settings::new(folder.join("run"), this_executable("role-shim"));
    settings.kill_timeout = Duration::from_millis(500);
    settings
}

pub fn facts(id: &str, port: u16) -> InstanceFacts {
    InstanceFacts {
        instance: id.parse().unwrap(),
        group: "lobby".parse().unwrap(),
        incarnation: Incarnation::new(7),
        port,
        stop_command: "stop".into(),
        readiness: Rule::Unknown,
        startup_timeout: PATIENCE,
        grace: PATIENCE,
        max_lifetime: None,
        ephemeral_folder: None,
    }
}

pub fn spec(program: &str, arguments: &[&str], workspace: &Path) -> LaunchSpec {
    let path = std::env::var("PATH").unwrap();
    LaunchSpec {
        program: program.into(),
        arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
        environment: BTreeMap::from([("PATH".to_owned(), path)]),
        working_folder: workspace.to_path_buf(),
    }
}

pub fn standin(port: u16, workspace: &Path) -> LaunchSpec {
    let program = std::env::current_exe().unwrap();
    let port = port.to_string();
    spec(
        program.to_str().unwrap(),
        &["role-standin", "--port", &port, "--nogui"],
        workspace,
    )
}

pub fn demo_jar() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../prexorcloud/assets/demo-server.jar")
}

/// A port that nothing listens on now
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// Waits until `fact` gives something
pub async fn until<T>(what: &str, mut fact: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = fact() {
            return value;
        }
        assert!(Instant::now() < deadline, "{what} did not come true");
        sleep(Duration::from_millis(5)).await;
    }
}

/// A process that a script wrote the id of into a file
pub async fn written_process(path: &Path) -> Identity {
    until("a process id", || {
        let text = std::fs::read_to_string(path).ok()?;
        let pid = rustix::process::Pid::from_raw(text.strip_suffix('\n')?.parse().ok()?)?;
        Identity::of(pid).ok()
    })
    .await
}

pub async fn until_gone(process: &Identity) {
    until("the end of a process", || {
        (!process.is_running().unwrap()).then_some(())
    })
    .await;
}
