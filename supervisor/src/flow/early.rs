//! Connections of a program that stand before the peer was asked.

use std::net::SocketAddrV4;
use std::os::fd::AsFd;
use std::sync::Arc;

use policy::Encrypted;
use sipcore::agent::{Label, SessionId};
use sipcore::flow::{OpenError, Opening};
use tokio::net::TcpStream;

use super::Links;
use super::caller::{key, refusal};
use super::pump::{self, Untaken};
use super::trunk::Trunk;
use crate::sessions::{Callee, Flow};
use crate::supervisor::Supervisor;

impl Links {
    /// A flow to a socket that the peer is known to listen on, in the connection that stands with him: at once, and without a word of his.
    /// `None`: [`Links::open`] finds out.
    pub fn open_early(
        self: &Arc<Links>,
        supervisor: &Supervisor,
        callee: &Callee,
        opening: Opening,
        source: SocketAddrV4,
    ) -> Option<Flow> {
        let by_trunk = callee.flows.encrypted.first().is_some_and(|kind| *kind != Encrypted::Tls);
        if !by_trunk || self.is_near(&callee.uri) {
            return None;
        }
        let gate = self.gate.get()?;
        let peer = self.peers.lock().get(&key(callee))?.clone();
        let held = peer.trunk.try_lock().ok()?.as_ref().filter(|trunk| !trunk.link.is_closed())?.hold();
        if !held.trunk().link.promises(opening.label) {
            return None;
        }
        let session = SessionId::next();
        supervisor.sessions.note(session);
        supervisor.sessions.note_party(session, &callee.uri);
        let kind = held.trunk().link.kind();
        let (links, busy, media, uri) = (self.clone(), self.busy(), gate.address, callee.uri.clone());
        // The runtime is woken once, by the connection: what the program has written by then goes out with the opening of the stream.
        gate.begin(source, session, move |socket| {
            tokio::spawn(async move {
                if let Err(why) = carry(&links, held.trunk(), socket, opening).await {
                    say_reset(opening.label, &uri, &why);
                }
                drop((held, busy));
            });
        });
        Some(Flow { session, media, kind })
    }
}

/// A socket of the program that was connected at once: its stream, and its bytes.
///
/// # Errors
/// Why the peer has not taken the stream.
async fn carry(links: &Links, trunk: &Trunk, socket: TcpStream, opening: Opening) -> Result<(), Untaken> {
    let stream = match trunk.link.open_early(opening) {
        Some(stream) => Ok(stream),
        None => trunk.link.open(opening, false).await,
    };
    match stream {
        Ok(stream) => pump::pump(socket, stream, &trunk.link, links.ending.subscribe()).await,
        Err(why) => {
            let _ = sandbox::sock::reset_on_close(socket.as_fd());
            Err(match why {
                // By his program: a reset like any other.
                OpenError::Reset => return Ok(()),
                OpenError::Refused(status) => Untaken::Refused(status),
                why => Untaken::Never(why.to_string()),
            })
        }
    }
}

/// The program was connected before the peer was asked, and can be told no other way.
pub(super) fn say_reset(label: Label, uri: &str, why: &Untaken) {
    let why = match why {
        Untaken::Refused(status) => refusal(*status).1,
        Untaken::Never(why) => why.clone(),
    };
    crate::say::say!("{label} of {uri}: {why} (a reset to the program)");
}
