//! Which strings may name a node, an administrator or a host
//!
//! Identities end up in certificates, file names and log lines, so they are checked once, here, against a
//! rule that leaves no room for separators, path steps or a second relative distinguished name.

/// Longest node or administrator name, in bytes
pub const MAX_NAME_LEN: usize = 64;

/// Common name of every controller certificate; no node may be called like this
pub const CONTROLLER_NAME: &str = "prexorcloud-controller";

/// Whether `name` matches `^[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}$`
///
/// This is the rule of the contract for node, instance, group, template and module ids.
///
/// ```
/// use prexorcloud_security::name::is_safe_name;
///
/// assert!(is_safe_name("node-1"));
/// assert!(!is_safe_name("../node-1"));
/// assert!(!is_safe_name("node-1,O=Evil"));
/// assert!(!is_safe_name(""));
/// ```
#[must_use]
pub fn is_safe_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    bytes.len() <= MAX_NAME_LEN
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// Whether a certificate may carry `name` as a `dNSName`: letter-digit-hyphen labels, the last one not a
/// number
///
/// Narrower than what resolvers accept: TLS libraries differ in what they do with underscores, empty labels
/// and trailing dots, and some refuse the whole certificate.
#[must_use]
pub fn is_host_name(name: &str) -> bool {
    let label_ok = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    name.len() <= 253
        && name.split('.').all(label_ok)
        && name
            .rsplit('.')
            .next()
            .is_some_and(|last| !last.bytes().all(|b| b.is_ascii_digit()))
}

/// The start of an untrusted string, fit for an error message or a log line
pub(crate) fn excerpt(text: &str) -> String {
    const SHOWN: usize = 80;
    let mut shown: String = text.chars().take(SHOWN).flat_map(char::escape_default).collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn safe_names_follow_the_rule_of_the_contract() {
        let longest = "a".repeat(64);
        for good in ["a", "0", "node-1", "Node_1.example", "a..b", longest.as_str()] {
            assert!(is_safe_name(good), "{good}");
        }
        let too_long = "a".repeat(65);
        for bad in [
            "",
            ".",
            "-a",
            "_a",
            "../x",
            "a/b",
            "a,b",
            "a b",
            "a\n",
            "a:b",
            "ä",
            "a\0",
            too_long.as_str(),
        ] {
            assert!(!is_safe_name(bad), "{bad:?}");
        }
    }

    #[test]
    fn host_names_are_letter_digit_hyphen_labels() {
        for good in ["localhost", "node-1", "a.b.example", "1a.2b"] {
            assert!(is_host_name(good), "{good}");
        }
        let long_label = "a".repeat(64);
        for bad in [
            "",
            "a.",
            ".a",
            "a..b",
            "a_b",
            "-a",
            "a-",
            "10.0.0.1",
            "node.1",
            long_label.as_str(),
        ] {
            assert!(!is_host_name(bad), "{bad:?}");
        }
    }

    #[test]
    fn excerpts_are_bounded_and_printable() {
        let shown = excerpt(&"\u{1b}[31m".repeat(1000));
        assert!(shown.len() < 800 && !shown.contains('\u{1b}'));
        assert_eq!(excerpt("node-1"), "node-1");
    }
}
