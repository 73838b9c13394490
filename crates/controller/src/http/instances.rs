//! `/instances`: start, look, stop, command, delete

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use axum::{Json, body::Bytes, extract::State, http::StatusCode, response::Response};
use prexorcloud_proto::ProgramArguments;
use prexorcloud_protocol::{GroupName, InstanceId, validate::is_refused_variable};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    Api,
    access::Authenticated,
    error::ApiError,
    json::{Body, Id, Params, time, time_unless_never},
    page,
};
use crate::{
    access::Permission,
    audit,
    fleet::{Request, Seen},
    inventory::Outline,
    nodes::{
        CommandResult, GroupSays, Ready, StartOrder, StopAnswer, check_jar, check_sha256, check_stop_command,
    },
    origin::Origin,
    records::Wanted,
    store::Txn,
    templates::Composition,
    wall_clock::now_millis,
};

const DEFAULT_MEMORY_MB: i32 = 512;

/// Longest name of a command
const MAX_REQUEST_ID: usize = 128;

/// Instances that are written before others have their turn
const AT_ONCE: usize = 256;

/// Longest program arguments and environment of one start, in bytes
const MAX_TEXT_BYTES: usize = 256 * 1024;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Start {
    group: String,
    id: Option<String>,
    node: Option<String>,
    jar: String,
    sha256: Option<String>,
    memory_mb: Option<i32>,
    #[serde(default)]
    jvm_args: Vec<String>,
    /// What stands behind the jar, if not what its category says
    arguments: Option<Vec<String>>,
    #[serde(default)]
    env: HashMap<String, String>,
    port: Option<u16>,
    startup_timeout_seconds: Option<u32>,
    shutdown_grace_seconds: Option<u32>,
    max_lifetime_seconds: Option<u32>,
    ready: Option<Ready>,
    /// What is typed into its console to end it; empty = by the platform
    #[serde(default)]
    stop_command: String,
    /// What is laid into its folder, in this order
    #[serde(default)]
    templates: Vec<String>,
    /// Values of the templates' variables
    #[serde(default)]
    variables: BTreeMap<String, String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Instance {
    id: String,
    group: String,
    node: String,
    state: &'static str,
    /// What is missing until the next state
    detail: Option<String>,
    desired: &'static str,
    port: i32,
    incarnation: u64,
    deployment_revision: u32,
    player_count: i32,
    uptime_ms: i64,
    memory_mb: i32,
    created_at: String,
    started_at: Option<String>,
    updated_at: String,
    last_error: Option<String>,
    /// Why its group has started it, and how its start before has ended; null = somebody has started it
    started_because: Option<String>,
    /// Its group starts it with the values again that somebody gave at its start, as long as nobody stops it
    keeps_values: bool,
}

impl From<Seen> for Instance {
    fn from(seen: Seen) -> Self {
        let Seen {
            record,
            vitals,
            detail,
        } = seen;
        let desired = match record.wanted {
            Wanted::Run => "RUN",
            Wanted::Stop => "STOP",
            Wanted::ForceStop => "FORCE_STOP",
        };
        let now = now_millis();
        let uptime_ms = match (vitals, record.running_since_ms) {
            (Some(vitals), _) if vitals.uptime_ms > 0 => vitals.uptime_ms + (now - vitals.at_ms).max(0),
            (_, since) if since > 0 && record.is_live() => (now - since).max(0),
            _ => 0,
        };
        Self {
            id: record.instance.to_string(),
            group: record.group.map(|group| group.to_string()).unwrap_or_default(),
            node: record.node.to_string(),
            state: record.state.as_str_name(),
            detail,
            desired,
            port: record.port,
            incarnation: record.incarnation,
            deployment_revision: record.deployment_revision,
            player_count: vitals.map_or(0, |vitals| vitals.player_count),
            uptime_ms,
            memory_mb: record.memory_mb,
            created_at: time(record.created_at_ms),
            started_at: time_unless_never(record.running_since_ms),
            updated_at: time(record.updated_at_ms),
            last_error: Some(record.last_error.clone()).filter(|error| !error.is_empty()),
            keeps_values: record.keeps_values,
            started_because: Some(record.started_because.clone()).filter(|reason| !reason.is_empty()),
        }
    }
}

pub(super) async fn start(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Body(start): Body<Start>,
) -> Result<(StatusCode, Json<Instance>), ApiError> {
    let actor = caller.require(Permission::InstancesManage)?;
    let composition = api
        .templates
        .compose(&start.templates, &BTreeMap::new(), &start.variables)
        .await?;
    let request = placeable(start, composition)?;
    let seen = api.fleet.start(request).await?;
    note(
        &api,
        &actor,
        "instance.start",
        seen.record.instance.as_str(),
        seen.record.node.as_str(),
    )
    .await;
    Ok((StatusCode::CREATED, Json(seen.into())))
}

fn placeable(start: Start, composition: Composition) -> Result<Request, ApiError> {
    let rule = "1 to 64 letters, digits, dots, hyphens or underscores, beginning with a letter or digit";
    let group: GroupName = start
        .group
        .parse()
        .map_err(|_| ApiError::invalid(format!("group must be {rule}")))?;
    let parse_id = |id: String| {
        id.parse::<InstanceId>()
            .map_err(|_| ApiError::invalid(format!("id must be {rule}")))
    };
    let instance = start.id.map(parse_id).transpose()?;
    let parse_node = |node: String| node.parse().map_err(|_| ApiError::not_found("no such node"));
    let node = start.node.map(parse_node).transpose()?;
    let sha256 = start.sha256.unwrap_or_default().to_lowercase();
    check_sha256(&sha256).map_err(ApiError::invalid)?;
    check_jar(&start.jar).map_err(ApiError::invalid)?;
    check_stop_command(&start.stop_command).map_err(ApiError::invalid)?;
    let memory_mb = start.memory_mb.unwrap_or(DEFAULT_MEMORY_MB);
    if memory_mb < 1 {
        return Err(ApiError::invalid("memoryMb must be at least 1"));
    }
    if start.port == Some(0) {
        return Err(ApiError::invalid("port must be from 1 to 65535"));
    }
    let arguments = start.jvm_args.iter().chain(start.arguments.iter().flatten());
    let text = arguments.map(String::len).sum::<usize>()
        + start
            .env
            .iter()
            .chain(&start.variables)
            .map(|(name, value)| name.len() + value.len())
            .sum::<usize>()
        + start.jar.len();
    if text > MAX_TEXT_BYTES {
        return Err(ApiError::invalid(format!(
            "jar, jvmArgs, arguments, env and variables together have at most {MAX_TEXT_BYTES} bytes"
        )));
    }
    if start.env.keys().any(|name| name.is_empty() || name.contains('=')) {
        return Err(ApiError::invalid("names in env must not be empty nor contain ="));
    }
    if let Some(name) = start.env.keys().find(|name| is_refused_variable(name)) {
        return Err(ApiError::invalid(format!(
            "env.{name} is handed to no server, since it makes a process load foreign code; options of the JVM belong into jvmArgs"
        )));
    }
    let duration = |seconds: Option<u32>| {
        seconds
            .filter(|seconds| *seconds > 0)
            .map(|s| Duration::from_secs(s.into()))
    };
    let order = StartOrder {
        // Replaced by a free one if none was asked for.
        instance: instance.map_or_else(|| parse_id(group.to_string()), Ok)?,
        group,
        jar: start.jar,
        sha256,
        memory_mb,
        jvm_args: start.jvm_args,
        program_arguments: start.arguments.map(|values| ProgramArguments { values }),
        stop_command: start.stop_command,
        env: start.env,
        port: start.port,
        is_hand_placed: false,
        startup_timeout: duration(start.startup_timeout_seconds),
        shutdown_grace: duration(start.shutdown_grace_seconds),
        max_lifetime: duration(start.max_lifetime_seconds),
        readiness: start
            .ready
            .map(Ready::rule)
            .transpose()
            .map_err(ApiError::invalid)?,
        templates: composition.templates,
        variables: composition.variables,
        group_says: GroupSays::default(),
        // No group would know what to do with them: the templates are those of this start.
        origin: Origin::default(),
        deployment_revision: 0,
    };
    Ok(Request {
        node,
        instance,
        order,
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    group: Option<String>,
    node: Option<String>,
    state: Option<String>,
    limit: Option<usize>,
    cursor: Option<String>,
}

impl Filter {
    fn is_for_all(&self) -> bool {
        let Self {
            group,
            node,
            state,
            limit,
            cursor,
        } = self;
        limit.is_none() && [group, node, state, cursor].into_iter().all(Option::is_none)
    }
}

pub(super) async fn list(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Params(filter): Params<Filter>,
) -> Result<Response, ApiError> {
    caller.require(Permission::InstancesView)?;
    let limit = page::limit(filter.limit)?.unwrap_or(usize::MAX);
    let after: Option<InstanceId> = page::cursor(filter.cursor.as_deref())?;
    let wanted =
        |wish: &Option<String>, is: &str| wish.as_deref().is_none_or(|wish| wish.eq_ignore_ascii_case(is));
    let matches = |outline: &Outline| {
        wanted(
            &filter.group,
            outline.group.as_ref().map_or("", |group| group.as_str()),
        ) && wanted(&filter.node, outline.node.as_str())
            && wanted(&filter.state, outline.state.as_str_name())
    };
    // By its index if there is such a node; whose name has other capitals, the filter finds.
    let node = filter.node.as_deref().and_then(|node| node.parse().ok());
    let node = node.filter(|node| api.nodes.ask_view(*node, |_| ()).is_some());
    if filter.is_for_all() {
        let version = api.fleet.version().await?;
        let all = || async {
            let (all, _) = api.fleet.list(None, None, usize::MAX, |_| true).await?;
            write(&api, all).await
        };
        return Ok(page::written(api.all_instances.get(version, all).await?, None));
    }
    let (listed, has_more) = api.fleet.list(node, after, limit, matches).await?;
    let next = listed
        .last()
        .filter(|_| has_more)
        .map(|last| last.instance.to_string());
    Ok(page::written(write(&api, listed).await?, next))
}

/// Writes a list, and lets others have their turn in between
async fn write(api: &Api, listed: Vec<Arc<Outline>>) -> Result<Bytes, ApiError> {
    let mut body = vec![b'['];
    for (index, outline) in listed.into_iter().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        if index % AT_ONCE == AT_ONCE - 1 {
            tokio::task::yield_now().await;
        }
        let instance = Instance::from(api.fleet.seen(outline));
        serde_json::to_writer(&mut body, &instance).map_err(|error| ApiError::internal(error.to_string()))?;
    }
    body.push(b']');
    Ok(body.into())
}

pub(super) async fn show(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    id: Id,
) -> Result<Json<Instance>, ApiError> {
    caller.require(Permission::InstancesView)?;
    Ok(Json(api.fleet.get(id.parse("instance")?).await?.into()))
}

pub(super) async fn forget(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    id: Id,
) -> Result<StatusCode, ApiError> {
    let actor = caller.require(Permission::InstancesManage)?;
    api.fleet.forget(id.parse("instance")?).await?;
    note(&api, &actor, "instance.delete", &id.0, "").await;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Stop {
    #[serde(default)]
    force: bool,
}

pub(super) async fn stop(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    id: Id,
    Params(Stop { force }): Params<Stop>,
) -> Result<Json<Value>, ApiError> {
    let actor = caller.require(Permission::InstancesManage)?;
    let answer = api.fleet.stop(id.parse("instance")?, force).await?;
    note(
        &api,
        &actor,
        "instance.stop",
        &id.0,
        if force { "force" } else { "" },
    )
    .await;
    let status = match answer {
        StopAnswer::Stopping => "stopping",
        StopAnswer::ForceStopping => "force-stopping",
        StopAnswer::AlreadyStopped => "already-stopped",
    };
    Ok(Json(json!({ "status": status })))
}

pub(super) async fn declare_lost(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    id: Id,
) -> Result<Json<Value>, ApiError> {
    let actor = caller.require(Permission::InstancesManage)?;
    api.fleet.declare_lost(id.parse("instance")?).await?;
    note(&api, &actor, "instance.lost", &id.0, "").await;
    Ok(Json(json!({ "status": "lost" })))
}

/// An operator says that the server is ready, where nothing else can
pub(super) async fn ready(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    id: Id,
) -> Result<Json<Value>, ApiError> {
    let actor = caller.require(Permission::InstancesManage)?;
    api.fleet.ready(id.parse("instance")?).await?;
    note(&api, &actor, "instance.ready", &id.0, "").await;
    Ok(Json(json!({ "status": "ready" })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[serde(rename_all = "camelCase")]
pub(super) struct Command {
    command: String,
    /// Named by the caller: one that comes again with the same name is not typed again
    request_id: Option<String>,
}

pub(super) async fn command(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    id: Id,
    Body(Command { command, request_id }): Body<Command>,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let actor = caller.require(Permission::InstancesManage)?;
    let instance = id.parse("instance")?;
    let result = match request_id {
        Some(name) if name.is_empty() || name.len() > MAX_REQUEST_ID => {
            let limit = format!("requestId has 1 to {MAX_REQUEST_ID} characters");
            return Err(ApiError::invalid(limit));
        }
        Some(name) => api.fleet.command_once(instance, name, command).await?,
        None => api.fleet.command(instance, command).await?,
    };
    // The text is not noted: console commands may hold secrets.
    note(&api, &actor, "instance.command", &id.0, "").await;
    match result {
        CommandResult::Written => Ok((
            StatusCode::OK,
            Json(json!({ "status": "sent", "confirmed": true })),
        )),
        CommandResult::Unconfirmed(why) => Ok((
            StatusCode::ACCEPTED,
            Json(json!({ "status": "sent, unconfirmed", "confirmed": false, "detail": why })),
        )),
        CommandResult::NotWritten { code, message } => {
            Err(ApiError::not_written(format!("{message} ({code})")))
        }
    }
}

/// Leaves a trace of what was done; it is done even if that fails
pub(super) async fn note(api: &Api, actor: &str, action: &str, target: &str, detail: &str) {
    let entry = audit::entry(actor, action, target, detail);
    if let Err(error) = api.store.txn(Txn::new().put_record(&entry)).await {
        tracing::error!(%error, actor, action, target, "an action could not be noted in the audit log");
    }
}
