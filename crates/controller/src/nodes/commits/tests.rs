#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use prexorcloud_proto::{CompositionPlan, RuntimeArtifact};
use prexorcloud_protocol::Incarnation;

use super::*;
use crate::store::{Entry, Listing, Query, SqliteOptions, SqliteStore, StoreFuture, TxnOutcome, Watch};

/// Writes what it is given, and at first does not get round to saying so.
struct Absent {
    store: SqliteStore,
    unanswered: AtomicUsize,
}

impl Store for Absent {
    fn get<'a>(&'a self, key: &'a str) -> StoreFuture<'a, Option<Entry>> {
        self.store.get(key)
    }

    fn list(&self, query: Query) -> StoreFuture<'_, Listing> {
        self.store.list(query)
    }

    fn count<'a>(&'a self, prefix: &'a str) -> StoreFuture<'a, usize> {
        self.store.count(prefix)
    }

    fn txn(&self, txn: Txn) -> StoreFuture<'_, TxnOutcome> {
        Box::pin(async move {
            let outcome = self.store.txn(txn).await;
            let is_silent = self
                .unanswered
                .try_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
            if is_silent.is_ok() {
                Err(StoreError::Timeout)
            } else {
                outcome
            }
        })
    }

    fn probe(&self) -> StoreFuture<'_, ()> {
        self.store.probe()
    }

    fn watch(&self, prefix: &str, from: Revision) -> Watch {
        self.store.watch(prefix, from)
    }

    fn close(&self) -> StoreFuture<'_, ()> {
        self.store.close()
    }
}

#[tokio::test]
async fn what_a_storage_took_without_an_answer_is_recorded_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("controller.db");
    let store = Absent {
        store: SqliteStore::open(file, &SqliteOptions::default()).unwrap(),
        unanswered: AtomicUsize::new(1),
    };
    let context = NodeContext::of(Arc::new(store), folder.path());
    let node: NodeId = "node-1".parse().unwrap();
    let start = |incarnation| {
        let start = StartInstance {
            instance_id: "lobby-1".into(),
            group: "lobby".into(),
            incarnation,
            ..StartInstance::default()
        };
        [Change::Start(Box::new(start))]
    };
    assert_eq!(write(&context, node, &start(1), &Origins::new()).await, Ok(()));
    let record = store::load::<InstanceRecord>(&*context.store, "lobby-1").await;
    assert!(record.unwrap().unwrap().record.is_of(node, 1));

    // Somebody else's start of the id is still a conflict, on this node and on another.
    for (node, incarnation) in [("node-1", 2), ("node-2", 1)] {
        let refused = write(
            &context,
            node.parse().unwrap(),
            &start(incarnation),
            &Origins::new(),
        )
        .await;
        assert!(matches!(refused, Err(CommitFailure::Conflict(_))), "{refused:?}");
    }
}

#[test]
fn values_of_a_start_are_kept_until_somebody_asks_for_its_end() {
    let node: NodeId = "node-1".parse().unwrap();
    let record = InstanceRecord {
        instance_id: "lobby-1".into(),
        node_id: "node-1".into(),
        state: State::Running.to_wire(),
        sealed_secrets: vec![1],
        sealed_given: vec![2],
        started_because: "1 of at least 2 are there".into(),
        ..InstanceRecord::default()
    };
    let snapshot = |state, desired, incarnation| InstanceSnapshot {
        instance: "lobby-1".parse().unwrap(),
        group: "lobby".parse().unwrap(),
        incarnation: Incarnation::new(incarnation),
        port: 0,
        state,
        desired,
        lost: false,
        note: None,
    };
    for state in [State::Crashed, State::Stopped] {
        let ended = updated(node, Some(&record), &snapshot(state, Desired::Run, 0), None).unwrap();
        assert!(ended.sealed_secrets.is_empty());
        assert_eq!(ended.sealed_given, [2]);
    }
    for desired in [Desired::Stop, Desired::ForceStop] {
        let stopping = updated(node, Some(&record), &snapshot(State::Stopping, desired, 0), None);
        assert!(stopping.unwrap().sealed_given.is_empty());
    }
    let another = updated(
        node,
        Some(&record),
        &snapshot(State::Running, Desired::Run, 1),
        None,
    )
    .unwrap();
    assert!(another.sealed_given.is_empty() && another.started_because.is_empty());
}

#[test]
fn a_download_that_failed_says_what_was_asked() {
    let runtime = RuntimeArtifact {
        download_url: "https://me:secret@jars.example/paper.jar?token=secret".into(),
        platform_version: "unpinned".into(),
        ..RuntimeArtifact::default()
    };
    let start = StartInstance {
        composition_plan: Some(CompositionPlan {
            runtime: Some(runtime),
            ..CompositionPlan::default()
        }),
        ..StartInstance::default()
    };
    let note = "RUNTIME_PROVISION_FAILED: Failed to provision runtime artifact for lobby-1";
    let asked = asked_for(&start, note).unwrap();
    assert_eq!(asked, "asked for https://jars.example/paper.jar");
    assert_eq!(asked_for(&start, "START_FAILED: no"), None);
    let told = "RUNTIME_PROVISION_FAILED: https://jars.example/paper.jar returned HTTP 404";
    assert_eq!(asked_for(&start, told), None);
    assert_eq!(asked_for(&StartInstance::default(), note), None);
}

#[test]
fn what_went_wrong_before_does_not_stay_on_an_instance_that_runs() {
    let node: NodeId = "node-1".parse().unwrap();
    let mut record = InstanceRecord {
        instance_id: "lobby-1".into(),
        node_id: "node-1".into(),
        state: State::Starting.to_wire(),
        last_error: "PORT_IN_USE: port 30000 is in use".into(),
        ..InstanceRecord::default()
    };
    let snapshot = |state, note: Option<&str>| InstanceSnapshot {
        instance: "lobby-1".parse().unwrap(),
        group: "lobby".parse().unwrap(),
        incarnation: Incarnation::default(),
        port: 0,
        state,
        desired: Desired::Run,
        lost: false,
        note: note.map(str::to_owned),
    };
    record = updated(node, Some(&record), &snapshot(State::Running, None), None).unwrap();
    assert_eq!(record.last_error, "");
    record.last_error = "noted while it ran".into();
    let again = updated(node, Some(&record), &snapshot(State::Running, None), None);
    assert_eq!(again, None, "what is noted of a running instance stays");
    let crashed = snapshot(State::Crashed, None);
    record = updated(node, Some(&record), &crashed, Some("it crashed".into())).unwrap();
    assert_eq!(record.last_error, "it crashed");
    let mut refused = InstanceRecord {
        state: State::Stopping.to_wire(),
        last_error: "its daemon refuses to stop it".into(),
        ..record.clone()
    };
    refused.set_wanted(Wanted::Stop);
    let ended = updated(node, Some(&refused), &snapshot(State::Stopped, None), None).unwrap();
    assert_eq!(ended.last_error, "", "it was stopped in the end");
    let starting = InstanceRecord {
        state: State::Starting.to_wire(),
        ..refused.clone()
    };
    let ended = updated(node, Some(&starting), &snapshot(State::Stopped, None), None).unwrap();
    assert_eq!(ended.last_error, "", "an order to stop was on its way");
    let mut alone = starting;
    alone.set_wanted(Wanted::Run);
    let ended = updated(node, Some(&alone), &snapshot(State::Stopped, None), None).unwrap();
    assert_eq!(ended.last_error, ENDED_EARLY);
    let again = updated(node, Some(&ended), &snapshot(State::Stopped, None), None);
    assert_eq!(again, None, "what is noted of an end stays");
    let told = snapshot(State::Crashed, Some("not ready"));
    record = updated(node, Some(&record), &told, Some("it crashed".into())).unwrap();
    assert_eq!(record.last_error, "not ready", "the machine knows better");
}
