//! Secrets taken out of texts that people read
//!
//! A daemon quotes the URL that it could not download from, and that is how a password gets into the last error of an
//! instance, and a signature into a log. What names the place stays: scheme, host, path, and every parameter but the value
//! of those that are known to be secrets.

use std::borrow::Cow;

/// What stands in the place of a secret.
const REDACTED: &str = "***";

/// Parameters whose values are secrets, in lower case; also as the end of a longer name, after `-` or `_`.
const SECRETS: [&str; 17] = [
    "token",
    "auth",
    "authorization",
    "key",
    "apikey",
    "secret",
    "password",
    "passwd",
    "pass",
    "pwd",
    "sig",
    "signature",
    "credential",
    "credentials",
    "session",
    "jwt",
    "code",
];

/// The text, with the credentials and the known secrets of every URL in it replaced by `***`
///
/// ```
/// use prexorcloud_protocol::redact::urls;
///
/// let said = "https://bob:hunter2@repo.example/x.jar?v=7&token=abc: 404 Not Found";
/// assert_eq!(urls(said), "https://***@repo.example/x.jar?v=7&token=***: 404 Not Found");
/// ```
#[must_use]
pub fn urls(text: &str) -> Cow<'_, str> {
    const SEPARATOR: &str = "://";
    if !text.contains(SEPARATOR) {
        return Cow::Borrowed(text);
    }
    let mut cleaned = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(SEPARATOR) {
        let (before, url) = rest.split_at(at + SEPARATOR.len());
        cleaned.push_str(before);
        // Another one inside of it is one of its own.
        let inner = url.find(SEPARATOR).unwrap_or(url.len());
        let end = url.find(ends_url).unwrap_or(url.len()).min(inner);
        let (url, after) = url.split_at(end);
        push_url(&mut cleaned, url);
        rest = after;
    }
    cleaned.push_str(rest);
    if cleaned == text {
        return Cow::Borrowed(text);
    }
    Cow::Owned(cleaned)
}

/// Names of which nobody ever logs a value that may be read.
const SECRET_FIELDS: [&str; 15] = [
    "token",
    "password",
    "passwd",
    "passphrase",
    "pwd",
    "secret",
    "authorization",
    "credential",
    "credentials",
    "apikey",
    "privatekey",
    "secretkey",
    "accesskey",
    "cookie",
    "jwt",
];

/// What our own tokens begin with, and the schemes before one in a header.
const TOKENS: [&str; 5] = ["pxr_", "prx_", "Bearer ", "bearer ", "Basic "];

/// What is shorter after one of these is a word of a sentence.
const SHORTEST_TOKEN: usize = 12;

/// Whether a field with this name holds a secret: `password`, `joinToken`, `aws-secret-key`, but not `token_file`.
#[must_use]
pub fn is_secret_field(name: &str) -> bool {
    let name: String = name
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .map(|character| character.to_ascii_lowercase())
        .collect();
    SECRET_FIELDS.iter().any(|secret| name.ends_with(secret))
}

/// The text without the secrets in its [URLs](urls), and without tokens that stand in it by themselves
///
/// ```
/// use prexorcloud_protocol::redact::text;
///
/// let said = "Authorization: Bearer abcdefghijkl was sent to https://bob:hunter2@repo.example";
/// assert_eq!(text(said), "Authorization: Bearer *** was sent to https://***@repo.example");
/// ```
#[must_use]
pub fn text(text: &str) -> Cow<'_, str> {
    let mut cleaned = urls(text);
    for begin in TOKENS {
        if cleaned.contains(begin) {
            cleaned = Cow::Owned(without_tokens(&cleaned, begin));
        }
    }
    cleaned
}

fn without_tokens(text: &str, begin: &str) -> String {
    let is_of_token = |character: char| character.is_ascii_alphanumeric() || "_.~+/=-".contains(character);
    let mut cleaned = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(begin) {
        let (before, token) = rest.split_at(at + begin.len());
        cleaned.push_str(before);
        let end = token
            .find(|character| !is_of_token(character))
            .unwrap_or(token.len());
        let (token, after) = token.split_at(end);
        cleaned.push_str(if token.len() < SHORTEST_TOKEN {
            token
        } else {
            REDACTED
        });
        rest = after;
    }
    cleaned.push_str(rest);
    cleaned
}

/// What no URL contains, and what quotes one.
fn ends_url(character: char) -> bool {
    character.is_whitespace() || character.is_control() || "\"'`<>\\|^{}".contains(character)
}

/// What comes after `://`, without its secrets.
fn push_url(cleaned: &mut String, url: &str) {
    let authority = url.find(['/', '?', '#']).unwrap_or(url.len());
    let (authority, rest) = url.split_at(authority);
    match authority.rfind('@') {
        Some(at) => {
            cleaned.push_str(REDACTED);
            cleaned.push_str(&authority[at..]);
        }
        None => cleaned.push_str(authority),
    }
    let Some(query) = rest.find(['?', '#']) else {
        return cleaned.push_str(rest);
    };
    let (path, mut rest) = rest.split_at(query);
    cleaned.push_str(path);
    // The fragment is read like a query: some put their tokens there.
    while let Some(separator) = rest.chars().next() {
        cleaned.push(separator);
        rest = &rest[separator.len_utf8()..];
        let end = rest.find(['&', ';', '#', '?']).unwrap_or(rest.len());
        let (parameter, after) = rest.split_at(end);
        push_parameter(cleaned, parameter);
        rest = after;
    }
}

fn push_parameter(cleaned: &mut String, parameter: &str) {
    let Some((name, value)) = parameter.split_once('=').filter(|(name, _)| is_secret(name)) else {
        return cleaned.push_str(parameter);
    };
    cleaned.push_str(name);
    cleaned.push('=');
    if value.is_empty() {
        return;
    }
    cleaned.push_str(REDACTED);
    // What a sentence puts behind a URL is not of the secret.
    let sentence = value.trim_end_matches([':', ',', '.', ')', ']', '!']);
    cleaned.push_str(&value[sentence.len()..]);
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let last = name.rsplit(['-', '_', '.']).next().unwrap_or_default();
    SECRETS.contains(&last) || SECRETS.contains(&name.as_str())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn credentials_and_known_secrets_go_and_the_place_stays() {
        for (said, cleaned) in [
            ("nothing to see", "nothing to see"),
            (
                "https://repo.example/a.jar?v=1#top",
                "https://repo.example/a.jar?v=1#top",
            ),
            ("https://u:p@h/x", "https://***@h/x"),
            ("ftp://u@h", "ftp://***@h"),
            ("http://u:p@ss@h:8080/x", "http://***@h:8080/x"),
            ("at https://h/x?token=abc.", "at https://h/x?token=***."),
            (
                "\"https://h/x?a=1&Access_Token=abc&b=2\"",
                "\"https://h/x?a=1&Access_Token=***&b=2\"",
            ),
            (
                "https://h/x?X-Amz-Signature=00ff&X-Amz-Date=1",
                "https://h/x?X-Amz-Signature=***&X-Amz-Date=1",
            ),
            (
                "https://h/x?apikey=1;sig=2#access_token=3",
                "https://h/x?apikey=***;sig=***#access_token=***",
            ),
            ("https://h/x?monkey=1&token=", "https://h/x?monkey=1&token="),
            ("two: http://a:b@c http://d:e@f", "two: http://***@c http://***@f"),
            ("mail a@b.example ://", "mail a@b.example ://"),
            ("https://h/x@y", "https://h/x@y"),
            ("https://h/?to=http://u:p@i/", "https://h/?to=http://***@i/"),
            ("http://http://u:p@h", "http://http://***@h"),
        ] {
            assert_eq!(urls(said), cleaned);
        }
    }

    #[test]
    fn tokens_go_and_the_words_of_a_sentence_stay() {
        for (said, cleaned) in [
            ("Bearer of bad news", "Bearer of bad news"),
            (
                "token pxr_0123456789abcdefghijklmnopqrstuv.AAAA-BBBB_c was refused",
                "token pxr_*** was refused",
            ),
            ("prx_short", "prx_short"),
            ("a Basic dXNlcjpwYXNzd29yZA==, b", "a Basic ***, b"),
        ] {
            assert_eq!(text(said), cleaned);
        }
    }

    #[test]
    fn fields_of_secrets_are_known_by_their_last_word() {
        for secret in [
            "token",
            "joinToken",
            "DB_PASSWORD",
            "x-api-key",
            "authorization",
            "aws.secretKey",
        ] {
            assert!(is_secret_field(secret), "{secret}");
        }
        for other in ["token_file", "code", "key", "tokens", "node", "session", ""] {
            assert!(!is_secret_field(other), "{other}");
        }
    }

    proptest! {
        #[test]
        fn no_secret_is_left_and_twice_is_as_once(
            before in "[ a-z:/]{0,8}",
            secret in "[A-Z]{12}",
            path in "[a-z/]{0,8}",
            after in "[ -~]{0,12}",
        ) {
            let text = format!("{before}https://user:{secret}@host/{path}?a=1&token={secret} {after}");
            let cleaned = urls(&text).into_owned();
            prop_assert!(!cleaned.contains(&secret), "{cleaned}");
            prop_assert_eq!(urls(&cleaned), cleaned.as_str());
        }

        #[test]
        fn any_text_is_taken(text in any::<String>()) {
            let cleaned = urls(&text).into_owned();
            prop_assert_eq!(urls(&cleaned), cleaned.as_str());
        }
    }
}
