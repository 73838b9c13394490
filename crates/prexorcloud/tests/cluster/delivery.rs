//! What was said over a link that failed

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::rig::{Rig, eventually};

/// How long the link stands still
const STALL: Duration = Duration::from_secs(20);

/// Lines that a server prints in a second
const RATE: u32 = 18;

#[test]
fn a_link_that_stalls_and_breaks_costs_no_console_line_and_doubles_none() {
    let (rig, link) = Rig::with_link();
    rig.start_standin("lobby-1");
    let mut server = Printer::of(&rig);
    server.print_for(Duration::from_secs(2));
    rig.await_line("lobby-1", &server.last());
    link.stall();
    server.print_for(STALL);
    link.cut();
    server.print_for(Duration::from_secs(1));
    rig.await_line("lobby-1", &server.last());
    // What comes once more comes behind it.
    server.print_for(Duration::from_secs(3));
    rig.await_line("lobby-1", &server.last());
    server.assert_on(&rig);
}

#[test]
fn the_last_lines_of_a_server_survive_the_link_that_they_were_sent_over() {
    let (rig, link) = Rig::with_link();
    rig.start_standin("lobby-1");
    rig.await_line("lobby-1", "Done (");
    link.stall();
    let mut server = Printer::of(&rig);
    server.print_for(Duration::from_secs(4));
    crate::survival::kill_server(&rig);
    // The daemon hands everything over and waits: the link carries nothing.
    let folder = server.log.parent().unwrap().to_owned();
    eventually("the exit record", || {
        folder.join("exit.json").exists().then_some(())
    });
    std::thread::sleep(Duration::from_secs(5));
    assert!(folder.exists(), "nothing has arrived yet");
    link.cut();
    rig.await_instance("lobby-1", "CRASHED");
    rig.await_line("lobby-1", &server.last());
    server.assert_on(&rig);
    eventually("the log being let go of", || (!folder.exists()).then_some(()));
}

/// Writes to the console of the only server, as the server itself does
struct Printer {
    log: PathBuf,
    file: File,
    printed: u32,
}

impl Printer {
    fn of(rig: &Rig) -> Self {
        let folders = std::fs::read_dir(rig.path("daemon/run")).unwrap();
        let log = folders.flatten().next().unwrap().path().join("console.log");
        let file = File::options().append(true).open(&log).unwrap();
        Self {
            log,
            file,
            printed: 0,
        }
    }

    /// Prints at an even rate
    fn print_for(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.printed += 1;
            writeln!(self.file, "{}", self.last()).unwrap();
            std::thread::sleep(Duration::from_secs(1) / RATE);
        }
    }

    fn last(&self) -> String {
        format!("tick {:06}", self.printed)
    }

    /// Every line is there, once and in order
    fn assert_on(&self, rig: &Rig) {
        let console = rig.ctl(&["instance", "console", "lobby-1", "--no-follow"]);
        let ticks: Vec<_> = console
            .stdout
            .lines()
            .filter(|line| line.starts_with("tick "))
            .collect();
        let expected: Vec<_> = (1..=self.printed)
            .map(|number| format!("tick {number:06}"))
            .collect();
        let lost: Vec<_> = expected
            .iter()
            .filter(|line| !ticks.contains(&line.as_str()))
            .collect();
        assert!(
            lost.is_empty(),
            "{} of {} lines are lost: {lost:?}",
            lost.len(),
            self.printed
        );
        assert_eq!(ticks, expected, "each once and in order");
        assert!(!console.stderr.contains("missing"), "{}", console.stderr);
        assert!(!console.stdout.contains("[prexorcloud]"), "{}", console.stdout);
    }
}
