//! Small scanners over header bytes: tokens, quoted strings, lists. They work on bytes, so no input can split a character.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr};

/// `token` of RFC 3261 section 25.1.
pub(crate) fn is_token(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'!' | b'%' | b'*' | b'_' | b'+' | b'`' | b'\'' | b'~')
}

/// A non-empty `token`.
pub(crate) fn all_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|b| is_token(*b))
}

/// Linear white space; CR and LF only stand inside a value where a line was folded.
pub(crate) fn is_lws(b: u8) -> bool {
    matches!(b, b' ' | b'\t' | b'\r' | b'\n')
}

/// Without the white space at both ends.
pub(crate) fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [first, rest @ ..] = bytes
        && is_lws(*first)
    {
        bytes = rest;
    }
    while let [rest @ .., last] = bytes
        && is_lws(*last)
    {
        bytes = rest;
    }
    bytes
}

/// The bytes as text if they are ASCII.
pub(crate) fn ascii(bytes: &[u8]) -> Option<&str> {
    if bytes.is_ascii() { std::str::from_utf8(bytes).ok() } else { None }
}

/// A decimal number; `None` when it is not one or does not fit.
pub(crate) fn decimal(bytes: &[u8]) -> Option<u64> {
    if bytes.is_empty() || !bytes.iter().all(u8::is_ascii_digit) {
        return None;
    }
    bytes.iter().try_fold(0u64, |n, b| n.checked_mul(10)?.checked_add(u64::from(b - b'0')))
}

/// `delta-seconds`: a decimal number, the largest value when it does not fit (RFC 4475 section 3.1.2.4).
pub(crate) fn seconds(bytes: &[u8]) -> Option<u32> {
    if bytes.is_empty() || !bytes.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(decimal(bytes).and_then(|n| u32::try_from(n).ok()).unwrap_or(u32::MAX))
}

/// Folded lines joined by one space (RFC 3261 section 7.3.1), invalid UTF-8 replaced.
pub(crate) fn unfold(bytes: &[u8]) -> Cow<'_, str> {
    if !bytes.iter().any(|b| matches!(b, b'\r' | b'\n')) {
        return String::from_utf8_lossy(bytes);
    }
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&b, tail)) = rest.split_first() {
        if b == b'\r' || b == b'\n' {
            while out.last().is_some_and(|b| is_lws(*b)) {
                out.pop();
            }
            out.push(b' ');
            rest = tail.trim_ascii_start();
        } else {
            out.push(b);
            rest = tail;
        }
    }
    Cow::Owned(String::from_utf8_lossy(&out).into_owned())
}

/// The inside of a quoted string without its backslashes.
pub(crate) fn unquote(inside: &[u8]) -> Cow<'_, str> {
    if !inside.contains(&b'\\') {
        return unfold(inside);
    }
    let mut out = Vec::with_capacity(inside.len());
    let mut bytes = inside.iter();
    while let Some(b) = bytes.next() {
        match (b, b == &b'\\') {
            (_, true) => out.extend(bytes.next()),
            (b, false) => out.push(*b),
        }
    }
    Cow::Owned(unfold(&out).into_owned())
}

/// Text as a quoted string, control characters left out.
pub(crate) fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars().filter(|c| !matches!(c, '\r' | '\n' | '\0')) {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
    out
}

/// An address as hosts are written, without or with brackets. The grammar of RFC 3261 allows a colon too many before an IPv4 address at the end,
/// which has to be taken (RFC 5118 4.10).
pub(crate) fn address(host: &str) -> Option<IpAddr> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let embedded = || {
        let (before, after) = bare.split_once(":::")?;
        after.parse::<Ipv4Addr>().ok()?;
        format!("{before}::{after}").parse().ok()
    };
    bare.parse().ok().or_else(embedded)
}

/// Reads a value from its start.
#[derive(Clone, Copy)]
pub(crate) struct Scanner<'a> {
    /// What is not read yet.
    pub rest: &'a [u8],
}

impl<'a> Scanner<'a> {
    pub fn new(rest: &'a [u8]) -> Self {
        Scanner { rest }
    }

    pub fn at_end(&self) -> bool {
        self.rest.is_empty()
    }

    pub fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    pub fn take_while(&mut self, keep: impl Fn(u8) -> bool) -> &'a [u8] {
        let n = self.rest.iter().position(|b| !keep(*b)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(n);
        self.rest = rest;
        taken
    }

    pub fn skip_lws(&mut self) {
        self.take_while(is_lws);
    }

    /// Takes `byte` if it comes next, white space before it aside.
    pub fn eat(&mut self, byte: u8) -> bool {
        let mut ahead = *self;
        ahead.skip_lws();
        match ahead.rest.split_first() {
            Some((b, rest)) if *b == byte => {
                self.rest = rest;
                true
            }
            _ => false,
        }
    }

    /// A non-empty token; white space before it is skipped.
    pub fn token(&mut self) -> Option<&'a str> {
        self.skip_lws();
        let token = self.take_while(is_token);
        if token.is_empty() { None } else { ascii(token) }
    }

    /// A quoted string, the value without the quotes but with its backslashes.
    pub fn quoted(&mut self) -> Option<&'a [u8]> {
        let mut ahead = *self;
        if !ahead.eat(b'"') {
            return None;
        }
        let start = ahead.rest;
        let mut i = 0;
        loop {
            match *start.get(i)? {
                b'"' => break,
                b'\\' => i += 2,
                _ => i += 1,
            }
        }
        self.rest = start.get(i + 1..)?;
        start.get(..i)
    }

    /// `host`: a name, an IPv4 address or an IPv6 address in brackets, as written.
    pub fn host(&mut self) -> Option<&'a str> {
        self.skip_lws();
        if self.peek() == Some(b'[') {
            let end = self.rest.iter().position(|b| *b == b']')?;
            let (host, rest) = self.rest.split_at(end + 1);
            let inside = ascii(host.get(1..end)?)?;
            address(inside).filter(IpAddr::is_ipv6)?;
            self.rest = rest;
            return ascii(host);
        }
        let host = self.take_while(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
        if host.is_empty() { None } else { ascii(host) }
    }
}

/// The elements of a comma-separated value; commas inside quotes and angle brackets do not separate. An empty value has none.
#[derive(Clone)]
pub(crate) struct Commas<'a> {
    rest: Option<&'a [u8]>,
}

impl<'a> Commas<'a> {
    pub fn new(value: &'a [u8]) -> Self {
        Commas { rest: if trim(value).is_empty() { None } else { Some(value) } }
    }

    /// Where the first element of `value` ends: at its comma or at the end.
    pub fn first_end(value: &[u8]) -> usize {
        let (mut quoted, mut angle, mut i) = (false, false, 0);
        while let Some(b) = value.get(i) {
            match b {
                b'\\' if quoted => i += 1,
                b'"' if !angle => quoted = !quoted,
                b'<' if !quoted => angle = true,
                b'>' if !quoted => angle = false,
                b',' if !quoted && !angle => return i,
                _ => {}
            }
            i += 1;
        }
        value.len()
    }
}

impl<'a> Iterator for Commas<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.rest?;
        let (element, tail) = rest.split_at(Self::first_end(rest));
        self.rest = tail.get(1..);
        Some(trim(element))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comma_inside_quotes_or_angles_does_not_separate() {
        let parts: Vec<_> = Commas::new(br#""a, \"b" <sip:x,y@h>;p="1,2" , <sip:z>"#).collect();
        assert_eq!(parts, [&br#""a, \"b" <sip:x,y@h>;p="1,2""#[..], b"<sip:z>"]);
        assert_eq!(Commas::new(b" \r\n ").count(), 0);
        assert_eq!(Commas::new(b"a,,").count(), 3);
    }

    #[test]
    fn folded_text_becomes_one_line() {
        assert_eq!(unfold(b"a \r\n\t b\xff"), "a b\u{fffd}");
        assert_eq!(unquote(br#"J \"R\\"#), r#"J "R\"#);
        assert_eq!(quote("a\"\r\nb"), r#""a\"b""#);
    }

    #[test]
    fn numbers_that_do_not_fit() {
        assert_eq!(decimal(b"0068"), Some(68));
        assert_eq!(decimal(b"36893488147419103232"), None);
        assert_eq!(seconds(b"36893488147419103232"), Some(u32::MAX));
        assert_eq!(seconds(b"-1"), None);
    }
}
