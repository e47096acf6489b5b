//! Messages out of a byte stream (RFC 3261 section 18.3), with the keep-alives of RFC 5626 section 4.4.1.

use bytes::{Buf, BytesMut};

use super::Message;
use super::lexer::{self, Head, Limits, ParseError};
use super::views::{self, HeaderError};

/// What a stream yields.
#[derive(Debug)]
pub enum Frame {
    /// A whole message.
    Message(Message),
    /// A double CR LF between messages: the peer asks for a sign of life and is owed one CR LF.
    Ping,
    /// One CR LF between messages: the answer to a ping.
    Pong,
}

/// The stream cannot be read any further: the connection is to be closed.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub struct StreamError {
    /// What is wrong.
    pub why: StreamFault,
    /// The message without its body, when there was a header section: a request can be answered before closing.
    pub message: Option<Box<Message>>,
}

/// What is wrong with a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamFault {
    /// Not a message, or past a limit.
    #[error("{0}")]
    Parse(#[from] ParseError),
    /// Content-Length is missing (an error on a stream, RFC 3261 section 20.14) or cannot be read.
    #[error("the end of the body is not known: Content-Length: {0}")]
    Length(HeaderError),
}

impl StreamError {
    /// The status owed to the request in [`StreamError::message`].
    pub fn status(&self) -> u16 {
        match self.why {
            StreamFault::Parse(ParseError::BodyTooLong) => 413,
            StreamFault::Parse(ParseError::TooManyHeaders | ParseError::HeadersTooLong) => 513,
            _ => 400,
        }
    }
}

/// Push bytes, pull messages. Holds at most one message beyond what was pushed last; after an error it yields nothing more.
pub struct StreamParser {
    limits: Limits,
    buf: BytesMut,
    /// How far the end of the header section has been looked for.
    looked: usize,
    head: Option<(Head, usize)>,
    dead: bool,
}

impl StreamParser {
    /// A parser at the start of a connection.
    pub fn new(limits: Limits) -> StreamParser {
        StreamParser { limits, buf: BytesMut::new(), looked: 0, head: None, dead: false }
    }

    /// Nothing of a message has come that is not whole.
    pub fn is_between_messages(&self) -> bool {
        self.buf.is_empty() && self.head.is_none()
    }

    /// Bytes as they came. Pull until nothing comes before pushing more.
    pub fn push(&mut self, bytes: &[u8]) {
        if !self.dead {
            self.buf.extend_from_slice(bytes);
        }
    }

    /// The next whole message or keep-alive; `None` when more bytes are needed.
    pub fn pull(&mut self) -> Option<Result<Frame, StreamError>> {
        if self.dead {
            return None;
        }
        let result = self.step().transpose();
        if matches!(result, Some(Err(_))) {
            self.dead = true;
            self.buf = BytesMut::new();
            self.head = None;
        }
        result
    }

    fn step(&mut self) -> Result<Option<Frame>, StreamError> {
        if self.head.is_none() {
            if let Some(keep_alive) = self.keep_alive() {
                return Ok(keep_alive);
            }
            let Some(end) = self.header_end() else {
                if self.buf.len() > self.limits.header_bytes {
                    return Err(StreamError { why: ParseError::HeadersTooLong.into(), message: None });
                }
                return Ok(None);
            };
            let bytes = self.buf.split_to(end).freeze();
            self.looked = 0;
            let head = lexer::head(&bytes, &self.limits).map_err(|e| StreamError { why: e.into(), message: None })?;
            match views::content_length(&head.headers) {
                Ok(Some(length)) if length <= self.limits.body_bytes => self.head = Some((head, length)),
                Ok(Some(_)) => return Err(refused(head, ParseError::BodyTooLong.into())),
                Ok(None) => return Err(refused(head, StreamFault::Length(HeaderError::Missing))),
                Err(e) => return Err(refused(head, StreamFault::Length(e))),
            }
        }
        match self.head.take() {
            Some((head, length)) if self.buf.len() >= length => {
                let body = self.buf.split_to(length).freeze();
                Ok(Some(Frame::Message(Message { start: head.start, headers: head.headers, body })))
            }
            waiting => {
                self.head = waiting;
                Ok(None)
            }
        }
    }

    /// Line ends before a start line. The inner `None` waits for the next byte.
    fn keep_alive(&mut self) -> Option<Option<Frame>> {
        let (take, frame) = match self.buf.as_ref() {
            [b'\r', b'\n', b'\r', b'\n', ..] => (4, Some(Frame::Ping)),
            [b'\r'] | [b'\r', b'\n', b'\r'] => (0, None),
            [b'\r', b'\n', ..] => (2, Some(Frame::Pong)),
            [b'\n', ..] => (1, Some(Frame::Pong)),
            _ => return None,
        };
        self.buf.advance(take);
        Some(frame)
    }

    /// Where the empty line after the headers ends.
    fn header_end(&mut self) -> Option<usize> {
        let limit = self.buf.len().min(self.limits.header_bytes + 4);
        let mut at = self.looked;
        while let Some(n) = self.buf.get(at..limit)?.iter().position(|b| *b == b'\n') {
            let after = at + n + 1;
            match self.buf.get(after..).unwrap_or_default() {
                [b'\n', ..] => return Some(after + 1),
                [b'\r', b'\n', ..] => return Some(after + 2),
                [] | [b'\r'] => {
                    self.looked = at + n;
                    return None;
                }
                _ => at = after,
            }
        }
        self.looked = limit;
        None
    }
}

fn refused(head: Head, why: StreamFault) -> StreamError {
    let message = Message { start: head.start, headers: head.headers, body: Default::default() };
    StreamError { why, message: Some(Box::new(message)) }
}
