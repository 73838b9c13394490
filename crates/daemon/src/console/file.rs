//! Opening a console log that somebody may have put something else in the place of

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::OFlags;

/// Opens the log at `path` for reading, and for writing if `write`
///
/// A server runs as the daemon's user and can reach its own log. A link in its place is not followed, and a FIFO, a socket
/// or a device is not read: it could keep the reader waiting for ever.
pub(super) fn open(path: &Path, write: bool) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let refused = |what: &str| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{} is {what}, and no console log any more", path.display()),
        )
    };
    let opened = File::options()
        .read(true)
        .write(write)
        .custom_flags(flags.bits().cast_signed())
        .open(path);
    let file = match opened {
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
            return Err(refused("a link"));
        }
        opened => opened?,
    };
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(refused("not a regular file")),
    }
}
