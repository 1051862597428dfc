//! Reads a log line by line, whatever its length: [`Reader`].

use std::{fmt, io};

use super::{Collector, Log};

/// The longest line that is read, in bytes. No server logs a longer request by default.
pub const MAX_LINE: usize = 64 * 1024;
/// The report has the numbers of so many broken lines.
const SHOWN: usize = 5;
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Lines that cannot be read.
#[derive(Clone, Debug, Default)]
pub struct Broken {
    pub count: u64,
    /// The first ones: the number of the line, from 1, and the reason.
    pub first: Vec<(u64, &'static str)>,
}

impl Broken {
    pub(super) fn add(&mut self, number: u64, reason: &'static str) {
        self.count += 1;
        if self.first.len() < SHOWN {
            self.first.push((number, reason));
        }
    }
}

/// A log that is no log.
#[derive(Debug)]
pub enum ReadError {
    Io(io::Error),
    Compressed,
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Compressed => {
                f.write_str("it is compressed; write `zcat access.log.gz | replay limits.toml -`")
            }
        }
    }
}

/// Reads one or several logs into a [`Log`]. Line numbers go on from one file to the next.
pub struct Reader {
    collector: Collector,
    line: u64,
}

impl Reader {
    /// Keeps the headers with these names, which are in lower case.
    #[must_use]
    pub fn new(headers: &[String]) -> Self {
        Self { collector: Collector::new(headers), line: 0 }
    }

    /// Reads a log to its end, and calls `progress` with the bytes that were read.
    ///
    /// # Errors
    /// It cannot be read, or is compressed.
    pub fn read(
        &mut self,
        mut log: impl io::BufRead,
        mut progress: impl FnMut(u64),
    ) -> Result<(), ReadError> {
        // What has come of a line that does not end in the buffer.
        let (mut begun, mut is_too_long, mut is_first) = (Vec::new(), false, true);
        loop {
            let buffer = match log.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(ReadError::Io(error)),
                Ok(buffer) => buffer,
            };
            if std::mem::take(&mut is_first) && buffer.starts_with(&GZIP) {
                return Err(ReadError::Compressed);
            }
            if buffer.is_empty() {
                if !begun.is_empty() || is_too_long {
                    self.end_line(&begun, is_too_long);
                }
                return Ok(());
            }
            let mut rest = buffer;
            while let Some(end) = memchr::memchr(b'\n', rest) {
                let (line, after) = (&rest[..end], &rest[end + 1..]);
                if begun.is_empty() && !is_too_long {
                    self.end_line(line, line.len() > MAX_LINE);
                } else {
                    is_too_long |= begun.len() + line.len() > MAX_LINE;
                    if !is_too_long {
                        begun.extend_from_slice(line);
                    }
                    self.end_line(&begun, is_too_long);
                    begun.clear();
                    is_too_long = false;
                }
                rest = after;
            }
            is_too_long |= begun.len() + rest.len() > MAX_LINE;
            if is_too_long {
                begun.clear();
            } else {
                begun.extend_from_slice(rest);
            }
            let length = buffer.len();
            log.consume(length);
            progress(length as u64);
        }
    }

    fn end_line(&mut self, line: &[u8], is_too_long: bool) {
        self.line += 1;
        if is_too_long {
            self.collector.broken(self.line, "it is longer than 64 KiB");
        } else {
            // Bytes of other encodings are replaced: an address or a time has none.
            self.collector.add(self.line, &String::from_utf8_lossy(line));
        }
    }

    /// The requests, in the order in which they began.
    #[must_use]
    pub fn finish(self) -> Log {
        self.collector.finish()
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;

    const LINE: &str = r#"192.0.2.7 - - [10/Oct/2025:12:00:00 +0000] "GET / HTTP/1.1" 200 5"#;

    fn read(log: &[u8], buffer: usize) -> Log {
        let mut reader = Reader::new(&[]);
        reader.read(BufReader::with_capacity(buffer, log), |_| {}).unwrap();
        reader.finish()
    }

    #[test]
    fn lines_are_read_whatever_the_buffer_cuts() {
        let later = LINE.replace("12:00:00", "12:00:01");
        let log = format!("{later}\n\n{LINE}\r\nnonsense\n{later}");
        for buffer in [1, 2, 7, 64, 100_000] {
            let log = read(log.as_bytes(), buffer);
            let starts: Vec<_> = log.lines.iter().map(|line| line.start % 10_000_000_000).collect();
            assert_eq!(starts, [0, 1_000_000_000, 1_000_000_000], "{buffer}");
            assert_eq!(log.facts.broken.first, [(4, "it has no request in quotes")]);
            assert_eq!((log.facts.out_of_order, log.facts.text), (1, 4));
        }
    }

    #[test]
    fn a_line_of_any_length_takes_bounded_memory_and_is_counted() {
        let long = "a".repeat(MAX_LINE + 1);
        let fits = LINE.replace("GET /", &format!("GET /{}", "a".repeat(MAX_LINE - LINE.len())));
        let log = format!("{long}\n{fits}\n{long}{long}\n{LINE}\n{long}");
        for buffer in [1_000, 8_192, 1 << 20] {
            let log = read(log.as_bytes(), buffer);
            let numbers: Vec<_> = log.facts.broken.first.iter().map(|(line, _)| *line).collect();
            assert_eq!((log.lines.len(), numbers), (2, vec![1, 3, 5]), "{buffer}");
        }
    }

    #[test]
    fn a_compressed_log_is_an_error_that_says_what_to_write() {
        let error = Reader::new(&[]).read(&[0x1f, 0x8b, 8, 0][..], |_| {}).unwrap_err();
        assert!(error.to_string().contains("zcat"), "{error}");
    }
}
