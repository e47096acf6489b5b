//! Connections of a program that stand before the peer was asked.

use std::net::SocketAddrV4;
use std::os::fd::AsFd;
use std::str::FromStr;
use std::sync::Arc;

use policy::Encrypted;
use sipcore::agent::{Label, SessionId};
use sipcore::flow::{OpenError, Opening};
use sipcore::message::Uri;
use tokio::net::TcpStream;

use super::Links;
use super::caller::{Heard, Peer, Wanted, key, refusal};
use super::pump::{self, Untaken};
use super::trunk::{Held, Trunk};
use crate::sessions::{Callee, Flow};
use crate::supervisor::Supervisor;

/// What carries the bytes, in words for the trace. Only QUIC promises.
const AT_ONCE: &str = "encrypted flow, at once";

impl Links {
    /// A flow to a socket that the peer is known to listen on, in the connection that stands with him: at once, and without a word of his.
    /// `None`: [`Links::open`] finds out.
    pub fn open_early(
        self: &Arc<Links>,
        supervisor: &Arc<Supervisor>,
        callee: &Arc<Callee>,
        opening: Opening,
        source: SocketAddrV4,
    ) -> Option<Flow> {
        let by_trunk = callee.flows.encrypted.first().is_some_and(|kind| *kind != Encrypted::Tls);
        if !by_trunk || self.is_near(&callee.uri) {
            return None;
        }
        let gate = self.gate.get()?;
        let peer = self.peers.lock().get(&key(callee))?.clone();
        let held = peer.trunk.try_lock().ok()?.as_ref()?.hold();
        if !held.trunk().link.promises(opening.label) {
            return None;
        }
        let session = SessionId::next();
        supervisor.sessions.note(session);
        supervisor.sessions.note_party(session, &callee.uri);
        let (media, busy) = (gate.address, self.busy());
        let promised = Promised { supervisor: supervisor.clone(), peer, callee: callee.clone(), opening, source };
        // The runtime is woken once, by the connection: what the program has written by then goes out with the opening of the stream.
        gate.begin(source, session, move |socket| {
            tokio::spawn(async move {
                if let Err(why) = promised.carry(held, socket).await {
                    say_reset(opening.label, &promised.callee.uri, &why);
                }
                drop(busy);
            });
        });
        Some(Flow { session, media, kind: AT_ONCE, _hears: None })
    }
}

/// A socket of the program that was connected at once.
struct Promised {
    supervisor: Arc<Supervisor>,
    peer: Arc<Peer>,
    callee: Arc<Callee>,
    opening: Opening,
    /// Physical address of the program's socket.
    source: SocketAddrV4,
}

impl Promised {
    /// Its stream, and its bytes.
    ///
    /// # Errors
    /// Why the peer has not taken the stream.
    async fn carry(&self, held: Held, socket: TcpStream) -> Result<(), Untaken> {
        let link = &held.trunk().link;
        let ending = self.supervisor.sessions.links.ending.subscribe();
        let unheard = match link.open_early(self.opening) {
            Some(stream) => match pump::pump_promised(socket, stream, link, ending, self.gone(held.trunk())).await {
                Err(Untaken::Unheard(socket)) => socket,
                ended => return ended,
            },
            None => match link.open(self.opening, false).await {
                Ok(stream) => return pump::pump(socket, stream, link, ending).await,
                Err(OpenError::Silent) => {
                    if let Err(why) = self.gone(held.trunk()).await {
                        let _ = sandbox::sock::reset_on_close(socket.as_fd());
                        return Err(Untaken::Never(why));
                    }
                    socket
                }
                Err(why) => return reset(&socket, why),
            },
        };
        Box::pin(self.again(held, unheard)).await
    }

    /// Ends when the peer says nothing, and is there no more: another run is reached instead, or (an error, for the user) none. As long as he is
    /// there he may take his time: he moves, or is busy.
    async fn gone(&self, trunk: &Arc<Trunk>) -> Result<(), String> {
        loop {
            trunk.link.silent().await;
            match Box::pin(self.ask(trunk)).await {
                Ok(Heard::Again) => {}
                Ok(Heard::Another) => return Ok(()),
                Err(why) => return Err(why),
            }
        }
    }

    async fn ask(&self, trunk: &Arc<Trunk>) -> Result<Heard, String> {
        let silent = || OpenError::Silent.to_string();
        let sessions = &self.supervisor.sessions;
        let target = Uri::from_str(&self.callee.uri).map_err(|_| silent())?;
        let agent = sessions.started_agent().await.ok_or_else(silent)?;
        let words = parking_lot::Mutex::default();
        let wanted = Wanted {
            callee: &self.callee,
            target: &target,
            label: self.opening.label,
            source: self.source,
            seen_as: self.opening.virtual_source,
            aside: Some(&words),
        };
        sessions.links.hear(&self.supervisor, &agent, &self.peer, trunk, wanted).await.map_err(|_| {
            // He refuses, or nobody answers.
            match words.lock().take() {
                Some((_, why)) => format!("nothing came from the peer any more, and he was called again: {why}"),
                None => silent(),
            }
        })
    }

    /// In the session that there is now: the program has written nothing yet.
    async fn again(&self, held: Held, socket: TcpStream) -> Result<(), Untaken> {
        let now = self.peer.trunk.lock().await.as_ref().map(Trunk::hold);
        let Some(now) = now.filter(|now| !Arc::ptr_eq(now.trunk(), held.trunk())) else {
            return reset(&socket, OpenError::Silent);
        };
        drop(held);
        match now.trunk().link.open(self.opening, true).await {
            Ok(stream) => {
                let ending = self.supervisor.sessions.links.ending.subscribe();
                pump::pump(socket, stream, &now.trunk().link, ending).await
            }
            Err(why) => reset(&socket, why),
        }
    }
}

/// The program can be told no other way.
fn reset(socket: &TcpStream, why: OpenError) -> Result<(), Untaken> {
    let _ = sandbox::sock::reset_on_close(socket.as_fd());
    match why {
        // By the peer's program: a reset like any other.
        OpenError::Reset => Ok(()),
        OpenError::Refused(status) => Err(Untaken::Refused(status)),
        why => Err(Untaken::Never(why.to_string())),
    }
}

/// The program was connected before the peer was asked, and can be told no other way.
pub(super) fn say_reset(label: Label, uri: &str, why: &Untaken) {
    let why = match why {
        Untaken::Refused(status) => refusal(*status).1,
        Untaken::Never(why) => why.clone(),
        Untaken::Unheard(_) => OpenError::Silent.to_string(),
    };
    crate::say::say!("{label} of {uri}: {why} (a reset to the program)");
}
