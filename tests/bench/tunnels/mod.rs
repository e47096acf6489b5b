//! Encrypted flows between two hosts against what people use today for the same, and against a bare cable: in two network namespaces, in one
//! run, in turns. The two programs and both ends of every tunnel share this machine's processors.

mod first;
mod peers;
mod street;

use tests::servers::json_number;

use crate::{Goal, ROUNDS, Table, median, number_after};
use peers::{Make, Tunnel};
use street::{ECHO, IPERF, STREAMS, Street};

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
    if !names.iter().any(|name| table.wants(name)) {
        return;
    }
    let Some(street) = Street::new("bench-stream") else {
        return table.note(names[0], "network namespaces need root");
    };
    let _servers = street.servers();
    let mut native = Measured::new("no tunnel", Ok(Tunnel::native(&street, IPERF)));
    let mut quic = Measured::new("QUIC", Ok(Tunnel::sipbox(&street, IPERF, &["--flow", "quic"])));
    let mut tls = Measured::new("TLS", Ok(Tunnel::sipbox(&street, IPERF, &["--flow", "tls"])));
    let theirs: [(&str, Make); 3] =
        [("dumbpipe", peers::dumbpipe), ("ssh -L", peers::ssh), ("stunnel", peers::stunnel)];
    let mut theirs = theirs.map(|(name, make)| Measured::new(name, make(&street, IPERF)));
    for _ in 0..ROUNDS {
        native.measure(one_stream);
        for theirs in &mut theirs {
            theirs.measure(one_stream);
        }
        quic.measure(one_stream);
        tls.measure(one_stream);
    }
    let [dumbpipe, ssh, stunnel] = &theirs;
    let (speed, cost) = (|v: (f64, f64)| v.0, |v: (f64, f64)| v.1);
    table.row(names[0], "Gbit/s", &dumbpipe.of(speed), &quic.of(speed), Goal::AtLeast(1.3));
    table.row("  (processor time of both ends)", "s/GB", &dumbpipe.of(cost), &quic.of(cost), Goal::AtMost(1.0));
    for way in [ssh, stunnel, &native] {
        table.row(&format!("  (against {})", way.name), "Gbit/s", &way.of(speed), &quic.of(speed), Goal::None);
        table.row("  (processor time)", "s/GB", &way.of(cost), &quic.of(cost), Goal::None);
    }
    let (of_best, costs_best) =
        best(&[ssh, stunnel], speed).map_or_else(Default::default, |way| (way.of(speed), way.of(cost)));
    table.row(names[1], "Gbit/s", &of_best, &tls.of(speed), Goal::AtLeast(1.2));
    table.row("  (processor time of both ends)", "s/GB", &costs_best, &tls.of(cost), Goal::AtMost(1.0));
    table.row("  (against no tunnel)", "Gbit/s", &native.of(speed), &tls.of(speed), Goal::None);
    for way in theirs.iter().chain([&quic, &tls, &native]) {
        way.says_why_not(table);
    }
}

/// Thousands of datagrams a second that are tried.
const RATES: [u32; 20] = [5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 120, 140, 160, 180, 200, 220, 240, 270, 300];
/// Their length.
const BYTES: u32 = 1200;

/// How many thousand datagrams a second arrive, but for less than one of a hundred.
fn clean(tunnel: &mut Tunnel) -> Result<f64, String> {
    let (mut low, mut high) = (0, RATES.len());
    while low < high {
        let middle = (low + high) / 2;
        // Once more, if the machine was busy.
        if is_clean(tunnel, RATES[middle])? || is_clean(tunnel, RATES[middle])? {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(low.checked_sub(1).map_or(0.0, |n| f64::from(RATES[n])))
}

fn is_clean(tunnel: &mut Tunnel, rate: u32) -> Result<bool, String> {
    let bits = u64::from(rate) * 1000 * u64::from(BYTES) * 8;
    let command = format!("iperf3 -c {} -p {} -u -l {BYTES} -b {bits} -w 2M -t 2 -J", tunnel.host, tunnel.port);
    let report = tunnel.shell.run(&command)?;
    let (sent, lost) = (json_number(&report, "sum", "packets"), json_number(&report, "sum", "lost_packets"));
    let seconds = json_number(&report, "sum", "seconds");
    Ok(lost < sent / 100.0 && sent >= 0.97 * f64::from(rate) * 1000.0 * seconds)
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
    for _ in 0..ROUNDS {
        for theirs in &mut theirs {
            theirs.measure(clean);
        }
        quic.measure(clean);
    }
    let ours = quic.of(|v| v);
    let all: Vec<&Measured<f64>> = theirs.iter().collect();
    let most = best(&all, |v| v).map_or_else(Vec::new, |way| way.of(|v| v));
    table.row(name, "kpps", &most, &ours, Goal::AtLeast(1.01));
    table.row("  (less than 1 % lost)", "kpps", &[], &ours, Goal::From(60.0));
    for way in &theirs {
        table.row(&format!("  (against {})", way.name), "kpps", &way.of(|v| v), &ours, Goal::None);
        way.says_why_not(table);
    }
    quic.says_why_not(table);
}

/// Connections one after the other.
const CONNECTS: u32 = 200;

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
    for way in [&mut quic, &mut ssh] {
        // The session stands.
        way.measure(|tunnel| one(tunnel, 1));
        way.values.clear();
    }
    let mut messages = Vec::new();
    for _ in 0..ROUNDS {
        native.measure(|tunnel| one(tunnel, CONNECTS));
        ssh.measure(|tunnel| one(tunnel, CONNECTS));
        let said =
            |way: &Measured<f64>| way.tunnel.as_ref().map_or(0, |tunnel| sip_messages(&tunnel.shell.process.stderr()));
        let before = said(&quic);
        quic.measure(|tunnel| one(tunnel, CONNECTS));
        messages.push((said(&quic) - before) as f64);
    }
    table.row(name, "us", &ssh.of(|v| v), &quic.of(|v| v), Goal::AtMost(1.0));
    table.row("  (SIP messages between the first and the last)", "", &[], &messages, Goal::Below(0.0));
    table.row("  (against no tunnel)", "us", &native.of(|v| v), &quic.of(|v| v), Goal::None);
    for way in [&quic, &ssh] {
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
