//! The `reg` event package (RFC 3680): what an address of record is registered with, for its owner. GRUUs as RFC 5628 has them.

use super::xml::{Element, XmlError};
use crate::message::Uri;
use std::time::Duration;

/// The media type.
pub(crate) const CONTENT_TYPE: &str = "application/reginfo+xml";
const REGINFO: &str = "urn:ietf:params:xml:ns:reginfo";
const GRUUINFO: &str = "urn:ietf:params:xml:ns:gruuinfo";
/// Parameters of Contact that documents have as `unknown-param`.
const INSTANCE: &str = "+sip.instance";
const REG_ID: &str = "reg-id";

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
    pub reg_id: Option<u32>,
    pub public_gruu: Option<String>,
    /// It stands no longer, and this is why: an event of RFC 3680 5.1.
    pub ended: Option<&'static str>,
}

/// The whole state of an address of record; `version` counts the notifications of one subscription.
pub(crate) fn document(aor: &str, version: u32, contacts: &[Contact]) -> String {
    let state = match contacts.iter().any(|contact| contact.ended.is_none()) {
        true => "active",
        false if contacts.is_empty() => "init",
        false => "terminated",
    };
    let mut registration = Element::new(REGINFO, "registration").with("aor", aor).with("id", "r").with("state", state);
    for contact in contacts {
        let mut element = Element::new(REGINFO, "contact")
            .with("id", &format!("c{}", contact.id))
            .with("state", if contact.ended.is_some() { "terminated" } else { "active" })
            .with("event", contact.ended.unwrap_or("registered"))
            .with("expires", &contact.expires.to_string())
            .with("q", &format!("{}.{:03}", contact.q / 1000, contact.q % 1000))
            .with("callid", &contact.call_id)
            .with("cseq", &contact.cseq.to_string())
            .child(Element::new(REGINFO, "uri").text(&contact.uri));
        if let Some(instance) = &contact.instance {
            let quoted = format!("\"{instance}\"");
            element.push(Element::new(REGINFO, "unknown-param").with("name", INSTANCE).text(&quoted));
        }
        if let Some(reg_id) = contact.reg_id {
            element.push(Element::new(REGINFO, "unknown-param").with("name", REG_ID).text(&reg_id.to_string()));
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

/// Which contact is meant: ours, as its REGISTER had it.
#[derive(Debug)]
pub(crate) struct Ours<'a> {
    pub uri: &'a Uri,
    /// `+sip.instance`, without the quotes.
    pub instance: &'a str,
    pub reg_id: u32,
}

/// What a document says of one contact (RFC 3680 5.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is bound, for this long where that is said.
    Bound(Option<Duration>),
    /// It is not named.
    Unnamed,
    /// It was bound.
    Ended {
        /// `deactivated`, `probation`, `rejected`, `expired`, `unregistered`, or what else is said.
        event: String,
        /// It is not to be registered again earlier.
        retry_after: Option<Duration>,
    },
}

/// Why a document is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ReginfoError {
    #[error(transparent)]
    Xml(#[from] XmlError),
    #[error("not a document about registrations")]
    Root,
    #[error("its version is no number")]
    Version,
}

/// A document as it came. The XML that it is made of is bounded.
#[derive(Debug)]
pub(crate) struct Reginfo {
    pub version: u32,
    /// What is not named is not there. Else it is as it was.
    pub full: bool,
    root: Element,
}

impl Reginfo {
    pub fn parse(body: &[u8]) -> Result<Reginfo, ReginfoError> {
        let root = Element::parse(body)?;
        if !root.is(REGINFO, "reginfo") {
            return Err(ReginfoError::Root);
        }
        let version = root.attribute("version").and_then(|version| version.trim().parse().ok());
        let version = version.ok_or(ReginfoError::Version)?;
        Ok(Reginfo { version, full: root.attribute("state") != Some("partial"), root })
    }

    /// Something is said of this address of record.
    pub fn is_about(&self, aor: &Uri) -> bool {
        self.registrations(aor).next().is_some()
    }

    fn registrations<'a>(&'a self, aor: &'a Uri) -> impl Iterator<Item = &'a Element> {
        self.root.elements().filter(|registration| {
            let named = registration.attribute("aor").and_then(|named| named.parse::<Uri>().ok());
            registration.is(REGINFO, "registration") && named.is_some_and(|named| named.aor().equivalent(aor))
        })
    }

    /// What becomes of our contact of `aor`. Of several that could be ours one that stands counts: not every server tells flows apart.
    pub fn fate(&self, aor: &Uri, ours: &Ours<'_>) -> Fate {
        let contacts = self.registrations(aor).flat_map(Element::elements);
        let mut fate = Fate::Unnamed;
        for contact in contacts.filter(|contact| contact.is(REGINFO, "contact") && is_ours(contact, ours)) {
            let seconds = |name: &str| {
                let seconds = contact.attribute(name)?.trim().parse::<u32>().ok()?;
                Some(Duration::from_secs(seconds.into()))
            };
            if contact.attribute("state") != Some("terminated") {
                return Fate::Bound(seconds("expires"));
            }
            let event = contact.attribute("event").unwrap_or("terminated").to_ascii_lowercase();
            fate = Fate::Ended { event, retry_after: seconds("retry-after") };
        }
        fate
    }
}

fn is_ours(contact: &Element, ours: &Ours<'_>) -> bool {
    let uri = contact.find(REGINFO, "uri").and_then(|uri| uri.value().parse::<Uri>().ok());
    let param = |name: &str| {
        let mut params = contact.elements().filter(|param| param.is(REGINFO, "unknown-param"));
        params.find(|param| param.attribute("name").is_some_and(|named| named.eq_ignore_ascii_case(name)))
    };
    let instance = param(INSTANCE).map(|param| param.value());
    let same_instance = instance.is_none_or(|text| text.trim_matches(['"', '<', '>']) == ours.instance);
    let same_flow = param(REG_ID).is_none_or(|param| param.value() == ours.reg_id.to_string());
    uri.is_some_and(|uri| uri.equivalent(ours.uri)) && same_instance && same_flow
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fate(document: &str) -> Fate {
        let uri: Uri = "sip:bob@10.0.0.2:5062".parse().unwrap();
        let ours = Ours { uri: &uri, instance: "urn:uuid:1", reg_id: 1 };
        Reginfo::parse(document.as_bytes()).unwrap().fate(&"sip:bob@home.example".parse().unwrap(), &ours)
    }

    fn contact(uri: &str, instance: &str, reg_id: u32, ended: Option<&'static str>) -> Contact {
        Contact {
            id: 1,
            uri: uri.to_owned(),
            expires: 60,
            q: 1000,
            call_id: "c".to_owned(),
            cseq: 1,
            instance: Some(format!("<{instance}>")),
            reg_id: Some(reg_id),
            public_gruu: None,
            ended,
        }
    }

    #[test]
    fn what_we_tell_is_what_is_read() {
        const OURS: &str = "sip:bob@10.0.0.2:5062";
        let told = |contacts: &[Contact]| fate(&document("sip:bob@home.example", 3, contacts));
        assert_eq!(told(&[]), Fate::Unnamed);
        assert_eq!(told(&[contact(OURS, "urn:uuid:1", 1, None)]), Fate::Bound(Some(Duration::from_secs(60))));
        for other in [
            contact(OURS, "urn:uuid:2", 1, None),
            contact(OURS, "urn:uuid:1", 2, None),
            contact("sip:bob@10.0.0.3:5062", "urn:uuid:1", 1, None),
        ] {
            assert_eq!(told(&[other]), Fate::Unnamed);
        }
        let rejected = contact(OURS, "urn:uuid:1", 1, Some("rejected"));
        let ended = Fate::Ended { event: "rejected".to_owned(), retry_after: None };
        assert_eq!(told(std::slice::from_ref(&rejected)), ended);
        let bound = contact(OURS, "urn:uuid:1", 1, None);
        assert_eq!(told(&[bound.clone(), rejected.clone()]), told(&[rejected, bound]), "one that stands counts");
    }

    /// The example of RFC 3680 5.3 in its shape, and other servers' ways.
    #[test]
    fn what_others_tell() {
        let other = |attributes: &str| {
            format!(
                "<?xml version=\"1.0\"?><reginfo xmlns=\"urn:ietf:params:xml:ns:reginfo\" version=\"0\" state=\"full\">\
                 <registration aor=\"sip:bob@home.example\" id=\"a7\" state=\"active\">\
                 <contact id=\"76\" {attributes}><uri>sip:bob@10.0.0.2:5062;ob</uri></contact></registration></reginfo>"
            )
        };
        assert_eq!(fate(&other("state=\"active\" event=\"created\"")), Fate::Bound(None));
        let probation = other("state=\"terminated\" event=\"probation\" retry-after=\"36001\"");
        let retry_after = Some(Duration::from_secs(36001));
        assert_eq!(fate(&probation), Fate::Ended { event: "probation".to_owned(), retry_after });
        let odd = fate(&other("state=\"terminated\" retry-after=\"-1\""));
        assert_eq!(odd, Fate::Ended { event: "terminated".to_owned(), retry_after: None });
        let elsewhere = other("state=\"active\"").replace("home.example", "else.example");
        assert_eq!(fate(&elsewhere), Fate::Unnamed);
    }

    #[test]
    fn what_is_no_document() {
        let error = |text: &str| Reginfo::parse(text.as_bytes()).map(|_| ()).unwrap_err();
        assert!(matches!(error("<reginfo"), ReginfoError::Xml(_)));
        assert_eq!(error("<reginfo version=\"1\" state=\"full\"/>"), ReginfoError::Root);
        let text = format!("<reginfo xmlns=\"{REGINFO}\" state=\"full\"/>");
        assert_eq!(error(&text), ReginfoError::Version);
        assert_eq!(error(&text.replace("state", "version=\"-1\" state")), ReginfoError::Version);
    }
}
