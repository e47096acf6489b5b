//! What is left of a connection whose other end reads no more: what it wrote before is still the program's.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::TcpStream;

/// So much the program may write that nobody reads, before it is told so by a reset: it may have been about to read.
pub const UNHEARD: usize = 1 << 20;
/// How often a queue is looked at: the kernel does not say when it has become empty.
const LOOKS: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(100)];

/// Throws away what the program writes; why that has to end. Does not end where the program only writes nothing more.
pub async fn unheard(program: &TcpStream) -> io::Error {
    let mut count = 0;
    while count <= UNHEARD {
        if let Err(e) = program.readable().await {
            return e;
        }
        match throw_away(program) {
            Ok(0) => std::future::pending().await,
            Ok(read) => count += read,
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(e) => return e,
        }
    }
    io::ErrorKind::BrokenPipe.into()
}

/// Reads what there is: how much. (Its buffer is not to be part of every connection that may come to this.)
fn throw_away(program: &TcpStream) -> io::Result<usize> {
    program.try_read(&mut [0; 16 << 10])
}

/// Waits until the program's socket has all that was written to it, or is gone.
pub async fn delivered(program: &TcpStream) {
    let mut gone = std::pin::pin!(program.ready(Interest::ERROR));
    let mut pause = LOOKS[0];
    while sandbox::sock::unacknowledged(program.as_fd()).is_ok_and(|count| count > 0) {
        tokio::select! {
            _ = &mut gone => return,
            () = tokio::time::sleep(pause) => pause = (2 * pause).min(LOOKS[1]),
        }
    }
}
