//! Bodies of several parts (RFC 2046 5.1, RFC 2387): the notifications of lists.

use crate::message::{ContentType, Header, name};
use crate::random;
use bytes::Bytes;

/// Parts of one body.
const MAX_PARTS: usize = 2048;
/// Header lines of one part.
const MAX_HEADERS: usize = 32;
/// The longest boundary (RFC 2046 5.1.1).
const MAX_BOUNDARY: usize = 70;

/// Why a body is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a multipart body: {0}")]
pub struct MultipartError(&'static str);

/// One part.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    headers: Vec<Header>,
    pub body: Bytes,
}

impl Part {
    fn header(&self, name: &str) -> Option<&Header> {
        self.headers.iter().find(|header| header.is(name))
    }

    /// Content-ID without its angle brackets.
    pub fn id(&self) -> Option<String> {
        let id = self.header("Content-ID")?.text().into_owned();
        Some(id.trim_start_matches('<').trim_end_matches('>').to_owned())
    }

    pub fn is(&self, kind: &str, subtype: &str) -> bool {
        let header = self.header(name::CONTENT_TYPE);
        header.is_some_and(|header| ContentType::parse(header.value()).is_ok_and(|this| this.is(kind, subtype)))
    }
}

/// Splits a body at its boundary. A body that is not ended is not taken: what is missing might be what matters.
pub(crate) fn parse(content_type: &ContentType<'_>, body: &Bytes) -> Result<Vec<Part>, MultipartError> {
    let boundary = content_type.params.get("boundary").ok_or(MultipartError("no boundary is named"))?;
    if boundary.is_empty() || boundary.len() > MAX_BOUNDARY {
        return Err(MultipartError("the boundary has not 1 to 70 characters"));
    }
    let delimiter = format!("--{boundary}");
    let mut parts = Vec::new();
    // Where the part that is being read began; None: what comes before the first is for nobody.
    let mut began: Option<usize> = None;
    let mut at = 0;
    while at <= body.len() {
        let rest = body.get(at..).unwrap_or_default();
        let line_len = rest.iter().position(|byte| *byte == b'\n').map_or(rest.len(), |end| end + 1);
        let line = rest.get(..line_len).unwrap_or_default();
        if let Some(after) = line.strip_prefix(delimiter.as_bytes()) {
            let (last, after) = match after.strip_prefix(b"--") {
                Some(after) => (true, after),
                None => (false, after),
            };
            if after.iter().all(u8::is_ascii_whitespace) {
                if let Some(began) = began {
                    parts.push(part(&body.slice(began..before_line_end(body, began, at)))?);
                }
                if parts.len() > MAX_PARTS {
                    return Err(MultipartError("more than 2048 parts"));
                }
                if last {
                    return Ok(parts);
                }
                began = Some(at + line_len);
            }
        }
        if line_len == 0 {
            break;
        }
        at += line_len;
    }
    Err(MultipartError("its last boundary is missing"))
}

/// The line end before a boundary belongs to the boundary.
fn before_line_end(body: &[u8], began: usize, at: usize) -> usize {
    let before = body.get(began..at).unwrap_or_default();
    let before = before.strip_suffix(b"\n").unwrap_or(before);
    began + before.strip_suffix(b"\r").unwrap_or(before).len()
}

fn part(bytes: &Bytes) -> Result<Part, MultipartError> {
    let mut headers: Vec<Vec<u8>> = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let rest = bytes.get(at..).unwrap_or_default();
        let line_len = rest.iter().position(|byte| *byte == b'\n').map_or(rest.len(), |end| end + 1);
        let line = rest.get(..line_len).unwrap_or_default();
        at += line_len;
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match (line.first(), headers.last_mut()) {
            (None, _) => break,
            (Some(b' ' | b'\t'), Some(before)) => before.extend_from_slice(line),
            _ => headers.push(line.to_vec()),
        }
        if headers.len() > MAX_HEADERS {
            return Err(MultipartError("a part has more than 32 header lines"));
        }
    }
    let headers = headers.into_iter().map(|line| Header::lex(line.into())).collect();
    Ok(Part { headers, body: bytes.slice(at.min(bytes.len())..) })
}

/// A `multipart/related` body that is being put together.
pub(crate) struct Related {
    boundary: String,
    root: String,
    text: Vec<u8>,
}

impl Related {
    /// `root` is the Content-ID of the part from which the others are named.
    pub fn new(root: &str) -> Self {
        Related { boundary: format!("b{}", random::token()), root: root.to_owned(), text: Vec::new() }
    }

    pub fn part(&mut self, id: &str, content_type: &str, body: &[u8]) {
        let head = format!(
            "--{}\r\nContent-ID: <{id}>\r\nContent-Type: {content_type};charset=\"UTF-8\"\r\n\
             Content-Transfer-Encoding: binary\r\n\r\n",
            self.boundary
        );
        self.text.extend_from_slice(head.as_bytes());
        self.text.extend_from_slice(body);
        self.text.extend_from_slice(b"\r\n");
    }

    /// Content-Type and body; `root_type` is the type of the root part.
    pub fn finish(mut self, root_type: &str) -> (String, Bytes) {
        let Related { boundary, root, .. } = &self;
        let content_type = format!("multipart/related;type=\"{root_type}\";start=\"<{root}>\";boundary=\"{boundary}\"");
        let end = format!("--{boundary}--\r\n");
        self.text.extend_from_slice(end.as_bytes());
        (content_type, self.text.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(content_type: &str, body: &str) -> Result<Vec<Part>, MultipartError> {
        parse(&ContentType::parse(content_type.as_bytes()).unwrap(), &Bytes::from(body.to_owned()))
    }

    #[test]
    fn parts_and_back() {
        let mut related = Related::new("root@x");
        related.part("root@x", "application/rlmi+xml", b"<list/>");
        related.part("a@x", "application/pidf+xml", b"one\r\n--not a boundary\r\ntwo\r\n");
        let (content_type, body) = related.finish("application/rlmi+xml");
        let parts = parse(&ContentType::parse(content_type.as_bytes()).unwrap(), &body).unwrap();
        assert_eq!(parts.len(), 2);
        assert_eq!((parts[0].id().as_deref(), &parts[0].body[..]), (Some("root@x"), &b"<list/>"[..]));
        assert!(parts[1].is("application", "pidf+xml"));
        assert_eq!(&parts[1].body[..], b"one\r\n--not a boundary\r\ntwo\r\n");
    }

    #[test]
    fn as_others_write_them() {
        let body = "preamble\n--x \t\nContent-Type: text/\n plain\n\nfolded\n--x\n\nno headers\n--x--\nepilogue\n--x\n";
        let parts = split("multipart/related; boundary=x", body).unwrap();
        assert_eq!(parts.len(), 2);
        assert_eq!((&parts[0].body[..], &parts[1].body[..]), (&b"folded"[..], &b"no headers"[..]));
        assert!(split("multipart/related; boundary=x", "--x--").unwrap().is_empty());
    }

    #[test]
    fn bodies_that_are_none() {
        for (content_type, body) in [
            ("multipart/related", "--x\n\na\n--x--"),
            ("multipart/related;boundary=\"\"", "--\n\na\n----"),
            ("multipart/related;boundary=x", ""),
            ("multipart/related;boundary=x", "--x\n\na\n--x\n\nb\n"),
            ("multipart/related;boundary=x", "--xy\n\na\n--xy--"),
        ] {
            assert!(split(content_type, body).is_err(), "{content_type} {body:?}");
        }
        let many = "--x\n\n".repeat(MAX_PARTS + 2) + "--x--";
        assert!(split("multipart/related;boundary=x", &many).is_err());
        let headers = format!("--x\n{}\na\n--x--", "H: v\n".repeat(MAX_HEADERS + 1));
        assert!(split("multipart/related;boundary=x", &headers).is_err());
    }
}
