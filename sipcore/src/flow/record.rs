//! TLS on a TCP connection whose bytes are moved in large pieces: one system call for many records, in both directions, and none is copied here.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::ops::Range;

use rustls::{AlertDescription, ContentType};
use tokio::net::TcpStream;

use super::handshake::Shaken;
use super::protection::{Fault, HEADER, LONGEST, Opened, PAYLOAD, Protection, TRAILER};

/// Records that are filled at once.
const RECORDS: usize = 16;
/// Of one that carries all that it can.
const FULL: usize = HEADER + PAYLOAD + TRAILER;
/// Room after them: for a key update, and the end.
const WORDS: usize = 128;
/// Bytes that are read at once; whatever is left of a record before stands ahead of them.
const WIRE: usize = RECORDS * FULL + LONGEST;
/// Pieces that are written at once.
const PIECES: usize = 2 * RECORDS;

/// A TCP connection with TLS in it. Nothing here waits but where it says so: who uses it waits for [`Secure::io`].
pub struct Secure {
    io: TcpStream,
    protection: Protection,
    /// Records that were sealed; this part was not sent yet.
    out: Box<[u8]>,
    unsent: Range<usize>,
    /// Records that have come; this part was not opened yet.
    wire: Box<[u8]>,
    sealed: Range<usize>,
    /// What was opened and not taken: places of `wire`.
    plain: VecDeque<Range<usize>>,
    /// The other end has said that nothing more comes.
    ended: bool,
    /// This one has.
    finished: bool,
}

/// What has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// Perhaps something to take.
    Some,
    /// Nothing for the moment.
    Nothing,
    /// Nothing more: the other end has said so (close_notify, RFC 8446 section 6.1).
    End,
}

impl Secure {
    pub(super) fn new(io: TcpStream, shaken: Shaken) -> Secure {
        let Shaken { protection, early, rest, ended } = shaken;
        let mut wire = vec![0; WIRE.max(early.len() + rest.len() + LONGEST)].into_boxed_slice();
        let sealed = early.len()..early.len() + rest.len();
        wire[..early.len()].copy_from_slice(&early);
        wire[sealed.clone()].copy_from_slice(&rest);
        let plain = VecDeque::from_iter((!early.is_empty()).then_some(0..early.len()));
        let out = vec![0; RECORDS * FULL + WORDS].into_boxed_slice();
        Secure { io, protection, out, unsent: 0..0, wire, sealed, plain, ended, finished: false }
    }

    /// The socket, to wait for.
    pub fn io(&self) -> &TcpStream {
        &self.io
    }

    /// Where the next bytes are to be written, from the first place on; [`Secure::seal`] says how many were. Only where [`Secure::flush`] has
    /// sent all.
    pub fn places(&mut self) -> [IoSliceMut<'_>; RECORDS] {
        debug_assert!(self.unsent.is_empty());
        let mut records = self.out.chunks_exact_mut(FULL);
        std::array::from_fn(|_| {
            IoSliceMut::new(records.next().map_or(&mut [], |record| &mut record[HEADER..HEADER + PAYLOAD]))
        })
    }

    /// Encrypts so many bytes of the places; [`Secure::flush`] sends.
    pub fn seal(&mut self, mut count: usize) -> io::Result<()> {
        self.unsent = 0..0;
        while count > 0 {
            let piece = count.min(PAYLOAD);
            let record = self.unsent.end..self.unsent.end + HEADER + piece + TRAILER;
            self.protection.seal(ContentType::ApplicationData, &mut self.out[record.clone()]).map_err(broken)?;
            self.unsent.end = record.end;
            count -= piece;
        }
        Ok(())
    }

    /// One more record.
    fn say(&mut self, kind: ContentType, words: &[u8]) -> io::Result<()> {
        if self.unsent.is_empty() {
            self.unsent = 0..0;
        }
        let record = self.unsent.end..self.unsent.end + HEADER + words.len() + TRAILER;
        let place = self.out.get_mut(record.clone()).ok_or(io::ErrorKind::WriteZero)?;
        place[HEADER..HEADER + words.len()].copy_from_slice(words);
        self.protection.seal(kind, place).map_err(broken)?;
        self.unsent.end = record.end;
        Ok(())
    }

    /// Nothing more comes from here: says so, when what was written is on its way.
    pub fn finish(&mut self) -> io::Result<()> {
        const WARNING: u8 = 1;
        self.finished = true;
        self.say(ContentType::Alert, &[WARNING, AlertDescription::CloseNotify.into()])
    }

    /// Sends what the socket takes now; whether that is all.
    pub fn flush(&mut self) -> io::Result<bool> {
        loop {
            while !self.unsent.is_empty() {
                match self.io.try_write(&self.out[self.unsent.clone()]) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(count) => self.unsent.start += count,
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(e),
                }
            }
            if self.finished || !self.protection.is_due() {
                return Ok(true);
            }
            let place = self.out.first_chunk_mut().ok_or(io::ErrorKind::WriteZero)?;
            self.protection.renew(place).map_err(broken)?;
            self.unsent = 0..Protection::RENEWAL;
        }
    }

    /// Reads what is there and decrypts it, if all was taken that had come before. An end without close_notify is an error: somebody may have cut
    /// it off.
    pub fn receive(&mut self) -> io::Result<Received> {
        if !self.is_taken() {
            return Ok(Received::Some);
        }
        if self.ended {
            return Ok(Received::End);
        }
        // What came before the handshake was over, too.
        if !self.open()? {
            self.wire.copy_within(self.sealed.clone(), 0);
            self.sealed = 0..self.sealed.len();
            match self.io.try_read(&mut self.wire[self.sealed.end..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.sealed.end += count,
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                    return Ok(Received::Nothing);
                }
                Err(e) => return Err(e),
            }
            self.open()?;
        }
        Ok(if self.ended && self.is_taken() { Received::End } else { Received::Some })
    }

    /// Opens what has come whole; whether there was any.
    fn open(&mut self) -> io::Result<bool> {
        let mut any = false;
        while !self.ended {
            let opened = match Protection::length(&self.wire[self.sealed.clone()]) {
                Ok(Some(length)) if length <= self.sealed.len() => {
                    let record = self.sealed.start..self.sealed.start + length;
                    self.sealed.start = record.end;
                    self.protection.open(&mut self.wire[record.clone()]).map(|opened| (record.start, opened))
                }
                Ok(_) => return Ok(any),
                Err(fault) => Err(fault),
            };
            any = true;
            match opened {
                Ok((start, Opened::Data(place))) if !place.is_empty() => {
                    self.plain.push_back(start + place.start..start + place.end);
                }
                Ok((_, Opened::End)) => self.ended = true,
                Ok(_) => {}
                Err(fault) => {
                    const FATAL: u8 = 2;
                    if let Fault::Found(alert, _) = fault {
                        // What is under way already goes first; where there is no room the end itself says enough.
                        let _ = self.say(ContentType::Alert, &[FATAL, alert.into()]);
                    }
                    return Err(broken(fault));
                }
            }
        }
        Ok(any)
    }

    /// Whether all was taken that has come.
    pub fn is_taken(&self) -> bool {
        self.plain.is_empty()
    }

    /// Nobody wants what has come.
    pub fn discard(&mut self) {
        self.plain.clear();
    }

    /// Has `write` take what has come, until it would have to wait. How much it took.
    pub fn deliver(&mut self, mut write: impl FnMut(&[IoSlice<'_>]) -> io::Result<usize>) -> io::Result<usize> {
        let mut all = 0;
        while !self.is_taken() {
            let count = self.plain.len().min(PIECES);
            let pieces: [IoSlice<'_>; PIECES] =
                std::array::from_fn(|n| IoSlice::new(self.plain.get(n).map_or(&[], |place| &self.wire[place.clone()])));
            match write(&pieces[..count]) {
                Ok(taken) => {
                    self.take(taken);
                    all += taken;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(all)
    }

    fn take(&mut self, mut count: usize) {
        while let Some(first) = self.plain.front_mut() {
            let taken = count.min(first.len());
            first.start += taken;
            count -= taken;
            if first.start < first.end {
                break;
            }
            self.plain.pop_front();
        }
    }

    /// Writes a few bytes, and waits until the socket has taken them.
    pub async fn send(&mut self, data: &[u8]) -> io::Result<()> {
        self.say(ContentType::ApplicationData, data)?;
        while !self.flush()? {
            self.io.writable().await?;
        }
        Ok(())
    }

    /// Waits for as many bytes.
    pub async fn read_exact(&mut self, mut out: &mut [u8]) -> io::Result<()> {
        loop {
            while let Some(place) = self.plain.front() {
                let count = place.len().min(out.len());
                let (now, later) = out.split_at_mut(count);
                now.copy_from_slice(&self.wire[place.start..place.start + count]);
                self.take(count);
                out = later;
                if out.is_empty() {
                    return Ok(());
                }
            }
            match self.receive()? {
                // Perhaps it was no data: who sends much of that keeps nobody else from his turn.
                Received::Some => tokio::task::yield_now().await,
                Received::End => return Err(io::ErrorKind::UnexpectedEof.into()),
                Received::Nothing => {
                    // Answers of TLS itself.
                    self.flush()?;
                    self.io.readable().await?;
                }
            }
        }
    }
}

fn broken(fault: Fault) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, fault)
}

#[cfg(test)]
mod tests;
