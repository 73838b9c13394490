//! The command line and the environment of an instance

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use prexorcloud_proto::ConfigFormat;
use prexorcloud_protocol::validate::is_refused_variable;

use super::order::Assignment;
use super::{PreparationError, substitution};

/// What runs the jar
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Runtime {
    /// A Java virtual machine
    Java {
        /// The `java` executable
        binary: PathBuf,
    },
    /// The stand-in server that is built into this executable
    Standin {
        /// The executable
        program: PathBuf,
        /// What comes before `--port`
        arguments: Vec<String>,
    },
}

/// Variables that an instance inherits from the daemon, beside `LC_*`; no other
const INHERITED: [&str; 9] = [
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR",
];

/// Variables that decide about characters, the first one that is set wins
const LOCALE: [&str; 3] = ["LC_ALL", "LC_CTYPE", "LANG"];

/// The locale of an instance whose daemon has none: every letter is one, and nothing else changes
const DEFAULT_LOCALE: &str = "C.UTF-8";

/// Where the in-server plugin finds the controller
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControllerApi {
    /// The host that the daemon itself reaches
    pub host: String,
    /// The port of the REST API
    pub port: u16,
}

/// Looks for Java: as configured, else in `JAVA_HOME`, else on `PATH`
///
/// # Errors
/// [`PreparationError::NoJava`] says where was looked and what to install.
pub fn find_java(
    configured: Option<&Path>,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<PathBuf, PreparationError> {
    if let Some(path) = configured {
        return if is_executable(path) {
            Ok(path.to_path_buf())
        } else {
            Err(PreparationError::NoJava {
                looked_for: format!("runtime.java is {}, which is not executable", path.display()),
            })
        };
    }
    let home = variable("JAVA_HOME").filter(|home| !home.is_empty());
    let in_home = home.map(|home| Path::new(&home).join("bin/java"));
    let path = variable("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join("java"));
    in_home
        .into_iter()
        .chain(on_path)
        .find(|path| is_executable(path))
        .ok_or_else(|| PreparationError::NoJava {
            looked_for: "neither JAVA_HOME nor PATH has one".into(),
        })
}

fn is_executable(path: &Path) -> bool {
    std::fs::metadata(path)
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// Arguments about class archives: whoever gives one has an archive of his own, or wants none
const ABOUT_ARCHIVES: [&str; 9] = [
    "-Xshare",
    "-XX:SharedArchiveFile",
    "-XX:SharedClassListFile",
    "-XX:ArchiveClassesAtExit",
    "-XX:+AutoCreateSharedArchive",
    "-XX:+RecordDynamicDumpInfo",
    "-XX:AOT",
    "-XX:+DynamicDumpSharedSpaces",
    "-XX:-UseSharedSpaces",
];

/// Whether the JVM may be given a class archive
pub(super) fn takes_archive(order: &Assignment) -> bool {
    let is_about = |argument: &String| ABOUT_ARCHIVES.iter().any(|about| argument.starts_with(about));
    !order.jvm_args.iter().any(is_about)
}

/// The program and its arguments: those of the order, else by its category; the stand-in server always gets its own
///
/// `archive` has classes of the runtime for the JVM.
pub(super) fn command(
    order: &Assignment,
    node_id: &str,
    runtime: &Runtime,
    archive: Option<&Path>,
) -> (PathBuf, Vec<String>) {
    let by_category = || match order.is_proxy {
        true => Vec::new(),
        false => server_arguments(order),
    };
    match runtime {
        Runtime::Java { binary } => {
            let mut arguments = vec![
                format!("-Xmx{}m", order.memory_mb),
                format!("-Xms{}m", order.memory_mb / 2),
                "--add-opens".into(),
                "java.base/java.lang=ALL-UNNAMED".into(),
            ];
            if let Some(archive) = archive.and_then(Path::to_str) {
                // Automatic is the word for going on without an archive that is gone or does not fit.
                arguments.push("-Xshare:auto".into());
                arguments.push(format!("-XX:SharedArchiveFile={archive}"));
            }
            arguments.extend(order.jvm_args.iter().cloned());
            arguments.extend(["-jar".into(), order.jar_file.clone()]);
            arguments.extend(substitution::program_arguments(order, node_id).unwrap_or_else(by_category));
            (binary.clone(), arguments)
        }
        Runtime::Standin { program, arguments } => {
            let mut arguments = arguments.clone();
            arguments.extend(server_arguments(order));
            (program.clone(), arguments)
        }
    }
}

/// What every Minecraft server understands
fn server_arguments(order: &Assignment) -> Vec<String> {
    vec!["--port".into(), order.port.to_string(), "--nogui".into()]
}

/// What makes the server stop by itself: what the order says, else what its family understands
pub(super) fn stop_command(order: &Assignment) -> &str {
    match (order.stop_command.as_str(), order.config_format) {
        ("", ConfigFormat::Bungeecord) => "end",
        ("", _) => "stop",
        (said, _) => said,
    }
}

/// The whole environment: what is inherited, then what the order sets, then what the daemon knows better
pub(super) fn environment(
    order: &Assignment,
    node_id: &str,
    api: Option<&ControllerApi>,
    inherited: impl IntoIterator<Item = (String, String)>,
) -> BTreeMap<String, String> {
    let mut environment: BTreeMap<String, String> = inherited
        .into_iter()
        .filter(|(key, _)| INHERITED.contains(&key.as_str()) || key.starts_with("LC_"))
        .collect();
    if is_ascii_only(&environment) {
        // A JVM without a locale writes `?` for every other letter, into file names too.
        environment.insert("LC_ALL".to_owned(), DEFAULT_LOCALE.to_owned());
    }
    if LOCALE
        .iter()
        .any(|key| order.env.get(*key).is_some_and(|value| !value.is_empty()))
    {
        // It would win over what the order says.
        environment.remove("LC_ALL");
    }
    for (key, value) in &order.env {
        let is_malformed = key.is_empty() || key.contains(['=', '\0']) || value.contains('\0');
        if is_malformed || is_refused_variable(key) {
            tracing::warn!(instance = %order.instance, variable = key, "environment variable refused");
            continue;
        }
        environment.insert(key.clone(), value.clone());
    }
    let mut set = |key: &str, value: String| {
        environment.insert(key.to_owned(), value);
    };
    if !order.plugin_token.is_empty() {
        set("CLOUD_PLUGIN_TOKEN", order.plugin_token.clone());
    }
    if let Some(isolation) = &order.isolation {
        set(
            "CLOUD_CPU_RESERVATION",
            java_double(isolation.cpu_reservation.clamp(0.0, 1.0)),
        );
        set(
            "CLOUD_DISK_RESERVATION_MB",
            isolation.disk_reservation_mb.max(0).to_string(),
        );
    }
    set("CLOUD_INSTANCE_ID", order.instance.to_string());
    set("CLOUD_GROUP", order.group.to_string());
    set("CLOUD_PORT", order.port.to_string());
    set("CLOUD_NODE_ID", node_id.to_owned());
    if let Some(ControllerApi { host, port }) = api {
        set("CLOUD_CONTROLLER_HOST", host.clone());
        set("CLOUD_CONTROLLER_PORT", port.to_string());
        let bracketed = if host.contains(':') {
            format!("[{host}]")
        } else {
            host.clone()
        };
        set("CLOUD_CONTROLLER_URL", format!("http://{bracketed}:{port}"));
    }
    environment
}

/// Whether the locale that counts knows no letter beyond ASCII
fn is_ascii_only(environment: &BTreeMap<String, String>) -> bool {
    LOCALE
        .iter()
        .filter_map(|key| environment.get(*key))
        .find(|value| !value.is_empty())
        .is_none_or(|locale| matches!(locale.as_str(), "C" | "POSIX"))
}

/// A number as Java prints it, for which in-server plugins were written
fn java_double(number: f64) -> String {
    if number == 0.0 || number.is_nan() {
        return "0.0".into();
    }
    if number >= 0.001 {
        return format!("{number:?}");
    }
    let text = format!("{number:E}");
    match text.split_once('E') {
        Some((mantissa, exponent)) if !mantissa.contains('.') => format!("{mantissa}.0E{exponent}"),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use prexorcloud_proto::{RuntimeIsolation, StartInstance};

    use super::*;

    fn order(change: impl FnOnce(&mut StartInstance)) -> Assignment {
        let mut start = StartInstance {
            instance_id: "lobby-1".into(),
            group: "lobby".into(),
            port: 30_000,
            memory_mb: 1025,
            jar_file: "server.jar".into(),
            ..StartInstance::default()
        };
        change(&mut start);
        Assignment::read(&start).unwrap()
    }

    fn arguments(order: &Assignment) -> String {
        let runtime = Runtime::Java {
            binary: "/usr/bin/java".into(),
        };
        command(order, "node-1", &runtime, None).1.join(" ")
    }

    #[test]
    fn the_command_line_is_the_one_of_java_daemons() {
        let server = order(|start| start.jvm_args = vec!["-XX:+UseZGC".into()]);
        assert_eq!(
            arguments(&server),
            "-Xmx1025m -Xms512m --add-opens java.base/java.lang=ALL-UNNAMED -XX:+UseZGC -jar server.jar --port 30000 --nogui"
        );
        let proxy = order(|start| start.category = 2);
        assert!(arguments(&proxy).ends_with("-jar server.jar"));
    }

    #[test]
    fn a_program_gets_the_arguments_of_its_order() {
        let with = |values: &[&str], category: i32| {
            let order = order(|start| {
                start.category = category;
                start.resolved_variables = [
                    ("PORT".to_owned(), "1".to_owned()),
                    ("SECRET".to_owned(), "x".to_owned()),
                ]
                .into();
                start.program_arguments = Some(prexorcloud_proto::ProgramArguments {
                    values: values.iter().map(|value| (*value).to_owned()).collect(),
                });
            });
            let line = arguments(&order);
            line.split_once(" -jar server.jar").unwrap().1.to_owned()
        };
        for category in [1, 2] {
            assert_eq!(with(&[], category), "");
            assert_eq!(
                with(
                    &[
                        "serve",
                        "--listen=0.0.0.0:%PORT%",
                        "%INSTANCE_ID%@%NODE_ID%",
                        "%SECRET%"
                    ],
                    category
                ),
                " serve --listen=0.0.0.0:30000 lobby-1@node-1 %SECRET%"
            );
        }
        let standin = Runtime::Standin {
            program: "/bin/own".into(),
            arguments: vec!["standin".into()],
        };
        let order =
            order(|start| start.program_arguments = Some(prexorcloud_proto::ProgramArguments::default()));
        assert_eq!(
            command(&order, "node-1", &standin, None).1.join(" "),
            "standin --port 30000 --nogui"
        );
    }

    #[test]
    fn what_ends_a_program_is_what_its_order_says() {
        let with = |said: &str, format: ConfigFormat| {
            let order = order(|start| {
                start.stop_command = said.into();
                start.config_format = format.into();
            });
            stop_command(&order).to_owned()
        };
        assert_eq!(with("", ConfigFormat::Paper), "stop");
        assert_eq!(with(" ", ConfigFormat::Bungeecord), "end");
        for format in [ConfigFormat::Paper, ConfigFormat::Bungeecord] {
            assert_eq!(with("shutdown now", format), "shutdown now");
        }
    }

    #[test]
    fn the_environment_is_an_allow_list() {
        let order = order(|start| {
            start.plugin_token = "token".into();
            start.env = [
                ("MODE", "x"),
                ("ld_preload", "/evil.so"),
                ("CLOUD_PORT", "1"),
                ("PATH", "/opt"),
            ]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
        });
        let daemon = [
            ("PATH", "/bin"),
            ("LC_ALL", "C"),
            ("JOIN_TOKEN", "s3cret"),
            ("JAVA_TOOL_OPTIONS", "-X"),
        ];
        let daemon = daemon.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let api = ControllerApi {
            host: "::1".into(),
            port: 8080,
        };
        let environment = environment(&order, "node-1", Some(&api), daemon);
        let expected = [
            ("CLOUD_CONTROLLER_HOST", "::1"),
            ("CLOUD_CONTROLLER_PORT", "8080"),
            ("CLOUD_CONTROLLER_URL", "http://[::1]:8080"),
            ("CLOUD_GROUP", "lobby"),
            ("CLOUD_INSTANCE_ID", "lobby-1"),
            ("CLOUD_NODE_ID", "node-1"),
            ("CLOUD_PLUGIN_TOKEN", "token"),
            ("CLOUD_PORT", "30000"),
            ("LC_ALL", "C.UTF-8"),
            ("MODE", "x"),
            ("PATH", "/opt"),
        ];
        let expected = expected.map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(environment, expected.into());
    }

    #[test]
    fn every_letter_is_one_unless_somebody_says_otherwise() {
        let locale = |own: &[(&str, &str)], inherited: &[(&str, &str)]| {
            let pairs = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
                let owned = pairs
                    .iter()
                    .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
                owned.collect()
            };
            let order = order(|start| start.env = pairs(own).into_iter().collect());
            let environment = environment(&order, "n", None, pairs(inherited));
            LOCALE.map(|key| environment.get(key).cloned().unwrap_or_default())
        };
        let default = ["C.UTF-8", "", ""];
        assert_eq!(locale(&[], &[]), default);
        assert_eq!(locale(&[], &[("LC_ALL", "POSIX")]), default);
        assert_eq!(
            locale(&[], &[("LC_ALL", ""), ("LC_CTYPE", "C")]),
            ["C.UTF-8", "C", ""]
        );
        assert_eq!(locale(&[], &[("LANG", "C")]), ["C.UTF-8", "", "C"]);
        assert_eq!(locale(&[], &[("LANG", "de_DE.UTF-8")]), ["", "", "de_DE.UTF-8"]);
        assert_eq!(
            locale(&[], &[("LANG", "C"), ("LC_CTYPE", "en_US.UTF-8")]),
            ["", "en_US.UTF-8", "C"]
        );
        assert_eq!(locale(&[("LC_ALL", "C")], &[]), ["C", "", ""]);
        assert_eq!(locale(&[("LANG", "C")], &[]), ["", "", "C"]);
        assert_eq!(
            locale(&[("LANG", "fr_FR.UTF-8")], &[("LC_ALL", "C")]),
            ["", "", "fr_FR.UTF-8"]
        );
        assert_eq!(locale(&[("LANG", "")], &[]), ["C.UTF-8", "", ""]);
    }

    #[test]
    fn a_jvm_of_a_bare_daemon_writes_letters() {
        let java = find_java(None, |key| std::env::var(key).ok()).unwrap();
        let order = order(|_| {});
        let ran = std::process::Command::new(java)
            .args(["-XshowSettings:properties", "-version"])
            .env_clear()
            .envs(environment(&order, "n", None, []))
            .output()
            .unwrap();
        let said = String::from_utf8(ran.stderr).unwrap();
        let names = said
            .lines()
            .find(|line| line.contains("sun.jnu.encoding"))
            .unwrap();
        assert!(names.ends_with("= UTF-8"), "{said}");
    }

    #[test]
    fn reservations_are_printed_as_java_does() {
        for (number, text) in [
            (0.25, "0.25"),
            (0.0, "0.0"),
            (1.0, "1.0"),
            (0.0001, "1.0E-4"),
            (0.00015, "1.5E-4"),
        ] {
            assert_eq!(java_double(number), text);
        }
        let order = order(|start| {
            start.isolation = Some(RuntimeIsolation {
                cpu_reservation: 7.0,
                disk_reservation_mb: -1,
            });
        });
        let environment = environment(&order, "n", None, []);
        assert_eq!(environment.get("CLOUD_CPU_RESERVATION").unwrap(), "1.0");
        assert_eq!(environment.get("CLOUD_DISK_RESERVATION_MB").unwrap(), "0");
    }

    #[test]
    fn java_is_looked_for_in_order_and_its_absence_names_the_package() {
        let folder = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let path = folder.path().join(name).join("bin/java");
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, "").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            path
        };
        let (home, path) = (make("home"), make("path"));
        let root = folder.path().to_str().unwrap().to_owned();
        let both = |key: &str| match key {
            "JAVA_HOME" => Some(format!("{root}/home")),
            "PATH" => Some(format!("relative:{root}/empty:{root}/path/bin")),
            _ => None,
        };
        assert_eq!(find_java(None, both).unwrap(), home);
        assert_eq!(
            find_java(None, |key| both(key).filter(|_| key == "PATH")).unwrap(),
            path
        );
        assert_eq!(find_java(Some(&path), both).unwrap(), path);
        let error = find_java(None, |_| None).unwrap_err();
        assert!(error.to_string().contains("openjdk-17-jre-headless"), "{error}");
        let error = find_java(Some(Path::new("/no/java")), both).unwrap_err();
        assert!(error.to_string().contains("/no/java"), "{error}");
    }
}
