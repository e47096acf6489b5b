//! Parameters of a header value: `;name`, `;name=token`, `;name="quoted"`.

use std::borrow::Cow;

use super::scan::{self, Scanner};
use super::views::HeaderError;

/// The parameters of one value, borrowed from the message. Names are open and compared without case.
#[derive(Clone, Copy, Default)]
pub struct Params<'a> {
    raw: &'a [u8],
}

/// One parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Param<'a> {
    /// The name as spelled.
    pub name: &'a str,
    value: Option<Raw<'a>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Raw<'a> {
    Plain(&'a [u8]),
    Quoted(&'a [u8]),
}

impl<'a> Param<'a> {
    /// The value without quotes and escapes; `None` when the parameter has none.
    pub fn value(&self) -> Option<Cow<'a, str>> {
        self.value.map(|raw| match raw {
            Raw::Plain(bytes) => String::from_utf8_lossy(bytes),
            Raw::Quoted(bytes) => scan::unquote(bytes),
        })
    }
}

/// Reads one parameter after its semicolon (or comma, in authentication headers).
pub(crate) fn one<'a>(scan: &mut Scanner<'a>) -> Option<Param<'a>> {
    let name = scan.token()?;
    if !scan.eat(b'=') {
        return Some(Param { name, value: None });
    }
    scan.skip_lws();
    let value = if scan.peek() == Some(b'"') {
        Raw::Quoted(scan.quoted()?)
    } else if scan.peek() == Some(b'[') {
        Raw::Plain(scan.host()?.as_bytes())
    } else {
        // A token, or more than one: UUIDs in URN form and base64 stand unquoted in the field.
        let plain = scan.take_while(|b| b > b' ' && b != 0x7f && !matches!(b, b';' | b',' | b'"' | b'<' | b'>'));
        if plain.is_empty() {
            return None;
        }
        Raw::Plain(plain)
    };
    Some(Param { name, value: Some(value) })
}

impl<'a> Params<'a> {
    /// Takes everything that is left, which must be parameters.
    pub(crate) fn parse(rest: &'a [u8]) -> Result<Params<'a>, HeaderError> {
        let raw = scan::trim(rest);
        let mut scan = Scanner::new(raw);
        while !scan.at_end() {
            if !scan.eat(b';') {
                return Err(HeaderError::Malformed("a parameter does not begin with a semicolon"));
            }
            one(&mut scan).ok_or(HeaderError::Malformed("a parameter has no name or a bad value"))?;
            scan.skip_lws();
        }
        Ok(Params { raw })
    }

    /// All parameters in their order.
    pub fn iter(&self) -> impl Iterator<Item = Param<'a>> + use<'a> {
        let mut scan = Scanner::new(self.raw);
        std::iter::from_fn(move || if scan.eat(b';') { one(&mut scan) } else { None })
    }

    /// The value of the first parameter with that name. A parameter without a value gives an empty text; see [`Params::has`].
    pub fn get(&self, name: &str) -> Option<Cow<'a, str>> {
        let param = self.iter().find(|p| p.name.eq_ignore_ascii_case(name))?;
        Some(param.value().unwrap_or_default())
    }

    /// The value of that name when it is a plain token, borrowed.
    pub fn token(&self, name: &str) -> Option<&'a str> {
        match self.iter().find(|p| p.name.eq_ignore_ascii_case(name))?.value? {
            Raw::Plain(bytes) => scan::ascii(bytes),
            Raw::Quoted(_) => None,
        }
    }

    /// True when the parameter is there, with or without a value.
    pub fn has(&self, name: &str) -> bool {
        self.iter().any(|p| p.name.eq_ignore_ascii_case(name))
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.raw.is_empty()
    }

    /// The parameters as received, from the first semicolon on.
    pub fn raw(&self) -> &'a [u8] {
        self.raw
    }
}

/// The bytes of `value`, one element of a header, with the parameter `name` set to `setting` or taken away.
/// All other bytes stay.
pub(crate) fn with_param(element: &[u8], name: &str, setting: Option<Option<&str>>) -> Vec<u8> {
    let mut out = Vec::with_capacity(element.len() + 32);
    let mut rest = element;
    let mut first = true;
    while !rest.is_empty() {
        let end = segment_end(rest);
        let (segment, tail) = rest.split_at(end);
        let body = segment.strip_prefix(b";").unwrap_or(segment);
        let found = !first && Scanner::new(body).token().is_some_and(|t| t.eq_ignore_ascii_case(name));
        if !found {
            out.extend_from_slice(segment);
        }
        first = false;
        rest = tail;
    }
    if let Some(value) = setting {
        let keep = scan::trim(&out).len() + (out.len() - out.trim_ascii_start().len());
        out.truncate(keep);
        out.push(b';');
        out.extend_from_slice(name.as_bytes());
        if let Some(value) = value {
            out.push(b'=');
            out.extend_from_slice(value.as_bytes());
        }
    }
    out
}

/// Where the segment at the start of `bytes` ends: before the next semicolon outside of quotes and angle brackets.
fn segment_end(bytes: &[u8]) -> usize {
    let (mut quoted, mut angle, mut i) = (false, false, 1);
    if let Some(b'"') = bytes.first() {
        quoted = true;
    } else if let Some(b'<') = bytes.first() {
        angle = true;
    }
    while let Some(b) = bytes.get(i) {
        match b {
            b'\\' if quoted => i += 1,
            b'"' if !angle => quoted = !quoted,
            b'<' if !quoted => angle = true,
            b'>' if !quoted => angle = false,
            b';' if !quoted && !angle => return i,
            _ => {}
        }
        i += 1;
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_names_and_quoted_values() {
        let params = Params::parse(b";tag = a.b ; Q=0.3;lr; sip=\"a;\\\"b\" ;h=[::1]").unwrap();
        assert_eq!(params.token("TAG"), Some("a.b"));
        assert_eq!(params.get("q").as_deref(), Some("0.3"));
        assert!(params.has("LR") && !params.has("l"));
        assert_eq!(params.get("lr").as_deref(), Some(""));
        assert_eq!(params.get("sip").as_deref(), Some("a;\"b"));
        assert_eq!(params.token("h"), Some("[::1]"));
        assert_eq!(params.iter().count(), 5);
    }

    #[test]
    fn refused() {
        for bad in [&b";;"[..], b";a=", b"a", b";a=\"", b"; ;a", b";a=1 b", b";a,b"] {
            assert!(Params::parse(bad).is_err(), "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn one_parameter_is_replaced_and_the_rest_stays() {
        let via = b"SIP/2.0/UDP h;rport ; branch=\"a;rport\";x";
        assert_eq!(with_param(via, "rport", Some(Some("5"))), b"SIP/2.0/UDP h; branch=\"a;rport\";x;rport=5");
        assert_eq!(with_param(b"<sip:a;lr>", "lr", None), b"<sip:a;lr>");
        assert_eq!(with_param(b"a;b;c", "b", None), b"a;c");
    }
}
