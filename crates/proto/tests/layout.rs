//! Sizes and secrets: what a caller pays per envelope, and what `{:?}` must not show

use std::mem::size_of;

use prexorcloud_proto::{
    ControllerMessage, CreateJoinTokenResponse, DaemonMessage, ExchangeJoinTokenRequest,
    ExchangeJoinTokenResponse, StartInstance,
};

#[test]
fn envelopes_stay_small() {
    println!(
        "ControllerMessage {} DaemonMessage {}",
        size_of::<ControllerMessage>(),
        size_of::<DaemonMessage>()
    );
    assert!(
        size_of::<ControllerMessage>() <= 144,
        "{}",
        size_of::<ControllerMessage>()
    );
    assert!(
        size_of::<DaemonMessage>() <= 112,
        "{}",
        size_of::<DaemonMessage>()
    );
}

#[test]
fn debug_output_hides_every_secret() {
    let secret = "hunter2-do-not-print";
    let start = StartInstance {
        plugin_token: secret.into(),
        env: [("DB_PASSWORD".to_owned(), secret.to_owned())].into(),
        resolved_variables: [("API_KEY".to_owned(), secret.to_owned())].into(),
        ..Default::default()
    };
    let request = ExchangeJoinTokenRequest {
        join_token: secret.into(),
        node_id: "node-1".into(),
        ..Default::default()
    };
    let response = ExchangeJoinTokenResponse {
        pkcs12: secret.as_bytes().to_vec().into(),
        pkcs12_password: secret.into(),
        cli_token: secret.into(),
        ..Default::default()
    };
    let created = CreateJoinTokenResponse {
        join_token: secret.into(),
        ..Default::default()
    };
    let printed = format!("{start:?} {request:?} {response:?} {created:?}");
    assert!(!printed.contains(secret), "{printed}");
    assert!(
        printed.contains("DB_PASSWORD") && printed.contains("node-1"),
        "{printed}"
    );
}
