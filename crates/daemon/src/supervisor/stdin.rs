//! Writing to an instance's console

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};

use rustix::fs::OFlags;

use crate::control::ControlDir;
use crate::durable::is_own;

/// The longest command, in UTF-16 units: what a controller accepts from an operator
///
/// With its newline it stays below `PIPE_BUF`, so the kernel takes it whole or not at all.
pub const MAX_COMMAND_UNITS: usize = 1000;

/// Why a command did not reach an instance
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// There is no such instance, or it has ended
    #[error("the instance is not running")]
    NotRunning,
    /// The text is not one line of plain text
    #[error("a command is one line without control characters")]
    NotALine,
    /// The text is too long
    #[error("the command has {units} UTF-16 units, at most {MAX_COMMAND_UNITS} are allowed")]
    TooLong {
        /// Its length
        units: usize,
    },
    /// The instance does not read its console, and what waits there fills the pipe
    #[error("the instance does not read its console; {} bytes already wait for it", 64 * 1024)]
    Stuck,
    /// The pipe failed
    #[error("cannot write to the console: {0}")]
    Io(io::Error),
}

/// Writes one command line without ever waiting
pub(super) fn write_command(control: &ControlDir, command: &str) -> Result<(), CommandError> {
    if command
        .chars()
        .any(|character| character.is_control() && character != '\t')
    {
        return Err(CommandError::NotALine);
    }
    let units = command.encode_utf16().count();
    if units > MAX_COMMAND_UNITS {
        return Err(CommandError::TooLong { units });
    }
    // Opened each time: a pipe that nobody reads any more is noticed here, as ENXIO.
    let path = control.stdin();
    let mut flags = OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::NOCTTY;
    flags.set(OFlags::NOFOLLOW, !is_own(&path));
    let opened = File::options()
        .write(true)
        .custom_flags(i32::try_from(flags.bits()).unwrap_or(0))
        .open(path)
        .and_then(|file| Ok((file.metadata()?.file_type().is_fifo(), file)));
    let mut pipe = match opened {
        Ok((true, pipe)) => pipe,
        // Something else is in its place: nobody would read what is written there.
        Ok((false, _)) => return Err(CommandError::NotRunning),
        Err(error) if is_gone(&error) => return Err(CommandError::NotRunning),
        Err(error) => return Err(CommandError::Io(error)),
    };
    let mut line = String::with_capacity(command.len() + 1);
    line.push_str(command);
    line.push('\n');
    match pipe.write(line.as_bytes()) {
        Ok(count) if count == line.len() => Ok(()),
        Ok(_) => Err(CommandError::Stuck),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(CommandError::Stuck),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(CommandError::NotRunning),
        Err(error) => Err(CommandError::Io(error)),
    }
}

fn is_gone(error: &io::Error) -> bool {
    use rustix::io::Errno;
    error.kind() == io::ErrorKind::NotFound
        || [Errno::NXIO, Errno::LOOP, Errno::ISDIR]
            .iter()
            .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::io::Read as _;

    use super::*;

    fn pipe() -> (tempfile::TempDir, ControlDir) {
        let folder = tempfile::tempdir().unwrap();
        let control = ControlDir::new(folder.path());
        rustix::fs::mkfifoat(
            rustix::fs::CWD,
            control.stdin(),
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        )
        .unwrap();
        (folder, control)
    }

    #[test]
    fn commands_arrive_in_order_and_whole() {
        let (_folder, control) = pipe();
        let mut reader = File::options()
            .read(true)
            .write(true)
            .open(control.stdin())
            .unwrap();
        write_command(&control, "say grüße 🦀").unwrap();
        write_command(&control, "stop").unwrap();
        let expected = "say grüße 🦀\nstop\n";
        let mut bytes = vec![0; expected.len()];
        reader.read_exact(&mut bytes).unwrap();
        assert_eq!(String::from_utf8(bytes).unwrap(), expected);
    }

    #[test]
    fn a_full_pipe_is_an_answer_and_not_a_wait() {
        let (_folder, control) = pipe();
        let _reader = File::options()
            .read(true)
            .write(true)
            .open(control.stdin())
            .unwrap();
        let longest = "🦀".repeat(MAX_COMMAND_UNITS / 2);
        let written = (0..10_000)
            .take_while(|_| write_command(&control, &longest).is_ok())
            .count();
        assert!((10..100).contains(&written), "{written}");
        assert!(matches!(
            write_command(&control, &longest),
            Err(CommandError::Stuck)
        ));
    }

    #[test]
    fn a_pipe_without_a_reader_is_an_ended_instance() {
        let (folder, control) = pipe();
        assert!(matches!(
            write_command(&control, "list"),
            Err(CommandError::NotRunning)
        ));
        for plant in ["file", "link", "folder"] {
            std::fs::remove_file(control.stdin()).unwrap();
            let outside = folder.path().join("outside");
            std::fs::write(&outside, "untouched").unwrap();
            match plant {
                "file" => std::fs::write(control.stdin(), "").unwrap(),
                "link" => std::os::unix::fs::symlink(&outside, control.stdin()).unwrap(),
                _ => std::fs::create_dir(control.stdin()).unwrap(),
            }
            assert!(matches!(
                write_command(&control, "stop"),
                Err(CommandError::NotRunning)
            ));
            assert_eq!(std::fs::read(&outside).unwrap(), b"untouched");
        }
        let nothing = ControlDir::new("/does/not/exist");
        assert!(matches!(
            write_command(&nothing, "list"),
            Err(CommandError::NotRunning)
        ));
    }

    #[test]
    fn smuggled_lines_and_long_commands_are_refused() {
        let (_folder, control) = pipe();
        for command in ["say a\nop me", "say a\rop me", "\u{1b}[2J", "a\0b"] {
            assert!(matches!(
                write_command(&control, command),
                Err(CommandError::NotALine)
            ));
        }
        let long = "x".repeat(MAX_COMMAND_UNITS + 1);
        assert!(matches!(
            write_command(&control, &long),
            Err(CommandError::TooLong { units: 1001 })
        ));
    }
}
