//! What people use today for the same, each with its fastest settings: tunnels between the two hosts of a [`Street`].

use std::fs;
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Duration;

use tests::{Launch, Process, World, certificate, servers, within};

use super::street::{self, FAR, IPERF, NEAR, Shell, Street};

/// Where tests/bench/install.sh puts what it builds.
const PEERS: &str = "/opt/sipbox-tests/peers";
/// A peer that looks for servers of its maker's first needs this long, where there are none.
const READY: Duration = Duration::from_secs(60);

/// A way between the two hosts.
pub struct Tunnel {
    pub shell: Shell,
    /// Where the near host's programs find the far one's.
    pub host: String,
    pub port: u16,
    /// The processes whose time is the tunnel's, with their children or alone.
    ends: Vec<(u32, bool)>,
    /// Ended with it.
    _processes: Vec<Process>,
}

impl Tunnel {
    fn new(street: &Street, host: &str, port: u16, processes: Vec<Process>) -> Tunnel {
        let ends = processes.iter().map(|process| (process.pid(), true)).collect();
        Tunnel { shell: street.shell(), host: host.to_owned(), port, ends, _processes: processes }
    }

    /// None at all.
    pub fn native(street: &Street, port: u16) -> Tunnel {
        Tunnel::new(street, FAR, port, Vec::new())
    }

    /// Both programs under sipbox.
    pub fn sipbox(street: &Street, port: u16, flags: &[&str]) -> Tunnel {
        let far = street.boxed_servers(flags);
        let shell = street.boxed_shell(flags);
        let ends = vec![(far.pid(), false), (shell.process.pid(), false)];
        Tunnel { shell, host: crate::ANYWHERE.to_owned(), port, ends, _processes: vec![far] }
    }

    /// Both programs under supervisors that trap the same calls, and do nothing but carry the bytes: over UDP, in the clear.
    pub fn least(street: &Street, port: u16) -> Tunnel {
        let (world, at) = (&street.world, port.to_string());
        let far = world.native("bench-least").args([FAR, NEAR, &at, "epoll-server", &at]);
        let mut far = street::with_path(world, far).inside(&street.far).start();
        far.wait_for("listening on");
        let near = world.native("bench-least").args([NEAR, FAR, &at, "sh"]).inside(&street.near);
        let mut tunnel = Tunnel::new(street, crate::ANYWHERE, port, vec![far]);
        tunnel.shell = Shell::start(world, near);
        tunnel
    }

    /// Processor time of both ends so far, in seconds.
    pub fn busy(&self) -> f64 {
        let whole = |(pid, children): &(u32, bool)| {
            let below = if *children { tests::descendants(*pid) } else { Vec::new() };
            crate::processor_time(*pid) + below.into_iter().map(crate::processor_time).sum::<f64>()
        };
        self.ends.iter().map(whole).sum()
    }
}

impl Tunnel {
    /// The most memory that one of the ends has had, in KiB.
    pub fn memory(&self) -> f64 {
        let most = |(pid, _): &(u32, bool)| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            crate::number_after(&status, "VmHWM:")
        };
        self.ends.iter().map(most).fold(0.0, f64::max)
    }
}

/// Makes a peer; why there is none.
pub type Make = fn(&Street, u16) -> Result<Tunnel, String>;

fn crate_program(name: &str) -> Result<PathBuf, String> {
    let named = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with(&format!("{name}-"));
    let found = fs::read_dir(PEERS).into_iter().flatten().flatten().filter(named);
    let mut programs: Vec<PathBuf> = found.map(|entry| entry.path().join("bin").join(name)).collect();
    programs.sort();
    programs.pop().filter(|path| path.exists()).ok_or_else(|| format!("tests/bench/install.sh could not build {name}"))
}

fn system_program(name: &str) -> Result<PathBuf, String> {
    let places = ["/usr/sbin", "/usr/bin"].map(|dir| PathBuf::from(dir).join(name));
    places.into_iter().find(|path| path.exists()).ok_or_else(|| format!("{name} is not installed"))
}

fn launch(world: &World, program: &std::path::Path) -> Launch {
    world.native(&program.to_string_lossy())
}

/// Waits until something listens at this port of the near host's loopback.
fn listens(street: &Street, port: u16, mut process: Process) -> Result<Process, String> {
    let mut open = || street.near.enter(|| TcpStream::connect(("127.0.0.1", port))).is_ok() || process.ended();
    let seen = within(READY, || open().then_some(()));
    if seen.is_none() || process.ended() {
        return Err(format!("it does not start: {}", process.stderr().lines().last().unwrap_or_default()));
    }
    Ok(process)
}

/// `ssh -L`.
pub fn ssh(street: &Street, port: u16) -> Result<Tunnel, String> {
    let (world, at) = (&street.world, 2222);
    let server = servers::sshd(world, launch(world, &system_program("sshd")?).inside(&street.far), at);
    let client = launch(world, &system_program("ssh")?)
        .args(servers::ssh_options(world))
        .args(["-N", "-c", "aes128-gcm@openssh.com", "-o", "ExitOnForwardFailure=yes", "-p", &at.to_string()])
        .args(["-L", &format!("127.0.0.1:2000:127.0.0.1:{port}"), &format!("{}@{FAR}", world.user_name())])
        .inside(&street.near);
    let client = listens(street, 2000, client.start())?;
    Ok(Tunnel::new(street, "127.0.0.1", 2000, vec![server, client]))
}

/// stunnel, TLS 1.3.
pub fn stunnel(street: &Street, port: u16) -> Result<Tunnel, String> {
    let (world, program) = (&street.world, system_program("stunnel4")?);
    let (certificate, key) = certificate::issue(world, "stunnel", "DNS:far");
    let authority = certificate::authority(world);
    let common =
        "foreground = yes\npid =\ndebug = err\nsslVersionMin = TLSv1.3\nciphersuites = TLS_AES_128_GCM_SHA256\n";
    let far = format!(
        "{common}[far]\naccept = {FAR}:4433\nconnect = 127.0.0.1:{port}\ncert = {}\nkey = {}\n",
        certificate.display(),
        key.display()
    );
    let near = format!(
        "{common}[near]\nclient = yes\naccept = 127.0.0.1:2001\nconnect = {FAR}:4433\nCAfile = {}\nverifyChain = yes\n\
         checkHost = far\n",
        authority.display()
    );
    let server = launch(world, &program).arg(world.write("far.conf", far)).inside(&street.far).start();
    let client = launch(world, &program).arg(world.write("near.conf", near)).inside(&street.near).start();
    let client = listens(street, 2001, client)?;
    Ok(Tunnel::new(street, "127.0.0.1", 2001, vec![server, client]))
}

/// dumbpipe. The hosts reach nothing but each other, so neither its maker's relays nor its discovery.
pub fn dumbpipe(street: &Street, port: u16) -> Result<Tunnel, String> {
    let (world, program) = (&street.world, crate_program("dumbpipe")?);
    let mut server = launch(world, &program)
        .args(["listen-tcp", "--host", &format!("127.0.0.1:{port}"), "--ipv4-addr", &format!("{FAR}:7777")])
        .inside(&street.far)
        .start();
    let line = server.wait_for_err("dumbpipe connect-tcp ");
    let ticket = line.rsplit(' ').next().unwrap_or_default();
    let client = launch(world, &program).args(["connect-tcp", "--addr", "127.0.0.1:2002", ticket]).inside(&street.near);
    let client = listens(street, 2002, client.start())?;
    Ok(Tunnel::new(street, "127.0.0.1", 2002, vec![server, client]))
}

/// Waits until the far end of a tunnel answers at this address.
fn answers(street: &Street, ip: &str, processes: &mut [Process]) -> Result<(), String> {
    let at = format!("{ip}:{IPERF}").parse().map_err(|e| format!("{ip}: {e}"))?;
    let connect = || TcpStream::connect_timeout(&at, Duration::from_millis(200)).is_ok();
    let answered = within(READY, || {
        let ended = processes.iter_mut().any(Process::ended);
        (street.near.enter(connect) || ended).then_some(!ended)
    });
    if answered == Some(true) {
        return Ok(());
    }
    let said = processes.iter().map(|process| process.stderr() + &process.stdout()).collect::<String>();
    Err(format!("it does not connect: {}", said.lines().last().unwrap_or_default()))
}

/// WireGuard in user space, by boringtun.
pub fn boringtun(street: &Street, port: u16) -> Result<Tunnel, String> {
    let (world, program) = (&street.root, crate_program("boringtun-cli")?);
    let wg = system_program("wg")?;
    let name = |side: &str| format!("sb{}{side}", std::process::id() % 100_000);
    let key = |side: &str| {
        let made = launch(world, &wg).arg("genkey").finish().success().stdout.trim().to_owned();
        let public = launch(world, &wg).arg("pubkey").input(&made).finish().success().stdout.trim().to_owned();
        (world.write_mode(&format!("wg-{side}"), made, 0o600), public)
    };
    let sides = [("a", &street.near, NEAR, FAR, "10.9.1.1"), ("b", &street.far, FAR, NEAR, "10.9.1.2")];
    let keys = [key("a"), key("b")];
    let mut processes = Vec::new();
    for (n, (side, host, _, other, own)) in sides.into_iter().enumerate() {
        let interface = name(side);
        let start =
            launch(world, &program).args(["-f", "--disable-drop-privileges", "-t", "2", &interface]).inside(host);
        processes.push(start.start());
        let ready = within(READY, || {
            host.enter(|| fs::exists(format!("/proc/thread-self/net/dev_snmp6/{interface}"))).ok()?.then_some(())
        });
        ready.ok_or("it makes no interface")?;
        let set = launch(world, &wg)
            .args(["set", &interface, "listen-port", "51820", "private-key"])
            .arg(&keys[n].0)
            .args(["peer", &keys[1 - n].1, "endpoint", &format!("{other}:51820"), "allowed-ips", "10.9.1.0/24"])
            .inside(host);
        let set = set.finish();
        if set.code() != 0 {
            return Err(format!("wg: {}", set.stderr.trim()));
        }
        host.ip(&format!("addr add {own}/24 dev {interface}\nlink set {interface} mtu 1420 up"));
    }
    answers(street, "10.9.1.2", &mut processes)?;
    Ok(Tunnel::new(street, "10.9.1.2", port, processes))
}

/// OpenVPN, TLS 1.3 with AES-128-GCM, without the kernel's part.
pub fn openvpn(street: &Street, port: u16) -> Result<Tunnel, String> {
    let (world, program) = (&street.root, system_program("openvpn")?);
    let sides =
        [("near", &street.near, FAR, ["10.9.2.1", "10.9.2.2"]), ("far", &street.far, NEAR, ["10.9.2.2", "10.9.2.1"])];
    let mut processes = Vec::new();
    for (side, host, other, [own, theirs]) in sides {
        let (certificate, key) = certificate::issue(world, side, &format!("DNS:{side}"));
        let start = launch(world, &program)
            .args(["--dev", "tun", "--disable-dco", "--proto", "udp", "--port", "1194", "--remote", other])
            .args(["--ifconfig", own, theirs, "--cipher", "AES-128-GCM", "--data-ciphers", "AES-128-GCM"])
            .args(["--sndbuf", "4194304", "--rcvbuf", "4194304", "--txqueuelen", "1000", "--verb", "1", "--ca"])
            .arg(certificate::authority(world))
            .arg("--cert")
            .arg(certificate)
            .arg("--key")
            .arg(key);
        let start =
            if side == "far" { start.args(["--tls-server", "--dh", "none"]) } else { start.arg("--tls-client") };
        processes.push(start.inside(host).start());
    }
    answers(street, "10.9.2.2", &mut processes)?;
    Ok(Tunnel::new(street, "10.9.2.2", port, processes))
}

/// Nebula, AES-GCM.
pub fn nebula(street: &Street, port: u16) -> Result<Tunnel, String> {
    let (world, program) = (&street.root, system_program("nebula")?);
    let cert = system_program("nebula-cert")?;
    launch(world, &cert)
        .args(["ca", "-name", "bench", "-out-crt", "nebula-ca.crt", "-out-key", "nebula-ca.key"])
        .finish()
        .success();
    let mut processes = Vec::new();
    for (side, host, own) in [("near", &street.near, "10.9.3.1"), ("far", &street.far, "10.9.3.2")] {
        let sign =
            launch(world, &cert).args(["sign", "-ca-crt", "nebula-ca.crt", "-ca-key", "nebula-ca.key", "-name", side]);
        sign.args([
            "-ip",
            &format!("{own}/24"),
            "-out-crt",
            &format!("{side}.nb"),
            "-out-key",
            &format!("{side}.nbkey"),
        ])
        .finish()
        .success();
        let config = format!(
            "pki: {{ca: nebula-ca.crt, cert: {side}.nb, key: {side}.nbkey}}\n\
             static_host_map: {{\"10.9.3.2\": [\"{FAR}:4242\"], \"10.9.3.1\": [\"{NEAR}:4242\"]}}\n\
             lighthouse: {{am_lighthouse: false}}\nlisten: {{host: 0.0.0.0, port: 4242, read_buffer: 4194304, write_buffer: 4194304}}\n\
             cipher: aes\ntun: {{dev: nebula, tx_queue: 1000, mtu: 1300}}\n\
             firewall: {{outbound: [{{port: any, proto: any, host: any}}], inbound: [{{port: any, proto: any, host: any}}]}}\n"
        );
        let config = world.write(&format!("{side}.yml"), config);
        processes.push(launch(world, &program).arg("-config").arg(config).inside(host).start());
    }
    answers(street, "10.9.3.2", &mut processes)?;
    Ok(Tunnel::new(street, "10.9.3.2", port, processes))
}
