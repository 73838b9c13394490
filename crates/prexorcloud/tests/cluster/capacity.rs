//! What a daemon says that its machine has

use std::fs;
use std::path::{Path, PathBuf};

use crate::rig::{Rig, eventually};

const MIB: u64 = 1024 * 1024;

/// A control group with a limit of memory, and one without inside it; both go with this
struct Limited(PathBuf);

impl Limited {
    /// `None` where this user may not make one, or memory is not limited by groups
    fn new(bytes: u64) -> Option<Self> {
        let name = format!("prexorcloud-test-{}", std::process::id());
        [
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            ("/sys/fs/cgroup", "memory.max"),
        ]
        .into_iter()
        .find_map(|(hierarchy, limit)| {
            let group = Self(Path::new(hierarchy).join(&name));
            fs::create_dir(&group.0).ok()?;
            // Nothing is created in a hierarchy: the file is there or it is not.
            let mut file = fs::OpenOptions::new()
                .write(true)
                .open(group.0.join(limit))
                .ok()?;
            std::io::Write::write_all(&mut file, bytes.to_string().as_bytes()).ok()?;
            fs::create_dir(group.inner()).ok()?;
            Some(group)
        })
    }

    fn inner(&self) -> PathBuf {
        self.0.join("inner")
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        for folder in [self.inner(), self.0.clone()] {
            if folder.exists() {
                eventually("the end of a control group", || fs::remove_dir(&folder).ok());
            }
        }
    }
}

#[test]
fn the_limit_of_a_group_far_above_is_what_a_node_has() {
    let Some(group) = Limited::new(500 * MIB) else {
        eprintln!("not tried: no control group with a limit of memory can be made here");
        return;
    };
    let mut rig = Rig::with_controller();
    let token = rig.token(&["--node", "node-1"]);
    rig.configure_daemon(&token);
    rig.start_daemon_within(&group.inner());
    rig.await_node("ONLINE");
    assert_eq!(rig.node("node-1")["totalMemoryMb"], 400);
    drop(rig);
}
