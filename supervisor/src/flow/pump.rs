//! Between a TCP socket of the program and a stream of a connection: FIN is FIN, a reset is a reset, and who does not read holds up who writes.

use std::fmt;
use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::pin::pin;

use bytes::{Bytes, BytesMut};
use sipcore::flow::{Link, RecvStream, SendStream, Stopped, Stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::watch;

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Broken::Program(e) => write!(f, "the program's end: {e}"),
            Broken::Peer(why) => write!(f, "the peer's end: {why}"),
            Broken::NoReader => f.write_str("nobody reads any more"),
        }
    }
}

/// Memory that is read into: a small one first, twice as much each time it was filled at once.
const PIECE: [usize; 2] = [4 * 1024, 64 * 1024];
/// With less room than this a new piece is taken.
const ROOM: usize = 2 * 1024;
/// Packets' payloads that are handed to the program at once.
const CHUNKS: usize = 64;

/// Why a direction ended before its end.
#[derive(Debug)]
enum Broken {
    Program(io::Error),
    Peer(String),
    /// The run ends, and nobody reads.
    NoReader,
}

/// Carries bytes until both directions have ended. `link`: the stream's; `ending`: the program is gone, and what comes for it need not be awaited.
pub async fn pump(mut socket: TcpStream, stream: Stream, link: &Link, ending: watch::Receiver<bool>) {
    let _ = socket.set_nodelay(true);
    let Stream { mut send, mut receive } = stream;
    let outcome = {
        let (reader, writer) = socket.split();
        let mut up = pin!(upwards(reader, &mut send, link));
        let mut down = pin!(downwards(writer, &mut receive, ending));
        let (mut up_ended, mut down_ended) = (false, false);
        loop {
            let ended = tokio::select! {
                ended = &mut up, if !up_ended => { up_ended = true; ended }
                ended = &mut down, if !down_ended => { down_ended = true; ended }
            };
            match ended {
                Err(Broken::NoReader) if !up_ended => {}
                Err(why) => break Err(why),
                Ok(()) if up_ended && down_ended => break Ok(()),
                Ok(()) => {}
            }
        }
    };
    match outcome {
        // What was written last is on its way: it is waited for, or the connection may end before.
        Ok(()) => drop(send.stopped().await),
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
        }
    }
}

async fn upwards(mut from: ReadHalf<'_>, to: &mut SendStream, link: &Link) -> Result<(), Broken> {
    let mut stopped = pin!(to.stopped());
    let (mut buffer, mut piece) = (BytesMut::new(), PIECE[0]);
    loop {
        // What is small shares a piece with what comes next: it is kept as long as the last of it is not acknowledged.
        if buffer.capacity() < ROOM {
            buffer.reserve(piece);
        }
        let room = buffer.capacity();
        let count = tokio::select! {
            count = from.read_buf(&mut buffer) => count.map_err(Broken::Program)?,
            // Nobody reads there any more, and the program need not write to find out.
            why = &mut stopped => return Err(Broken::Peer(format!("{why:?}"))),
        };
        if count == 0 {
            // It is reset only by what it has been told since.
            to.finish();
            break;
        }
        if count == room {
            piece = (2 * piece).min(PIECE[1]);
        }
        to.write(buffer.split().freeze()).await.map_err(|e| Broken::Peer(e.to_string()))?;
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
    mut ending: watch::Receiver<bool>,
) -> Result<(), Broken> {
    let mut chunks: [Bytes; CHUNKS] = std::array::from_fn(|_| Bytes::new());
    // The sender lives as long as the run.
    let mut ended = pin!(ending.wait_for(|ending| *ending));
    loop {
        let count = tokio::select! {
            count = from.read_many(&mut chunks) => count,
            _ = &mut ended => return Err(Broken::NoReader),
        };
        match count.map_err(|e| Broken::Peer(e.to_string()))? {
            Some(count) => write_all(&mut to, &mut chunks[..count]).await.map_err(Broken::Program)?,
            None => return to.shutdown().await.map_err(Broken::Program),
        }
    }
}

/// Writes all of them, in as few calls as it takes. They are given back empty.
async fn write_all(to: &mut WriteHalf<'_>, chunks: &mut [Bytes]) -> io::Result<()> {
    {
        let mut slices: [IoSlice; CHUNKS] = std::array::from_fn(|n| IoSlice::new(chunks.get(n).map_or(&[], |c| c)));
        let mut left = &mut slices[..chunks.len()];
        // Empty ones are passed over.
        IoSlice::advance_slices(&mut left, 0);
        while !left.is_empty() {
            let count = to.write_vectored(left).await?;
            IoSlice::advance_slices(&mut left, count);
        }
    }
    chunks.fill(Bytes::new());
    Ok(())
}

/// The program gave its socket up before anything was joined.
pub fn withdraw(mut stream: Stream) {
    stream.send.reset();
    stream.receive.stop();
}
