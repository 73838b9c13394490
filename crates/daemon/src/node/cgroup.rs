//! What the control groups of this process leave of the machine
//!
//! A limit holds for everything below the group that has it, so the tightest one on the whole way up counts. Both versions
//! are read, also beside each other. What cannot be read limits nothing.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// Larger files are none of the kernel's
const MAX_FILE: u64 = 1024 * 1024;

/// More levels are no hierarchy
const MAX_LEVELS: usize = 64;

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// The folders of this process's groups and of those above them
#[derive(Clone, Debug, Default)]
pub(super) struct ControlGroups {
    memory: Vec<(Version, PathBuf)>,
    cpu: Vec<(Version, PathBuf)>,
}

impl ControlGroups {
    /// Finds them below `root`, which is `/` but in tests
    pub(super) fn find(root: &Path) -> Self {
        let read = |name: &str| text(&root.join(name)).unwrap_or_default();
        let (memberships, mounts) = (read("proc/self/cgroup"), read("proc/self/mountinfo"));
        let mounts: Vec<Mount> = mounts.lines().filter_map(Mount::read).collect();
        let mut groups = Self::default();
        for line in memberships.lines() {
            let mut fields = line.splitn(3, ':');
            let (_, Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
                continue;
            };
            let has = |controller: &str| controllers.split(',').any(|name| name == controller);
            for mount in &mounts {
                let folders = |version| {
                    let levels = mount.levels(path);
                    levels.map(move |level| (version, root.join(level.strip_prefix("/").unwrap_or(&level))))
                };
                match mount.version {
                    Version::Two if controllers.is_empty() => {
                        groups.memory.extend(folders(Version::Two));
                        groups.cpu.extend(folders(Version::Two));
                    }
                    Version::One if has("memory") && mount.has("memory") => {
                        groups.memory.extend(folders(Version::One));
                    }
                    Version::One if has("cpu") && mount.has("cpu") => {
                        groups.cpu.extend(folders(Version::One))
                    }
                    _ => {}
                }
            }
        }
        groups
    }

    /// Bytes of memory that may be used, if anything limits them
    pub(super) fn memory(&self) -> Option<u64> {
        self.memory
            .iter()
            .filter_map(|(version, folder)| memory_limit(*version, folder))
            .min()
    }

    /// Bytes of memory that are left, if anything limits them
    pub(super) fn available_memory(&self) -> Option<u64> {
        let left = self.memory.iter().filter_map(|(version, folder)| {
            let limit = memory_limit(*version, folder)?;
            let (current, reclaimable) = match version {
                Version::One => ("memory.usage_in_bytes", "total_inactive_file"),
                Version::Two => ("memory.current", "inactive_file"),
            };
            let used = number(&folder.join(current))?;
            // Cached files give way before anybody runs out of memory.
            let cached = text(&folder.join("memory.stat")).and_then(|stat| {
                let value = |line: &str| {
                    line.strip_prefix(reclaimable)?
                        .strip_prefix(' ')?
                        .parse::<u64>()
                        .ok()
                };
                stat.lines().find_map(value)
            });
            Some(limit.saturating_sub(used.saturating_sub(cached.unwrap_or(0))))
        });
        left.min()
    }

    /// Whole processors whose time may be used, at least one, if anything limits it
    pub(super) fn cpus(&self) -> Option<usize> {
        let quotas = self.cpu.iter().filter_map(|(version, folder)| {
            let (quota, period): (u64, u64) = match version {
                Version::One => (
                    number(&folder.join("cpu.cfs_quota_us"))?,
                    number(&folder.join("cpu.cfs_period_us"))?,
                ),
                Version::Two => {
                    let text = text(&folder.join("cpu.max"))?;
                    let (quota, period) = text.trim().split_once(' ')?;
                    (quota.parse().ok()?, period.parse().ok()?)
                }
            };
            let cpus = quota.checked_div(period)?;
            Some(usize::try_from(cpus).unwrap_or(usize::MAX).max(1))
        });
        quotas.min()
    }
}

/// Above `memory.high` processes are slowed down until they stand still, so it is a limit to whoever plans
fn memory_limit(version: Version, folder: &Path) -> Option<u64> {
    let files: &[&str] = match version {
        Version::One => &["memory.limit_in_bytes"],
        Version::Two => &["memory.max", "memory.high"],
    };
    files.iter().filter_map(|file| number(&folder.join(file))).min()
}

/// Where a hierarchy can be seen
struct Mount {
    version: Version,
    /// The group that is seen at the mount point
    root: PathBuf,
    point: PathBuf,
    options: String,
}

impl Mount {
    /// A line of `mountinfo`: `36 25 0:31 / /sys/fs/cgroup rw - cgroup2 cgroup rw`
    fn read(line: &str) -> Option<Self> {
        let (place, system) = line.split_once(" - ")?;
        let mut system = system.split(' ');
        let version = match system.next()? {
            "cgroup" => Version::One,
            "cgroup2" => Version::Two,
            _ => return None,
        };
        let mut place = place.split(' ').skip(3);
        Some(Self {
            version,
            root: unescaped(place.next()?).into(),
            point: unescaped(place.next()?).into(),
            options: system.nth(1)?.to_owned(),
        })
    }

    fn has(&self, controller: &str) -> bool {
        self.options.split(',').any(|option| option == controller)
    }

    /// The folder of a group, and of each above it that can be seen
    fn levels(&self, group: &str) -> impl Iterator<Item = PathBuf> + use<> {
        // A group outside of what is mounted, as `/..` in a namespace, cannot be seen: its ancestors can.
        let below = Path::new(group).strip_prefix(&self.root).unwrap_or(Path::new(""));
        let below = if group.contains("..") {
            Path::new("")
        } else {
            below
        };
        let point = self.point.clone();
        let levels: Vec<PathBuf> = below
            .ancestors()
            .take(MAX_LEVELS)
            .map(|level| point.join(level))
            .collect();
        levels.into_iter()
    }
}

/// The kernel writes blanks as `\040`
fn unescaped(text: &str) -> String {
    text.replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\134", "\\")
}

fn number(path: &Path) -> Option<u64> {
    text(path)?.trim().parse().ok()
}

fn text(path: &Path) -> Option<String> {
    let mut text = String::new();
    fs::File::open(path)
        .ok()?
        .take(MAX_FILE)
        .read_to_string(&mut text)
        .ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn system(files: &[(&str, &str)]) -> (tempfile::TempDir, ControlGroups) {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let groups = ControlGroups::find(folder.path());
        (folder, groups)
    }

    const TWO: (&str, &str) = (
        "proc/self/mountinfo",
        "29 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n30 23 0:5 / /proc rw - proc proc rw\n",
    );

    #[test]
    fn the_tightest_limit_on_the_way_up_counts() {
        let (_folder, groups) = system(&[
            TWO,
            ("proc/self/cgroup", "0::/system.slice/prexor.service\n"),
            ("sys/fs/cgroup/system.slice/memory.max", "2000\n"),
            ("sys/fs/cgroup/system.slice/memory.current", "1500\n"),
            (
                "sys/fs/cgroup/system.slice/memory.stat",
                "anon 1\ninactive_file 300\n",
            ),
            ("sys/fs/cgroup/system.slice/cpu.max", "250000 100000\n"),
            ("sys/fs/cgroup/system.slice/prexor.service/memory.max", "max\n"),
            ("sys/fs/cgroup/system.slice/prexor.service/memory.high", "5000\n"),
            (
                "sys/fs/cgroup/system.slice/prexor.service/memory.current",
                "100\n",
            ),
            (
                "sys/fs/cgroup/system.slice/prexor.service/cpu.max",
                "max 100000\n",
            ),
        ]);
        assert_eq!(groups.memory(), Some(2000));
        assert_eq!(groups.available_memory(), Some(800));
        assert_eq!(groups.cpus(), Some(2));
    }

    #[test]
    fn version_one_has_a_hierarchy_for_each_controller() {
        let (_folder, groups) = system(&[
            (
                "proc/self/mountinfo",
                "31 23 0:27 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n\
                 32 23 0:28 / /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n",
            ),
            (
                "proc/self/cgroup",
                "4:memory:/docker/abc/inner\n3:cpu,cpuacct:/docker/abc\n1:name=systemd:/\n0::/\n",
            ),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "1000\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "400\n"),
            (
                "sys/fs/cgroup/memory/memory.stat",
                "inactive_file 1\ntotal_inactive_file 100\n",
            ),
            (
                "sys/fs/cgroup/memory/inner/memory.limit_in_bytes",
                "9223372036854771712\n",
            ),
            ("sys/fs/cgroup/cpu,cpuacct/docker/cpu.cfs_quota_us", "50000\n"),
            ("sys/fs/cgroup/cpu,cpuacct/docker/cpu.cfs_period_us", "100000\n"),
            ("sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_quota_us", "-1\n"),
            (
                "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_period_us",
                "100000\n",
            ),
        ]);
        assert_eq!(groups.memory(), Some(1000));
        assert_eq!(groups.available_memory(), Some(700));
        assert_eq!(groups.cpus(), Some(1), "half a processor is still one");
    }

    #[test]
    fn a_namespace_shows_its_own_root() {
        for membership in ["0::/\n", "0::/../../elsewhere\n", "0::/not/mounted/here\n"] {
            let (_folder, groups) = system(&[
                TWO,
                ("proc/self/cgroup", membership),
                ("sys/fs/cgroup/memory.max", "3000\n"),
                ("sys/fs/cgroup/cpu.max", "400000 100000\n"),
            ]);
            assert_eq!(
                (groups.memory(), groups.cpus()),
                (Some(3000), Some(4)),
                "{membership}"
            );
        }
    }

    #[test]
    fn what_makes_no_sense_limits_nothing() {
        let (_folder, groups) = system(&[]);
        assert_eq!(
            (groups.memory(), groups.available_memory(), groups.cpus()),
            (None, None, None)
        );
        let (_folder, groups) = system(&[
            TWO,
            ("proc/self/cgroup", "x\n0::/a\n"),
            ("sys/fs/cgroup/a/memory.max", "much\n"),
            ("sys/fs/cgroup/a/cpu.max", "1 0\n"),
            ("sys/fs/cgroup/cpu.max", "\u{0}\n"),
        ]);
        assert_eq!(
            (groups.memory(), groups.available_memory(), groups.cpus()),
            (None, None, None)
        );
        // Whatever this machine has, it is read without harm.
        let own = ControlGroups::find(Path::new("/"));
        assert!(own.available_memory() <= own.memory());
    }
}
