//! What an operator can see of a hub: the sessions that stand, the last messages, and numbers.

use crate::message::{Message, Method, name};
use crate::transport::{Direction, Tap, TapEvent};
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Sessions that are remembered; beyond it new ones are not shown.
const MAX_SESSIONS: usize = 100_000;
/// A session whose ends refresh nothing is forgotten after this long.
const UNREFRESHED: Duration = Duration::from_secs(12 * 3600);
/// Calls whose messages are kept, and messages of each.
const LADDERS: usize = 20;
const RUNGS: usize = 40;
/// The longest piece of a message that is kept.
const MAX_TEXT: usize = 200;

/// One session that was set up through the hub.
#[derive(Debug, Clone)]
pub(super) struct Session {
    pub from: Box<str>,
    pub to: Box<str>,
    pub since: Instant,
    until: Instant,
}

/// The sessions that stand, by Call-ID.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    by_call: HashMap<Box<str>, Session>,
}

impl Sessions {
    /// A request that was accepted: it may begin a session or refresh it (RFC 4028).
    pub fn on_accepted(&mut self, now: Instant, request: &Message, response: &Message) {
        if !matches!(request.method(), Some(Method::Invite | Method::Update)) {
            return;
        }
        let Ok(call_id) = request.call_id() else { return };
        let interval = response.seconds(name::SESSION_EXPIRES).map(|seconds| Duration::from_secs(seconds.into()));
        let until = now + interval.map_or(UNREFRESHED, |interval| interval * 2);
        if let Some(session) = self.by_call.get_mut(call_id) {
            session.until = until;
            return;
        }
        let begins = request.to_tag().is_none() && request.method() == Some(&Method::Invite);
        if !begins || (self.by_call.len() >= MAX_SESSIONS && !self.make_room(now)) {
            return;
        }
        let aor = |address: Option<crate::message::Uri>| {
            cut(address.map(|uri| uri.aor()).as_ref().map_or("", |uri| uri.as_str())).into()
        };
        let from = aor(request.from().ok().and_then(|from| from.uri().ok()));
        let to = aor(request.to().ok().and_then(|to| to.uri().ok()));
        self.by_call.insert(call_id.into(), Session { from, to, since: now, until });
    }

    /// A request that is passed on: BYE ends a session, whatever is answered.
    pub fn on_passed(&mut self, request: &Message) {
        if request.method() == Some(&Method::Bye)
            && let Ok(call_id) = request.call_id()
        {
            self.by_call.remove(call_id);
        }
    }

    fn make_room(&mut self, now: Instant) -> bool {
        self.by_call.retain(|_, session| session.until > now);
        self.by_call.len() < MAX_SESSIONS
    }

    /// How many stand.
    pub fn len(&mut self, now: Instant) -> usize {
        self.make_room(now);
        self.by_call.len()
    }

    /// The latest, newest first.
    pub fn latest(&self, count: usize) -> Vec<Session> {
        let mut all: Vec<&Session> = self.by_call.values().collect();
        all.sort_by_key(|session| std::cmp::Reverse(session.since));
        all.into_iter().take(count).cloned().collect()
    }
}

/// The methods that are counted by name.
pub(super) const METHODS: [&str; 12] = [
    "INVITE",
    "ACK",
    "BYE",
    "CANCEL",
    "REGISTER",
    "OPTIONS",
    "UPDATE",
    "PRACK",
    "SUBSCRIBE",
    "NOTIFY",
    "PUBLISH",
    "MESSAGE",
];

/// What has been counted since the start.
#[derive(Debug, Default, Clone)]
pub(super) struct Tally {
    /// By method; the last are all others.
    pub requests: [u64; METHODS.len() + 1],
    /// Requests answered 503 because their source sent too many.
    pub too_many: u64,
    /// Requests answered 503 because the hub is ending.
    pub ending: u64,
}

impl Tally {
    pub fn count(&mut self, method: &Method) {
        let at = METHODS.iter().position(|name| *name == method.as_str()).unwrap_or(METHODS.len());
        if let Some(count) = self.requests.get_mut(at) {
            *count += 1;
        }
    }
}

/// One message of a call.
#[derive(Debug, Clone)]
pub(super) struct Rung {
    pub at: Instant,
    pub direction: Direction,
    pub remote: SocketAddr,
    pub transport: crate::transport::Transport,
    pub line: String,
}

/// A Call-ID and its messages.
type Ladder = (String, Vec<Rung>);

/// The messages of the last calls.
#[derive(Debug, Clone, Default)]
pub(super) struct Ladders {
    calls: Arc<Mutex<VecDeque<Ladder>>>,
}

impl Ladders {
    /// An observer that keeps them, and tells another.
    pub fn tap(&self, other: Option<Tap>) -> Tap {
        let calls = self.calls.clone();
        Arc::new(move |event| {
            keep(&mut calls.lock(), event);
            if let Some(other) = &other {
                other(event);
            }
        })
    }

    /// All, newest first.
    pub fn all(&self) -> Vec<Ladder> {
        self.calls.lock().iter().rev().cloned().collect()
    }
}

fn keep(calls: &mut VecDeque<Ladder>, event: &TapEvent) {
    let call_id = cut(&event.call_id);
    let known = calls.iter().rposition(|(known, _)| *known == call_id);
    let at = match known {
        Some(at) => at,
        None if event.start_line.starts_with("INVITE ") => {
            if calls.len() >= LADDERS {
                calls.pop_front();
            }
            calls.push_back((call_id.to_owned(), Vec::new()));
            calls.len() - 1
        }
        None => return,
    };
    let Some((_, rungs)) = calls.get_mut(at).filter(|(_, rungs)| rungs.len() < RUNGS) else { return };
    let line = match event.start_line.starts_with("SIP/2.0 ") {
        true => format!("{} ({})", cut(&event.start_line), cut(&event.cseq)),
        false => cut(&event.start_line).to_owned(),
    };
    let TapEvent { direction, remote, transport, .. } = *event;
    rungs.push(Rung { at: Instant::now(), direction, remote, transport, line });
}

fn cut(text: &str) -> &str {
    let end = text.char_indices().nth(MAX_TEXT).map_or(text.len(), |(at, _)| at);
    text.get(..end).unwrap_or_default()
}
