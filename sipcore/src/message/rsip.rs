//! Conversion to and from `rsip::SipMessage` (rsip 0.4), for programs that have one.
//!
//! rsip cannot hold everything: unknown methods and some URIs are refused here instead of being cut short by it. Header names
//! become full and values unfolded on the way there, and it knows the usual reason phrases only by its own names.

use bytes::{BufMut, Bytes, BytesMut};
use rsip::message::HasHeaders;

use super::header::Header;
use super::lexer::ParseError;
use super::{Message, name};

/// Why a message cannot be converted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RsipError {
    /// rsip does not take the message.
    #[error("rsip does not take the message: {0}")]
    Refused(rsip::Error),
    /// rsip took the message but kept only a part of the Request-URI.
    #[error("rsip would make {kept} out of the Request-URI {given}")]
    UriLost {
        /// As it was.
        given: String,
        /// As rsip has it.
        kept: String,
    },
    /// What rsip has is no message of SIP.
    #[error("not a message: {0}")]
    Parse(#[from] ParseError),
}

impl TryFrom<&Message> for rsip::SipMessage {
    type Error = RsipError;

    fn try_from(message: &Message) -> Result<Self, RsipError> {
        let mut bytes = BytesMut::with_capacity(1024);
        bytes.put_slice(message.start_bytes());
        bytes.put_slice(b"\r\n");
        for header in message.headers() {
            bytes.put_slice(name::full(header.name()).as_bytes());
            bytes.put_slice(b": ");
            bytes.put_slice(header.text().as_bytes());
            bytes.put_slice(b"\r\n");
        }
        bytes.put_slice(b"\r\n");
        bytes.put_slice(message.body());
        let converted = rsip::SipMessage::try_from(bytes.freeze()).map_err(RsipError::Refused)?;
        if let rsip::SipMessage::Request(request) = &converted {
            let kept = request.uri().to_string();
            if !kept.as_bytes().eq_ignore_ascii_case(message.request_uri_raw()) {
                let given = String::from_utf8_lossy(message.request_uri_raw()).into_owned();
                return Err(RsipError::UriLost { given, kept });
            }
        }
        Ok(converted)
    }
}

impl TryFrom<&rsip::SipMessage> for Message {
    type Error = RsipError;

    fn try_from(message: &rsip::SipMessage) -> Result<Self, RsipError> {
        let start = match message {
            rsip::SipMessage::Request(r) => format!("{} {} {}", r.method, r.uri, r.version),
            rsip::SipMessage::Response(r) => format!("{} {}", r.version, r.status_code),
        };
        let line: String = start.chars().map(|c| if matches!(c, '\r' | '\n') { ' ' } else { c }).collect();
        let mut converted = Message::parse_datagram(Bytes::from(line))?;
        for header in message.headers().iter() {
            let text = header.to_string();
            let (name, value) = text.split_once(':').unwrap_or((&text, ""));
            converted.headers.push(Header::new(name, value.trim()));
        }
        converted.body = Bytes::copy_from_slice(message.body());
        Ok(converted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> Message {
        Message::parse_datagram(Bytes::copy_from_slice(text.as_bytes())).unwrap()
    }

    #[test]
    fn there_and_back() {
        let ours = message(
            "INVITE sip:bob@example.com;transport=tcp SIP/2.0\r\nv: SIP/2.0/TCP h;branch=z9hG4bK1\r\nX: a\r\n b\r\nl: 3\r\n\r\nabc",
        );
        let theirs = rsip::SipMessage::try_from(&ours).unwrap();
        let back = Message::try_from(&theirs).unwrap();
        assert!(back.request_uri().unwrap().equivalent(&ours.request_uri().unwrap()));
        assert_eq!(back.via().unwrap().branch(), Some("z9hG4bK1"));
        assert_eq!(back.header("X").unwrap().text(), "a b");
        assert_eq!(back.body().as_ref(), b"abc");
        let ringing = message("SIP/2.0 180 Ringing\r\nl: 0\r\n\r\n");
        assert_eq!(Message::try_from(&rsip::SipMessage::try_from(&ringing).unwrap()).unwrap().status(), Some(180));
    }

    #[test]
    fn what_rsip_would_cut_short_is_refused() {
        let gruu = message("OPTIONS sip:bob@x;gr=urn:uuid:f81d4fae SIP/2.0\r\nl: 0\r\n\r\n");
        assert!(rsip::SipMessage::try_from(&gruu).is_err());
        let method = message("NEWMETHOD sip:bob@x SIP/2.0\r\nl: 0\r\n\r\n");
        assert!(matches!(rsip::SipMessage::try_from(&method), Err(RsipError::Refused(_))));
    }

    #[test]
    fn a_header_of_rsip_does_not_break_the_line() {
        let mut theirs = rsip::SipMessage::try_from(&message("OPTIONS sip:bob@x SIP/2.0\r\nl: 0\r\n\r\n")).unwrap();
        theirs.headers_mut().push(rsip::Header::Other("X".into(), "a\r\nVia: evil".into()));
        let ours = Message::try_from(&theirs).unwrap();
        assert_eq!(ours.header("X").unwrap().text(), "a  Via: evil");
        assert!(ours.header("Via").is_none());
    }
}
