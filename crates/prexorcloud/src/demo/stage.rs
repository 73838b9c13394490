//! What the audience sees: sections, live lines, and the summary in the end

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::time::{Duration, Instant};

use prexorctl::output::{Colour, Paint};
use prexorctl::printable;

/// One step that went as it should
#[derive(Debug)]
struct Passed {
    title: &'static str,
    seen: String,
    took: Duration,
}

/// Standard output, and a record of what was shown
#[derive(Debug)]
pub struct Stage {
    paint: Paint,
    passed: Vec<Passed>,
    current: Option<(&'static str, Instant)>,
}

impl Stage {
    pub fn new(paint: Paint) -> Self {
        Self {
            paint,
            passed: Vec::new(),
            current: None,
        }
    }

    /// Says what this is
    pub fn open(&self, lines: &[&str]) {
        self.say(&self.paint.paint(Colour::Strong, "PrexorCloud demo"));
        for line in lines {
            self.say(line);
        }
    }

    /// Begins a step: what happens, and why it matters
    pub fn begin(&mut self, title: &'static str, why: &str) {
        let number = self.passed.len() + 1;
        self.say(&format!(
            "\n{}",
            self.paint.paint(Colour::Strong, &format!("{number:>2}  {title}"))
        ));
        self.say(&format!("    {}", self.paint.paint(Colour::Dim, why)));
        self.current = Some((title, Instant::now()));
    }

    /// A fact worth knowing
    pub fn fact(&self, text: &str) {
        self.say(&format!("    {}", shown(text)));
    }

    /// A line of a server's console
    pub fn console(&self, instance: &str, line: &str) {
        let prefix = self.paint.paint(Colour::Accent, &format!("{instance} |"));
        self.say(&format!("    {prefix} {}", shown(line)));
    }

    /// An instance changed its state
    pub fn state(&self, instance: &str, state: &str) {
        let prefix = self.paint.paint(Colour::Accent, &format!("{instance} >"));
        self.say(&format!(
            "    {prefix} {}",
            self.paint.state(&printable::short(state, 40))
        ));
    }

    /// The step went as it should, which showed in `seen`
    pub fn pass(&mut self, seen: impl Into<String>) {
        let Some((title, began)) = self.current.take() else {
            return;
        };
        let seen = printable::short(&seen.into(), 60);
        let took = began.elapsed();
        let mark = self.paint.paint(Colour::Good, "ok");
        let time = self
            .paint
            .paint(Colour::Dim, &format!("({} ms)", took.as_millis()));
        self.say(&format!("    {mark}  {seen}  {time}"));
        self.passed.push(Passed { title, seen, took });
    }

    /// The step that did not go as it should, if one was begun
    pub fn failing(&self) -> Option<(usize, &'static str)> {
        self.current.map(|(title, _)| (self.passed.len() + 1, title))
    }

    /// Each step, what was seen, and how long it took
    pub fn summary(&self) {
        let mut text = String::new();
        let widest = |width: fn(&Passed) -> usize| self.passed.iter().map(width).max().unwrap_or(0);
        let titles = widest(|step| step.title.chars().count());
        let seen = widest(|step| step.seen.chars().count());
        let heading = format!("{:>2}  {:titles$}  {:seen$}  {:>6}", "#", "step", "seen", "ms");
        let _infallible = writeln!(text, "\n{}", self.paint.paint(Colour::Strong, &heading));
        for (index, step) in self.passed.iter().enumerate() {
            let line = format!(
                "{:>2}  {:titles$}  {:seen$}  {:>6}",
                index + 1,
                step.title,
                step.seen,
                step.took.as_millis()
            );
            let _infallible = writeln!(text, "{line}");
        }
        let total: Duration = self.passed.iter().map(|step| step.took).sum();
        let _infallible = write!(
            text,
            "    {:titles$}  {:seen$}  {:>6}",
            "all",
            "",
            total.as_millis()
        );
        self.say(&text);
    }

    /// Prints one line; a reader that went away is no reason to stop half-way
    pub fn say(&self, text: &str) {
        let mut stdout = io::stdout().lock();
        let _ = writeln!(stdout, "{text}");
        let _ = stdout.flush();
    }
}

/// One line, harmless and of a bearable length
fn shown(text: &str) -> String {
    printable::short(&text.replace('\t', "    "), 160)
}
