//! `a=sipbox:1 label=".." source=".." virtual=".."`: what sipbox tells a sipbox.

use std::net::SocketAddr;

use sdp_types::Attribute;

use super::quic::Fingerprint;
use super::{Machine, SdpError};
use crate::label::Label;

/// Addresses of one end that are read of a peer: each is a connection that is tried.
pub(super) const MAX_LISTEN: usize = 8;

/// The sipbox attribute of an m= line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sipbox {
    /// The line is an offer of QUIC, or its acceptance.
    pub quic: bool,
    /// What the calling program asked for.
    pub label: Option<Label>,
    /// Physical address of the socket that connects or sends.
    pub source: Option<SocketAddr>,
    /// Address under which the called program should see the caller.
    pub virtual_source: Option<SocketAddr>,
    /// The machine that the source is on.
    pub machine: Option<Machine>,
    /// Of the certificate that this end shows.
    pub fingerprint: Option<Fingerprint>,
    /// Where this end takes connections, besides c= and m=.
    pub listen: Vec<SocketAddr>,
}

pub(super) fn named(name: &str, value: &str) -> Attribute {
    Attribute { attribute: name.to_owned(), value: Some(value.to_owned()) }
}

impl Sipbox {
    pub(super) fn attribute(&self) -> Attribute {
        let mut value = String::from(if self.quic { "1 quic" } else { "1" });
        let mut word = |name: &str, text: Option<String>| {
            if let Some(text) = text {
                value.push_str(&format!(" {name}=\"{text}\""));
            }
        };
        word("label", self.label.map(|label| label.to_string()));
        word("source", self.source.map(|source| source.to_string()));
        word("virtual", self.virtual_source.map(|source| source.to_string()));
        word("machine", self.machine.as_ref().map(|machine| machine.to_string()));
        word("fp", self.fingerprint.map(|fingerprint| fingerprint.to_string()));
        let listen: Vec<String> = self.listen.iter().map(SocketAddr::to_string).collect();
        word("listen", (!listen.is_empty()).then(|| listen.join(" ")));
        named("sipbox", &value)
    }

    /// `None` for a version that is not 1: such a peer is not known. Words that are not known are ignored.
    pub(super) fn parse(value: &str) -> Result<Option<Sipbox>, SdpError> {
        let (version, mut rest) = value.trim().split_once(' ').unwrap_or((value.trim(), ""));
        if version != "1" {
            return Ok(None);
        }
        let mut out = Sipbox::default();
        while !rest.trim_start().is_empty() {
            rest = rest.trim_start();
            let name_len = rest.find(['=', ' ']).unwrap_or(rest.len());
            let (name, after) = rest.split_at(name_len);
            let Some(quoted) = after.strip_prefix('=') else {
                out.quic |= name == "quic";
                rest = after;
                continue;
            };
            let (text, after) = quoted
                .strip_prefix('"')
                .and_then(|q| q.split_once('"'))
                .ok_or(SdpError::Sipbox("a value is not in quotes"))?;
            match name {
                "label" => out.label = Some(text.parse().map_err(|_| SdpError::Sipbox("label is not tcp/PORT"))?),
                "source" => out.source = Some(address(text)?),
                "virtual" => out.virtual_source = Some(address(text)?),
                "machine" => out.machine = Some(text.parse()?),
                "listen" => {
                    let addresses = text.split_ascii_whitespace().take(MAX_LISTEN).map(address);
                    out.listen = addresses.collect::<Result<_, _>>()?;
                }
                "fp" => out.fingerprint = Some(text.parse()?),
                _ => {}
            }
            rest = after;
        }
        Ok(Some(out))
    }
}

fn address(text: &str) -> Result<SocketAddr, SdpError> {
    text.parse().map_err(|_| SdpError::Sipbox("source and virtual are ADDRESS:PORT"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_are_not_known_are_ignored() {
        let text = "1 new other=\"sha-256 AB:CD\" label=\"udp/53\" virtual=\"[2001:db8::1]:9\" later";
        let sipbox = Sipbox::parse(text).unwrap().unwrap();
        assert_eq!(sipbox.label, Some("udp/53".parse().unwrap()));
        assert_eq!(sipbox.virtual_source, Some("[2001:db8::1]:9".parse().unwrap()));
        assert_eq!(sipbox.source, None);
        assert_eq!(Sipbox::parse("1").unwrap(), Some(Sipbox::default()));
        assert_eq!(Sipbox::parse("2 label=\"tcp/1\"").unwrap(), None);
    }

    #[test]
    fn refused() {
        for bad in
            ["1 label=tcp/1", "1 label=\"tcp\"", "1 source=\"localhost:1\"", "1 virtual=\"::1\"", "1 label=\"tcp/1"]
        {
            assert!(matches!(Sipbox::parse(bad), Err(SdpError::Sipbox(_))), "{bad}");
        }
    }
}
