//! Tells whether one protobuf schema may replace another
//!
//! [`classify`] compares two sets of file descriptors, element by element over all files, by full name; [`classify_trees`]
//! does the same for two [`Tree`]s of `.proto` sources. Both know proto2 and proto3, and judge what a peer could notice, on
//! the wire, in JSON or through generated names:
//!
//! - **identical**: the same after dropping comments, order and formatting, and what is spelled out although it is implied;
//! - **additive**: new elements, reserved numbers, `packed`, a gained `optional`, a type moved to another file, and
//!   options that no peer can see;
//! - **breaking**: anything else, also where the encoding would happen to fit (`int32` to `int64`), and also when what
//!   was removed is reserved.
//!
//! [`Rule`] lists every kind of change with its class. Some decisions that the table does not show:
//!
//! - A rename of a message, enum, service or rpc is a removal and an addition; a field or enum value is followed by its
//!   number, a oneof by its variants.
//! - What is nested in an added or removed message is not listed again.
//! - Map entries are no messages: `map<K, V>` is a field type, and a change of `K`, `V` or of the whole to a repeated
//!   message is a `field-type-changed`. A oneof that stands for `optional` is no oneof.
//! - Messages, groups and extensions are either there or not, so `optional` says nothing about them.
//! - A change between proto2 and proto3 is breaking even if every field survives it: absent fields, unknown values of
//!   enums and invalid UTF-8 are treated differently. Editions are not understood, and that is a breaking finding, never
//!   a guess.
//! - The order of enum values is formatting, except that the first value of a proto2 enum is its default.
//! - What is implied may be spelled out: `[default = 0]`, `packed` as the syntax has it, a JSON name that would be derived,
//!   an option set to its default.
//! - Options other than `packed`, `json_name`, `default`, `message_set_wire_format` and `idempotency_level` are not on the
//!   wire: a change is additive, and so is a change of an extension of `google.protobuf.*Options`. How such extensions are
//!   used does not survive in `prost_types`: only [`classify_trees`] sees it.
//! - Files that never meet in anybody's imports may declare the same name. If they say the same, it is one element;
//!   otherwise each is one of its own and is called `pkg.Message (a.proto)` in findings.
//! - A set that no compiler would produce (missing or duplicate names, dangling indices) yields `invalid-schema`
//!   findings, on both sides of an otherwise identical pair too.
//!
//! ```
//! use prexorcloud_compat::schema::{SchemaChange, classify};
//! use prost_types::{DescriptorProto, FileDescriptorProto, FileDescriptorSet};
//!
//! let old = FileDescriptorSet {
//!     file: vec![FileDescriptorProto {
//!         name: Some("a.proto".into()),
//!         message_type: vec![DescriptorProto { name: Some("Ping".into()), ..Default::default() }],
//!         ..Default::default()
//!     }],
//! };
//! let mut new = old.clone();
//! new.file[0].message_type.clear();
//!
//! let report = classify(&old, &new);
//! assert_eq!(report.verdict(), SchemaChange::Breaking);
//! assert_eq!(report.findings()[0].to_string(), "breaking message-removed Ping: the message is gone");
//! ```

mod canonical;
mod enums;
mod extensions;
mod fields;
mod model;
mod namesakes;
mod numbers;
mod options;
mod read;
mod report;
mod reserved;
mod rule;
mod tree;
mod types;

use prost_types::FileDescriptorSet;

pub use self::canonical::{Vanished, canonical_text, vanished_numbers};
pub use self::report::{Finding, Report, SchemaChange};
pub use self::rule::{Class, Rule};
pub use self::tree::{Problem, Source, Tree, classify_trees};

use self::read::Part;

/// Compares two schemas and reports every difference
///
/// Accepts any descriptors, also such as no compiler would produce. Source positions and comments in them are ignored.
#[must_use]
pub fn classify(old: &FileDescriptorSet, new: &FileDescriptorSet) -> Report {
    compare(Part::of(old), Part::of(new))
}

fn compare(old: Part<'_>, new: Part<'_>) -> Report {
    let (old, new) = Part::read_both(old, new);
    let mut report = Report::default();
    types::compare_files(&mut report, &old.files, &new.files);
    types::compare_messages(&mut report, &old, &new);
    enums::compare_enums(&mut report, &old, &new);
    types::compare_services(&mut report, &old.services, &new.services);
    extensions::compare_extensions(&mut report, &old, &new);
    extensions::compare_custom_options(&mut report, &old, &new);
    for (element, reason) in old.invalid.iter().chain(&new.invalid) {
        report.add(Rule::InvalidSchema, element, reason);
    }
    report.sort();
    report
}
