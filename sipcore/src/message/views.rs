//! The headers of a message as values, read when asked for and borrowed from it.

use std::borrow::Cow;

use super::header::Header;
use super::method::Method;
use super::name_addr::NameAddr;
use super::params::Params;
use super::scan::{self, Commas, Scanner};
use super::via::Via;
use super::{Message, name};

/// Why a header could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// The message has no such header.
    #[error("the header is missing")]
    Missing,
    /// The value is not what the RFC says; the text names what is wrong.
    #[error("{0}")]
    Malformed(&'static str),
}

/// CSeq, RFC 3261 section 20.16.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CSeq {
    /// Less than 2^31.
    pub number: u32,
    /// The method of the request that the number counts.
    pub method: Method,
}

impl CSeq {
    fn parse(value: &[u8]) -> Result<CSeq, HeaderError> {
        let mut scan = Scanner::new(value);
        let number = scan::decimal(scan.take_while(|b| b.is_ascii_digit()))
            .and_then(|n| u32::try_from(n).ok())
            .filter(|n| *n < 1 << 31)
            .ok_or(HeaderError::Malformed("the number of CSeq is not below 2^31"))?;
        if !scan.peek().is_some_and(scan::is_lws) {
            return Err(HeaderError::Malformed("CSeq has no method"));
        }
        let method = scan.token().ok_or(HeaderError::Malformed("CSeq has no method"))?;
        if !scan.at_end() {
            return Err(HeaderError::Malformed("CSeq has more than number and method"));
        }
        Ok(CSeq { number, method: method.into() })
    }
}

impl std::fmt::Display for CSeq {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.number, self.method)
    }
}

/// Content-Type, RFC 3261 section 20.15.
#[derive(Clone, Copy)]
pub struct ContentType<'a> {
    /// `application`, as spelled.
    pub kind: &'a str,
    /// `sdp`, as spelled.
    pub subtype: &'a str,
    /// `boundary`, `charset`, ...
    pub params: Params<'a>,
}

impl<'a> ContentType<'a> {
    /// Reads `type/subtype;params`.
    pub(crate) fn parse(value: &'a [u8]) -> Result<Self, HeaderError> {
        const BAD: HeaderError = HeaderError::Malformed("Content-Type is not type/subtype");
        let mut scan = Scanner::new(value);
        let kind = scan.token().ok_or(BAD)?;
        if !scan.eat(b'/') {
            return Err(BAD);
        }
        let subtype = scan.token().ok_or(BAD)?;
        Ok(ContentType { kind, subtype, params: Params::parse(scan.rest)? })
    }

    /// True for that type and subtype, case and parameters aside.
    pub fn is(&self, kind: &str, subtype: &str) -> bool {
        self.kind.eq_ignore_ascii_case(kind) && self.subtype.eq_ignore_ascii_case(subtype)
    }
}

/// One value of Warning, RFC 3261 section 20.43.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning<'a> {
    /// Three digits.
    pub code: u16,
    /// Who added it: host, port, or a pseudonym.
    pub agent: &'a str,
    /// The words.
    pub text: Cow<'a, str>,
}

impl Message {
    /// The first header with that name; its full name finds a compact form too.
    pub fn header(&self, name: &str) -> Option<&Header> {
        self.headers_named(name).next()
    }

    /// All headers with that name in their order.
    pub fn headers_named<'m, 'n>(&'m self, name: &'n str) -> impl Iterator<Item = &'m Header> + use<'m, 'n> {
        self.headers().iter().filter(move |h| h.is(name))
    }

    /// The elements of all headers with that name, each a comma-separated list.
    pub fn elements<'m, 'n>(&'m self, name: &'n str) -> impl Iterator<Item = &'m [u8]> + use<'m, 'n> {
        self.headers_named(name).flat_map(|h| Commas::new(h.value()))
    }

    fn value(&self, name: &str) -> Result<&[u8], HeaderError> {
        self.header(name).map(Header::value).ok_or(HeaderError::Missing)
    }

    /// The topmost Via.
    pub fn via(&self) -> Result<Via<'_>, HeaderError> {
        self.vias().next().unwrap_or(Err(HeaderError::Missing))
    }

    /// Every Via, topmost first.
    pub fn vias(&self) -> impl Iterator<Item = Result<Via<'_>, HeaderError>> {
        self.elements(name::VIA).map(Via::parse)
    }

    /// From.
    pub fn from(&self) -> Result<NameAddr<'_>, HeaderError> {
        NameAddr::parse(self.value(name::FROM)?)
    }

    /// To.
    pub fn to(&self) -> Result<NameAddr<'_>, HeaderError> {
        NameAddr::parse(self.value(name::TO)?)
    }

    /// The tag of From.
    pub fn from_tag(&self) -> Option<&str> {
        self.from().ok()?.tag()
    }

    /// The tag of To.
    pub fn to_tag(&self) -> Option<&str> {
        self.to().ok()?.tag()
    }

    /// Call-ID: one word, compared byte by byte.
    pub fn call_id(&self) -> Result<&str, HeaderError> {
        let value = self.value(name::CALL_ID)?;
        if value.is_empty() || !value.iter().all(u8::is_ascii_graphic) {
            return Err(HeaderError::Malformed("Call-ID is not one word"));
        }
        scan::ascii(value).ok_or(HeaderError::Malformed("Call-ID is not one word"))
    }

    /// CSeq.
    pub fn cseq(&self) -> Result<CSeq, HeaderError> {
        CSeq::parse(self.value(name::CSEQ)?)
    }

    /// Max-Forwards, 0 to 255; `None` when the header is missing (RFC 2543 peers).
    pub fn max_forwards(&self) -> Result<Option<u8>, HeaderError> {
        let Some(header) = self.header(name::MAX_FORWARDS) else { return Ok(None) };
        let number = scan::decimal(header.value()).and_then(|n| u8::try_from(n).ok());
        number.map(Some).ok_or(HeaderError::Malformed("Max-Forwards is not a number from 0 to 255"))
    }

    /// The addresses of a list header: Contact, Route, Record-Route, Path, Service-Route, P-Asserted-Identity.
    pub fn addresses<'m, 'n>(
        &'m self,
        name: &'n str,
    ) -> impl Iterator<Item = Result<NameAddr<'m>, HeaderError>> + use<'m, 'n> {
        self.elements(name).map(NameAddr::parse)
    }

    /// The contacts, none for `Contact: *`.
    pub fn contacts(&self) -> impl Iterator<Item = Result<NameAddr<'_>, HeaderError>> {
        self.elements(name::CONTACT).filter(|e| *e != b"*").map(NameAddr::parse)
    }

    /// True for `Contact: *`, which removes all bindings (RFC 3261 section 10.2.2).
    pub fn has_star_contact(&self) -> bool {
        self.elements(name::CONTACT).any(|e| e == b"*")
    }

    /// Route, topmost first.
    pub fn routes(&self) -> impl Iterator<Item = Result<NameAddr<'_>, HeaderError>> {
        self.addresses(name::ROUTE)
    }

    /// Record-Route in the order of the message.
    pub fn record_routes(&self) -> impl Iterator<Item = Result<NameAddr<'_>, HeaderError>> {
        self.addresses(name::RECORD_ROUTE)
    }

    /// The words of a list header: Require, Supported, Unsupported, Allow, Allow-Events, ...
    pub fn tokens<'m, 'n>(&'m self, name: &'n str) -> impl Iterator<Item = &'m str> + use<'m, 'n> {
        self.elements(name).filter(|e| scan::all_token(e)).filter_map(scan::ascii)
    }

    /// True when a list header has that word, case aside.
    pub fn has_token(&self, name: &str, word: &str) -> bool {
        self.tokens(name).any(|t| t.eq_ignore_ascii_case(word))
    }

    /// The seconds of Expires, Min-Expires and such; the largest value when they do not fit, `None` when absent or no number.
    pub fn seconds(&self, name: &str) -> Option<u32> {
        scan::seconds(self.header(name)?.value())
    }

    /// Expires.
    pub fn expires(&self) -> Option<u32> {
        self.seconds(name::EXPIRES)
    }

    /// Retry-After in seconds, comment and parameters aside.
    pub fn retry_after(&self) -> Option<u32> {
        let mut scan = Scanner::new(self.header(name::RETRY_AFTER)?.value());
        scan::seconds(scan.take_while(|b| b.is_ascii_digit()))
    }

    /// Content-Type; `None` when the header is missing.
    pub fn content_type(&self) -> Result<Option<ContentType<'_>>, HeaderError> {
        self.header(name::CONTENT_TYPE).map(|header| ContentType::parse(header.value())).transpose()
    }

    /// Content-Length; `None` when the header is missing. Several headers must agree.
    pub fn content_length(&self) -> Result<Option<usize>, HeaderError> {
        content_length(self.headers())
    }

    /// The values of Warning that can be read.
    pub fn warnings(&self) -> impl Iterator<Item = Warning<'_>> {
        self.elements(name::WARNING).filter_map(|element| {
            let mut scan = Scanner::new(element);
            let code = scan.take_while(|b| b.is_ascii_digit());
            let code = if code.len() == 3 { scan::decimal(code)? as u16 } else { return None };
            scan.skip_lws();
            let agent = scan::ascii(scan.take_while(|b| b.is_ascii_graphic()))?;
            Some(Warning { code, agent, text: scan::unquote(scan.quoted()?) })
        })
    }
}

/// Content-Length over the headers of a message whose body is not cut yet.
pub(crate) fn content_length(headers: &[Header]) -> Result<Option<usize>, HeaderError> {
    let mut length = None;
    for header in headers.iter().filter(|h| h.is(name::CONTENT_LENGTH)) {
        let value = scan::decimal(header.value())
            .and_then(|n| usize::try_from(n).ok())
            .ok_or(HeaderError::Malformed("Content-Length is not a number"))?;
        if length.is_some_and(|l| l != value) {
            return Err(HeaderError::Malformed("several Content-Length headers that differ"));
        }
        length = Some(value);
    }
    Ok(length)
}
