//! A world of its own for every test: a directory, a runtime directory (so a hub of its own), a user, and the programs.

use std::ffi::OsString;
use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::signal::Signal;

use crate::process::{Launch, send, tail};

/// The user whom the programs run as when the tests run as root.
const TEST_USER: &str = "sipboxtest";
/// Every process of a world has this variable, with the world's directory as its value.
const MARK: &str = "SIPBOX_TEST_WORLD";

#[derive(Clone, Copy)]
pub(crate) struct User {
    pub uid: u32,
    pub gid: u32,
}

/// A world of its own: what runs in it shares a hub and a directory, and is gone when it is dropped.
pub struct World {
    dir: PathBuf,
    user: Option<User>,
    programs: PathBuf,
    sipbox: PathBuf,
    runs: AtomicU32,
    /// With SIPBOX_TEST_OVER=kamailio: the registrar of every named run, instead of the embedded hub.
    registrar: OnceLock<crate::Kamailio>,
}

/// Who has an account when the programs run over Kamailio: every name that they use.
const ACCOUNTS: [&str; 29] = [
    "alice",
    "blocking",
    "chat",
    "db",
    "dual",
    "echo",
    "files",
    "ftp-user",
    "ftpd",
    "games",
    "handed",
    "held",
    "mp",
    "nonblocking",
    "ns",
    "one",
    "perf",
    "py",
    "redis",
    "shell",
    "six",
    "two",
    "udp",
    "web",
    "a",
    "b",
    "c",
    "x",
    "y",
];

impl World {
    /// A new world. The name, that of the test, is part of its directory's.
    pub fn new(name: &str) -> World {
        World::of(name, test_user())
    }

    /// A world of root's own; `None` when the tests do not run as root.
    pub fn as_root(name: &str) -> Option<World> {
        nix::unistd::getuid().is_root().then(|| World::of(name, None))
    }

    fn of(name: &str, user: Option<User>) -> World {
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.subsec_nanos());
        let dir = PathBuf::from(format!("/tmp/sipbox-test.{name}.{}.{nanos:09}", std::process::id()));
        let world = World {
            user,
            programs: programs().to_path_buf(),
            sipbox: sipbox().to_path_buf(),
            runs: AtomicU32::new(0),
            registrar: OnceLock::new(),
            dir,
        };
        world.make_dir("", 0o755);
        world.make_dir("runtime", 0o700);
        world.make_dir("home", 0o700);
        world
    }

    /// The world's directory; it belongs to the test user.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A path in the world's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A directory in the world's directory.
    pub fn make_dir(&self, name: &str, mode: u32) -> PathBuf {
        let path = self.dir.join(name);
        fs::create_dir_all(&path).unwrap_or_else(|e| panic!("making {}: {e}", path.display()));
        self.own(&path, mode);
        path
    }

    /// A file in the world's directory.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        self.write_mode(name, content, 0o644)
    }

    /// A file in the world's directory, with its permissions.
    pub fn write_mode(&self, name: &str, content: impl AsRef<[u8]>, mode: u32) -> PathBuf {
        let path = self.dir.join(name);
        fs::write(&path, content).unwrap_or_else(|e| panic!("writing {}: {e}", path.display()));
        self.own(&path, mode);
        path
    }

    fn own(&self, path: &Path, mode: u32) {
        let set = || {
            fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
            match self.user {
                Some(user) => chown(path, Some(user.uid), Some(user.gid)),
                None => Ok(()),
            }
        };
        set().unwrap_or_else(|e| panic!("permissions of {}: {e}", path.display()));
    }

    /// Whether its programs run as root.
    pub fn is_root(&self) -> bool {
        self.user.map_or_else(|| nix::unistd::getuid().is_root(), |user| user.uid == 0)
    }

    /// The name of the user that programs run as.
    pub fn user_name(&self) -> String {
        let uid = self.user.map_or_else(nix::unistd::getuid, |u| nix::unistd::Uid::from_raw(u.uid));
        let user = nix::unistd::User::from_uid(uid).ok().flatten();
        user.map_or_else(|| uid.to_string(), |u| u.name)
    }

    /// A test program by its name.
    pub fn program(&self, name: &str) -> PathBuf {
        reachable_copy(&self.programs.join(name))
    }

    /// A command as it is, without sipbox. A bare name is one of the test programs, else looked up in PATH.
    pub fn native(&self, program: &str) -> Launch {
        let command = self.resolve(program);
        let number = self.runs.fetch_add(1, Ordering::Relaxed) + 1;
        let name = Path::new(program).file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
        Launch::new(&self.dir, format!("{number:02}-{name}"), command, self.user)
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", self.dir.join("home"))
            .env("USER", self.user_name())
            .env("LANG", "C.UTF-8")
            .env("TERM", "xterm")
            .env("XDG_RUNTIME_DIR", self.dir.join("runtime"))
            .env("TMPDIR", &self.dir)
            .env(MARK, &self.dir)
    }

    /// The sipbox under test.
    pub fn sipbox_path(&self) -> &Path {
        &self.sipbox
    }

    /// `sipbox ARGS`.
    pub fn sipbox(&self, args: &[&str]) -> Launch {
        self.native(&self.sipbox.to_string_lossy()).args(args)
    }

    /// `sipbox run FLAGS -- PROGRAM`, to be followed by the program's arguments.
    pub fn run(&self, flags: &[&str], program: &str) -> Launch {
        let number = self.runs.load(Ordering::Relaxed) + 1;
        let name = Path::new(program).file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
        let run = self.sipbox(&["run"]).args(everywhere(flags)).tag(format!("{number:02}-run-{name}"));
        let named = flags.iter().any(|f| matches!(*f, "--as" | "--to" | "--map"));
        if !named || flags.contains(&"--registrar") || std::env::var_os("SIPBOX_TEST_OVER").is_none() {
            return run.args(flags).arg("--").arg(self.resolve(program));
        }
        let (flags, user) = self.over_kamailio(flags);
        let password = crate::Kamailio::password(&user);
        run.args(flags).arg("--").arg(self.resolve(program)).env("SIPBOX_PASSWORD", password)
    }

    /// The same flags with Kamailio for the hub: bare names are its accounts, and who has no name calls as `alice`.
    fn over_kamailio(&self, flags: &[&str]) -> (Vec<String>, String) {
        let kamailio = self.registrar.get_or_init(|| crate::Kamailio::start(self, crate::Algorithm::Sha256, &ACCOUNTS));
        let full = |name: &str| if name.contains(':') { name.to_owned() } else { kamailio.aor(name) };
        let mut all = vec!["--registrar".to_owned(), kamailio.registrar(false)];
        let mut user = None;
        let mut rest = flags.iter();
        while let Some(flag) = rest.next() {
            all.push((*flag).to_owned());
            match (*flag, flag.starts_with("--as") || matches!(*flag, "--to" | "--map")) {
                (_, false) => {}
                ("--map", _) => {
                    let given = rest.next().copied().unwrap_or_default();
                    let (place, name) = given.split_once('=').unwrap_or((given, ""));
                    all.push(format!("{place}={}", full(name)));
                }
                (is_as, _) => {
                    let name = rest.next().copied().unwrap_or_default();
                    if is_as == "--as" {
                        user = Some(name.to_owned());
                    }
                    all.push(full(name));
                }
            }
        }
        let user = user.unwrap_or_else(|| {
            all.extend(["--as".to_owned(), full("alice")]);
            "alice".to_owned()
        });
        (all, user)
    }

    fn resolve(&self, program: &str) -> OsString {
        if program.contains('/') || !self.programs.join(program).exists() {
            return program.into();
        }
        self.program(program).into()
    }

    /// `sipbox hub --listen 127.0.0.1:PORT --ladder`, listening.
    pub fn hub(&self, port: u16) -> crate::Process {
        let mut hub = self.sipbox(&["hub", "--listen", &format!("127.0.0.1:{port}"), "--ladder"]).start();
        hub.wait_for_err("sipbox hub: listening on");
        hub
    }

    /// The hubs that started by themselves in this world.
    pub fn hubs(&self) -> Vec<u32> {
        let is_hub = |pid: &u32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|b| *b == 0).any(|word| word == b"--auto")
        };
        self.inhabitants().into_iter().filter(is_hub).collect()
    }

    /// Everything that still runs in this world.
    fn inhabitants(&self) -> Vec<u32> {
        let mark = format!("{MARK}={}", self.dir.display()).into_bytes();
        let runtime = format!("XDG_RUNTIME_DIR={}", self.dir.join("runtime").display()).into_bytes();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
            let Ok(environment) = fs::read(entry.path().join("environ")) else { continue };
            if environment.split(|b| *b == 0).any(|v| v == mark || v == runtime) {
                found.push(pid);
            }
        }
        found
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Twice nobody: a process that is in the middle of an exec has no environment to be seen.
        let mut empty = 0;
        while empty < 2 {
            let found = self.inhabitants();
            empty = if found.is_empty() { empty + 1 } else { 0 };
            for pid in found {
                send(pid, Signal::SIGKILL);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        if std::thread::panicking() {
            let mut files: Vec<PathBuf> =
                fs::read_dir(&self.dir).into_iter().flatten().flatten().map(|e| e.path()).collect();
            files.sort();
            for path in files {
                if !path.extension().is_some_and(|e| e == "out" || e == "err") {
                    continue;
                }
                let text = fs::read(&path).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default();
                if !text.is_empty() {
                    eprintln!("=== {}\n{}", path.display(), tail(&text));
                }
            }
            eprintln!("kept: {}", self.dir.display());
        } else {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// Whether a UDP socket of IPv4 has this port, without trying to have it: who just takes it would find it in use.
pub fn has_udp_socket(port: u16) -> bool {
    let table = std::fs::read_to_string("/proc/net/udp").unwrap_or_else(|e| panic!("/proc/net/udp: {e}"));
    let local = format!(":{port:04X}");
    table.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1)).any(|address| address.ends_with(&local))
}

/// A port that nothing uses now, TCP or UDP, below the range that the system hands out by itself. No other call gets it, in this process
/// or in another test's of this machine, until this process ends: an abstract name of AF_UNIX (unix(7)) keeps it.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    static KEPT: Mutex<Vec<UnixDatagram>> = Mutex::new(Vec::new());
    let start = std::process::id().wrapping_mul(7919);
    for _ in 0..2000 {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let Ok(port) = u16::try_from(10_000 + start.wrapping_add(step.wrapping_mul(37)) % 20_000) else { continue };
        let name = SocketAddr::from_abstract_name(format!("sipbox-test-port-{port}"))
            .unwrap_or_else(|e| panic!("a name for {port}: {e}"));
        let Ok(kept) = UnixDatagram::bind_addr(&name) else { continue };
        if TcpListener::bind(("::", port)).is_ok() && UdpSocket::bind(("::", port)).is_ok() {
            KEPT.lock().unwrap_or_else(PoisonError::into_inner).push(kept);
            return port;
        }
    }
    panic!("no free port between 10000 and 30000");
}

/// `--isolation VALUE` with SIPBOX_TEST_ISOLATION=VALUE, and `--flow VALUE` with SIPBOX_TEST_FLOW: every `sipbox run` of the tests then
/// uses it, unless it says something else.
fn everywhere(flags: &[&str]) -> Vec<OsString> {
    let wanted = [("SIPBOX_TEST_ISOLATION", "--isolation"), ("SIPBOX_TEST_FLOW", "--flow")];
    let wanted = wanted.into_iter().filter(|(_, flag)| !flags.contains(flag));
    wanted.filter_map(|(name, flag)| Some([flag.into(), std::env::var_os(name)?])).flatten().collect()
}

/// Whether the programs' own sockets are connected to each other, with no relay between (`--isolation netns` has one).
pub fn direct_flows() -> bool {
    std::env::var_os("SIPBOX_TEST_ISOLATION").is_none_or(|value| value != "netns")
}

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or_else(|| unreachable!("the manifest is in tests/"))
}

fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), |d| workspace().join(d))
}

fn test_user() -> Option<User> {
    if !nix::unistd::getuid().is_root() {
        return None;
    }
    match nix::unistd::User::from_name(TEST_USER) {
        Ok(Some(user)) => Some(User { uid: user.uid.as_raw(), gid: user.gid.as_raw() }),
        _ => panic!("there is no user {TEST_USER}: run tests/install.sh (make test does)"),
    }
}

/// The sipbox under test.
fn sipbox() -> &'static Path {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    FOUND.get_or_init(|| {
        if let Some(path) = std::env::var_os("SIPBOX_BIN") {
            return reachable_copy(Path::new(&path));
        }
        let candidates = [target().join("release/sipbox"), target().join("debug/sipbox")];
        match candidates.iter().find(|p| p.exists()) {
            Some(path) => reachable_copy(path),
            None => panic!("no sipbox in {}: cargo build --release", target().display()),
        }
    })
}

/// The directory of the test programs, built.
fn programs() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let out = target().join("test-programs");
        let script = workspace().join("tests/programs/build.sh");
        let built = Command::new(&script).arg(&out).output().unwrap_or_else(|e| panic!("{}: {e}", script.display()));
        assert!(
            built.status.success(),
            "{} failed; tests/install.sh installs what it needs\n{}",
            script.display(),
            String::from_utf8_lossy(&built.stderr)
        );
        out
    })
}

/// The path itself, or a copy under /tmp when the test user could not get at it (a checkout below /root).
fn reachable_copy(path: &Path) -> PathBuf {
    let path = fs::canonicalize(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let open = |p: &Path| fs::metadata(p).is_ok_and(|m| m.permissions().mode() & 0o005 == 0o005);
    if test_user().is_none() || path.ancestors().skip(1).all(open) {
        return path;
    }
    let meta = fs::metadata(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let name = path.file_name().unwrap_or_default();
    let dir = PathBuf::from(format!("/tmp/sipbox-tests/{}-{}-{}", meta.ino(), meta.mtime(), meta.mtime_nsec()));
    let copy = dir.join(name);
    if !copy.exists() {
        let staged = dir.join(format!(".{}.{}", name.to_string_lossy(), std::process::id()));
        let all = || {
            fs::create_dir_all(&dir)?;
            fs::copy(&path, &staged)?;
            fs::set_permissions(&staged, fs::Permissions::from_mode(0o755))?;
            fs::rename(&staged, &copy)
        };
        all().unwrap_or_else(|e| panic!("copying {} to {}: {e}", path.display(), copy.display()));
    }
    copy
}
