//! What people write: configuration from other systems and editors, paths with any character, bare environments

use std::net::{IpAddr, Ipv6Addr, TcpListener};

use crate::rig::{Rig, run};

/// What an editor of another system makes of a token, put into a Java daemon's file between other things
fn java_file(port: u16, token: &str) -> String {
    format!(
        "\u{feff}# Our node\nnodeId: node-1   # as in the rack\nadvertiseAddress: 127.0.0.1\n\
         controller:\n  host: \"::1\"\n  grpcPort: '{port}'\n  endpoints: []\n  dnsSrv:\n\
         security: {{joinToken: {token}, certificateDir: certs}}\nhealth:\n  enabled: off\n\
         instances:\n  directory: instances\n  shutdownTimeoutSeconds: \"30\"\n\
         labels:\n  rack: 007\nmodules:\n  signing: {{mode: KEYED}}\n \n"
    )
    .replace('\n', "\r\n")
}

#[test]
fn a_java_daemons_file_joins_a_controller_over_ipv6() {
    if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
        eprintln!("not tried: this machine has no IPv6");
        return;
    }
    let mut rig = Rig::new();
    rig.listen_on(IpAddr::V6(Ipv6Addr::LOCALHOST));
    rig.start_controller();
    let token = rig.token(&["--node", "node-1"]);
    let text = java_file(rig.grpc().port(), &token);
    let config = rig.write("daemon.yml", &text);
    let checked = run(&["config", "check", "daemon", config.to_str().unwrap()]);
    assert_eq!(checked.code, 0, "{checked:?}");
    assert!(
        checked
            .stderr
            .contains("daemon.yml:18: `modules.signing.mode` has no meaning"),
        "{checked:?}"
    );
    let data = rig.path("daemon");
    rig.start_daemon_with(
        &config,
        &[("PREXORCLOUD_DAEMON_DATA_DIR", data.to_str().unwrap())],
    );
    rig.await_node("ONLINE");
    assert_eq!(rig.node("node-1")["labels"]["rack"], "007");
    assert_eq!(
        std::fs::read_to_string(&config).unwrap(),
        text.replace(&token, "\"\""),
        "only the token leaves the file"
    );
}

#[test]
fn a_mistake_in_a_java_daemons_file_is_told_with_its_line() {
    let rig = Rig::new();
    let text = java_file(9090, "\"\"").replace("\"::1\"", "ctrl:9090");
    let config = rig.write("daemon.yml", &text);
    let ran = run(&["daemon", "--config", config.to_str().unwrap()]);
    assert_eq!(ran.code, 64, "{ran:?}");
    assert!(
        ran.error().contains("daemon.yml:5: `controller.host` must be"),
        "{ran:?}"
    );
}

#[test]
fn a_server_of_a_bare_daemon_knows_every_letter_and_its_jar_any_name() {
    let rig = Rig::with_node();
    let jar = rig.path("%41 a#b?ä.jar");
    std::fs::write(&jar, include_bytes!("../../assets/demo-server.jar")).unwrap();
    let started = rig.ctl(&[
        "instance",
        "start",
        "lobby",
        "--id",
        "lobby-1",
        "--jar",
        jar.to_str().unwrap(),
        "--memory-mb",
        "64",
        "--jvm-arg=-XshowSettings:properties",
        "--wait",
        "-o",
        "json",
    ]);
    assert_eq!(started.json()["state"], "RUNNING");
    rig.await_line("lobby-1", "sun.jnu.encoding = UTF-8");
    rig.await_line("lobby-1", "sun.java.command = %41 a#b?ä.jar");
}
