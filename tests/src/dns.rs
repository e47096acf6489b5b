//! A real name server: unbound, that knows the records of a test and asks nobody.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use crate::lab::{Lab, Namespace, PUBLIC};
use crate::process::{Process, until};
use crate::world::{World, free_port};

/// A running name server.
pub struct Dns {
    process: Process,
    at: SocketAddr,
}

impl Dns {
    /// One that knows these records, each as in a zone file with an absolute name: `sip.test. 60 IN A 127.0.0.1`.
    pub fn start(world: &World, records: &[String]) -> Dns {
        Dns::start_on(world, records, free_port())
    }

    /// The same in the public network of a lab; its address is the lab's first.
    pub fn start_in(world: &World, lab: &Lab, records: &[String]) -> Dns {
        Dns::launch(world, records, "", SocketAddr::from((PUBLIC, 5353)), Some(&lab.public))
    }

    /// The same, and it never answers questions for one name, as some do with names that they do not like.
    pub fn start_dropping(world: &World, lab: &Lab, records: &[String], name: &str) -> Dns {
        let dropping = format!("  local-zone: \"{name}\" deny\n");
        Dns::launch(world, records, &dropping, SocketAddr::from((PUBLIC, 5353)), Some(&lab.public))
    }

    /// The same, on a given port (to start one again).
    pub fn start_on(world: &World, records: &[String], port: u16) -> Dns {
        Dns::launch(world, records, "", SocketAddr::from(([127, 0, 0, 1], port)), None)
    }

    fn launch(world: &World, records: &[String], zones: &str, at: SocketAddr, place: Option<&Namespace>) -> Dns {
        let data: Vec<String> = records.iter().map(|record| format!("  local-data: '{record}'\n")).collect();
        let config = format!(
            "server:\n  do-daemonize: no\n  interface: {}@{}\n  access-control: 0.0.0.0/0 allow\n  chroot: \"\"\n  \
             username: \"\"\n  pidfile: \"\"\n  use-syslog: no\n  num-threads: 1\n  module-config: \"iterator\"\n  \
             local-zone: \".\" static\n{zones}{}remote-control:\n  control-enable: no\n",
            at.ip(),
            at.port(),
            data.concat()
        );
        let config = world.write("unbound.conf", config);
        let launch = world.native("unbound").arg("-d").arg("-c").arg(config);
        let mut process = match place {
            Some(place) => launch.inside(place).start(),
            None => launch.start(),
        };
        until("unbound to answer", || {
            assert!(!process.ended(), "unbound ended:\n{}", process.stderr());
            let answers = match place {
                Some(place) => place.enter(|| answers(at)),
                None => answers(at),
            };
            answers.then_some(())
        });
        Dns { process, at }
    }

    /// The value for `--dns`.
    pub fn address(&self) -> String {
        self.at.to_string()
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.at.port()
    }

    /// Stops it and waits for its end.
    pub fn stop(self) {
        self.process.stop();
    }
}

/// Whether something answers a question for `test.` A (RFC 1035 4.1).
fn answers(at: SocketAddr) -> bool {
    let question = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x04test\x00\x00\x01\x00\x01";
    let Ok(socket) = UdpSocket::bind((at.ip(), 0)) else { return false };
    let _ = socket.set_read_timeout(Some(Duration::from_millis(200)));
    let mut buffer = [0; 512];
    socket.send_to(question, at).is_ok() && socket.recv(&mut buffer).is_ok()
}
