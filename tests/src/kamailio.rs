//! A real registrar and proxy: Kamailio with digest authentication, on a port of its own, for one world.

use std::net::SocketAddr;

use crate::certificate;
use crate::lab::{Lab, Namespace, PUBLIC, PUBLIC_V6};
use crate::process::{Launch, Process, until};
use crate::sip;
use crate::world::{World, free_port};

/// The domain that the test Kamailio is responsible for.
const DOMAIN: &str = "sipbox.test";

/// The digest algorithm that it challenges with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// RFC 2617.
    Md5,
    /// RFC 8760.
    Sha256,
}

/// A running Kamailio; it ends with its world, or when dropped.
pub struct Kamailio {
    process: Process,
    at: SocketAddr,
    tls_port: Option<u16>,
}

impl Kamailio {
    /// Starts one that knows these users; the password of `NAME` is `NAME-secret`. It has memory for the transactions of a few
    /// hundred calls a second: with the usual 32 MiB it answers 500 when they come at once.
    pub fn start(world: &World, algorithm: Algorithm, users: &[&str]) -> Kamailio {
        Kamailio::start_on(world, algorithm, users, free_port())
    }

    /// The same, on a given port (to start one again).
    pub fn start_on(world: &World, algorithm: Algorithm, users: &[&str], port: u16) -> Kamailio {
        let at = SocketAddr::from(([127, 0, 0, 1], port));
        Kamailio::launch(world, "kamailio", &Kamailio::configured(algorithm, users, &[at]), at, None)
    }

    /// The same in the public network of a lab, on the usual port of its first IPv4 and IPv6 addresses.
    pub fn start_in(world: &World, lab: &Lab, algorithm: Algorithm, users: &[&str]) -> Kamailio {
        let at = SocketAddr::from((PUBLIC, 5060));
        let config = Kamailio::configured(algorithm, users, &[at, SocketAddr::from((PUBLIC_V6, 5060))]);
        Kamailio::launch(world, "kamailio", &config, at, Some(&lab.public))
    }

    /// The same, and it tells those who register of a TURN server: the value of a Link header (RFC 8288).
    pub fn start_with_relay(world: &World, lab: &Lab, users: &[&str], relay: &str) -> Kamailio {
        let at = SocketAddr::from((PUBLIC, 5060));
        let config = Kamailio::configured(Algorithm::Sha256, users, &[at])
            .replace("#!KAMAILIO\n", "#!KAMAILIO\n#!define WITH_RELAY\n")
            .replace("@RELAY@", &relay.replace('"', "\\\""));
        Kamailio::launch(world, "kamailio", &config, at, Some(&lab.public))
    }

    /// The same, with the media of every session led through the lab's rtpengine, as session border controllers do.
    pub fn start_sbc(world: &World, lab: &Lab, algorithm: Algorithm, users: &[&str]) -> Kamailio {
        let at = SocketAddr::from((PUBLIC, 5060));
        let config = Kamailio::configured(algorithm, users, &[at])
            .replace("#!KAMAILIO\n", "#!KAMAILIO\n#!define WITH_SBC\n")
            .replace("@RTPENGINE@", &format!("udp:{PUBLIC}:{}", crate::rtpengine::CONTROL));
        Kamailio::launch(world, "kamailio", &config, at, Some(&lab.public))
    }

    /// One that speaks TLS too, with a certificate of the world's authority for these names (`subjectAltName` as openssl writes it). With
    /// `client_certificate` it takes only clients that have one of the same authority.
    pub fn start_tls(world: &World, users: &[&str], names: &str, client_certificate: bool) -> Kamailio {
        let [at, tls] = [free_port(), free_port()].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        certificate::issue(world, "kamailio", names);
        let config = Kamailio::configured(Algorithm::Sha256, users, &[at])
            .replace("#!KAMAILIO\n", "#!KAMAILIO\n#!define WITH_TLS\n")
            .replace("enable_tls=yes\n", &format!("enable_tls=yes\nlisten=tls:{tls}\n"))
            .replace("@DIRECTORY@", &world.dir().display().to_string())
            .replace("@CLIENT_CERTIFICATE@", if client_certificate { "1" } else { "0" });
        Kamailio { tls_port: Some(tls.port()), ..Kamailio::launch(world, "kamailio", &config, at, None) }
    }

    /// One that is a presence server too, on a given port. Like the bindings, what is published and who watches is gone when it ends.
    pub fn start_presence(world: &World, users: &[&str], port: u16) -> Kamailio {
        Kamailio::start_server(world, users, port, "#!KAMAILIO\n#!define WITH_PRESENCE\n")
    }

    /// One that tells who is registered what becomes of the registration (RFC 3680).
    pub fn start_telling_registrations(world: &World, users: &[&str]) -> Kamailio {
        Kamailio::start_server(world, users, free_port(), "#!KAMAILIO\n#!define WITH_PRESENCE\n#!define WITH_REG\n")
    }

    /// The same, and it keeps one contact a name: the next takes the place of the one before.
    pub fn start_with_one_contact(world: &World, users: &[&str]) -> Kamailio {
        let defined = "#!KAMAILIO\n#!define WITH_PRESENCE\n#!define WITH_REG\n#!define WITH_ONE_CONTACT\n";
        Kamailio::start_server(world, users, free_port(), defined)
    }

    /// One that serves its users as an IMS core does: it tells them by which way their requests have to come (RFC 3608), who they are (P-Associated-URI),
    /// and what becomes of their registrations, without saying that it does.
    pub fn start_like_ims(world: &World, users: &[&str]) -> Kamailio {
        let defined = "#!KAMAILIO\n#!define WITH_PRESENCE\n#!define WITH_REG\n#!define WITH_IMS\n";
        Kamailio::start_server(world, users, free_port(), defined)
    }

    /// One whose users may be called and watched by those of other domains, without a password.
    pub fn start_with_guests(world: &World, users: &[&str]) -> Kamailio {
        Kamailio::start_server(world, users, free_port(), "#!KAMAILIO\n#!define WITH_PRESENCE\n#!define WITH_GUESTS\n")
    }

    /// The same, and it speaks TLS with a certificate of the world's authority for its domain. Its users may call those of other domains.
    pub fn start_with_guests_by_tls(world: &World, users: &[&str]) -> Kamailio {
        let tls = SocketAddr::from(([127, 0, 0, 1], free_port()));
        certificate::issue(world, "kamailio", &format!("URI:sip:{DOMAIN}"));
        let defined = format!(
            "#!KAMAILIO\n#!define WITH_PRESENCE\n#!define WITH_GUESTS\n#!define WITH_HOSTS\n#!define WITH_TLS\nlisten=tls:{tls}\n"
        );
        Kamailio { tls_port: Some(tls.port()), ..Kamailio::start_server(world, users, free_port(), &defined) }
    }

    fn start_server(world: &World, users: &[&str], port: u16, defined: &str) -> Kamailio {
        /// The tables that the modules look for.
        const TABLES: [&str; 6] = ["version", "presentity", "active_watchers", "watchers", "xcap", "pua"];
        let at = SocketAddr::from(([127, 0, 0, 1], port));
        world.make_dir("presence-db", 0o700);
        for table in TABLES {
            let empty = std::path::Path::new("/usr/share/kamailio/dbtext/kamailio").join(table);
            let text = std::fs::read(&empty).unwrap_or_else(|e| panic!("{}: {e}", empty.display()));
            world.write(&format!("presence-db/{table}"), text);
        }
        let config = Kamailio::configured(Algorithm::Sha256, users, &[at])
            .replace("#!KAMAILIO\n", defined)
            .replace("@DIRECTORY@", &world.dir().display().to_string())
            .replace("@CLIENT_CERTIFICATE@", "0")
            .replace("@ADDRESS@", &at.to_string());
        Kamailio::launch(world, "kamailio", &config, at, None)
    }

    /// One whose users may watch those of other domains.
    pub fn start_with_neighbours(world: &World, users: &[&str]) -> Kamailio {
        let at = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let config = Kamailio::configured(Algorithm::Sha256, users, &[at])
            .replace("#!KAMAILIO\n", "#!KAMAILIO\n#!define WITH_NEIGHBOURS\n");
        Kamailio::launch(world, "kamailio", &config, at, None)
    }

    /// One for loads, and its process: with `open` it asks for no passwords.
    pub fn start_bench(world: &World, users: &[&str], open: bool) -> (SocketAddr, Process) {
        let at = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let mut config = Kamailio::configured(Algorithm::Md5, users, &[at]);
        if open {
            let asks = "\tif (!pv_www_authenticate(";
            assert!(config.contains("\troute(WHO_CALLS);\n") && config.contains(asks));
            config = config.replace("\troute(WHO_CALLS);\n", "").replace(asks, "\tif (0 && !pv_www_authenticate(");
            config = config.replace("\tif ($au != $tU) {", "\tif (0) {");
        }
        let kamailio = Kamailio::launch(world, "kamailio", &config, at, None);
        (at, kamailio.process)
    }

    /// Its port for TLS.
    pub fn tls_port(&self) -> u16 {
        self.tls_port.unwrap_or_else(|| panic!("this Kamailio speaks no TLS"))
    }

    fn configured(algorithm: Algorithm, users: &[&str], addresses: &[SocketAddr]) -> String {
        let algorithm = match algorithm {
            Algorithm::Md5 => "MD5",
            Algorithm::Sha256 => "SHA-256",
        };
        let table: Vec<String> =
            users.iter().map(|u| format!("\t$sht(password=>{u}) = \"{}\";", Kamailio::password(u))).collect();
        let listen: Vec<String> = addresses.iter().map(|at| format!("listen=udp:{at}\nlisten=tcp:{at}")).collect();
        include_str!("../kamailio/kamailio.cfg")
            .replace("@LISTEN@", &listen.join("\n"))
            .replace("@DOMAIN@", DOMAIN)
            .replace("@ALGORITHM@", algorithm)
            .replace("@USERS@", &table.join("\n"))
    }

    /// A second Kamailio before this one: a proxy through which all requests of its users go to it and come from it (RFC 3327).
    pub fn edge(&self, world: &World) -> Kamailio {
        let port = free_port();
        let config = include_str!("../kamailio/edge.cfg")
            .replace("@PORT@", &port.to_string())
            .replace("@REGISTRAR@", &self.port().to_string());
        Kamailio::launch(world, "edge", &config, SocketAddr::from(([127, 0, 0, 1], port)), None)
    }

    /// The same on a given port, and it sends to its users on the flows that they have registered on (RFC 5626).
    pub fn edge_keeping_flows(&self, world: &World, port: u16) -> Kamailio {
        let config = include_str!("../kamailio/edge.cfg")
            .replace("#!KAMAILIO\n", "#!KAMAILIO\n#!define WITH_FLOWS\n")
            .replace("@PORT@", &port.to_string())
            .replace("@REGISTRAR@", &self.port().to_string());
        Kamailio::launch(world, &format!("edge-{port}"), &config, SocketAddr::from(([127, 0, 0, 1], port)), None)
    }

    fn launch(world: &World, name: &str, config: &str, at: SocketAddr, inside: Option<&Namespace>) -> Kamailio {
        let config = world.write(&format!("{name}.cfg"), config);
        let dir = world.make_dir(name, 0o755);
        let mut launch = world.native("kamailio").arg("-f").arg(config);
        launch = launch.args(["-DD", "-E", "-m", "2048", "-M", "16", "-Y"]).arg(&dir).arg("-w").arg(&dir);
        if let Some(namespace) = inside {
            launch = launch.inside(namespace);
        }
        let mut process = launch.start();
        until("Kamailio to answer", || {
            assert!(!process.ended(), "Kamailio ended:\n{}", process.stderr());
            inside.map_or_else(|| sip::answers(at), |namespace| namespace.enter(|| sip::answers(at))).then_some(())
        });
        Kamailio { process, at, tls_port: None }
    }

    /// Removes all that a user has registered, as its operator does. Only of one that tells registrations.
    pub fn remove(&self, world: &World, user: &str) {
        self.operate(world, &["ul.rm", "location", user]);
    }

    /// All that is registered at it. Only of one that tells registrations.
    pub fn bindings(&self, world: &World) -> String {
        self.operate(world, &["ul.dump"])
    }

    fn operate(&self, world: &World, command: &[&str]) -> String {
        let socket = format!("unix:{}/kamailio.ctl", world.dir().display());
        world.native("kamcmd").args(["-s", &socket]).args(command).finish().success().stdout
    }

    /// Where it listens, by UDP and TCP.
    pub fn address(&self) -> SocketAddr {
        self.at
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.at.port()
    }

    /// The value for `--registrar`.
    pub fn registrar(&self, tcp: bool) -> String {
        format!("sip:{}{}", self.address(), if tcp { ";transport=tcp" } else { "" })
    }

    /// The address of record of a user.
    pub fn aor(&self, user: &str) -> String {
        format!("sip:{user}@{DOMAIN}")
    }

    /// The password of a user.
    pub fn password(user: &str) -> String {
        format!("{user}-secret")
    }

    /// `sipbox run --registrar ... --as USER FLAGS -- PROGRAM` with the user's password.
    pub fn run(&self, world: &World, tcp: bool, user: &str, flags: &[&str], program: &str) -> Launch {
        let (registrar, aor) = (self.registrar(tcp), self.aor(user));
        let mut all = vec!["--registrar", &registrar, "--as", &aor];
        all.extend(flags);
        world.run(&all, program).env("SIPBOX_PASSWORD", Kamailio::password(user))
    }

    /// Stops it and waits for its end.
    pub fn stop(self) {
        self.process.stop();
    }
}
