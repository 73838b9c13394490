//! Where the jar of a server is: a path on its node, or an address

use std::fmt::Write as _;

/// Whether it can be what a server is started from
///
/// # Errors
/// What it has to be.
pub(crate) fn check_jar(jar: &str) -> Result<(), &'static str> {
    let is_url = jar.starts_with("http://") || jar.starts_with("https://");
    let name = file_name(jar);
    let has_name = !matches!(name, "" | "." | "..") && name.len() <= 255 && has_path(jar);
    if !(is_url || is_path(jar)) || !has_name || jar.chars().any(char::is_control) {
        return Err("jar must be an absolute path on the node, or an http(s) URL of a file");
    }
    Ok(())
}

/// Whether it can be the digest of a jar, or says nothing
///
/// # Errors
/// What it has to be.
pub(crate) fn check_sha256(sha256: &str) -> Result<(), &'static str> {
    let is_digest = sha256.len() == 64 && sha256.bytes().all(|byte| byte.is_ascii_hexdigit());
    if sha256.is_empty() || is_digest {
        return Ok(());
    }
    Err("sha256 must be 64 hexadecimal digits")
}

/// Whether a path or URL names something beyond its host
fn has_path(jar: &str) -> bool {
    if is_path(jar) {
        return true;
    }
    let rest = jar.split_once("://").map_or(jar, |(_, rest)| rest);
    rest.split(['?', '#'])
        .next()
        .is_some_and(|path| path.contains('/'))
}

/// The name of the file that a path or URL ends in, without query and fragment
pub(crate) fn file_name(jar: &str) -> &str {
    let path = if is_path(jar) {
        jar
    } else {
        jar.split(['?', '#']).next().unwrap_or_default()
    };
    path.rsplit('/').next().unwrap_or_default()
}

/// Whether it is a path on the node, in which no character means anything but itself
pub(crate) fn is_path(jar: &str) -> bool {
    jar.starts_with('/')
}

/// The address of a file by its path
pub(super) fn file_url(path: &str) -> String {
    let mut url = String::from("file://");
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte) {
            url.push(char::from(byte));
        } else {
            let _ = write!(url, "%{byte:02X}");
        }
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_stays_a_path() {
        for (path, name, url) in [
            ("/srv/%41/x.jar", "x.jar", "file:///srv/%2541/x.jar"),
            ("/srv/a?b#c d.jar", "a?b#c d.jar", "file:///srv/a%3Fb%23c%20d.jar"),
            ("/srv/ä://x.jar", "x.jar", "file:///srv/%C3%A4%3A//x.jar"),
        ] {
            assert_eq!((file_name(path), file_url(path).as_str()), (name, url));
        }
        assert_eq!(file_name("https://a/x.jar?token=1#y"), "x.jar");
    }
}
