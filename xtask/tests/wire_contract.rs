//! The released protos against the table of the contract, element by element
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet};
use xtask::contract::tree;

const PACKAGE: &str = "me.prexorjustin.prexorcloud.protocol";

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_path_buf()
}

/// The lines of `wire-contract.tsv`: kind, file, container, name, number, type, cardinality or response, oneof.
fn table() -> BTreeSet<String> {
    std::fs::read_to_string(repository().join("contracts/v1/wire-contract.tsv"))
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect()
}

fn short(type_name: &str) -> String {
    let prefix = format!(".{PACKAGE}.");
    type_name
        .strip_prefix(&prefix)
        .unwrap_or_else(|| panic!("{type_name} is of another package"))
        .to_owned()
}

fn type_of(message: &DescriptorProto, field: &FieldDescriptorProto) -> (String, &'static str) {
    let repeated = field.label() == Label::Repeated;
    assert_ne!(field.label(), Label::Required);
    match field.r#type() {
        Type::Message => {
            let name = field.type_name();
            let entry = message.nested_type.iter().find(|nested| {
                nested.options.as_ref().is_some_and(|options| options.map_entry())
                    && name.ends_with(&format!(".{}.{}", message.name(), nested.name()))
            });
            match entry {
                Some(entry) => {
                    let [key, value] = entry.field.as_slice() else {
                        panic!("{name} is no map entry")
                    };
                    let scalar = |field| type_of(entry, field).0;
                    (format!("map<{},{}>", scalar(key), scalar(value)), "")
                }
                None => (short(name), if repeated { "repeated" } else { "" }),
            }
        }
        Type::Enum => (short(field.type_name()), if repeated { "repeated" } else { "" }),
        Type::Group => panic!("{} is a group", field.name()),
        scalar => (
            scalar.as_str_name().trim_start_matches("TYPE_").to_lowercase(),
            if repeated { "repeated" } else { "" },
        ),
    }
}

/// Every element of a schema as lines of the table.
fn lines(set: &FileDescriptorSet) -> BTreeSet<String> {
    set.file.iter().flat_map(file_lines).collect()
}

fn file_lines(file: &FileDescriptorProto) -> Vec<String> {
    assert_eq!((file.package(), file.syntax()), (PACKAGE, "proto3"));
    assert!(file.extension.is_empty());
    let name = file
        .name()
        .strip_prefix("prexorcloud/")
        .expect("file in prexorcloud/");
    let mut lines = Vec::new();
    for message in &file.message_type {
        let container = message.name();
        if message.field.is_empty() {
            lines.push(format!("message\t{name}\t{container}\t\t0\t\t\t"));
        }
        assert!(
            message
                .nested_type
                .iter()
                .all(|nested| nested.options.as_ref().unwrap().map_entry())
        );
        assert!(message.enum_type.is_empty() && message.extension_range.is_empty());
        for field in &message.field {
            assert!(
                !field.proto3_optional(),
                "{container}.{} is optional",
                field.name()
            );
            let (kind, label) = type_of(message, field);
            let oneof = field.oneof_index.map_or("", |index| {
                message.oneof_decl[usize::try_from(index).unwrap()].name()
            });
            lines.push(format!(
                "message\t{name}\t{container}\t{}\t{}\t{kind}\t{label}\t{oneof}",
                field.name(),
                field.number()
            ));
        }
        for range in &message.reserved_range {
            for number in range.start()..range.end() {
                lines.push(format!("reserved\t{name}\t{container}\t\t{number}\t\t\t"));
            }
        }
        for reserved in &message.reserved_name {
            lines.push(format!("reserved\t{name}\t{container}\t{reserved}\t0\t\t\t"));
        }
    }
    for declared in &file.enum_type {
        for value in &declared.value {
            lines.push(format!(
                "enum\t{name}\t{}\t{}\t{}\t\t\t",
                declared.name(),
                value.name(),
                value.number()
            ));
        }
        assert!(declared.reserved_range.is_empty() && declared.reserved_name.is_empty());
    }
    for service in &file.service {
        for rpc in &service.method {
            let shown = |message: &str, streams: bool| {
                format!("{}{}", short(message), if streams { " stream" } else { "" })
            };
            lines.push(format!(
                "rpc\t{name}\t{}\t{}\t0\t{}\t{}\t",
                service.name(),
                rpc.name(),
                shown(rpc.input_type(), rpc.client_streaming()),
                shown(rpc.output_type(), rpc.server_streaming())
            ));
        }
    }
    lines
}

#[test]
fn version_1_is_exactly_the_table() {
    let table = table();
    assert_eq!(table.len(), 307, "lines of the table");
    let released = lines(
        tree::read(&repository().join("contracts/v1"), &[])
            .unwrap()
            .descriptors(),
    );
    let missing: Vec<_> = table.difference(&released).collect();
    let surplus: Vec<_> = released.difference(&table).collect();
    assert!(
        missing.is_empty() && surplus.is_empty(),
        "missing {missing:#?}\nsurplus {surplus:#?}"
    );
}

/// Our own additions, which no Java peer knows: numbered 100 and up, or messages that only such fields refer to.
fn is_ours(line: &str) -> bool {
    let columns: Vec<_> = line.split('\t').collect();
    let [_, file, container, _, number, ..] = columns.as_slice() else {
        panic!("{line}")
    };
    *file == "artifact_service.proto"
        || [
            "ArtifactRef",
            "AuthorityUpdate",
            "CertificateIssued",
            "CertificateRequest",
            "CommandWritten",
            "ConsoleOutputAck",
            "CrashReportAck",
            "InstanceReady",
            "ModuleReport",
            "ModuleSnapshot",
            "ProgramArguments",
            "ReadinessRule",
            "ReadinessSignal",
            "TrustedAuthorities",
        ]
        .contains(container)
        || number.parse::<i32>().unwrap() >= 100
}

#[test]
fn what_we_speak_is_the_table_and_our_own_additions() {
    let generated = FileDescriptorSet::decode(prexorcloud_proto::FILE_DESCRIPTOR_SET).unwrap();
    let current = lines(&generated);
    let table = table();
    let missing: Vec<_> = table.difference(&current).collect();
    assert!(missing.is_empty(), "{missing:#?}");
    let (ours, strange): (Vec<_>, Vec<_>) = current.difference(&table).partition(|line| is_ours(line));
    assert!(strange.is_empty(), "{strange:#?}");
    for expected in [
        "message\tbootstrap_service.proto\tExchangeJoinTokenRequest\tcertificate_request\t100\tbytes\t\t",
        "message\tdaemon_service.proto\tConsoleOutput\tsequence\t101\tuint64\t\t",
        "message\tdaemon_service.proto\tControllerMessage\tcrash_report_ack\t100\tCrashReportAck\t\tpayload",
        "message\tdaemon_service.proto\tHandshake\tcapabilities\t100\tstring\trepeated\t",
        "message\tdaemon_service.proto\tHandshake\tmin_protocol_version\t101\tint32\t\t",
        "message\tdaemon_service.proto\tModuleEvent\tsequence\t100\tuint64\t\t",
        "message\tdaemon_service.proto\tEventSubscribe\tafter_sequence\t100\tuint64\t\t",
        "message\tdaemon_service.proto\tTemplateData\tartifact\t100\tArtifactRef\t\t",
        "message\tdaemon_service.proto\tDaemonMessage\tmodule_snapshot\t104\tModuleSnapshot\t\tpayload",
        "message\tdaemon_service.proto\tDaemonMessage\tcertificate_request\t105\tCertificateRequest\t\tpayload",
        "message\tdaemon_service.proto\tDaemonMessage\ttrusted_authorities\t106\tTrustedAuthorities\t\tpayload",
        "message\tdaemon_service.proto\tControllerMessage\tcertificate_issued\t103\tCertificateIssued\t\tpayload",
        "message\tdaemon_service.proto\tControllerMessage\tauthority_update\t104\tAuthorityUpdate\t\tpayload",
        "message\tdaemon_service.proto\tModuleStateUpdate\tversion\t100\tstring\t\t",
        "message\tdaemon_service.proto\tModuleStateUpdate\tsha256\t101\tstring\t\t",
        "message\tdaemon_service.proto\tModuleInstall\tartifact\t100\tArtifactRef\t\t",
        "rpc\tartifact_service.proto\tArtifactService\tFetch\t0\tFetchArtifactRequest\tArtifactChunk stream\t",
    ] {
        assert!(
            ours.iter().any(|line| *line == expected),
            "{expected} is not there"
        );
    }
}
