//! Between a TCP socket of the program and a stream of a connection: FIN is FIN, a reset is a reset, and who does not read holds up who writes.

use std::fmt;
use std::future::pending;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd};
use std::pin::pin;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use nix::sys::socket::{MsgFlags, sendmsg};
use sipcore::flow::{Backlog, Brake, Link, RecvStream, SendStream, Stopped, Stream};
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::alert::Alert;
use super::rest;

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Broken::Program(e) => write!(f, "the program's end: {e}"),
            Broken::Peer(why) => write!(f, "the peer's end: {why}"),
            Broken::Refused(status) => write!(f, "the peer refused with {status}"),
            Broken::Untaken(why) => f.write_str(why),
            Broken::Gone => f.write_str("the peer was started again"),
            Broken::NoReader => f.write_str("nobody reads any more"),
        }
    }
}

/// Memory that is read into: a small one first, twice as much each time it was filled at once.
const PIECE: [usize; 2] = [4 * 1024, 64 * 1024];
/// With less room than this a new piece is taken.
const ROOM: usize = 2 * 1024;
/// Who has so much to write waits for all others who have.
const MUCH: usize = 4 * 1024;
/// Who has opened a stream, and does not wait to hear that it was taken, hears it after so long at the latest. What his program is waiting for says
/// so itself.
const ANSWER_WITHIN: Duration = Duration::from_millis(20);
/// Packets' payloads that are handed to the program at once: few first, twice as many each time there were more.
const CHUNKS: [usize; 2] = [4, 64];

/// Why a direction ended before its end.
#[derive(Debug)]
enum Broken {
    Program(io::Error),
    Peer(String),
    /// The peer has not taken the stream after all, with this status.
    Refused(u16),
    /// Nor will he; why.
    Untaken(String),
    /// He is there no more, but another run with his name.
    Gone,
    /// The run ends, and nobody reads.
    NoReader,
}

/// Why a stream was not taken that was opened before the peer was asked.
#[derive(Debug)]
pub enum Untaken {
    /// The peer refused, with this status. The program has seen a reset.
    Refused(u16),
    /// He never said a word of it; why, for the user. The program has seen a reset.
    Never(String),
    /// Another run has his name now, and the program has not written anything: its socket can be joined to a stream to that one.
    Unheard(TcpStream),
}

impl From<sipcore::flow::Broken> for Broken {
    fn from(why: sipcore::flow::Broken) -> Broken {
        match why {
            sipcore::flow::Broken::Refused(status) => Broken::Refused(status),
            why @ sipcore::flow::Broken::Ended(_) => Broken::Untaken(why.to_string()),
            other => Broken::Peer(other.to_string()),
        }
    }
}

/// Carries bytes until both directions have ended. `link`: the stream's; `ending`: the program is gone, and what comes for it need not be awaited.
///
/// # Errors
/// Why the peer has not taken a stream that was opened before he was asked.
pub async fn pump(
    socket: TcpStream,
    stream: Stream,
    link: &Link,
    ending: watch::Receiver<bool>,
) -> Result<(), Untaken> {
    pump_promised(socket, stream, link, ending, pending()).await
}

/// The same of a stream that the peer was not asked for. `gone` ends when he will not take it any more, or (an error, for the user) cannot.
///
/// # Errors
/// Why the peer has not taken it.
pub async fn pump_promised(
    mut socket: TcpStream,
    stream: Stream,
    link: &Link,
    ending: watch::Receiver<bool>,
    gone: impl Future<Output = Result<(), String>>,
) -> Result<(), Untaken> {
    let mut said = false;
    super::prepare(&socket);
    let (brake, mut backlog) = (link.brake(&stream), link.backlog(stream.id()));
    let alert = Alert::begin(link);
    alert.stay();
    let Stream { mut send, mut receive } = stream;
    let outcome = {
        let (mut reader, writer) = socket.split();
        let mut down = pin!(downwards(writer, &mut receive, (&mut backlog, &brake, &alert), gone, ending));
        let (mut up_ended, mut down_ended, mut down_whole) = (false, false, false);
        let ended = {
            let mut up = pin!(upwards(&mut reader, (&mut send, &mut said), (&brake, &alert), link));
            loop {
                let ended = tokio::select! {
                    ended = &mut up, if !up_ended => { up_ended = true; ended }
                    ended = &mut down, if !down_ended => {
                        (down_ended, down_whole) = (true, ended.is_ok());
                        ended
                    }
                };
                match ended {
                    Err(Broken::NoReader) if !up_ended => {}
                    Err(why) => break Err(why),
                    Ok(()) if up_ended && down_ended => break Ok(()),
                    Ok(()) => {}
                }
            }
        };
        match ended {
            // It reads no more, perhaps because it has ended: what it wrote before is not lost by that.
            Err(Broken::Peer(why)) if !down_ended => {
                tracing::debug!(why, "nobody reads at the other end of a stream");
                tokio::select! {
                    ended = &mut down => ended.map(|()| true),
                    end = rest::unheard(reader.as_ref()) => Err(Broken::Program(end)),
                }
            }
            // The program has everything, and the end, before it is reset.
            Err(Broken::Peer(why)) if down_whole => {
                rest::delivered(reader.as_ref()).await;
                Err(Broken::Peer(why))
            }
            ended => ended.map(|()| false),
        }
    };
    match outcome {
        // What was written last is on its way: it is waited for, or the connection may end before.
        Ok(false) => drop(send.stopped().await),
        // A close with something unread, or what the program writes after it, would take back what is in the queue.
        Ok(true) => rest::delivered(&socket).await,
        Err(Broken::Gone) if !said => {
            receive.stop();
            send.reset();
            return Err(Untaken::Unheard(socket));
        }
        Err(why) => {
            tracing::debug!(%why, "a stream was reset");
            if matches!(why, Broken::NoReader) {
                receive.abandon();
                let _ = send.stopped().await;
            } else {
                receive.stop();
                send.reset();
                let _ = sandbox::sock::reset_on_close(socket.as_fd());
            }
            match why {
                Broken::Refused(status) => return Err(Untaken::Refused(status)),
                Broken::Gone => {
                    return Err(Untaken::Never(format!("{why}; what was written may have been read before")));
                }
                Broken::Untaken(why) => return Err(Untaken::Never(why)),
                _ => {}
            }
        }
    }
    Ok(())
}

/// Reads what there is, if there is anything. (poll_read() takes a short read for the last one: one that ends at urgent data is not.)
fn read(from: &TcpStream, room: &mut impl BufMut) -> io::Result<Option<usize>> {
    let most = room.remaining_mut();
    let mut count = None;
    let outcome = from.try_io(Interest::READABLE, || {
        let read = from.try_read_buf(room)?;
        count = Some(read);
        match (1..most).contains(&read) && !sandbox::sock::is_at_mark(from.as_fd())? {
            true => Err(io::ErrorKind::WouldBlock.into()),
            false => Ok(()),
        }
    });
    match outcome {
        Err(e) if count.is_none() && e.kind() != io::ErrorKind::WouldBlock => Err(e),
        _ => Ok(count),
    }
}

/// What ends comes after all that is to be done now: nobody waits for it as for what begins, and who hears of it has to clear away.
async fn last() {
    tokio::task::yield_now().await;
}

/// `said`: the program has written something.
async fn upwards(
    from: &mut ReadHalf<'_>,
    (to, said): (&mut SendStream, &mut bool),
    (brake, alert): (&Brake, &Alert),
    link: &Link,
) -> Result<(), Broken> {
    let mut stopped = pin!(to.stopped());
    let (mut buffer, mut piece, mut much) = (BytesMut::new(), PIECE[0], false);
    loop {
        // A program that writes without end leaves others their turn.
        tokio::task::coop::consume_budget().await;
        // Nobody reads there any more, and the program need not write to find out.
        let owes = to.owes_answer();
        let ready = tokio::select! {
            ready = from.readable() => ready,
            why = &mut stopped => return Err(Broken::Peer(format!("{why:?}"))),
            () = async { sleep(ANSWER_WITHIN).await }, if owes => {
                to.answer().await?;
                continue;
            }
        };
        ready.map_err(Broken::Program)?;
        // Nothing is read before there is a place for it.
        let turn = {
            let mut turn = pin!(brake.turn(much));
            tokio::select! {
                biased;
                turn = &mut turn => turn,
                // It may take a while, for which the answer does not wait.
                () = std::future::ready(()) => {
                    to.answer().await?;
                    tokio::select! {
                        turn = &mut turn => turn,
                        why = &mut stopped => return Err(Broken::Peer(format!("{why:?}"))),
                    }
                }
            }
        };
        // What is small shares a piece with what comes next: it is kept as long as the last of it is not acknowledged.
        if buffer.capacity() < ROOM {
            buffer.reserve(piece);
        }
        let room = buffer.capacity().min(turn.most);
        let mut within = (&mut buffer).limit(room);
        // Where it was read already others have their turn.
        let Some(count) = read(from.as_ref(), &mut within).map_err(Broken::Program)? else { continue };
        if count == 0 {
            // What begins may have its turn before.
            drop(turn);
            last().await;
            // It is reset only by what it has been told since.
            to.answer().await?;
            to.finish();
            brake.finish();
            break;
        }
        if count == room {
            piece = (2 * piece).min(PIECE[1]);
        }
        alert.stay();
        (*said, much) = (true, count >= MUCH);
        brake.sent(count);
        to.write(buffer.split().freeze()).await?;
        drop(turn);
        link.written();
    }
    // The end was told; a reset of the program's may still come, until the other direction has ended too.
    tokio::select! {
        why = &mut stopped => match why {
            Stopped::Delivered => Ok(()),
            other => Err(Broken::Peer(format!("{other:?}"))),
        },
        ready = from.ready(Interest::ERROR) => Err(Broken::Program(match ready {
            Ok(_) => io::ErrorKind::ConnectionReset.into(),
            Err(e) => e,
        })),
    }
}

async fn downwards(
    mut to: WriteHalf<'_>,
    from: &mut RecvStream,
    (backlog, brake, alert): (&mut Backlog, &Brake, &Alert),
    gone: impl Future<Output = Result<(), String>>,
    mut ending: watch::Receiver<bool>,
) -> Result<(), Broken> {
    let mut chunks = vec![Bytes::new(); CHUNKS[0]];
    // The runtime does not know yet that a fresh socket takes something.
    let mut fresh = true;
    // The sender lives as long as the run.
    let mut ended = pin!(ending.wait_for(|ending| *ending));
    // A peer that has not taken it yet has nothing of what was written, whatever his host has: also where nobody reads.
    tokio::select! {
        biased;
        taken = from.taken() => taken?,
        why = gone => return Err(why.map_or_else(Broken::Untaken, |()| Broken::Gone)),
    }
    brake.begin();
    loop {
        let count = tokio::select! {
            count = from.read_many(&mut chunks) => count,
            _ = &mut ended => return Err(Broken::NoReader),
        };
        let count = count?;
        alert.stay();
        let mut open = match count {
            Some(count) => {
                write(&to, &mut chunks[..count], backlog, std::mem::take(&mut fresh)).await.map_err(Broken::Program)?;
                if count == chunks.len() {
                    chunks.resize((2 * count).min(CHUNKS[1]), Bytes::new());
                }
                true
            }
            None => {
                backlog.end();
                false
            }
        };
        // The program does not read for the moment.
        while !backlog.is_empty() {
            tokio::select! {
                ready = to.writable() => {
                    ready.map_err(Broken::Program)?;
                    match to.try_write_vectored(&backlog.slices()) {
                        Ok(count) => backlog.taken(count),
                        Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                        Err(e) => return Err(Broken::Program(e)),
                    }
                }
                count = from.read_many(&mut chunks), if open && backlog.has_room() => {
                    match count? {
                        Some(count) => chunks[..count].iter_mut().for_each(|chunk| backlog.push(&std::mem::take(chunk))),
                        None => {
                            backlog.end();
                            open = false;
                        }
                    }
                }
                _ = &mut ended => return Err(Broken::NoReader),
            }
        }
        if !open {
            last().await;
            return to.shutdown().await.map_err(Broken::Program);
        }
    }
}

/// Writes them, in as few calls as it takes; what the program does not read in time is kept. They are given back empty.
/// `fresh`: the kernel is asked, not the runtime.
async fn write(to: &WriteHalf<'_>, chunks: &mut [Bytes], backlog: &mut Backlog, mut fresh: bool) -> io::Result<()> {
    while chunks.iter().any(|chunk| !chunk.is_empty()) {
        match write_now(to, chunks, std::mem::take(&mut fresh)) {
            Ok(count) => backlog.passed(count),
            Err(e) if e.kind() != io::ErrorKind::WouldBlock => return Err(e),
            Err(_) => {
                let ready = match backlog.patience() {
                    Some(patience) => timeout(patience, to.writable()).await,
                    None => Ok(to.writable().await),
                };
                if let Ok(ready) = ready {
                    ready?;
                } else {
                    chunks.iter().filter(|chunk| !chunk.is_empty()).for_each(|chunk| backlog.push(chunk));
                    break;
                }
            }
        }
    }
    chunks.fill(Bytes::new());
    Ok(())
}

/// Writes what the socket takes at once: how much, by which they are shorter then.
fn write_now(to: &WriteHalf<'_>, chunks: &mut [Bytes], fresh: bool) -> io::Result<usize> {
    let slices: [IoSlice; CHUNKS[1]] = std::array::from_fn(|n| IoSlice::new(chunks.get(n).map_or(&[], |c| c)));
    let slices = &slices[..chunks.len()];
    let count = match fresh {
        true => {
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            sendmsg::<()>(to.as_ref().as_raw_fd(), slices, &[], flags, None)?
        }
        false => to.try_write_vectored(slices)?,
    };
    let mut left = count;
    for chunk in chunks {
        let taken = left.min(chunk.len());
        chunk.advance(taken);
        left -= taken;
    }
    Ok(count)
}

/// The program gave its socket up before anything was joined.
pub fn withdraw(mut stream: Stream) {
    stream.send.reset();
    stream.receive.stop();
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A thousand connections are a thousand of these, and each is copied more than once when it begins.
    #[test]
    fn a_connection_takes_little() {
        fn size<F>(_: impl FnOnce(TcpStream, Stream, &'static Link, watch::Receiver<bool>) -> F) -> usize {
            size_of::<F>()
        }
        assert!(size(pump) <= 4096, "{}", size(pump));
    }
}
