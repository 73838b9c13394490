//! Nothing in the contract goes without a comment
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::BTreeSet;

use prost::Message as _;
use prost_types::{FileDescriptorProto, FileDescriptorSet};

/// The paths of the elements that have a comment before them.
fn commented(file: &FileDescriptorProto) -> BTreeSet<Vec<i32>> {
    let info = file.source_code_info.as_ref().unwrap();
    info.location
        .iter()
        .filter(|location| !location.leading_comments().trim().is_empty())
        .map(|location| location.path.clone())
        .collect()
}

#[test]
fn every_element_has_a_comment() {
    let generated = FileDescriptorSet::decode(prexorcloud_proto::FILE_DESCRIPTOR_SET).unwrap();
    let mut bare = Vec::new();
    for file in &generated.file {
        let commented = commented(file);
        let mut want = |path: &[usize], name: String| {
            let path: Vec<_> = path.iter().map(|step| i32::try_from(*step).unwrap()).collect();
            if !commented.contains(&path) {
                bare.push(name);
            }
        };
        for (i, message) in file.message_type.iter().enumerate() {
            want(&[4, i], message.name().to_owned());
            for (j, field) in message.field.iter().enumerate() {
                want(&[4, i, 2, j], format!("{}.{}", message.name(), field.name()));
            }
            for (j, oneof) in message.oneof_decl.iter().enumerate() {
                want(&[4, i, 8, j], format!("{}.{}", message.name(), oneof.name()));
            }
        }
        for (i, declared) in file.enum_type.iter().enumerate() {
            want(&[5, i], declared.name().to_owned());
            for (j, value) in declared.value.iter().enumerate() {
                want(&[5, i, 2, j], format!("{}.{}", declared.name(), value.name()));
            }
        }
        for (i, service) in file.service.iter().enumerate() {
            want(&[6, i], service.name().to_owned());
            for (j, rpc) in service.method.iter().enumerate() {
                want(&[6, i, 2, j], format!("{}.{}", service.name(), rpc.name()));
            }
        }
    }
    assert!(bare.is_empty(), "without a comment: {bare:?}");
}
