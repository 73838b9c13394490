//! `prexorctl node`

use std::time::Duration;

use crate::arguments::NodeCommand;
use crate::client::{Answer, Client};
use crate::failure::Failure;
use crate::output::{Output, or_dash};
use crate::printable;
use crate::resource::{Instance, Node, Outcome, Rival};

use super::{Sight, cache, wait_for};

/// How much longer than the node's own deadline `--wait` waits, for kills and reports
const AFTER_DRAIN: Duration = Duration::from_secs(30);

pub(super) async fn run(command: NodeCommand, client: &Client, output: &Output) -> Result<(), Failure> {
    match command {
        NodeCommand::List => list(client, output).await,
        NodeCommand::Show { id } => show(&id, client, output).await,
        NodeCommand::Drain {
            id,
            shutdown,
            timeout,
            wait,
        } => drain(&id, shutdown, timeout, wait, client, output).await,
        NodeCommand::Cache(command) => cache::run(command, client, output).await,
        NodeCommand::Undrain { id } => act(&id, "undrain", &[], client, output).await,
        NodeCommand::Cordon { id } => act(&id, "cordon", &[], client, output).await,
        NodeCommand::Uncordon { id } => act(&id, "uncordon", &[], client, output).await,
        NodeCommand::Shutdown { id, reason } => {
            act(&id, "shutdown", &[("reason", reason)], client, output).await
        }
        NodeCommand::Remove { id, force } => {
            act(&id, "remove", &[("force", force.to_string())], client, output).await
        }
        NodeCommand::RevokeCert { id } => act(&id, "revoke-cert", &[], client, output).await,
    }
}

async fn list(client: &Client, output: &Output) -> Result<(), Failure> {
    let answer = client.get::<Vec<Node>>(&["nodes"], &[]).await?;
    if output.is_json() {
        return output.json(&answer.json);
    }
    let rows = answer
        .value
        .iter()
        .map(|node| {
            vec![
                node.id.clone(),
                node.status.clone(),
                cpu(node).unwrap_or_else(|| "-".to_owned()),
                memory(node).unwrap_or_else(|| "-".to_owned()),
                or_dash(node.instance_count),
                output.ago(node.connected_since.as_deref()),
            ]
        })
        .collect();
    output.table(
        &["ID", "STATUS", "CPU", "MEMORY", "INSTANCES", "CONNECTED"],
        rows,
        "There are no nodes. Enrol one with a token: prexorctl token create",
    )
}

async fn show(id: &str, client: &Client, output: &Output) -> Result<(), Failure> {
    let answer = client.get::<Node>(&["nodes", id], &[]).await?;
    if output.is_json() {
        return output.json(&answer.json);
    }
    let node = answer.value;
    let labels = node
        .labels
        .as_ref()
        .filter(|labels| !labels.is_empty())
        .map(|labels| {
            let pairs: Vec<String> = labels
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            pairs.join(", ")
        });
    output.facts(&[
        ("id", Some(node.id.clone())),
        ("status", Some(node.status.clone())),
        ("address", node.address.clone()),
        ("version", node.version.clone()),
        ("connected", output.moment(node.connected_since.as_deref())),
        ("last seen", output.moment(node.last_seen.as_deref())),
        ("cpu", cpu(&node)),
        ("memory", memory(&node)),
        ("free disk", node.free_disk_mb.map(|mib| format!("{mib} MiB"))),
        ("instances", node.instance_count.map(|count| count.to_string())),
        (
            "certificate until",
            output.moment(node.certificate_expires_at.as_deref()),
        ),
        ("contract", node.contract.as_deref().map(str::to_lowercase)),
        ("log records", log_records(&node)),
        ("labels", labels),
        (
            "rival",
            node.rival.as_ref().map(|rival| rival_line(rival, output)),
        ),
    ])
}

/// Another daemon with the node's identity, which an operator has to stop or to enrol under another name
fn rival_line(rival: &Rival, output: &Output) -> String {
    let times = match rival.attempts {
        0 | 1 => "once".to_owned(),
        many => format!("{many} times"),
    };
    let last = output.ago(rival.last_seen.as_deref());
    format!(
        "{} came with this node's identity, too: {times}, last {last}",
        printable::short(&rival.address, 64)
    )
}

async fn drain(
    id: &str,
    shutdown: bool,
    timeout: u64,
    wait: bool,
    client: &Client,
    output: &Output,
) -> Result<(), Failure> {
    let query = [
        ("shutdown", shutdown.to_string()),
        ("timeout", timeout.to_string()),
    ];
    let answer = client
        .post::<Outcome>(&["nodes", id, "drain"], &query, None)
        .await?;
    if wait {
        wait_for(
            format!("{id} becoming empty"),
            Duration::from_secs(timeout) + AFTER_DRAIN,
            async || {
                let on_node = [("node", id.to_owned())];
                let instances = client.get::<Vec<Instance>>(&["instances"], &on_node).await?.value;
                let live = instances
                    .iter()
                    .filter(|instance| !has_ended(&instance.state))
                    .count();
                Ok(match live {
                    0 => Sight::There(()),
                    live => Sight::NotYet(format!("{live} live instances")),
                })
            },
        )
        .await?;
    }
    report(id, &answer, output)
}

async fn act(
    id: &str,
    action: &str,
    query: &[(&str, String)],
    client: &Client,
    output: &Output,
) -> Result<(), Failure> {
    let answer = client
        .post::<Outcome>(&["nodes", id, action], query, None)
        .await?;
    report(id, &answer, output)
}

fn report(id: &str, answer: &Answer<Outcome>, output: &Output) -> Result<(), Failure> {
    if output.is_json() {
        return output.json(&answer.json);
    }
    let outcome = &answer.value;
    let revoked = (!outcome.revoked_serials.is_empty()).then(|| outcome.revoked_serials.join(", "));
    let open = (!outcome.open_tokens.is_empty()).then(|| {
        format!(
            "{} (a daemon that has one enrols again: prexorctl token revoke)",
            outcome.open_tokens.join(", ")
        )
    });
    let tokens = (!outcome.revoked_tokens.is_empty()).then(|| outcome.revoked_tokens.join(", "));
    output.facts(&[
        ("node", Some(id.to_owned())),
        (
            "status",
            (!outcome.status.is_empty()).then(|| outcome.status.clone()),
        ),
        (
            "stopping",
            outcome.stopping.map(|count| format!("{count} instances")),
        ),
        (
            "acknowledged",
            outcome
                .acknowledged
                .map(|yes| if yes { "yes" } else { "not yet" }.to_owned()),
        ),
        ("revoked", revoked),
        ("tokens", tokens),
        ("still good", open),
        (
            "closed",
            outcome
                .closed_connections
                // Those that ended when they were asked to are not among them.
                .filter(|count| *count > 0)
                .map(|count| format!("{count} connections")),
        ),
    ])
}

/// Whether an instance in this state has no process any more
pub(super) fn has_ended(state: &str) -> bool {
    matches!(state, "STOPPED" | "CRASHED")
}

/// How many came of what its daemon has logged, and how many did not
fn log_records(node: &Node) -> Option<String> {
    let logs = node.logs?;
    Some(match logs.lost {
        0 => logs.received.to_string(),
        lost => format!("{}, {lost} lost", logs.received),
    })
}

fn cpu(node: &Node) -> Option<String> {
    node.cpu_usage.map(|percent| format!("{percent:.0}%"))
}

fn memory(node: &Node) -> Option<String> {
    let total = node.total_memory_mb?;
    Some(format!("{} / {total} MiB", node.used_memory_mb.unwrap_or(0)))
}
