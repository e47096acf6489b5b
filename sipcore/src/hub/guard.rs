//! Who may do what: digest authentication in front of registrar and proxy.

use super::Users;
use super::rate::Rates;
use crate::auth::{DigestServer, Verdict};
use crate::message::{Message, ResponseBuilder, name};
use crate::random;
use crate::transport::Flow;
use std::time::{Duration, Instant};
use tracing::debug;

/// Wrong passwords that one address may try at once, and after how long it may try another.
const FAILURES: u32 = 20;
const FAILURE_PAUSE: Duration = Duration::from_secs(5);

/// The doorkeeper of a hub with users.
pub(super) struct Guard {
    users: Users,
    digest: DigestServer,
    /// Wrong answers, by where they come from.
    failures: Rates,
}

impl Guard {
    pub fn new(users: Users, now: Instant) -> Self {
        let algorithms = users.algorithms();
        let digest = DigestServer::new(&users.realm, false, random::secret(), now).with_algorithms(algorithms);
        Guard { digest, failures: Rates::new(FAILURES, FAILURE_PAUSE), users }
    }

    /// The names that have an account.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.users.accounts.keys().map(String::as_str)
    }

    /// There is an account of this name.
    pub fn has(&self, name: &str) -> bool {
        self.knows_everybody() || self.users.accounts.contains_key(name)
    }

    /// Every name has the same password.
    pub fn knows_everybody(&self) -> bool {
        self.users.shared.is_some()
    }

    /// Lets a request of the user `identity` pass, or gives the answer that it gets. `registering`: 401 instead of 407.
    pub fn check(
        &mut self,
        now: Instant,
        source: Flow,
        request: &Message,
        identity: &str,
        registering: bool,
    ) -> Result<(), Box<ResponseBuilder>> {
        let asked = self.digest.asking(!registering);
        let users = &self.users;
        let stale = match asked.verify(request, now, |name| users.stored(name)) {
            Verdict::Accepted { username } if username == identity => return Ok(()),
            Verdict::Accepted { .. } => {
                return Err(Box::new(Message::response_to(request, 403, "Not Your Address Of Record")));
            }
            Verdict::Stale => true,
            Verdict::Missing => false,
            Verdict::Refused(why) => {
                let source = source.remote.ip();
                debug!(%source, identity, why, "credentials refused");
                if !self.failures.admit(now, source) {
                    let answer = Message::response_to(request, 503, "Too Many Wrong Passwords");
                    return Err(Box::new(answer.header(name::RETRY_AFTER, FAILURE_PAUSE.as_secs())));
                }
                false
            }
        };
        let reason = if registering { "Unauthorized" } else { "Proxy Authentication Required" };
        let mut answer = Message::response_to(request, asked.status(), reason);
        for (name, value) in asked.challenge(stale, now) {
            answer = answer.header(name, value);
        }
        Err(Box::new(answer))
    }
}
