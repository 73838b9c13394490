//! The steps of the demo, each of which proves what it shows

use std::path::Path;

use anyhow::{Context as _, ensure};
use prexorcloud_security::token::JoinToken;
use prexorcloud_security::trust::TrustAnchors;
use prexorcloud_transport::Target;
use prexorctl::Client;
use prexorctl::resource::{Crash, JoinToken as ListedToken, Outcome};
use tokio::time::Instant;
use tonic::Code;

use super::content;
use super::intruder;
use super::server::Server;
use super::stage::Stage;
use crate::cluster::announcement::ControllerReady;
use crate::cluster::{self, Cluster, Jar, LIMIT, NODE};

const GREETING: &str = "hello from the demo";
const LOG_LINES_SHOWN: usize = 4;
const DRAIN_SECONDS: u32 = 20;

/// Runs all steps
pub async fn run(cluster: &mut Cluster, stage: &mut Stage) -> anyhow::Result<()> {
    let controller = start_controller(cluster, stage).await?;
    let operator = cluster.operator(&controller)?;
    let token = create_token(&operator, stage).await?;
    enrol(cluster, &controller, &operator, &token, stage).await?;
    handshake(&operator, stage).await?;

    let jar = cluster.jar()?;
    let mut lobby = start_server(&operator, &jar, stage).await?;
    send_command(&mut lobby, stage).await?;
    stop_server(&mut lobby, stage).await?;
    crash_server(&operator, &jar, stage).await?;
    content::run(&cluster.data("arcade"), &operator, &jar, stage).await?;
    let mut survivor = start_second(&operator, &jar, stage).await?;

    refuse_replay(&controller, &token, stage).await?;
    refuse_stranger(cluster, &controller, stage).await?;
    refuse_anonymous(cluster, &controller, stage).await?;

    drain(cluster, &operator, &mut survivor, stage).await?;
    stage.begin(
        "Controller ends",
        "Everything it knows is on disk; the next start goes on from there.",
    );
    cluster.stop_controller().await?;
    stage.pass("exit code 0");
    Ok(())
}

async fn start_controller(cluster: &mut Cluster, stage: &mut Stage) -> anyhow::Result<ControllerReady> {
    stage.begin(
        "Controller starts",
        "Its first start makes a certificate authority, a database and an administrator.",
    );
    let ready = cluster.start_controller().await?;
    stage.fact(&format!(
        "gRPC for daemons on {}, HTTP for operators on {}",
        ready.grpc, ready.http
    ));
    let process = cluster.controller_mut()?.id().unwrap_or_default();
    stage.pass(format!("serving, process {process}"));
    Ok(ready)
}

async fn create_token(operator: &Client, stage: &mut Stage) -> anyhow::Result<JoinToken> {
    stage.begin(
        "Join token",
        "Good once, for five minutes, for one node. The part after the dot pins the authority's certificate.",
    );
    let created = cluster::create_token(operator, NODE).await?;
    let token = JoinToken::parse(&created.token)?;
    let pin = token.pin().context("the token has no pin")?;
    stage.fact(&format!("pxr_{}.{pin}", "*".repeat(8)));
    let state = token_status(operator, &created.token_id).await?.status;
    ensure!(state == "ACTIVE", "a fresh token is {state}");
    stage.pass("ACTIVE");
    Ok(token)
}

async fn enrol(
    cluster: &mut Cluster,
    controller: &ControllerReady,
    operator: &Client,
    token: &JoinToken,
    stage: &mut Stage,
) -> anyhow::Result<()> {
    stage.begin(
        "Daemon enrols",
        "It checks the pin before it shows the token, and trades the token for a certificate of its own.",
    );
    let ready = cluster.start_daemon(controller, Some(token.expose())).await?;
    ensure!(ready.node == NODE, "the daemon calls itself {}", ready.node);
    let config = std::fs::read_to_string(cluster.config("daemon"))?;
    ensure!(
        !config.contains(token.expose()),
        "the used token is still in daemon.toml"
    );
    let tokens = operator
        .get::<Vec<ListedToken>>(&["admin", "tokens"], &[])
        .await?
        .value;
    let used = tokens.first().context("the token is not listed any more")?;
    ensure!(used.status == "CONSUMED", "the used token is {}", used.status);
    ensure!(
        used.consumed_by.as_deref() == Some(NODE),
        "the token was used by {:?}",
        used.consumed_by
    );
    let process = cluster.daemon_mut()?.id().unwrap_or_default();
    stage.fact(&format!(
        "certificate for {NODE} in {}",
        certificates(cluster).display()
    ));
    stage.pass(format!("token CONSUMED, process {process}"));
    Ok(())
}

async fn handshake(operator: &Client, stage: &mut Stage) -> anyhow::Result<()> {
    stage.begin(
        "Handshake",
        "One mutual TLS stream; both sides agree on the protocol version before anything else is said.",
    );
    let node = cluster::node_until(operator, "ONLINE", |node| {
        node.connected && node.status == "ONLINE"
    })
    .await?;
    stage.fact(&format!(
        "{NODE}, daemon {}, {} MiB of memory",
        node.version.as_deref().unwrap_or("of unknown version"),
        node.total_memory_mb.unwrap_or_default()
    ));
    stage.pass("ONLINE");
    Ok(())
}

async fn start_server(operator: &Client, jar: &Jar, stage: &mut Stage) -> anyhow::Result<Server> {
    stage.begin(
        "Server starts, console live",
        "The daemon prepares it, starts it outside of its own process, and streams every line.",
    );
    let mut server = Server::start(operator, "lobby-1", jar).await?;
    stage.state("lobby-1", server.state());
    server.until(stage, "RUNNING", "Done (").await?;
    stage.pass(server.path());
    Ok(server)
}

async fn send_command(server: &mut Server, stage: &mut Stage) -> anyhow::Result<()> {
    stage.begin(
        "Command and answer",
        "Typed here, run there; the answer comes back on the console.",
    );
    stage.fact(&format!("typed: say {GREETING}"));
    server.command(&format!("say {GREETING}")).await?;
    let answer = server.until(stage, "RUNNING", GREETING).await?;
    ensure!(answer.contains("[Server]"), "the answer was {answer:?}");
    stage.pass("answered");
    Ok(())
}

async fn stop_server(server: &mut Server, stage: &mut Stage) -> anyhow::Result<()> {
    stage.begin(
        "Graceful stop",
        "The server saves its worlds first; only one that hangs is killed.",
    );
    server.stop().await?;
    server.until(stage, "STOPPED", "All dimensions are saved").await?;
    stage.pass(server.path());
    Ok(())
}

async fn crash_server(operator: &Client, jar: &Jar, stage: &mut Stage) -> anyhow::Result<()> {
    stage.begin(
        "Crash and its report",
        "The daemon keeps the report until the controller has stored it, so that none is lost.",
    );
    let mut server = Server::start(operator, "crash-1", jar).await?;
    server.until(stage, "RUNNING", "Done (").await?;
    server.command("crash").await?;
    server.until(stage, "CRASHED", "IllegalStateException").await?;
    let crash = crash_report(operator, "crash-1").await?;
    ensure!(
        crash.exit_code == Some(1),
        "the stored exit code is {:?}",
        crash.exit_code
    );
    ensure!(
        crash
            .log_tail
            .iter()
            .any(|line| line.contains("IllegalStateException")),
        "the stored log does not show the cause: {:?}",
        crash.log_tail
    );
    stage.fact(&format!(
        "report {}: exit code 1, {}, {}",
        crash.id,
        crash.classification.as_deref().unwrap_or("not classified"),
        crash.cause_summary.as_deref().unwrap_or("no cause")
    ));
    let from = crash.log_tail.len().saturating_sub(LOG_LINES_SHOWN);
    stage.fact(&format!(
        "the last {LOG_LINES_SHOWN} of {} stored lines:",
        crash.log_tail.len()
    ));
    for line in crash.log_tail.iter().skip(from) {
        stage.fact(&format!("  {line}"));
    }
    stage.pass(server.path());
    Ok(())
}

async fn crash_report(operator: &Client, instance: &str) -> anyhow::Result<Crash> {
    let wanted = [("instance", instance.to_owned())];
    let deadline = Instant::now() + LIMIT;
    let mut look = cluster::looks();
    loop {
        look.tick().await;
        let crashes = operator.get::<Vec<Crash>>(&["crashes"], &wanted).await?.value;
        if let Some(crash) = crashes.first() {
            return Ok(operator.get::<Crash>(&["crashes", &crash.id], &[]).await?.value);
        }
        ensure!(
            Instant::now() < deadline,
            "no crash report of {instance} was stored within {} s",
            LIMIT.as_secs()
        );
    }
}

async fn start_second(operator: &Client, jar: &Jar, stage: &mut Stage) -> anyhow::Result<Server> {
    stage.begin(
        "Same name again",
        "lobby-1 starts a second time: a new incarnation, so that late news of the first is ignored.",
    );
    let mut server = Server::start(operator, "lobby-1", jar).await?;
    server.until(stage, "RUNNING", "Done (").await?;
    stage.pass(server.path());
    Ok(server)
}

async fn refuse_replay(
    controller: &ControllerReady,
    token: &JoinToken,
    stage: &mut Stage,
) -> anyhow::Result<()> {
    stage.begin(
        "Replayed token",
        "Somebody found the token in a backup and asks for a certificate with it.",
    );
    let (code, words) = intruder::replay(&target(controller)?, token, NODE).await?;
    ensure!(
        code == Code::FailedPrecondition,
        "the replayed token got {code:?}: {words}"
    );
    stage.fact(&words);
    stage.pass("FAILED_PRECONDITION");
    Ok(())
}

async fn refuse_stranger(
    cluster: &Cluster,
    controller: &ControllerReady,
    stage: &mut Stage,
) -> anyhow::Result<()> {
    stage.begin(
        "Stranger's certificate",
        "It says node-1, too, but another authority signed it.",
    );
    let trust = trust(&cluster.data("controller"))?;
    let refused = intruder::stranger(&target(controller)?, &trust, NODE).await?;
    stage.fact(&refused.to_string());
    stage.pass("refused in the TLS handshake");
    Ok(())
}

async fn refuse_anonymous(
    cluster: &Cluster,
    controller: &ControllerReady,
    stage: &mut Stage,
) -> anyhow::Result<()> {
    stage.begin("No certificate", "Only enrolment is open to those who have none.");
    let trust = trust(&cluster.data("controller"))?;
    let (code, words) = intruder::without_certificate(&target(controller)?, &trust).await?;
    ensure!(
        code == Code::Unauthenticated,
        "a stream without a certificate got {code:?}: {words}"
    );
    stage.fact(&words);
    stage.pass("UNAUTHENTICATED");
    Ok(())
}

async fn drain(
    cluster: &mut Cluster,
    operator: &Client,
    server: &mut Server,
    stage: &mut Stage,
) -> anyhow::Result<()> {
    stage.begin(
        "Drain and shutdown",
        "The node stops its servers gracefully, tells how many there are, and ends.",
    );
    let query = [
        ("shutdown", "true".to_owned()),
        ("timeout", DRAIN_SECONDS.to_string()),
    ];
    let answer = operator
        .post::<Outcome>(&["nodes", NODE, "drain"], &query, None)
        .await?
        .value;
    ensure!(answer.status == "DRAINING", "draining answered {}", answer.status);
    stage.state(NODE, "DRAINING");
    server.until(stage, "STOPPED", "All dimensions are saved").await?;
    let status = cluster.daemon_mut()?.ended(LIMIT).await?;
    ensure!(status.success(), "the daemon ended with {status}");
    cluster::node_until(operator, "not connected", |node| !node.connected).await?;
    stage.state(NODE, "OFFLINE");
    stage.pass("STOPPED, OFFLINE, exit code 0");
    Ok(())
}

async fn token_status(operator: &Client, id: &str) -> anyhow::Result<ListedToken> {
    let tokens = operator
        .get::<Vec<ListedToken>>(&["admin", "tokens"], &[])
        .await?
        .value;
    tokens
        .into_iter()
        .find(|token| token.token_id == id)
        .with_context(|| format!("the token {id} is not listed"))
}

fn target(controller: &ControllerReady) -> anyhow::Result<Target> {
    Ok(Target::new(
        &controller.grpc.ip().to_string(),
        controller.grpc.port(),
    )?)
}

fn trust(controller_data: &Path) -> anyhow::Result<TrustAnchors> {
    let file = controller_data.join("ca").join("ca.pem");
    let pem = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(TrustAnchors::from_pem(&pem)?)
}

fn certificates(cluster: &Cluster) -> std::path::PathBuf {
    cluster.data("daemon").join("security")
}
