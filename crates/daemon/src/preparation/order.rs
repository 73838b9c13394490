//! What an order asks for, checked, with the composition plan preferred over the older fields

use std::collections::BTreeMap;
use std::time::Duration;

use prexorcloud_proto::{
    ConfigFormat, ConfigPatch, ExtensionArtifact, InstanceCategory, RuntimeIsolation, StartInstance,
    TemplateRef,
};
use prexorcloud_protocol::{GroupName, Incarnation, InstanceId};

use super::PreparationError;

/// The memory of an instance whose order says 0, in MiB
const DEFAULT_MEMORY_MB: u32 = 512;

/// The longest file name that is taken, as controllers limit it
const MAX_FILE_NAME: usize = 128;

/// The suffix of a jar file name that means the built-in stand-in server
pub const STANDIN_SUFFIX: &str = ".standin";

/// A start order in the daemon's own words
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Assignment {
    pub(super) instance: InstanceId,
    pub(super) group: GroupName,
    pub(super) incarnation: Incarnation,
    pub(super) port: u16,
    pub(super) memory_mb: u32,
    pub(super) jvm_args: Vec<String>,
    /// What stands behind the jar; `None` = by the category
    pub(super) program_arguments: Option<Vec<String>>,
    /// What its console takes as the wish that it ends; empty = by the family of its configuration files
    pub(super) stop_command: String,
    pub(super) env: BTreeMap<String, String>,
    pub(super) plugin_token: String,
    pub(super) grace: Option<Duration>,
    pub(super) max_lifetime: Option<Duration>,
    pub(super) is_static: bool,
    pub(super) is_proxy: bool,
    pub(super) config_format: ConfigFormat,
    pub(super) jar_file: String,
    pub(super) download_url: String,
    pub(super) sha256: String,
    pub(super) platform: String,
    pub(super) platform_version: String,
    pub(super) templates: Vec<TemplateRef>,
    pub(super) protected_paths: Vec<String>,
    pub(super) extensions: Vec<ExtensionArtifact>,
    pub(super) config_patches: Vec<ConfigPatch>,
    pub(super) isolation: Option<RuntimeIsolation>,
    pub(super) variables: BTreeMap<String, String>,
    pub(super) max_players: u32,
    pub(super) plan_hash: String,
}

impl Assignment {
    pub(super) fn read(start: &StartInstance) -> Result<Self, PreparationError> {
        let plan = start.composition_plan.as_ref();
        let runtime = plan.and_then(|plan| plan.runtime.as_ref());
        let category = runtime.map_or(start.category, |runtime| runtime.category);
        let config_format = runtime.map_or(start.config_format, |runtime| runtime.config_format);
        let jar_file = runtime.map_or(&start.jar_file, |runtime| &runtime.jar_file);
        check_file_name("jar_file", jar_file)?;
        let templates = match plan {
            Some(plan) => &plan.templates,
            None => &start.templates,
        };
        let seconds = |value: i32| {
            u64::try_from(value)
                .ok()
                .filter(|seconds| *seconds > 0)
                .map(Duration::from_secs)
        };
        let port = u16::try_from(start.port).unwrap_or(0);
        if port == 0 {
            return Err(invalid("port", format!("is {}, not in 1..=65535", start.port)));
        }
        Ok(Self {
            instance: start
                .instance_id
                .parse()
                .map_err(|error| invalid("instance_id", format!("is unsafe: {error}")))?,
            group: start
                .group
                .parse()
                .map_err(|error| invalid("group", format!("is unsafe: {error}")))?,
            incarnation: Incarnation::new(start.incarnation),
            port,
            memory_mb: match u32::try_from(start.memory_mb) {
                Ok(0) => DEFAULT_MEMORY_MB,
                Ok(memory) => memory,
                Err(_) => return Err(invalid("memory_mb", "is negative".into())),
            },
            jvm_args: start.jvm_args.clone(),
            program_arguments: start.program_arguments.clone().map(|arguments| arguments.values),
            stop_command: start.stop_command.trim().to_owned(),
            env: start.env.clone().into_iter().collect(),
            plugin_token: start.plugin_token.clone(),
            grace: seconds(start.shutdown_grace_seconds),
            max_lifetime: seconds(start.max_lifetime_seconds),
            is_static: start.static_instance,
            is_proxy: category == InstanceCategory::Proxy as i32,
            config_format: ConfigFormat::try_from(config_format).unwrap_or(ConfigFormat::Unspecified),
            jar_file: jar_file.clone(),
            download_url: runtime
                .map_or(&start.download_url, |runtime| &runtime.download_url)
                .trim()
                .to_owned(),
            sha256: runtime
                .map_or("", |runtime| runtime.sha256.trim())
                .to_ascii_lowercase(),
            platform: runtime
                .map_or(&start.platform, |runtime| &runtime.platform)
                .clone(),
            platform_version: runtime
                .map_or(&start.platform_version, |runtime| &runtime.platform_version)
                .clone(),
            templates: templates.clone(),
            // What a dynamic instance has comes with each start.
            protected_paths: match start.static_instance {
                true => start.protected_paths.clone(),
                false => Vec::new(),
            },
            extensions: plan.map(|plan| plan.extensions.clone()).unwrap_or_default(),
            config_patches: plan.map(|plan| plan.config_patches.clone()).unwrap_or_default(),
            isolation: plan.and_then(|plan| plan.isolation).or(start.isolation),
            variables: start.resolved_variables.clone().into_iter().collect(),
            max_players: u32::try_from(start.max_players)
                .ok()
                .filter(|players| *players > 0)
                .unwrap_or(100),
            plan_hash: plan.map(|plan| plan.plan_hash.clone()).unwrap_or_default(),
        })
    }

    pub(super) fn wants_standin(&self) -> bool {
        self.jar_file.ends_with(STANDIN_SUFFIX)
    }
}

pub(super) fn invalid(field: &'static str, problem: String) -> PreparationError {
    PreparationError::InvalidOrder { field, problem }
}

/// A name that stays in its folder, and is no option to the program that gets it
pub(super) fn check_file_name(field: &'static str, name: &str) -> Result<(), PreparationError> {
    let problem = if name.trim().is_empty() {
        "is empty".to_owned()
    } else if name.len() > MAX_FILE_NAME {
        format!("has {} bytes, at most {MAX_FILE_NAME} are allowed", name.len())
    } else if name.contains(['/', '\\']) || name == "." || name == ".." {
        format!("is {name:?}, not a plain file name")
    } else if name.starts_with(['-', '.', '@']) || name.chars().any(char::is_control) {
        format!("is {name:?}, not a safe file name")
    } else {
        return Ok(());
    };
    Err(invalid(field, problem))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use prexorcloud_proto::{CompositionPlan, RuntimeArtifact};

    use super::*;

    fn start() -> StartInstance {
        StartInstance {
            instance_id: "lobby-1".into(),
            group: "lobby".into(),
            port: 30_000,
            jar_file: "old.jar".into(),
            download_url: "/old.jar".into(),
            ..StartInstance::default()
        }
    }

    #[test]
    fn zero_means_the_documented_default() {
        let order = Assignment::read(&start()).unwrap();
        assert_eq!(order.memory_mb, 512);
        assert_eq!((order.grace, order.max_lifetime), (None, None));
        assert_eq!(order.max_players, 100);
    }

    #[test]
    fn the_plan_wins_over_the_older_fields() {
        let mut start = start();
        start.composition_plan = Some(CompositionPlan {
            plan_hash: "p1".into(),
            runtime: Some(RuntimeArtifact {
                jar_file: "new.jar".into(),
                sha256: "AB".into(),
                category: InstanceCategory::Proxy as i32,
                ..RuntimeArtifact::default()
            }),
            ..CompositionPlan::default()
        });
        let order = Assignment::read(&start).unwrap();
        assert_eq!(
            (order.jar_file.as_str(), order.download_url.as_str()),
            ("new.jar", "")
        );
        assert_eq!(order.sha256, "ab");
        assert!(order.is_proxy);
        assert_eq!(order.plan_hash, "p1");
    }

    #[test]
    fn unsafe_fields_are_named() {
        type Change = fn(&mut StartInstance);
        let cases: [(&str, Change); 9] = [
            ("port", |start| start.port = 0),
            ("port", |start| start.port = 65_536),
            ("memory_mb", |start| start.memory_mb = -1),
            ("jar_file", |start| start.jar_file = String::new()),
            ("jar_file", |start| start.jar_file = "../server.jar".into()),
            ("jar_file", |start| start.jar_file = "-version".into()),
            ("jar_file", |start| start.jar_file = "x".repeat(129)),
            ("instance_id", |start| start.instance_id = "../x".into()),
            ("group", |start| start.group = "a,b".into()),
        ];
        for (field, change) in cases {
            let mut start = start();
            change(&mut start);
            let error = Assignment::read(&start).unwrap_err();
            assert!(error.to_string().starts_with(field), "{error}");
            assert_eq!(error.code(), "INVALID_ORDER");
        }
    }
}
