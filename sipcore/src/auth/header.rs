//! WWW-Authenticate, Proxy-Authenticate, Authorization and Proxy-Authorization: a scheme and comma-separated parameters.

use std::borrow::Cow;

use super::digest::{Algorithm, Qop};
use crate::message::scan::{self, Scanner};
use crate::message::{Header, HeaderError, Message, Param, name, one_param};

/// The most parameters read of one header.
const MAX_PARAMS: usize = 32;

/// A header of authentication, borrowed from the message. Scheme and parameter names are open.
pub struct AuthHeader<'a> {
    /// `Digest`, as spelled.
    pub scheme: &'a str,
    params: Parameters<'a>,
}

/// Parameters separated by commas.
pub(super) struct Parameters<'a>(Vec<Param<'a>>);

impl<'a> Parameters<'a> {
    /// A parameter that comes twice is an error.
    fn read(mut scan: Scanner<'a>) -> Result<Self, HeaderError> {
        let mut params: Vec<Param<'a>> = Vec::new();
        scan.skip_lws();
        while !scan.at_end() {
            let param = one_param(&mut scan).ok_or(HeaderError::Malformed("not a parameter of authentication"))?;
            if params.iter().any(|p| p.name.eq_ignore_ascii_case(param.name)) {
                return Err(HeaderError::Malformed("a parameter of authentication comes twice"));
            }
            if params.len() >= MAX_PARAMS {
                return Err(HeaderError::Malformed("too many parameters of authentication"));
            }
            params.push(param);
            scan.skip_lws();
            if !scan.eat(b',') && !scan.at_end() {
                return Err(HeaderError::Malformed("no comma between parameters of authentication"));
            }
            scan.skip_lws();
        }
        Ok(Parameters(params))
    }

    /// The value without quotes and escapes.
    pub fn get(&self, name: &str) -> Option<Cow<'a, str>> {
        self.0.iter().find(|p| p.name.eq_ignore_ascii_case(name))?.value()
    }
}

/// Reads Authentication-Info, which is parameters alone (RFC 7615 section 3).
pub(super) fn parameters(value: &[u8]) -> Result<Parameters<'_>, HeaderError> {
    Parameters::read(Scanner::new(value))
}

impl<'a> AuthHeader<'a> {
    /// Reads the value of one header. A parameter that comes twice is an error.
    pub fn parse(value: &'a [u8]) -> Result<AuthHeader<'a>, HeaderError> {
        let mut scan = Scanner::new(value);
        let scheme = scan.token().ok_or(HeaderError::Malformed("no authentication scheme"))?;
        Ok(AuthHeader { scheme, params: Parameters::read(scan)? })
    }

    /// The value without quotes and escapes.
    pub fn get(&self, name: &str) -> Option<Cow<'a, str>> {
        self.params.get(name)
    }

    /// True for `Digest`.
    pub fn is_digest(&self) -> bool {
        self.scheme.eq_ignore_ascii_case("Digest")
    }
}

/// One challenge that can be answered here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// From Proxy-Authenticate, so answered in Proxy-Authorization.
    pub proxy: bool,
    /// Whose users are meant.
    pub realm: String,
    /// To be sent back.
    pub nonce: String,
    /// To be sent back as it is.
    pub opaque: Option<String>,
    /// The hash.
    pub algorithm: Algorithm,
    /// Whether the challenge named it; if not, the answer does not either.
    pub names_algorithm: bool,
    /// The protection chosen of those offered; `None` when none was offered (RFC 2069).
    pub qop: Option<Qop>,
    /// The last answer was right but its nonce too old.
    pub stale: bool,
}

impl Challenge {
    /// Reads one header; `None` when its scheme, algorithm or qop is not known here or a parameter is missing.
    pub fn parse(header: &Header) -> Option<Challenge> {
        let proxy = header.is(name::PROXY_AUTHENTICATE);
        let auth = AuthHeader::parse(header.value()).ok().filter(AuthHeader::is_digest)?;
        let algorithm = auth.get("algorithm");
        let qop = match auth.get("qop") {
            None => None,
            Some(list) => {
                let offered = |q: Qop| list.split(',').any(|w| w.trim().eq_ignore_ascii_case(q.as_str()));
                Some([Qop::Auth, Qop::AuthInt].into_iter().find(|q| offered(*q))?)
            }
        };
        Some(Challenge {
            proxy,
            realm: auth.get("realm")?.into_owned(),
            nonce: auth.get("nonce")?.into_owned(),
            opaque: auth.get("opaque").map(Cow::into_owned),
            algorithm: algorithm.as_deref().map_or(Some(Algorithm::Md5), Algorithm::parse)?,
            names_algorithm: algorithm.is_some(),
            qop,
            stale: auth.get("stale").is_some_and(|s| s.eq_ignore_ascii_case("true")),
        })
    }

    /// The challenges of a 401 or 407 that can be answered: the strongest algorithm of each realm, in the order of the
    /// message (RFC 8760 section 2.4).
    pub fn strongest(response: &Message) -> Vec<Challenge> {
        let mut best: Vec<Challenge> = Vec::new();
        let both = |h: &&Header| h.is(name::WWW_AUTHENTICATE) || h.is(name::PROXY_AUTHENTICATE);
        for challenge in response.headers().iter().filter(both).filter_map(Challenge::parse) {
            match best.iter_mut().find(|c| c.proxy == challenge.proxy && c.realm == challenge.realm) {
                Some(known) if known.algorithm < challenge.algorithm => *known = challenge,
                Some(_) => {}
                None => best.push(challenge),
            }
        }
        best
    }

    /// The header that answers it.
    pub(super) fn answered_in(&self) -> &'static str {
        if self.proxy { name::PROXY_AUTHORIZATION } else { name::AUTHORIZATION }
    }
}

/// `name="value"`
pub(super) fn quoted(name: &str, value: &str) -> String {
    format!("{name}={}", scan::quote(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_and_white_space() {
        let auth = AuthHeader::parse(
            b"Digest realm = \"a, \\\"b\\\"\" ,\r\n nonce=\"84a4cc6f==\",qop=\"auth , auth-int\", stale=TRUE,opaque=\"\",algorithm=MD5",
        )
        .unwrap();
        assert_eq!(auth.get("REALM").as_deref(), Some("a, \"b\""));
        assert_eq!(auth.get("opaque").as_deref(), Some(""));
        assert!(auth.is_digest());
        let unknown = AuthHeader::parse(b"NoOneKnowsThisScheme opaque-data=here").unwrap();
        assert_eq!(unknown.get("opaque-data").as_deref(), Some("here"));
        for bad in
            [&b""[..], b"Digest realm=\"a", b"Digest realm=\"a\" nonce=b", b"Digest a=1,A=2", b"Digest ,", b"Digest a="]
        {
            assert!(AuthHeader::parse(bad).is_err(), "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn the_strongest_of_each_realm() {
        let response = Message::response(401, "Unauthorized")
            .header("WWW-Authenticate", "Digest realm=\"x\", nonce=\"1\", algorithm=MD5, qop=\"auth\"")
            .header(
                "WWW-Authenticate",
                "Digest realm=\"x\", nonce=\"2\", algorithm=SHA-256, qop=\"auth-int\", opaque=\"o\"",
            )
            .header("WWW-Authenticate", "Digest realm=\"x\", nonce=\"3\", algorithm=AKAv1-MD5, qop=\"auth\"")
            .header("Proxy-Authenticate", "Digest realm=\"x\", nonce=\"4\"")
            .header("WWW-Authenticate", "Digest realm=\"y\", nonce=\"5\", qop=\"new\"")
            .header("WWW-Authenticate", "Basic realm=\"z\"")
            .build();
        let found = Challenge::strongest(&response);
        let seen: Vec<_> = found.iter().map(|c| (c.nonce.as_str(), c.proxy, c.qop, c.algorithm)).collect();
        assert_eq!(seen, [("2", false, Some(Qop::AuthInt), Algorithm::Sha256), ("4", true, None, Algorithm::Md5)]);
    }
}
