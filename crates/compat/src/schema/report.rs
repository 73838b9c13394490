//! What the classifier found

use std::fmt;

use super::rule::{Class, Rule};

/// One difference between two schemas
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Finding {
    /// The full name of what changed, for instance `pkg.Message.field`, `pkg.Enum.VALUE` or `pkg.Service.Method`; for a
    /// file its path
    pub element: String,
    /// The kind of change
    pub rule: Rule,
    /// What exactly changed, as a sentence
    pub message: String,
}

impl Finding {
    /// The class of the change, which is the class of its rule
    #[must_use]
    pub const fn class(&self) -> Class {
        self.rule.class()
    }
}

/// `breaking field-removed pkg.Message.field: field 3 is gone`
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} {}: {}",
            self.class().as_str(),
            self.rule.id(),
            self.element,
            self.message
        )
    }
}

/// The judgement over a whole schema: the worst of its findings
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SchemaChange {
    /// The same after dropping comments, order and formatting
    Identical,
    /// Changed, and peers on either side keep working
    Additive,
    /// A peer could notice
    Breaking,
}

impl SchemaChange {
    /// `identical`, `additive` or `breaking`
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Identical => "identical",
            Self::Additive => "additive",
            Self::Breaking => "breaking",
        }
    }
}

impl fmt::Display for SchemaChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Every difference between two schemas
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    findings: Vec<Finding>,
}

impl Report {
    pub(super) fn add(&mut self, rule: Rule, element: impl Into<String>, message: impl Into<String>) {
        self.findings.push(Finding {
            element: element.into(),
            rule,
            message: message.into(),
        });
    }

    /// Breaking ones first, then by element, whatever the order of discovery.
    pub(super) fn sort(&mut self) {
        self.findings
            .sort_by(|a, b| b.class().cmp(&a.class()).then_with(|| a.cmp(b)));
        self.findings.dedup();
    }

    /// The differences: the breaking ones first, then by element
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// The worst class among the findings
    #[must_use]
    pub fn verdict(&self) -> SchemaChange {
        match self.findings.iter().map(Finding::class).max() {
            None => SchemaChange::Identical,
            Some(Class::Additive) => SchemaChange::Additive,
            Some(Class::Breaking) => SchemaChange::Breaking,
        }
    }
}

/// A report over findings from several places, for instance a tool that also compares custom options
impl FromIterator<Finding> for Report {
    fn from_iter<I: IntoIterator<Item = Finding>>(findings: I) -> Self {
        let mut report = Self {
            findings: findings.into_iter().collect(),
        };
        report.sort();
        report
    }
}
