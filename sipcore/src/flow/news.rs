//! What the other end is known to listen on, so that a stream for it need not wait for an answer.
//!
//! An end that takes a stream says beside its 200 as of which change of its listening sockets that is true, and tells each change:
//!
//! ```text
//! on a unidirectional stream, opened with the byte 2 (the number of no stream of sockets): the number of the change, u32
//! ```
//! What was known before a change is known no more. A socket that goes while a stream for it is on its way is as one that goes while a
//! connection waits in its queue: that is reset.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use parking_lot::Mutex;
use quinn::{Connection, ConnectionError, ReadError, ReadExactError};
use tokio::sync::Notify;

use super::stream::Broken;
use crate::label::Label;

/// The first byte of a stream of changes.
pub(super) const CHANGES: u8 = 2;
/// Sockets that are remembered.
const MOST: usize = 4096;

/// What the ends of a connection know of each other's listening sockets.
pub(super) struct News {
    /// The last change of this end.
    last: AtomicU32,
    changed: Notify,
    known: Mutex<Known>,
    /// The connection has ended.
    ended: AtomicBool,
}

/// Of the other end.
#[derive(Default)]
struct Known {
    as_of: u32,
    open: HashSet<Label>,
}

impl News {
    pub fn new() -> Arc<News> {
        // As of 0 is nothing promised.
        let (last, ended) = (AtomicU32::new(1), AtomicBool::new(false));
        Arc::new(News { last, changed: Notify::new(), known: Mutex::default(), ended })
    }

    /// The last change of this end's listening sockets.
    pub fn last(&self) -> u32 {
        self.last.load(Ordering::SeqCst)
    }

    /// One more change.
    pub fn change(&self) {
        self.last.fetch_add(1, Ordering::SeqCst);
        self.changed.notify_one();
    }

    /// Tells the other end, until the connection ends.
    pub async fn tell(self: Arc<News>, connection: Connection) {
        let telling = async {
            self.changed.notified().await;
            let mut stream = connection.open_uni().await.ok()?;
            stream.write_all(&[CHANGES]).await.ok()?;
            loop {
                stream.write_all(&self.last().to_be_bytes()).await.ok()?;
                self.changed.notified().await;
            }
        };
        tokio::select! {
            _ = connection.closed() => {}
            None::<()> = telling => {}
        }
        connection.closed().await;
        self.end();
    }

    /// The connection has ended: nothing is promised any more.
    pub fn end(&self) {
        self.ended.store(true, Ordering::SeqCst);
    }

    /// Listens to the other end, after the first byte, until the stream ends.
    pub async fn listen(self: Arc<News>, mut stream: quinn::RecvStream) {
        let mut change = [0; 4];
        while stream.read_exact(&mut change).await.is_ok() {
            self.known.lock().hear(u32::from_be_bytes(change));
        }
    }

    /// The other end has taken a stream for this socket.
    pub fn learn(&self, label: Label, as_of: u32) {
        self.known.lock().learn(label, as_of);
    }

    /// Whether the other end takes streams for this socket, as far as one knows.
    pub fn knows(&self, label: Label) -> bool {
        !self.ended.load(Ordering::SeqCst) && self.known.lock().open.contains(&label)
    }
}

impl Known {
    fn hear(&mut self, change: u32) {
        if change > self.as_of {
            self.as_of = change;
            self.open.clear();
        }
    }

    fn learn(&mut self, label: Label, as_of: u32) {
        self.hear(as_of);
        // What was heard meanwhile is newer.
        if as_of == self.as_of && as_of > 0 && self.open.len() < MOST {
            self.open.insert(label);
        }
    }
}

/// What the acceptor of a stream says at its start. Where it is 200, the last change follows.
pub(super) async fn answer(stream: &mut quinn::RecvStream) -> Result<(u16, u32), ReadExactError> {
    let mut status = [0; 2];
    stream.read_exact(&mut status).await?;
    let status = u16::from_be_bytes(status);
    let mut as_of = [0; 4];
    if status == 200 {
        stream.read_exact(&mut as_of).await?;
    }
    Ok((status, u32::from_be_bytes(as_of)))
}

/// The 200.
pub(super) fn taken(as_of: u32) -> [u8; 6] {
    let ([a, b], [c, d, e, f]) = (200u16.to_be_bytes(), as_of.to_be_bytes());
    [a, b, c, d, e, f]
}

/// A stream that the other end has not taken yet. If it never does, the socket is not known any more.
pub struct Early {
    news: Arc<News>,
    label: Label,
    as_of: Option<u32>,
}

impl Early {
    pub(super) fn new(news: Arc<News>, label: Label) -> Early {
        Early { news, label, as_of: None }
    }

    /// Waits until it has.
    pub(super) async fn answered(&mut self, stream: &mut quinn::RecvStream) -> Result<(), Broken> {
        match answer(stream).await {
            Ok((200, as_of)) => {
                self.as_of = Some(as_of);
                Ok(())
            }
            Ok((status, _)) => Err(Broken::Refused(status)),
            // This end's own end of it is known.
            Err(ReadExactError::ReadError(ReadError::ConnectionLost(e))) if e != ConnectionError::LocallyClosed => {
                Err(Broken::Ended(e.to_string()))
            }
            Err(e) => Err(Broken::Lost(e.to_string())),
        }
    }
}

impl Drop for Early {
    fn drop(&mut self) {
        match self.as_of {
            Some(as_of) => self.news.learn(self.label, as_of),
            None => drop(self.news.known.lock().open.remove(&self.label)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_ends_what_was_known_whatever_comes_first() {
        let [a, b]: [Label; 2] = ["tcp/7000", "tcp/7001"].map(|label| label.parse().unwrap());
        let news = News::new();
        assert!(!news.knows(a));
        news.learn(a, 0);
        assert!(!news.knows(a), "nothing was promised");
        news.learn(a, 1);
        assert!(news.knows(a) && !news.knows(b));
        news.learn(b, 1);
        assert!(news.knows(a) && news.knows(b));
        news.known.lock().hear(1);
        assert!(news.knows(a), "that was before");
        news.known.lock().hear(2);
        assert!(!news.knows(a) && !news.knows(b));
        news.learn(a, 1);
        assert!(!news.knows(a), "its answer was overtaken by the change");
        news.learn(a, 4);
        news.known.lock().hear(3);
        assert!(news.knows(a), "the answer was faster than the change");
        drop(Early::new(news.clone(), a));
        assert!(!news.knows(a), "a stream was not taken");
    }
}
