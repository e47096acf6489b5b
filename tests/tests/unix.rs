#![forbid(unsafe_code)]
//! AF_UNIX sockets of programs outside the run: reached where `[local] unix` of the policy says so, and by no detour.

use std::io::{Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt};
use tests::{World, direct_flows, until};

/// A program that tries names and says what became of each: `connect NAME`, `send NAME`, `chdir DIR`, `rename A B`, `link A B`. A name
/// that begins with `@` is abstract.
const TRIES: &str = r#"
import os, socket, sys, errno
args = sys.argv[1:]
while args:
    what, args = args[0], args[1:]
    try:
        if what in ("chdir", "setuid"):
            arg, args = args[0], args[1:]
            if what == "chdir": os.chdir(arg)
            else: os.setgroups([]); os.setresgid(int(arg), int(arg), int(arg)); os.setresuid(int(arg), int(arg), int(arg))
            continue
        if what in ("rename", "link", "symlink"):
            a, b, args = args[0], args[1], args[2:]
            getattr(os, what)(a, b)
            continue
        name, args = args[0], args[1:]
        at = "\0" + name[1:] if name[0] == "@" else name
        if what == "connect":
            s = socket.socket(socket.AF_UNIX)
            s.connect(at)
            s.sendall(b"hello")
            print(what, name, s.recv(100).decode(), flush=True)
        else:
            s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            s.sendto(b"datagram", at)
            print(what, name, "sent", flush=True)
    except OSError as e:
        print(what, name, errno.errorcode[e.errno], flush=True)
"#;

/// Answers each connection with the user and the process that the kernel names.
fn daemon(listener: UnixListener) {
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
            let mut room = [0; 100];
            // One that says nothing was closed at once.
            let Ok(1..) = stream.read(&mut room) else { continue };
            let who = getsockopt(&stream, sockopt::PeerCredentials).expect("what the test needs");
            let _ = stream.write_all(format!("user {}", who.uid()).as_bytes());
        }
    });
}

fn listener(path: &Path, mode: u32) -> UnixListener {
    let listener = UnixListener::bind(path).expect("what the test needs");
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("what the test needs");
    listener
}

fn uid(world: &World) -> u32 {
    std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(world.dir()).expect("what the test needs"))
}

fn tries(world: &World, policy: &str, arguments: &[&str]) -> tests::Done {
    let policy = world.write("policy.toml", format!("schema = 1\n{policy}"));
    let run = world.run(&["--policy", &policy.display().to_string()], "python3");
    run.args(["-c", TRIES]).args(arguments).finish().success()
}

#[test]
fn a_file_that_a_daemon_left_behind_refuses_as_the_kernel_does() {
    let world = World::new("unix-stale");
    let path = world.path("stale");
    let stale = path.display().to_string();
    let alive = listener(&path, 0o777);
    let refused = tries(&world, "", &["connect", &stale, "send", &stale]);
    refused.says(&format!("connect {stale} EACCES")).says(&format!("send {stale} EACCES"));
    drop(alive);
    let nobody = tries(&world, "", &["connect", &stale, "send", &stale]);
    let nobody = nobody.says(&format!("connect {stale} ECONNREFUSED")).says(&format!("send {stale} ECONNREFUSED"));
    nobody.complains("nobody listens there");
}

#[test]
fn what_the_policy_allows_is_reached() {
    let world = World::new("unix-allowed");
    let services = world.make_dir("services", 0o755);
    let at = services.join("daemon");
    daemon(listener(&at, 0o777));
    let at = at.display().to_string();
    let user = format!("user {}", uid(&world));
    // Nothing is, by default; the words of the refusal are the policy that allows it.
    let refused = tries(&world, "", &["connect", &at]).says(&format!("connect {at} EACCES"));
    let refused = refused.complains("[local]").complains(&format!("unix = [\"{at}\"]"));
    let line = refused.stderr.lines().find(|l| l.starts_with("unix = ")).unwrap().to_owned();
    let link = world.path("link").display().to_string();
    let all = [
        "connect",
        &at,
        "symlink",
        &at,
        &link,
        "connect",
        &link,
        "chdir",
        "services",
        "connect",
        "daemon",
        "connect",
        "../services/./daemon",
        "connect",
        "/proc/self/cwd/daemon",
    ];
    let mut done = tries(&world, &format!("[local]\n{line}\n"), &all);
    for name in [&at, &link, "daemon", "../services/./daemon", "/proc/self/cwd/daemon"] {
        done = done.says(&format!("connect {name} {user}\n"));
    }
    assert_eq!(done.stderr, "");
    for allowed in ["\"allow\"".to_owned(), format!("[\"{}/serv*/*\"]", world.dir().display())] {
        tries(&world, &format!("[local]\nunix = {allowed}\n"), &["connect", &at]).says(&format!("connect {at} {user}"));
    }
    for refused in ["\"deny\"".to_owned(), format!("[\"{}/*\", \"@{at}\"]", world.dir().display())] {
        tries(&world, &format!("[local]\nunix = {refused}\n"), &["connect", &at]).says("EACCES");
    }
}

#[test]
fn no_policy_leads_to_the_sockets_of_sipbox() {
    let world = World::new("unix-sipbox");
    // Another run of the user, which `sipbox status` asks on a socket of its own.
    let mut other = world.run(&[], "sh").args(["-c", "echo here; sleep 60"]).start();
    other.wait_for("here");
    let directory = world.path("runtime").join("sipbox");
    let socket = until("the socket of a run", || {
        let files = std::fs::read_dir(&directory).ok()?.flatten().map(|entry| entry.path());
        files.into_iter().find(|path| path.extension().is_some_and(|end| end == "sock"))
    });
    let link = world.path("link").display().to_string();
    let at = socket.display().to_string();
    let done = tries(&world, "[local]\nunix = \"allow\"\n", &["connect", &at, "symlink", &at, &link, "connect", &link]);
    done.says(&format!("connect {at} EACCES"))
        .says(&format!("connect {link} EACCES"))
        .explains(&["a socket of sipbox itself"]);
}

#[test]
fn datagrams_to_what_the_policy_allows() {
    let world = World::new("unix-datagrams");
    let at = world.path("log");
    let log = UnixDatagram::bind(&at).unwrap();
    std::fs::set_permissions(&at, PermissionsExt::from_mode(0o777)).unwrap();
    log.set_read_timeout(Some(tests::PATIENCE)).unwrap();
    let at = at.display().to_string();
    tries(&world, "", &["send", &at]).says("EACCES").complains("unix = [");
    tries(&world, &format!("[local]\nunix = [\"{at}\"]\n"), &["send", &at]).says("sent");
    let mut room = [0; 100];
    // That of the first would come first.
    let n = log.recv(&mut room).unwrap();
    assert_eq!(&room[..n], b"datagram");
    log.set_nonblocking(true).unwrap();
    assert!(log.recv(&mut room).is_err());
}

#[test]
fn abstract_names_that_the_policy_allows() {
    let world = World::new("unix-abstract");
    let name = format!("sipbox-tests-{}", std::process::id());
    daemon(UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap());
    let at = format!("@{name}");
    let refused = tries(&world, "", &["connect", &at]);
    if direct_flows() {
        refused.says("EACCES").complains(&format!("unix = [\"{at}\"]"));
        let user = format!("user {}", uid(&world));
        tries(&world, "[local]\nunix = [\"@sipbox-tests-*\"]\n", &["connect", &at])
            .says(&format!("connect {at} {user}"));
        tries(&world, "[local]\nunix = [\"/sipbox-tests-*\"]\n", &["connect", &at]).says("EACCES");
    } else {
        // Abstract names belong to a network.
        refused.says("ECONNREFUSED").complains("--isolation seccomp");
        tries(&world, "[local]\nunix = \"allow\"\n", &["connect", &at]).says("ECONNREFUSED");
    }
}

#[test]
fn a_socket_that_is_moved_stays_what_it_is() {
    let world = World::new("unix-moved");
    let open = world.make_dir("open", 0o777).join("x").display().to_string();
    let policy = format!("[local]\nunix = [\"{}/open/*\"]\n", world.dir().display());
    for how in ["rename", "link"] {
        let at = world.path(how);
        let listener = listener(&at, 0o777);
        listener.set_nonblocking(true).unwrap();
        // It must be the program's to be moved by it.
        let own = std::os::unix::fs::chown(&at, Some(uid(&world)), None);
        assert!(own.is_ok() || !nix::unistd::getuid().is_root());
        let at = at.display().to_string();
        let done = tries(&world, &policy, &[how, &at, &open, "connect", &open]);
        done.says(&format!("connect {open} EACCES")).complains(&format!("was bound as {at}"));
        assert!(listener.accept().is_err(), "somebody connected");
        std::fs::remove_file(&open).unwrap();
    }
}

#[test]
fn who_gave_up_its_rights_has_none_here() {
    let Some(world) = World::as_root("unix-rights") else {
        eprintln!("skipped: needs root");
        return;
    };
    let (open, closed) = (world.path("open.sock"), world.path("closed.sock"));
    daemon(listener(&open, 0o777));
    daemon(listener(&closed, 0o600));
    let (open, closed) = (open.display().to_string(), closed.display().to_string());
    let all = ["connect", &closed, "setuid", "65534", "connect", &open, "connect", &closed];
    let done = tries(&world, "[local]\nunix = \"allow\"\n", &all);
    let done = done.says(&format!("connect {closed} user 0")).says(&format!("connect {open} user 65534"));
    done.says(&format!("connect {closed} EACCES"));
}

/// Who listens, too: what a client outside sees of it is not root.
#[test]
fn a_listener_of_a_user_that_was_taken_on() {
    const LISTENS: &str = r#"
import os, socket, sys
os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
s.bind(sys.argv[1])
s.listen()
print("listens", flush=True)
s.accept()[0].send(b"x")
"#;
    let Some(world) = World::as_root("unix-listener") else {
        eprintln!("skipped: needs root");
        return;
    };
    let at = world.make_dir("open", 0o777).join("s");
    let run = world.run(&[], "python3");
    let mut run = run.args(["-c", LISTENS, &at.display().to_string()]).start();
    run.wait_for("listens");
    let outside = UnixStream::connect(&at).unwrap();
    let peer = nix::sys::socket::getsockopt(&outside, sockopt::PeerCredentials).unwrap();
    assert_eq!((peer.uid(), peer.gid()), (65534, 65534));
    run.wait().success();
}

/// Who sends is told by the user that the program has become, not by root's, for whom sipbox runs.
#[test]
fn credentials_of_a_user_that_was_taken_on() {
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, RecvMsg, recvmsg, setsockopt};
    const SENDS: &str = r#"
import os, socket, struct, sys
a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
begin, begun = os.pipe()
child = os.fork()
if not child:
    os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
    outside = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    outside.connect(sys.argv[1])
    outside.sendmsg([b"out"])
    os.read(begin, 1)
    a.sendmsg([b"in"])
    os._exit(0)
b.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
os.write(begun, b"x")
got = b.recvmsg(9, 256)
pid, uid, gid = struct.unpack("iII", got[1][0][2])
print(got[0], "right" if pid == child else pid, uid, gid)
"#;
    let Some(world) = World::as_root("unix-sender") else {
        eprintln!("skipped: needs root");
        return;
    };
    let at = world.path("log");
    let outside = UnixDatagram::bind(&at).unwrap();
    std::fs::set_permissions(&at, std::fs::Permissions::from_mode(0o777)).unwrap();
    setsockopt(&outside, sockopt::PassCred, &true).unwrap();
    outside.set_read_timeout(Some(tests::PATIENCE)).unwrap();
    let policy = world.write("policy.toml", "[local]\nunix = \"allow\"\n");
    let run = world.run(&["--policy", &policy.display().to_string()], "python3");
    let run = run.args(["-c", SENDS, &at.display().to_string()]).finish().success();
    run.says("b'in' right 65534 65534");
    let mut room = nix::cmsg_space!(nix::sys::socket::UnixCredentials);
    let mut data = [0; 9];
    let mut data = [std::io::IoSliceMut::new(&mut data)];
    let got: RecvMsg<()> =
        recvmsg(std::os::fd::AsRawFd::as_raw_fd(&outside), &mut data, Some(&mut room), MsgFlags::empty()).unwrap();
    let said = got.cmsgs().unwrap().find_map(|c| match c {
        ControlMessageOwned::ScmCredentials(said) => Some((said.uid(), said.gid())),
        _ => None,
    });
    assert_eq!(said, Some((65534, 65534)));
}

/// What root may is a matter of its capabilities, and files are of whom setfsuid(2) says: each line as natively.
#[test]
fn rights_are_capabilities_not_a_number() {
    const TRIES: &str = r#"
import ctypes, errno, os, socket, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
place = sys.argv[1]

def tried(what, call):
    try:
        print(what, call(), flush=True)
    except OSError as e:
        print(what, errno.errorcode[e.errno], flush=True)

def bind(name):
    s = socket.socket(socket.AF_UNIX)
    s.bind(f"{place}/{name}")
    s.listen()
    kept.append(s)
    at = os.stat(f"{place}/{name}")
    return at.st_uid, at.st_gid

def connect(name):
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(f"{place}/{name}")
        peer = s.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return struct.unpack("iII", peer)[1:]

def is_of(pid, uid, gid):
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    b.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    given = struct.pack("III", pid, uid, gid)
    a.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, given)])
    return struct.unpack("iII", b.recvmsg(9, 256)[1][0][2])[1:]

def sent(how):
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    b.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    how(a)
    return struct.unpack("iII", b.recvmsg(9, 256)[1][0][2])[1:]

def has_only(capabilities):
    header = struct.pack("Ii", 0x20080522, 0)
    assert libc.capset(header, struct.pack("IIIIII", capabilities, capabilities, 0, 0, 0, 0)) == 0

def all(who):
    for name in ("open", "others", "own"):
        tried(f"{who}: bind {name}", lambda: bind(f"{name}/{who}"))
        tried(f"{who}: connect {name}", lambda: connect(f"{name}/s"))
    for user, group in ((0, 0), (1234, 0), (0, 1234), (1234, 1234), (0xffffffff, 0)):
        tried(f"{who}: of {user} {group}", lambda: is_of(os.getpid(), user, group))

kept = []
for name in ("open", "others", "own"):
    bind(f"{name}/s")
    os.chmod(f"{place}/{name}/s", 0o600)
all("root")
libc.setfsgid(65534)
libc.setfsuid(65534)
all("another for files")
libc.setfsuid(0)
libc.setfsgid(0)
for real, effective in ((0, 1234), (1234, 0)):
    os.setresgid(real, effective, 0)
    os.setresuid(real, effective, 0)
    tried(f"sent by {real} as {effective}", lambda: sent(lambda s: s.send(b"x")))
    tried(f"sent as a message by {real} as {effective}", lambda: sent(lambda s: s.sendmsg([b"x"])))
    os.setresuid(0, 0, 0)
    os.setresgid(0, 0, 0)
SETGID, SETUID = 1 << 6, 1 << 7
has_only(SETUID | SETGID)
# CAP_SYS_ADMIN, with which it could, no program of a run has.
tried("of its parent", lambda: is_of(os.getppid(), 0, 0))
all("no files")
has_only(SETUID)
all("no groups")
has_only(0)
all("nothing")
"#;
    let Some(world) = World::as_root("unix-capabilities") else {
        eprintln!("skipped: needs root");
        return;
    };
    let [native, under] = ["native", "under"].map(|place| {
        let place = world.make_dir(place, 0o755);
        for (name, mode, owner) in [("open", 0o1777, 0), ("others", 0o700, 65534), ("own", 0o700, 0)] {
            let place = place.join(name);
            std::fs::create_dir(&place).unwrap();
            std::fs::set_permissions(&place, PermissionsExt::from_mode(mode)).unwrap();
            std::os::unix::fs::chown(&place, Some(owner), Some(owner)).unwrap();
        }
        let launch = if place.ends_with("native") { world.native("python3") } else { world.run(&[], "python3") };
        launch.args(["-c", TRIES]).arg(&place).finish().success().stdout
    });
    assert_eq!(under, native);
    for line in [
        "another for files: bind open (65534, 65534)",
        "another for files: connect own EACCES",
        "sent as a message by 0 as 1234 (0, 0)",
        "sent as a message by 1234 as 0 (1234, 1234)",
        "of its parent EPERM",
        "no files: bind others EACCES",
        "no files: of 1234 1234 (1234, 1234)",
        "no groups: of 1234 0 (1234, 0)",
        "no groups: of 0 1234 EPERM",
        "nothing: of 1234 0 EPERM",
        "nothing: of 0 0 (0, 0)",
    ] {
        assert!(native.contains(line), "no {line:?} in\n{native}");
    }
}

/// The directories that the kernel has for each process are not the supervisor's to lead by: neither its own nor those that only it
/// may go to.
#[test]
fn links_of_proc_lead_nowhere() {
    const BINDS: &str = r#"
import errno, os, socket, sys
place, user = sys.argv[1], int(sys.argv[2])
os.chdir(place)
if user:
    os.setgroups([]); os.setresgid(user, user, user); os.setresuid(user, user, user)

def tried(what, at):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_UNIX, kind) as s:
            try:
                if what == "bind":
                    s.bind(at)
                elif what == "connect":
                    s.connect(at)
                else:
                    socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"x", at)
                print(what, at, "done", flush=True)
            except OSError as e:
                print(what, at, errno.errorcode[e.errno], flush=True)

for at in ("/proc//self/cwd/x", "/proc/./self/cwd/x", "/proc/thread-self//../../cwd/x", *sys.argv[3:]):
    at = at.replace("PARENT", str(os.getppid()))
    for what in ("bind", "connect", "send"):
        tried(what, at)
"#;
    let Some(root) = World::as_root("unix-proc") else {
        eprintln!("skipped: needs root");
        return;
    };
    let user = World::new("unix-proc-user");
    for (world, becomes) in [(&root, "0"), (&root, "65534"), (&user, "0")] {
        let place = world.make_dir("place", 0o777);
        // Where the supervisor is: anybody's to write to, and nobody's to come to.
        let inside = world.make_dir("closed", 0o700).join("inside");
        let _ = std::fs::create_dir(&inside);
        std::fs::set_permissions(&inside, PermissionsExt::from_mode(0o777)).unwrap();
        if !world.is_root() {
            std::os::unix::fs::chown(&inside, Some(uid(world)), None).unwrap();
        }
        let run = world.run(&[], "python3").cwd(&inside).args(["-c", BINDS]).arg(&place).arg(becomes);
        let by_supervisor = ["/proc/PARENT/cwd/x", "/proc//PARENT/root/tmp/../proc/PARENT/cwd/x"];
        let done = run.args(if becomes == "0" { &[][..] } else { &by_supervisor[..] }).finish().success();
        let found: Vec<_> = std::fs::read_dir(&inside).unwrap().flatten().map(|file| file.file_name()).collect();
        assert!(found.is_empty(), "{found:?} in the supervisor's directory\n{}", done.stdout);
        if becomes != "0" {
            assert!(!done.stdout.contains("done"), "{}", done.stdout);
        }
        if direct_flows() {
            assert!(done.stdout.contains("bind /proc//self/cwd/x ELOOP"), "{}", done.stdout);
        }
    }
}

/// As programs give them that do not count: all of the struct sockaddr_un.
#[test]
fn names_are_shown_as_one_writes_them() {
    const PADDED: &str = r#"
import errno, os, socket, sys, threading, time
def padded(name):
    return b"\0" + name.encode().ljust(107, b"\0")
try:
    socket.socket(socket.AF_UNIX).connect(padded(sys.argv[1]))
except OSError as e:
    print("others", errno.errorcode[e.errno], flush=True)
full = padded(sys.argv[2])
l = socket.socket(socket.AF_UNIX)
l.bind(full)
l.listen(0)
kept = [socket.socket(socket.AF_UNIX) for _ in range(30)]
kept[0].connect(full)
for s in kept[1:]:
    threading.Thread(target=lambda s=s: s.connect(full), daemon=True).start()
def waiting():
    calls = [open(f"/proc/self/task/{t}/syscall").read() for t in os.listdir("/proc/self/task")]
    return sum(c.startswith("42 ") for c in calls)
while waiting() < 29:
    time.sleep(0.001)
os._exit(0)
"#;
    let world = World::new("unix-padded");
    let (others, own) = (format!("sipbox-others-{}", std::process::id()), format!("sipbox-own-{}", std::process::id()));
    let padded = [others.as_bytes(), &vec![0; 107 - others.len()]].concat();
    let _listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&padded).unwrap()).unwrap();
    // The run ends while they wait, at another moment each time.
    for _ in 0..10 {
        let done = world.run(&[], "python3").args(["-c", PADDED, &others, &own]).finish().success();
        assert!(!done.stderr.contains(&own) && !done.stderr.contains("\\u{0}"), "{}", done.stderr);
        match direct_flows() {
            true => done
                .says("others EACCES")
                .complains(&format!("socket @{others},"))
                .complains(&format!("\"@{others}*\"")),
            false => done.says("others ECONNREFUSED").complains(&format!("name @{others},")),
        };
    }
}

#[test]
fn a_full_listener_is_waited_for() {
    let world = World::new("unix-full");
    let at = world.path("full");
    let listener = listener(&at, 0o777);
    nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
    let first = std::os::unix::net::UnixStream::connect(&at).unwrap();
    let policy = world.write("policy.toml", format!("[local]\nunix = [\"{}\"]\n", at.display()));
    let run = world.run(&["--policy", &policy.display().to_string()], "python3");
    let waiting = run.args(["-c", TRIES, "connect", &at.display().to_string()]).start();
    until("the program's wait in connect()", || {
        // SYS_connect; the supervisor makes no such call for as long.
        let called = |pid| std::fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
        tests::descendants(waiting.pid()).into_iter().any(|pid| called(pid).starts_with("42 ")).then_some(())
    });
    drop(first);
    daemon(listener);
    waiting.wait().success().says("user ");
}

#[test]
fn netlink_by_policy() {
    let world = World::new("netlink-policy");
    let ask = "import socket; s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0); print('there')";
    let run = |policy: &str| {
        let policy = world.write("policy.toml", policy);
        world.run(&["--policy", &policy.display().to_string()], "python3").args(["-c", ask]).finish()
    };
    run("schema = 1\n").success().says("there");
    run("[local]\nnetlink = \"allow\"\n").success().says("there");
    let refused = run("[local]\nnetlink = \"deny\"\n");
    assert!(refused.stderr.contains("Permission denied"), "{}", refused.stderr);
    refused.ended_with(1).complains("netlink = \"allow\"");
}
