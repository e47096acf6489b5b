//! Bytes to lines: the start line and the headers, every one kept as received.

use std::ops::Range;

use bytes::Bytes;

use super::header::Header;
use super::method::Method;
use super::scan;

/// Why bytes are not a message at all. A request that is only wrong is parsed, and [`validate`](super::validate()) names the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    /// Nothing but line ends: a keep-alive (RFC 5626 section 4.4.1) or an empty datagram.
    #[error("no message, only line ends")]
    Empty,
    /// The first line is neither a request line nor a status line.
    #[error("the first line is not one of SIP")]
    NotSip,
    /// A status line whose code is not between 100 and 699.
    #[error("the status code is not between 100 and 699")]
    StatusCode,
    /// More header lines than [`Limits::headers`].
    #[error("more header lines than allowed")]
    TooManyHeaders,
    /// A header section longer than [`Limits::header_bytes`].
    #[error("the header section is longer than allowed")]
    HeadersTooLong,
    /// A body longer than [`Limits::body_bytes`].
    #[error("the body is longer than allowed")]
    BodyTooLong,
}

/// How much of a message is read before it is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes from the start line to the empty line.
    pub header_bytes: usize,
    /// Header lines, folded ones counted once.
    pub headers: usize,
    /// Bytes of the body.
    pub body_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { header_bytes: 64 * 1024, headers: 256, body_bytes: 256 * 1024 }
    }
}

/// The first line, with what its parts are.
#[derive(Clone)]
pub(crate) enum Start {
    Request { line: Bytes, method: Method, uri: Range<usize> },
    Response { line: Bytes, status: u16, reason: usize },
}

/// Start line, headers, and where the body begins.
pub(crate) struct Head {
    pub start: Start,
    pub headers: Vec<Header>,
    pub body_at: usize,
}

/// The line that begins at `at`: its end without the line end, and where the next begins.
fn line_at(buf: &[u8], at: usize) -> (usize, usize) {
    let rest = buf.get(at..).unwrap_or_default();
    match rest.iter().position(|b| *b == b'\n') {
        Some(n) if n > 0 && rest.get(n - 1) == Some(&b'\r') => (at + n - 1, at + n + 1),
        Some(n) => (at + n, at + n + 1),
        None => (at + rest.len(), at + rest.len()),
    }
}

/// Reads the header section at the start of `buf`. The end of the buffer ends it too.
pub(crate) fn head(buf: &Bytes, limits: &Limits) -> Result<Head, ParseError> {
    let begin = buf.iter().position(|b| !matches!(b, b'\r' | b'\n')).ok_or(ParseError::Empty)?;
    let (mut end, mut at) = line_at(buf, begin);
    // A start line cannot be folded. Taken as one it stays with what it was meant to continue, and is refused there.
    while matches!(buf.get(at), Some(b' ' | b'\t')) {
        (end, at) = line_at(buf, at);
    }
    let start = start_line(buf.slice(begin..end))?;
    let mut headers: Vec<Header> = Vec::with_capacity(16);
    while at < buf.len() {
        if at - begin > limits.header_bytes {
            return Err(ParseError::HeadersTooLong);
        }
        let (mut end, mut next) = line_at(buf, at);
        if end == at {
            at = next;
            break;
        }
        while matches!(buf.get(next), Some(b' ' | b'\t')) {
            (end, next) = line_at(buf, next);
        }
        if headers.len() >= limits.headers {
            return Err(ParseError::TooManyHeaders);
        }
        headers.push(Header::lex(buf.slice(at..end)));
        at = next;
    }
    if at - begin > limits.header_bytes {
        return Err(ParseError::HeadersTooLong);
    }
    Ok(Head { start, headers, body_at: at })
}

fn start_line(line: Bytes) -> Result<Start, ParseError> {
    if line.get(..4).is_some_and(|b| b.eq_ignore_ascii_case(b"SIP/")) {
        return status_line(line);
    }
    let mut scan = scan::Scanner::new(&line);
    scan.skip_lws();
    let name = scan.take_while(|b| !scan::is_lws(b));
    if !scan::all_token(name) {
        return Err(ParseError::NotSip);
    }
    let method = Method::from(scan::ascii(name).ok_or(ParseError::NotSip)?);
    scan.skip_lws();
    let begin = line.len() - scan.rest.len();
    let rest = scan::trim(scan.rest);
    let last = rest.rsplit(|b| scan::is_lws(*b)).next().unwrap_or_default();
    let uri = if !is_version(last) {
        rest
    } else if last.get(..4).is_some_and(|b| b.eq_ignore_ascii_case(b"SIP/")) {
        scan::trim(rest.get(..rest.len() - last.len()).unwrap_or_default())
    } else {
        return Err(ParseError::NotSip);
    };
    if rest.is_empty() {
        return Err(ParseError::NotSip);
    }
    let uri = begin..begin + uri.len();
    Ok(Start::Request { line, method, uri })
}

/// `NAME/digits.digits`
fn is_version(word: &[u8]) -> bool {
    let mut parts = word.splitn(2, |b| *b == b'/');
    let name = parts.next().unwrap_or_default();
    let number = parts.next().unwrap_or_default();
    !name.is_empty()
        && name.iter().all(u8::is_ascii_alphabetic)
        && number.iter().all(|b| b.is_ascii_digit() || *b == b'.')
        && !number.is_empty()
}

fn status_line(line: Bytes) -> Result<Start, ParseError> {
    let mut scan = scan::Scanner::new(&line);
    let version = scan.take_while(|b| !scan::is_lws(b));
    if !is_version(version) {
        return Err(ParseError::NotSip);
    }
    scan.skip_lws();
    let code = scan.take_while(|b| !scan::is_lws(b));
    let status = match scan::decimal(code) {
        Some(n @ 100..=699) if code.len() == 3 => n as u16,
        _ => return Err(ParseError::StatusCode),
    };
    if scan.peek() == Some(b' ') {
        scan.rest = scan.rest.get(1..).unwrap_or_default();
    }
    let reason = line.len() - scan.rest.len();
    Ok(Start::Response { line, status, reason })
}
