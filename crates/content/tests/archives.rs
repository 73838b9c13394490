//! What archives may do to a folder: ours, those of Java, and hostile ones
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use prexorcloud_content::{
    Digest, Folder, Limits, Manifest, PackError, Refusal, UnpackError, java_content_hash, pack, unpack,
};
use proptest::prelude::*;
use tar::{Builder, EntryType, Header};
use tempfile::TempDir;

fn header(kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o644);
    header
}

/// A header whose name is written as it is, which the tar crate would refuse.
fn raw_header(name: &[u8], kind: EntryType, target: &[u8], size: u64) -> Header {
    let mut header = header(kind, size);
    header.as_mut_bytes()[..name.len()].copy_from_slice(name);
    header.as_mut_bytes()[157..157 + target.len()].copy_from_slice(target);
    header.set_cksum();
    header
}

fn gzip(fill: impl FnOnce(&mut Builder<GzEncoder<Vec<u8>>>)) -> Vec<u8> {
    let mut builder = Builder::new(GzEncoder::new(Vec::new(), Compression::best()));
    fill(&mut builder);
    builder.into_inner().unwrap().finish().unwrap()
}

fn archive_of(entries: &[(&str, EntryType, &str)]) -> Vec<u8> {
    gzip(|builder| {
        for (name, kind, text) in entries {
            let (target, body) = match kind {
                EntryType::Symlink | EntryType::Link => (text.as_bytes(), ""),
                _ => (&b""[..], *text),
            };
            let header = raw_header(name.as_bytes(), *kind, target, body.len() as u64);
            builder.append(&header, body.as_bytes()).unwrap();
        }
    })
}

fn refused(archive: &[u8], limits: &Limits) -> UnpackError {
    let room = tempfile::tempdir().unwrap();
    let into = room.path().join("into");
    fs::create_dir(&into).unwrap();
    fs::create_dir(room.path().join("outside")).unwrap();
    let error = unpack(archive, &into, limits).expect_err("a hostile archive was unpacked");
    assert_eq!(
        fs::read_dir(room.path().join("outside")).unwrap().count(),
        0,
        "{error}"
    );
    assert_eq!(fs::read_dir(room.path()).unwrap().count(), 2, "{error}");
    error
}

fn scan(path: &Path) -> Manifest {
    Folder::open(path).unwrap().scan(&Limits::default()).unwrap()
}

fn pack_folder(path: &Path) -> (Manifest, Vec<u8>, Digest) {
    let folder = Folder::open(path).unwrap();
    let manifest = folder.scan(&Limits::default()).unwrap();
    let mut bytes = Vec::new();
    let packed = pack(
        &manifest,
        &Limits::default(),
        |path, _| folder.open_file(path),
        &mut bytes,
    )
    .unwrap();
    assert_eq!(packed.sha256, Digest::of(&bytes));
    assert_eq!(packed.bytes, bytes.len() as u64);
    (manifest, bytes, packed.sha256)
}

#[test]
fn a_folder_comes_back_as_it_was() {
    let room = tempfile::tempdir().unwrap();
    let long = "long-".repeat(30);
    let deep = room.path().join("worlds").join(&long).join(&long);
    fs::create_dir_all(&deep).unwrap();
    fs::create_dir(room.path().join("empty")).unwrap();
    fs::write(deep.join("level.dat"), "world").unwrap();
    fs::write(room.path().join("start.sh"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(room.path().join("start.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(room.path().join("grüße.yml"), "").unwrap();
    symlink("../start.sh", room.path().join("worlds/start")).unwrap();
    symlink(
        format!("{long}/{long}/level.dat"),
        room.path().join("worlds/level"),
    )
    .unwrap();

    let (manifest, bytes, sha256) = pack_folder(room.path());
    let into = tempfile::tempdir().unwrap();
    let unpacked = unpack(&bytes[..], into.path(), &Limits::default()).unwrap();
    assert_eq!(unpacked.manifest, manifest);
    assert_eq!(unpacked.archive_sha256, sha256);
    assert_eq!(unpacked.archive_bytes, bytes.len() as u64);
    assert_eq!(scan(into.path()), manifest);
    assert_eq!(
        fs::read_to_string(into.path().join("worlds/level")).unwrap(),
        "world"
    );
    let mode = fs::metadata(into.path().join("start.sh"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o100, 0o100);

    let again = Manifest::from_json(&manifest.to_json().unwrap(), &Limits::default()).unwrap();
    assert_eq!(again, manifest);
    assert_eq!(
        pack_folder(into.path()).1,
        bytes,
        "the same files give the same archive"
    );
}

#[test]
fn what_is_compressed_already_does_not_grow() {
    let room = tempfile::tempdir().unwrap();
    // Bytes in which nothing repeats.
    let mut noise = Vec::with_capacity(320_000);
    for number in 0..10_000_u32 {
        noise.extend(<[u8; 32]>::from(Digest::of(&number.to_le_bytes())));
    }
    fs::write(room.path().join("noise.jar"), &noise).unwrap();
    let (_, bytes, _) = pack_folder(room.path());
    assert!(bytes.len() < noise.len() + noise.len() / 100, "{}", bytes.len());
}

#[test]
fn archives_of_the_java_controller_are_unpacked() {
    // Commons Compress with LONGFILE_POSIX: folders with '/', files in walk order, long paths in a PAX header, records padded.
    let long = format!("plugins/{}/config.yml", "deep/".repeat(30).trim_end_matches('/'));
    let archive = {
        let mut tar = Vec::new();
        {
            let mut builder = Builder::new(&mut tar);
            let mut folder = raw_header(b"plugins/", EntryType::Directory, b"", 0);
            folder.set_mode(0o40755);
            folder.set_mtime(1_704_067_200);
            folder.set_cksum();
            builder.append(&folder, io::empty()).unwrap();
            builder
                .append_pax_extensions([("path", long.as_bytes()), ("mtime", b"1704067200.5")])
                .unwrap();
            let name = &long.as_bytes()[..99];
            let mut file = raw_header(name, EntryType::Regular, b"", 5);
            file.set_mode(0o100_644);
            file.set_cksum();
            builder.append(&file, &b"a: 1\n"[..]).unwrap();
            builder
                .append(
                    &raw_header(b"./server.properties", EntryType::Regular, b"", 3),
                    &b"a=b"[..],
                )
                .unwrap();
            builder.finish().unwrap();
        }
        tar.resize(tar.len().next_multiple_of(10_240), 0);
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        gzip.write_all(&tar).unwrap();
        gzip.finish().unwrap()
    };
    let into = tempfile::tempdir().unwrap();
    let unpacked = unpack(&archive[..], into.path(), &Limits::default()).unwrap();
    assert_eq!(fs::read_to_string(into.path().join(&long)).unwrap(), "a: 1\n");
    assert_eq!(scan(into.path()), unpacked.manifest);

    // SHA-256 of "plugins/deep/…/config.yml" "a: 1\n" "server.properties" "a=b"
    let expected = Digest::of(format!("{long}a: 1\nserver.propertiesa=b").as_bytes());
    let folder = Folder::open(into.path()).unwrap();
    let hash = java_content_hash(&unpacked.manifest, |path, _| folder.open_file(path)).unwrap();
    assert_eq!(hash, Some(expected));
}

#[test]
fn java_sorts_paths_by_utf_16_and_names_nothing_by_an_empty_text() {
    let room = tempfile::tempdir().unwrap();
    fs::create_dir(room.path().join("only-a-folder")).unwrap();
    let folder = Folder::open(room.path()).unwrap();
    let hash = |folder: &Folder| {
        java_content_hash(&folder.scan(&Limits::default()).unwrap(), |path, _| {
            folder.open_file(path)
        })
        .unwrap()
    };
    assert_eq!(hash(&folder), None);
    // U+1F600 is d83d de00 in UTF-16, so it stands before U+FF21 there and behind it in UTF-8.
    fs::write(room.path().join("\u{1f600}"), "1").unwrap();
    fs::write(room.path().join("\u{ff21}"), "2").unwrap();
    assert_eq!(hash(&folder), Some(Digest::of("\u{1f600}1\u{ff21}2".as_bytes())));
}

#[test]
fn every_way_out_of_the_folder_is_refused() {
    use EntryType::{Block, Char, Directory, Fifo, Link, Regular, Symlink};
    for (entries, sentence) in [
        (&[("../outside/a", Regular, "x")][..], "\"..\""),
        (&[("a/../../outside/a", Regular, "x")], "\"..\""),
        (&[("/etc/passwd", Regular, "x")], "absolute"),
        (&[("a\\..\\b", Regular, "x")], "backslash"),
        (&[("a//b", Regular, "x")], "empty name"),
        (&[("a/./b", Regular, "x")], "\".\""),
        (&[("out", Symlink, "/etc")], "leads out"),
        (&[("out", Symlink, "..")], "leads out"),
        (&[("a/b/out", Symlink, "../../../outside")], "leads out"),
        // Each stays inside by its text, and the second leads out through the first.
        (
            &[("c/up", Symlink, ".."), ("out", Symlink, "c/up/../outside")],
            "detour",
        ),
        (&[("out", Symlink, "nothing/../../outside")], "detour"),
        (&[("out", Symlink, "")], "empty name"),
        (
            &[("in", Symlink, "a"), ("in/b", Regular, "x")],
            "is a link and not a folder",
        ),
        (
            &[("in", Regular, "x"), ("in/b", Regular, "x")],
            "is a file and not a folder",
        ),
        (
            &[("a", Directory, ""), ("a", Symlink, "b"), ("a/c", Regular, "x")],
            "twice",
        ),
        (&[("a", Regular, "x"), ("b", Link, "a")], "a hard link"),
        (&[("a", Link, "/etc/passwd")], "a hard link"),
        (&[("a", Char, "")], "a device"),
        (&[("a", Block, "")], "a device"),
        (&[("a", Fifo, "")], "a FIFO"),
        (&[("a", Regular, "x"), ("a", Regular, "y")], "twice"),
        (&[("a", Regular, "x"), ("./a", Regular, "y")], "twice"),
        (&[("a/b", Regular, "x"), ("a", Regular, "y")], "twice"),
        (&[("a", Regular, "x"), ("A", Regular, "y")], "differ only in case"),
        (
            &[("a/x", Regular, "x"), ("A/y", Regular, "y")],
            "differ only in case",
        ),
        (&[("Ä", Regular, "x"), ("ä", Regular, "y")], "differ only in case"),
        (&[("a", EntryType::new(b'z'), "")], "unknown kind"),
        (&[("a", EntryType::GNUSparse, "")], "sparse"),
    ] {
        let error = refused(&archive_of(entries), &Limits::default()).to_string();
        assert!(error.contains(sentence), "{entries:?}: {error}");
    }
    let nonsense = gzip(|builder| {
        let header = raw_header(b"a\xff", Regular, b"", 0);
        builder.append(&header, io::empty()).unwrap();
    });
    assert!(
        refused(&nonsense, &Limits::default())
            .to_string()
            .contains("UTF-8")
    );
}

#[test]
fn links_to_folders_above_that_are_inside_are_kept() {
    let archive = archive_of(&[
        ("a/b/up", EntryType::Symlink, "../.."),
        ("a/b/loop", EntryType::Symlink, "loop"),
        ("a/dangling", EntryType::Symlink, "../not/there/"),
    ]);
    let into = tempfile::tempdir().unwrap();
    let unpacked = unpack(&archive[..], into.path(), &Limits::default()).unwrap();
    assert_eq!(scan(into.path()), unpacked.manifest);
    assert_eq!(
        fs::read_link(into.path().join("a/dangling")).unwrap(),
        Path::new("../not/there")
    );
}

#[test]
fn what_is_too_much_is_refused() {
    let small = Limits {
        entries: 3,
        entry_bytes: 10,
        total_bytes: 15,
        ratio: 10,
        ratio_from_bytes: 20_000,
        path_bytes: 20,
        path_depth: 3,
    };
    use EntryType::Regular;
    for (entries, sentence) in [
        (
            &[("a", Regular, ""), ("b", Regular, ""), ("c/d", Regular, "")][..],
            "more than 3 files",
        ),
        (&[("a/b/c/d", Regular, "")], "at most 20 bytes and 3 names"),
        (&[("aaaaaaaaaaaaaaaaaaaaa", Regular, "")], "at most 20 bytes"),
        (&[("a", Regular, "12345678901")], "11 bytes, and 10 are the limit"),
        (
            &[("a", Regular, "1234567890"), ("b", Regular, "123456")],
            "more than 15 bytes",
        ),
        (
            &[("a", EntryType::Symlink, "aaaaaaaaaaaaaaaaaaaaa")],
            "longer than 20 bytes",
        ),
    ] {
        let error = refused(&archive_of(entries), &small).to_string();
        assert!(error.contains(sentence), "{entries:?}: {error}");
    }
}

#[test]
fn bombs_are_stopped_while_they_are_read() {
    let limits = Limits {
        ratio_from_bytes: 1 << 20,
        ..Limits::default()
    };
    let bomb = gzip(|builder| {
        let size = 64 << 20;
        builder
            .append(
                &raw_header(b"zeros", EntryType::Regular, b"", size),
                io::repeat(0).take(size),
            )
            .unwrap();
    });
    assert!(matches!(
        refused(&bomb, &limits),
        UnpackError::Refused(Refusal::Bomb { ratio: 200 })
    ));

    // A size that the header claims costs nothing before it is there.
    let claim = gzip(|builder| {
        builder
            .append(
                &raw_header(b"huge", EntryType::Regular, b"", 8 << 40),
                io::empty(),
            )
            .unwrap();
    });
    assert!(
        refused(&claim, &limits)
            .to_string()
            .contains("limit for one file")
    );

    for kind in [
        EntryType::GNULongName,
        EntryType::XHeader,
        EntryType::XGlobalHeader,
    ] {
        let header = gzip(|builder| {
            let size = 1 << 20;
            builder
                .append(&raw_header(b"x", kind, b"", size), io::repeat(b'a').take(size))
                .unwrap();
        });
        assert!(refused(&header, &limits).to_string().contains("64 KiB"));
    }
    let headers = gzip(|builder| {
        for _ in 0..100 {
            builder
                .append(&raw_header(b"x", EntryType::XGlobalHeader, b"", 0), io::empty())
                .unwrap();
        }
    });
    let few = Limits {
        entries: 5,
        ..Limits::default()
    };
    assert!(refused(&headers, &few).to_string().contains("more than 5"));
    // Endless zeros behind the end.
    let mut padded = Vec::new();
    let mut gzip = GzEncoder::new(&mut padded, Compression::best());
    io::copy(&mut io::repeat(0).take(1 << 20), &mut gzip).unwrap();
    gzip.finish().unwrap();
    assert!(
        refused(&padded, &Limits::default())
            .to_string()
            .contains("behind its end")
    );
}

#[test]
fn posix_headers_cannot_lie() {
    for (key, value, sentence) in [
        ("path", &b"../outside/a"[..], "\"..\""),
        ("size", b"1", "a size of its own"),
        ("GNU.sparse.major", b"1", "sparse"),
    ] {
        let archive = gzip(|builder| {
            builder.append_pax_extensions([(key, value)]).unwrap();
            builder
                .append(&raw_header(b"a", EntryType::Regular, b"", 1), &b"x"[..])
                .unwrap();
        });
        let error = refused(&archive, &Limits::default()).to_string();
        assert!(error.contains(sentence), "{key}: {error}");
    }
    for damaged in [
        "12 path=a",
        "x path=a\n",
        "99 path=a\n",
        "1 path=a\n",
        "9 patha/\n",
        " ",
    ] {
        let archive = gzip(|builder| {
            let header = raw_header(b"x", EntryType::XHeader, b"", damaged.len() as u64);
            builder.append(&header, damaged.as_bytes()).unwrap();
        });
        let error = refused(&archive, &Limits::default()).to_string();
        assert!(error.contains("POSIX header is damaged"), "{damaged:?}: {error}");
    }
}

#[test]
fn damage_is_no_fault_of_the_network_and_the_network_is_no_damage() {
    let whole = archive_of(&[
        ("a", EntryType::Regular, "some text"),
        ("b/", EntryType::Directory, ""),
    ]);
    for end in 0..whole.len() {
        let room = tempfile::tempdir().unwrap();
        let error = unpack(&whole[..end], room.path(), &Limits::default()).expect_err("half an archive");
        assert!(matches!(error, UnpackError::Malformed(_)), "{end}: {error}");
    }
    let mut more = whole.clone();
    more.push(0);
    assert!(
        refused(&more, &Limits::default())
            .to_string()
            .contains("behind its end")
    );

    struct Torn(Vec<u8>);
    impl Read for Torn {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.0.is_empty() {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            let count = buffer.len().min(7).min(self.0.len());
            buffer[..count].copy_from_slice(&self.0[..count]);
            self.0.drain(..count);
            Ok(count)
        }
    }
    let room = tempfile::tempdir().unwrap();
    let torn = Torn(whole[..whole.len() / 2].to_vec());
    match unpack(torn, room.path(), &Limits::default()) {
        Err(UnpackError::Read(error)) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
        other => panic!("{other:?}"),
    }
    let room = tempfile::tempdir().unwrap();
    fs::write(room.path().join("there"), "").unwrap();
    let error = unpack(&whole[..], room.path(), &Limits::default()).unwrap_err();
    assert!(matches!(error, UnpackError::NotEmpty), "{error}");
}

#[test]
fn a_file_that_changed_after_the_scan_is_not_packed() {
    let room = tempfile::tempdir().unwrap();
    let file = room.path().join("a");
    fs::write(&file, "as it was").unwrap();
    let folder = Folder::open(room.path()).unwrap();
    let manifest = folder.scan(&Limits::default()).unwrap();
    for now in ["as it is!", "less", "much more than it was"] {
        fs::write(&file, now).unwrap();
        let error = pack(
            &manifest,
            &Limits::default(),
            |path, _| folder.open_file(path),
            io::sink(),
        )
        .unwrap_err();
        assert!(matches!(error, PackError::Changed { .. }), "{now}: {error}");
    }
    fs::remove_file(&file).unwrap();
    symlink("/etc/passwd", &file).unwrap();
    let error = pack(
        &manifest,
        &Limits::default(),
        |path, _| folder.open_file(path),
        io::sink(),
    )
    .unwrap_err();
    assert!(matches!(error, PackError::Read { .. }), "{error}");
}

#[test]
fn what_no_node_would_unpack_is_not_packed() {
    let room = tempfile::tempdir().unwrap();
    fs::write(room.path().join("zeros"), vec![0; 4 << 20]).unwrap();
    let limits = Limits {
        ratio: 50,
        ratio_from_bytes: 1 << 20,
        ..Limits::default()
    };
    let folder = Folder::open(room.path()).unwrap();
    let manifest = folder.scan(&limits).unwrap();
    let error = pack(&manifest, &limits, |path, _| folder.open_file(path), io::sink()).unwrap_err();
    assert!(
        matches!(error, PackError::Refused(Refusal::Bomb { .. })),
        "{error}"
    );
}

fn build(room: &TempDir, files: &[(Vec<String>, Vec<u8>, bool)]) {
    for (names, bytes, executable) in files {
        let path = room.path().join(names.join("/"));
        if fs::create_dir_all(path.parent().unwrap()).is_ok() && !path.exists() {
            fs::write(&path, bytes).unwrap();
            let mode = if *executable { 0o700 } else { 0o600 };
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_folder_comes_back(
        files in proptest::collection::vec(
            (
                proptest::collection::vec("[a-c]{1,3}|[a-c]{80}", 1..4),
                proptest::collection::vec(any::<u8>(), 0..2_000),
                any::<bool>(),
            ),
            0..12,
        )
    ) {
        let room = tempfile::tempdir().unwrap();
        build(&room, &files);
        let (manifest, bytes, _) = pack_folder(room.path());
        let into = tempfile::tempdir().unwrap();
        let unpacked = unpack(&bytes[..], into.path(), &Limits::default()).unwrap();
        prop_assert_eq!(&unpacked.manifest, &manifest);
        prop_assert_eq!(scan(into.path()), manifest);
    }

    #[test]
    fn no_damage_makes_it_panic(at in 0usize..4096, bit in 0u8..8, compressed in any::<bool>()) {
        let mut tar = Vec::new();
        let mut builder = Builder::new(&mut tar);
        builder.append_pax_extensions([("path", &b"long/name"[..])]).unwrap();
        builder.append(&raw_header(b"a", EntryType::Regular, b"", 700), &[7; 700][..]).unwrap();
        builder.append(&raw_header(b"l", EntryType::Symlink, b"long", 0), io::empty()).unwrap();
        builder.finish().unwrap();
        drop(builder);
        let flip = |bytes: &mut Vec<u8>| {
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
        };
        if !compressed {
            flip(&mut tar);
        }
        let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
        gzip.write_all(&tar).unwrap();
        let mut bytes = gzip.finish().unwrap();
        if compressed {
            flip(&mut bytes);
        }
        let room = tempfile::tempdir().unwrap();
        if let Ok(unpacked) = unpack(&bytes[..], room.path(), &Limits::default()) {
            prop_assert_eq!(scan(room.path()), unpacked.manifest);
        }
    }
}
