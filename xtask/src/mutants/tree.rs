//! The copy of the sources in which mutants are planted; it is gone when the run is over

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use super::interrupt;
use super::list::Mutant;
use crate::tidy::sources;

/// A copy of what git tracks, or would track, in a temporary folder
pub struct Tree {
    folder: TempDir,
    /// Every file as it was copied.
    originals: BTreeMap<String, Vec<u8>>,
}

impl Tree {
    /// Copies the tree at `root` as it stands, uncommitted edits included.
    ///
    /// # Errors
    /// If a file cannot be read or written.
    pub fn copy(root: &Path) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("mutants-").tempdir()?;
        interrupt::remove_when_interrupted(folder.path());
        let mut originals = BTreeMap::new();
        for name in sources::names(root)? {
            let (from, to) = (root.join(&name), folder.path().join(&name));
            if !from.is_file() {
                continue;
            }
            if let Some(parent) = to.parent() {
                fs::create_dir_all(parent)?;
            }
            // Keeps the permissions, which scripts need.
            fs::copy(&from, &to).with_context(|| format!("cannot copy {name}"))?;
            originals.insert(name, fs::read(&to)?);
        }
        Ok(Self { folder, originals })
    }

    /// Where the copy is.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Puts a mutant in its place.
    ///
    /// # Errors
    /// If its text does not stand there exactly once, or the file cannot be written.
    pub fn plant(&self, mutant: &Mutant) -> Result<()> {
        let file = &mutant.file;
        let original = self
            .originals
            .get(file)
            .with_context(|| format!("{file} is not in the copy"))?;
        let text = std::str::from_utf8(original).with_context(|| format!("{file} is no text"))?;
        let Some((before, after)) = text.split_once(&mutant.find) else {
            bail!("what it replaces does not stand in {file}");
        };
        let planted = [before, &mutant.replace, after].concat();
        fs::write(self.path().join(file), planted).with_context(|| format!("cannot write {file}"))
    }

    /// Makes the copy what it was: the mutant goes, and so do files that tests have left, or else a failure that a
    /// property test has recorded would be replayed against the next mutant.
    ///
    /// # Errors
    /// If a file cannot be read, removed or written.
    pub fn restore(&self) -> Result<()> {
        for name in sources::below(self.path())? {
            if !self.originals.contains_key(&name) {
                fs::remove_file(self.path().join(&name)).with_context(|| format!("cannot remove {name}"))?;
            }
        }
        for (name, original) in &self.originals {
            let path = self.path().join(name);
            // What is unchanged keeps its time, so that Cargo does not build it again.
            if fs::read(&path).ok().as_ref() != Some(original) {
                if let Some(parent) = path.parent() {
                    fs::create_dir_all(parent)?;
                }
                fs::write(&path, original).with_context(|| format!("cannot restore {name}"))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutants::list::parse;

    #[test]
    fn a_mutant_is_planted_in_the_copy_only_and_everything_is_put_back() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("src")).unwrap();
        fs::write(root.path().join("src/lib.rs"), "a\nb\n").unwrap();
        fs::write(root.path().join("seeds.txt"), "1\n").unwrap();
        let tree = Tree::copy(root.path()).unwrap();
        let mutants = parse(
            "[[mutant]]\nname = 'c-for-b'\nfile = 'src/lib.rs'\nfind = 'b'\nreplace = 'c'\ntests = ['lib']\n",
        )
        .unwrap();
        tree.plant(&mutants[0]).unwrap();
        let copy = |name: &str| fs::read_to_string(tree.path().join(name)).ok();
        assert_eq!(copy("src/lib.rs").as_deref(), Some("a\nc\n"));
        assert_eq!(
            fs::read_to_string(root.path().join("src/lib.rs")).unwrap(),
            "a\nb\n"
        );

        fs::write(tree.path().join("src/left.txt"), "x").unwrap();
        fs::write(tree.path().join("seeds.txt"), "1\n2\n").unwrap();
        tree.restore().unwrap();
        assert_eq!(copy("src/lib.rs").as_deref(), Some("a\nb\n"));
        assert_eq!(copy("seeds.txt").as_deref(), Some("1\n"));
        assert_eq!(copy("src/left.txt"), None);

        let folder = tree.path().to_owned();
        drop(tree);
        assert!(!folder.exists());
    }
}
