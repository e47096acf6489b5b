//! What the policy and the command line say about encrypted flows.

use std::net::SocketAddr;

use policy::{Flows, Ice, IceServer, IceTransport};
use sipcore::agent::IceServer as Offered;
use sipcore::flow::{Relay, Servers};

/// Which flows there may be, and who helps with them.
pub struct Settings {
    /// Of sessions that peers begin.
    pub flows: Flows,
    ice: Ice,
    password: Option<String>,
    /// What only processes of this machine know.
    machine: Vec<u8>,
}

impl Settings {
    /// `password`: of the users of the TURN servers.
    pub fn new(flows: Flows, ice: Ice, password: Option<String>) -> Result<Settings, String> {
        for server in &ice.turn {
            if server.user.is_none() || password.is_none() {
                return Err(format!(
                    "the TURN server {server} wants a user and a password: write turn:USER@HOST, and give the password in \
                     SIPBOX_TURN_PASSWORD or as [ice] credentials"
                ));
            }
        }
        Ok(Settings { flows, ice, password, machine: machine() })
    }

    /// Proof for those on this machine that this run is there too.
    pub fn machine(&self) -> sipcore::agent::Machine {
        sipcore::agent::Machine::new(&self.machine)
    }

    /// Whether the other end is on this machine.
    pub fn is_here(&self, machine: &sipcore::agent::Machine) -> bool {
        machine.is_of(&self.machine)
    }

    /// Whether the policy names servers: those of the registrar are not used then.
    pub fn names_servers(&self) -> bool {
        !self.ice.stun.is_empty() || !self.ice.turn.is_empty()
    }

    /// The servers, by address; `offered`: those of the registrar, for who names none.
    pub async fn servers(&self, offered: &[Offered]) -> Result<Servers, String> {
        let mut servers = Servers::default();
        for offered in offered.iter().filter(|_| !self.names_servers()) {
            let Some((is_turn, server)) = IceServer::told(&offered.uri) else {
                tracing::debug!(uri = offered.uri, "the registrar tells of a server that cannot be spoken to");
                continue;
            };
            let kind = if is_turn { "TURN" } else { "STUN" };
            // A service of this machine is none of a registrar's elsewhere.
            let Some(address) = resolve(kind, &server).await.filter(|a| !a.ip().to_canonical().is_loopback()) else {
                continue;
            };
            // Every TURN server is a STUN server (RFC 8656 section 3).
            servers.stun.push(address);
            if let (true, Some(user), Some(password)) = (is_turn, &offered.username, &offered.credential) {
                // Without a transport it has both (RFC 7065 section 3.1): the connection is for networks that block UDP.
                let only_tcp = server.transport == IceTransport::Tcp;
                let said = offered.uri.contains('?');
                let transports = [false, true].into_iter().filter(|tcp| if said { *tcp == only_tcp } else { true });
                let relay = |tcp| Relay { address, tcp, user: user.clone(), password: password.clone() };
                servers.turn.extend(transports.map(relay));
            }
        }
        for server in &self.ice.stun {
            servers.stun.extend(resolve("STUN", server).await);
        }
        for server in &self.ice.turn {
            let (Some(user), Some(password)) = (&server.user, &self.password) else { continue };
            let tcp = server.transport == IceTransport::Tcp;
            let relay = |address| Relay { address, tcp, user: user.clone(), password: password.clone() };
            servers.turn.extend(resolve("TURN", server).await.map(relay));
        }
        Ok(servers)
    }
}

/// The first address of a server; one that has none is said, and left out.
async fn resolve(kind: &str, server: &IceServer) -> Option<SocketAddr> {
    let found = tokio::net::lookup_host((server.host.as_str(), server.port)).await;
    match found.map(|mut addresses| addresses.next()) {
        Ok(Some(address)) => Some(address),
        Ok(None) => None,
        Err(error) => {
            crate::say::say!("the {kind} server {server} has no address: {error}; it is left out");
            None
        }
    }
}

/// The boot of the kernel and the network namespace: loopback addresses mean the same where both are the same.
fn machine() -> Vec<u8> {
    let boot = std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let network = std::fs::read_link("/proc/self/ns/net").unwrap_or_default();
    [boot, network.into_os_string().into_encoded_bytes()].concat()
}
