//! The rules of a policy and when each is met.

use std::fmt;
use std::net::IpAddr;

use crate::destination::{Destination, Ports, Proto, proto_covers};
use crate::error::Wrong;
use crate::flows::Said;
use crate::uri::PeerPattern;

/// The errors that a policy may give to a connect(); their names are those of errno(3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Errno {
    /// Permission denied: what a policy says when it says nothing else.
    Eacces,
    /// Operation not permitted: what a Linux packet filter says.
    Eperm,
    /// As if nothing listened there.
    Econnrefused,
    /// As if nobody were there.
    Ehostunreach,
    /// As if there were no way there.
    Enetunreach,
    /// As if nothing ever came back.
    Etimedout,
}

impl Errno {
    pub(crate) const WORDS: [(&'static str, Errno); 6] = [
        ("ECONNREFUSED", Errno::Econnrefused),
        ("EACCES", Errno::Eacces),
        ("EPERM", Errno::Eperm),
        ("EHOSTUNREACH", Errno::Ehostunreach),
        ("ENETUNREACH", Errno::Enetunreach),
        ("ETIMEDOUT", Errno::Etimedout),
    ];
}

impl Errno {
    /// The number of this errno on Linux (include/uapi/asm-generic/errno.h).
    pub fn number(self) -> i32 {
        match self {
            Errno::Eperm => 1,
            Errno::Eacces => 13,
            Errno::Enetunreach => 101,
            Errno::Etimedout => 110,
            Errno::Econnrefused => 111,
            Errno::Ehostunreach => 113,
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::WORDS.iter().find(|(_, errno)| errno == self).map_or("", |(word, _)| word))
    }
}

/// Characters of a description that peers are shown.
const MOST_DESCRIPTION: usize = 512;

/// What peers read of a socket: some words, in one line.
pub(crate) fn description(given: &str) -> Result<String, Wrong> {
    let text = given.trim();
    if text.is_empty() {
        return Err(
            Wrong::new("the description is empty").help("write what peers are to read, such as \"Bob's world\"")
        );
    }
    if text.chars().any(char::is_control) {
        return Err(Wrong::new("a description has no line breaks or other control characters").help("write one line"));
    }
    let length = text.chars().count();
    if length > MOST_DESCRIPTION {
        let wrong = Wrong::new(format!("the description has {length} characters, and {MOST_DESCRIPTION} are shown"));
        return Err(wrong.help("shorten it"));
    }
    Ok(text.to_owned())
}

/// What `[default]` says of a connect() that no rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConnectDefault {
    Deny,
    Refuse,
    AllowLocal,
    /// As `AllowLocal`; and whoever has called may be called back.
    Callers,
}

/// What `[default]` says of a bind() that no rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BindDefault {
    Accept,
    Publish,
    Local,
    Deny,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Lead {
    Uri { uri: String, flows: Said },
    Refuse(Errno),
}

#[derive(Debug, Clone)]
pub(crate) struct ConnectRule {
    pub to: Destination,
    /// None: both.
    pub proto: Option<Proto>,
    pub lead: Lead,
    /// The rule in words, for the trace.
    pub words: String,
}

impl ConnectRule {
    pub fn matches(&self, proto: Proto, address: IpAddr, name: Option<&str>, port: u16) -> bool {
        proto_covers(self.proto, Some(proto)) && self.to.matches(address, name, port)
    }

    /// Whether nothing is left for `later` after this rule.
    pub fn covers(&self, later: &ConnectRule) -> bool {
        proto_covers(self.proto, later.proto) && self.to.covers(&later.to)
    }

    pub fn uri(&self) -> Option<&str> {
        match &self.lead {
            Lead::Uri { uri, .. } => Some(uri),
            Lead::Refuse(_) => None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BindAction {
    Publish(String),
    Accept,
    Deny,
}

#[derive(Debug, Clone)]
pub(crate) struct BindRule {
    pub ports: Ports,
    /// None: both.
    pub proto: Option<Proto>,
    pub action: BindAction,
    /// None: from anyone.
    pub accept_from: Option<Vec<PeerPattern>>,
    /// Who may read of it. None: anyone.
    pub visible_to: Option<Vec<PeerPattern>>,
    /// The rule in words, for the trace.
    pub words: String,
}

impl BindRule {
    pub fn matches(&self, proto: Proto, port: u16) -> bool {
        proto_covers(self.proto, Some(proto)) && self.ports.contains(port)
    }

    /// Whether nothing is left for `later` after this rule.
    pub fn covers(&self, later: &BindRule) -> bool {
        proto_covers(self.proto, later.proto) && self.ports.covers(later.ports)
    }
}
