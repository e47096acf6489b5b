//! The way that a link takes: the path in use, and the search for another one while the connection goes on (RFC 8445 section 2.4).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use is::CandidateKind;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::gather::{LinkConfig, Search};
use super::link::{LinkError, Role};
use super::paths::{Chosen, Route};
use super::switch::Switch;
use super::wire::State;
use crate::sdp::Quic;

/// How long the two ends look for another path. The connection in it lives half a minute without one.
const PATH_WITHIN: Duration = Duration::from_secs(8);
/// What was sent by the path before is awaited for this long.
const LINGER: Duration = Duration::from_secs(3);

/// The path in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// Kind of this end's address: host, reflexive or relayed.
    pub local_kind: &'static str,
    /// This end's address.
    pub local: SocketAddr,
    /// Kind of the other end's address.
    pub remote_kind: &'static str,
    /// The other end's address.
    pub remote: SocketAddr,
}

impl Path {
    fn of(chosen: &Chosen) -> Path {
        Path {
            local_kind: word_of(chosen.local_kind),
            local: chosen.local,
            remote_kind: word_of(chosen.remote_kind),
            remote: chosen.remote,
        }
    }

    /// In one word: `direct`, `reflexive` or `relayed`.
    pub fn word(&self) -> &'static str {
        match (self.local_kind, self.remote_kind) {
            ("relayed", _) | (_, "relayed") => "relayed",
            ("host", "host") => "direct",
            _ => "reflexive",
        }
    }
}

fn word_of(kind: CandidateKind) -> &'static str {
    match kind {
        CandidateKind::Host => "host",
        CandidateKind::Relayed => "relayed",
        CandidateKind::PeerReflexive | CandidateKind::ServerReflexive => "reflexive",
    }
}

/// A candidate, for who wants to see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// host, reflexive or relayed.
    pub kind: &'static str,
    /// Its address.
    pub address: SocketAddr,
}

/// What was tried to find the path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tried {
    /// Of this end.
    pub local: Vec<Candidate>,
    /// Of the other end, and what was seen of it besides.
    pub remote: Vec<Candidate>,
    /// Pairs of them that were checked.
    pub checked: usize,
    /// Pairs that there are.
    pub pairs: usize,
}

/// The way of one link.
pub struct Road {
    switch: Arc<Switch>,
    role: Role,
    search: Mutex<Search>,
    state: watch::Sender<State>,
    follower: Mutex<JoinHandle<()>>,
}

impl Road {
    pub(super) fn new(search: Search, switch: Arc<Switch>, role: Role) -> Road {
        let state = watch::Sender::new(*search.state().borrow());
        let follower = Mutex::new(follow(&search, &state));
        Road { switch, role, search: Mutex::new(search), state, follower }
    }

    /// How the search goes on, for who keeps time by the path.
    pub(super) fn state(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// The path in use.
    pub fn path(&self) -> Option<Path> {
        self.state.borrow().chosen.as_ref().map(Path::of)
    }

    /// Round trip of the path, by its last check (RFC 7675: one in some seconds).
    pub fn round_trip(&self) -> Option<Duration> {
        self.search.lock().wire.round_trip()
    }

    /// The address of this host that the path in use leads through.
    pub fn base(&self) -> Option<SocketAddr> {
        self.state.borrow().chosen.as_ref().map(|chosen| match chosen.route {
            Route::Direct { base, .. } | Route::Relayed { base, .. } => base,
        })
    }

    /// The path in use, and then each other one that takes its place.
    pub fn paths(&self) -> Paths {
        let mut state = self.state.subscribe();
        state.mark_changed();
        Paths { state, last: None }
    }

    /// What was tried to find the path in use.
    pub fn tried(&self) -> Tried {
        let shown = |c: &is::Candidate| Candidate { kind: word_of(c.kind()), address: c.addr() };
        let search = self.search.lock();
        let [local, remote] = search.wire.with(|paths, _| paths.candidates());
        let state = *search.state().borrow();
        Tried {
            local: local.iter().map(shown).collect(),
            remote: remote.iter().map(shown).collect(),
            checked: state.checked,
            pairs: state.pairs,
        }
    }

    /// Waits until the path does not work any more: the other end does not answer checks (RFC 7675).
    pub async fn lost(&self) {
        let mut state = self.state.subscribe();
        if state.wait_for(|state| state.doubtful || state.lost).await.is_err() {
            std::future::pending().await
        }
    }

    /// Whether the path works, as far as is known.
    pub fn works(&self) -> bool {
        let state = self.state.borrow();
        !state.doubtful && !state.lost
    }

    /// Waits until the path works: it is answered, or another one has taken its place.
    pub async fn restored(&self) {
        let mut state = self.state.subscribe();
        if state.wait_for(|state| !state.doubtful && !state.lost).await.is_err() {
            std::future::pending().await
        }
    }

    /// Binds sockets anew, for the offer or answer of a restart: see [`super::Gathered::start`].
    pub async fn prepare(&self, config: &LinkConfig) -> Result<Prepared, LinkError> {
        let mut search = Search::begin(config).await?;
        search.read_by(self.switch.clone());
        self.switch.add(search.wire.clone());
        let description = search.gathered().await;
        Ok(Prepared { search, description })
    }

    /// Looks for a path with what was prepared, and takes it. If there is none, all stays as it was.
    pub async fn turn(&self, prepared: Prepared, remote: &Quic) -> Result<(), LinkError> {
        let search = prepared.search;
        search.find(remote, self.role == Role::Offerer, PATH_WITHIN).await?;
        self.switch.turn_to(&search.wire);
        let before = {
            let mut current = self.search.lock();
            self.state.send_replace(*search.state().borrow());
            let next = follow(&search, &self.state);
            std::mem::replace(&mut *self.follower.lock(), next).abort();
            std::mem::replace(&mut *current, search)
        };
        tokio::spawn(async move {
            tokio::time::sleep(LINGER).await;
            drop(before);
        });
        Ok(())
    }
}

impl Drop for Road {
    fn drop(&mut self) {
        self.follower.lock().abort();
    }
}

/// Keeps the state of the link that of its search.
fn follow(search: &Search, state: &watch::Sender<State>) -> JoinHandle<()> {
    let (mut from, to) = (search.state(), state.clone());
    tokio::spawn(async move {
        loop {
            let now = *from.borrow_and_update();
            to.send_if_modified(|old| std::mem::replace(old, now) != now);
            if from.changed().await.is_err() {
                return;
            }
        }
    })
}

/// Sockets that wait for the other end's description.
pub struct Prepared {
    search: Search,
    description: Quic,
}

impl Prepared {
    /// For the offer or the answer.
    pub fn description(&self) -> &Quic {
        &self.description
    }

    /// The TURN servers that have not answered.
    pub fn silent_relays(&self) -> Vec<SocketAddr> {
        self.search.silent_relays()
    }

    /// The TURN servers to which there is no connection, and why.
    pub fn unreached_relays(&self) -> &[(SocketAddr, String)] {
        self.search.unreached_relays()
    }
}

/// How far a search for a path is.
pub struct Checks {
    pub(super) state: watch::Receiver<State>,
}

impl Checks {
    /// Pairs that have been checked, and how many there are, whenever that has changed; nothing when a path is found. `None`: the search has ended.
    pub async fn next(&mut self) -> Option<Option<(usize, usize)>> {
        self.state.changed().await.ok()?;
        let state = *self.state.borrow_and_update();
        Some(state.chosen.is_none().then_some((state.checked, state.pairs)))
    }
}

/// The paths of a link, one after the other.
pub struct Paths {
    state: watch::Receiver<State>,
    last: Option<Path>,
}

impl Paths {
    /// The next one; `None` at the end of the link.
    pub async fn next(&mut self) -> Option<Path> {
        loop {
            self.state.changed().await.ok()?;
            let path = self.state.borrow_and_update().chosen.as_ref().map(Path::of);
            if path.is_some() && path != self.last {
                self.last = path;
                return path;
            }
        }
    }
}
