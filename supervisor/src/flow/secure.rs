//! Between a TCP socket of the program and a TLS connection: FIN is close_notify, a reset is a reset, and who does not read holds up who
//! writes. Bytes move in large pieces.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use sipcore::flow::{Received, Secure};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{rest, short};

/// Pieces after which others have their turn.
const TURN: u32 = 16;

/// How long the end of a peer is awaited when nobody reads any more.
const LATE: Duration = Duration::from_secs(2);

/// Whose end broke.
enum Broken {
    Program(io::Error),
    Peer(io::Error),
}

struct Pump {
    program: TcpStream,
    peer: Secure,
    way: short::Way,
    /// The program may write more.
    up_open: bool,
    /// The peer was told that nothing more comes.
    up_shut: bool,
    /// The peer reads no more: what the program has written since.
    unheard: Option<usize>,
    down_open: bool,
    down_shut: bool,
    /// The program is gone: nobody reads.
    no_reader: bool,
    /// Until when the peer's end is awaited then.
    patience: Option<Instant>,
}

/// Carries bytes until both directions have ended. `ending`: the program is gone, and what comes for it need not be delivered.
pub async fn pump(program: TcpStream, peer: Secure, mut ending: watch::Receiver<bool>) {
    super::prepare(&program);
    let mut pump = Pump {
        program,
        peer,
        way: short::Way::new(std::time::Instant::now()),
        up_open: true,
        up_shut: false,
        unheard: None,
        down_open: true,
        down_shut: false,
        no_reader: false,
        patience: None,
    };
    let broken = match pump.run(&mut ending).await {
        Ok(()) if pump.unheard.is_some() => return rest::delivered(&pump.program).await,
        Ok(()) => return,
        Err(broken) => broken,
    };
    match &broken {
        Broken::Program(error) => tracing::debug!(%error, "the program's end of a TLS flow broke"),
        Broken::Peer(error) => tracing::debug!(%error, "the peer's end of a TLS flow broke"),
    }
    // An alert, perhaps, and then a reset as the program would see or send it.
    let _ = pump.peer.flush();
    let _ = sandbox::sock::reset_on_close(pump.peer.io().as_fd());
    if pump.down_shut && matches!(broken, Broken::Peer(_)) {
        // The program has everything, and the end, before it is reset.
        rest::delivered(&pump.program).await;
    }
    let _ = sandbox::sock::reset_on_close(pump.program.as_fd());
}

impl Pump {
    async fn run(&mut self, ending: &mut watch::Receiver<bool>) -> Result<(), Broken> {
        let mut turns = 0;
        loop {
            self.no_reader |= *ending.borrow();
            if self.no_reader && self.up_shut && self.patience.is_none() {
                self.patience = Some(Instant::now() + LATE);
            }
            let sent = match self.unheard {
                Some(_) => true,
                None => match self.peer.flush() {
                    Ok(sent) => sent,
                    Err(error) => self.lose(error).map(|()| true)?,
                },
            };
            let moved = self.upwards(sent)? | self.downwards()?;
            if self.up_shut && self.down_shut {
                return Ok(());
            }
            if moved {
                turns += 1;
                if turns % TURN == 0 {
                    tokio::task::yield_now().await;
                }
                continue;
            }
            match self.wait(sent, ending).await {
                Err(Broken::Peer(error)) => self.lose(error)?,
                other => other?,
            }
        }
    }

    /// The peer reads no more, perhaps because it has ended: what it wrote before is not lost by that.
    fn lose(&mut self, error: io::Error) -> Result<(), Broken> {
        if self.down_shut || self.unheard.is_some() {
            return Err(Broken::Peer(error));
        }
        tracing::debug!(%error, "nobody reads at the other end of a TLS flow");
        (self.up_shut, self.unheard) = (true, Some(0));
        Ok(())
    }

    /// Throws away what the program writes, if that is not too much; whether there was something.
    fn unheard(&mut self) -> Result<bool, Broken> {
        let Some(count) = self.unheard.as_mut().filter(|_| self.up_open) else { return Ok(false) };
        match self.program.try_read(&mut [0; 16 << 10]) {
            Ok(0) => self.up_open = false,
            Ok(read) => *count += read,
            Err(e) if is_not_yet(&e) => return Ok(false),
            Err(e) => return Err(Broken::Program(e)),
        }
        if *count > rest::UNHEARD {
            return Err(Broken::Program(io::ErrorKind::BrokenPipe.into()));
        }
        Ok(true)
    }

    /// From the program to the peer, if the last piece is on its way; whether something was moved.
    fn upwards(&mut self, sent: bool) -> Result<bool, Broken> {
        if !sent || self.up_shut {
            return self.unheard();
        }
        if !self.up_open {
            shutdown(self.peer.io());
            self.up_shut = true;
            return Ok(true);
        }
        self.way.look(std::time::Instant::now(), self.peer.io());
        match self.program.try_read_vectored(&mut self.peer.places()) {
            Ok(0) => {
                self.peer.finish().map_err(Broken::Peer)?;
                self.up_open = false;
            }
            Ok(count) => self.peer.seal(count).map_err(Broken::Peer)?,
            Err(e) if is_not_yet(&e) => return Ok(false),
            Err(e) => return Err(Broken::Program(e)),
        }
        Ok(true)
    }

    /// From the peer to the program.
    fn downwards(&mut self) -> Result<bool, Broken> {
        if self.down_shut {
            return Ok(false);
        }
        let mut moved = false;
        if self.down_open && self.peer.is_taken() {
            match self.peer.receive().map_err(Broken::Peer)? {
                Received::Some => moved = true,
                Received::Nothing => {}
                Received::End => self.down_open = false,
            }
        }
        if self.no_reader {
            self.peer.discard();
        }
        let program = &self.program;
        moved |= self.peer.deliver(|pieces| program.try_write_vectored(pieces)).map_err(Broken::Program)? > 0;
        if !self.down_open && self.peer.is_taken() {
            shutdown(&self.program);
            self.down_shut = true;
            moved = true;
        }
        Ok(moved)
    }

    async fn wait(&mut self, sent: bool, ending: &mut watch::Receiver<bool>) -> Result<(), Broken> {
        let pending = !self.peer.is_taken();
        let (program, peer) = (&self.program, self.peer.io());
        let reset = || io::Error::from(io::ErrorKind::ConnectionReset);
        tokio::select! {
            ready = program.readable(), if sent && self.up_open => ready.map_err(Broken::Program),
            ready = peer.writable(), if !sent => ready.map_err(Broken::Peer),
            ready = peer.readable(), if self.down_open && !pending => ready.map_err(Broken::Peer),
            ready = program.writable(), if pending => ready.map_err(Broken::Program),
            // Where nothing is read any more a reset would not be seen.
            ready = program.ready(Interest::ERROR), if !self.up_open && !self.no_reader => {
                Err(Broken::Program(ready.err().unwrap_or_else(reset)))
            }
            ready = peer.ready(Interest::ERROR), if (!self.down_open || pending) && self.unheard.is_none() => {
                Err(Broken::Peer(ready.err().unwrap_or_else(reset)))
            }
            // A close with something unread would be a reset, and the peer may not have read all yet: its own end is awaited a little.
            () = until(self.patience), if self.no_reader && self.up_shut => {
                self.down_shut = true;
                Ok(())
            }
            // The sender lives as long as the run.
            _ = ending.wait_for(|ending| *ending), if !self.no_reader => Ok(()),
        }
    }
}

async fn until(patience: Option<Instant>) {
    match patience {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn is_not_yet(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

fn shutdown(socket: &TcpStream) {
    // Who has been reset meanwhile is shut already.
    let _ = nix::sys::socket::shutdown(socket.as_raw_fd(), nix::sys::socket::Shutdown::Write);
}
