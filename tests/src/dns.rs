//! A real name server: unbound, that knows the records of a test and asks nobody.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use crate::process::{Process, until};
use crate::world::{World, free_port};

/// A running name server.
pub struct Dns {
    process: Process,
    port: u16,
}

impl Dns {
    /// One that knows these records, each as in a zone file with an absolute name: `sip.test. 60 IN A 127.0.0.1`.
    pub fn start(world: &World, records: &[String]) -> Dns {
        Dns::start_on(world, records, free_port())
    }

    /// The same, on a given port (to start one again).
    pub fn start_on(world: &World, records: &[String], port: u16) -> Dns {
        let data: Vec<String> = records.iter().map(|record| format!("  local-data: '{record}'\n")).collect();
        let config = format!(
            "server:\n  do-daemonize: no\n  interface: 127.0.0.1@{port}\n  access-control: 127.0.0.0/8 allow\n  chroot: \"\"\n  \
             username: \"\"\n  pidfile: \"\"\n  use-syslog: no\n  num-threads: 1\n  module-config: \"iterator\"\n  \
             local-zone: \".\" static\n{}remote-control:\n  control-enable: no\n",
            data.concat()
        );
        let config = world.write("unbound.conf", config);
        let mut process = world.native("unbound").arg("-d").arg("-c").arg(config).start();
        until("unbound to answer", || {
            assert!(!process.ended(), "unbound ended:\n{}", process.stderr());
            answers(port).then_some(())
        });
        Dns { process, port }
    }

    /// The value for `--dns`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Stops it and waits for its end.
    pub fn stop(self) {
        self.process.stop();
    }
}

/// Whether something answers a question for `test.` A (RFC 1035 4.1).
fn answers(port: u16) -> bool {
    let question = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x04test\x00\x00\x01\x00\x01";
    let Ok(socket) = UdpSocket::bind("127.0.0.1:0") else { return false };
    let _ = socket.set_read_timeout(Some(Duration::from_millis(200)));
    let mut buffer = [0; 512];
    socket.send_to(question, SocketAddr::from(([127, 0, 0, 1], port))).is_ok() && socket.recv(&mut buffer).is_ok()
}
