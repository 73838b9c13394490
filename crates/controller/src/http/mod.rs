//! The HTTP interface: thin, JSON, under `/api/v1`; and `/metrics`
//!
//! It translates and authorises; what happens, happens elsewhere. Errors have one form:
//! `{"error":{"code":"NOT_FOUND","message":"no such node","status":404}}`.

mod access;
mod access_tokens;
mod answering;
mod audit;
mod authorities;
mod cache;
mod catalog;
mod connections;
mod console;
mod content;
mod crashes;
mod deployments;
mod error;
mod events;
mod files;
mod groups;
mod instances;
mod json;
mod logs;
mod metrics;
mod modules;
mod multipart;
mod nodes;
mod page;
mod plugin;
mod server;
mod shared;
mod socket;
mod sse;
mod system;
mod templates;
mod tickets;
mod tokens;
mod upkeep;

use std::sync::Arc;

use axum::{
    Router,
    extract::DefaultBodyLimit,
    middleware,
    routing::{delete, get, patch, post, put},
};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

pub use self::server::HttpServerError;
pub(crate) use self::{
    events::MAX_STREAMS as MAX_EVENT_STREAMS, server::HttpServer, shared::SharedAnswer, tickets::Tickets,
};
use crate::{
    access::AccessTokens,
    catalog::Catalog,
    certificates::Certificates,
    config::HttpConfig,
    console::Consoles,
    controller::Surroundings,
    events::Feed,
    fleet::Fleet,
    groups::{Groups, Upkeep},
    join_tokens::JoinTokens,
    logs::Logs,
    modules::Modules,
    nodes::Nodes,
    readiness::Readiness,
    rotation::Rotation,
    store::Store,
    templates::Templates,
    workloads::Workloads,
};

/// What the handlers work with
pub(crate) struct Api {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) tokens: JoinTokens,
    pub(crate) templates: Templates,
    pub(crate) modules: Modules,
    pub(crate) access: AccessTokens,
    pub(crate) nodes: Arc<Nodes>,
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) groups: Arc<Groups>,
    pub(crate) upkeep: Arc<Upkeep>,
    pub(crate) catalog: Catalog,
    pub(crate) certificates: Arc<Certificates>,
    pub(crate) rotation: Rotation,
    pub(crate) consoles: Arc<Consoles>,
    pub(crate) workloads: Arc<Workloads>,
    pub(crate) events: Arc<Feed>,
    /// Bounds the streams of events that are open
    pub(crate) event_streams: Arc<Semaphore>,
    pub(crate) tickets: Tickets,
    pub(crate) stopping: CancellationToken,
    pub(crate) readiness: Readiness,
    pub(crate) surroundings: Surroundings,
    pub(crate) logs: Arc<Logs>,
    /// The list of all instances
    pub(crate) all_instances: SharedAnswer,
}

/// All routes
pub(crate) fn router(api: Arc<Api>, config: &HttpConfig) -> Router {
    let timeout = config.request_timeout;
    let routes = Router::new()
        .route("/admin/tokens", get(tokens::list).post(tokens::create))
        .route("/admin/tokens/{id}", delete(tokens::revoke))
        .route(
            "/admin/access-tokens",
            get(access_tokens::list).post(access_tokens::create),
        )
        .route("/admin/access-tokens/{id}", delete(access_tokens::revoke))
        .route("/admin/audit", get(audit::list))
        .route("/nodes", get(nodes::list))
        .route("/nodes/{id}", get(nodes::show).delete(nodes::delete))
        .route("/nodes/{id}/drain", post(nodes::drain))
        .route("/nodes/{id}/undrain", post(nodes::undrain))
        .route("/nodes/{id}/cordon", post(nodes::cordon))
        .route("/nodes/{id}/uncordon", post(nodes::uncordon))
        .route("/nodes/{id}/shutdown", post(nodes::shutdown))
        .route("/nodes/{id}/remove", post(nodes::remove))
        .route("/nodes/{id}/revoke-cert", post(nodes::revoke_certificates))
        .route("/nodes/{id}/renew-cert", post(nodes::renew_certificate))
        .route("/nodes/{id}/logs", get(logs::of_node))
        .route("/nodes/{id}/logs/stream", get(logs::stream_of_node))
        .route("/nodes/{id}/logs/ticket", post(tickets::for_log_of_node))
        .route("/nodes/{id}/cache", get(cache::show))
        .route("/nodes/{id}/cache/refresh", post(cache::refresh))
        .route("/nodes/{id}/cache/warm", post(cache::warm))
        .route("/instances", get(instances::list).post(instances::start))
        .route("/instances/{id}", get(instances::show).delete(instances::forget))
        .route("/instances/{id}/stop", post(instances::stop))
        .route("/instances/{id}/lost", post(instances::declare_lost))
        .route("/instances/{id}/ready", post(instances::ready))
        .route("/instances/{id}/command", post(instances::command))
        .route("/instances/{id}/console", get(console::stream))
        .route("/instances/{id}/files", get(files::list))
        .route("/instances/{id}/files/content", get(files::content))
        .route("/catalog", get(catalog::list))
        .route("/catalog/{platform}/versions", post(catalog::add))
        .route(
            "/catalog/{platform}/versions/{version}",
            patch(catalog::update).delete(catalog::remove),
        )
        .route(
            "/catalog/{platform}/versions/{version}/recommended",
            put(catalog::recommend),
        )
        .route("/groups", get(groups::list).post(groups::create))
        .route(
            "/groups/{name}",
            get(groups::show).patch(groups::update).delete(groups::delete),
        )
        .route("/groups/{name}/resolved", get(groups::resolved))
        .route("/groups/{name}/start", post(groups::start))
        .route("/groups/{name}/stop", post(upkeep::stop))
        .route("/groups/{name}/scale", post(upkeep::scale))
        .route("/groups/{name}/pause", post(upkeep::pause))
        .route("/groups/{name}/resume", post(upkeep::resume))
        .route("/groups/{name}/deploy", post(deployments::deploy))
        .route("/groups/{name}/deployments", get(deployments::list))
        .route("/groups/{name}/deployments/{revision}", get(deployments::show))
        .route(
            "/groups/{name}/deployments/{revision}/pause",
            post(deployments::pause),
        )
        .route(
            "/groups/{name}/deployments/{revision}/resume",
            post(deployments::resume),
        )
        .route(
            "/groups/{name}/deployments/{revision}/rollback",
            post(deployments::rollback),
        )
        .route("/groups/{name}/plan", get(upkeep::plan).post(upkeep::plan_with))
        .route("/events", get(events::list))
        .route("/events/stream", get(events::stream))
        .route("/events/ticket", post(tickets::for_events))
        .route("/crashes", get(crashes::list))
        .route("/crashes/{id}", get(crashes::show))
        .route("/system/health", get(system::health))
        .route("/system/ready", get(system::ready))
        .route("/system/authorities", get(authorities::show))
        .route("/system/authorities/prepare", post(authorities::prepare))
        .route("/system/authorities/discard", post(authorities::discard))
        .route("/system/authorities/activate", post(authorities::activate))
        .route("/system/authorities/retire", post(authorities::retire))
        .route("/system/logs", get(logs::own))
        .route("/system/logs/stream", get(logs::stream_own))
        .route("/system/logs/ticket", post(tickets::for_own_log))
        .route("/system/version", get(system::version))
        .route("/modules", get(modules::list))
        .route("/modules/platform", get(modules::list_all))
        .route("/modules/states", get(modules::all_states))
        .route("/modules/platform/{id}", delete(modules::uninstall))
        .route("/modules/platform/{id}/states", get(modules::states_of))
        .route("/modules/platform/{id}/rollback", post(modules::rollback))
        .route("/modules/platform/{id}/retry", post(modules::retry))
        .route("/templates", get(templates::list).post(templates::create))
        .route(
            "/templates/{name}",
            get(templates::show)
                .patch(templates::update)
                .delete(templates::delete),
        )
        .route("/templates/{name}/rollback", post(templates::rollback))
        .route("/templates/{name}/diff", get(templates::difference))
        .route(
            "/templates/{name}/variables",
            get(templates::variables).put(templates::set_variables),
        )
        .layer(middleware::from_fn(move |request, next| {
            error::within(timeout, request, next)
        }));
    // These carry as much as a template holds, and have bounds of their own.
    let content = Router::new()
        .route("/content/{sha256}", get(content::get).put(content::put))
        .route("/templates/{name}/missing", post(content::missing))
        .route(
            "/templates/{name}/versions",
            get(templates::versions).post(content::publish),
        )
        .route("/templates/{name}/versions/{hash}/archive", get(content::archive))
        .route(
            "/templates/{name}/versions/{hash}/manifest",
            get(content::show_manifest),
        )
        .layer(middleware::from_fn(|request, next| {
            error::within(content::LONGEST, request, next)
        }));
    let uploads = Router::new()
        .route("/modules/platform/upload", post(modules::upload))
        .layer(middleware::from_fn(|request, next| {
            error::within(modules::LONGEST, request, next)
        }));
    let plugins = Router::new()
        .route("/ready", post(plugin::ready))
        .route("/auth/refresh", post(plugin::refresh))
        .layer(middleware::from_fn(move |request, next| {
            error::within(timeout, request, next)
        }));
    let scrape = get(metrics::scrape).layer(middleware::from_fn(move |request, next| {
        error::within(timeout, request, next)
    }));
    Router::new()
        .nest("/api/v1", routes.merge(content).merge(uploads))
        .nest("/api/plugin", plugins.clone())
        .nest("/api/proxy", plugins)
        .route("/metrics", scrape)
        .fallback(error::no_such_route)
        .method_not_allowed_fallback(error::method_not_allowed)
        .layer(DefaultBodyLimit::max(config.max_body_bytes))
        .layer(middleware::from_fn(crate::trace::answer))
        .with_state(api)
}
