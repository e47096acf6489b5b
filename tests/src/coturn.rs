//! A real STUN and TURN server: coturn, in the public network of a lab.

use crate::certificate;
use crate::lab::{Lab, PUBLIC, PUBLIC_OTHER, PUBLIC_V6, PUBLIC_V6_OTHER};
use crate::process::Process;
use crate::world::World;

/// Its port, UDP and TCP.
const PORT: u16 = 3478;

/// How it knows its users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accounts {
    /// A name and a password (RFC 8489 9.2).
    LongTerm,
    /// Names with an expiry, passwords made from them and a secret that it shares with who hands them out.
    Secret,
}

/// A running coturn; it ends with its world, or when dropped. It answers on two addresses of each family, and tells mapping and filtering
/// (RFC 5780).
pub struct Coturn {
    process: Process,
}

impl Coturn {
    /// The user.
    pub const USER: &str = "tester";
    /// The user's password.
    pub const PASSWORD: &str = "relayed-secret";
    /// With [`Accounts::Secret`].
    pub const SECRET: &str = "shared-secret";

    /// Its port for TLS.
    pub const TLS_PORT: u16 = 5349;

    /// Starts one.
    pub fn start(world: &World, lab: &Lab, accounts: Accounts) -> Coturn {
        Coturn::launch(world, lab, accounts, &[])
    }

    /// The same, which speaks TLS too, with a certificate of the world's authority for these names (`subjectAltName` as openssl writes it).
    pub fn start_tls(world: &World, lab: &Lab, names: &str) -> Coturn {
        let (certificate, key) = certificate::issue(world, "coturn", names);
        let (certificate, key) = (certificate.display().to_string(), key.display().to_string());
        let port = Coturn::TLS_PORT.to_string();
        let flags = ["--cert", &certificate, "--pkey", &key, "--tls-listening-port", &port];
        Coturn::launch(world, lab, Accounts::LongTerm, &flags)
    }

    /// The same, with users of one's own: `-u NAME:PASSWORD` for each.
    pub fn start_for(world: &World, lab: &Lab, users: &[&str]) -> Coturn {
        Coturn::launch(world, lab, Accounts::LongTerm, &[&["--no-tls"], users].concat())
    }

    fn launch(world: &World, lab: &Lab, accounts: Accounts, more: &[&str]) -> Coturn {
        let dir = world.make_dir("coturn", 0o755);
        let mut launch =
            world.native("turnserver").inside(&lab.public).args(["-n", "-v", "--simple-log", "-l", "stdout"]);
        for address in
            [PUBLIC.to_string(), PUBLIC_OTHER.to_string(), PUBLIC_V6.to_string(), PUBLIC_V6_OTHER.to_string()]
        {
            launch = launch.args(["-L", &address]);
        }
        launch = launch.args(["-E", &PUBLIC.to_string(), "-E", &PUBLIC_V6.to_string(), "-p", &PORT.to_string()]);
        launch = launch.args(["--min-port", "50000", "--max-port", "50999", "-m", "1", "-r", "relay.test"]);
        launch = launch.args(["--no-dtls", "--no-cli", "--no-multicast-peers", "-b"]).arg(dir.join("db"));
        launch = if more.is_empty() { launch.arg("--no-tls") } else { launch.args(more) };
        launch = launch.arg("--pidfile").arg(dir.join("pid"));
        launch = match accounts {
            Accounts::LongTerm => launch.args(["-a", "-u", &format!("{}:{}", Coturn::USER, Coturn::PASSWORD)]),
            Accounts::Secret => launch.args(["--use-auth-secret", &format!("--static-auth-secret={}", Coturn::SECRET)]),
        };
        let mut process = launch.start();
        process.wait_for(&format!("TCP listener opened on : {PUBLIC}:{PORT}"));
        Coturn { process }
    }

    /// What it has written so far: a line for each session, allocation and permission.
    pub fn log(&self) -> String {
        self.process.stdout()
    }

    /// Stops it and waits for its end.
    pub fn stop(self) {
        self.process.stop();
    }
}
