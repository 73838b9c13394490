//! What a server says in a line of its console, without what its log puts before it
//!
//! Logs put a time, a level, a thread and the name of a logger before a message, each in a form of its own. Players decide
//! what comes after that, so exactly one such header is taken away, and only what has the form of one: `[Server] hello` and
//! `[VIP] Steve: hello` are messages.

/// How much of a line is looked at.
pub const LINE_BYTES: usize = 1024;

/// How many parts a header has at most: date, time, zone, level, thread and logger, and room for two more.
const HEADER_PARTS: usize = 8;

const LEVELS: [&str; 14] = [
    "INFO", "WARN", "WARNING", "ERROR", "SEVERE", "FATAL", "DEBUG", "TRACE", "CONFIG", "FINE", "FINER",
    "FINEST", "NOTICE", "STDOUT",
];

/// The first [`LINE_BYTES`] bytes of a line without colours and control characters
#[must_use]
pub fn plain(line: &str) -> String {
    let mut end = line.len().min(LINE_BYTES);
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    let mut plain = String::with_capacity(end);
    let mut letters = line.get(..end).unwrap_or_default().chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\u{1b}' => skip_escape(&mut letters),
            '\u{9b}' => skip_sequence(&mut letters),
            // A colour in the game's own form: the sign and one letter.
            '\u{a7}' => drop(letters.next()),
            '\t' => plain.push(' '),
            letter if letter.is_control() => {}
            letter => plain.push(letter),
        }
    }
    plain
}

/// Goes behind an escape sequence of a terminal, whose first character was read.
fn skip_escape(letters: &mut std::str::Chars<'_>) {
    match letters.next() {
        Some('[') => skip_sequence(letters),
        // A text for the terminal, a title for instance; it ends with BEL or ESC \.
        Some(']' | 'P' | '^' | '_') => {
            while let Some(letter) = letters.next() {
                if letter == '\u{1b}' {
                    letters.next();
                    return;
                }
                if letter == '\u{7}' {
                    return;
                }
            }
        }
        // Two characters and one more: the choice of a character set.
        Some('(' | ')' | '*' | '+' | '#' | '%') => drop(letters.next()),
        Some(_) | None => {}
    }
}

/// Goes behind parameters and the letter that ends them.
fn skip_sequence(letters: &mut std::str::Chars<'_>) {
    for letter in letters.by_ref() {
        if ('\u{40}'..='\u{7e}').contains(&letter) {
            return;
        }
    }
}

/// The message of a line without colours: what is left without the header of its log
///
/// ```
/// use prexorcloud_protocol::readiness::message;
///
/// for line in [
///     "[12:00:00 INFO]: Done (1.2s)!",
///     "[12:00:00] [Server thread/INFO]: Done (1.2s)!",
///     "[29Nov2026 12:00:00.000] [Server thread/INFO] [net.minecraft.server.dedicated.DedicatedServer/]: Done (1.2s)!",
///     "12:00:00 [INFO] Done (1.2s)!",
///     "2026-11-29 12:00:00,000 [main] INFO  net.minestom.server.Main - Done (1.2s)!",
///     "Done (1.2s)!",
/// ] {
///     assert_eq!(message(line), "Done (1.2s)!", "{line}");
/// }
/// assert_eq!(message("[12:00:00 INFO]: [Server] Done (1.2s)!"), "[Server] Done (1.2s)!");
/// assert_eq!(message("[12:00:00 INFO]: INFO: Done (1.2s)!"), "INFO: Done (1.2s)!");
/// ```
#[must_use]
pub fn message(plain: &str) -> &str {
    let line = plain.trim_start();
    // Where a console has a prompt, lines are printed over it.
    let line = match line.strip_prefix('>') {
        Some(rest) if rest.trim_start().starts_with('[') => rest.trim_start(),
        _ => line,
    };
    let mut header = Header::default();
    let mut rest = line;
    for _ in 0..HEADER_PARTS {
        match header.part(rest) {
            Part::Ends(message) => return message.trim_start(),
            Part::Goes(after) => rest = after.trim_start(),
            Part::Message => break,
        }
    }
    rest
}

/// What a header has had so far.
#[derive(Default)]
struct Header {
    time: bool,
    level: bool,
}

enum Part<'a> {
    /// One more part of the header, and what follows it.
    Goes(&'a str),
    /// The last part of the header, and the message.
    Ends(&'a str),
    /// No part of a header.
    Message,
}

impl Header {
    fn part<'a>(&mut self, rest: &'a str) -> Part<'a> {
        match rest.strip_prefix('[') {
            Some(inside) => match inside.split_once(']') {
                Some((inside, after)) => self.bracket(inside, after),
                None => Part::Message,
            },
            None => self.word(rest),
        }
    }

    /// `[12:00:00]`, `[Server thread/INFO]`, `[main]`, `[minecraft/DedicatedServer]:`
    fn bracket<'a>(&mut self, inside: &str, after: &'a str) -> Part<'a> {
        let colon = after.strip_prefix(':');
        if !self.level && has_level(inside) {
            self.level = true;
            return colon.map_or(Part::Goes(after), Part::Ends);
        }
        if !self.level && !self.time && is_time(inside) {
            self.time = true;
            return Part::Goes(after);
        }
        match colon {
            // The logger of Forge. Without the slash or the dot it could be what a player is called.
            Some(message) if self.level && is_logger(inside) => Part::Ends(message),
            // A thread, if the level or the logger follows.
            None if self.time && self.is_header_to_come(after.trim_start()) => Part::Goes(after),
            _ => Part::Message,
        }
    }

    /// `12:00:00`, `INFO`, `INFO:`, `net.minestom.server.Main -`
    fn word<'a>(&mut self, rest: &'a str) -> Part<'a> {
        let (word, after) = rest.split_once(' ').unwrap_or((rest, ""));
        if !self.level && is_time(word) {
            self.time = true;
            return Part::Goes(after);
        }
        let bare = word.trim_end_matches(':');
        if !self.level && LEVELS.contains(&bare) {
            self.level = true;
            return if bare.len() < word.len() {
                Part::Ends(after)
            } else {
                Part::Goes(after)
            };
        }
        if self.level && (is_logger(word) || self.time && word == "-") {
            let after = after.trim_start();
            let message = if word == "-" {
                Some(after)
            } else {
                after.strip_prefix("- ").or_else(|| after.strip_prefix(": "))
            };
            return message.map_or(Part::Message, Part::Ends);
        }
        Part::Message
    }

    /// Whether a level comes next, or a logger if the level was there already.
    fn is_header_to_come(&self, rest: &str) -> bool {
        let word = rest.split(' ').next().unwrap_or_default();
        if self.level {
            is_logger(word)
        } else {
            LEVELS.contains(&word.trim_end_matches(':'))
                || rest.strip_prefix('[').is_some_and(bracket_has_level)
        }
    }
}

fn bracket_has_level(inside: &str) -> bool {
    inside
        .split_once(']')
        .is_some_and(|(inside, _)| has_level(inside))
}

/// Whether a level is one of the words.
fn has_level(inside: &str) -> bool {
    inside
        .split(|letter: char| !letter.is_ascii_alphanumeric())
        .any(|word| LEVELS.contains(&word))
}

/// Whether it is a date, a time, or both: digits around colons, or two dashes or dots.
fn is_time(text: &str) -> bool {
    let digits = text.bytes().filter(u8::is_ascii_digit).count();
    let marks = text
        .bytes()
        .filter(|byte| matches!(byte, b':' | b'-' | b'/' | b'.'))
        .count();
    let is_dated = text
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b":-/.,+ ".contains(&byte));
    text.starts_with(|letter: char| letter.is_ascii_digit()) && digits >= 4 && marks >= 2 && is_dated
}

/// Whether it names a class or a category: parts around dots or a slash, no blanks.
fn is_logger(text: &str) -> bool {
    text.contains(['.', '/'])
        && text.starts_with(|letter: char| letter.is_ascii_alphabetic())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"./_$-".contains(&byte))
}
