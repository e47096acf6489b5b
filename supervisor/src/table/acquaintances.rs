//! How much is remembered of the datagram sockets of one run that send to each other: as much as is needed, and no more than the supervisor has
//! memory for, however many sockets and names a program invents.

use std::net::SocketAddrV4;

use foldhash::{HashSet, HashSetExt};

use super::Table;

/// As many destinations of the run's own are noted until those that are found again when they are needed are forgotten.
const NOTED: usize = 1 << 16;

impl Table {
    /// A datagram socket gets to know one of the run's own.
    pub(super) fn note_acquaintance(&mut self) {
        self.noted += 1;
        if self.noted > NOTED {
            self.noted = 0;
            self.forget_acquaintances();
        }
    }

    /// Forgets whom sockets of the run sent to in it, but where they are connected to, and what has a session. The next datagram asks for the
    /// destination again; one that waits in a queue by then may be lost.
    pub(super) fn forget_acquaintances(&mut self) {
        let Table { sockets, sources, acquainted, .. } = self;
        let mut pointing: HashSet<(SocketAddrV4, SocketAddrV4)> = HashSet::new();
        for socket in sockets.values() {
            if let (Some(bound), Some(datagram)) = (socket.bound, &socket.datagram)
                && let Some(anchor) = &datagram.anchor
            {
                pointing.insert((bound.physical, anchor.physical));
            }
        }
        for socket in sockets.values_mut() {
            let own = socket.bound.map(|b| b.physical);
            let Some(datagram) = &mut socket.datagram else { continue };
            datagram.forget_own(sources, |source| own.is_some_and(|own| pointing.contains(&(*source, own))));
        }
        acquainted.retain(|at, friends| {
            friends.cookies.retain(|cookie| {
                let datagram = sockets.get(cookie).and_then(|s| s.datagram.as_ref());
                let anchor = datagram.and_then(|d| d.anchor.as_ref());
                anchor.is_some_and(|anchor| anchor.physical == *at)
            });
            friends.cookies.shrink_to_fit();
            !friends.cookies.is_empty() || friends.left.is_some()
        });
        acquainted.shrink_to_fit();
    }
}
