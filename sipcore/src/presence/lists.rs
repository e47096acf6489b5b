//! Lists of resources: the meta-information in notifications about a list (RLMI, RFC 4662 5), and the lists that a subscriber sends along
//! (RFC 4826 3, RFC 5367).

use super::pidf::PidfError;
use super::xml::Element;
use crate::message::Uri;

/// Media type of the meta-information.
pub(crate) const RLMI_TYPE: &str = "application/rlmi+xml";
const RLMI: &str = "urn:ietf:params:xml:ns:rlmi";
const RESOURCE_LISTS: &str = "urn:ietf:params:xml:ns:resource-lists";
/// Resources of one list.
pub(crate) const MAX_RESOURCES: usize = 2000;

/// What one notification says of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ListState {
    pub uri: String,
    pub version: u32,
    /// All resources are in it; else only those with changes.
    pub full: bool,
    pub resources: Vec<Resource>,
}

/// One resource of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resource {
    pub uri: String,
    /// `None`: nothing is known of it (yet).
    pub instance: Option<Instance>,
}

/// The virtual subscription to one resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Instance {
    /// `active`, `pending` or `terminated`.
    pub state: String,
    pub reason: Option<String>,
    /// The part with its state.
    pub cid: Option<String>,
}

impl ListState {
    pub fn parse(text: &[u8]) -> Result<ListState, PidfError> {
        let root = Element::parse(text)?;
        if !root.is(RLMI, "list") {
            return Err(PidfError::Shape("its root is not <list> of urn:ietf:params:xml:ns:rlmi"));
        }
        let uri = root.attribute("uri").ok_or(PidfError::Shape("a list without its URI"))?.to_owned();
        let version = root.attribute("version").and_then(|version| version.parse().ok());
        let version = version.ok_or(PidfError::Shape("a list without its version"))?;
        let full = matches!(root.attribute("fullState"), Some("true" | "1"));
        let mut resources = Vec::new();
        for element in root.elements().filter(|element| element.is(RLMI, "resource")) {
            let uri = element.attribute("uri").ok_or(PidfError::Shape("a resource without its URI"))?.to_owned();
            let instance = element.find(RLMI, "instance").map(|instance| Instance {
                state: instance.attribute("state").unwrap_or_default().to_owned(),
                reason: instance.attribute("reason").map(str::to_owned),
                cid: instance.attribute("cid").map(str::to_owned),
            });
            resources.push(Resource { uri, instance });
        }
        if resources.len() > MAX_RESOURCES {
            return Err(PidfError::Shape("more than 2000 resources"));
        }
        Ok(ListState { uri, version, full, resources })
    }

    pub fn to_xml(&self) -> String {
        let mut list = Element::new(RLMI, "list")
            .with("uri", &self.uri)
            .with("version", &self.version.to_string())
            .with("fullState", if self.full { "true" } else { "false" });
        for resource in &self.resources {
            let mut element = Element::new(RLMI, "resource").with("uri", &resource.uri);
            if let Some(Instance { state, reason, cid }) = &resource.instance {
                let mut instance = Element::new(RLMI, "instance").with("id", "1").with("state", state);
                if let Some(reason) = reason {
                    instance.set("reason", reason);
                }
                if let Some(cid) = cid {
                    instance.set("cid", cid);
                }
                element.push(instance);
            }
            list.push(element);
        }
        list.to_document()
    }
}

/// The members of a list that a subscriber sent along; lists in lists are flattened, references are not followed.
pub fn members(text: &[u8]) -> Result<Vec<Uri>, PidfError> {
    let root = Element::parse(text)?;
    if !root.is(RESOURCE_LISTS, "resource-lists") {
        return Err(PidfError::Shape("its root is not <resource-lists>"));
    }
    let mut found: Vec<Uri> = Vec::new();
    let mut open = vec![&root];
    while let Some(element) = open.pop() {
        for child in element.elements() {
            if child.is(RESOURCE_LISTS, "list") {
                open.push(child);
            } else if child.is(RESOURCE_LISTS, "entry") {
                let uri = child.attribute("uri").and_then(|uri| uri.parse().ok());
                found.push(uri.ok_or(PidfError::Shape("an entry without a URI"))?);
            }
        }
        if found.len() > MAX_RESOURCES {
            return Err(PidfError::Shape("more than 2000 resources"));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meta_information_and_back() {
        let instance = |state: &str, reason: Option<&str>, cid: Option<&str>| Instance {
            state: state.into(),
            reason: reason.map(Into::into),
            cid: cid.map(Into::into),
        };
        let state = ListState {
            uri: "sip:friends@x".into(),
            version: 7,
            full: true,
            resources: vec![
                Resource { uri: "sip:a@x".into(), instance: Some(instance("active", None, Some("c1@x"))) },
                Resource { uri: "sip:b@x".into(), instance: Some(instance("terminated", Some("noresource"), None)) },
                Resource { uri: "sip:c@x".into(), instance: None },
            ],
        };
        assert_eq!(ListState::parse(state.to_xml().as_bytes()).unwrap(), state);
        for bad in ["<list/>", "<list xmlns=\"urn:ietf:params:xml:ns:rlmi\" uri=\"a\"/>"] {
            assert!(ListState::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn lists_of_a_subscriber() {
        let text = "<resource-lists xmlns=\"urn:ietf:params:xml:ns:resource-lists\"><list><entry uri=\"sip:a@x\"/>\
            <list name=\"more\"><entry uri=\"sip:b@x\"><display-name>B</display-name></entry></list></list></resource-lists>";
        let found = members(text.as_bytes()).unwrap();
        assert_eq!(found.iter().map(Uri::as_str).collect::<Vec<_>>(), ["sip:a@x", "sip:b@x"]);
        let bad =
            "<resource-lists xmlns=\"urn:ietf:params:xml:ns:resource-lists\"><list><entry/></list></resource-lists>";
        assert!(members(bad.as_bytes()).is_err());
        assert!(members(b"<list/>").is_err());
    }
}
