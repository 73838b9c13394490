//! `prexorctl template`

mod staging;
mod transfer;
mod variable;

use serde_json::{Value, json};

use crate::arguments::TemplateCommand;
use crate::client::Client;
use crate::failure::Failure;
use crate::output::{Output, or_dash};
use crate::resource::{Template, TemplateDifference, TemplateVersion};

pub(super) async fn run(command: TemplateCommand, client: &Client, output: &Output) -> Result<(), Failure> {
    match command {
        TemplateCommand::Create {
            name,
            description,
            platform,
        } => {
            let body = json!({ "name": name, "description": description, "platform": platform });
            let answer = client.post::<Value>(&["templates"], &[], Some(&body)).await?;
            if output.is_json() {
                return output.json(&answer.json);
            }
            output.text(&format!(
                "{name} is there, and empty. Fill it: prexorctl template push DIR --name {name}"
            ))
        }
        TemplateCommand::List => list(client, output).await,
        TemplateCommand::Push { dir, name } => transfer::push(&dir, name, client, output).await,
        TemplateCommand::Pull { name, dir, version } => {
            transfer::pull(&name, &dir, version.as_deref(), client, output).await
        }
        TemplateCommand::Versions { name } => versions(&name, client, output).await,
        TemplateCommand::Diff { name, from, to } => {
            difference(&name, from.as_deref(), to.as_deref(), client, output).await
        }
        TemplateCommand::Rollback { name, to } => rollback(&name, to.as_deref(), client, output).await,
        TemplateCommand::Delete { name, force } => {
            let condition = (!force).then(|| ("ifUnused", true.to_string()));
            let query: Vec<_> = condition.into_iter().collect();
            let deleted = client.delete_if(&["templates", &name], &query).await;
            deleted.map_err(|failure| match failure {
                Failure::Refused {
                    status: status @ 409,
                    code,
                    message,
                } => Failure::Refused {
                    status,
                    code,
                    message: format!("{message}: prexorctl template delete {name} --force"),
                },
                failure => failure,
            })?;
            if output.is_json() {
                return output.json(&json!({ "name": name, "status": "DELETED" }));
            }
            output.text(&format!("{name} is deleted; what was started from it runs on"))
        }
        TemplateCommand::Var(command) => variable::run(command, client, output).await,
    }
}

async fn list(client: &Client, output: &Output) -> Result<(), Failure> {
    let answer = client.get::<Vec<Template>>(&["templates"], &[]).await?;
    if output.is_json() {
        return output.json(&answer.json);
    }
    let rows = answer
        .value
        .into_iter()
        .map(|template| {
            vec![
                template.name,
                short(&template.hash),
                size(template.size_bytes),
                output.ago(template.updated_at.as_deref()),
                template.description,
            ]
        })
        .collect();
    output.table(
        &["NAME", "HASH", "SIZE", "CHANGED", "DESCRIPTION"],
        rows,
        "There are no templates. Create one: prexorctl template create NAME",
    )
}

async fn versions(name: &str, client: &Client, output: &Output) -> Result<(), Failure> {
    let answer = client
        .get::<Vec<TemplateVersion>>(&["templates", name, "versions"], &[])
        .await?;
    if output.is_json() {
        return output.json(&answer.json);
    }
    let is_damaged = answer.value.iter().any(|version| version.damaged);
    let rows = answer
        .value
        .into_iter()
        .map(|version| {
            let notes = [(version.current, "current"), (version.damaged, "damaged")];
            let notes: Vec<_> = notes
                .into_iter()
                .filter_map(|(is, note)| is.then_some(note))
                .collect();
            vec![
                version.number.to_string(),
                short(&version.hash),
                size(version.size_bytes),
                version.files.to_string(),
                output.ago(version.created_at.as_deref()),
                version.created_by,
                notes.join(", "),
            ]
        })
        .collect();
    output.table(
        &["#", "HASH", "SIZE", "FILES", "CREATED", "BY", ""],
        rows,
        "Nothing was pushed. Push a folder: prexorctl template push DIR",
    )?;
    if is_damaged {
        output.text(&format!(
            "The controller's disk has lost which files the damaged ones have, and until that is mended the controller deletes no bytes of templates: push the same files again (prexorctl template pull {name} DIR --version NUMBER may still bring them; afterwards, back to what counted: prexorctl template rollback {name}), or delete the template."
        ))?;
    }
    Ok(())
}

/// The whole digest of a version that is named by its number or the beginning of its digest
async fn resolve(name: &str, wanted: &str, client: &Client) -> Result<String, Failure> {
    let versions = client
        .get::<Vec<TemplateVersion>>(&["templates", name, "versions"], &[])
        .await?
        .value;
    let number = wanted.parse::<u64>().ok().filter(|_| wanted.len() < 7);
    let mut found: Vec<String> = versions
        .into_iter()
        .filter(|version| match number {
            Some(number) => version.number == number,
            None => !wanted.is_empty() && version.hash.starts_with(wanted),
        })
        .map(|version| version.hash)
        .collect();
    found.sort_unstable();
    found.dedup();
    match (found.pop(), found.is_empty()) {
        (Some(hash), true) => Ok(hash),
        (Some(_), false) => Err(Failure::Usage {
            message: format!(
                "several versions of {name} begin with {wanted:?}; write more of the one you mean"
            ),
        }),
        (None, _) => Err(Failure::NoSuch {
            message: format!("{name} has no version {wanted:?}; see prexorctl template versions {name}"),
        }),
    }
}

async fn resolve_some(name: &str, wanted: Option<&str>, client: &Client) -> Result<Option<String>, Failure> {
    match wanted {
        Some(wanted) => resolve(name, wanted, client).await.map(Some),
        None => Ok(None),
    }
}

async fn difference(
    name: &str,
    from: Option<&str>,
    to: Option<&str>,
    client: &Client,
    output: &Output,
) -> Result<(), Failure> {
    let from = resolve_some(name, from, client).await?;
    let to = resolve_some(name, to, client).await?;
    let query = super::query(&[("from", from.as_ref()), ("to", to.as_ref())]);
    let answer = client
        .get::<TemplateDifference>(&["templates", name, "diff"], &query)
        .await?;
    if output.is_json() {
        return output.json(&answer.json);
    }
    let difference = answer.value;
    let more = difference.total.saturating_sub(difference.changes.len() as u64);
    let rows = difference
        .changes
        .into_iter()
        .map(|change| {
            let sizes = [change.size_before, change.size_after].map(|size_of| or_dash(size_of.map(size)));
            let [before, after] = sizes;
            vec![change.change, change.path, before, after]
        })
        .collect();
    output.table(
        &["CHANGE", "PATH", "BEFORE", "AFTER"],
        rows,
        "These versions hold the same.",
    )?;
    if more > 0 {
        return output.text(&format!("and {more} more"));
    }
    Ok(())
}

async fn rollback(name: &str, to: Option<&str>, client: &Client, output: &Output) -> Result<(), Failure> {
    let hash = resolve_some(name, to, client).await?;
    let body = hash.map(|hash| json!({ "hash": hash }));
    let answer = client
        .post::<Value>(&["templates", name, "rollback"], &[], body.as_ref())
        .await?;
    if output.is_json() {
        return output.json(&answer.json);
    }
    let hash = answer.value["hash"].as_str().unwrap_or_default();
    let number = &answer.value["version"];
    output.text(&format!(
        "{name} is version {number} again ({}); what runs keeps the version that it was started with",
        short(hash)
    ))
}

/// As much of a digest as people compare
pub(super) fn short(hash: &str) -> String {
    match hash.get(..12) {
        Some(beginning) => beginning.to_owned(),
        None if hash.is_empty() => "-".to_owned(),
        None => hash.to_owned(),
    }
}

fn size(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}
