#![forbid(unsafe_code)]
//! Every way out that we know of, tried by a program of `tests/attacks/`: natively, where it must reach what it is after (or it would prove
//! nothing), and under sipbox, as an ordinary user and as root, where it must not. What counts is what the targets saw; the
//! table of it all is `tests/ATTACKS.md` (SIPBOX_UPDATE=1 writes it anew).

use std::fmt::Write as _;
use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use tests::{PATIENCE, Process, World, free_port, within};

/// One way out.
struct Attack {
    program: &'static str,
    name: &'static str,
    /// In a few words.
    what: &'static str,
    /// Who stops it under sipbox.
    stopped_by: &'static str,
    /// Why it cannot reach anything here even without sipbox; empty: it must, natively.
    absent: &'static str,
    /// Others prepare its sockets: only its own words are a proof.
    by_words: bool,
    /// The attack begins outside: the program prepares something and then starts sipbox.
    outside: bool,
    /// Flags of `sipbox run`.
    flags: &'static [&'static str],
    /// A policy file of `sipbox run`; DIR in it is the directory of the targets.
    policy: &'static str,
    /// Why it is none in a network of the program's own.
    apart: &'static str,
    /// Who stops it there, if that is somebody else.
    apart_by: &'static str,
}

const fn attack(program: &'static str, name: &'static str, what: &'static str, stopped_by: &'static str) -> Attack {
    Attack {
        program,
        name,
        what,
        stopped_by,
        absent: "",
        by_words: false,
        outside: false,
        flags: &[],
        policy: "",
        apart: "",
        apart_by: "",
    }
}

impl Attack {
    const fn absent(self, why: &'static str) -> Attack {
        Attack { absent: why, ..self }
    }

    const fn apart(self, why: &'static str) -> Attack {
        Attack { apart: why, ..self }
    }

    const fn apart_by(self, who: &'static str) -> Attack {
        Attack { apart_by: who, ..self }
    }

    const fn by_words(self) -> Attack {
        Attack { by_words: true, ..self }
    }

    const fn with_flags(self, flags: &'static [&'static str]) -> Attack {
        Attack { flags, ..self }
    }

    const fn with_policy(self, policy: &'static str) -> Attack {
        Attack { policy, ..self }
    }

    const fn begun_outside(self) -> Attack {
        Attack { by_words: true, outside: true, ..self }
    }
}

const SUPERVISOR: &str = "the supervisor: its policy";
const FILTER: &str = "the filter";
const UNIX: &str = "the supervisor: no program of this run made that socket";
const GUARD: &str = "the supervisor: keeps the port from others while a socket points to it";
/// Of attacks with the ports of this machine.
const OWN_PORTS: &str = "its ports are not this machine's";
const CREDENTIALS: &str = "the supervisor: names who sent; the kernel";
const LANDLOCK: &str = "Landlock";
const COPY: &str = "the supervisor: reads once, acts on its copy";

const ATTACKS: &[Attack] = &[
    attack("plain", "tcp-connect", "connect() of TCP", SUPERVISOR),
    attack("plain", "tcp-connect-mapped", "connect() of TCP over IPv6, v4-mapped", SUPERVISOR),
    attack("plain", "udp-connect", "connect() of UDP, then send()", SUPERVISOR),
    attack("plain", "udp-sendto", "sendto(): IPv4, v4-mapped, AF_UNSPEC", SUPERVISOR),
    attack("plain", "udp-messages", "sendmsg(), sendmmsg()", SUPERVISOR),
    attack(
        "plain",
        "fast-open",
        "TCP fast open: sendto, sendmsg, sendmmsg, TCP_FASTOPEN_CONNECT",
        "the supervisor; the filter",
    ),
    attack("plain", "to-any", "connect() to 0.0.0.0 and [::]", SUPERVISOR),
    attack("plain", "reconnect", "an association dissolved and made anew", SUPERVISOR),
    attack(
        "ports",
        "port-left-behind",
        "a UDP socket that stays connected to a closed one, whose port a service of this machine gets",
        GUARD,
    )
    .by_words()
    .apart(OWN_PORTS),
    attack("ports", "port-shared", "a UDP port that is shared with a service (SO_REUSEADDR), and closed", GUARD)
        .by_words()
        .apart(OWN_PORTS),
    attack("ports", "port-sent-to", "sendto() of UDP to a port that was closed a moment ago", GUARD)
        .by_words()
        .apart(OWN_PORTS),
    attack(
        "ports",
        "port-waited-for",
        "a connect() of TCP that waits for a full listener, whose port a service of this machine gets",
        GUARD,
    )
    .by_words()
    .apart(OWN_PORTS),
    attack(
        "ports",
        "port-held-back",
        "a datagram of a connected socket that is held back (MSG_MORE) until its peer's port is a service's",
        GUARD,
    )
    .by_words()
    .apart(OWN_PORTS),
    attack("ports", "port-held-back-addressed", "the same by sendto()", GUARD).by_words().apart(OWN_PORTS),
    attack("ports", "port-held-back-corked", "the same by UDP_CORK", GUARD).by_words().apart(OWN_PORTS),
    attack(
        "ports",
        "port-confused",
        "a connected UDP socket whose own port 30,000 others ask for (SO_REUSEADDR, IP_LOCAL_PORT_RANGE)",
        GUARD,
    )
    .by_words()
    .apart(OWN_PORTS),
    attack(
        "plain",
        "untrapped",
        "data calls that are not trapped: write, splice, vmsplice, sendfile, MSG_ZEROCOPY",
        "the kernel: not connected",
    ),
    attack(
        "plain",
        "autobind",
        "a send() that binds a UDP socket by itself, to hear the network",
        "the supervisor: no UDP socket without its address",
    )
    .apart_by("the kernel: it is the wildcard address of the program's own network"),
    attack("plain", "dns", "DNS queries that carry data away", "the supervisor: its own resolver"),
    attack(
        "plain",
        "supervisors-ports",
        "every loopback port of the kernel's list, the supervisor's and other runs' among them",
        SUPERVISOR,
    )
    .apart("the list has the program's own sockets only"),
    attack(
        "plain",
        "steal-address",
        "bind() to addresses of other runs and of this machine",
        "the supervisor: its own address only",
    )
    .apart("the addresses of its loopback are its own"),
    attack("uring", "io-uring", "io_uring: setup, enter, register", FILTER),
    attack(
        "uring",
        "io-uring-inherited",
        "a polled io_uring left open by the parent",
        "the supervisor: closed before exec",
    )
    .begun_outside(),
    attack("abi", "int80-socketcall", "32-bit calls: socketcall()", "the filter kills"),
    attack("abi", "int80-direct", "32-bit calls: socket(), connect()", "the filter kills"),
    attack("abi", "x32", "x32 calls", "the filter kills").absent("CONFIG_X86_X32_ABI is off"),
    attack("families", "raw", "raw IPv4 and IPv6 sockets", FILTER),
    attack("families", "packet", "AF_PACKET, SOCK_PACKET", FILTER),
    attack("families", "netlink", "AF_NETLINK, with netlink = \"deny\"", SUPERVISOR)
        .with_policy("[local]\nnetlink = \"deny\"\n"),
    attack("families", "netlink", "AF_NETLINK", "the supervisor: it answers, with the run's own two interfaces")
        .apart("the interfaces are its own, and no privilege over them comes with them"),
    attack("families", "families", "every family of socket() and socketpair(), every type", FILTER),
    attack("families", "protocols", "MPTCP, SCTP, UDP-Lite, DCCP, SMC, L2TP", FILTER)
        .apart("UDP-Lite is the kernel's there, and leads nowhere"),
    attack("families", "ping", "ICMP echo sockets", FILTER),
    attack(
        "options",
        "device",
        "SO_BINDTODEVICE, SO_BINDTOIFINDEX, SO_MARK, IP_UNICAST_IF",
        "the filter; the supervisor: its policy",
    ),
    attack(
        "options",
        "transparent",
        "IP_TRANSPARENT, IPV6_TRANSPARENT, IP_FREEBIND",
        "the filter; the supervisor: its own address only",
    )
    .apart_by("the filter; the kernel: an address of the program's own network"),
    attack("options", "tcp-repair", "TCP_REPAIR", FILTER),
    attack("options", "source-route", "IP_OPTIONS: loose source routing", FILTER),
    attack("options", "multicast", "groups: joining (IGMP) and sending", "the filter; the supervisor: its policy"),
    attack("options", "broadcast", "SO_BROADCAST and broadcast addresses", SUPERVISOR),
    attack("options", "attach", "SO_ATTACH_REUSEPORT_*", FILTER),
    attack("options", "control", "IP_PKTINFO, IPV6_PKTINFO: another source and interface", SUPERVISOR),
    attack(
        "options",
        "own-pair",
        "a way between own sockets, turned to another interface",
        "the kernel: a loopback source stays here",
    ),
    attack(
        "processes",
        "mem-of-supervisor",
        "/proc/PID/mem of the supervisor",
        "Landlock; the supervisor: not dumpable",
    ),
    attack("processes", "mem-of-others", "/proc/PID/mem of another process", LANDLOCK),
    attack(
        "processes",
        "vm-of-supervisor",
        "process_vm_readv, process_vm_writev, process_madvise: the supervisor",
        FILTER,
    ),
    attack(
        "processes",
        "vm-of-others",
        "process_vm_readv, process_vm_writev, process_madvise: another process",
        FILTER,
    ),
    attack("processes", "trace-supervisor", "ptrace of the supervisor", FILTER),
    attack("processes", "trace-others", "ptrace of another process", FILTER),
    attack(
        "processes",
        "descriptors-of-supervisor",
        "pidfd_getfd, /proc/PID/fd, kcmp: the supervisor",
        "the filter; Landlock",
    ),
    attack(
        "processes",
        "descriptors-of-others",
        "pidfd_getfd, /proc/PID/fd, kcmp: another process",
        "the filter; Landlock",
    ),
    attack(
        "processes",
        "spy",
        "environment, maps, descriptors and root of the supervisor",
        "Landlock; the supervisor: not dumpable",
    ),
    attack(
        "processes",
        "signal-supervisor",
        "kill, tgkill, pidfd_send_signal, rt_sigqueueinfo: the supervisor",
        LANDLOCK,
    ),
    attack("processes", "signal-others", "kill, tgkill, pidfd_send_signal, rt_sigqueueinfo: another process", LANDLOCK),
    attack("processes", "keeper", "memory, descriptors and signals of the keeper", LANDLOCK)
        .apart("there is no keeper"),
    attack("processes", "owner", "F_SETOWN and F_SETSIG: the kernel is asked to signal", LANDLOCK),
    attack("processes", "limits", "prlimit of the supervisor", "the supervisor: a process sets its own limits only"),
    attack("namespaces", "unshare", "unshare, clone, clone3: new user, network and mount namespaces", FILTER),
    attack("namespaces", "setns", "setns into another network namespace", "the filter; Landlock"),
    attack("namespaces", "mount", "mount, fsopen, open_tree, pivot_root, open_by_handle_at", "the filter"),
    attack("namespaces", "tun", "/dev/net/tun: a network interface made of a file", "the kernel: no CAP_NET_ADMIN"),
    attack("namespaces", "interfaces", "interfaces set up by ioctl(), SIOCGSKNS", "the kernel: no CAP_NET_ADMIN"),
    attack("namespaces", "kernel-code", "bpf, modules, kexec, perf_event_open", FILTER),
    attack("namespaces", "keys", "keyctl, add_key, request_key", FILTER),
    attack("namespaces", "faults", "userfaultfd: pages that block the supervisor's reads", FILTER),
    attack("namespaces", "typing", "TIOCSTI, TIOCLINUX: typing into the terminal", FILTER),
    attack(
        "namespaces",
        "privileges",
        "device nodes, and the capabilities that undo a wall",
        "the supervisor: capabilities dropped",
    ),
    attack("unix", "path-stream", "an AF_UNIX stream socket of somebody else", UNIX),
    attack("unix", "path-datagram", "an AF_UNIX datagram socket of somebody else", UNIX),
    attack("unix", "abstract-stream", "an abstract AF_UNIX stream socket", UNIX),
    attack("unix", "abstract-datagram", "an abstract AF_UNIX datagram socket", UNIX),
    attack("unix", "helper", "a daemon that opens sockets for others (SCM_RIGHTS)", UNIX),
    attack("unix", "other-names", "symbolic and hard links to the socket, /proc/self/root", UNIX),
    attack(
        "unix",
        "posed",
        "messages as of the supervisor, by credentials, from who is gone, by their number",
        CREDENTIALS,
    ),
    attack("unix", "symlink-race", "bind() against symlink() and rename()", UNIX),
    attack("unix", "file-race", "bind() against link() and rename()", UNIX),
    attack("unix", "datagram-race", "the same with datagrams", UNIX),
    attack("unix", "namesake", "the same under the very name of the foreign socket", UNIX),
    attack("unix", "status", "the sockets by which runs answer `sipbox status`", UNIX),
    attack(
        "unix",
        "moved",
        "AF_UNIX sockets moved, linked and pointed to where the policy allows some",
        "the supervisor: its policy, for the name that the socket was bound to",
    )
    .with_policy("[local]\nunix = [\"DIR/knock.open/*\"]\n"),
    attack(
        "inherit",
        "inherited",
        "sockets left open by the parent: TCP, UDP, raw, packet, netlink",
        "the supervisor: closed before exec",
    )
    .begun_outside(),
    attack(
        "inherit",
        "handed-in",
        "sockets that are handed in (LISTEN_FDS), a listener and one of UDP: their ports, and other uses",
        "the supervisor: sockets of the run's own take their place",
    )
    .begun_outside(),
    attack("unix", "passed", "sockets that a process outside passes in", "the supervisor: dropped from the message")
        .by_words(),
    attack(
        "plain",
        "hub",
        "the files of the user's hub, forged",
        "the supervisor: asks only a hub, named by the kernel",
    )
    .with_flags(&["--to", "somebody"]),
    attack(
        "plain",
        "hub-state",
        "a forged state of the user's hub: where somebody is registered",
        "the user's hub: it keeps no state",
    )
    .with_flags(&["--to", "somebody"]),
    attack("races", "address-connect", "connect() against a thread that changes the address", COPY),
    attack("races", "address-sendto", "sendto() against a thread that changes the port", COPY),
    attack("races", "header", "sendmsg(), sendmmsg() against a thread that changes the header", COPY),
    attack("races", "slices", "sendmsg(), sendmmsg() against a thread that changes the slices", COPY),
    attack(
        "races",
        "number",
        "connect(), sendto() against a thread that changes the descriptor",
        "the supervisor: acts on its own duplicate",
    ),
    attack(
        "program",
        "listener",
        "a seccomp listener of its own, that answers CONTINUE",
        "the kernel: one listener a process",
    ),
    attack("program", "filters", "filters of its own, TSYNC, PR_SET_SECCOMP", "the kernel: the strictest filter wins"),
    attack(
        "program",
        "children",
        "clone with CLONE_UNTRACED and others, vfork, a daemon that closes everything",
        "the filter: inherited",
    ),
    attack("program", "orphan", "a process that outlives its parent", "the filter: inherited"),
    attack("program", "memfd", "a program without a file", "the filter: inherited"),
    attack("program", "set-uid", "a set-user-ID program", "the kernel: no_new_privs"),
    attack("program", "reopen", "sockets opened once more by /proc/self/fd", "the kernel: sockets cannot be"),
    attack("program", "preload", "a second sipbox inside, with LD_PRELOAD", "the kernel: one listener a process"),
    attack("flood", "notifications", "a flood of calls", SUPERVISOR),
    attack("flood", "held", "calls that wait, 400 at once", SUPERVISOR),
    attack("flood", "descriptors", "descriptors in messages, 253 each", SUPERVISOR),
    attack(
        "flood",
        "crowd",
        "25,300 descriptors in each of 1024 messages of one call, and calls that wait with 253 in each",
        SUPERVISOR,
    ),
    attack("flood", "sockets", "sockets until there are no more", SUPERVISOR),
    attack("flood", "lengths", "huge vectors and lengths", SUPERVISOR),
    attack("flood", "vectors", "vectors of a million buffers in calls that are held", SUPERVISOR),
    attack("flood", "stall", "connect() whose time limit is taken away: no other call is to wait for it", SUPERVISOR),
];

/// Tries of the races under sipbox: as the user, as root, and natively, where one is enough.
const TRIES: [u32; 3] = [190_000, 12_000, 2_000];

/// What the attacks are after.
struct Targets {
    near: Process,
    far: Process,
    /// Lines of each that have been looked at.
    seen: [usize; 2],
    asked: u32,
    /// Tries of all races under sipbox so far.
    tries: u64,
    variables: Vec<(&'static str, String)>,
    directory: String,
    _far_network: FarNetwork,
    _runs: [Process; 2],
}

/// Another network namespace, behind a pair of interfaces.
struct FarNetwork {
    name: String,
    interface: String,
    /// Its network of four addresses, in 198.51.100.0/24 (RFC 5737): this many times four. Nobody else has it meanwhile.
    index: u32,
    _held: Flock<File>,
}

fn ip(arguments: &[&str]) -> bool {
    let done = Command::new("ip").args(arguments).output().expect("ip(8): tests/install.sh installs it");
    if !done.status.success() {
        eprintln!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&done.stderr));
    }
    done.status.success()
}

impl FarNetwork {
    fn new() -> FarNetwork {
        let id = std::process::id();
        let free = |index: u32| {
            let file = File::create(format!("/tmp/sipbox-attacks.{index}.lock")).expect("a lock");
            Some((index, Flock::lock(file, FlockArg::LockExclusiveNonblock).ok()?))
        };
        let (index, held) = (0..64).find_map(free).expect("a free network");
        let network =
            FarNetwork { name: format!("sipbox-far-{id}"), interface: format!("sbf{id}"), index, _held: held };
        network.clear();
        let (name, near, far) = (&*network.name, &*network.interface, &*format!("sbg{id}"));
        let (here, there) = (network.address(1) + "/30", network.address(2) + "/30");
        let made = ip(&["netns", "add", name])
            && ip(&["link", "add", near, "type", "veth", "peer", "name", far, "netns", name])
            && ip(&["addr", "add", &here, "brd", "+", "dev", near])
            && ip(&["link", "set", near, "up"])
            && ip(&["-n", name, "addr", "add", &there, "brd", "+", "dev", far])
            && ip(&["-n", name, "link", "set", "lo", "up"])
            && ip(&["-n", name, "link", "set", far, "up"]);
        assert!(made, "no other network namespace");
        network
    }

    /// A test that was killed leaves its network behind, and its lock is free: what is sent there would not come here.
    fn clear(&self) {
        let own = self.address(1);
        let shown = Command::new("ip").args(["-o", "addr", "show", "to", &own]).output().expect("ip(8)");
        for line in String::from_utf8_lossy(&shown.stdout).lines() {
            let interface = line.split_whitespace().nth(1).unwrap_or_default();
            if let Some(id) = interface.strip_prefix("sbf") {
                println!("the network of test {id} is still there: removed");
                ip(&["link", "del", interface]);
                ip(&["netns", "del", &format!("sipbox-far-{id}")]);
            }
        }
    }

    /// The number of this machine's interface.
    fn interface_index(&self) -> String {
        let path = format!("/sys/class/net/{}/ifindex", self.interface);
        std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}")).trim().to_owned()
    }

    /// 1: this machine's, 2: the far one's, 3: everybody's.
    fn address(&self, number: u32) -> String {
        format!("198.51.100.{}", self.index * 4 + number)
    }
}

impl Drop for FarNetwork {
    fn drop(&mut self) {
        ip(&["link", "del", &self.interface]);
        ip(&["netns", "del", &self.name]);
    }
}

impl Targets {
    fn new(world: &World, root: &World) -> Targets {
        let far_network = FarNetwork::new();
        let receiver = world.program("attack-target");
        let mut near =
            world.native("attack-target").arg("127.0.0.1").arg(world.dir()).arg(far_network.address(1)).talk().start();
        let inside = ["netns", "exec", &far_network.name];
        let mut far = root.native("ip").args(inside).arg(receiver).arg(far_network.address(2)).talk().start();
        let ready = near.wait_for("ready");
        let [_, lo, pid, canary, descriptor] = ready.split(' ').collect::<Vec<_>>()[..] else { panic!("{ready}") };
        let ready = far.wait_for("ready");
        let [_, ns, far_pid, ..] = ready.split(' ').collect::<Vec<_>>()[..] else { panic!("{ready}") };
        let in_dir = |name: &str| world.path(name).display().to_string();
        let variables = vec![
            ("T_LO", lo.to_owned()),
            ("T_NS", ns.to_owned()),
            ("T_PID", pid.to_owned()),
            ("T_FAR_PID", far_pid.to_owned()),
            ("T_CANARY", canary.to_owned()),
            ("T_FD", descriptor.to_owned()),
            ("T_UNIX", in_dir("target.sock")),
            ("T_DGRAM", in_dir("target.dgram")),
            ("T_ABSTRACT", format!("sipbox-attacks-{pid}")),
            ("T_ABSTRACT_DGRAM", format!("sipbox-attacks-{pid}-dgram")),
            ("T_KNOCK", in_dir("knock")),
            ("T_INTERFACE", far_network.interface.clone()),
            ("T_INDEX", far_network.interface_index()),
            ("T_HERE", far_network.address(1)),
            ("T_BROADCAST", far_network.address(3)),
        ];
        // A run of each user that tells what it is doing.
        let runs = [world, root].map(|world| {
            let mut run = world.run(&[], "sh").args(["-c", "echo up; exec cat"]).talk().start();
            run.wait_for("up");
            run
        });
        let directory = world.dir().display().to_string();
        Targets {
            near,
            far,
            seen: [0; 2],
            asked: 0,
            tries: 0,
            variables,
            directory,
            _far_network: far_network,
            _runs: runs,
        }
    }

    /// What has reached the targets since the last look: everything that was on its way is waited for.
    fn reached(&mut self) -> Vec<String> {
        self.asked += 1;
        let question = format!("sync {}\n", self.asked);
        let answer = format!("synced {}\n", self.asked);
        let mut all = Vec::new();
        for (process, seen) in [&mut self.near, &mut self.far].into_iter().zip(&mut self.seen) {
            process.say(&question);
            let text = tests::until("the target's answer", || {
                let text = process.stdout();
                text.contains(&answer).then_some(text)
            });
            let is_news = |l: &&str| !l.starts_with("synced ") && !l.starts_with("ready ");
            all.extend(text.lines().skip(*seen).filter(is_news).map(str::to_owned));
            *seen = text.lines().count();
        }
        all
    }
}

/// What one try came to.
struct Outcome {
    /// It reached something: what the targets saw, or the attack itself.
    reached: Option<String>,
    happened: String,
}

fn try_once(attack: &Attack, world: &World, targets: &mut Targets, sipbox: bool) -> Outcome {
    let program = format!("attack-{}", attack.program);
    let who = if sipbox { "under sipbox" } else { "natively" };
    let token = format!("token of {} {who}", attack.name);
    let mut victim = world.native("cat").talk().start();
    let mut flags = attack.flags.to_vec();
    let policy = world.path("attack.toml").display().to_string();
    if !attack.policy.is_empty() {
        world.write("attack.toml", attack.policy.replace("DIR", &targets.directory));
        flags.extend(["--policy", &policy]);
    }
    let inner = if sipbox { world.run(&flags, &program) } else { world.native(&program) }.arg(attack.name);
    let mut launch = if attack.outside { inner.behind(world.program(&program).as_os_str(), "hold") } else { inner };
    launch = launch.env("T_TOKEN", &token).env("T_VICTIM", victim.pid().to_string());
    for (name, value) in &targets.variables {
        launch = launch.env(name, value);
    }
    let [as_user, as_root, natively] = TRIES;
    let tries = match (sipbox, world.is_root()) {
        (true, false) => as_user,
        (true, true) => as_root,
        (false, _) => natively,
    };
    launch = launch.env("T_TRIES", tries.to_string()).env("T_SIPBOX", world.sipbox_path());
    launch = launch.env("T_SETUID", set_uid_program(world));
    if sipbox {
        launch = launch.env("T_UNDER", "1");
    }
    let done = launch.finish_within(Duration::from_secs(270));
    let mut seen = targets.reached();
    if attack.by_words {
        // The connections are made by others; what the attack says over them is the proof.
        seen.retain(|line| line.contains(&token));
    }
    if !answers(&mut victim) {
        seen.push("the other process was killed".to_owned());
    }
    match done.code() {
        9 => seen.push("the attack saw it".to_owned()),
        0 | 77 => {}
        code => panic!("{} {who} ended with {code}\n{}{}", attack.name, done.stdout, done.stderr),
    }
    if sipbox {
        let made = done.stderr.lines().filter_map(|l| l.strip_prefix("tries ")?.split(',').next()?.parse::<u64>().ok());
        targets.tries += made.sum::<u64>();
    }
    Outcome {
        reached: (!seen.is_empty()).then(|| seen.join("; ")),
        happened: done.stdout.lines().last().unwrap_or_default().to_owned(),
    }
}

/// What the attack does without sipbox. It asks for the port of a closed socket, which is anybody's on this machine by then.
fn try_natively(attack: &Attack, world: &World, targets: &mut Targets) -> Outcome {
    const TRIES: usize = 3;
    let mut outcome = try_once(attack, world, targets, false);
    for _ in 1..if attack.program == "ports" { TRIES } else { 1 } {
        if outcome.reached.is_none() {
            println!("{}: not natively, so once more: {}", attack.name, outcome.happened);
            outcome = try_once(attack, world, targets, false);
        }
    }
    outcome
}

/// A copy of the attack that belongs to root and has the set-user-ID bit.
fn set_uid_program(world: &World) -> std::path::PathBuf {
    let path = world.path("set-uid");
    if !path.exists() {
        let copied = std::fs::copy(world.program("attack-program"), &path);
        copied
            .and_then(|_| std::fs::set_permissions(&path, PermissionsExt::from_mode(0o4755)))
            .expect("the set-uid copy");
    }
    path
}

/// Whether a process that says what it hears still does.
fn answers(process: &mut Process) -> bool {
    let heard = process.tell("alive\n").is_ok();
    heard
        && within(PATIENCE, || (process.stdout().contains("alive") || process.ended()).then(|| !process.ended()))
            == Some(true)
}

#[test]
fn no_attack_reaches_its_target() {
    let Some(root) = World::as_root("attack-root") else {
        eprintln!("skipped: needs root, for another network namespace and for the attacks as root");
        return;
    };
    let user = World::new("attack-user");
    let mut targets = Targets::new(&user, &root);
    let only = std::env::var("SIPBOX_TEST_ATTACK").ok();
    let mut table = String::from(
        "| attack | natively | as user | as root | what happened | who stopped it |\n|---|---|---|---|---|---|\n",
    );
    let mut wrong = Vec::new();
    let apart = !tests::direct_flows();
    for attack in ATTACKS.iter().filter(|a| only.as_ref().is_none_or(|o| a.name.contains(o.as_str()))) {
        if apart && !attack.apart.is_empty() {
            let row = format!("| {} | | | | none there: {} | |", attack.what, attack.apart);
            println!("{row}");
            let _ = writeln!(table, "{row}");
            continue;
        }
        let [native_user, native_root] = [&user, &root].map(|w| try_natively(attack, w, &mut targets));
        let natively = match (&native_user.reached, &native_root.reached) {
            (Some(_), _) => "reaches it",
            (None, Some(_)) => "reaches it as root",
            (None, None) => attack.absent,
        };
        if natively.is_empty() {
            wrong.push(format!(
                "{}: proves nothing, for it reaches nothing natively either ({}; as root {})",
                attack.name, native_user.happened, native_root.happened
            ));
        }
        let under = [&user, &root].map(|w| try_once(attack, w, &mut targets, true));
        for (who, outcome) in ["user", "root"].iter().zip(&under) {
            if let Some(seen) = &outcome.reached {
                wrong.push(format!("{} as {who}: got out: {seen} ({})", attack.name, outcome.happened));
            }
        }
        let [as_user, as_root] = &under;
        let happened = match as_user.happened == as_root.happened {
            true => as_user.happened.clone(),
            false => format!("{}; as root {}", as_user.happened, as_root.happened),
        };
        let verdict = |o: &Outcome| if o.reached.is_some() { "**got out**" } else { "stopped" };
        let (u, r) = (verdict(as_user), verdict(as_root));
        let by = if apart && !attack.apart_by.is_empty() { attack.apart_by } else { attack.stopped_by };
        let row = format!("| {} | {natively} | {u} | {r} | {happened} | {by} |", attack.what);
        println!("{row}");
        let _ = writeln!(table, "{row}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    if only.is_none() {
        println!("{} tries of races", targets.tries);
        assert!(targets.tries >= 1_000_000, "only {} tries of races", targets.tries);
    }
    if only.is_none() {
        committed(apart, &table);
    }
}

/// Compares the table of this isolation with the one in the repository, or writes it there.
fn committed(apart: bool, table: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("ATTACKS.md");
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    let headings = ["\n## With `--isolation seccomp`\n\n", "\n## With `--isolation netns`\n\n"];
    let mut tables = headings.map(|heading| {
        let behind = there.split_once(heading).map_or("", |(_, behind)| behind);
        behind.split_once("\n## ").map_or(behind, |(table, _)| table).to_owned()
    });
    tables[usize::from(apart)] = table.to_owned();
    let [seccomp, netns] = [0, 1].map(|i| format!("{}{}", headings[i], tables[i]));
    let text = format!(
        "# Ways out, each tried\n\n\
         Written by `tests/tests/attacks.rs` (SIPBOX_UPDATE=1), which fails when this is not what happens. An attack counts as stopped \
         when nothing of it was seen at its target: no connection, no byte, no changed memory, no signal. Natively the same program \
         must reach its target, as the user or at least as root.\n{seccomp}{netns}"
    );
    if std::env::var_os("SIPBOX_UPDATE").is_some() {
        std::fs::write(&path, &text).expect("ATTACKS.md");
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    let differences: Vec<String> = text
        .lines()
        .filter(|l| !there.lines().any(|o| o == *l))
        .map(|l| format!("+ {l}"))
        .chain(there.lines().filter(|l| !text.lines().any(|o| o == *l)).map(|l| format!("- {l}")))
        .collect();
    assert!(
        there == text,
        "{} is not what happened (SIPBOX_UPDATE=1 rewrites it)\n{}",
        path.display(),
        differences.join("\n")
    );
}

#[test]
fn other_processes_of_the_user_are_out_of_reach() {
    let world = World::new("out-process");
    let victim = world.native("sleep").arg("30").start();
    let pid = victim.pid().to_string();
    // Without sipbox an ordinary user may do both, where no security module forbids it.
    let landlock = std::fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_default().contains("landlock");
    for part in ["memory", "signal"] {
        let stopped = world.run(&[], "way-out").args([part, &pid]).finish();
        if landlock {
            stopped.success();
        }
    }
    let supervised = world.run(&[], "sh").args(["-c", "exec \"$0\" memory $PPID", "way-out"]).finish();
    assert_ne!(supervised.code(), 9, "{}", supervised.stdout);
    victim.stop();
}

#[test]
fn sockets_of_others_are_out_of_reach() {
    let world = World::new("out-unix");
    let path = world.path("foreign.sock");
    let listener = UnixListener::bind(&path).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).unwrap();
    listener.set_nonblocking(true).unwrap();
    world.run(&[], "way-out").arg("unix").arg(&path).finish().success();
    assert!(listener.accept().is_err(), "somebody connected to the foreign socket");
}

#[test]
fn a_planted_hub_leads_nowhere() {
    let world = World::new("out-hub");
    // TEST-NET-1: nobody is there, and nothing may be sent there.
    let done = world.run(&["--to", "somebody"], "way-out").args(["hub", "192.0.2.1:9"]).finish();
    done.success().complains("did not start");
}

#[test]
fn a_service_on_the_wildcard_address_is_no_peer() {
    let world = World::new("out-wildcard");
    let port = free_port();
    let service = std::net::TcpListener::bind(("0.0.0.0", port)).unwrap();
    service.set_nonblocking(true).unwrap();
    // The port of a service of this machine, by every address that means the program itself.
    for address in ["127.0.0.1", "127.64.0.1", "0.0.0.0"] {
        let client =
            world.run(&["--as", "x", "--to", "x"], "static-client").args([address, &port.to_string()]).finish();
        client.complains("ECONNREFUSED");
    }
    assert!(service.accept().is_err(), "somebody connected to the service");
}

#[test]
fn a_closed_standard_error_changes_nothing() {
    let world = World::new("out-stderr");
    let script = "\"$0\" 198.18.0.9 7000 2>result; \"$0\" 198.18.0.9 7001 2>>result; exit 0";
    let client = world.program("static-client");
    let line = format!(
        "{{ '{}' run -- sh -c '{script}' '{}'; }} 2>&1 >/dev/null | true",
        world.sipbox_path().display(),
        client.display()
    );
    world.native("sh").args(["-c", &line]).finish();
    let result = tests::until("both refusals", || {
        let text = std::fs::read_to_string(world.path("result")).unwrap_or_default();
        (text.lines().count() >= 2).then_some(text)
    });
    assert_eq!(result.matches("EACCES").count(), 2, "{result}");
}
