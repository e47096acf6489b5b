//! XML as presence documents use it: elements with namespaces and text, read into a tree whose size is bounded. A document type definition, and with
//! it every entity that is not predefined, is refused: no document of SIP needs one, and they are how small texts become large ones.

use quick_xml::XmlVersion;
use quick_xml::escape::{escape, resolve_predefined_entity};
use quick_xml::events::{BytesStart, Event};
use quick_xml::name::{NamespaceResolver, QName, ResolveResult};
use quick_xml::reader::NsReader;
use std::fmt::Write as _;

/// The longest text that is read, in bytes.
pub(crate) const MAX_BYTES: usize = 256 * 1024;
/// Elements in elements in elements.
const MAX_DEPTH: usize = 32;
/// Elements and attributes of one text.
const MAX_PIECES: usize = 20_000;
/// The name of a namespace, in bytes.
const MAX_NAMESPACE: usize = 256;
/// The namespace of `xml:lang` (Namespaces in XML 1.0, section 3).
const XML: &str = "http://www.w3.org/XML/1998/namespace";

/// Why a text is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum XmlError {
    /// It is longer, deeper or has more elements than is read.
    #[error("larger than is read: {0}")]
    TooLarge(&'static str),
    /// It is no XML; the text says what is wrong.
    #[error("not well-formed XML: {0}")]
    Malformed(String),
    /// It has a document type definition or uses an entity.
    #[error("a document type definition or an entity, which is not taken")]
    Entity,
}

/// One element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Element {
    namespace: Box<str>,
    name: Box<str>,
    attributes: Vec<Attribute>,
    children: Vec<Node>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Attribute {
    /// Empty for attributes without a prefix, which belong to their element.
    namespace: Box<str>,
    name: Box<str>,
    value: Box<str>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    Element(Element),
    Text(String),
}

impl Element {
    pub fn new(namespace: &str, name: &str) -> Self {
        Element { namespace: namespace.into(), name: name.into(), attributes: Vec::new(), children: Vec::new() }
    }

    pub fn is(&self, namespace: &str, name: &str) -> bool {
        *self.namespace == *namespace && *self.name == *name
    }

    /// The value of an attribute without a prefix.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        let is_it = |attribute: &&Attribute| attribute.namespace.is_empty() && *attribute.name == *name;
        self.attributes.iter().find(is_it).map(|attribute| attribute.value.as_ref())
    }

    /// Sets an attribute without a prefix.
    pub fn set(&mut self, name: &str, value: &str) {
        self.attributes.retain(|known| !(known.namespace.is_empty() && *known.name == *name));
        self.attributes.push(Attribute { namespace: "".into(), name: name.into(), value: value.into() });
    }

    /// The same with an attribute.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.set(name, value);
        self
    }

    /// The same with text at its end.
    pub fn text(mut self, text: &str) -> Self {
        self.children.push(Node::Text(text.to_owned()));
        self
    }

    /// The same with a child at its end.
    pub fn child(mut self, child: Element) -> Self {
        self.push(child);
        self
    }

    pub fn push(&mut self, child: Element) {
        self.children.push(Node::Element(child));
    }

    /// The elements right in this one.
    pub fn elements(&self) -> impl Iterator<Item = &Element> {
        self.children.iter().filter_map(|node| match node {
            Node::Element(element) => Some(element),
            Node::Text(_) => None,
        })
    }

    /// The first child of this name.
    pub fn find(&self, namespace: &str, name: &str) -> Option<&Element> {
        self.elements().find(|element| element.is(namespace, name))
    }

    /// Removes every child of this name.
    pub fn remove(&mut self, namespace: &str, name: &str) {
        self.children.retain(|node| !matches!(node, Node::Element(element) if element.is(namespace, name)));
    }

    /// The text right in this element, without the white space around it.
    pub fn value(&self) -> String {
        let texts = self.children.iter().filter_map(|node| match node {
            Node::Text(text) => Some(text.as_str()),
            Node::Element(_) => None,
        });
        texts.collect::<String>().trim().to_owned()
    }

    /// Reads a whole document; its root element.
    pub fn parse(text: &[u8]) -> Result<Element, XmlError> {
        if text.len() > MAX_BYTES {
            return Err(XmlError::TooLarge("more than 256 KiB"));
        }
        let malformed = |why: &dyn std::fmt::Display| XmlError::Malformed(why.to_string());
        let text = std::str::from_utf8(text).map_err(|_| XmlError::Malformed("not UTF-8".to_owned()))?;
        let mut reader = NsReader::from_str(text.strip_prefix('\u{feff}').unwrap_or(text));
        let mut pieces = 0;
        let mut open: Vec<Element> = Vec::new();
        let mut root = None;
        loop {
            let event = reader.read_event().map_err(|error| malformed(&error))?;
            let done = match event {
                Event::Eof => break,
                Event::DocType(_) => return Err(XmlError::Entity),
                Event::Comment(_) | Event::PI(_) | Event::Decl(_) => None,
                Event::Start(start) => {
                    if open.len() >= MAX_DEPTH {
                        return Err(XmlError::TooLarge("more than 32 elements in each other"));
                    }
                    open.push(read_start(reader.resolver(), &start, &mut pieces)?);
                    None
                }
                Event::Empty(start) => Some(read_start(reader.resolver(), &start, &mut pieces)?),
                Event::End(_) => open.pop(),
                Event::Text(content) => {
                    add_text(&mut open, &content.xml_content(XmlVersion::Implicit1_0))?;
                    None
                }
                Event::CData(content) => {
                    add_text(&mut open, &content.xml_content(XmlVersion::Implicit1_0))?;
                    None
                }
                Event::GeneralRef(reference) => {
                    match reference.resolve_char_ref().map_err(|error| malformed(&error))? {
                        Some(c) => add_text(&mut open, c.encode_utf8(&mut [0; 4]))?,
                        None => {
                            add_text(&mut open, resolve_predefined_entity(&reference).ok_or(XmlError::Entity)?)?;
                        }
                    }
                    None
                }
            };
            if let Some(done) = done {
                match open.last_mut() {
                    Some(parent) => parent.push(done),
                    None if root.is_none() => root = Some(done),
                    None => return Err(XmlError::Malformed("more than one root element".to_owned())),
                }
            }
        }
        match root {
            Some(root) if open.is_empty() => Ok(root),
            _ => Err(XmlError::Malformed("an element is not closed, or there is none".to_owned())),
        }
    }

    /// A whole document.
    pub fn to_document(&self) -> String {
        let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
        self.write(&mut out, "");
        out.push('\n');
        out
    }

    /// Writes the element where `outside` is the default namespace. Every element names its own when it is another.
    fn write(&self, out: &mut String, outside: &str) {
        // Writing to a String does not fail.
        let _ = write!(out, "<{}", self.name);
        if *self.namespace != *outside {
            let _ = write!(out, " xmlns=\"{}\"", escape(legal(&self.namespace)));
        }
        for (i, Attribute { namespace, name, value }) in self.attributes.iter().enumerate() {
            let value = legal(value);
            let value = escape(value.as_str());
            let _ = match &**namespace {
                "" => write!(out, " {name}=\"{value}\""),
                XML => write!(out, " xml:{name}=\"{value}\""),
                other => write!(out, " xmlns:a{i}=\"{}\" a{i}:{name}=\"{value}\"", escape(legal(other))),
            };
        }
        if self.children.is_empty() {
            return out.push_str("/>");
        }
        out.push('>');
        for child in &self.children {
            match child {
                Node::Element(element) => element.write(out, &self.namespace),
                Node::Text(text) => out.push_str(&escape(legal(text))),
            }
        }
        let _ = write!(out, "</{}>", self.name);
    }
}

fn read_start(scope: &NamespaceResolver, start: &BytesStart<'_>, pieces: &mut usize) -> Result<Element, XmlError> {
    let mut count = || {
        *pieces += 1;
        if *pieces > MAX_PIECES { Err(XmlError::TooLarge("more than 20000 elements and attributes")) } else { Ok(()) }
    };
    count()?;
    let (namespace, name) = scope.resolve_element(start.name());
    let mut element = Element::new(&namespace_of(namespace)?, name_of(name.into_inner())?);
    for attribute in start.attributes() {
        count()?;
        let attribute = attribute.map_err(|error| XmlError::Malformed(error.to_string()))?;
        let QName(full) = attribute.key;
        if full == "xmlns" || full.starts_with("xmlns:") {
            continue;
        }
        let value = attribute.normalized_value(XmlVersion::Implicit1_0).map_err(|_| XmlError::Entity)?;
        check(&value)?;
        let (namespace, name) = scope.resolve_attribute(attribute.key);
        element.attributes.push(Attribute {
            namespace: namespace_of(namespace)?,
            name: name_of(name.into_inner())?.into(),
            value: value.into(),
        });
    }
    Ok(element)
}

fn namespace_of(found: ResolveResult<'_>) -> Result<Box<str>, XmlError> {
    match found {
        ResolveResult::Unbound => Ok("".into()),
        // Each element has a copy of its own: a long name that is written once would be kept as often as there are elements.
        ResolveResult::Bound(namespace) if namespace.into_inner().len() > MAX_NAMESPACE => {
            Err(XmlError::TooLarge("a namespace of more than 256 bytes"))
        }
        ResolveResult::Bound(namespace) => Ok(namespace.into_inner().into()),
        ResolveResult::Unknown(prefix) => Err(XmlError::Malformed(format!("the prefix {prefix:?} is not declared"))),
    }
}

/// A name without its prefix, as it may be written again (XML 1.0, section 2.3, beyond ASCII by letters and digits).
fn name_of(name: &str) -> Result<&str, XmlError> {
    let mut chars = name.chars();
    let begins = chars.next().is_some_and(|c| c.is_alphabetic() || c == '_');
    if begins && chars.all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.')) {
        return Ok(name);
    }
    Err(XmlError::Malformed(format!("{name:?} is not a name")))
}

fn add_text(open: &mut [Element], text: &str) -> Result<(), XmlError> {
    check(text)?;
    let Some(parent) = open.last_mut() else {
        let blank = text.chars().all(|c| c.is_ascii_whitespace());
        return if blank { Ok(()) } else { Err(XmlError::Malformed("text outside of the root element".to_owned())) };
    };
    match parent.children.last_mut() {
        Some(Node::Text(before)) => before.push_str(text),
        _ => parent.children.push(Node::Text(text.to_owned())),
    }
    Ok(())
}

/// XML 1.0, section 2.2.
fn is_legal(c: char) -> bool {
    !matches!(c, '\0'..='\x08' | '\x0b' | '\x0c' | '\x0e'..='\x1f' | '\u{fffe}' | '\u{ffff}')
}

fn check(text: &str) -> Result<(), XmlError> {
    match text.chars().find(|c| !is_legal(*c)) {
        Some(c) => Err(XmlError::Malformed(format!("the character U+{:04X}", c as u32))),
        None => Ok(()),
    }
}

fn legal(text: &str) -> String {
    text.chars().map(|c| if is_legal(c) { c } else { '\u{fffd}' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_and_back() {
        let text = "<?xml version=\"1.0\"?>\r\n<!-- c --><p:a xmlns:p=\"urn:a\" xmlns=\"urn:b\" x='1 &lt; &#50;' p:y=\"2\" \
            xml:lang=\"de\">t&amp;<b><![CDATA[<&]]></b><p:c/></p:a>\n";
        let root = Element::parse(text.as_bytes()).unwrap();
        assert!(root.is("urn:a", "a"));
        assert_eq!((root.attribute("x"), root.attribute("y"), root.value().as_str()), (Some("1 < 2"), None, "t&"));
        assert_eq!(root.find("urn:b", "b").map(Element::value).as_deref(), Some("<&"));
        let again = root.to_document();
        assert_eq!(Element::parse(again.as_bytes()).unwrap(), root, "{again}");
        assert!(again.contains("xml:lang=\"de\""), "{again}");
    }

    #[test]
    fn what_is_not_taken() {
        let bomb = "<!DOCTYPE a [<!ENTITY x \"y\"><!ENTITY z \"&x;&x;\">]><a>&z;</a>";
        assert_eq!(Element::parse(bomb.as_bytes()), Err(XmlError::Entity));
        assert_eq!(Element::parse(b"<a>&x;</a>"), Err(XmlError::Entity));
        assert_eq!(Element::parse(b"<a b='&x;'/>"), Err(XmlError::Entity));
        for bad in [
            "",
            "text",
            "<a>",
            "<a></b>",
            "<a/><b/>",
            "<a/>text",
            "<p:a/>",
            "<a p:b='1'/>",
            "<a b='1' b='2'/>",
            "<a b=1/>",
            "<a>\x01</a>",
            "<a>&#1;</a>",
            "<a>&#0;</a>",
            "<a>&#xffff;</a>",
            "<a\"/>",
            "<1/>",
            "<a><",
        ] {
            assert!(matches!(Element::parse(bad.as_bytes()), Err(XmlError::Malformed(_))), "{bad:?}");
        }
        assert!(matches!(Element::parse(b"<a>\xff</a>"), Err(XmlError::Malformed(_))));
        let deep = "<a>".repeat(40) + &"</a>".repeat(40);
        assert!(matches!(Element::parse(deep.as_bytes()), Err(XmlError::TooLarge(_))));
        let wide = format!("<a>{}</a>", "<b/>".repeat(MAX_PIECES));
        assert!(matches!(Element::parse(wide.as_bytes()), Err(XmlError::TooLarge(_))));
        let named = |length: usize| format!("<a xmlns='{0}'><b/></a>", "n".repeat(length));
        let prefixed = |length: usize| format!("<a xmlns:p='{0}' p:x=''/>", "n".repeat(length));
        for text in [named(MAX_NAMESPACE + 1), prefixed(MAX_NAMESPACE + 1)] {
            assert!(matches!(Element::parse(text.as_bytes()), Err(XmlError::TooLarge(_))), "{text}");
        }
        assert!(Element::parse(named(MAX_NAMESPACE).as_bytes()).is_ok());
        assert!(matches!(Element::parse(&[b' '; MAX_BYTES + 1]), Err(XmlError::TooLarge(_))));
    }

    #[test]
    fn what_is_written_cannot_break_out() {
        let element = Element::new("urn:\"x", "a").with("b", "\"'<>&\x01\n").text("</a>\0");
        let again = Element::parse(element.to_document().as_bytes()).unwrap();
        assert_eq!(again.value(), "</a>\u{fffd}");
        assert!(again.attribute("b").unwrap().starts_with("\"'<>&\u{fffd}"));
    }
}
