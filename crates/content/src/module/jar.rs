//! The manifest out of a jar, without unpacking anything else
//!
//! A jar is a zip, and its list of entries stands at its end. Only that list and one small entry are read, so what the others would
//! unpack to costs nothing here; they are judged by what the list says of them, because whoever runs the jar unpacks it.

use std::io::{self, Read, Seek, SeekFrom};

use flate2::{Crc, Decompress, FlushDecompress, Status};

use super::MANIFEST;

/// The most entries of a jar
pub const MAX_ENTRIES: usize = 65_534;

/// The largest manifest, in bytes
pub const MAX_MANIFEST: usize = 64 * 1024;

/// Bytes of the largest list of entries
const MAX_LIST: u64 = 16 << 20;

/// Bytes that all entries may unpack to
const MAX_UNPACKED: u64 = 4 << 30;

/// How many bytes may come out of one byte of the jar, from [`RATIO_FROM`] on
const RATIO: u64 = 200;
const RATIO_FROM: u64 = 64 << 20;

/// The record at the end of a zip, without its comment
const END: usize = 22;
const COMMENT: usize = 65_535;

/// Why a file is no jar of a module
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JarError {
    /// It has no list of entries, or one that makes no sense
    #[error("this is not a jar, or a truncated one: {detail}")]
    NotAJar {
        /// What does not fit
        detail: &'static str,
    },
    /// It is larger than a module may be, or would be when unpacked
    #[error("the jar is refused: {detail}")]
    TooMuch {
        /// Which limit
        detail: String,
    },
    /// There is no manifest
    #[error("the jar has no {MANIFEST}, so it is not a module")]
    NoManifest,
    /// There is a manifest that cannot be read
    #[error("{MANIFEST} cannot be read: {detail}")]
    BadManifest {
        /// Why
        detail: &'static str,
    },
    /// The file cannot be read
    #[error("the jar cannot be read: {0}")]
    Io(#[from] io::Error),
}

const fn broken(detail: &'static str) -> JarError {
    JarError::NotAJar { detail }
}

const fn unreadable(detail: &'static str) -> JarError {
    JarError::BadManifest { detail }
}

/// The text of the manifest in a jar
///
/// # Errors
/// [`JarError`].
pub fn read_manifest(mut jar: impl Read + Seek) -> Result<String, JarError> {
    let size = jar.seek(SeekFrom::End(0))?;
    let (list, entries) = list(&mut jar, size)?;
    let mut found = None;
    let (mut unpacked, mut rest) = (0_u64, &list[..]);
    for _ in 0..entries {
        let entry = Entry::read(&mut rest)?;
        unpacked = unpacked.saturating_add(entry.unpacked);
        if entry.name == MANIFEST.as_bytes() && found.replace(entry).is_some() {
            return Err(unreadable("it is there twice"));
        }
    }
    if !rest.is_empty() {
        return Err(broken("its list of entries has another length than it says"));
    }
    if unpacked > MAX_UNPACKED || unpacked > RATIO_FROM && unpacked > size.saturating_mul(RATIO) {
        let detail = format!("it would unpack to {unpacked} bytes, out of {size}");
        return Err(JarError::TooMuch { detail });
    }
    let entry = found.ok_or(JarError::NoManifest)?;
    let bytes = entry.unpack(&mut jar, size)?;
    String::from_utf8(bytes).map_err(|_| unreadable("it is not UTF-8"))
}

/// The list of entries, and how many it has
fn list(jar: &mut (impl Read + Seek), size: u64) -> Result<(Vec<u8>, usize), JarError> {
    let from = size.saturating_sub((END + COMMENT) as u64);
    let mut tail = Vec::new();
    jar.seek(SeekFrom::Start(from))?;
    jar.take((END + COMMENT) as u64).read_to_end(&mut tail)?;
    let starts = tail.windows(4).rposition(|window| window == b"PK\x05\x06");
    let end = starts.and_then(|at| tail.get(at..at + END).map(|end| (at, end)));
    let (at, end) = end.ok_or(broken("it has no end record"))?;
    if tail.len() != at + END + usize::from(u16_at(end, 20)) {
        return Err(broken("something stands behind its end"));
    }
    let (entries, bytes, offset) = (
        u16_at(end, 10),
        u64::from(u32_at(end, 12)),
        u64::from(u32_at(end, 16)),
    );
    if u16_at(end, 4) != 0 || u16_at(end, 6) != 0 || u16_at(end, 8) != entries {
        return Err(broken("it is in several parts"));
    }
    if usize::from(entries) > MAX_ENTRIES || bytes > MAX_LIST {
        let detail = format!(
            "it has more than {MAX_ENTRIES} entries, or a list of them of more than {MAX_LIST} bytes"
        );
        return Err(JarError::TooMuch { detail });
    }
    if offset.saturating_add(bytes) > from + at as u64 {
        return Err(broken("its list of entries lies outside"));
    }
    let mut list = vec![0; usize::try_from(bytes).unwrap_or(0)];
    jar.seek(SeekFrom::Start(offset))?;
    jar.read_exact(&mut list)?;
    Ok((list, usize::from(entries)))
}

struct Entry<'a> {
    name: &'a [u8],
    flags: u16,
    method: u16,
    crc: u32,
    packed: u64,
    unpacked: u64,
    header: u64,
}

impl<'a> Entry<'a> {
    fn read(rest: &mut &'a [u8]) -> Result<Self, JarError> {
        const FIXED: usize = 46;
        let outside = || broken("an entry of its list is cut off");
        let (fixed, behind) = rest.split_at_checked(FIXED).ok_or_else(outside)?;
        if fixed.get(..4) != Some(b"PK\x01\x02") {
            return Err(broken("its list has something that is no entry"));
        }
        let [name, extra, comment] = [28, 30, 32].map(|at| usize::from(u16_at(fixed, at)));
        let (name, behind) = behind.split_at_checked(name).ok_or_else(outside)?;
        *rest = behind.get(extra + comment..).ok_or_else(outside)?;
        Ok(Self {
            name,
            flags: u16_at(fixed, 8),
            method: u16_at(fixed, 10),
            crc: u32_at(fixed, 16),
            packed: u64::from(u32_at(fixed, 20)),
            unpacked: u64::from(u32_at(fixed, 24)),
            header: u64::from(u32_at(fixed, 42)),
        })
    }

    fn unpack(&self, jar: &mut (impl Read + Seek), size: u64) -> Result<Vec<u8>, JarError> {
        const FIXED: usize = 30;
        if self.unpacked > MAX_MANIFEST as u64 || self.packed > 2 * MAX_MANIFEST as u64 {
            return Err(unreadable("it is larger than 64 KiB"));
        }
        if self.flags & 1 != 0 {
            return Err(unreadable("it is encrypted"));
        }
        let mut header = [0; FIXED];
        jar.seek(SeekFrom::Start(self.header))?;
        let cut = |error: io::Error| match error.kind() {
            io::ErrorKind::UnexpectedEof => unreadable("it is cut off"),
            _ => JarError::Io(error),
        };
        jar.read_exact(&mut header).map_err(cut)?;
        let [name, extra] = [26, 28].map(|at| usize::from(u16_at(&header, at)));
        let mut named = vec![0; name];
        jar.read_exact(&mut named).map_err(cut)?;
        if header.get(..4) != Some(b"PK\x03\x04") || named != self.name {
            return Err(unreadable("the list of entries points to something else"));
        }
        let begin = self.header + (FIXED + name + extra) as u64;
        if begin.saturating_add(self.packed) > size {
            return Err(unreadable("it is cut off"));
        }
        jar.seek(SeekFrom::Start(begin))?;
        let mut packed = vec![0; usize::try_from(self.packed).unwrap_or(0)];
        jar.read_exact(&mut packed).map_err(cut)?;
        let bytes = match self.method {
            0 => packed,
            8 => inflate(&packed, usize::try_from(self.unpacked).unwrap_or(0))?,
            _ => return Err(unreadable("it is packed in an unusual way")),
        };
        let mut crc = Crc::new();
        crc.update(&bytes);
        if bytes.len() as u64 != self.unpacked || crc.sum() != self.crc {
            return Err(unreadable("it is damaged"));
        }
        Ok(bytes)
    }
}

/// Never more than `size` bytes come out
fn inflate(packed: &[u8], size: usize) -> Result<Vec<u8>, JarError> {
    // One more, so that what is longer does not pass for what ends there.
    let mut bytes = Vec::with_capacity(size + 1);
    let mut inflating = Decompress::new(false);
    match inflating.decompress_vec(packed, &mut bytes, FlushDecompress::Finish) {
        Ok(Status::StreamEnd) if bytes.len() == size => Ok(bytes),
        _ => Err(unreadable("it is damaged")),
    }
}

/// 0 where there is nothing, which no caller asks for
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    let found = bytes.get(at..at + 2).and_then(|bytes| bytes.try_into().ok());
    found.map_or(0, u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let found = bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
    found.map_or(0, u32::from_le_bytes)
}
