//! `prexorctl instance`

use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::arguments::{InstanceCommand, ReadyRule, StartArguments};
use crate::client::Client;
use crate::failure::Failure;
use crate::output::{Output, or_dash, span};
use crate::printable;
use crate::resource::{Crash, Instance, Outcome};
use crate::settings::without_mark;

use super::node::has_ended;
use super::{Sight, console, files, more, query, wait_for};

/// How long the reason of an end may take to follow it
const REASON_WITHIN: Duration = Duration::from_secs(5);

const LARGEST_ENV_FILE: u64 = 256 * 1024;

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
    let body = start_order(arguments)?;
    let mut answer = client.post::<Instance>(&["instances"], &[], Some(&body)).await?;
    if let Some(timeout) = wait {
        let id = answer.value.id.clone();
        let incarnation = answer.value.incarnation;
        let mut ended_at = None;
        let mut progress = Progress::default();
        answer = wait_for(
            format!("{} becoming RUNNING", printable::line(&id)),
            timeout,
            async || {
                let now = client.get::<Instance>(&["instances", &id], &[]).await?;
                let state = now.value.state.clone();
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
                        instance: printable::short(&id, 64),
                        state: printable::short(&state, 64),
                        awaited: "RUNNING".to_owned(),
                        reason: Some(printable::short(&reason, 400)),
                    });
                }
                progress.show(&now.value);
                Ok(Sight::NotYet(standing(&now.value)))
            },
        )
        .await?;
    }
    if output.is_json() {
        return output.json(&answer.json);
    }
    show(&answer.value, output)
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

fn start_order(arguments: StartArguments) -> Result<Value, Failure> {
    let mut environment = Map::new();
    if let Some(file) = &arguments.env_file {
        for (number, line) in without_mark(&read_env_file(file)?).lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, value) = variable(line, &format!("{} line {}", file.display(), number + 1))?;
            environment.insert(name, value.into());
        }
    }
    for pair in &arguments.environment {
        let (name, value) = variable(pair, "--env")?;
        environment.insert(name, value.into());
    }
    let mut variables = Map::new();
    for pair in &arguments.variables {
        let (name, value) = variable(pair, "--var")?;
        variables.insert(name, value.into());
    }

    let mut body = Map::new();
    let mut set = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            body.insert(name.to_owned(), value);
        }
    };
    set("group", Some(arguments.group.into()));
    set("jar", Some(absolute(&arguments.jar)?.into()));
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
    set(
        "ready",
        arguments.ready.map(|rule| match rule {
            ReadyRule::Port => "port".into(),
            ReadyRule::Plugin => "plugin".into(),
            ReadyRule::Line(line) => json!({ "line": line }),
        }),
    );
    set(
        "startupTimeoutSeconds",
        arguments.startup_timeout.map(Value::from),
    );
    set("shutdownGraceSeconds", arguments.grace.map(Value::from));
    set("maxLifetimeSeconds", arguments.max_lifetime.map(Value::from));
    Ok(Value::Object(body))
}

/// A path is one on the node, which knows nothing of the folder that this program was started in
fn absolute(jar: &str) -> Result<String, Failure> {
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

/// Splits `NAME=VALUE`; the value never appears in a message
fn variable(pair: &str, place: &str) -> Result<(String, String), Failure> {
    match pair.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(Failure::Usage {
            message: format!("{place}: NAME=VALUE is expected"),
        }),
    }
}

fn read_env_file(file: &Path) -> Result<String, Failure> {
    let unusable = |reason: String| Failure::Usage {
        message: format!("cannot read {}: {reason}", file.display()),
    };
    let mut text = String::new();
    std::fs::File::open(file)
        .and_then(|opened| opened.take(LARGEST_ENV_FILE + 1).read_to_string(&mut text))
        .map_err(|error| unusable(error.to_string()))?;
    if text.len() as u64 > LARGEST_ENV_FILE {
        return Err(unusable("it is larger than 256 KiB".to_owned()));
    }
    Ok(text)
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
    let rows = answer
        .value
        .into_iter()
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
    let nothing = if wanted.is_empty() {
        "There are no instances. Start one: prexorctl instance start GROUP --jar PATH"
    } else {
        "No instance matches."
    };
    output.table(
        &["ID", "GROUP", "NODE", "STATE", "PORT", "PLAYERS", "UPTIME"],
        rows,
        nothing,
    )?;
    more(answer.next.as_deref(), output)
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
