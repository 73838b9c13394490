//! Damaged and senseless sources: an answer or a reason, never a panic
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use xtask::contract::classify::compare;
use xtask::contract::tree;

const WORDS: &[&str] = &[
    "syntax",
    "=",
    "'proto2'",
    "'proto3'",
    ";",
    "message",
    "M",
    "N",
    "{",
    "}",
    "int32",
    "a",
    "b",
    "1",
    "2",
    "-1",
    "0x7fffffff",
    "99999999999999999999",
    "repeated",
    "optional",
    "required",
    "oneof",
    "map",
    "<",
    ">",
    ",",
    "string",
    "enum",
    "E",
    "reserved",
    "to",
    "max",
    "'a'",
    "extensions",
    "extend",
    "group",
    "G",
    "service",
    "rpc",
    "(",
    ")",
    "returns",
    "stream",
    "option",
    "[",
    "]",
    "deprecated",
    "true",
    "default",
    "packed",
    "json_name",
    "import",
    "'m.proto'",
    "public",
    "weak",
    "'google/protobuf/any.proto'",
    "package",
    "p",
    ".",
    "edition",
    "/*",
    "*/",
    "//",
    "\n",
    "\"",
    "\\",
    "inf",
    "nan",
    "é",
];

fn read(text: &str) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("m.proto"), text).unwrap();
    match tree::read(dir.path(), &[]) {
        Ok(_) => assert!(
            compare(dir.path(), dir.path(), &[])
                .unwrap()
                .findings()
                .is_empty(),
            "{text}"
        ),
        Err(unreadable) => {
            assert!(!unreadable.problems.is_empty());
            for problem in unreadable.problems {
                assert!(
                    problem.file.ends_with("m.proto") && !problem.reason.is_empty(),
                    "{problem}"
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn words_in_any_order(words in proptest::collection::vec(proptest::sample::select(WORDS), 0..40)) {
        read(&format!("syntax = 'proto3'; {}", words.join(" ")));
        read(&words.join(" "));
    }

    #[test]
    fn a_real_source_with_a_piece_missing_doubled_or_replaced(
        start in any::<prop::sample::Index>(),
        length in 0..200_usize,
        word in proptest::sample::select(WORDS),
        double in any::<bool>(),
    ) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../contracts/v1/prexorcloud/daemon_service.proto");
        let text = fs::read_to_string(path).unwrap();
        let start = start.index(text.len());
        let end = (start + length).min(text.len());
        let (Some(head), Some(piece), Some(tail)) = (text.get(..start), text.get(start..end), text.get(end..)) else {
            return Ok(());
        };
        let middle = if double { format!("{piece}{piece}") } else { word.to_owned() };
        read(&format!("{head}{middle}{tail}"));
    }

    #[test]
    fn any_text(text in any::<String>()) {
        read(&text);
    }
}
