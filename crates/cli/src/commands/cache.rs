//! `prexorctl node cache`

use std::time::Duration;

use serde_json::{Map, Value};

use crate::arguments::CacheCommand;
use crate::client::{Answer, Client};
use crate::failure::Failure;
use crate::output::{Output, or_dash};
use crate::printable;
use crate::resource::{NodeCache, Outcome, Warming};

use super::{Sight, wait_for};

pub(super) async fn run(command: CacheCommand, client: &Client, output: &Output) -> Result<(), Failure> {
    match command {
        CacheCommand::Show { id } => show(&id, &look(&id, client).await?, output),
        CacheCommand::Refresh { id, timeout } => {
            let asked = client
                .post::<NodeCache>(&["nodes", &id, "cache", "refresh"], &[], None)
                .await?;
            let before = asked.value.number;
            let awaited = format!("the answer of {id}");
            let told = wait_for(awaited, Duration::from_secs(timeout), async || {
                let now = look(&id, client).await?;
                Ok(match now.value.number > before {
                    true => Sight::There(now),
                    false => Sight::NotYet("nothing since it was asked".to_owned()),
                })
            });
            show(&id, &told.await?, output)
        }
        CacheCommand::Warm {
            id,
            groups,
            templates,
            no_wait,
            timeout,
        } => {
            let mut body = Map::new();
            for (name, named) in [("groups", groups), ("templates", templates)] {
                if !named.is_empty() {
                    body.insert(name.to_owned(), named.into());
                }
            }
            let body = Value::Object(body);
            let asked = client
                .post::<Outcome>(&["nodes", &id, "cache", "warm"], &[], Some(&body))
                .await?;
            if no_wait {
                if output.is_json() {
                    return output.json(&asked.json);
                }
                return output.text(&format!("{id} fetches them; see prexorctl node cache show {id}"));
            }
            let timeout = Duration::from_secs(timeout);
            let ended = wait_for(format!("{id} having fetched them"), timeout, async || {
                let now = look(&id, client).await?;
                let state = now.value.warming.as_ref().map(|warming| warming.state.clone());
                Ok(match state.as_deref() {
                    Some("WARMING") => Sight::NotYet("WARMING".to_owned()),
                    _ => Sight::There(now),
                })
            });
            let ended = ended.await?;
            show(&id, &ended, output)?;
            judge(&id, ended.value.warming)
        }
    }
}

async fn look(id: &str, client: &Client) -> Result<Answer<NodeCache>, Failure> {
    client.get::<NodeCache>(&["nodes", id, "cache"], &[]).await
}

/// Whether the node has what it was told to have
fn judge(id: &str, warming: Option<Warming>) -> Result<(), Failure> {
    let warming = warming.unwrap_or_default();
    let message = match warming.state.as_str() {
        "WARMED" | "SENT" => return Ok(()),
        "BUSY" => format!("{id} is still fetching for an earlier order, try again"),
        "LOST" => format!("the connection to {id} broke before it said what came of it"),
        "UNANSWERED" => format!("{id} has not said what came of it"),
        _ => format!("{id} could not fetch all of it"),
    };
    Err(Failure::Partly { message })
}

fn show(id: &str, answer: &Answer<NodeCache>, output: &Output) -> Result<(), Failure> {
    if output.is_json() {
        return output.json(&answer.json);
    }
    let cache = &answer.value;
    if cache.received_at.is_none() {
        output.text(&format!(
            "{id} has not said what it keeps since the controller started: prexorctl node cache refresh {id}"
        ))?;
    }
    let size = |bytes: i64| indicatif::HumanBytes(bytes.unsigned_abs()).to_string();
    let mut rows = Vec::new();
    for template in &cache.templates {
        // As `template versions` shows it; an archive of no version is shown by its own hash.
        let version = match (template.version, &template.version_hash) {
            (Some(number), Some(hash)) => format!("{number} ({})", super::template::short(hash)),
            _ => {
                let hash = template.hash.get(..12).unwrap_or(&template.hash);
                or_dash(Some(hash).filter(|hash| !hash.is_empty()))
            }
        };
        rows.push(vec![
            "template".to_owned(),
            template.name.clone(),
            version,
            size(template.size_bytes),
            output.ago(template.last_used.as_deref()),
        ]);
    }
    for jar in &cache.jars {
        rows.push(vec![
            "jar".to_owned(),
            jar.jar_file.clone(),
            format!("{} {}", jar.platform, jar.version).trim().to_owned(),
            size(jar.size_bytes),
            output.ago(jar.cached_at.as_deref()),
        ]);
    }
    for bootstrap in &cache.bootstraps {
        rows.push(vec![
            "bootstrap".to_owned(),
            bootstrap.config_format.clone(),
            bootstrap.version.clone(),
            size(bootstrap.size_bytes),
            "-".to_owned(),
        ]);
    }
    if cache.received_at.is_some() {
        output.table(
            &["KIND", "NAME", "VERSION", "SIZE", "USED"],
            rows,
            "It keeps nothing.",
        )?;
        output.facts(&[
            ("total", Some(size(cache.total_size_bytes))),
            ("as of", output.moment(cache.received_at.as_deref())),
        ])?;
    }
    let Some(warming) = &cache.warming else {
        return Ok(());
    };
    let told = match warming.state.as_str() {
        "SENT" => "sent to a daemon that does not say what comes of it".to_owned(),
        state => state.to_owned(),
    };
    output.facts(&[
        (
            "last order",
            Some(format!(
                "{} jars, {} templates: {told}",
                warming.runtimes, warming.templates
            )),
        ),
        ("given", output.moment(Some(&warming.began_at))),
        ("ended", output.moment(warming.ended_at.as_deref())),
    ])?;
    for failure in &warming.failures {
        output.text(&format!(
            "{}: {}",
            printable::short(&failure.what, 128),
            printable::short(&failure.message, 400)
        ))?;
    }
    Ok(())
}
