//! A built-in stand-in for the demo server, for machines without Java
//!
//! It prints the same boot lines, takes the same commands and ends with the same exit codes as the Java program in
//! `demo/`, so that a tour of the cluster shows the same things with either. It uses nothing but `std`. One thing differs: a
//! SIGTERM ends it at once, without the lines about saving.

use std::ffi::OsString;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::ExitCode;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

const LARGEST_SPAM: u32 = 10_000_000;

/// Runs the server until its console says `stop`, `crash` or `oom`
///
/// `arguments` are those after the subcommand: `--port N`, others are ignored as a game server's would be. The exit code
/// is 0 after `stop`, 1 after a crash or if the port is taken, 2 for wrong arguments.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let begin = Instant::now();
    let Some(port) = port(arguments) else {
        // Standard error is the log; there is nowhere else to complain.
        let _ = writeln!(io::stderr(), "usage: demo-server --port <1..65535> [--nogui]");
        return ExitCode::from(2);
    };
    match serve(begin, port, &mut Heedless(io::stdout().lock())) {
        Ok(code) => code,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Output that may get lost, as that of a game server: its players do not see it
struct Heedless<W>(W);

impl<W: Write> Write for Heedless<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.0.write_all(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = self.0.flush();
        Ok(())
    }
}

fn port(arguments: impl IntoIterator<Item = OsString>) -> Option<u16> {
    let mut arguments = arguments.into_iter();
    arguments.find(|argument| argument == "--port")?;
    let port = arguments.next()?.to_str()?.parse().ok()?;
    (port > 0).then_some(port)
}

fn serve(begin: Instant, port: u16, out: &mut impl Write) -> io::Result<ExitCode> {
    info(out, "Starting PrexorCloud demo server version 1")?;
    info(out, "Loading properties")?;
    info(out, &format!("Starting server on *:{port}"))?;
    let listener = match TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))) {
        Ok(listener) => listener,
        Err(refused) => {
            info(out, "**** FAILED TO BIND TO PORT!")?;
            info(out, &format!("The exception was: {refused}"))?;
            return Ok(ExitCode::FAILURE);
        }
    };
    info(out, "Preparing level \"world\"")?;
    std::thread::spawn(move || {
        for visitor in listener.incoming() {
            drop(visitor);
        }
    });
    let seconds = begin.elapsed().as_secs_f64();
    info(out, &format!("Done ({seconds:.3}s)! For help, type \"help\""))?;
    obey(&mut io::stdin().lock(), out)
}

fn obey(console: &mut impl io::BufRead, out: &mut impl Write) -> io::Result<ExitCode> {
    let mut line = Vec::new();
    while console.read_until(b'\n', &mut line)? > 0 {
        let text = String::from_utf8_lossy(&line).into_owned();
        line.clear();
        let command = text.trim();
        let (word, rest) = command.split_once(' ').unwrap_or((command, ""));
        match word {
            "" => {}
            "help" => info(
                out,
                "Commands: help, list, say TEXT, spam N, hang, stop, crash, oom",
            )?,
            "list" => info(out, "There are 0 of a max of 100 players online:")?,
            "say" => info(out, &format!("[Server] {}", rest.trim()))?,
            "spam" => spam(rest.trim(), out)?,
            "hang" => {
                info(out, "The console is not read any more")?;
                wait_for_ever();
            }
            "crash" => {
                let cause = "java.lang.IllegalStateException: crash was asked for on the console";
                return die(cause, "obey", out);
            }
            "oom" => return die("java.lang.OutOfMemoryError: Java heap space", "fill", out),
            "stop" => {
                for text in [
                    "Stopping the server",
                    "Saving players",
                    "Saving worlds",
                    "All dimensions are saved",
                ] {
                    info(out, text)?;
                }
                return Ok(ExitCode::SUCCESS);
            }
            _ => info(out, "Unknown command. Type \"help\" for help.")?,
        }
    }
    // Without a console there is nobody to obey, but players may still be connected.
    wait_for_ever()
}

fn wait_for_ever() -> ! {
    loop {
        std::thread::park();
    }
}

fn die(cause: &str, function: &str, out: &mut impl Write) -> io::Result<ExitCode> {
    let class = "me.prexorjustin.prexorcloud.demo.DemoServer";
    writeln!(out, "Exception in thread \"main\" {cause}")?;
    writeln!(out, "\tat {class}.{function}(stand-in)")?;
    writeln!(out, "\tat {class}.main(stand-in)")?;
    out.flush()?;
    Ok(ExitCode::FAILURE)
}

fn spam(count: &str, out: &mut impl Write) -> io::Result<()> {
    let Some(lines) = count.parse::<u32>().ok().filter(|lines| *lines <= LARGEST_SPAM) else {
        return info(out, &format!("Usage: spam <0..{LARGEST_SPAM}>"));
    };
    // Standard output writes at each newline; this goes around it in larger pieces.
    let mut out = io::BufWriter::with_capacity(32 * 1024, out);
    for line in 1..=lines {
        writeln!(out, "spam line {line} of {lines}")?;
    }
    out.flush()
}

fn info(out: &mut impl Write, text: &str) -> io::Result<()> {
    let seconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_secs() % 86_400);
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    writeln!(out, "[{hours:02}:{minutes:02}:{seconds:02} INFO]: {text}")?;
    out.flush()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn answers(console: &str) -> (String, ExitCode) {
        let mut out = Vec::new();
        let code = obey(&mut console.as_bytes(), &mut out).unwrap();
        (String::from_utf8(out).unwrap(), code)
    }

    #[test]
    fn the_console_is_obeyed_until_stop() {
        let (text, code) = answers("say  hello\nlist\r\nwhat\nspam 2\nspam x\nstop\nsay never\n");
        assert_eq!(code, ExitCode::SUCCESS);
        for expected in [
            "INFO]: [Server] hello\n",
            "INFO]: There are 0 of a max of 100 players online:\n",
            "INFO]: Unknown command.",
            "spam line 2 of 2\n",
            "INFO]: Usage: spam",
            "INFO]: All dimensions are saved\n",
        ] {
            assert!(text.contains(expected), "{expected:?} in {text}");
        }
        assert!(!text.contains("never"));
    }

    #[test]
    fn a_crash_shows_a_stack_trace_and_fails() {
        let (text, code) = answers("crash\n");
        assert_eq!(code, ExitCode::FAILURE);
        assert!(text.starts_with("Exception in thread \"main\" java.lang.IllegalStateException"));
        assert!(text.contains("\tat "));
    }

    #[test]
    fn the_port_must_be_a_port() {
        let port = |text: &str| port(text.split(' ').map(OsString::from));
        assert_eq!(port("--nogui --port 25565"), Some(25565));
        for wrong in ["", "--port", "--port 0", "--port 65536", "--port x"] {
            assert_eq!(port(wrong), None);
        }
    }
}
