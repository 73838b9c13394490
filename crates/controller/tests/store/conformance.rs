//! The suite that every implementation of `Store` passes
//!
//! Each behaviour is a function over `&dyn Store`. Another implementation calls `conformance_suite!` with its own way
//! to make an empty store.

use std::{future::Future, time::Duration};

use futures_util::StreamExt as _;
use prexorcloud_controller::store::{
    Change, ChangeSet, Expect, InvalidTxn, Query, Revision, Store, StoreError, Txn, TxnOutcome, Watch,
    WatchError,
};

const PATIENCE: Duration = Duration::from_secs(20);

pub async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work)
        .await
        .expect("an answer in time")
}

async fn put(store: &dyn Store, key: &str, value: &str) -> Revision {
    let outcome = within(store.txn(Txn::new().put(key, value.to_owned())))
        .await
        .unwrap();
    outcome.committed().expect("an unconditional put commits")
}

async fn keys(store: &dyn Store, query: Query) -> Vec<String> {
    within(store.list(query))
        .await
        .unwrap()
        .entries
        .into_iter()
        .map(|entry| entry.key)
        .collect()
}

async fn next(watch: &mut Watch) -> Result<ChangeSet, WatchError> {
    within(watch.next())
        .await
        .expect("a watch ends only after an error")
}

pub async fn an_absent_key_is_none(store: &dyn Store) {
    assert_eq!(within(store.get("nodes/none")).await, Ok(None));
    assert_eq!(
        within(store.list(Query::prefix(""))).await.unwrap().revision,
        Revision::ZERO
    );
}

pub async fn each_change_gets_the_next_revision(store: &dyn Store) {
    assert_eq!(put(store, "a", "1").await, Revision(1));
    assert_eq!(put(store, "b", "2").await, Revision(2));
    assert_eq!(put(store, "a", "3").await, Revision(3));
    let entry = within(store.get("a")).await.unwrap().unwrap();
    assert_eq!(
        (entry.value.as_ref(), entry.revision),
        (b"3".as_slice(), Revision(3))
    );
    assert_eq!(
        within(store.get("b")).await.unwrap().unwrap().revision,
        Revision(2)
    );
}

pub async fn a_transaction_without_effect_keeps_the_revision(store: &dyn Store) {
    put(store, "a", "1").await;
    let outcome = within(store.txn(Txn::new().expect("a", Expect::Present).delete("absent")))
        .await
        .unwrap();
    assert_eq!(
        outcome,
        TxnOutcome::Committed {
            revision: Revision(1)
        }
    );
    assert_eq!(put(store, "b", "1").await, Revision(2));
}

pub async fn all_changes_of_a_transaction_happen_together(store: &dyn Store) {
    put(store, "old", "1").await;
    let txn = Txn::new().put("x", "1").put("y", "2").delete("old");
    assert_eq!(
        within(store.txn(txn)).await.unwrap().committed(),
        Some(Revision(2))
    );
    let listing = within(store.list(Query::prefix(""))).await.unwrap();
    let entries: Vec<_> = listing
        .entries
        .iter()
        .map(|entry| (entry.key.as_str(), entry.revision.0))
        .collect();
    assert_eq!(entries, [("x", 2), ("y", 2)]);
}

pub async fn a_failed_condition_changes_nothing(store: &dyn Store) {
    put(store, "a", "1").await;
    let cases = [
        ("a", Expect::Absent, Some(Revision(1))),
        ("a", Expect::At(Revision(7)), Some(Revision(1))),
        ("none", Expect::Present, None),
        ("none", Expect::At(Revision(1)), None),
    ];
    for (key, expect, found) in cases {
        let txn = Txn::new()
            .expect("a", Expect::Present)
            .expect(key, expect)
            .put("a", "2")
            .put("c", "3")
            .delete("a");
        // Writing a key twice is refused, so the delete goes to a second attempt.
        assert!(matches!(
            within(store.txn(txn)).await,
            Err(StoreError::InvalidTxn(InvalidTxn::WrittenTwice { .. }))
        ));
        let txn = Txn::new()
            .expect("a", Expect::Present)
            .expect(key, expect)
            .put("a", "2")
            .put("c", "3");
        let outcome = within(store.txn(txn)).await.unwrap();
        assert_eq!(
            outcome,
            TxnOutcome::Conflict {
                key: key.to_owned(),
                found
            }
        );
    }
    assert_eq!(
        within(store.get("a")).await.unwrap().unwrap().value.as_ref(),
        b"1"
    );
    assert_eq!(within(store.get("c")).await.unwrap(), None);
    assert_eq!(
        within(store.list(Query::prefix(""))).await.unwrap().revision,
        Revision(1)
    );
}

pub async fn of_many_conditional_writers_one_wins(store: &dyn Store) {
    let start = put(store, "token", "fresh").await;
    let attempts = (0..64).map(|caller| {
        store.txn(
            Txn::new()
                .expect("token", Expect::At(start))
                .put("token", format!("consumed by {caller}")),
        )
    });
    let outcomes = within(futures_util::future::join_all(attempts)).await;
    let winners = outcomes
        .into_iter()
        .filter(|outcome| outcome.as_ref().unwrap().committed().is_some())
        .count();
    assert_eq!(winners, 1);
}

pub async fn a_listing_is_in_key_order_and_can_be_cut(store: &dyn Store) {
    for key in ["b/2", "a/1", "b/1", "b/10", "c/1", "b"] {
        put(store, key, "-").await;
    }
    assert_eq!(keys(store, Query::prefix("b/")).await, ["b/1", "b/10", "b/2"]);
    assert_eq!(
        keys(store, Query::prefix("b/").descending()).await,
        ["b/2", "b/10", "b/1"]
    );
    assert_eq!(
        keys(store, Query::prefix("b/").after("b/1").limit(1)).await,
        ["b/10"]
    );
    assert_eq!(
        keys(store, Query::prefix("b/").after("b/10").descending()).await,
        ["b/1"]
    );
    assert_eq!(
        keys(store, Query::prefix("b/").limit(0)).await,
        Vec::<String>::new()
    );
    assert_eq!(
        keys(store, Query::prefix("")).await,
        ["a/1", "b", "b/1", "b/10", "b/2", "c/1"]
    );
    assert_eq!(keys(store, Query::prefix("zzz")).await, Vec::<String>::new());
    assert_eq!(keys(store, Query::prefix("b/").skip(1).limit(1)).await, ["b/10"]);
    assert_eq!(
        keys(store, Query::prefix("b/").descending().skip(2)).await,
        ["b/1"]
    );
    assert_eq!(
        keys(store, Query::prefix("b/").skip(3)).await,
        Vec::<String>::new()
    );
    for (prefix, count) in [("b/", 3), ("", 6), ("zzz", 0)] {
        assert_eq!(store.count(prefix).await.unwrap(), count, "{prefix:?}");
    }
}

pub async fn a_prefix_ends_where_it_should(store: &dyn Store) {
    for key in ["n/~", "n/~~", "n0", "n~", "o"] {
        put(store, key, "-").await;
    }
    assert_eq!(keys(store, Query::prefix("n/~")).await, ["n/~", "n/~~"]);
    assert_eq!(keys(store, Query::prefix("n~")).await, ["n~"]);
    assert_eq!(keys(store, Query::prefix("n")).await, ["n/~", "n/~~", "n0", "n~"]);
}

pub async fn binary_and_empty_values_come_back_unchanged(store: &dyn Store) {
    let binary: Vec<u8> = (0..=255).collect();
    within(store.txn(Txn::new().put("binary", binary.clone()).put("empty", "")))
        .await
        .unwrap()
        .committed()
        .unwrap();
    assert_eq!(within(store.get("binary")).await.unwrap().unwrap().value, binary);
    assert!(
        within(store.get("empty"))
            .await
            .unwrap()
            .unwrap()
            .value
            .is_empty()
    );
}

pub async fn limits_are_refused_with_their_name(store: &dyn Store) {
    let long = "k".repeat(Txn::MAX_KEY_BYTES + 1);
    let huge = vec![0_u8; Txn::MAX_VALUE_BYTES + 1];
    let many = (0..=Txn::MAX_OPERATIONS).fold(Txn::new(), |txn, index| txn.delete(format!("k/{index}")));
    let cases = [
        (Txn::new().put("", "1"), InvalidTxn::KeyLength { bytes: 0 }),
        (
            Txn::new().delete(long.clone()),
            InvalidTxn::KeyLength { bytes: long.len() },
        ),
        (
            Txn::new().expect("a b", Expect::Absent),
            InvalidTxn::KeyCharacters {
                key: "a b".to_owned(),
            },
        ),
        (
            Txn::new().put("n\u{e9}", "1"),
            InvalidTxn::KeyCharacters {
                key: "n\u{e9}".to_owned(),
            },
        ),
        (
            Txn::new().put("big", huge),
            InvalidTxn::ValueTooLarge {
                key: "big".to_owned(),
                bytes: Txn::MAX_VALUE_BYTES + 1,
            },
        ),
        (
            many,
            InvalidTxn::TooManyOperations {
                operations: Txn::MAX_OPERATIONS + 1,
            },
        ),
        (
            Txn::new().put("a", "1").delete("a"),
            InvalidTxn::WrittenTwice { key: "a".to_owned() },
        ),
    ];
    for (txn, expected) in cases {
        assert_eq!(
            within(store.txn(txn)).await,
            Err(StoreError::InvalidTxn(expected))
        );
    }
    assert_eq!(
        within(store.list(Query::prefix(""))).await.unwrap().revision,
        Revision::ZERO
    );
}

pub async fn a_watch_replays_then_follows(store: &dyn Store) {
    put(store, "n/1", "before").await;
    let listing = within(store.list(Query::prefix("n/"))).await.unwrap();
    put(store, "n/2", "between").await;
    put(store, "other", "not ours").await;
    let mut watch = store.watch("n/", listing.revision);
    let change = next(&mut watch).await.unwrap();
    assert_eq!(change.revision, Revision(2));
    assert_eq!(
        change.changes,
        [Change {
            key: "n/2".to_owned(),
            value: Some("between".into())
        }]
    );

    let live = async {
        let txn = Txn::new().put("n/3", "live").put("other", "again").delete("n/1");
        within(store.txn(txn)).await.unwrap().committed()
    };
    let (change, revision) = tokio::join!(next(&mut watch), live);
    let change = change.unwrap();
    assert_eq!(Some(change.revision), revision);
    assert_eq!(
        change.changes,
        [
            Change {
                key: "n/3".to_owned(),
                value: Some("live".into())
            },
            Change {
                key: "n/1".to_owned(),
                value: None
            },
        ]
    );
}

pub async fn a_watch_from_the_future_must_list_again(store: &dyn Store) {
    put(store, "a", "1").await;
    let mut watch = store.watch("", Revision(9));
    assert!(matches!(
        next(&mut watch).await,
        Err(WatchError::Lagged {
            position: Revision(9),
            ..
        })
    ));
    assert!(within(watch.next()).await.is_none());
}

pub async fn closing_ends_operations_and_watches(store: &dyn Store) {
    put(store, "a", "1").await;
    let mut watch = store.watch("", Revision(1));
    let (ended, closed) = tokio::join!(next(&mut watch), within(store.close()));
    assert_eq!(closed, Ok(()));
    assert_eq!(ended, Err(WatchError::Closed));
    assert_eq!(
        within(store.txn(Txn::new().put("b", "1"))).await,
        Err(StoreError::Closed)
    );
    assert_eq!(within(store.get("a")).await, Err(StoreError::Closed));
    assert_eq!(
        next(&mut store.watch("", Revision(1))).await,
        Err(WatchError::Closed)
    );
    assert_eq!(within(store.close()).await, Ok(()));
}

/// Runs the suite: `$new` is an expression that gives a guard and a fresh, empty store
macro_rules! conformance_suite {
    ($new:expr; $($behaviour:ident),+ $(,)?) => {
        $(#[tokio::test]
        async fn $behaviour() {
            let (_guard, store) = $new;
            super::$behaviour(&store).await;
        })+
    };
}

mod sqlite {
    use prexorcloud_controller::store::{SqliteOptions, SqliteStore};

    fn fresh() -> (tempfile::TempDir, SqliteStore) {
        let folder = tempfile::tempdir().unwrap();
        let store =
            SqliteStore::open(folder.path().join("controller.db"), &SqliteOptions::default()).unwrap();
        (folder, store)
    }

    conformance_suite! {
        fresh();
        an_absent_key_is_none,
        each_change_gets_the_next_revision,
        a_transaction_without_effect_keeps_the_revision,
        all_changes_of_a_transaction_happen_together,
        a_failed_condition_changes_nothing,
        of_many_conditional_writers_one_wins,
        a_listing_is_in_key_order_and_can_be_cut,
        a_prefix_ends_where_it_should,
        binary_and_empty_values_come_back_unchanged,
        limits_are_refused_with_their_name,
        a_watch_replays_then_follows,
        a_watch_from_the_future_must_list_again,
        closing_ends_operations_and_watches,
    }
}
