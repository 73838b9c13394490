//! What the daemon remembers of controllers between its starts

use std::io;
use std::path::{Path, PathBuf};

use prexorcloud_protocol::Epoch;
use prexorcloud_transport::Target;
use serde::{Deserialize, Serialize};

use crate::control::{read_record, write_record};

/// The most learned controllers that are believed when they are read back
const MAX_CONTROLLERS: usize = 64;

#[derive(Debug, Default, Serialize, Deserialize)]
struct Stored {
    #[serde(default)]
    highest_epoch: u64,
    #[serde(default)]
    controllers: Vec<String>,
}

/// The highest epoch that was obeyed, and the controllers that were announced
#[derive(Debug)]
pub(super) struct Memory {
    path: PathBuf,
    stored: Stored,
}

impl Memory {
    /// Reads what there is; a file that cannot be understood is an error, because forgetting the epoch would mean to obey
    /// a deposed controller
    pub(super) fn open(data_dir: &Path) -> io::Result<Self> {
        let path = data_dir.join("controllers.json");
        let stored = read_record(&path)?.unwrap_or_default();
        Ok(Self { path, stored })
    }

    pub(super) fn highest_epoch(&self) -> Epoch {
        Epoch::new(self.stored.highest_epoch)
    }

    pub(super) fn controllers(&self) -> impl Iterator<Item = Target> + '_ {
        self.stored
            .controllers
            .iter()
            .take(MAX_CONTROLLERS)
            .filter_map(|text| text.parse().ok())
    }

    pub(super) fn raise_epoch(&mut self, epoch: Epoch) -> io::Result<()> {
        self.stored.highest_epoch = self.stored.highest_epoch.max(epoch.get());
        write_record(&self.path, &self.stored)
    }

    pub(super) fn learn(&mut self, controllers: &[Target]) -> io::Result<()> {
        self.stored.controllers = controllers.iter().map(Target::to_string).collect();
        write_record(&self.path, &self.stored)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn epoch_and_controllers_survive_and_the_epoch_never_falls() {
        let folder = tempfile::tempdir().unwrap();
        let mut memory = Memory::open(folder.path()).unwrap();
        memory.raise_epoch(Epoch::new(7)).unwrap();
        memory.raise_epoch(Epoch::new(5)).unwrap();
        memory.learn(&["ctrl-2:9090".parse().unwrap()]).unwrap();
        let memory = Memory::open(folder.path()).unwrap();
        assert_eq!(memory.highest_epoch(), Epoch::new(7));
        let controllers: Vec<String> = memory.controllers().map(|target| target.to_string()).collect();
        assert_eq!(controllers, ["ctrl-2:9090"]);
        std::fs::write(folder.path().join("controllers.json"), "{").unwrap();
        assert!(Memory::open(folder.path()).is_err());
    }
}
