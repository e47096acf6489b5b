//! The side that has a password: answers challenges, and uses a nonce again with a higher count.

use super::Credentials;
use super::digest::{Digest, Secret, hex, hmac};
use super::header::{AuthHeader, Challenge, parameters, quoted};
use crate::message::{Header, Message, Method, name};

/// The most realms remembered.
const MAX_REALMS: usize = 8;
/// How many fresh nonces in a row may be called stale.
const MAX_STALE: u32 = 2;

/// Why a challenge is not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuthError {
    /// The response has no challenge of a known scheme, algorithm and qop.
    #[error("the challenge is of a kind that is not known here")]
    Unsupported,
    /// The answer with a fresh nonce was refused: name or password is wrong.
    #[error("user name or password is wrong for the realm {realm:?}")]
    BadCredentials {
        /// The realm that refused.
        realm: String,
    },
    /// Fresh nonces are called stale again and again.
    #[error("the realm {realm:?} calls every nonce stale")]
    AlwaysStale {
        /// The realm that does.
        realm: String,
    },
}

/// Credentials with what is known of the realms that asked for them.
pub struct DigestClient {
    credentials: Credentials,
    secret: [u8; 32],
    cnonces: u64,
    realms: Vec<Realm>,
}

/// What is known of one realm.
struct Realm {
    /// The latest challenge.
    challenge: Challenge,
    /// How often its nonce was used.
    used: u32,
    /// How many fresh nonces in a row were called stale.
    stale: u32,
}

impl DigestClient {
    /// `secret` is random: client nonces are made from it.
    pub fn new(credentials: Credentials, secret: [u8; 32]) -> DigestClient {
        DigestClient { credentials, secret, cnonces: 0, realms: Vec::new() }
    }

    /// After a 401 or 407: puts the answers into the request, in place of those that were refused. The caller gives it a
    /// new CSeq and a new branch.
    pub fn retry(&mut self, request: &mut Message, response: &Message) -> Result<(), AuthError> {
        let challenges = Challenge::strongest(response);
        if challenges.is_empty() {
            return Err(AuthError::Unsupported);
        }
        for challenge in challenges {
            let known = self.realms.iter().position(|r| same_realm(&r.challenge, &challenge));
            let mut stale = 0;
            // The first use of a nonce that is refused, and not for its age, was a wrong password.
            if used_fresh(request, &challenge) {
                let realm = challenge.realm.clone();
                if !challenge.stale {
                    return Err(AuthError::BadCredentials { realm });
                }
                stale = known.and_then(|i| self.realms.get(i)).map_or(0, |r| r.stale) + 1;
                if stale > MAX_STALE {
                    return Err(AuthError::AlwaysStale { realm });
                }
            }
            if let Some(known) = known {
                self.realms.remove(known);
            } else if self.realms.len() >= MAX_REALMS {
                self.realms.remove(0);
            }
            self.realms.push(Realm { challenge, used: 0, stale });
            self.answer(request, self.realms.len() - 1);
        }
        Ok(())
    }

    /// After a 2xx: the server may want another nonce from now on (`nextnonce`, RFC 7616 section 3.5). The header names no realm, so it is
    /// heeded when only one can be meant.
    pub fn accepted(&mut self, response: &Message) {
        let mut of_servers = self.realms.iter_mut().filter(|realm| !realm.challenge.proxy);
        if let (Some(realm), None) = (of_servers.next(), of_servers.next())
            && let Some(info) = response.header(name::AUTHENTICATION_INFO)
            && let Ok(params) = parameters(info.value())
            && let Some(nonce) = params.get("nextnonce").filter(|nonce| *nonce != realm.challenge.nonce)
        {
            realm.challenge.nonce = nonce.into_owned();
            realm.used = 0;
        }
    }

    /// Answers for every realm known so far, so that the request is not challenged again (RFC 3261 section 22.2). A registrar is most often a
    /// proxy too, with the same realm and nonces: what it asked for as the one is answered for the other as well, which saves the round trip
    /// of a 407 where that is so.
    pub fn authorize(&mut self, request: &mut Message) {
        for i in 0..self.realms.len() {
            self.answer(request, i);
        }
        if request.method().is_some_and(|method| *method == Method::Register) {
            return;
        }
        for realm in self.realms.iter().filter(|realm| !realm.challenge.proxy) {
            let asked = |other: &Realm| other.challenge.proxy && other.challenge.realm == realm.challenge.realm;
            // The first use of a nonce shows whether the password is right: that is left to the one who asked.
            if realm.used < 2 || self.realms.iter().any(asked) {
                continue;
            }
            let answer = request.headers().iter().find(|header| answers(header, &realm.challenge));
            if let Some(value) = answer.map(|header| header.text().into_owned()) {
                request.push(name::PROXY_AUTHORIZATION, value);
            }
        }
    }

    /// The header value that answers `challenge` for a request; `nc` is how often its nonce was used, this time included.
    pub fn value(&mut self, challenge: &Challenge, nc: u32, method: &str, uri: &str, body: &[u8]) -> String {
        self.cnonces += 1;
        let mac = hmac(&self.secret, &self.cnonces.to_be_bytes());
        let cnonce = hex(mac.get(..16).unwrap_or(&mac));
        let digest = Digest {
            algorithm: challenge.algorithm,
            username: &self.credentials.username,
            realm: &challenge.realm,
            secret: Secret::Password(&self.credentials.password),
            nonce: &challenge.nonce,
            method,
            uri,
            qop: challenge.qop.map(|q| (q, cnonce.as_str(), nc)),
            body,
        };
        let mut parts = vec![
            quoted("username", &self.credentials.username),
            quoted("realm", &challenge.realm),
            quoted("nonce", &challenge.nonce),
            quoted("uri", uri),
            quoted("response", &digest.response()),
        ];
        if challenge.names_algorithm {
            parts.push(format!("algorithm={}", challenge.algorithm));
        }
        if let Some(qop) = challenge.qop {
            parts.push(quoted("cnonce", &cnonce));
            parts.push(format!("qop={}", qop.as_str()));
            parts.push(format!("nc={nc:08x}"));
        }
        if let Some(opaque) = &challenge.opaque {
            parts.push(quoted("opaque", opaque));
        }
        format!("Digest {}", parts.join(", "))
    }

    fn answer(&mut self, request: &mut Message, index: usize) {
        let Some(realm) = self.realms.get_mut(index) else { return };
        realm.used = realm.used.saturating_add(1);
        let (challenge, nc) = (realm.challenge.clone(), realm.used);
        let Some(method) = request.method().map(|m| m.as_str().to_owned()) else { return };
        let uri = String::from_utf8_lossy(request.request_uri_raw()).into_owned();
        let body = request.body().clone();
        let value = self.value(&challenge, nc, &method, &uri, &body);
        request.remove_headers(|h| answers(h, &challenge));
        request.push(challenge.answered_in(), value);
    }
}

fn same_realm(a: &Challenge, b: &Challenge) -> bool {
    a.proxy == b.proxy && a.realm == b.realm
}

/// True for the header with which a request answered an earlier challenge of the same realm.
fn answers(header: &Header, challenge: &Challenge) -> bool {
    header.is(challenge.answered_in())
        && AuthHeader::parse(header.value())
            .is_ok_and(|a| a.is_digest() && a.get("realm").is_some_and(|r| r == challenge.realm))
}

/// True when the request used its nonce for the first time.
fn used_fresh(request: &Message, challenge: &Challenge) -> bool {
    let answer = request.headers().iter().find(|h| answers(h, challenge));
    let Some(answer) = answer.and_then(|h| AuthHeader::parse(h.value()).ok()) else { return false };
    answer.get("nc").is_none_or(|nc| u32::from_str_radix(&nc, 16) == Ok(1))
}
