//! What the sources of datagrams are called, all sockets of a run together.

use std::net::{SocketAddr, SocketAddrV4};

use foldhash::HashMap as KeyedMap;

use super::Era;

/// The sources that the sockets of a run hear. Most have one name for all who hear them: a peer of another host has an address of its own
/// here. A socket of the run's own has as many as it has addresses, and so have the resolver and an address that is another peer's by now.
#[derive(Default)]
pub struct Sources {
    known: KeyedMap<SocketAddrV4, Source>,
    /// How many of them have several names.
    ambiguous: usize,
    era: Era,
}

struct Source {
    name: SocketAddr,
    several: bool,
    /// Sockets that hear it.
    hearers: usize,
}

impl Sources {
    /// A socket calls `source` by this name; `is_new` says whether it did not hear it before.
    pub fn note(&mut self, source: SocketAddrV4, name: SocketAddr, is_new: bool) {
        let known = self.known.entry(source).or_insert(Source { name, several: false, hearers: 0 });
        if is_new || known.name != name {
            self.era.pass();
        }
        known.hearers += usize::from(is_new);
        if known.hearers <= 1 {
            known.name = name;
        }
        if known.name != name && !known.several {
            known.several = true;
            self.ambiguous += 1;
        }
    }

    /// A socket does not hear it any more.
    pub fn forget(&mut self, source: &SocketAddrV4) {
        let Some(known) = self.known.get_mut(source) else { return };
        self.era.pass();
        known.hearers = known.hearers.saturating_sub(1);
        if known.hearers == 0 {
            self.ambiguous -= usize::from(known.several);
            self.known.remove(source);
        }
    }

    /// Passes with each change.
    pub fn era(&self) -> &Era {
        &self.era
    }

    /// Whether all who hear it call it the same.
    #[inline]
    pub fn is_unambiguous(&self, source: &SocketAddrV4) -> bool {
        self.ambiguous == 0 || self.known.get(source).is_some_and(|known| !known.several)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_with_several_names_is_noticed() {
        let mut sources = Sources::default();
        let at = |port| SocketAddrV4::new([127, 64, 0, 1].into(), port);
        let name = |port| SocketAddr::from(([198, 18, 0, 9], port));
        sources.note(at(1), name(1), true);
        sources.note(at(1), name(1), true);
        sources.note(at(2), name(2), true);
        let era = sources.era.now();
        sources.note(at(2), name(2), false);
        assert!(sources.era.goes_on(era));
        assert!(sources.is_unambiguous(&at(1)) && sources.is_unambiguous(&at(2)));
        // The only one who hears it calls it otherwise from now on.
        sources.note(at(2), name(3), false);
        assert!(!sources.era.goes_on(era));
        assert!(sources.is_unambiguous(&at(2)));
        sources.note(at(1), name(4), true);
        assert!(!sources.is_unambiguous(&at(1)) && sources.is_unambiguous(&at(2)));
        // Not for whoever hears nothing of it.
        assert!(!sources.is_unambiguous(&at(9)));
        let era = sources.era.now();
        sources.forget(&at(1));
        assert!(!sources.era.goes_on(era));
        sources.forget(&at(1));
        assert!(!sources.is_unambiguous(&at(1)));
        sources.forget(&at(1));
        sources.note(at(1), name(4), true);
        assert!(sources.is_unambiguous(&at(1)));
        for _ in 0..2 {
            sources.forget(&at(1));
            sources.forget(&at(2));
        }
        assert!(sources.known.is_empty() && sources.ambiguous == 0);
    }
}
