//! `prexorctl instance`

use std::io::{self, Write as _};
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::arguments::{InstanceCommand, ReadyRule, StartArguments};
use crate::client::{Answer, Client};
use crate::failure::Failure;
use crate::output::{Output, or_dash, span};
use crate::printable;
use crate::resource::{Crash, Instance, Outcome, Started};

use super::node::has_ended;
use super::{Sight, console, files, more, pairs, query, wait_for};

/// How long the reason of an end may take to follow it
const REASON_WITHIN: Duration = Duration::from_secs(5);

pub(super) async fn run(command: InstanceCommand, client: &Client, output: &Output) -> Result<(), Failure> {
    match command {
        InstanceCommand::Start(arguments) => start(*arguments, client, output).await,
        InstanceCommand::Stop {
            id,
            force,
            wait,
            timeout,
        } => {
            let timeout = wait.then(|| Duration::from_secs(timeout));
            stop(&id, force, timeout, client, output).await
        }
        InstanceCommand::List {
            group,
            node,
            state,
            limit,
            cursor,
        } => {
            let limit = limit.map(|limit| limit.to_string());
            let state = state.map(|state| state.to_ascii_uppercase());
            let wanted = query(&[
                ("group", group.as_ref()),
                ("node", node.as_ref()),
                ("state", state.as_ref()),
                ("limit", limit.as_ref()),
                ("cursor", cursor.as_ref()),
            ]);
            list(&wanted, client, output).await
        }
        InstanceCommand::Show { id } => {
            let answer = client.get::<Instance>(&["instances", &id], &[]).await?;
            if output.is_json() {
                return output.json(&answer.json);
            }
            show(&answer.value, output)
        }
        InstanceCommand::Console(arguments) => {
            console::run(&arguments, arguments.input, client, output).await
        }
        InstanceCommand::Attach(arguments) => console::run(&arguments, true, client, output).await,
        InstanceCommand::Exec { id, words } => exec(&id, &words.join(" "), client, output).await,
        InstanceCommand::Files(command) => files::run(command, client, output).await,
        InstanceCommand::Ready { id } => {
            let answer = client
                .post::<Outcome>(&["instances", &id, "ready"], &[], None)
                .await?;
            if output.is_json() {
                return output.json(&answer.json);
            }
            output.text(&format!("Said that {id} is ready: prexorctl instance show {id}"))
        }
        InstanceCommand::Delete { id } => {
            client.delete(&["instances", &id]).await?;
            if output.is_json() {
                return output.json(&json!({ "id": id, "status": "DELETED" }));
            }
            output.text(&format!("{id} is deleted"))
        }
    }
}

async fn start(arguments: StartArguments, client: &Client, output: &Output) -> Result<(), Failure> {
    let wait = arguments.wait.then(|| Duration::from_secs(arguments.timeout));
    let Some(jar) = arguments.jar.clone() else {
        let variables = pairs::variables(&arguments.variables, &arguments.variable_files)?;
        let StartArguments { group, count, .. } = arguments;
        return start_group(&group, count, variables, wait, client, output).await;
    };
    let body = start_order(arguments, &jar)?;
    let mut answer = client.post::<Instance>(&["instances"], &[], Some(&body)).await?;
    if let Some(timeout) = wait {
        answer = running(&answer.value, timeout, client).await?;
    }
    if output.is_json() {
        return output.json(&answer.json);
    }
    show(&answer.value, output)
}

/// Starts what a group says
pub(super) async fn start_group(
    group: &str,
    count: u32,
    variables: Map<String, Value>,
    wait: Option<Duration>,
    client: &Client,
    output: &Output,
) -> Result<(), Failure> {
    let body = json!({ "count": count, "variables": variables });
    let started = client
        .post::<Started>(&["groups", group, "start"], &[], Some(&body))
        .await?;
    let mut instances = Vec::new();
    for id in &started.value.instances {
        instances.push(client.get::<Instance>(&["instances", id], &[]).await?);
    }
    if let Some(timeout) = wait {
        for instance in &mut instances {
            *instance = running(&instance.value, timeout, client).await?;
        }
    }
    match &instances[..] {
        _ if output.is_json() => output.json(&started.json)?,
        [one] => show(&one.value, output)?,
        _ => table(instances.into_iter().map(|answer| answer.value), "", output)?,
    }
    match started.value.refused {
        Some(refused) => Err(Failure::Partly {
            message: printable::short(&refused, 400),
        }),
        None => Ok(()),
    }
}

/// Waits until this start of an instance is RUNNING, or cannot be any more
async fn running(
    started: &Instance,
    timeout: Duration,
    client: &Client,
) -> Result<Answer<Instance>, Failure> {
    let (id, incarnation) = (&started.id, started.incarnation);
    let mut ended_at = None;
    let mut progress = Progress::default();
    wait_for(
        format!("{} becoming RUNNING", printable::line(id)),
        timeout,
        async || {
            let now = client.get::<Instance>(&["instances", id], &[]).await?;
            let state = now.value.state.clone();
            if incarnation.is_some() && now.value.incarnation > incarnation {
                let id = printable::short(id, 64);
                return Err(Failure::Partly {
                    message: format!(
                        "this start of {id} has ended, and its group has started it anew, with the group's values of variables; it is {} now. Why the first one ended: prexorctl logs controller, or prexorctl crash list --instance {id}",
                        printable::short(&state, 64)
                    ),
                });
            }
            if state == "RUNNING" {
                return Ok(Sight::There(now));
            }
            if has_ended(&state) && now.value.incarnation == incarnation {
                let since = *ended_at.get_or_insert_with(Instant::now);
                let is_final = since.elapsed() > REASON_WITHIN;
                let Some(reason) = reason(&now.value, is_final, client).await else {
                    return Ok(Sight::NotYet(printable::short(&state, 64)));
                };
                let has_report = state == "CRASHED" && report(&now.value, client).await.is_some();
                return Err(Failure::Missed {
                    has_report,
                    instance: printable::short(id, 64),
                    state: printable::short(&state, 64),
                    awaited: "RUNNING".to_owned(),
                    reason: Some(printable::short(&reason, 400)),
                });
            }
            progress.show(&now.value);
            Ok(Sight::NotYet(standing(&now.value)))
        },
    )
    .await
}

/// Why an instance has ended, in the controller's words; `None` if that may still come
///
/// The end is known before the report of it: a moment is waited for the reason, and its absence is one, too.
async fn reason(instance: &Instance, is_final: bool, client: &Client) -> Option<String> {
    let noted = instance.last_error.clone().filter(|reason| !reason.is_empty());
    if noted.is_some() {
        return noted;
    }
    if instance.state != "CRASHED" {
        return Some("it was stopped before that".to_owned());
    }
    match report(instance, client).await {
        Some(crash) => {
            let code = crash.exit_code.map(|code| format!("exit code {code}"));
            crash.cause_summary.or(code)
        }
        None if is_final => Some("no crash report says why".to_owned()),
        None => None,
    }
}

/// The report of the crash that has ended this start, if there is one
///
/// Without the permission to see crashes, or the controller for the moment, there is none.
async fn report(instance: &Instance, client: &Client) -> Option<Crash> {
    let wanted = [("instance", instance.id.clone()), ("limit", "1".to_owned())];
    let crashes = client.get::<Vec<Crash>>(&["crashes"], &wanted).await;
    let crash = crashes.ok()?.value.into_iter().next()?;
    let incarnation = crash.incarnation.filter(|of| *of != 0);
    incarnation
        .is_none_or(|of| Some(of) == instance.incarnation)
        .then_some(crash)
}

/// The state, and what is missing until the next one
fn standing(instance: &Instance) -> String {
    let state = printable::short(&instance.state, 64);
    match &instance.detail {
        Some(detail) => format!("{state}: {}", printable::short(detail, 400)),
        None => state,
    }
}

/// What was said while somebody waited
#[derive(Default)]
struct Progress {
    said: Option<String>,
}

impl Progress {
    /// Says on standard error what is missing, once for each thing that is
    fn show(&mut self, instance: &Instance) {
        if instance.detail.is_none() || self.said == instance.detail {
            return;
        }
        self.said.clone_from(&instance.detail);
        let id = printable::short(&instance.id, 64);
        // Whoever cannot hear it still gets the outcome.
        let _ = writeln!(io::stderr(), "{id} is {}", standing(instance));
    }
}

fn start_order(arguments: StartArguments, jar: &str) -> Result<Value, Failure> {
    let environment = pairs::environment(arguments.env_file.as_deref(), &arguments.environment)?;
    let variables = pairs::variables(&arguments.variables, &arguments.variable_files)?;

    let mut body = Map::new();
    let mut set = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            body.insert(name.to_owned(), value);
        }
    };
    set("group", Some(arguments.group.into()));
    set("jar", Some(absolute(jar)?.into()));
    set("sha256", arguments.sha256.map(Value::from));
    set("id", arguments.id.map(Value::from));
    set("node", arguments.node.map(Value::from));
    set("memoryMb", arguments.memory_mb.map(Value::from));
    set(
        "jvmArgs",
        (!arguments.jvm_args.is_empty()).then(|| arguments.jvm_args.into()),
    );
    set(
        "arguments",
        (!arguments.program_arguments.is_empty()).then(|| arguments.program_arguments.into()),
    );
    set("stopCommand", arguments.stop_command.map(Value::from));
    set(
        "env",
        (!environment.is_empty()).then_some(Value::Object(environment)),
    );
    set(
        "templates",
        (!arguments.templates.is_empty()).then(|| arguments.templates.into()),
    );
    set(
        "variables",
        (!variables.is_empty()).then_some(Value::Object(variables)),
    );
    set("port", arguments.port.map(Value::from));
    set("ready", arguments.ready.map(readiness));
    set(
        "startupTimeoutSeconds",
        arguments.startup_timeout.map(Value::from),
    );
    set("shutdownGraceSeconds", arguments.grace.map(Value::from));
    set("maxLifetimeSeconds", arguments.max_lifetime.map(Value::from));
    Ok(Value::Object(body))
}

/// As the controller takes it
pub(super) fn readiness(rule: ReadyRule) -> Value {
    match rule {
        ReadyRule::Port => "port".into(),
        ReadyRule::Plugin => "plugin".into(),
        ReadyRule::Line(line) => json!({ "line": line }),
    }
}

/// A path is one on the node, which knows nothing of the folder that this program was started in
pub(super) fn absolute(jar: &str) -> Result<String, Failure> {
    if jar.starts_with("http://") || jar.starts_with("https://") || jar.starts_with('/') {
        return Ok(jar.to_owned());
    }
    Err(Failure::Usage {
        message: format!(
            "--jar {} must be an http(s) URL or an absolute path on the node",
            printable::short(jar, 200)
        ),
    })
}

async fn stop(
    id: &str,
    force: bool,
    wait: Option<Duration>,
    client: &Client,
    output: &Output,
) -> Result<(), Failure> {
    let query = [("force", force.to_string())];
    let answer = client
        .post::<Outcome>(&["instances", id, "stop"], &query, None)
        .await?;
    let Some(timeout) = wait else {
        if output.is_json() {
            return output.json(&answer.json);
        }
        return output.facts(&[("id", Some(id.to_owned())), ("status", Some(answer.value.status))]);
    };
    let ended = wait_for(format!("the end of {id}"), timeout, async || {
        let now = client.get::<Instance>(&["instances", id], &[]).await?;
        Ok(if has_ended(&now.value.state) {
            Sight::There(now)
        } else {
            Sight::NotYet(printable::short(&now.value.state, 64))
        })
    })
    .await?;
    if output.is_json() {
        return output.json(&ended.json);
    }
    show(&ended.value, output)
}

async fn list(wanted: &[(&str, String)], client: &Client, output: &Output) -> Result<(), Failure> {
    let answer = client.get::<Vec<Instance>>(&["instances"], wanted).await?;
    if output.is_json() {
        return output.json(&answer.json);
    }
    let nothing = if wanted.is_empty() {
        "There are no instances. Start one: prexorctl instance start GROUP, or with --jar PATH without a group"
    } else {
        "No instance matches."
    };
    table(answer.value.into_iter(), nothing, output)?;
    more(answer.next.as_deref(), output)
}

fn table(instances: impl Iterator<Item = Instance>, nothing: &str, output: &Output) -> Result<(), Failure> {
    let rows = instances
        .map(|instance| {
            let uptime = instance.uptime_ms.filter(|uptime| *uptime > 0).map(span);
            vec![
                instance.id,
                instance.group,
                or_dash(instance.node),
                instance.state,
                or_dash(instance.port),
                or_dash(instance.player_count),
                or_dash(uptime),
            ]
        })
        .collect();
    output.table(
        &["ID", "GROUP", "NODE", "STATE", "PORT", "PLAYERS", "UPTIME"],
        rows,
        nothing,
    )
}

fn show(instance: &Instance, output: &Output) -> Result<(), Failure> {
    output.facts(&[
        ("id", Some(instance.id.clone())),
        ("group", Some(instance.group.clone())),
        ("node", instance.node.clone()),
        ("state", Some(instance.state.clone())),
        ("detail", instance.detail.clone()),
        ("desired", instance.desired.clone()),
        ("port", instance.port.map(|port| port.to_string())),
        (
            "incarnation",
            instance.incarnation.map(|number| number.to_string()),
        ),
        ("players", instance.player_count.map(|count| count.to_string())),
        ("memory", instance.memory_mb.map(|mib| format!("{mib} MiB"))),
        (
            "uptime",
            instance.uptime_ms.filter(|uptime| *uptime > 0).map(span),
        ),
        ("created", output.moment(instance.created_at.as_deref())),
        ("started", output.moment(instance.started_at.as_deref())),
        ("started because", instance.started_because.clone()),
        (
            "values",
            instance
                .keeps_values
                .then(|| "those of its start are kept, for when its group brings it back".to_owned()),
        ),
        ("last error", instance.last_error.clone()),
    ])
}

async fn exec(id: &str, line: &str, client: &Client, output: &Output) -> Result<(), Failure> {
    let body = json!({ "command": line });
    let answer = client
        .post::<Outcome>(&["instances", id, "command"], &[], Some(&body))
        .await?;
    if output.is_json() {
        return output.json(&answer.json);
    }
    if answer.value.confirmed == Some(false) {
        let why = answer.value.detail.unwrap_or_default();
        return output.text(&format!(
            "Sent to {id}, unconfirmed: {why}. Look whether it is there before it is sent again: prexorctl instance console {id}"
        ));
    }
    output.text(&format!(
        "Sent to {id}. Its answer is on the console: prexorctl instance console {id}"
    ))
}
