//! The side that asks: challenges whose nonces carry their time, and the check of the answers.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::digest::{Algorithm, Digest, Qop, Secret, hex, hmac, same_secret};
use super::header::{AuthHeader, quoted};
use crate::message::{Message, Uri, name};

/// How long a nonce may be used.
const LIFETIME: Duration = Duration::from_secs(300);
/// The most nonces whose counts are remembered.
const MAX_NONCES: usize = 4096;
/// How far a count may lie behind the highest one: requests overtake each other.
const WINDOW: u32 = 64;

/// What a request's answer is worth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Right, and from this user.
    Accepted {
        /// The name as sent.
        username: String,
    },
    /// No answer for this realm: challenge.
    Missing,
    /// Right, but the nonce is too old or was used like this before: challenge with `stale`.
    Stale,
    /// Wrong, for the log; challenge again, or 403.
    Refused(&'static str),
}

/// The secret of a user as a server keeps it.
#[derive(Clone)]
pub enum Stored {
    /// The password itself.
    Password(String),
    /// Its hashes, one for each algorithm, for this name and realm (see [`super::ha1`]).
    Hashes(Vec<(Algorithm, String)>),
}

impl From<String> for Stored {
    fn from(password: String) -> Self {
        Stored::Password(password)
    }
}

impl Stored {
    /// A hash that is not kept is one that no answer has.
    fn for_algorithm(&self, algorithm: Algorithm) -> Secret<'_> {
        match self {
            Stored::Password(password) => Secret::Password(password),
            Stored::Hashes(hashes) => {
                let hash = hashes.iter().find(|(of, hash)| *of == algorithm && !hash.is_empty());
                hash.map_or(Secret::Hash("none"), |(_, hash)| Secret::Hash(hash))
            }
        }
    }
}

/// Uses of one nonce: the highest count, and which of the ones below it were seen.
struct Uses {
    highest: u32,
    seen: u64,
}

/// Asks for digests of one realm. Memory is bounded: a nonce costs nothing until a right answer uses it.
pub struct DigestServer {
    realm: String,
    proxy: bool,
    secret: [u8; 32],
    start: Instant,
    issued: u64,
    uses: BTreeMap<u64, Uses>,
    /// Nonces issued before this one are forgotten, so no longer accepted.
    forgotten: u64,
    algorithms: Vec<Algorithm>,
}

impl DigestServer {
    /// `secret` is random and makes the nonces unforgeable; `proxy` asks with 407 instead of 401.
    pub fn new(realm: impl Into<String>, proxy: bool, secret: [u8; 32], now: Instant) -> DigestServer {
        DigestServer {
            realm: realm.into(),
            proxy,
            secret,
            start: now,
            issued: 0,
            uses: BTreeMap::new(),
            forgotten: 0,
            algorithms: vec![Algorithm::Sha256, Algorithm::Md5],
        }
    }

    /// Challenges with these only, the strongest first: those for which every user has a hash.
    pub fn with_algorithms(self, algorithms: Vec<Algorithm>) -> DigestServer {
        DigestServer { algorithms, ..self }
    }

    /// Asks as a proxy from now on, or as a server: a nonce is good for both.
    pub fn asking(&mut self, proxy: bool) -> &mut DigestServer {
        self.proxy = proxy;
        self
    }

    /// The status that goes with a challenge: 401 or 407.
    pub fn status(&self) -> u16 {
        if self.proxy { 407 } else { 401 }
    }

    /// The headers of a challenge, name and value, the strongest algorithm first (RFC 8760 section 2.3).
    pub fn challenge(&mut self, stale: bool, now: Instant) -> Vec<(&'static str, String)> {
        let header = if self.proxy { name::PROXY_AUTHENTICATE } else { name::WWW_AUTHENTICATE };
        let nonce = self.nonce(now);
        self.algorithms
            .iter()
            .map(|algorithm| {
                let mut value = format!(
                    "Digest {}, {}, algorithm={algorithm}, qop=\"auth\"",
                    quoted("realm", &self.realm),
                    quoted("nonce", &nonce)
                );
                if stale {
                    value.push_str(", stale=true");
                }
                (header, value)
            })
            .collect()
    }

    /// Checks the answer of a request. `stored` gives the secret of a user. Not for ACK and CANCEL, which repeat
    /// the answer of their INVITE (RFC 3261 section 22.1).
    pub fn verify<S: Into<Stored>>(
        &mut self,
        request: &Message,
        now: Instant,
        stored: impl Fn(&str) -> Option<S>,
    ) -> Verdict {
        let wanted = if self.proxy { name::PROXY_AUTHORIZATION } else { name::AUTHORIZATION };
        let answer = request
            .headers_named(wanted)
            .filter_map(|h| AuthHeader::parse(h.value()).ok())
            .find(|a| a.is_digest() && a.get("realm").is_some_and(|r| r == self.realm));
        let Some(answer) = answer else { return Verdict::Missing };
        match self.check(request, &answer, now, stored) {
            Ok(verdict) => verdict,
            Err(why) => Verdict::Refused(why),
        }
    }

    fn check<S: Into<Stored>>(
        &mut self,
        request: &Message,
        answer: &AuthHeader<'_>,
        now: Instant,
        stored: impl Fn(&str) -> Option<S>,
    ) -> Result<Verdict, &'static str> {
        let text = |name: &'static str| answer.get(name);
        let username = text("username").ok_or("no username")?;
        let (nonce, response) = (text("nonce").ok_or("no nonce")?, text("response").ok_or("no response")?);
        let uri = text("uri").ok_or("no uri")?;
        let algorithm = match text("algorithm") {
            None => Algorithm::Md5,
            Some(a) => {
                Algorithm::parse(&a).filter(|a| *a != Algorithm::Sha512_256).ok_or("an algorithm not asked for")?
            }
        };
        let cnonce = text("cnonce").unwrap_or_default();
        let qop = match text("qop") {
            None => None,
            Some(q) if q.eq_ignore_ascii_case("auth") && !cnonce.is_empty() => {
                let nc = text("nc").filter(|nc| nc.len() == 8).ok_or("no nonce count")?;
                let nc = u32::from_str_radix(&nc, 16).map_err(|_| "the nonce count is not hexadecimal")?;
                Some((Qop::Auth, cnonce.as_ref(), nc))
            }
            Some(_) => return Err("a qop not asked for"),
        };
        let same_uri = match (uri.parse::<Uri>(), request.request_uri()) {
            (Ok(a), Ok(b)) => a.equivalent(&b),
            _ => false,
        };
        if !same_uri {
            return Err("the digest is for another URI");
        }
        let known: Option<Stored> = stored(&username).map(Into::into);
        let digest = Digest {
            algorithm,
            username: &username,
            realm: &self.realm,
            secret: known.as_ref().map_or(Secret::Password(""), |stored| stored.for_algorithm(algorithm)),
            nonce: &nonce,
            method: request.method().map(|m| m.as_str()).unwrap_or_default(),
            uri: &uri,
            qop,
            body: request.body(),
        };
        // Computed for unknown users as well, so that the time taken does not tell them apart.
        let right = same_secret(digest.response().as_bytes(), response.to_ascii_lowercase().as_bytes());
        if known.is_none() || !right {
            return Err("user name or password is wrong");
        }
        // Without a count a nonce can be used once.
        let fresh = self.fresh(&nonce, now).is_some_and(|id| self.count(id, qop.map_or(1, |(_, _, nc)| nc)));
        Ok(if fresh { Verdict::Accepted { username: username.into_owned() } } else { Verdict::Stale })
    }

    /// Milliseconds since the start, serial number, and their MAC.
    fn nonce(&mut self, now: Instant) -> String {
        self.issued += 1;
        let millis = now.saturating_duration_since(self.start).as_millis() as u64;
        let plain = format!("{millis:x}.{:x}", self.issued);
        format!("{plain}.{}", self.mac(&plain))
    }

    fn mac(&self, plain: &str) -> String {
        let mac = hmac(&self.secret, plain.as_bytes());
        hex(mac.get(..16).unwrap_or(&mac))
    }

    /// The serial number of a nonce that was made here and is not too old.
    fn fresh(&self, nonce: &str, now: Instant) -> Option<u64> {
        let (plain, mac) = nonce.rsplit_once('.')?;
        if !same_secret(self.mac(plain).as_bytes(), mac.as_bytes()) {
            return None;
        }
        let (millis, id) = plain.split_once('.')?;
        let made = Duration::from_millis(u64::from_str_radix(millis, 16).ok()?);
        let id = u64::from_str_radix(id, 16).ok()?;
        let age = now.saturating_duration_since(self.start).saturating_sub(made);
        (age < LIFETIME && id >= self.forgotten).then_some(id)
    }

    /// Notes a use; false when that count was used or is too far behind.
    fn count(&mut self, id: u64, nc: u32) -> bool {
        if nc == 0 {
            return false;
        }
        if !self.uses.contains_key(&id) && self.uses.len() >= MAX_NONCES {
            if let Some((oldest, _)) = self.uses.pop_first() {
                self.forgotten = self.forgotten.max(oldest + 1);
            }
            if id < self.forgotten {
                return false;
            }
        }
        let uses = self.uses.entry(id).or_insert(Uses { highest: 0, seen: 0 });
        if nc > uses.highest {
            let by = nc - uses.highest;
            let older = if by >= WINDOW { 0 } else { uses.seen << by };
            uses.seen = older | 1;
            uses.highest = nc;
            return true;
        }
        let behind = uses.highest - nc;
        if behind >= WINDOW || uses.seen & (1 << behind) != 0 {
            return false;
        }
        uses.seen |= 1 << behind;
        true
    }
}
