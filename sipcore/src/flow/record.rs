//! TLS on a TCP connection whose bytes are moved in large pieces: one system call for many records, in both directions.

use std::io::{self, Read, Write};

use rustls::Connection;
use tokio::net::TcpStream;

/// Bytes that are read at once.
const PIECE: usize = 256 * 1024;

/// A TCP connection with TLS in it. Nothing here waits but where it says so: who uses it waits for [`Secure::io`].
pub struct Secure {
    io: TcpStream,
    session: Connection,
    /// What was read and not taken by TLS yet.
    wire: Box<[u8]>,
    filled: std::ops::Range<usize>,
}

/// What has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// Perhaps something to read.
    Some,
    /// Nothing for the moment.
    Nothing,
    /// Nothing more: the other end has said so (close_notify, RFC 8446 section 6.1).
    End,
}

/// The socket for who knows only `std::io`.
struct Sync<'a>(&'a TcpStream);

impl Write for Sync<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.try_write(data)
    }

    fn write_vectored(&mut self, data: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Secure {
    pub(super) fn new(io: TcpStream, mut session: Connection) -> io::Result<Secure> {
        // Who writes looks at what is left before.
        session.set_buffer_limit(None);
        Ok(Secure { io, session, wire: vec![0; PIECE].into_boxed_slice(), filled: 0..0 })
    }

    /// The socket, to wait for.
    pub fn io(&self) -> &TcpStream {
        &self.io
    }

    /// Encrypts; [`Secure::flush`] sends.
    pub fn write(&mut self, data: &[u8]) -> io::Result<()> {
        self.session.writer().write_all(data)
    }

    /// Nothing more comes from here: says so, when what was written is on its way.
    pub fn finish(&mut self) {
        self.session.send_close_notify();
    }

    /// Sends what the socket takes now; whether that is all.
    pub fn flush(&mut self) -> io::Result<bool> {
        while self.session.wants_write() {
            match self.session.write_tls(&mut Sync(&self.io)) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(true)
    }

    /// Reads what is there and decrypts a piece of it. An end without close_notify is an error: somebody may have cut it off.
    pub fn receive(&mut self) -> io::Result<Received> {
        if self.filled.is_empty() {
            match self.io.try_read(&mut self.wire) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.filled = 0..count,
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                    return Ok(Received::Nothing);
                }
                Err(e) => return Err(e),
            }
        }
        while !self.filled.is_empty() {
            let mut left = &self.wire[self.filled.clone()];
            let taken = match self.session.read_tls(&mut left) {
                Ok(taken) => taken,
                // It has as much as it keeps.
                Err(e) if e.kind() == io::ErrorKind::Other => break,
                Err(e) => return Err(e),
            };
            self.filled.start += taken;
            let state = self.session.process_new_packets();
            let state = state.map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
            if state.peer_has_closed() {
                self.filled = 0..0;
                return Ok(Received::End);
            }
            if taken == 0 {
                break;
            }
        }
        Ok(Received::Some)
    }

    /// Gives what was decrypted to `take`, piece by piece, until that takes less than it is given. Whether all was taken.
    pub fn read(&mut self, mut take: impl FnMut(&[u8]) -> io::Result<usize>) -> io::Result<bool> {
        loop {
            let mut reader = self.session.reader();
            let piece = match io::BufRead::fill_buf(&mut reader) {
                Ok([]) => return Ok(true),
                Ok(piece) => piece,
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::UnexpectedEof) => {
                    return Ok(true);
                }
                Err(e) => return Err(e),
            };
            let (offered, taken) = (piece.len(), take(piece)?);
            io::BufRead::consume(&mut reader, taken);
            if taken < offered {
                return Ok(false);
            }
        }
    }

    /// Writes all of it, and waits until the socket has taken it.
    pub async fn send(&mut self, data: &[u8]) -> io::Result<()> {
        self.write(data)?;
        while !self.flush()? {
            self.io.writable().await?;
        }
        Ok(())
    }

    /// Waits for as many bytes.
    pub async fn read_exact(&mut self, mut out: &mut [u8]) -> io::Result<()> {
        loop {
            match self.session.reader().read(out) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    out = &mut out[count..];
                    if out.is_empty() {
                        return Ok(());
                    }
                    continue;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
            }
            if self.receive()? == Received::Nothing {
                // Answers of TLS itself.
                self.flush()?;
                self.io.readable().await?;
            }
        }
    }
}
