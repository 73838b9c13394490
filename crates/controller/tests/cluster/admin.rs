//! AdminService, caller by caller and status by status

use std::{sync::Arc, time::SystemTime};

use prexorcloud_controller::{
    access::{AccessTokens, Permission},
    store::{SqliteOptions, SqliteStore, Store},
};
use prexorcloud_proto::{
    CreateJoinTokenRequest, ListJoinTokensRequest, RevokeJoinTokenRequest,
    admin_service_client::AdminServiceClient,
};
use prexorcloud_transport::Connection;
use tonic::{Code, Request, Status};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::support::{Cluster, stranger, within};

type Client = AdminServiceClient<Connection>;

fn as_bearer<T>(message: T, token: &str) -> Request<T> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert("authorization", format!("Bearer {token}").parse().unwrap());
    request
}

async fn list(client: &mut Client, token: Option<&str>) -> Result<usize, Status> {
    let request = match token {
        Some(token) => as_bearer(ListJoinTokensRequest {}, token),
        None => Request::new(ListJoinTokensRequest {}),
    };
    within(client.list_join_tokens(request))
        .await
        .map(|listed| listed.into_inner().tokens.len())
}

fn code<T: std::fmt::Debug>(result: Result<T, Status>) -> Code {
    result.map_or_else(|status| status.code(), |_| Code::Ok)
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_created_listed_and_revoked() {
    let cluster = Cluster::start().await;
    let mut client = cluster.admin_client(None).await;
    let create = CreateJoinTokenRequest {
        node_id: "node-1".to_owned(),
        ttl_seconds: 0,
    };
    let created = within(client.create_join_token(as_bearer(create, &cluster.admin)))
        .await
        .unwrap()
        .into_inner();
    let hour = i64::try_from(
        SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap()
            .as_millis(),
    )
    .unwrap()
        + 3_600_000;
    assert!((created.expires_at_epoch_ms - hour).abs() < 60_000);

    let listed = within(client.list_join_tokens(as_bearer(ListJoinTokensRequest {}, &cluster.admin)))
        .await
        .unwrap();
    let listed = listed.into_inner().tokens;
    assert_eq!(listed.len(), 1);
    assert_eq!(
        (listed[0].token_id.as_str(), listed[0].node_id.as_str()),
        (created.token_id.as_str(), "node-1")
    );
    assert!(!listed[0].expired);

    cluster.exchange(&created.join_token, "node-1").await.unwrap();
    assert_eq!(
        list(&mut client, Some(&cluster.admin)).await.unwrap(),
        0,
        "a consumed token is not listed"
    );

    let create = CreateJoinTokenRequest::default();
    let other = within(client.create_join_token(as_bearer(create, &cluster.admin)))
        .await
        .unwrap()
        .into_inner();
    let revoke = RevokeJoinTokenRequest {
        token_id: other.token_id,
    };
    within(client.revoke_join_token(as_bearer(revoke, &cluster.admin)))
        .await
        .unwrap();
    assert_eq!(
        cluster
            .exchange(&other.join_token, "node-2")
            .await
            .unwrap_err()
            .code(),
        Code::FailedPrecondition
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_arguments_have_their_status() {
    let cluster = Cluster::start().await;
    let mut client = cluster.admin_client(None).await;
    let long = "a".repeat(65);
    for (node_id, ttl_seconds) in [
        ("", -1),
        ("", i32::MIN),
        ("", 2_592_001),
        ("../x", 0),
        ("a,b", 0),
        (&long, 0),
    ] {
        let create = CreateJoinTokenRequest {
            node_id: node_id.to_owned(),
            ttl_seconds,
        };
        let created = within(client.create_join_token(as_bearer(create, &cluster.admin))).await;
        assert_eq!(code(created), Code::InvalidArgument, "{node_id} {ttl_seconds}");
    }
    for (token_id, expected) in [
        ("", Code::InvalidArgument),
        ("  ", Code::InvalidArgument),
        ("tok_0", Code::NotFound),
        ("tok_00000000-0000-4000-8000-000000000000", Code::NotFound),
    ] {
        let revoke = RevokeJoinTokenRequest {
            token_id: token_id.to_owned(),
        };
        let revoked = within(client.revoke_join_token(as_bearer(revoke, &cluster.admin))).await;
        assert_eq!(code(revoked), expected, "{token_id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_administrators_are_administrators() {
    let mut cluster = Cluster::start().await;
    cluster.stop().await;
    let viewer = {
        let file = cluster.config.data_dir.join("controller.db");
        let store: Arc<dyn Store> = Arc::new(SqliteStore::open(file, &SqliteOptions::default()).unwrap());
        let access = AccessTokens::new(Arc::clone(&store));
        let (viewer, _) = access
            .mint("test", "viewer", &[Permission::NodesView.name()], None)
            .await
            .unwrap();
        let (gone, _) = access
            .mint("test", "gone", &[Permission::TokensManage.name()], None)
            .await
            .unwrap();
        access.revoke("test", "gone").await.unwrap();
        store.close().await.unwrap();
        (viewer.expose().to_owned(), gone.expose().to_owned())
    };
    cluster.restart().await;
    let (viewer, gone) = viewer;

    let mut anonymous = cluster.admin_client(None).await;
    assert_eq!(code(list(&mut anonymous, None).await), Code::Unauthenticated);
    assert_eq!(
        code(list(&mut anonymous, Some("prx_wrong")).await),
        Code::Unauthenticated
    );
    assert_eq!(
        code(list(&mut anonymous, Some(&gone)).await),
        Code::Unauthenticated
    );
    assert_eq!(
        code(list(&mut anonymous, Some(&viewer)).await),
        Code::PermissionDenied
    );
    assert_eq!(code(list(&mut anonymous, Some(&cluster.admin)).await), Code::Ok);

    let node = cluster.enrol("node-1").await;
    let mut as_node = cluster.admin_client(Some(&node)).await;
    assert_eq!(code(list(&mut as_node, None).await), Code::PermissionDenied);
    assert_eq!(
        code(list(&mut as_node, Some(&cluster.admin)).await),
        Code::Ok,
        "the token decides"
    );

    let operator = cluster
        .authority()
        .issue_admin("alice", SystemTime::now())
        .unwrap();
    let mut as_admin = cluster.admin_client(Some(&operator)).await;
    assert_eq!(code(list(&mut as_admin, None).await), Code::Ok);
    // A node whose name only sounds like one.
    let pretender = cluster.enrol("controller-admin").await;
    let mut as_pretender = cluster.admin_client(Some(&pretender)).await;
    assert_eq!(code(list(&mut as_pretender, None).await), Code::PermissionDenied);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_of_another_authority_does_not_get_in() {
    let cluster = Cluster::start().await;
    let foreign = stranger().issue_admin("mallory", SystemTime::now()).unwrap();
    let refused = match cluster.dial(Some(&foreign)).await {
        Err(_) => true,
        // In TLS 1.3 the refusal may come after the client believes that it is connected.
        Ok(connection) => list(&mut AdminServiceClient::new(connection), None)
            .await
            .is_err(),
    };
    assert!(refused);
    assert_eq!(cluster.get("/system/ready").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_served_to_anyone() {
    let cluster = Cluster::start().await;
    let mut client = HealthClient::new(cluster.dial(None).await.unwrap());
    for service in [
        "",
        "me.prexorjustin.prexorcloud.protocol.DaemonService",
        "me.prexorjustin.prexorcloud.protocol.AdminService",
    ] {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        let answer = within(client.check(request)).await.unwrap().into_inner();
        assert_eq!(answer.status, 1, "{service}");
    }
}
