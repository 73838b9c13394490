//! What jars make beforehand, with real JVMs and a jar that behaves like Paperclip

use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::process::Command;

use prexorcloud_content::Digest;
use prexorcloud_proto::{BootstrapCacheEntry, ConfigFormat};

use super::templates::{archive, data, folder, play, refs, text};
use super::*;
use crate::cache::bootstrap::Settings;

const PAPERCLIP: &[u8] = include_bytes!("../../../tests/assets/paperclip.jar");

/// A jar that does what the lines say, beside making its files
fn paperclip(lines: &str) -> Vec<u8> {
    let mut jar = PAPERCLIP.to_vec();
    let length = jar.len() - 2;
    jar[length..].copy_from_slice(&u16::try_from(lines.len()).unwrap().to_le_bytes());
    jar.extend(lines.as_bytes());
    jar
}

fn real_java() -> PathBuf {
    find_java(None, |key| std::env::var(key).ok()).unwrap()
}

fn settings(node: &Node) -> Settings {
    Settings {
        patience: Duration::from_secs(120),
        ..Settings::new(node.folder.path().join("cache/bootstrap"), 1 << 30)
    }
}

/// A node with a real JVM, whose jar counts its runs and does what the lines say
fn node_with(lines: &str, change: impl FnOnce(&mut Settings)) -> Node {
    let mut node = node();
    node.preparer.settings.java = Some(real_java());
    let mut settings = settings(&node);
    change(&mut settings);
    node.preparer.bootstraps = Bootstraps::new(settings);
    put_jar(&node, lines);
    node
}

fn put_jar(node: &Node, lines: &str) {
    let root = node.folder.path();
    let lines = format!("count={}\n{lines}", root.join("runs").display());
    std::fs::write(root.join("server.jar"), paperclip(&lines)).unwrap();
}

fn runs(node: &Node) -> usize {
    let runs = std::fs::read_to_string(node.folder.path().join("runs"));
    runs.unwrap_or_default().lines().count()
}

fn paper(node: &Node) -> StartInstance {
    StartInstance {
        config_format: ConfigFormat::Paper.into(),
        platform: "paper".into(),
        platform_version: "1.0".into(),
        ..start(node)
    }
}

async fn prepare(node: &Node, start: &StartInstance) -> Prepared {
    let prepared = node.preparer.prepare(start, Limits::of(start), None).await;
    prepared.unwrap()
}

/// The arguments about class archives
fn archives(prepared: &Prepared) -> Vec<&str> {
    let arguments = prepared.launch.arguments.iter().map(String::as_str);
    arguments.filter(|argument| argument.contains("hare")).collect()
}

fn kept(node: &Node, suffix: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![node.folder.path().join("cache/bootstrap")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.file_type().unwrap().is_dir() {
                true => folders.push(entry.path()),
                false => {
                    found.extend(Some(entry.path()).filter(|path| path.to_string_lossy().ends_with(suffix)))
                }
            }
        }
    }
    found
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let limit = std::time::Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(std::time::Instant::now() < limit, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn what_a_jar_makes_is_made_once_and_its_classes_are_shared() {
    let environment = tempfile::NamedTempFile::new().unwrap();
    let line = format!("environment={}", environment.path().display());
    let mut node = node_with(&line, |_| {});
    let mut start = paper(&node);
    start.jvm_args = vec!["-Xlog:class+load".into()];
    for round in 0..3 {
        if round == 2 {
            // Another daemon.
            node.preparer.bootstraps = Bootstraps::new(settings(&node));
        }
        start.port = self::start(&node).port;
        let prepared = prepare(&node, &start).await;
        assert_eq!(text(&node, "libraries/org/example/a.jar"), "library");
        assert_eq!(text(&node, "cache/mojang_1.0.jar"), "mojang");
        assert!(!folder(&node).join("config").exists(), "that is the operator's");
        for made in kept(&node, ".jar") {
            assert_eq!(
                std::fs::metadata(made).unwrap().nlink(),
                1,
                "a server may write to its own"
            );
        }
        assert_eq!(runs(&node), 1);
        assert_eq!(archives(&prepared).first(), Some(&"-Xshare:auto"));
        if round == 0 {
            let seen = std::fs::read_to_string(environment.path()).unwrap();
            let names = seen.lines().filter_map(|line| Some(line.split_once('=')?.0));
            let names: Vec<&str> = names.collect();
            assert_eq!(
                names,
                ["HOME", "LC_ALL", "PATH", "TMPDIR"],
                "nothing else of the daemon's"
            );
        }
        let output = Command::new(&prepared.launch.program)
            .args(&prepared.launch.arguments)
            .current_dir(&prepared.launch.working_folder)
            // It writes its environment, too.
            .env_clear()
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("Starting the server"), "{said}");
        assert!(!said.contains("Making versions"), "{said}");
        let from_archive = said
            .lines()
            .any(|line| line.contains("demo.Paperclip source: shared objects file (top)"));
        assert!(from_archive, "{said}");
        std::fs::write(node.folder.path().join("runs"), "ran\n").unwrap();
    }
    let status = node.preparer.cache_status();
    let [
        BootstrapCacheEntry {
            config_format,
            version,
            has_cds,
            size_bytes,
        },
    ] = &status.bootstraps[..]
    else {
        panic!("{status:?}");
    };
    assert_eq!(
        (*config_format, version.as_str(), *has_cds),
        (ConfigFormat::Paper as i32, "1.0", true)
    );
    assert!(*size_bytes > 1000 && status.total_size_bytes >= *size_bytes);
}

#[tokio::test]
async fn only_runtimes_that_make_files_are_run_beforehand() {
    let node = node_with("", |_| {});
    let mut start = paper(&node);
    start.config_format = ConfigFormat::Velocity.into();
    prepare(&node, &start).await;
    start.config_format = ConfigFormat::Unspecified.into();
    prepare(&node, &start).await;
    let mut off = node_with("", |settings| settings.max_bytes = 0);
    let start = paper(&off);
    prepare(&off, &start).await;
    assert_eq!((runs(&node), runs(&off)), (0, 0));
    off.preparer.bootstraps = Bootstraps::new(settings(&off));
    let mut own = paper(&off);
    own.jvm_args = vec!["-XX:SharedArchiveFile=mine.jsa".into()];
    assert_eq!(
        archives(&prepare(&off, &own).await),
        ["-XX:SharedArchiveFile=mine.jsa"]
    );
    assert_eq!(runs(&off), 1);
}

#[tokio::test]
async fn what_a_template_or_a_static_folder_has_stays() {
    let node = node_with("", |_| {});
    let mut start = paper(&node);
    start.templates = refs(&[("base", "h")]);
    let files = [
        ("versions/1.0/paper-1.0.jar", "of the template"),
        (">libraries", "lib"),
        ("lib/", ""),
    ];
    let (prepared, _) = play(&node, &start, |_| vec![data("base", "h", archive(&files))]).await;
    prepared.unwrap();
    assert_eq!(text(&node, "versions/1.0/paper-1.0.jar"), "of the template");
    assert_eq!(
        text(&node, "lib/org/example/a.jar"),
        "library",
        "a link that stays inside is followed"
    );

    let mut start = paper(&node);
    start.static_instance = true;
    std::fs::remove_dir_all(folder(&node)).unwrap();
    std::fs::create_dir_all(folder(&node).join("cache")).unwrap();
    std::fs::write(folder(&node).join("cache/mojang_1.0.jar"), "of the folder").unwrap();
    for _ in 0..2 {
        start.port = self::start(&node).port;
        prepare(&node, &start).await;
        assert_eq!(text(&node, "cache/mojang_1.0.jar"), "of the folder");
        assert_eq!(text(&node, "libraries/org/example/a.jar"), "library");
    }
    assert_eq!(runs(&node), 1);
    // A link that leads out brings nothing there, and no failure.
    std::fs::remove_dir_all(folder(&node).join("libraries")).unwrap();
    std::os::unix::fs::symlink(node.folder.path(), folder(&node).join("libraries")).unwrap();
    start.port = self::start(&node).port;
    prepare(&node, &start).await;
    assert!(!node.folder.path().join("org").exists());
    await_clean(&node);
}

#[tokio::test]
async fn what_is_damaged_is_made_again_before_it_is_used() {
    let node = node_with("", |_| {});
    let start = paper(&node);
    prepare(&node, &start).await;
    for damage in ["library" /* once more */, "librari", "", "another"] {
        let kept = kept(&node, "a.jar");
        std::fs::write(&kept[0], damage).unwrap();
        let before = runs(&node);
        prepare(&node, &start).await;
        assert_eq!(text(&node, "libraries/org/example/a.jar"), "library");
        assert_eq!(runs(&node), before + usize::from(damage != "library"));
    }
    let before = runs(&node);
    let [archive] = &kept(&node, ".jsa")[..] else {
        panic!()
    };
    std::fs::remove_file(archive).unwrap();
    std::fs::write(archive, "no archive").unwrap();
    assert_eq!(archives(&prepare(&node, &start).await), Vec::<&str>::new());
    prepare(&node, &start).await;
    until("the archive is not made again", || {
        kept(&node, ".jsa").len() == 1 && node.preparer.cache_status().bootstraps[0].has_cds
    })
    .await;
    assert_eq!(runs(&node), before + 1);
    assert_eq!(archives(&prepare(&node, &start).await).len(), 2);
}

#[tokio::test]
async fn a_run_that_fails_fails_no_start_and_is_not_repeated() {
    let node = node_with("fail", |_| {});
    for _ in 0..2 {
        let start = paper(&node);
        let prepared = prepare(&node, &start).await;
        assert_eq!(archives(&prepared), Vec::<&str>::new());
        assert!(!folder(&node).join("versions").exists());
    }
    assert_eq!(runs(&node), 1);
    assert!(node.preparer.cache_status().bootstraps.is_empty());
    let node = node_with("fail", |settings| settings.rest = Duration::ZERO);
    for round in 1..3 {
        prepare(&node, &paper(&node)).await;
        assert_eq!(runs(&node), round);
    }
}

#[tokio::test]
async fn a_run_that_hangs_delays_a_start_for_so_long_and_is_killed() {
    let working = |node: &Node| {
        let below = node.folder.path().join("cache/bootstrap");
        crate::process::working_below(&below).unwrap().len()
    };
    // The start has less patience than the run has time.
    let node = node_with("hang", |settings| settings.patience = Duration::from_millis(200));
    prepare(&node, &paper(&node)).await;
    until("the jar does not run", || runs(&node) == 1).await;
    assert_eq!(working(&node), 1);
    node.preparer.abandon();
    until("it outlives the daemon", || working(&node) == 0).await;

    let node = node_with("hang", |settings| settings.deadline = Duration::from_secs(2));
    prepare(&node, &paper(&node)).await;
    assert_eq!(working(&node), 0, "its deadline has passed");
    assert!(kept(&node, "").is_empty(), "nothing of it is left");
}

#[tokio::test]
async fn each_build_of_the_jvm_has_its_own_archive() {
    let mut node = node_with("", |_| {});
    let start = paper(&node);
    let first = prepare(&node, &start).await;
    let java = node.folder.path().join("java");
    let script = format!(
        "#!/bin/sh\n[ \"$1\" = -Xinternalversion ] && echo another build && exit\nexec {} \"$@\"\n",
        real_java().display()
    );
    std::fs::File::create(&java)
        .unwrap()
        .write_all(script.as_bytes())
        .unwrap();
    std::fs::set_permissions(&java, std::fs::Permissions::from_mode(0o755)).unwrap();
    node.preparer.settings.java = Some(java);
    assert!(
        !node.preparer.cache_status().bootstraps[0].has_cds,
        "that of another JVM"
    );
    // The files are there, and the archive is not waited for.
    let second = prepare(&node, &start).await;
    assert_eq!(archives(&second), Vec::<&str>::new());
    assert_eq!(text(&node, "libraries/org/example/a.jar"), "library");
    until("there is no second archive", || {
        node.preparer.cache_status().bootstraps[0].has_cds
    })
    .await;
    let third = prepare(&node, &start).await;
    assert_eq!((runs(&node), kept(&node, ".jsa").len()), (2, 2));
    assert_ne!(archives(&first), archives(&third));
    assert_eq!(archives(&third).len(), 2);
    node.preparer.settings.java = Some(real_java());
    assert_eq!(archives(&prepare(&node, &start).await), archives(&first));
}

#[tokio::test]
async fn what_was_used_longest_ago_goes_and_a_jar_that_makes_too_much_is_not_kept() {
    let node = node_with("bytes=3000000", |settings| settings.max_bytes = 8_000_000);
    let start = paper(&node);
    prepare(&node, &start).await;
    let sha256 =
        |node: &Node| Digest::of(&std::fs::read(node.folder.path().join("server.jar")).unwrap()).to_string();
    let first = sha256(&node);
    let entry = |name: &str| node.folder.path().join("cache/bootstrap").join(name);
    assert!(entry(&first).is_dir());
    put_jar(&node, "bytes=6000000");
    prepare(&node, &start).await;
    assert!(!entry(&first).exists() && entry(&sha256(&node)).is_dir());
    assert_eq!(text(&node, "versions/1.0/paper-1.0.jar").len(), 6_000_000);
    let second = sha256(&node);
    // One file that is too large, and all of them together.
    for (number, lines) in ["bytes=9000000", "bytes=7999999"].into_iter().enumerate() {
        put_jar(&node, lines);
        for _ in 0..2 {
            prepare(&node, &start).await;
            assert!(!folder(&node).join("versions").exists(), "{lines}");
        }
        assert_eq!(runs(&node), 3 + number, "it is not run at each start");
        assert!(entry(&second).is_dir());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn starts_of_one_jar_share_one_run() {
    let gate = tempfile::tempdir().unwrap();
    let open = gate.path().join("open");
    let node = node_with(&format!("wait={}", open.display()), |_| {});
    let starts: Vec<StartInstance> = (1..=20)
        .map(|number| StartInstance {
            instance_id: format!("lobby-{number}"),
            ..paper(&node)
        })
        .collect();
    let all = futures_util::future::join_all(starts.iter().map(|start| prepare(&node, start)));
    let opened = async {
        until("the jar does not run", || runs(&node) > 0).await;
        std::fs::write(&open, "").unwrap();
    };
    let (prepared, ()) = tokio::join!(all, opened);
    assert_eq!((prepared.len(), runs(&node)), (20, 1));
    for prepared in prepared {
        let folder = prepared.launch.working_folder;
        assert_eq!(
            std::fs::read(folder.join("versions/1.0/paper-1.0.jar"))
                .unwrap()
                .len(),
            1000
        );
    }
}

#[tokio::test]
async fn what_a_jar_makes_can_be_had_beforehand() {
    let node = node_with("", |_| {});
    let mut entry = PreWarmEntry {
        platform: "paper".into(),
        platform_version: "1.0".into(),
        jar_file: "server.jar".into(),
        download_url: start(&node).download_url,
        sha256: String::new(),
        config_format: ConfigFormat::Bungeecord.into(),
    };
    node.preparer.warm(&entry).await.unwrap();
    assert_eq!(runs(&node), 0);
    entry.config_format = ConfigFormat::Spigot.into();
    node.preparer.warm(&entry).await.unwrap();
    assert_eq!(node.preparer.cache_status().bootstraps.len(), 1);
    let prepared = prepare(&node, &paper(&node)).await;
    assert_eq!((runs(&node), archives(&prepared).len()), (1, 2));
}

#[tokio::test]
async fn what_a_killed_daemon_left_is_swept_and_whole_entries_stay() {
    let mut node = node_with("", |_| {});
    prepare(&node, &paper(&node)).await;
    let folder = node.folder.path().join("cache/bootstrap");
    let staging = folder.join(".staging-1-1");
    std::fs::create_dir_all(staging.join("work")).unwrap();
    std::fs::create_dir(folder.join(".gone-1-2")).unwrap();
    std::fs::create_dir_all(folder.join("0".repeat(64)).join("files")).unwrap();
    let mut warm_up = Command::new("sleep")
        .arg("3600")
        .current_dir(staging.join("work"))
        .spawn()
        .unwrap();
    node.preparer.bootstraps = Bootstraps::new(settings(&node));
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&warm_up.wait().unwrap()),
        Some(9)
    );
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
    prepare(&node, &paper(&node)).await;
    assert_eq!(runs(&node), 1);
    // The same manifest to whoever reads it, and not the one that was written.
    let [manifest] = &kept(&node, "files.json")[..] else {
        panic!()
    };
    let written = std::fs::read_to_string(manifest).unwrap();
    std::fs::write(manifest, format!("{written}\n")).unwrap();
    node.preparer.bootstraps = Bootstraps::new(settings(&node));
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
    prepare(&node, &paper(&node)).await;
    assert_eq!(runs(&node), 2);
}
