//! `NAME=VALUE` on the command line and in files; no value ever appears in a message

use std::io::Read as _;
use std::path::Path;

use serde_json::{Map, Value};

use crate::failure::Failure;
use crate::settings::without_mark;

const LARGEST_FILE: u64 = 256 * 1024;

/// An environment: the lines of a file, and what is given beside it
pub(super) fn environment(file: Option<&Path>, pairs: &[String]) -> Result<Map<String, Value>, Failure> {
    let mut environment = Map::new();
    if let Some(file) = file {
        for (number, line) in read(file)?.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, value) = pair(line, &format!("{} line {}", file.display(), number + 1))?;
            environment.insert(name, value.into());
        }
    }
    for given in pairs {
        let (name, value) = pair(given, "--env")?;
        environment.insert(name, value.into());
    }
    Ok(environment)
}

/// Values of variables: those that are given, and those that files hold
pub(super) fn variables(pairs: &[String], files: &[String]) -> Result<Map<String, Value>, Failure> {
    let mut variables = Map::new();
    for given in pairs {
        let (name, value) = pair(given, "--var")?;
        variables.insert(name, value.into());
    }
    for given in files {
        let (name, file) = pair(given, "--var-file")?;
        let text = read(Path::new(&file))?;
        variables.insert(name, text.trim_end_matches(['\r', '\n']).into());
    }
    Ok(variables)
}

/// Splits `NAME=VALUE`
pub(super) fn pair(pair: &str, place: &str) -> Result<(String, String), Failure> {
    match pair.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(Failure::Usage {
            message: format!("{place}: NAME=VALUE is expected"),
        }),
    }
}

fn read(file: &Path) -> Result<String, Failure> {
    let unusable = |reason: String| Failure::Usage {
        message: format!("cannot read {}: {reason}", file.display()),
    };
    let mut text = String::new();
    std::fs::File::open(file)
        .and_then(|opened| opened.take(LARGEST_FILE + 1).read_to_string(&mut text))
        .map_err(|error| unusable(error.to_string()))?;
    if text.len() as u64 > LARGEST_FILE {
        return Err(unusable("it is larger than 256 KiB".to_owned()));
    }
    Ok(without_mark(&text).to_owned())
}
