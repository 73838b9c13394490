//! BootstrapService, status by status

use prexorcloud_proto::ExchangeJoinTokenRequest;
use prexorcloud_security::token::JoinToken;
use tonic::Code;

use crate::support::{Cluster, eventually, within};

#[tokio::test(flavor = "multi_thread")]
async fn each_refusal_has_its_status() {
    let cluster = Cluster::start().await;
    let open = cluster.join_token(None).await;
    let bound = cluster.join_token(Some("node-1")).await;
    let used = cluster.join_token(None).await;
    cluster.exchange(&used, "node-0").await.unwrap();
    let unknown = JoinToken::generate(None).unwrap();

    let (_, revoked) = cluster.post("/admin/tokens", &serde_json::json!({})).await;
    let id = revoked["tokenId"].as_str().unwrap();
    assert_eq!(
        cluster
            .call("DELETE", &format!("/admin/tokens/{id}"), None)
            .await
            .0,
        204
    );
    let revoked = revoked["token"].as_str().unwrap();

    let (_, expired) = cluster
        .post("/admin/tokens", &serde_json::json!({ "ttlSeconds": 1 }))
        .await;
    eventually("the token expires", async || {
        let (_, listed) = cluster.get("/admin/tokens").await;
        let mut listed = listed.as_array().unwrap().clone();
        listed.retain(|token| token["tokenId"] == expired["tokenId"]);
        (listed[0]["status"] == "EXPIRED").then_some(())
    })
    .await;
    let expired = expired["token"].as_str().unwrap();

    let long = "a".repeat(65);
    let cases = [
        ("", "node-1", Code::InvalidArgument),
        (open.as_str(), "", Code::InvalidArgument),
        (open.as_str(), "../x", Code::InvalidArgument),
        (open.as_str(), "a,CN=admin:root", Code::InvalidArgument),
        (open.as_str(), &long, Code::InvalidArgument),
        (unknown.expose(), "node-1", Code::NotFound),
        ("not a token", "node-1", Code::NotFound),
        (used.as_str(), "node-0", Code::FailedPrecondition),
        (revoked, "node-1", Code::FailedPrecondition),
        (expired, "node-1", Code::FailedPrecondition),
        (bound.as_str(), "node-2", Code::PermissionDenied),
    ];
    for (token, node, code) in cases {
        let status = cluster.exchange(token, node).await.unwrap_err();
        assert_eq!(status.code(), code, "{node}: {}", status.message());
        assert!(!status.message().is_empty());
    }
    cluster.exchange(&bound, "node-1").await.unwrap();
    let status = cluster.exchange(&open, "node-1").await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "{}", status.message());
    cluster.exchange(&open, "node-3").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_64_callers_on_the_network_exactly_one_wins() {
    let cluster = Cluster::start().await;
    let token = cluster.join_token(None).await;
    let mut clients = Vec::new();
    for _ in 0..64 {
        // One connection each, since strangers have few calls at once on theirs.
        clients.push(cluster.bootstrap().await);
    }
    let callers: Vec<_> = clients
        .into_iter()
        .enumerate()
        .map(|(caller, mut client)| {
            let request = ExchangeJoinTokenRequest {
                join_token: token.clone(),
                node_id: format!("node-{caller}"),
                ..Default::default()
            };
            tokio::spawn(async move { client.exchange_join_token(request).await })
        })
        .collect();
    let mut won = 0;
    for caller in callers {
        match within(caller).await.unwrap() {
            Ok(_) => won += 1,
            Err(status) => assert_eq!(status.code(), Code::FailedPrecondition, "{}", status.message()),
        }
    }
    assert_eq!(won, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_keeps_failing_has_to_wait() {
    let cluster = Cluster::start_with(|config| {
        config.enrolment.failure_burst = 5;
        config.enrolment.failures_per_minute = 1;
    })
    .await;
    let unknown = JoinToken::generate(None).unwrap();
    for _ in 0..5 {
        let status = cluster.exchange(unknown.expose(), "node-1").await.unwrap_err();
        assert_eq!(status.code(), Code::NotFound);
    }
    let status = cluster.exchange(unknown.expose(), "node-1").await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{}", status.message());
}

#[tokio::test]
async fn a_revocation_names_the_tokens_that_undo_it_and_a_removal_withdraws_them() {
    let cluster = Cluster::start().await;
    cluster.enrol("node-1").await;
    let (bound, other) = (
        cluster.join_token(Some("node-1")).await,
        cluster.join_token(Some("node-2")).await,
    );
    let (status, body) = cluster.act("/nodes/node-1/revoke-cert").await;
    assert_eq!(status, 200, "{body}");
    let open = body["openTokens"].as_array().unwrap().clone();
    assert_eq!(open.len(), 1, "{body}");
    let (status, body) = cluster.act("/nodes/node-1/remove").await;
    assert_eq!((status, &body["revokedTokens"]), (200, &open.into()), "{body}");
    assert!(
        cluster.exchange(&bound, "node-1").await.is_err(),
        "it is withdrawn"
    );
    cluster.exchange(&other, "node-2").await.unwrap();
}
