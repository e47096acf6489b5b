//! Who may know of a service: patterns that a program's policy has, carried to the hub in an extension element of its tuple. The hub decides by it for
//! each watcher and takes it out of what it shows (RFC 3856 6.6: a presence server authorises watchers).

use super::xml::Element;
use crate::message::Uri;

/// The namespace of the element.
const NAMESPACE: &str = "tag:sipbox.invalid,2026:watchers";
const LIST: &str = "watchers";
const ONE: &str = "watcher";
/// The option tag (RFC 3261 19.2) by which a presence server says that it decides by these patterns.
pub(crate) const OPTION: &str = "sipbox-watchers";
/// Patterns of one service.
const MAX: usize = 64;

/// Patterns of watchers: `*`, or `sip:USER@HOST` where each `*` in user or host stands for any text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watchers(Box<[Box<str>]>);

impl Watchers {
    /// These patterns and no others.
    pub fn new<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Self {
        Watchers(patterns.into_iter().take(MAX).map(Into::into).collect())
    }

    /// One of the patterns fits an address of record.
    pub fn admit(&self, watcher: &Uri) -> bool {
        self.0.iter().any(|pattern| fits(pattern, watcher))
    }

    pub(crate) fn read(tuple: &Element) -> Option<Watchers> {
        let list = tuple.find(NAMESPACE, LIST)?;
        let patterns = list.elements().filter(|child| child.is(NAMESPACE, ONE)).map(|one| one.value().into());
        Some(Watchers(patterns.take(MAX).collect()))
    }

    pub(crate) fn write(&self) -> Element {
        let one = |pattern: &str| Element::new(NAMESPACE, ONE).text(pattern);
        self.0.iter().fold(Element::new(NAMESPACE, LIST), |list, pattern| list.child(one(pattern)))
    }

    /// Takes the element out of a tuple.
    pub(crate) fn strip(tuple: &mut Element) {
        tuple.remove(NAMESPACE, LIST);
    }
}

fn fits(pattern: &str, watcher: &Uri) -> bool {
    if pattern == "*" {
        return true;
    }
    let Some((scheme, rest)) = pattern.split_once(':') else { return false };
    let Some((user, host)) = rest.rsplit_once('@') else { return false };
    // A secure watcher is as good as any, not the other way round.
    let scheme_fits = match scheme.to_ascii_lowercase().as_str() {
        "sip" => watcher.is_sip(),
        "sips" => watcher.scheme_text().eq_ignore_ascii_case("sips"),
        _ => false,
    };
    scheme_fits
        && glob(user, &watcher.user_decoded().unwrap_or_default())
        && glob(&host.to_ascii_lowercase(), &watcher.host().to_ascii_lowercase())
}

/// Whether `text` is `pattern`, where each `*` stands for any text or none.
fn glob(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|head| text.strip_prefix(head)) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        match parts.peek() {
            None => return rest.ends_with(part),
            Some(_) => match rest.find(part) {
                Some(at) => rest = rest.get(at + part.len()..).unwrap_or_default(),
                None => return false,
            },
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        let admits = |pattern: &str, watcher: &str| Watchers::new([pattern]).admit(&watcher.parse().unwrap());
        for (pattern, watcher) in [
            ("*", "sip:a@b"),
            ("sip:*@example.org", "sip:bob@EXAMPLE.org"),
            ("sip:*@example.org", "sips:bob@example.org"),
            ("sip:bob@*", "sip:bob@x"),
            ("sip:b*b@*.org", "sip:bub@a.b.org"),
            ("sip:*a*b*@x", "sip:xaybz@x"),
            ("sip:bob@example.org", "sip:b%6fb@example.org"),
        ] {
            assert!(admits(pattern, watcher), "{pattern} {watcher}");
        }
        for (pattern, watcher) in [
            ("sip:*@example.org", "sip:bob@example.com"),
            ("sip:*@example.org", "sip:bob@example.org.evil"),
            ("sips:*@example.org", "sip:bob@example.org"),
            ("sip:bob@example.org", "sip:bobby@example.org"),
            ("sip:ab*ba@x", "sip:aba@x"),
            ("bob", "sip:bob@x"),
            ("", "sip:bob@x"),
        ] {
            assert!(!admits(pattern, watcher), "{pattern} {watcher}");
        }
        assert!(!Watchers::new([]).admit(&"sip:a@b".parse().unwrap()));
    }
}
