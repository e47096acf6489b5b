//! Via, RFC 3261 section 20.42, with `rport` of RFC 3581.

use std::net::IpAddr;

use super::params::Params;
use super::scan::{self, Scanner};
use super::views::HeaderError;

/// What a branch begins with when its sender speaks RFC 3261 (section 8.1.1.7).
pub const MAGIC_COOKIE: &str = "z9hG4bK";

/// One value of Via, borrowed from the message.
#[derive(Clone, Copy)]
pub struct Via<'a> {
    /// `SIP`.
    pub protocol: &'a str,
    /// `2.0`.
    pub version: &'a str,
    /// `UDP`, `TCP`, `TLS`, ... as spelled.
    pub transport: &'a str,
    /// Host of sent-by as written, an IPv6 address in brackets.
    pub host: &'a str,
    /// Port of sent-by.
    pub port: Option<u16>,
    /// Everything after sent-by.
    pub params: Params<'a>,
}

impl<'a> Via<'a> {
    pub(crate) fn parse(element: &'a [u8]) -> Result<Via<'a>, HeaderError> {
        const BAD: HeaderError = HeaderError::Malformed("not a Via value");
        let mut scan = Scanner::new(element);
        let protocol = scan.token().ok_or(BAD)?;
        if !scan.eat(b'/') {
            return Err(BAD);
        }
        let version = scan.token().ok_or(BAD)?;
        if !scan.eat(b'/') {
            return Err(BAD);
        }
        let transport = scan.token().ok_or(BAD)?;
        if !scan.peek().is_some_and(scan::is_lws) {
            return Err(BAD);
        }
        let host = scan.host().ok_or(BAD)?;
        let port = if scan.eat(b':') {
            scan.skip_lws();
            let digits = scan.take_while(|b| b.is_ascii_digit());
            let port = scan::decimal(digits).and_then(|n| u16::try_from(n).ok());
            Some(port.ok_or(HeaderError::Malformed("the port of Via is not a number up to 65535"))?)
        } else {
            None
        };
        Ok(Via { protocol, version, transport, host, port, params: Params::parse(scan.rest)? })
    }

    /// The branch as it stands there.
    pub fn branch(&self) -> Option<&'a str> {
        self.params.token("branch")
    }

    /// The branch when it names a transaction: the magic cookie and more (RFC 3261 section 17.2.3).
    /// Without it the older matching rules of RFC 2543 apply.
    pub fn transaction(&self) -> Option<&'a str> {
        self.branch().filter(|b| {
            b.get(..MAGIC_COOKIE.len()).is_some_and(|c| c.eq_ignore_ascii_case(MAGIC_COOKIE))
                && b.len() > MAGIC_COOKIE.len()
        })
    }

    /// The source address that the receiver of the request noted.
    pub fn received(&self) -> Option<IpAddr> {
        scan::address(self.params.token("received")?)
    }

    /// `None` without the parameter, `Some(None)` when it asks (RFC 3581 section 3), else the source port noted.
    pub fn rport(&self) -> Option<Option<u16>> {
        if !self.params.has("rport") {
            return None;
        }
        Some(self.params.token("rport").and_then(|p| p.parse().ok()))
    }

    /// `maddr`.
    pub fn maddr(&self) -> Option<&'a str> {
        self.params.token("maddr")
    }

    /// Host of sent-by as an address, when it is one.
    pub fn host_ip(&self) -> Option<IpAddr> {
        scan::address(self.host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_everywhere() {
        let via = Via::parse(
            b"SIP  / 2.0  / TCP     spindle.example.com   ;\r\n  branch  =   z9hG4bK9ikj8 ; received=[2001:db8::1];rport",
        );
        let via = via.unwrap();
        assert_eq!((via.transport, via.host, via.port), ("TCP", "spindle.example.com", None));
        assert_eq!(via.transaction(), Some("z9hG4bK9ikj8"));
        assert_eq!(via.received(), Some("2001:db8::1".parse().unwrap()));
        assert_eq!(via.rport(), Some(None));
        let via = Via::parse(b"SIP/2.0/UDP [2001:db8::9:1] : 5070;rport=5071;branch=z9hG4bK").unwrap();
        assert_eq!((via.host, via.port, via.rport()), ("[2001:db8::9:1]", Some(5070), Some(Some(5071))));
        assert_eq!((via.branch(), via.transaction()), (Some("z9hG4bK"), None));
        assert_eq!(via.host_ip(), Some("2001:db8::9:1".parse().unwrap()));
    }

    #[test]
    fn refused() {
        for bad in [
            &b""[..],
            b"SIP/2.0/UDP",
            b"SIP/2.0/UDPh",
            b"SIP/2.0/UDP h;;",
            b"SIP/2.0/UDP h:99999",
            b"SIP/2.0/UDP h:",
            b"SIP/2.0 UDP h",
            b"SIP/2.0/UDP [::1",
            b"SIP/2.0/UDP h x",
        ] {
            assert!(Via::parse(bad).is_err(), "{}", bad.escape_ascii());
        }
    }
}
