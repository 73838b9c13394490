//! What controllers are told of modules: written down first, then sent in the order in which it happened
//!
//! The newest state of each module is kept on disk until it was told. While there is no session only the newest of each counts, and the
//! next session begins with all of them.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prexorcloud_proto::{ModuleReport, ModuleSnapshot, ModuleStateUpdate, daemon_message};
use prexorcloud_protocol::limits;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::host::machine::ModuleState;
use crate::control::{read_record, write_record};
use crate::wall_clock::now_ms;

/// Modules that are not here, and whose last state is kept for controllers
const GONE: usize = 256;

/// Changes that wait for the disk; beyond them only the newest of each module counts
const WAITING: usize = 256;

/// A state of a module
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) state: ModuleState,
    pub(super) error: String,
    pub(super) version: String,
    pub(super) sha256: String,
    pub(super) at_ms: i64,
    /// Whether the module is in the store
    pub(super) is_here: bool,
    /// Sessions that were told
    #[serde(default)]
    pub(super) told: u32,
}

impl Entry {
    pub(super) fn new(state: ModuleState, error: impl Into<String>) -> Self {
        Self {
            state,
            error: error.into(),
            version: String::new(),
            sha256: String::new(),
            at_ms: now_ms(),
            is_here: false,
            told: 0,
        }
    }

    pub(super) fn of(self, version: &super::store::Version) -> Self {
        Self {
            version: version.version.clone(),
            sha256: version.sha256.clone(),
            ..self
        }
    }

    pub(super) fn here(self) -> Self {
        Self {
            is_here: true,
            ..self
        }
    }

    fn update(&self, id: &str) -> ModuleStateUpdate {
        let mut error = self.error.clone();
        let mut end = error.len().min(limits::MODULE_ERROR);
        while !error.is_char_boundary(end) {
            end -= 1;
        }
        error.truncate(end);
        ModuleStateUpdate {
            module_id: id.to_owned(),
            state: self.state.word().to_owned(),
            last_error: error,
            updated_at_ms: self.at_ms,
            version: self.version.clone(),
            sha256: self.sha256.clone(),
        }
    }

    fn report(&self, id: &str) -> ModuleReport {
        let update = self.update(id);
        ModuleReport {
            module_id: update.module_id,
            version: update.version,
            sha256: update.sha256,
            state: update.state,
            last_error: update.last_error,
        }
    }
}

/// What a controller is sent
#[derive(Clone, Debug)]
pub(super) enum Message {
    Change(ModuleStateUpdate),
    All(ModuleSnapshot),
}

impl From<Message> for daemon_message::Payload {
    fn from(message: Message) -> Self {
        match message {
            Message::Change(update) => Self::ModuleStateUpdate(Box::new(update)),
            Message::All(snapshot) => Self::ModuleSnapshot(snapshot),
        }
    }
}

#[derive(Debug, Default)]
struct Book {
    newest: BTreeMap<String, Entry>,
    waiting: VecDeque<(String, Entry)>,
    /// Whether there is a session
    is_connected: bool,
    /// A session that was not told anything yet, and whether it is to have a snapshot
    begins: Option<Wants>,
}

/// How a session is told what there is
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wants {
    /// In one message that is complete
    Snapshot,
    /// Module by module
    Changes,
}

/// See the [module](self)
#[derive(Debug)]
pub(super) struct Ledger {
    path: PathBuf,
    book: Mutex<Book>,
    changed: Notify,
}

/// Sends a message on the session, if there is one
pub(super) type Send = Box<dyn Fn(Message) -> bool + std::marker::Send + Sync>;

impl Ledger {
    pub(super) fn open(path: PathBuf) -> Arc<Self> {
        let newest = read_record(&path).unwrap_or_else(|error| {
            tracing::warn!(%error, "the last states of modules cannot be read; they are made anew");
            None
        });
        Arc::new(Self {
            path,
            book: Mutex::new(Book {
                newest: newest.unwrap_or_default(),
                ..Book::default()
            }),
            changed: Notify::new(),
        })
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These modules are in the store, and no others: what an end in the middle has left otherwise is put right
    pub(super) fn expect_only(&self, ids: &[String]) {
        let mut book = self.book();
        for (id, entry) in &mut book.newest {
            let is_here = ids.contains(id);
            if entry.is_here && !is_here {
                entry.state = ModuleState::Unloaded;
                entry.told = 0;
            }
            entry.is_here = is_here;
        }
    }

    /// The newest state of a module
    pub(super) fn newest(&self, id: &str) -> Option<Entry> {
        self.book().newest.get(id).cloned()
    }

    /// Takes a change; it is told after it is on disk
    pub(super) fn tell(&self, id: &str, entry: Entry) {
        let entry = Entry { told: 0, ..entry };
        let mut book = self.book();
        book.newest.insert(id.to_owned(), entry.clone());
        while book.newest.values().filter(|entry| !entry.is_here).count() > GONE {
            let oldest = book.newest.iter().filter(|(_, entry)| !entry.is_here);
            let oldest = oldest
                .min_by_key(|(_, entry)| entry.at_ms)
                .map(|(id, _)| id.clone());
            oldest.map(|id| book.newest.remove(&id));
        }
        if book.waiting.len() >= WAITING
            && let Some(place) = book.waiting.iter().position(|(earlier, _)| earlier == id)
        {
            book.waiting.remove(place);
        }
        while book.waiting.len() >= WAITING {
            book.waiting.pop_front();
        }
        book.waiting.push_back((id.to_owned(), entry));
        drop(book);
        self.changed.notify_one();
    }

    /// A session has begun: it is told all, but what earlier ones were told of modules that are gone
    pub(super) fn handle_connected(&self, wants: Wants) {
        let mut book = self.book();
        book.newest.retain(|_, entry| entry.is_here || entry.told < 2);
        book.is_connected = true;
        book.begins = Some(wants);
        drop(book);
        self.changed.notify_one();
    }

    pub(super) fn handle_disconnected(&self) {
        self.book().is_connected = false;
    }

    /// Writes and sends, for as long as it is polled
    pub(super) async fn run(self: Arc<Self>, send: Send) {
        loop {
            let (messages, newest) = {
                let mut book = self.book();
                let begins = book.begins.take();
                let waiting: Vec<_> = book.waiting.drain(..).collect();
                let mut told: Vec<String> = waiting.iter().map(|(id, _)| id.clone()).collect();
                let change = |(id, entry): (&String, &Entry)| Message::Change(entry.update(id));
                let mut messages: Vec<_> = waiting.iter().map(|(id, entry)| change((id, entry))).collect();
                // The newest of each is enough for a new session, and has no order: each is as of now.
                if let Some(wants) = begins {
                    told = book.newest.keys().cloned().collect();
                    let is_listed = |entry: &Entry| wants == Wants::Snapshot && entry.is_here;
                    let newest = || book.newest.iter();
                    messages = newest()
                        .filter(|(_, entry)| !is_listed(entry))
                        .map(change)
                        .collect();
                    if wants == Wants::Snapshot {
                        let listed = newest().filter(|(_, entry)| is_listed(entry));
                        let modules = listed.map(|(id, entry)| entry.report(id)).collect();
                        messages.push(Message::All(ModuleSnapshot { modules }));
                    }
                }
                if book.is_connected {
                    for id in &told {
                        if let Some(entry) = book.newest.get_mut(id) {
                            entry.told += 1;
                        }
                    }
                }
                if messages.is_empty() {
                    (None, BTreeMap::new())
                } else {
                    (Some(messages), book.newest.clone())
                }
            };
            let Some(messages) = messages else {
                self.changed.notified().await;
                continue;
            };
            let path = self.path.clone();
            let written = tokio::task::spawn_blocking(move || write_record(&path, &newest)).await;
            if let Ok(Err(error)) = written {
                tracing::error!(%error, "states of modules cannot be written down; they are told all the same");
            }
            if !self.book().is_connected {
                continue;
            }
            for message in messages {
                if !send(message) {
                    // The next session is told the newest.
                    break;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::time::Duration;

    use super::*;

    async fn settle(told: &Arc<Mutex<Vec<String>>>, count: usize) -> Vec<String> {
        let enough = async {
            while told.lock().unwrap().len() < count {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), enough)
            .await
            .unwrap();
        std::mem::take(&mut *told.lock().unwrap())
    }

    #[tokio::test]
    async fn changes_are_told_in_order_and_the_newest_again_to_the_next_session() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("states.json");
        let ledger = Ledger::open(path.clone());
        let told: Arc<Mutex<Vec<String>>> = Arc::default();
        let send = |told: &Arc<Mutex<Vec<String>>>| -> Send {
            let told = Arc::clone(told);
            Box::new(move |message| {
                let text = match message {
                    Message::Change(update) => format!("{} {}", update.module_id, update.state),
                    Message::All(all) => {
                        let ids: Vec<_> = all.modules.iter().map(|module| &module.module_id).collect();
                        format!("{ids:?}")
                    }
                };
                told.lock().unwrap().push(text);
                true
            })
        };
        let running = tokio::spawn(Arc::clone(&ledger).run(send(&told)));
        ledger.tell("a", Entry::new(ModuleState::Failed, "before any session"));
        ledger.handle_connected(Wants::Changes);
        assert_eq!(settle(&told, 1).await, ["a FAILED"]);
        let here = |state| Entry::new(state, "").here();
        ledger.tell("b", here(ModuleState::Installed));
        ledger.tell("a", Entry::new(ModuleState::Unloaded, ""));
        ledger.tell("b", here(ModuleState::Active));
        assert_eq!(settle(&told, 3).await, ["b INSTALLED", "a UNLOADED", "b ACTIVE"]);
        ledger.handle_disconnected();
        running.abort();
        // Another daemon, with what was written down.
        let ledger = Ledger::open(path);
        tokio::spawn(Arc::clone(&ledger).run(send(&told)));
        ledger.handle_connected(Wants::Changes);
        assert_eq!(settle(&told, 2).await, ["a UNLOADED", "b ACTIVE"]);
        ledger.handle_connected(Wants::Changes);
        assert_eq!(
            settle(&told, 1).await,
            ["b ACTIVE"],
            "two were told that it is gone"
        );
    }

    #[test]
    fn states_of_what_is_gone_are_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(folder.path().join("states.json"));
        ledger.tell("here", Entry::new(ModuleState::Active, "").here());
        for number in 0..10_000 {
            ledger.tell(&format!("m{number}"), Entry::new(ModuleState::Unloaded, ""));
        }
        let book = ledger.book();
        assert_eq!((book.newest.len(), book.waiting.len()), (GONE + 1, WAITING));
    }
}
