//! One channel: what waits in it, and how far its two directions are.

use std::collections::VecDeque;

use bytes::Bytes;

use super::dcep::Open;

/// Bytes and messages of one channel that wait here for the program. What does not fit stays in the association's window, which all
/// channels share.
const INBOX: usize = 256 * 1024;
const INBOX_MESSAGES: usize = 1024;

/// How far a channel is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Setup {
    /// Our OPEN is on its way.
    Opening,
    /// The other end's OPEN waits for our ACK.
    Offered,
    /// Messages may be sent.
    Open,
}

/// What a reader finds.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::flow) enum Read {
    /// The next bytes.
    Data(Bytes),
    /// The other end has said that it sends no more.
    End,
    /// It has closed the channel without saying so.
    Reset,
    /// Not yet.
    Nothing,
}

/// What a peer did that no peer does (RFC 8832 section 6): the channel is closed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Violation(pub &'static str);

/// The state of one channel.
#[derive(Debug)]
pub(super) struct Channel {
    pub open: Open,
    pub setup: Setup,
    inbox: VecDeque<Bytes>,
    inbox_bytes: usize,
    /// The other end sends no more.
    pub peer_ended: bool,
    /// This end has said so.
    pub ended: bool,
    /// The other end has all of it.
    pub delivered: bool,
    /// The channel is gone: the other end has closed it, or this one.
    pub closed: bool,
    /// Messages for it are in the association's window.
    pub paused: bool,
    /// A writer waits for room.
    pub waiting: bool,
    /// Nobody holds it any more.
    pub released: bool,
}

impl Channel {
    pub fn new(open: Open, setup: Setup) -> Channel {
        Channel {
            open,
            setup,
            inbox: VecDeque::new(),
            inbox_bytes: 0,
            peer_ended: false,
            ended: false,
            delivered: false,
            closed: false,
            paused: false,
            waiting: false,
            released: false,
        }
    }

    /// Whether one more message may be taken out of the window.
    pub fn has_room(&self) -> bool {
        self.inbox_bytes < INBOX && self.inbox.len() < INBOX_MESSAGES
    }

    /// A message of the other end's program.
    pub fn take(&mut self, data: Bytes) -> Result<(), Violation> {
        if self.peer_ended {
            return Err(Violation("data after the end"));
        }
        // Nobody reads it.
        if !self.released {
            self.inbox_bytes += data.len();
            self.inbox.push_back(data);
        }
        Ok(())
    }

    pub fn read(&mut self) -> Read {
        match self.inbox.pop_front() {
            Some(data) => {
                self.inbox_bytes -= data.len();
                Read::Data(data)
            }
            None if self.peer_ended => Read::End,
            None if self.closed => Read::Reset,
            None => Read::Nothing,
        }
    }

    /// Nobody reads or writes it any more.
    pub fn release(&mut self) {
        self.released = true;
        self.waiting = false;
        self.inbox = VecDeque::new();
        self.inbox_bytes = 0;
    }

    /// Both directions have ended as they should; datagrams have one end.
    pub fn is_over(&self) -> bool {
        self.ended && self.delivered && (self.peer_ended || self.open.delivery.is_datagrams())
    }
}
