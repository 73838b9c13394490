//! What a start consists of

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use prexorcloud_proto::{CompositionPlan, InstanceCategory, RuntimeArtifact, StartInstance};
use prexorcloud_protocol::{instance::State, peer::DaemonPeer, readiness::Rule, validate};
use sha2::{Digest as _, Sha256};

use super::{
    OrderError, StartOrder, commits,
    jar::{file_name, file_url, is_path},
    task::Node,
};
use crate::{inventory::Outline, records::InstanceRecord, workloads::Workloads};

impl Node {
    /// The start of an instance under the next incarnation of its id
    pub(super) async fn prepare_start(
        &mut self,
        order: &StartOrder,
    ) -> Result<Box<StartInstance>, OrderError> {
        let context = Arc::clone(&self.context);
        let counted = commits::last_incarnation(&*context.store, order.instance);
        // What is looked at below may change until then.
        let counted = self.meanwhile(counted).await;
        let recorded = context
            .inventory
            .page(Some(self.id), None, usize::MAX, Outline::is_live);
        let recorded = self.meanwhile(recorded).await;
        self.require_schedulable()?;
        self.require_suitable(order)?;
        self.require_memory(order, &recorded?.0)?;
        let port = self.choose_port(order)?;
        let (last, _) = counted?;
        let mut start = self.start_instance(order, port, last + 1);
        start.plugin_token = Workloads::mint().map_err(|error| OrderError::Invalid(error.to_string()))?;
        validate::start_instance(&start).map_err(|error| OrderError::Invalid(error.to_string()))?;
        Ok(Box::new(start))
    }

    fn require_schedulable(&self) -> Result<(), OrderError> {
        if !self.is_connected() {
            return Err(OrderError::NotConnected);
        }
        let unreachable =
            self.with_view(|view| view.session.as_ref().is_some_and(|session| session.unreachable));
        let record = self.record.as_ref().map(|stored| &stored.record);
        if unreachable {
            Err(OrderError::NotSchedulable("unreachable"))
        } else if record.is_some_and(|record| record.drain.is_some()) {
            Err(OrderError::NotSchedulable("draining"))
        } else if record.is_some_and(|record| record.cordoned) {
            Err(OrderError::NotSchedulable("cordoned"))
        } else {
            Ok(())
        }
    }

    /// A daemon that announces nothing downloads from http(s) addresses and nowhere else, and has the command lines of the
    /// platforms it knows and no others
    fn require_suitable(&self, order: &StartOrder) -> Result<(), OrderError> {
        let is_taken = |takes: fn(DaemonPeer) -> bool| self.machine.peer().is_none_or(takes);
        let problem = if is_path(&order.jar) && !is_taken(DaemonPeer::takes_local_files) {
            format!(
                "takes jars from http(s) addresses only: put {} on a web server, or start it on a node whose daemon takes paths",
                order.jar
            )
        } else if (order.program_arguments.is_some() || !order.stop_command.is_empty())
            && !is_taken(DaemonPeer::takes_command_lines)
        {
            "would pass over arguments and stopCommand: leave them out, or start it on a node whose daemon takes them"
                .to_owned()
        } else {
            return Ok(());
        };
        Err(OrderError::Unsuitable(format!(
            "the daemon of {} {problem}",
            self.id
        )))
    }

    /// No more memory is promised than there is. Whoever names the node may do so all the same.
    fn require_memory(&self, order: &StartOrder, recorded: &[Arc<Outline>]) -> Result<(), OrderError> {
        let total = self.with_view(|view| view.total_memory_mb());
        if order.is_hand_placed || total <= 0 {
            return Ok(());
        }
        let mut booked: HashMap<&str, i32> = self
            .machine
            .unrecorded_starts()
            .map(|start| (start.instance_id.as_str(), start.memory_mb))
            .collect();
        booked.extend(recorded.iter().map(|one| (one.instance.as_str(), one.memory_mb)));
        let left = total - booked.values().map(|mb| i64::from(*mb)).sum::<i64>();
        if left >= i64::from(order.memory_mb) {
            return Ok(());
        }
        Err(OrderError::NoCapacity(format!(
            "{} of {} MiB are left on {}. Stop something, ask for less, or add a node",
            left.max(0),
            order.memory_mb,
            self.id
        )))
    }

    /// Instances and reported ports are both looked at: a port is never booked twice, even right after a reconnect
    fn choose_port(&self, order: &StartOrder) -> Result<u16, OrderError> {
        let booked: HashSet<u16> = self.machine.ports().collect();
        if let Some(port) = order.port {
            return if booked.contains(&port) {
                Err(OrderError::Conflict(format!(
                    "port {port} is in use on {}",
                    self.id
                )))
            } else {
                Ok(port)
            };
        }
        let reported: HashSet<i32> = self.with_view(|view| {
            view.load
                .as_ref()
                .map(|load| load.used_ports.iter().copied().collect())
                .unwrap_or_default()
        });
        let doubtful: HashSet<u16> = self.machine.roster().doubtful_ports().collect();
        let configured = &self.context.config.instances.port_range;
        let range = order.group_says.ports.as_ref().unwrap_or(configured).clone();
        let is_free = |port: &u16| !booked.contains(port) && !reported.contains(&i32::from(*port));
        range
            .clone()
            .find(|port| is_free(port) && !doubtful.contains(port))
            // Better one that may turn out to be in use than none.
            .or_else(|| range.clone().find(is_free))
            .ok_or(OrderError::NoFreePort {
                first: *range.start(),
                last: *range.end(),
            })
    }

    fn start_instance(&self, order: &StartOrder, port: u16, incarnation: u64) -> StartInstance {
        let defaults = &self.context.config.instances;
        let group = &order.group_says;
        let category = match group.is_proxy {
            true => InstanceCategory::Proxy,
            false => InstanceCategory::Server,
        };
        let jar_file = match group.jar_file.as_str() {
            "" => file_name(&order.jar).to_owned(),
            named => named.to_owned(),
        };
        let download_url = if is_path(&order.jar) {
            file_url(&order.jar)
        } else {
            order.jar.clone()
        };
        let mut env = order.env.clone();
        if let Some(seeds) = seeds(&self.context.grpc_addresses, self.context.http_port) {
            env.entry(SEEDS.to_owned()).or_insert(seeds);
        }
        let mut start = StartInstance {
            instance_id: order.instance.to_string(),
            group: order.group.to_string(),
            port: i32::from(port),
            memory_mb: order.memory_mb,
            jvm_args: order.jvm_args.clone(),
            program_arguments: order.program_arguments.clone(),
            stop_command: order.stop_command.clone(),
            env,
            jar_file,
            download_url,
            startup_timeout_seconds: seconds(order.startup_timeout.unwrap_or(defaults.startup_timeout)),
            shutdown_grace_seconds: seconds(order.shutdown_grace.unwrap_or(defaults.shutdown_grace)),
            max_lifetime_seconds: order.max_lifetime.map_or(0, seconds),
            category: category.into(),
            platform: group.platform.clone(),
            platform_version: group.platform_version.clone(),
            config_format: group.config_format.into(),
            static_instance: group.is_static,
            protected_paths: group.protected_paths.clone(),
            max_players: group.max_players,
            isolation: group.isolation,
            incarnation,
            readiness: order.readiness.clone(),
            deployment_revision: i32::try_from(order.deployment_revision).unwrap_or(i32::MAX),
            resolved_variables: order.variables.clone().into_iter().collect(),
            ..StartInstance::default()
        };
        let mut runtime = RuntimeArtifact {
            jar_file: start.jar_file.clone(),
            download_url: start.download_url.clone(),
            sha256: order.sha256.clone(),
            category: category.into(),
            config_format: group.config_format.into(),
            platform: group.platform.clone(),
            platform_version: group.platform_version.clone(),
        };
        if self.machine.peer().is_some_and(|peer| !peer.takes_local_files()) {
            // Only on the path that these two select, it looks at the status of an answer and follows redirects.
            if runtime.platform.is_empty() {
                runtime.platform = match Rule::of(&start) {
                    Rule::Platform(platform) => platform.as_str().to_owned(),
                    _ => "server".to_owned(),
                };
            }
            runtime.platform_version = pinned_version(&group.platform_version, &order.sha256);
        }
        let plan_hash = plan_hash(&start, order);
        start.composition_plan = Some(CompositionPlan {
            plan_hash,
            runtime: Some(runtime),
            templates: order.templates.clone(),
            config_patches: group.config_patches.clone(),
            isolation: group.isolation,
            ..CompositionPlan::default()
        });
        start
    }
}

/// Whether it can be typed into a console to end a server, or says nothing
///
/// # Errors
/// What it has to be.
pub(crate) fn check_stop_command(line: &str) -> Result<(), &'static str> {
    if line.is_empty() || validate::command(line).is_ok() {
        return Ok(());
    }
    Err("stopCommand must be one line of at most 1000 characters, and not blank")
}

/// What a plugin reads the addresses of the controllers from, besides the one that its daemon names
const SEEDS: &str = "CLOUD_CONTROLLER_SEEDS";

/// The REST addresses of the controllers, as the plugin inside a server takes them; `None` if there are none to be told
fn seeds(grpc_addresses: &[String], http_port: u16) -> Option<String> {
    let hosts = grpc_addresses
        .iter()
        .filter_map(|address| address.rsplit_once(':'));
    let seeds: Vec<String> = hosts
        .map(|(host, _)| format!("http://{host}:{http_port}"))
        .collect();
    (http_port != 0 && !seeds.is_empty()).then(|| seeds.join(","))
}

/// A daemon that announces nothing compares what it has in its cache by platform, version and address, and not by content:
/// another content is another version
pub(crate) fn pinned_version(version: &str, sha256: &str) -> String {
    match (version, sha256.get(..16)) {
        ("", Some(pin)) => pin.to_owned(),
        ("", None) => "unpinned".to_owned(),
        (version, Some(pin)) => format!("{version}-{pin}"),
        (version, None) => version.to_owned(),
    }
}

/// Whether an instance has not ended, as far as its record tells
pub(crate) fn is_live(record: &InstanceRecord) -> bool {
    !State::try_from(record.state).is_ok_and(State::is_terminal)
}

fn seconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_secs()).unwrap_or(i32::MAX)
}

/// Equal for starts that would prepare the same files; daemons echo it and do not look into it
fn plan_hash(start: &StartInstance, order: &StartOrder) -> String {
    let mut digest = Sha256::new();
    let fixed = [
        &start.instance_id,
        &start.group,
        &start.jar_file,
        &start.download_url,
        &order.sha256,
    ];
    let versions = order.templates.iter();
    let versions = versions.flat_map(|template| [&template.name, &template.hash]);
    let patches = order.group_says.config_patches.iter();
    let patches = patches.flat_map(|patch| [&patch.file, &patch.key, &patch.value]);
    for part in fixed.into_iter().chain(versions).chain(patches) {
        digest.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        digest.update(part.as_bytes());
    }
    digest
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_the_rest_addresses_of_the_controllers() {
        let addresses = ["a.example:9090".to_owned(), "[::1]:9090".to_owned()];
        assert_eq!(
            seeds(&addresses, 8080).as_deref(),
            Some("http://a.example:8080,http://[::1]:8080")
        );
        assert_eq!(seeds(&addresses, 0), None, "there is no HTTP");
        assert_eq!(seeds(&[], 8080), None);
    }
}
