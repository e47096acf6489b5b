//! Header names and their compact forms. Any other name is just a `&str`.

#![allow(missing_docs)]

pub const ACCEPT: &str = "Accept";
pub const ALLOW: &str = "Allow";
pub const ALLOW_EVENTS: &str = "Allow-Events";
pub const AUTHENTICATION_INFO: &str = "Authentication-Info";
pub const AUTHORIZATION: &str = "Authorization";
pub const CALL_ID: &str = "Call-ID";
pub const CONTACT: &str = "Contact";
pub const CONTENT_LENGTH: &str = "Content-Length";
pub const CONTENT_TYPE: &str = "Content-Type";
pub const CSEQ: &str = "CSeq";
pub const DATE: &str = "Date";
pub const EVENT: &str = "Event";
pub const EXPIRES: &str = "Expires";
pub const FROM: &str = "From";
pub const LINK: &str = "Link";
pub const MAX_FORWARDS: &str = "Max-Forwards";
pub const MIN_EXPIRES: &str = "Min-Expires";
pub const MIN_SE: &str = "Min-SE";
pub const P_ASSERTED_IDENTITY: &str = "P-Asserted-Identity";
pub const P_ASSOCIATED_URI: &str = "P-Associated-URI";
pub const PATH: &str = "Path";
pub const PROXY_AUTHENTICATE: &str = "Proxy-Authenticate";
pub const PROXY_AUTHORIZATION: &str = "Proxy-Authorization";
pub const PROXY_REQUIRE: &str = "Proxy-Require";
pub const RACK: &str = "RAck";
pub const RECORD_ROUTE: &str = "Record-Route";
pub const REQUIRE: &str = "Require";
pub const RETRY_AFTER: &str = "Retry-After";
pub const ROUTE: &str = "Route";
pub const RSEQ: &str = "RSeq";
pub const SERVER: &str = "Server";
pub const SERVICE_ROUTE: &str = "Service-Route";
pub const REPLACES: &str = "Replaces";
pub const SESSION_EXPIRES: &str = "Session-Expires";
pub const SIP_ETAG: &str = "SIP-ETag";
pub const SIP_IF_MATCH: &str = "SIP-If-Match";
pub const SUBSCRIPTION_STATE: &str = "Subscription-State";
pub const SUPPORTED: &str = "Supported";
pub const TIMESTAMP: &str = "Timestamp";
pub const TO: &str = "To";
pub const UNSUPPORTED: &str = "Unsupported";
pub const USER_AGENT: &str = "User-Agent";
pub const VIA: &str = "Via";
pub const WARNING: &str = "Warning";
/// Of a 491 between two sipboxes: the fingerprint of the certificate that the called end shows in the session that is to be used instead.
pub const SIPBOX_SESSION: &str = "Sipbox-Session";
pub const WWW_AUTHENTICATE: &str = "WWW-Authenticate";

/// The full name behind a compact form: RFC 3261 section 7.3.3 and the IANA registry of header fields.
fn expand(compact: u8) -> Option<&'static str> {
    Some(match compact.to_ascii_lowercase() {
        b'a' => "Accept-Contact",
        b'b' => "Referred-By",
        b'c' => CONTENT_TYPE,
        b'd' => "Request-Disposition",
        b'e' => "Content-Encoding",
        b'f' => FROM,
        b'i' => CALL_ID,
        b'j' => "Reject-Contact",
        b'k' => SUPPORTED,
        b'l' => CONTENT_LENGTH,
        b'm' => CONTACT,
        b'n' => "Identity-Info",
        b'o' => EVENT,
        b'r' => "Refer-To",
        b's' => "Subject",
        b't' => TO,
        b'u' => ALLOW_EVENTS,
        b'v' => VIA,
        b'x' => SESSION_EXPIRES,
        b'y' => "Identity",
        _ => return None,
    })
}

/// The name a header goes by: the full one of a compact form, else as spelled.
pub fn full(name: &str) -> &str {
    match name.as_bytes() {
        [one] => expand(*one).unwrap_or(name),
        _ => name,
    }
}

/// True when `received` names the header `wanted`, in any case and as a compact form.
pub fn same(received: &str, wanted: &str) -> bool {
    full(received).eq_ignore_ascii_case(full(wanted))
}
