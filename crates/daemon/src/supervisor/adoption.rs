//! Finding instances again that a former daemon started
//!
//! What cannot be read now is no verdict: it is tried again, and in the end the daemon does not start. What was read and is
//! no record is damage, which is told. Neither costs an instance its place: where the shim's lock is held, or a process can
//! be found, the instance stays listed, stoppable and watched.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use prexorcloud_protocol::InstanceId;
use rustix::process::Pid;
use tokio::time::{Instant, sleep};

use super::instance::Found;
use super::record::{FolderName, InstanceFacts, Mark, StopRecord};
use super::{Supervisor, record, remove_folder};
use crate::control::{ControlDir, RunningRecord};
use crate::durable::{self, is_damage};
use crate::process::{Identity, children, holders, homeless_shims, kill_tree, shim_of};
use crate::wall_clock::now_ms;

/// How long a shim that was found while it was starting may take
const STARTING_SHIM_TIMEOUT: Duration = Duration::from_secs(5);

/// How long what cannot be read is tried again before the start of the daemon fails
const PATIENCE: Duration = Duration::from_secs(5);

/// The pause between two attempts
const RETRY: Duration = Duration::from_millis(100);

/// Begins the names of folders that are no control folders any more
const SET_ASIDE: &str = ".unreadable-";

/// An instance that a former daemon started and nobody has settled
#[derive(Clone, Debug)]
pub struct Adopted {
    /// What was asked for; as far as it is known, if there is damage
    pub facts: InstanceFacts,
    /// Where in its life it is; its process may have ended, which an event will tell
    pub found: Found,
    /// Whether its process runs
    pub is_running: bool,
    /// Its process id
    pub pid: i32,
    /// How long ago it was started
    pub uptime: Duration,
    /// What of its records is damaged, in a sentence
    pub damage: Option<String>,
}

/// What a control folder holds
struct Seen {
    control: ControlDir,
    begun_ms: i64,
    facts: InstanceFacts,
    found: Found,
    running: RunningRecord,
    is_running: bool,
    is_settled: bool,
    damage: Damage,
}

/// What was read and is no record
#[derive(Default)]
struct Damage(Vec<String>);

impl Damage {
    /// What was read; nothing if that is damaged, which is kept in mind
    fn or_note<T>(&mut self, read: io::Result<Option<T>>) -> io::Result<Option<T>> {
        match read {
            Err(error) if is_damage(&error) => {
                self.note(&error.to_string());
                Ok(None)
            }
            read => read,
        }
    }

    fn note(&mut self, damage: &str) {
        if !self.0.iter().any(|known| known == damage) {
            self.0.push(damage.to_owned());
        }
    }

    fn sentence(&self) -> Option<String> {
        (!self.0.is_empty()).then(|| self.0.join("; "))
    }
}

impl Supervisor {
    /// Takes over what a former daemon left: running instances, and ends that were not settled
    ///
    /// Starts that had not come as far as a process are withdrawn. Ends are told as events, those of processes that
    /// ended while no daemon ran included. Control folders of which nothing lives and nothing can be told are set aside
    /// with a warning.
    ///
    /// # Errors
    /// If the run folder, or anything in it, cannot be looked at for longer than a moment. Nothing was changed then: the
    /// instances run on, and the next attempt finds them.
    pub async fn adopt(&self) -> io::Result<Vec<Adopted>> {
        let run_folder = &self.inner.settings.run_folder;
        let deadline = Instant::now() + PATIENCE;
        let folders = loop {
            match give_homes(run_folder).and_then(|()| control_folders(run_folder)) {
                Ok(folders) => break folders,
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => sleep(RETRY).await,
            }
        };
        if let Some(dumps) = self.inner.dumps() {
            // What a former daemon kept, or was told to keep, before the budget was changed.
            tokio::task::spawn_blocking(move || dumps.enforce());
        }
        let mut seen = Vec::new();
        for folder in folders {
            seen.extend(look_patiently(&ControlDir::new(folder)).await?);
        }
        Ok(first_of_each_id(seen)
            .into_iter()
            .filter_map(|seen| self.take_over(seen))
            .collect())
    }

    fn take_over(&self, seen: Seen) -> Option<Adopted> {
        let Seen {
            control,
            facts,
            found,
            running,
            is_running,
            is_settled,
            damage,
            ..
        } = seen;
        if is_settled {
            // Only its console may still be wanted.
            self.resume_unlisted(facts, control, running);
            return None;
        }
        let damage = damage.sentence();
        if let Some(damage) = &damage {
            let (instance, pid, folder) = (facts.instance, running.main.pid, control.path().display());
            tracing::error!(%instance, pid, %folder, damage, "records of the instance are damaged; it is watched all the same");
        }
        let uptime = now_ms().saturating_sub(running.started_at_ms);
        let adopted = Adopted {
            found,
            is_running,
            pid: running.main.pid,
            uptime: Duration::from_millis(u64::try_from(uptime).unwrap_or(0)),
            facts: facts.clone(),
            damage,
        };
        self.watch(facts, control, running);
        Some(adopted)
    }
}

/// Makes the control folders again that were removed while something runs in them
///
/// What was in them is lost; what shim and server have open of them is [found](ControlDir::with_lost_files).
fn give_homes(run_folder: &Path) -> io::Result<()> {
    for (folder, shim, moved_to) in homeless_shims(run_folder)? {
        if let Some(moved_to) = moved_to {
            tracing::error!(folder = %folder.display(), from = %moved_to.display(), "somebody moved the control folder of a server that runs; it is moved back");
            fs::rename(moved_to, folder)?;
            continue;
        }
        let facts = FolderName::of(&folder).and_then(|name| name.facts());
        let Some((facts, main)) = facts.zip(oldest_child(&shim)?) else {
            continue;
        };
        let control = ControlDir::new(&folder);
        tracing::error!(folder = %folder.display(), pid = main.pid, "somebody removed a control folder whose server runs; it is made again");
        let running = RunningRecord {
            shim,
            main,
            started_at_ms: begun_ms(&control),
        };
        let written = durable::private_folder(control.path())
            .and_then(|()| record::reserve_marks(&control))
            .and_then(|()| facts.write(&control))
            .and_then(|()| Mark::Rebuilt.set(&control))
            .and_then(|()| control.write_state(&running));
        if let Err(error) = written {
            // Half of it would hide the server from the next look.
            remove_folder(control.path());
            return Err(error);
        }
    }
    Ok(())
}

/// What a shim has started; what that started in turn comes to the shim later
fn oldest_child(shim: &Identity) -> io::Result<Option<Identity>> {
    let Some(pid) = Pid::from_raw(shim.pid) else {
        return Ok(None);
    };
    let mut found = Vec::new();
    for child in children(pid)? {
        match Identity::of(child) {
            Ok(child) => found.push(child),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found
        .into_iter()
        .min_by_key(|child| (child.start_time, child.pid)))
}

/// All control folders in the order of their starts, with those that an earlier version set aside while something lives
fn control_folders(run_folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut folders = Vec::new();
    for entry in fs::read_dir(run_folder)? {
        let entry = entry?;
        if !entry.file_type()?.is_dir() {
            continue;
        }
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if let Some(original) = name.strip_prefix(SET_ASIDE) {
            folders.extend(taken_back(&entry.path(), original)?);
        } else if !name.starts_with('.') {
            folders.push(entry.path());
        }
    }
    folders.sort_by_key(|folder| FolderName::of(folder).map(|name| name.begun_ms));
    Ok(folders)
}

/// The folder under its own name again, if a process still belongs to it
fn taken_back(folder: &Path, original: &str) -> io::Result<Option<PathBuf>> {
    let control = ControlDir::new(folder);
    let is_locked = control.lock().exists() && control.try_lock()?.is_none();
    if !is_locked && holders(&control.stdin(), &control.console_log())?.is_empty() {
        return Ok(None);
    }
    let path = folder.with_file_name(original);
    if path.exists() {
        return Ok(None);
    }
    fs::rename(folder, &path)?;
    tracing::warn!(folder = %path.display(), "a control folder that was set aside has a living instance and is taken back");
    Ok(Some(path))
}

async fn look_patiently(control: &ControlDir) -> io::Result<Option<Seen>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match look(control).await {
            Ok(seen) => return Ok(seen),
            Err(error) if Instant::now() > deadline => {
                let folder = control.path().display();
                let sentence = format!(
                    "{folder} cannot be looked at ({error}); its server may run, so nothing was changed and the daemon does \
                     not start without it: remove the cause and start it again, or move that folder away to give the server up"
                );
                return Err(io::Error::new(error.kind(), sentence));
            }
            Err(_) => sleep(RETRY).await,
        }
    }
}

async fn look(control: &ControlDir) -> io::Result<Option<Seen>> {
    let mut damage = Damage::default();
    let name = FolderName::of(control.path());
    let facts = damage.or_note(InstanceFacts::read(control))?.filter(|facts| {
        let fits = name.as_ref().is_none_or(|name| name.fits(facts));
        if !fits {
            damage.note("instance.json is about another start than its folder");
        }
        fits
    });
    let Some(running) = started(control, &mut damage).await? else {
        match (&facts, damage.sentence()) {
            (_, Some(damage)) => set_aside(control.path(), &damage),
            (Some(facts), None) => {
                tracing::info!(instance = %facts.instance, "a start that was interrupted is withdrawn");
                remove_folder(control.path());
            }
            // Nothing was started before the facts were written.
            (None, None) => remove_folder(control.path()),
        }
        return Ok(None);
    };
    let is_running = running.main.is_running()?;
    let (control, lost) = control.clone().with_lost_files(&running)?;
    let control = &control;
    let is_rebuilt = damage
        .or_note(Mark::Rebuilt.is_set(control).map(Some))?
        .unwrap_or(false);
    if is_rebuilt {
        damage.note(
            "somebody removed its control folder while it ran: its limits are unknown, and its console is read again from \
             its beginning",
        );
    } else if !lost.is_empty() {
        damage.note(&format!(
            "somebody removed or replaced {} in its control folder; what the server has open is used, and is gone when it \
             ends",
            lost.join(", ")
        ));
    }
    let Some(facts) = facts.or_else(|| name.as_ref().and_then(FolderName::facts)) else {
        let damage = damage
            .sentence()
            .unwrap_or_else(|| "there is no instance.json".to_owned());
        if is_running {
            let folder = control.path().display();
            tracing::error!(%folder, pid = running.main.pid, damage,
                "a process runs in a control folder that names no instance; it is left alone: stop it yourself");
        } else {
            set_aside(control.path(), &damage);
        }
        return Ok(None);
    };
    let mut is_settled = damage
        .or_note(Mark::Settled.is_set(control).map(Some))?
        .unwrap_or(false);
    if is_settled && is_running {
        damage.note("it is marked as ended and settled, and runs");
        is_settled = false;
        if let Err(error) = Mark::Settled.clear(control) {
            tracing::warn!(instance = %facts.instance, %error, "cannot take the mark of a settled end back");
        }
    }
    let is_stopping = damage.or_note(StopRecord::read(control))?.is_some();
    let was_ready = damage
        .or_note(Mark::Ready.is_set(control).map(Some))?
        .unwrap_or(false);
    Ok(Some(Seen {
        control: control.clone(),
        begun_ms: name.map_or(0, |name| name.begun_ms),
        found: match (is_stopping, was_ready) {
            (true, _) => Found::Stopping,
            (false, true) => Found::Running,
            (false, false) => Found::Starting,
        },
        facts,
        running,
        is_running,
        is_settled,
        damage,
    }))
}

/// Who runs or ran; `None` if nothing was started, and then nothing ever will be in this folder
async fn started(control: &ControlDir, damage: &mut Damage) -> io::Result<Option<RunningRecord>> {
    let mut deadline = Instant::now() + STARTING_SHIM_TIMEOUT;
    let mut was_killed = false;
    loop {
        // The lock arbitrates: a shim that comes later finds it taken, or its order gone.
        let lock = control.try_lock()?;
        if let Some(running) = damage.or_note(control.read_state())? {
            // The shim has the folder as an argument, which a record that came from elsewhere cannot change.
            let is_ours = shim_of(control.path())?.is_none_or(|shim| shim == running.shim);
            if is_ours {
                return Ok(Some(running));
            }
            damage.note("state.json is about the process of another folder");
        }
        let is_damaged = !damage.0.is_empty();
        let is_late = Instant::now() > deadline;
        if (lock.is_some() || is_damaged || is_late)
            && let Some(found) = found_by_its_files(control)?
        {
            damage.note("state.json does not say which process it is, it was found by its open files");
            return Ok(Some(found));
        }
        if lock.is_some() {
            let exit = damage.or_note(control.read_exit())?;
            if exit.is_some() || (is_damaged && control.console_log().exists()) {
                return Ok(Some(nobody(control)));
            }
            control.remove_launch()?;
            return Ok(None);
        }
        if is_late {
            if was_killed {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "its shim neither starts the instance nor ends",
                ));
            }
            // It has started nothing, and whoever ordered the start was told of no success.
            if let Some(shim) = shim_of(control.path())? {
                tracing::warn!(folder = %control.path().display(), pid = shim.pid, "a shim that starts nothing is killed");
                kill_tree(&shim, true)?;
            }
            was_killed = true;
            deadline = Instant::now() + STARTING_SHIM_TIMEOUT;
        }
        sleep(Duration::from_millis(10)).await;
    }
}

fn found_by_its_files(control: &ControlDir) -> io::Result<Option<RunningRecord>> {
    let Some(main) = holders(&control.stdin(), &control.console_log())?
        .into_iter()
        .next()
    else {
        return Ok(None);
    };
    Ok(Some(RunningRecord {
        shim: shim_of(control.path())?.unwrap_or_else(|| main.clone()),
        main,
        started_at_ms: begun_ms(control),
    }))
}

/// A process that ended, and of which no record tells who it was
fn nobody(control: &ControlDir) -> RunningRecord {
    let nobody = Identity {
        pid: 0,
        start_time: 0,
        boot: String::new(),
    };
    RunningRecord {
        shim: nobody.clone(),
        main: nobody,
        started_at_ms: begun_ms(control),
    }
}

fn begun_ms(control: &ControlDir) -> i64 {
    FolderName::of(control.path()).map_or_else(now_ms, |name| name.begun_ms)
}

/// At most one start of each id that is not settled: the one that lives, or the latest
///
/// A later start was ordered by someone who knew that the earlier one had ended, so that one counts as settled even where
/// that could not be written down.
fn first_of_each_id(seen: Vec<Seen>) -> Vec<Seen> {
    let mut chosen: HashMap<InstanceId, usize> = HashMap::new();
    for (index, candidate) in seen.iter().enumerate().filter(|(_, seen)| !seen.is_settled) {
        match chosen.entry(candidate.facts.instance) {
            Entry::Vacant(vacant) => {
                vacant.insert(index);
            }
            Entry::Occupied(mut occupied) => {
                let rank = |seen: &Seen| (seen.is_running, seen.begun_ms);
                if seen
                    .get(*occupied.get())
                    .is_none_or(|other| rank(other) < rank(candidate))
                {
                    occupied.insert(index);
                }
            }
        }
    }
    let mut all = Vec::with_capacity(seen.len());
    for (index, mut one) in seen.into_iter().enumerate() {
        if !one.is_settled && chosen.get(&one.facts.instance) != Some(&index) {
            let (instance, folder) = (one.facts.instance, one.control.path().display());
            if one.is_running {
                tracing::error!(%instance, %folder, pid = one.running.main.pid,
                    "two processes run under one id; the later start is watched, this one is left alone: stop it yourself");
                continue;
            }
            tracing::info!(%instance, %folder, "the end of an earlier start counts as settled");
            if let Err(error) = Mark::Settled.set(&one.control) {
                tracing::warn!(%instance, %error, "cannot note that the end was reported");
            }
            one.is_settled = true;
        }
        all.push(one);
    }
    all
}

fn set_aside(folder: &Path, damage: &str) {
    let Some(name) = folder.file_name().and_then(|name| name.to_str()) else {
        return;
    };
    tracing::warn!(folder = %folder.display(), damage, "nothing lives in a control folder that cannot be understood; it is set aside");
    let target = folder.with_file_name(format!("{SET_ASIDE}{name}"));
    if let Err(error) = fs::rename(folder, target) {
        tracing::warn!(folder = %folder.display(), %error, "cannot set the folder aside");
    }
}
