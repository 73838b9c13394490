//! How much there may be

/// The largest archive, in bytes, that fits into one message beside its envelope
///
/// A peer without `artifacts/1`, such as a Java daemon, takes no larger ones.
pub const MAX_INLINE_BYTES: u64 = 100 * 1024 * 1024 - 4096;

/// How much a folder, a manifest or an archive may hold
///
/// The same limits are told where content is pushed and kept where it is unpacked, so nothing is accepted that a node must refuse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Files, folders and links together. A Java daemon takes 50,000.
    pub entries: usize,
    /// Bytes of one file
    pub entry_bytes: u64,
    /// Bytes of all files together
    pub total_bytes: u64,
    /// How many bytes may come out of one byte of an archive
    ///
    /// It counts from [`ratio_from_bytes`](Self::ratio_from_bytes) on: small files may be as uniform as they like.
    pub ratio: u64,
    /// Unpacked bytes from which on the ratio counts
    pub ratio_from_bytes: u64,
    /// Bytes of one path
    pub path_bytes: usize,
    /// Names in one path
    pub path_depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 50_000,
            entry_bytes: 2 << 30,
            total_bytes: 8 << 30,
            ratio: 200,
            ratio_from_bytes: 64 << 20,
            path_bytes: 1024,
            path_depth: 64,
        }
    }
}

impl Limits {
    pub(crate) fn is_bomb(&self, packed: u64, unpacked: u64) -> bool {
        unpacked > self.ratio_from_bytes && unpacked > packed.saturating_mul(self.ratio)
    }
}
