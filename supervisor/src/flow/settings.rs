//! What the policy and the command line say about encrypted flows.

use policy::{Flows, Ice};
use sipcore::agent::IceServer as Offered;
use sipcore::flow::Servers;

use super::helpers::Helpers;
use crate::identity::Around;

/// Which flows there may be, and who helps with them.
pub struct Settings {
    /// Of sessions that peers begin.
    pub flows: Flows,
    helpers: Helpers,
    /// What only processes of this machine know.
    machine: Vec<u8>,
}

impl Settings {
    /// `password`: of the users of the TURN servers. `around`: where there are servers for who names none.
    pub fn new(flows: Flows, ice: Ice, password: Option<String>, around: Around) -> Result<Settings, String> {
        Ok(Settings { flows, helpers: Helpers::new(ice, password, around)?, machine: machine() })
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
        self.helpers.are_named()
    }

    /// The servers, by address. `offered`: those that the registrar has told of, for who names none; if there are none either, what DNS says of the
    /// registrar's domain. `None`: the other end may be on this machine, and no others than the named ones are asked.
    pub async fn servers(&self, offered: Option<&[Offered]>) -> Servers {
        let found = match offered {
            _ if self.helpers.are_named() => self.helpers.named().await,
            None => return Servers::default(),
            Some([]) => self.helpers.of_the_domain().await,
            Some(offered) => self.helpers.offered(offered).await,
        };
        for note in &found.notes {
            self.helpers.say_once(note);
        }
        found.servers
    }

    /// TURN servers that there is no connection to are said, each once.
    pub fn say_unreached<'a>(&self, relays: impl IntoIterator<Item = &'a (std::net::SocketAddr, String)>) {
        for (server, why) in relays {
            self.helpers.say_once(&format!(
                "there is no connection to the TURN server at {server}: {why}; paths are looked for without it"
            ));
        }
    }
}

/// The boot of the kernel and the network namespace: loopback addresses mean the same where both are the same.
fn machine() -> Vec<u8> {
    let boot = std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let network = std::fs::read_link("/proc/self/ns/net").unwrap_or_default();
    [boot, network.into_os_string().into_encoded_bytes()].concat()
}
