//! Tests of the crate as its callers see it.

mod addresses;
mod command_line;
mod decisions;
mod local;
mod mistakes;
mod mutation;
mod uris;

use crate::{Error, Policy};

/// A policy that uses every key.
pub(super) const FULL: &str = r#"# The policy of a game.
schema = 1

[app]
name = "minetest"
program = "/usr/games/minetest*"

[identity]
aor = "sip:bob@example.org"
registrar = "sips:sip.example.org:5061;transport=tls"
credentials = { env = "BOB_SIP" }
expires = 600

[default]
connect = "deny"
bind = "local"
flows = ["direct", "quic", "datachannel", "tls"]
[[connect]]
to = "game.example:30000-30010"
proto = "udp"
uri = "sip:alice@example.org;gr=urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6"
cleartext = true

[[connect]]
to = "10.0.0.0/8:5432"
proto = "tcp"
uri = "db"

[[connect]]
to = "[2001:db8::/32]:*"
refuse = "ECONNREFUSED"

[[connect]]
to = "*:25"
refuse = "EPERM"

[[bind]]
port = 30000
proto = "udp"
publish = "Bob's world"
accept-from = ["sip:*@example.org", "carol", "sips:*@*.example.net"]

[[bind]]
port = "8000-8010"
accept = true

[[bind]]
port = "*"
proto = "tcp"
deny = true

[names]
"Game.Example" = "sip:alice@example.org"
"chat.example" = "chat"
resolve-others = false

[addresses]
v4 = "198.18.0.0/15"
v6 = "2001:2::/48"

[local]
unix = ["/run/user/*/pulse/*", "@bus-*"]
netlink = "deny"
[limits]
sockets = 128
sessions = 16

[ice]
stun = ["stun.example.org", "stun:192.0.2.1:3479"]
turn = ["turn:bob@192.0.2.1?transport=tcp"]
credentials = { env = "BOB_TURN" }
"#;

pub(super) fn parse(text: &str) -> Policy {
    Policy::parse("policy.toml", text).unwrap_or_else(|error| panic!("{text}\n{error}"))
}

pub(super) fn mistakes(text: &str) -> Vec<crate::Mistake> {
    match Policy::parse("policy.toml", text) {
        Err(Error::File { mistakes }) => mistakes,
        other => panic!("{text}\nwas {other:?}"),
    }
}
