//! Presence documents (PIDF, RFC 3863) about the sockets of programs: one tuple for each. The label stands in OMA's `<service-description>`
//! (OMA-TS-Presence_SIMPLE 2.0, section 10.5), as for any other service; what people read of it in `<note>`.

use super::watchers::Watchers;
use super::xml::{Element, XmlError};
use crate::label::Label;
use crate::message::Uri;
use std::time::SystemTime;

/// The media type of a presence document.
pub const CONTENT_TYPE: &str = "application/pidf+xml";
pub(crate) const PIDF: &str = "urn:ietf:params:xml:ns:pidf";
const OMA: &str = "urn:oma:xml:prs:pidf:oma-pres";
/// What a `<service-id>` says of the sockets of programs under sipbox.
const SERVICE: &str = "sipbox";
/// Tuples of one document.
const MAX_TUPLES: usize = 1024;
/// The longest note that is read or written, in characters.
pub const MAX_NOTE: usize = 512;

/// Why a document is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PidfError {
    /// The XML.
    #[error(transparent)]
    Xml(#[from] XmlError),
    /// It is XML, but not as RFC 3863 has it.
    #[error("not a presence document: {0}")]
    Shape(&'static str),
}

/// What one presentity says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Whose presence it is: `sip:` or `pres:` URI, as written.
    pub entity: String,
    /// Its services.
    pub tuples: Vec<Tuple>,
}

/// One service: a socket of a program, or whatever another kind of agent offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tuple {
    /// Unique in the document.
    pub id: String,
    /// `<basic>`: it can be used now. `None`: nothing is said.
    pub open: Option<bool>,
    /// The socket; `None` for services of other agents.
    pub label: Option<Label>,
    /// Words for people, in the first language that is given.
    pub note: Option<String>,
    /// Where it is reached: for a socket the GRUU of its program.
    pub contact: Option<Uri>,
    /// Since when.
    pub since: Option<SystemTime>,
    /// Who may know of it; `None`: everybody. Only a hub of sipbox reads this, and it tells nobody.
    pub watchers: Option<Watchers>,
}

impl Document {
    /// Reads a document.
    pub fn parse(text: &[u8]) -> Result<Document, PidfError> {
        let root = Element::parse(text)?;
        check(&root)?;
        let tuples = root.elements().filter(|element| element.is(PIDF, "tuple")).map(Tuple::read).collect();
        Ok(Document { entity: root.attribute("entity").unwrap_or_default().to_owned(), tuples })
    }

    /// The document as XML.
    pub fn to_xml(&self) -> String {
        let mut root = Element::new(PIDF, "presence").with("entity", &self.entity);
        for tuple in &self.tuples {
            root.push(tuple.write());
        }
        root.to_document()
    }
}

/// Whether an element is a presence document.
pub(crate) fn check(root: &Element) -> Result<(), PidfError> {
    if !root.is(PIDF, "presence") {
        return Err(PidfError::Shape("its root is not <presence> of urn:ietf:params:xml:ns:pidf"));
    }
    if root.attribute("entity").is_none_or(str::is_empty) {
        return Err(PidfError::Shape("it does not say whose presence it is"));
    }
    let mut ids: Vec<&str> = Vec::new();
    for tuple in root.elements().filter(|element| element.is(PIDF, "tuple")) {
        let id = tuple.attribute("id").filter(|id| !id.is_empty()).ok_or(PidfError::Shape("a tuple has no id"))?;
        ids.push(id);
        let status = tuple.find(PIDF, "status").ok_or(PidfError::Shape("a tuple has no status"))?;
        if let Some(basic) = status.find(PIDF, "basic")
            && !matches!(basic.value().as_str(), "open" | "closed")
        {
            return Err(PidfError::Shape("a basic status is neither open nor closed"));
        }
    }
    if ids.len() > MAX_TUPLES {
        return Err(PidfError::Shape("more than 1024 tuples"));
    }
    ids.sort_unstable();
    match ids.windows(2).any(|pair| pair[0] == pair[1]) {
        true => Err(PidfError::Shape("two tuples have one id")),
        false => Ok(()),
    }
}

impl Tuple {
    fn read(element: &Element) -> Tuple {
        let text = |name| element.find(PIDF, name).map(Element::value).filter(|text| !text.is_empty());
        let basic = element.find(PIDF, "status").and_then(|status| status.find(PIDF, "basic")).map(Element::value);
        let service = element
            .elements()
            .filter(|child| child.is(OMA, "service-description"))
            .find(|service| service.find(OMA, "service-id").is_some_and(|id| id.value() == SERVICE));
        let label = service.and_then(|service| service.find(OMA, "description")?.value().parse().ok());
        Tuple {
            id: element.attribute("id").unwrap_or_default().to_owned(),
            open: basic.map(|basic| basic == "open"),
            label,
            note: text("note").map(|note| note.chars().take(MAX_NOTE).collect()),
            contact: text("contact").and_then(|contact| contact.parse().ok()),
            since: text("timestamp").and_then(|at| at.parse::<jiff::Timestamp>().ok()?.try_into().ok()),
            watchers: Watchers::read(element),
        }
    }

    /// In the order of RFC 3863 4.4: status, extensions, contact, note, timestamp.
    fn write(&self) -> Element {
        let child = |name: &str, text: &str| Element::new(PIDF, name).text(text);
        let mut status = Element::new(PIDF, "status");
        if let Some(open) = self.open {
            status.push(child("basic", if open { "open" } else { "closed" }));
        }
        let mut tuple = Element::new(PIDF, "tuple").with("id", &self.id).child(status);
        if let Some(label) = self.label {
            let of_service = |name: &str, text: &str| Element::new(OMA, name).text(text);
            let service = Element::new(OMA, "service-description")
                .child(of_service("service-id", SERVICE))
                .child(of_service("version", "1"))
                .child(of_service("description", &label.to_string()));
            tuple.push(service);
        }
        if let Some(watchers) = &self.watchers {
            tuple.push(watchers.write());
        }
        if let Some(contact) = &self.contact {
            tuple.push(child("contact", contact.as_str()));
        }
        if let Some(note) = &self.note {
            tuple.push(child("note", &note.chars().take(MAX_NOTE).collect::<String>()));
        }
        if let Some(since) = self.since.and_then(|since| jiff::Timestamp::try_from(since).ok()) {
            tuple.push(child("timestamp", &since.to_string()));
        }
        tuple
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// The example of RFC 3863 4.3.1, and what others put into theirs.
    const FOREIGN: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
      <impp:presence xmlns:impp="urn:ietf:params:xml:ns:pidf" entity="pres:someone@example.com">
        <impp:tuple id="sg89ae">
          <impp:status><impp:basic>open</impp:basic></impp:status>
          <impp:contact priority="0.8">tel:+09012345678</impp:contact>
          <impp:note xml:lang="en">call me</impp:note>
          <impp:note xml:lang="fr">appelez moi</impp:note>
          <impp:timestamp>2001-10-27T18:49:29+02:00</impp:timestamp>
        </impp:tuple>
        <impp:tuple id="b"><impp:status/></impp:tuple>
        <p:person xmlns:p="urn:ietf:params:xml:ns:pidf:data-model" id="p1"/>
      </impp:presence>"#;

    #[test]
    fn foreign_documents_are_read() {
        let document = Document::parse(FOREIGN.as_bytes()).unwrap();
        assert_eq!((document.entity.as_str(), document.tuples.len()), ("pres:someone@example.com", 2));
        let tuple = &document.tuples[0];
        assert_eq!((tuple.open, tuple.label, tuple.note.as_deref()), (Some(true), None, Some("call me")));
        assert_eq!(tuple.contact.as_ref().map(Uri::as_str), Some("tel:+09012345678"));
        assert_eq!(tuple.since, Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_004_201_369)));
        assert_eq!(document.tuples[1].open, None);
    }

    #[test]
    fn ours_come_back_as_they_were() {
        let tuple = Tuple {
            id: "t1".into(),
            open: Some(true),
            label: Some("udp/30000".parse().unwrap()),
            note: Some("Bob's <world> & \"more\"".into()),
            contact: Some("sip:bob@example.org;gr=urn:uuid:1".parse().unwrap()),
            since: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)),
            watchers: Some(Watchers::new(["sip:*@example.org"])),
        };
        let bare = Tuple {
            id: "t2".into(),
            open: Some(false),
            label: None,
            note: None,
            contact: None,
            since: None,
            watchers: None,
        };
        let document = Document { entity: "sip:bob@example.org".into(), tuples: vec![tuple, bare] };
        let xml = document.to_xml();
        assert_eq!(Document::parse(xml.as_bytes()).unwrap(), document, "{xml}");
        assert!(xml.contains("<timestamp>2023-11-14T22:13:20Z</timestamp>"), "{xml}");
    }

    #[test]
    fn documents_that_are_none() {
        let wrap = |inside: &str| format!("<presence xmlns=\"{PIDF}\" entity=\"sip:a@b\">{inside}</presence>");
        for bad in [
            "<presence entity=\"sip:a@b\"/>".to_owned(),
            format!("<presence xmlns=\"{PIDF}\"/>"),
            format!("<tuple xmlns=\"{PIDF}\" entity=\"sip:a@b\"/>"),
            wrap("<tuple><status/></tuple>"),
            wrap("<tuple id=\"a\"/>"),
            wrap("<tuple id=\"a\"><status><basic>maybe</basic></status></tuple>"),
            wrap("<tuple id=\"a\"><status/></tuple><tuple id=\"a\"><status/></tuple>"),
        ] {
            assert!(matches!(Document::parse(bad.as_bytes()), Err(PidfError::Shape(_))), "{bad}");
        }
        assert!(Document::parse(wrap("").as_bytes()).unwrap().tuples.is_empty(), "no tuple at all is right");
        let odd = wrap("<tuple id=\"a\"><status/><contact>no uri</contact><timestamp>soon</timestamp></tuple>");
        let odd = Document::parse(odd.as_bytes()).unwrap();
        assert_eq!(
            (odd.tuples[0].contact.clone(), odd.tuples[0].since),
            (None, None),
            "what cannot be read is not said"
        );
    }
}
