//! Two hosts with a cable between them, in network namespaces, and what runs on them.

use std::path::Path;

use tests::lab::Namespace;
use tests::{Kamailio, Launch, PATIENCE, Process, World, within};

/// The caller's address and the called one's.
pub const NEAR: &str = "10.9.0.1";
pub const FAR: &str = "10.9.0.2";
/// Ports of the servers on the far host.
pub const IPERF: u16 = 5201;
pub const ECHO: u16 = 7000;
pub const STREAMS: u16 = 7001;
/// Of the server beside these ([`super::peers::Tunnel::least`]).
pub const LEAST: u16 = 7002;
/// All servers, in the background of a shell.
const SERVERS: &str = "iperf3 -s --forceflush & epoll-server 7000 & bench-streams serve 7001 & wait";

/// The two hosts.
pub struct Street {
    /// Of the user who needs no rights.
    pub world: World,
    /// Of root: what makes network interfaces needs him.
    pub root: World,
    pub near: Namespace,
    pub far: Namespace,
    _hub: Process,
}

impl Street {
    /// `None`: there is no right to make namespaces.
    pub fn new(name: &str) -> Option<Street> {
        let root = World::as_root(&format!("{name}-root"))?;
        let world = World::new(name);
        let (near, far) = (Namespace::new("near"), Namespace::new("far"));
        near.ip(&format!("link add eth0 type veth peer name eth0 netns {}", far.path()));
        for (host, ip) in [(&near, NEAR), (&far, FAR)] {
            host.ip(&format!("addr add {ip}/24 dev eth0\nlink set eth0 up"));
        }
        let hub = hub(&world, &far, FAR);
        Some(Street { world, root, near, far, _hub: hub })
    }

    /// The servers as they are, on the far host.
    pub fn servers(&self) -> Process {
        ready(serving(&self.world, self.world.native("sh")).inside(&self.far).start())
    }

    /// The servers under sipbox, on the far host, called `bob`.
    pub fn boxed_servers(&self, flags: &[&str]) -> Process {
        ready(serving(&self.world, boxed(&self.world, FAR, "bob", flags, "sh")).inside(&self.far).start())
    }

    /// A shell on the near host.
    pub fn shell(&self) -> Shell {
        Shell::start(&self.world, self.world.native("sh").inside(&self.near))
    }

    /// A shell on the near host under sipbox: whatever its programs connect to is `bob`.
    pub fn boxed_shell(&self, flags: &[&str]) -> Shell {
        let flags: Vec<&str> = flags.iter().copied().chain(["--to", BOB]).collect();
        Shell::start(&self.world, boxed(&self.world, FAR, "alice", &flags, "sh").inside(&self.near))
    }
}

/// The address of record of the far host's programs.
pub const BOB: &str = "sip:bob@sipbox.invalid";

/// A hub for `alice` and `bob`, in this namespace.
pub fn hub(world: &World, inside: &Namespace, ip: &str) -> Process {
    let users = world.path("users").display().to_string();
    for name in ["alice", "bob"] {
        let add = world.sipbox(&["hub", "user", "--users", &users, "add", name]);
        add.input(format!("{}\n", Kamailio::password(name))).finish().success();
    }
    let listen = format!("{ip}:5060");
    let mut hub = world.sipbox(&["hub", "--listen", &listen, "--users", &users]).inside(inside).start();
    hub.wait_for_err("sipbox hub: ready");
    hub
}

/// `sipbox run` of a user of that hub.
pub fn boxed(world: &World, hub: &str, user: &str, flags: &[&str], program: &str) -> Launch {
    let (registrar, aor) = (format!("sip:{hub}:5060"), format!("sip:{user}@sipbox.invalid"));
    let mut all = vec!["--registrar", &registrar, "--as", &aor];
    all.extend(flags);
    world.run(&all, program).env("SIPBOX_PASSWORD", Kamailio::password(user))
}

/// The directory of the test programs before those of the system.
pub fn with_path(world: &World, launch: Launch) -> Launch {
    let program = world.program("epoll-server");
    let directory = program.parent().unwrap_or(Path::new("/"));
    launch.env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", directory.display()))
}

fn serving(world: &World, shell: Launch) -> Launch {
    with_path(world, shell).args(["-c", SERVERS])
}

fn ready(mut servers: Process) -> Process {
    for words in ["Server listening on", ":7000", "listening on 7001"] {
        servers.wait_for(words);
    }
    servers
}

/// A shell that stays, so that what it stands in (a run of sipbox, its sessions) stays too.
pub struct Shell {
    pub process: Process,
    commands: usize,
}

impl Shell {
    pub fn start(world: &World, shell: Launch) -> Shell {
        let process =
            with_path(world, shell).args(["-c", "while read -r line; do eval \"$line\"; done"]).talk().start();
        Shell { process, commands: 0 }
    }

    /// Runs a command; what it has said, when it has ended. Half a minute is its time.
    pub fn run(&mut self, command: &str) -> Result<String, String> {
        self.commands += 1;
        let n = self.commands;
        let before = self.process.stdout().len();
        self.process.say(&format!("{command} 2>&1; echo; echo \"end {n} $?\"\n"));
        let ended = |said: String| said.lines().find(|line| line.starts_with(&format!("end {n} "))).map(str::to_owned);
        let end = within(PATIENCE, || ended(self.process.stdout()));
        let said = self.process.stdout();
        let end = end.ok_or_else(|| format!("{command}: not done after {PATIENCE:?}"))?;
        let said = said.get(before..).unwrap_or_default().to_owned();
        if end.ends_with(" 0") { Ok(said) } else { Err(format!("{command}: {said}")) }
    }
}
