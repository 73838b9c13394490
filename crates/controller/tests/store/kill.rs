//! A process that is killed while it writes has every acknowledged transaction after the restart

use std::{
    env,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use prexorcloud_controller::store::{Query, SqliteOptions, SqliteStore, Store, Txn};

const FOLDER: &str = "PREXORCLOUD_TEST_STORE_FOLDER";
const ACKNOWLEDGED: &str = "acknowledged ";

fn open(folder: &Path) -> SqliteStore {
    SqliteStore::open(folder.join("controller.db"), &SqliteOptions::default()).unwrap()
}

/// Writes for ever from several tasks and prints each key after its acknowledgement
fn write_until_killed(folder: &Path) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let store = open(folder);
    runtime.block_on(async {
        let writers = (0..8).map(|writer| {
            let store = &store;
            async move {
                for index in 0_u64.. {
                    let key = format!("k/{writer}/{index}");
                    let txn = Txn::new()
                        .put(key.clone(), key.clone())
                        .put(format!("last/{writer}"), key.clone());
                    store.txn(txn).await.unwrap().committed().unwrap();
                    println!("{ACKNOWLEDGED}{key}");
                }
            }
        });
        futures_util::future::join_all(writers).await;
    });
}

#[test]
fn acknowledged_transactions_survive_a_kill() {
    if let Some(folder) = env::var_os(FOLDER) {
        return write_until_killed(folder.as_ref());
    }
    let folder = tempfile::tempdir().unwrap();
    let mut rounds = Vec::new();
    for round in 0..3 {
        let mut child = Command::new(env::current_exe().unwrap())
            .args([
                "--exact",
                "kill::acknowledged_transactions_survive_a_kill",
                "--nocapture",
            ])
            .env(FOLDER, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut acknowledged = Vec::new();
        while acknowledged.len() < 300 + 100 * round {
            assert!(Instant::now() < deadline, "the writer is too slow");
            let line = lines.next().expect("the writer goes on").unwrap();
            acknowledged.extend(line.split_once(ACKNOWLEDGED).map(|(_, key)| key.to_owned()));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What was still in the pipe had been acknowledged as well; the last line may be cut.
        let rest: Vec<_> = lines.map_while(Result::ok).collect();
        acknowledged.extend(
            rest.iter()
                .rev()
                .skip(1)
                .filter_map(|line| line.split_once(ACKNOWLEDGED))
                .map(|(_, key)| key.to_owned()),
        );
        rounds.push(acknowledged);

        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let store = open(folder.path());
            for key in rounds.iter().flatten() {
                assert!(
                    store.get(key).await.unwrap().is_some(),
                    "{key} was acknowledged and is lost"
                );
            }
            for entry in store.list(Query::prefix("last/")).await.unwrap().entries {
                let key = String::from_utf8(entry.value.to_vec()).unwrap();
                let other = store
                    .get(&key)
                    .await
                    .unwrap()
                    .expect("both changes of a transaction, or none");
                assert_eq!(other.revision, entry.revision);
            }
            store.close().await.unwrap();
        });
    }
}
