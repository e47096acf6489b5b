//! What a run says of itself, as text and as JSON.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use sandbox::diag::{self, Counted};
use sandbox::sock::canonical;
use sipcore::agent::{Proto, RegistrationFlow, SessionId};

use crate::homes::Homes;
use crate::json::{quoted, text};
use crate::supervisor::Supervisor;
use crate::table::Cookie;

/// Sockets, and sessions, that are shown of one run.
const MOST: usize = 1000;

/// A socket of the program.
pub struct Socket {
    pub proto: Proto,
    /// bound, listening, connecting, connected.
    pub state: &'static str,
    /// As the program names it.
    pub local: Option<SocketAddr>,
    pub peer: Option<SocketAddr>,
    pub session: Option<SessionId>,
    /// Of a stream: the socket of this host's network at this end of its flow.
    pub stream: Option<Cookie>,
    /// Bytes of datagrams, sent and received, where they pass through this process.
    pub moved: Option<(u64, u64)>,
}

/// A connection that carries sockets of both programs.
pub struct Connection {
    pub peer: String,
    /// direct, reflexive, relayed; `None`: no path works.
    pub path: Option<sipcore::flow::Path>,
    /// `None`: its protocol does not tell.
    pub rtt: Option<Duration>,
    /// Bytes on the wire: sent and received.
    pub bytes: (u64, u64),
    /// quic, datachannel.
    pub flow: &'static str,
    /// Sockets that it carries now.
    pub used: usize,
}

/// A session of one socket.
struct Own {
    peer: String,
    /// direct, tls, clear.
    flow: &'static str,
    /// Of a stream.
    rtt: Option<Duration>,
    /// Bytes of the program: sent and received. `None`: only the kernel moves them, and it does not count datagrams.
    bytes: Option<(u64, u64)>,
}

/// A run.
pub struct Report {
    pid: u32,
    program: String,
    aor: String,
    registrar: String,
    registration: Vec<RegistrationFlow>,
    isolation: &'static str,
    up: Duration,
    sockets: Vec<(Socket, Option<String>)>,
    connections: Vec<Connection>,
    /// Sessions of one socket each.
    own: Vec<Own>,
    /// Sockets that are not shown.
    more: usize,
}

impl Report {
    /// Of this process.
    pub fn of(supervisor: &Supervisor, program: &str, since: Instant) -> Report {
        let sessions = &supervisor.sessions;
        let mut sockets = match &supervisor.network {
            Some(network) => network.sockets(),
            None => supervisor.table.lock().shown(),
        };
        sockets.sort_by_key(|s| (s.state == "connected", s.local.map(|a| a.port())));
        let more = sockets.len().saturating_sub(MOST);
        sockets.truncate(MOST);
        let parties = sessions.parties();
        let party = |id: SessionId| parties.get(&id).map(|party| party.peer.clone());
        let mut connections = sessions.links.connections();
        connections.truncate(MOST);
        let of_one = parties.iter().filter_map(|(id, party)| {
            let socket = sockets.iter().find(|socket| socket.session == Some(*id));
            Some((socket, party.far, party.peer.clone(), party.own?))
        });
        let own = own(of_one.take(MOST).collect(), &supervisor.homes);
        Report {
            pid: std::process::id(),
            program: program.to_owned(),
            aor: sessions.aor().to_owned(),
            registrar: sessions.registrar().to_owned(),
            registration: sessions.registration(),
            isolation: if supervisor.network.is_some() { "netns" } else { "seccomp" },
            up: since.elapsed(),
            own,
            sockets: sockets
                .into_iter()
                .map(|socket| {
                    let peer = socket.session.and_then(party);
                    (socket, peer)
                })
                .collect(),
            connections,
            more,
        }
    }

    /// For people.
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        let Report { pid, program, aor, registrar, isolation, .. } = self;
        let up = self.up.as_secs();
        let _ = writeln!(out, "{program} (pid {pid}, {isolation}, up {})", spoken(up));
        let _ = writeln!(out, "  as {aor} at {registrar}");
        for flow in &self.registration {
            let RegistrationFlow { server, transport, in_use, up, since, retry } = flow;
            let (state, since) = (if *up { "registered" } else { "not registered" }, spoken(since.as_secs()));
            let spare = if *in_use { "" } else { ", a second flow" };
            let retry = retry.map(|retry| format!(", tried again in {}", spoken(retry.as_secs()))).unwrap_or_default();
            let _ = writeln!(out, "  {state} by {transport} at {server} for {since}{spare}{retry}");
        }
        for (socket, peer) in &self.sockets {
            let _ = write!(out, "  {} {:<10}", socket.proto, socket.state);
            if let Some(local) = socket.local {
                let _ = write!(out, " {local}");
            }
            if let Some(address) = socket.peer {
                let _ = write!(out, " to {address}");
            }
            if let Some(uri) = peer {
                let _ = write!(out, " ({uri})");
            }
            out.push('\n');
        }
        if self.more > 0 {
            let _ = writeln!(out, "  and {} sockets more", self.more);
        }
        for connection in &self.connections {
            let Connection { peer, rtt, bytes: counted, flow, used, .. } = connection;
            let path = connection.path.map_or_else(
                || "no path".to_owned(),
                |p| format!("{}, {} {} to {} {}", p.word(), p.local_kind, p.local, p.remote_kind, p.remote),
            );
            let _ = writeln!(out, "  session with {peer}: {flow}, {path}; round trip {}", millis(*rtt, 1));
            let _ = writeln!(out, "    {used} sockets, {}", spoken_bytes(Some(*counted)));
        }
        for Own { peer, flow, rtt, bytes } in &self.own {
            let place = if *flow == "direct" { "on this machine" } else { "a connection of its own" };
            let _ = writeln!(out, "  session with {peer}: {flow}, {place}; round trip {}", millis(*rtt, 3));
            let _ = writeln!(out, "    1 socket, {}", spoken_bytes(*bytes));
        }
        out
    }

    /// For programs: one object, in one line.
    pub fn to_json(&self) -> String {
        let count = |n: Option<u64>| n.map_or_else(|| "null".to_owned(), |n| n.to_string());
        let millis = |rtt: Option<Duration>| {
            rtt.map_or_else(|| "null".to_owned(), |rtt| format!("{:.3}", rtt.as_secs_f64() * 1000.0))
        };
        let address = |a: Option<SocketAddr>| text(a.map(|a| a.to_string()).as_deref());
        let sockets: Vec<String> = self
            .sockets
            .iter()
            .map(|(s, peer)| {
                format!(
                    "{{\"proto\":\"{}\",\"state\":\"{}\",\"local\":{},\"peer\":{},\"uri\":{}}}",
                    s.proto,
                    s.state,
                    address(s.local),
                    address(s.peer),
                    text(peer.as_deref())
                )
            })
            .collect();
        let carried = self.connections.iter().map(|c| {
            format!(
                "{{\"uri\":{},\"flow\":\"{}\",\"path\":{},\"local\":{},\"remote\":{},\"rtt_ms\":{},\"sent\":{},\
                 \"received\":{},\"sockets\":{}}}",
                quoted(&c.peer),
                c.flow,
                text(c.path.map(|p| p.word())),
                address(c.path.map(|p| p.local)),
                address(c.path.map(|p| p.remote)),
                millis(c.rtt),
                c.bytes.0,
                c.bytes.1,
                c.used
            )
        });
        let own = self.own.iter().map(|own| {
            format!(
                "{{\"uri\":{},\"flow\":\"{}\",\"path\":\"direct\",\"local\":null,\"remote\":null,\"rtt_ms\":{},\"sent\":{},\
                 \"received\":{},\"sockets\":1}}",
                quoted(&own.peer),
                own.flow,
                millis(own.rtt),
                count(own.bytes.map(|(sent, _)| sent)),
                count(own.bytes.map(|(_, received)| received)),
            )
        });
        let registration: Vec<String> = self
            .registration
            .iter()
            .map(|flow| {
                format!(
                    "{{\"server\":\"{}\",\"transport\":\"{}\",\"in_use\":{},\"up\":{},\"since_s\":{},\"retry_s\":{}}}",
                    flow.server,
                    flow.transport,
                    flow.in_use,
                    flow.up,
                    flow.since.as_secs(),
                    count(flow.retry.map(|retry| retry.as_secs()))
                )
            })
            .collect();
        let sessions: Vec<String> = carried.chain(own).collect();
        format!(
            "{{\"pid\":{},\"program\":{},\"aor\":{},\"registrar\":{},\"registration\":[{}],\"isolation\":\"{}\",\"up_s\":{},\
             \"sockets\":[{}],\"sockets_not_shown\":{},\"sessions\":[{}]}}",
            self.pid,
            quoted(&self.program),
            quoted(&self.aor),
            quoted(&self.registrar),
            registration.join(","),
            self.isolation,
            self.up.as_secs(),
            sockets.join(","),
            self.more,
            sessions.join(",")
        )
    }
}

/// What is known of the sessions of one socket each, with that socket, if it is known, this process's own one to the peer, if there is one, the peer
/// and the flow. `homes`: where this process has its ends to the program.
fn own(sessions: Vec<(Option<&Socket>, Option<Cookie>, String, &'static str)>, homes: &Homes) -> Vec<Own> {
    let sockets = sessions.iter().flat_map(|(socket, far, ..)| [socket.as_ref().and_then(|s| s.stream), *far]);
    let streams: HashSet<Cookie> = sockets.flatten().collect();
    let counted = diag::counted(&streams).unwrap_or_else(|error| {
        tracing::warn!(%error, "the kernel does not tell what it has counted");
        Default::default()
    });
    let one = |(socket, far, peer, flow): (Option<&Socket>, Option<Cookie>, String, _)| {
        let stream = socket.and_then(|socket| counted.get(&socket.stream?));
        // One that ends at this process has the round trip to this process.
        let is_here = |s: &&Counted| matches!(canonical(s.peer).ip(), IpAddr::V4(ip) if homes.has(ip));
        let direct = stream.filter(|s| flow == "direct" && !is_here(s));
        let far = far.and_then(|far| counted.get(&far)).or(direct);
        let bytes = socket.and_then(|socket| socket.moved).or(stream.map(|s| (s.sent, s.received)));
        Own { peer, flow, rtt: far.and_then(|s| s.rtt), bytes }
    };
    let mut own: Vec<Own> = sessions.into_iter().map(one).collect();
    own.sort_by(|a, b| (&a.peer, a.flow, b.bytes).cmp(&(&b.peer, b.flow, a.bytes)));
    own
}

fn millis(rtt: Option<Duration>, digits: usize) -> String {
    rtt.map_or_else(|| "-".to_owned(), |rtt| format!("{:.digits$} ms", rtt.as_secs_f64() * 1000.0))
}

fn spoken_bytes(counted: Option<(u64, u64)>) -> String {
    match counted {
        Some((sent, received)) => format!("{} sent, {} received", bytes(sent), bytes(received)),
        None => "- sent, - received".to_owned(),
    }
}

fn spoken(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

fn bytes(count: u64) -> String {
    match count {
        0..10_000 => format!("{count} B"),
        10_000..10_000_000 => format!("{:.1} kB", count as f64 / 1e3),
        _ => format!("{:.1} MB", count as f64 / 1e6),
    }
}
