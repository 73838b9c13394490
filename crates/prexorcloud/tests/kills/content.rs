//! The templates, and what an instance that runs must have of them

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use prexorcloud_testkit::Rng;
use sha2::{Digest as _, Sha256};

/// Files of the template that is many
const FILES: usize = 200;

/// Bytes of one file of the template that is large
const PART: usize = 4 << 20;

/// The names of both
pub const NAMES: [&str; 2] = ["world", "plugins"];

/// The template of the group of this name, whose server is static
pub const KEPT: &str = "kept";

/// The SHA-256 of a file, in hexadecimal
pub fn digest(path: &Path) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let (mut file, mut buffer) = (File::open(path)?, vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hexadecimal(hasher)),
            count => hasher.update(&buffer[..count]),
        }
    }
}

fn hexadecimal(hasher: Sha256) -> String {
    use std::fmt::Write as _;
    hasher.finalize().iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// What a template holds: for each path the bytes of a text, in which variables are replaced, or the digest of others
#[derive(Clone, Debug, Default)]
pub struct Content {
    texts: BTreeMap<String, String>,
    digests: BTreeMap<String, String>,
}

impl Content {
    /// Writes bytes that no archive makes smaller, as many as `mebibytes` says
    pub fn large(folder: &Path, mebibytes: u64) -> Self {
        let mut content = Self::default();
        let mut rng = Rng::new(u64::MAX);
        let parts = (mebibytes << 20).div_ceil(PART as u64);
        for part in 0..parts {
            content.add_random(folder, format!("world/region/r.{part}.mca"), &mut rng);
        }
        content
    }

    fn add_random(&mut self, folder: &Path, path: String, rng: &mut Rng) {
        let mut bytes = vec![0; PART];
        for chunk in bytes.chunks_exact_mut(8) {
            chunk.copy_from_slice(&rng.number().to_le_bytes());
        }
        write(folder, &path, &bytes);
        let digest = hexadecimal(Sha256::new_with_prefix(&bytes));
        self.digests.insert(path, digest);
    }

    /// Writes many small files with a variable in each, and a large one, all others than with another seed
    pub fn many(folder: &Path, seed: u64) -> Self {
        let mut content = Self::default();
        for number in 0..FILES {
            let text = format!("# {seed}\nname: {number}\nport: %PORT%\n");
            content
                .texts
                .insert(format!("plugins/p{number}/config.yml"), text);
        }
        let properties = format!("version={seed}\nserver-port=%PORT%\n");
        content.texts.insert("server.properties".to_owned(), properties);
        for (path, text) in &content.texts {
            write(folder, path, text.as_bytes());
        }
        content.add_random(folder, "plugins/large.bin".to_owned(), &mut Rng::new(seed));
        content
    }

    /// Writes what replaces every byte of the version with another seed, and one file that no other version has
    pub fn kept(folder: &Path, seed: u64) -> Self {
        let mut content = Self::default();
        for number in 0..FILES {
            // Merged with the former one, which has the same keys.
            let text = format!("number: {number}\nversion: {seed}\nport: %PORT%\n");
            content.texts.insert(format!("data/{number}.yml"), text);
        }
        let properties = format!("version={seed}\nserver-port=%PORT%\n");
        content.texts.insert("server.properties".to_owned(), properties);
        content
            .texts
            .insert(format!("data/only-{seed}"), format!("{seed}\n"));
        if folder.exists() {
            fs::remove_dir_all(folder).unwrap();
        }
        for (path, text) in &content.texts {
            write(folder, path, text.as_bytes());
        }
        content.add_random(folder, "data/large.bin".to_owned(), &mut Rng::new(seed));
        content
    }

    /// The digests of its files, by their paths in the folder of a server that has this port
    pub fn expected(&self, port: u64) -> BTreeMap<String, String> {
        let mut expected = self.digests.clone();
        for (path, text) in &self.texts {
            let text = text.replace("%PORT%", &port.to_string());
            expected.insert(path.clone(), hexadecimal(Sha256::new_with_prefix(text)));
        }
        expected
    }

    /// What is wrong with the folder of a server that has this port and these templates
    pub fn wrong_in(all: &[&Self], folder: &Path, port: u64) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut expected: BTreeMap<PathBuf, String> = BTreeMap::new();
        for content in all {
            let of_it = content.expected(port).into_iter();
            expected.extend(of_it.map(|(path, digest)| (folder.join(path), digest)));
        }
        for (path, wanted) in &expected {
            match digest(path) {
                Ok(found) if found == *wanted => {}
                Ok(_) => wrong.push(format!("{} has wrong bytes", path.display())),
                Err(error) => wrong.push(format!("{}: {error}", path.display())),
            }
        }
        for path in files(folder) {
            if !expected.contains_key(&path) {
                wrong.push(format!("{} is in no template", path.display()));
            }
        }
        wrong
    }
}

/// The digest of every file below a folder, by its path there
pub fn digests(folder: &Path) -> BTreeMap<String, String> {
    let of = |path: PathBuf| {
        let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
        let digest = digest(&path).unwrap_or_else(|error| error.to_string());
        (name, digest)
    };
    files(folder).into_iter().map(of).collect()
}

fn write(folder: &Path, path: &str, bytes: &[u8]) {
    let path = folder.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// Every file below a folder; what is gone meanwhile is not there
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                Ok(_) => found.push(entry.path()),
                Err(_) => {}
            }
        }
    }
    found
}
