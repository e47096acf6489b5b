//! New requests and responses.

use std::fmt::{self, Write as _};

use bytes::Bytes;

use super::header::{Header, OneLine};
use super::lexer::Start;
use super::method::Method;
use super::params::with_param;
use super::uri::Uri;
use super::{Message, name, scan};

/// A request being put together; headers keep the order of the calls.
#[derive(Clone)]
pub struct RequestBuilder(Message);

/// A response being put together.
#[derive(Clone)]
pub struct ResponseBuilder(Message);

/// Line of a new request.
pub(super) fn request_start(method: &Method, uri: &Uri) -> Start {
    let mut line = String::with_capacity(64);
    line.extend(method.as_str().chars().filter(|c| c.is_ascii() && scan::is_token(*c as u8)));
    line.push(' ');
    let begin = line.len();
    line.push_str(uri.as_str());
    let range = begin..line.len();
    line.push_str(" SIP/2.0");
    Start::Request { line: line.into(), method: method.clone(), uri: range }
}

impl Message {
    /// A request with no headers yet.
    pub fn request(method: Method, uri: &Uri) -> RequestBuilder {
        RequestBuilder(Message { start: request_start(&method, uri), headers: Vec::new(), body: Bytes::new() })
    }

    /// A response with no headers yet. A status outside 100 to 699 becomes 500.
    pub fn response(status: u16, reason: &str) -> ResponseBuilder {
        let status = if (100..700).contains(&status) { status } else { 500 };
        let mut line = format!("SIP/2.0 {status} ");
        let at = line.len();
        // Writing to a String does not fail.
        let _ = OneLine(&mut line).write_str(reason);
        let start = Start::Response { line: line.into(), status, reason: at };
        ResponseBuilder(Message { start, headers: Vec::new(), body: Bytes::new() })
    }

    /// The response to `request` with what RFC 3261 section 8.2.6.2 copies: every Via, From, To, Call-ID, CSeq, byte for
    /// byte; Timestamp in a 100; Record-Route where the response can make a dialog (section 12.1.1).
    pub fn response_to(request: &Message, status: u16, reason: &str) -> ResponseBuilder {
        let mut response = Message::response(status, reason);
        let dialog = (101..300).contains(&status) && request.method().is_some_and(Method::creates_dialog);
        for header in request.headers() {
            let copied = match name::full(header.name()) {
                n if [name::VIA, name::FROM, name::TO, name::CALL_ID, name::CSEQ]
                    .iter()
                    .any(|c| c.eq_ignore_ascii_case(n)) =>
                {
                    true
                }
                n if n.eq_ignore_ascii_case(name::RECORD_ROUTE) => dialog,
                n if n.eq_ignore_ascii_case(name::TIMESTAMP) => status == 100,
                _ => false,
            };
            if copied {
                response.0.headers.push(header.clone());
            }
        }
        response
    }
}

impl RequestBuilder {
    /// Adds a header at the end. Characters of the value that would break the line become spaces.
    pub fn header(mut self, name: &str, value: impl fmt::Display) -> Self {
        self.0.headers.push(Header::new(name, value));
        self
    }

    /// Adds a header of another message, byte for byte.
    pub fn copy(mut self, header: &Header) -> Self {
        self.0.headers.push(header.clone());
        self
    }

    /// The body with its Content-Type.
    pub fn body(mut self, content_type: &str, body: impl Into<Bytes>) -> Self {
        self.0.set_body(content_type, body.into());
        self
    }

    /// The finished request, Content-Length added.
    pub fn build(mut self) -> Message {
        self.0.finish_length();
        self.0
    }
}

impl ResponseBuilder {
    /// Adds a header at the end. Characters of the value that would break the line become spaces.
    pub fn header(mut self, name: &str, value: impl fmt::Display) -> Self {
        self.0.headers.push(Header::new(name, value));
        self
    }

    /// Adds a header of another message, byte for byte.
    pub fn copy(mut self, header: &Header) -> Self {
        self.0.headers.push(header.clone());
        self
    }

    /// Adds the tag to To when it has none (RFC 3261 section 8.2.6.2).
    pub fn to_tag(mut self, tag: &str) -> Self {
        if self.0.to_tag().is_none() {
            for header in self.0.headers.iter_mut().filter(|h| h.is(name::TO)) {
                *header = header.with_value(&with_param(header.value(), "tag", Some(Some(tag))));
            }
        }
        self
    }

    /// The body with its Content-Type.
    pub fn body(mut self, content_type: &str, body: impl Into<Bytes>) -> Self {
        self.0.set_body(content_type, body.into());
        self
    }

    /// The finished response, Content-Length added.
    pub fn build(mut self) -> Message {
        self.0.finish_length();
        self.0
    }
}

/// A value of Via for a request of our own, asking for the source port (RFC 3581). `sent_by` is `host`, `host:port` or
/// `[v6]:port`; a socket address prints itself like that.
pub fn via_value(transport: &str, sent_by: impl fmt::Display, branch: &str) -> String {
    format!("SIP/2.0/{transport} {sent_by};rport;branch={branch}")
}

/// A `name-addr`: the display name quoted, the URI in angle brackets, then the parameters as given.
pub fn address(display: Option<&str>, uri: &Uri, params: &[(&str, Option<&str>)]) -> String {
    let mut out = String::with_capacity(uri.as_str().len() + 32);
    if let Some(display) = display {
        out.push_str(&scan::quote(display));
        out.push(' ');
    }
    out.push('<');
    out.push_str(uri.as_str());
    out.push('>');
    for (name, value) in params {
        out.push(';');
        out.push_str(name);
        if let Some(value) = value {
            out.push('=');
            out.push_str(value);
        }
    }
    out
}
