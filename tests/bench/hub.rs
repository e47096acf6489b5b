//! The hub against Kamailio: the same scenarios by SIPp on the same machine, in turns, each with two workers.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use tests::{Kamailio, Launch, Process, World, free_port, sip};

use crate::{Goal, ROUNDS, Table};

/// Users whose registrations the load renews.
const USERS: usize = 100;
/// SIPps that share the load of a server, so that neither of them is at its end before it.
const LOADS: usize = 2;
/// Bytes that wait for SIPp in its socket: what it loses itself comes again after half a second, and is nobody's speed.
const SIPP_BUFFER: &str = "2000000";
/// Registrations, calls and contacts of one measurement.
const REGISTRATIONS: usize = 20_000;
const CALLS: usize = 10_000;
/// Of them at once.
const AT_ONCE: usize = 100;
const CONTACTS: usize = 50_000;
const LONG: Duration = Duration::from_secs(200);

/// One of the two servers.
pub struct Server {
    pub at: SocketAddr,
    pub domain: &'static str,
    /// Of the server alone, with its children.
    pub process: Process,
}

impl Server {
    pub fn start(world: &World, ours: bool, open: bool, accounts: &[String]) -> Server {
        Server::start_with(world, ours, open, accounts, &[])
    }

    /// With further flags for the hub.
    pub fn start_with(world: &World, ours: bool, open: bool, accounts: &[String], more: &[&str]) -> Server {
        if !ours {
            let names: Vec<&str> = accounts.iter().map(String::as_str).collect();
            let (kamailio, process) = Kamailio::start_bench(world, &names, open);
            return Server { at: kamailio, domain: "sipbox.test", process };
        }
        let at = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let users = world.path("users").display().to_string();
        let listen = at.to_string();
        let mut flags = vec!["hub", "--listen", &listen, "--rate", "0"];
        flags.extend(more);
        if !open {
            for name in accounts {
                let add = world.sipbox(&["hub", "user", "--users", &users, "add", name]);
                add.input(format!("{}\n", Kamailio::password(name))).finish().success();
            }
            // SIPp knows MD5 only, and gives up when it is offered anything else.
            let kept = fs::read_to_string(&users).unwrap_or_else(|e| panic!("{users}: {e}"));
            let md5: String =
                kept.lines().filter(|line| line.contains(":MD5:")).map(|line| format!("{line}\n")).collect();
            world.write_mode("users", md5, 0o600);
            flags.extend(["--users", &users]);
        }
        let mut process = world.sipbox(&flags).start();
        process.wait_for_err("sipbox hub: ready");
        Server { at, domain: "sipbox.invalid", process }
    }

    /// All processes of the server.
    fn processes(&self) -> Vec<u32> {
        let mut all = tests::descendants(self.process.pid());
        all.push(self.process.pid());
        all
    }

    /// Its memory, what processes share counted once, in KiB.
    pub fn memory(&self) -> f64 {
        let pss = |pid: u32| {
            let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
            text.lines()
                .find_map(|l| l.strip_prefix("Pss:")?.trim().strip_suffix(" kB")?.parse::<f64>().ok())
                .unwrap_or(0.0)
        };
        self.processes().into_iter().map(pss).sum()
    }

    /// Its processor time so far.
    fn busy(&self) -> Duration {
        Duration::from_secs_f64(self.processes().into_iter().map(crate::processor_time).sum())
    }
}

fn sipp(world: &World, server: &Server, scenario: &str, values: &str) -> Launch {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("sipp").join(scenario);
    let text = fs::read(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let (file, values) = (world.write(scenario, text), world.write(&format!("{scenario}.csv"), values));
    world
        .native("sipp")
        .arg(server.at.to_string())
        .arg("-sf")
        .arg(file)
        .arg("-inf")
        .arg(values)
        .args(["-i", "127.0.0.1", "-nostdin", "-buff_size", SIPP_BUFFER, "-trace_err", "-error_file"])
        .arg(world.path(&format!("{scenario}.err")))
        .cwd(world.dir())
}

/// So many in all, as fast as it goes, and at most a few at once: the server sets the pace.
fn at_once(load: Launch, count: usize, at_once: usize) -> Launch {
    let (count, at_once) = (count.to_string(), at_once.to_string());
    load.args(["-m", &count, "-r", "100000", "-l", &at_once, "-timeout", "60s", "-timeout_error"])
}

/// How often a second, and processor time of the server for each in microseconds.
type Pace = (f64, f64);

/// `count` in all, by several SIPps that start together.
fn measure(server: &Server, loads: Vec<Launch>, count: usize) -> Pace {
    let share = loads.len();
    let (busy, start) = (server.busy(), Instant::now());
    let loads: Vec<Process> =
        loads.into_iter().map(|load| at_once(load, count / share, AT_ONCE / share).start()).collect();
    for load in loads {
        load.wait_within(LONG).success();
    }
    let (took, busy) = (start.elapsed(), server.busy() - busy);
    (count as f64 / took.as_secs_f64(), busy.as_secs_f64() * 1e6 / count as f64)
}

/// Kamailio's values and the hub's, in turns.
fn in_turns<T>(mut measure: impl FnMut(bool) -> T) -> (Vec<T>, Vec<T>) {
    (0..ROUNDS).map(|_| (measure(false), measure(true))).unzip()
}

fn rates(table: &mut Table, name: &str, unit: &str, (theirs, ours): (Vec<Pace>, Vec<Pace>)) {
    let of = |values: &[Pace], which: fn(&Pace) -> f64| -> Vec<f64> { values.iter().map(which).collect() };
    table.row(name, unit, &of(&theirs, |v| v.0), &of(&ours, |v| v.0), Goal::AtLeast(1.0));
    table.row(
        "  (processor time of the server for each)",
        "us",
        &of(&theirs, |v| v.1),
        &of(&ours, |v| v.1),
        Goal::None,
    );
}

pub fn rows(table: &mut Table) {
    let accounts: Vec<String> = (0..USERS).map(|n| format!("user{n}")).collect();
    let name = "REGISTER with digest, hub / Kamailio";
    if table.wants(name) {
        rates(
            table,
            name,
            "1/s",
            in_turns(|ours| {
                let world = World::new("bench-register");
                let server = Server::start(&world, ours, false, &accounts);
                let line = |user: &String| {
                    format!(
                        "{user};[authentication username={user} password={}];{}\n",
                        Kamailio::password(user),
                        server.domain
                    )
                };
                let values = format!("SEQUENTIAL\n{}", accounts.iter().map(line).collect::<String>());
                let agents = (0..LOADS).map(|_| sipp(&world, &server, "bench-register.xml", &values)).collect();
                measure(&server, agents, REGISTRATIONS)
            }),
        );
    }
    let name = "INVITE-200-ACK-BYE, hub / Kamailio";
    if table.wants(name) {
        rates(
            table,
            name,
            "1/s",
            in_turns(|ours| {
                let world = World::new("bench-call");
                let server = Server::start(&world, ours, true, &accounts);
                let values = format!("SEQUENTIAL\n{}\n", server.domain);
                let port = free_port();
                let called = sipp(&world, &server, "bench-called.xml", &values).args(["-p", &port.to_string()]).start();
                tests::until("SIPp's port", || tests::has_udp_socket(port).then_some(()));
                let socket = sip::socket();
                let from = socket.local_addr().unwrap_or_else(|e| panic!("the address of a UDP socket: {e}"));
                let aor = format!("sip:called@{}", server.domain);
                let contact = format!("Contact: <sip:called@127.0.0.1:{port}>\r\nExpires: 600\r\n");
                let register = sip::request("REGISTER", &format!("sip:{}", server.domain), &aor, from, &contact);
                let answer = sip::ask(server.at, &register, &socket).unwrap_or_else(|| panic!("no answer to REGISTER"));
                assert_eq!(sip::status(&answer), 200, "{answer}");
                let callers = (0..LOADS).map(|_| sipp(&world, &server, "bench-call.xml", &values)).collect();
                let value = measure(&server, callers, CALLS);
                called.stop();
                value
            }),
        );
    }
    let name = "memory of a registered contact, hub / Kamailio";
    if table.wants(name) {
        let (theirs, ours) = in_turns(|ours| {
            let world = World::new("bench-contacts");
            let server = Server::start(&world, ours, true, &accounts);
            let values = format!("SEQUENTIAL\n{}\n", server.domain);
            let before = server.memory();
            // On a connection: as datagrams every request is remembered for half a minute more (timer J).
            let load = sipp(&world, &server, "bench-bind.xml", &values).args(["-t", "t1"]);
            at_once(load, CONTACTS, AT_ONCE).finish_within(LONG).success();
            (server.memory() - before) / CONTACTS as f64
        });
        table.row(name, "KiB", &theirs, &ours, Goal::AtMost(1.0));
    }
}
