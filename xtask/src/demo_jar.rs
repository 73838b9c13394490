//! The committed jars: the demo server's, compiled from `demo/src`, one that tests take for Paperclip, from `demo/paperclip`, and a
//! module, from `demo/module`
//!
//! Compilers differ in the bytes they make, so a jar carries a digest of its sources and the name of its compiler.
//! [`check`] compares the digest always, and the whole jar when that very compiler is at hand.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use crate::sources::{digest, files_below, relative};

/// A jar, and what it is made of
struct Jar {
    sources: &'static str,
    file: &'static str,
    main_class: &'static str,
    /// Files among the sources that the jar has as they are
    resources: &'static [&'static str],
}

const JARS: [Jar; 3] = [
    Jar {
        sources: "demo/src",
        file: "crates/prexorcloud/assets/demo-server.jar",
        main_class: "me.prexorjustin.prexorcloud.demo.DemoServer",
        resources: &[],
    },
    Jar {
        sources: "demo/paperclip",
        file: "crates/daemon/tests/assets/paperclip.jar",
        main_class: "me.prexorjustin.prexorcloud.demo.Paperclip",
        resources: &[],
    },
    Jar {
        sources: "demo/module",
        file: "crates/prexorcloud/assets/sample-module.jar",
        main_class: "me.prexorjustin.prexorcloud.module.sample.SampleModule",
        resources: &["META-INF/prexor/module.yaml"],
    },
];

/// Compiles the sources and writes the jars
pub fn write(root: &Path) -> Result<()> {
    for jar in &JARS {
        let bytes = build(root, jar, &compiler_version()?)?;
        let path = root.join(jar.file);
        fs::create_dir_all(path.parent().unwrap_or(root))?;
        fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
        println!("wrote {}", jar.file);
    }
    Ok(())
}

/// Fails if the committed jars are not what the sources give
pub fn check(root: &Path) -> Result<()> {
    JARS.iter().try_for_each(|jar| check_one(root, jar))
}

fn check_one(root: &Path, made: &Jar) -> Result<()> {
    let file = made.file;
    let path = root.join(file);
    let jar = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let manifest = manifest_of(&jar).with_context(|| format!("{file} is not a jar of ours"))?;
    let expected = source_digest(root, made)?;
    let recorded = attribute(&manifest, "Source-SHA256").unwrap_or_default();
    ensure!(
        recorded == expected,
        "{file} was made from other sources (digest {recorded}, now {expected}): run `cargo xtask demo-jar`"
    );
    // Without that compiler the digest has to do.
    if let Ok(version) = compiler_version()
        && attribute(&manifest, "Compiler") == Some(version.as_str())
    {
        ensure!(
            build(root, made, &version)? == jar,
            "{file} is not what {version} makes of its sources: run `cargo xtask demo-jar`"
        );
    }
    Ok(())
}

fn compiler_version() -> Result<String> {
    let output = Command::new("javac")
        .arg("-version")
        .output()
        .context("javac is needed (Debian: openjdk-17-jdk-headless)")?;
    ensure!(output.status.success(), "javac -version failed");
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn build(root: &Path, jar: &Jar, compiler: &str) -> Result<Vec<u8>> {
    let classes = tempfile::tempdir()?;
    let mut java = files_below(&root.join(jar.sources))?;
    java.retain(|path| path.extension().is_some_and(|suffix| suffix == "java"));
    let status = Command::new("javac")
        .args([
            "--release",
            "17",
            "-encoding",
            "UTF-8",
            "-Xlint:all",
            "-Werror",
            "-d",
        ])
        .arg(classes.path())
        .args(java)
        .status()
        .context("cannot run javac")?;
    ensure!(status.success(), "javac refused the sources of a jar");
    let mut manifest = String::from("Manifest-Version: 1.0\r\n");
    for (name, value) in [
        ("Main-Class", jar.main_class),
        ("Compiler", compiler),
        ("Source-SHA256", source_digest(root, jar)?.as_str()),
    ] {
        // A manifest line ends after 72 bytes; a continuation starts with a blank.
        let line = format!("{name}: {value}");
        let (head, rest) = line.split_at(line.len().min(70));
        write!(manifest, "{head}\r\n")?;
        if !rest.is_empty() {
            write!(manifest, " {rest}\r\n")?;
        }
    }
    manifest.push_str("\r\n");
    let mut entries = vec![("META-INF/MANIFEST.MF".to_owned(), manifest.into_bytes())];
    for name in jar.resources {
        entries.push(((*name).to_owned(), fs::read(root.join(jar.sources).join(name))?));
    }
    for path in files_below(classes.path())? {
        entries.push((relative(classes.path(), &path)?, fs::read(&path)?));
    }
    archive(&entries)
}

/// One digest over all source files of a jar
fn source_digest(root: &Path, jar: &Jar) -> Result<String> {
    let folder = root.join(jar.sources);
    digest(&folder, &files_below(&folder)?)
}

/// A zip file of stored entries, dated 1980-01-01, so that the same entries give the same bytes
fn archive(entries: &[(String, Vec<u8>)]) -> Result<Vec<u8>> {
    const DATE: u16 = 0x21;
    let mut file = Vec::new();
    let mut directory = Vec::new();
    for (name, content) in entries {
        let offset = u32::try_from(file.len())?;
        let size = u32::try_from(content.len())?;
        let mut header = Vec::new();
        header.extend(10_u16.to_le_bytes()); // version needed
        header.extend(0x0800_u16.to_le_bytes()); // names are UTF-8
        header.extend(0_u16.to_le_bytes()); // stored
        header.extend(0_u16.to_le_bytes()); // midnight
        header.extend(DATE.to_le_bytes());
        header.extend(crc32(content).to_le_bytes());
        header.extend(size.to_le_bytes());
        header.extend(size.to_le_bytes());
        header.extend(u16::try_from(name.len())?.to_le_bytes());
        header.extend(0_u16.to_le_bytes()); // no extra field
        file.extend(b"PK\x03\x04");
        file.extend(&header);
        file.extend(name.as_bytes());
        file.extend(content);
        directory.extend(b"PK\x01\x02");
        directory.extend(10_u16.to_le_bytes()); // made by
        directory.extend(&header);
        directory.extend([0; 10]); // no comment, first disk, no attributes
        directory.extend(offset.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let start = u32::try_from(file.len())?;
    let count = u16::try_from(entries.len())?;
    file.extend(&directory);
    file.extend(b"PK\x05\x06");
    file.extend([0; 4]); // one disk
    file.extend(count.to_le_bytes());
    file.extend(count.to_le_bytes());
    file.extend(u32::try_from(directory.len())?.to_le_bytes());
    file.extend(start.to_le_bytes());
    file.extend(0_u16.to_le_bytes()); // no comment
    Ok(file)
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

/// The manifest of a jar that [`archive`] made: its first entry, stored
fn manifest_of(jar: &[u8]) -> Result<String> {
    let number = |at: usize| -> Result<usize> {
        let bytes = jar.get(at..at + 4).context("the file is too short")?;
        Ok(u32::from_le_bytes(bytes.try_into()?) as usize)
    };
    if jar.get(..4) != Some(b"PK\x03\x04") {
        bail!("it does not start like a zip file");
    }
    let size = number(22)?;
    let name_length = number(26)? & 0xffff;
    let start = 30 + name_length;
    let content = jar.get(start..start + size).context("its first entry is cut")?;
    // A continuation line belongs to the line before it.
    Ok(String::from_utf8_lossy(content).replace("\r\n ", ""))
}

fn attribute<'m>(manifest: &'m str, name: &str) -> Option<&'m str> {
    manifest
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::path::PathBuf;

    use super::*;

    fn root() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .unwrap()
            .to_path_buf()
    }

    #[test]
    fn the_committed_jar_is_current() {
        check(&root()).unwrap();
    }

    #[test]
    fn a_changed_source_is_noticed() {
        let copy = tempfile::tempdir().unwrap();
        for path in files_below(&root().join("demo")).unwrap() {
            let target = copy
                .path()
                .join("demo")
                .join(relative(&root().join("demo"), &path).unwrap());
            fs::create_dir_all(target.parent().unwrap()).unwrap();
            let mut text = fs::read_to_string(&path).unwrap();
            text.push_str("// changed\n");
            fs::write(target, text).unwrap();
        }
        for jar in &JARS {
            let target = copy.path().join(jar.file);
            fs::create_dir_all(target.parent().unwrap()).unwrap();
            fs::copy(root().join(jar.file), target).unwrap();
            let error = check_one(copy.path(), jar).unwrap_err().to_string();
            assert!(error.contains("other sources"), "{error}");
        }
    }

    #[test]
    fn the_checksum_is_the_one_of_zip() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }
}
