//! The classifier against arbitrary schemas: valid ones that are shuffled or mutated, and nonsense
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use prexorcloud_compat::schema::{Class, Rule, SchemaChange, canonical_text, classify, vanished_numbers};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::Index;
use prost_types::descriptor_proto::{ExtensionRange, ReservedRange};
use prost_types::enum_descriptor_proto::EnumReservedRange;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, EnumValueDescriptorProto, FieldDescriptorProto, FieldOptions,
    FileDescriptorProto, FileDescriptorSet, MessageOptions, MethodDescriptorProto, OneofDescriptorProto,
    ServiceDescriptorProto, SourceCodeInfo, source_code_info::Location,
};

// ---- a small language of valid schemas, written out as .proto source ----

#[derive(Clone, Debug)]
struct Source {
    messages: Vec<MessageSource>,
    enums: Vec<Vec<i32>>,
    rpcs: Vec<(usize, usize, bool, bool)>,
}

#[derive(Clone, Debug)]
struct MessageSource {
    /// Number to type and label.
    fields: Vec<(i32, usize, usize)>,
    variants: Vec<(i32, usize)>,
    reserved: Vec<i32>,
}

const TYPES: &[&str] = &[
    "int32", "int64", "string", "bytes", "bool", "double", "M0", "E0", "sint32",
];
const LABELS: &[&str] = &["", "optional ", "repeated "];

impl Source {
    /// Shuffled by `keys`: the order of everything that has none.
    fn proto(&self, keys: &[u32], comments: bool) -> String {
        let mut cursor = keys.iter().copied().cycle();
        let mut shuffle = |mut lines: Vec<String>| {
            lines.sort_by_cached_key(|_| cursor.next().unwrap_or(0));
            lines
        };
        let note = |text: &str| {
            if comments {
                format!("// {text}\n")
            } else {
                String::new()
            }
        };
        let mut items = Vec::new();
        for (index, message) in self.messages.iter().enumerate() {
            let mut body: Vec<_> = message
                .fields
                .iter()
                .map(|(number, kind, label)| {
                    format!(
                        "{}  {}{} f{number} = {number};",
                        note("a field"),
                        LABELS[*label],
                        TYPES[*kind]
                    )
                })
                .collect();
            if !message.variants.is_empty() {
                let variants = message
                    .variants
                    .iter()
                    .map(|(number, kind)| format!("    {} v{number} = {number};", TYPES[*kind]))
                    .collect();
                body.push(format!(
                    "  oneof choice {{\n{}\n  }}",
                    shuffle(variants).join("\n")
                ));
            }
            for number in &message.reserved {
                body.push(format!("  reserved {number};"));
            }
            let body = shuffle(body).join("\n");
            items.push(format!("{}message M{index} {{\n{body}\n}}", note("a message")));
        }
        for (index, values) in self.enums.iter().enumerate() {
            let values: Vec<_> = values
                .iter()
                .map(|number| format!("  E{index}_V{number} = {number};{}", note("a value").trim_end()))
                .map(|line| format!("{line}\n"))
                .collect();
            let values = shuffle(values).concat();
            items.push(format!("enum E{index} {{\n  E{index}_ZERO = 0;\n{values}}}"));
        }
        let rpcs: Vec<_> = self
            .rpcs
            .iter()
            .enumerate()
            .map(|(index, (request, response, up, down))| {
                let stream = |yes: bool| if yes { "stream " } else { "" };
                format!(
                    "  rpc R{index}({}M{request}) returns ({}M{response});",
                    stream(*up),
                    stream(*down)
                )
            })
            .collect();
        items.push(format!("service S {{\n{}\n}}", shuffle(rpcs).join("\n")));
        format!("syntax = 'proto3';\npackage p;\n{}\n", shuffle(items).join("\n"))
    }
}

fn message_source() -> impl Strategy<Value = MessageSource> {
    btree_map(1..40_i32, (0..4_usize, 0..TYPES.len(), 0..LABELS.len()), 0..8).prop_map(|numbers| {
        let mut message = MessageSource {
            fields: Vec::new(),
            variants: Vec::new(),
            reserved: Vec::new(),
        };
        for (number, (role, kind, label)) in numbers {
            match role {
                0 => message.variants.push((number, kind)),
                1 => message.reserved.push(number),
                _ => message.fields.push((number, kind, label)),
            }
        }
        message
    })
}

fn schema_source() -> impl Strategy<Value = Source> {
    (
        vec(message_source(), 1..4),
        vec(proptest::collection::btree_set(1..20_i32, 0..5), 1..3),
        vec(
            (any::<usize>(), any::<usize>(), any::<bool>(), any::<bool>()),
            0..4,
        ),
    )
        .prop_map(|(messages, enums, rpcs)| Source {
            rpcs: rpcs
                .into_iter()
                .map(|(request, response, up, down)| {
                    (request % messages.len(), response % messages.len(), up, down)
                })
                .collect(),
            messages,
            enums: enums
                .into_iter()
                .map(|values| values.into_iter().collect())
                .collect(),
        })
}

// ---- single changes of a valid schema, each with the class it must get ----

/// Applies one change to the source; `None` where it does not fit.
fn mutate(source: &Source, which: usize, at: Index) -> Option<(Source, Class, &'static str)> {
    let mut new = source.clone();
    let message = new.messages.get_mut(at.index(source.messages.len()))?;
    let free = (41..60).find(|n| !message.reserved.contains(n))?;
    let on_field =
        |message: &MessageSource| (!message.fields.is_empty()).then(|| at.index(message.fields.len()));
    let (class, rule) = match which {
        0 => {
            message.fields.push((free, 0, 0));
            (Class::Additive, "field-added")
        }
        1 => {
            let index = on_field(message)?;
            message.fields.remove(index);
            (Class::Breaking, "field-removed")
        }
        2 => {
            let index = on_field(message)?;
            let (number, ..) = message.fields.remove(index);
            message.reserved.push(number);
            (Class::Breaking, "field-removed")
        }
        3 => {
            let index = on_field(message)?;
            let kind = &mut message.fields[index].1;
            *kind = (*kind + 1) % TYPES.len();
            (Class::Breaking, "field-type-changed")
        }
        4 => {
            let index = on_field(message)?;
            let (_, kind, label) = &mut message.fields[index];
            if TYPES[*kind] == "M0" && *label != 2 {
                // A message is there or not, with and without `optional`.
                return None;
            }
            let (next, class, rule) = match *label {
                0 => (1, Class::Additive, "field-gained-optional"),
                1 => (0, Class::Breaking, "field-lost-optional"),
                _ => (0, Class::Breaking, "field-cardinality-changed"),
            };
            *label = next;
            (class, rule)
        }
        5 => {
            let index = on_field(message)?;
            let field = message.fields[index];
            if field.2 == 2 || message.variants.is_empty() {
                return None;
            }
            // The name goes along as v<number>, so this is a renaming as well.
            message.fields.remove(index);
            message.variants.push((field.0, field.1));
            (Class::Breaking, "field-entered-oneof")
        }
        6 => {
            if message.variants.is_empty() {
                return None;
            }
            message.variants.push((free, 0));
            (Class::Additive, "oneof-variant-added")
        }
        7 => {
            if message.variants.is_empty() {
                return None;
            }
            message.variants.remove(at.index(message.variants.len()));
            (Class::Breaking, "oneof-variant-removed")
        }
        8 => {
            message.reserved.push(free);
            (Class::Additive, "number-reserved")
        }
        9 => {
            if message.reserved.is_empty() {
                return None;
            }
            message.reserved.remove(at.index(message.reserved.len()));
            (Class::Breaking, "reserved-number-released")
        }
        10 => {
            if message.reserved.is_empty() {
                return None;
            }
            let number = message.reserved.remove(at.index(message.reserved.len()));
            message.fields.push((number, 0, 0));
            (Class::Breaking, "reserved-number-used")
        }
        11 => {
            new.messages.push(MessageSource {
                fields: vec![(1, 0, 0)],
                variants: vec![],
                reserved: vec![],
            });
            (Class::Additive, "message-added")
        }
        12 => {
            new.enums.push(vec![]);
            (Class::Additive, "enum-added")
        }
        13 => {
            new.enums[0].push(77);
            (Class::Additive, "enum-value-added")
        }
        14 => {
            new.enums[0].pop()?;
            (Class::Breaking, "enum-value-removed")
        }
        15 => {
            new.rpcs.push((0, 0, false, false));
            (Class::Additive, "rpc-added")
        }
        16 => {
            new.rpcs.pop()?;
            (Class::Breaking, "rpc-removed")
        }
        17 => {
            let rpc = new.rpcs.last_mut()?;
            rpc.2 = !rpc.2;
            (Class::Breaking, "rpc-streaming-changed")
        }
        _ => {
            if new.enums.len() < 2 {
                return None;
            }
            new.enums.pop();
            (Class::Breaking, "enum-removed")
        }
    };
    Some((new, class, rule))
}

// ---- descriptors that need not make sense ----

fn nonsense_name() -> impl Strategy<Value = Option<String>> {
    prop_oneof![
        Just(None),
        Just(Some(String::new())),
        "[abM]{1,2}".prop_map(Some),
        Just(Some(".p.M.AEntry".to_owned())),
        any::<String>().prop_map(Some),
    ]
}

fn nonsense_number() -> impl Strategy<Value = Option<i32>> {
    prop_oneof![
        Just(None),
        (-2..6_i32).prop_map(Some),
        any::<i32>().prop_map(Some),
        Just(Some(i32::MAX)),
        Just(Some(i32::MIN)),
    ]
}

prop_compose! {
    fn nonsense_field()(
        name in nonsense_name(), number in nonsense_number(), label in nonsense_number(), kind in nonsense_number(),
        type_name in nonsense_name(), extendee in nonsense_name(), oneof_index in nonsense_number(),
        json_name in nonsense_name(), default_value in nonsense_name(), proto3_optional in any::<Option<bool>>(),
        packed in any::<Option<bool>>(),
    ) -> FieldDescriptorProto {
        FieldDescriptorProto {
            name, number, label, r#type: kind, type_name, extendee, oneof_index, json_name, default_value,
            proto3_optional,
            options: packed.map(|packed| FieldOptions { packed: Some(packed), ..Default::default() }),
        }
    }
}

prop_compose! {
    fn nonsense_enum()(
        name in nonsense_name(),
        values in vec((nonsense_name(), nonsense_number()), 0..4),
        ranges in vec((nonsense_number(), nonsense_number()), 0..3),
        reserved_name in vec("[ab]", 0..2),
    ) -> EnumDescriptorProto {
        EnumDescriptorProto {
            name,
            value: values
                .into_iter()
                .map(|(name, number)| EnumValueDescriptorProto { name, number, options: None })
                .collect(),
            reserved_range: ranges
                .into_iter()
                .map(|(start, end)| EnumReservedRange { start, end })
                .collect(),
            reserved_name,
            options: None,
        }
    }
}

fn nonsense_message() -> impl Strategy<Value = DescriptorProto> {
    let leaf = (
        nonsense_name(),
        vec(nonsense_field(), 0..4),
        vec(nonsense_field(), 0..2),
        vec(nonsense_enum(), 0..2),
        vec((nonsense_number(), nonsense_number()), 0..3),
        vec(nonsense_name(), 0..3),
        any::<Option<bool>>(),
    )
        .prop_map(
            |(name, field, extension, enum_type, ranges, oneofs, map_entry)| DescriptorProto {
                name,
                field,
                extension,
                enum_type,
                extension_range: ranges
                    .iter()
                    .map(|(start, end)| ExtensionRange {
                        start: *start,
                        end: *end,
                        options: None,
                    })
                    .collect(),
                reserved_range: ranges
                    .into_iter()
                    .map(|(start, end)| ReservedRange { start, end })
                    .collect(),
                oneof_decl: oneofs
                    .into_iter()
                    .map(|name| OneofDescriptorProto { name, options: None })
                    .collect(),
                options: map_entry.map(|map_entry| MessageOptions {
                    map_entry: Some(map_entry),
                    ..Default::default()
                }),
                ..Default::default()
            },
        );
    leaf.prop_recursive(3, 6, 2, |inner| {
        (inner.clone(), vec(inner, 0..2)).prop_map(|(mut message, nested)| {
            message.nested_type = nested;
            message
        })
    })
}

prop_compose! {
    fn nonsense_file()(
        name in nonsense_name(), package in nonsense_name(), message_type in vec(nonsense_message(), 0..3),
        enum_type in vec(nonsense_enum(), 0..2), extension in vec(nonsense_field(), 0..2),
        methods in vec((nonsense_name(), nonsense_name(), nonsense_name()), 0..3), service in nonsense_name(),
        syntax in prop_oneof![Just(None), Just(Some("proto3".to_owned())), nonsense_name()],
        dependency in vec("[ab]", 0..3), public_dependency in vec(any::<i32>(), 0..2),
    ) -> FileDescriptorProto {
        FileDescriptorProto {
            name, package, message_type, enum_type, extension, syntax, dependency, public_dependency,
            service: vec![ServiceDescriptorProto {
                name: service,
                method: methods
                    .into_iter()
                    .map(|(name, input_type, output_type)| MethodDescriptorProto {
                        name, input_type, output_type, ..Default::default()
                    })
                    .collect(),
                options: None,
            }],
            ..Default::default()
        }
    }
}

fn nonsense() -> impl Strategy<Value = FileDescriptorSet> {
    vec(nonsense_file(), 0..3).prop_map(|file| FileDescriptorSet { file })
}

fn wire_visible(rule: Rule) -> bool {
    !matches!(
        rule,
        Rule::FileAdded | Rule::FileRemoved | Rule::ImportsChanged | Rule::TypeMoved | Rule::OptionChanged
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_schema_is_identical_to_itself_in_any_order(
        source in schema_source(),
        keys in vec(any::<u32>(), 1..40),
        comments in any::<bool>(),
    ) {
        let old = support::compile(&source.proto(&[0], false));
        let new = support::compile(&source.proto(&keys, comments));
        let report = classify(&old, &new);
        prop_assert_eq!(report.verdict(), SchemaChange::Identical, "{:?}", report.findings());
        prop_assert_eq!(canonical_text(&old), canonical_text(&new));
    }

    #[test]
    fn one_change_gets_its_class(source in schema_source(), which in 0..19_usize, at in any::<Index>()) {
        let Some((changed, class, rule)) = mutate(&source, which, at) else { return Ok(()) };
        let old = support::compile(&source.proto(&[0], false));
        let new = support::compile(&changed.proto(&[0], true));
        let report = classify(&old, &new);
        let expected = match class {
            Class::Additive => SchemaChange::Additive,
            Class::Breaking => SchemaChange::Breaking,
        };
        prop_assert_eq!(report.verdict(), expected, "{:?}", report.findings());
        prop_assert!(
            report.findings().iter().any(|finding| finding.rule.id() == rule),
            "{} not in {:?}", rule, report.findings()
        );
        prop_assert_ne!(canonical_text(&old), canonical_text(&new));
    }

    #[test]
    fn two_schemas_differ_exactly_if_their_canonical_texts_do(a in schema_source(), b in schema_source()) {
        let old = support::compile(&a.proto(&[0], false));
        let new = support::compile(&b.proto(&[0], false));
        let forth = classify(&old, &new);
        prop_assert_eq!(
            forth.findings().iter().any(|finding| wire_visible(finding.rule)),
            canonical_text(&old) != canonical_text(&new)
        );
        let back = classify(&new, &old);
        prop_assert_eq!(forth.verdict() == SchemaChange::Identical, back.verdict() == SchemaChange::Identical);
    }

    #[test]
    fn source_positions_and_file_order_do_not_matter(source in schema_source(), line in any::<i32>()) {
        let mut old = support::compile(&source.proto(&[0], false));
        let mut other = support::compile("syntax = 'proto3'; package q; message Other {}");
        other.file[0].name = Some("b.proto".into());
        old.file.append(&mut other.file);
        let mut new = old.clone();
        new.file.reverse();
        for file in &mut new.file {
            file.message_type.reverse();
            file.source_code_info = Some(SourceCodeInfo {
                location: vec![Location {
                    path: vec![line],
                    span: vec![line],
                    leading_comments: Some("news".into()),
                    ..Default::default()
                }],
            });
        }
        let report = classify(&old, &new);
        prop_assert_eq!(report.verdict(), SchemaChange::Identical, "{:?}", report.findings());
    }

    #[test]
    fn nonsense_is_judged_without_panic(old in nonsense(), new in nonsense()) {
        let report = classify(&old, &new);
        for finding in report.findings() {
            prop_assert!(!finding.element.is_empty() && !finding.message.is_empty());
        }
        prop_assert!(canonical_text(&old).ends_with('\n'));
        let vanished = vanished_numbers(&old, &new);
        prop_assert!(vanished.iter().all(|v| canonical_text(&old).contains(&v.number.to_string())));
        let own = classify(&old, &old);
        for finding in own.findings() {
            prop_assert!(
                matches!(finding.rule, Rule::InvalidSchema | Rule::UnsupportedSyntax),
                "{}", finding
            );
        }
    }

    #[test]
    fn a_valid_schema_damaged_in_one_number_is_never_identical(
        source in schema_source(), at in any::<Index>(), number in any::<i32>(), kind in any::<i32>(),
    ) {
        let old = support::compile(&source.proto(&[0], false));
        let mut new = old.clone();
        let messages = &mut new.file[0].message_type;
        let message = &mut messages[at.index(source.messages.len())];
        if message.field.is_empty() {
            return Ok(());
        }
        let index = at.index(message.field.len());
        let field = &mut message.field[index];
        if field.number() == number && field.r#type == Some(kind) {
            return Ok(());
        }
        field.number = Some(number);
        field.r#type = Some(kind);
        prop_assert_eq!(classify(&old, &new).verdict(), SchemaChange::Breaking);
    }
}

#[test]
fn nesting_of_any_depth_costs_no_stack() {
    let mut message = DescriptorProto {
        name: Some("M".into()),
        ..Default::default()
    };
    for _ in 0..5_000 {
        message = DescriptorProto {
            name: Some("M".into()),
            nested_type: vec![message],
            field: vec![FieldDescriptorProto {
                name: Some("a".into()),
                number: Some(1),
                label: Some(Label::Optional.into()),
                r#type: Some(Type::Int32.into()),
                ..Default::default()
            }],
            ..Default::default()
        };
    }
    let deep = FileDescriptorSet {
        file: vec![FileDescriptorProto {
            name: Some("a.proto".into()),
            message_type: vec![message],
            ..Default::default()
        }],
    };
    assert_eq!(classify(&deep, &deep).verdict(), SchemaChange::Identical);
    assert_eq!(
        classify(&FileDescriptorSet::default(), &deep).verdict(),
        SchemaChange::Additive
    );
}
