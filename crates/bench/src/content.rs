//! A template on its way from an operator's folder to a server, with the programs as users have them
//!
//! The daemon writes what comes to its disk, syncs it and computes its digest; bare tonic, in the same run, throws it away. While
//! one more template comes, files of a running server are asked for all the time: question and answer travel over the stream
//! that also carries the pings, which a transfer must not hold up. The rates are of transfers without such questions, which
//! cost the two processors of a small machine more than a transfer can spare.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use prexorcloud_proto::artifact_service_client::ArtifactServiceClient;

use crate::cluster::{Cluster, forget_peak, peak, settle};
use crate::pki::Pki;
use crate::report::{Aim, Report, Row, median};
use crate::rig::{BareDaemon, TEMPLATE_BYTES, on_core, start_bare_in_chunks};
use crate::template;

const MIB: f64 = 1024.0 * 1024.0;
/// The pieces of bare tonic, as the aim says.
const BARE_CHUNK: usize = 64 * 1024;
/// Transfers of bare tonic in one measurement.
const TRANSFERS: usize = 8;
/// A line of 70 Mbit/s.
const SLOW: u32 = 70_000_000 / 8;
/// What comes over it.
const OVER_SLOW_MIB: usize = 48;
/// Starts at once of a template that is not there yet.
const AT_ONCE: usize = 50;
const LIMIT: Duration = Duration::from_secs(300);

pub fn run(report: &mut Report, program: &Path, mib: usize, repetitions: usize) -> Result<()> {
    eprintln!("content: a template of {mib} MiB");
    let fast = Cluster::start(program)?;
    fast.start_server(0)?;
    let (controller, daemon) = (fast.controller(), fast.daemon());
    for pid in [controller, daemon] {
        settle(pid)?;
    }
    push(&fast, "big", mib)?;
    let mut rates = Vec::new();
    let mut latencies = Vec::new();
    let mut growth = [0.0_f64; 2];
    let rounds = repetitions.max(1);
    // The last one is asked for files meanwhile.
    for round in 0..=rounds {
        if round > 0 {
            // Another content of the same size: what was there is in the cache.
            push(&fast, "big", mib)?;
        }
        let before = [controller, daemon].map(|pid| forget_peak(pid).and_then(|()| peak(pid)));
        let come = while_it_comes(&fast, round + 1, round == rounds)?;
        for ((growth, pid), before) in growth.iter_mut().zip([controller, daemon]).zip(before) {
            *growth = growth.max(peak(pid)? - before?);
        }
        match round < rounds {
            true => rates.push(mib as f64 / come.took.as_secs_f64()),
            false => latencies = come.latencies,
        }
    }
    let bare = bare(repetitions)?;
    let row = Row::new(
        "content",
        format!("{mib} MiB, fetched, written, synced, verified"),
        median(rates.clone()),
        "MiB/s",
    );
    report.add(row.beside(bare.pieces).aim(Aim::RatioAtLeast(0.9)));
    let row = Row::new(
        "content",
        "the same, beside one message of 32 MiB",
        median(rates),
        "MiB/s",
    );
    report.add(row.beside(bare.whole).aim(Aim::RatioAtLeast(3.0)));
    for (side, growth) in ["controller", "daemon"].into_iter().zip(growth) {
        let row = Row::new(
            "content",
            format!("{side}, peak above idle meanwhile"),
            growth,
            "MiB",
        );
        report.add(row.aim(Aim::ValueAtMost(16.0)));
    }
    report.add(row_of("a file of a server, asked for meanwhile, p99", latencies));

    push(&fast, "shared", 32)?;
    let before = fetched(&fast)?.len();
    for number in 0..AT_ONCE {
        fast.order(100 + number, &["--template", "shared"])?;
    }
    await_that(|| {
        let log = fast.daemon_log()?;
        Ok((log.matches("PREPARING -> STARTING").count() > AT_ONCE + rounds + 1).then_some(()))
    })?;
    let count = fetched(&fast)?.len() - before;
    let row = Row::new(
        "content",
        format!("{AT_ONCE} starts at once of one template, fetched"),
        count as f64,
        "times",
    );
    report.add(row.aim(Aim::ValueAtMost(1.0)));
    drop(fast);

    let slow = Cluster::start_over(program, Some(SLOW))?;
    slow.start_server(0)?;
    push(&slow, "big", OVER_SLOW_MIB)?;
    let come = while_it_comes(&slow, 1, true)?;
    let rate = OVER_SLOW_MIB as f64 / come.took.as_secs_f64();
    let name = format!("{OVER_SLOW_MIB} MiB over 70 Mbit/s, beside the line");
    report.add(
        Row::new("content", name, rate, "MiB/s")
            .beside(f64::from(SLOW) / MIB)
            .aim(Aim::RatioAtLeast(0.9)),
    );
    report.add(row_of(
        "a file of a server, over 70 Mbit/s meanwhile, p99",
        come.latencies,
    ));
    Ok(())
}

fn row_of(name: &str, mut latencies: Vec<f64>) -> Row {
    latencies.sort_by(f64::total_cmp);
    let place = (latencies.len() * 99).div_ceil(100).saturating_sub(1);
    let p99 = latencies.get(place).copied().unwrap_or(f64::NAN);
    Row::new("content", format!("{name} of {}", latencies.len()), p99, "ms").aim(Aim::ValueAtMost(25.0))
}

/// Pushes a template of files that do not shrink, another one each time
fn push(cluster: &Cluster, name: &str, mib: usize) -> Result<()> {
    let folder = cluster.folder().join(name);
    if !folder.exists() {
        cluster.ctl(&["template", "create", name, "-o", "json"])?;
    }
    fs::create_dir_all(&folder)?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let mut state = u64::from(now.subsec_nanos()) << 32 | now.as_secs() | 1;
    let mut block = vec![0; 1024 * 1024];
    for file in 0..mib.div_ceil(8) {
        let mut written = fs::File::create(folder.join(format!("{file}.bin")))?;
        for _ in 0..8.min(mib - file * 8) {
            for word in block.chunks_exact_mut(8) {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                word.copy_from_slice(&state.to_le_bytes());
            }
            written.write_all(&block)?;
        }
    }
    let path = folder.to_str().context("a folder that is not UTF-8")?;
    cluster.ctl(&["template", "push", path, "-o", "json"])?;
    Ok(())
}

struct Come {
    took: Duration,
    /// In ms
    latencies: Vec<f64>,
}

/// Orders a start of `big`, and may ask for files of the first server until the template is there
fn while_it_comes(cluster: &Cluster, number: usize, is_asked: bool) -> Result<Come> {
    let before = fetched(cluster)?.len();
    let is_over = Arc::new(AtomicBool::new(!is_asked));
    let asking = {
        let (is_over, http) = (Arc::clone(&is_over), cluster.http().to_owned());
        let token = fs::read_to_string(cluster.folder().join("controller/admin.token"))?;
        std::thread::spawn(move || -> Result<Vec<f64>> {
            let mut latencies = Vec::new();
            while !is_over.load(Ordering::Relaxed) {
                let begun = Instant::now();
                ask(&http, token.trim())?;
                latencies.push(begun.elapsed().as_secs_f64() * 1000.0);
                std::thread::sleep(Duration::from_millis(2));
            }
            Ok(latencies)
        })
    };
    let come = cluster
        .order(number, &["--template", "big"])
        .and_then(|()| await_that(|| Ok(fetched(cluster)?.get(before).copied())));
    is_over.store(true, Ordering::Relaxed);
    let latencies = asking
        .join()
        .map_err(|_| anyhow::anyhow!("the asking panicked"))??;
    Ok(Come {
        took: come?,
        latencies,
    })
}

/// How long each template took, in the order in which they came
fn fetched(cluster: &Cluster) -> Result<Vec<Duration>> {
    let log = cluster.daemon_log()?;
    let lines = log.lines().filter(|line| line.contains("a template was fetched"));
    Ok(lines
        .filter_map(|line| {
            let (_, rest) = line.split_once("milliseconds=")?;
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            Some(Duration::from_millis(digits.parse().ok()?))
        })
        .collect())
}

fn await_that<T>(mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let limit = Instant::now() + LIMIT;
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        ensure!(Instant::now() < limit, "it did not happen within {LIMIT:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Reads the beginning of a file of the first server
fn ask(http: &str, token: &str) -> Result<()> {
    let mut stream = TcpStream::connect(http)?;
    stream.set_nodelay(true)?;
    let path = "/api/v1/instances/lobby-0/files?maxDepth=1";
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {http}\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\r\n"
    );
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let is_answered = answer.starts_with(b"HTTP/1.1 200 ");
    ensure!(is_answered, "{}", String::from_utf8_lossy(&answer));
    Ok(())
}

/// In MiB/s
struct Bare {
    pieces: f64,
    whole: f64,
}

fn bare(repetitions: usize) -> Result<Bare> {
    let pki = Pki::create()?;
    let url = start_bare_in_chunks(&pki, BARE_CHUNK)?;
    let client = on_core(1, move || async move {
        let mut daemon = BareDaemon::connect(&pki, &url).await?;
        let (mut pieces, mut whole) = (Vec::new(), Vec::new());
        // The first round warms up and does not count.
        for round in 0..=repetitions {
            let mut artifacts = ArtifactServiceClient::new(daemon.channel.clone());
            let begun = Instant::now();
            for _ in 0..TRANSFERS {
                template::receive(artifacts.fetch(template::fetch()).await?.into_inner()).await?;
            }
            let rate =
                |begun: Instant| (TRANSFERS * TEMPLATE_BYTES) as f64 / MIB / begun.elapsed().as_secs_f64();
            let in_pieces = rate(begun);
            let begun = Instant::now();
            for _ in 0..TRANSFERS {
                template::receive_whole(&mut daemon).await?;
            }
            if round > 0 {
                pieces.push(in_pieces);
                whole.push(rate(begun));
            }
        }
        Ok::<_, anyhow::Error>(Bare {
            pieces: median(pieces),
            whole: median(whole),
        })
    });
    client
        .join()
        .map_err(|_| anyhow::anyhow!("the client panicked"))?
}
