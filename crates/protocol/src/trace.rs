//! The trace context that a command carries

use std::fmt;

/// Length of a version-00 `traceparent` header, W3C Trace Context section 3.2.
const LEN: usize = 55;

/// A well-formed W3C `traceparent` of version 00
///
/// Anything else in the field is treated as absent: a broken trace must not break a command.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceParent([u8; LEN]);

impl TraceParent {
    /// Parses `00-<32 hex>-<16 hex>-<2 hex>` in lower case; neither id may be all zeros.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let bytes: [u8; LEN] = text.as_bytes().try_into().ok()?;
        let well_formed = bytes.iter().enumerate().all(|(at, byte)| match at {
            0 | 1 => *byte == b'0',
            2 | 35 | 52 => *byte == b'-',
            _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        });
        let is_zero =
            |range: std::ops::Range<usize>| bytes.get(range).is_none_or(|id| id.iter().all(|b| *b == b'0'));
        (well_formed && !is_zero(3..35) && !is_zero(36..52)).then_some(Self(bytes))
    }

    /// The id of the trace, 32 hexadecimal digits.
    #[must_use]
    pub fn trace_id(&self) -> &str {
        self.as_str().get(3..35).unwrap_or_default()
    }

    /// The id of the span that the command was sent in, 16 hexadecimal digits.
    #[must_use]
    pub fn span_id(&self) -> &str {
        self.as_str().get(36..52).unwrap_or_default()
    }

    /// The same trace, continued in another span; 0 is no id of a span, and 1 takes its place.
    #[must_use]
    pub fn with_span(&self, span: u64) -> Self {
        let mut bytes = self.0;
        let digits = format!("{:016x}", span.max(1));
        for (to, from) in bytes.iter_mut().skip(36).zip(digits.bytes()) {
            *to = from;
        }
        Self(bytes)
    }

    /// The header's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Debug for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
