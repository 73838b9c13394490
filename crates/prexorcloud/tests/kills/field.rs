//! A cluster on which moments are lived through, one after the other

#[path = "kept.rs"]
mod kept;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use prexorcloud_controller::content::{Content as Blobs, FolderBlobs};
use prexorcloud_controller::store::{SqliteOptions, SqliteStore, Store};
use prexorcloud_controller::templates::Templates;
use prexorcloud_security::seal::SealingKey;
use serde_json::Value;

use crate::content::{Content, KEPT, NAMES};
use crate::moment::{Kill, Moment, Victim, Work};
use crate::remains;
use crate::rig::{LIMIT, Ran, Rig, eventually};

/// After so many moments the controller's blobs are collected
const COLLECTED_AFTER: u64 = 20;

/// How long something half-made may still be there after a start that succeeded
const TIDY_WITHIN: Duration = Duration::from_secs(10);

/// What a daemon says of each artifact that has come
const FETCHED: &str = "a template was fetched";

/// How long each work takes when nobody is killed
struct Times {
    push: Duration,
    transfer: Duration,
    preparation: Duration,
    /// Of the static one
    kept: Duration,
}

pub struct Field {
    rig: Rig,
    large: Content,
    many: Content,
    /// What the static server gets at its next start
    kept: Content,
    times: Times,
    starts: u64,
    moments: u64,
    /// Blobs that were seen to be what they are called
    intact: BTreeSet<String>,
}

/// What became of a start
enum Outcome {
    Running {
        port: u64,
    },
    /// Why, and its port
    Ended(String, u64),
    Unknown,
}

impl Field {
    pub fn new(mebibytes: u64) -> Self {
        let mut rig = Rig::new();
        // A daemon that finds no Java does not ask it for its version at each of its starts.
        rig.environment = vec![("PATH", "/nowhere"), ("JAVA_HOME", "/nowhere")];
        rig.start_controller();
        rig.configure_daemon(&rig.token(&["--node", "node-1"]));
        rig.start_daemon();
        rig.await_node("ONLINE");
        let large = Content::large(&rig.path(NAMES[0]), mebibytes);
        let many = Content::many(&rig.path(NAMES[1]), 0);
        let kept = Content::kept(&rig.path(KEPT), 0);
        let mut field = Self {
            rig,
            large,
            many,
            kept,
            times: Times {
                push: Duration::ZERO,
                transfer: Duration::ZERO,
                preparation: Duration::ZERO,
                kept: Duration::ZERO,
            },
            starts: 0,
            moments: 0,
            intact: BTreeSet::new(),
        };
        for name in NAMES.into_iter().chain([KEPT]) {
            assert_eq!(field.rig.ctl(&["template", "create", name]).code, 0);
        }
        field.times.push = field.measure(|field| {
            for name in NAMES {
                let pushed = finished(field.push(name));
                assert!(pushed.code == 0, "{pushed:?}");
            }
        });
        field.times.transfer = field.measure(Self::start_undisturbed);
        field.stop_all();
        field.times.preparation = field.measure(Self::start_undisturbed);
        field.stop_all();
        let fetched = field.rig.log_text("daemon").matches(FETCHED).count();
        assert_eq!(fetched, NAMES.len(), "templates travel as artifacts");
        field.keep_a_server();
        println!(
            "undisturbed: a push takes {} ms, a start with a transfer {} ms, one from the cache {} ms, a static one {} ms",
            field.times.push.as_millis(),
            field.times.transfer.as_millis(),
            field.times.preparation.as_millis(),
            field.times.kept.as_millis()
        );
        field
    }

    fn measure(&mut self, mut work: impl FnMut(&mut Self)) -> Duration {
        let begun = Instant::now();
        work(self);
        begun.elapsed()
    }

    /// Lives through a moment; gives what came of the work, and what is wrong
    pub fn live_through(&mut self, moment: &Moment) -> (String, Vec<String>) {
        let mut wrong = Vec::new();
        let outcome = match moment.work {
            Work::Push => self.push_disturbed(moment),
            Work::Transfer => {
                self.forget_templates();
                self.start_disturbed(moment, self.times.transfer, &mut wrong)
            }
            Work::Preparation => self.start_disturbed(moment, self.times.preparation, &mut wrong),
            Work::Static => self.static_disturbed(moment, &mut wrong),
        };
        // Whatever came of it, the next start is none the worse.
        let before = wrong.len();
        let (id, port) = self.started_undisturbed();
        wrong.extend(self.wrong_files(&id, port));
        if wrong.len() == before {
            wrong.extend(self.left_half_made());
            wrong.extend(remains::wrong_in_cache(&self.rig.path("daemon")));
            wrong.extend(self.lost_blobs(&self.referenced()));
        }
        self.stop_all();
        self.moments += 1;
        if wrong.is_empty() && self.moments.is_multiple_of(COLLECTED_AFTER) {
            wrong.extend(self.collect());
        }
        (outcome, wrong)
    }

    fn push_disturbed(&mut self, moment: &Moment) -> String {
        self.many = Content::many(&self.rig.path(NAMES[1]), moment.seed);
        let push = self.push(NAMES[1]);
        self.kill(moment.first, self.times.push);
        let first = finished(push);
        if let Some(second) = moment.second {
            self.kill(second, self.times.push);
        }
        self.rig.await_node("ONLINE");
        // What was published stays so. What was not is pushed again, or given up for something else: then nobody needs its blobs.
        let is_given_up = first.code != 0 && moment.seed.is_multiple_of(2);
        if is_given_up {
            self.many = Content::many(&self.rig.path(NAMES[1]), !moment.seed);
        }
        let again = finished(self.push(NAMES[1]));
        assert!(again.code == 0, "a push after a broken one: {again:?}");
        match first.code {
            0 => "published".to_owned(),
            _ if is_given_up => "broken, and another pushed".to_owned(),
            _ => "broken, and pushed again".to_owned(),
        }
    }

    fn start_disturbed(&mut self, moment: &Moment, time: Duration, wrong: &mut Vec<String>) -> String {
        let starts: Vec<_> = (0..moment.starts).map(|_| self.order()).collect();
        self.kill(moment.first, time);
        let ordered: Vec<_> = starts
            .into_iter()
            .map(|(id, start)| (id, finished(start)))
            .collect();
        if let Some(second) = moment.second {
            self.kill(second, time);
        }
        self.rig.await_node("ONLINE");
        let mut came = (0, 0, 0);
        for (id, ran) in ordered {
            match self.outcome(&id) {
                Outcome::Running { port } => {
                    came.0 += 1;
                    wrong.extend(self.wrong_files(&id, port));
                }
                Outcome::Ended(error, _) => {
                    came.1 += 1;
                    if error.is_empty() {
                        wrong.push(format!("{id} has ended and does not say why"));
                    }
                }
                Outcome::Unknown => {
                    came.2 += 1;
                    if ran.code == 0 {
                        wrong.push(format!("{id} was ordered, and the controller does not know it"));
                    }
                }
            }
        }
        let (running, ended, unknown) = came;
        format!("{running} running, {ended} ended, {unknown} never ordered")
    }

    /// Kills after a part of the time that the work takes, and starts whom it killed again
    fn kill(&mut self, kill: Kill, time: Duration) {
        // Not to wait for anything: the moment is the test.
        std::thread::sleep(kill.after(time));
        let (daemon, controller) = match kill.victim {
            Victim::Daemon => (true, false),
            Victim::Controller => (false, true),
            Victim::Both => (true, true),
        };
        if daemon {
            self.rig.kill_daemon();
        }
        if controller {
            self.rig.kill_controller();
            self.rig.start_controller();
        }
        if daemon {
            self.rig.start_daemon();
        }
    }

    /// `prexorctl`, and nobody waits for it
    fn ctl(&self, arguments: &[&str]) -> Child {
        let token = self.rig.path("controller/admin.token");
        let line = self.rig.ctl_command(arguments);
        let mut command = line
            .args(["--token-file", token.to_str().unwrap()])
            .into_command();
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    }

    fn push(&self, name: &str) -> Child {
        let folder = self.rig.path(name);
        self.ctl(&["template", "push", folder.to_str().unwrap()])
    }

    fn order(&mut self) -> (String, Child) {
        self.starts += 1;
        let id = format!("kills-{}", self.starts);
        let jar = self.rig.path("demo-server.standin");
        let start = self.ctl(&[
            "instance",
            "start",
            "kills",
            "--id",
            &id,
            "--jar",
            jar.to_str().unwrap(),
            "--memory-mb",
            "64",
            "--template",
            NAMES[0],
            "--template",
            NAMES[1],
        ]);
        (id, start)
    }

    fn start_undisturbed(&mut self) {
        self.started_undisturbed();
    }

    fn started_undisturbed(&mut self) -> (String, u64) {
        let (id, start) = self.order();
        let ordered = finished(start);
        assert!(ordered.code == 0, "a start that nobody disturbs: {ordered:?}");
        match self.outcome(&id) {
            Outcome::Running { port } => (id, port),
            Outcome::Ended(error, _) => panic!("a start that nobody disturbs ended: {error}"),
            Outcome::Unknown => panic!("a start that nobody disturbs is not known"),
        }
    }

    /// Waits until a start has come to something
    fn outcome(&self, id: &str) -> Outcome {
        eventually(&format!("an outcome of {id}"), || {
            let (status, instance) = self.get(&format!("/instances/{id}"))?;
            let error = instance["lastError"].as_str().unwrap_or_default().to_owned();
            let port = instance["port"].as_u64();
            match instance["state"].as_str() {
                _ if status == 404 => Some(Outcome::Unknown),
                Some("RUNNING") => Some(Outcome::Running { port: port.unwrap() }),
                Some("CRASHED" | "STOPPED") => Some(Outcome::Ended(error, port.unwrap())),
                _ => None,
            }
        })
    }

    fn wrong_files(&self, id: &str, port: u64) -> Vec<String> {
        let folder = self.rig.path("daemon/instances/kills").join(id);
        Content::wrong_in(&[&self.large, &self.many], &folder, port)
    }

    /// Nothing of a start is under way any more, so nothing may be half-made
    fn left_half_made(&self) -> Vec<String> {
        let look = || {
            let mut left = remains::half_made(&self.rig.path("daemon"));
            left.extend(remains::unfinished(&self.rig.path("controller/content")));
            left
        };
        let until = Instant::now() + TIDY_WITHIN;
        let mut left = look();
        while !left.is_empty() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(25));
            left = look();
        }
        left.iter()
            .map(|path| format!("{} is left", path.display()))
            .collect()
    }

    fn forget_templates(&self) {
        for file in crate::content::files(&self.rig.path("daemon/cache/templates")) {
            fs::remove_file(file).unwrap();
        }
    }

    fn stop_all(&mut self) {
        let instances = eventually("a list of instances", || self.get("/instances"));
        for instance in instances.1.as_array().unwrap() {
            let id = instance["id"].as_str().unwrap();
            if matches!(instance["state"].as_str(), Some("CRASHED" | "STOPPED")) {
                continue;
            }
            let stopped = self.rig.ctl(&["instance", "stop", id, "--force", "--wait"]);
            assert!(stopped.code == 0, "{stopped:?}");
        }
        eventually("the end of every server", || {
            self.rig.servers().is_empty().then_some(())
        });
    }

    /// The blobs that versions of templates have, as the controller tells it
    fn referenced(&self) -> BTreeSet<String> {
        let mut referenced = BTreeSet::new();
        let get = |path: String| eventually(&path, || self.get(&path)).1;
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        for name in NAMES.into_iter().chain([KEPT]) {
            for version in get(format!("/templates/{name}/versions")).as_array().unwrap() {
                let hash = text(&version["hash"]);
                let manifest = get(format!("/templates/{name}/versions/{hash}/manifest"));
                let entries = manifest["entries"].as_array().unwrap();
                referenced.extend(
                    entries
                        .iter()
                        .filter_map(|entry| entry["sha256"].as_str())
                        .map(str::to_owned),
                );
                referenced.extend([hash, text(&version["archive"])]);
            }
        }
        referenced
    }

    fn lost_blobs(&mut self, referenced: &BTreeSet<String>) -> Vec<String> {
        let controller = self.rig.path("controller");
        let mut lost = Vec::new();
        for blob in referenced {
            if self.intact.contains(blob) {
                continue;
            }
            if remains::is_intact(&controller, blob) {
                self.intact.insert(blob.clone());
            } else {
                lost.push(format!(
                    "the blob {blob} is lost or damaged, and a version has it"
                ));
            }
        }
        let there = remains::blobs(&controller);
        lost.extend(
            referenced
                .difference(&there)
                .map(|blob| format!("the blob {blob} is gone, and a version has it")),
        );
        lost
    }

    /// Removes what no version has, however young, and looks whether all of that has gone and nothing else
    pub fn collect(&mut self) -> Vec<String> {
        let referenced = self.referenced();
        assert!(self.rig.stop_controller().success());
        let controller = self.rig.path("controller");
        collect(controller.clone());
        self.intact.clear();
        let mut wrong = self.lost_blobs(&referenced);
        let leaked = remains::blobs(&controller);
        wrong.extend(
            leaked
                .difference(&referenced)
                .map(|blob| format!("the blob {blob} is left, and no version has it")),
        );
        self.rig.start_controller();
        self.rig.await_node("ONLINE");
        wrong
    }

    /// An answer of the controller, if it gives one
    fn get(&self, path: &str) -> Option<(u16, Value)> {
        let token = fs::read_to_string(self.rig.path("controller/admin.token")).ok()?;
        let mut connection = TcpStream::connect(self.rig.http()).ok()?;
        connection.set_read_timeout(Some(LIMIT)).ok()?;
        // Version 1.0, so that the body ends with the connection.
        let request = format!(
            "GET /api/v1{path} HTTP/1.0\r\nhost: x\r\nauthorization: Bearer {}\r\n\r\n",
            token.trim()
        );
        connection.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some((status, serde_json::from_str(body).ok()?))
    }
}

fn finished(child: Child) -> Ran {
    child.wait_with_output().unwrap().into()
}

fn collect(controller: PathBuf) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let store = SqliteStore::open(controller.join("controller.db"), &SqliteOptions::default()).unwrap();
        let store: Arc<dyn Store> = Arc::new(store);
        let blobs = FolderBlobs::open(&controller.join("content")).unwrap();
        let key = Arc::new(SealingKey::generate().unwrap());
        let templates = Templates::new(
            store,
            Arc::new(Blobs::new(Arc::new(blobs))),
            key,
            Default::default(),
        );
        templates.collect_older_than(Duration::ZERO).await.unwrap();
    });
}
