//! Where the program's own TCP sockets are joined to their streams: a listener of the supervisor's. The program's connect() leads
//! here; who comes is known by its address, which nobody else can have.

use std::collections::HashMap;
use std::net::{SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sipcore::agent::SessionId;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::v4;
use crate::supervisor::Supervisor;

/// Connections that wait to be accepted here.
const BACKLOG: i32 = 4096;
/// How long one may wait there that the program has closed meanwhile.
const QUEUED: Duration = Duration::from_secs(1);
/// In so many pieces: a run that could not run for a while accepts between them what waits.
const PIECES: u32 = 10;

/// The listener and those who are awaited.
pub struct Gate {
    pub address: SocketAddrV4,
    waiting: Mutex<Waiting>,
    runtime: Handle,
}

#[derive(Default)]
struct Waiting {
    /// By the address of the program's socket.
    all: HashMap<SocketAddrV4, Waiter>,
    /// Where those will come from that nobody waits for.
    coming: HashMap<SessionId, SocketAddrV4>,
}

/// What is done with a connection.
enum Waiter {
    Told(oneshot::Sender<TcpStream>),
    /// Nobody waits: it begins here.
    Begins(SessionId, Box<dyn FnOnce(TcpStream) + Send>),
}

impl Waiting {
    /// Who has waited for this address before waits in vain.
    fn insert(&mut self, source: SocketAddrV4, waiter: Waiter) -> Option<Waiter> {
        if let Waiter::Begins(session, _) = &waiter {
            self.coming.insert(*session, source);
        }
        let before = self.all.insert(source, waiter);
        self.left(before)
    }

    fn remove(&mut self, source: &SocketAddrV4) -> Option<Waiter> {
        let waiter = self.all.remove(source);
        self.left(waiter)
    }

    fn left(&mut self, waiter: Option<Waiter>) -> Option<Waiter> {
        if let Some(Waiter::Begins(session, _)) = &waiter {
            self.coming.remove(session);
        }
        waiter
    }
}

impl Gate {
    pub fn open(supervisor: &Supervisor) -> std::io::Result<Arc<Gate>> {
        let socket: OwnedFd = sandbox::sock::tcp4()?;
        sandbox::sock::bind(socket.as_fd(), &SocketAddr::from((supervisor.physical, 0)))?;
        nix::sys::socket::listen(&socket, nix::sys::socket::Backlog::new(BACKLOG)?)?;
        let address = v4(sandbox::sock::local_addr(socket.as_fd())?)?;
        sandbox::sock::set_nonblocking(socket.as_fd())?;
        let listener = TcpListener::from_std(socket.into())?;
        let gate = Arc::new(Gate { address, waiting: Mutex::default(), runtime: Handle::current() });
        tokio::spawn(serve(gate.clone(), listener));
        Ok(gate)
    }

    /// The connection that will come from `source`. Nothing comes, and nothing is kept, once what is returned is dropped.
    pub fn expect(self: &Arc<Gate>, source: SocketAddrV4) -> Expected {
        let (tell, told) = oneshot::channel();
        // What begins with a connection holds others' locks: it is dropped after this one.
        let before = self.waiting.lock().insert(source, Waiter::Told(tell));
        drop(before);
        Expected { gate: self.clone(), source, told }
    }

    /// `begin` is done, in the runtime, with the connection that will come from `source`; unless [`Gate::forget`] is told of the session before.
    pub fn begin(&self, source: SocketAddrV4, session: SessionId, begin: impl FnOnce(TcpStream) + Send + 'static) {
        let before = self.waiting.lock().insert(source, Waiter::Begins(session, Box::new(begin)));
        drop(before);
    }

    /// The program has closed the socket of this session; what it wrote before may wait here to be accepted.
    pub fn forget(self: &Arc<Gate>, session: SessionId) {
        let Some(source) = self.waiting.lock().coming.get(&session).copied() else { return };
        let gate = self.clone();
        self.runtime.spawn(async move {
            queued().await;
            let mut waiting = gate.waiting.lock();
            let is_its = matches!(waiting.all.get(&source), Some(Waiter::Begins(of, _)) if *of == session);
            let left = if is_its { waiting.remove(&source) } else { None };
            drop(waiting);
            drop(left);
        });
    }
}

/// Ends when what waits has been accepted, or will not be.
async fn queued() {
    for _ in 0..PIECES {
        tokio::time::sleep(QUEUED / PIECES).await;
    }
}

async fn serve(gate: Arc<Gate>, listener: TcpListener) {
    loop {
        let (socket, source) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // No descriptor is free, or the connection is gone already: it stays in the queue, or not.
                tracing::warn!(%error, "a program's socket could not be joined to its stream");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let known = v4(source).ok().and_then(|source| gate.waiting.lock().remove(&source));
        match known {
            // Whoever waited may have gone.
            Some(Waiter::Told(tell)) => drop(tell.send(socket)),
            Some(Waiter::Begins(_, begin)) => begin(socket),
            None => {
                tracing::debug!(%source, "somebody who is not awaited was turned away");
                let _ = sandbox::sock::reset_on_close(socket.as_fd());
            }
        }
    }
}

/// A connection that is awaited.
pub struct Expected {
    gate: Arc<Gate>,
    source: SocketAddrV4,
    told: oneshot::Receiver<TcpStream>,
}

impl Expected {
    /// Waits for it. `None`: another is awaited from there by now.
    pub async fn connected(&mut self) -> Option<TcpStream> {
        (&mut self.told).await.ok()
    }

    /// The same, as long as the program has its socket. `ended`: it has closed it; what it wrote before may wait here to be accepted.
    pub async fn connected_before(&mut self, ended: oneshot::Receiver<()>) -> Option<TcpStream> {
        tokio::select! {
            biased;
            socket = self.connected() => return socket,
            _ = ended => {}
        }
        tokio::select! {
            biased;
            socket = self.connected() => socket,
            () = queued() => None,
        }
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        self.told.close();
        let mut waiting = self.gate.waiting.lock();
        if matches!(waiting.all.get(&self.source), Some(Waiter::Told(tell)) if tell.is_closed()) {
            waiting.remove(&self.source);
        }
    }
}
