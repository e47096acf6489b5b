#![forbid(unsafe_code)]
//! The table that `make bench` prints: sipbox against native and against others, measured in turns in one run, medians. Nothing is asserted: the
//! machine may be busy with other things, which is why every ratio has both of its sides from the same minutes.
//!
//! `sipbox-bench [WORD]...` measures only the rows whose name contains one of the words.

mod calls;
mod channels;
mod datagrams;
mod hub;
mod loopback;
mod registrations;
mod tunnels;

use std::io::Write as _;
use std::time::Duration;

use tests::{Launch, Process, World, free_port, servers};

/// How often each side is measured.
const ROUNDS: usize = 5;
/// Any address leads to the peer of `--to`.
const ANYWHERE: &str = "198.18.0.9";
const LONG: Duration = Duration::from_secs(120);

/// What a row has to reach.
#[derive(Clone, Copy)]
enum Goal {
    /// The ratio at least.
    AtLeast(f64),
    /// The ratio at most.
    AtMost(f64),
    /// The value of sipbox at most, in the row's unit.
    Below(f64),
    /// The value of sipbox at least.
    From(f64),
    /// Shown for comparison.
    None,
}

struct Table {
    only: Vec<String>,
    rows: usize,
}

impl Table {
    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|w| name.contains(w.as_str()))
    }

    /// One row. `native` is what the ratio is taken against, where there is one.
    fn row(&mut self, name: &str, unit: &str, native: &[f64], sipbox: &[f64], goal: Goal) {
        let (base, value) = (median(native), median(sipbox));
        let ratio = base.and_then(|b| value.map(|v| v / b));
        let (wanted, reached) = match (goal, ratio, value) {
            (Goal::AtLeast(g), Some(r), _) => (format!("ratio >= {g}"), Some(r >= g)),
            (Goal::AtMost(g), Some(r), _) => (format!("ratio <= {g}"), Some(r <= g)),
            (Goal::Below(g), _, Some(v)) => (format!("<= {g} {unit}"), Some(v <= g)),
            (Goal::From(g), _, Some(v)) => (format!(">= {g} {unit}"), Some(v >= g)),
            _ => (String::new(), None),
        };
        let number = |v: Option<f64>| v.map_or_else(String::new, |v| format!("{v:.2}"));
        let verdict = match reached {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "",
        };
        self.head();
        println!(
            "{name:<44} {unit:>8} {:>12} {:>12} {:>8}  {wanted:<16} {verdict:<8} {}",
            number(base),
            number(value),
            number(ratio),
            spread(sipbox)
        );
        let _ = std::io::stdout().flush();
    }

    /// A row of words: what could not be measured, and why.
    fn note(&mut self, name: &str, why: &str) {
        self.head();
        println!("{name:<44} not measured: {}", why.trim());
        let _ = std::io::stdout().flush();
    }

    fn head(&mut self) {
        if self.rows == 0 {
            println!(
                "{:<44} {:>8} {:>12} {:>12} {:>8}  {:<16} {:<8} spread of sipbox",
                "", "unit", "other", "sipbox", "ratio", "goal", "reached"
            );
        }
        self.rows += 1;
    }
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        n if n % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

fn spread(values: &[f64]) -> String {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if values.len() < 2 { String::new() } else { format!("{low:.2} .. {high:.2} of {}", values.len()) }
}

/// The number that follows a word in a text.
fn number_after(text: &str, word: &str) -> f64 {
    let rest = text.split_once(word).map_or("", |(_, r)| r).trim_start();
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    rest[..end].parse().unwrap_or_else(|_| panic!("no number after {word:?} in\n{text}"))
}

fn main() {
    let mut table = Table { only: std::env::args().skip(1).collect(), rows: 0 };
    iperf(&mut table);
    redis(&mut table);
    calls::rows(&mut table);
    datagrams::rows(&mut table);
    loopback::rows(&mut table);
    startup(&mut table);
    connects(&mut table);
    memory(&mut table);
    waiting(&mut table);
    tunnels::rows(&mut table);
    channels::rows(&mut table);
    hub::rows(&mut table);
    registrations::rows(&mut table);
}

/// Both sides of a pair: natively, or under sipbox with the names `peer` and none.
struct Side<'a> {
    world: &'a World,
    boxed: bool,
}

impl Side<'_> {
    fn server(&self, program: &str) -> Launch {
        self.server_with(&[], program)
    }

    fn client(&self, program: &str) -> Launch {
        self.client_with(&[], program)
    }

    /// With further flags for sipbox.
    fn server_with(&self, flags: &[&str], program: &str) -> Launch {
        self.launch("--as", flags, program)
    }

    fn client_with(&self, flags: &[&str], program: &str) -> Launch {
        self.launch("--to", flags, program)
    }

    fn launch(&self, role: &str, flags: &[&str], program: &str) -> Launch {
        if !self.boxed {
            return self.world.native(program);
        }
        let all: Vec<&str> = flags.iter().copied().chain([role, "peer"]).collect();
        self.world.run(&all, program)
    }

    fn address(&self) -> &'static str {
        if self.boxed { ANYWHERE } else { "127.0.0.1" }
    }
}

/// Measures in turns: native, sipbox, native, ...
fn in_turns(world: &World, mut measure: impl FnMut(&Side) -> f64) -> (Vec<f64>, Vec<f64>) {
    let (mut native, mut sipbox) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        native.push(measure(&Side { world, boxed: false }));
        sipbox.push(measure(&Side { world, boxed: true }));
    }
    (native, sipbox)
}

fn iperf(table: &mut Table) {
    let name = "iperf3, one TCP stream";
    if !table.wants(name) {
        return;
    }
    let world = World::new("bench-iperf");
    let (native, sipbox) = in_turns(&world, |side| {
        let port = free_port();
        let server = servers::iperf(side.server("iperf3"), port);
        let client =
            side.client("iperf3").args(["-c", side.address(), "-p", &port.to_string(), "-t", "3", "-O", "1", "-J"]);
        let report = client.finish_within(LONG).success().stdout;
        server.wait();
        servers::json_number(&report, "sum_received", "bits_per_second") / 1e9
    });
    table.row(name, "Gbit/s", &native, &sipbox, Goal::AtLeast(0.95));
}

fn redis(table: &mut Table) {
    if !table.wants("redis-benchmark") {
        return;
    }
    let world = World::new("bench-redis");
    // One server a side for the whole time.
    let port = [free_port(), free_port()];
    let _servers: Vec<Process> = [false, true]
        .map(|boxed| {
            let side = Side { world: &world, boxed };
            servers::redis(side.server("redis-server"), port[usize::from(boxed)])
        })
        .into();
    for test in ["GET", "SET"] {
        let (native, sipbox) = in_turns(&world, |side| {
            let port = port[usize::from(side.boxed)].to_string();
            let client = side.client("redis-benchmark").args(["-h", side.address(), "-p", &port]);
            let client = client.args(["-P", "1", "-c", "50", "-n", "100000", "-t", &test.to_lowercase(), "--csv"]);
            let report = client.finish_within(LONG).success().stdout;
            number_after(&report, &format!("\"{test}\",\"")) / 1e3
        });
        table.row(&format!("redis-benchmark -P 1 -c 50, {test}"), "k/s", &native, &sipbox, Goal::AtLeast(0.9));
    }
}

fn startup(table: &mut Table) {
    let name = "sipbox run true, minus true";
    if !table.wants(name) {
        return;
    }
    let world = World::new("bench-startup");
    let (mut native, mut extra) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS * 3 {
        let bare = world.native("true").time().as_secs_f64() * 1e3;
        native.push(bare);
        extra.push(world.run(&[], "true").time().as_secs_f64() * 1e3 - bare);
    }
    table.row(name, "ms", &[], &extra, Goal::Below(15.0));
    table.row("  (true alone)", "ms", &native, &[], Goal::None);
}

fn connects(table: &mut Table) {
    let name = "connect() through the hub, first session";
    if !table.wants(name) {
        return;
    }
    let world = World::new("bench-connects");
    let port = free_port().to_string();
    let mut server = world.run(&["--as", "peer"], "epoll-server").arg(&port).start();
    server.wait_for("listening on");
    let (mut first, mut each) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS * 3 {
        let client = world.run(&["--to", "peer"], "bench-connects").args([ANYWHERE, &port, "20"]);
        let report = client.finish_within(LONG).success().stdout;
        first.push(number_after(&report, "first ") / 1e3);
        each.push(number_after(&report, "median ") / 1e3);
    }
    table.row(name, "ms", &[], &first, Goal::Below(5.0));
    table.row("  (each further session of the same run)", "ms", &[], &each, Goal::None);
}

fn memory(table: &mut Table) {
    let world = World::new("bench-memory");
    let count = 1000.0;
    for (name, args) in [
        ("supervisor memory a socket, 1,000 connected", &["1000", "connected", ANYWHERE][..]),
        ("supervisor memory a socket, 1,000 bound (UDP)", &["1000", "bound"]),
    ] {
        if !table.wants(name) {
            continue;
        }
        let mut each = Vec::new();
        let mut served = Vec::new();
        for _ in 0..ROUNDS {
            let port = free_port().to_string();
            let mut server = world.run(&["--as", "peer"], "hold").args(["serve", &port]).start();
            server.wait_for("listening on");
            let server_before = resident(server.pid());
            let connected = args.contains(&"connected");
            let mut client = world.run(&["--to", "peer"], "hold").args(args).talk();
            if connected {
                client = client.arg(&port);
            }
            let mut client = client.start();
            client.wait_for("holding 0");
            let before = resident(client.pid());
            client.say("now\n");
            client.wait_for("holding 1000");
            each.push((resident(client.pid()) - before) / count);
            if connected {
                served.push((resident(server.pid()) - server_before) / count);
            }
            client.hang_up();
            client.wait();
        }
        table.row(name, "KiB", &[], &each, Goal::Below(20.0));
        if !served.is_empty() {
            table.row("  (the supervisor of the called side)", "KiB", &[], &served, Goal::Below(20.0));
        }
    }
}

/// The resident memory of a process in KiB.
fn resident(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    number_after(&status, "VmRSS:")
}

/// What it costs to look after threads that wait.
fn waiting(table: &mut Table) {
    /// Of one measurement.
    const TIME: Duration = Duration::from_secs(10);
    for threads in ["1", "1000"] {
        let name = format!("supervisor CPU, {threads} in accept()");
        if !table.wants(&name) {
            continue;
        }
        let world = World::new("bench-waiting");
        let mut percent = Vec::new();
        for _ in 0..ROUNDS {
            let mut run = world.run(&[], "bench-waiting").arg(threads).talk().start();
            run.wait_for("waiting");
            // Until all of them do.
            std::thread::sleep(Duration::from_secs(1));
            let before = cpu_seconds(run.pid());
            std::thread::sleep(TIME);
            percent.push((cpu_seconds(run.pid()) - before) / TIME.as_secs_f64() * 100.0);
            run.hang_up();
            run.wait();
        }
        table.row(&name, "% core", &[], &percent, Goal::Below(2.0));
    }
}

/// The CPU time of a process, of all its threads (/proc/PID/schedstat is of one only, and /proc/PID/stat counts ticks).
fn cpu_seconds(pid: u32) -> f64 {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap_or_else(|e| panic!("/proc/{pid}/task: {e}"));
    let nanos = threads.flatten().filter_map(|t| std::fs::read_to_string(t.path().join("schedstat")).ok());
    nanos.filter_map(|s| s.split(' ').next()?.parse::<f64>().ok()).sum::<f64>() / 1e9
}

/// The CPU time of a process in seconds, also of its threads that have ended, in clock ticks of 10 ms (proc_pid_stat(5), fields 14 and 15).
fn processor_time(pid: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = text.rsplit(')').next().unwrap_or_default().split(' ');
    fields.skip(11).take(2).filter_map(|f| f.parse::<f64>().ok()).sum::<f64>() / 100.0
}
