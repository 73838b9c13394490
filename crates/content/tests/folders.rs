//! What a folder on disk may hold, and what a manifest may say
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use prexorcloud_content::{EntryPath, Folder, Limits, Manifest, ScanError};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use tempfile::TempDir;

fn scan(room: &TempDir, limits: &Limits) -> Result<Manifest, ScanError> {
    Folder::open(room.path()).unwrap().scan(limits)
}

fn refused(prepare: impl FnOnce(&TempDir), limits: &Limits) -> String {
    let room = tempfile::tempdir().unwrap();
    prepare(&room);
    scan(&room, limits).expect_err("the folder was taken").to_string()
}

#[test]
fn the_form_of_a_manifest_does_not_change() {
    let room = tempfile::tempdir().unwrap();
    fs::create_dir(room.path().join("b")).unwrap();
    fs::write(room.path().join("b/c"), "abc").unwrap();
    symlink("b/c", room.path().join("a")).unwrap();
    let manifest = scan(&room, &Limits::default()).unwrap();
    let json = "{\"entries\":[{\"path\":\"a\",\"kind\":\"link\",\"target\":\"b/c\"},{\"path\":\"b\",\"kind\":\"directory\"},\
                {\"path\":\"b/c\",\"kind\":\"file\",\"size\":3,\"sha256\":\
                \"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\"}]}";
    assert_eq!(String::from_utf8(manifest.to_json().unwrap()).unwrap(), json);
    assert_eq!(
        Manifest::from_json(json.as_bytes(), &Limits::default()).unwrap(),
        manifest
    );
    assert_eq!(manifest.total_bytes(), 3);
    assert!(manifest.find("b/c").is_some() && manifest.find("c").is_none());
}

#[test]
fn what_cannot_be_brought_anywhere_is_refused_by_name() {
    let all = Limits::default();
    let fifo = |room: &TempDir| {
        mknodat(CWD, room.path().join("pipe"), FileType::Fifo, Mode::RWXU, 0).unwrap();
    };
    assert!(refused(fifo, &all).contains("\"pipe\" is a FIFO"));
    let socket = |room: &TempDir| drop(UnixListener::bind(room.path().join("s")).unwrap());
    assert!(refused(socket, &all).contains("\"s\" is a socket"));
    for (target, sentence) in [
        ("/etc", "leads out"),
        ("..", "leads out"),
        ("x/../..", "detour"),
        ("../../x", "leads out"),
    ] {
        let link = |room: &TempDir| symlink(target, room.path().join("l")).unwrap();
        assert!(refused(link, &all).contains(sentence), "{target}");
    }
    let case = |room: &TempDir| {
        fs::write(room.path().join("Config.yml"), "").unwrap();
        fs::write(room.path().join("config.yml"), "").unwrap();
    };
    let sentence = refused(case, &all);
    assert!(
        sentence.contains("\"config.yml\" and \"Config.yml\" differ only in case"),
        "{sentence}"
    );
    for name in [&b"a\\b"[..], b"a\nb", b"a\xff"] {
        let bad = |room: &TempDir| {
            fs::write(room.path().join(std::ffi::OsStr::from_bytes(name)), "").unwrap();
        };
        assert!(refused(bad, &all).contains("cannot be taken"), "{name:?}");
    }
}

#[test]
fn limits_are_told_before_anything_is_read() {
    let limits = Limits {
        entries: 10,
        entry_bytes: 100,
        total_bytes: 150,
        path_depth: 4,
        ..Limits::default()
    };
    let many = |room: &TempDir| {
        for n in 0..11 {
            fs::write(room.path().join(n.to_string()), "").unwrap();
        }
    };
    assert!(refused(many, &limits).contains("more than 10 files"));
    // Sparse: reading it would take for ever.
    let huge = |room: &TempDir| {
        fs::File::create(room.path().join("huge"))
            .unwrap()
            .set_len(1 << 42)
            .unwrap();
    };
    assert!(refused(huge, &limits).contains("100 are the limit for one file"));
    let two = |room: &TempDir| {
        fs::write(room.path().join("a"), [0; 100]).unwrap();
        fs::write(room.path().join("b"), [0; 51]).unwrap();
    };
    assert!(refused(two, &limits).contains("more than 150 bytes"));
    let deep = |room: &TempDir| fs::create_dir_all(room.path().join("a/b/c/d/e")).unwrap();
    assert!(refused(deep, &limits).contains("4 names"));
}

#[test]
fn a_file_that_grows_while_it_is_read_is_told() {
    let room = tempfile::tempdir().unwrap();
    let path = room.path().join("log");
    fs::write(&path, vec![1; 8 << 20]).unwrap();
    let done = AtomicBool::new(false);
    let deadline = Instant::now() + Duration::from_secs(30);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            use std::io::Write as _;
            let mut file = fs::File::options().append(true).open(&path).unwrap();
            while !done.load(Ordering::Relaxed) && Instant::now() < deadline {
                file.write_all(&[2; 64]).unwrap();
                if file.metadata().unwrap().len() > 64 << 20 {
                    file.set_len(8 << 20).unwrap();
                }
            }
        });
        let told = loop {
            match scan(&room, &Limits::default()) {
                Err(ScanError::Changed { path }) => break Some(path),
                // The writer had no turn meanwhile.
                Ok(_) if Instant::now() < deadline => {}
                other => panic!("{other:?}"),
            }
        };
        done.store(true, Ordering::Relaxed);
        assert_eq!(told, Some(EntryPath::parse("log").unwrap()));
    });
}

#[test]
fn no_link_is_followed_when_a_file_is_opened() {
    let room = tempfile::tempdir().unwrap();
    fs::create_dir(room.path().join("real")).unwrap();
    fs::write(room.path().join("real/file"), "x").unwrap();
    symlink("real", room.path().join("link")).unwrap();
    symlink("file", room.path().join("real/also")).unwrap();
    mknodat(CWD, room.path().join("pipe"), FileType::Fifo, Mode::RWXU, 0).unwrap();
    let folder = Folder::open(room.path()).unwrap();
    let open = |path: &str| folder.open_file(&EntryPath::parse(path).unwrap());
    open("real/file").unwrap();
    for path in ["link/file", "real/also", "pipe", "real", "none"] {
        open(path).expect_err(path);
    }
}

#[test]
fn manifests_of_others_are_held_to_the_same_rules() {
    let file = |path: &str| {
        let sha256 = "0".repeat(64);
        format!("{{\"path\":\"{path}\",\"kind\":\"file\",\"size\":1,\"sha256\":\"{sha256}\"}}")
    };
    let folder = |path: &str| format!("{{\"path\":\"{path}\",\"kind\":\"directory\"}}");
    let link = |path: &str, target: &str| {
        format!("{{\"path\":\"{path}\",\"kind\":\"link\",\"target\":\"{target}\"}}")
    };
    for (entries, sentence) in [
        (vec![file("a/b")], "is not listed"),
        (vec![file("b"), file("a")], "sorted"),
        (vec![file("a"), file("a")], "twice"),
        (vec![file("A"), file("a")], "differ only in case"),
        (vec![file("../a")], "plain names"),
        (vec![file("/a")], "absolute"),
        (vec![link("a", "/b")], "leads out"),
        (vec![link("a", "..")], "leads out"),
        (vec![folder("a"), link("a/b", "../..")], "leads out"),
        (vec![file("a"), file("a/b")], "not a folder"),
        (
            vec!["{\"path\":\"a\",\"kind\":\"device\"}".to_owned()],
            "unknown variant",
        ),
        (vec![file("a").replace("000", "xyz")], "64 hexadecimal digits"),
        (vec![file("a").replace(":1", ":-1")], "invalid value"),
    ] {
        let json = format!("{{\"entries\":[{}]}}", entries.join(","));
        let error = Manifest::from_json(json.as_bytes(), &Limits::default()).expect_err(&json);
        assert!(error.to_string().contains(sentence), "{json}: {error}");
    }
    for json in ["", "[]", "{}", "{\"entries\":{}}", "{\"entries\":[],\"more\":1}"] {
        Manifest::from_json(json.as_bytes(), &Limits::default()).expect_err(json);
    }
}

#[test]
fn two_manifests_differ_in_what_was_added_removed_and_changed() {
    use prexorcloud_content::Difference::{Added, Changed, Removed};
    let room = tempfile::tempdir().unwrap();
    fs::write(room.path().join("a"), "1").unwrap();
    fs::write(room.path().join("b"), "1").unwrap();
    fs::write(room.path().join("same"), "1").unwrap();
    let before = scan(&room, &Limits::default()).unwrap();
    fs::remove_file(room.path().join("a")).unwrap();
    fs::write(room.path().join("b"), "2").unwrap();
    fs::create_dir(room.path().join("c")).unwrap();
    let after = scan(&room, &Limits::default()).unwrap();
    let differing: Vec<_> = before
        .difference(&after)
        .into_iter()
        .map(|entry| (entry.path.to_string(), entry.difference))
        .collect();
    let expected = [("a", Removed), ("b", Changed), ("c", Added)];
    assert_eq!(differing, expected.map(|(path, how)| (path.to_owned(), how)));
    assert!(after.difference(&after).is_empty());
}
