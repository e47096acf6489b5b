//! The table, for who wants to see it (`sipbox status`).

use sipcore::agent::Proto;

use super::{Peer, State, Table};
use crate::status::Socket;

impl Table {
    /// What there is to be seen of each socket that has a name or a peer; a datagram socket, and each of its peers.
    pub fn shown(&self) -> Vec<Socket> {
        let mut shown = Vec::new();
        for (cookie, socket) in &self.sockets {
            // One that was accepted has no name of its own making.
            let local = socket.bound.map(|bound| bound.virtual_);
            if local.is_none() && !matches!(socket.state, State::Connected { .. }) {
                continue;
            }
            // The kernel counts streams.
            let stream = (socket.proto == Proto::Tcp).then_some(*cookie);
            let one =
                |state, peer, session| Socket { proto: socket.proto, state, local, peer, session, stream, moved: None };
            match &socket.state {
                State::Listening => shown.push(one("listening", None, None)),
                State::Connecting(_) => shown.push(one("connecting", None, None)),
                State::Connected { local, peer, session, .. } => {
                    shown.push(Socket { local: Some(*local), ..one("connected", Some(*peer), *session) });
                }
                State::Idle => shown.push(one("bound", None, None)),
            }
            let Some(datagram) = socket.datagram.as_ref().filter(|_| socket.proto == Proto::Udp) else { continue };
            for (peer, known) in &datagram.by_virtual {
                match known {
                    Peer::Ready { session, .. } => shown.push(one("connected", Some(*peer), *session)),
                    Peer::Pending(_) => shown.push(one("connecting", Some(*peer), None)),
                    Peer::Failed(_) => {}
                }
            }
        }
        shown
    }
}
