//! As much of SIP URIs (RFC 3261 section 19.1) as a policy needs: is it one, whose is it, does a pattern meet it.

use std::fmt;

use crate::error::{Error, Wrong};

/// The domain of the hub that sipbox brings along: bare names are users there. RFC 2606 keeps `.invalid` out of the DNS.
pub const HUB_DOMAIN: &str = "sipbox.invalid";

/// A URI in its parts; all of them as written.
struct Parts<'u> {
    secure: bool,
    user: Option<&'u str>,
    /// Host without the port; an IPv6 address keeps its brackets.
    host: &'u str,
    port: Option<&'u str>,
    /// Parameters and headers, from the `;` or `?` on.
    rest: &'u str,
}

/// The SIP URI that `given` stands for: a URI is itself, `user@host` gets its scheme, and a bare name is a user at
/// `domain`.
///
/// # Errors
/// [`Error::Uri`] when it is none of the three.
pub fn expand_uri(given: &str, domain: &str) -> Result<String, Error> {
    expand(given, domain).map_err(|wrong| Error::Uri { given: given.to_owned(), wrong: wrong.what })
}

pub(crate) fn expand(given: &str, domain: &str) -> Result<String, Wrong> {
    if has_scheme(given) {
        return split(given).map(|_| given.to_owned());
    }
    if given.is_empty() {
        return Err(Wrong::new("it is empty").help("write a SIP URI such as sip:alice@example.org, or a bare name"));
    }
    if let Some((scheme, _)) = given.split_once(':').filter(|_| !given.contains('@')) {
        let what = format!("`{scheme}:` is not a scheme that sipbox speaks");
        return Err(Wrong::new(what).help(format!("write sip:USER@HOST or sips:USER@HOST, or a bare name at {domain}")));
    }
    if given.contains('*') && !given.contains('@') {
        return Err(Wrong::new("a bare name holds no `*`").help("write one name, such as echo"));
    }
    let uri = if given.contains('@') { format!("sip:{given}") } else { format!("sip:{given}@{domain}") };
    split(&uri).map(|_| uri.clone())
}

/// The URI of a server: a scheme, a host, perhaps a port and parameters, and no user.
pub(crate) fn server(given: &str) -> Result<String, Wrong> {
    if !has_scheme(given) {
        let help = split(&format!("sip:{given}")).ok().map(|_| format!("write sip:{given} or sips:{given}"));
        let help = help.unwrap_or_else(|| "write sip:HOST, sip:HOST:PORT or sips:HOST".to_owned());
        return Err(Wrong::new("a registrar is a URI, with its scheme").help(help));
    }
    let parts = split(given)?;
    match parts.user {
        None => Ok(given.to_owned()),
        Some(user) => {
            let scheme = if parts.secure { "sips" } else { "sip" };
            let port = parts.port.map(|port| format!(":{port}")).unwrap_or_default();
            let help = format!("write {scheme}:{}{port}{}", parts.host, parts.rest);
            Err(Wrong::new(format!("a registrar is a server: `{user}@` does not belong there")).help(help))
        }
    }
}

/// The URI of somebody: as [`expand`], and with a user and no parameters.
pub(crate) fn address_of_record(given: &str, domain: &str) -> Result<String, Wrong> {
    let uri = expand(given, domain)?;
    let parts = split(&uri)?;
    if parts.user.is_none() {
        let help = format!("write sip:USER@{}", parts.host);
        return Err(Wrong::new("an identity is a user at a domain, and no user is there").help(help));
    }
    if !parts.rest.is_empty() {
        let help = format!("write {}", uri.strip_suffix(parts.rest).unwrap_or(&uri));
        return Err(Wrong::new(format!("an identity has no parameters: `{}`", parts.rest)).help(help));
    }
    Ok(uri)
}

/// The host of a URI, in lower case, without port.
pub(crate) fn domain_of(uri: &str) -> Option<String> {
    split(uri).ok().map(|parts| parts.host.to_ascii_lowercase())
}

/// The address-of-record form of a URI: what names the same user is the same text. Scheme and host in lower case, no
/// parameters, no escapes that need not be there (RFC 3261 section 10.3 step 5). None when it is no SIP URI.
pub fn aor_form(uri: &str) -> Option<String> {
    let parts = split(uri).ok()?;
    let scheme = if parts.secure { "sips" } else { "sip" };
    let user = parts.user.map(|user| format!("{}@", unescaped(user))).unwrap_or_default();
    Some(format!("{scheme}:{user}{}", host_form(&parts)))
}

/// Whose address it is, whatever the scheme: `sip:` and `sips:` name the same user (RFC 5630 section 3.2).
pub fn owner(uri: &str) -> String {
    let form = aor_form(uri).unwrap_or_else(|| uri.to_owned());
    form.split_once(':').map_or(form.clone(), |(_, rest)| rest.to_owned())
}

fn host_form(parts: &Parts<'_>) -> String {
    let host = parts.host.to_ascii_lowercase();
    parts.port.map_or(host.clone(), |port| format!("{host}:{port}"))
}

fn has_scheme(text: &str) -> bool {
    scheme_length(text).is_some()
}

fn scheme_length(text: &str) -> Option<usize> {
    [4, 5].into_iter().zip(["sip:", "sips:"]).find_map(|(length, scheme)| {
        text.get(..length).is_some_and(|head| head.eq_ignore_ascii_case(scheme)).then_some(length)
    })
}

fn split(uri: &str) -> Result<Parts<'_>, Wrong> {
    let is_odd = |c: &char| !c.is_ascii_graphic() || matches!(c, '<' | '>' | '"' | '\\' | '^' | '`' | '{' | '|' | '}');
    if let Some(odd) = uri.chars().find(is_odd) {
        return Err(Wrong::new(format!("{odd:?} cannot stand in a SIP URI")));
    }
    let length = scheme_length(uri).ok_or_else(|| Wrong::new("it does not begin with sip: or sips:"))?;
    let (scheme, after) = uri.split_at(length);
    let (user, tail) = match after.split_once('@') {
        Some((user, tail)) => (Some(user), tail),
        None => (None, after),
    };
    if tail.contains('@') {
        return Err(Wrong::new("there is more than one `@` in it"));
    }
    if let Some(user) = user {
        check_user(user)?;
    }
    let (host_port, rest) = tail.split_at(tail.find([';', '?']).unwrap_or(tail.len()));
    let (host, port) = split_port(host_port)?;
    check_host(host)?;
    if let Some(port) = port.filter(|port| port.parse::<u16>().is_err() || *port == "0") {
        return Err(Wrong::new(format!("`{port}` is not a port: 1 to 65535")));
    }
    Ok(Parts { secure: scheme.len() == 5, user, host, port, rest })
}

fn split_port(host_port: &str) -> Result<(&str, Option<&str>), Wrong> {
    let after_host = match host_port.strip_prefix('[') {
        Some(inner) => inner.find(']').map(|at| at + 2).ok_or_else(|| Wrong::new("`[` is not closed by `]`"))?,
        None => host_port.find(':').unwrap_or(host_port.len()),
    };
    let (host, port) = host_port.split_at(after_host);
    match port.strip_prefix(':') {
        Some(port) => Ok((host, Some(port))),
        None if port.is_empty() => Ok((host, None)),
        None => Err(Wrong::new(format!("`{port}` after the host"))),
    }
}

/// userinfo of RFC 3261, without the password that it allows.
fn check_user(user: &str) -> Result<(), Wrong> {
    if user.is_empty() {
        return Err(Wrong::new("there is no user before the `@`"));
    }
    if user.contains(':') {
        return Err(Wrong::new("a password does not belong in a URI").help("use `credentials` of [identity]"));
    }
    let escapes_right = user.split('%').skip(1).all(|after| {
        let bytes = after.as_bytes();
        bytes.len() >= 2 && bytes.iter().take(2).all(u8::is_ascii_hexdigit)
    });
    if !escapes_right {
        return Err(Wrong::new("`%` must be followed by two hexadecimal digits"));
    }
    match user.chars().find(|c| !c.is_ascii_alphanumeric() && !is_mark(*c)) {
        Some(odd) => Err(Wrong::new(format!("{odd:?} cannot stand in the name of a user"))),
        None => Ok(()),
    }
}

fn is_mark(c: char) -> bool {
    matches!(
        c,
        '-' | '_' | '.' | '!' | '~' | '*' | '\'' | '(' | ')' | '&' | '=' | '+' | '$' | ',' | ';' | '?' | '/' | '%'
    )
}

fn check_host(host: &str) -> Result<(), Wrong> {
    if host.is_empty() {
        return Err(Wrong::new("there is no host in it"));
    }
    if let Some(inner) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        return match inner.parse::<std::net::Ipv6Addr>() {
            Ok(_) => Ok(()),
            Err(_) => Err(Wrong::new(format!("`{inner}` is not an IPv6 address"))),
        };
    }
    let labels_right = host.strip_suffix('.').unwrap_or(host).split('.').all(|label| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    });
    if labels_right && host.len() <= 253 { Ok(()) } else { Err(Wrong::new(format!("`{host}` is not a host name"))) }
}

/// Escapes of unreserved characters are undone, the others get upper-case digits.
fn unescaped(user: &str) -> String {
    let mut out = String::with_capacity(user.len());
    let mut rest = user;
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        let byte = after.get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match byte {
            Some(byte) if byte.is_ascii_alphanumeric() || b"-_.!~*'()".contains(&byte) => out.push(char::from(byte)),
            Some(byte) => out.push_str(&format!("%{byte:02X}")),
            None => out.push('%'),
        }
        rest = after.get(2..).unwrap_or_default();
    }
    out.push_str(rest);
    out
}

/// Who may call: `*`, or a URI whose user and host may hold `*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PeerPattern {
    Anyone,
    Like { secure: bool, user: String, host: String },
}

impl PeerPattern {
    /// A pattern as written; a bare name is a user at `domain`.
    pub fn parse(given: &str, domain: &str) -> Result<PeerPattern, Wrong> {
        if given == "*" {
            return Ok(PeerPattern::Anyone);
        }
        let full = match (has_scheme(given), given.contains('@')) {
            (true, true) => given.to_owned(),
            (true, false) => {
                let help = "write \"*\" for anyone, or for example \"sip:*@example.org\"";
                return Err(Wrong::new(format!("no user in the pattern \"{given}\"")).help(help));
            }
            (false, true) => format!("sip:{given}"),
            (false, false) => format!("sip:{given}@{domain}"),
        };
        // A `*` is legal in a user but not in a host: a letter in its place shows whether the rest is right.
        split(&full.replace('*', "x"))?;
        let (scheme, address) = full.split_once(':').unwrap_or_default();
        let (user, host) = address.split_once('@').unwrap_or_default();
        if let Some(at) = host.find([';', '?']) {
            let help = format!("write \"{scheme}:{user}@{}\"", &host[..at]);
            return Err(Wrong::new(format!("a pattern has no parameters: `{}`", &host[at..])).help(help));
        }
        let secure = scheme.eq_ignore_ascii_case("sips");
        Ok(PeerPattern::Like { secure, user: unescaped(user), host: host.to_ascii_lowercase() })
    }

    /// Whether the peer with this URI is meant. `sip:` means `sips:` too, but not the other way round.
    pub fn matches(&self, peer: &str) -> bool {
        match self {
            PeerPattern::Anyone => true,
            PeerPattern::Like { secure, user, host } => split(peer).is_ok_and(|parts| {
                (parts.secure || !secure)
                    && parts.user.is_some_and(|name| glob(user, &unescaped(name)))
                    && glob(host, &host_form(&parts))
            }),
        }
    }
}

impl fmt::Display for PeerPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PeerPattern::Anyone => f.write_str("*"),
            PeerPattern::Like { secure, user, host } => {
                write!(f, "{}:{user}@{host}", if *secure { "sips" } else { "sip" })
            }
        }
    }
}

/// Whether `text` is `pattern`, where each `*` stands for any text or none.
fn glob(pattern: &str, text: &str) -> bool {
    let Some((head, mut pattern)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(head) else { return false };
    while let Some((middle, after)) = pattern.split_once('*') {
        let Some(at) = text.find(middle) else { return false };
        text = &text[at + middle.len()..];
        pattern = after;
    }
    text.ends_with(pattern)
}
