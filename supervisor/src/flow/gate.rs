//! Where the program's own TCP sockets are joined to their streams: a listener of the supervisor's. The program's connect() leads
//! here; who comes is known by its address, which nobody else can have.

use std::collections::HashMap;
use std::net::{SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use super::v4;
use crate::supervisor::Supervisor;

/// Connections that wait to be accepted here.
const BACKLOG: i32 = 4096;
/// How long one may wait there that the program has closed meanwhile.
const QUEUED: Duration = Duration::from_secs(1);

/// The listener and those who are awaited.
pub struct Gate {
    pub address: SocketAddrV4,
    waiting: Mutex<HashMap<SocketAddrV4, oneshot::Sender<TcpStream>>>,
}

impl Gate {
    pub fn open(supervisor: &Supervisor) -> std::io::Result<Arc<Gate>> {
        let socket: OwnedFd = sandbox::sock::tcp4()?;
        sandbox::sock::bind(socket.as_fd(), &SocketAddr::from((supervisor.physical, 0)))?;
        nix::sys::socket::listen(&socket, nix::sys::socket::Backlog::new(BACKLOG)?)?;
        let address = v4(sandbox::sock::local_addr(socket.as_fd())?)?;
        sandbox::sock::set_nonblocking(socket.as_fd())?;
        let listener = TcpListener::from_std(socket.into())?;
        let gate = Arc::new(Gate { address, waiting: Mutex::default() });
        tokio::spawn(serve(gate.clone(), listener));
        Ok(gate)
    }

    /// The connection that will come from `source`. Nothing comes, and nothing is kept, once what is returned is dropped.
    pub fn expect(self: &Arc<Gate>, source: SocketAddrV4) -> Expected {
        let (tell, told) = oneshot::channel();
        self.waiting.lock().insert(source, tell);
        Expected { gate: self.clone(), source, told }
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
            Some(tell) => drop(tell.send(socket)),
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
        tokio::time::timeout(QUEUED, self.connected()).await.ok().flatten()
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        self.told.close();
        let mut waiting = self.gate.waiting.lock();
        if waiting.get(&self.source).is_some_and(oneshot::Sender::is_closed) {
            waiting.remove(&self.source);
        }
    }
}
