//! Who has a port: most often it is one socket, for which no memory is asked.

use std::net::{IpAddr, SocketAddr};

use super::Cookie;

/// The sockets that have one virtual port, in the order in which they came.
pub enum Holders {
    One(Cookie),
    Many {
        /// Never empty.
        cookies: Vec<Cookie>,
        /// They were not all at one physical address.
        apart: bool,
        /// Names of them overlapped.
        overlap: bool,
    },
}

impl Holders {
    pub fn all(&self) -> &[Cookie] {
        match self {
            Holders::One(cookie) => std::slice::from_ref(cookie),
            Holders::Many { cookies, .. } => cookies,
        }
    }

    /// Whether they may be at several physical addresses.
    pub fn are_apart(&self) -> bool {
        matches!(self, Holders::Many { apart: true, .. })
    }

    /// Whether names of them may overlap.
    pub fn overlap(&self) -> bool {
        matches!(self, Holders::Many { overlap: true, .. })
    }

    /// Names of them overlap.
    pub fn note_overlap(&mut self) {
        if let Holders::Many { overlap, .. } = self {
            *overlap = true;
        }
    }

    /// One more, `elsewhere` than the first one.
    pub fn add(&mut self, cookie: Cookie, elsewhere: bool) {
        match self {
            Holders::One(first) => {
                *self = Holders::Many { cookies: vec![*first, cookie], apart: elsewhere, overlap: false }
            }
            Holders::Many { cookies, apart, .. } => {
                cookies.push(cookie);
                *apart |= elsewhere;
            }
        }
    }

    /// Takes one out. True when nobody is left.
    pub fn leave(&mut self, cookie: Cookie) -> bool {
        match self {
            Holders::One(only) => *only == cookie,
            Holders::Many { cookies, .. } => {
                cookies.retain(|c| *c != cookie);
                cookies.is_empty()
            }
        }
    }
}

/// Are two local addresses of one port the same? Whether only IPv6 is meant matters where both families could be.
pub fn same(a: &SocketAddr, a_only: bool, b: &SocketAddr, b_only: bool) -> bool {
    a.ip() == b.ip() && (a_only == b_only || !a.ip().is_unspecified())
}

/// Do two local addresses of one port get into each other's way (bind(2))?
pub fn overlap(a: &SocketAddr, a_only: bool, b: &SocketAddr, b_only: bool) -> bool {
    let covers =
        |wild: &SocketAddr, only: bool, other: &SocketAddr| match (wild.ip().to_canonical(), other.ip().to_canonical())
        {
            (IpAddr::V4(w), IpAddr::V4(_)) => w.is_unspecified(),
            (IpAddr::V6(w), IpAddr::V6(_)) => w.is_unspecified(),
            (IpAddr::V6(w), IpAddr::V4(_)) => w.is_unspecified() && !only,
            (IpAddr::V4(_), IpAddr::V6(_)) => false,
        };
    a.ip().to_canonical() == b.ip().to_canonical() || covers(a, a_only, b) || covers(b, b_only, a)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_comes_stays_until_it_leaves() {
        let mut holders = Holders::One(3);
        assert!(!holders.leave(4));
        assert_eq!(holders.all(), [3]);
        holders.add(5, false);
        assert!(!holders.are_apart());
        holders.add(7, true);
        assert_eq!(holders.all(), [3, 5, 7]);
        assert!(holders.are_apart());
        assert!(!holders.leave(3) && !holders.leave(7) && !holders.leave(3));
        assert_eq!(holders.all(), [5]);
        assert!(holders.leave(5));
        assert!(Holders::One(9).leave(9));
    }
}
