//! The STUN and TURN servers that a registrar tells of in the 200 to REGISTER: `Link` (RFC 8288) with the relation `ice-server`, as RFC 9725
//! section 4.6 has it for HTTP. SIP has no header of its own for it.

use crate::agent::IceServer;
use crate::message::Message;

/// Servers that are taken from one answer.
const MOST: usize = 4;
/// The longest value that is read.
const LONGEST: usize = 2048;

/// The servers of an answer; links of other relations, and what cannot be read, are passed over.
pub(super) fn offered(response: &Message) -> Vec<IceServer> {
    let lines = response.headers_named("Link").map(|header| header.text().into_owned());
    let lines = lines.filter(|line| line.len() <= LONGEST);
    lines.flat_map(|line| split(&line, ',')).filter_map(|value| read(&value)).take(MOST).collect()
}

fn read(value: &str) -> Option<IceServer> {
    let (uri, rest) = value.trim().strip_prefix('<')?.split_once('>')?;
    let (mut relation, mut username, mut credential) = (false, None, None);
    for param in split(rest, ';') {
        let (name, value) = param.trim().split_once('=').unwrap_or((param.trim(), ""));
        let value = unquoted(value.trim());
        match name.trim().to_ascii_lowercase().as_str() {
            "rel" => relation = value.split_ascii_whitespace().any(|word| word.eq_ignore_ascii_case("ice-server")),
            "username" => username = Some(value),
            "credential" => credential = Some(value),
            "credential-type" if !value.eq_ignore_ascii_case("password") => return None,
            _ => {}
        }
    }
    let scheme = uri.split(':').next()?.to_ascii_lowercase();
    let known = matches!(scheme.as_str(), "stun" | "turn" | "turns") && relation;
    known.then(|| IceServer { uri: uri.to_owned(), username, credential })
}

/// The parts between separators that do not stand in quotes or angle brackets.
fn split(text: &str, separator: char) -> Vec<String> {
    let (mut parts, mut part, mut quoted, mut bracketed) = (Vec::new(), String::new(), false, false);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' if quoted => {
                part.push(c);
                part.extend(chars.next());
                continue;
            }
            '"' => quoted = !quoted,
            '<' if !quoted => bracketed = true,
            '>' if !quoted => bracketed = false,
            c if c == separator && !quoted && !bracketed => {
                parts.push(std::mem::take(&mut part));
                continue;
            }
            _ => {}
        }
        part.push(c);
    }
    parts.push(part);
    parts
}

/// Without quotes and backslashes (RFC 3261 section 25.1).
fn unquoted(value: &str) -> String {
    let Some(inner) = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')) else { return value.to_owned() };
    let mut out = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        out.extend(if c == '\\' { chars.next() } else { Some(c) });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lines: &[&str]) -> Vec<IceServer> {
        let links: String = lines.iter().map(|line| format!("Link: {line}\r\n")).collect();
        let text = format!(
            "SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP a;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:a@b>;tag=2\r\nCall-ID: 1\r\n\
             CSeq: 1 REGISTER\r\n{links}Content-Length: 0\r\n\r\n"
        );
        offered(&Message::parse_datagram(text.into()).unwrap())
    }

    #[test]
    fn servers_and_their_credentials() {
        let server = |uri: &str, username: Option<&str>, credential: Option<&str>| IceServer {
            uri: uri.to_owned(),
            username: username.map(str::to_owned),
            credential: credential.map(str::to_owned),
        };
        let turn = "<turn:192.0.2.1:3478>;rel=\"ice-server\";username=\"17:a\\\"b,;c\";credential=\"p=\";credential-type=\"password\"";
        let stun = "<stun:[2001:db8::1]:3478>; rel=ice-server";
        let both = [
            server("turn:192.0.2.1:3478", Some("17:a\"b,;c"), Some("p=")),
            server("stun:[2001:db8::1]:3478", None, None),
        ];
        assert_eq!(of(&[turn, stun]), both);
        assert_eq!(of(&[&format!("{turn}, {stun}")]), both);
        let others =
            ["<turn:a>;rel=next", "<https://a>;rel=ice-server", "turn:a;rel=ice-server", "<turn:a", "", "\"\\"];
        assert!(of(&others).is_empty());
        assert!(of(&["<turn:a>;rel=ice-server;credential-type=oauth"]).is_empty());
        assert_eq!(of(&[&[stun; 9].join(",")]).len(), MOST);
        assert!(of(&[&format!("{stun};x={}", "y".repeat(LONGEST))]).is_empty());
    }
}
