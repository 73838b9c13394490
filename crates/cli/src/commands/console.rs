//! `prexorctl instance console` and `attach`

use std::io::{self, BufRead as _};
use std::thread;

use serde_json::json;
use tokio::sync::mpsc;

use crate::arguments::ConsoleArguments;
use crate::client::Client;
use crate::console::{Console, Extent, Happening};
use crate::failure::Failure;
use crate::output::{Colour, Output, Paint, remark};
use crate::printable;
use crate::resource::Outcome;

/// Typed lines that wait to be sent; more are not read
const TYPED_AHEAD: usize = 16;
const LONGEST_TYPED: usize = 16 * 1024;

pub(super) async fn run(
    arguments: &ConsoleArguments,
    input: bool,
    client: &Client,
    output: &Output,
) -> Result<(), Failure> {
    let extent = if arguments.no_follow {
        Extent::Kept
    } else {
        Extent::Live
    };
    let mut console = Console::new(client, &arguments.id, arguments.from, extent);
    let view = View {
        raw: arguments.raw,
        output,
        notes: Paint::for_stderr(!output.paint().is_enabled()),
    };
    let mut typed = input.then(typed_lines);
    loop {
        tokio::select! {
            biased;
            interrupted = tokio::signal::ctrl_c() => {
                interrupted?;
                return Ok(());
            }
            happening = console.next() => match happening? {
                Some(happening) => view.show(&happening)?,
                None => return Ok(()),
            },
            line = next_typed(&mut typed) => match line {
                Some(line) => send(&arguments.id, &line, client, &view).await?,
                // The end of the input ends sending, not watching.
                None => typed = None,
            },
        }
    }
}

/// What is said where the numbers of lines begin again
pub(super) const RECOUNTED: &str = "connected again; the controller was restarted and began to count its lines anew, so some may be missing or shown again";

struct View<'a> {
    raw: bool,
    output: &'a Output,
    notes: Paint,
}

impl View<'_> {
    fn show(&self, happening: &Happening) -> Result<(), Failure> {
        match happening {
            Happening::Line(line) if self.output.is_json() => {
                let shown = json!({
                    "sequence": line.sequence,
                    "incarnation": line.incarnation,
                    "timestampMs": line.timestamp_ms,
                    "line": line.line,
                });
                self.output.text(&printable::json(&shown.to_string()))
            }
            Happening::Line(line) if self.raw => self.output.text(&line.line),
            Happening::Line(line) => self.output.text(&printable::line(&line.line)),
            Happening::Gap { missed } if self.output.is_json() => self
                .output
                .text(&json!({ "gap": { "missed": missed } }).to_string()),
            Happening::Gap { missed } => {
                self.note(&format!("{missed} lines are missing here"));
                Ok(())
            }
            Happening::Lost { reason } => {
                self.note(&format!("{reason}; connecting again"));
                Ok(())
            }
            Happening::Recounted => {
                self.note(RECOUNTED);
                Ok(())
            }
            Happening::Resumed => {
                self.note("connected again");
                Ok(())
            }
            Happening::Connected => Ok(()),
        }
    }

    /// Says something that is not a console line
    fn note(&self, text: &str) {
        remark(self.notes.paint(Colour::Moving, &format!("-- {text} --")));
    }
}

async fn send(id: &str, line: &str, client: &Client, view: &View<'_>) -> Result<(), Failure> {
    if line.trim().is_empty() {
        return Ok(());
    }
    let body = json!({ "command": line });
    let path = ["instances", id, "command"];
    match client.post::<Outcome>(&path, &[], Some(&body)).await {
        Ok(_) => Ok(()),
        // The console stays open: the server may be starting, or the node on its way back.
        Err(
            error @ (Failure::Refused {
                status: 409 | 422 | 503,
                ..
            }
            | Failure::Unreachable { .. }),
        ) => {
            view.note(&format!("not sent: {error}"));
            Ok(())
        }
        Err(error) => Err(error),
    }
}

async fn next_typed(typed: &mut Option<mpsc::Receiver<String>>) -> Option<String> {
    match typed {
        Some(lines) => lines.recv().await,
        None => std::future::pending().await,
    }
}

/// Reads standard input on a thread of its own, which ends with the process: a read of a terminal cannot be interrupted
fn typed_lines() -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel(TYPED_AHEAD);
    thread::spawn(move || {
        let mut stdin = io::stdin().lock();
        let mut line = Vec::new();
        loop {
            line.clear();
            let mut bounded = io::Read::take(&mut stdin, LONGEST_TYPED as u64);
            match bounded.read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            let text = String::from_utf8_lossy(&line)
                .trim_end_matches(['\r', '\n'])
                .to_owned();
            if sender.blocking_send(text).is_err() {
                return;
            }
        }
    });
    receiver
}
