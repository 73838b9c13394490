//! What a preparation has passed over without failing, for whoever looks at the console of the instance
//!
//! The protocol has no message for it: an acknowledgement of a start tells failures. So it stands in the daemon's log, and at the
//! beginning of the console, which every controller shows.

/// Notes that are shown of one preparation; the rest is counted
const MOST: usize = 16;

/// Characters of one of them
const LONGEST: usize = 400;

/// Notes in the order in which they came
#[derive(Debug, Default)]
pub(super) struct Notes {
    said: Vec<String>,
    more: usize,
}

impl Notes {
    /// Adds one
    pub(super) fn add(&mut self, note: String) {
        tracing::debug!("{note}");
        if self.said.len() < MOST {
            self.said.push(note.chars().take(LONGEST).collect());
        } else {
            self.more += 1;
        }
    }

    /// Adds those of another step
    pub(super) fn extend(&mut self, others: Self) {
        for note in others.said {
            if self.said.len() < MOST {
                self.said.push(note);
            } else {
                self.more += 1;
            }
        }
        self.more += others.more;
    }

    /// One line each
    pub(super) fn into_lines(self) -> Vec<String> {
        let mut lines: Vec<String> = self
            .said
            .into_iter()
            .map(|note| note.replace(char::is_control, " "))
            .collect();
        if self.more > 0 {
            lines.push(format!(
                "{} more notes of this start are in the daemon's log",
                self.more
            ));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_bounded_lines() {
        let (mut notes, mut others) = (Notes::default(), Notes::default());
        notes.add("a\nb".to_owned());
        for _ in 0..MOST {
            others.add("x".repeat(LONGEST + 1));
        }
        others.add("too many".to_owned());
        notes.extend(others);
        let lines = notes.into_lines();
        assert_eq!(lines.len(), MOST + 1);
        assert_eq!((lines[0].as_str(), lines[1].len()), ("a b", LONGEST));
        assert_eq!(lines[MOST], "2 more notes of this start are in the daemon's log");
    }
}
