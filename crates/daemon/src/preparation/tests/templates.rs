//! Starts with templates, against a controller that is played by the test

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;

use prexorcloud_proto::controller_message::Payload;
use prexorcloud_proto::{ErrorReport, TemplateData, TemplateRef, TemplateUpToDate};

use super::*;
use crate::cache::templates::Ask;

/// An archive with these files; a name that begins with `>` is a link
pub(super) fn archive(files: &[(&str, &str)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(flate2::write::GzEncoder::new(
        Vec::new(),
        flate2::Compression::fast(),
    ));
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(if name.ends_with(".sh") { 0o755 } else { 0o644 });
        match name.strip_prefix('>') {
            Some(name) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_size(0);
                archive.append_link(&mut header, name, content).unwrap();
            }
            None => {
                header.set_size(content.len() as u64);
                // As hostile as it is written.
                let bytes = name.as_bytes();
                header.as_old_mut().name[..bytes.len()].copy_from_slice(bytes);
                header.set_cksum();
                archive.append(&header, content.as_bytes()).unwrap();
            }
        }
    }
    let mut packed = archive.into_inner().unwrap();
    packed.flush().unwrap();
    packed.finish().unwrap()
}

pub(super) fn data(name: &str, hash: &str, archive: Vec<u8>) -> Payload {
    Payload::TemplateData(Box::new(TemplateData {
        template_name: name.into(),
        hash: hash.into(),
        tar_gz: archive.into(),
        ..TemplateData::default()
    }))
}

pub(super) fn refs(templates: &[(&str, &str)]) -> Vec<TemplateRef> {
    let refs = templates.iter().map(|(name, hash)| TemplateRef {
        name: (*name).into(),
        hash: (*hash).into(),
    });
    refs.collect()
}

/// Prepares while a controller answers each request by `answer`; says what was asked
pub(super) async fn play(
    node: &Node,
    start: &StartInstance,
    mut answer: impl FnMut(&Ask) -> Vec<Payload>,
) -> (Result<Prepared, PreparationError>, Vec<String>) {
    let templates = node.preparer.templates();
    templates.handle_connected();
    let mut asked = Vec::new();
    let mut preparing = std::pin::pin!(node.preparer.prepare(start, Limits::of(start), None));
    loop {
        for ask in templates.poll() {
            asked.push(format!("{} {}", ask.wanted.name, ask.known_hash));
            for payload in answer(&ask) {
                assert_eq!(templates.handle_request(payload), None);
            }
        }
        let deadline = templates
            .timeout()
            .unwrap_or_else(|| std::time::Instant::now() + Duration::from_secs(60));
        tokio::select! {
            prepared = &mut preparing => return (prepared, asked),
            () = templates.woken() => {}
            () = tokio::time::sleep_until(deadline.into()) => {}
        }
    }
}

fn from(contents: BTreeMap<&'static str, Vec<u8>>) -> impl FnMut(&Ask) -> Vec<Payload> {
    move |ask| {
        vec![data(
            ask.wanted.name.as_str(),
            "h",
            contents[ask.wanted.name.as_str()].clone(),
        )]
    }
}

pub(super) fn folder(node: &Node) -> PathBuf {
    node.folder.path().join("instances/lobby/lobby-1")
}

pub(super) fn text(node: &Node, name: &str) -> String {
    std::fs::read_to_string(folder(node).join(name)).unwrap()
}

fn two_templates() -> BTreeMap<&'static str, Vec<u8>> {
    BTreeMap::from([
        (
            "base",
            archive(&[
                ("server.properties", "# ours\nport=%PORT%\nmotd=base\n"),
                ("run.sh", "#!/bin/sh\necho %PORT%\n"),
                ("config/", ""),
                ("config/paper.yml", "a: 1 # one\nb:\n  c: 2\n"),
                (">latest", "config/paper.yml"),
                ("server.jar", "old"),
            ]),
        ),
        (
            "lobby",
            archive(&[
                ("server.properties", "motd=%GROUP% %MINE%\n"),
                ("config/paper.yml", "b:\n  d: 3\n"),
            ]),
        ),
    ])
}

#[tokio::test]
async fn templates_come_in_order_and_are_kept() {
    let node = node();
    let mut start = start(&node);
    start.resolved_variables.insert("MINE".into(), "!".into());
    let port = start.port;
    for (round, is_in_plan) in [false, true].into_iter().enumerate() {
        let wanted = refs(&[("base", "h"), ("base-paper", ""), ("lobby", "h"), ("base", "h")]);
        if is_in_plan {
            start.templates = refs(&[("other", "h")]);
            plan(&mut start).templates = wanted;
        } else {
            start.templates = wanted;
        }
        let (prepared, mut asked) = play(&node, &start, from(two_templates())).await;
        prepared.unwrap();
        asked.sort();
        assert_eq!(
            asked,
            if round == 0 {
                vec!["base ", "lobby "]
            } else {
                vec![]
            }
        );
        assert_eq!(
            text(&node, "server.properties"),
            format!("# ours\nport={port}\nmotd=lobby !\n")
        );
        assert_eq!(
            text(&node, "config/paper.yml"),
            "a: 1 # one\nb:\n  c: 2\n  d: 3\n"
        );
        assert_eq!(text(&node, "latest"), text(&node, "config/paper.yml"));
        assert_eq!(text(&node, "run.sh"), "#!/bin/sh\necho %PORT%\n");
        assert_eq!(
            text(&node, "server.jar"),
            "jar",
            "the runtime comes after the templates"
        );
        let mode = std::fs::metadata(folder(&node).join("run.sh"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o111, 0o111 & mode, "{mode:o}");
        assert_ne!(mode & 0o100, 0);
        await_clean(&node);
    }
    let status = node.preparer.cache_status();
    let names: Vec<&str> = status.templates.iter().map(|entry| entry.name.as_str()).collect();
    assert_eq!(names, ["base", "lobby"]);
    assert!(status.total_size_bytes > 0);
}

#[tokio::test]
async fn an_empty_hash_is_an_empty_template() {
    let node = node();
    let mut start = start(&node);
    start.templates = refs(&[("base", ""), ("lobby", "")]);
    let (prepared, asked) = play(&node, &start, |_| panic!("nothing is there to ask for")).await;
    prepared.unwrap();
    assert!(asked.is_empty());
    // A hash, and no bytes.
    start.templates = refs(&[("base", "h")]);
    let (prepared, _) = play(&node, &start, |_| vec![data("base", "h", Vec::new())]).await;
    prepared.unwrap();
}

#[tokio::test]
async fn a_static_instance_keeps_what_is_its_own() {
    let node = node();
    let mut start = start(&node);
    start.static_instance = true;
    start.protected_paths = vec!["**/*.json".into(), "world".into()];
    start.templates = refs(&[("base", "h")]);
    let write = |name: &str, content: &str| {
        let path = folder(&node).join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    };
    write("world/level.dat", "precious");
    write("server.properties", "# mine\r\nport=1\r\nview=%PORT%\r\n");
    write("ops.json", "[\"me\"]");
    write("shared/config.yml", "a: 1\n");
    std::os::unix::fs::symlink("shared", folder(&node).join("plugin")).unwrap();
    let template = archive(&[
        ("server.properties", "port=%PORT%\n"),
        ("ops.json", "[]"),
        ("banned.json", "[]"),
        ("world/level.dat", "fresh"),
        ("world/new.dat", "new"),
        ("plugin/config.yml", "b: 2\n"),
        ("whitelist.txt", "%PORT%\n"),
    ]);
    for _ in 0..2 {
        let (prepared, _) = play(&node, &start, |_| vec![data("base", "h", template.clone())]).await;
        prepared.unwrap();
        let port = start.port;
        assert_eq!(
            text(&node, "server.properties"),
            format!("# mine\r\nport={port}\r\nview=%PORT%\r\n"),
            "only what the template brought is replaced"
        );
        assert_eq!(text(&node, "world/level.dat"), "precious");
        assert_eq!(
            text(&node, "world/new.dat"),
            "new",
            "what is not there is not protected"
        );
        assert_eq!(
            (text(&node, "ops.json"), text(&node, "banned.json")),
            ("[\"me\"]".into(), "[]".into())
        );
        assert_eq!(text(&node, "shared/config.yml"), "a: 1\nb: 2\n");
        assert_eq!(text(&node, "whitelist.txt"), format!("{port}\n"));
        await_clean(&node);
    }
}

#[tokio::test]
async fn what_does_not_fit_is_permanent_and_named() {
    for (name, content, own, words) in [
        ("world", "a file", "world/level.dat", "world: it is a folder"),
        (
            "plugins/x.jar",
            "jar",
            "plugins",
            "a file is there in the place of a folder",
        ),
    ] {
        let node = node();
        let mut start = start(&node);
        start.static_instance = true;
        start.templates = refs(&[("base", "h")]);
        let path = folder(&node).join(own);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "own").unwrap();
        let template = archive(&[(name, content)]);
        let (prepared, _) = play(&node, &start, |_| vec![data("base", "h", template.clone())]).await;
        let error = prepared.unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(error.code(), "TEMPLATE_APPLY_FAILED");
        assert_eq!(error.disposition(), StartFailureDisposition::Permanent);
        assert_eq!(text(&node, own), "own");
        await_clean(&node);
    }
}

#[tokio::test]
async fn a_hostile_archive_is_refused_and_leaves_nothing() {
    for template in [
        archive(&[("a.txt", "a"), ("../../../escaped", "x")]),
        archive(&[("/escaped", "x")]),
        archive(&[(">out", "../../../../etc")]),
        archive(&[(">out", "/etc/passwd")]),
        archive(&[("a.txt", "a"), ("A.txt", "a")]),
        b"no archive".to_vec(),
        archive(&[("a.txt", "a")])[..20].to_vec(),
    ] {
        let node = node();
        let mut start = start(&node);
        start.templates = refs(&[("base", "h")]);
        let (prepared, _) = play(&node, &start, |_| vec![data("base", "h", template.clone())]).await;
        let error = prepared.unwrap_err();
        assert_eq!(
            (error.code(), error.stage()),
            ("TEMPLATE_APPLY_FAILED", StartPreparationStage::TemplateApply)
        );
        assert_eq!(error.disposition(), StartFailureDisposition::Permanent, "{error}");
        assert!(error.to_string().contains("base"), "{error}");
        await_clean(&node);
        assert!(!folder(&node).exists());
        assert!(!node.folder.path().join("escaped").exists());
    }
}

#[tokio::test]
async fn a_link_stays_inside_where_another_template_brings_it_to() {
    for (target, is_inside) in [
        ("../../../../etc/passwd", false),
        ("../..", false),
        ("../x", true),
    ] {
        let node = node();
        let mut start = start(&node);
        start.templates = refs(&[("one", "1"), ("two", "2")]);
        let one = archive(&[("e/f/keep", ""), (">p/q/r/d", "../../../e")]);
        // In its own archive there are four folders above it, and one where the first leads.
        let two = archive(&[(">p/q/r/d/l", target)]);
        let (prepared, _) = play(&node, &start, |ask| {
            vec![match ask.wanted.name.as_str() {
                "one" => data("one", "1", one.clone()),
                _ => data("two", "2", two.clone()),
            }]
        })
        .await;
        if is_inside {
            prepared.unwrap();
            let link = std::fs::read_link(folder(&node).join("e/l")).unwrap();
            assert_eq!(link, Path::new(target));
            continue;
        }
        let error = prepared.unwrap_err();
        assert_eq!(
            (error.code(), error.disposition()),
            ("TEMPLATE_APPLY_FAILED", StartFailureDisposition::Permanent)
        );
        assert!(error.to_string().contains("the link e/l leads out"), "{error}");
        await_clean(&node);
        assert!(!folder(&node).exists());
    }
}

#[tokio::test]
async fn an_unsafe_name_is_not_asked_for() {
    let node = node();
    let mut start = start(&node);
    start.templates = refs(&[("../base", "h")]);
    let (prepared, asked) = play(&node, &start, |_| Vec::new()).await;
    assert_eq!(prepared.unwrap_err().code(), "INVALID_ORDER");
    assert!(asked.is_empty());
}

#[tokio::test]
async fn what_was_damaged_in_the_cache_is_fetched_again() {
    let node = node();
    let mut start = start(&node);
    start.templates = refs(&[("base", "h")]);
    let template = archive(&[("a.txt", "a")]);
    for _ in 0..2 {
        let (prepared, asked) = play(&node, &start, |_| vec![data("base", "h", template.clone())]).await;
        prepared.unwrap();
        assert_eq!(
            (asked, text(&node, "a.txt")),
            (vec!["base ".to_owned()], "a".to_owned())
        );
        for entry in std::fs::read_dir(node.folder.path().join("cache/templates")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|suffix| suffix == "gz") {
                std::fs::write(path, &template[..template.len() - 1]).unwrap();
            }
        }
    }
}

#[tokio::test]
async fn what_is_up_to_date_comes_from_the_cache() {
    let node = node();
    let mut start = start(&node);
    start.templates = refs(&[("base", "old")]);
    let template = archive(&[("a.txt", "a")]);
    play(&node, &start, |_| vec![data("base", "old", template.clone())])
        .await
        .0
        .unwrap();
    // The template was rolled back since the order was made.
    start.templates = refs(&[("base", "new")]);
    let up_to_date = || {
        Payload::TemplateUpToDate(TemplateUpToDate {
            template_name: "base".into(),
        })
    };
    let (prepared, asked) = play(&node, &start, |_| vec![up_to_date()]).await;
    prepared.unwrap();
    assert_eq!(
        (asked, text(&node, "a.txt")),
        (vec!["base old".to_owned()], "a".to_owned())
    );
    // Another content than the one of the order is kept as what it is.
    let other = archive(&[("a.txt", "b")]);
    let (prepared, _) = play(&node, &start, |_| vec![data("base", "newer", other.clone())]).await;
    prepared.unwrap();
    assert_eq!(text(&node, "a.txt"), "b");
    start.templates = refs(&[("base", "newer")]);
    assert!(play(&node, &start, |_| Vec::new()).await.1.is_empty());
}

#[tokio::test]
async fn another_templates_name_is_ignored() {
    let node = node();
    let mut start = start(&node);
    start.templates = refs(&[("base", "h")]);
    let (wrong, right) = (archive(&[("a.txt", "wrong")]), archive(&[("a.txt", "right")]));
    let (prepared, _) = play(&node, &start, |_| {
        vec![
            data("other", "h", wrong.clone()),
            Payload::TemplateUpToDate(TemplateUpToDate {
                template_name: "other".into(),
            }),
            data("base", "h", right.clone()),
            data("base", "h", wrong.clone()),
        ]
    })
    .await;
    prepared.unwrap();
    assert_eq!(text(&node, "a.txt"), "right");
}

#[tokio::test]
async fn an_error_report_ends_the_start_at_once() {
    for (code, disposition) in [
        ("TEMPLATE_NOT_FOUND", StartFailureDisposition::Permanent),
        ("TEMPLATE_TOO_LARGE", StartFailureDisposition::Permanent),
        ("TEMPLATE_UNAVAILABLE", StartFailureDisposition::Transient),
    ] {
        let node = node();
        let mut start = start(&node);
        start.templates = refs(&[("base", "h")]);
        let began = std::time::Instant::now();
        let (prepared, _) = play(&node, &start, |ask| {
            vec![Payload::ErrorReport(Box::new(ErrorReport {
                error_code: code.into(),
                error_message: "why".into(),
                context: ask.wanted.name.to_string(),
                retry_after_seconds: 0,
            }))]
        })
        .await;
        let error = prepared.unwrap_err();
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "not after the deadline"
        );
        assert_eq!(
            (error.code(), error.disposition()),
            ("TEMPLATE_APPLY_FAILED", disposition)
        );
        assert!(
            error.to_string().contains(code) && error.to_string().contains("why"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn silence_has_a_deadline() {
    let mut node = node();
    let mut settings = node.preparer.settings.clone();
    settings.template_deadline = Duration::from_millis(50);
    node.preparer = Preparer::new(settings).unwrap();
    let mut start = start(&node);
    start.templates = refs(&[("base", "h")]);
    let (prepared, asked) = play(&node, &start, |_| Vec::new()).await;
    let error = prepared.unwrap_err();
    assert_eq!(asked, ["base "]);
    assert_eq!(error.disposition(), StartFailureDisposition::Transient);
    assert!(
        error.to_string().contains("did not answer within 0.05 s"),
        "{error}"
    );
}

#[tokio::test]
async fn a_lost_stream_is_asked_again() {
    let node = node();
    let mut start = start(&node);
    start.templates = refs(&[("base", "h")]);
    let (templates, mut is_first) = (node.preparer.templates(), true);
    let template = archive(&[("a.txt", "a")]);
    let (prepared, asked) = play(&node, &start, |_| {
        if std::mem::take(&mut is_first) {
            templates.handle_disconnected();
            templates.handle_connected();
            return Vec::new();
        }
        vec![data("base", "h", template.clone())]
    })
    .await;
    prepared.unwrap();
    assert_eq!(asked, ["base ", "base "]);
}

#[tokio::test]
async fn a_cache_that_cannot_be_written_is_named() {
    let node = node();
    let mut start = start(&node);
    start.templates = refs(&[("base", "h")]);
    let cache = node.folder.path().join("cache");
    std::fs::create_dir_all(&cache).unwrap();
    std::fs::write(cache.join("templates"), "a file in the place of the folder").unwrap();
    let template = archive(&[("a.txt", "a")]);
    let (prepared, _) = play(&node, &start, |_| vec![data("base", "h", template.clone())]).await;
    let error = prepared.unwrap_err();
    assert_eq!(
        (error.code(), error.disposition()),
        ("TEMPLATE_APPLY_FAILED", StartFailureDisposition::Transient)
    );
    assert!(error.to_string().contains("cache/templates"), "{error}");
    // As soon as the disk has room again, the next try works.
    std::fs::remove_file(cache.join("templates")).unwrap();
    play(&node, &start, |_| vec![data("base", "h", template.clone())])
        .await
        .0
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_starts_fetch_a_template_once() {
    let node = node();
    let template = archive(&[("a.txt", "a")]);
    let templates = node.preparer.templates();
    templates.handle_connected();
    let wanted = refs(&[("base", "h")]);
    let mut starts = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let (templates, wanted) = (Arc::clone(&templates), wanted.clone());
        starts.spawn(async move {
            super::super::templates::fetch(&templates, &wanted)
                .await
                .map(drop)
        });
    }
    let mut asked = 0;
    while !starts.is_empty() {
        for ask in templates.poll() {
            asked += 1;
            templates.handle_request(data(ask.wanted.name.as_str(), "h", template.clone()));
        }
        tokio::select! {
            done = starts.join_next() => done.unwrap().unwrap().unwrap(),
            () = templates.woken() => {}
        }
    }
    assert_eq!(asked, 1);
}
