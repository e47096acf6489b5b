use super::*;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{AddressFamily, SockFlag, SockType};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Instant;

const IP: Ipv4Addr = Ipv4Addr::new(127, 64, 0, 1);

fn app(family: AddressFamily, flags: SockFlag) -> OwnedFd {
    socket::socket(family, SockType::Stream, flags | SockFlag::SOCK_CLOEXEC, None).unwrap()
}

fn kinds() -> impl Iterator<Item = (AddressFamily, SockFlag)> {
    [AddressFamily::Inet, AddressFamily::Inet6]
        .into_iter()
        .flat_map(|family| [SockFlag::empty(), SockFlag::SOCK_NONBLOCK].map(|flags| (family, flags)))
}

/// Edge-triggered interest in everything, registered as event loops do: before the connect or right after it.
fn watch(fd: &OwnedFd) -> Epoll {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
    let all = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
    epoll.add(fd, EpollEvent::new(all, 7)).unwrap();
    epoll
}

fn next(epoll: &Epoll, millis: u16) -> Option<EpollFlags> {
    let mut events = [EpollEvent::empty()];
    (epoll.wait(&mut events, EpollTimeout::from(millis)).unwrap() == 1).then(|| events[0].events())
}

fn stream(fd: OwnedFd) -> TcpStream {
    let stream = TcpStream::from(fd);
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream
}

fn talk_and_part(mut a: TcpStream, mut b: TcpStream) {
    let mut text = String::new();
    a.write_all(b"to the peer").unwrap();
    a.shutdown(Shutdown::Write).unwrap();
    b.read_to_string(&mut text).unwrap();
    b.write_all(b"and back").unwrap();
    drop(b);
    a.read_to_string(&mut text).unwrap();
    assert_eq!(text, "to the peerand back");
}

#[test]
fn writable_only_after_the_release() {
    let lot = Lot::new(IP).unwrap();
    for (family, flags) in kinds() {
        let a = app(family, flags);
        let epoll = watch(&a);
        // A fresh socket polls as EPOLLOUT | EPOLLHUP: natively too.
        next(&epoll, 0).unwrap();
        let parked = lot.park(a.as_fd()).unwrap();
        assert_eq!(sock::is_nonblocking(a.as_fd()).unwrap(), flags == SockFlag::SOCK_NONBLOCK);
        assert_eq!(next(&epoll, 50), None, "{family:?}");
        let again = lot.park(a.as_fd()).unwrap_err();
        assert_eq!(again.raw_os_error(), Some(libc::EALREADY));
        let b = lot.release(parked.local).unwrap();
        assert_eq!(next(&epoll, 2000), Some(EpollFlags::EPOLLOUT));
        sock::check_error(a.as_fd()).unwrap();
        assert_eq!(sock::canonical(sock::peer_addr(a.as_fd()).unwrap()), lot.addr());
        assert_eq!(sock::peer_addr(b.as_fd()).unwrap(), parked.local);
        assert_eq!(sock::syncnt(a.as_fd()).unwrap(), sock::SYNCNT_MAX);
        sock::set_syncnt(a.as_fd(), parked.syncnt).unwrap();
        assert!(matches!(lot.park(a.as_fd()), Err(ParkError::Connected)));
        assert_eq!(lot.park(a.as_fd()).unwrap_err().raw_os_error(), Some(libc::EISCONN));
        assert!(matches!(lot.release(parked.local), Err(ParkError::Gone(_))));
        assert!(matches!(lot.fail(parked.local), Err(ParkError::Gone(_))));
        talk_and_part(stream(a), stream(b));
    }
}

#[test]
fn it_stays_parked_past_the_first_repetitions() {
    let lot = Lot::new(IP).unwrap();
    let a = app(AddressFamily::Inet, SockFlag::SOCK_NONBLOCK);
    let loud = app(AddressFamily::Inet, SockFlag::SOCK_NONBLOCK);
    lot.park(a.as_fd()).unwrap();
    let parked = lot.park(loud.as_fd()).unwrap();
    // The repeated SYNs of this one pass IP_MINTTL and meet the full queue.
    socket::setsockopt(&loud, sockopt::Ipv4Ttl, &255).unwrap();
    let (first, second) = (watch(&a), watch(&loud));
    assert_eq!(next(&first, 1600), None);
    assert_eq!(next(&second, 1600), None);
    let b = lot.release(parked.local).unwrap();
    assert_eq!(next(&second, 2000), Some(EpollFlags::EPOLLOUT));
    talk_and_part(stream(loud), stream(b));
}

#[test]
fn a_raised_ttl_is_parked_too() {
    let lot = Lot::new(IP).unwrap();
    for (family, flags) in kinds() {
        let a = app(family, flags);
        socket::setsockopt(&a, sockopt::Ipv4Ttl, &255).unwrap();
        let parked = lot.park(a.as_fd()).unwrap();
        let epoll = watch(&a);
        assert_eq!(next(&epoll, 50), None);
        let b = lot.release(parked.local).unwrap();
        assert_eq!(next(&epoll, 2000), Some(EpollFlags::EPOLLOUT));
        talk_and_part(stream(a), stream(b));
    }
}

#[test]
fn failing_is_an_error_at_once() {
    let lot = Lot::new(IP).unwrap();
    for (family, flags) in kinds() {
        let a = app(family, flags);
        let parked = lot.park(a.as_fd()).unwrap();
        let epoll = watch(&a);
        assert_eq!(next(&epoll, 20), None);
        let start = Instant::now();
        lot.fail(parked.local).unwrap();
        let seen = next(&epoll, 2000).unwrap();
        assert!(start.elapsed() < Duration::from_millis(500));
        assert!(seen.contains(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP), "{seen:?}");
        assert_eq!(sock::so_error(a.as_fd()).unwrap(), libc::ECONNRESET);
    }
}

#[test]
fn a_failing_connect_is_never_writable_alone() {
    let lot = Lot::new(IP).unwrap();
    for _ in 0..100 {
        let a = app(AddressFamily::Inet, SockFlag::SOCK_NONBLOCK);
        let parked = lot.park(a.as_fd()).unwrap();
        let epoll = watch(&a);
        let waiter = std::thread::spawn(move || next(&epoll, 2000).unwrap());
        std::thread::sleep(Duration::from_micros(200));
        lot.fail(parked.local).unwrap();
        let seen = waiter.join().unwrap();
        assert!(seen.contains(EpollFlags::EPOLLERR), "{seen:?}");
    }
}

#[test]
fn a_raised_ttl_fails_too() {
    let lot = Lot::new(IP).unwrap();
    let a = app(AddressFamily::Inet6, SockFlag::SOCK_NONBLOCK);
    socket::setsockopt(&a, sockopt::Ipv4Ttl, &255).unwrap();
    let parked = lot.park(a.as_fd()).unwrap();
    lot.fail(parked.local).unwrap();
    assert_eq!(sock::so_error(a.as_fd()).unwrap(), libc::ECONNRESET);
}

#[test]
fn disconnecting_is_an_error_at_once_too() {
    let lot = Lot::new(IP).unwrap();
    for (family, flags) in kinds() {
        let a = app(family, flags);
        let parked = lot.park(a.as_fd()).unwrap();
        let epoll = watch(&a);
        sock::disconnect(a.as_fd()).unwrap();
        let seen = next(&epoll, 2000).unwrap();
        assert!(seen.contains(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP), "{seen:?}");
        assert_eq!(sock::so_error(a.as_fd()).unwrap(), libc::ECONNRESET);
        assert!(matches!(lot.release(parked.local), Err(ParkError::Gone(_))));
    }
}

#[test]
fn a_failed_socket_can_connect_anew() {
    let lot = Lot::new(IP).unwrap();
    let a = app(AddressFamily::Inet, SockFlag::SOCK_NONBLOCK);
    let parked = lot.park(a.as_fd()).unwrap();
    lot.fail(parked.local).unwrap();
    // As after any failed connect: the pending error first, then a fresh start.
    assert_eq!(lot.park(a.as_fd()).unwrap_err().raw_os_error(), Some(libc::ECONNRESET));
    let parked = lot.park(a.as_fd()).unwrap();
    talk_and_part(stream(lot.release(parked.local).unwrap()), stream(a));
}

#[test]
fn a_closed_socket_is_gone() {
    let lot = Lot::new(IP).unwrap();
    let a = app(AddressFamily::Inet, SockFlag::SOCK_NONBLOCK);
    let parked = lot.park(a.as_fd()).unwrap();
    let cookie = sock::socket_cookie(a.as_fd()).unwrap();
    assert_eq!(crate::diag::cookie_at(parked.local, lot.addr()).unwrap(), Some(cookie));
    drop(a);
    assert_eq!(crate::diag::cookie_at(parked.local, lot.addr()).unwrap(), None);
    assert!(matches!(lot.release(parked.local), Err(ParkError::Gone(_))));
    assert!(matches!(lot.fail(parked.local), Err(ParkError::Gone(_))));
}

#[test]
fn three_hundred_at_once() {
    sock::tests::allow_many_files();
    let lot = Lot::new(IP).unwrap();
    let all: Vec<_> = (0..300)
        .map(|_| {
            let a = app(AddressFamily::Inet, SockFlag::SOCK_NONBLOCK);
            let parked = lot.park(a.as_fd()).unwrap();
            let epoll = watch(&a);
            (a, parked, epoll)
        })
        .collect();
    assert!(all.iter().all(|(_, _, epoll)| next(epoll, 0).is_none()));
    let start = Instant::now();
    let ends: Vec<_> = all.iter().rev().map(|(_, parked, _)| lot.release(parked.local).unwrap()).collect();
    let took = start.elapsed();
    for ((a, _, epoll), b) in all.into_iter().rev().zip(ends) {
        assert_eq!(next(&epoll, 2000), Some(EpollFlags::EPOLLOUT));
        talk_and_part(stream(a), stream(b));
    }
    println!("300 releases: {took:?}");
}

#[test]
fn a_dup_and_a_bound_socket() {
    let lot = Lot::new(IP).unwrap();
    let a = app(AddressFamily::Inet, SockFlag::SOCK_NONBLOCK);
    sock::bind(a.as_fd(), &"127.64.0.77:0".parse().unwrap()).unwrap();
    let parked = lot.park(a.as_fd()).unwrap();
    assert_eq!(parked.local.ip(), Ipv4Addr::new(127, 64, 0, 77));
    let dup = a.try_clone().unwrap();
    drop(a);
    talk_and_part(stream(lot.release(parked.local).unwrap()), stream(dup));
}

#[test]
#[ignore = "a measurement: cargo test --release -p sandbox -- --ignored --nocapture cost"]
fn cost() {
    let lot = Lot::new(IP).unwrap();
    for (name, flags) in [("non-blocking", SockFlag::SOCK_NONBLOCK), ("blocking", SockFlag::empty())] {
        let mut park = Vec::new();
        let mut release = Vec::new();
        let mut fail = Vec::new();
        for _ in 0..500 {
            let [a, b] = [app(AddressFamily::Inet, flags), app(AddressFamily::Inet, flags)];
            let start = Instant::now();
            let parked = lot.park(a.as_fd()).unwrap();
            park.push(start.elapsed());
            let start = Instant::now();
            drop(lot.release(parked.local).unwrap());
            release.push(start.elapsed());
            let parked = lot.park(b.as_fd()).unwrap();
            let start = Instant::now();
            lot.fail(parked.local).unwrap();
            fail.push(start.elapsed());
        }
        for times in [&mut park, &mut release, &mut fail] {
            times.sort();
        }
        println!(
            "{name}: park {:?}, release {:?}, fail {:?} (worst {:?})",
            park[250], release[250], fail[250], fail[499]
        );
    }
}
