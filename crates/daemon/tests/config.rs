//! The configuration as an operator writes it
#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use prexorcloud_daemon::DaemonConfig;
use prexorcloud_daemon::config::{LogFormat, example, load, parse};

fn error(text: &str) -> String {
    parse(text, "daemon.toml", []).unwrap_err().to_string()
}

fn endpoints(config: &DaemonConfig) -> Vec<String> {
    config
        .controller
        .endpoints
        .iter()
        .map(ToString::to_string)
        .collect()
}

fn variable(name: &str, value: &str) -> (String, String) {
    (format!("PREXORCLOUD_DAEMON_{name}"), value.to_owned())
}

#[test]
fn nothing_at_all_is_a_complete_configuration() {
    let loaded = parse("", "daemon.toml", []).unwrap();
    assert_eq!(
        format!("{:?}", loaded.config),
        format!("{:?}", DaemonConfig::default())
    );
    assert!(loaded.warnings.is_empty());
}

#[test]
fn the_example_says_the_defaults() {
    let loaded = parse(&example(), "example", []).unwrap();
    assert_eq!(
        format!("{:?}", loaded.config),
        format!("{:?}", DaemonConfig::default())
    );
}

#[test]
fn a_file_sets_everything_it_names() {
    let text = "node_id = \"eu-1\"\n[controller]\nendpoints = [\"a:9090\", \"[::1]:9091\"]\n\
        [instances]\nkill_timeout_seconds = 3\n[runtime]\nallow_standin = true\n[labels]\nzone = \"eu\"\n[log]\nformat = \"json\"\n";
    let config = parse(text, "daemon.toml", []).unwrap().config;
    assert_eq!(config.node_id, "eu-1");
    assert_eq!(endpoints(&config), ["a:9090", "[::1]:9091"]);
    assert_eq!(config.instances.kill_timeout, Duration::from_secs(3));
    assert!(config.runtime.allow_standin);
    assert_eq!(config.labels["zone"], "eu");
    assert_eq!(config.log.format, LogFormat::Json);
    assert!(config.certificate_dir().ends_with("security"));
}

#[test]
fn the_environment_overrides_the_file() {
    let environment = [
        variable("NODE_ID", "from-env"),
        variable("CONTROLLER_ENDPOINTS", "a:1, b:2"),
        variable("HEALTH_ENABLED", "false"),
        variable("LABELS", "zone=eu, rack=7"),
        variable("INSTANCES_KIL_TIMEOUT_SECONDS", "3"),
        ("PATH".to_owned(), "/bin".to_owned()),
    ];
    let loaded = parse("node_id = \"from-file\"", "daemon.toml", environment).unwrap();
    assert_eq!(loaded.config.node_id, "from-env");
    assert_eq!(endpoints(&loaded.config), ["a:1", "b:2"]);
    assert!(!loaded.config.health.enabled);
    assert_eq!(loaded.config.labels.len(), 2);
    assert_eq!(loaded.warnings.len(), 1);
    let warning = &loaded.warnings[0];
    assert!(
        warning.contains("did you mean PREXORCLOUD_DAEMON_INSTANCES_KILL_TIMEOUT_SECONDS?"),
        "{warning}"
    );
}

#[test]
fn mistakes_are_named_with_their_place() {
    assert_eq!(
        error("[health]\nenabeld = true"),
        "daemon.toml:2: unknown key `health.enabeld`, did you mean `health.enabled`?"
    );
    assert!(error("[zebra]\nx = 1").starts_with("daemon.toml:1: unknown key `zebra`"));
    assert!(error("node_id = \"../x\"").starts_with("daemon.toml:1: `node_id` must be"));
    assert!(error("[controller]\nendpoints = []").contains("at least one"));
    assert!(error("[controller]\nendpoints = [\"http://\"]").contains("host:port"));
    assert!(error("[health]\nenabled = 1").contains("true or false, not 1"));
    assert!(error("[reconnect]\nmax_delay_ms = 20").contains("at least reconnect.initial_delay_ms"));
    assert!(error("[console]\nretained_mb = 1").contains("from 13 to"));
    assert!(error("node_id = ").starts_with("daemon.toml:1: "));
    let wrong = parse("", "", [variable("HEALTH_ENABLED", "perhaps")])
        .unwrap_err()
        .to_string();
    assert!(
        wrong.starts_with("PREXORCLOUD_DAEMON_HEALTH_ENABLED: "),
        "{wrong}"
    );
    let missing = load(Some("/no/such/daemon.toml".as_ref()), [])
        .unwrap_err()
        .to_string();
    assert!(missing.contains("/no/such/daemon.toml"), "{missing}");
}

#[test]
fn what_editors_leave_does_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("daemon.toml");
    let text = "\u{feff}node_id = \" eu-1 \" \r\n\r\n[controller] \t\r\nendpoints = [\" ::1 \"]\r\n\r\n";
    std::fs::write(&path, text).unwrap();
    let config = load(Some(&path), [variable("HEALTH_LISTEN", " [::1]:9091\r\n")])
        .unwrap()
        .config;
    assert_eq!(config.node_id, "eu-1");
    assert_eq!(endpoints(&config), ["[::1]:9090"]);
    assert_eq!(config.health.listen, "[::1]:9091".parse().unwrap());
    std::fs::write(&path, "\u{feff}\r\nnode_id = 7\r\n").unwrap();
    let wrong = load(Some(&path), []).unwrap_err().to_string();
    assert!(wrong.contains("daemon.toml:2: `node_id`"), "{wrong}");
    std::fs::write(&path, b"node_id = \"\xe4\"").unwrap();
    let wrong = load(Some(&path), []).unwrap_err().to_string();
    assert!(wrong.contains("it is not UTF-8 text"), "{wrong}");
}
