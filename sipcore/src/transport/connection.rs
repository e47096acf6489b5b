//! One connection that carries SIP (RFC 3261 18, RFC 5626 3.5.1 keep-alive).

use super::driver::Core;
use super::layered;
use super::tap::count;
use super::{Flow, Machine, Sign, Transport};
use crate::message::{Frame, Limits, Message, Method, StreamError, StreamParser};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};

/// How long a connection attempt may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// A connection on which nothing moves for this long is closed; agents send a keep-alive far more often.
const IDLE_LIMIT: Duration = Duration::from_secs(15 * 60);
/// Unsent bytes above which the other side is taken for dead.
const OUTBOX_LIMIT: usize = 4 * 1024 * 1024;

#[derive(Debug, Default)]
struct Outbox {
    queue: VecDeque<Bytes>,
    bytes: usize,
    closed: bool,
    /// Nobody wants to hear of its end.
    forsaken: bool,
    /// Why it ended, when that is known.
    why: Option<String>,
}

/// The sending half, shared by everyone who sends; its task owns the receiving half.
#[derive(Debug, Default)]
pub(super) struct Connection {
    /// Where everybody may write; without it the task alone writes.
    stream: OnceLock<TcpStream>,
    /// The flow that it is known by, when that is another one than it began with.
    known_as: OnceLock<Flow>,
    outbox: Mutex<Outbox>,
    wake: Notify,
}

impl Connection {
    /// Sends at once when the socket takes it, else leaves it to the task. `false`: the connection is gone.
    pub fn send(&self, payload: Bytes) -> bool {
        let mut outbox = self.outbox.lock();
        if outbox.closed {
            return false;
        }
        let mut rest = payload;
        if outbox.queue.is_empty()
            && let Some(stream) = self.stream.get()
        {
            match stream.try_write(&rest) {
                Ok(n) if n == rest.len() => return true,
                Ok(n) => rest = rest.slice(n..),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => {
                    outbox.closed = true;
                    self.wake.notify_one();
                    return false;
                }
            }
        }
        if outbox.bytes + rest.len() > OUTBOX_LIMIT {
            outbox.closed = true;
            self.wake.notify_one();
            return false;
        }
        outbox.bytes += rest.len();
        outbox.queue.push_back(rest);
        self.wake.notify_one();
        true
    }

    /// Writes what waits. `true`: more waits until the socket is writable.
    fn flush(&self, stream: &TcpStream) -> io::Result<bool> {
        let mut outbox = self.outbox.lock();
        if outbox.closed {
            return Err(ErrorKind::BrokenPipe.into());
        }
        while let Some(first) = outbox.queue.front_mut() {
            match stream.try_write(first) {
                Ok(n) => {
                    let done = n == first.len();
                    *first = first.slice(n..);
                    outbox.bytes -= n;
                    if done {
                        outbox.queue.pop_front();
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// What waits to be sent, first come first, for a task that writes by itself.
    pub fn take(&self) -> io::Result<Option<Bytes>> {
        let mut outbox = self.outbox.lock();
        if outbox.closed {
            return Err(ErrorKind::BrokenPipe.into());
        }
        let first = outbox.queue.pop_front();
        outbox.bytes -= first.as_ref().map_or(0, Bytes::len);
        Ok(first)
    }

    /// Something may wait to be sent.
    pub async fn woken(&self) {
        self.wake.notified().await;
    }

    /// It is known by this flow from now on.
    pub fn set_known_as(&self, flow: Flow) {
        // Only its own task says so, once.
        let _ = self.known_as.set(flow);
    }

    /// Why nothing can be sent any more.
    pub fn why(&self) -> io::Error {
        self.outbox.lock().why.clone().map_or(ErrorKind::BrokenPipe.into(), io::Error::other)
    }

    fn ended(&self, why: &str) {
        self.outbox.lock().why = Some(why.to_owned());
        self.close();
    }

    /// Makes the task end the connection.
    pub fn abandon(&self) {
        self.close();
        self.wake.notify_one();
    }

    /// The same, and nobody is told.
    pub fn forsake(&self) {
        self.outbox.lock().forsaken = true;
        self.abandon();
    }

    fn close(&self) {
        let mut outbox = self.outbox.lock();
        outbox.closed = true;
        outbox.queue.clear();
        outbox.bytes = 0;
    }
}

/// Runs a connection to its end: `accepted`, or made here.
pub(super) async fn run<M: Machine>(
    core: Arc<Core<M>>,
    flow: Flow,
    connection: Arc<Connection>,
    accepted: Option<TcpStream>,
) {
    let why = match exchange(&core, flow, &connection, accepted).await {
        Ok(()) => "connection closed".to_string(),
        Err(error) => error.to_string(),
    };
    connection.ended(&why);
    let flow = connection.known_as.get().copied().unwrap_or(flow);
    core.forget(flow, &connection);
    if !connection.outbox.lock().forsaken {
        core.unreachable(flow, &why);
    }
}

async fn exchange<M: Machine>(
    core: &Arc<Core<M>>,
    flow: Flow,
    connection: &Connection,
    accepted: Option<TcpStream>,
) -> io::Result<()> {
    let is_accepted = accepted.is_some();
    let stream = match accepted {
        Some(stream) => stream,
        None => timeout(CONNECT_LIMIT, core.connect(flow)).await??,
    };
    stream.set_nodelay(true)?;
    let link = Link { flow, local: stream.local_addr()?, connection, patience: Patience::new(core, is_accepted) };
    match flow.transport {
        Transport::Tls | Transport::Ws | Transport::Wss => layered::exchange(core, link, stream, is_accepted).await,
        Transport::Udp | Transport::Tcp => plain(core, link, stream).await,
    }
}

/// One connection, for whoever reads it.
pub(super) struct Link<'a> {
    pub flow: Flow,
    pub local: SocketAddr,
    pub connection: &'a Connection,
    pub patience: Patience,
}

async fn plain<M: Machine>(core: &Arc<Core<M>>, mut link: Link<'_>, stream: TcpStream) -> io::Result<()> {
    let connection = link.connection;
    let stream = connection.stream.get_or_init(|| stream);
    let mut parser = StreamParser::new(Limits::default());
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let interest = match connection.flush(stream)? {
            true => Interest::READABLE | Interest::WRITABLE,
            false => Interest::READABLE,
        };
        let ready = tokio::select! {
            ready = link.patience.wait(core, stream.ready(interest)) => ready??,
            () = connection.wake.notified() => continue,
        };
        if !ready.is_readable() && !ready.is_read_closed() {
            continue;
        }
        loop {
            match stream.try_read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(n) => parser.push(buffer.get(..n).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
            read_messages(core, &link, &mut parser)?;
            link.patience.heard(parser.is_between_messages());
        }
    }
}

/// How long a connection is waited for.
pub(super) struct Patience {
    limit: Duration,
    until: Instant,
    /// Something is owed: the first message of who connected to us, or the rest of one.
    owed: bool,
}

impl Patience {
    fn new<M: Machine>(core: &Core<M>, is_accepted: bool) -> Self {
        let limit = core.patience;
        let wait = if is_accepted { limit } else { IDLE_LIMIT };
        Patience { limit, until: Instant::now() + wait, owed: is_accepted }
    }

    /// Bytes came; `whole`: nothing is missing after them.
    pub fn heard(&mut self, whole: bool) {
        if whole {
            self.until = Instant::now() + IDLE_LIMIT;
        } else if !self.owed {
            self.until = Instant::now() + self.limit;
        }
        self.owed = !whole;
    }

    /// What comes in time.
    pub async fn wait<M: Machine, T>(&self, core: &Core<M>, what: impl Future<Output = T>) -> io::Result<T> {
        timeout_at(self.until, what).await.map_err(|_| {
            if self.owed {
                count(&core.cells.slow_connections);
            }
            let why = if self.owed { "no whole message came in time" } else { "nothing came for a long time" };
            io::Error::new(ErrorKind::TimedOut, why)
        })
    }
}

pub(super) fn read_messages<M: Machine>(
    core: &Arc<Core<M>>,
    link: &Link<'_>,
    parser: &mut StreamParser,
) -> io::Result<()> {
    let (flow, local, connection) = (link.flow, link.local, link.connection);
    while let Some(frame) = parser.pull() {
        match frame {
            Ok(Frame::Message(message)) => core.receive(flow, local, message),
            Ok(Frame::Ping) => {
                connection.send(Bytes::from_static(b"\r\n"));
            }
            Ok(Frame::Pong) => core.with(|machine, now| machine.handle_sign(now, flow, Sign::Pong)),
            Err(error) => {
                count(&core.cells.garbage);
                if let Some(answer) = refusal(&error) {
                    connection.send(answer);
                }
                return Err(io::Error::new(ErrorKind::InvalidData, error));
            }
        }
    }
    Ok(())
}

/// The answer to a request after which the stream cannot be read on.
fn refusal(error: &StreamError) -> Option<Bytes> {
    let request = error.message.as_ref()?;
    let answers = request.method().is_some_and(|method| *method != Method::Ack);
    answers.then(|| Message::response_to(request, error.status(), &error.why.to_string()).build().to_bytes())
}
