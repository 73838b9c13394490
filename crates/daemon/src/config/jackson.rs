//! A YAML value as Jackson would hand it to a Java daemon
//!
//! Jackson resolves plain scalars by the rules of YAML 1.1 (`yes` is true, `0755` is octal) and then coerces: a number where
//! a text is expected is the text as it was written, a quoted number where a number is expected is that number. Where
//! Jackson would refuse, or would do what nobody can have meant (an alias is its own name to it), this refuses.

use crate::yaml::{Content, Node, Style};

/// What a value must be, for an error
pub(super) type Expected = &'static str;

const TEXT: Expected = "a string";
const NUMBER: Expected = "an integer";
const SWITCH: Expected = "true or false";
const LIST: Expected = "a list of strings";

/// A scalar before it is coerced
#[derive(Clone, Debug, PartialEq)]
enum Token {
    Null,
    Switch(bool),
    /// `None` if it is larger than anything here
    Integer(Option<i64>),
    /// `None` if it cannot be computed with
    Fraction(Option<f64>),
    Text,
}

/// The text as it was written; `None` for null
pub(super) fn text(node: &Node) -> Result<Option<String>, Expected> {
    let (token, text) = scalar(node).ok_or(TEXT)?;
    Ok((token != Token::Null).then(|| text.to_owned()))
}

/// The number; `None` for null and for an empty text
pub(super) fn integer(node: &Node) -> Result<Option<i64>, Expected> {
    let (token, text) = scalar(node).ok_or(NUMBER)?;
    match token {
        Token::Null => Ok(None),
        Token::Integer(number) => number.map(Some).ok_or(NUMBER),
        // As Java casts a double to an int: towards zero.
        #[allow(
            clippy::cast_possible_truncation,
            reason = "the range is checked, and the fraction is what goes"
        )]
        Token::Fraction(Some(number)) if number.abs() <= f64::from(i32::MAX) => Ok(Some(number as i64)),
        Token::Fraction(_) | Token::Switch(_) => Err(NUMBER),
        Token::Text => match text.trim() {
            "" | "null" => Ok(None),
            text => text.parse().map(Some).map_err(|_| NUMBER),
        },
    }
}

/// The switch; `None` for null and for an empty text
pub(super) fn switch(node: &Node) -> Result<Option<bool>, Expected> {
    let (token, text) = scalar(node).ok_or(SWITCH)?;
    match token {
        Token::Null => Ok(None),
        Token::Switch(value) => Ok(Some(value)),
        Token::Integer(number) => Ok(Some(number != Some(0))),
        Token::Fraction(_) => Err(SWITCH),
        Token::Text => match text.trim() {
            "" | "null" => Ok(None),
            "true" | "True" | "TRUE" => Ok(Some(true)),
            "false" | "False" | "FALSE" => Ok(Some(false)),
            _ => Err(SWITCH),
        },
    }
}

/// The items of a list that say something, with their nodes
pub(super) fn texts(node: &Node) -> Result<Vec<(&Node, String)>, Expected> {
    match &node.content {
        Content::Sequence(items) => items
            .iter()
            .filter_map(|item| match text(item) {
                Ok(Some(text)) => Some(Ok((item, text))),
                Ok(None) => None,
                Err(_) => Some(Err(LIST)),
            })
            .collect(),
        Content::Scalar { .. } if is_null(node) => Ok(Vec::new()),
        _ => Err(LIST),
    }
}

pub(super) fn is_null(node: &Node) -> bool {
    matches!(scalar(node), Some((Token::Null, _)))
}

fn scalar(node: &Node) -> Option<(Token, &str)> {
    let Content::Scalar { text, style } = &node.content else {
        return None;
    };
    let token = match node.tag.as_deref() {
        None | Some("!") if *style == Style::Plain => resolve(text),
        None | Some("!") => Token::Text,
        Some("tag:yaml.org,2002:null") => Token::Null,
        Some("tag:yaml.org,2002:bool") => boolean(text).map_or(Token::Text, Token::Switch),
        Some("tag:yaml.org,2002:int") => whole(text).map_or(Token::Text, Token::Integer),
        Some("tag:yaml.org,2002:float") => Token::Fraction(fraction(text)),
        Some(_) => Token::Text,
    };
    Some((token, text))
}

/// The implicit types of YAML 1.1, as Jackson takes them from SnakeYAML: without `1:30`, which stays a text
fn resolve(text: &str) -> Token {
    if matches!(text, "" | "~" | "null" | "Null" | "NULL") {
        Token::Null
    } else if let Some(value) = boolean(text) {
        Token::Switch(value)
    } else if let Some(number) = whole(text) {
        Token::Integer(number)
    } else if is_fraction(text) {
        Token::Fraction(fraction(text))
    } else {
        Token::Text
    }
}

fn boolean(text: &str) -> Option<bool> {
    match text {
        "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => Some(true),
        "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => Some(false),
        _ => None,
    }
}

fn unsigned(text: &str) -> (bool, &str) {
    match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    }
}

/// `Some` if it is an integer, `Some(None)` if it is one that does not fit
fn whole(text: &str) -> Option<Option<i64>> {
    let (is_negative, digits) = unsigned(text);
    let of = |digits: &str, radix: u32| {
        let mut characters = digits.chars();
        let is_number = characters.all(|digit| digit == '_' || digit.is_digit(radix))
            && digits.contains(|digit| digit != '_');
        is_number.then(|| i64::from_str_radix(&digits.replace('_', ""), radix).ok())
    };
    let magnitude = if digits == "0" {
        Some(0)
    } else if let Some(binary) = digits.strip_prefix("0b") {
        of(binary, 2)?
    } else if let Some(hexadecimal) = digits.strip_prefix("0x") {
        of(hexadecimal, 16)?
    } else if let Some(octal) = digits.strip_prefix('0') {
        of(octal, 8)?
    } else if digits.starts_with(|digit: char| digit.is_ascii_digit()) {
        of(digits, 10)?
    } else {
        return None;
    };
    Some(magnitude.and_then(|magnitude| {
        if is_negative {
            magnitude.checked_neg()
        } else {
            Some(magnitude)
        }
    }))
}

fn is_fraction(text: &str) -> bool {
    let (_, digits) = unsigned(text);
    if matches!(digits, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN") {
        return true;
    }
    let (number, exponent) = match digits.find(['e', 'E']) {
        Some(at) => (digits.get(..at).unwrap_or_default(), digits.get(at + 1..)),
        None => (digits, None),
    };
    let are_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'_');
    if let Some(exponent) = exponent {
        let (_, exponent) = unsigned(exponent);
        if exponent.is_empty() || !exponent.bytes().all(|byte| byte.is_ascii_digit()) {
            return false;
        }
    }
    let begins_with_digit = |text: &str| text.starts_with(|first: char| first.is_ascii_digit());
    match number.split_once('.') {
        Some(("", fraction)) => text.starts_with('.') && begins_with_digit(fraction) && are_digits(fraction),
        Some((whole, fraction)) => begins_with_digit(whole) && are_digits(whole) && are_digits(fraction),
        None => exponent.is_some() && begins_with_digit(number) && are_digits(number),
    }
}

fn fraction(text: &str) -> Option<f64> {
    text.replace('_', "")
        .parse()
        .ok()
        .filter(|number: &f64| number.is_finite())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::yaml;

    fn value(text: &str) -> Node {
        let stream = yaml::parse(&format!("key: {text}\n")).unwrap();
        match stream.root.unwrap().content {
            Content::Mapping(entries) => entries.into_iter().next().unwrap().1,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_text_is_what_was_written() {
        for (written, taken) in [
            ("007", Some("007")),
            ("1.10", Some("1.10")),
            ("yes", Some("yes")),
            ("0x1F", Some("0x1F")),
            ("1_000", Some("1_000")),
            ("\"null\"", Some("null")),
            ("null", None),
            ("~", None),
            ("", None),
            ("!!str", Some("")),
            ("''", Some("")),
            ("2026-01-01", Some("2026-01-01")),
            ("1:30", Some("1:30")),
            ("!mine 5", Some("5")),
        ] {
            assert_eq!(text(&value(written)).unwrap().as_deref(), taken, "{written}");
        }
        assert!(text(&value("[a]")).is_err() && text(&value("{a: 1}")).is_err());
    }

    #[test]
    fn a_number_may_be_quoted_octal_or_cut_off() {
        for (written, taken) in [
            ("9190", Some(9190)),
            ("\"9190\"", Some(9190)),
            ("' 9190 '", Some(9190)),
            ("+9190", Some(9190)),
            ("-1", Some(-1)),
            ("9_190", Some(9190)),
            ("0x23e6", Some(9190)),
            ("0b11", Some(3)),
            ("0755", Some(493)),
            ("\"0755\"", Some(755)),
            ("0910", Some(910)),
            ("9190.9", Some(9190)),
            ("9.19e3", Some(9190)),
            ("!!int \"7\"", Some(7)),
            ("null", None),
            ("\"\"", None),
        ] {
            assert_eq!(integer(&value(written)), Ok(taken), "{written}");
        }
        for refused in [
            "true",
            "yes",
            "ctrl",
            "\"0x10\"",
            "\"1.5\"",
            "1e400",
            ".inf",
            ".nan",
            "[1]",
            "99999999999999999999",
            "1:30",
            "0x",
            "_",
        ] {
            assert_eq!(integer(&value(refused)), Err(NUMBER), "{refused}");
        }
    }

    #[test]
    fn a_switch_may_be_a_word_or_a_number() {
        for (written, taken) in [
            ("on", Some(true)),
            ("No", Some(false)),
            ("\"True\"", Some(true)),
            ("'false'", Some(false)),
            ("1", Some(true)),
            ("0", Some(false)),
            ("null", None),
        ] {
            assert_eq!(switch(&value(written)), Ok(taken), "{written}");
        }
        for refused in ["\"yes\"", "y", "1.0", "[true]"] {
            assert_eq!(switch(&value(refused)), Err(SWITCH), "{refused}");
        }
    }

    #[test]
    fn a_list_is_a_list() {
        let items = |text: &str| {
            let node = value(text);
            texts(&node).map(|items| items.into_iter().map(|(_, text)| text).collect::<Vec<_>>())
        };
        assert_eq!(items("[a, 9090, null, 'b']").unwrap(), ["a", "9090", "b"]);
        assert!(items("null").unwrap().is_empty());
        assert!(items("a").is_err() && items("[[a]]").is_err() && items("''").is_err());
    }
}
