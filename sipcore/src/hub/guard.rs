//! Who may do what: digest authentication in front of registrar and proxy.

use super::Users;
use crate::auth::{DigestServer, Verdict};
use crate::message::{Message, ResponseBuilder};
use crate::random;
use std::time::Instant;

/// The doorkeeper of a hub with users.
pub(super) struct Guard {
    users: Users,
    registrar: DigestServer,
    proxy: DigestServer,
}

impl Guard {
    pub fn new(users: Users, now: Instant) -> Self {
        Guard {
            registrar: DigestServer::new(&users.realm, false, random::secret(), now),
            proxy: DigestServer::new(&users.realm, true, random::secret(), now),
            users,
        }
    }

    /// The names that have an account.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.users.passwords.keys().map(String::as_str)
    }

    /// Lets a request of the user `identity` pass, or gives the answer that it gets. `registering`: 401 instead of 407.
    pub fn check(
        &mut self,
        now: Instant,
        request: &Message,
        identity: &str,
        registering: bool,
    ) -> Result<(), Box<ResponseBuilder>> {
        let asked = if registering { &mut self.registrar } else { &mut self.proxy };
        let Users { passwords, shared, .. } = &self.users;
        let password = |name: &str| passwords.get(name).or(shared.as_ref()).cloned();
        let stale = match asked.verify(request, now, password) {
            Verdict::Accepted { username } if username == identity => return Ok(()),
            Verdict::Accepted { .. } => {
                return Err(Box::new(Message::response_to(request, 403, "Not Your Address Of Record")));
            }
            Verdict::Stale => true,
            Verdict::Missing | Verdict::Refused(_) => false,
        };
        let reason = if registering { "Unauthorized" } else { "Proxy Authentication Required" };
        let mut answer = Message::response_to(request, asked.status(), reason);
        for (name, value) in asked.challenge(stale, now) {
            answer = answer.header(name, value);
        }
        Err(Box::new(answer))
    }
}
