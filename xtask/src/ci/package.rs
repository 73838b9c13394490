//! What would be published: every crate packages, and what everybody depends on builds from its package

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::{Context, Outcome, run};

pub(super) fn step(ci: &Context) -> Result<Outcome> {
    // A laptop may have edits that are not committed; what is packaged is the same.
    let mut all = ci.command(&["package", "--workspace", "--no-verify", "--allow-dirty"]);
    for name in &ci.unpublished {
        all.args(["--exclude", name]);
    }
    if let failed @ Outcome::Failed(_) = run(&mut all)? {
        return Ok(failed);
    }
    // Nothing of an earlier verification may be left: cargo takes a version for what it was when it was first seen, and
    // the version does not change with every change of the code.
    let sources = cargo_home()?.join("registry").join("src");
    let target = tempfile::tempdir().context("cannot make a folder for the verification")?;
    let folder = target.path().to_string_lossy();
    let outcome = ci.cargo(&[
        "package",
        "--package=prexorcloud-proto",
        "--package=prexorcloud-compat",
        "--package=prexorcloud-protocol",
        "--allow-dirty",
        "--target-dir",
        &folder,
    ])?;
    forget_unpacked(&sources)?;
    Ok(outcome)
}

fn cargo_home() -> Result<PathBuf> {
    if let Some(home) = std::env::var_os("CARGO_HOME").filter(|home| !home.is_empty()) {
        return Ok(PathBuf::from(home));
    }
    let home = std::env::var_os("HOME").context("neither CARGO_HOME nor HOME is set")?;
    Ok(Path::new(&home).join(".cargo"))
}

/// Deletes what cargo has unpacked of our crates from the registry that it makes for a verification
///
/// That registry has no host, so its folder begins with a dash; crates that come from a real registry are left alone.
fn forget_unpacked(sources: &Path) -> Result<()> {
    let Ok(registries) = fs::read_dir(sources) else {
        // Nothing has ever been unpacked.
        return Ok(());
    };
    for registry in registries {
        let registry = registry?;
        if !registry.file_name().as_encoded_bytes().starts_with(b"-") {
            continue;
        }
        for unpacked in fs::read_dir(registry.path())? {
            let unpacked = unpacked?;
            if unpacked.file_name().as_encoded_bytes().starts_with(b"prexor") {
                fs::remove_dir_all(unpacked.path())
                    .with_context(|| format!("cannot delete {}", unpacked.path().display()))?;
            }
        }
        // Fails while something else is in it.
        let _ = fs::remove_dir(registry.path());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn only_our_crates_of_a_verification_are_forgotten() {
        let sources = tempfile::tempdir().unwrap();
        let folder = |path: &str| {
            let path = sources.path().join(path);
            fs::create_dir_all(&path).unwrap();
            path
        };
        let ours = folder("-22c3805da5a543b4/prexorcloud-proto-0.1.0");
        let theirs = folder("-22c3805da5a543b4/bytes-1.0.0");
        let published = folder("index.example-1949cf8c6b5b557f/prexorcloud-proto-0.1.0");
        forget_unpacked(sources.path()).unwrap();
        assert!(!ours.exists() && theirs.exists() && published.exists());
        forget_unpacked(&sources.path().join("missing")).unwrap();
    }
}
