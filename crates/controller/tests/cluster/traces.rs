//! The trace that a request names, over HTTP and gRPC

use std::sync::OnceLock;

use prexorcloud_logs::{Mirror, MirrorLayer, Record};
use prexorcloud_proto::ExchangeJoinTokenRequest;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::support::{Cluster, within};

/// What all tests of this program log from now on
fn mirror() -> &'static Mirror {
    static MIRROR: OnceLock<Mirror> = OnceLock::new();
    MIRROR.get_or_init(|| {
        let mirror = Mirror::new(LevelFilter::WARN);
        let layer = MirrorLayer::new(mirror.clone());
        tracing_subscriber::registry().with(layer).init();
        mirror
    })
}

fn has(record: &Record, name: &str, value: &str) -> bool {
    record
        .context
        .iter()
        .any(|(known, is)| known == name && is == value)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_over_grpc_is_a_part_of_the_trace_in_its_metadata() {
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let mirror = mirror();
    let cluster = Cluster::start().await;
    for (traceparent, is_traced) in [
        (format!("00-{trace}-b7ad6b7169203331-01"), true),
        (format!("00-{trace}-0000000000000000-01"), false),
    ] {
        let node = format!("traced-{is_traced}");
        let mut request = tonic::Request::new(ExchangeJoinTokenRequest {
            join_token: "made-up".to_owned(),
            node_id: node.clone(),
            ..Default::default()
        });
        request
            .metadata_mut()
            .insert("traceparent", traceparent.parse().unwrap());
        let mut client = cluster.bootstrap().await;
        within(client.exchange_join_token(request)).await.unwrap_err();
        let record = within(async {
            loop {
                let mut records = Vec::new();
                mirror.next(&mut records, 1).await;
                if let Some(record) = records.pop().filter(|record| has(record, "node_id", &node)) {
                    return record;
                }
            }
        })
        .await;
        assert_eq!(has(&record, "traceId", trace), is_traced, "{record:?}");
        assert!(!has(&record, "spanId", "b7ad6b7169203331"), "a span of its own");
    }
}
