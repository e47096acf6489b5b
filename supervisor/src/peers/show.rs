//! Peers as people and programs read them. What others say of themselves may be anything: nothing of it reaches the terminal but printable
//! characters.

use std::time::SystemTime;

use super::view::{Change, Peer};
use crate::json::{quoted, text};

/// A table of peers; `domain` is that of names without one.
pub fn table<'p>(peers: impl Iterator<Item = &'p Peer>, domain: &str, now: SystemTime) -> String {
    let head = ["NAME", "SOCKET", "SINCE", "URI", "DESCRIPTION"].map(str::to_owned);
    let mut rows = vec![head];
    rows.extend(peers.map(|peer| {
        [name(peer, domain), label(peer), age(peer.since, now), contact(peer), description(peer)]
            .map(|cell| printable(&cell))
    }));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths = [0, 1, 2, 3].map(width);
    let mut out = String::new();
    for [cells @ .., last] in &rows {
        for (cell, width) in cells.iter().zip(widths) {
            out.push_str(&format!("{cell:<width$}  "));
        }
        out.push_str(last);
        out.truncate(out.trim_end().len());
        out.push('\n');
    }
    out
}

/// A change in one line.
pub fn line(change: &Change, domain: &str) -> String {
    let (sign, peer) = match change {
        Change::Up(peer) => ('+', peer),
        Change::Changed(peer) => ('~', peer),
        Change::Down(peer) => ('-', peer),
    };
    let cells = [name(peer, domain), label(peer), contact(peer), description(peer)].map(|cell| printable(&cell));
    format!("{sign} {}", cells.join("  ")).trim_end().to_owned()
}

/// All peers as one JSON array.
pub fn json<'p>(peers: impl Iterator<Item = &'p Peer>, domain: &str) -> String {
    let all: Vec<String> = peers.map(|peer| format!("{{{}}}", members(peer, domain))).collect();
    match all.is_empty() {
        true => "[]".to_owned(),
        false => format!("[\n {}\n]", all.join(",\n ")),
    }
}

/// A change as one JSON object in one line.
pub fn json_line(change: &Change, domain: &str) -> String {
    let (word, peer) = match change {
        Change::Up(peer) => ("up", peer),
        Change::Changed(peer) => ("changed", peer),
        Change::Down(peer) => ("down", peer),
    };
    format!("{{\"change\":{},{}}}", quoted(word), members(peer, domain))
}

fn members(peer: &Peer, domain: &str) -> String {
    let label = peer.label.map(|label| label.to_string());
    let contact = peer.contact.as_ref().map(ToString::to_string);
    let gruu = contact.as_deref().filter(|_| peer.contact.as_ref().is_some_and(|uri| uri.has_param("gr")));
    let since = peer.since.and_then(|since| jiff::Timestamp::try_from(since).ok()).map(|since| since.to_string());
    format!(
        "\"name\":{},\"aor\":{},\"label\":{},\"description\":{},\"gruu\":{},\"uri\":{},\"since\":{}",
        quoted(&name(peer, domain)),
        quoted(peer.aor.as_str()),
        text(label.as_deref()),
        text(peer.description.as_deref()),
        text(gruu),
        text(contact.as_deref()),
        text(since.as_deref()),
    )
}

/// The user of the default domain, else `user@host`.
pub fn name(peer: &Peer, domain: &str) -> String {
    let user = peer.aor.user_decoded().unwrap_or_default();
    match peer.aor.host().eq_ignore_ascii_case(domain) {
        true => user,
        false => format!("{user}@{}", peer.aor.host()),
    }
}

fn label(peer: &Peer) -> String {
    peer.label.map_or_else(|| "-".to_owned(), |label| label.to_string())
}

fn contact(peer: &Peer) -> String {
    peer.contact.as_ref().unwrap_or(&peer.aor).to_string()
}

fn description(peer: &Peer) -> String {
    peer.description.clone().unwrap_or_default()
}

fn age(since: Option<SystemTime>, now: SystemTime) -> String {
    let Some(since) = since else { return "-".to_owned() };
    let seconds = now.duration_since(since).unwrap_or_default().as_secs();
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

fn printable(text: &str) -> String {
    // Directions and joiners are no control characters, but could make one text look like another.
    let hidden = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    text.chars().map(|c| if hidden(c) { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn peer(user: &str, label: Option<&str>, description: &str, since: u64) -> Peer {
        Peer {
            aor: format!("sip:{user}").parse().unwrap(),
            label: label.map(|label| label.parse().unwrap()),
            description: Some(description.to_owned()),
            contact: format!("sip:{user};gr=urn:uuid:1").parse().ok(),
            since: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(since)),
        }
    }

    #[test]
    fn tables() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(100_000);
        let peers = [
            peer("bob@x", Some("udp/30000"), "Bob's world", 100_000 - 119),
            peer("carol@y", None, "\x1b[2Jgone\n\u{202e}", 100_000 - 7200),
        ];
        assert_eq!(
            table(peers.iter(), "x", now),
            "NAME     SOCKET     SINCE  URI                        DESCRIPTION\n\
             bob      udp/30000  119 s  sip:bob@x;gr=urn:uuid:1    Bob's world\n\
             carol@y  -          2 h    sip:carol@y;gr=urn:uuid:1  \u{fffd}[2Jgone\u{fffd}\u{fffd}\n"
        );
    }

    #[test]
    fn lines_and_json() {
        let bob = peer("bob@x", Some("udp/30000"), "Bob's \"world\"", 0);
        assert_eq!(line(&Change::Down(bob.clone()), "x"), "- bob  udp/30000  sip:bob@x;gr=urn:uuid:1  Bob's \"world\"");
        let object = "\"name\":\"bob\",\"aor\":\"sip:bob@x\",\"label\":\"udp/30000\",\"description\":\"Bob's \\\"world\\\"\",\
             \"gruu\":\"sip:bob@x;gr=urn:uuid:1\",\"uri\":\"sip:bob@x;gr=urn:uuid:1\",\"since\":\"1970-01-01T00:00:00Z\"";
        assert_eq!(json_line(&Change::Up(bob.clone()), "x"), format!("{{\"change\":\"up\",{object}}}"));
        assert_eq!(json([bob].iter(), "x"), format!("[\n {{{object}}}\n]"));
        assert_eq!(json([].iter(), "x"), "[]");
    }
}
