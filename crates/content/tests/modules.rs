//! Manifests of modules, and jars that have them or pretend to

#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::{Cursor, Write as _};

use flate2::write::DeflateEncoder;
use flate2::{Compression, Crc};
use prexorcloud_content::module::{
    Host, JarError, MANIFEST, MAX_MANIFEST, Manifest, ProcessHost, read_manifest,
};
use proptest::prelude::*;

const SAMPLE: &str = "\
manifestVersion: 2
id: sample
version: 1.2.0-rc.1
hosts: [daemon, Controller]
backend:
  controller: {entrypoint: com.example.Board, reloadable: true}
  daemon:
    entrypoint: com.example.Main
    host: process
    memoryMb: 32
frontend: {sdkVersion: 1, entry: index.js}
storage:
  mongo: true
  limits: {mongoDocuments: 10}
capabilities:
  provides:
    - {id: board, version: 1.0.0+7, deprecatedSince: 1.0.0, removedIn: 2.0.0}
  requires:
    - {id: journey, versionRange: '>=1.0.0 <2.0.0'}
extensions:
  - id: tap
    target: server/paper
    activation: always
    conflicts: [other]
    variants:
      - id: tap-1
        mcVersionRange: '[1.21,1.22)'
        runtimeApiVersion: 1
        artifact: extensions/tap.jar
        sha256: 1111111111111111111111111111111111111111111111111111111111111111
        installPath: plugins/
";

#[test]
fn a_manifest_is_read_with_all_it_says() {
    let manifest = Manifest::parse(SAMPLE).unwrap();
    assert_eq!(
        (manifest.id.as_str(), manifest.version.as_str()),
        ("sample", "1.2.0-rc.1")
    );
    assert!(manifest.is_for_daemons() && manifest.hosts.contains(&Host::Controller));
    let daemon = manifest.daemon.unwrap();
    assert_eq!(daemon.entrypoint.class, "com.example.Main");
    assert_eq!(daemon.process, Some(ProcessHost { memory_mb: 32 }));
    assert_eq!(manifest.storage.mongo_documents, 10);
    assert!(manifest.requires[0].versions.contains(&"1.5.0".parse().unwrap()));
    assert_eq!(manifest.provides[0].removed_in, Some("2.0.0".parse().unwrap()));
    assert_eq!(manifest.extensions, ["tap"]);
    assert!(manifest.controller.unwrap().reloadable && manifest.frontend.is_some());
}

#[test]
fn a_module_for_the_process_of_a_java_daemon_can_be_told() {
    let text = "id: plain\nversion: 1.0.0\nhosts: [daemon]\nbackend:\n  daemon:\n    entrypoint: com.example.Module\n";
    let manifest = Manifest::parse(text).unwrap();
    assert_eq!(manifest.manifest_version, 2);
    assert_eq!(manifest.daemon.unwrap().process, None);
    let short = "manifestVersion: 1\nid: board\nversion: 1.0.0\nbackend: {entrypoint: com.example.Board}\n";
    let manifest = Manifest::parse(short).unwrap();
    assert!(!manifest.is_for_daemons() && manifest.controller.is_some());
}

#[test]
fn a_wrong_field_is_told_by_its_path() {
    let cases: &[(&str, &str, &str)] = &[
        ("id: sample", "id: sam/ple", "id: it is not"),
        ("id: sample", "id: Sample", "id: it is not"),
        ("id: sample", "name: sample", "name: there is no such field"),
        ("id: sample", "id: [sample]", "id: it has to be a text"),
        ("id: sample\n", "", "id: it is required"),
        (
            "id: sample",
            "id: sample\nid: other",
            "line 3: 'id' is there twice",
        ),
        ("id: sample", "id: &x sample", "anchors and tags"),
        ("id: sample", "id: !!str sample", "anchors and tags"),
        ("id: sample", "id: *x", ""),
        (
            "manifestVersion: 2",
            "manifestVersion: 3",
            "manifestVersion: 3 is not supported",
        ),
        (
            "manifestVersion: 2",
            "manifestVersion: '2'",
            "manifestVersion: it has to be a whole number",
        ),
        (
            "manifestVersion: 2",
            "manifestVersion: 1",
            "backend.controller.reloadable: there is no such field",
        ),
        ("1.2.0-rc.1", "1.2", "version: a version is written"),
        (
            "[daemon, Controller]",
            "[daemon, daemon]",
            "hosts[1]: it is there twice",
        ),
        ("[daemon, Controller]", "[moon]", "hosts[0]: it is neither"),
        ("[daemon, Controller]", "[]", "hosts: it names none"),
        ("[daemon, Controller]", "daemon", "hosts: it has to be a list"),
        (
            "host: process",
            "host: thread",
            "backend.daemon.host: the only one",
        ),
        ("    host: process\n", "", "backend.daemon.memoryMb: it is for"),
        (
            "memoryMb: 32",
            "memoryMb: 7",
            "backend.daemon.memoryMb: it is not from 8",
        ),
        (
            "memoryMb: 32",
            "memoryMb: 4294967296",
            "backend.daemon.memoryMb: it is not from 8",
        ),
        (
            "memoryMb: 32",
            "memory: 32",
            "backend.daemon.memory: there is no such field",
        ),
        (
            "com.example.Main",
            "com..Main",
            "backend.daemon.entrypoint: it is not the name",
        ),
        (
            "com.example.Main",
            "-jar x",
            "backend.daemon.entrypoint: it is not the name",
        ),
        (
            "sdkVersion: 1",
            "sdkVersion: 2",
            "frontend.sdkVersion: it has to be 1",
        ),
        (
            "mongoDocuments: 10",
            "redisKeys: 10",
            "storage.limits.redisKeys: that storage",
        ),
        (
            "mongo: true",
            "mongo: yes",
            "storage.mongo: it has to be true or false",
        ),
        (
            ", deprecatedSince: 1.0.0",
            "",
            "capabilities.provides[0].removedIn: it needs",
        ),
        (
            "'>=1.0.0 <2.0.0'",
            "newest",
            "capabilities.requires[0].versionRange: a range",
        ),
        (
            "extensions/tap.jar",
            "a/../../b.jar",
            "extensions[0].variants[0].artifact: it has to be a relative",
        ),
        (
            "activation: always",
            "activation: never",
            "extensions[0].activation: it is none of",
        ),
        (
            "target: server/paper",
            "target: server",
            "extensions[0].target: it is no",
        ),
        (
            "sha256: 1111",
            "sha256: AUTO",
            "extensions[0].variants[0].sha256: it is not 64",
        ),
        ("storage:\n", "--- \nstorage:\n", ""),
    ];
    for (from, to, expected) in cases {
        assert!(SAMPLE.contains(from), "{from}");
        let error = Manifest::parse(&SAMPLE.replacen(from, to, 1))
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{to}: {error}");
    }
    let deep = format!("id: {}", "[".repeat(100));
    let large = format!("# {}", "x".repeat(MAX_MANIFEST));
    for text in [
        "",
        "[]",
        "x",
        &deep,
        &large,
        "backend: {}\nid: a\nversion: 1.0.0\n",
    ] {
        assert!(Manifest::parse(text).is_err(), "{text:.20}");
    }
}

/// A zip with these entries, deflated where that is asked for
fn zip(entries: &[(&str, &[u8], bool)]) -> Vec<u8> {
    let (mut jar, mut list) = (Vec::new(), Vec::new());
    for (name, content, is_deflated) in entries {
        let mut crc = Crc::new();
        crc.update(content);
        let packed = if *is_deflated {
            let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(content).unwrap();
            encoder.finish().unwrap()
        } else {
            content.to_vec()
        };
        let method: u16 = if *is_deflated { 8 } else { 0 };
        let at = u32::try_from(jar.len()).unwrap();
        let mut common = Vec::new();
        common.extend([20, 0, 0, 0]);
        common.extend(method.to_le_bytes());
        common.extend([0; 4]);
        common.extend(crc.sum().to_le_bytes());
        common.extend(u32::try_from(packed.len()).unwrap().to_le_bytes());
        common.extend(u32::try_from(content.len()).unwrap().to_le_bytes());
        common.extend(u16::try_from(name.len()).unwrap().to_le_bytes());
        common.extend([0, 0]);
        jar.extend(b"PK\x03\x04");
        jar.extend(&common);
        jar.extend(name.as_bytes());
        jar.extend(packed);
        list.extend(b"PK\x01\x02\x14\x00");
        list.extend(&common);
        list.extend([0; 10]);
        list.extend(at.to_le_bytes());
        list.extend(name.as_bytes());
    }
    let (at, count) = (
        u32::try_from(jar.len()).unwrap(),
        u16::try_from(entries.len()).unwrap(),
    );
    jar.extend(&list);
    jar.extend(b"PK\x05\x06\0\0\0\0");
    jar.extend(count.to_le_bytes());
    jar.extend(count.to_le_bytes());
    jar.extend(u32::try_from(list.len()).unwrap().to_le_bytes());
    jar.extend(at.to_le_bytes());
    jar.extend([0, 0]);
    jar
}

fn read(jar: &[u8]) -> Result<String, String> {
    read_manifest(Cursor::new(jar)).map_err(|error| error.to_string())
}

#[test]
fn the_manifest_is_found_in_a_jar_whatever_else_is_there() {
    for is_deflated in [false, true] {
        let jar = zip(&[
            ("META-INF/MANIFEST.MF", b"Manifest-Version: 1.0\n", true),
            (MANIFEST, SAMPLE.as_bytes(), is_deflated),
            ("com/example/Main.class", &[0; 1000], true),
        ]);
        assert_eq!(read(&jar).unwrap(), SAMPLE);
    }
}

#[test]
fn what_is_no_jar_of_a_module_is_told() {
    let jar = zip(&[(MANIFEST, SAMPLE.as_bytes(), true), ("a", b"x", false)]);
    let list = jar.windows(4).position(|window| window == b"PK\x01\x02").unwrap();
    let changed = |at: usize, bytes: &[u8]| {
        let mut jar = jar.clone();
        jar[at..at + bytes.len()].copy_from_slice(bytes);
        jar
    };
    let end = jar.len() - 22;
    let bomb = 0xf000_0000_u32.to_le_bytes();
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty", vec![], "not a jar"),
        ("text", b"hello".to_vec(), "not a jar"),
        ("truncated", jar[..jar.len() - 1].to_vec(), "not a jar"),
        ("half", jar[..jar.len() / 2].to_vec(), "not a jar"),
        (
            "more behind it",
            [&jar[..], b"x"].concat(),
            "something stands behind",
        ),
        ("no manifest", zip(&[("a", b"x", false)]), "so it is not a module"),
        (
            "two manifests",
            zip(&[(MANIFEST, b"a", false), (MANIFEST, b"b", false)]),
            "there twice",
        ),
        (
            "large manifest",
            zip(&[(MANIFEST, &[b' '; MAX_MANIFEST + 1], true)]),
            "larger than 64 KiB",
        ),
        ("no text", zip(&[(MANIFEST, b"\xff", false)]), "not UTF-8"),
        ("another digest", changed(list + 16, &[1, 2, 3, 4]), "damaged"),
        ("another size", changed(list + 24, &[1, 0, 0, 0]), "damaged"),
        ("encrypted", changed(list + 8, &[1]), "encrypted"),
        ("another method", changed(list + 10, &[9]), "unusual"),
        ("points elsewhere", changed(list + 42, &[1]), "something else"),
        ("points outside", changed(list + 42, &[0xff; 4]), "cut off"),
        ("list outside", changed(end + 16, &[0xff; 4]), "outside"),
        ("list cut", changed(end + 12, &[50, 0, 0, 0]), "cut off"),
        ("several parts", changed(end + 4, &[1]), "several parts"),
        (
            "a bomb",
            changed(jar.len() - 22 - 47 + 24, &bomb),
            "would unpack to",
        ),
    ];
    for (name, jar, expected) in cases {
        let error = read(&jar).unwrap_err();
        assert!(error.contains(expected), "{name}: {error}");
    }
    let many = changed(end + 8, &[0xff, 0xff, 0xff, 0xff]);
    assert!(matches!(
        read_manifest(Cursor::new(many)),
        Err(JarError::TooMuch { .. })
    ));
}

proptest! {
    #[test]
    fn damage_anywhere_is_an_answer(at in 0_usize..2000, byte: u8, cut in 0_usize..2000) {
        let mut jar = zip(&[(MANIFEST, SAMPLE.as_bytes(), true), ("b", &[7; 100], false)]);
        let (at, cut) = (at % jar.len(), cut % jar.len());
        jar[at] = byte;
        // Whatever comes out is what was put in, or an error.
        for jar in [&jar[..], &jar[..cut]] {
            if let Ok(text) = read(jar) {
                prop_assert_eq!(text.as_str(), SAMPLE);
            }
        }
    }

    #[test]
    fn any_text_is_an_answer(text in "[ -~\n]{0,200}") {
        let _ = Manifest::parse(&text);
    }
}
