//! When two URIs name the same resource (RFC 3261 section 19.1.4), and the form that serves as a key.

use super::uri::{Scheme, Uri};

fn hex(b: u8) -> Option<u8> {
    char::from(b).to_digit(16).map(|d| d as u8)
}

/// The bytes behind the escapes.
pub(super) fn decode(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&b, tail)) = rest.split_first() {
        if b == b'%'
            && let [h, l, after @ ..] = tail
            && let (Some(h), Some(l)) = (hex(*h), hex(*l))
        {
            out.push(h << 4 | l);
            rest = after;
        } else {
            out.push(b);
            rest = tail;
        }
    }
    out
}

/// The characters that may stand in a user unescaped.
fn plain_in_user(b: u8) -> bool {
    b.is_ascii_alphanumeric()
        || matches!(b, b'-' | b'_' | b'.' | b'!' | b'~' | b'*' | b'\'' | b'(' | b')')
        || matches!(b, b'&' | b'=' | b'+' | b'$' | b',' | b';' | b'?' | b'/')
}

/// A user with escapes where they are needed and nowhere else.
pub(super) fn escape_user(user: &str) -> String {
    escape(user.as_bytes(), plain_in_user)
}

fn escape(bytes: &[u8], plain: impl Fn(u8) -> bool) -> String {
    let mut out = String::with_capacity(bytes.len());
    for b in bytes {
        if plain(*b) {
            out.push(char::from(*b));
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
    }
    out
}

/// A reserved character is not the same as its escape (RFC 2396 section 2.2); any other is.
fn normal(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&b, tail)) = rest.split_first() {
        rest = tail;
        if b == b'%'
            && let [h, l, after @ ..] = tail
            && let (Some(h), Some(l)) = (hex(*h), hex(*l))
        {
            rest = after;
            let byte = h << 4 | l;
            if matches!(byte, b';' | b'/' | b'?' | b':' | b'@' | b'&' | b'=' | b'+' | b'$' | b',' | b'%') {
                out.extend_from_slice(format!("%{byte:02X}").as_bytes());
            } else {
                out.push(byte);
            }
        } else {
            out.push(b);
        }
    }
    out
}

/// Equal without case and needless escapes.
pub(super) fn same_text(a: &str, b: &str) -> bool {
    a.eq_ignore_ascii_case(b) || ((a.contains('%') || b.contains('%')) && normal(a).eq_ignore_ascii_case(&normal(b)))
}

fn same_option(a: Option<&str>, b: Option<&str>) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => normal(a) == normal(b),
        _ => false,
    }
}

pub(super) fn equivalent(a: &Uri, b: &Uri) -> bool {
    if a.as_str() == b.as_str() {
        return true;
    }
    if a.scheme() != b.scheme() {
        return false;
    }
    match a.scheme() {
        Scheme::Sip | Scheme::Sips => {
            same_option(a.user(), b.user())
                && same_option(a.password(), b.password())
                && a.host().eq_ignore_ascii_case(b.host())
                && a.port() == b.port()
                && params_match(a, b)
                && params_match(b, a)
                && headers_match(a, b)
        }
        Scheme::Tel => {
            digits(a).eq_ignore_ascii_case(&digits(b))
                && a.params().count() == b.params().count()
                && a.params().all(|(n, v)| b.param(n).is_some_and(|w| same_text(v.unwrap_or_default(), w)))
        }
        Scheme::Other => {
            let opaque = |u: &Uri| u.as_str().split_once(':').map(|(_, rest)| rest.to_owned());
            a.scheme_text().eq_ignore_ascii_case(b.scheme_text()) && opaque(a) == opaque(b)
        }
    }
}

/// Each parameter of `a` is in `b` with the same value, or is one that may stand on one side only.
fn params_match(a: &Uri, b: &Uri) -> bool {
    a.params().all(|(name, value)| {
        let mut found = b.params().filter(|(n, _)| same_text(n, name)).peekable();
        if found.peek().is_none() {
            return !["user", "ttl", "method", "maddr", "transport"].iter().any(|n| same_text(n, name));
        }
        found.any(|(_, other)| same_text(value.unwrap_or_default(), other.unwrap_or_default()))
    })
}

/// The same headers in any order; names without case.
fn headers_match(a: &Uri, b: &Uri) -> bool {
    let sorted = |u: &Uri| {
        let mut list: Vec<_> = u.headers().map(|(n, v)| (normal(n).to_ascii_lowercase(), normal(v))).collect();
        list.sort();
        list
    };
    sorted(a) == sorted(b)
}

/// A number without its visual separators (RFC 3966 section 5.1.1).
fn digits(uri: &Uri) -> String {
    uri.user().unwrap_or_default().chars().filter(|c| !matches!(c, '-' | '.' | '(' | ')')).collect()
}

pub(super) fn aor(uri: &Uri) -> Uri {
    let text = match uri.scheme() {
        Scheme::Sip | Scheme::Sips => {
            let default = if uri.scheme() == Scheme::Sips { 5061 } else { 5060 };
            let mut text = String::from(if uri.scheme() == Scheme::Sips { "sips:" } else { "sip:" });
            if let Some(user) = uri.user() {
                text.push_str(&escape(&decode(user), plain_in_user));
                text.push('@');
            }
            text.push_str(&uri.host().to_ascii_lowercase());
            if let Some(port) = uri.port().filter(|p| *p != default) {
                text.push_str(&format!(":{port}"));
            }
            text
        }
        Scheme::Tel => format!("tel:{}", digits(uri)),
        Scheme::Other => return uri.clone(),
    };
    text.parse().unwrap_or_else(|_| uri.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::UriError;

    fn uri(text: &str) -> Uri {
        text.parse().unwrap()
    }

    #[test]
    fn the_examples_of_rfc_3261_19_1_4() {
        for (a, b) in [
            ("sip:%61lice@atlanta.com;transport=TCP", "sip:alice@AtLanTa.CoM;Transport=tcp"),
            ("sip:carol@chicago.com", "sip:carol@chicago.com;newparam=5"),
            ("sip:carol@chicago.com;newparam=5", "sip:carol@chicago.com;security=on"),
            (
                "sip:biloxi.com;transport=tcp;method=REGISTER?to=sip:bob%40biloxi.com",
                "sip:biloxi.com;method=REGISTER;transport=tcp?to=sip:bob%40biloxi.com",
            ),
            (
                "sip:alice@atlanta.com?subject=project%20x&priority=urgent",
                "sip:alice@atlanta.com?priority=urgent&subject=project%20x",
            ),
            ("tel:+1-201-555-0123", "tel:+12015550123"),
        ] {
            assert!(uri(a).equivalent(&uri(b)) && uri(b).equivalent(&uri(a)), "{a} {b}");
        }
        for (a, b) in [
            ("SIP:ALICE@AtLanTa.CoM;Transport=udp", "sip:alice@AtLanTa.CoM;Transport=UDP"),
            ("sip:bob@biloxi.com", "sip:bob@biloxi.com:5060"),
            ("sip:bob@biloxi.com", "sip:bob@biloxi.com;transport=udp"),
            ("sip:bob@biloxi.com", "sip:bob@biloxi.com:6000;transport=tcp"),
            ("sip:carol@chicago.com", "sip:carol@chicago.com?Subject=next%20meeting"),
            ("sip:bob@phone21.boxesbybob.com", "sip:bob@192.0.2.4"),
            ("sip:carol@chicago.com;security=off", "sip:carol@chicago.com;security=on"),
            ("sip:a@b", "sips:a@b"),
            ("sip:a%3Bb@c", "sip:a;b@c"),
            ("sip:a@b;lr;user=phone", "sip:a@b;lr"),
        ] {
            assert!(!uri(a).equivalent(&uri(b)) && !uri(b).equivalent(&uri(a)), "{a} {b}");
        }
    }

    #[test]
    fn parts() {
        let u = uri("sips:al%20ice:se,cret@[2001:DB8::1]:5090;transport=tls;gr=urn:uuid:f81d-1;lr?Subject=a%20b&x=");
        assert_eq!((u.user(), u.password()), (Some("al%20ice"), Some("se,cret")));
        assert_eq!(u.user_decoded().as_deref(), Some("al ice"));
        assert_eq!((u.host(), u.port()), ("[2001:DB8::1]", Some(5090)));
        assert_eq!(u.param("GR"), Some("urn:uuid:f81d-1"));
        assert_eq!(u.headers().collect::<Vec<_>>(), [("Subject", "a%20b"), ("x", "")]);
        assert_eq!(u.aor().as_str(), "sips:al%20ice@[2001:db8::1]:5090");
        assert_eq!(u.without_param("transport").param("transport"), None);
        assert_eq!(u.with_param("lr", Some("on")).unwrap().param("lr"), Some("on"));
        assert_eq!(u.to_string().parse::<Uri>().unwrap(), u);
        assert_eq!(uri("sip:%42ob@Ex.COM:5060;x").aor().as_str(), "sip:Bob@ex.com");
        assert_eq!(uri("tel:+1-201;phone-context=x").param("phone-context"), Some("x"));
        assert_eq!(Uri::sip(Some("a b"), "::1", Some(5070)).unwrap().as_str(), "sip:a%20b@[::1]:5070");
        assert_eq!(uri("soap.beep://192.0.2.103:3002").scheme(), Scheme::Other);
        assert_eq!(uri("sip:null-%00-null@example.com").user_decoded().as_deref(), Some("null-\0-null"));
    }

    #[test]
    fn refused() {
        for bad in [
            "",
            "sip",
            "sip:",
            "sip:@h",
            "sip:a@",
            "sip:a@b@c",
            "sip:a@h:",
            "sip:a@h:65536",
            "sip:a@h:1x",
            "sip:a@h;;b",
            "sip:a@h;=b",
            "sip:%4@h",
            "sip:a b@h",
            "<sip:a@h>",
            "sip:a@[::1",
            "sip:a@[zz]",
            "sip:ä@h",
            "1a:b",
            "tel:",
            "tel:;a",
            "sip:a@h;b\n",
            "sip:a@-",
            "alan@jasomi.com",
            "sip:h/x",
        ] {
            assert!(bad.parse::<Uri>().is_err(), "{bad}");
        }
        assert_eq!(format!("sip:{}@h", "a".repeat(9000)).parse::<Uri>(), Err(UriError::TooLong));
        assert_eq!(format!("sip:h{}", ";a".repeat(65)).parse::<Uri>(), Err(UriError::TooManyParams));
    }
}
