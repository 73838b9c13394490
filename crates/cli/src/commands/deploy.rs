//! `prexorctl deploy`

use serde_json::{Map, Value};

use crate::arguments::{DeployArguments, DeployCommand, DeploymentArguments};
use crate::client::{Answer, Client};
use crate::failure::Failure;
use crate::output::{Output, or_dash};
use crate::resource::{Deployment, DeploymentPage};

use super::confirm::confirm;

pub(super) async fn run(command: DeployCommand, client: &Client, output: &Output) -> Result<(), Failure> {
    match command {
        DeployCommand::Start(arguments) => start(arguments, client, output).await,
        DeployCommand::List { group } => list(&group, client, output).await,
        DeployCommand::Info(which) => {
            let (group, revision) = named(which, client).await?;
            let path = ["groups", &group, "deployments", &revision];
            show(&client.get::<Deployment>(&path, &[]).await?, output)
        }
        DeployCommand::Pause(which) => turn(which, "pause", client, output).await,
        DeployCommand::Resume(which) => turn(which, "resume", client, output).await,
        DeployCommand::Rollback { which, dry_run } => {
            let (group, revision) = named(which, client).await?;
            let path = ["groups", &group, "deployments", &revision, "rollback"];
            let answer = client.post::<Deployment>(&path, &trial(dry_run), None).await?;
            begun(&answer, dry_run, output)
        }
    }
}

fn trial(dry_run: bool) -> Vec<(&'static str, String)> {
    match dry_run {
        true => vec![("dryRun", "true".to_owned())],
        false => Vec::new(),
    }
}

async fn start(arguments: DeployArguments, client: &Client, output: &Output) -> Result<(), Failure> {
    let DeployArguments {
        group,
        batch,
        ready_within,
        dry_run,
        yes,
    } = arguments;
    if !yes && !dry_run {
        confirm(
            &format!("Replace all servers of {group}, one after the other?"),
            &format!("all servers of {group} would be replaced"),
        )?;
    }
    let fields = [("batchSize", batch), ("replacementTimeoutSeconds", ready_within)];
    let body: Map<String, Value> = fields
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?.into())))
        .collect();
    let path = ["groups", &group, "deploy"];
    let answer = client
        .post::<Deployment>(&path, &trial(dry_run), Some(&body.into()))
        .await?;
    begun(&answer, dry_run, output)
}

async fn turn(
    which: DeploymentArguments,
    how: &str,
    client: &Client,
    output: &Output,
) -> Result<(), Failure> {
    let (group, revision) = named(which, client).await?;
    let path = ["groups", &group, "deployments", &revision, how];
    show(&client.post::<Deployment>(&path, &[], None).await?, output)
}

/// The deployment that is meant: without a revision the newest one
async fn named(which: DeploymentArguments, client: &Client) -> Result<(String, String), Failure> {
    let DeploymentArguments { group, revision } = which;
    if let Some(revision) = revision {
        return Ok((group, revision.to_string()));
    }
    let query = [("pageSize", "1".to_owned())];
    let path = ["groups", &group, "deployments"];
    let page = client.get::<DeploymentPage>(&path, &query).await?;
    let newest = page.value.data.first().map(|newest| newest.revision.to_string());
    let newest = newest.ok_or_else(|| Failure::Usage {
        message: format!("{group} was not deployed yet: prexorctl deploy start {group}"),
    })?;
    Ok((group, newest))
}

async fn list(group: &str, client: &Client, output: &Output) -> Result<(), Failure> {
    let path = ["groups", group, "deployments"];
    let answer = client.get::<DeploymentPage>(&path, &[]).await?;
    if output.is_json() {
        return output.json(&answer.json["data"]);
    }
    let rows = answer.value.data.into_iter().map(|one| {
        let what = match one.rollback_of {
            Some(undone) => format!("rollback of {undone}"),
            None => "deployment".to_owned(),
        };
        vec![
            one.revision.to_string(),
            one.state,
            what,
            format!("{} of {}", one.updated_instances, one.total_instances),
            or_dash(Some(one.created_by).filter(|by| !by.is_empty())),
            output.ago(one.created_at.as_deref()),
        ]
    });
    let columns = ["REVISION", "STATE", "WHAT", "SERVERS", "BY", "SINCE"];
    let nothing = format!("{group} was not deployed yet: prexorctl deploy start {group}");
    output.table(&columns, rows.collect(), &nothing)
}

fn begun(answer: &Answer<Deployment>, dry_run: bool, output: &Output) -> Result<(), Failure> {
    if output.is_json() {
        return output.json(&answer.json);
    }
    if !dry_run {
        return show(answer, output);
    }
    let waves = answer.value.waves.iter().enumerate();
    let rows: Vec<Vec<String>> = waves
        .map(|(index, wave)| vec![(index + 1).to_string(), wave.join(", ")])
        .collect();
    output.table(&["STEP", "SERVERS"], rows, "No server would be replaced.")
}

fn show(answer: &Answer<Deployment>, output: &Output) -> Result<(), Failure> {
    if output.is_json() {
        return output.json(&answer.json);
    }
    let one = &answer.value;
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let is_borrowed = one.content_revision.filter(|content| *content != one.revision);
    output.facts(&[
        ("group", Some(one.group_name.clone())),
        ("revision", Some(one.revision.to_string())),
        ("state", Some(one.state.clone())),
        ("because", text(&one.reason)),
        (
            "servers",
            Some(format!(
                "{} of {} have it",
                one.updated_instances, one.total_instances
            )),
        ),
        ("undoes", one.rollback_of.map(|undone| undone.to_string())),
        (
            "brings what",
            is_borrowed.map(|content| match content {
                0 => "there was before the first deployment".to_owned(),
                content => format!("deployment {content} has brought"),
            }),
        ),
        (
            "at a time",
            Some(format!(
                "{}, each ready within {} s",
                one.rollout.batch_size, one.rollout.replacement_timeout_seconds
            )),
        ),
        ("by", text(&one.created_by)),
        ("since", output.moment(one.created_at.as_deref())),
        ("ended", output.moment(one.completed_at.as_deref())),
    ])
}
