//! Compares options

use std::fmt::Debug;

use super::model::Options;
use super::report::Report;
use super::rule::Rule;

/// Reports a change of what is said about an element, which is a `noun`.
pub(super) fn compare_options<T: Debug + PartialEq>(
    report: &mut Report,
    element: &str,
    noun: &str,
    old: &Options<T>,
    new: &Options<T>,
) {
    // Compared as printed, so that a float equals itself even if it is no number.
    if old.known != new.known && format!("{:?}", old.known) != format!("{:?}", new.known) {
        report.add(
            Rule::OptionChanged,
            element,
            format!("an option of the {noun} changed"),
        );
    } else if old.custom != new.custom {
        report.add(Rule::OptionChanged, element, "a custom option changed");
    }
}
