//! `prexorctl template` against a real controller: folders go in, come back the same, and bad ones stay outside

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::Value;

use crate::rig::{Ran, Rig, finish};

fn template(rig: &Rig, arguments: &[&str]) -> Ran {
    rig.ctl(&[&["template"], arguments].concat())
}

fn done(rig: &Rig, arguments: &[&str]) -> Value {
    let ran = template(rig, &[arguments, &["-o", "json"]].concat());
    assert_eq!(ran.code, 0, "{ran:?}");
    ran.json()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Every path below a folder with what is there
fn contents(folder: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let what = if metadata.is_symlink() {
                format!("-> {}", fs::read_link(&path).unwrap().display())
            } else if metadata.is_dir() {
                folders.push(path.clone());
                "folder".to_owned()
            } else {
                let executable = metadata.permissions().mode() & 0o100;
                format!("{executable:o} {}", fs::read_to_string(&path).unwrap())
            };
            found.push((path.strip_prefix(folder).unwrap().display().to_string(), what));
        }
    }
    found.sort();
    found
}

#[test]
fn a_folder_is_pushed_changed_rolled_back_and_pulled() {
    let rig = Rig::with_controller();
    let dir = rig.path("lobby");
    fs::create_dir_all(dir.join("plugins/empty")).unwrap();
    fs::write(dir.join("plugins/hello.jar"), "x".repeat(300_000)).unwrap();
    fs::write(dir.join("server.properties"), "motd=hello\n").unwrap();
    fs::write(dir.join("start.sh"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(dir.join("start.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("../server.properties", dir.join("plugins/properties")).unwrap();
    let folder = text(&dir);

    let unknown = template(&rig, &["push", folder]);
    assert_eq!(unknown.code, 4, "{unknown:?}");
    done(
        &rig,
        &["create", "lobby", "--description", "where players arrive"],
    );
    let first = done(&rig, &["push", folder]);
    assert_eq!(
        (&first["sentFiles"], &first["sentBytes"]),
        (&3.into(), &300_021.into())
    );
    let before = contents(&dir);

    fs::write(dir.join("server.properties"), "motd=changed\n").unwrap();
    let changed = template(&rig, &["push", folder]);
    assert!(changed.stdout.contains("Sent 1 of them, 13 bytes"), "{changed:?}");
    assert!(
        !changed.stderr.contains('['),
        "no bar without a terminal: {changed:?}"
    );
    let same = done(&rig, &["push", folder]);
    assert_eq!(
        (&same["unchanged"], &same["sentBytes"]),
        (&true.into(), &0.into())
    );

    let versions = done(&rig, &["versions", "lobby"]);
    assert_eq!(versions.as_array().unwrap().len(), 2);
    assert_eq!(
        (&versions[0]["number"], &versions[0]["current"]),
        (&2.into(), &true.into())
    );
    assert_eq!(versions[1]["hash"], first["hash"]);
    let diff = template(&rig, &["diff", "lobby"]);
    assert!(
        diff.stdout.contains("changed") && diff.stdout.contains("server.properties"),
        "{diff:?}"
    );
    assert!(!diff.stdout.contains("hello.jar"), "{diff:?}");

    let pulled = rig.path("pulled");
    done(&rig, &["pull", "lobby", text(&pulled)]);
    assert_eq!(contents(&pulled), contents(&dir));
    let again = template(&rig, &["pull", "lobby", text(&pulled)]);
    assert!(again.stderr.contains("not empty"), "{again:?}");

    let back = done(&rig, &["rollback", "lobby"]);
    assert_eq!(back["hash"], first["hash"]);
    let older = rig.path("older");
    fs::create_dir(&older).unwrap();
    done(&rig, &["pull", "lobby", text(&older)]);
    assert_eq!(contents(&older), before);
    assert_eq!(template(&rig, &["rollback", "lobby"]).code, 1);
    let beginning = &versions[0]["hash"].as_str().unwrap()[..10];
    done(&rig, &["rollback", "lobby", "--to", beginning]);
    let newest = rig.path("newest");
    done(&rig, &["pull", "lobby", text(&newest), "--version", "2"]);
    assert_eq!(contents(&newest), contents(&dir));

    let list = template(&rig, &["list"]);
    assert!(list.stdout.contains("where players arrive"), "{list:?}");
    done(&rig, &["delete", "lobby"]);
    assert_eq!(template(&rig, &["versions", "lobby"]).code, 4);
    let left: Vec<_> = fs::read_dir(rig.folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".pull"))
        .collect();
    assert_eq!(left, [""; 0]);
}

#[test]
fn a_push_that_a_killed_controller_has_broken_is_gone_on_with() {
    let mut rig = Rig::with_controller();
    let dir = rig.path("large");
    fs::create_dir(&dir).unwrap();
    for number in 0..200 {
        let text = format!("{number:03} and so on ").repeat(15_000);
        fs::write(dir.join(format!("file-{number}")), text).unwrap();
    }
    done(&rig, &["create", "large"]);
    let (blobs, incoming) = (
        rig.path("controller/content/blobs"),
        rig.path("controller/content/incoming"),
    );
    let token = rig.path("controller/admin.token");
    let mut push = rig
        .ctl_command(&["template", "push", text(&dir)])
        .args(["--token-file", text(&token)])
        .into_command();
    let pushing = std::thread::spawn(move || finish(&mut push));
    let count = |folder: &Path| fs::read_dir(folder).unwrap().count();
    let arrived = || {
        let shards = fs::read_dir(&blobs).unwrap();
        shards.map(|shard| count(&shard.unwrap().path())).sum::<usize>()
    };
    crate::rig::eventually("a part of the push", || (arrived() >= 5).then_some(()));
    rig.kill_controller();
    let broken = pushing.join().unwrap();
    assert_ne!(broken.code, 0, "{broken:?}");
    rig.start_controller();
    assert_eq!(count(&incoming), 0);
    assert_eq!(done(&rig, &["versions", "large"]), Value::Array(Vec::new()));
    let again = done(&rig, &["push", text(&dir)]);
    let sent = again["sentFiles"].as_u64().unwrap();
    assert!(sent < 200, "what was sent before did not travel again: {again}");
    done(&rig, &["pull", "large", text(&rig.path("pulled"))]);
    assert_eq!(contents(&rig.path("pulled")), contents(&dir));
}

#[test]
fn a_backup_has_the_templates_with_their_bytes() {
    let mut rig = Rig::with_controller();
    let dir = rig.path("kept");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("file"), "bytes").unwrap();
    done(&rig, &["create", "kept"]);
    done(&rig, &["push", text(&dir)]);
    let backup = rig.backup();
    rig.stop_controller();
    fs::copy(rig.path("controller/admin.token"), rig.path("admin.token")).unwrap();
    fs::remove_dir_all(rig.path("controller")).unwrap();
    fs::rename(backup, rig.path("controller")).unwrap();
    rig.start_controller();
    done(&rig, &["pull", "kept", text(&rig.path("pulled"))]);
    assert_eq!(contents(&rig.path("pulled")), contents(&dir));
}

#[test]
fn what_cannot_be_a_template_is_refused_with_its_name() {
    let rig = Rig::with_controller();
    done(&rig, &["create", "bad"]);
    let refused = |what: &str, sentence: &str, prepare: &dyn Fn(&Path)| {
        let dir = rig.path(what);
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("fine"), "fine").unwrap();
        prepare(&dir);
        let ran = template(&rig, &["push", text(&dir), "--name", "bad"]);
        assert_ne!(ran.code, 0, "{what}: {ran:?}");
        assert!(ran.stderr.contains(sentence), "{what}: {ran:?}");
    };
    refused("out", "leads out", &|dir| {
        symlink("/etc", dir.join("link")).unwrap()
    });
    refused("up", "leads out", &|dir| {
        symlink("../..", dir.join("link")).unwrap()
    });
    refused("detour", "detour", &|dir| {
        fs::create_dir(dir.join("a")).unwrap();
        symlink("..", dir.join("a/up")).unwrap();
        symlink("a/up/../..", dir.join("link")).unwrap();
    });
    refused("fifo", "is a FIFO", &|dir| {
        mknodat(CWD, dir.join("pipe"), FileType::Fifo, Mode::RWXU, 0).unwrap();
    });
    refused("case", "differ only in case", &|dir| {
        fs::write(dir.join("FINE"), "").unwrap()
    });
    refused("huge", "limit for one file", &|dir| {
        let file = fs::File::create(dir.join("huge")).unwrap();
        file.set_len(1 << 40).unwrap();
    });
    assert_eq!(done(&rig, &["versions", "bad"]), Value::Array(Vec::new()));
    let nowhere = template(&rig, &["push", "/nowhere", "--name", "bad"]);
    assert!(nowhere.stderr.contains("cannot be pushed"), "{nowhere:?}");
    let name = template(&rig, &["create", "../x"]);
    assert!(name.stderr.contains("1 to 32"), "{name:?}");
}

#[test]
fn a_file_that_grows_meanwhile_is_told_or_pushed_whole() {
    let rig = Rig::with_controller();
    done(&rig, &["create", "growing"]);
    let dir = rig.path("growing");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("latest.log"), vec![b'.'; 4 << 20]).unwrap();
    let stop = AtomicBool::new(false);
    let mut told = false;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut log = fs::File::options()
                .append(true)
                .open(dir.join("latest.log"))
                .unwrap();
            while !stop.load(Ordering::Relaxed) && log.metadata().unwrap().len() < 256 << 20 {
                log.write_all(b"one more line\n").unwrap();
            }
        });
        for _ in 0..20 {
            let ran = template(&rig, &["push", text(&dir)]);
            if ran.code != 0 {
                told = ran.stderr.contains("changed while it was");
                assert!(told, "{ran:?}");
                break;
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(told, "a file that never rests was pushed twenty times");
    done(&rig, &["push", text(&dir)]);
    done(&rig, &["pull", "growing", text(&rig.path("pulled"))]);
    assert_eq!(contents(&rig.path("pulled")), contents(&dir));
}

#[test]
fn of_two_pushes_at_once_one_wins_and_the_other_is_told() {
    let rig = Rig::with_controller();
    done(&rig, &["create", "shared"]);
    for round in 0..4 {
        let dirs = ["one", "two"].map(|side| {
            let dir = rig.path(&format!("{side}-{round}"));
            fs::create_dir(&dir).unwrap();
            fs::write(dir.join("who"), format!("{side} {round}").repeat(100_000)).unwrap();
            dir
        });
        let before = done(&rig, &["versions", "shared"]).as_array().unwrap().len();
        let rans = std::thread::scope(|scope| {
            let pushing = dirs.each_ref().map(|dir| {
                let rig = &rig;
                scope.spawn(move || template(rig, &["push", text(dir), "--name", "shared", "-o", "json"]))
            });
            pushing.map(|ran| ran.join().unwrap())
        });
        let versions = done(&rig, &["versions", "shared"]);
        let won = rans.iter().filter(|ran| ran.code == 0).count();
        assert!(won >= 1, "{rans:?}");
        assert_eq!(versions.as_array().unwrap().len(), before + won, "{rans:?}");
        for lost in rans.iter().filter(|ran| ran.code != 0) {
            assert!(
                lost.stderr.contains("somebody else changed this template"),
                "{lost:?}"
            );
        }
        let last = rans
            .iter()
            .find(|ran| ran.code == 0 && ran.json()["hash"] == versions[0]["hash"]);
        assert!(last.is_some(), "what counts is what a winner was told: {rans:?}");
    }
}

#[test]
fn variables_are_set_and_secrets_stay_secret() {
    let rig = Rig::with_controller();
    done(&rig, &["create", "lobby"]);
    done(
        &rig,
        &[
            "var",
            "set",
            "lobby",
            "players",
            "--type",
            "int",
            "--default",
            "20",
            "--max",
            "100",
        ],
    );
    let secret = rig.write("secret", "hunter2-hunter2\n");
    done(
        &rig,
        &[
            "var",
            "set",
            "lobby",
            "password",
            "--type",
            "SECRET",
            "--default-file",
            text(&secret),
        ],
    );
    done(
        &rig,
        &[
            "var",
            "set",
            "lobby",
            "mode",
            "--type",
            "ENUM",
            "--value",
            "EASY,HARD",
            "--default",
            "EASY",
        ],
    );
    let list = template(&rig, &["var", "list", "lobby"]);
    assert!(
        list.stdout.contains("(secret)") && !list.stdout.contains("hunter2"),
        "{list:?}"
    );
    for (arguments, sentence) in [
        (
            &["players", "--type", "INT", "--default", "x"][..],
            "no whole number",
        ),
        (
            &["password", "--type", "SECRET", "--default", "x"],
            "--default-file",
        ),
        (&["mode", "--type", "ENUM"], "enumValues"),
    ] {
        let ran = template(&rig, &[&["var", "set", "lobby"], arguments].concat());
        assert!(ran.code != 0 && ran.stderr.contains(sentence), "{ran:?}");
    }
    done(&rig, &["var", "rm", "lobby", "mode"]);
    assert_ne!(template(&rig, &["var", "rm", "lobby", "mode"]).code, 0);
    let variables = done(&rig, &["var", "list", "lobby"]);
    let keys: Vec<_> = variables
        .as_array()
        .unwrap()
        .iter()
        .map(|its| its["key"].clone())
        .collect();
    assert_eq!(keys, ["players", "password"]);
    assert_eq!(variables[1]["hasDefault"], true, "others were edited meanwhile");
    let anonymous = finish(&mut rig.ctl_command(&["template", "list"]).into_command());
    assert_eq!(anonymous.code, 2, "{anonymous:?}");
}

#[test]
fn servers_get_the_templates_that_counted_when_they_were_started() {
    let rig = Rig::with_node();
    let base = rig.path("base");
    fs::create_dir_all(base.join("config")).unwrap();
    fs::write(
        base.join("server.properties"),
        "# kept\nserver-port=%PORT%\nmotd=%MOTD%\n",
    )
    .unwrap();
    fs::write(base.join("config/limits.yml"), "players: 20 # a few\n").unwrap();
    let own = rig.path("own");
    fs::create_dir_all(&own).unwrap();
    fs::write(own.join("server.properties"), "motd=%MOTD%, from %GROUP%\n").unwrap();
    for (name, folder) in [("base", &base), ("own", &own)] {
        done(&rig, &["create", name]);
        done(&rig, &["push", text(folder)]);
    }
    let of = |id: &str, path: &str| rig.ctl(&["instance", "files", "cat", id, path]).stdout;
    let templates = ["--template", "base", "--template", "own", "--var", "MOTD=hello"];
    let first = rig.start_standin_with("lobby-1", &templates);
    let port = &first["port"];
    assert_eq!(
        of("lobby-1", "server.properties"),
        format!("# kept\nserver-port={port}\nmotd=hello, from lobby\n")
    );
    assert_eq!(of("lobby-1", "config/limits.yml"), "players: 20 # a few\n");

    // A change reaches what is started afterwards, and nothing that runs; a rollback as well.
    fs::write(base.join("config/limits.yml"), "players: 50\n").unwrap();
    done(&rig, &["push", text(&base)]);
    rig.start_standin_with("lobby-2", &templates);
    assert_eq!(of("lobby-2", "config/limits.yml"), "players: 50\n");
    assert_eq!(of("lobby-1", "config/limits.yml"), "players: 20 # a few\n");
    assert_eq!(rig.ctl(&["template", "rollback", "base"]).code, 0);
    rig.start_standin_with("lobby-3", &templates);
    assert_eq!(of("lobby-3", "config/limits.yml"), "players: 20 # a few\n");

    // Each content travelled once: both versions of one, and the other.
    let fetched = rig.log_text("daemon").matches("a template was fetched").count();
    assert_eq!(fetched, 3);

    // What there is not is said before anything starts.
    let start = [
        "instance",
        "start",
        "lobby",
        "--jar",
        "/srv/server.jar",
        "--template",
        "nothing",
    ];
    let unknown = rig.ctl(&start);
    assert_eq!(unknown.code, 1, "{unknown:?}");
    assert!(
        unknown.stderr.contains("there is no template \"nothing\""),
        "{unknown:?}"
    );
}

/// Pushes a template that is larger than a message, and orders a server of it; gives its bytes, once a part of them has come
fn begin_a_large_transfer(rig: &Rig) -> Vec<u8> {
    let dir = rig.path("large");
    fs::create_dir(&dir).unwrap();
    let mut state = 1_u64;
    let mut bytes = vec![0; 101 << 20];
    for word in bytes.chunks_exact_mut(8) {
        // What does not shrink (xorshift64).
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes());
    }
    fs::write(dir.join("world.bin"), &bytes).unwrap();
    done(rig, &["create", "large"]);
    let pushed = template(rig, &["push", text(&dir)]);
    assert!(pushed.stdout.contains("daemons in Java"), "{pushed:?}");
    order_from_large(rig, "lobby-1");
    crate::rig::eventually("a part of the template", || {
        let come = parts(rig);
        let come = come.iter().filter_map(|part| fs::metadata(part).ok());
        come.map(|part| part.len()).max().filter(|come| *come > 0)
    });
    bytes
}

fn order_from_large(rig: &Rig, id: &str) {
    let jar = rig.path("demo.standin");
    let start = ["instance", "start", "lobby", "--id", id, "--jar", text(&jar)];
    let ordered = rig.ctl(&[&start[..], &["--template", "large"]].concat());
    assert_eq!(ordered.code, 0, "{ordered:?}");
}

/// What has come of templates that are not whole yet
fn parts(rig: &Rig) -> Vec<PathBuf> {
    let entries = fs::read_dir(rig.path("daemon/cache/templates"))
        .into_iter()
        .flatten();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "part"))
        .collect()
}

fn assert_come(rig: &Rig, id: &str, bytes: &[u8]) {
    rig.await_instance(id, "RUNNING");
    let there = rig.path("daemon/instances/lobby").join(id).join("world.bin");
    assert!(fs::read(there).unwrap() == bytes, "other bytes than were pushed");
    assert_eq!(parts(rig), [""; 0].map(PathBuf::from));
    let fetched = rig.log_text("daemon").matches("a template was fetched").count();
    assert_eq!(fetched, 1);
}

#[test]
fn a_template_larger_than_a_message_goes_on_where_its_controller_was_killed() {
    let mut rig = Rig::with_node();
    let bytes = begin_a_large_transfer(&rig);
    rig.kill_controller();
    rig.start_controller();
    assert_come(&rig, "lobby-1", &bytes);
}

#[test]
fn what_has_come_of_a_template_outlasts_a_daemon_that_is_killed() {
    let mut rig = Rig::with_node();
    let bytes = begin_a_large_transfer(&rig);
    rig.kill_daemon();
    assert_eq!(parts(&rig).len(), 1, "{}", rig.log_text("daemon"));
    rig.start_daemon();
    rig.await_node("ONLINE");
    order_from_large(&rig, "lobby-2");
    assert_come(&rig, "lobby-2", &bytes);
    let log = rig.log_text("daemon");
    assert!(
        log.contains("what has come of it earlier is gone on with"),
        "{log}"
    );
}
