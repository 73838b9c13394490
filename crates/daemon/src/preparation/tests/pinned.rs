//! What the tests of the Java daemon pin for a preparation, row by row: start failures, environment, variables, merger, unpacker
//!
//! Where this daemon does otherwise, the test says so, and why. A duplicate in flight is answered by the session, without a preparation:
//! `a_repeated_start_is_answered_with_what_is_true` in the tests of the protocol. How often a download is tried is one of the tests of
//! artifacts, and what a patch does one of those of patches.

use std::collections::BTreeMap;

use prexorcloud_proto::RuntimeIsolation;

use super::templates::{archive, data, folder, play, refs, text};
use super::*;

fn with_extension(node: &Node, start: &mut StartInstance, sha256: &str) {
    let path = node.folder.path().join("plugin.jar");
    std::fs::write(&path, "plugin").unwrap();
    plan(start).extensions = vec![ExtensionArtifact {
        file_name: "plugin.jar".into(),
        download_url: path.to_str().unwrap().into(),
        sha256: sha256.into(),
        install_path: "plugins".into(),
        ..ExtensionArtifact::default()
    }];
}

/// Prepares with one template of these files
async fn with_template(
    node: &Node,
    start: &mut StartInstance,
    files: &[(&str, &str)],
) -> Result<Prepared, PreparationError> {
    let layers = BTreeMap::from([("base", archive(files))]);
    with_templates(node, start, &["base"], layers).await
}

async fn with_templates(
    node: &Node,
    start: &mut StartInstance,
    names: &[&str],
    contents: BTreeMap<&'static str, Vec<u8>>,
) -> Result<Prepared, PreparationError> {
    let wanted: Vec<(&str, &str)> = names.iter().map(|name| (*name, "h")).collect();
    start.templates = refs(&wanted);
    let answer = |ask: &cache::templates::Ask| {
        let name = ask.wanted.name.as_str();
        vec![data(name, "h", contents[name].clone())]
    };
    play(node, start, answer).await.0
}

/// A Java daemon answers `MISSING_COMPOSITION_PLAN`; here the older fields say all that is needed
#[tokio::test]
async fn start_failures_a_missing_plan_is_none() {
    let node = node();
    let start = start(&node);
    assert_eq!(start.composition_plan, None);
    node.preparer
        .prepare(&start, Limits::of(&start), None)
        .await
        .unwrap();
    assert_eq!(text(&node, "server.jar"), "jar");
}

#[tokio::test]
async fn start_failures_a_wrong_runtime_sha_is_permanent_and_leaves_no_jar() {
    for is_static in [false, true] {
        let node = node();
        let mut start = start(&node);
        start.static_instance = is_static;
        plan(&mut start).runtime.as_mut().unwrap().sha256 = "0".repeat(64);
        let error = error(&node, &start).await;
        assert_eq!(
            (error.code(), error.stage()),
            (
                "RUNTIME_PROVISION_FAILED",
                StartPreparationStage::RuntimeProvision
            )
        );
        assert_eq!(error.disposition(), StartFailureDisposition::Permanent);
        assert_eq!(error.retry_after(), Duration::ZERO);
        assert!(!folder(&node).join("server.jar").exists());
    }
}

#[tokio::test]
async fn start_failures_a_refused_connection_is_transient_with_a_delay() {
    let node = node();
    let mut start = start(&node);
    let url = format!("http://127.0.0.1:{}/server.jar", start.port);
    let runtime = plan(&mut start).runtime.as_mut().unwrap();
    (runtime.sha256, runtime.download_url) = ("a".repeat(64), url);
    let error = error(&node, &start).await;
    assert_eq!(error.stage(), StartPreparationStage::RuntimeProvision);
    assert_eq!(error.disposition(), StartFailureDisposition::Transient);
    assert!(error.retry_after() > Duration::ZERO);
}

#[tokio::test]
async fn start_failures_a_wrong_extension_sha_is_permanent_and_leaves_no_file() {
    for is_static in [false, true] {
        let node = node();
        let mut start = start(&node);
        start.static_instance = is_static;
        with_extension(&node, &mut start, &"0".repeat(64));
        let error = error(&node, &start).await;
        assert_eq!(
            (error.code(), error.stage()),
            (
                "EXTENSION_PROVISION_FAILED",
                StartPreparationStage::ExtensionProvision
            )
        );
        assert_eq!(error.disposition(), StartFailureDisposition::Permanent);
        assert!(!folder(&node).join("plugins/plugin.jar").exists());
        assert!(
            !folder(&node).join("server.jar").exists(),
            "nothing else of the start either"
        );
    }
}

#[tokio::test]
async fn env_has_the_plugin_token_and_both_reservations() {
    let node = node();
    let mut start = start(&node);
    start.plugin_token = "token".into();
    plan(&mut start).isolation = Some(RuntimeIsolation {
        cpu_reservation: 0.25,
        disk_reservation_mb: 4096,
    });
    let prepared = node.preparer.prepare(&start, Limits::of(&start), None).await;
    let environment = prepared.unwrap().launch.environment;
    for (key, value) in [
        ("CLOUD_PLUGIN_TOKEN", "token"),
        ("CLOUD_CPU_RESERVATION", "0.25"),
        ("CLOUD_DISK_RESERVATION_MB", "4096"),
    ] {
        assert_eq!(environment.get(key).map(String::as_str), Some(value), "{key}");
    }
}

#[tokio::test]
async fn variables_an_operators_port_loses_to_the_daemons() {
    let node = node();
    let mut start = start(&node);
    start.resolved_variables.insert("PORT".into(), "1".into());
    let files = [("server.properties", "server-port=%PORT%\n")];
    with_template(&node, &mut start, &files).await.unwrap();
    assert_eq!(
        text(&node, "server.properties"),
        format!("server-port={}\n", start.port)
    );
}

#[tokio::test]
async fn variables_unknown_ones_stay_as_they_are() {
    let node = node();
    let mut start = start(&node);
    let files = [("a.txt", "%UNKNOWN% 100% %GROUP%")];
    with_template(&node, &mut start, &files).await.unwrap();
    assert_eq!(text(&node, "a.txt"), "%UNKNOWN% 100% lobby");
}

#[tokio::test]
async fn variables_are_replaced_in_exactly_eight_kinds_of_files() {
    let node = node();
    let mut start = start(&node);
    let replaced = ["properties", "yml", "yaml", "toml", "json", "cfg", "conf", "txt"];
    let others = ["ini", "list", "sh", "xml", "md", "jar", "txt.bak", "class"];
    let names: Vec<String> = replaced
        .iter()
        .chain(&others)
        .map(|kind| format!("file.{kind}"))
        .collect();
    let files: Vec<(&str, &str)> = names
        .iter()
        .map(|name| (name.as_str(), "a = '%GROUP%'"))
        .collect();
    with_template(&node, &mut start, &files).await.unwrap();
    for kind in replaced {
        assert_eq!(text(&node, &format!("file.{kind}")), "a = 'lobby'", "{kind}");
    }
    for kind in others {
        assert_eq!(text(&node, &format!("file.{kind}")), "a = '%GROUP%'", "{kind}");
    }
}

#[tokio::test]
async fn variables_leave_binary_files_untouched() {
    let node = node();
    let mut start = start(&node);
    let files = [("icon.png", "\u{89}PNG %GROUP%"), ("level.dat", "%GROUP%\0")];
    with_template(&node, &mut start, &files).await.unwrap();
    for (name, content) in files {
        assert_eq!(text(&node, name), content);
    }
}

/// The same file of two templates
async fn merged(name: &str, base: &str, overlay: &str) -> String {
    let node = node();
    let mut start = start(&node);
    let layers = BTreeMap::from([
        ("base", archive(&[(name, base)])),
        ("lobby", archive(&[(name, overlay)])),
    ]);
    with_templates(&node, &mut start, &["base", "lobby"], layers)
        .await
        .unwrap();
    text(&node, name)
}

#[tokio::test]
async fn merger_a_nested_override_keeps_its_siblings() {
    assert_eq!(
        merged("config.yml", "a:\n  b: 1\n  c: 2\nd: 3\n", "a:\n  b: 9\n").await,
        "a:\n  b: 9\n  c: 2\nd: 3\n"
    );
    assert_eq!(
        merged("config.toml", "[a]\nb = 1\nc = 2\n", "[a]\nb = 9\n").await,
        "[a]\nb = 9\nc = 2\n"
    );
    assert_eq!(
        merged("server.properties", "a=1\nb=2\n", "a=9\n").await,
        "a=9\nb=2\n"
    );
}

#[tokio::test]
async fn merger_arrays_are_replaced() {
    let merged = merged("config.json", "{\"a\": [1, 2], \"b\": 3}", "{\"a\": [9]}").await;
    let value: serde_json::Value = serde_json::from_str(&merged).unwrap();
    assert_eq!(value, serde_json::json!({"a": [9], "b": 3}));
}

#[tokio::test]
async fn merger_line_files_get_unique_lines_in_their_order() {
    for kind in ["txt", "cfg", "conf", "ini", "list"] {
        assert_eq!(
            merged(&format!("names.{kind}"), "b\na\n", "c\na\nd\n").await,
            "b\na\nc\nd\n",
            "{kind}"
        );
    }
}

#[tokio::test]
async fn merger_a_jar_a_dat_or_a_png_is_not_merged() {
    for kind in ["jar", "dat", "png"] {
        assert_eq!(
            merged(&format!("file.{kind}"), "a\nb\n", "a: 1\n").await,
            "a: 1\n",
            "{kind}"
        );
    }
}

/// A Java daemon would try it again; the same archive will always lead out
#[tokio::test]
async fn unpacker_an_entry_outside_is_refused() {
    let node = node();
    let mut start = start(&node);
    let files = [("a.txt", "a"), ("../escape.txt", "x")];
    let error = with_template(&node, &mut start, &files).await.unwrap_err();
    assert_eq!(
        (error.code(), error.disposition()),
        ("TEMPLATE_APPLY_FAILED", StartFailureDisposition::Permanent)
    );
    assert!(error.to_string().contains("../escape.txt"), "{error}");
    for escaped in ["escape.txt", "instances/escape.txt", "instances/lobby/escape.txt"] {
        assert!(!node.folder.path().join(escaped).exists());
    }
}

#[tokio::test]
async fn unpacker_a_protected_folder_covers_what_is_nested_in_it() {
    let node = node();
    let mut start = start(&node);
    start.static_instance = true;
    start.protected_paths = vec!["protected".into()];
    std::fs::create_dir_all(folder(&node).join("protected/nested")).unwrap();
    std::fs::write(folder(&node).join("protected/nested/data.txt"), "own").unwrap();
    let files = [
        ("protected/nested/data.txt", "template"),
        ("other.txt", "template"),
    ];
    with_template(&node, &mut start, &files).await.unwrap();
    assert_eq!(text(&node, "protected/nested/data.txt"), "own");
    assert_eq!(text(&node, "other.txt"), "template");
}

#[tokio::test]
async fn unpacker_a_protected_file_is_written_if_it_is_absent() {
    let node = node();
    let mut start = start(&node);
    start.static_instance = true;
    start.protected_paths = vec!["protected".into()];
    let files = [("protected/nested/data.txt", "template")];
    with_template(&node, &mut start, &files).await.unwrap();
    assert_eq!(text(&node, "protected/nested/data.txt"), "template");
}
