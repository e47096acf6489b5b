//! What a proxy and a user agent change in a message; all other bytes stay as they came.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;

use super::header::Header;
use super::lexer::Start;
use super::params::with_param;
use super::scan::{self, Commas};
use super::uri::Uri;
use super::via::Via;
use super::{HeaderError, Message, build, name};

impl Message {
    /// Puts a header before the others of its name (before all when there is none): Via, Record-Route, Route, Path.
    pub fn push_front(&mut self, name: &str, value: impl fmt::Display) {
        let at = self.headers.iter().position(|h| h.is(name)).unwrap_or(0);
        self.headers.insert(at, Header::new(name, value));
    }

    /// Puts a header behind all others.
    pub fn push(&mut self, name: &str, value: impl fmt::Display) {
        self.headers.push(Header::new(name, value));
    }

    /// Makes this the only header of its name, in the place of the first one.
    pub fn set(&mut self, name: &str, value: impl fmt::Display) {
        let header = Header::new(name, value);
        match self.headers.iter().position(|h| h.is(name)) {
            Some(at) => {
                let mut i = 0;
                self.headers.retain(|h| {
                    i += 1;
                    i - 1 <= at || !h.is(name)
                });
                if let Some(old) = self.headers.get_mut(at) {
                    *old = header;
                }
            }
            None => self.headers.push(header),
        }
    }

    /// Removes every header of that name; how many there were.
    pub fn remove(&mut self, name: &str) -> usize {
        let before = self.headers.len();
        self.headers.retain(|h| !h.is(name));
        before - self.headers.len()
    }

    /// Removes every header for which `which` is true.
    pub fn remove_headers(&mut self, which: impl Fn(&Header) -> bool) {
        self.headers.retain(|h| !which(h));
    }

    /// Takes the first value of a list header away (the top Via, the first Route): the value as it stood there.
    pub fn pop_first(&mut self, name: &str) -> Option<Vec<u8>> {
        let at = self.headers.iter().position(|h| h.is(name) && !h.value().is_empty())?;
        let header = self.headers.get(at)?;
        let value = header.value();
        let (first, tail) = value.split_at(Commas::first_end(value));
        let first = scan::trim(first).to_vec();
        match tail.get(1..).map(scan::trim).filter(|t| !t.is_empty()) {
            Some(rest) => {
                let header = header.with_value(rest);
                *self.headers.get_mut(at)? = header;
            }
            None => {
                self.headers.remove(at);
            }
        }
        Some(first)
    }

    /// Sets a parameter of the first value of a list header, most often the top Via. The value is a token.
    /// False when there is no such header.
    pub fn set_first_param(&mut self, name: &str, param: &str, setting: Option<&str>) -> bool {
        let Some(header) = self.headers.iter_mut().find(|h| h.is(name) && !h.value().is_empty()) else { return false };
        let (first, tail) = header.value().split_at(Commas::first_end(header.value()));
        let mut value = with_param(first, param, Some(setting));
        value.extend_from_slice(tail);
        *header = header.with_value(&value);
        true
    }

    /// Notes where a request came from in its top Via (RFC 3261 section 18.2.1, RFC 3581 section 4): `received` when sent-by
    /// is not that address or `rport` was asked for, and the port in `rport` if asked for.
    pub fn note_source(&mut self, source: SocketAddr) -> Result<(), HeaderError> {
        let ip = source.ip().to_canonical();
        let via = self.via()?;
        let asked = via.rport().is_some();
        let differs = via.host_ip().map(|ip| ip.to_canonical()) != Some(ip);
        if asked {
            self.set_first_param(name::VIA, "rport", Some(&source.port().to_string()));
        }
        if asked || differs {
            self.set_first_param(name::VIA, "received", Some(&ip.to_string()));
        }
        Ok(())
    }

    /// Takes one from Max-Forwards, or adds the header with 70 when it is missing (RFC 3261 section 16.6). `Ok(false)`
    /// when it stood at 0: the request goes no further and 483 is owed.
    pub fn decrement_max_forwards(&mut self) -> Result<bool, HeaderError> {
        match self.max_forwards()? {
            Some(0) => return Ok(false),
            Some(n) => self.set(name::MAX_FORWARDS, n - 1),
            None => self.push(name::MAX_FORWARDS, 70),
        }
        Ok(true)
    }

    /// Changes the Request-URI; nothing for a response.
    pub fn set_request_uri(&mut self, uri: &Uri) {
        if let Start::Request { method, .. } = &self.start {
            self.start = build::request_start(method, uri);
        }
    }

    /// Changes the status of a response; nothing for a request.
    pub fn set_status(&mut self, status: u16, reason: &str) {
        if self.status().is_some() {
            self.start = Message::response(status, reason).build().start;
        }
    }

    /// Replaces the body, its Content-Type and Content-Length. An empty body has no Content-Type.
    pub fn set_body(&mut self, content_type: &str, body: Bytes) {
        if body.is_empty() {
            self.remove(name::CONTENT_TYPE);
        } else {
            self.set(name::CONTENT_TYPE, content_type);
        }
        self.body = body;
        self.set(name::CONTENT_LENGTH, self.body.len());
    }

    /// Content-Length as the body is, where it is missing or different.
    pub fn finish_length(&mut self) {
        if self.content_length() != Ok(Some(self.body.len())) {
            self.set(name::CONTENT_LENGTH, self.body.len());
        }
    }

    /// Where the response to this request goes over an unreliable transport (RFC 3261 section 18.2.2, RFC 3581 section 4):
    /// `received` and `rport` of the top Via, else its sent-by when that is an address.
    pub fn response_address(&self) -> Option<SocketAddr> {
        let via: Via<'_> = self.via().ok()?;
        let ip: IpAddr = via.received().or_else(|| via.host_ip())?;
        let port = via.rport().flatten().or(via.port);
        Some(SocketAddr::new(ip, port.unwrap_or(if via.transport.eq_ignore_ascii_case("TLS") { 5061 } else { 5060 })))
    }
}
