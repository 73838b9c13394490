//! A template of 32 MiB: in one message on the stream, and in pieces on a call of its own

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use prexorcloud_proto::artifact_service_client::ArtifactServiceClient;
use prexorcloud_proto::{
    ArtifactChunk, ArtifactKind, DaemonMessage, FetchArtifactRequest, TemplateRequest, controller_message,
    daemon_message,
};
use prexorcloud_protocol::DaemonEvent;
use prexorcloud_transport::Target;
use tonic::Streaming;

use crate::pki::Pki;
use crate::report::{Aim, Report, Row, median};
use crate::rig::{BareDaemon, Daemon, TEMPLATE_BYTES, on_core, start_bare, start_product};

/// Transfers in one measurement.
const TRANSFERS: usize = 4;
const MIB: f64 = 1024.0 * 1024.0;

pub fn run(report: &mut Report, repetitions: usize) -> Result<()> {
    eprintln!("template: {TRANSFERS} transfers per measurement");
    let pki = Pki::create()?;
    let (target, url) = (start_product(&pki)?, start_bare(&pki)?);
    let mut whole = (Vec::new(), Vec::new());
    let mut pieces = (Vec::new(), Vec::new());
    // The first round warms up and does not count.
    for round in 0..=repetitions {
        let (ours, theirs) = (
            on_client(&pki, &target, &url, product)?,
            on_client(&pki, &target, &url, tonic)?,
        );
        if round > 0 {
            whole.0.push(ours.0);
            whole.1.push(theirs.0);
            pieces.0.push(ours.1);
            pieces.1.push(theirs.1);
        }
    }
    let name = "32 MiB in pieces of 256 KiB, a call of its own";
    let row = Row::new("template", name, median(pieces.0), "MiB/s").beside(median(pieces.1));
    report.add(row.aim(Aim::RatioAtLeast(0.8)));
    let name = "32 MiB in one message, on the stream";
    let row = Row::new("template", name, median(whole.0), "MiB/s").beside(median(whole.1));
    report.add(row.aim(Aim::RatioAtLeast(0.8)));
    Ok(())
}

/// MiB/s in one message and in pieces.
type Rates = (f64, f64);

fn on_client<F>(
    pki: &Pki,
    target: &Target,
    url: &str,
    measure: impl FnOnce(Pki, Target, String) -> F + Send + 'static,
) -> Result<Rates>
where
    F: Future<Output = Result<Rates>>,
{
    let (pki, target, url) = (pki.clone(), target.clone(), url.to_owned());
    let client = on_core(1, move || measure(pki, target, url));
    client
        .join()
        .map_err(|_| anyhow::anyhow!("the client panicked"))?
}

fn rate(since: Instant) -> f64 {
    (TRANSFERS * TEMPLATE_BYTES) as f64 / MIB / since.elapsed().as_secs_f64()
}

fn request() -> daemon_message::Payload {
    daemon_message::Payload::TemplateRequest(TemplateRequest {
        template_name: "lobby".into(),
        ..TemplateRequest::default()
    })
}

pub fn fetch() -> FetchArtifactRequest {
    FetchArtifactRequest {
        kind: ArtifactKind::Template as i32,
        name: "lobby".into(),
        hash: "0".repeat(64),
        offset: 0,
    }
}

pub async fn receive(mut chunks: Streaming<ArtifactChunk>) -> Result<()> {
    let mut bytes = 0;
    while let Some(chunk) = chunks.message().await? {
        bytes += chunk.data.len();
    }
    ensure!(bytes == TEMPLATE_BYTES, "{bytes} bytes arrived");
    Ok(())
}

/// Asks for the template, and takes it in one message.
pub async fn receive_whole(daemon: &mut BareDaemon) -> Result<()> {
    let payload = Some(request());
    daemon.send.send(DaemonMessage { payload }).await?;
    let message = daemon.incoming.message().await?.context("no answer")?;
    let Some(controller_message::Payload::TemplateData(data)) = message.payload else {
        anyhow::bail!("no template")
    };
    ensure!(data.tar_gz.len() == TEMPLATE_BYTES);
    Ok(())
}

async fn product(pki: Pki, target: Target, _: String) -> Result<Rates> {
    let daemon = Daemon::connect(&pki, &target).await?;
    let start = Instant::now();
    for _ in 0..TRANSFERS {
        daemon.session.with(|session, _| session.send(request()))?;
        let event = daemon
            .event(|event| matches!(event, DaemonEvent::Request(_)))
            .await?;
        let DaemonEvent::Request(controller_message::Payload::TemplateData(data)) = event else {
            anyhow::bail!("no template: {event:?}")
        };
        ensure!(data.tar_gz.len() == TEMPLATE_BYTES);
    }
    let whole = rate(start);
    let mut artifacts = ArtifactServiceClient::new(daemon.connection.clone());
    let start = Instant::now();
    for _ in 0..TRANSFERS {
        receive(artifacts.fetch(fetch()).await?.into_inner()).await?;
    }
    Ok((whole, rate(start)))
}

async fn tonic(pki: Pki, _: Target, url: String) -> Result<Rates> {
    let mut daemon = BareDaemon::connect(&pki, &url).await?;
    let start = Instant::now();
    for _ in 0..TRANSFERS {
        receive_whole(&mut daemon).await?;
    }
    let whole = rate(start);
    let mut artifacts = ArtifactServiceClient::new(daemon.channel.clone());
    let start = Instant::now();
    for _ in 0..TRANSFERS {
        receive(artifacts.fetch(fetch()).await?.into_inner()).await?;
    }
    Ok((whole, rate(start)))
}
