//! The table of payloads against the contract, and the page that is made from it
//!
//! `UPDATE_SNAPSHOTS=1 cargo test -p prexorcloud-protocol --test payloads` writes `docs/protocol-messages.md`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::fmt::Write as _;
use std::path::PathBuf;

use prexorcloud_protocol::payload::{self, Direction, Kind, Needs, Tagging};
use prexorcloud_protocol::proto::{ControllerMessage, DaemonMessage};
use prost::Message as _;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn contract() -> String {
    std::fs::read_to_string(root().join("proto/prexorcloud/daemon_service.proto")).unwrap()
}

/// What stands between the braces of a message of the contract.
fn message<'a>(contract: &'a str, name: &str) -> &'a str {
    let begin = contract
        .find(&format!("\nmessage {name} {{\n"))
        .unwrap_or_else(|| panic!("no message {name}"));
    let rest = &contract[begin + 1..];
    &rest[..rest.find("\n}\n").unwrap()]
}

/// Type, name and number of each variant.
fn variants(contract: &str, envelope: &str) -> Vec<(String, String, u32)> {
    let body = message(contract, envelope);
    let body = &body[body.find("oneof payload {").unwrap()..];
    body[..body.find("\n  }").unwrap()]
        .lines()
        .filter_map(|line| {
            let words: Vec<_> = line.trim().trim_end_matches(';').split(' ').collect();
            match words[..] {
                [kind, field, "=", number] => {
                    Some((kind.to_owned(), field.to_owned(), number.parse().unwrap()))
                }
                _ => None,
            }
        })
        .collect()
}

#[test]
fn rows_spell_the_variants_of_the_contract() {
    let contract = contract();
    for (envelope, rows) in [
        ("DaemonMessage", payload::DAEMON),
        ("ControllerMessage", payload::CONTROLLER),
    ] {
        let told: Vec<_> = rows
            .iter()
            .map(|kind| (kind.name.to_owned(), kind.field.to_owned(), kind.number))
            .collect();
        assert_eq!(told, variants(&contract, envelope), "{envelope}");
    }
}

#[test]
fn a_variant_leads_to_the_row_with_its_number() {
    // An envelope that holds nothing but an empty message in this field.
    let bytes = |kind: &Kind| {
        let mut bytes = Vec::new();
        prost::encoding::encode_key(
            kind.number,
            prost::encoding::WireType::LengthDelimited,
            &mut bytes,
        );
        bytes.push(0);
        bytes
    };
    for kind in payload::DAEMON {
        let decoded = DaemonMessage::decode(&bytes(kind)[..]).unwrap().payload.unwrap();
        assert!(std::ptr::eq(payload::of_daemon(&decoded), *kind), "{}", kind.name);
    }
    for kind in payload::CONTROLLER {
        let decoded = ControllerMessage::decode(&bytes(kind)[..])
            .unwrap()
            .payload
            .unwrap();
        assert!(
            std::ptr::eq(payload::of_controller(&decoded), *kind),
            "{}",
            kind.name
        );
    }
}

#[test]
fn tagged_are_those_with_an_incarnation() {
    let contract = contract();
    for kind in payload::DAEMON.iter().chain(payload::CONTROLLER) {
        let has = message(&contract, kind.name).contains("\n  uint64 incarnation = 100;");
        assert_eq!(kind.tagging == Tagging::Tagged, has, "{}", kind.name);
    }
    assert!(message(&contract, "RunningInstance").contains("\n  uint64 incarnation = 100;"));
}

#[test]
fn rules_are_about_fields_that_exist() {
    let contract = contract();
    for kind in payload::DAEMON.iter().chain(payload::CONTROLLER) {
        let body = message(&contract, kind.name);
        let exists = |field: &str| {
            let field = field.split(['.', '[']).next().unwrap();
            body.contains(&format!(" {field} = "))
        };
        for rule in kind.rules() {
            assert!(exists(&rule.field), "{}.{}", kind.name, rule.field);
        }
        if let Needs::Field(field, _) = kind.needs {
            assert!(exists(field), "{}.{field}", kind.name);
        }
    }
}

fn size(bytes: usize) -> String {
    match bytes {
        bytes if bytes % (1024 * 1024) == 0 => format!("{} MiB", bytes / (1024 * 1024)),
        bytes => format!("{} KiB", bytes / 1024),
    }
}

fn row(text: &mut String, kind: &Kind) {
    let incarnation = match kind.tagging {
        Tagging::Untagged => "",
        Tagging::Tagged => "named",
        Tagging::EachEntry => "of each entry",
    };
    let needs = match kind.needs {
        Needs::Nothing => String::new(),
        Needs::Whole(capability) => format!("`{}`", capability.to_wire().join("`, `")),
        Needs::Field(field, capability) => {
            format!("`{field}`: `{}`", capability.to_wire().join("`, `"))
        }
    };
    writeln!(
        text,
        "| {} | [{}](#{}) | {} | {} | {} | {incarnation} | {needs} |",
        kind.number,
        kind.name,
        anchor(kind),
        kind.class,
        size(kind.max_bytes),
        kind.max_elements,
    )
    .unwrap();
}

/// `ErrorReport` travels both ways under the same rules, so both rows lead to one list.
fn anchor(kind: &Kind) -> String {
    kind.name.to_lowercase()
}

fn page() -> String {
    let mut text = String::from(
        "# The messages of the stream\n\n\
         Made from the table in [`payload`](../crates/protocol/src/payload/mod.rs), which validates and shortens what is\n\
         sent; a test keeps this page equal to it. What a message means stands in\n\
         [`daemon_service.proto`](../proto/prexorcloud/daemon_service.proto).\n\n\
         - **Number**: of the field in the envelope. **Class**: how it waits, see\n  \
           [`outbox`](../crates/protocol/src/outbox/mod.rs). **At most**: as encoded, without the envelope.\n  \
           **Elements**: at most so many fields as they stand on the wire, each entry of a list or map being one. Both are\n  \
           counted before a message is decoded, and one that has more is never decoded.\n\
         - **Incarnation**: whether the message says which start of an instance it is about; 0 from a peer without\n  \
           `incarnations/1`. **Needs**: the capability that both sides must have announced, for the message or for one\n  \
           of its fields.\n\
         - A message that breaks a rule is refused as a whole and answered by an `ErrorReport` with `INVALID_MESSAGE`.\n  \
           **Ours** says what a sender of this implementation does first. Lengths of text are UTF-16 code units. `[]` is\n  \
           each entry of a list, `[key]` and `[value]` of a map.\n",
    );
    for (title, rows) in [
        ("From a daemon", payload::DAEMON),
        ("From a controller", payload::CONTROLLER),
    ] {
        write!(text, "\n## {title}\n\n").unwrap();
        text.push_str(
            "| Number | Message | Class | At most | Elements | Incarnation | Needs |\n|---|---|---|---|---|---|---|\n",
        );
        for kind in rows {
            row(&mut text, kind);
        }
    }
    text.push_str("\n## Rules of the fields\n");
    for kind in payload::DAEMON.iter().chain(payload::CONTROLLER) {
        if kind.name == "ErrorReport" && kind.direction == Direction::ToDaemon {
            continue;
        }
        write!(text, "\n### {}\n\n", kind.name).unwrap();
        let rules = kind.rules();
        if rules.is_empty() {
            text.push_str("No rule but its size.\n");
            continue;
        }
        text.push_str("| Field | Holds | Ours |\n|---|---|---|\n");
        for rule in rules {
            writeln!(
                text,
                "| `{}` | {} | {} |",
                rule.field,
                rule.rule,
                rule.otherwise.as_str()
            )
            .unwrap();
        }
    }
    text
}

#[test]
fn the_page_is_the_table() {
    let path = root().join("docs/protocol-messages.md");
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, page()).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == page(),
        "{} differs from the table; UPDATE_SNAPSHOTS=1 rewrites it",
        path.display()
    );
}
