//! SIP messages (RFC 3261 section 7): what came is kept byte by byte, and read when asked for.
//!
//! [`Message::parse_datagram`] and [`StreamParser`] accept every message that can be answered, however wrong;
//! [`validate()`] then says whether it is right and which status it is owed. The typed views ([`Message::via`],
//! [`Message::from`], ...) borrow from the message; an edited message keeps the bytes of every header that was not touched.

mod build;
mod edit;
mod header;
mod lexer;
mod method;
pub mod name;
mod name_addr;
mod params;
#[cfg(any(test, feature = "rsip"))]
mod rsip;
pub(crate) mod scan;
mod stream;
#[cfg(test)]
mod tests;
mod uri;
mod uri_compare;
mod validate;
mod via;
mod views;

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

pub use build::{RequestBuilder, ResponseBuilder, address, via_value};
pub use header::Header;
pub use lexer::{Limits, ParseError};
pub use method::Method;
pub use name_addr::NameAddr;
pub(crate) use params::one as one_param;
pub use params::{Param, Params};
#[cfg(any(test, feature = "rsip"))]
pub use rsip::RsipError;
pub use stream::{Frame, StreamError, StreamFault, StreamParser};
pub use uri::{Scheme, Uri, UriError};
pub use validate::{Fault, validate};
pub use via::{MAGIC_COOKIE, Via};
pub use views::{CSeq, ContentType, HeaderError, Warning};

use lexer::Start;

/// A request or a response. Cloning shares the bytes.
#[derive(Clone)]
pub struct Message {
    start: Start,
    headers: Vec<Header>,
    body: Bytes,
}

impl Message {
    /// One datagram, one message (RFC 3261 section 18.3): bytes after the body that Content-Length names are dropped;
    /// without Content-Length, or with a wrong one, the rest is the body.
    pub fn parse_datagram(datagram: Bytes) -> Result<Message, ParseError> {
        let limits = Limits { header_bytes: 65_535, headers: Limits::default().headers, body_bytes: 65_535 };
        let head = lexer::head(&datagram, &limits)?;
        let mut body = datagram.slice(head.body_at..);
        if let Ok(Some(length)) = views::content_length(&head.headers) {
            body.truncate(length);
        }
        if body.len() > limits.body_bytes {
            return Err(ParseError::BodyTooLong);
        }
        Ok(Message { start: head.start, headers: head.headers, body })
    }

    /// True for a request.
    pub fn is_request(&self) -> bool {
        matches!(self.start, Start::Request { .. })
    }

    /// The method of a request, `None` for a response.
    pub fn method(&self) -> Option<&Method> {
        match &self.start {
            Start::Request { method, .. } => Some(method),
            Start::Response { .. } => None,
        }
    }

    /// The Request-URI.
    pub fn request_uri(&self) -> Result<Uri, UriError> {
        Uri::from_bytes(self.request_uri_raw())
    }

    /// The Request-URI as received, whatever it is; empty for a response.
    pub fn request_uri_raw(&self) -> &[u8] {
        match &self.start {
            Start::Request { line, uri, .. } => line.get(uri.clone()).unwrap_or_default(),
            Start::Response { .. } => &[],
        }
    }

    /// The status code of a response, 100 to 699; `None` for a request.
    pub fn status(&self) -> Option<u16> {
        match self.start {
            Start::Request { .. } => None,
            Start::Response { status, .. } => Some(status),
        }
    }

    /// The reason phrase of a response; may be empty.
    pub fn reason(&self) -> std::borrow::Cow<'_, str> {
        match &self.start {
            Start::Request { .. } => "".into(),
            Start::Response { line, reason, .. } => String::from_utf8_lossy(line.get(*reason..).unwrap_or_default()),
        }
    }

    /// The first line as received.
    pub fn start_line(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(self.start_bytes())
    }

    pub(crate) fn start_bytes(&self) -> &[u8] {
        match &self.start {
            Start::Request { line, .. } | Start::Response { line, .. } => line,
        }
    }

    /// All headers in their order.
    pub fn headers(&self) -> &[Header] {
        &self.headers
    }

    /// The body.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The message for the wire. Untouched headers are byte for byte as received; lines end with CR LF.
    pub fn to_bytes(&self) -> Bytes {
        let start = self.start_bytes();
        let size = start.len() + self.headers.iter().map(|h| h.line().len() + 2).sum::<usize>() + self.body.len() + 4;
        let mut out = BytesMut::with_capacity(size);
        out.put_slice(start);
        out.put_slice(b"\r\n");
        for header in &self.headers {
            out.put_slice(header.line());
            out.put_slice(b"\r\n");
        }
        out.put_slice(b"\r\n");
        out.put_slice(&self.body);
        out.freeze()
    }
}

/// The first line, Call-ID and CSeq: enough to find the message in a log, nothing secret.
impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("start", &self.start_line())
            .field("call_id", &self.call_id().unwrap_or_default())
            .field("cseq", &self.header(name::CSEQ).map(Header::text))
            .field("headers", &self.headers.len())
            .field("body", &self.body.len())
            .finish()
    }
}
