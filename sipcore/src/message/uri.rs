//! URIs: `sip:`, `sips:` (RFC 3261 section 19.1), `tel:` (RFC 3966), and any other scheme unread.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use super::scan;
use super::uri_compare;

/// A URI as it was written, shared text with the places of its parts: cheap to clone.
///
/// `==` and `Hash` compare the text; [`Uri::equivalent`] compares by the rules of RFC 3261 section 19.1.4.
#[derive(Clone)]
pub struct Uri {
    text: Arc<str>,
    scheme: Scheme,
    /// End of the user without password; start of it is behind the scheme. Equal to `host` when there is none.
    user_end: u16,
    host: u16,
    host_end: u16,
    /// Where `;params` begin, and where `?headers` begin (the end of the text without them).
    params: u16,
    headers: u16,
    port: Option<u16>,
}

/// What a URI begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Scheme {
    /// `sip:`
    Sip,
    /// `sips:`
    Sips,
    /// `tel:`
    Tel,
    /// Any other.
    Other,
}

/// Why a text is not a URI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UriError {
    /// No scheme and colon at its start.
    #[error("a URI begins with a scheme and a colon")]
    NoScheme,
    /// White space, a control character, angle brackets, or not ASCII.
    #[error("a character that a URI cannot hold")]
    Character,
    /// `%` without two hexadecimal digits.
    #[error("% without two hexadecimal digits")]
    Escape,
    /// `@` with nothing before it, or more than one.
    #[error("the part before @ is empty or has an @ in it")]
    User,
    /// The host is missing or not a name, an IPv4 address or an IPv6 address in brackets.
    #[error("the host is not a name and not an address")]
    Host,
    /// The port is not a number up to 65535.
    #[error("the port is not a number from 0 to 65535")]
    Port,
    /// An empty parameter or one without a name.
    #[error("a parameter without a name")]
    Param,
    /// Longer than [`Uri::MAX_LEN`].
    #[error("longer than 8192 bytes")]
    TooLong,
    /// More parameters than [`Uri::MAX_PARAMS`].
    #[error("more than 64 parameters")]
    TooManyParams,
}

impl Uri {
    /// The longest text accepted.
    pub const MAX_LEN: usize = 8192;
    /// The most parameters accepted, so that comparing stays cheap.
    pub const MAX_PARAMS: usize = 64;

    /// `sip:user@host:port`; an IPv6 address may come with or without its brackets. The user is escaped as needed.
    pub fn sip(user: Option<&str>, host: &str, port: Option<u16>) -> Result<Uri, UriError> {
        let mut text = String::from("sip:");
        if let Some(user) = user {
            text.push_str(&uri_compare::escape_user(user));
            text.push('@');
        }
        if host.contains(':') && !host.starts_with('[') {
            text.push('[');
            text.push_str(host);
            text.push(']');
        } else {
            text.push_str(host);
        }
        if let Some(port) = port {
            text.push_str(&format!(":{port}"));
        }
        text.parse()
    }

    /// From the bytes of a message.
    pub fn from_bytes(bytes: &[u8]) -> Result<Uri, UriError> {
        scan::ascii(bytes).ok_or(UriError::Character)?.parse()
    }

    /// The text as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The kind of scheme.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The scheme as spelled.
    pub fn scheme_text(&self) -> &str {
        self.text.split(':').next().unwrap_or_default()
    }

    /// True for `sip:` and `sips:`.
    pub fn is_sip(&self) -> bool {
        matches!(self.scheme, Scheme::Sip | Scheme::Sips)
    }

    /// The user as written, without password; for `tel:` the number.
    pub fn user(&self) -> Option<&str> {
        let start = self.scheme_text().len() + 1;
        self.text.get(start..usize::from(self.user_end)).filter(|u| !u.is_empty())
    }

    /// The user without its escapes; bytes that are not UTF-8 are replaced.
    pub fn user_decoded(&self) -> Option<String> {
        self.user().map(|u| String::from_utf8_lossy(&uri_compare::decode(u)).into_owned())
    }

    /// The password as written. RFC 3261 recommends against using it.
    pub fn password(&self) -> Option<&str> {
        self.text.get(usize::from(self.user_end)..usize::from(self.host))?.strip_prefix(':')?.strip_suffix('@')
    }

    /// The host as written, an IPv6 address with its brackets; empty for `tel:` and unknown schemes.
    pub fn host(&self) -> &str {
        self.text.get(usize::from(self.host)..usize::from(self.host_end)).unwrap_or_default()
    }

    /// The host as an address, when it is one.
    pub fn host_ip(&self) -> Option<IpAddr> {
        scan::address(self.host())
    }

    /// The port, if one is written.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// The port, else the default of the scheme: 5061 for `sips:` or `transport=tls`, 5060 otherwise.
    pub fn port_or_default(&self) -> u16 {
        self.port.unwrap_or_else(|| {
            let tls = self.param("transport").is_some_and(|t| t.eq_ignore_ascii_case("tls"));
            if self.scheme == Scheme::Sips || tls { 5061 } else { 5060 }
        })
    }

    /// `transport`, as spelled.
    pub fn transport(&self) -> Option<&str> {
        self.param("transport").filter(|t| !t.is_empty())
    }

    /// The parameters in their order, as written: name, value.
    pub fn params(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        let raw = self.text.get(usize::from(self.params)..usize::from(self.headers)).unwrap_or_default();
        raw.split(';').skip(1).map(|p| match p.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (p, None),
        })
    }

    /// The value of a parameter as written; empty when it has none.
    pub fn param(&self, name: &str) -> Option<&str> {
        self.params().find(|(n, _)| uri_compare::same_text(n, name)).map(|(_, value)| value.unwrap_or_default())
    }

    /// True when the parameter is there.
    pub fn has_param(&self, name: &str) -> bool {
        self.param(name).is_some()
    }

    /// The headers after `?`, as written: name, value.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        let raw = self.text.get(usize::from(self.headers)..).unwrap_or_default();
        let raw = raw.strip_prefix('?').unwrap_or_default();
        raw.split('&').filter(|h| !h.is_empty()).map(|h| h.split_once('=').unwrap_or((h, "")))
    }

    /// The same resource by RFC 3261 section 19.1.4: escapes, case and order aside; unknown parameters on one side do not
    /// count. Not transitive, so not an order for maps: use [`Uri::aor`] as a key.
    pub fn equivalent(&self, other: &Uri) -> bool {
        uri_compare::equivalent(self, other)
    }

    /// The address of record (RFC 3261 section 10.3, step 5): scheme, user without needless escapes, host in lower case,
    /// a port only where it is not the default; no password, parameters or headers. Usable as a key.
    pub fn aor(&self) -> Uri {
        uri_compare::aor(self)
    }

    /// This URI with the parameter set, added at the end if it was not there. `None` as value writes `;name`.
    pub fn with_param(&self, name: &str, value: Option<&str>) -> Result<Uri, UriError> {
        self.edit(name, Some(value))
    }

    /// This URI without the parameter.
    pub fn without_param(&self, name: &str) -> Uri {
        self.edit(name, None).unwrap_or_else(|_| self.clone())
    }

    fn edit(&self, name: &str, setting: Option<Option<&str>>) -> Result<Uri, UriError> {
        let mut text = self.text.get(..usize::from(self.params)).unwrap_or_default().to_owned();
        let mut put = |name: &str, value: Option<&str>| {
            text.push(';');
            text.push_str(name);
            if let Some(value) = value {
                text.push('=');
                text.push_str(value);
            }
        };
        for (n, v) in self.params().filter(|(n, _)| !uri_compare::same_text(n, name)) {
            put(n, v);
        }
        if let Some(value) = setting {
            put(name, value);
        }
        text.push_str(self.text.get(usize::from(self.headers)..).unwrap_or_default());
        text.parse()
    }
}

impl FromStr for Uri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Uri, UriError> {
        if text.len() > Uri::MAX_LEN {
            return Err(UriError::TooLong);
        }
        let (scheme, rest) = text.split_once(':').ok_or(UriError::NoScheme)?;
        let mut letters = scheme.bytes();
        if !letters.next().is_some_and(|b| b.is_ascii_alphabetic())
            || !letters.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
        {
            return Err(UriError::NoScheme);
        }
        if !rest.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'<' | b'>' | b'"')) {
            return Err(UriError::Character);
        }
        let begin = scheme.len() + 1;
        let scheme = match scheme {
            s if s.eq_ignore_ascii_case("sip") => Scheme::Sip,
            s if s.eq_ignore_ascii_case("sips") => Scheme::Sips,
            s if s.eq_ignore_ascii_case("tel") => Scheme::Tel,
            _ => Scheme::Other,
        };
        match scheme {
            Scheme::Sip | Scheme::Sips => sip(text, begin, scheme),
            _ => opaque(text, begin, scheme),
        }
    }
}

/// `%` is always followed by two hexadecimal digits.
fn escapes(text: &str) -> Result<(), UriError> {
    let ok = text.split('%').skip(1).all(|after| {
        let mut digits = after.bytes();
        digits.next().is_some_and(|b| b.is_ascii_hexdigit()) && digits.next().is_some_and(|b| b.is_ascii_hexdigit())
    });
    if ok { Ok(()) } else { Err(UriError::Escape) }
}

/// What stands between the semicolons behind the first one has names.
fn parameters(list: &str) -> Result<(), UriError> {
    for (n, param) in list.split(';').skip(1).enumerate() {
        if param.is_empty() || param.starts_with('=') {
            return Err(UriError::Param);
        }
        if n >= Uri::MAX_PARAMS {
            return Err(UriError::TooManyParams);
        }
    }
    Ok(())
}

fn sip(text: &str, begin: usize, scheme: Scheme) -> Result<Uri, UriError> {
    escapes(text)?;
    let rest = text.get(begin..).unwrap_or_default();
    let (user_end, host) = match rest.split_once('@') {
        Some((userinfo, after)) => {
            let user = userinfo.split(':').next().unwrap_or_default();
            if user.is_empty() || after.contains('@') || userinfo.contains(['[', ']', '{', '}', '|', '^', '#']) {
                return Err(UriError::User);
            }
            (begin + user.len(), begin + userinfo.len() + 1)
        }
        None => (begin, begin),
    };
    let mut scan = scan::Scanner::new(text.as_bytes().get(host..).unwrap_or_default());
    let host_text = scan.host().ok_or(UriError::Host)?;
    if !host_text.starts_with('[') && host_text.trim_matches(['.', '-', '_']).is_empty() {
        return Err(UriError::Host);
    }
    let host_end = host + host_text.len();
    let mut params = host_end;
    let mut port = None;
    match scan.peek() {
        Some(b':') => {
            scan.eat(b':');
            let digits = scan.take_while(|b| b.is_ascii_digit());
            port = Some(scan::decimal(digits).and_then(|n| u16::try_from(n).ok()).ok_or(UriError::Port)?);
            params += 1 + digits.len();
            if !matches!(scan.peek(), None | Some(b';' | b'?')) {
                return Err(UriError::Port);
            }
        }
        None | Some(b';' | b'?') => {}
        Some(_) => return Err(UriError::Host),
    }
    let tail = text.get(params..).unwrap_or_default();
    let headers = params + tail.find('?').unwrap_or(tail.len());
    let list = text.get(params..headers).unwrap_or_default();
    parameters(list)?;
    Ok(place(text, scheme, [user_end, host, host_end, params, headers], port))
}

/// `tel:` keeps its parameters, any other scheme is one piece.
fn opaque(text: &str, begin: usize, scheme: Scheme) -> Result<Uri, UriError> {
    let end = text.len();
    let rest = text.get(begin..).unwrap_or_default();
    if rest.is_empty() {
        return Err(UriError::User);
    }
    let user_end = if scheme == Scheme::Tel {
        escapes(text)?;
        let number = rest.split(';').next().unwrap_or_default();
        if !number.bytes().any(|b| b.is_ascii_hexdigit() || matches!(b, b'*' | b'#')) {
            return Err(UriError::User);
        }
        parameters(rest)?;
        begin + number.len()
    } else {
        begin
    };
    let params = if scheme == Scheme::Tel { user_end } else { end };
    Ok(place(text, scheme, [user_end, user_end, user_end, params, end], None))
}

/// The text is at most [`Uri::MAX_LEN`] long, so every place fits.
fn place(text: &str, scheme: Scheme, at: [usize; 5], port: Option<u16>) -> Uri {
    let [user_end, host, host_end, params, headers] = at.map(|n| n as u16);
    Uri { text: text.into(), scheme, user_end, host, host_end, params, headers, port }
}

impl PartialEq for Uri {
    fn eq(&self, other: &Uri) -> bool {
        self.text == other.text
    }
}

impl Eq for Uri {}

impl std::hash::Hash for Uri {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
