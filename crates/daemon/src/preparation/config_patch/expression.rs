//! Regular expressions of patches, with the meaning that they have in Java
//!
//! Controllers and templates were written for `String.replaceAll`, line by line. The engine here takes a time that is linear
//! in the text. An expression is translated for it; what Java would read differently, or what it has and the engine has not
//! (look-around, back references, possessive quantifiers), is refused and never guessed.

use std::str::Chars;
use std::time::{Duration, Instant};

use regex::{Regex, RegexBuilder};

use super::{FORWARDING_SECRET, MAX_FILE};

/// The longest expression, in bytes
const MAX_PATTERN: usize = 4096;

/// The most bytes that an expression may become
const MAX_PROGRAM: usize = 256 * 1024;

/// The deepest groups
const MAX_NESTING: u32 = 50;

/// The longest line that is looked through, in bytes: all matches of one take up to the square of its length
const MAX_LINE: usize = 64 * 1024;

/// How long one file may take
const DEADLINE: Duration = Duration::from_secs(10);

/// Line ends within what a line is here, at which `.` and `$` are read differently
const LINE_ENDS: [char; 3] = ['\u{85}', '\u{2028}', '\u{2029}'];

/// What is the same as an ASCII letter without regard to case, but not in Java
const LIKE_ASCII: [char; 2] = ['\u{212a}', '\u{17f}'];

/// What to look for, and what to put in its place
#[derive(Debug)]
pub(super) struct Expression {
    regex: Regex,
    replacement: Vec<Piece>,
    ignores_case: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Group(usize),
}

impl Expression {
    /// # Errors
    /// If it is none, or not one that means here what it means in Java.
    pub(super) fn new(pattern: &str, replacement: &str, secret: &str) -> Result<Self, String> {
        if pattern.len() > MAX_PATTERN {
            return Err(format!(
                "the expression has {} bytes, at most {MAX_PATTERN} are allowed",
                pattern.len()
            ));
        }
        let mut translation = Translation::new(pattern);
        translation
            .run()
            .map_err(|problem| format!("the expression cannot be used here: {problem}"))?;
        let regex = RegexBuilder::new(&translation.out)
            .size_limit(MAX_PROGRAM)
            .dfa_size_limit(MAX_PROGRAM)
            .nest_limit(MAX_NESTING)
            .build()
            .map_err(|error| format!("the expression cannot be used here: {}", last_line(&error)))?;
        let replacement = pieces(replacement, &regex)?;
        let replacement = replacement.into_iter().map(|piece| match piece {
            Piece::Text(text) => Piece::Text(text.replace(FORWARDING_SECRET, secret)),
            group @ Piece::Group(_) => group,
        });
        Ok(Self {
            replacement: replacement.collect(),
            regex,
            ignores_case: translation.ignores_case,
        })
    }

    /// Replaces every match in every line; line ends stay
    pub(super) fn replace_all(&self, text: &str) -> Result<String, String> {
        if let Some(end) = text.chars().find(|letter| LINE_ENDS.contains(letter)) {
            return Err(format!(
                "it has {end:?} in a line, where expressions are read differently"
            ));
        }
        if self.ignores_case && text.contains(LIKE_ASCII) {
            return Err("it has letters that are read differently without regard to case".to_owned());
        }
        let limit = usize::try_from(MAX_FILE).unwrap_or(usize::MAX);
        let until = Instant::now() + DEADLINE;
        let mut replaced = String::with_capacity(text.len());
        for whole in text.split_inclusive(['\n', '\r']) {
            let line = whole.trim_end_matches(['\n', '\r']);
            // Between the two halves of a line end there is no line.
            let is_half = whole == "\n" && replaced.ends_with('\r');
            if line.len() > MAX_LINE {
                return Err(format!("it has a line of more than {MAX_LINE} bytes"));
            }
            if !is_half {
                self.replace_in(line, &mut replaced, limit, until)?;
            }
            replaced.push_str(whole.get(line.len()..).unwrap_or_default());
        }
        Ok(replaced)
    }

    /// As Java does it: an empty match counts right behind another one, and the next begins a character later
    fn replace_in(
        &self,
        line: &str,
        replaced: &mut String,
        limit: usize,
        until: Instant,
    ) -> Result<(), String> {
        let (mut at, mut copied) = (0, 0);
        while at <= line.len() {
            let Some(groups) = self.regex.captures_at(line, at) else {
                break;
            };
            let Some(whole) = groups.get(0) else { break };
            replaced.push_str(line.get(copied..whole.start()).unwrap_or_default());
            for piece in &self.replacement {
                match piece {
                    Piece::Text(text) => replaced.push_str(text),
                    Piece::Group(number) => {
                        replaced.push_str(groups.get(*number).map_or("", |group| group.as_str()));
                    }
                }
            }
            if replaced.len() > limit {
                return Err(format!("it would become larger than {limit} bytes"));
            }
            if Instant::now() > until {
                let seconds = DEADLINE.as_secs();
                return Err(format!("the expression takes more than {seconds} s for it"));
            }
            copied = whole.end();
            at = copied;
            if whole.is_empty() {
                let next = line.get(at..).and_then(|rest| rest.chars().next());
                at += next.map_or(1, char::len_utf8);
            }
        }
        replaced.push_str(line.get(copied..).unwrap_or_default());
        Ok(())
    }
}

/// An error of the engine shows the expression in lines of its own
fn last_line(error: &regex::Error) -> String {
    let said = error.to_string();
    said.lines().last().unwrap_or_default().trim().to_owned()
}

/// The parts of a replacement: `$1`, `${name}`, `\$` and text
fn pieces(text: &str, regex: &Regex) -> Result<Vec<Piece>, String> {
    let groups = regex.captures_len() - 1;
    let mut pieces = Vec::new();
    let mut plain = String::new();
    let mut rest = text.chars();
    while let Some(next) = rest.next() {
        match next {
            '\\' => plain.push(
                rest.next()
                    .ok_or("the replacement ends in a backslash; write \\\\ for one")?,
            ),
            '$' => {
                let number = group(&mut rest, groups, regex)?;
                pieces.push(Piece::Text(std::mem::take(&mut plain)));
                pieces.push(Piece::Group(number));
            }
            other => plain.push(other),
        }
    }
    pieces.push(Piece::Text(plain));
    pieces.retain(|piece| *piece != Piece::Text(String::new()));
    Ok(pieces)
}

/// What follows a dollar sign; of the digits, as many as there are groups for
fn group(rest: &mut Chars<'_>, groups: usize, regex: &Regex) -> Result<usize, String> {
    if let Some(named) = rest.as_str().strip_prefix('{') {
        let name = named.split_once('}').map(|(name, _)| name).unwrap_or_default();
        let number = regex.capture_names().position(|known| known == Some(name));
        let number =
            number.ok_or_else(|| format!("the replacement names the group {name:?}, which is not there"))?;
        *rest = named.get(name.len() + 1..).unwrap_or_default().chars();
        return Ok(number);
    }
    let digit = |rest: &Chars<'_>| {
        let next = rest.as_str().chars().next();
        next.and_then(|next| next.to_digit(10))
            .and_then(|digit| usize::try_from(digit).ok())
    };
    let mut number = digit(rest)
        .ok_or("a dollar sign in the replacement needs the number of a group; write \\$ for one")?;
    rest.next();
    if number > groups {
        return Err(format!(
            "the replacement names group {number}, and the expression has {groups}"
        ));
    }
    while let Some(longer) = digit(rest).map(|digit| number * 10 + digit) {
        if longer > groups {
            break;
        }
        number = longer;
        rest.next();
    }
    Ok(number)
}

/// A quantifier stands before, and may be lazy
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Quantified {
    No,
    Yes,
    Lazily,
}

struct Translation<'p> {
    rest: Chars<'p>,
    out: String,
    quantified: Quantified,
    ignores_case: bool,
    /// Whether a letter beyond ASCII may be meant
    is_wide: bool,
}

impl<'p> Translation<'p> {
    fn new(pattern: &'p str) -> Self {
        Self {
            rest: pattern.chars(),
            out: String::with_capacity(pattern.len()),
            quantified: Quantified::No,
            ignores_case: false,
            is_wide: !pattern.is_ascii(),
        }
    }

    fn peek(&self) -> Option<char> {
        self.rest.as_str().chars().next()
    }

    fn run(&mut self) -> Result<(), String> {
        while let Some(next) = self.rest.next() {
            let quantified = std::mem::replace(&mut self.quantified, Quantified::No);
            match next {
                '\\' => self.escape(false)?,
                '[' => self.set()?,
                '(' => self.group()?,
                '?' if quantified == Quantified::Yes => {
                    self.out.push('?');
                    self.quantified = Quantified::Lazily;
                }
                '*' | '+' | '?' | '{' if quantified != Quantified::No => {
                    return Err("a quantifier stands behind another one, as in a++".to_owned());
                }
                '*' | '+' | '?' => {
                    self.out.push(next);
                    self.quantified = Quantified::Yes;
                }
                '{' => self.counted()?,
                other => self.out.push(other),
            }
        }
        if self.ignores_case && self.is_wide {
            return Err("without regard to case it may have ASCII only".to_owned());
        }
        Ok(())
    }

    /// `{2}`, `{2,}` or `{2,3}`
    fn counted(&mut self) -> Result<(), String> {
        let end = self.rest.as_str().split_once('}').map(|(count, _)| count);
        let count = end.filter(|count| {
            count.starts_with(|first: char| first.is_ascii_digit())
                && count.bytes().all(|byte| byte.is_ascii_digit() || byte == b',')
        });
        let count = count.ok_or("{ stands where no number of times follows; write \\{ for one")?;
        self.out.push('{');
        self.out.push_str(count);
        self.out.push('}');
        self.rest = self
            .rest
            .as_str()
            .get(count.len() + 1..)
            .unwrap_or_default()
            .chars();
        self.quantified = Quantified::Yes;
        Ok(())
    }

    fn group(&mut self) -> Result<(), String> {
        self.out.push('(');
        let Some(rest) = self.rest.as_str().strip_prefix('?') else {
            return Ok(());
        };
        let is_named = rest
            .strip_prefix('<')
            .is_some_and(|name| name.starts_with(|first: char| first.is_ascii_alphabetic()));
        let end = rest.find([':', ')']).unwrap_or(rest.len());
        let (flags, _) = rest.split_at_checked(end).unwrap_or_default();
        if !is_named && !flags.bytes().all(|byte| matches!(byte, b'i' | b's' | b'-')) {
            return Err(format!(
                "(?{} is not supported: look-around, atomic groups, and flags other than i and s",
                rest.chars().take(2).collect::<String>()
            ));
        }
        if !is_named {
            self.ignores_case |= flags.contains('i');
        }
        self.out.push('?');
        self.rest = rest.chars();
        if !is_named {
            // With what ends the flags.
            let flags = rest.get(..=end).ok_or("a group does not end")?;
            self.out.push_str(flags);
            self.rest = rest.get(end + 1..).unwrap_or_default().chars();
        }
        Ok(())
    }

    /// What stands in brackets
    fn set(&mut self) -> Result<(), String> {
        self.out.push('[');
        if self.peek() == Some('^') {
            self.out.push('^');
            self.rest.next();
        }
        if self.peek() == Some(']') {
            self.out.push_str("\\]");
            self.rest.next();
        }
        while let Some(next) = self.rest.next() {
            match next {
                ']' => {
                    self.out.push(']');
                    return Ok(());
                }
                '\\' => self.escape(true)?,
                '[' => return Err("a set stands in another one; write \\[ for a bracket".to_owned()),
                '&' | '-' | '~' if self.peek() == Some(next) => {
                    return Err(format!("{next}{next} stands in a set"));
                }
                other => self.out.push(other),
            }
        }
        Err("a set does not end".to_owned())
    }

    fn escape(&mut self, in_set: bool) -> Result<(), String> {
        let next = self.rest.next().ok_or("it ends in a backslash")?;
        match next {
            't' | 'n' | 'r' | 'f' | 'a' => {
                self.out.push('\\');
                self.out.push(next);
            }
            'd' => self.out.push_str("[0-9]"),
            'D' => self.out.push_str("[^0-9]"),
            'w' => self.out.push_str("[a-zA-Z0-9_]"),
            'W' => self.out.push_str("[^a-zA-Z0-9_]"),
            's' => self.out.push_str(r"[ \t\n\x0B\f\r]"),
            'S' => self.out.push_str(r"[^ \t\n\x0B\f\r]"),
            'b' if !in_set && self.peek() != Some('{') => self.out.push_str(r"(?-u:\b)"),
            'A' if !in_set => self.out.push_str(r"\A"),
            'z' | 'Z' if !in_set => self.out.push_str(r"\z"),
            'Q' if !in_set => self.quotation(),
            'x' => self.code(2)?,
            'u' => self.code(4)?,
            'p' | 'P' => self.category(next)?,
            letter if letter.is_ascii_alphanumeric() => {
                return Err(format!("\\{letter} is not supported"));
            }
            '<' | '>' => self.out.push(next),
            other => self.literal(other),
        }
        Ok(())
    }

    fn literal(&mut self, character: char) {
        if character.is_ascii_punctuation() && !matches!(character, '<' | '>') {
            self.out.push('\\');
        }
        self.out.push(character);
    }

    /// Up to `\E`, everything is itself
    fn quotation(&mut self) {
        let rest = self.rest.as_str();
        let (quoted, behind) = rest.split_once("\\E").unwrap_or((rest, ""));
        for character in quoted.chars() {
            self.literal(character);
        }
        self.rest = behind.chars();
    }

    /// A character by its number, in so many digits
    fn code(&mut self, digits: usize) -> Result<(), String> {
        let rest = self.rest.as_str();
        let code = rest
            .get(..digits)
            .and_then(|code| u32::from_str_radix(code, 16).ok());
        let character = code.and_then(char::from_u32);
        let character =
            character.ok_or_else(|| format!("\\x or \\u needs {digits} digits that name a character"))?;
        self.is_wide |= !character.is_ascii();
        self.rest = rest.get(digits..).unwrap_or_default().chars();
        if character.is_ascii_control() {
            self.out.push_str(&format!("\\x{:02x}", u32::from(character)));
        } else {
            self.literal(character);
        }
        Ok(())
    }

    /// A general category, as `\p{Lu}`; other classes differ in what they hold
    fn category(&mut self, kind: char) -> Result<(), String> {
        let rest = self.rest.as_str();
        let name = rest
            .strip_prefix('{')
            .and_then(|rest| rest.split_once('}'))
            .map(|(name, _)| name);
        let name = name.filter(|name| {
            let mut letters = name.chars();
            name.len() <= 2
                && letters.next().is_some_and(|letter| letter.is_ascii_uppercase())
                && letters.all(|letter| letter.is_ascii_lowercase())
        });
        let name = name.ok_or("of \\p only categories of one or two letters are supported, as \\p{Lu}")?;
        self.is_wide = true;
        self.out.push_str(&format!("\\{kind}{{{name}}}"));
        self.rest = rest.get(name.len() + 2..).unwrap_or_default().chars();
        Ok(())
    }
}
