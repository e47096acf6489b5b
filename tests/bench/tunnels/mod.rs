//! Encrypted flows between two hosts against what people use today for the same, and against a bare cable: in two network namespaces, in one
//! run, in turns. The two programs and both ends of every tunnel share this machine's processors.

mod first;
mod peers;
mod street;

use tests::servers::json_number;

use crate::{Goal, ROUNDS, Table, median, number_after};
use peers::{Make, Tunnel};
use street::{ECHO, IPERF, LEAST, STREAMS, Street};

/// One way, and its values; or why there are none.
struct Measured<T> {
    name: &'static str,
    tunnel: Result<Tunnel, String>,
    values: Vec<T>,
}

impl<T: Copy> Measured<T> {
    fn new(name: &'static str, tunnel: Result<Tunnel, String>) -> Measured<T> {
        Measured { name, tunnel, values: Vec::new() }
    }

    fn of(&self, which: impl Fn(T) -> f64) -> Vec<f64> {
        self.values.iter().map(|value| which(*value)).collect()
    }

    /// One more value. A way that fails is given up, and says why.
    fn measure(&mut self, how: impl Fn(&mut Tunnel) -> Result<T, String>) {
        if let Ok(tunnel) = &mut self.tunnel {
            match how(tunnel) {
                Ok(value) => self.values.push(value),
                Err(why) => {
                    self.values.clear();
                    self.tunnel = Err(why);
                }
            }
        }
    }

    fn says_why_not(&self, table: &mut Table) {
        if let Err(why) = &self.tunnel {
            table.note(&format!("  ({})", self.name), why);
        }
    }
}

pub fn rows(table: &mut Table) {
    stream(table);
    udp(table);
    connects(table);
    many(table);
    first::row(table);
}

/// The best of some, by their medians.
fn best<'a, T: Copy>(ways: &'a [&'a Measured<T>], which: fn(T) -> f64) -> Option<&'a Measured<T>> {
    let value = |way: &&&Measured<T>| median(&way.of(which)).unwrap_or(0.0);
    ways.iter().filter(|way| !way.values.is_empty()).max_by(|a, b| value(a).total_cmp(&value(b))).copied()
}

/// A second's bits of one TCP stream, and the processor time of the tunnel's two ends for each gigabyte.
fn one_stream(tunnel: &mut Tunnel) -> Result<(f64, f64), String> {
    let before = tunnel.busy();
    let command = format!("iperf3 -c {} -p {} -t 3 -J", tunnel.host, tunnel.port);
    let report = tunnel.shell.run(&command)?;
    let busy = tunnel.busy() - before;
    let bytes = json_number(&report, "sum_received", "bytes");
    Ok((json_number(&report, "sum_received", "bits_per_second") / 1e9, busy / (bytes / 1e9)))
}

fn stream(table: &mut Table) {
    let names = ["one TCP stream over QUIC / dumbpipe", "one TCP stream over TLS / best of ssh -L, stunnel"];
    let [wants_quic, wants_tls] = names.map(|name| table.wants(name));
    if !wants_quic && !wants_tls {
        return;
    }
    let Some(street) = Street::new("bench-stream") else {
        return table.note(names[0], "network namespaces need root");
    };
    let _servers = street.servers();
    let mut ways = vec![Measured::new("no tunnel", Ok(Tunnel::native(&street, IPERF)))];
    ways.extend([
        Measured::new("ssh -L", peers::ssh(&street, IPERF)),
        Measured::new("stunnel", peers::stunnel(&street, IPERF)),
    ]);
    if wants_quic {
        ways.push(Measured::new("dumbpipe", peers::dumbpipe(&street, IPERF)));
        ways.push(Measured::new("QUIC", Ok(Tunnel::sipbox(&street, IPERF, &["--flow", "quic"]))));
    }
    if wants_tls {
        ways.push(Measured::new("TLS", Ok(Tunnel::sipbox(&street, IPERF, &["--flow", "tls"]))));
    }
    for _ in 0..ROUNDS {
        ways.iter_mut().for_each(|way| way.measure(one_stream));
    }
    let of = |name: &str| ways.iter().find(|way| way.name == name).filter(|way| !way.values.is_empty());
    let speed = |way: Option<&Measured<(f64, f64)>>| way.map_or_else(Vec::new, |way| way.of(|v| v.0));
    let cost = |way: Option<&Measured<(f64, f64)>>| way.map_or_else(Vec::new, |way| way.of(|v| v.1));
    let both_ends = "  (processor time of both ends)";
    if wants_quic {
        let (quic, dumbpipe) = (of("QUIC"), of("dumbpipe"));
        table.row(names[0], "Gbit/s", &speed(dumbpipe), &speed(quic), Goal::AtLeast(1.3));
        table.row(both_ends, "s/GB", &cost(dumbpipe), &cost(quic), Goal::AtMost(1.0));
        for name in ["ssh -L", "stunnel", "no tunnel"] {
            table.row(&format!("  (against {name})"), "Gbit/s", &speed(of(name)), &speed(quic), Goal::None);
            // Without a tunnel there is none to take time.
            if name != "no tunnel" {
                table.row("  (processor time)", "s/GB", &cost(of(name)), &cost(quic), Goal::None);
            }
        }
    }
    if wants_tls {
        let theirs: Vec<_> = ["ssh -L", "stunnel"].into_iter().filter_map(of).collect();
        let (tls, best) = (of("TLS"), best(&theirs, |v| v.0));
        table.row(names[1], "Gbit/s", &speed(best), &speed(tls), Goal::AtLeast(1.2));
        table.row(both_ends, "s/GB", &cost(best), &cost(tls), Goal::AtMost(1.0));
        for name in ["ssh -L", "stunnel", "no tunnel"] {
            table.row(&format!("  (against {name})"), "Gbit/s", &speed(of(name)), &speed(tls), Goal::None);
        }
    }
    for way in &ways {
        way.says_why_not(table);
    }
}

/// Thousands of datagrams a second that are tried: this many, and each time a twentieth more.
const SLOWEST: f64 = 5.0;
const STEP: f64 = 1.05;
const STEPS: i32 = 90;
/// Their length.
const BYTES: u32 = 1200;
/// How often the most that gets through is looked for.
const SEARCHES: usize = 3;
/// Thousands of datagrams a second at which the processor time of each is taken: every tunnel carries them.
const STEADY: f64 = 60.0;

/// How many thousand datagrams a second arrive, but for less than one of a hundred.
fn clean(tunnel: &mut Tunnel) -> Result<f64, String> {
    let rate = |step: i32| SLOWEST * STEP.powi(step);
    let (mut low, mut high) = (0, STEPS);
    while low < high {
        let middle = i32::midpoint(low, high);
        // Once more, if the machine was busy.
        if is_clean(tunnel, rate(middle))? || is_clean(tunnel, rate(middle))? {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(if low == 0 { 0.0 } else { rate(low - 1) })
}

/// Sends so many thousand a second for two seconds: how many went out, were lost, and in which time.
fn send(tunnel: &mut Tunnel, rate: f64) -> Result<(f64, f64, f64), String> {
    let bits = rate * 1000.0 * f64::from(BYTES) * 8.0;
    let command = format!("iperf3 -c {} -p {} -u -l {BYTES} -b {bits:.0} -w 2M -t 2 -J", tunnel.host, tunnel.port);
    let report = tunnel.shell.run(&command)?;
    let of = |what: &str| json_number(&report, "sum", what);
    Ok((of("packets"), of("lost_packets"), of("seconds")))
}

fn is_clean(tunnel: &mut Tunnel, rate: f64) -> Result<bool, String> {
    let (sent, lost, seconds) = send(tunnel, rate)?;
    Ok(lost < sent / 100.0 && sent >= 0.97 * rate * 1000.0 * seconds)
}

/// The most that gets through, and the microseconds of processor time that the tunnel's two ends take for a datagram.
fn most_and_cost(tunnel: &mut Tunnel) -> Result<(f64, f64), String> {
    let before = tunnel.busy();
    let (sent, ..) = send(tunnel, STEADY)?;
    let cost = (tunnel.busy() - before) * 1e6 / sent;
    Ok((clean(tunnel)?, cost))
}

fn udp(table: &mut Table) {
    let name = "UDP 1200 B, clean up to: QUIC / best VPN";
    if !table.wants(name) {
        return;
    }
    let Some(street) = Street::new("bench-udp") else {
        return table.note(name, "network namespaces need root");
    };
    let _servers = street.servers();
    let mut quic = Measured::new("QUIC", Ok(Tunnel::sipbox(&street, IPERF, &["--flow", "quic"])));
    let theirs: [(&str, Make); 3] =
        [("nebula", peers::nebula), ("boringtun", peers::boringtun), ("openvpn", peers::openvpn)];
    let mut theirs = theirs.map(|(name, make)| Measured::new(name, make(&street, IPERF)));
    for _ in 0..SEARCHES {
        for theirs in &mut theirs {
            theirs.measure(most_and_cost);
        }
        quic.measure(most_and_cost);
    }
    let (rate, cost) = (|v: (f64, f64)| v.0, |v: (f64, f64)| v.1);
    let ours = quic.of(rate);
    let all: Vec<_> = theirs.iter().collect();
    let most = best(&all, rate).map_or_else(Vec::new, |way| way.of(rate));
    table.row(name, "kpps", &most, &ours, Goal::AtLeast(1.01));
    table.row("  (less than 1 % lost)", "kpps", &[], &ours, Goal::From(60.0));
    for way in &theirs {
        table.row(&format!("  (against {})", way.name), "kpps", &way.of(rate), &ours, Goal::None);
        table.row("  (processor time of both ends, of each)", "us", &way.of(cost), &quic.of(cost), Goal::None);
        way.says_why_not(table);
    }
    quic.says_why_not(table);
}

/// Connections one after the other, and how often: they take so little time that what else the machine does is seen in them.
const CONNECTS: u32 = 200;
const TIMES: usize = 12 * ROUNDS;

fn connects(table: &mut Table) {
    let name = "connect, echo, close in a session / ssh -L";
    if !table.wants(name) {
        return;
    }
    let Some(street) = Street::new("bench-latency") else {
        return table.note(name, "network namespaces need root");
    };
    let _servers = street.servers();
    let one = |tunnel: &mut Tunnel, count: u32| -> Result<f64, String> {
        let report = tunnel.shell.run(&format!("bench-connects {} {} {count}", tunnel.host, tunnel.port))?;
        Ok(number_after(&report, "whole "))
    };
    let mut quic = Measured::new("QUIC", Ok(Tunnel::sipbox(&street, ECHO, &["--flow", "quic", "--ladder"])));
    let mut ssh = Measured::new("ssh -L", peers::ssh(&street, ECHO));
    let mut native = Measured::new("no tunnel", Ok(Tunnel::native(&street, ECHO)));
    let mut least = Measured::new("the least", Ok(Tunnel::least(&street, LEAST)));
    for way in [&mut quic, &mut ssh] {
        // The session stands.
        way.measure(|tunnel| one(tunnel, 1));
        way.values.clear();
    }
    let mut messages = Vec::new();
    for _ in 0..TIMES {
        native.measure(|tunnel| one(tunnel, CONNECTS));
        ssh.measure(|tunnel| one(tunnel, CONNECTS));
        least.measure(|tunnel| one(tunnel, CONNECTS));
        let said =
            |way: &Measured<f64>| way.tunnel.as_ref().map_or(0, |tunnel| sip_messages(&tunnel.shell.process.stderr()));
        let before = said(&quic);
        quic.measure(|tunnel| one(tunnel, CONNECTS));
        messages.push((said(&quic) - before) as f64);
    }
    table.row(name, "us", &ssh.of(|v| v), &quic.of(|v| v), Goal::AtMost(1.0));
    table.row("  (SIP messages between the first and the last)", "", &[], &messages, Goal::Below(0.0));
    table.row("  (against trapped calls and UDP in the clear)", "us", &least.of(|v| v), &quic.of(|v| v), Goal::None);
    table.row("  (against no tunnel)", "us", &native.of(|v| v), &quic.of(|v| v), Goal::None);
    for way in [&quic, &ssh, &least] {
        way.says_why_not(table);
    }
}

/// The messages that `--ladder` has shown.
fn sip_messages(ladder: &str) -> usize {
    ladder.lines().filter(|line| line.contains("-->") || line.contains("<--")).count()
}

/// Streams at once.
const MANY: u32 = 1000;

fn many(table: &mut Table) {
    let name = "1,000 TCP streams in a session: slowest / mean";
    if !table.wants(name) {
        return;
    }
    let Some(street) = Street::new("bench-many") else {
        return table.note(name, "network namespaces need root");
    };
    let mut quic = Measured::new("QUIC", Ok(Tunnel::sipbox(&street, STREAMS, &["--flow", "quic"])));
    for _ in 0..ROUNDS {
        quic.measure(|tunnel| {
            let command = format!("bench-streams {} {} {MANY} 8", tunnel.host, tunnel.port);
            let report = tunnel.shell.run(&command)?;
            let (all, slowest, mean) =
                (number_after(&report, "all "), number_after(&report, "slowest "), number_after(&report, "mean "));
            Ok((all * 8.0 / 8.0 / 1e9, slowest, mean, tunnel.memory() / 1024.0))
        });
    }
    table.row(name, "MB", &quic.of(|v| v.2 / 1e6), &quic.of(|v| v.1 / 1e6), Goal::AtLeast(0.5));
    table.row("  (all of them)", "Gbit/s", &[], &quic.of(|v| v.0), Goal::None);
    table.row("  (most memory of an end, writers never pause)", "MiB", &[], &quic.of(|v| v.3), Goal::Below(MEMORY));
    quic.says_why_not(table);
}

/// What 1,000 streams may take with all that is under way in them: 100 KiB each and the windows of the connection.
const MEMORY: f64 = 200.0;
