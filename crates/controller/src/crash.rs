//! What a crash report says about its cause
//!
//! What the JVM itself complains of comes first, then known patterns in the log, then the exit code. The signature is equal for crashes that differ only in
//! numbers, so that a tool can count them as one.

use prexorcloud_protocol::node::daemon::UNOBSERVED;
use prexorcloud_protocol::readiness::{message, plain};
use prexorcloud_protocol::redact;
use sha2::{Digest as _, Sha256};

/// The cause of a crash as far as its output and exit code tell
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnosis {
    /// One word: `OOM`, `STACK_OVERFLOW`, `CLASS_NOT_FOUND`, `PORT_BIND_FAILURE`, `JVM_START`, `STARTUP_TIMEOUT`, `CLEAN`,
    /// `GENERAL_ERROR`, `SIGINT`, `SIGABRT`, `SIGKILL`, `SIGSEGV`, `SIGTERM`, `UNOBSERVED` or `UNKNOWN`
    pub classification: &'static str,
    /// One sentence
    pub cause: String,
    /// 16 hex digits
    pub signature: String,
}

/// What names a cause, in the order of precedence
const PATTERNS: [(Sign, &str, &str); 9] = [
    (
        Sign::Begins("java.lang.OutOfMemoryError"),
        "OOM",
        "The JVM ran out of memory",
    ),
    (
        Sign::Begins("OutOfMemoryError: "),
        "OOM",
        "The JVM ran out of memory",
    ),
    (
        Sign::Begins("There is insufficient memory for the J"),
        "OOM",
        "The machine had too little memory for the JVM",
    ),
    (Sign::Begins("java.lang.StackOverflowError"), "STACK_OVERFLOW", ""),
    (
        Sign::Begins("java.lang.ClassNotFoundException"),
        "CLASS_NOT_FOUND",
        "",
    ),
    (
        Sign::Begins("java.lang.NoClassDefFoundError"),
        "CLASS_NOT_FOUND",
        "",
    ),
    (
        Sign::Begins("Failed to bind to port"),
        "PORT_BIND_FAILURE",
        "The port is in use",
    ),
    (
        Sign::Begins("**** FAILED TO BIND TO PORT"),
        "PORT_BIND_FAILURE",
        "The port is in use",
    ),
    (
        Sign::OfException("Address already in use"),
        "PORT_BIND_FAILURE",
        "The port is in use",
    ),
];

/// How a line shows a cause
///
/// Players write into the same log, but never the beginning of a line, nor what follows the header of one: a chat line
/// has a name there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sign {
    /// What the line says begins with this
    Begins(&'static str),
    /// It begins with the name of an exception, whose message has this
    OfException(&'static str),
}

impl Sign {
    fn is_in(self, said: &str) -> bool {
        match self {
            Self::Begins(text) => said.starts_with(text),
            Self::OfException(text) => exception(said).is_some_and(|message| message.contains(text)),
        }
    }
}

/// What a JVM and loggers write before the name of an exception
const INTRODUCTIONS: [&str; 8] = [
    "Caused by: ",
    "Suppressed: ",
    "The exception was: ",
    "Exception: ",
    "Terminating due to ",
    "Aborting due to ",
    "# ",
    "[CIRCULAR REFERENCE: ",
];

/// The most introductions that one line has
const MOST_INTRODUCTIONS: usize = 4;

/// What a line says: without colours, the header of its log, and what introduces an exception
fn said(line: &str) -> String {
    let plain = plain(line);
    let mut said = message(&plain).trim();
    for _ in 0..MOST_INTRODUCTIONS {
        let introduced = INTRODUCTIONS
            .iter()
            .find_map(|introduction| said.strip_prefix(introduction));
        let thrown = || {
            let (_thread, rest) = said.strip_prefix("Exception in thread \"")?.split_once("\" ")?;
            Some(rest)
        };
        match introduced.or_else(thrown) {
            Some(rest) => said = rest.trim_start(),
            None => break,
        }
    }
    said.to_owned()
}

/// The message of the exception whose name a line begins with; empty if it has none
fn exception(said: &str) -> Option<&str> {
    let (name, message) = said.split_once(':').unwrap_or((said, ""));
    let is_name = name.contains('.')
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._$".contains(&byte))
        && ["Exception", "Error"].iter().any(|kind| name.ends_with(kind));
    is_name.then_some(message)
}

/// How the line begins in which a JVM, or the program that loads it, says why it does not start
const COMPLAINTS: [&str; 25] = [
    "Unrecognized VM option ",
    "Unrecognized option: ",
    "Improperly specified VM option ",
    "Missing +/- setting for VM option ",
    "Unexpected +/- setting in VM option ",
    "VM option '",
    "Invalid maximum heap size: ",
    "Invalid initial heap size: ",
    "Invalid thread stack size: ",
    "Conflicting collector combinations in option list",
    "Error: Could not find or load main class ",
    "Error: Main method not found in class ",
    "Error: Unable to access jarfile ",
    "Error: Invalid or corrupt jarfile ",
    "Error opening zip file or JAR manifest missing : ",
    "Could not find agent library ",
    "no main manifest attribute, in ",
    "The Java thread stack size specified is too small",
    "Invalid -Xlog option ",
    "Error: could not open ",
    "Error: VM option '",
    "Error: Unmatched quote in ",
    "Error: -",
    "Could not open settings file ",
    "error: source file not found: ",
];

/// What the program that loads a JVM says last if that refuses its options: the line before it says why
const REFUSED: &str = "Error: Could not create the Java Virtual Machine.";

/// Lines whose next one says it
const HEADINGS: [&str; 4] = [
    "Error occurred during initialization of boot layer",
    "Error occurred during initialization of VM",
    "Error: LinkageError occurred while loading main class ",
    "Error: Unable to initialize main class ",
];

/// How far from the end a complaint may stand: a JVM that does not start says little more
const COMPLAINT_WITHIN: usize = 20;

const MAX_CAUSE_CHARS: usize = 200;

/// Judges a crash by the tail of its output and its exit code
///
/// ```
/// let tail = ["[main] ERROR start".to_owned(), "java.lang.OutOfMemoryError: Java heap space".to_owned()];
/// assert_eq!(prexorcloud_controller::crash::diagnose(&tail, 1).classification, "OOM");
/// ```
#[must_use]
pub fn diagnose(log_tail: &[String], exit_code: i32) -> Diagnosis {
    let diagnosis = cause_of(log_tail, exit_code);
    Diagnosis {
        // It quotes a line of the server's.
        cause: redact::urls(&diagnosis.cause).into_owned(),
        ..diagnosis
    }
}

fn cause_of(log_tail: &[String], exit_code: i32) -> Diagnosis {
    if let Some(cause) = late_start(log_tail) {
        return Diagnosis {
            classification: "STARTUP_TIMEOUT",
            signature: signature("STARTUP_TIMEOUT", &cause, ""),
            cause,
        };
    }
    let pattern = pattern(log_tail);
    let complaint = complaint(log_tail);
    let exception = last_exception(log_tail);
    let (classification, known_cause) = match pattern {
        Some(known) => known,
        None if complaint.is_some() => ("JVM_START", ""),
        None => (by_exit_code(exit_code), ""),
    };
    let cause = if let Some(complaint) = complaint {
        complaint.chars().take(MAX_CAUSE_CHARS).collect()
    } else if !known_cause.is_empty() {
        known_cause.to_owned()
    } else if let Some(exception) = exception {
        exception.chars().take(MAX_CAUSE_CHARS).collect()
    } else {
        exit_phrase(exit_code)
    };
    let frame = log_tail
        .iter()
        .rev()
        .map(|line| line.trim())
        .find(|line| line.starts_with("at "));
    let signature = signature(classification, &cause, frame.unwrap_or_default());
    Diagnosis {
        classification,
        cause,
        signature,
    }
}

/// The classification and the cause by the first pattern that a line shows
fn pattern(log_tail: &[String]) -> Option<(&'static str, &'static str)> {
    let said: Vec<String> = log_tail.iter().map(|line| said(line)).collect();
    PATTERNS
        .iter()
        .find(|(sign, ..)| said.iter().any(|said| sign.is_in(said)))
        .map(|(_, classification, cause)| (*classification, *cause))
}

/// What the daemon adds to the tail of a server that it stopped because it was not ready in time, unless something worse is
/// in it
fn late_start(log_tail: &[String]) -> Option<String> {
    const MARK: &str = "[prexorcloud] ";
    let [.., before, last] = log_tail else { return None };
    let limit = last
        .strip_prefix(MARK)
        .filter(|text| text.starts_with("not ready within "))?;
    if pattern(log_tail).is_some() {
        return None;
    }
    let missing = before
        .strip_prefix(MARK)
        .filter(|text| text.starts_with("waiting for "));
    let cause = match missing {
        Some(missing) => format!("{limit}: {missing}"),
        None => limit.to_owned(),
    };
    Some(cause.chars().take(MAX_CAUSE_CHARS).collect())
}

fn by_exit_code(exit_code: i32) -> &'static str {
    match exit_code {
        0 => "CLEAN",
        1 => "GENERAL_ERROR",
        130 => "SIGINT",
        134 => "SIGABRT",
        137 => "SIGKILL",
        139 => "SIGSEGV",
        143 => "SIGTERM",
        UNOBSERVED => "UNOBSERVED",
        _ => "UNKNOWN",
    }
}

fn exit_phrase(exit_code: i32) -> String {
    match exit_code {
        130 => "Interrupted (SIGINT)".to_owned(),
        134 => "Aborted (SIGABRT)".to_owned(),
        137 => "Killed (SIGKILL)".to_owned(),
        139 => "Crashed in native code (SIGSEGV)".to_owned(),
        143 => "Terminated (SIGTERM)".to_owned(),
        UNOBSERVED => "Nobody saw how the process ended".to_owned(),
        code => format!("Exit code {code}"),
    }
}

/// What the JVM says about not starting
fn complaint(log_tail: &[String]) -> Option<String> {
    let near_the_end = log_tail.len().saturating_sub(COMPLAINT_WITHIN);
    let lines: Vec<&str> = log_tail
        .iter()
        .skip(near_the_end)
        .map(|line| line.trim())
        .collect();
    let known = lines.iter().enumerate().find_map(|(index, line)| {
        if COMPLAINTS.iter().any(|complaint| line.starts_with(complaint)) {
            return Some((*line).to_owned());
        }
        if !HEADINGS.iter().any(|heading| line.starts_with(heading)) {
            return None;
        }
        let detail = lines.get(index + 1).filter(|detail| !detail.is_empty());
        Some(detail.map_or_else(|| (*line).to_owned(), |detail| format!("{line}: {detail}")))
    });
    known.or_else(|| {
        let refused = lines.iter().rposition(|line| *line == REFUSED)?;
        let mut before = lines.get(..refused)?.iter().rev();
        before
            .find(|line| !line.is_empty())
            .map(|line| (*line).to_owned())
    })
}

/// The last line that reads like `some.package.NameException: message`, without the header of the log
fn last_exception(log_tail: &[String]) -> Option<String> {
    let line = log_tail
        .iter()
        .rev()
        .find(|line| exception(&said(line)).is_some())?;
    Some(message(&plain(line)).trim().to_owned())
}

fn signature(classification: &str, cause: &str, frame: &str) -> String {
    let text = without_numbers(&format!("{classification}|{cause}|{frame}"));
    let digest = Sha256::digest(text.as_bytes());
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Every run of digits becomes one `N`
fn without_numbers(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut in_number = false;
    for character in text.chars() {
        let digit = character.is_ascii_digit();
        if !digit {
            plain.push(character);
        } else if !in_number {
            plain.push('N');
        }
        in_number = digit;
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_that_was_late_is_told_with_what_was_missing() {
        let tail = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
        let late = [
            "Loading",
            "[prexorcloud] waiting for port 30000",
            "[prexorcloud] not ready within 60 s",
        ];
        let diagnosis = diagnose(&tail(&late), 0);
        assert_eq!(diagnosis.classification, "STARTUP_TIMEOUT");
        assert_eq!(diagnosis.cause, "not ready within 60 s: waiting for port 30000");
        let bare = diagnose(&tail(&["Loading", "[prexorcloud] not ready within 60 s"]), 143);
        assert_eq!(bare.cause, "not ready within 60 s");
        let worse = [
            "java.lang.OutOfMemoryError: x",
            "[prexorcloud] not ready within 60 s",
        ];
        assert_eq!(diagnose(&tail(&worse), 0).classification, "OOM");
        // What a server prints last is not the daemon's word.
        let own = diagnose(&tail(&["a", "[prexorcloud] not ready within 60 s", "b"]), 0);
        assert_eq!(own.classification, "CLEAN");
    }

    fn judge(lines: &[&str], exit_code: i32) -> Diagnosis {
        diagnose(
            &lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>(),
            exit_code,
        )
    }

    #[test]
    fn patterns_come_before_exit_codes() {
        let cases: [(&[&str], i32, &str, &str); 9] = [
            (
                &["x", "java.lang.OutOfMemoryError: Java heap space"],
                1,
                "OOM",
                "The JVM ran out of memory",
            ),
            (
                &["There is insufficient memory for the JRE"],
                1,
                "OOM",
                "The machine had too little memory for the JVM",
            ),
            (
                &["Exception in thread \"main\" java.lang.StackOverflowError"],
                1,
                "STACK_OVERFLOW",
                "Exception in thread \"main\" java.lang.StackOverflowError",
            ),
            (
                &["Caused by: java.lang.NoClassDefFoundError: a/B"],
                1,
                "CLASS_NOT_FOUND",
                "Caused by: java.lang.NoClassDefFoundError: a/B",
            ),
            (
                &["**** FAILED TO BIND", "Failed to bind to port 25565"],
                1,
                "PORT_BIND_FAILURE",
                "The port is in use",
            ),
            (
                &["java.io.IOException: disk", "\tat a.B.c(B.java:3)", "bye"],
                1,
                "GENERAL_ERROR",
                "java.io.IOException: disk",
            ),
            (&["bye"], 137, "SIGKILL", "Killed (SIGKILL)"),
            (&[], 0, "CLEAN", "Exit code 0"),
            (&["bye"], 77, "UNKNOWN", "Exit code 77"),
        ];
        for (lines, exit_code, classification, cause) in cases {
            let diagnosis = judge(lines, exit_code);
            assert_eq!(
                (diagnosis.classification, diagnosis.cause.as_str()),
                (classification, cause)
            );
        }
    }

    #[test]
    fn what_the_jvm_complains_of_is_the_cause() {
        let cases: [(&[&str], &str, &str); 7] = [
            (
                &[
                    "Unrecognized VM option 'UseFoo'",
                    "Error: Could not create the Java Virtual Machine.",
                    "Error: A fatal exception has occurred. Program will exit.",
                ],
                "JVM_START",
                "Unrecognized VM option 'UseFoo'",
            ),
            (
                &[
                    "Error: Could not find or load main class a.B",
                    "Caused by: java.lang.ClassNotFoundException: a.B",
                ],
                "CLASS_NOT_FOUND",
                "Error: Could not find or load main class a.B",
            ),
            (
                &["Error: Unable to access jarfile /srv/none.jar"],
                "JVM_START",
                "Error: Unable to access jarfile /srv/none.jar",
            ),
            (
                &[
                    "Error occurred during initialization of VM",
                    "Could not reserve enough space for 999999744KB object heap",
                ],
                "JVM_START",
                "Error occurred during initialization of VM: Could not reserve enough space for 999999744KB object heap",
            ),
            (
                &[
                    "Error occurred during initialization of VM",
                    "java.lang.OutOfMemoryError: unable to create native thread",
                ],
                "OOM",
                "Error occurred during initialization of VM: java.lang.OutOfMemoryError: unable to create native thread",
            ),
            (
                &[
                    "Error: LinkageError occurred while loading main class a.B",
                    "\tjava.lang.UnsupportedClassVersionError: a/B has been compiled by a more recent version",
                ],
                "JVM_START",
                "Error: LinkageError occurred while loading main class a.B: java.lang.UnsupportedClassVersionError: a/B has been compiled by a more recent version",
            ),
            (
                &["no main manifest attribute, in a.jar"],
                "JVM_START",
                "no main manifest attribute, in a.jar",
            ),
        ];
        for (lines, classification, cause) in cases {
            let diagnosis = judge(lines, 1);
            assert_eq!(
                (diagnosis.classification, diagnosis.cause.as_str()),
                (classification, cause)
            );
        }
        let mut long_ago = vec!["Unrecognized VM option 'of a program that a plugin started'"];
        long_ago.extend(["tick"; COMPLAINT_WITHIN]);
        assert_eq!(judge(&long_ago, 1).cause, "Exit code 1");
    }

    #[test]
    fn what_a_player_says_is_no_cause() {
        for line in [
            "[12:00:00 INFO]: <bob> java.lang.OutOfMemoryError: Java heap space",
            "[12:00:00] [Server thread/INFO]: <bob> Caused by: java.lang.StackOverflowError",
            "[12:00:00] [Async Chat Thread - #1/INFO]: [Not Secure] <bob> java.lang.OutOfMemoryError",
            "[12:00:00 INFO]: [Server] java.lang.OutOfMemoryError",
            "[12:00:00 INFO]: bob: Exception in thread \"main\" java.lang.NoClassDefFoundError: a/B",
            "[12:00:00 INFO]: \u{1b}[33m<bob>\u{1b}[m There is insufficient memory for the Java Runtime Environment",
            "[12:00:00 INFO]: <bob> Failed to bind to port 1",
            "[12:00:00 INFO]: <bob> java.net.BindException: Address already in use",
            "[12:00:00 INFO]: bob issued server command: /msg a java.lang.OutOfMemoryError: x",
            "<bob> a.bException: x",
            "bob joined with a.bException: x",
        ] {
            let diagnosis = judge(&[line], 1);
            assert_eq!(
                (diagnosis.classification, diagnosis.cause.as_str()),
                ("GENERAL_ERROR", "Exit code 1"),
                "{line}"
            );
        }
    }

    #[test]
    fn what_a_jvm_or_a_server_says_of_itself_is() {
        for (line, classification) in [
            ("java.lang.OutOfMemoryError", "OOM"),
            (
                "[12:00:00 WARN]: java.lang.OutOfMemoryError: Java heap space",
                "OOM",
            ),
            ("\u{1b}[31m[12:00:00 ERROR]: java.lang.OutOfMemoryError: x", "OOM"),
            (
                "Exception in thread \"Server thread\" java.lang.OutOfMemoryError: x",
                "OOM",
            ),
            (
                "Terminating due to java.lang.OutOfMemoryError: Java heap space",
                "OOM",
            ),
            (
                "Exception: java.lang.OutOfMemoryError thrown from the UncaughtExceptionHandler in thread \"main\"",
                "OOM",
            ),
            ("OutOfMemoryError: Metaspace", "OOM"),
            (
                "# There is insufficient memory for the Java Runtime Environment to continue.",
                "OOM",
            ),
            ("Caused by: java.lang.StackOverflowError: null", "STACK_OVERFLOW"),
            (
                "[12:00:00 WARN]: **** FAILED TO BIND TO PORT!",
                "PORT_BIND_FAILURE",
            ),
            (
                "[12:00:00 WARN]: The exception was: java.net.BindException: Address already in use",
                "PORT_BIND_FAILURE",
            ),
            (
                "io.netty.channel.unix.Errors$NativeIoException: bind(..) failed: Address already in use",
                "PORT_BIND_FAILURE",
            ),
        ] {
            assert_eq!(judge(&[line], 1).classification, classification, "{line}");
        }
    }

    #[test]
    fn whatever_a_jvm_refuses_it_says_before_it_gives_up() {
        let last = [
            "Error: Could not create the Java Virtual Machine.",
            "Error: A fatal exception has occurred. Program will exit.",
        ];
        for (lines, cause) in [
            (
                &[
                    "",
                    "The Java thread stack size specified is too small. Specify at least 136k",
                ][..],
                "The Java thread stack size specified is too small. Specify at least 136k",
            ),
            (
                &[
                    "[0.001s][error][logging] Invalid tag 'bogus' in log selection.",
                    "Invalid -Xlog option '-Xlog:bogus', see error log for details.",
                ],
                "Invalid -Xlog option '-Xlog:bogus', see error log for details.",
            ),
            (
                &["uintx ReservedCodeCacheSize=1024 is outside the allowed range [ 4096 ... 9 ]"],
                "uintx ReservedCodeCacheSize=1024 is outside the allowed range [ 4096 ... 9 ]",
            ),
            (
                &["Unrecognized check option: -Xcheck:nope", ""],
                "Unrecognized check option: -Xcheck:nope",
            ),
        ] {
            let diagnosis = judge(&[lines, &last].concat(), 1);
            assert_eq!(
                (diagnosis.classification, diagnosis.cause.as_str()),
                ("JVM_START", cause)
            );
        }
        assert_eq!(
            judge(&["Error: could not open `/nope'"], 1).cause,
            "Error: could not open `/nope'"
        );
        assert_eq!(judge(&last, 1).cause, "Exit code 1");
    }

    #[test]
    fn a_cause_quotes_no_credentials() {
        let line = "java.io.IOException: https://bob:hunter2@repo.example/x.jar?token=hunter2 answered 404";
        let cause = judge(&[line], 1).cause;
        assert!(
            !cause.contains("hunter2") && cause.contains("repo.example/x.jar"),
            "{cause}"
        );
    }

    #[test]
    fn an_end_that_nobody_saw_is_called_so() {
        let diagnosis = judge(&["[Server] ticking"], UNOBSERVED);
        assert_eq!(
            (diagnosis.classification, diagnosis.cause.as_str()),
            ("UNOBSERVED", "Nobody saw how the process ended")
        );
    }

    #[test]
    fn the_signature_ignores_numbers_and_nothing_else() {
        let of = |line: &str, frame: &str| judge(&[line, frame], 1).signature;
        let first = of("java.io.IOException: chunk 17 of 200", "  at a.B.c(B.java:31)");
        assert_eq!(
            first,
            of("java.io.IOException: chunk 4 of 9", "  at a.B.c(B.java:7)")
        );
        assert_ne!(
            first,
            of("java.io.IOException: chunk 4 of 9", "  at a.B.d(B.java:7)")
        );
        assert_ne!(
            first,
            of("java.io.EOFException: chunk 4 of 9", "  at a.B.c(B.java:7)")
        );
        assert_eq!(first.len(), 16);
    }

    #[test]
    fn a_long_message_is_cut() {
        let message = format!("java.lang.IllegalStateException: {}", "\u{e9}".repeat(5000));
        assert_eq!(judge(&[&message], 1).cause.chars().count(), MAX_CAUSE_CHARS);
    }
}
