//! `/metrics`: the fleet in numbers, in the text format of Prometheus; no token needed
//!
//! The numbers are those of the moment: a recorder is filled from the nodes as last seen for every scrape, so that nothing
//! can drift from what `/nodes` shows.

use std::sync::Arc;
use std::time::SystemTime;

use axum::{
    extract::State,
    http::{HeaderName, header},
};
use metrics::{Unit, counter, describe_counter, describe_gauge, gauge, with_local_recorder};
use metrics_exporter_prometheus::PrometheusBuilder;
use prexorcloud_protocol::compat;

use super::Api;
use crate::certificates::DAY_MS;
use crate::nodes::{CONTRACT_MATCHES, NodeSummary, NodeView, contract_name};
use crate::wall_clock::{now_millis, to_millis};

/// The text format of Prometheus, as its content type names it
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

pub(super) async fn scrape(State(api): State<Arc<Api>>) -> ([(HeaderName, &'static str); 1], String) {
    (
        [(header::CONTENT_TYPE, TEXT_FORMAT)],
        exposition(
            &api.nodes.views(),
            &LogCounts::of(&api),
            api.templates.damaged_count(),
            api.rotation.ends(),
            now_millis(),
        ),
    )
}

/// What became of logs, that of events among them: name, meaning, count
struct LogCounts([(&'static str, &'static str, u64); 6]);

impl LogCounts {
    fn of(api: &Api) -> Self {
        let own = api.surroundings.log_counts();
        let nodes = api.logs.received_of_all();
        Self([
            (
                "prexorcloud_log_lines_lost_total",
                "Log lines that standard error did not take",
                api.surroundings.lost_log_lines(),
            ),
            (
                "prexorcloud_log_file_lines_lost_total",
                "Log lines that the log file did not take",
                api.surroundings.lost_file_lines(),
            ),
            (
                "prexorcloud_log_records_dropped_total",
                "Records of the controller's own log that were logged too fast to be shown",
                own.dropped,
            ),
            (
                "prexorcloud_daemon_log_records_total",
                "Records of daemons' logs that came, since this controller started",
                nodes.records,
            ),
            (
                "prexorcloud_daemon_log_records_lost_total",
                "Records of daemons' logs that never came, by the numbers of those that did",
                nodes.lost,
            ),
            (
                "prexorcloud_events_lost_total",
                "Events that could not be written to the log of events, since this controller started",
                api.events.lost(),
            ),
        ])
    }
}

fn exposition(
    nodes: &[NodeView],
    logs: &LogCounts,
    damaged: usize,
    own_ends: (SystemTime, SystemTime),
    now_ms: i64,
) -> String {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    with_local_recorder(&recorder, || {
        describe();
        for (name, meaning, _) in logs.0 {
            describe_counter!(name, Unit::Count, meaning);
        }
        record(nodes);
        record_expiries(nodes, now_ms);
        gauge!("prexorcloud_template_manifests_damaged").set(number(damaged));
        record_ends(nodes, own_ends, now_ms);
        for (name, _, count) in logs.0 {
            counter!(name).absolute(count);
        }
    });
    handle.render()
}

fn describe() {
    let about = [
        (
            "prexorcloud_build_info",
            "The release and the contract that this controller was built from; always 1",
        ),
        ("prexorcloud_nodes_total", "Nodes that have enrolled"),
        ("prexorcloud_nodes", "Nodes by what /nodes calls their status"),
        ("prexorcloud_instances_total", "Instances that have not ended"),
        (
            "prexorcloud_players_total",
            "Players on all instances, as last reported",
        ),
        (
            "prexorcloud_grpc_daemon_sessions_active",
            "Daemons with an accepted session",
        ),
        (
            "prexorcloud_daemon_sessions_by_contract",
            "Accepted sessions by whether the daemon was built from the same contract",
        ),
        (
            "prexorcloud_template_manifests_damaged",
            "Manifests of templates' versions that were found missing or damaged, which keep the controller from deleting bytes",
        ),
        (
            "prexorcloud_node_certificates_expiring",
            "Nodes whose certificate has expired, or does so within 7 or 30 days; the greater contains the lesser",
        ),
    ];
    describe_gauge!(
        "prexorcloud_certificate_expiry_seconds",
        Unit::Seconds,
        "Until the controller's own certificate expires, the authority's, and that of the node that ends first"
    );
    for (name, meaning) in about {
        describe_gauge!(name, Unit::Count, meaning);
    }
}

/// Every label value is always there: a series that comes and goes hides the difference between none and unknown.
fn record(nodes: &[NodeView]) {
    gauge!(
        "prexorcloud_build_info",
        "version" => env!("CARGO_PKG_VERSION"),
        "protocol_version" => compat::PROTOCOL_VERSION.to_string(),
        "contract" => compat::contract::WIRE_DIGEST
    )
    .set(1);
    gauge!("prexorcloud_nodes_total").set(number(nodes.len()));
    for status in NodeSummary::ALL {
        let those = nodes.iter().filter(|node| node.status() == status);
        gauge!("prexorcloud_nodes", "status" => status.name()).set(number(those.count()));
    }
    gauge!("prexorcloud_instances_total").set(number(nodes.iter().map(|node| node.live_instances).sum()));
    let vitals = nodes.iter().flat_map(|node| node.vitals.values());
    let players = vitals
        .filter_map(|vitals| usize::try_from(vitals.player_count).ok())
        .sum();
    gauge!("prexorcloud_players_total").set(number(players));
    let sessions = nodes.iter().filter_map(|node| node.session.as_ref());
    gauge!("prexorcloud_grpc_daemon_sessions_active").set(number(sessions.clone().count()));
    for contract in CONTRACT_MATCHES {
        let those = sessions.clone().filter(|session| session.contract == contract);
        gauge!("prexorcloud_daemon_sessions_by_contract", "contract" => contract_name(contract))
            .set(number(those.count()));
    }
}

fn record_expiries(nodes: &[NodeView], now_ms: i64) {
    let expiries = nodes
        .iter()
        .map(|node| node.record.certificate_expires_at_ms)
        .filter(|expires_at_ms| *expires_at_ms != 0);
    for (within, days) in [("0d", 0), ("7d", 7), ("30d", 30)] {
        let until = now_ms + days * DAY_MS;
        let those = expiries.clone().filter(|expires_at_ms| *expires_at_ms <= until);
        gauge!("prexorcloud_node_certificates_expiring", "within" => within).set(number(those.count()));
    }
}

/// Seconds until certificates expire; negative afterwards
fn record_ends(nodes: &[NodeView], (server, authority): (SystemTime, SystemTime), now_ms: i64) {
    let of_nodes = nodes.iter().map(|node| node.record.certificate_expires_at_ms);
    let soonest = of_nodes.filter(|expires_at_ms| *expires_at_ms != 0).min();
    for (of, ends_at_ms) in [
        ("server", Some(to_millis(server))),
        ("authority", Some(to_millis(authority))),
        ("node_soonest", soonest),
    ] {
        let left = ends_at_ms.map_or(f64::NAN, |ends_at_ms| {
            let seconds = ((ends_at_ms - now_ms) / 1000).clamp(i64::from(i32::MIN), i64::from(i32::MAX));
            i32::try_from(seconds).map_or(f64::NAN, f64::from)
        });
        gauge!("prexorcloud_certificate_expiry_seconds", "of" => of).set(left);
    }
}

fn number(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::from(u32::MAX), f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::NodeRecord;

    #[test]
    fn the_ends_of_certificates_are_counted_and_told_in_seconds() {
        let node = NodeView {
            record: NodeRecord {
                certificate_expires_at_ms: 10 * DAY_MS,
                ..NodeRecord::default()
            },
            ..NodeView::default()
        };
        let logs = LogCounts([("a_total", "", 0); 6]);
        let day = std::time::Duration::from_secs(24 * 3600);
        let own = (SystemTime::UNIX_EPOCH + 3 * day, SystemTime::UNIX_EPOCH);
        let text = exposition(&[node], &logs, 0, own, DAY_MS);
        for line in [
            r#"prexorcloud_node_certificates_expiring{within="30d"} 1"#,
            r#"prexorcloud_node_certificates_expiring{within="7d"} 0"#,
            r#"prexorcloud_certificate_expiry_seconds{of="server"} 172800"#,
            r#"prexorcloud_certificate_expiry_seconds{of="authority"} -86400"#,
            r#"prexorcloud_certificate_expiry_seconds{of="node_soonest"} 777600"#,
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
