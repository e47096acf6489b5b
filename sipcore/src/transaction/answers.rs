//! Final answers to requests other than INVITE that came as datagrams, kept for repetitions of the request (RFC 3261 17.2.2, timer J). A busy registrar has
//! many of them, half a minute of everything: each is kept without what the request says itself, and put together again when that is repeated.

use super::key::{KeyHasher, ServerKey};
use crate::message::{Header, Message, name};
use bytes::{BufMut, Bytes, BytesMut};
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, Instant};

/// Old ones go when new ones come; where none come, they may stay for so much longer, and not each one wakes the driver.
const SLACK: Duration = Duration::from_millis(500);
/// How many old ones go for each new one.
const STEP: usize = 2;

/// All of them.
#[derive(Default)]
pub(super) struct Answers {
    all: HashMap<ServerKey, Kept, KeyHasher>,
    /// Until when each is kept: all for equally long.
    order: VecDeque<(Instant, ServerKey)>,
}

impl Answers {
    pub fn len(&self) -> usize {
        self.all.len()
    }

    pub fn contains(&self, key: &ServerKey) -> bool {
        self.all.contains_key(key)
    }

    /// When the oldest has to go at the latest.
    pub fn next(&self) -> Option<Instant> {
        self.order.front().map(|(until, _)| *until + SLACK)
    }

    /// Keeps the answer to a request until then.
    pub fn keep(&mut self, now: Instant, until: Instant, key: ServerKey, kept: Kept) {
        for _ in 0..STEP {
            self.forget_old(now);
        }
        self.all.insert(key, kept);
        self.order.push_back((until, key));
    }

    /// The answer to a request that has come again; `None`: it has not been answered yet.
    pub fn again(&self, key: &ServerKey, request: &Message) -> Option<Bytes> {
        self.all.get(key).map(|kept| kept.unpack(request))
    }

    /// Forgets all whose time is over.
    pub fn expire(&mut self, now: Instant) {
        while self.forget_old(now) {}
    }

    fn forget_old(&mut self, now: Instant) -> bool {
        self.order.front().is_some_and(|(until, _)| *until <= now) && self.forget_oldest()
    }

    /// Makes room for one more. `false`: there is none.
    pub fn forget_oldest(&mut self) -> bool {
        let oldest = self.order.pop_front();
        oldest.is_some_and(|(_, key)| self.all.remove(&key).is_some())
    }
}

/// What an answer copies from its request (RFC 3261 8.2.6.2), but for the tag that is put behind To: a hash tells whether it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Copied(u64);

impl Copied {
    /// Of a request as it was handed to its user, or of an answer.
    pub fn of(message: &Message, key: &RandomState) -> Copied {
        let tag = message.to_tag().map(|tag| format!(";tag={tag}")).unwrap_or_default();
        let mut hasher = key.build_hasher();
        for header in message.headers().iter().filter(|header| is_copied(header)) {
            let line = header.line();
            hasher.write(line.strip_suffix(tag.as_bytes()).filter(|_| header.is(name::TO)).unwrap_or(line));
            hasher.write_u8(b'\n');
        }
        Copied(hasher.finish())
    }
}

fn is_copied(header: &Header) -> bool {
    [name::VIA, name::FROM, name::TO, name::CALL_ID, name::CSEQ].iter().any(|copied| header.is(copied))
}

/// An answer without what its request says: the length of the tag and one, the tag, and the rest of the message. Where it does not repeat the request, a
/// zero and all of it.
pub(super) struct Kept(Box<[u8]>);

impl Kept {
    /// `wire` is the answer on the wire.
    pub fn new(request: Copied, key: &RandomState, answer: &Message, wire: &[u8]) -> Kept {
        let tag = answer.to_tag().unwrap_or_default();
        let length = u8::try_from(tag.len() + 1).ok().filter(|_| Copied::of(answer, key) == request);
        let mut kept = Vec::with_capacity(wire.len() + 1);
        match length {
            None => {
                kept.push(0);
                kept.extend_from_slice(wire);
            }
            Some(length) => {
                kept.push(length);
                kept.extend_from_slice(tag.as_bytes());
                kept.extend_from_slice(answer.start_bytes());
                kept.extend_from_slice(b"\r\n");
                for header in answer.headers().iter().filter(|header| !is_copied(header)) {
                    kept.extend_from_slice(header.line());
                    kept.extend_from_slice(b"\r\n");
                }
                kept.extend_from_slice(b"\r\n");
                kept.extend_from_slice(answer.body());
            }
        }
        // Made anew in its size: a box that was cut down keeps what it was cut down from, in most allocators.
        Kept(kept.as_slice().into())
    }

    /// The whole answer, to the request that has come again.
    fn unpack(&self, request: &Message) -> Bytes {
        let Some((length, rest)) = self.0.split_first() else { return Bytes::new() };
        let Some(length) = length.checked_sub(1) else { return Bytes::copy_from_slice(rest) };
        let (tag, rest) = rest.split_at_checked(length.into()).unwrap_or_default();
        let line = rest.windows(2).position(|end| end == b"\r\n").map_or(0, |at| at + 2);
        let (line, rest) = rest.split_at_checked(line).unwrap_or_default();
        let copied = Message::response_to(request, 200, "OK");
        let copied = match std::str::from_utf8(tag) {
            Ok(tag) if !tag.is_empty() => copied.to_tag(tag),
            _ => copied,
        };
        let mut wire = BytesMut::with_capacity(line.len() + rest.len() + 512);
        wire.put_slice(line);
        for header in copied.build().headers().iter().filter(|header| is_copied(header)) {
            wire.put_slice(header.line());
            wire.put_slice(b"\r\n");
        }
        wire.put_slice(rest);
        wire.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Method;

    fn request(more: &[(&str, &str)]) -> Message {
        let uri = "sip:b.example".parse().unwrap();
        let mut request = Message::request(Method::Register, &uri)
            .header(name::VIA, "SIP/2.0/UDP 10.0.0.3;branch=z9hG4bKy;received=10.0.0.4")
            .header("v", "SIP/2.0/UDP 10.0.0.2;branch=z9hG4bKx")
            .header(name::MAX_FORWARDS, 70)
            .header("f", "<sip:a@b>;tag=1")
            .header(name::CALL_ID, "x");
        for (name, value) in more {
            request = request.header(name, value);
        }
        request.header(name::CSEQ, "7 REGISTER").build()
    }

    #[test]
    fn an_answer_is_kept_without_what_the_request_says() {
        let key = RandomState::new();
        for (to, tag) in [("<sip:c@d>", "t"), ("<sip:c@d>;x=y", ""), ("\"C\" <sip:c@d>;tag=theirs", "t")] {
            let request = request(&[(name::TO, to)]);
            let answer = Message::response_to(&request, 200, "Fine");
            let answer = if tag.is_empty() { answer } else { answer.to_tag(tag) };
            let answer =
                answer.header(name::CONTACT, "<sip:c@10.0.0.2>;expires=60").body("text/plain", "\r\nbody").build();
            let wire = answer.to_bytes();
            let kept = Kept::new(Copied::of(&request, &key), &key, &answer, &wire);
            assert!(kept.0.len() + 100 < wire.len(), "{to}: {} of {}", kept.0.len(), wire.len());
            assert_eq!(kept.unpack(&request), wire, "{to}");
        }
    }

    #[test]
    fn an_answer_that_says_something_else_is_kept_whole() {
        let key = RandomState::new();
        let request = request(&[(name::TO, "<sip:c@d>")]);
        let long = "t".repeat(300);
        let mut others = vec![Message::response_to(&request, 200, "OK").to_tag(&long).build()];
        for (header, value) in [
            (name::CALL_ID, "another"),
            (name::TO, "<sip:e@f>;tag=t"),
            (name::TO, "<sip:c@d>;tag=t;more"),
            (name::VIA, "v"),
        ] {
            let mut answer = Message::response_to(&request, 200, "OK").to_tag("t").build();
            answer.set(header, value);
            others.push(answer);
        }
        for answer in others {
            let wire = answer.to_bytes();
            let kept = Kept::new(Copied::of(&request, &key), &key, &answer, &wire);
            assert_eq!(kept.0.len(), wire.len() + 1, "{answer:?}");
            assert_eq!(kept.unpack(&request), wire);
        }
    }
}
