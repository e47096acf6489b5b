//! `name-addr` and `addr-spec` with header parameters: From, To, Contact, Route, Record-Route, Path, Service-Route.

use std::borrow::Cow;

use super::params::Params;
use super::scan::{self, Scanner};
use super::uri::{Uri, UriError};
use super::views::HeaderError;

/// One address of a header, borrowed from the message. The URI is parsed when asked for.
#[derive(Clone, Copy)]
pub struct NameAddr<'a> {
    display: Display<'a>,
    uri: &'a str,
    /// Parameters of the header, not of the URI.
    pub params: Params<'a>,
}

#[derive(Clone, Copy)]
enum Display<'a> {
    None,
    Tokens(&'a [u8]),
    Quoted(&'a [u8]),
}

impl<'a> NameAddr<'a> {
    /// Without angle brackets everything after the first semicolon belongs to the header, and a comma or question mark
    /// is not allowed (RFC 3261 section 20).
    pub(crate) fn parse(element: &'a [u8]) -> Result<NameAddr<'a>, HeaderError> {
        let mut scan = Scanner::new(scan::trim(element));
        let display = match scan.peek() {
            Some(b'"') => {
                Display::Quoted(scan.quoted().ok_or(HeaderError::Malformed("a quote in the display name is open"))?)
            }
            _ if element.contains(&b'<') => {
                let name = scan::trim(scan.take_while(|b| b != b'<'));
                if name.is_empty() {
                    Display::None
                } else if name.iter().all(|b| scan::is_token(*b) || scan::is_lws(*b)) {
                    Display::Tokens(name)
                } else {
                    return Err(HeaderError::Malformed("the display name has characters that need quotes"));
                }
            }
            _ => {
                let raw = scan.take_while(|b| b != b';');
                let uri = uri_text(scan::trim(raw))?;
                if uri.contains(['?', ',']) {
                    return Err(HeaderError::Malformed("a URI with ? or , needs angle brackets"));
                }
                return Ok(NameAddr { display: Display::None, uri, params: Params::parse(scan.rest)? });
            }
        };
        if !scan.eat(b'<') {
            return Err(HeaderError::Malformed("no < after the display name"));
        }
        let raw = scan.take_while(|b| b != b'>');
        if !scan.eat(b'>') {
            return Err(HeaderError::Malformed("no > after the URI"));
        }
        Ok(NameAddr { display, uri: uri_text(raw)?, params: Params::parse(scan.rest)? })
    }

    /// The display name without quotes and escapes.
    pub fn display(&self) -> Option<Cow<'a, str>> {
        match self.display {
            Display::None => None,
            Display::Tokens(bytes) => Some(scan::unfold(bytes)),
            Display::Quoted(bytes) => Some(scan::unquote(bytes)),
        }
    }

    /// The URI, owned and independent of the message.
    pub fn uri(&self) -> Result<Uri, UriError> {
        self.uri.parse()
    }

    /// The URI as received.
    pub fn uri_text(&self) -> &'a str {
        self.uri
    }

    /// The tag of From and To.
    pub fn tag(&self) -> Option<&'a str> {
        self.params.token("tag")
    }

    /// `expires` of a Contact in seconds; the largest value when it does not fit, `None` when absent or no number.
    pub fn expires(&self) -> Option<u32> {
        scan::seconds(self.params.token("expires")?.as_bytes())
    }

    /// `q` of a Contact in thousandths, 1000 when absent, `None` when it is not a qvalue (RFC 3261 section 25.1).
    pub fn q(&self) -> Option<u16> {
        let Some(text) = self.params.token("q") else {
            return if self.params.has("q") { None } else { Some(1000) };
        };
        let (whole, part) = text.split_once('.').unwrap_or((text, ""));
        if part.len() > 3 || !part.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let thousandths = part.bytes().chain(*b"000").take(3).fold(0, |n, b| n * 10 + u16::from(b - b'0'));
        match (whole, thousandths) {
            ("0", n) => Some(n),
            ("1", 0) => Some(1000),
            _ => None,
        }
    }
}

fn uri_text(raw: &[u8]) -> Result<&str, HeaderError> {
    match scan::ascii(raw) {
        Some(text) if !raw.is_empty() && raw.iter().all(u8::is_ascii_graphic) => Ok(text),
        _ => Err(HeaderError::Malformed("the URI is empty or has white space in it")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let a = NameAddr::parse(b"\"J Rosenberg \\\\\\\"\"       <sip:jdrosen@example.com>\r\n  ;\r\n  tag = 98asjd8")
            .unwrap();
        assert_eq!(a.display().as_deref(), Some("J Rosenberg \\\""));
        assert_eq!((a.uri_text(), a.tag()), ("sip:jdrosen@example.com", Some("98asjd8")));
        let a = NameAddr::parse(b"caller<sip:caller@example.com;x>;tag=323").unwrap();
        assert_eq!(
            (a.display().as_deref(), a.uri_text(), a.tag()),
            (Some("caller"), "sip:caller@example.com;x", Some("323"))
        );
        let a = NameAddr::parse(b"sip:+1972@gw1.example.net;unknownparam").unwrap();
        assert_eq!((a.uri_text(), a.params.has("unknownparam")), ("sip:+1972@gw1.example.net", true));
    }

    #[test]
    fn refused() {
        for bad in [
            &b"\"Mr. J. User <sip:j.user@example.com>"[..],
            b"Watson, Thomas <sip:t.watson@example.org>",
            b"\"Watson\" < sip:t.watson@example.org >",
            b"sip:user@example.com?Route=%3Csip:sip.example.com%3E",
            b"<sip:a@b",
            b"\"a\" sip:a@b",
            b"<>",
            b"",
            b"\"Joe\" <sip:joe@example.org>;;;;",
        ] {
            assert!(NameAddr::parse(bad).is_err(), "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn qvalues() {
        let q = |v: &str| NameAddr::parse(format!("<sip:a>;q={v}").as_bytes()).unwrap().q();
        assert_eq!(
            (q("0.33"), q("1"), q("1.000"), q("0"), q("0.")),
            (Some(330), Some(1000), Some(1000), Some(0), Some(0))
        );
        assert_eq!((q("1.1"), q("0.1234"), q("2"), q("x")), (None, None, None, None));
    }
}
