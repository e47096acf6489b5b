//! The `reg` event package (RFC 3680): what an address of record is registered with, for its owner. GRUUs as RFC 5628 has them.

use super::xml::Element;

/// The media type.
pub(crate) const CONTENT_TYPE: &str = "application/reginfo+xml";
const REGINFO: &str = "urn:ietf:params:xml:ns:reginfo";
const GRUUINFO: &str = "urn:ietf:params:xml:ns:gruuinfo";

/// One contact that stands.
#[derive(Debug, Clone)]
pub(crate) struct Contact {
    pub id: u64,
    pub uri: String,
    /// Seconds left.
    pub expires: u64,
    /// In thousandths.
    pub q: u16,
    pub call_id: String,
    pub cseq: u32,
    /// `+sip.instance`.
    pub instance: Option<String>,
    pub public_gruu: Option<String>,
}

/// The whole state of an address of record; `version` counts the notifications of one subscription.
pub(crate) fn document(aor: &str, version: u32, contacts: &[Contact]) -> String {
    let state = if contacts.is_empty() { "init" } else { "active" };
    let mut registration = Element::new(REGINFO, "registration").with("aor", aor).with("id", "r").with("state", state);
    for contact in contacts {
        let mut element = Element::new(REGINFO, "contact")
            .with("id", &format!("c{}", contact.id))
            .with("state", "active")
            .with("event", "registered")
            .with("expires", &contact.expires.to_string())
            .with("q", &format!("{}.{:03}", contact.q / 1000, contact.q % 1000))
            .with("callid", &contact.call_id)
            .with("cseq", &contact.cseq.to_string())
            .child(Element::new(REGINFO, "uri").text(&contact.uri));
        if let Some(instance) = &contact.instance {
            let quoted = format!("\"{instance}\"");
            element.push(Element::new(REGINFO, "unknown-param").with("name", "+sip.instance").text(&quoted));
        }
        if let Some(gruu) = &contact.public_gruu {
            element.push(Element::new(GRUUINFO, "pub-gruu").with("uri", gruu));
        }
        registration.push(element);
    }
    Element::new(REGINFO, "reginfo")
        .with("version", &version.to_string())
        .with("state", "full")
        .child(registration)
        .to_document()
}
