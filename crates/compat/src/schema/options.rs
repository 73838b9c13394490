//! Compares options, and leaves out what they say by default
//!
//! `deprecated = false` says what leaving it out says, so that neither is a change of the other.

use std::fmt::Debug;

use prost_types::field_options::{CType, JsType};
use prost_types::file_options::OptimizeMode;
use prost_types::{
    EnumOptions, EnumValueOptions, FieldOptions, FileOptions, MessageOptions, MethodOptions, ServiceOptions,
};

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

/// Options of which some have a default.
pub(super) trait Defaults: Clone + Default {
    /// Takes out what is set to its default.
    fn drop_defaults(&mut self);
}

fn drop_default<T: PartialEq>(option: &mut Option<T>, default: T) {
    if *option == Some(default) {
        *option = None;
    }
}

impl Defaults for FileOptions {
    fn drop_defaults(&mut self) {
        for option in [
            &mut self.java_multiple_files,
            &mut self.java_string_check_utf8,
            &mut self.cc_generic_services,
            &mut self.java_generic_services,
            &mut self.py_generic_services,
            &mut self.php_generic_services,
            &mut self.deprecated,
        ] {
            drop_default(option, false);
        }
        drop_default(&mut self.cc_enable_arenas, true);
        drop_default(&mut self.optimize_for, OptimizeMode::Speed.into());
    }
}

impl Defaults for MessageOptions {
    fn drop_defaults(&mut self) {
        drop_default(&mut self.no_standard_descriptor_accessor, false);
        drop_default(&mut self.deprecated, false);
    }
}

impl Defaults for FieldOptions {
    fn drop_defaults(&mut self) {
        for option in [&mut self.lazy, &mut self.deprecated, &mut self.weak] {
            drop_default(option, false);
        }
        drop_default(&mut self.ctype, CType::String.into());
        drop_default(&mut self.jstype, JsType::JsNormal.into());
    }
}

impl Defaults for EnumOptions {
    fn drop_defaults(&mut self) {
        drop_default(&mut self.allow_alias, false);
        drop_default(&mut self.deprecated, false);
    }
}

impl Defaults for EnumValueOptions {
    fn drop_defaults(&mut self) {
        drop_default(&mut self.deprecated, false);
    }
}

impl Defaults for ServiceOptions {
    fn drop_defaults(&mut self) {
        drop_default(&mut self.deprecated, false);
    }
}

impl Defaults for MethodOptions {
    fn drop_defaults(&mut self) {
        drop_default(&mut self.deprecated, false);
    }
}

impl Defaults for prost_types::OneofOptions {
    fn drop_defaults(&mut self) {}
}
