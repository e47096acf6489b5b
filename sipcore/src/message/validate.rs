//! Whether a message is right, and if not, which status it is owed.

use super::uri::{Scheme, UriError};
use super::views::HeaderError;
use super::{Message, name};

/// What is wrong with a message. A request is answered with the status; a response is dropped (RFC 3261 section 16.7, 18.1.2).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{status} {reason}")]
pub struct Fault {
    /// 400, 416 or 505.
    pub status: u16,
    /// A reason phrase that says what is wrong, for the response and the log.
    pub reason: String,
}

fn bad(reason: impl Into<String>) -> Fault {
    Fault { status: 400, reason: reason.into() }
}

/// Checks what every element checks first (RFC 3261 sections 8.2, 16.3, 18.3): protocol version, shape of the request line,
/// scheme of the Request-URI, the headers that every message has, their values, and the length of the body. Method, Require, media type and
/// Max-Forwards at 0 are for the user agent or proxy.
pub fn validate(message: &Message) -> Result<(), Fault> {
    start_line(message)?;
    if message.headers().iter().any(|h| h.name().is_empty()) {
        return Err(bad("A header line has no name"));
    }
    for header in message.headers() {
        // A carriage return that ends no line means something else to the next parser.
        let mut rest = header.value();
        while let Some(n) = rest.iter().position(|b| *b == b'\r') {
            rest = rest.get(n + 1..).unwrap_or_default();
            if rest.first() != Some(&b'\n') {
                return Err(bad(format!("{} has a carriage return in it", header.name())));
            }
        }
    }
    let single = [
        name::FROM,
        name::TO,
        name::CALL_ID,
        name::CSEQ,
        name::MAX_FORWARDS,
        name::CONTENT_LENGTH,
        name::CONTENT_TYPE,
        name::EXPIRES,
    ];
    for name in single {
        if message.headers_named(name).nth(1).is_some() {
            return Err(bad(format!("More than one {name}")));
        }
    }
    required(message)?;
    lists(message)?;
    body(message)
}

fn start_line(message: &Message) -> Result<(), Fault> {
    let line = message.start_bytes();
    if line.iter().any(|b| matches!(b, b'\r' | b'\n')) {
        return Err(bad("The first line is folded"));
    }
    let Some(method) = message.method() else {
        return match line.get(..8) {
            Some(v) if v.eq_ignore_ascii_case(b"SIP/2.0 ") => Ok(()),
            _ => Err(Fault { status: 505, reason: "Version Not Supported".into() }),
        };
    };
    let version = line.trim_ascii().rsplit(|b| matches!(b, b' ' | b'\t')).next().unwrap_or_default();
    match version.get(..4) {
        Some(v) if v.eq_ignore_ascii_case(b"SIP/") => {}
        _ => return Err(bad("No SIP version in the request line")),
    }
    if !version.eq_ignore_ascii_case(b"SIP/2.0") {
        return Err(Fault { status: 505, reason: "Version Not Supported".into() });
    }
    let uri = message.request_uri_raw();
    if line.len() != method.as_str().len() + uri.len() + version.len() + 2 {
        return Err(bad("The request line is not method, one space, URI, one space, version"));
    }
    match message.request_uri() {
        Ok(uri) if uri.scheme() == Scheme::Other => Err(Fault { status: 416, reason: "Unsupported URI Scheme".into() }),
        Ok(uri) if uri.headers().next().is_some() => Err(bad("The Request-URI has headers in it")),
        Ok(_) => Ok(()),
        Err(UriError::TooLong) => Err(Fault { status: 414, reason: "Request-URI Too Long".into() }),
        Err(e) => Err(bad(format!("Request-URI: {e}"))),
    }
}

fn named<T>(name: &str, value: Result<T, HeaderError>) -> Result<T, Fault> {
    value.map_err(|e| bad(format!("{name}: {e}")))
}

fn required(message: &Message) -> Result<(), Fault> {
    named(name::CALL_ID, message.call_id())?;
    for (name, address) in [(name::FROM, message.from()), (name::TO, message.to())] {
        let address = named(name, address)?;
        address.uri().map_err(|e| bad(format!("{name}: {e}")))?;
        if address.tag().is_none() && address.params.has("tag") {
            return Err(bad(format!("{name}: the tag is not a token")));
        }
    }
    let cseq = named(name::CSEQ, message.cseq())?;
    if message.method().is_some_and(|m| *m != cseq.method) {
        return Err(bad("The method of CSeq is not the method of the request"));
    }
    named(name::VIA, message.via())?;
    named(name::MAX_FORWARDS, message.max_forwards())?;
    Ok(())
}

fn lists(message: &Message) -> Result<(), Fault> {
    for via in message.vias() {
        let via = named(name::VIA, via)?;
        if !via.protocol.eq_ignore_ascii_case("SIP") || via.version != "2.0" {
            return Err(bad("Via: not SIP/2.0"));
        }
    }
    for contact in message.contacts() {
        named(name::CONTACT, contact)?.uri().map_err(|e| bad(format!("Contact: {e}")))?;
    }
    if message.has_star_contact() && message.elements(name::CONTACT).count() != 1 {
        return Err(bad("Contact: * and another address"));
    }
    for list in [name::ROUTE, name::RECORD_ROUTE, name::PATH, name::SERVICE_ROUTE] {
        for route in message.addresses(list) {
            named(list, route)?.uri().map_err(|e| bad(format!("{list}: {e}")))?;
        }
    }
    Ok(())
}

fn body(message: &Message) -> Result<(), Fault> {
    let length = named(name::CONTENT_LENGTH, message.content_length())?;
    if length.is_some_and(|l| l > message.body().len()) {
        return Err(bad("The body is shorter than Content-Length"));
    }
    named(name::CONTENT_TYPE, message.content_type())?;
    Ok(())
}
