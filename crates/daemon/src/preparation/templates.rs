//! The templates of an order, in order, and what they bring to the instance
//!
//! A dynamic instance begins empty, so its templates are unpacked right into it. For a static one they are put together in a
//! folder of their own first, with their variables replaced, and then brought file by file over what is there. What templates
//! bring is the only thing in which variables are replaced.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io::{self, Read as _};
use std::path::{Component, Path};
use std::sync::Arc;

use prexorcloud_content::{Limits, UnpackError, unpack};
use prexorcloud_proto::TemplateRef;
use prexorcloud_protocol::TemplateName;
use prexorcloud_protocol::content::requests::Wanted;
use prexorcloud_protocol::limits;
use tokio::task::JoinSet;

use super::inside::{Entry, Inside, InsideError, Kind, Place};
use super::notes::Notes;
use super::protected::Protected;
use super::workspace::Workspace;
use super::{PreparationError, merge, order, substitution};
use crate::cache::templates::{Held, Templates};

/// A template that is here
#[derive(Debug)]
pub(super) struct Fetched {
    name: TemplateName,
    held: Held,
}

/// Gets all templates at once, in the order that is given
///
/// A template with an empty hash has no files, and a second mention of one changes nothing.
pub(super) async fn fetch(
    templates: &Arc<Templates>,
    wanted: &[TemplateRef],
) -> Result<Vec<Fetched>, PreparationError> {
    let mut tasks = JoinSet::new();
    let mut mentioned = BTreeSet::new();
    for (place, template) in wanted.iter().enumerate() {
        let name = TemplateName::new(&template.name)
            .map_err(|error| order::invalid("templates.name", format!("is unsafe: {error}")))?;
        if !limits::fits(&template.hash, limits::HASH) {
            let problem = format!("has more than {} characters", limits::HASH);
            return Err(order::invalid("templates.hash", problem));
        }
        let hash = template.hash.clone();
        let wanted = Wanted { name, hash };
        if wanted.hash.is_empty() || !mentioned.insert(wanted.clone()) {
            continue;
        }
        let templates = Arc::clone(templates);
        tasks.spawn(async move { (place, name, templates.get(&wanted).await) });
    }
    let mut fetched = BTreeMap::new();
    while let Some(done) = tasks.join_next().await {
        // A task neither panics nor is aborted while it is waited for.
        let Ok((place, name, held)) = done else { continue };
        let held = held.map_err(|source| PreparationError::Template {
            name: name.to_string(),
            source,
        })?;
        fetched.insert(place, Fetched { name, held });
    }
    Ok(fetched.into_values().collect())
}

/// Puts the templates into the workspace, and tells what is not as it was meant; may block
pub(super) fn apply(
    fetched: Vec<Fetched>,
    workspace: &Workspace,
    protected: &Protected,
    variables: &BTreeMap<String, String>,
) -> Result<Notes, PreparationError> {
    let mut notes = Notes::default();
    let together = if workspace.is_static() {
        workspace.scratch("together")?
    } else {
        workspace.path().to_path_buf()
    };
    let mut last = None;
    for (number, mut template) in fetched.into_iter().enumerate() {
        let name = template.name;
        if number == 0 {
            unpack_into(&mut template, &together)?;
        } else {
            let folder = workspace.scratch(&number.to_string())?;
            unpack_into(&mut template, &folder)?;
            let (from, to) = (open(&folder)?, open(&together)?);
            bring(name, &from, &to, &Protected::default(), &mut notes)?;
        }
        last = Some(name);
    }
    let Some(last) = last else {
        return Ok(notes);
    };
    substitution::substitute(&open(&together)?, variables, &mut notes)?;
    if workspace.is_static() {
        bring(
            last,
            &open(&together)?,
            &workspace.inside()?,
            protected,
            &mut notes,
        )?;
    }
    Ok(notes)
}

fn open(folder: &Path) -> Result<Inside, PreparationError> {
    Inside::new(folder).map_err(|error| PreparationError::Workspace {
        path: folder.to_path_buf(),
        error,
    })
}

fn unpack_into(template: &mut Fetched, folder: &Path) -> Result<(), PreparationError> {
    let name = template.name;
    let failed = |problem: String, is_transient| PreparationError::TemplateApply {
        name: name.to_string(),
        problem,
        is_transient,
    };
    let sha256 = template.held.sha256();
    let archive = template
        .held
        .archive()
        .map_err(|error| failed(error.to_string(), true))?;
    // Java controllers send no bytes at all for a template without files.
    let mut archive = archive;
    let mut first = [0];
    if archive
        .read(&mut first)
        .map_err(|error| failed(error.to_string(), true))?
        == 0
    {
        return Ok(());
    }
    let archive = template
        .held
        .archive()
        .map_err(|error| failed(error.to_string(), true))?;
    let unpacked = unpack(archive, folder, &Limits::default()).map_err(|error| {
        let is_transient = matches!(error, UnpackError::Read(_) | UnpackError::Write { .. });
        if !is_transient {
            template.held.reject();
        }
        failed(error.to_string(), is_transient)
    })?;
    if unpacked.archive_sha256 != sha256 {
        return Err(failed("its archive changed while it was read".to_owned(), true));
    }
    Ok(())
}

/// Brings everything in `from` to `to`, merged with what is there; `from` is used up
fn bring(
    template: TemplateName,
    from: &Inside,
    to: &Inside,
    protected: &Protected,
    notes: &mut Notes,
) -> Result<(), PreparationError> {
    if to.remembers() {
        let told = foretell(from, to, protected);
        told.map_err(|error| failed(template, ".", error))?;
    }
    let mut folders = vec![(Place::root(), Place::root())];
    while let Some((folder, there)) = folders.pop() {
        let path = folder.relative();
        let entries = from
            .list(&folder)
            .map_err(|error| failed(template, &path.to_string_lossy(), error.into()))?;
        for (name, entry) in entries {
            let place = folder.join(&name);
            let relative = place.relative().to_string_lossy().into_owned();
            let brought = match entry {
                Entry::Folder => {
                    let brought = bring_folder(to, &there, &name);
                    brought.map(|there| folders.push((place, there)))
                }
                Entry::File => to
                    .resolve_in(&there, &name)
                    .and_then(|there| bring_file(from, &place, to, &there, &relative, protected))
                    .map(|note| {
                        if let Some(note) = note {
                            notes.add(format!("template {template}: {relative}: {note}"));
                        }
                    }),
                Entry::Link | Entry::Special => {
                    bring_link(from, &place, to, &there.join(&name), &relative, protected)
                }
            };
            brought.map_err(|error| failed(template, &relative, error))?;
        }
    }
    Ok(())
}

/// Has everything remembered that will change, since each time costs a wait for the disk
///
/// It may be more than does change, and less where links come to lead elsewhere: what is left is remembered when it changes.
fn foretell(from: &Inside, to: &Inside, protected: &Protected) -> Result<(), InsideError> {
    let (mut files, mut made) = (Vec::new(), Vec::new());
    let mut folders = vec![(Place::root(), Place::root())];
    while let Some((folder, there)) = folders.pop() {
        for (name, entry) in from.list(&folder)? {
            let place = folder.join(&name);
            let relative = place.relative().to_string_lossy().into_owned();
            let changes = |place: &Place| {
                !protected.covers(&relative) || to.kind(place).is_ok_and(|kind| kind.is_none())
            };
            match entry {
                Entry::Folder => {
                    if let Ok(there) = to.resolve_in(&there, &name) {
                        made.push(there.clone());
                        folders.push((place, there));
                    }
                }
                Entry::File => files.extend(to.resolve_in(&there, &name).ok().filter(changes)),
                Entry::Link | Entry::Special => files.extend(Some(there.join(&name)).filter(changes)),
            }
        }
    }
    to.remember_ahead(files, made)
}

fn failed(template: TemplateName, path: &str, error: InsideError) -> PreparationError {
    let (problem, is_transient) = match error {
        InsideError::Io(error) if error.kind() == io::ErrorKind::NotADirectory => {
            ("a file is there in the place of a folder".to_owned(), false)
        }
        InsideError::Io(error) => (error.to_string(), true),
        refused => (refused.to_string(), false),
    };
    PreparationError::TemplateApply {
        name: template.to_string(),
        problem: format!("{path}: {problem}"),
        is_transient,
    }
}

fn bring_folder(to: &Inside, parent: &Place, name: &OsStr) -> Result<Place, InsideError> {
    let place = to.resolve_in(parent, name)?;
    if to.kind(&place)? != Some(Kind::Folder) {
        to.make_folder(&place)?;
    }
    Ok(place)
}

/// Brings a file, and tells why it is not merged if it should be
fn bring_file(
    from: &Inside,
    source: &Place,
    to: &Inside,
    place: &Place,
    relative: &str,
    protected: &Protected,
) -> Result<Option<String>, InsideError> {
    let whole = || to.take_over(place, from, source).map(|()| None);
    let size = match to.kind(place)? {
        None => return whole(),
        Some(_) if protected.covers(relative) => return Ok(None),
        Some(Kind::File(size)) => size,
        Some(Kind::Folder) => return Err(InsideError::NotAFile("a folder")),
        Some(Kind::Other) => return Err(InsideError::NotAFile("a pipe or a device")),
    };
    if !merge::is_merged(relative) {
        return whole();
    }
    let too_large = || {
        to.take_over(place, from, source)?;
        let limit = merge::MAX_FILE;
        Ok(Some(format!(
            "it is larger than {limit} bytes and was replaced as a whole"
        )))
    };
    if size > merge::MAX_FILE {
        return too_large();
    }
    let overlay = match from.read(source, merge::MAX_FILE) {
        Err(InsideError::TooLarge(_)) => return too_large(),
        read => read?,
    };
    let (Some(base), Some(overlay)) = (to.read(place, merge::MAX_FILE)?, overlay) else {
        return whole();
    };
    let merged = merge::merge(relative, &base, &overlay);
    if merged.bytes != base {
        to.replace(place, &merged.bytes)?;
    }
    Ok(merged.note)
}

/// Links stay as the archive says them; that they lead nowhere else was seen when it was unpacked, for the place that they have
/// there, and is looked at again for the one that they get here, where a link of another template may have brought them
fn bring_link(
    from: &Inside,
    source: &Place,
    to: &Inside,
    place: &Place,
    relative: &str,
    protected: &Protected,
) -> Result<(), InsideError> {
    let target = from.read_link(source)?;
    let upwards = Path::new(&target)
        .components()
        .take_while(|component| *component == Component::ParentDir);
    if upwards.count() >= place.depth() {
        return Err(InsideError::LinkLeadsOut {
            link: place.relative().display().to_string(),
        });
    }
    match to.kind(place)? {
        Some(_) if protected.covers(relative) => Ok(()),
        Some(Kind::Folder) => Err(InsideError::NotAFile("a folder")),
        _ => to.link(place, &target),
    }
}
