//! Who passes on the SIP messages in a lab: the hub or Kamailio, in the public network.

use crate::lab::{Kind, Lab, PUBLIC, PUBLIC_V6};
use crate::{Algorithm, Coturn, Kamailio, Launch, Process, World};

/// Which one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signalling {
    /// `sipbox hub`.
    Hub,
    /// The same, spoken to over TCP.
    HubOverTcp,
    /// Kamailio.
    Kamailio,
}

/// A running one, with the users alice and bob.
pub enum Registrar {
    /// It runs as long as it is held.
    Hub(Process),
    /// The same.
    HubOverTcp(Process),
    /// The same.
    Kamailio(Kamailio),
}

impl Registrar {
    /// Starts one in the public network of a lab.
    pub fn start(world: &World, lab: &Lab, signalling: Signalling) -> Registrar {
        match signalling {
            Signalling::Kamailio => {
                Registrar::Kamailio(Kamailio::start_in(world, lab, Algorithm::Sha256, &["alice", "bob"]))
            }
            Signalling::Hub => Registrar::Hub(Registrar::hub(world, lab, &[])),
            Signalling::HubOverTcp => Registrar::HubOverTcp(Registrar::hub(world, lab, &[])),
        }
    }

    /// A hub that is a STUN and TURN server, too, on the usual port of its IPv4 address.
    pub fn start_relaying(world: &World, lab: &Lab) -> Registrar {
        Registrar::Hub(Registrar::hub(world, lab, &["--turn", &format!("{PUBLIC}:3478")]))
    }

    fn hub(world: &World, lab: &Lab, flags: &[&str]) -> Process {
        let users = world.path("users").display().to_string();
        for name in ["alice", "bob"] {
            let add = world.sipbox(&["hub", "user", "--users", &users, "add", name]);
            add.input(format!("{}\n", Kamailio::password(name))).finish().success();
        }
        let (v4, v6) = (format!("{PUBLIC}:5060"), format!("[{PUBLIC_V6}]:5060"));
        let listen = ["hub", "--listen", &v4, "--listen", &v6, "--users", &users];
        let mut hub = world.sipbox(&listen).args(flags).inside(&lab.public).start();
        hub.wait_for_err("sipbox hub: ready");
        hub
    }

    /// The address of record of a user.
    pub fn aor(&self, user: &str) -> String {
        match self {
            Registrar::Hub(_) | Registrar::HubOverTcp(_) => format!("sip:{user}@sipbox.invalid"),
            Registrar::Kamailio(kamailio) => kamailio.aor(user),
        }
    }

    /// Flags of `sipbox run` and `sipbox ping` that lead a user on a host of the lab to the registrar, and to the STUN and TURN server.
    pub fn flags(&self, lab: &Lab, side: usize, user: &str) -> Vec<String> {
        let side = &lab.sides[side];
        let ip = if side.v4.is_some() { PUBLIC.to_string() } else { format!("[{PUBLIC_V6}]") };
        let over_tcp = side.kind == Kind::UdpBlocked || matches!(self, Registrar::HubOverTcp(_));
        let transport = if over_tcp { ";transport=tcp" } else { "" };
        let (registrar, aor) = (format!("sip:{ip}:5060{transport}"), self.aor(user));
        // Where UDP is blocked the relay is spoken to over TCP.
        let over = if side.kind == Kind::UdpBlocked { "?transport=tcp" } else { "" };
        let (stun, turn) = (format!("{ip}:3478"), format!("{}@{ip}:3478{over}", Coturn::USER));
        ["--registrar", &registrar, "--as", &aor, "--stun", &stun, "--turn", &turn].map(str::to_owned).to_vec()
    }

    /// The passwords that go with the flags.
    pub fn with_passwords(launch: Launch, user: &str) -> Launch {
        launch.env("SIPBOX_PASSWORD", Kamailio::password(user)).env("SIPBOX_TURN_PASSWORD", Coturn::PASSWORD)
    }

    /// `sipbox run --trace` of this user on a host of the lab.
    pub fn run(&self, world: &World, lab: &Lab, side: usize, user: &str, flags: &[&str], program: &str) -> Launch {
        let all = self.flags(lab, side, user);
        let all: Vec<&str> = all.iter().map(String::as_str).chain(["--trace"]).chain(flags.iter().copied()).collect();
        Registrar::with_passwords(world.run(&all, program).inside(&lab.sides[side].host), user)
    }
}
