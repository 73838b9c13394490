//! The SQLite store against a map: any sequence of transactions gives the same answers, also across restarts

use std::collections::BTreeMap;

use futures_util::StreamExt as _;
use prexorcloud_controller::store::{
    Change, Expect, Query, Revision, SqliteOptions, SqliteStore, Store, Txn, TxnOutcome,
};
use proptest::prelude::*;

const KEYS: [&str; 5] = ["a", "b/1", "b/2", "b/20", "c"];

#[derive(Clone, Debug)]
enum Action {
    Txn {
        expects: Vec<(usize, u64)>,
        puts: Vec<(usize, u8)>,
        deletes: Vec<usize>,
    },
    Restart,
}

/// The reference: keys to (value, revision), and the counter
#[derive(Clone, Debug, Default)]
struct Model {
    entries: BTreeMap<String, (Vec<u8>, Revision)>,
    revision: Revision,
    history: Vec<(Revision, Vec<Change>)>,
}

impl Model {
    fn apply(
        &mut self,
        expects: &[(String, Expect)],
        puts: &[(String, Vec<u8>)],
        deletes: &[String],
    ) -> TxnOutcome {
        for (key, expect) in expects {
            let found = self.entries.get(key).map(|(_, revision)| *revision);
            let met = match expect {
                Expect::Absent => found.is_none(),
                Expect::Present => found.is_some(),
                Expect::At(revision) => found == Some(*revision),
            };
            if !met {
                return TxnOutcome::Conflict {
                    key: key.clone(),
                    found,
                };
            }
        }
        let next = Revision(self.revision.0 + 1);
        let mut changes = Vec::new();
        for (key, value) in puts {
            self.entries.insert(key.clone(), (value.clone(), next));
            changes.push(Change {
                key: key.clone(),
                value: Some(value.clone().into()),
            });
        }
        for key in deletes {
            if self.entries.remove(key).is_some() {
                changes.push(Change {
                    key: key.clone(),
                    value: None,
                });
            }
        }
        if !changes.is_empty() {
            self.revision = next;
            self.history.push((next, changes));
        }
        TxnOutcome::Committed {
            revision: self.revision,
        }
    }
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let key = 0..KEYS.len();
    let txn = (
        prop::collection::vec((key.clone(), 0_u64..12), 0..2),
        prop::collection::vec((key.clone(), any::<u8>()), 0..3),
        prop::collection::vec(key, 0..2),
    )
        .prop_map(|(expects, puts, deletes)| Action::Txn {
            expects,
            puts,
            deletes,
        });
    prop::collection::vec(prop_oneof![9 => txn, 1 => Just(Action::Restart)], 1..40)
}

/// 0 = absent, 1 = present, else "written at revision n - 2"
fn expectation(number: u64) -> Expect {
    match number {
        0 => Expect::Absent,
        1 => Expect::Present,
        number => Expect::At(Revision(number - 2)),
    }
}

async fn check(actions: Vec<Action>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("controller.db");
    let open = || SqliteStore::open(&path, &SqliteOptions::default()).unwrap();
    let mut store = open();
    let mut opened_at = Revision::ZERO;
    let mut model = Model::default();
    for action in actions {
        match action {
            Action::Restart => {
                store.close().await.unwrap();
                store = open();
                opened_at = model.revision;
            }
            Action::Txn {
                expects,
                puts,
                deletes,
            } => {
                let expects: Vec<_> = expects
                    .into_iter()
                    .map(|(key, n)| (KEYS[key].to_owned(), expectation(n)))
                    .collect();
                let puts: BTreeMap<_, _> = puts
                    .into_iter()
                    .map(|(key, byte)| (KEYS[key].to_owned(), vec![byte]))
                    .collect();
                let mut deletes: Vec<_> = deletes.into_iter().map(|key| KEYS[key].to_owned()).collect();
                deletes.retain(|key| !puts.contains_key(key));
                deletes.dedup();
                let puts: Vec<_> = puts.into_iter().collect();

                let mut txn = Txn::new();
                for (key, expect) in &expects {
                    txn = txn.expect(key.clone(), *expect);
                }
                for (key, value) in &puts {
                    txn = txn.put(key.clone(), value.clone());
                }
                for key in &deletes {
                    txn = txn.delete(key.clone());
                }
                let expected = model.apply(&expects, &puts, &deletes);
                assert_eq!(store.txn(txn).await.unwrap(), expected);
            }
        }
        let listing = store.list(Query::prefix("")).await.unwrap();
        assert_eq!(listing.revision, model.revision);
        let stored: BTreeMap<_, _> = listing
            .entries
            .into_iter()
            .map(|entry| (entry.key, (entry.value.to_vec(), entry.revision)))
            .collect();
        assert_eq!(stored, model.entries);
    }
    let mut watch = store.watch("", opened_at);
    for (revision, changes) in model
        .history
        .into_iter()
        .filter(|(revision, _)| *revision > opened_at)
    {
        let seen = watch.next().await.unwrap().unwrap();
        assert_eq!((seen.revision, seen.changes), (revision, changes));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_history_gives_the_same_answers_as_a_map(actions in actions()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(check(actions));
    }
}
