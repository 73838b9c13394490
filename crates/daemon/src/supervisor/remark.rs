//! What the daemon itself has to say on the console of an instance
//!
//! Written into the log, where it is numbered, delivered and kept like what the instance prints: an end of the daemon's own
//! making gives its reason to whoever looks at the console, whatever the controller shows beside it.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};

use prexorcloud_protocol::InstanceId;

use crate::control::ControlDir;
use crate::durable::open_regular;

/// Adds a line to the console, behind whatever stands there; a disk that does not take it is said in the daemon's log
pub(super) fn remark(control: &ControlDir, instance: InstanceId, text: &str) {
    tracing::info!(%instance, "{text}");
    if let Err(error) = write(control, text) {
        tracing::warn!(%instance, %error, "this cannot be said on the console of the instance");
    }
}

fn write(control: &ControlDir, text: &str) -> io::Result<()> {
    let mut log = open_regular(&control.console_log(), File::options().read(true).append(true))?;
    // At the end of a line that the instance has not finished it would be taken for its words.
    let begin = if ends_within_a_line(&mut log)? { "\n" } else { "" };
    log.write_all(format!("{begin}[prexorcloud] {text}\n").as_bytes())
}

fn ends_within_a_line(log: &mut File) -> io::Result<bool> {
    if log.seek(SeekFrom::End(0))? == 0 {
        return Ok(false);
    }
    log.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    log.read_exact(&mut last)?;
    Ok(last != *b"\n")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::fs;

    use super::*;

    #[test]
    fn a_remark_is_a_line_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let control = ControlDir::new(folder.path());
        fs::write(control.console_log(), "").unwrap();
        write(&control, "first").unwrap();
        let mut server = File::options().append(true).open(control.console_log()).unwrap();
        server.write_all(b"> half a line").unwrap();
        write(&control, "second").unwrap();
        assert_eq!(
            fs::read_to_string(control.console_log()).unwrap(),
            "[prexorcloud] first\n> half a line\n[prexorcloud] second\n"
        );
    }
}
