//! What a field may hold, and what our own messages do about a field that holds too much
//!
//! A rule is written once beside its field. From there the validator asks [`Judge::check`], the shortener
//! [`Judge::fit`], and the documentation [`Rule::tell`], so the three cannot drift apart. Rules are plain values that
//! are known when the crate is compiled; nothing is looked up when a message is checked.

use crate::id::{Incarnation, InvalidName};
use crate::instance::State;
use crate::limits::{fits, shorten};
use crate::validate::{Fault, Invalid};

pub(crate) type Checked = Result<(), Invalid>;

pub(super) fn ensure(field: &'static str, holds: bool, fault: Fault) -> Checked {
    if holds {
        Ok(())
    } else {
        Err(Invalid { field, fault })
    }
}

/// A field, its rule in words, and what a sender of ours does to obey it
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldRule {
    /// The field within the message; a dot leads into a message, `[]` into the entries of a list or map.
    pub field: String,
    /// What it may hold.
    pub rule: String,
    /// What is done to a message of ours that holds something else.
    pub otherwise: Otherwise,
}

/// What becomes of a field of our own that breaks its rule
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Otherwise {
    /// Nothing: the message is not sent.
    Refused,
    /// Text is cut at a character, with a marker at its end where there is room.
    Shortened,
    /// The field is left out.
    Cleared,
    /// A number is brought into its range.
    Clamped,
    /// Entries that break the rule are left out.
    Dropped,
    /// The oldest entries are left out.
    OldestDropped,
}

impl Otherwise {
    /// The word that the documentation uses.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Shortened => "shortened",
            Self::Cleared => "left out",
            Self::Clamped => "clamped",
            Self::Dropped => "entry left out",
            Self::OldestDropped => "oldest left out",
        }
    }
}

/// A rule that can be told
pub(super) trait Rule {
    /// Appends the rule of `field`, and those of what is inside of it.
    fn tell(&self, field: &str, rules: &mut Vec<FieldRule>);
}

/// A rule for values of type `T`
pub(super) trait Judge<T: ?Sized>: Rule {
    fn check(&self, field: &'static str, value: &T) -> Checked;

    fn fit(&self, _value: &mut T) {}
}

pub(super) fn told(field: &str, rule: impl Into<String>, otherwise: Otherwise, rules: &mut Vec<FieldRule>) {
    rules.push(FieldRule {
        field: field.to_owned(),
        rule: rule.into(),
        otherwise,
    });
}

/// The messages whose fields have rules
pub(crate) trait Fields {
    fn check(&self) -> Checked;
    fn fit(&mut self);
    fn tell(prefix: &str, rules: &mut Vec<FieldRule>);
}

/// Writes down the fields of a message that have rules, in the order in which they are judged
///
/// `whole` names a rule about the message as one, after all others.
macro_rules! fields {
    ($message:ident as $label:literal { $($field:ident: $($rule:expr),+;)* } $(whole $whole:expr;)?) => {
        impl Fields for prexorcloud_proto::$message {
            fn check(&self) -> Checked {
                $($(Judge::check(&$rule, concat!($label, ".", stringify!($field)), &self.$field)?;)+)*
                $(Judge::check(&$whole, $label, self)?;)?
                Ok(())
            }

            fn fit(&mut self) {
                $($(Judge::fit(&$rule, &mut self.$field);)+)*
                $(Judge::fit(&$whole, self);)?
            }

            fn tell(_prefix: &str, _rules: &mut Vec<FieldRule>) {
                $($($crate::payload::rule::Rule::tell(
                    &$rule,
                    &format!("{_prefix}{}", stringify!($field)),
                    _rules,
                );)+)*
                $($crate::payload::rule::Rule::tell(&$whole, _prefix, _rules);)?
            }
        }
    };
}
pub(super) use fields;

/// A safe name, of the kind that the parser is for
pub(super) struct Name<T>(pub(super) fn(&str) -> Result<T, InvalidName>);

impl<T> Rule for Name<T> {
    fn tell(&self, field: &str, rules: &mut Vec<FieldRule>) {
        told(field, "a safe name", Otherwise::Refused, rules);
    }
}

impl<T> Judge<String> for Name<T> {
    #[inline]
    fn check(&self, field: &'static str, value: &String) -> Checked {
        self.0(value).map(drop).map_err(|invalid| Invalid {
            field,
            fault: Fault::Name(invalid),
        })
    }
}

/// The id of an instance; the field has the same name in every message, and the fault as well
pub(super) struct Instance;

impl Rule for Instance {
    fn tell(&self, field: &str, rules: &mut Vec<FieldRule>) {
        told(field, "a safe name", Otherwise::Refused, rules);
    }
}

impl Judge<String> for Instance {
    #[inline]
    fn check(&self, _field: &'static str, value: &String) -> Checked {
        crate::validate::instance_id(value).map(drop)
    }
}

/// Text of at most `limit` UTF-16 code units
pub(super) struct Text {
    limit: usize,
    required: bool,
    otherwise: Otherwise,
}

impl Text {
    const fn of(limit: usize, otherwise: Otherwise) -> Self {
        Self {
            limit,
            required: false,
            otherwise,
        }
    }

    pub(super) const fn refused(limit: usize) -> Self {
        Self::of(limit, Otherwise::Refused)
    }

    pub(super) const fn shortened(limit: usize) -> Self {
        Self::of(limit, Otherwise::Shortened)
    }

    pub(super) const fn cleared(limit: usize) -> Self {
        Self::of(limit, Otherwise::Cleared)
    }

    pub(super) const fn required(self) -> Self {
        Self {
            required: true,
            ..self
        }
    }

    #[inline]
    pub(super) fn judge(&self, field: &'static str, text: &str) -> Checked {
        ensure(field, !self.required || !text.trim().is_empty(), Fault::Blank)?;
        ensure(
            field,
            fits(text, self.limit),
            Fault::TooLong { limit: self.limit },
        )
    }
}

impl Rule for Text {
    fn tell(&self, field: &str, rules: &mut Vec<FieldRule>) {
        let required = if self.required { "not blank, " } else { "" };
        told(
            field,
            format!("{required}at most {} characters", self.limit),
            self.otherwise,
            rules,
        );
    }
}

impl Judge<String> for Text {
    #[inline]
    fn check(&self, field: &'static str, value: &String) -> Checked {
        self.judge(field, value)
    }

    fn fit(&self, value: &mut String) {
        match self.otherwise {
            Otherwise::Shortened => shorten(value, self.limit),
            Otherwise::Cleared if !fits(value, self.limit) => value.clear(),
            _ => {}
        }
    }
}

/// Text that becomes an argument, a variable or a path of a process, where a NUL would end it early
pub(super) struct NoNul;

impl Rule for NoNul {
    fn tell(&self, field: &str, rules: &mut Vec<FieldRule>) {
        told(field, "no NUL", Otherwise::Refused, rules);
    }
}

impl Judge<String> for NoNul {
    #[inline]
    fn check(&self, field: &'static str, value: &String) -> Checked {
        ensure(field, !value.contains('\0'), Fault::ControlCharacter)
    }
}

/// One line without control characters but the tab
pub(super) struct Line;

impl Line {
    pub(super) fn judge(&self, field: &'static str, text: &str) -> Checked {
        let clean = !text.chars().any(|c| c.is_control() && c != '\t');
        ensure(field, clean, Fault::ControlCharacter)
    }
}

impl Rule for Line {
    fn tell(&self, field: &str, rules: &mut Vec<FieldRule>) {
        told(field, "no control character but tab", Otherwise::Refused, rules);
    }
}

impl Judge<String> for Line {
    fn check(&self, field: &'static str, value: &String) -> Checked {
        self.judge(field, value)
    }
}

/// A number within bounds, both included
pub(super) struct Number {
    least: i64,
    most: Option<i64>,
    otherwise: Otherwise,
}

impl Number {
    /// Zero or more.
    pub(super) const fn natural(otherwise: Otherwise) -> Self {
        Self {
            least: 0,
            most: None,
            otherwise,
        }
    }

    pub(super) const fn within(least: i64, most: i64) -> Self {
        Self {
            least,
            most: Some(most),
            otherwise: Otherwise::Refused,
        }
    }

    #[inline]
    fn holds(&self, value: i64) -> bool {
        value >= self.least && self.most.is_none_or(|most| value <= most)
    }
}

impl Rule for Number {
    fn tell(&self, field: &str, rules: &mut Vec<FieldRule>) {
        let range = match self.most {
            Some(most) => format!("{} to {most}", self.least),
            None => format!("{} or more", self.least),
        };
        told(field, range, self.otherwise, rules);
    }
}

impl<N: Copy + Into<i64> + TryFrom<i64>> Judge<N> for Number {
    #[inline]
    fn check(&self, field: &'static str, value: &N) -> Checked {
        ensure(field, self.holds((*value).into()), Fault::OutOfRange)
    }

    fn fit(&self, value: &mut N) {
        let number: i64 = (*value).into();
        if self.otherwise == Otherwise::Clamped && !self.holds(number) {
            let clamped = number.max(self.least).min(self.most.unwrap_or(i64::MAX));
            *value = N::try_from(clamped).unwrap_or(*value);
        }
    }
}

/// The number of a start, low enough that a later one can be told from it
pub(super) struct Started;

impl Rule for Started {
    fn tell(&self, field: &str, rules: &mut Vec<FieldRule>) {
        let range = format!("at most {}", Incarnation::MAX_STARTED);
        told(field, range, Otherwise::Refused, rules);
    }
}

impl Judge<u64> for Started {
    #[inline]
    fn check(&self, field: &'static str, value: &u64) -> Checked {
        ensure(field, *value <= Incarnation::MAX_STARTED.get(), Fault::OutOfRange)
    }

    fn fit(&self, _: &mut u64) {}
}

/// A share of a whole
pub(super) struct Share;

impl Rule for Share {
    fn tell(&self, field: &str, rules: &mut Vec<FieldRule>) {
        told(field, "0 to 1", Otherwise::Clamped, rules);
    }
}

impl Judge<f64> for Share {
    #[inline]
    fn check(&self, field: &'static str, value: &f64) -> Checked {
        ensure(field, (0.0..=1.0).contains(value), Fault::OutOfRange)
    }

    fn fit(&self, value: &mut f64) {
        *value = if value.is_finite() {
            value.clamp(0.0, 1.0)
        } else {
            0.0
        };
    }
}

/// A state of an instance that this build knows, and that says something
pub(super) struct KnownState;

impl Rule for KnownState {
    fn tell(&self, field: &str, rules: &mut Vec<FieldRule>) {
        told(field, "a known state", Otherwise::Refused, rules);
    }
}

impl Judge<i32> for KnownState {
    #[inline]
    fn check(&self, field: &'static str, value: &i32) -> Checked {
        ensure(
            field,
            State::try_from(*value).is_ok(),
            Fault::UnknownValue { value: *value },
        )
    }
}
