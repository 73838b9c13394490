//! Reading the configuration: defaults, every key, and errors that point at the mistake
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::{collections::BTreeMap, time::Duration};

use prexorcloud_controller::config::{self, ConfigError, ControllerConfig, LogFormat};

fn parse(text: &str) -> Result<ControllerConfig, ConfigError> {
    config::parse(text, "controller.toml", []).map(|loaded| loaded.config)
}

fn with_variable(name: &str, value: &str) -> Result<config::Loaded, ConfigError> {
    config::parse("", "controller.toml", [(name.to_owned(), value.to_owned())])
}

#[test]
fn nothing_set_means_the_defaults() {
    assert_eq!(parse("").unwrap(), ControllerConfig::default());
    assert_eq!(
        config::load(None, []).unwrap().config,
        ControllerConfig::default()
    );
}

#[test]
fn the_example_is_the_defaults() {
    assert_eq!(parse(&config::example()).unwrap(), ControllerConfig::default());
}

#[test]
fn every_key_of_the_example_matters() {
    // Each value replaced by one of another type must be noticed, or the key is not read at all.
    let example = config::example();
    let lines: Vec<&str> = example.lines().collect();
    let mut keys = 0;
    for (index, line) in lines
        .iter()
        .enumerate()
        .filter(|(_, line)| !line.starts_with('#'))
    {
        let Some((name, _)) = line.split_once(" = ") else {
            continue;
        };
        keys += 1;
        let broken = format!("{name} = 1.5");
        let mut text = lines.clone();
        text[index] = &broken;
        let error = parse(&text.join("\n")).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with(&format!("controller.toml:{}: ", index + 1)),
            "{error}"
        );
    }
    assert!(keys >= 20, "{keys}");
}

#[test]
fn a_file_sets_what_it_names() {
    let config = parse(
        r#"
        data_dir = "/srv/prexor"
        [grpc]
        listen = "[::]:9999"
        names = ["controller.example", "203.0.113.9"]
        [heartbeat]
        interval_ms = 1_000
        [instances]
        port_range_start = 25565
        port_range_end = 25565
        [log]
        format = "json"
        "#,
    )
    .unwrap();
    assert_eq!(config.data_dir.to_str(), Some("/srv/prexor"));
    assert_eq!(config.grpc.listen.to_string(), "[::]:9999");
    assert_eq!(config.grpc.names, ["controller.example", "203.0.113.9"]);
    assert_eq!(config.heartbeat.interval, Duration::from_secs(1));
    assert_eq!(config.instances.port_range, 25565..=25565);
    assert_eq!(config.log.format, LogFormat::Json);
    assert_eq!(config.http, ControllerConfig::default().http);
}

#[test]
fn mistakes_are_named_with_file_line_and_remedy() {
    let cases = BTreeMap::from([
        (
            "\n\nheartbeat.interval = 5000",
            "controller.toml:3: unknown key `heartbeat.interval`, did you mean `heartbeat.interval_ms`?",
        ),
        (
            "[grpc]\nlisten_on = \"0.0.0.0:1\"",
            "controller.toml:2: unknown key `grpc.listen_on`, did you mean `grpc.listen`?",
        ),
        (
            "[htttp]\nlisten = \"0.0.0.0:1\"",
            "controller.toml:1: unknown key `htttp`, did you mean `http.listen`?",
        ),
        ("zebra = 1", "controller.toml:1: unknown key `zebra`"),
        (
            "datadir = \"/x\"",
            "controller.toml:1: unknown key `datadir`, did you mean `data_dir`?",
        ),
        (
            "data_dir = \"\"",
            "controller.toml:1: `data_dir` must be a path, not \"\"",
        ),
        (
            "[heartbeat]\ninterval_ms = 999",
            "controller.toml:2: `heartbeat.interval_ms` must be an integer from 1000 to 3600000, not 999",
        ),
        (
            "[heartbeat]\ninterval_ms = \"fast\"",
            "controller.toml:2: `heartbeat.interval_ms` must be an integer from 1000 to 3600000, not \"fast\"",
        ),
        (
            "[heartbeat]\ninterval_ms = 99999999999999999999",
            "controller.toml:2: `heartbeat.interval_ms` must be an integer from 1000 to 3600000, not a very large integer",
        ),
        (
            "[grpc]\nlisten = \"controller:9090\"",
            "controller.toml:2: `grpc.listen` must be an IP address with a port, for instance \"127.0.0.1:8080\", not \"controller:9090\"",
        ),
        (
            "[grpc]\nlisten = \"0.0.0.0:70000\"",
            "controller.toml:2: `grpc.listen` must be an IP address with a port, for instance \"127.0.0.1:8080\", not \"0.0.0.0:70000\"",
        ),
        (
            "[grpc]\nnames = [1]",
            "controller.toml:2: `grpc.names` must be a list of strings, not a list of other things",
        ),
        (
            "[http]\nlisten = \"0.0.0.0:9090\"",
            "controller.toml:2: `http.listen` must be an address that differs from grpc.listen, not \"0.0.0.0:9090\"",
        ),
        (
            "[instances]\nport_range_end = 1",
            "controller.toml:2: `instances.port_range_end` must be a port that is not below instances.port_range_start, not 1",
        ),
        (
            "[tokens]\nmax_ttl_seconds = 2592001",
            "controller.toml:2: `tokens.max_ttl_seconds` must be an integer from 1 to 2592000, not 2592001",
        ),
        (
            "[templates]\nmax_entries = 50001",
            "controller.toml:2: `templates.max_entries` must be an integer from 1 to 50000, not 50001",
        ),
        (
            "[templates]\nmax_total_bytes = 1000\nmax_file_bytes = 2000",
            "controller.toml:3: `templates.max_file_bytes` must be at most templates.max_total_bytes, not 2000",
        ),
        (
            "[log]\nformat = \"xml\"",
            "controller.toml:2: `log.format` must be \"text\" or \"json\", not \"xml\"",
        ),
        (
            "grpc = 7",
            "controller.toml:1: unknown key `grpc`, did you mean `grpc.names`?",
        ),
    ]);
    for (text, expected) in cases {
        assert_eq!(parse(text).unwrap_err().to_string(), expected, "{text}");
    }
    let error = parse("data_dir = \"/x\"\n[grpc\nlisten = 1")
        .unwrap_err()
        .to_string();
    assert!(error.starts_with("controller.toml:2: "), "{error}");
}

#[test]
fn the_environment_wins_over_the_file() {
    let environment = [
        ("PREXORCLOUD_CONTROLLER_DATA_DIR", "/from/environment"),
        ("PREXORCLOUD_CONTROLLER_GRPC_NAMES", "a.example, b.example,"),
        ("PREXORCLOUD_CONTROLLER_HEARTBEAT_INTERVAL_MS", "2000"),
        ("HOME", "/root"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()));
    let loaded = config::parse("data_dir = \"/from/file\"", "controller.toml", environment).unwrap();
    assert_eq!(loaded.config.data_dir.to_str(), Some("/from/environment"));
    assert_eq!(loaded.config.grpc.names, ["a.example", "b.example"]);
    assert_eq!(loaded.config.heartbeat.interval, Duration::from_secs(2));
    assert!(loaded.warnings.is_empty());
}

#[test]
fn a_mistake_in_the_environment_names_the_variable() {
    let error = with_variable("PREXORCLOUD_CONTROLLER_HEARTBEAT_INTERVAL_MS", "soon").unwrap_err();
    assert_eq!(
        error.to_string(),
        "PREXORCLOUD_CONTROLLER_HEARTBEAT_INTERVAL_MS: `heartbeat.interval_ms` must be an integer, not `soon`"
    );
    let error = with_variable("PREXORCLOUD_CONTROLLER_HEARTBEAT_INTERVAL_MS", "12").unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("PREXORCLOUD_CONTROLLER_HEARTBEAT_INTERVAL_MS: "),
        "{error}"
    );
}

#[test]
fn a_variable_that_is_almost_a_setting_is_reported() {
    let loaded = with_variable("PREXORCLOUD_CONTROLLER_GRPC_LISTN", "0.0.0.0:1").unwrap();
    assert_eq!(
        loaded.warnings,
        [
            "PREXORCLOUD_CONTROLLER_GRPC_LISTN is not a setting and is ignored, did you mean PREXORCLOUD_CONTROLLER_GRPC_LISTEN?"
        ]
    );
    assert_eq!(loaded.config, ControllerConfig::default());
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let folder = tempfile::tempdir().unwrap();
    for path in [folder.path().to_path_buf(), folder.path().join("none.toml")] {
        let error = config::load(Some(&path), []).unwrap_err();
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }
}

#[test]
fn what_editors_leave_does_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("controller.toml");
    let text = "\u{feff}[grpc] \t\r\nlisten = \" [::1]:9090 \" \r\n\r\n[log]\r\nformat = \"json \"\r\n \r\n";
    std::fs::write(&path, text).unwrap();
    let config = config::load(Some(&path), []).unwrap().config;
    assert_eq!(config.grpc.listen, "[::1]:9090".parse().unwrap());
    assert_eq!(config.log.format, LogFormat::Json);
    std::fs::write(&path, "\u{feff}\r\n[grpc]\r\nlisten = 7\r\n").unwrap();
    let wrong = config::load(Some(&path), []).unwrap_err().to_string();
    assert!(wrong.contains("controller.toml:3: `grpc.listen`"), "{wrong}");
}
