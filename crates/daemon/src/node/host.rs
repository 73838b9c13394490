//! What this machine is, and how busy

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use prexorcloud_proto::{HostInfo, NodeStatus};
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, System};
use tokio::process::Command;
use tokio::time::timeout;

use super::cgroup::ControlGroups;

const MIB: u64 = 1024 * 1024;

/// How long `java -version` may take
const JAVA_TIMEOUT: Duration = Duration::from_secs(10);

/// The machine's figures, as far as control groups let this process use it
#[derive(Debug)]
pub(super) struct Host {
    /// Absent if the system does not tell
    system: Option<System>,
    groups: ControlGroups,
    instances_folder: PathBuf,
    /// MiB that instances may use
    total_memory_mb: u64,
}

impl Host {
    pub(super) fn new(instances_folder: PathBuf, max_memory_mb: u64) -> Self {
        Self::within(
            ControlGroups::find(Path::new("/")),
            instances_folder,
            max_memory_mb,
        )
    }

    fn within(groups: ControlGroups, instances_folder: PathBuf, max_memory_mb: u64) -> Self {
        let mut system = System::new()
            .inspect_err(|error| tracing::warn!(%error, "the system's figures are not available"))
            .ok();
        if let Some(system) = &mut system {
            system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
            // Usage is measured between two looks: this is the first.
            system.refresh_cpu_specifics(CpuRefreshKind::everything());
        }
        let limit = groups.memory().unwrap_or(u64::MAX);
        let usable = system.as_ref().map_or(0, System::total_memory).min(limit) / MIB;
        let total_memory_mb = if max_memory_mb == 0 {
            usable * 4 / 5
        } else if max_memory_mb > limit / MIB {
            tracing::warn!(
                "resources.max_memory_mb is {max_memory_mb}, but a control group limits this process to {} MiB, which counts",
                limit / MIB
            );
            limit / MIB
        } else {
            max_memory_mb
        };
        Self {
            system,
            groups,
            instances_folder,
            total_memory_mb,
        }
    }

    /// MiB that instances may use: as configured, or 80 % of what this process may use of the machine
    pub(super) fn total_memory_mb(&self) -> i64 {
        signed(self.total_memory_mb)
    }

    /// Processors that this process may use
    pub(super) fn available_cpus(&self) -> i32 {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        i32::try_from(cpus.min(self.groups.cpus().unwrap_or(cpus))).unwrap_or(i32::MAX)
    }

    /// Adds the current figures; memory is told as what is left of that which instances may use
    pub(super) fn measure(&mut self, status: NodeStatus) -> NodeStatus {
        let (mut cpu, mut used) = (0.0, 0);
        if let Some(system) = &mut self.system {
            system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
            system.refresh_cpu_usage();
            cpu = f64::from(system.global_cpu_usage()) / 100.0;
            let (total, free) = (system.total_memory(), system.available_memory());
            let free = free
                .min(total)
                .min(self.groups.available_memory().unwrap_or(free));
            // What the machine keeps for itself uses up nothing that instances may use.
            used = self.total_memory_mb.saturating_sub(free / MIB);
        }
        let (free_disk, total_disk) = disk(&self.instances_folder);
        NodeStatus {
            cpu_usage: if cpu.is_finite() { cpu.clamp(0.0, 1.0) } else { 0.0 },
            total_memory_mb: signed(self.total_memory_mb),
            used_memory_mb: signed(used),
            free_disk_mb: signed(free_disk / MIB),
            total_disk_mb: signed(total_disk / MIB),
            ..status
        }
    }

    /// What the machine is; `java` is asked for its version if there is one
    pub(super) async fn info(&self, java: Option<&Path>) -> HostInfo {
        let cpu = self.system.as_ref().and_then(|system| system.cpus().first());
        let logical = self.system.as_ref().map_or(0, |system| system.cpus().len());
        let java = match java {
            Some(java) => JavaFacts::of(java).await,
            None => JavaFacts::default(),
        };
        HostInfo {
            os_name: System::name().unwrap_or_else(|_| std::env::consts::OS.to_owned()),
            os_version: System::os_version().unwrap_or_default(),
            arch: java.arch,
            cpu_model: cpu.map(|cpu| cpu.brand().trim().to_owned()).unwrap_or_default(),
            cpu_physical_cores: i32::try_from(System::physical_core_count().unwrap_or(0)).unwrap_or(0),
            cpu_logical_cores: i32::try_from(logical).unwrap_or(i32::MAX),
            cpu_max_freq_hz: signed(cpu.map_or(0, |cpu| cpu.frequency().saturating_mul(1_000_000))),
            java_version: java.version,
            java_vendor: java.vendor,
            java_runtime: java.runtime,
            java_gc: java.gc,
        }
    }
}

/// What a JVM of this host says about itself and the host
///
/// A fleet may have daemons that run on a JVM and tell what it tells them; rules of placement match both by the same names.
#[derive(Debug, PartialEq, Eq)]
struct JavaFacts {
    version: String,
    vendor: String,
    /// The name of the virtual machine
    runtime: String,
    /// The processors' architecture
    arch: String,
    /// The collector that it takes if it is not told which
    gc: String,
}

impl Default for JavaFacts {
    fn default() -> Self {
        Self {
            version: String::new(),
            vendor: String::new(),
            runtime: String::new(),
            arch: java_arch().to_owned(),
            gc: String::new(),
        }
    }
}

/// What a JVM calls the architecture that this program was built for
fn java_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "x86" => "i386",
        "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
        "powerpc64" => "ppc64",
        arch => arch,
    }
}

/// The collectors, by the flags that choose them and the names that they go by
const COLLECTORS: [(&str, &str); 5] = [
    ("UseG1GC", "G1"),
    ("UseZGC", "ZGC"),
    ("UseShenandoahGC", "Shenandoah"),
    ("UseParallelGC", "Parallel"),
    ("UseSerialGC", "Serial"),
];

impl JavaFacts {
    /// What it says when it is asked, which takes a moment
    async fn of(java: &Path) -> Self {
        let output = Command::new(java)
            .args(["-XshowSettings:properties", "-XX:+PrintFlagsFinal", "-version"])
            .env_remove("JAVA_TOOL_OPTIONS")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        match timeout(JAVA_TIMEOUT, output).await {
            Ok(Ok(output)) => Self::read(
                &String::from_utf8_lossy(&output.stderr),
                &String::from_utf8_lossy(&output.stdout),
            ),
            Ok(Err(error)) => {
                tracing::warn!(%error, java = %java.display(), "java does not tell its version");
                Self::default()
            }
            Err(_) => {
                tracing::warn!(java = %java.display(), "java does not tell its version in time");
                Self::default()
            }
        }
    }

    /// From lines like `    java.vendor = Debian`, and like `     bool UseG1GC   = true   {product} {ergonomic}`
    fn read(properties: &str, flags: &str) -> Self {
        let value = |name: &str| {
            let found = properties.lines().find_map(|line| {
                let (key, value) = line.split_once(" = ")?;
                (key.trim() == name).then(|| value.trim().to_owned())
            });
            found.unwrap_or_default()
        };
        let is_set = |flag: &str| {
            flags.lines().any(|line| {
                let mut words = line.split_whitespace().skip(1);
                words.next() == Some(flag) && words.nth(1) == Some("true")
            })
        };
        let gc = COLLECTORS.iter().find(|(flag, _)| is_set(flag));
        Self {
            version: value("java.runtime.version"),
            vendor: value("java.vendor"),
            runtime: value("java.vm.name"),
            arch: Some(value("os.arch"))
                .filter(|arch| !arch.is_empty())
                .unwrap_or_else(|| java_arch().to_owned()),
            gc: gc.map_or("", |(_, name)| name).to_owned(),
        }
    }
}

/// Free and total bytes of the file system that holds `folder`, or the folder above it that exists
fn disk(folder: &Path) -> (u64, u64) {
    for folder in folder.ancestors() {
        let folder = if folder.as_os_str().is_empty() {
            Path::new(".")
        } else {
            folder
        };
        if let Ok(figures) = rustix::fs::statvfs(folder) {
            let block = figures.f_frsize;
            return (
                figures.f_bavail.saturating_mul(block),
                figures.f_blocks.saturating_mul(block),
            );
        }
    }
    (0, 0)
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn figures_are_acceptable_to_every_controller() {
        let mut host = Host::new(PathBuf::from("/does/not/exist/yet"), 0);
        let hosting = NodeStatus {
            instance_count: 2,
            used_ports: vec![30_000, 30_001],
            ..NodeStatus::default()
        };
        let status = host.measure(hosting);
        assert!((0.0..=1.0).contains(&status.cpu_usage));
        assert!(status.total_memory_mb > 0 && status.used_memory_mb <= status.total_memory_mb);
        assert!(status.total_disk_mb >= status.free_disk_mb && status.total_disk_mb > 0);
        assert_eq!(status.instance_count, 2);
        assert!(host.available_cpus() >= 1);
        let mut capped = Host::new(PathBuf::from("/"), 64);
        let status = capped.measure(NodeStatus::default());
        assert_eq!(
            (status.total_memory_mb, status.used_memory_mb),
            (64, 0),
            "there is more than that left"
        );
    }

    #[test]
    fn the_limit_of_a_control_group_is_the_size_of_the_machine() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("proc/self/mountinfo", "1 1 0:1 / /cg rw - cgroup2 none rw\n");
        write("proc/self/cgroup", "0::/a\n");
        write("cg/memory.max", "104857600\n");
        write("cg/memory.current", "41943040\n");
        write("cg/a/cpu.max", "100000 100000\n");
        let host = |max_memory_mb| {
            let groups = ControlGroups::find(folder.path());
            Host::within(groups, PathBuf::from("/"), max_memory_mb)
        };
        let mut host_of_group = host(0);
        assert_eq!(
            (host_of_group.total_memory_mb(), host_of_group.available_cpus()),
            (80, 1)
        );
        let status = host_of_group.measure(NodeStatus::default());
        assert_eq!(
            (status.total_memory_mb, status.used_memory_mb),
            (80, 20),
            "60 are left"
        );
        assert_eq!(host(64).total_memory_mb(), 64);
        assert_eq!(host(4096).total_memory_mb(), 100, "the tightest limit counts");
    }

    #[tokio::test]
    async fn the_machine_and_its_java_are_described() {
        let host = Host::new(PathBuf::from("/"), 0);
        let java = crate::preparation::find_java(None, |key| std::env::var(key).ok()).unwrap();
        let info = host.info(Some(&java)).await;
        assert!(!info.os_name.is_empty() && info.cpu_logical_cores > 0);
        assert!(
            info.java_version
                .starts_with(|first: char| first.is_ascii_digit()),
            "{info:?}"
        );
        assert!(!info.java_vendor.is_empty());
        assert!(info.java_runtime.ends_with(" VM"), "{info:?}");
        assert!(
            COLLECTORS.iter().any(|(_, name)| *name == info.java_gc),
            "{info:?}"
        );
        assert_eq!(info.arch, java_arch());
        let without = host.info(Some(Path::new("/bin/false"))).await;
        assert_eq!(
            (without.java_version.as_str(), without.arch.as_str()),
            ("", java_arch())
        );
    }
}
