//! A node that logs faster than its log may go to the controller: what is forwarded, what is dropped, and who suffers
//!
//! Two runs, with one daemon of ours in a process of its own, whose log goes the way of a daemon's: `tracing`, the mirror, the
//! stream over mTLS. First the other end is a whole controller, in another process: what came and what it counts as lost has
//! to be all that the daemon logged. Then it is killed, and the daemon finds a session of ours that pings all the time, which
//! no controller does. Beside it stands tonic's own stream, over which the same records go, all of them.

mod node;
mod pings;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail, ensure};
use prexorcloud_security::authority::{Authority, AuthorityPolicy, ServerNames};
use prexorcloud_security::tls::ServerTls;
use serde_json::Value;

use crate::fleet::{Fleet, Process, Size, median, p99, request};
use crate::pki::Pki;
use crate::report::{Aim, Report, Row, median as middle};

use node::{Flooded, Node};
use pings::{BareNode, Seen};

pub use node::{ROLE, serve};

const NODE: &str = "node-1";

/// Records a second that are logged
const RATE: f64 = 50_000.0;

/// The text of each of them
const MESSAGE: &str = "a player has joined, and this is about as long as a line of a log is, now and then";

/// How long a flood takes, and the rest beside it
const FLOOD: Duration = Duration::from_secs(4);

/// How long anything else may take
const PATIENCE: Duration = Duration::from_secs(60);

pub fn run(report: &mut Report, repetitions: usize) -> Result<()> {
    eprintln!("logs: {RATE} records/s");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let fleet = Fleet::create(Size {
        nodes: 0,
        instances: 0,
    })?;
    let controller = Process::start(&fleet)?;
    await_that("the controller answers", || {
        Ok(request(fleet.http, "GET", "/api/v1/system/ready", "", "").is_ok_and(|(status, _)| status == 200))
    })?;
    let body = format!(r#"{{"nodeId":"{NODE}"}}"#);
    let (status, answer) = request(fleet.http, "POST", "/api/v1/admin/tokens", &fleet.token, &body)?;
    ensure!(status == 201, "a token was answered {status}: {answer}");
    let token: Value = serde_json::from_str(&answer)?;
    let token = token["joinToken"].as_str().context("no token")?;
    let folder = tempfile::tempdir()?;
    let mut node = Node::start(folder.path(), &fleet.grpc.to_string(), token)?;
    forwarding(report, &fleet, &controller, &mut node, repetitions)?;
    drop(controller);
    pings(report, &runtime, &fleet, &mut node, repetitions)
}

/// What the controller says about the log of the node
struct Told {
    received: u64,
    lost: u64,
    since: String,
}

fn told(fleet: &Fleet) -> Result<Told> {
    let path = format!("/api/v1/nodes/{NODE}");
    let (status, answer) = request(fleet.http, "GET", &path, &fleet.token, "")?;
    ensure!(status == 200, "the node was answered {status}: {answer}");
    let node: Value = serde_json::from_str(&answer)?;
    let count = |name: &str| {
        node["logs"][name]
            .as_u64()
            .with_context(|| format!("no {name} in {answer}"))
    };
    Ok(Told {
        received: count("received")?,
        lost: count("lost")?,
        since: node["connectedSince"].to_string(),
    })
}

/// With a whole controller
fn forwarding(
    report: &mut Report,
    fleet: &Fleet,
    controller: &Process,
    node: &mut Node,
    repetitions: usize,
) -> Result<()> {
    await_that("the node is connected", || Ok(told(fleet)?.received > 0))?;
    let since = told(fleet)?.since;
    let (mut offered, mut forwarded, mut lost, mut each) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    // The first round makes the processes as large as they get, and does not count.
    node.flood(FLOOD)?;
    let before = resident(node, controller)?;
    let watch = Watch::start(node, controller);
    for _ in 0..repetitions {
        let at_first = told(fleet)?;
        let begun = Instant::now();
        let flooded = node.flood(FLOOD)?;
        let during = told(fleet)?.received - at_first.received;
        forwarded.push(during as f64 / begun.elapsed().as_secs_f64());
        offered.push(flooded.offered as f64 / flooded.seconds);
        each.push(flooded.logging / flooded.offered as f64 * 1e6);
        lost.push(all_accounted_for(fleet, node)?.lost.saturating_sub(at_first.lost) as f64);
    }
    let highest = watch.end()?;
    let after = resident(node, controller)?;
    ensure!(told(fleet)?.since == since, "the node was cut off");
    await_that("/metrics tells the same", || {
        let (_, text) = request(fleet.http, "GET", "/metrics", "", "")?;
        let line = format!(
            "prexorcloud_daemon_log_records_lost_total {}\n",
            told(fleet)?.lost
        );
        Ok(text.contains(&line))
    })?;
    let row = |name: &str, value: f64, unit: &'static str| Row::new("logs", name, value, unit);
    report.add(row("logged by a daemon", middle(offered), "records/s"));
    let name = "what a record costs whoever logs it";
    report.add(row(name, middle(each), "us"));
    let name = "forwarded to its controller meanwhile";
    report.add(row(name, middle(forwarded), "records/s"));
    let name = "lost in a flood, which /nodes/ID and /metrics count";
    report.add(row(name, middle(lost), "records"));
    let both = before.into_iter().zip(highest).zip(after);
    for (who, ((before, highest), after)) in ["the daemon", "the controller"].into_iter().zip(both) {
        report.add(row(&format!("memory of {who} between floods"), before, "MiB"));
        let most = row(&format!("memory of {who} in a flood, at most"), highest, "MiB");
        report.add(most.aim(Aim::ValueAtMost(before + 16.0)));
        let after = row(&format!("memory of {who} after all floods"), after, "MiB");
        report.add(after.aim(Aim::ValueAtMost(before + 8.0)));
    }
    Ok(())
}

/// Waits until each record that the daemon has logged has come or is counted as lost
///
/// What was dropped last is told with the record that comes next, so one more is logged until it adds up.
fn all_accounted_for(fleet: &Fleet, node: &mut Node) -> Result<Told> {
    let limit = Instant::now() + PATIENCE;
    loop {
        let Flooded { logged, .. } = node.flood(Duration::from_millis(20))?;
        for _ in 0..50 {
            let told = told(fleet)?;
            let known = told.received + told.lost;
            ensure!(known <= logged, "{known} of {logged} records are known");
            if known == logged {
                return Ok(told);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        ensure!(Instant::now() < limit, "it does not add up to {logged}");
    }
}

/// With pings all the time, and beside it tonic
fn pings(
    report: &mut Report,
    runtime: &tokio::runtime::Runtime,
    fleet: &Fleet,
    node: &mut Node,
    repetitions: usize,
) -> Result<()> {
    let authority = Authority::load(&fleet.data_dir().join("ca"), &AuthorityPolicy::default())?;
    let credential = authority.issue_server(&ServerNames::loopback(), SystemTime::now())?;
    let tls = ServerTls::new(&credential, &authority.trust_anchors()?).build()?;
    let (ours, bare) = (Seen::default(), Seen::default());
    let _server = runtime.block_on(pings::serve(fleet.grpc, tls, ours.clone()))?;
    let pki = Pki::create()?;
    let theirs = runtime.block_on(async {
        let address = pings::serve_bare(&pki, bare.clone()).await?;
        BareNode::connect(&pki, address).await
    })?;
    for seen in [&ours, &bare] {
        await_that("the daemon is connected", || Ok(seen.is_connected()))?;
    }
    let (mut of_ours, mut of_theirs) = (Figures::default(), Figures::default());
    // The first round warms up and does not count.
    for round in 0..=repetitions {
        let product = measured(&ours, || node.flood(FLOOD).map(drop))?;
        let tonic = measured(&bare, || runtime.block_on(theirs.flood(FLOOD)).map(drop))?;
        if round > 0 {
            of_ours.push(product);
            of_theirs.push(tonic);
        }
    }
    let names = [
        "a ping at rest, p50",
        "a ping at rest, p99",
        "a ping in a flood, p50",
        "a ping in a flood, p99",
    ];
    let [beside @ .., all] = of_theirs.0.map(middle);
    let [times @ .., came] = of_ours.0.map(middle);
    for (name, (time, beside)) in names.into_iter().zip(times.into_iter().zip(beside)) {
        let row = Row::new("logs", name, time, "ms").beside(beside);
        report.add(row.aim(Aim::ValueAtMost(10.0)));
    }
    let name = "records that came while pinged; beside it all of them";
    report.add(Row::new("logs", name, came, "records/s").beside(all));
    Ok(())
}

/// Of each round: the p50 and p99 of pings at rest and in a flood, and the records that came in a second of it
#[derive(Default)]
struct Figures([Vec<f64>; 5]);

impl Figures {
    fn push(&mut self, round: [f64; 5]) {
        for (all, one) in self.0.iter_mut().zip(round) {
            all.push(one);
        }
    }
}

fn measured(seen: &Seen, flood: impl FnOnce() -> Result<()>) -> Result<[f64; 5]> {
    let few = "too few pings were answered";
    // What was on its way is gone.
    std::thread::sleep(Duration::from_secs(2));
    seen.times();
    std::thread::sleep(FLOOD);
    let rest = seen.times();
    ensure!(rest.len() > 100, "{few} at rest: {}", rest.len());
    seen.records();
    let begun = Instant::now();
    flood()?;
    let came = seen.records() as f64 / begun.elapsed().as_secs_f64();
    let flooded = seen.times();
    ensure!(flooded.len() > 20, "{few} in a flood: {}", flooded.len());
    Ok([median(&rest), p99(&rest), median(&flooded), p99(&flooded), came])
}

/// The most memory that the two processes have had, in MiB
struct Watch {
    done: Arc<AtomicBool>,
    thread: JoinHandle<Result<[f64; 2]>>,
}

impl Watch {
    fn start(node: &Node, controller: &Process) -> Self {
        let ids = [node.id(), controller.id()];
        let done = Arc::new(AtomicBool::new(false));
        let is_done = Arc::clone(&done);
        let thread = std::thread::spawn(move || {
            let mut highest = [0.0_f64; 2];
            while !is_done.load(Ordering::SeqCst) {
                for (highest, id) in highest.iter_mut().zip(ids) {
                    *highest = highest.max(resident_of(id)?);
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            Ok(highest)
        });
        Self { done, thread }
    }

    fn end(self) -> Result<[f64; 2]> {
        self.done.store(true, Ordering::SeqCst);
        match self.thread.join() {
            Ok(highest) => highest,
            Err(_) => bail!("the watch over the memory has died"),
        }
    }
}

fn resident(node: &Node, controller: &Process) -> Result<[f64; 2]> {
    // What waited is gone.
    std::thread::sleep(Duration::from_secs(2));
    Ok([resident_of(node.id())?, resident_of(controller.id())?])
}

fn resident_of(process: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let resident = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .context("no VmRSS")?;
    let kib: f64 = resident.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib / 1024.0)
}

fn await_that(what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let limit = Instant::now() + PATIENCE;
    while !is_so()? {
        ensure!(Instant::now() < limit, "it takes too long until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
