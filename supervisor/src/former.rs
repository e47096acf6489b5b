//! Peers that have sent datagrams to the program, by the address that it knows them by: what it sends to one whose session has ended is an
//! answer that comes too late, and lost, as it is natively. It is not an attempt of the program's to reach somebody.

use std::collections::{HashSet, VecDeque};
use std::net::SocketAddr;

/// As many as are remembered.
const REMEMBERED: usize = 4096;

#[derive(Default)]
pub struct Former {
    known: HashSet<SocketAddr>,
    order: VecDeque<SocketAddr>,
}

impl Former {
    /// A peer at this address begins to send. The one that was noted longest ago may be forgotten for it.
    pub fn note(&mut self, peer: SocketAddr) {
        if self.known.insert(peer) {
            self.order.push_back(peer);
        }
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }

    pub fn knows(&self, peer: &SocketAddr) -> bool {
        self.known.contains(peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_are_forgotten() {
        let mut former = Former::default();
        let peer = |n: usize| SocketAddr::from(([198, 18, (n / 256) as u8, (n % 256) as u8], 7));
        (0..=REMEMBERED).for_each(|n| former.note(peer(n)));
        former.note(peer(1));
        assert!(!former.knows(&peer(0)) && former.knows(&peer(1)) && former.knows(&peer(REMEMBERED)));
        assert_eq!((former.known.len(), former.order.len()), (REMEMBERED, REMEMBERED));
    }
}
