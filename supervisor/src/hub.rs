//! The embedded hub of a user: found through XDG_RUNTIME_DIR, started by whoever needs it first, ended when idle.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use sipcore::agent::{Registrar, Transport};
use sipcore::hub::{Hub, HubConfig, Users};

use crate::users::REALM;

/// A hub that has no bindings and hears nothing ends after this long.
const IDLE: Duration = Duration::from_secs(15);
/// Characters of the secret: 128 bits in hexadecimal.
const SECRET: usize = 32;
/// The hub says where it is in one line, at most this many bytes of it are read.
const LINE: u64 = 256;
/// And it says so at once: what does not is not the hub.
const ANSWER: Duration = Duration::from_secs(1);
/// How long a start may take, on a busy machine.
const START: Duration = Duration::from_secs(10);

/// Process of the hub that this process started, 0 if it started none: it is not the program's.
static STARTED: AtomicU32 = AtomicU32::new(0);

/// The process id of the hub that this process started.
pub fn started() -> Option<u32> {
    match STARTED.load(Ordering::Relaxed) {
        0 => None,
        pid => Some(pid),
    }
}

/// Where the user's hub leaves its lock and its address: private to the user.
pub fn directory() -> Result<PathBuf, String> {
    let uid = nix::unistd::getuid();
    let path = match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(d) if Path::new(&d).is_absolute() => PathBuf::from(d).join("sipbox"),
        _ => PathBuf::from(format!("/tmp/sipbox-{uid}")),
    };
    let failed = |e: std::io::Error| format!("the hub's directory {} cannot be used: {e}", path.display());
    match DirBuilder::new().mode(0o700).create(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(failed(e)),
        _ => {}
    }
    let m = std::fs::symlink_metadata(&path).map_err(failed)?;
    if !m.is_dir() || m.uid() != uid.as_raw() || m.mode() & 0o077 != 0 {
        return Err(format!(
            "the hub's directory {} is not a directory of this user alone (mode 0700); remove it",
            path.display()
        ));
    }
    Ok(path)
}

fn lock(directory: &Path) -> Result<Option<Flock<File>>, String> {
    let path = directory.join("hub.lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(|e| format!("{}: {e}", path.display()))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(held) => Ok(Some(held)),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, e)) => Err(format!("{}: {e}", path.display())),
    }
}

/// What the running hub says of itself, if it is one: its address and the user's secret.
///
/// The program may write in this directory, and put a socket of its own at the hub's path; but whoever made that socket listen is
/// named by the kernel (SO_PEERCRED, unix(7)), and for a program that is always its supervisor, never a hub.
fn ask(directory: &Path) -> Option<Own> {
    let stream = connect(&directory.join("hub.sock")).ok()?;
    let listener = nix::sys::socket::getsockopt(&stream, nix::sys::socket::sockopt::PeerCredentials).ok()?;
    if listener.uid() != nix::unistd::getuid().as_raw() || !is_hub(listener.pid()) {
        return None;
    }
    stream.set_read_timeout(Some(ANSWER)).ok()?;
    let mut line = String::new();
    BufReader::new(stream.take(LINE)).read_line(&mut line).ok()?;
    let (address, secret) = line.trim_end().split_once(' ')?;
    let addr: SocketAddr = address.parse().ok()?;
    let own = Own { registrar: Registrar { addr, transport: Transport::Udp }, secret: secret.to_owned() };
    (addr.ip().is_loopback() && secret.len() == SECRET).then_some(own)
}

/// Connects to an AF_UNIX stream socket; EAGAIN when its queue is full, for whoever listens there may never accept.
pub fn connect(path: &Path) -> nix::Result<UnixStream> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr};
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = nix::sys::socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    nix::sys::socket::connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    let stream = UnixStream::from(socket);
    stream
        .set_nonblocking(false)
        .map_err(|e| nix::errno::Errno::from_raw(e.raw_os_error().unwrap_or(nix::libc::EIO)))?;
    Ok(stream)
}

/// Whether a process was started as the hub of a user.
fn is_hub(process: i32) -> bool {
    let line = std::fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
    line.split(|b| *b == 0).skip(1).take(2).eq([&b"hub"[..], b"--auto"])
}

/// Tells whoever connects where this hub is: only processes of this user can, and no program in a sandbox.
fn tell(directory: &Path, address: SocketAddr, secret: &str) -> Result<(), String> {
    let (path, fresh) = (directory.join("hub.sock"), directory.join("hub.sock.new"));
    let failed = |e: std::io::Error| format!("{}: {e}", path.display());
    let _ = std::fs::remove_file(&fresh);
    let listener = UnixListener::bind(&fresh).map_err(failed)?;
    std::fs::rename(&fresh, &path).map_err(failed)?;
    let line = format!("{address} {secret}\n");
    let serve = move || {
        for stream in listener.incoming().flatten() {
            let mut stream = stream;
            // A line fits into the buffer of any socket: this does not wait.
            let _ = stream.write_all(line.as_bytes());
        }
    };
    std::thread::Builder::new().name("hub-address".to_owned()).spawn(serve).map(drop).map_err(failed)
}

/// Where this user's hub is, and the password that it asks of everybody: only processes of this user can read it.
pub struct Own {
    pub registrar: Registrar,
    pub secret: String,
}

/// The hub of this user, started if there is none. Several at once start one.
pub async fn ensure() -> Result<Own, String> {
    tokio::task::spawn_blocking(find_or_start).await.map_err(|e| e.to_string())?
}

/// The secret of the user's hubs: it outlives each of them, so that runs find their way to the next one.
fn secret(directory: &Path) -> Result<String, String> {
    let path = directory.join("hub.secret");
    let failed = |e: std::io::Error| format!("{}: {e}", path.display());
    match std::fs::read_to_string(&path) {
        Ok(text) if text.len() == SECRET => return Ok(text),
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(e)),
        _ => {}
    }
    let mut random = [0u8; SECRET / 2];
    getrandom::fill(&mut random).map_err(|e| format!("no random numbers: {e}"))?;
    let text: String = random.iter().map(|b| format!("{b:02x}")).collect();
    let fresh = directory.join("hub.secret.new");
    let _ = std::fs::remove_file(&fresh);
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&fresh).map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| std::fs::rename(&fresh, &path)).map_err(failed)?;
    Ok(text)
}

fn find_or_start() -> Result<Own, String> {
    let directory = directory()?;
    let end = Instant::now() + START;
    while Instant::now() < end {
        match lock(&directory)? {
            // Nobody holds the lock: there is no hub. The one started here takes it, or finds that another has.
            Some(free) => {
                drop(free);
                start()?;
            }
            None => {
                if let Some(own) = ask(&directory) {
                    return Ok(own);
                }
                // It is just starting, or just ending.
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }
    Err(format!("the hub of this user did not start within {} s (see {})", START.as_secs(), directory.display()))
}

/// Starts a hub and waits until it serves or has found another.
fn start() -> Result<(), String> {
    let program = std::env::current_exe().map_err(|e| format!("the hub cannot be started: {e}"))?;
    let mut child = Command::new(&program)
        .args(["hub", "--auto"])
        .current_dir("/")
        .env_clear()
        .envs(std::env::var_os("XDG_RUNTIME_DIR").map(|d| ("XDG_RUNTIME_DIR", d)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| format!("the hub cannot be started as {}: {e}", program.display()))?;
    let mut line = String::new();
    if let Some(out) = child.stdout.take() {
        let _ = BufReader::new(out).read_line(&mut line);
    }
    if line.starts_with("ready") {
        STARTED.store(child.id(), Ordering::Relaxed);
        return Ok(());
    }
    let _ = child.wait();
    match line.strip_prefix("failed ") {
        Some(why) => Err(format!("the hub of this user does not start: {}", why.trim())),
        None => Ok(()),
    }
}

/// The user's own hub, in the background: says on stdout how the start went, and ends when idle.
pub async fn serve_user() -> Result<(), String> {
    // The terminal's signals are not for it. It fails only for a process group leader, which then has no terminal's.
    let _ = nix::unistd::setsid();
    // Programs of the user are sandboxed beside it: none may look into it.
    let _ = nix::sys::prctl::set_dumpable(false);
    let outcome = serve_locked().await;
    if let Err(why) = &outcome {
        println!("failed {why}");
    }
    outcome
}

async fn serve_locked() -> Result<(), String> {
    let directory = directory()?;
    let Some(_held) = lock(&directory)? else {
        println!("busy");
        return Ok(());
    };
    let secret = secret(&directory)?;
    // No state: a file that the programs of this user can write would tell the hub where to send SIP, and the runs register again
    // by themselves.
    let config = |port: u16| HubConfig {
        listen: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, port))],
        users: Some(Users::shared(REALM, &secret)),
        ..HubConfig::default()
    };
    let hub = match Hub::start(config(usual_port(&directory))).await {
        Ok(hub) => hub,
        // Somebody else has the usual port: any will do.
        Err(_) => Hub::start(config(0)).await.map_err(|e| e.to_string())?,
    };
    let address = hub.addresses().first().copied().ok_or("the hub has no address")?;
    tell(&directory, address, &secret)?;
    println!("ready {address}");
    let _ = std::io::stdout().flush();
    loop {
        tokio::time::sleep(IDLE / 4).await;
        let activity = hub.activity();
        if activity.bindings == 0 && activity.subscriptions == 0 && activity.last.elapsed() >= IDLE {
            break;
        }
    }
    let _ = std::fs::remove_file(directory.join("hub.sock"));
    hub.shutdown().await;
    Ok(())
}

/// A port of this user's own, so that a hub that starts again is where the last one was: below the ephemeral range.
fn usual_port(directory: &Path) -> u16 {
    let hash = directory
        .as_os_str()
        .as_encoded_bytes()
        .iter()
        .fold(0x811c_9dc5u32, |h, b| (h ^ u32::from(*b)).wrapping_mul(0x0100_0193));
    20_000 + (hash % 12_000) as u16
}
