#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // helpers of tests, which may fail as tests do
//! Two flows to a registrar (RFC 5626): through two edge proxies, and to two addresses of a hub. One may be lost at any time.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use tests::{Algorithm, Dns, Kamailio, Launch, Process, World, free_port, sip, until, within};

const ANYWHERE: &str = "198.18.0.9";
const LIMIT: Duration = Duration::from_secs(40);

/// A TCP port that leads to another one, until it is cut.
struct Pipe {
    port: u16,
    to: SocketAddr,
    is_cut: Arc<AtomicBool>,
    ends: Arc<Mutex<Vec<TcpStream>>>,
}

impl Pipe {
    fn to(to: SocketAddr) -> Pipe {
        let pipe = Pipe { port: free_port(), to, is_cut: Arc::default(), ends: Arc::default() };
        pipe.open();
        pipe
    }

    /// Opens it, on the same port.
    fn open(&self) {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).unwrap();
        self.is_cut.store(false, Ordering::SeqCst);
        let (to, is_cut, ends) = (self.to, self.is_cut.clone(), self.ends.clone());
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                if is_cut.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(far) = TcpStream::connect(to) else { continue };
                for (mut from, mut into) in [(&near, &far), (&far, &near)].map(|(a, b)| (copy(a), copy(b))) {
                    thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut into);
                        close(&into);
                    });
                }
                ends.lock().unwrap().extend([near, far]);
            }
        });
    }

    /// Ends its connections, and refuses others.
    fn cut(&self) {
        self.is_cut.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        until("the pipe is closed", || TcpStream::connect(("127.0.0.1", self.port)).is_err().then_some(()));
        for end in self.ends.lock().unwrap().drain(..) {
            close(&end);
        }
    }
}

fn copy(stream: &TcpStream) -> TcpStream {
    stream.try_clone().unwrap()
}

fn close(stream: &TcpStream) {
    // It may have ended already.
    let _ = stream.shutdown(std::net::Shutdown::Both);
}

/// A name server by which `sip.test` has two servers.
fn servers(world: &World, transport: &str, ports: [u16; 2]) -> Dns {
    let record = |(n, port)| format!("_sip._{transport}.sip.test. 60 IN SRV {n} 1 {port} one.sip.test.");
    let mut records: Vec<String> = (1..).zip(ports).map(record).collect();
    records.push("one.sip.test. 60 IN A 127.0.0.1".to_owned());
    Dns::start(world, &records)
}

fn serve(launch: Launch, port: &str) -> Process {
    let mut server = launch.arg(port).start();
    server.wait_for("listening on");
    server
}

/// Of two ways to the hub each is cut in turn, and opened again.
#[test]
fn two_addresses_of_a_hub() {
    let world = World::new("outbound-hub");
    let [first, second] = [free_port(), free_port()].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let listen = [first, second].map(|at| at.to_string());
    let mut hub = world.sipbox(&["hub", "--listen", &listen[0], "--listen", &listen[1]]).start();
    hub.wait_for_err("sipbox hub: ready");
    let pipes = [Pipe::to(first), Pipe::to(second)];
    let dns = servers(&world, "tcp", pipes.each_ref().map(|pipe| pipe.port));
    let (dns, aor, port) = (dns.address(), "sip:bob@sipbox.invalid", free_port().to_string());
    let flags = ["--registrar", "sip:sip.test;transport=tcp", "--dns", &dns, "--as", aor, "--ladder"];
    let mut server = serve(world.run(&flags, "static-echo"), &port);
    let both = || {
        let mut contacts = sip::wait_for_bindings(first, aor, 2, LIMIT);
        contacts.sort_by_key(|contact| contact.split("reg-id=").nth(1).map(str::to_owned));
        for (contact, id) in contacts.iter().zip(["reg-id=1", "reg-id=2"]) {
            assert!(contact.contains(id), "{contacts:?}");
        }
    };
    let registrar = format!("sip:{first}");
    let call = || {
        let flags = ["--registrar", &registrar, "--as", "sip:alice@sipbox.invalid", "--to", aor];
        world.run(&flags, "static-client").args([ANYWHERE, &port]).finish().success().says("echo: hello over SIP");
    };
    // What `sipbox status` says of a flow: whether it is up, and whether it is the one in use.
    let shown = |port: u16| {
        let text = world.sipbox(&["status"]).finish().success().stdout;
        let line = text.lines().find(|line| line.contains(&format!(" by tcp at 127.0.0.1:{port} for "))).map(str::trim);
        line.map(|line| (line.starts_with("registered"), !line.contains(", a second flow"), line.to_owned()))
    };
    both();
    until("both flows are shown", || {
        let [first, second] = pipes.each_ref().map(|pipe| shown(pipe.port));
        (first?.1 != second?.1).then_some(())
    });
    call();
    for lost in [&pipes[0], &pipes[1], &pipes[0]] {
        lost.cut();
        sip::wait_for_bindings(first, aor, 1, LIMIT);
        call();
        until("the lost flow is shown", || {
            let (up, in_use, line) = shown(lost.port)?;
            (!up && !in_use && line.contains(", tried again in ")).then_some(())
        });
        let json = world.sipbox(&["status", "--json"]).finish().success().stdout;
        let flow = json.split('{').find(|flow| flow.contains(&format!("\"server\":\"127.0.0.1:{}\"", lost.port)));
        assert!(flow.is_some_and(|flow| flow.contains("\"in_use\":false,\"up\":false,\"since_s\":")), "{json}");
        lost.open();
        both();
        call();
    }
    assert!(!server.ended());
    server.stop();
    sip::wait_for_bindings(first, aor, 0, LIMIT);
}

/// Two Kamailios as edge proxies that keep flows, before a third that is the registrar: each of them ends and starts again.
#[test]
fn two_edge_proxies() {
    for tcp in [false, true] {
        let world = World::new("outbound-edges");
        let registrar = Kamailio::start(&world, Algorithm::Sha256, &["alice", "bob"]);
        let ports = [free_port(), free_port()];
        let edge = |n: usize| registrar.edge_keeping_flows(&world, ports[n]);
        let mut edges = [0, 1].map(|n| Some(edge(n)));
        let transport = if tcp { "tcp" } else { "udp" };
        let dns = servers(&world, transport, ports);
        let (dns, aor, port) = (dns.address(), registrar.aor("bob"), free_port().to_string());
        let uri = format!("sip:sip.test;transport={transport}");
        let flags = ["--registrar", &uri, "--dns", &dns, "--as", &aor, "--ladder"];
        let server = world.run(&flags, "static-echo").env("SIPBOX_PASSWORD", Kamailio::password("bob"));
        let server = serve(server.env("SIPBOX_LOG", "sipcore::user_agent=info"), &port);
        let both = |times: usize| {
            let registered = || (server.stderr().matches("second flow registered").count() >= times).then_some(());
            assert!(within(LIMIT, registered).is_some(), "tcp: {tcp}, {times}:\n{}", server.stderr());
        };
        let call = || {
            let call = registrar.run(&world, tcp, "alice", &["--to", &aor], "static-client").args([ANYWHERE, &port]);
            (call.finish().code() == 0).then_some(())
        };
        both(1);
        until("a call through the edges", call);
        for lost in [0, 1] {
            edges[lost].take().unwrap().stop();
            assert!(within(Duration::from_secs(20), call).is_some(), "edge {lost} lost, tcp: {tcp}");
            edges[lost] = Some(edge(lost));
            // It is recovered, so that the other one may be lost.
            both(2 + lost);
        }
    }
}
