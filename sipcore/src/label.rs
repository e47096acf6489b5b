//! The protocol and port of a program's socket, as it is named between two ends.

use std::fmt;
use std::str::FromStr;

/// Transport protocol of a program's socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Proto {
    /// A stream.
    Tcp,
    /// Datagrams.
    Udp,
}

impl fmt::Display for Proto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Proto::Tcp => "tcp",
            Proto::Udp => "udp",
        })
    }
}

/// `tcp/7000`: the program's protocol and port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Label {
    /// Stream or datagrams.
    pub proto: Proto,
    /// The port that the program names.
    pub port: u16,
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.proto, self.port)
    }
}

/// Text that is not `tcp/PORT` or `udp/PORT`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not tcp/PORT or udp/PORT")]
pub struct NotALabel(String);

impl FromStr for Label {
    type Err = NotALabel;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fail = || NotALabel(text.chars().take(64).collect());
        let (proto, port) = text.split_once('/').ok_or_else(fail)?;
        let proto = match proto {
            "tcp" => Proto::Tcp,
            "udp" => Proto::Udp,
            _ => return Err(fail()),
        };
        if !port.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(fail());
        }
        Ok(Label { proto, port: port.parse().map_err(|_| fail())? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        for text in ["tcp/7000", "udp/0", "tcp/65535"] {
            assert_eq!(text.parse::<Label>().map(|label| label.to_string()), Ok(text.to_string()));
        }
        for text in ["", "tcp", "tcp/", "tcp/+1", "tcp/65536", "sctp/1", "TCP/1", "tcp/1/2"] {
            assert!(text.parse::<Label>().is_err(), "{text}");
        }
    }
}
