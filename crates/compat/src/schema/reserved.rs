//! Compares what messages and enums keep from being used

use std::collections::{BTreeMap, BTreeSet};

use super::model::{Enum, Message};
use super::numbers::Numbers;
use super::report::Report;
use super::rule::Rule;

/// The reserved numbers and names of a message or an enum, and those in use.
pub(super) struct Reservations<'a> {
    numbers: &'a Numbers,
    names: &'a BTreeSet<String>,
    /// Name to number of each field or value.
    used: BTreeMap<&'a str, i64>,
}

impl<'a> Reservations<'a> {
    pub(super) fn of_message(message: &'a Message) -> Self {
        let fields = message.fields.values();
        Self {
            numbers: &message.reserved,
            names: &message.reserved_names,
            used: fields
                .map(|field| (field.name.as_str(), i64::from(field.number)))
                .collect(),
        }
    }

    pub(super) fn of_enum(declared: &'a Enum) -> Self {
        let values = declared.values.iter();
        Self {
            numbers: &declared.reserved,
            names: &declared.reserved_names,
            used: values
                .map(|(name, value)| (name.as_str(), i64::from(value.number)))
                .collect(),
        }
    }
}

/// Reports what was reserved, what was released and what took a reserved number or name.
pub(super) fn compare_reserved(
    report: &mut Report,
    name: &str,
    old: &Reservations<'_>,
    new: &Reservations<'_>,
) {
    let mut taken = Vec::new();
    for (&label, &number) in &new.used {
        let element = format!("{name}.{label}");
        if old.used.get(label) != Some(&number) && old.numbers.contains(number) {
            let text = format!("number {number} was reserved");
            report.add(Rule::ReservedNumberUsed, &element, text);
            taken.push((number, number.saturating_add(1)));
        }
        if !old.used.contains_key(label) && old.names.contains(label) {
            report.add(Rule::ReservedNameUsed, element, "the name was reserved");
        }
    }
    let reserved = new.numbers.without(old.numbers);
    if !reserved.is_empty() {
        report.add(Rule::NumberReserved, name, format!("{reserved} is reserved now"));
    }
    let released = old
        .numbers
        .without(new.numbers)
        .without(&Numbers::from_ranges(taken));
    if !released.is_empty() {
        let text = format!("{released} is no longer reserved");
        report.add(Rule::ReservedNumberReleased, name, text);
    }
    for added in new.names.difference(old.names) {
        let text = format!("the name {added} is reserved now");
        report.add(Rule::NameReserved, name, text);
    }
    for removed in old.names.difference(new.names) {
        if !new.used.contains_key(removed.as_str()) {
            let text = format!("the name {removed} is no longer reserved");
            report.add(Rule::ReservedNameReleased, name, text);
        }
    }
}
