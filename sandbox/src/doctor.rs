//! Self-test: whether the running kernel, and whatever contains us in it, gives everything that the sandbox rests on. Each thing is found out
//! by doing it once, on throw-away threads, children and sockets; every wait is bounded, so that a check can fail but not hang.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use crate::diag::{DestroyWatch, live_cookies};
use crate::netns::{Net, Networks};
use crate::park::Lot;
use crate::sock;

mod child;
mod trap;

/// The longest that any single step may take.
const LIMIT: Duration = Duration::from_secs(2);
/// The oldest kernel that can do it all: SECCOMP_ADDFD_FLAG_SEND.
const FLOOR: (u32, u32) = (5, 14);
/// In the part of 127.0.0.0/8 that the applications' sockets live in.
const LOOPBACK: Ipv4Addr = Ipv4Addr::new(127, 64, 0, 1);

/// What came of trying something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// It works; a detail worth knowing.
    Ok(String),
    /// It does not; why, and what to do about it.
    Missing(String),
}

/// One thing that was tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What was tried.
    pub name: &'static str,
    /// What sipbox does with it.
    pub needed_for: &'static str,
    /// Whether sipbox cannot do without it.
    pub required: bool,
    /// What came of it.
    pub result: Finding,
}

impl Check {
    /// Whether it works.
    pub fn works(&self) -> bool {
        matches!(self.result, Finding::Ok(_))
    }
}

/// All checks; displayed as a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// In the order in which they were made.
    pub checks: Vec<Check>,
}

impl Report {
    /// Whether everything required works.
    pub fn fit(&self) -> bool {
        self.checks.iter().all(|check| check.works() || !check.required)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
        for check in &self.checks {
            let (mark, text) = match (&check.result, check.required) {
                (Finding::Ok(detail), _) => ("ok", detail),
                (Finding::Missing(why), true) => ("MISSING", why),
                (Finding::Missing(why), false) => ("absent", why),
            };
            writeln!(f, "{mark:<8} {:<width$}  {text}", check.name)?;
            if !check.works() {
                let weight = if check.required { "required" } else { "optional" };
                writeln!(f, "{:8} {:width$}  {weight}, for {}", "", "", check.needed_for)?;
            }
        }
        if self.fit() {
            writeln!(f, "\nEverything that sipbox requires is there.")
        } else {
            writeln!(f, "\nSomething that sipbox requires is missing.")
        }
    }
}

/// Something to try: gives a detail for the table.
struct Trial {
    name: &'static str,
    needed_for: &'static str,
    required: bool,
    attempt: fn() -> io::Result<String>,
    /// What to look at if it does not work.
    advice: &'static str,
}

const TRIALS: &[Trial] = &[
    Trial {
        name: "kernel version",
        needed_for: "everything below",
        required: true,
        attempt: kernel_version,
        advice: "Linux 5.14 is the oldest that can work, 6.6 is the first that is fast",
    },
    Trial {
        name: "seccomp user notification",
        needed_for: "seeing the program's socket calls",
        required: true,
        attempt: trap::answer,
        advice: "CONFIG_SECCOMP_FILTER; in a container its own seccomp profile must allow seccomp(2), and no other supervisor may be on the same \
                 program",
    },
    Trial {
        name: "seccomp CONTINUE",
        needed_for: "letting the kernel run a call that is none of sipbox's business",
        required: true,
        attempt: trap::carry_on,
        advice: "Linux 5.5",
    },
    Trial {
        name: "seccomp ADDFD",
        needed_for: "giving the program a socket",
        required: true,
        attempt: trap::add_fd,
        advice: "Linux 5.9",
    },
    Trial {
        name: "seccomp ADDFD_SEND",
        needed_for: "giving the program a socket as the answer to accept(), without a leak when a signal comes between",
        required: true,
        attempt: trap::add_fd_send,
        advice: "Linux 5.14",
    },
    Trial {
        name: "seccomp WAIT_KILLABLE_RECV",
        needed_for: "calls that signals do not interrupt half-way (programs in Go send themselves many)",
        required: false,
        attempt: trap::wait_killable,
        advice: "Linux 5.19; without it an interrupted call is answered when it is repeated",
    },
    Trial {
        name: "seccomp SYNC_WAKE_UP",
        needed_for: "speed: a trapped call takes a quarter of the time",
        required: false,
        attempt: trap::sync_wake_up,
        advice: "Linux 6.6",
    },
    Trial {
        name: "pidfd_getfd",
        needed_for: "reaching the program's own sockets",
        required: true,
        attempt: child::fetch_socket,
        advice: "Linux 5.6; /proc/sys/kernel/yama/ptrace_scope must be 0 or 1, and a container's seccomp profile must allow it",
    },
    Trial {
        name: "PIDFD_THREAD",
        needed_for: "threads that do not share their descriptors with the rest of the process",
        required: false,
        attempt: child::thread_pidfd,
        advice: "Linux 6.9",
    },
    Trial {
        name: "process_vm_readv, writev",
        needed_for: "reading and writing the addresses that socket calls point to",
        required: true,
        attempt: child::memory,
        advice: "CONFIG_CROSS_MEMORY_ATTACH; /proc/sys/kernel/yama/ptrace_scope must be 0 or 1, and a container's seccomp profile must \
                 allow it",
    },
    Trial {
        name: "SO_COOKIE",
        needed_for: "knowing a socket again",
        required: true,
        attempt: cookie,
        advice: "Linux 4.12",
    },
    Trial {
        name: "sock_diag destroy groups",
        needed_for: "learning that the program closed a socket",
        required: true,
        attempt: destroy_groups,
        advice: "CONFIG_INET_DIAG, CONFIG_INET_UDP_DIAG (modules inet_diag, tcp_diag, udp_diag), and AF_NETLINK where a container filters it",
    },
    Trial {
        name: "parked connect",
        needed_for: "a connect() that takes as long as a session takes to come about",
        required: true,
        attempt: parked_connect,
        advice: "a loopback interface that is up, with 127.0.0.0/8 on it, and no packet filter on it",
    },
    Trial {
        name: "IPv6, v4-mapped",
        needed_for: "programs that use IPv6 sockets",
        required: false,
        attempt: v4_mapped,
        advice: "IPv6 is disabled here; programs fall back to IPv4",
    },
    Trial {
        name: "Landlock",
        needed_for: "a second wall: other processes of the user are out of the program's reach",
        required: false,
        attempt: landlock,
        advice: "Linux 6.12 with CONFIG_SECURITY_LANDLOCK, and landlock in the kernel's lsm= list",
    },
    Trial {
        name: "AF_UNIX from another directory",
        needed_for: "AF_UNIX sockets by a relative path",
        required: false,
        attempt: own_directory,
        advice: "a container's seccomp profile must allow unshare(CLONE_FS)",
    },
    Trial {
        name: "user and network namespace",
        needed_for: "--isolation netns: a network of the program's own, in which no address needs translating",
        required: false,
        attempt: own_network,
        advice: "forbidden here (kernel.unprivileged_userns_clone, user.max_user_namespaces, AppArmor, a container), or the kernel has no veth; \
                 sipbox works without, by --isolation seccomp",
    },
];

/// Tries everything: a fraction of a second, a few seconds if much is missing.
pub fn run() -> Report {
    let checks = TRIALS.iter().map(|trial| Check {
        name: trial.name,
        needed_for: trial.needed_for,
        required: trial.required,
        result: match (trial.attempt)() {
            Ok(detail) => Finding::Ok(detail),
            Err(e) => Finding::Missing(format!("{e}: {}", trial.advice)),
        },
    });
    Report { checks: checks.collect() }
}

fn expect(holds: bool, or_else: &str) -> io::Result<()> {
    if holds { Ok(()) } else { Err(io::Error::other(or_else.to_owned())) }
}

fn kernel_version() -> io::Result<String> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned();
    match version(&release) {
        Some(version) if version >= FLOOR => Ok(release),
        Some(_) => Err(io::Error::other(format!("{release} is too old"))),
        None => Err(io::Error::other(format!("{release} is no version"))),
    }
}

/// The first two numbers of a release: "6.18.44-fc" is (6, 18).
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// Processes are apart from version 2 on, TCP from 4, signals and abstract AF_UNIX names from 6 (landlock(7)).
fn landlock() -> io::Result<String> {
    match crate::child::landlock() {
        Some(version @ 6..) => Ok(format!("version {version}: processes, TCP, signals, abstract AF_UNIX names")),
        Some(version @ 4..) => Ok(format!("version {version}: processes, TCP; signals from Linux 6.12 on")),
        Some(version @ 2..) => Ok(format!("version {version}: processes; TCP from Linux 6.7 on, signals from 6.12 on")),
        Some(version) => Err(io::Error::other(format!("version {version} is too old"))),
        None => Err(io::Error::other("not there")),
    }
}

fn cookie() -> io::Result<String> {
    let [one, two] = [UdpSocket::bind((LOOPBACK, 0))?, UdpSocket::bind((LOOPBACK, 0))?];
    let [first, second] = [sock::socket_cookie(one.as_fd())?, sock::socket_cookie(two.as_fd())?];
    expect(first != 0 && first != second, "cookies are not unique")?;
    Ok(String::from("each socket has a name of its own"))
}

fn destroy_groups() -> io::Result<String> {
    let mut watch = DestroyWatch::new()?;
    let (udp, tcp) = (UdpSocket::bind((LOOPBACK, 0))?, sock::tcp4()?);
    let wanted = [sock::socket_cookie(udp.as_fd())?, sock::socket_cookie(tcp.as_fd())?];
    expect(live_cookies()?.contains(&wanted[0]), "a living socket is not listed")?;
    drop((udp, tcp));
    let (start, mut seen) = (Instant::now(), Vec::new());
    loop {
        let _lost = watch.read(&mut seen)?;
        if wanted.iter().all(|cookie| seen.contains(cookie)) {
            return Ok(format!("reported after {:?}", start.elapsed()));
        }
        sock::wait_for(watch.as_fd(), PollFlags::POLLIN, LIMIT.saturating_sub(start.elapsed()))?;
    }
}

fn parked_connect() -> io::Result<String> {
    let lot = Lot::new(LOOPBACK).map_err(io::Error::other)?;
    let app = sock::tcp4()?;
    let parked = lot.park(app.as_fd()).map_err(io::Error::other)?;
    let waits = sock::wait_for(app.as_fd(), PollFlags::POLLOUT, Duration::from_millis(20));
    expect(waits.is_err(), "the connect did not wait")?;
    let start = Instant::now();
    let _end = lot.release(parked.local).map_err(io::Error::other)?;
    sock::wait_for(app.as_fd(), PollFlags::POLLOUT, LIMIT)?;
    sock::check_error(app.as_fd())?;
    Ok(format!("connected {:?} after the release", start.elapsed()))
}

fn own_network() -> io::Result<String> {
    let start = Instant::now();
    let networks =
        Arc::new(Networks::make(Ipv4Addr::new(198, 18, 0, 1), Ipv6Addr::new(0xfd51, 0xb0, 0, 0, 0, 0, 0, 1))?);
    let took = start.elapsed();
    // An address for documentation (RFC 5737).
    let dialled = SocketAddr::from(([192, 0, 2, 1], 7));
    let lot = Lot::at(&networks, Net::Peers, dialled).map_err(io::Error::other)?;
    let app = networks.tcp(Net::Program, false)?;
    let _end = lot.connect(app.as_fd()).map_err(io::Error::other)?;
    expect(sock::peer_addr(app.as_fd())? == dialled, "connected to something else")?;
    Ok(format!("made in {took:?}; what is dialled there is reached"))
}

fn v4_mapped() -> io::Result<String> {
    let six: OwnedFd = socket(AddressFamily::Inet6, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    sock::bind(six.as_fd(), &sock::mapped(SocketAddrV4::new(LOOPBACK, 0)).into())?;
    let bound = sock::local_addr(six.as_fd())?;
    expect(matches!(bound, SocketAddr::V6(_)), "bound to something else")?;
    Ok(String::from("an IPv6 socket takes a loopback address"))
}

/// A thread with a current directory of its own binds and connects an AF_UNIX socket there.
fn own_directory() -> io::Result<String> {
    let before = std::env::current_dir()?;
    let place = std::env::temp_dir().join(format!("sipbox-doctor-{}", std::process::id()));
    std::fs::create_dir(&place)?;
    let there = place.clone();
    let outcome = std::thread::Builder::new()
        .spawn(move || -> io::Result<()> {
            unshare(CloneFlags::CLONE_FS)?;
            std::env::set_current_dir(&there)?;
            let listener = UnixListener::bind(Path::new("socket"))?;
            let _client = UnixStream::connect(Path::new("socket"))?;
            listener.accept().map(drop)
        })
        .map(|thread| thread.join().unwrap_or(Err(Errno::EIO.into())));
    std::fs::remove_dir_all(&place)?;
    outcome??;
    expect(std::env::current_dir()? == before, "the other threads moved as well")?;
    Ok(String::from("a thread can have a directory of its own"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_fit() {
        let start = Instant::now();
        let report = run();
        println!("{report}");
        assert!(report.fit(), "{report}");
        assert_eq!(report.checks.len(), TRIALS.len());
        assert!(start.elapsed() < Duration::from_secs(20));
    }

    /// As in a container whose seccomp profile refuses: on a thread, as a filter is passed on to threads and children.
    #[test]
    fn what_is_forbidden_is_found_out_without_hanging() {
        let forbidden = [libc::SYS_pidfd_getfd, libc::SYS_process_vm_readv, libc::SYS_unshare, libc::SYS_seccomp];
        let filter = seccompiler::SeccompFilter::new(
            forbidden.into_iter().map(|nr| (nr, Vec::new())).collect(),
            seccompiler::SeccompAction::Allow,
            seccompiler::SeccompAction::Errno(libc::EPERM as u32),
            std::env::consts::ARCH.try_into().unwrap(),
        );
        let program: seccompiler::BpfProgram = filter.unwrap().try_into().unwrap();
        let start = Instant::now();
        let report = std::thread::spawn(move || {
            seccompiler::apply_filter(&program).unwrap();
            run()
        })
        .join()
        .unwrap();
        assert!(!report.fit());
        assert!(start.elapsed() < Duration::from_secs(20));
        let missing: Vec<_> = report.checks.iter().filter(|check| !check.works()).map(|check| check.name).collect();
        let expected: Vec<_> = TRIALS
            .iter()
            .map(|trial| trial.name)
            .filter(|name| {
                ["seccomp", "pidfd_getfd", "process_vm", "AF_UNIX", "user and"].iter().any(|p| name.starts_with(p))
            })
            .collect();
        assert_eq!(missing, expected, "{report}");
        assert!(report.to_string().contains("Operation not permitted"), "{report}");
    }

    #[test]
    fn versions() {
        assert_eq!(version("6.18.44-fc-v595"), Some((6, 18)));
        assert_eq!(version("5.14"), Some((5, 14)));
        assert_eq!(version("5.4.0-generic"), Some((5, 4)));
        assert_eq!(version("none"), None);
        assert!((6, 1) > FLOOR && (5, 4) < FLOOR);
    }

    #[test]
    fn the_table_says_what_to_do() {
        let check = |name, required, result| Check { name, needed_for: "a purpose", required, result };
        let mut report = Report {
            checks: vec![
                check("one", true, Finding::Ok("fine".into())),
                check("another", false, Finding::Missing("not here: look there".into())),
            ],
        };
        assert!(report.fit());
        assert_eq!(
            report.to_string(),
            "ok       one      fine\n\
             absent   another  not here: look there\n                  optional, for a purpose\n\n\
             Everything that sipbox requires is there.\n"
        );
        report.checks[1].required = true;
        assert!(!report.fit());
        assert!(
            report.to_string().contains("MISSING  another  not here: look there\n                  required, for a")
        );
    }
}
