//! Who may use a TURN server: names that carry their own expiry and passwords made from them, so that the server keeps no list (the REST API for TURN,
//! draft-uberti-behave-turn-rest-00; coturn calls it `use-auth-secret`), and nonces that carry their own age.

use base64::Engine as _;
use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use stun_types::attribute::MessageIntegrity;
use stun_types::message::{
    IntegrityAlgorithm, IntegrityKey, LongTermKeyCredentials, MessageIntegrityCredentials, ShortTermCredentials,
};

use crate::random;

/// How long a name is good for a new allocation. One that stands is kept as long as it is refreshed.
const LIFETIME: Duration = Duration::from_secs(8 * 3600);
/// How old a nonce may be (RFC 8656 5: "at least an hour").
const NONCE_LIFETIME: Duration = Duration::from_secs(3600);
/// The longest name that is taken (RFC 8489 14.3: below 509 bytes).
const MAX_NAME: usize = 508;

/// A name and a password for a TURN server, both for a while.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// `EXPIRY:USER`, the expiry in seconds since 1970.
    pub username: String,
    /// Of printable characters.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

/// Makes credentials, and the keys of their messages, from one secret.
#[derive(Clone)]
pub struct Mint {
    secret: IntegrityKey,
}

impl fmt::Debug for Mint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mint").finish_non_exhaustive()
    }
}

impl Default for Mint {
    fn default() -> Self {
        Mint::fresh()
    }
}

impl Mint {
    /// From the secret that the TURN server has too.
    pub fn new(secret: impl Into<String>) -> Self {
        Mint { secret: ShortTermCredentials::new(secret.into()).make_key() }
    }

    /// With a secret that nobody else knows.
    pub fn fresh() -> Self {
        Mint::new(random::secret().map(|byte| format!("{byte:02x}")).concat())
    }

    /// HMAC-SHA1 (RFC 2104) of `text`.
    fn seal(&self, text: &[u8]) -> [u8; 20] {
        // The key has whatever length: HMAC takes any.
        MessageIntegrity::compute(&[text], &self.secret).unwrap_or_default()
    }

    /// For this user, from now on for some hours.
    pub fn issue(&self, user: &str, now: SystemTime) -> Credentials {
        let username = format!("{}:{user}", seconds(now + LIFETIME));
        let password = self.password(&username);
        Credentials { username, password }
    }

    fn password(&self, username: &str) -> String {
        base64::engine::general_purpose::STANDARD.encode(self.seal(username.as_bytes()))
    }

    /// The user and the expiry in a name, and the key that its messages are signed with (RFC 8489 9.2.2). `None`: it is no name of ours.
    pub(super) fn read<'n>(&self, username: &'n str, realm: &str) -> Option<Known<'n>> {
        let (expiry, user) = username.split_once(':')?;
        let expiry = expiry.parse().ok().filter(|_| username.len() <= MAX_NAME)?;
        let password = self.password(username);
        let long = LongTermKeyCredentials::new(username.to_owned(), password, realm.to_owned());
        let key = MessageIntegrityCredentials::from(long).make_key(IntegrityAlgorithm::Sha1);
        Some(Known { user, expiry, key })
    }
}

/// What a name says.
pub(super) struct Known<'n> {
    pub user: &'n str,
    /// Seconds since 1970.
    pub expiry: u64,
    pub key: IntegrityKey,
}

pub(super) fn seconds(now: SystemTime) -> u64 {
    now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// Nonces that need no memory: their age, sealed for one client address.
pub(super) struct Nonces {
    mint: Mint,
    start: Instant,
}

impl Nonces {
    pub fn new(now: Instant) -> Self {
        Nonces { mint: Mint::fresh(), start: now }
    }

    pub fn issue(&self, now: Instant, client: IpAddr) -> String {
        self.made(now.saturating_duration_since(self.start).as_secs(), client)
    }

    fn made(&self, age: u64, client: IpAddr) -> String {
        let seal = self.mint.seal(format!("{age} {client}").as_bytes());
        format!("{age:08x}{}", seal[..8].iter().map(|byte| format!("{byte:02x}")).collect::<String>())
    }

    pub fn is_fresh(&self, nonce: &str, now: Instant, client: IpAddr) -> bool {
        let Some(issued) = nonce.get(..8).and_then(|age| u64::from_str_radix(age, 16).ok()) else { return false };
        let age = now.saturating_duration_since(self.start).as_secs().checked_sub(issued);
        age.is_some_and(|age| age <= NONCE_LIFETIME.as_secs()) && self.made(issued, client) == nonce
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `printf 1000:alice | openssl dgst -sha1 -hmac north -binary | base64`
    #[test]
    fn passwords_are_those_of_other_servers() {
        let mint = Mint::new("north");
        assert_eq!(mint.password("1000:alice"), "6ANS2sM+SnH+pQyRUs6nGfTCfYk=");
    }

    #[test]
    fn a_name_carries_its_user_and_expiry() {
        let mint = Mint::fresh();
        let now = UNIX_EPOCH + Duration::from_secs(1000);
        let issued = mint.issue("bob:the builder", now);
        let known = mint.read(&issued.username, "r").unwrap();
        assert_eq!((known.user, known.expiry), ("bob:the builder", 1000 + LIFETIME.as_secs()));
        assert!(Mint::fresh().read(&issued.username, "r").unwrap().key != known.key);
        for wrong in ["", "alice", ":alice", "x:alice", "-1:alice", &"1".repeat(600)] {
            assert!(mint.read(wrong, "r").is_none(), "{wrong}");
        }
    }

    #[test]
    fn nonces_age() {
        let now = Instant::now();
        let nonces = Nonces::new(now);
        let (one, other) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let later = now + Duration::from_secs(7);
        let nonce = nonces.issue(later, one);
        assert!(nonces.is_fresh(&nonce, later + NONCE_LIFETIME, one));
        assert!(!nonces.is_fresh(&nonce, later + NONCE_LIFETIME + Duration::from_secs(2), one));
        assert!(!nonces.is_fresh(&nonce, later, other) && !nonces.is_fresh(&nonce, now, one));
        assert!(!Nonces::new(now).is_fresh(&nonce, later, one));
        for wrong in ["", "00000000", "zz", "é0000000000000000", &nonce[1..], &format!("{nonce}0")] {
            assert!(!nonces.is_fresh(wrong, later, one), "{wrong}");
        }
    }
}
