//! What a run says of itself, as text and as JSON.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use sipcore::agent::{Proto, RegistrationFlow, SessionId};

use crate::json::{quoted, text};
use crate::supervisor::Supervisor;

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
}

/// A connection that carries sockets of both programs.
pub struct Connection {
    pub session: SessionId,
    pub peer: String,
    /// direct, reflexive, relayed; `None`: no path works.
    pub path: Option<sipcore::flow::Path>,
    pub rtt: Duration,
    /// Bytes on the wire:
    /// sent and received, where they are counted.
    pub bytes: Option<(u64, u64)>,
    /// quic, datachannel.
    pub flow: &'static str,
    /// Sockets that it carries now.
    pub used: usize,
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
    /// Sessions of one socket each, whose bytes do not pass through the supervisor.
    direct: Vec<String>,
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
        let party = |id: SessionId| parties.iter().find(|(known, _)| *known == id).map(|(_, peer)| peer.clone());
        let mut connections = sessions.links.connections();
        connections.truncate(MOST);
        let carried: Vec<SessionId> = sockets.iter().filter_map(|s| s.session).collect();
        let of_connections = |id: &SessionId| connections.iter().any(|c| c.session == *id);
        let direct = parties.iter().filter(|(id, _)| !of_connections(id) && carried.contains(id));
        Report {
            pid: std::process::id(),
            program: program.to_owned(),
            aor: sessions.aor().to_owned(),
            registrar: sessions.registrar().to_owned(),
            registration: sessions.registration(),
            isolation: if supervisor.network.is_some() { "netns" } else { "seccomp" },
            up: since.elapsed(),
            direct: direct.map(|(_, peer)| peer.clone()).take(MOST).collect(),
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
            let rtt = rtt.as_secs_f64() * 1000.0;
            let _ = writeln!(out, "  session with {peer}: {flow}, {path}; round trip {rtt:.1} ms");
            let counted =
                counted.map(|(sent, received)| format!(", {} sent, {} received", bytes(sent), bytes(received)));
            let _ = writeln!(out, "    {used} sockets{}", counted.unwrap_or_default());
        }
        for peer in &self.direct {
            let _ = writeln!(out, "  session with {peer}: direct on this machine, or a connection of its own");
        }
        out
    }

    /// For programs: one object, in one line.
    pub fn to_json(&self) -> String {
        let count = |n: Option<u64>| n.map_or_else(|| "null".to_owned(), |n| n.to_string());
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
                "{{\"uri\":{},\"flow\":\"{}\",\"path\":{},\"local\":{},\"remote\":{},\"rtt_ms\":{:.3},\"sent\":{},\
                 \"received\":{},\"sockets\":{}}}",
                quoted(&c.peer),
                c.flow,
                text(c.path.map(|p| p.word())),
                address(c.path.map(|p| p.local)),
                address(c.path.map(|p| p.remote)),
                c.rtt.as_secs_f64() * 1000.0,
                count(c.bytes.map(|(sent, _)| sent)),
                count(c.bytes.map(|(_, received)| received)),
                c.used
            )
        });
        // What the kernel carries is not counted here.
        let direct = self.direct.iter().map(|peer| {
            format!(
                "{{\"uri\":{},\"flow\":\"other\",\"path\":\"direct\",\"local\":null,\"remote\":null,\"rtt_ms\":null,\
                 \"sent\":null,\"received\":null,\"sockets\":1}}",
                quoted(peer)
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
        let sessions: Vec<String> = carried.chain(direct).collect();
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
