//! One session between two runs, also when both call each other: at once, or one after the other.
//!
//! Who calls shows the fingerprint of its run's certificate in the offer. The called end answers 491 and its own fingerprint if it has a session with
//! that run already, or is setting one up: the caller then uses that one. Two calls that cross are told apart by their fingerprints alone: the
//! call of the greater one is taken, the other is refused, and both ends know which is which. The word of an INVITE about who sent it is never
//! enough: the session that is used is the one whose certificate has been named by the answer, which came by the way that leads to the peer.

use std::sync::Arc;

use parking_lot::Mutex;
use sipcore::flow::Fingerprint;
use sipcore::message::Uri;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::{Instant, timeout_at};

/// Callers that are told of one session under way.
const TOLD: usize = 8;

/// What is under way.
#[derive(Default)]
pub struct Glare {
    now: Mutex<Now>,
    changed: Notify,
}

#[derive(Default)]
struct Now {
    last: u64,
    calls: Vec<Call>,
    coming: Vec<Coming>,
}

/// A call of this end, from before its INVITE until its connection stands.
struct Call {
    number: u64,
    /// Who is called.
    peer: Uri,
    /// Of the certificate that his answer names.
    answered: Option<Fingerprint>,
    /// Who called meanwhile, and was told to use this session.
    told: Vec<(Fingerprint, String)>,
}

/// A session that is being set up from elsewhere.
struct Coming {
    number: u64,
    /// Who calls, as he says.
    from: Uri,
    fingerprint: Fingerprint,
}

impl Glare {
    /// This end is about to call `peer`. Waits while a session of his is being set up, at most until `limit`: then that may be the one.
    pub async fn call(self: &Arc<Glare>, peer: &Uri, limit: Instant) -> Calling {
        let peer = peer.aor();
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            {
                let mut now = self.now.lock();
                let comes = now.coming.iter().any(|coming| coming.from == peer);
                if !comes || Instant::now() >= limit {
                    let number = now.next();
                    now.calls.push(Call { number, peer, answered: None, told: Vec::new() });
                    return Calling { glare: self.clone(), number };
                }
            }
            // What is late is seen above.
            let _ = timeout_at(limit, changed).await;
        }
    }

    /// Somebody calls, and shows `theirs`; this end would show `own`. `None`: he is to use the session that this end is setting up, or one that it
    /// has set up (`stands` says so, for his address of record); else what is to be kept while his is being set up.
    pub fn incoming(
        self: &Arc<Glare>,
        from: &Uri,
        [theirs, own]: [Fingerprint; 2],
        stands: impl FnOnce(&Uri) -> bool,
    ) -> Option<Incoming> {
        let from_aor = from.aor();
        let mut now = self.now.lock();
        if own != theirs && stands(&from_aor) {
            return None;
        }
        let crosses = |call: &&mut Call| {
            let first = call.answered.map_or(own.0 > theirs.0, |answered| answered == theirs);
            call.peer == from_aor && own != theirs && first && call.told.len() < TOLD
        };
        if let Some(call) = now.calls.iter_mut().find(crosses) {
            call.told.push((theirs, from.to_string()));
            return None;
        }
        let number = now.next();
        now.coming.push(Coming { number, from: from_aor, fingerprint: theirs });
        drop(now);
        self.changed.notify_waiters();
        Some(Incoming { glare: self.clone(), number })
    }

    /// Whether a session with whoever shows this is being set up from there.
    pub fn comes(&self, fingerprint: Fingerprint) -> bool {
        self.now.lock().coming.iter().any(|coming| coming.fingerprint == fingerprint)
    }

    /// Something comes; or what came stands, or came to nothing.
    pub fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }
}

impl Now {
    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }
}

/// A call of this end.
pub struct Calling {
    glare: Arc<Glare>,
    number: u64,
}

impl Calling {
    /// The peer has taken it, and shows this.
    pub fn answered(&self, fingerprint: Fingerprint) {
        let mut now = self.glare.now.lock();
        if let Some(call) = now.calls.iter_mut().find(|call| call.number == self.number) {
            call.answered = Some(fingerprint);
        }
    }

    /// Ends with a connection in it: how its other end has called this one meanwhile, if it has. `stands` makes the connection known before
    /// anybody can call once more.
    pub fn stands<T>(self, fingerprint: Fingerprint, stands: impl FnOnce(Option<String>) -> T) -> T {
        let mut now = self.glare.now.lock();
        let call = now.calls.iter().find(|call| call.number == self.number);
        let told = call.and_then(|call| call.told.iter().find(|(told, _)| *told == fingerprint));
        let told = told.map(|(_, from)| from.clone());
        let made = stands(told);
        now.calls.retain(|call| call.number != self.number);
        // Dropping a call takes the lock.
        drop(now);
        made
    }
}

impl Drop for Calling {
    fn drop(&mut self) {
        self.glare.now.lock().calls.retain(|call| call.number != self.number);
    }
}

/// A session that is being set up from elsewhere. To be dropped when it stands, or came to nothing.
pub struct Incoming {
    glare: Arc<Glare>,
    number: u64,
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.glare.now.lock().coming.retain(|coming| coming.number != self.number);
        self.glare.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> Uri {
        text.parse().unwrap()
    }

    const LIMIT: std::time::Duration = std::time::Duration::from_millis(300);

    fn limit() -> Instant {
        Instant::now() + LIMIT
    }

    const LESS: Fingerprint = Fingerprint([1; 32]);
    const GREATER: Fingerprint = Fingerprint([2; 32]);

    /// Both call, and each INVITE arrives while the other is under way: one is taken, whichever comes first.
    #[tokio::test]
    async fn of_two_that_cross_one_is_taken() {
        let (a, b) = (Arc::new(Glare::default()), Arc::new(Glare::default()));
        let (alice, bob) = (uri("sip:alice@h"), uri("sip:bob@h;gr=urn:uuid:7"));
        let at_a = a.call(&bob, limit()).await;
        let _at_b = b.call(&alice, limit()).await;
        assert!(a.incoming(&uri("sip:bob@h"), [LESS, GREATER], |_| false).is_none());
        let taken = b.incoming(&alice, [GREATER, LESS], |_| false);
        assert!(taken.is_some() && b.comes(GREATER) && !a.comes(LESS));
        // Whoever was refused may use the connection of the other: its end knows him.
        at_a.answered(LESS);
        assert_eq!(at_a.stands(LESS, |caller| caller), Some("sip:bob@h".to_owned()));
        drop(taken);
        assert!(!b.comes(GREATER));
    }

    /// While a session of somebody's is being set up, nobody calls him; a third one does not count.
    #[tokio::test]
    async fn what_comes_is_waited_for() {
        let glare = Arc::new(Glare::default());
        let (alice, bob) = (uri("sip:alice@h"), uri("sip:bob@h"));
        let coming = glare.incoming(&alice, [LESS, GREATER], |_| false).unwrap();
        let _at_once = glare.call(&bob, Instant::now()).await;
        let late = Instant::now() + std::time::Duration::from_secs(100);
        let mut calling = std::pin::pin!(glare.call(&alice, late));
        assert!(tokio::time::timeout(LIMIT, &mut calling).await.is_err());
        drop(coming);
        drop(calling.await);
        assert!(Instant::now() < late);
        // Who only says that he comes holds nobody up for longer than that.
        let _never = glare.incoming(&alice, [LESS, GREATER], |_| false);
        let before = Instant::now();
        let _call = glare.call(&alice, limit()).await;
        assert!(before.elapsed() >= LIMIT);
    }

    /// Only the session with the very one who calls stands in his way.
    #[tokio::test]
    async fn others_are_taken() {
        let glare = Arc::new(Glare::default());
        let bob = uri("sip:bob@h");
        let call = glare.call(&bob, limit()).await;
        assert!(glare.incoming(&uri("sip:carol@h"), [LESS, GREATER], |_| false).is_some());
        // This end calls another run of itself.
        assert!(glare.incoming(&bob, [GREATER, GREATER], |_| true).is_some());
        // Another run of bob's has answered.
        call.answered(Fingerprint([9; 32]));
        assert!(glare.incoming(&bob, [LESS, GREATER], |_| false).is_some());
        assert!(glare.incoming(&bob, [Fingerprint([9; 32]), GREATER], |_| false).is_none());
        // A session that stands is used whoever has the greater fingerprint.
        assert!(glare.incoming(&uri("sip:dave@h"), [GREATER, LESS], |_| true).is_none());
        // So many are told of it, and no more.
        let other = Arc::new(Glare::default());
        let _call = other.call(&bob, limit()).await;
        let told = (0..2 * TOLD as u8)
            .map(|n| other.incoming(&bob, [Fingerprint([n; 32]), Fingerprint([200; 32])], |_| false));
        assert_eq!(told.filter(Option::is_none).count(), TOLD);
    }
}
