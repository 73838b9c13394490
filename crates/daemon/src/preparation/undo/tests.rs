#![allow(clippy::unwrap_used, reason = "tests")]

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

use super::*;

struct Instance {
    folder: tempfile::TempDir,
    /// Another file system, where there is one
    elsewhere: Option<tempfile::TempDir>,
}

impl Instance {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in [("a.yml", "a"), ("config/b.yml", "b"), ("world", "w")] {
            let path = folder.path().join("live").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        symlink("a.yml", folder.path().join("live/link")).unwrap();
        Self {
            folder,
            elsewhere: None,
        }
    }

    /// As if everything in the folder of the instance was below a mount
    fn below_a_mount() -> Self {
        Self {
            elsewhere: tempfile::tempdir_in("/dev/shm").ok(),
            ..Self::new()
        }
    }

    fn live(&self) -> PathBuf {
        self.folder.path().join("live")
    }

    fn names(&self) -> Names {
        let folder = self.elsewhere.as_ref().unwrap_or(&self.folder).path();
        Names {
            pending: folder.join(".live-undo"),
            ended: folder.join(".live-undone-1-1"),
        }
    }

    fn undo(&self) -> Arc<Undo> {
        Arc::new(Undo::new(self.names()))
    }

    fn inside(&self, undo: &Arc<Undo>) -> Inside {
        Inside::new(&self.live()).unwrap().with_undo(Arc::clone(undo))
    }

    fn change(&self, undo: &Arc<Undo>) {
        let inside = self.inside(undo);
        let resolve = |name: &str| inside.resolve(name).unwrap();
        inside
            .remember_ahead(
                vec![resolve("a.yml"), resolve("new.yml")],
                vec![resolve("made/deep")],
            )
            .unwrap();
        for name in ["made/deep", "unannounced"] {
            inside.make_folder(&resolve(name)).unwrap();
        }
        for name in ["a.yml", "config/b.yml", "new.yml", "a.yml", "made/deep/c.yml"] {
            inside.replace(&resolve(name), b"changed").unwrap();
        }
        let link = inside.resolve_entry("link").unwrap();
        inside.link(&link, "elsewhere".as_ref()).unwrap();
    }

    fn roll_back(&self) -> io::Result<()> {
        roll_back(&self.names(), &self.live())
    }

    fn text(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.live().join(name)).ok()
    }

    fn names_in_live(&self) -> Vec<String> {
        let entries = fs::read_dir(self.live()).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn assert_former(&self) {
        assert_eq!(self.names_in_live(), ["a.yml", "config", "link", "world"]);
        for (name, content) in [
            ("a.yml", "a"),
            ("config/b.yml", "b"),
            ("world", "w"),
            ("link", "a"),
        ] {
            assert_eq!(self.text(name).as_deref(), Some(content), "{name}");
        }
        assert_eq!(
            fs::read_link(self.live().join("link")).unwrap(),
            Path::new("a.yml")
        );
        self.assert_ended();
    }

    fn assert_changed(&self) {
        for name in ["a.yml", "config/b.yml", "new.yml", "made/deep/c.yml"] {
            assert_eq!(self.text(name).as_deref(), Some("changed"), "{name}");
        }
        let partial = |name: &String| name.starts_with(".partial");
        assert!(!self.names_in_live().iter().any(partial));
    }

    fn assert_ended(&self) {
        let Names { pending, ended } = self.names();
        assert!(!pending.exists() && !ended.exists());
    }
}

#[test]
fn a_folder_becomes_what_it_was() {
    let instance = Instance::new();
    let inode = fs::metadata(instance.live().join("a.yml")).unwrap().ino();
    let undo = instance.undo();
    instance.change(&undo);
    instance.assert_changed();
    undo.roll_back(&instance.live()).unwrap();
    instance.assert_former();
    assert_eq!(
        fs::metadata(instance.live().join("a.yml")).unwrap().ino(),
        inode,
        "the very file"
    );
    undo.roll_back(&instance.live()).unwrap();
    instance.roll_back().unwrap();
    instance.assert_former();
}

#[test]
fn what_is_below_a_mount_is_put_back_too() {
    let instance = Instance::below_a_mount();
    let mode = |name: &str| {
        fs::metadata(instance.live().join(name))
            .unwrap()
            .permissions()
            .mode()
            & 0o777
    };
    fs::set_permissions(instance.live().join("a.yml"), fs::Permissions::from_mode(0o640)).unwrap();
    let undo = instance.undo();
    instance.change(&undo);
    instance.assert_changed();
    assert_eq!(mode("a.yml"), 0o640);
    drop(undo);
    instance.roll_back().unwrap();
    instance.assert_former();
    assert_eq!(mode("a.yml"), 0o640);
}

#[test]
fn what_is_below_a_mount_is_brought_and_stays() {
    let instance = Instance::below_a_mount();
    let folder = instance.elsewhere.as_ref().unwrap_or(&instance.folder).path();
    fs::create_dir(folder.join("scratch")).unwrap();
    fs::write(folder.join("scratch/x"), "brought").unwrap();
    let undo = instance.undo();
    let (inside, scratch) = (
        instance.inside(&undo),
        Inside::new(&folder.join("scratch")).unwrap(),
    );
    let (to, from) = (inside.resolve("a.yml").unwrap(), scratch.resolve("x").unwrap());
    inside.take_over(&to, &scratch, &from).unwrap();
    let ended = undo.end(&inside).unwrap().unwrap();
    assert_eq!(ended, instance.names().ended);
    instance.roll_back().unwrap();
    assert_eq!(instance.text("a.yml").as_deref(), Some("brought"));
    assert_eq!(instance.names_in_live(), ["a.yml", "config", "link", "world"]);
}

#[test]
fn everything_is_on_the_list_before_it_changes() {
    let instance = Instance::new();
    let undo = instance.undo();
    let inside = instance.inside(&undo);
    let place = |name: &str| inside.resolve(name).unwrap();
    inside.remember(&place("a.yml")).unwrap();
    let kept = instance.names().pending.join("0");
    assert_eq!(fs::read_to_string(&kept).unwrap(), "a");
    // One line for all that a stage announces, and none for what is known.
    inside
        .remember_ahead(
            vec![place("config/b.yml"), place("new/c.yml"), place("a.yml")],
            vec![],
        )
        .unwrap();
    inside.replace(&place("config/b.yml"), b"changed").unwrap();
    let list = fs::read_to_string(instance.names().pending.join("list.jsonl")).unwrap();
    assert_eq!(list.lines().count(), 2, "{list}");
    assert_eq!(
        list::read(&instance.names().pending).unwrap(),
        [
            Former::Kept {
                path: "a.yml".into(),
                number: 0
            },
            Former::Kept {
                path: "config/b.yml".into(),
                number: 1
            },
            Former::NoFolder { path: "new".into() },
            Former::Absent {
                path: "new/c.yml".into()
            },
        ]
    );
}

#[test]
fn the_next_daemon_goes_on_where_the_last_one_ended() {
    for torn in [
        "",
        "0000",
        "00 [{\"Kept\":{\"path\":\"world\",\"number\":0}}]\n",
        "\0\0\0\0",
    ] {
        let instance = Instance::new();
        let undo = instance.undo();
        instance.change(&undo);
        drop(undo);
        let mut list = fs::OpenOptions::new()
            .append(true)
            .open(instance.names().pending.join("list.jsonl"))
            .unwrap();
        io::Write::write_all(&mut list, torn.as_bytes()).unwrap();
        instance.roll_back().unwrap();
        instance.assert_former();
    }
    // Before the list was begun, and before anything was on it.
    let instance = Instance::new();
    fs::create_dir(instance.names().pending).unwrap();
    instance.roll_back().unwrap();
    instance.assert_former();
    let undo = instance.undo();
    undo.folder().unwrap();
    fs::hard_link(instance.live().join("a.yml"), instance.names().pending.join("0")).unwrap();
    instance.roll_back().unwrap();
    instance.assert_former();
}

#[test]
fn what_has_succeeded_stays() {
    let instance = Instance::new();
    let undo = instance.undo();
    assert_eq!(
        undo.end(&instance.inside(&undo)).unwrap(),
        None,
        "nothing has changed"
    );
    instance.change(&undo);
    let ended = undo.end(&instance.inside(&undo)).unwrap().unwrap().to_path_buf();
    undo.roll_back(&instance.live()).unwrap();
    // The next daemon, and the next preparation.
    instance.roll_back().unwrap();
    instance.assert_changed();
    foreign::remove(&ended).unwrap();
    instance.assert_ended();
}

#[test]
fn many_places_are_synced_together() {
    let instance = Instance::new();
    let undo = instance.undo();
    let inside = instance.inside(&undo);
    for number in 0..2 * SYNCED_ALONE {
        inside
            .replace(&inside.resolve(&format!("{number}.yml")).unwrap(), b"new")
            .unwrap();
    }
    undo.end(&inside).unwrap().unwrap();
    instance.roll_back().unwrap();
    assert_eq!(instance.text("20.yml").as_deref(), Some("new"));
}

#[test]
fn what_cannot_be_put_back_stays_pending_and_the_rest_is_not_touched_again() {
    let instance = Instance::new();
    let undo = instance.undo();
    instance.change(&undo);
    // Somebody else's folder in the place of a file.
    let in_the_way = instance.live().join("a.yml");
    fs::remove_file(&in_the_way).unwrap();
    fs::create_dir(&in_the_way).unwrap();
    let error = undo.roll_back(&instance.live()).unwrap_err();
    assert!(error.to_string().contains("a.yml"), "{error}");
    assert_eq!(instance.text("config/b.yml").as_deref(), Some("b"));
    assert_eq!(instance.text("new.yml"), None);
    // Whoever mends it works on the rest, too.
    for name in ["config/b.yml", "new.yml"] {
        fs::write(instance.live().join(name), "by hand").unwrap();
    }
    assert!(instance.roll_back().is_err());
    fs::remove_dir(&in_the_way).unwrap();
    instance.roll_back().unwrap();
    assert_eq!(instance.text("a.yml").as_deref(), Some("a"));
    for name in ["config/b.yml", "new.yml"] {
        assert_eq!(instance.text(name).as_deref(), Some("by hand"), "{name}");
    }
    instance.assert_ended();
}

#[test]
fn what_somebody_put_into_a_new_folder_stays() {
    let instance = Instance::new();
    let undo = instance.undo();
    instance.change(&undo);
    fs::write(instance.live().join("made/theirs"), "theirs").unwrap();
    undo.roll_back(&instance.live()).unwrap();
    assert_eq!(instance.text("made/theirs").as_deref(), Some("theirs"));
    assert!(!instance.live().join("made/deep").exists());
    instance.assert_ended();
}

#[test]
fn a_damaged_list_is_told_and_nothing_is_done_by_it() {
    let instance = Instance::new();
    let undo = instance.undo();
    instance.change(&undo);
    let path = instance.names().pending.join("list.jsonl");
    let list = fs::read_to_string(&path).unwrap();
    fs::write(&path, list.replacen("a.yml", "world", 1)).unwrap();
    let error = instance.roll_back().unwrap_err();
    assert!(error.to_string().contains("damaged"), "{error}");
    instance.assert_changed();
    assert_eq!(instance.text("world").as_deref(), Some("w"));
    assert!(instance.names().pending.exists());
}

#[test]
fn what_is_left_of_a_deleted_instance_is_put_aside() {
    let instance = Instance::new();
    let undo = instance.undo();
    instance.change(&undo);
    foreign::remove(&instance.live()).unwrap();
    undo.roll_back(&instance.live()).unwrap();
    instance.assert_ended();
    let aside: Vec<_> = fs::read_dir(instance.folder.path()).unwrap().collect();
    let [Ok(aside)] = aside.as_slice() else {
        panic!("{aside:?}");
    };
    assert!(aside.file_name().to_string_lossy().starts_with("live@failed-"));
    assert_eq!(fs::read_to_string(aside.path().join("0")).unwrap(), "a");
}
