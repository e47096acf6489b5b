//! How a command that only asks gets in at a registrar. It asks without being registered: a registrar that keeps one contact a name would drop that of the
//! run. Where it is refused so, as by an IMS core (3GPP TS 24.229 5.1.2A), it registers for as long as it asks, if nobody else is there under its name.

use std::time::Duration;

use sipcore::agent::{Agent, RegisterError};
use sipcore::message::Uri;

use crate::identity::{Identity, PASSWORD_VARIABLE};

/// How long a registrar may take.
const WITHIN: Duration = Duration::from_secs(5);

/// Where an agent that only asks stands.
pub struct Entry {
    aor: String,
    /// What the registrar has said. `None`: this is the user's own hub, which needs no more.
    answer: Option<Answer>,
}

enum Answer {
    /// Who is registered under the name.
    Bound(Vec<Uri>),
    /// That is not known.
    Refused(RegisterError),
    /// It has not answered yet.
    Nothing,
    /// The agent is registered.
    Entered,
}

/// What there is to do about a refusal.
pub enum Next {
    /// The agent is registered now: ask again.
    Again,
    /// Nothing: the refusal stands.
    Stands,
    /// Nothing, for this reason.
    Barred(String),
}

impl Entry {
    /// Asks the registrar who is there, which tells of its STUN and TURN servers, too.
    ///
    /// # Errors
    /// The password is wrong: each further request would try it again.
    pub async fn new(identity: &Identity, agent: &Agent) -> Result<Entry, String> {
        let aor = identity.aor.clone();
        if identity.registrar.is_none() {
            return Ok(Entry { aor, answer: None });
        }
        let answer = match tokio::time::timeout(WITHIN, agent.query()).await {
            Ok(Ok(contacts)) => Answer::Bound(contacts),
            Ok(Err(error @ RegisterError::BadCredentials { .. })) => {
                return Err(format!("{error}; {}", check_password(&aor)));
            }
            Ok(Err(error)) => Answer::Refused(error),
            Err(_) => Answer::Nothing,
        };
        Ok(Entry { aor, answer: Some(answer) })
    }

    /// Looks for the server that works now; requests go to it by themselves.
    pub fn look_again(&self, agent: &Agent) {
        if !matches!(self.answer, None | Some(Answer::Entered)) {
            let agent = agent.clone();
            tokio::spawn(async move {
                if let Err(error) = agent.query().await {
                    tracing::debug!(%error, "no registrar yet");
                }
            });
        }
    }

    /// The agent is registered.
    pub fn is_inside(&self) -> bool {
        matches!(self.answer, Some(Answer::Entered))
    }

    /// A request that was sent before the agent was registered has been answered 403: that may be why.
    pub async fn refused(&mut self, agent: &Agent) -> Next {
        let aor = &self.aor;
        match &self.answer {
            None => return Next::Stands,
            Some(Answer::Entered) => return Next::Again,
            Some(Answer::Bound(contacts)) => {
                if let Some(there) = contacts.first() {
                    return Next::Barred(format!(
                        "{aor} is registered at {there}, and not from here as well: a registrar that keeps one contact a name would drop that one. If only \
                         who is registered may ask, ask under another name (--as), or when that one has ended"
                    ));
                }
            }
            Some(Answer::Refused(error)) => {
                return Next::Barred(format!("who is registered as {aor} is not told: {error}"));
            }
            Some(Answer::Nothing) => return Next::Barred(format!("who is registered as {aor} was not told in time")),
        }
        match tokio::time::timeout(WITHIN, agent.register()).await {
            Ok(Ok(())) => {
                self.answer = Some(Answer::Entered);
                Next::Again
            }
            Ok(Err(error)) => Next::Barred(error.to_string()),
            Err(_) => Next::Barred(format!("{aor} could not be registered in time")),
        }
    }

    /// Why the registrar did not answer, which may be why others do not.
    pub fn trouble(&self) -> Option<String> {
        match &self.answer {
            Some(Answer::Refused(error)) => Some(error.to_string()),
            _ => None,
        }
    }
}

/// What the user can do when his password is refused.
pub fn check_password(aor: &str) -> String {
    format!("check the name {aor} and its password ({PASSWORD_VARIABLE})")
}
