//! Compares extensions, and those among them that are custom options

use std::collections::{BTreeMap, BTreeSet};

use super::fields::compare_shape;
use super::model::{Extension, Schema};
use super::report::Report;
use super::rule::Rule;
use super::types::{compare_origin, is_inside};

/// Reports every difference between two sets of extensions.
pub(super) fn compare_extensions(report: &mut Report, old: &Schema, new: &Schema) {
    let (old_messages, new_messages) = (&old.messages, &new.messages);
    let (old, new) = (&old.extensions, &new.extensions);
    // What an extension is on the wire. One that went and one that came in the same place are the same, renamed.
    let slot = |extension: &Extension| (extension.extendee.clone(), extension.field.number);
    let went: BTreeSet<_> = old
        .iter()
        .filter(|(name, _)| !new.contains_key(*name))
        .map(|(_, extension)| slot(extension))
        .collect();
    let came: BTreeMap<_, _> = new
        .iter()
        .filter(|(name, _)| !old.contains_key(*name))
        .map(|(name, extension)| (slot(extension), (name, extension)))
        .collect();
    for (name, extension) in old {
        let Some(kept) = new.get(name) else {
            let successor = came.get(&slot(extension));
            match successor {
                Some((other, candidate)) => {
                    report.add(
                        Rule::FieldRenamed,
                        name,
                        format!("the extension is now called {other}"),
                    );
                    compare_shape(report, name, &extension.field, &candidate.field, false);
                }
                None if is_inside(&extension.origin, |parent| !new_messages.contains_key(parent)) => {}
                None => report.add(
                    Rule::ExtensionRemoved,
                    name,
                    format!(
                        "extension {} of {} is gone",
                        extension.field.number, extension.extendee
                    ),
                ),
            }
            continue;
        };
        compare_origin(report, name, &extension.origin, &kept.origin);
        if kept.extendee != extension.extendee {
            report.add(
                Rule::ExtensionTargetChanged,
                name,
                format!("it extended {}, now {}", extension.extendee, kept.extendee),
            );
        }
        if kept.field.number != extension.field.number {
            report.add(
                Rule::FieldRenumbered,
                name,
                format!("number {} became {}", extension.field.number, kept.field.number),
            );
        }
        compare_shape(report, name, &extension.field, &kept.field, false);
    }
    for (name, extension) in new {
        if !old.contains_key(name)
            && !went.contains(&slot(extension))
            && !is_inside(&extension.origin, |parent| !old_messages.contains_key(parent))
        {
            report.add(
                Rule::ExtensionAdded,
                name,
                format!(
                    "extension {} of {} is new",
                    extension.field.number, extension.extendee
                ),
            );
        }
    }
}

/// Reports every difference between two sets of extensions of `google.protobuf.*Options`
///
/// They annotate descriptors and never travel, so that even their removal is no more than a changed option.
pub(super) fn compare_custom_options(report: &mut Report, old: &Schema, new: &Schema) {
    for (name, option) in &old.custom_options {
        match new.custom_options.get(name) {
            None if is_inside(&option.origin, |parent| !new.messages.contains_key(parent)) => {}
            None => report.add(Rule::OptionChanged, name, "the custom option is gone"),
            Some(kept) => {
                if (&option.extendee, &option.field) != (&kept.extendee, &kept.field) {
                    report.add(Rule::OptionChanged, name, "the custom option changed");
                }
                if option.origin.parent.is_none() && option.origin.file != kept.origin.file {
                    let (from, to) = (&option.origin.file, &kept.origin.file);
                    report.add(Rule::TypeMoved, name, format!("moved from {from} to {to}"));
                }
            }
        }
    }
    for (name, option) in &new.custom_options {
        if !old.custom_options.contains_key(name)
            && !is_inside(&option.origin, |parent| !old.messages.contains_key(parent))
        {
            report.add(Rule::OptionChanged, name, "the custom option is new");
        }
    }
}
