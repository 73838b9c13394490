//! `prexorctl group`

use serde_json::{Map, Value, json};

use crate::arguments::{GroupCommand, GroupFields};
use crate::client::{Answer, Client};
use crate::failure::Failure;
use crate::output::{Output, or_dash};
use crate::resource::{Group, GroupPage, Scaling, StoppedGroup};

use super::instance::{absolute, readiness, start_group};
use super::pairs;

pub(super) async fn run(command: GroupCommand, client: &Client, output: &Output) -> Result<(), Failure> {
    match command {
        GroupCommand::Create { name, fields } => {
            let mut body = described(*fields)?;
            body.insert("name".to_owned(), name.into());
            let body = Value::Object(body);
            let answer = client.post::<Group>(&["groups"], &[], Some(&body)).await?;
            show(&answer, output)
        }
        GroupCommand::List { filter } => list(filter.as_deref(), client, output).await,
        GroupCommand::Info { name } => {
            let answer = client.get::<Group>(&["groups", &name], &[]).await?;
            show(&answer, output)
        }
        GroupCommand::Update {
            name,
            fields,
            unset,
            if_revision,
            dry_run,
        } => {
            let mut body = described(*fields)?;
            for field in unset {
                remove(&mut body, &field);
            }
            if body.is_empty() {
                return Err(usage("nothing is changed: see prexorctl group update --help"));
            }
            if dry_run {
                return plan(&name, Some(&Value::Object(body)), client, output).await;
            }
            // Whoever changes it between this look and the change is not overruled.
            let seen = match if_revision {
                Some(seen) => seen,
                None => client.get::<Group>(&["groups", &name], &[]).await?.value.revision,
            };
            let body = Value::Object(body);
            let answer = client.patch::<Group>(&["groups", &name], &body, seen).await?;
            show(&answer, output)
        }
        GroupCommand::Plan { name } => plan(&name, None, client, output).await,
        GroupCommand::Scale {
            name,
            servers,
            dry_run,
        } => {
            if dry_run {
                let body = json!({ "minInstances": servers });
                return plan(&name, Some(&body), client, output).await;
            }
            let body = json!({ "instances": servers });
            let path = ["groups", name.as_str(), "scale"];
            show(&client.post::<Group>(&path, &[], Some(&body)).await?, output)
        }
        GroupCommand::Start {
            name,
            count,
            variables,
            variable_files,
        } => {
            let variables = pairs::variables(&variables, &variable_files)?;
            start_group(&name, count, variables, None, client, output).await
        }
        GroupCommand::Stop { name } => {
            let answer = client
                .post::<StoppedGroup>(&["groups", &name, "stop"], &[], None)
                .await?;
            if output.is_json() {
                return output.json(&answer.json);
            }
            let stopped = answer.value.instances;
            output.text(&format!(
                "{name} is paused, and {} of its servers are being stopped: prexorctl group resume {name}",
                stopped.len()
            ))
        }
        GroupCommand::Pause { name } => {
            let path = ["groups", name.as_str(), "pause"];
            show(&client.post::<Group>(&path, &[], None).await?, output)
        }
        GroupCommand::Resume { name } => {
            let path = ["groups", name.as_str(), "resume"];
            show(&client.post::<Group>(&path, &[], None).await?, output)
        }
        GroupCommand::Delete { name } => {
            client.delete(&["groups", &name]).await?;
            if output.is_json() {
                return output.json(&json!({ "name": name, "status": "DELETED" }));
            }
            output.text(&format!("{name} is deleted"))
        }
    }
}

fn usage(message: impl Into<String>) -> Failure {
    Failure::Usage {
        message: message.into(),
    }
}

/// The fields that were given, as the controller takes them
fn described(fields: GroupFields) -> Result<Map<String, Value>, Failure> {
    let mut body = Map::new();
    for other in &fields.others {
        let (name, text) = pairs::pair(other, "--set").map_err(|_| usage("--set: FIELD=JSON is expected"))?;
        let value = serde_json::from_str(&text).unwrap_or(Value::String(text));
        body.insert(name, value);
    }
    let environment = pairs::environment(fields.env_file.as_deref(), &fields.environment)?;
    let variables = pairs::variables(&fields.variables, &fields.variable_files)?;
    let mut patches = Map::new();
    for patch in &fields.patches {
        let parts = patch.split_once(':').and_then(|(file, rest)| {
            let (key, value) = rest.split_once('=')?;
            (!file.is_empty() && !key.is_empty()).then_some((file, key, value))
        });
        let (file, key, value) = parts.ok_or_else(|| usage("--patch: FILE:KEY=VALUE is expected"))?;
        patches
            .entry(file)
            .or_insert_with(|| json!({}))
            .as_object_mut()
            .map(|keys| keys.insert(key.to_owned(), value.into()));
    }
    let jar = fields.jar.as_deref().map(absolute).transpose()?;
    let texts = |texts: Vec<String>| (!texts.is_empty()).then(|| Value::from(texts));
    let map = |map: Map<String, Value>| (!map.is_empty()).then_some(Value::Object(map));
    let given = [
        ("platform", fields.platform.map(Value::from)),
        ("platformVersion", fields.platform_version.map(Value::from)),
        ("jar", jar.map(Value::from)),
        ("sha256", fields.sha256.map(Value::from)),
        ("jarFile", fields.jar_file.map(Value::from)),
        ("templates", texts(fields.templates)),
        ("variableValues", map(variables)),
        ("configPatches", map(patches)),
        ("static", fields.is_static.map(Value::from)),
        ("staticInstanceNames", texts(fields.static_names)),
        ("protectedPaths", texts(fields.protected)),
        ("memoryMb", fields.memory_mb.map(Value::from)),
        ("jvmArgs", texts(fields.jvm_args)),
        ("arguments", texts(fields.program_arguments)),
        ("stopCommand", fields.stop_command.map(Value::from)),
        ("env", map(environment)),
        ("portRangeStart", fields.port_start.map(Value::from)),
        ("portRangeEnd", fields.port_end.map(Value::from)),
        ("ready", fields.ready.map(readiness)),
        ("startupTimeoutSeconds", fields.startup_timeout.map(Value::from)),
        ("shutdownGraceSeconds", fields.grace.map(Value::from)),
        ("maxLifetimeSeconds", fields.max_lifetime.map(Value::from)),
        ("maxPlayers", fields.max_players.map(Value::from)),
        ("maxInstances", fields.max.map(Value::from)),
        ("minInstances", fields.min.map(Value::from)),
        ("scalingMode", fields.scaling_mode.map(Value::from)),
        ("routing", fields.routing.map(Value::from)),
        ("nodeAffinity", texts(fields.affinity)),
        ("nodeAntiAffinity", texts(fields.anti_affinity)),
    ];
    for (name, value) in given {
        let Some(value) = value else { continue };
        if body.insert(name.to_owned(), value).is_some() {
            return Err(usage(format!(
                "{name} is given twice: by --set, and by its own option"
            )));
        }
    }
    Ok(body)
}

/// Asks for a field, or for one entry of it, to be as if nobody had set it
fn remove(body: &mut Map<String, Value>, field: &str) {
    let Some((field, entry)) = field.split_once('.') else {
        body.insert(field.to_owned(), Value::Null);
        return;
    };
    let change = body.entry(field).or_insert_with(|| json!({}));
    if let Some(entries) = change.as_object_mut() {
        match entry.split_once(':') {
            Some((file, key)) => {
                let keys = entries.entry(file).or_insert_with(|| json!({}));
                keys.as_object_mut()
                    .map(|keys| keys.insert(key.to_owned(), Value::Null));
            }
            None => drop(entries.insert(entry.to_owned(), Value::Null)),
        }
    }
}

/// What is about to be done about the servers of a group, or would be after a change
async fn plan(name: &str, changes: Option<&Value>, client: &Client, output: &Output) -> Result<(), Failure> {
    let path = ["groups", name, "plan"];
    let answer = match changes {
        None => client.get::<Scaling>(&path, &[]).await?,
        Some(changes) => client.post::<Scaling>(&path, &[], Some(changes)).await?,
    };
    if output.is_json() {
        return output.json(&answer.json);
    }
    let scaling = answer.value;
    let mut facts = vec![("name", Some(name.to_owned()))];
    facts.extend(about(&scaling, output));
    output.facts(&facts)?;
    if scaling.steps.is_empty() {
        return output.text("nothing is to be started or stopped now");
    }
    let rows = scaling.steps.into_iter();
    let rows = rows.map(|step| vec![step.action, step.instance, step.reason]);
    output.table(&["ACTION", "INSTANCE", "REASON"], rows.collect(), "")
}

/// The facts about the number of servers
fn about(scaling: &Scaling, output: &Output) -> Vec<(&'static str, Option<String>)> {
    let refused = scaling.refused.as_ref().map(|refused| {
        let at = output.moment(scaling.refused_at.as_deref());
        format!("{refused} ({})", at.unwrap_or_default())
    });
    vec![
        (
            "scaling",
            (!scaling.state.is_empty()).then(|| {
                format!(
                    "{}: {} of {} servers",
                    scaling.state, scaling.serving, scaling.desired
                )
            }),
        ),
        (
            "because",
            (!scaling.reasons.is_empty()).then(|| scaling.reasons.join("; ")),
        ),
        ("paused until", output.moment(scaling.paused_until.as_deref())),
        ("refused", refused),
    ]
}

async fn list(filter: Option<&str>, client: &Client, output: &Output) -> Result<(), Failure> {
    let mut groups = Vec::new();
    for page in 1_u32.. {
        let query = [("page", page.to_string())];
        let answer = client.get::<GroupPage>(&["groups"], &query).await?;
        let is_last = answer.value.data.len() < answer.value.page_size;
        let json = answer.json["data"].as_array().cloned().unwrap_or_default();
        groups.extend(answer.value.data.into_iter().zip(json));
        if is_last {
            break;
        }
    }
    groups.retain(|(group, _)| filter.is_none_or(|text| group.name.contains(text)));
    if output.is_json() {
        let all: Vec<Value> = groups.into_iter().map(|(_, json)| json).collect();
        return output.json(&all.into());
    }
    let rows = groups
        .into_iter()
        .map(|(group, _)| {
            vec![
                group.name,
                or_dash(Some(group.platform).filter(|platform| !platform.is_empty())),
                or_dash(Some(group.platform_version).filter(|version| !version.is_empty())),
                format!("{} / {}", group.live_instances, group.max_instances),
                group.total_players.to_string(),
                format!("{} MiB", group.memory_mb),
                output.ago(group.updated_at.as_deref()),
            ]
        })
        .collect();
    let nothing = match filter {
        Some(_) => "No group matches.",
        None => "There are no groups. Create one: prexorctl group create NAME --jar URL|PATH",
    };
    output.table(
        &[
            "NAME",
            "PLATFORM",
            "VERSION",
            "INSTANCES",
            "PLAYERS",
            "MEMORY",
            "CHANGED",
        ],
        rows,
        nothing,
    )
}

fn show(answer: &Answer<Group>, output: &Output) -> Result<(), Failure> {
    if output.is_json() {
        return output.json(&answer.json);
    }
    let group = &answer.value;
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let texts = |texts: &[String]| (!texts.is_empty()).then(|| texts.join(", "));
    let mut environment: Vec<String> = group.env.keys().chain(&group.hidden_env).cloned().collect();
    environment.sort_unstable();
    let shown = group.variable_values.iter();
    let shown = shown.map(|(key, value)| format!("{key}={value}"));
    let hidden = group.hidden_variables.iter().map(|key| format!("{key}=(hidden)"));
    let variables: Vec<String> = shown.chain(hidden).collect();
    let patches = group.config_patches.iter().flat_map(|(file, keys)| {
        keys.iter()
            .map(move |(key, value)| format!("{file}:{key}={value}"))
    });
    let patches: Vec<String> = patches.collect();
    let seconds = |seconds: u64| (seconds > 0).then(|| format!("{seconds} s"));
    let mut facts = vec![
        ("name", Some(group.name.clone())),
        ("platform", text(&group.platform)),
        ("version", text(&group.platform_version)),
        (
            "jar",
            text(&group.jar).or_else(|| Some(format!("{} of a template", group.jar_file))),
        ),
        ("templates", texts(&group.templates)),
        ("variables", texts(&variables)),
        ("patches", texts(&patches)),
        ("static", group.is_static.then(|| "yes".to_owned())),
        ("static names", texts(&group.static_instance_names)),
        ("protected", texts(&group.protected_paths)),
        ("memory", Some(format!("{} MiB", group.memory_mb))),
        (
            "jvm args",
            (!group.jvm_args.is_empty()).then(|| group.jvm_args.join(" ")),
        ),
        (
            "arguments",
            group
                .arguments
                .as_ref()
                .map(|arguments| match arguments.is_empty() {
                    true => "none".to_owned(),
                    false => arguments.join(" "),
                }),
        ),
        ("stop command", text(&group.stop_command)),
        ("environment", texts(&environment)),
        (
            "ports",
            Some(format!("{} to {}", group.port_range_start, group.port_range_end)),
        ),
        ("startup", seconds(group.startup_timeout_seconds)),
        ("grace", seconds(group.shutdown_grace_seconds)),
        ("lifetime", seconds(group.max_lifetime_seconds)),
        (
            "instances",
            Some(format!(
                "{} live, {} running, at most {}",
                group.live_instances, group.running_instances, group.max_instances
            )),
        ),
        ("players", Some(group.total_players.to_string())),
    ];
    facts.extend(about(&group.scaling, output));
    facts.extend([
        ("not in effect", texts(&group.not_in_effect)),
        ("changed", output.moment(group.updated_at.as_deref())),
        ("revision", Some(group.revision.to_string())),
    ]);
    output.facts(&facts)
}
