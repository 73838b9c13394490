//! Console lines over one stream

use std::time::Instant;

use anyhow::{Context as _, Result};
use prexorcloud_proto::{ConsoleOutput, DaemonMessage, daemon_message};
use prexorcloud_protocol::DaemonEvent;
use prexorcloud_protocol::session::Class;
use prexorcloud_transport::Target;

use crate::pki::Pki;
use crate::report::{Aim, Report, Row, median};
use crate::rig::{BareDaemon, Daemon, LAST, on_core, start_bare, start_product};

/// Lines in one measurement.
const LINES: u64 = 400_000;
/// Lines that arrive together, as from one read of an instance's log.
const BURST: u64 = 64;
/// A line as servers write them.
const TEXT: &str =
    "[12:34:56] [Server thread/INFO]: Steve joined the game and looked around for a while [x=12,z=-7]";

fn line(sequence: u64) -> ConsoleOutput {
    ConsoleOutput {
        instance_id: "lobby-1".into(),
        line: if sequence == LINES {
            LAST.into()
        } else {
            TEXT.into()
        },
        timestamp_ms: 1_790_000_000_000 + i64::try_from(sequence).unwrap_or(0),
        incarnation: 1,
        sequence,
    }
}

pub fn run(report: &mut Report, repetitions: usize) -> Result<()> {
    eprintln!("console: {LINES} lines per measurement");
    let pki = Pki::create()?;
    let (target, url) = (start_product(&pki)?, start_bare(&pki)?);
    let (mut bursts, mut singles, mut bare) = (Vec::new(), Vec::new(), Vec::new());
    // The first round warms up and does not count.
    for round in 0..=repetitions {
        let figures = [
            client(&pki, {
                let target = target.clone();
                move |pki| async move { product(&pki, &target, BURST).await }
            })?,
            client(&pki, {
                let url = url.clone();
                move |pki| async move { tonic(&pki, &url).await }
            })?,
            client(&pki, {
                let target = target.clone();
                move |pki| async move { product(&pki, &target, 1).await }
            })?,
        ];
        if round > 0 {
            bursts.push(figures[0]);
            bare.push(figures[1]);
            singles.push(figures[2]);
        }
    }
    let bare = median(bare);
    let burst = format!("lines/s over one mTLS stream, {BURST} at a time");
    let burst = Row::new("console", burst, median(bursts), "lines/s")
        .beside(bare)
        .aim(Aim::RatioAtLeast(0.9));
    report.add(burst);
    let single = "lines/s over one mTLS stream, one at a time";
    report.add(Row::new("console", single, median(singles), "lines/s").beside(bare));
    Ok(())
}

fn client<F>(pki: &Pki, measure: impl FnOnce(Pki) -> F + Send + 'static) -> Result<f64>
where
    F: Future<Output = Result<f64>>,
{
    let pki = pki.clone();
    on_core(1, move || measure(pki))
        .join()
        .map_err(|_| anyhow::anyhow!("the client panicked"))?
}

async fn product(pki: &Pki, target: &Target, burst: u64) -> Result<f64> {
    let daemon = Daemon::connect(pki, target).await?;
    let start = Instant::now();
    let producer = tokio::spawn({
        let session = daemon.session.clone();
        async move {
            let mut sequence = 0;
            while sequence < LINES {
                let taken = session
                    .wait_for(|session, _| {
                        let mut taken = 0;
                        while taken < burst
                            && sequence + taken < LINES
                            && session.has_room(Class::BestEffort, 160)
                        {
                            taken += 1;
                            session.console(line(sequence + taken));
                        }
                        (taken > 0).then_some(taken)
                    })
                    .await;
                sequence += taken?;
            }
            Some(())
        }
    });
    daemon
        .event(|event| matches!(event, DaemonEvent::Shutdown { .. }))
        .await?;
    let elapsed = start.elapsed();
    producer.await?.context("the session ended early")?;
    let shed = daemon.session.with(|session, _| session.shed());
    anyhow::ensure!(shed == 0, "{shed} lines were shed");
    Ok(LINES as f64 / elapsed.as_secs_f64())
}

async fn tonic(pki: &Pki, url: &str) -> Result<f64> {
    let mut daemon = BareDaemon::connect(pki, url).await?;
    let start = Instant::now();
    let producer = tokio::spawn({
        let send = daemon.send.clone();
        async move {
            for sequence in 1..=LINES {
                let payload = Some(daemon_message::Payload::ConsoleOutput(line(sequence)));
                if send.send(DaemonMessage { payload }).await.is_err() {
                    return;
                }
            }
        }
    });
    daemon.incoming.message().await?.context("no answer")?;
    let elapsed = start.elapsed();
    producer.await?;
    Ok(LINES as f64 / elapsed.as_secs_f64())
}
