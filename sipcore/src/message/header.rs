//! One header line as received.

use std::borrow::Cow;
use std::fmt::{self, Write as _};

use bytes::Bytes;

use super::{name, scan};

/// One header: name and value in the bytes as they came, folded lines included, without the line end.
#[derive(Clone, PartialEq, Eq)]
pub struct Header {
    line: Bytes,
    name_len: u32,
    value_at: u32,
    value_end: u32,
}

impl Header {
    /// A line of a message. A line without a name is kept with an empty one.
    pub(crate) fn lex(line: Bytes) -> Header {
        let whole = |line: Bytes| {
            let end = line.len() as u32;
            Header { line, name_len: 0, value_at: 0, value_end: end }
        };
        let Some(colon) = line.iter().position(|b| *b == b':') else { return whole(line) };
        let before = line.get(..colon).unwrap_or_default();
        let name_len = before.iter().rposition(|b| !matches!(b, b' ' | b'\t')).map_or(0, |n| n + 1);
        if !before.get(..name_len).is_some_and(scan::all_token) {
            return whole(line);
        }
        let raw = line.get(colon + 1..).unwrap_or_default();
        let value_at = line.len() - raw.trim_ascii_start().len();
        let value_end = value_at + scan::trim(raw).len();
        Header { name_len: name_len as u32, value_at: value_at as u32, value_end: value_end as u32, line }
    }

    /// A new header. Bytes of the value that would break the line become spaces.
    pub fn new(name: &str, value: impl fmt::Display) -> Header {
        let mut text = String::with_capacity(name.len() + 64);
        text.extend(name.chars().filter(|c| c.is_ascii() && scan::is_token(*c as u8)));
        text.push_str(": ");
        // Writing to a String does not fail; a Display that does leaves a shorter value.
        let _ = write!(OneLine(&mut text), "{value}");
        Header::lex(Bytes::from(text))
    }

    /// The same with a value of raw bytes, which may be folded as received.
    pub(crate) fn with_value(&self, value: &[u8]) -> Header {
        let mut line = Vec::with_capacity(self.name_len as usize + 2 + value.len());
        line.extend_from_slice(self.name().as_bytes());
        line.extend_from_slice(b": ");
        line.extend_from_slice(value);
        Header::lex(Bytes::from(line))
    }

    /// The name as spelled; empty when the line has none.
    pub fn name(&self) -> &str {
        self.line.get(..self.name_len as usize).and_then(scan::ascii).unwrap_or_default()
    }

    /// True for the header called `wanted`, in any case and as a compact form.
    pub fn is(&self, wanted: &str) -> bool {
        match self.line.get(..self.name_len as usize) {
            // Most are told apart by their length.
            Some(name) if name.len() > 1 && wanted.len() > 1 => name.eq_ignore_ascii_case(wanted.as_bytes()),
            _ => name::same(self.name(), wanted),
        }
    }

    /// The value without the white space around it; where it was folded the line ends are in it.
    pub fn value(&self) -> &[u8] {
        self.line.get(self.value_at as usize..self.value_end as usize).unwrap_or_default()
    }

    /// The value as one line of text; bytes that are not UTF-8 are replaced.
    pub fn text(&self) -> Cow<'_, str> {
        scan::unfold(self.value())
    }

    /// The whole line as received, without its line end.
    pub fn line(&self) -> &[u8] {
        &self.line
    }
}

impl fmt::Debug for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if name::full(self.name()).to_ascii_lowercase().ends_with("authorization") {
            return write!(f, "{}: ..", self.name());
        }
        write!(f, "{}: {}", self.name(), self.text())
    }
}

/// Writes what stays on its line.
pub(crate) struct OneLine<'a>(pub &'a mut String);

impl fmt::Write for OneLine<'_> {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        self.0.extend(s.chars().map(|c| if matches!(c, '\r' | '\n' | '\0') { ' ' } else { c }));
        Ok(())
    }
}
