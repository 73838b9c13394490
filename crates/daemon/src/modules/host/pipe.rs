//! Lines out of a stream, of bounded length, and ready to be interrupted

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// A piece of a stream
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// A line without its end
    Line(Vec<u8>),
    /// The beginning of a line that is longer than one may be; the rest of it is passed over
    Overlong(Vec<u8>),
}

#[derive(Debug)]
pub(super) struct Lines<R> {
    reader: R,
    longest: usize,
    buffer: Vec<u8>,
    is_passing_over: bool,
    is_over: bool,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    pub(super) fn new(reader: R, longest: usize) -> Self {
        Self {
            reader,
            longest,
            buffer: Vec::new(),
            is_passing_over: false,
            is_over: false,
        }
    }

    /// The next one, or `None` at the end; nothing is lost if it is dropped before it is ready
    pub(super) async fn next(&mut self) -> Option<Piece> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let mut line: Vec<u8> = self.buffer.drain(..=end).collect();
                line.pop();
                if line.last() == Some(&b'\r') {
                    line.pop();
                }
                if std::mem::take(&mut self.is_passing_over) {
                    continue;
                }
                if line.len() > self.longest {
                    line.truncate(self.longest);
                    return Some(Piece::Overlong(line));
                }
                return Some(Piece::Line(line));
            }
            if self.buffer.len() > self.longest {
                let mut line = std::mem::take(&mut self.buffer);
                if !std::mem::replace(&mut self.is_passing_over, true) {
                    line.truncate(self.longest);
                    return Some(Piece::Overlong(line));
                }
            }
            if self.is_over {
                return None;
            }
            let mut chunk = [0; 8192];
            match self.reader.read(&mut chunk).await {
                Ok(count @ 1..) => self.buffer.extend(chunk.iter().take(count)),
                // An end without a line feed ends the last line, too.
                Ok(0) | Err(_) => {
                    self.is_over = true;
                    if !self.buffer.is_empty() && !self.is_passing_over {
                        return Some(Piece::Line(std::mem::take(&mut self.buffer)));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_cut_at_their_ends_and_bounded() {
        let text = format!("a\r\n\nlong{}\nb\n{}", "x".repeat(100_000), "tail");
        let mut lines = Lines::new(text.as_bytes(), 10);
        let mut found = Vec::new();
        while let Some(piece) = lines.next().await {
            found.push(piece);
        }
        let line = |text: &str| Piece::Line(text.into());
        let overlong = Piece::Overlong(b"longxxxxxx".to_vec());
        assert_eq!(found, [line("a"), line(""), overlong, line("b"), line("tail")]);
        assert_eq!(lines.next().await, None);
    }
}
