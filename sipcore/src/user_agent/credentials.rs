//! Answers to digest challenges (RFC 3261 22).

use crate::auth::{AuthError, Challenge, Credentials, DigestClient};
use crate::message::Message;
use crate::random;

/// Why a challenge cannot be answered; each names the realm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum CannotAnswer {
    /// There is no user name and password.
    NoCredentials(String),
    /// They were refused, or the challenge is of a kind that is not known here.
    Refused(String),
}

/// The credentials, if there are any.
pub(super) struct Wallet {
    digest: Option<DigestClient>,
}

impl Wallet {
    pub fn new(credentials: Option<Credentials>) -> Self {
        Wallet { digest: credentials.map(|credentials| DigestClient::new(credentials, random::secret())) }
    }

    /// Adds the answers to what is known to be asked.
    pub fn authorize(&mut self, request: &mut Message) {
        if let Some(digest) = &mut self.digest {
            digest.authorize(request);
        }
    }

    /// A request was accepted: its response may name the nonce to use next.
    pub fn accepted(&mut self, response: &Message) {
        if let Some(digest) = &mut self.digest {
            digest.accepted(response);
        }
    }

    /// Puts the answer to a 401 or 407 into the request that was challenged.
    pub fn retry(&mut self, request: &mut Message, response: &Message) -> Result<(), CannotAnswer> {
        let realm = || Challenge::strongest(response).into_iter().next().map(|challenge| challenge.realm);
        let Some(digest) = &mut self.digest else {
            return Err(CannotAnswer::NoCredentials(realm().unwrap_or_default()));
        };
        digest.retry(request, response).map_err(|error| {
            CannotAnswer::Refused(match error {
                AuthError::BadCredentials { realm } | AuthError::AlwaysStale { realm } => realm,
                _ => realm().unwrap_or_default(),
            })
        })
    }
}
