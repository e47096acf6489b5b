#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // helpers of tests, which may fail as tests do
//! SIP agents of others at a hub, and with programs under sipbox: baresip and sipsak.

use std::io::Write;
use std::net::{SocketAddr, TcpStream, UdpSocket};

use tests::{Launch, Process, World, free_port, sip, until};

const PASSWORD: &str = "their-password";

/// A hub with users, at which agents that know MD5 alone are let in.
struct Scene {
    world: World,
    port: u16,
    _hub: Process,
}

impl Scene {
    fn new(name: &str, users: &[&str], flags: &[&str]) -> Scene {
        let world = World::new(name);
        let port = free_port();
        let file = world.path("users").display().to_string();
        for user in users {
            let add = world.sipbox(&["hub", "user", "--users", &file, "add", user]);
            add.input(format!("{PASSWORD}\n")).finish().success();
        }
        let listen = format!("127.0.0.1:{port}");
        let with_users = ["--users", file.as_str(), "--digest-md5"];
        let mut hub = world.sipbox(&["hub", "--listen", &listen]).args(flags);
        if !users.is_empty() {
            hub = hub.args(with_users);
        }
        let mut hub = hub.start();
        hub.wait_for_err("sipbox hub: ready");
        Scene { world, port, _hub: hub }
    }

    fn at(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    fn run(&self, aor: &str, flags: &[&str], program: &str) -> Launch {
        let registrar = format!("sip:127.0.0.1:{}", self.port);
        let flags = [&["--registrar", &registrar, "--as", aor], flags].concat();
        self.world.run(&flags, program).env("SIPBOX_PASSWORD", PASSWORD)
    }

    /// baresip as `bare`, with one contact, and the port on which it is told what to do.
    fn baresip(&self, contact: &str) -> (Process, u16) {
        let (sip, console) = (free_port(), free_port());
        self.world.make_dir("baresip", 0o755);
        // Two codecs and no sound: enough to make a call.
        let config = format!(
            "sip_listen 127.0.0.1:{sip}\naudio_player aubridge,nil\naudio_source aubridge,nil\naudio_alert aubridge,nil\n\
             cons_listen 127.0.0.1:{console}\nmodule_path /usr/lib/baresip/modules\nmodule cons.so\nmodule g711.so\n\
             module aubridge.so\nmodule_tmp account.so\nmodule_app contact.so\nmodule_app menu.so\nmodule_app presence.so\n"
        );
        self.world.write("baresip/config", config);
        let account = format!(
            "<sip:bare@sipbox.invalid>;auth_user=bare;auth_pass={PASSWORD};outbound=\"sip:{}\";regint=60;pubint=60\n",
            self.at()
        );
        self.world.write("baresip/accounts", account);
        self.world.write("baresip/contacts", format!("\"Contact\" <{contact}>;presence=p2p\n"));
        let baresip = self.world.native("baresip").args(["-s", "-f"]).arg(self.world.path("baresip")).start();
        (baresip, console)
    }
}

/// It registers with a password, publishes that it is there, watches a program that comes and goes, and is told why it cannot talk to it.
#[test]
fn baresip_registers_watches_and_calls() {
    let bob = "sip:bob@sipbox.invalid";
    let scene = Scene::new("agents-baresip", &["bare", "bob"], &[]);
    let (mut baresip, console) = scene.baresip(bob);
    baresip.wait_for("200 OK (sipbox/");
    assert_eq!(sip_bindings(&scene, "sip:bare@sipbox.invalid"), 401, "nobody else reads them");
    let mut server = scene.run(bob, &["--publish", "Bob's world"], "static-echo").arg("7000").start();
    server.wait_for("listening on");
    baresip.wait_for("<note>Bob&apos;s world</note>");
    let registrar = format!("sip:127.0.0.1:{}", scene.port);
    until("baresip is shown", || {
        let peers = scene.world.sipbox(&["peers", "--registrar", &registrar, "--as", bob, "bare"]);
        let shown = peers.env("SIPBOX_PASSWORD", PASSWORD).finish().stdout;
        shown.lines().any(|line| line.starts_with("bare ") && line.contains("sip:bare@sipbox.invalid")).then_some(())
    });
    let mut keys = until("baresip's console", || TcpStream::connect(("127.0.0.1", console)).ok());
    keys.write_all(format!("/dial {bob}\n").as_bytes()).unwrap();
    baresip.wait_for("session closed: 488 Not Acceptable Here");
    let warning = baresip.wait_for("Warning: 305 ");
    assert!(warning.contains('"'), "{warning}");
    server.stop();
    changed_to(&baresip, bob, "Offline");
    let mut server = scene.run(bob, &["--publish", "again"], "static-echo").arg("7000").start();
    server.wait_for("listening on");
    changed_to(&baresip, bob, "Online");
    // Its end is told to the hub.
    baresip.stop();
}

/// Waits until the last change that baresip has told of a contact is to this status.
fn changed_to(baresip: &Process, contact: &str, status: &str) {
    let head = format!("<{contact}> changed status from ");
    until(&format!("{contact} is {status}"), || {
        let out = baresip.stdout();
        let last = out.lines().rfind(|line| line.starts_with(&head))?;
        last.split(" to ").nth(1)?.contains(status).then_some(())
    });
}

/// The status of a REGISTER that asks for bindings without a password.
fn sip_bindings(scene: &Scene, aor: &str) -> u16 {
    let socket = sip::socket();
    let request = sip::request("REGISTER", "sip:sipbox.invalid", aor, socket.local_addr().unwrap(), "");
    sip::status(&sip::ask(scene.at(), &request, &socket).unwrap())
}

/// `sipsak`, which takes the port of a server from a flag only (of a URI it loses the last digit), and by itself wants
/// the name of this machine to have an address.
fn sipsak(scene: &Scene, args: &[&str]) -> Launch {
    scene.world.native("sipsak").args(["-vv", "-i", "-H", "localhost", "-r", &scene.port.to_string()]).args(args)
}

/// OPTIONS to a hub and, through it, to a program's agent; REGISTER, and what becomes of calls to who is gone.
#[test]
fn sipsak_asks_a_hub_and_a_program() {
    let scene = Scene::new("agents-sipsak", &[], &["--domain", "localhost"]);
    sipsak(&scene, &["-s", "sip:localhost"]).finish().success().says("SIP/2.0 200");
    let mut server = scene.run("sip:bob@localhost", &[], "static-echo").arg("7000").start();
    server.wait_for("listening on");
    let answer = sipsak(&scene, &["-s", "sip:bob@localhost"]).finish().success();
    for said in ["SIP/2.0 200 OK", "Allow: INVITE", "Accept: application/sdp", "replaces", ";gr=urn:uuid:"] {
        assert!(answer.stdout.contains(said), "no {said:?} in\n{}", answer.stdout);
    }
    // Where it says it is, the hub finds it.
    let eve = UdpSocket::bind("127.0.0.1:0").unwrap();
    let contact = format!("sip:eve@{}", eve.local_addr().unwrap());
    sipsak(&scene, &["-U", "-C", &contact, "-x", "60", "-s", "sip:eve@localhost"])
        .finish()
        .success()
        .says("completed successful");
    let bound = sip::bindings(scene.at(), "sip:eve@localhost");
    assert!(bound.len() == 1 && bound[0].contains(&contact), "{bound:?}");
    server.stop();
    sipsak(&scene, &["-s", "sip:bob@localhost"]).finish().says("SIP/2.0 480");
}

/// A password, by MD5.
#[test]
fn sipsak_registers_with_a_password() {
    let scene = Scene::new("agents-password", &["eve"], &["--domain", "localhost"]);
    let register = |password: &str| {
        let user = ["-U", "-C", "sip:eve@127.0.0.1:5999", "-x", "60", "-s", "sip:eve@localhost", "-u", "eve", "-a"];
        sipsak(&scene, &user).arg(password).finish()
    };
    register(PASSWORD).success().says("completed successful");
    let refused = register("a guess");
    assert!(refused.code() != 0 && !refused.stdout.contains("successful"), "{}", refused.stdout);
}
