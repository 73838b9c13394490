//! Ranges of versions, as manifests write them

use std::fmt;
use std::str::FromStr;

use super::version::{Version, number};

/// Bytes of the longest range
const MAX_LEN: usize = 128;

/// Which versions do
///
/// `*`; comparisons that all hold, such as `>=1.0.0 <2.0.0`; `^1.2` and `~1.2`; one version, which then is the only one; or an interval,
/// such as `[1.21,1.22)`. Numbers that are left out are 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    text: String,
    bounds: Vec<(Comparison, Version)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Below,
    AtMost,
    Is,
    AtLeast,
    Above,
}

/// A text that is no range
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a range of versions is written as `>=1.0.0 <2.0.0`, `^1.2`, `~1.2`, `[1.0,2.0)` or `*`")]
pub struct BadRange;

impl Range {
    /// Whether this version does
    #[must_use]
    pub fn contains(&self, version: &Version) -> bool {
        self.bounds.iter().all(|(comparison, bound)| match comparison {
            Comparison::Below => version < bound,
            Comparison::AtMost => version <= bound,
            Comparison::Is => version == bound,
            Comparison::AtLeast => version >= bound,
            Comparison::Above => version > bound,
        })
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Range {
    type Err = BadRange;

    fn from_str(text: &str) -> Result<Self, BadRange> {
        if text.len() > MAX_LEN {
            return Err(BadRange);
        }
        let trimmed = text.trim();
        let bounds = if trimmed == "*" {
            Vec::new()
        } else if trimmed.starts_with(['[', '(']) {
            interval(trimmed)?
        } else {
            let mut bounds = Vec::new();
            for part in trimmed.split_ascii_whitespace() {
                bounds.extend(compared(part)?);
            }
            if bounds.is_empty() {
                return Err(BadRange);
            }
            bounds
        };
        Ok(Self {
            text: text.to_owned(),
            bounds,
        })
    }
}

fn interval(text: &str) -> Result<Vec<(Comparison, Version)>, BadRange> {
    let inner = text.get(1..text.len().saturating_sub(1)).ok_or(BadRange)?;
    let lower = if text.starts_with('[') {
        Comparison::AtLeast
    } else {
        Comparison::Above
    };
    let upper = match text.as_bytes().last() {
        Some(b']') => Comparison::AtMost,
        Some(b')') => Comparison::Below,
        _ => return Err(BadRange),
    };
    let Some((from, to)) = inner.split_once(',') else {
        let is_one = (lower, upper) == (Comparison::AtLeast, Comparison::AtMost);
        return match partial(inner.trim())? {
            (version, _) if is_one => Ok(vec![(Comparison::Is, version)]),
            _ => Err(BadRange),
        };
    };
    let mut bounds = Vec::new();
    for (comparison, bound) in [(lower, from.trim()), (upper, to.trim())] {
        if !bound.is_empty() {
            bounds.push((comparison, partial(bound)?.0));
        }
    }
    Ok(bounds)
}

fn compared(part: &str) -> Result<Vec<(Comparison, Version)>, BadRange> {
    let all = [
        (">=", Comparison::AtLeast),
        ("<=", Comparison::AtMost),
        (">", Comparison::Above),
        ("<", Comparison::Below),
        ("=", Comparison::Is),
    ];
    for (sign, comparison) in all {
        if let Some(bound) = part.strip_prefix(sign) {
            return Ok(vec![(comparison, partial(bound)?.0)]);
        }
    }
    if let Some(bound) = part.strip_prefix('^') {
        let (version, _) = partial(bound)?;
        let next = match version.numbers() {
            [0, 0, patch] => [0, 0, up(patch)?],
            [0, minor, _] => [0, up(minor)?, 0],
            [major, ..] => [up(major)?, 0, 0],
        };
        return Ok(vec![
            (Comparison::AtLeast, version),
            (Comparison::Below, plain(next)?),
        ]);
    }
    if let Some(bound) = part.strip_prefix('~') {
        let (version, count) = partial(bound)?;
        let next = match version.numbers() {
            [major, ..] if count == 1 => [up(major)?, 0, 0],
            [major, minor, _] => [major, up(minor)?, 0],
        };
        return Ok(vec![
            (Comparison::AtLeast, version),
            (Comparison::Below, plain(next)?),
        ]);
    }
    Ok(vec![(Comparison::Is, partial(part)?.0)])
}

fn up(number: u64) -> Result<u64, BadRange> {
    number.checked_add(1).ok_or(BadRange)
}

fn plain([major, minor, patch]: [u64; 3]) -> Result<Version, BadRange> {
    format!("{major}.{minor}.{patch}").parse().map_err(|_| BadRange)
}

/// A version, and how many numbers of it were written
fn partial(text: &str) -> Result<(Version, usize), BadRange> {
    if let Ok(version) = Version::with_build(text) {
        return Ok((version, 3));
    }
    let numbers: Vec<_> = text.split('.').map(number).collect();
    match numbers[..] {
        [Some(major)] => Ok((plain([major, 0, 0])?, 1)),
        [Some(major), Some(minor)] => Ok((plain([major, minor, 0])?, 2)),
        _ => Err(BadRange),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn ranges_say_which_versions_do() {
        for (range, inside, outside) in [
            ("*", "0.0.1 9.9.9", ""),
            (">=1.0.0 <2.0.0", "1.0.0 1.9.9", "0.9.9 2.0.0"),
            ("[1.21,1.22)", "1.21.0 1.21.9", "1.20.9 1.22.0"),
            ("(1.0,]", "1.0.1", "1.0.0"),
            ("[1.2.3]", "1.2.3", "1.2.4"),
            ("^1.2", "1.2.0 1.9.0", "1.1.9 2.0.0"),
            ("^0.2.1", "0.2.1 0.2.9", "0.3.0"),
            ("~1.2", "1.2.9", "1.3.0"),
            ("~1", "1.9.0", "2.0.0"),
            ("1.2.3", "1.2.3", "1.2.4"),
            ("=1.2", "1.2.0", "1.2.1"),
            (">1.0.0", "1.0.1", "1.0.0 1.0.0-rc.1"),
        ] {
            let parsed: Range = range.parse().unwrap();
            for (versions, expected) in [(inside, true), (outside, false)] {
                for version in versions.split_ascii_whitespace() {
                    assert_eq!(
                        parsed.contains(&version.parse().unwrap()),
                        expected,
                        "{range} {version}"
                    );
                }
            }
        }
        let long = ">=1.0.0 ".repeat(40);
        for text in [
            "",
            " ",
            "x",
            "[1,2",
            "[",
            "(1.0)",
            ">=",
            "1.2.3.4",
            "^18446744073709551615.0.0",
            &long,
        ] {
            assert_eq!(text.parse::<Range>(), Err(BadRange), "{text}");
        }
    }
}
