//! The transition table and its drawing, as a committed snapshot
//!
//! `UPDATE_SNAPSHOTS=1 cargo test -p prexorcloud-protocol --test transitions` writes
//! `src/instance/transitions.md`, which is also the documentation of the module.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use prexorcloud_protocol::instance::{Age, Input, State, Transition, UnknownState, transition};
use prexorcloud_protocol::{Incarnation, proto::InstanceState};

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/instance/transitions.md")
}

fn name(input: Input) -> String {
    match input {
        Input::Reported(state) => format!("reported {state}"),
        Input::Dispatched => "dispatched".to_owned(),
        Input::StopRequested => "stop requested".to_owned(),
        Input::DrainRequested => "drain requested".to_owned(),
        Input::DrainCancelled => "drain cancelled".to_owned(),
        Input::StartRejected => "start rejected".to_owned(),
        Input::Lost => "lost".to_owned(),
        Input::TakenBack(state) => format!("taken back {state}"),
    }
}

fn cell(transition: Transition) -> String {
    match transition {
        Transition::To(state) => state.to_string(),
        Transition::Same => "=".to_owned(),
        Transition::Illegal => "-".to_owned(),
    }
}

/// The arrows that leave `from`, with everything that leads along each of them.
fn arrows(from: State) -> BTreeMap<State, Vec<String>> {
    let mut arrows: BTreeMap<State, Vec<String>> = BTreeMap::new();
    for input in Input::ALL {
        if let Transition::To(to) = transition(from, input) {
            let label = match input {
                Input::Reported(_) => "reported".to_owned(),
                Input::TakenBack(_) => "taken back".to_owned(),
                other => name(other),
            };
            arrows.entry(to).or_default().push(label);
        }
    }
    arrows
}

fn drawing() -> String {
    let mut text = String::new();
    for from in State::ALL {
        let arrows = arrows(from);
        if arrows.is_empty() {
            writeln!(text, "{from:<9} (final)").unwrap();
        }
        for (row, (to, labels)) in arrows.iter().enumerate() {
            let (left, joint) = match (row, arrows.len()) {
                (0, 1) => (from.as_str(), "───"),
                (0, _) => (from.as_str(), "─┬─"),
                (row, count) if row + 1 == count => ("", " └─"),
                _ => ("", " ├─"),
            };
            let direction = if *to == State::Scheduled { "back to " } else { "" };
            writeln!(
                text,
                "{left:<9} {joint}> {direction}{to:<9} {}",
                labels.join(", ")
            )
            .unwrap();
        }
    }
    text
}

fn mermaid() -> String {
    let mut text = String::from("stateDiagram-v2\n    [*] --> SCHEDULED\n");
    for from in State::ALL {
        for (to, labels) in arrows(from) {
            writeln!(text, "    {from} --> {to}: {}", labels.join(", ")).unwrap();
        }
        if from.is_terminal() {
            writeln!(text, "    {from} --> [*]").unwrap();
        }
    }
    text
}

fn table() -> String {
    let mut text = String::from("| input |");
    for state in State::ALL {
        write!(text, " {state} |").unwrap();
    }
    text.push_str("\n|---|");
    text.push_str(&"---|".repeat(State::ALL.len()));
    text.push('\n');
    for input in Input::ALL {
        write!(text, "| {} |", name(input)).unwrap();
        for state in State::ALL {
            write!(text, " {} |", cell(transition(state, input))).unwrap();
        }
        text.push('\n');
    }
    text
}

fn render() -> String {
    format!(
        "\
The transition table of an instance

What each input does to each state; the columns are the state before. A cell names the state after, `=` means that the
input agrees with the state and nothing changes, `-` that it cannot be true or comes too late and nothing changes.

{table}
The same as arrows:

```text
{drawing}```

A peer's report follows the table of the Java controller, except that no report leads back to `SCHEDULED`: an instance
gets there only when its start is sent again, so a late report cannot undo what came after it. What ended stays ended,
unless the end was only assumed: that, and a stop that did not get there, can be taken back.

This page is generated from the function and compared with it by `tests/transitions.rs`; to accept a change, run
`UPDATE_SNAPSHOTS=1 cargo test -p prexorcloud-protocol --test transitions`. Viewers that draw Mermaid show:

```mermaid
{mermaid}```
",
        table = table(),
        drawing = drawing(),
        mermaid = mermaid(),
    )
}

/// The cells of the table in a rendered page, by input and state.
fn cells(page: &str) -> BTreeMap<(String, String), String> {
    let mut rows = page.lines().filter(|line| line.starts_with('|')).map(|line| {
        line.trim_matches('|')
            .split('|')
            .map(|cell| cell.trim().to_owned())
            .collect::<Vec<_>>()
    });
    let header = rows.next().unwrap_or_default();
    let mut cells = BTreeMap::new();
    for row in rows.skip(1) {
        let Some((input, values)) = row.split_first() else {
            continue;
        };
        for (state, value) in header.iter().skip(1).zip(values) {
            cells.insert((input.clone(), state.clone()), value.clone());
        }
    }
    cells
}

fn changed_cells(committed: &str, current: &str) -> Vec<String> {
    let (committed, current) = (cells(committed), cells(current));
    let keys: std::collections::BTreeSet<_> = committed.keys().chain(current.keys()).collect();
    let show = |cell: Option<&String>| cell.cloned().unwrap_or_else(|| "(absent)".to_owned());
    keys.into_iter()
        .filter(|key| committed.get(*key) != current.get(*key))
        .map(|key| {
            let (was, is) = (show(committed.get(key)), show(current.get(key)));
            format!("{} in {}: committed {was}, now {is}", key.0, key.1)
        })
        .collect()
}

#[test]
fn the_committed_page_is_what_the_function_does() {
    let current = render();
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(path(), &current).unwrap();
    }
    let committed = std::fs::read_to_string(path()).unwrap();
    assert!(
        committed == current,
        "src/instance/transitions.md no longer says what `transition` does.\n\
         Changed cells:\n  {}\n\
         If this is meant, run UPDATE_SNAPSHOTS=1 cargo test -p prexorcloud-protocol --test transitions",
        match changed_cells(&committed, &current) {
            cells if cells.is_empty() => "none; only the text differs".to_owned(),
            cells => cells.join("\n  "),
        },
    );
}

#[test]
fn a_changed_cell_is_named() {
    let page = render();
    let edited = page.replacen("| lost | CRASHED |", "| lost | STOPPED |", 1);
    assert_ne!(page, edited);
    assert_eq!(
        changed_cells(&edited, &page),
        ["lost in SCHEDULED: committed STOPPED, now CRASHED"]
    );
}

/// The table of the Java controller, from the point of view of a peer that reports; same to same is always allowed.
const JAVA: [(State, &[State]); 8] = {
    use State::{Crashed, Draining, Preparing, Running, Scheduled, Starting, Stopped, Stopping};
    [
        (
            Scheduled,
            &[Preparing, Starting, Running, Stopping, Stopped, Crashed],
        ),
        (
            Preparing,
            &[Scheduled, Starting, Running, Stopping, Stopped, Crashed],
        ),
        (Starting, &[Scheduled, Running, Stopping, Stopped, Crashed]),
        (Running, &[Stopping, Stopped, Crashed, Draining]),
        (Draining, &[Running, Stopping, Stopped, Crashed]),
        (Stopping, &[Stopped, Crashed]),
        (Stopped, &[]),
        (Crashed, &[]),
    ]
};

#[test]
fn a_java_peers_reports_are_taken_as_the_java_controller_takes_them() {
    for (from, allowed) in JAVA {
        for to in State::ALL {
            let expected = if from == to {
                Transition::Same
            } else if allowed.contains(&to) && to != State::Scheduled {
                Transition::To(to)
            } else {
                Transition::Illegal
            };
            assert_eq!(
                transition(from, Input::Reported(to)),
                expected,
                "{from} reported {to}"
            );
        }
    }
}

#[test]
fn only_a_dispatch_leads_back_to_scheduled() {
    for from in State::ALL {
        for input in Input::ALL {
            if transition(from, input) == Transition::To(State::Scheduled) {
                assert_eq!(input, Input::Dispatched, "{from} after {input:?}");
            }
        }
    }
}

#[test]
fn nothing_leaves_a_terminal_state_that_was_seen() {
    for from in State::ALL.into_iter().filter(|state| state.is_terminal()) {
        for input in Input::ALL {
            let assumed = matches!(input, Input::TakenBack(_));
            assert!(
                assumed || !matches!(transition(from, input), Transition::To(_)),
                "{from} after {input:?}"
            );
        }
    }
}

#[test]
fn every_live_state_can_be_stopped_and_lost() {
    for from in State::ALL.into_iter().filter(|state| !state.is_terminal()) {
        assert_eq!(transition(from, Input::Lost), Transition::To(State::Crashed));
        let stopped = transition(from, Input::StopRequested);
        assert!(
            matches!(stopped, Transition::To(State::Stopping) | Transition::Same),
            "{from}"
        );
    }
}

#[test]
fn wire_numbers_are_states_or_refused() {
    for state in State::ALL {
        assert_eq!(State::try_from(state.to_wire()), Ok(state));
        assert_eq!(InstanceState::from(state) as i32, state.to_wire());
        assert_eq!(InstanceState::from(state).as_str_name(), state.to_string());
    }
    for value in [0, -1, 9, i32::MIN, i32::MAX] {
        assert_eq!(State::try_from(value), Err(UnknownState { value }));
    }
}

#[test]
fn incarnations_are_compared_before_states() {
    let age = |given, current| Age::of(Incarnation::new(given), Incarnation::new(current));
    assert_eq!(age(3, 3), Age::Current);
    assert_eq!(age(2, 3), Age::Older);
    assert_eq!(age(4, 3), Age::Newer);
    assert_eq!(age(0, 3), Age::Unknown);
    assert_eq!(age(0, 0), Age::Unknown);
    assert_eq!(age(1, 0), Age::Newer);
}
