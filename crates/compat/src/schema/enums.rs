//! Compares enums and their values

use std::collections::BTreeMap;

use super::model::{Enum, Schema, Syntax};
use super::options::compare_options;
use super::report::Report;
use super::reserved::{Reservations, compare_reserved};
use super::rule::Rule;
use super::types::{compare_origin, is_inside};

pub(super) fn compare_enums(report: &mut Report, old: &Schema, new: &Schema) {
    for (name, declared) in &old.enums {
        match new.enums.get(name) {
            Some(kept) => compare_enum(report, name, declared, kept),
            None => {
                if !is_inside(&declared.origin, |parent| !new.messages.contains_key(parent)) {
                    report.add(Rule::EnumRemoved, name, "the enum is gone");
                }
            }
        }
    }
    for (name, declared) in &new.enums {
        if !old.enums.contains_key(name)
            && !is_inside(&declared.origin, |parent| !old.messages.contains_key(parent))
        {
            report.add(Rule::EnumAdded, name, "the enum is new");
        }
    }
}

/// The names of each number, more than one if there are aliases.
fn by_number(declared: &Enum) -> BTreeMap<i32, Vec<&str>> {
    let mut names: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (label, value) in &declared.values {
        names.entry(value.number).or_default().push(label.as_str());
    }
    names
}

fn compare_enum(report: &mut Report, name: &str, old: &Enum, new: &Enum) {
    compare_origin(report, name, &old.origin, &new.origin);
    let (old_names, mut newcomers) = (by_number(old), by_number(new));
    for labels in newcomers.values_mut() {
        labels.retain(|label| !old.values.contains_key(*label));
        labels.reverse();
    }
    for (label, value) in &old.values {
        let element = format!("{name}.{label}");
        let number = value.number;
        if let Some(kept) = new.values.get(label) {
            if kept.number != number {
                report.add(
                    Rule::EnumValueRenumbered,
                    &element,
                    format!("number {number} became {}", kept.number),
                );
            }
            compare_options(report, &element, "value", &value.options, &kept.options);
            continue;
        }
        // With aliases several names may go and come; each newcomer succeeds one.
        match newcomers.get_mut(&number).and_then(Vec::pop) {
            Some(successor) => {
                let text = format!("value {number} is now called {successor}");
                report.add(Rule::EnumValueRenamed, element, text);
            }
            None => report.add(Rule::EnumValueRemoved, element, format!("value {number} is gone")),
        }
    }
    for (number, labels) in newcomers {
        let former = old_names.get(&number).map_or(&[][..], Vec::as_slice);
        let stays = former
            .iter()
            .any(|label| new.values.get(*label).is_some_and(|kept| kept.number == number));
        for label in labels {
            let element = format!("{name}.{label}");
            match former.first() {
                _ if old.reserved.contains(number.into()) || old.reserved_names.contains(label) => {}
                None => report.add(Rule::EnumValueAdded, &element, format!("value {number} is new")),
                Some(former) if stays => {
                    let text = format!("it is another name for {former}, number {number}");
                    report.add(Rule::EnumAliasAdded, &element, text);
                }
                Some(former) => {
                    let text = format!("number {number} belonged to {former}");
                    report.add(Rule::NumberReused, &element, text);
                }
            }
        }
    }
    // In proto3 the first value is always 0.
    if old.origin.syntax == Syntax::Proto2 && new.origin.syntax == Syntax::Proto2 && old.first != new.first {
        let shown = |first: Option<i32>| first.map_or_else(|| "none".to_owned(), |number| number.to_string());
        report.add(
            Rule::EnumDefaultChanged,
            name,
            format!(
                "the first value was {}, now {}",
                shown(old.first),
                shown(new.first)
            ),
        );
    }
    compare_reserved(
        report,
        name,
        &Reservations::of_enum(old),
        &Reservations::of_enum(new),
    );
    compare_options(report, name, "enum", &old.options, &new.options);
}
