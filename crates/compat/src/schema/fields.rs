//! Compares the fields and oneofs of one message

use std::collections::{BTreeMap, BTreeSet};

use super::model::{Cardinality, Field, Message};
use super::options::compare_options;
use super::report::Report;
use super::rule::Rule;

/// Reports every difference between the fields of two versions of the message `name`.
pub(super) fn compare_fields(report: &mut Report, name: &str, old: &Message, new: &Message) {
    let old_names: BTreeMap<_, _> = old.fields.values().map(|f| (f.name.as_str(), f)).collect();
    let new_names: BTreeMap<_, _> = new.fields.values().map(|f| (f.name.as_str(), f)).collect();
    let renamed_oneofs = compare_oneofs(report, name, old, new);

    for field in old.fields.values() {
        let element = format!("{name}.{}", field.name);
        let same_number = new.fields.get(&field.number);
        if let Some(same_name) = new_names.get(field.name.as_str()) {
            if same_name.number != field.number {
                let (from, to) = (field.number, same_name.number);
                report.add(
                    Rule::FieldRenumbered,
                    &element,
                    format!("number {from} became {to}"),
                );
            }
            compare_field(report, &element, field, same_name, &renamed_oneofs);
        } else if let Some(successor) =
            same_number.filter(|successor| !old_names.contains_key(successor.name.as_str()))
        {
            let message = format!("field {} is now called {}", field.number, successor.name);
            report.add(Rule::FieldRenamed, &element, message);
            compare_field(report, &element, field, successor, &renamed_oneofs);
        } else {
            match &field.oneof {
                Some(oneof) => report.add(
                    Rule::OneofVariantRemoved,
                    &element,
                    format!("variant {} of oneof {oneof} is gone", field.number),
                ),
                None => report.add(
                    Rule::FieldRemoved,
                    &element,
                    format!("field {} is gone", field.number),
                ),
            }
        }
    }

    for field in new.fields.values() {
        if old_names.contains_key(field.name.as_str()) {
            continue;
        }
        let element = format!("{name}.{}", field.name);
        let number = field.number;
        if let Some(former) = old.fields.get(&number) {
            // If the former field is gone this one is its renaming, reported above.
            if new_names.contains_key(former.name.as_str()) {
                let message = format!("number {number} belonged to {}", former.name);
                report.add(Rule::NumberReused, &element, message);
            }
            continue;
        }
        let is_reserved = old.reserved.contains(number.into()) || old.reserved_names.contains(&field.name);
        if field.cardinality == Cardinality::Required {
            let message = format!("required field {number} is new");
            report.add(Rule::RequiredFieldAdded, &element, message);
        } else if !is_reserved {
            match &field.oneof {
                Some(oneof) if old.oneofs.contains_key(oneof) => report.add(
                    Rule::OneofVariantAdded,
                    &element,
                    format!("variant {number} of oneof {oneof} is new"),
                ),
                _ => report.add(
                    Rule::FieldAdded,
                    &element,
                    format!("field {number} of type {} is new", field.described()),
                ),
            }
        }
    }
}

/// Reports added, removed and renamed oneofs; returns the renamed ones, old name to new.
fn compare_oneofs(report: &mut Report, name: &str, old: &Message, new: &Message) -> BTreeMap<String, String> {
    let mut renamed = BTreeMap::new();
    for (oneof, options) in &old.oneofs {
        let element = format!("{name}.{oneof}");
        if let Some(kept) = new.oneofs.get(oneof) {
            compare_options(report, &element, "oneof", options, kept);
            continue;
        }
        // Where the variants that still exist went.
        let homes: BTreeSet<_> = old
            .fields
            .values()
            .filter(|field| field.oneof.as_ref() == Some(oneof))
            .filter_map(|field| new.fields.get(&field.number))
            .map(|field| field.oneof.as_ref())
            .collect();
        let home = homes.first().copied().flatten();
        match home {
            Some(home) if homes.len() == 1 && !old.oneofs.contains_key(home) => {
                report.add(
                    Rule::OneofRenamed,
                    element,
                    format!("the oneof is now called {home}"),
                );
                renamed.insert(oneof.clone(), home.clone());
            }
            _ => report.add(Rule::OneofRemoved, element, "the oneof is gone"),
        }
    }
    for oneof in new.oneofs.keys() {
        if !old.oneofs.contains_key(oneof) && !renamed.values().any(|home| home == oneof) {
            report.add(Rule::OneofAdded, format!("{name}.{oneof}"), "the oneof is new");
        }
    }
    renamed
}

/// Reports what changed about a field that is taken for the same on both sides.
fn compare_field(
    report: &mut Report,
    element: &str,
    old: &Field,
    new: &Field,
    renamed_oneofs: &BTreeMap<String, String>,
) {
    let before = old
        .oneof
        .as_ref()
        .map(|oneof| renamed_oneofs.get(oneof).unwrap_or(oneof));
    match (before, new.oneof.as_ref()) {
        (None, Some(to)) => report.add(
            Rule::FieldEnteredOneof,
            element,
            format!("the field moved into oneof {to}"),
        ),
        (Some(from), None) => report.add(
            Rule::FieldLeftOneof,
            element,
            format!("the field moved out of oneof {from}"),
        ),
        (Some(from), Some(to)) if from != to => report.add(
            Rule::FieldChangedOneof,
            element,
            format!("the field moved from oneof {from} to oneof {to}"),
        ),
        _ => {}
    }
    let stays_outside = old.oneof.is_none() && new.oneof.is_none();
    compare_shape(report, element, old, new, stays_outside);
}

/// What fields and extensions have in common.
pub(super) fn compare_shape(
    report: &mut Report,
    element: &str,
    old: &Field,
    new: &Field,
    judge_optional: bool,
) {
    if old.kind != new.kind {
        report.add(
            Rule::FieldTypeChanged,
            element,
            format!("{} became {}", old.described(), new.described()),
        );
    }
    if old.cardinality != new.cardinality {
        let (from, to) = (old.cardinality.as_str(), new.cardinality.as_str());
        report.add(
            Rule::FieldCardinalityChanged,
            element,
            format!("{from} became {to}"),
        );
    } else if judge_optional && old.optional != new.optional && !old.is_message() && !new.is_message() {
        if new.optional {
            report.add(
                Rule::FieldGainedOptional,
                element,
                "the field is now marked optional",
            );
        } else {
            report.add(
                Rule::FieldLostOptional,
                element,
                "the field is no longer marked optional",
            );
        }
    }
    // A renamed field has another derived JSON name, which the renaming already says.
    if old.json_name != new.json_name && old.name == new.name {
        report.add(
            Rule::JsonNameChanged,
            element,
            format!("{:?} became {:?}", old.json_name, new.json_name),
        );
    }
    let same_number = old.default_number.is_some() && old.default_number == new.default_number;
    if old.default != new.default && !same_number {
        let shown = |default: &Option<String>| match default {
            Some(value) => format!("{value:?}"),
            None => "none".to_owned(),
        };
        report.add(
            Rule::DefaultChanged,
            element,
            format!("{} became {}", shown(&old.default), shown(&new.default)),
        );
    }
    if old.packed != new.packed && old.sends_packed != new.sends_packed {
        report.add(Rule::PackingChanged, element, "the option packed changed");
    }
    compare_options(report, element, "field", &old.options, &new.options);
}
