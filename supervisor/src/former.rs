//! Peers that have begun sessions with the program, by the addresses that it knows them by.
//!
//! What it sends to a datagram's sender whose session has ended, from the port that heard him, is an answer that comes too late, and
//! lost, as it is natively: it is not an attempt of the program's to reach somebody. And it may want to reach who called, at
//! another port (FTP's active mode, RFC 959 section 3.2) or from another one (TFTP, RFC 1350 section 4): who that is, his
//! address tells.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};

/// As many as are remembered.
const REMEMBERED: usize = 4096;

/// The senders of datagrams, with the ports of the program's that heard them.
pub type Former = Remembered<(u16, SocketAddr), ()>;

/// Who called, by address. None where two of them have the same one: neither is meant.
pub type Callers = Remembered<IpAddr, Option<String>>;

/// The latest that were noted.
pub struct Remembered<K, V> {
    /// With the number of the last note of each.
    known: HashMap<K, (u64, V)>,
    /// All notes of late, the oldest first; where a key was noted again, the older note counts for nothing.
    order: VecDeque<(u64, K)>,
    notes: u64,
}

impl<K, V> Default for Remembered<K, V> {
    fn default() -> Self {
        Remembered { known: HashMap::new(), order: VecDeque::new(), notes: 0 }
    }
}

impl<K: Copy + Eq + Hash, V> Remembered<K, V> {
    /// What is known of this one, which is `new` when nothing was. The one that was noted longest ago may be forgotten for it.
    pub fn entry(&mut self, key: K, new: impl FnOnce() -> V) -> &mut V {
        if self.order.len() >= 2 * REMEMBERED {
            let known = &self.known;
            self.order.retain(|(note, key)| known.get(key).is_some_and(|(last, _)| last == note));
        }
        self.notes += 1;
        self.order.push_back((self.notes, key));
        while !self.known.contains_key(&key)
            && self.known.len() >= REMEMBERED
            && let Some((note, oldest)) = self.order.pop_front()
        {
            if self.known.get(&oldest).is_some_and(|(last, _)| *last == note) {
                self.known.remove(&oldest);
            }
        }
        let (last, value) = self.known.entry(key).or_insert_with(|| (0, new()));
        *last = self.notes;
        value
    }

    /// What is known of this one.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.known.get_mut(key).map(|(_, value)| value)
    }
}

impl Former {
    /// A peer at this address begins to send to `port`.
    pub fn note(&mut self, port: u16, peer: SocketAddr) {
        self.entry((port, peer), || ());
    }

    pub fn knows(&self, port: u16, peer: SocketAddr) -> bool {
        self.known.contains_key(&(port, peer))
    }
}

impl Callers {
    /// `uri` calls, and is at this address for the program.
    pub fn note(&mut self, ip: IpAddr, uri: &str) {
        let caller = self.entry(ip, || Some(uri.to_owned()));
        if caller.as_deref().is_some_and(|known| policy::owner(known) != policy::owner(uri)) {
            *caller = None;
        }
    }

    /// Who has called from this address.
    pub fn at(&self, ip: IpAddr) -> Option<&str> {
        self.known.get(&ip)?.1.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(n: usize) -> SocketAddr {
        SocketAddr::from(([198, 18, (n / 256) as u8, (n % 256) as u8], 7))
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let mut former = Former::default();
        (0..=REMEMBERED).for_each(|n| former.note(7, peer(n)));
        assert!(!former.knows(7, peer(0)) && former.knows(7, peer(1)) && former.knows(7, peer(REMEMBERED)));
        assert!(!former.knows(8, peer(1)));
        assert_eq!((former.known.len(), former.order.len()), (REMEMBERED, REMEMBERED));
    }

    #[test]
    fn who_is_noted_again_is_remembered_the_longer() {
        let mut former = Former::default();
        (0..REMEMBERED).for_each(|n| former.note(7, peer(n)));
        former.note(7, peer(0));
        former.note(7, peer(REMEMBERED));
        assert!(former.knows(7, peer(0)) && !former.knows(7, peer(1)));
        (0..4 * REMEMBERED).for_each(|_| former.note(7, peer(2)));
        assert_eq!(former.known.len(), REMEMBERED);
        assert!(former.order.len() <= 2 * REMEMBERED && former.knows(7, peer(0)));
    }

    #[test]
    fn an_address_of_two_callers_is_nobodys() {
        let mut callers = Callers::default();
        callers.note(peer(1).ip(), "sip:bob@example.org");
        callers.note(peer(1).ip(), "sips:bob@example.org;transport=tls");
        callers.note(peer(2).ip(), "sip:carol@example.org");
        assert_eq!(callers.at(peer(1).ip()), Some("sip:bob@example.org"));
        callers.note(peer(1).ip(), "sip:mallory@example.net");
        callers.note(peer(1).ip(), "sip:bob@example.org");
        assert_eq!((callers.at(peer(1).ip()), callers.at(peer(2).ip())), (None, Some("sip:carol@example.org")));
    }
}
