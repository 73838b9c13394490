//! Versions of modules and of what they provide

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

/// Bytes of the longest version
const MAX_LEN: usize = 64;

/// `major.minor.patch`, with `-prerelease` if it is one; ordered as semantic versions are
#[derive(Clone, Debug)]
pub struct Version {
    text: String,
    numbers: [u64; 3],
    /// Where the prerelease stands in the text
    prerelease: Option<(usize, usize)>,
}

/// A text that is no version
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a version is written as `1.2.3` or `1.2.3-rc.1`, in at most {MAX_LEN} characters")]
pub struct BadVersion;

impl Version {
    /// Reads a version that may have a `+build` at its end, which counts for nothing
    ///
    /// # Errors
    /// [`BadVersion`].
    pub fn with_build(text: &str) -> Result<Self, BadVersion> {
        if text.len() > MAX_LEN || !text.is_ascii() {
            return Err(BadVersion);
        }
        let (plain, build) = match text.split_once('+') {
            Some((plain, build)) => (plain, Some(build)),
            None => (text, None),
        };
        let is_name = |part: &str| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-'))
        };
        if build.is_some_and(|build| !is_name(build)) {
            return Err(BadVersion);
        }
        let (numbers, prerelease) = match plain.split_once('-') {
            Some((numbers, prerelease)) => (numbers, Some(prerelease)),
            None => (plain, None),
        };
        if prerelease.is_some_and(|prerelease| !is_name(prerelease)) {
            return Err(BadVersion);
        }
        let mut parts = numbers.split('.').map(number);
        let mut next = || parts.next().flatten().ok_or(BadVersion);
        let numbers_read = [next()?, next()?, next()?];
        if parts.next().is_some() {
            return Err(BadVersion);
        }
        Ok(Self {
            text: text.to_owned(),
            numbers: numbers_read,
            prerelease: prerelease.map(|_| (numbers.len() + 1, plain.len())),
        })
    }

    /// As it was written
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Major, minor and patch
    #[must_use]
    pub const fn numbers(&self) -> [u64; 3] {
        self.numbers
    }

    fn prerelease(&self) -> Option<&str> {
        let (begin, end) = self.prerelease?;
        self.text.get(begin..end)
    }
}

pub(super) fn number(part: &str) -> Option<u64> {
    let is_number = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if is_number { part.parse().ok() } else { None }
}

impl FromStr for Version {
    type Err = BadVersion;

    fn from_str(text: &str) -> Result<Self, BadVersion> {
        if text.contains('+') {
            return Err(BadVersion);
        }
        Self::with_build(text)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        let numbers = self.numbers.cmp(&other.numbers);
        numbers.then_with(|| match (self.prerelease(), other.prerelease()) {
            (None, None) => Ordering::Equal,
            (None, Some(_)) => Ordering::Greater,
            (Some(_), None) => Ordering::Less,
            (Some(a), Some(b)) => a.split('.').map(Part::of).cmp(b.split('.').map(Part::of)),
        })
    }
}

/// A part of a prerelease; numbers come before names
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Part<'a> {
    Number(u64),
    Name(&'a str),
}

impl<'a> Part<'a> {
    fn of(part: &'a str) -> Self {
        number(part).map_or(Self::Name(part), Self::Number)
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Version {}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn versions_are_ordered_as_semantic_ones_are() {
        let ordered = [
            "0.9.9",
            "1.0.0-alpha",
            "1.0.0-alpha.1",
            "1.0.0-alpha.beta",
            "1.0.0-beta.2",
            "1.0.0-beta.11",
            "1.0.0-rc.1",
            "1.0.0",
            "1.0.1",
            "1.10.0",
            "2.0.0",
        ];
        for pair in ordered.windows(2) {
            let [a, b] = [pair[0], pair[1]].map(|text| text.parse::<Version>().unwrap());
            assert!(a < b && a != b, "{a} {b}");
        }
        let built = Version::with_build("1.0.0+7").unwrap();
        assert_eq!(built, "1.0.0".parse().unwrap());
        assert_eq!(built.as_str(), "1.0.0+7");
    }

    #[test]
    fn what_is_no_version_is_none() {
        let long = format!("1.0.0-{}", "a".repeat(MAX_LEN));
        for text in [
            "",
            "1",
            "1.0",
            "1.0.0.0",
            "v1.0.0",
            "1.0.x",
            "1.0.0-",
            "1.0.0-ä",
            "1.0.0+1",
            "-1.0.0",
            "1..0",
            "99999999999999999999.0.0",
            "1.0.0-a/b",
            &long,
        ] {
            assert_eq!(text.parse::<Version>().err(), Some(BadVersion), "{text}");
        }
        assert!(Version::with_build("1.0.0+").is_err());
    }
}
