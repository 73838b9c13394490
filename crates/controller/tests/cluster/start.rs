//! Starts that cannot work, and what they leave

use std::{fs, os::unix::fs::PermissionsExt as _};

use prexorcloud_controller::{Controller, StartError};

use crate::support::{Cluster, within};

#[tokio::test(flavor = "multi_thread")]
async fn a_first_start_makes_private_files_and_one_token() {
    let mut cluster = Cluster::start().await;
    let data = cluster.config.data_dir.clone();
    let first = cluster.running().first_run().unwrap().admin_token_file.clone();
    assert_eq!(first, data.join("admin.token"));
    let mode = |name: &str| fs::metadata(data.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(
        (
            mode("."),
            mode("admin.token"),
            mode("controller.db"),
            mode("ca/ca.key"),
            mode("ca")
        ),
        (0o700, 0o600, 0o600, 0o600, 0o700)
    );
    let pin = cluster.running().token_pin();
    assert!(cluster.join_token(None).await.ends_with(&pin));

    cluster.restart().await;
    assert!(cluster.running().first_run().is_none());
    assert_eq!(cluster.running().token_pin(), pin);
    assert_eq!(
        cluster.get("/nodes").await.0,
        200,
        "the first token is still valid"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_controller_on_the_same_folder_is_refused() {
    let cluster = Cluster::start().await;
    let error = within(Controller::start(cluster.config.clone()))
        .await
        .err()
        .unwrap();
    assert!(matches!(error, StartError::DataDir(_)), "{error}");
    assert!(
        error
            .to_string()
            .contains(cluster.config.data_dir.to_str().unwrap()),
        "{error}"
    );
    assert_eq!(
        cluster.get("/system/ready").await.0,
        200,
        "the first one is not disturbed"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_in_use_are_named_and_the_folder_is_free_again() {
    let cluster = Cluster::start().await;
    let other = tempfile::tempdir().unwrap();
    let mut config = cluster.config.clone();
    config.data_dir = other.path().to_path_buf();
    config.grpc.listen = cluster.running().grpc_addr();
    let error = within(Controller::start(config.clone())).await.err().unwrap();
    assert!(matches!(error, StartError::Grpc(_)), "{error}");
    assert!(
        error.to_string().contains(&config.grpc.listen.to_string()),
        "{error}"
    );

    config.grpc.listen = cluster.config.grpc.listen;
    config.http.listen = cluster.running().http_addr();
    let error = within(Controller::start(config.clone())).await.err().unwrap();
    assert!(matches!(error, StartError::Http(_)), "{error}");
    assert!(
        error.to_string().contains(&config.http.listen.to_string()),
        "{error}"
    );

    config.http.listen = cluster.config.http.listen;
    within(within(Controller::start(config)).await.unwrap().shutdown()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_cannot_be_written_or_is_not_ours_is_refused() {
    let mut cluster = Cluster::start().await;
    cluster.stop().await;
    let folder = cluster.folder.path();

    fs::write(folder.join("file"), "").unwrap();
    let mut config = cluster.config.clone();
    config.data_dir = folder.join("file/data");
    let error = within(Controller::start(config.clone())).await.err().unwrap();
    assert!(matches!(error, StartError::DataDir(_)), "{error}");

    config.data_dir = folder.join("foreign");
    fs::create_dir(&config.data_dir).unwrap();
    fs::write(
        config.data_dir.join("controller.db"),
        "not a database ".repeat(100),
    )
    .unwrap();
    let error = within(Controller::start(config.clone())).await.err().unwrap();
    assert!(matches!(error, StartError::Store(_)), "{error}");

    config = cluster.config.clone();
    config.grpc.names = vec!["no such name!".to_owned()];
    let error = within(Controller::start(config)).await.err().unwrap();
    assert!(matches!(error, StartError::Certificate(_)), "{error}");

    cluster.restart().await;
    assert_eq!(cluster.get("/system/ready").await.0, 200);
}
