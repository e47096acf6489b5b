//! A network of the program's own, made by an ordinary user and by root; nextest's way of listing and choosing tests is followed by hand.

#![allow(clippy::unwrap_used)] // A test.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{self, Backlog, sockopt};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Gid, Uid, fork, setgid, setgroups, setuid};
use sandbox::diag::DestroyWatch;
use sandbox::netns::{Net, Networks};
use sandbox::park::Lot;
use sandbox::{sock, watchdog};

const V4: Ipv4Addr = Ipv4Addr::new(198, 18, 7, 7);
const V6: Ipv6Addr = Ipv6Addr::new(0xfd51, 0xb0, 0, 0, 0, 0, 0, 7);
const NOBODY: u32 = 65534;

type Test = fn(&Arc<Networks>);
const TESTS: [(&str, Test); 8] = [
    ("what_is_dialled_is_reached", what_is_dialled_is_reached),
    ("a_parked_connect_fails_when_told", a_parked_connect_fails_when_told),
    ("datagrams_have_their_own_addresses", datagrams_have_their_own_addresses),
    ("nothing_else_is_reached", nothing_else_is_reached),
    ("the_kernel_tells_of_the_program_s_sockets_only", the_kernel_tells_of_the_program_s_sockets_only),
    ("few_sockets_are_made_in_advance", few_sockets_are_made_in_advance),
    ("a_broker_that_cannot_run_for_a_while_is_waited_for", a_broker_that_cannot_run_for_a_while_is_waited_for),
    ("a_broker_that_was_stopped_ends", a_broker_that_was_stopped_ends),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| arguments.iter().any(|a| a == flag);
    let wanted = arguments.iter().enumerate().find(|(i, a)| {
        !a.starts_with('-')
            && !matches!(i.checked_sub(1).map(|j| arguments[j].as_str()), Some("--format" | "--test-threads"))
    });
    let chosen: Vec<_> = TESTS
        .into_iter()
        .filter(|(name, _)| {
            wanted.is_none_or(|(_, w)| if has("--exact") { w == name } else { name.contains(w.as_str()) })
        })
        .collect();
    if has("--list") {
        if !has("--ignored") {
            chosen.iter().for_each(|(name, _)| println!("{name}: test"));
        }
        return;
    }
    for (name, test) in &chosen {
        print!("test {name} ... ");
        let _ = std::io::stdout().flush();
        // As whom the tests are run, and as root also as an ordinary user.
        apart(*test, None);
        if nix::unistd::getuid().is_root() {
            apart(*test, Some(NOBODY));
        }
        println!("ok");
    }
    println!("\ntest result: ok. {} passed; 0 failed; 0 ignored; 0 measured; 0 filtered out", chosen.len());
}

/// Runs a test in a process of its own.
fn apart(test: Test, uid: Option<u32>) {
    // SAFETY: this process has one thread.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            if let Some(uid) = uid {
                setgroups(&[]).and(setgid(Gid::from_raw(uid))).and(setuid(Uid::from_raw(uid))).unwrap();
                nix::sys::prctl::set_dumpable(true).unwrap();
            }
            match Networks::make(V4, V6) {
                Ok(networks) => test(&Arc::new(networks)),
                Err(e) if uid.is_some() && e.kind() == std::io::ErrorKind::PermissionDenied => {
                    eprintln!("skipped as an ordinary user: {e}");
                }
                Err(e) => panic!("{e}"),
            }
            std::process::exit(0);
        }
        ForkResult::Parent { child } => {
            assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0), "uid {uid:?}");
        }
    }
}

fn program(networks: &Networks, v6: bool, blocking: bool) -> OwnedFd {
    let fd = networks.tcp(Net::Program, v6).unwrap();
    if blocking {
        sock::set_blocking(fd.as_fd()).unwrap();
    }
    fd
}

fn stream(fd: OwnedFd) -> TcpStream {
    let stream = TcpStream::from(fd);
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream
}

fn peers() -> [SocketAddr; 4] {
    ["203.0.113.9:80", "10.1.2.3:65535", "8.8.8.8:1", "[2001:db8::9]:443"].map(|a| a.parse().unwrap())
}

fn what_is_dialled_is_reached(networks: &Arc<Networks>) {
    for peer in peers() {
        let lot = Lot::at(networks, Net::Peers, peer).unwrap();
        for (v6, blocking) in [(false, false), (false, true), (true, false), (true, true)] {
            if peer.is_ipv6() && !v6 {
                continue;
            }
            for parks in [false, true] {
                let a = program(networks, v6, blocking);
                let begun = Instant::now();
                let b = if parks {
                    let parked = lot.park(a.as_fd()).unwrap();
                    assert!(!sock::is_ready(a.as_fd(), nix::poll::PollFlags::POLLOUT));
                    lot.release(parked.local).unwrap()
                } else {
                    lot.connect(a.as_fd()).unwrap()
                };
                assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
                assert_eq!(sock::canonical(sock::peer_addr(a.as_fd()).unwrap()), peer);
                let own: IpAddr = if peer.is_ipv6() { V6.into() } else { V4.into() };
                assert_eq!(sock::canonical(sock::local_addr(a.as_fd()).unwrap()).ip(), own);
                let (mut a, mut b) = (stream(a), stream(b));
                a.write_all(b"there").unwrap();
                b.write_all(b"and back").unwrap();
                drop((a.shutdown(std::net::Shutdown::Write), b.shutdown(std::net::Shutdown::Write)));
                let mut text = String::new();
                b.read_to_string(&mut text).unwrap();
                a.read_to_string(&mut text).unwrap();
                assert_eq!(text, "thereand back");
            }
        }
    }
}

fn a_parked_connect_fails_when_told(networks: &Arc<Networks>) {
    for peer in peers() {
        let lot = Lot::at(networks, Net::Peers, peer).unwrap();
        let a = program(networks, peer.is_ipv6(), false);
        let parked = lot.park(a.as_fd()).unwrap();
        lot.fail(parked.local).unwrap();
        let events = sock::wait_for(a.as_fd(), nix::poll::PollFlags::POLLOUT, Duration::from_secs(1)).unwrap();
        assert!(events.contains(nix::poll::PollFlags::POLLERR), "{events:?}");
        assert_eq!(sock::so_error(a.as_fd()).unwrap(), libc::ECONNRESET);
    }
}

fn datagrams_have_their_own_addresses(networks: &Arc<Networks>) {
    for peer in peers() {
        let v6 = peer.is_ipv6();
        let a = networks.udp(Net::Program, v6).unwrap();
        let any: SocketAddr = if v6 { (Ipv6Addr::UNSPECIFIED, 0).into() } else { (Ipv4Addr::UNSPECIFIED, 0).into() };
        sock::bind(a.as_fd(), &any).unwrap();
        let own: IpAddr = if v6 { V6.into() } else { V4.into() };
        let from = SocketAddr::new(own, sock::local_addr(a.as_fd()).unwrap().port());
        let b = networks.udp(Net::Peers, v6).unwrap();
        sock::bind(b.as_fd(), &peer).unwrap();
        sock::connect_nowait(b.as_fd(), &from).unwrap();
        let (a, b) = (std::net::UdpSocket::from(a), std::net::UdpSocket::from(b));
        for s in [&a, &b] {
            s.set_nonblocking(false).unwrap();
            s.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        }
        // As large as there are, for the interface does not cut them.
        let large = vec![7; 65507];
        socket::setsockopt(&a, sockopt::SndBuf, &200_000).unwrap();
        a.send_to(&large, peer).unwrap();
        let mut room = vec![0; 70_000];
        assert_eq!(b.recv(&mut room).unwrap(), large.len());
        b.send(b"back").unwrap();
        assert_eq!(a.recv_from(&mut room).unwrap(), (4, peer));
    }
}

fn nothing_else_is_reached(networks: &Arc<Networks>) {
    // A listener outside, on every address there.
    let outside = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = outside.local_addr().unwrap().port();
    for ip in ["127.0.0.1", "203.0.113.9", "10.0.0.1"] {
        let a = program(networks, false, false);
        let to = SocketAddr::new(ip.parse().unwrap(), port);
        let connected = sock::connect_within(a.as_fd(), &to, Duration::from_secs(2));
        assert_eq!(connected.unwrap_err().raw_os_error(), Some(libc::ECONNREFUSED), "{ip}");
    }
    assert!(networks.owns(program(networks, false, false).as_fd()));
    assert!(!networks.owns(outside.as_fd()));
    assert!(!networks.owns(networks.tcp(Net::Peers, false).unwrap().as_fd()));
    // No bind needs a privilege.
    let low = program(networks, false, false);
    sock::bind(low.as_fd(), &"0.0.0.0:80".parse().unwrap()).unwrap();
    socket::listen(&low, Backlog::new(1).unwrap()).unwrap();
    let listeners = networks.inspector().listeners().unwrap();
    let endpoints = networks.inspector().endpoints(true).unwrap();
    assert_eq!(listeners, endpoints.iter().filter(|e| e.listens).copied().collect::<Vec<_>>());
    let listener = listeners.first().unwrap();
    assert_eq!((listener.local, listener.peer), ("0.0.0.0:80".parse().unwrap(), None));
    assert!(!listeners.iter().any(|e| e.local.port() == port), "{listeners:?}");
}

fn few_sockets_are_made_in_advance(networks: &Arc<Networks>) {
    /// Callers that come all at once.
    const CALLERS: usize = 64;
    let open_files = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = open_files();
    let gate = Arc::new(Barrier::new(CALLERS));
    let ask = |_| {
        let (networks, gate) = (networks.clone(), gate.clone());
        std::thread::spawn(move || {
            gate.wait();
            networks.of_peer(false).unwrap()
        })
    };
    let askers: Vec<_> = (0..CALLERS).map(ask).collect();
    let sockets: Vec<OwnedFd> = askers.into_iter().map(|a| a.join().unwrap()).collect();
    drop(sockets);
    let kept = open_files() - before;
    assert!(kept < 8, "{kept} sockets for nobody");
}

/// As on a busy machine; the watchdog interrupts whoever waits meanwhile.
fn a_broker_that_cannot_run_for_a_while_is_waited_for(networks: &Arc<Networks>) {
    watchdog::start().unwrap();
    watchdog::enlist();
    let stopped = Duration::from_millis(1500);
    for _ in 0..2 {
        kill(networks.broker(), Signal::SIGSTOP).unwrap();
        let asks = networks.clone();
        let goes_on = std::thread::spawn(move || {
            std::thread::sleep(stopped);
            kill(asks.broker(), Signal::SIGCONT).unwrap();
        });
        let began = Instant::now();
        watchdog::within_step(true);
        let (one, other) = (networks.udp(Net::Program, false), networks.tcp(Net::Peers, false));
        watchdog::within_step(false);
        assert!(began.elapsed() >= stopped / 2);
        // Each is what was asked for.
        assert!(networks.owns(one.unwrap().as_fd()) && !networks.owns(other.unwrap().as_fd()));
        goes_on.join().unwrap();
    }
}

/// With all processes of the user, say.
fn a_broker_that_was_stopped_ends(networks: &Arc<Networks>) {
    // Who waits for it for good is killed.
    nix::unistd::alarm::set(60);
    let broker = networks.broker();
    kill(broker, Signal::SIGSTOP).unwrap();
    let stopped = waitpid(broker, Some(WaitPidFlag::WUNTRACED)).unwrap();
    assert_eq!(stopped, WaitStatus::Stopped(broker, Signal::SIGSTOP));
    networks.close();
    assert_eq!(waitpid(broker, None), Err(nix::errno::Errno::ECHILD));
    networks.close();
}

fn the_kernel_tells_of_the_program_s_sockets_only(networks: &Arc<Networks>) {
    let mut watch = DestroyWatch::on(networks.diag().unwrap()).unwrap();
    let (one, other) = (program(networks, false, false), sock::tcp4().unwrap());
    let cookies = [&one, &other].map(|s| sock::socket_cookie(s.as_fd()).unwrap());
    drop((one, other));
    let mut seen = Vec::new();
    let end = Instant::now() + Duration::from_secs(5);
    while !seen.contains(&cookies[0]) {
        assert!(Instant::now() < end, "not reported");
        let _ = sock::wait_for(watch.as_fd(), nix::poll::PollFlags::POLLIN, Duration::from_millis(50));
        let _ = watch.read(&mut seen).unwrap();
    }
    assert!(!seen.contains(&cookies[1]));
}
