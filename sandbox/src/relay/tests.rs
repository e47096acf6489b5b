use super::*;
use nix::poll::PollFlags;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (far, _) = listener.accept().unwrap();
    for end in [&near, &far] {
        end.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        end.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
    }
    (near, far)
}

/// Relays on a thread of its own between two pairs; gives the outer ends.
fn relayed() -> (TcpStream, TcpStream, thread::JoinHandle<Result<Totals, Broken>>) {
    let ((left, a), (right, b)) = (pair(), pair());
    (left, right, thread::spawn(move || run(a.into(), b.into())))
}

fn run(a: OwnedFd, b: OwnedFd) -> Result<Totals, Broken> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    runtime.block_on(relay(a, b))
}

/// A stream that never repeats soon, and its checksum.
struct Noise {
    state: u64,
    sum: u64,
}

impl Noise {
    fn new(seed: u64) -> Self {
        Self { state: seed, sum: 0 }
    }

    fn next(&mut self, buf: &mut [u8]) {
        for chunk in buf.chunks_mut(8) {
            self.state = self.state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            chunk.copy_from_slice(&self.state.rotate_left(29).to_ne_bytes()[..chunk.len()]);
        }
        self.sum = checksum(self.sum, buf);
    }
}

fn checksum(sum: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(sum, |sum, b| (sum ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3))
}

fn send(mut to: impl Write, seed: u64, bytes: usize) -> u64 {
    let mut noise = Noise::new(seed);
    let mut left = bytes;
    let mut buf = vec![0; 64 * 1024];
    while left > 0 {
        // Odd sizes, so that no boundary is met by luck.
        let n = left.min(1 + (noise.state as usize) % buf.len());
        noise.next(&mut buf[..n]);
        to.write_all(&buf[..n]).unwrap();
        left -= n;
    }
    noise.sum
}

fn receive(mut from: impl Read) -> (u64, u64) {
    let (mut sum, mut total) = (0, 0);
    let mut buf = vec![0; 50_000];
    loop {
        match from.read(&mut buf).unwrap() {
            0 => return (sum, total),
            n => {
                sum = checksum(sum, &buf[..n]);
                total += n as u64;
            }
        }
    }
}

#[test]
fn much_both_ways_at_once() {
    const BYTES: usize = 64 << 20;
    let (left, right, relay) = relayed();
    thread::scope(|s| {
        let ends = [(&left, &right, 1), (&right, &left, 2)].map(|(from, to, seed)| {
            let sent = s.spawn(move || {
                let sum = send(from, seed, BYTES);
                from.shutdown(std::net::Shutdown::Write).unwrap();
                sum
            });
            (sent, s.spawn(move || receive(to)))
        });
        for (sent, received) in ends {
            assert_eq!(received.join().unwrap(), (sent.join().unwrap(), BYTES as u64));
        }
    });
    assert_eq!(relay.join().unwrap().unwrap(), Totals { a_to_b: BYTES as u64, b_to_a: BYTES as u64 });
}

#[test]
fn one_direction_ends_before_the_other() {
    let (mut left, mut right, relay) = relayed();
    left.write_all(b"question").unwrap();
    left.shutdown(std::net::Shutdown::Write).unwrap();
    let mut text = String::new();
    right.read_to_string(&mut text).unwrap();
    assert_eq!(text, "question");
    thread::sleep(Duration::from_millis(20));
    right.write_all(b"an answer").unwrap();
    thread::sleep(Duration::from_millis(20));
    right.write_all(b" in parts").unwrap();
    drop(right);
    text.clear();
    left.read_to_string(&mut text).unwrap();
    assert_eq!(text, "an answer in parts");
    assert_eq!(relay.join().unwrap().unwrap(), Totals { a_to_b: 8, b_to_a: 18 });
}

fn reset(stream: TcpStream) {
    sock::reset_on_close(stream.as_fd()).unwrap();
}

fn is_reset(mut stream: &TcpStream) {
    let e = stream.read(&mut [0; 16]).unwrap_err();
    assert_eq!(e.kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn a_reset_is_passed_on_from_either_side() {
    for left_breaks in [true, false] {
        let (left, right, relay) = relayed();
        let (broken, mut other) = if left_breaks { (left, right) } else { (right, left) };
        (&broken).write_all(b"last words").unwrap();
        let mut words = [0; 10];
        other.read_exact(&mut words).unwrap();
        reset(broken);
        is_reset(&other);
        let e = relay.join().unwrap().unwrap_err();
        assert_eq!(e.side, if left_breaks { Side::A } else { Side::B });
        assert_eq!(e.source.raw_os_error(), Some(libc::ECONNRESET));
        assert_eq!(e.totals.a_to_b + e.totals.b_to_a, 10);
    }
}

#[test]
fn a_reset_after_the_end_of_its_direction_is_noticed() {
    let (left, mut right, relay) = relayed();
    left.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(right.read(&mut [0; 1]).unwrap(), 0);
    thread::sleep(Duration::from_millis(20));
    // Nobody writes: only the error tells. Having read the end already, `right` natively sees EPIPE here and no ECONNRESET.
    reset(left);
    sock::wait_for(right.as_fd(), nix::poll::PollFlags::POLLERR, Duration::from_secs(5)).unwrap();
    assert_eq!(sock::so_error(right.as_fd()).unwrap(), libc::EPIPE);
    assert_eq!(relay.join().unwrap().unwrap_err().side, Side::A);
}

#[test]
fn a_reset_is_noticed_while_the_pipe_is_full() {
    let (left, right, relay) = relayed();
    left.set_nonblocking(true).unwrap();
    let end = Instant::now() + Duration::from_secs(5);
    let mut stuck = 0;
    while stuck < 5 && Instant::now() < end {
        match (&left).write(&[7; 65536]) {
            Ok(1..) => stuck = 0,
            _ => {
                stuck += 1;
                thread::sleep(Duration::from_millis(10));
            }
        }
    }
    assert_eq!(stuck, 5, "nobody reads, so it fills up");
    reset(right);
    assert_eq!(relay.join().unwrap().unwrap_err().side, Side::B);
    left.set_nonblocking(false).unwrap();
    is_reset(&left);
}

/// Urgent data comes as such, each side, also where nothing follows it, and what is before and behind it as well.
#[test]
fn urgent_data_is_passed_on() {
    let (left, right, relay) = relayed();
    let send = |from: &TcpStream, bytes: &[u8], flags| {
        assert_eq!(socket::send(from.as_raw_fd(), bytes, flags).unwrap(), bytes.len());
    };
    let urgent = |to: &TcpStream| {
        let ready = sock::wait_for(to.as_fd(), PollFlags::POLLPRI, Duration::from_secs(10)).unwrap();
        assert!(ready.contains(PollFlags::POLLPRI), "no urgent data came");
        let mut byte = [0];
        assert_eq!(socket::recv(to.as_raw_fd(), &mut byte, MsgFlags::MSG_OOB), Ok(1));
        byte[0]
    };
    for (mut from, mut to) in [(&left, &right), (&right, &left), (&left, &right)] {
        let mut room = [0; 5];
        send(from, b"!", MsgFlags::MSG_OOB);
        assert_eq!(urgent(to), b'!');
        from.write_all(b"first").unwrap();
        to.read_exact(&mut room).unwrap();
        assert_eq!(&room, b"first");
        send(from, b"mixed", MsgFlags::empty());
        send(from, b"?", MsgFlags::MSG_OOB);
        send(from, b"after", MsgFlags::empty());
        assert_eq!(urgent(to), b'?');
        for expected in [b"mixed", b"after"] {
            to.read_exact(&mut room).unwrap();
            assert_eq!(&room, expected);
        }
    }
    for from in [&left, &right] {
        send(from, b".", MsgFlags::MSG_OOB);
        from.shutdown(std::net::Shutdown::Write).unwrap();
    }
    for mut to in [&right, &left] {
        assert_eq!(urgent(to), b'.');
        assert_eq!(to.read(&mut [0]).unwrap(), 0);
    }
    assert_eq!(relay.join().unwrap().unwrap(), Totals { a_to_b: 2 * 17 + 1, b_to_a: 17 + 1 });
}

/// Urgent data may come with the end of the stream, after it was last looked whether there is any.
#[test]
fn urgent_data_before_the_end_is_not_taken_for_the_end() {
    let (near, far) = pair();
    for (bytes, flags) in [(b"!", MsgFlags::MSG_OOB), (b".", MsgFlags::empty())] {
        assert_eq!(socket::send(near.as_raw_fd(), bytes, flags), Ok(1));
    }
    near.shutdown(std::net::Shutdown::Write).unwrap();
    let begun = Instant::now();
    while !sock::is_shut_for_reading(far.as_fd()) {
        assert!(begun.elapsed() < Duration::from_secs(10), "the end did not come");
        thread::yield_now();
    }
    far.set_nonblocking(true).unwrap();
    let mut half = Half::default();
    assert!(half.take(far.as_fd(), false).unwrap());
    let mark = half.mark.take().unwrap();
    assert_eq!((mark.urgent, mark.after.as_slice()), (Some(b'!'), b".".as_slice()));
    assert!(!half.take(far.as_fd(), false).unwrap());
}

/// What was read at urgent data is delivered, too, when its socket breaks.
#[test]
fn a_break_loses_nothing_behind_urgent_data() {
    let ((near, far), (left, mut right)) = (pair(), pair());
    for (bytes, flags) in [(b"!", MsgFlags::MSG_OOB), (b".", MsgFlags::empty())] {
        assert_eq!(socket::send(near.as_raw_fd(), bytes, flags), Ok(1));
    }
    sock::wait_for(far.as_fd(), PollFlags::POLLPRI, Duration::from_secs(10)).unwrap();
    far.set_nonblocking(true).unwrap();
    let mut half = Half::default();
    assert!(half.take(far.as_fd(), true).unwrap() && half.mark.is_some());
    half.drain(far.as_fd(), left.as_fd());
    drop(left);
    let mut rest = Vec::new();
    right.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b".");
}

#[test]
fn a_unix_socket_can_be_one_side() {
    let ((left, a), (b, mut right)) = (UnixStream::pair().unwrap(), pair());
    let relay = thread::spawn(move || run(a.into(), b.into()));
    let sent = thread::spawn(move || send(left, 3, 1 << 20));
    let got = receive(&mut right);
    assert_eq!(got, (sent.join().unwrap(), 1 << 20));
    drop(right);
    assert_eq!(relay.join().unwrap().unwrap().a_to_b, 1 << 20);
}

#[test]
fn it_can_be_spawned() {
    fn sendable<T: Send>(_: &T) {}
    let ((_left, a), (b, _right)) = (pair(), pair());
    sendable(&relay(a.into(), b.into()));
}

#[test]
fn two_hundred_relays_at_once_on_one_thread() {
    sock::tests::allow_many_files();
    let pairs: Vec<_> = (0..200).map(|_| (pair(), pair())).collect();
    let (outer, inner): (Vec<_>, Vec<_>) = pairs.into_iter().map(|((l, a), (r, b))| ((l, r), (a, b))).unzip();
    let relays = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        runtime.block_on(async {
            let all: Vec<_> = inner.into_iter().map(|(a, b)| tokio::spawn(relay(a.into(), b.into()))).collect();
            for one in all {
                assert_eq!(one.await.unwrap().unwrap(), Totals { a_to_b: 200_000, b_to_a: 0 });
            }
        });
    });
    thread::scope(|s| {
        for part in outer.chunks(25) {
            s.spawn(move || {
                for (left, _) in part {
                    send(left, 9, 200_000);
                    left.shutdown(std::net::Shutdown::Write).unwrap();
                }
            });
        }
        for (_, right) in &outer {
            assert_eq!(receive(right).1, 200_000);
            right.shutdown(std::net::Shutdown::Write).unwrap();
        }
    });
    relays.join().unwrap();
}

#[test]
#[ignore = "a measurement: cargo test --release -p sandbox -- --ignored --nocapture throughput"]
fn throughput() {
    const BYTES: usize = 4 << 30;
    let pour = |from: TcpStream, mut to: TcpStream| {
        let start = Instant::now();
        let source = thread::spawn(move || {
            let buf = vec![5; 256 * 1024];
            for _ in 0..BYTES / buf.len() {
                (&from).write_all(&buf).unwrap();
            }
        });
        let mut buf = vec![0; 256 * 1024];
        while to.read(&mut buf).unwrap() > 0 {}
        source.join().unwrap();
        BYTES as f64 / start.elapsed().as_secs_f64() / 1e9
    };
    for _ in 0..3 {
        let (near, far) = pair();
        let direct = pour(near, far);
        let (left, right, relay) = relayed();
        let spliced = pour(left, right);
        drop(relay);
        let ((left, mut a), (mut b, right)) = (pair(), pair());
        let copier = thread::spawn(move || {
            let mut buf = vec![0; 256 * 1024];
            while let Ok(n @ 1..) = a.read(&mut buf) {
                b.write_all(&buf[..n]).unwrap();
            }
        });
        let copied = pour(left, right);
        copier.join().unwrap();
        println!("GB/s: direct {direct:.2}, spliced {spliced:.2}, copied {copied:.2}");
    }
    let ping = |mut from: TcpStream, mut to: TcpStream| {
        from.set_nodelay(true).unwrap();
        to.set_nodelay(true).unwrap();
        const ROUNDS: u32 = 20_000;
        let echo = thread::spawn(move || {
            for _ in 0..ROUNDS {
                to.read_exact(&mut [0]).unwrap();
                to.write_all(&[1]).unwrap();
            }
        });
        let start = Instant::now();
        for _ in 0..ROUNDS {
            from.write_all(&[1]).unwrap();
            from.read_exact(&mut [0]).unwrap();
        }
        echo.join().unwrap();
        start.elapsed() / ROUNDS
    };
    let (near, far) = pair();
    let direct = ping(near, far);
    let (left, right, _relay) = relayed();
    println!("round trip of a byte: direct {direct:?}, spliced {:?}", ping(left, right));
}
