//! Compares files, messages and services by full name

use std::collections::BTreeMap;

use prost_types::method_options::IdempotencyLevel;

use super::fields::compare_fields;
use super::model::{File, Origin, Schema, Service, Syntax};
use super::options::compare_options;
use super::report::Report;
use super::reserved::{Reservations, compare_reserved};
use super::rule::Rule;

pub(super) fn compare_files(report: &mut Report, old: &BTreeMap<String, File>, new: &BTreeMap<String, File>) {
    for (name, file) in old {
        let Some(kept) = new.get(name) else {
            report.add(Rule::FileRemoved, name, "the file is gone");
            continue;
        };
        if file.package != kept.package {
            report.add(
                Rule::PackageChanged,
                name,
                format!("package {:?} became {:?}", file.package, kept.package),
            );
        }
        if file.syntax != kept.syntax {
            report.add(
                Rule::SyntaxChanged,
                name,
                format!("{} became {}", file.syntax.as_str(), kept.syntax.as_str()),
            );
        }
        if file.imports != kept.imports {
            report.add(
                Rule::ImportsChanged,
                name,
                "the file imports other files than before",
            );
        }
        compare_options(report, name, "file", &file.options, &kept.options);
    }
    for name in new.keys().filter(|name| !old.contains_key(*name)) {
        report.add(Rule::FileAdded, name, "the file is new");
    }
    for (name, file) in old.iter().chain(new) {
        if file.syntax == Syntax::Unknown {
            report.add(
                Rule::UnsupportedSyntax,
                name,
                "the file is neither proto2 nor proto3",
            );
        }
    }
}

pub(super) fn compare_messages(report: &mut Report, old: &Schema, new: &Schema) {
    for (name, message) in &old.messages {
        let Some(kept) = new.messages.get(name) else {
            // What is nested in a message goes with it.
            if !is_inside(&message.origin, |parent| !new.messages.contains_key(parent)) {
                report.add(Rule::MessageRemoved, name, "the message is gone");
            }
            continue;
        };
        compare_origin(report, name, &message.origin, &kept.origin);
        compare_fields(report, name, message, kept);
        compare_reserved(
            report,
            name,
            &Reservations::of_message(message),
            &Reservations::of_message(kept),
        );
        let gone = message.extension_ranges.without(&kept.extension_ranges);
        if !gone.is_empty() {
            let text = format!("{gone} is no longer open to extensions");
            report.add(Rule::ExtensionRangeRemoved, name, text);
        }
        let more = kept.extension_ranges.without(&message.extension_ranges);
        if !more.is_empty() {
            report.add(
                Rule::ExtensionRangeAdded,
                name,
                format!("{more} is open to extensions"),
            );
        }
        if message.message_set != kept.message_set {
            report.add(Rule::MessageSetChanged, name, "message_set_wire_format changed");
        }
        compare_options(report, name, "message", &message.options, &kept.options);
    }
    for (name, message) in &new.messages {
        if !old.messages.contains_key(name)
            && !is_inside(&message.origin, |parent| !old.messages.contains_key(parent))
        {
            report.add(Rule::MessageAdded, name, "the message is new");
        }
    }
}

pub(super) fn is_inside(origin: &Origin, parent_changed: impl FnOnce(&str) -> bool) -> bool {
    origin.parent.as_deref().is_some_and(parent_changed)
}

/// Where a type stands, and in which dialect. What is nested moves with its message.
pub(super) fn compare_origin(report: &mut Report, name: &str, old: &Origin, new: &Origin) {
    if old.file == new.file || old.parent.is_some() {
        return;
    }
    report.add(
        Rule::TypeMoved,
        name,
        format!("moved from {} to {}", old.file, new.file),
    );
    if old.syntax != new.syntax {
        report.add(
            Rule::SyntaxChanged,
            name,
            format!("{} became {}", old.syntax.as_str(), new.syntax.as_str()),
        );
    }
}

pub(super) fn compare_services(
    report: &mut Report,
    old: &BTreeMap<String, Service>,
    new: &BTreeMap<String, Service>,
) {
    for (name, service) in old {
        match new.get(name) {
            Some(kept) => compare_service(report, name, service, kept),
            None => report.add(Rule::ServiceRemoved, name, "the service is gone"),
        }
    }
    for name in new.keys().filter(|name| !old.contains_key(*name)) {
        report.add(Rule::ServiceAdded, name, "the service is new");
    }
}

fn compare_service(report: &mut Report, name: &str, old: &Service, new: &Service) {
    compare_origin(report, name, &old.origin, &new.origin);
    compare_options(report, name, "service", &old.options, &new.options);
    for (label, rpc) in &old.rpcs {
        let element = format!("{name}.{label}");
        let Some(kept) = new.rpcs.get(label) else {
            report.add(Rule::RpcRemoved, element, "the rpc is gone");
            continue;
        };
        if rpc.request != kept.request {
            let text = format!("{} became {}", rpc.request, kept.request);
            report.add(Rule::RpcRequestChanged, &element, text);
        }
        if rpc.response != kept.response {
            let text = format!("{} became {}", rpc.response, kept.response);
            report.add(Rule::RpcResponseChanged, &element, text);
        }
        for (side, before, after) in [
            ("request", rpc.client_streaming, kept.client_streaming),
            ("response", rpc.server_streaming, kept.server_streaming),
        ] {
            if before != after {
                let shown = |streams: bool| if streams { "a stream" } else { "a single message" };
                let text = format!("the {side} was {}, now {}", shown(before), shown(after));
                report.add(Rule::RpcStreamingChanged, &element, text);
            }
        }
        compare_idempotency(report, &element, rpc.idempotency, kept.idempotency);
        compare_options(report, &element, "rpc", &rpc.options, &kept.options);
    }
    for label in new.rpcs.keys().filter(|label| !old.rpcs.contains_key(*label)) {
        report.add(Rule::RpcAdded, format!("{name}.{label}"), "the rpc is new");
    }
}

fn compare_idempotency(report: &mut Report, element: &str, old: Option<i32>, new: Option<i32>) {
    let shown = |level: Option<i32>| match level.map(IdempotencyLevel::try_from) {
        None => "unknown".to_owned(),
        Some(Ok(level)) => level.as_str_name().to_lowercase(),
        Some(Err(other)) => other.to_string(),
    };
    if old != new {
        let rule = match old {
            // Callers that know nothing about it do not rely on it.
            None => Rule::RpcIdempotencyGained,
            Some(_) => Rule::RpcIdempotencyChanged,
        };
        let text = format!("the idempotency level was {}, now {}", shown(old), shown(new));
        report.add(rule, element, text);
    }
}
