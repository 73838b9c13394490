//! Writes what the machine wants recorded, all of a commit or none of it

use std::{collections::HashMap, sync::atomic::Ordering, time::Duration};

use prexorcloud_proto::{CrashReport, StartInstance};
use prexorcloud_protocol::{
    InstanceId, NodeId,
    instance::{Desired, State},
    node::controller::{Change, CommitFailure, InstanceSnapshot},
    redact,
    roster::RosterEntry,
    session::controller::CrashStanding,
};
use prexorcloud_security::seal::SealingKey;

use super::{NodeContext, crashes, starts::is_live};
use crate::{
    crash,
    events::{Event, SCHEDULED, state_name},
    origin::{self, Origin},
    records::{IncarnationRecord, InstanceRecord, Wanted},
    secrets,
    store::{self, Expect, Record as _, Revision, Store, StoreError, Stored, Txn},
    wall_clock::now_millis,
};

/// Times that a record is read and written anew because others changed it
pub(super) const ATTEMPTS: usize = 8;

/// The code of a start whose jar could not be had
const DOWNLOAD_FAILED: &str = "RUNTIME_PROVISION_FAILED";

/// The pause before a storage that did not answer is asked again
const ASKED_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Crash records that may be stored beyond the bound before the oldest are deleted
const CRASHES_BETWEEN_PRUNING: usize = 16;

/// Where starts come from, by the id of their instance
pub(super) type Origins = HashMap<String, Origin>;

/// Whether both are the same start of an instance
pub(super) fn is_same(one: &StartInstance, other: &StartInstance) -> bool {
    one.incarnation == other.incarnation && one.instance_id == other.instance_id
}

/// Writes all changes in one transaction
///
/// A storage that does not answer in time may still write them, so it is asked until it says what became of them:
/// "not recorded" would be a promise that nobody can keep. Whoever waits for the outcome has a deadline of its own.
pub(super) async fn write(
    context: &NodeContext,
    node: NodeId,
    changes: &[Change],
    origins: &Origins,
) -> Result<(), CommitFailure> {
    let store = &*context.store;
    let mut attempts = ATTEMPTS;
    let crash_ids: Vec<String> = changes.iter().map(|_| crashes::fresh_id()).collect();
    let changes: Vec<_> = changes.iter().zip(&crash_ids).collect();
    let mut is_open = false;
    loop {
        match attempt(store, &context.sealing, node, &changes, origins).await {
            Ok(true) => break,
            Ok(false) => {
                attempts -= 1;
                if attempts == 0 {
                    let detail = "what was to be recorded is changed by too many at once";
                    return Err(CommitFailure::Storage(detail.to_owned()));
                }
            }
            Err(Failed::Unknown) => {
                is_open = true;
                tracing::error!(%node, "the storage does not answer; what it was given may still be recorded, so it is asked again");
                tokio::time::sleep(ASKED_AGAIN_AFTER).await;
            }
            // It takes one after the other, so what was open is decided now.
            Err(Failed::Refused(error)) if is_open => {
                is_open = false;
                tracing::error!(%node, %error, "the storage answers again, and refuses");
            }
            Err(Failed::Refused(error)) => return Err(CommitFailure::Storage(error.to_string())),
            Err(Failed::Storage(error)) if is_open && !error.is_final() => {
                tracing::error!(%node, %error, "it is still open what was recorded");
                tokio::time::sleep(ASKED_AGAIN_AFTER).await;
            }
            Err(Failed::Storage(error)) => return Err(CommitFailure::Storage(error.to_string())),
            Err(Failed::Conflict(reason)) => return Err(CommitFailure::Conflict(reason)),
        }
    }
    let crashes = changes
        .iter()
        .filter(|(change, _)| matches!(change, Change::Crash { .. }))
        .count();
    if crashes > 0 {
        bound_crashes(context, crashes).await;
    }
    Ok(())
}

/// Why nothing was recorded, if that is known
enum Failed {
    Conflict(String),
    /// The transaction was refused
    Refused(StoreError),
    /// There was none, because what is recorded could not be read
    Storage(StoreError),
    /// It may be recorded yet
    Unknown,
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self::Storage(error)
    }
}

/// Whether the changes are recorded now; if not, others were faster
async fn attempt(
    store: &dyn Store,
    sealing: &SealingKey,
    node: NodeId,
    changes: &[(&Change, &String)],
    origins: &Origins,
) -> Result<bool, Failed> {
    let txn = transaction(store, sealing, node, changes, origins).await?;
    if txn.is_read_only() {
        return Ok(true);
    }
    match store.txn(txn).await {
        Ok(outcome) => Ok(outcome.committed().is_some()),
        Err(StoreError::Timeout) => Err(Failed::Unknown),
        Err(error) => Err(Failed::Refused(error)),
    }
}

/// The transaction that carries the changes out, by what the store says now
async fn transaction(
    store: &dyn Store,
    sealing: &SealingKey,
    node: NodeId,
    changes: &[(&Change, &String)],
    origins: &Origins,
) -> Result<Txn, Failed> {
    let mut txn = Txn::new();
    for &(change, crash_id) in changes {
        txn = match change {
            Change::Start(start) => {
                let origin = origins.get(&start.instance_id);
                add_start(store, sealing, node, start, origin, txn).await?
            }
            Change::Instance(snapshot) => {
                let reason = changes.iter().find_map(|(change, _)| reason_of(change, snapshot));
                add_instance(store, node, snapshot, reason, txn).await?
            }
            Change::Forget { instance, .. } => add_forget(store, node, *instance, txn).await?,
            Change::Crash { report, standing } => {
                tracing::warn!(%node, instance = report.instance_id, exit_code = report.exit_code, ?standing, "an instance crashed");
                let txn = crashes::add(store, node, report, crash_id, txn).await?;
                let is_told = changes.iter().any(|(change, _)| is_about(change, report));
                if is_told || *standing == CrashStanding::Past {
                    txn
                } else {
                    add_reason(store, node, report, txn).await?
                }
            }
        };
    }
    Ok(txn)
}

/// A start of an id that is alive nowhere, under an incarnation that was never given out
async fn add_start(
    store: &dyn Store,
    sealing: &SealingKey,
    node: NodeId,
    start: &StartInstance,
    origin: Option<&Origin>,
    txn: Txn,
) -> Result<Txn, Failed> {
    let conflict = Failed::Conflict;
    let id = start.instance_id.as_str();
    let known = store::load::<InstanceRecord>(store, id).await?;
    if let Some(known) = known.as_ref().filter(|known| is_live(&known.record)) {
        if known.record.is_of(node, start.incarnation) {
            // No other start has this incarnation, so an earlier attempt was recorded after all.
            return Ok(txn);
        }
        let state = known.record.state().as_str_name();
        return Err(conflict(format!("{id} is {state} on {}", known.record.node_id)));
    }
    let instance: InstanceId = id
        .parse()
        .map_err(|error| conflict(format!("{id:?} is no instance id: {error}")))?;
    let (last, counter) = last_incarnation(store, instance).await?;
    if start.incarnation <= last {
        return Err(conflict(format!("{id} is being started by somebody else")));
    }
    let now = now_millis();
    let mut record = InstanceRecord {
        instance_id: id.to_owned(),
        node_id: node.to_string(),
        start: Some(start.clone()),
        wanted: Wanted::Run.into(),
        state: State::Scheduled.to_wire(),
        created_at_ms: known.as_ref().map_or(now, |known| known.record.created_at_ms),
        updated_at_ms: now,
        ..InstanceRecord::default()
    };
    record.keep_plugin_hash();
    let noted = origin.map_or(Ok(()), |origin| origin::note(sealing, &mut record, origin));
    noted
        .and_then(|()| secrets::seal(sealing, &mut record))
        .map_err(|error| {
            let detail = error.to_string();
            Failed::Refused(StoreError::Io { detail })
        })?;
    let txn = count(txn, instance, start.incarnation, counter);
    let before = known.as_ref().map(|known| &known.record);
    let txn = txn.tell_all(&state_changed(before, &record));
    Ok(put(txn, known.as_ref(), &record))
}

/// Why an instance has ended, if this change is the report of that very end
fn reason_of(change: &Change, snapshot: &InstanceSnapshot) -> Option<String> {
    match change {
        Change::Crash { report, standing }
            if *standing == CrashStanding::Current
                && snapshot.state == State::Crashed
                && report.instance_id == snapshot.instance.as_str()
                && (report.incarnation == 0 || report.incarnation == snapshot.incarnation.get()) =>
        {
            Some(crash::diagnose(&report.log_tail, report.exit_code).cause)
        }
        _ => None,
    }
}

fn is_about(change: &Change, report: &CrashReport) -> bool {
    matches!(change, Change::Instance(snapshot) if snapshot.instance.as_str() == report.instance_id)
}

/// Why an instance has ended, where that it has is recorded already
async fn add_reason(store: &dyn Store, node: NodeId, report: &CrashReport, txn: Txn) -> Result<Txn, Failed> {
    let found = store::load::<InstanceRecord>(store, &report.instance_id).await?;
    let Some(found) = found.filter(|Stored { record, .. }| {
        let incarnation = record.start.as_ref().map_or(0, |start| start.incarnation);
        record.node_id == node.as_str()
            && record.state == State::Crashed.to_wire()
            && record.last_error.is_empty()
            && (report.incarnation == 0 || report.incarnation == incarnation)
    }) else {
        return Ok(txn);
    };
    let record = InstanceRecord {
        last_error: crash::diagnose(&report.log_tail, report.exit_code).cause,
        updated_at_ms: now_millis(),
        ..found.record.clone()
    };
    Ok(txn.replace(found.revision, &record))
}

/// Notes what is wrong with an instance that lives on this node, beside what the machine has recorded
pub(super) async fn note(store: &dyn Store, node: NodeId, instance: InstanceId, note: &str) {
    let note = &*redact::urls(note);
    for _ in 0..ATTEMPTS {
        let found = match store::load::<InstanceRecord>(store, instance.as_str()).await {
            Ok(found) => found,
            Err(error) => {
                return tracing::warn!(%node, %instance, %error, "what the daemon reports cannot be noted");
            }
        };
        let is_news = |record: &InstanceRecord| {
            record.node_id == node.as_str() && is_live(record) && record.last_error != note
        };
        let Some(found) = found.filter(|found| is_news(&found.record)) else {
            return;
        };
        let record = InstanceRecord {
            last_error: note.to_owned(),
            updated_at_ms: now_millis(),
            ..found.record.clone()
        };
        match store.txn(Txn::new().replace(found.revision, &record)).await {
            Ok(outcome) if outcome.committed().is_none() => {}
            Ok(_) => return,
            Err(error) => {
                return tracing::warn!(%node, %instance, %error, "what the daemon reports cannot be noted");
            }
        }
    }
}

/// An instance as it is now; nothing if the record says so already or is about a later start
async fn add_instance(
    store: &dyn Store,
    node: NodeId,
    snapshot: &InstanceSnapshot,
    reason: Option<String>,
    txn: Txn,
) -> Result<Txn, Failed> {
    let instance = snapshot.instance;
    let found = store::load::<InstanceRecord>(store, instance.as_str()).await?;
    if let Some(other) = found
        .as_ref()
        .filter(|found| found.record.node_id != node.as_str() && is_live(&found.record))
    {
        // The id was started elsewhere since; the handshake's reconciliation stops the copy here.
        tracing::warn!(%node, %instance, recorded_on = other.record.node_id, "an instance is recorded on another node");
        return Ok(txn);
    }
    let Some(record) = updated(node, found.as_ref().map(|found| &found.record), snapshot, reason) else {
        return Ok(txn);
    };
    let before = found.as_ref().map(|found| &found.record);
    let txn = put(txn, found.as_ref(), &record).tell_all(&state_changed(before, &record));
    let (last, counter) = last_incarnation(store, instance).await?;
    let incarnation = snapshot.incarnation.get();
    Ok(if incarnation > last {
        // A daemon brought a number that is new to us.
        count(txn, instance, incarnation, counter)
    } else {
        txn
    })
}

/// Why an instance is STOPPED that nobody has stopped: with another exit code it would have crashed
const ENDED_EARLY: &str =
    "its program ended by itself with exit code 0 before it was ready: look at its console and its arguments";

fn updated(
    node: NodeId,
    before: Option<&InstanceRecord>,
    snapshot: &InstanceSnapshot,
    reason: Option<String>,
) -> Option<InstanceRecord> {
    let now = now_millis();
    let mut record = match before {
        Some(record) => record.clone(),
        // An instance that the daemon reported and nobody asked for.
        None => InstanceRecord {
            instance_id: snapshot.instance.to_string(),
            node_id: node.to_string(),
            created_at_ms: now,
            ..InstanceRecord::default()
        },
    };
    let start = record.start.get_or_insert_with(|| StartInstance {
        instance_id: snapshot.instance.to_string(),
        group: snapshot.group.to_string(),
        ..StartInstance::default()
    });
    let (known, incarnation) = (start.incarnation, snapshot.incarnation.get());
    if known > incarnation {
        return None;
    }
    start.incarnation = incarnation;
    if snapshot.port != 0 {
        start.port = i32::from(snapshot.port);
    }
    if known < incarnation {
        // They are of the start before.
        secrets::remove(&mut record);
        origin::forget(&mut record);
        record.node_id = node.to_string();
        record.running_since_ms = 0;
        record.last_error.clear();
        record.plugin_credentials.clear();
    } else if record.node_id != node.as_str() {
        return None;
    }
    let was = record.state;
    let was_wanted = record.wanted();
    record.state = snapshot.state.to_wire();
    record.lost = snapshot.lost;
    record.set_wanted(wanted_of(snapshot.desired));
    if record.wanted() != Wanted::Run {
        // Nobody brings it back.
        record.sealed_given.clear();
    }
    if matches!(snapshot.state, State::Running | State::Stopped) && was != snapshot.state.to_wire() {
        // What went wrong before did not keep it from running, or from ending well.
        record.last_error.clear();
    }
    let came_up = [State::Preparing, State::Starting]
        .map(State::to_wire)
        .contains(&was);
    if snapshot.state == State::Stopped && came_up && was_wanted == Wanted::Run {
        record.last_error = ENDED_EARLY.to_owned();
    }
    if let Some(note) = snapshot.note.clone().or(reason) {
        record.last_error = match record.start.as_ref().and_then(|start| asked_for(start, &note)) {
            Some(asked) => format!("{note} ({asked})"),
            None => note,
        };
    }
    // What is only given up for lost may be taken back.
    if snapshot.state.is_terminal() && !snapshot.lost {
        secrets::remove(&mut record);
    }
    if snapshot.state == State::Running && record.running_since_ms == 0 {
        record.running_since_ms = now;
    }
    if before == Some(&record) {
        return None;
    }
    record.updated_at_ms = now;
    Some(record)
}

/// What is told of a record of an instance: a new start, and a state that is another one
fn state_changed(before: Option<&InstanceRecord>, record: &InstanceRecord) -> Option<Event> {
    let incarnation = |record: &InstanceRecord| record.start.as_ref().map_or(0, |start| start.incarnation);
    let is_same =
        |before: &InstanceRecord| before.state == record.state && incarnation(before) == incarnation(record);
    if before.is_some_and(is_same) {
        return None;
    }
    Some(Event::InstanceStateChanged {
        instance_id: record.instance_id.clone(),
        group: record
            .start
            .as_ref()
            .map_or_else(String::new, |start| start.group.clone()),
        node_id: record.node_id.clone(),
        old_state: before.map_or_else(|| SCHEDULED.to_owned(), |before| state_name(before.state())),
        new_state: state_name(record.state()),
    })
}

async fn add_forget(store: &dyn Store, node: NodeId, instance: InstanceId, txn: Txn) -> Result<Txn, Failed> {
    let found = store::load::<InstanceRecord>(store, instance.as_str()).await?;
    let Some(found) = found.filter(|found| found.record.node_id == node.as_str()) else {
        return Ok(txn);
    };
    if is_live(&found.record) {
        let state = found.record.state().as_str_name();
        return Err(Failed::Conflict(format!("{instance} is {state}")));
    }
    let key = found.record.key();
    Ok(txn.expect(key.clone(), Expect::At(found.revision)).delete(key))
}

fn put(txn: Txn, found: Option<&Stored<InstanceRecord>>, record: &InstanceRecord) -> Txn {
    match found {
        Some(found) => txn.replace(found.revision, record),
        None => txn.create(record),
    }
}

/// The highest incarnation that was given out, and the revision of its record
pub(super) async fn last_incarnation(
    store: &dyn Store,
    instance: InstanceId,
) -> Result<(u64, Option<Revision>), StoreError> {
    let found = store::load::<IncarnationRecord>(store, instance.as_str()).await?;
    Ok(found.map_or((0, None), |found| (found.record.last, Some(found.revision))))
}

/// Adds the counter of incarnations to a transaction
fn count(txn: Txn, instance: InstanceId, last: u64, revision: Option<Revision>) -> Txn {
    let counter = IncarnationRecord {
        instance_id: instance.to_string(),
        last,
    };
    match revision {
        Some(revision) => txn.replace(revision, &counter),
        None => txn.create(&counter),
    }
}

/// Deletes what is beyond the bound, now and then
async fn bound_crashes(context: &NodeContext, stored: usize) {
    let count = context.crashes_since_pruning.fetch_add(stored, Ordering::Relaxed);
    if count + stored < CRASHES_BETWEEN_PRUNING {
        return;
    }
    context.crashes_since_pruning.store(0, Ordering::Relaxed);
    if let Err(error) = crashes::prune(&*context.store, context.config.crashes.keep).await {
        tracing::warn!(%error, "old crash records could not be deleted");
    }
}

impl InstanceRecord {
    fn is_of(&self, node: NodeId, incarnation: u64) -> bool {
        let start = self.start.as_ref();
        self.node_id == node.as_str() && start.is_some_and(|start| start.incarnation == incarnation)
    }

    /// What a node's machine is given of it after a restart
    pub(super) fn into_entry(self) -> Option<RosterEntry> {
        let state = State::try_from(self.state).ok()?;
        let desired = desired_of(self.wanted());
        Some(RosterEntry {
            start: Box::new(self.start?),
            state,
            desired,
            lost: self.lost,
        })
    }
}

/// What a daemon was asked to download, where it says that it could not and not what: one that announces nothing gives only
/// its own sentence
fn asked_for(start: &StartInstance, note: &str) -> Option<String> {
    let runtime = start.composition_plan.as_ref()?.runtime.as_ref()?;
    // Only such a daemon is given them.
    let is_plain = !runtime.platform_version.is_empty();
    let url = shown(&runtime.download_url);
    if !is_plain || !note.starts_with(DOWNLOAD_FAILED) || note.contains(&url) {
        return None;
    }
    Some(match runtime.sha256.as_str() {
        "" => format!("asked for {url}"),
        sha256 => format!("asked for {url} with the SHA-256 {sha256}"),
    })
}

/// An address without what may be secret in it
fn shown(url: &str) -> String {
    let address = url.split(['?', '#']).next().unwrap_or_default();
    match address.split_once("://") {
        Some((scheme, rest)) => {
            let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
            let host = host.rsplit('@').next().unwrap_or_default();
            format!("{scheme}://{host}/{path}")
        }
        None => address.to_owned(),
    }
}

fn desired_of(wanted: Wanted) -> Desired {
    match wanted {
        Wanted::Run => Desired::Run,
        Wanted::Stop => Desired::Stop,
        Wanted::ForceStop => Desired::ForceStop,
    }
}

fn wanted_of(desired: Desired) -> Wanted {
    match desired {
        Desired::Run => Wanted::Run,
        Desired::Stop => Wanted::Stop,
        Desired::ForceStop => Wanted::ForceStop,
    }
}

#[cfg(test)]
mod tests;
