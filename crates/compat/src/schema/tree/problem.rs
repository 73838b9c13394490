//! Why a tree cannot be compiled: every reason with its file and line

use std::fmt;

use miette::{Diagnostic, LabeledSpan};
use prost_types::FileDescriptorProto;

/// One reason why a tree of `.proto` files cannot be compiled
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Problem {
    /// The name of the file, as other files import it
    pub file: String,
    /// From 1, where a line is to blame
    pub line: Option<u32>,
    /// What is wrong, in one sentence
    pub reason: String,
}

/// `shop/order.proto:3: expected ';', but found '}'`
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.file, self.reason),
            None => write!(f, "{}: {}", self.file, self.reason),
        }
    }
}

/// The line at a byte of a text, from 1.
pub(super) fn line_at(text: &[u8], offset: usize) -> u32 {
    let before = text.get(..offset).unwrap_or(text);
    let breaks = before.iter().filter(|byte| **byte == b'\n').count();
    u32::try_from(breaks).map_or(u32::MAX, |breaks| breaks.saturating_add(1))
}

/// The line of the element at `path`, or of the closest one around it that has a position.
pub(super) fn line_of(file: &FileDescriptorProto, path: &[i32]) -> Option<u32> {
    let positions = &file.source_code_info.as_ref()?.location;
    (1..=path.len()).rev().find_map(|length| {
        let path = path.get(..length)?;
        let found = positions.iter().find(|position| position.path == path)?;
        u32::try_from(*found.span.first()?).ok()?.checked_add(1)
    })
}

/// Everything that the compiler has to say about one file.
pub(super) fn problems(file: &str, text: &str, error: &dyn Diagnostic) -> Vec<Problem> {
    std::iter::once(error)
        .chain(error.related().into_iter().flatten())
        .map(|error| problem(file, text, error))
        .collect()
}

fn problem(file: &str, text: &str, error: &dyn Diagnostic) -> Problem {
    let labels: Vec<_> = error.labels().into_iter().flatten().collect();
    // Of two places one is at fault; where the range or the first namesake was defined only explains it.
    let labelled = |text: &str| {
        labels
            .iter()
            .find(|label| label.label().is_some_and(|label| label.contains(text)))
    };
    let is_bare = |label: &&LabeledSpan| label.label().is_some_and(|label| label == "defined here");
    let at_fault = labelled("found")
        .or(labelled("again"))
        .or(labels.iter().find(is_bare))
        .or(labels.first());
    let mut reason = error.to_string();
    let offset = match at_fault {
        Some(label) => Some(label.offset()),
        None if reason.ends_with("end of file") => Some(text.trim_end().len()),
        None => None,
    };
    if let Some(help) = error.help() {
        reason.push_str(&format!(" ({help})"));
    }
    Problem {
        file: file.to_owned(),
        line: offset.map(|offset| line_at(text.as_bytes(), offset)),
        reason,
    }
}
