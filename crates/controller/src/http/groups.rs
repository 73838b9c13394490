//! `/groups`: what servers of a kind are started with, and starting them
//!
//! Paths, bodies and answers are those of the Java controller, whose tools work with them; what is ours comes beside it: `revision`, which
//! is the `ETag`, for `If-Match`; `notInEffect`, the fields that are kept and that nothing acts on yet; and `scaling`, what is done about the
//! number of servers.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use prexorcloud_proto::InstanceState;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    Api,
    access::Authenticated,
    error::ApiError,
    instances::note,
    json::{Body, Id, Params, time},
    upkeep,
};
use crate::{
    access::Permission,
    fleet::Seen,
    groups::{Group, GroupError, Started},
    inventory::Outline,
    templates::Layer,
};

/// Groups of one page, and the most that can be asked for
const PAGE: usize = 500;

/// A group is not shown with its environment to whoever may only look
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sight {
    All,
    WithoutEnvironment,
}

impl Sight {
    fn of(caller: &Authenticated) -> Result<Self, ApiError> {
        if caller.require(Permission::GroupsManage).is_ok() {
            return Ok(Self::All);
        }
        caller.require(Permission::GroupsView)?;
        Ok(Self::WithoutEnvironment)
    }
}

/// What runs of a group
#[derive(Clone, Copy, Default)]
struct Tally {
    running: u64,
    live: u64,
    players: i64,
}

impl Tally {
    fn add(&mut self, seen: &Seen) {
        self.live += 1;
        self.running += u64::from(seen.record.state == InstanceState::Running);
        let players = seen.vitals.map(|vitals| i64::from(vitals.player_count));
        self.players += players.unwrap_or(0);
    }
}

async fn tally(api: &Api, group: &Group) -> Result<Tally, ApiError> {
    let mut tally = Tally::default();
    let members = api.fleet.members(group.name).await?.into_iter();
    let live = members.filter(|member| member.record.is_live());
    live.for_each(|member| tally.add(&api.fleet.seen(member.record)));
    Ok(tally)
}

async fn tallies(api: &Api) -> Result<BTreeMap<String, Tally>, ApiError> {
    let (live, _) = api.fleet.list(None, None, usize::MAX, Outline::is_live).await?;
    let mut tallies: BTreeMap<String, Tally> = BTreeMap::new();
    for outline in live {
        let Some(group) = outline.group else { continue };
        let tally = tallies.entry(group.to_string()).or_default();
        tally.add(&api.fleet.seen(outline));
    }
    Ok(tallies)
}

async fn shown(api: &Api, group: &Group, sight: Sight, tally: Tally) -> Result<Map<String, Value>, ApiError> {
    let mut shown = group.settings.complete(api.groups.defaults());
    let meaning = api.groups.meaning(group)?;
    let (values, hidden) = api.groups.shown_variables(group, &meaning).await?;
    let mut set = |name: &str, value: Value| drop(shown.insert(name.to_owned(), value));
    set("name", group.name.as_str().into());
    set("variableValues", json!(values));
    set("hiddenVariables", json!(hidden));
    if sight == Sight::WithoutEnvironment {
        set("env", json!({}));
        let mut names: Vec<&String> = meaning.env.keys().collect();
        names.sort_unstable();
        set("hiddenEnv", json!(names));
    }
    set("runningInstances", tally.running.into());
    set("liveInstances", tally.live.into());
    set("totalPlayers", tally.players.into());
    set("notInEffect", json!(group.settings.kept()));
    set("revision", group.revision.into());
    set("createdAt", time(group.created_at_ms).into());
    set("updatedAt", time(group.updated_at_ms).into());
    Ok(shown)
}

/// One group with its revision as the tag
pub(super) async fn answer(
    api: &Api,
    status: StatusCode,
    group: &Group,
    sight: Sight,
) -> Result<Response, ApiError> {
    let tally = tally(api, group).await?;
    let mut shown = shown(api, group, sight, tally).await?;
    shown.insert("scaling".to_owned(), upkeep::scaling(api, group).await?);
    let tag = [(header::ETAG, format!("\"{}\"", group.revision))];
    Ok((status, tag, Json(shown)).into_response())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Pages {
    pub(super) page: Option<String>,
    pub(super) page_size: Option<String>,
}

/// A number of pages or entries as the Java controller takes it: too small is 1, too large is the most
pub(super) fn number(name: &str, given: Option<String>, default: usize) -> Result<usize, ApiError> {
    let Some(text) = given else { return Ok(default) };
    let number: i64 = text
        .parse()
        .map_err(|_| ApiError::bad_request(format!("{name} must be a whole number")))?;
    Ok(usize::try_from(number).unwrap_or(0).max(1))
}

pub(super) async fn list(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Params(pages): Params<Pages>,
) -> Result<Json<Value>, ApiError> {
    let sight = Sight::of(&caller)?;
    let page = number("page", pages.page, 1)?;
    let size = number("pageSize", pages.page_size, PAGE)?.min(PAGE);
    let found = api.groups.page((page - 1).saturating_mul(size), size).await?;
    let mut tallies = tallies(&api).await?;
    let mut data = Vec::with_capacity(found.groups.len());
    for group in &found.groups {
        let tally = tallies.remove(group.name.as_str()).unwrap_or_default();
        data.push(shown(&api, group, sight, tally).await?);
    }
    Ok(Json(json!({
        "data": data, "page": page, "pageSize": size, "total": found.total,
    })))
}

/// The fields of a group, or of a change of one
pub(super) fn fields(body: Value) -> Result<Map<String, Value>, ApiError> {
    match body {
        Value::Object(fields) => Ok(fields),
        _ => Err(ApiError::bad_request("the body must be a JSON object")),
    }
}

/// The revision that a change is made on top of, if the caller says one
pub(super) fn seen(headers: &HeaderMap) -> Result<Option<u64>, ApiError> {
    let Some(tag) = headers.get(header::IF_MATCH) else {
        return Ok(None);
    };
    let tag = tag.to_str().unwrap_or_default().trim();
    if tag == "*" {
        return Ok(None);
    }
    let number = tag.strip_prefix("W/").unwrap_or(tag).trim_matches('"').parse();
    let unknown = || ApiError::bad_request("If-Match must be the ETag of a group, or *");
    number.map(Some).map_err(|_| unknown())
}

pub(super) async fn create(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Body(body): Body<Value>,
) -> Result<Response, ApiError> {
    let actor = caller.require(Permission::GroupsManage)?;
    let group = api.groups.create(&actor, fields(body)?).await?;
    answer(&api, StatusCode::CREATED, &group, Sight::All).await
}

pub(super) async fn show(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Id(name): Id,
) -> Result<Response, ApiError> {
    let sight = Sight::of(&caller)?;
    let group = api.groups.show(&name).await?;
    answer(&api, StatusCode::OK, &group, sight).await
}

/// The same with the templates that a start is made of, in their order
pub(super) async fn resolved(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Id(name): Id,
) -> Result<Json<Value>, ApiError> {
    let sight = Sight::of(&caller)?;
    let group = api.groups.show(&name).await?;
    let layers = api
        .groups
        .layers(group.name, &api.groups.meaning(&group)?)
        .await?;
    let tally = tally(&api, &group).await?;
    let mut shown = shown(&api, &group, sight, tally).await?;
    let names: Vec<&str> = layers.iter().map(Layer::name).collect();
    shown.insert("templates".to_owned(), json!(names));
    Ok(Json(shown.into()))
}

pub(super) async fn update(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Id(name): Id,
    headers: HeaderMap,
    Body(body): Body<Value>,
) -> Result<Response, ApiError> {
    let actor = caller.require(Permission::GroupsManage)?;
    let (fields, seen) = (fields(body)?, seen(&headers)?);
    let group = api.groups.update(&actor, &name, fields, seen).await?;
    answer(&api, StatusCode::OK, &group, Sight::All).await
}

pub(super) async fn delete(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Id(name): Id,
    headers: HeaderMap,
) -> Result<StatusCode, ApiError> {
    let actor = caller.require(Permission::GroupsManage)?;
    api.groups
        .delete(&actor, &name, seen(&headers)?, &api.fleet)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Counted {
    count: Option<String>,
}

/// Starts instances: without a body one
pub(super) async fn start(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Id(name): Id,
    Params(Counted { count }): Params<Counted>,
    Body(body): Body<Value>,
) -> Result<Json<Value>, ApiError> {
    let actor = caller.require(Permission::InstancesManage)?;
    let mut count = number("count", count, 1)?;
    let mut variables = BTreeMap::new();
    for (field, value) in fields(body)? {
        match (field.as_str(), value) {
            ("count" | "variables", Value::Null) => {}
            ("count", value) => {
                let whole = value.as_i64();
                let whole = whole.ok_or_else(|| ApiError::bad_request("count must be a whole number"))?;
                // What is below 0 is none, and refused as that.
                count = usize::try_from(whole).unwrap_or(0);
            }
            ("variables", Value::Object(given)) => {
                for (key, value) in given {
                    let Value::String(value) = value else {
                        return Err(ApiError::bad_request(format!(
                            "variables.{} must be a text",
                            key.chars().take(64).collect::<String>()
                        )));
                    };
                    variables.insert(key, value);
                }
            }
            ("variables", _) => return Err(ApiError::bad_request("variables must be an object of texts")),
            (other, _) => {
                let other: String = other.chars().take(64).collect();
                return Err(ApiError::bad_request(format!(
                    "a start of a group has no field {other:?}: it has count and variables"
                )));
            }
        }
    }
    let Started { instances, refused } = api.groups.start(&api.fleet, &name, count, &variables).await?;
    for seen in &instances {
        let (instance, node) = (seen.record.instance, seen.record.node);
        note(&api, &actor, "instance.start", instance.as_str(), node.as_str()).await;
    }
    let mut answer = json!({
        "status": "scheduled", "count": instances.len(),
        "instances": instances.iter().map(|seen| seen.record.instance.as_str()).collect::<Vec<_>>(),
    });
    if let Some(refused) = refused {
        let refused = ApiError::from(GroupError::from(refused)).message();
        answer["refused"] = format!("{} of {count} were started: {refused}", instances.len()).into();
    }
    Ok(Json(answer))
}
