//! The outbox: order of the classes, bounds, and gaps that are visible
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::HashMap;

use prexorcloud_protocol::proto::daemon_message::Payload;
use prexorcloud_protocol::proto::{
    ConsoleOutput, ControllerMessage, DaemonLogRecord, DaemonMessage, InstanceFileContent, ModuleEvent, Ping,
    Pong, PreWarmCache, controller_message,
};
use prexorcloud_protocol::unstable::outbox::{Bound, Bounds, Class, Outbox, Outgoing};
use proptest::prelude::*;

const LINES: usize = 16;

fn bounds() -> Bounds {
    let bound = Bound {
        messages: LINES,
        bytes: 4096,
    };
    Bounds {
        control: bound,
        report: bound,
        bulk: bound,
        best_effort: bound,
    }
}

fn line(instance: &str, sequence: u64) -> DaemonMessage {
    let line = format!("line {sequence}");
    let output = ConsoleOutput {
        instance_id: instance.into(),
        line,
        timestamp_ms: 1,
        incarnation: 1,
        sequence,
    };
    DaemonMessage {
        payload: Some(Payload::ConsoleOutput(output)),
    }
}

fn pong(sequence: i64) -> DaemonMessage {
    DaemonMessage {
        payload: Some(Payload::Pong(Pong { sequence })),
    }
}

fn blob(len: usize) -> DaemonMessage {
    let content = vec![7; len].into();
    DaemonMessage {
        payload: Some(Payload::InstanceFileContent(InstanceFileContent {
            content,
            ..Default::default()
        })),
    }
}

fn crash() -> DaemonMessage {
    DaemonMessage {
        payload: Some(Payload::CrashReport(Box::default())),
    }
}

fn console(message: DaemonMessage) -> (u64, String) {
    match message.payload {
        Some(Payload::ConsoleOutput(output)) => (output.sequence, output.line),
        other => panic!("expected a console line, got {other:?}"),
    }
}

#[test]
fn control_overtakes_everything() {
    let mut outbox = Outbox::new(bounds());
    outbox.push(blob(100)).unwrap();
    outbox.push(line("a", 1)).unwrap();
    outbox.push(pong(1)).unwrap();
    outbox.push(pong(2)).unwrap();
    let order: Vec<_> = std::iter::from_fn(|| outbox.pop())
        .map(|message| message.class())
        .collect();
    assert_eq!(
        order,
        [Class::Control, Class::Control, Class::Bulk, Class::BestEffort]
    );
}

#[test]
fn bulk_and_best_effort_take_turns() {
    let mut outbox = Outbox::new(bounds());
    for n in 1..=3 {
        outbox.push(blob(10)).unwrap();
        outbox.push(line("a", n)).unwrap();
    }
    let order: Vec<_> = std::iter::from_fn(|| outbox.pop())
        .map(|message| message.class())
        .collect();
    use Class::{BestEffort, Bulk};
    assert_eq!(order, [Bulk, BestEffort, Bulk, BestEffort, Bulk, BestEffort]);
}

#[test]
fn a_full_control_class_is_an_error_and_keeps_what_waits() {
    let mut outbox = Outbox::new(bounds());
    (0..16).for_each(|n| outbox.push(pong(n)).unwrap());
    let overflow = outbox.push(pong(16)).unwrap_err();
    assert_eq!((overflow.class, overflow.waiting), (Class::Control, LINES));
    assert_eq!(outbox.len(Class::Control), LINES);
}

#[test]
fn bytes_are_bounded_too_but_one_large_message_always_passes() {
    let mut outbox = Outbox::new(bounds());
    outbox.push(blob(1_000_000)).unwrap();
    assert!(!outbox.has_room(Class::Bulk, 1));
    assert_eq!(outbox.push(blob(1)).unwrap_err().class, Class::Bulk);
    assert!(outbox.pop().is_some());
    assert!(outbox.has_room(Class::Bulk, 1_000_000));
}

#[test]
fn shed_lines_leave_a_record_with_their_count_before_the_next_line() {
    let mut outbox = Outbox::new(bounds());
    (1..=17).for_each(|n| outbox.push(line("lobby-1", n)).unwrap());
    // An eighth and the excess: lines 1 to 3 gave way.
    assert_eq!(outbox.shed(), 3);
    let (sequence, text) = console(outbox.pop().unwrap());
    assert_eq!(
        (sequence, text.as_str()),
        (3, "[prexorcloud] 3 console line(s) were not delivered")
    );
    assert_eq!(console(outbox.pop().unwrap()).0, 4);
}

#[test]
fn each_console_has_its_own_gap_and_logs_have_theirs() {
    let mut outbox = Outbox::new(bounds());
    let record = DaemonLogRecord {
        message: "m".into(),
        level: "INFO".into(),
        ..Default::default()
    };
    outbox
        .push(DaemonMessage {
            payload: Some(Payload::DaemonLogRecord(Box::new(record))),
        })
        .unwrap();
    outbox.push(line("a", 1)).unwrap();
    outbox.push(line("b", 1)).unwrap();
    (2..=20).for_each(|n| outbox.push(line("c", n)).unwrap());
    let first: Vec<_> = (0..4).map(|_| outbox.pop().unwrap()).collect();
    let mut gaps: HashMap<String, u64> = HashMap::new();
    for message in &first {
        match message.payload.as_ref().unwrap() {
            Payload::ConsoleOutput(output) if output.line.starts_with("[prexorcloud]") => {
                gaps.insert(output.instance_id.clone(), output.sequence);
            }
            Payload::DaemonLogRecord(record) => {
                assert_eq!(record.message, "1 log record(s) were not delivered");
                gaps.insert("log".into(), 0);
            }
            _ => {}
        }
    }
    assert_eq!(gaps.get("a"), Some(&1));
    assert_eq!(gaps.get("b"), Some(&1));
    assert!(gaps.contains_key("log"), "{gaps:?}");
}

#[test]
fn a_new_stream_starts_without_the_old_ones_control_but_with_its_lines() {
    let mut outbox = Outbox::new(bounds());
    outbox.push(pong(1)).unwrap();
    outbox.push(blob(10)).unwrap();
    outbox.push(line("a", 1)).unwrap();
    outbox.clear_stream();
    assert_eq!(console(outbox.pop().unwrap()).0, 1);
    assert!(outbox.pop().is_none() && outbox.is_empty());
}

#[test]
fn a_report_leaves_after_control_and_with_its_stream() {
    let mut outbox = Outbox::new(bounds());
    outbox.push(blob(10)).unwrap();
    outbox.push(crash()).unwrap();
    outbox.push(pong(1)).unwrap();
    let order: Vec<_> = std::iter::from_fn(|| outbox.pop())
        .map(|message| message.class())
        .collect();
    assert_eq!(order, [Class::Control, Class::Report, Class::Bulk]);
    outbox.push(crash()).unwrap();
    outbox.clear_stream();
    assert!(outbox.is_empty(), "the session keeps what must arrive");
}

#[test]
fn the_bytes_of_a_message_are_free_again_when_it_has_left() {
    let mut outbox = Outbox::new(bounds());
    outbox.push(blob(3000)).unwrap();
    outbox.push(blob(10)).unwrap();
    assert!(!outbox.has_room(Class::Bulk, 3000));
    assert!(outbox.pop().is_some());
    assert!(outbox.has_room(Class::Bulk, 3000));
}

#[test]
fn two_lives_of_one_console_have_a_gap_each() {
    let mut outbox = Outbox::new(bounds());
    let mut earlier = line("a", 1);
    if let Some(Payload::ConsoleOutput(output)) = &mut earlier.payload {
        output.incarnation = 0;
    }
    outbox.push(earlier).unwrap();
    (1..=16).for_each(|n| outbox.push(line("a", n)).unwrap());
    let gaps: Vec<_> = (0..2).map(|_| console(outbox.pop().unwrap()).1).collect();
    assert_eq!(
        gaps,
        [
            "[prexorcloud] 2 console line(s) were not delivered",
            "[prexorcloud] 1 console line(s) were not delivered"
        ]
    );
}

#[test]
fn what_a_controller_sends_in_bulk_takes_turns_with_events() {
    use controller_message::Payload;
    for (payload, class) in [
        (Payload::Ping(Ping::default()), Class::Control),
        (Payload::PreWarmCache(PreWarmCache::default()), Class::Report),
        (Payload::TemplateData(Box::default()), Class::Bulk),
        (Payload::ModuleInstall(Box::default()), Class::Bulk),
        (Payload::ModuleEvent(ModuleEvent::default()), Class::BestEffort),
    ] {
        let message = ControllerMessage {
            payload: Some(payload),
            ..Default::default()
        };
        assert_eq!(message.class(), class, "{message:?}");
    }
}

#[derive(Clone, Debug)]
enum Step {
    Line(u8),
    Pong,
    Blob(u16),
    Pop,
}

proptest! {
    /// Invariants: `bounded`, `nothing_vanishes` (every line is delivered or counted in a gap record), `lines_in_order`,
    /// `control_in_order`.
    #[test]
    fn whatever_happens_lines_are_delivered_in_order_or_counted(
        steps in prop::collection::vec(prop_oneof![
            8 => (0_u8..3).prop_map(Step::Line), 2 => Just(Step::Pong), 1 => (0_u16..5000).prop_map(Step::Blob), 4 => Just(Step::Pop)
        ], 0..200)
    ) {
        let mut outbox = Outbox::new(bounds());
        let mut pushed = [0_u64; 3];
        let mut seen = [0_u64; 3];
        let (mut sent, mut answered) = (0, 0);
        let mut receive = |message: DaemonMessage| match message.payload {
            Some(Payload::ConsoleOutput(output)) => {
                let of = usize::from(output.instance_id.as_bytes()[0] - b'a');
                match output.line.strip_prefix("[prexorcloud] ") {
                    Some(gap) => {
                        let shed: u64 = gap.split(' ').next().unwrap().parse().unwrap();
                        assert_eq!(seen[of] + shed, output.sequence, "the record accounts for every shed line");
                    }
                    None => assert_eq!(output.sequence, seen[of] + 1, "no line is missing, and none is late"),
                }
                seen[of] = output.sequence;
            }
            Some(Payload::Pong(pong)) => {
                assert_eq!(pong.sequence, answered + 1);
                answered = pong.sequence;
            }
            _ => {}
        };
        for step in steps {
            match step {
                Step::Line(of) => {
                    let count = &mut pushed[usize::from(of)];
                    *count += 1;
                    outbox.push(line(["a", "b", "c"][usize::from(of)], *count)).unwrap();
                }
                Step::Pong => if outbox.push(pong(sent + 1)).is_ok() { sent += 1 },
                Step::Blob(len) => { let _ = outbox.push(blob(len.into())); }
                Step::Pop => if let Some(message) = outbox.pop() { receive(message) },
            }
            for class in [Class::Control, Class::Report, Class::Bulk, Class::BestEffort] {
                prop_assert!(outbox.len(class) <= LINES);
            }
        }
        while let Some(message) = outbox.pop() { receive(message) }
        prop_assert_eq!(seen, pushed);
        prop_assert_eq!(answered, sent);
    }
}
