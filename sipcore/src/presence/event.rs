//! The headers of event notification: Event and Subscription-State (RFC 6665 8.2).

use crate::message::{Message, Params, name, scan};
use std::fmt;
use std::time::Duration;

/// The event package of presence (RFC 3856).
pub(crate) const PRESENCE: &str = "presence";
/// The event package of registrations (RFC 3680).
pub(crate) const REG: &str = "reg";

/// Splits `word;params`.
fn word_and_params(value: &[u8]) -> Option<(&str, Params<'_>)> {
    let end = value.iter().position(|byte| *byte == b';').unwrap_or(value.len());
    let (word, params) = value.split_at(end);
    let word = scan::ascii(scan::trim(word)).filter(|word| !word.is_empty() && scan::all_token(word.as_bytes()))?;
    Some((word, Params::parse(params).ok()?))
}

/// The event package of a message and its `id`; `None` when the header is missing or wrong.
pub(crate) fn event(message: &Message) -> Option<(&str, Option<String>)> {
    let (package, params) = word_and_params(message.header(name::EVENT)?.value())?;
    Some((package, params.get("id").map(|id| id.into_owned())))
}

/// The state of a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    Active,
    Pending,
    Terminated,
}

/// What Subscription-State says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SubscriptionState {
    pub standing: Standing,
    pub expires: Option<Duration>,
    /// Why it ended.
    pub reason: Option<String>,
    /// Not to be tried again earlier.
    pub retry_after: Option<Duration>,
}

impl SubscriptionState {
    pub fn of(message: &Message) -> Option<Self> {
        let (word, params) = word_and_params(message.header(name::SUBSCRIPTION_STATE)?.value())?;
        let seconds = |name: &str| {
            let seconds = scan::seconds(params.token(name)?.as_bytes())?;
            Some(Duration::from_secs(seconds.into()))
        };
        let standing = match word.to_ascii_lowercase().as_str() {
            "active" => Standing::Active,
            "pending" => Standing::Pending,
            "terminated" => Standing::Terminated,
            // An extension: it is there, and nothing is known of it (RFC 6665 4.1.3).
            _ => Standing::Pending,
        };
        Some(SubscriptionState {
            standing,
            expires: seconds("expires"),
            reason: params.token("reason").map(str::to_ascii_lowercase),
            retry_after: seconds("retry-after"),
        })
    }

    pub fn active(expires: Duration) -> Self {
        SubscriptionState { standing: Standing::Active, expires: Some(expires), reason: None, retry_after: None }
    }

    pub fn terminated(reason: &str) -> Self {
        SubscriptionState {
            standing: Standing::Terminated,
            expires: None,
            reason: Some(reason.to_owned()),
            retry_after: None,
        }
    }
}

impl fmt::Display for SubscriptionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.standing {
            Standing::Active => "active",
            Standing::Pending => "pending",
            Standing::Terminated => "terminated",
        })?;
        if let Some(expires) = self.expires {
            write!(f, ";expires={}", expires.as_secs())?;
        }
        if let Some(reason) = &self.reason {
            write!(f, ";reason={reason}")?;
        }
        if let Some(after) = self.retry_after {
            write!(f, ";retry-after={}", after.as_secs())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read() {
        let message = |event: &str, state: &str| {
            Message::response(200, "OK").header(name::EVENT, event).header(name::SUBSCRIPTION_STATE, state).build()
        };
        let one = message("presence ; id=7", "terminated;reason=Probation;retry-after=30");
        assert_eq!(event(&one), Some(("presence", Some("7".to_owned()))));
        let state = SubscriptionState::of(&one).unwrap();
        assert_eq!((state.standing, state.reason.as_deref()), (Standing::Terminated, Some("probation")));
        assert_eq!(state.retry_after, Some(Duration::from_secs(30)));
        let other = message("presence.winfo", "active; expires=60");
        assert_eq!(event(&other), Some(("presence.winfo", None)));
        assert_eq!(SubscriptionState::of(&other), Some(SubscriptionState::active(Duration::from_secs(60))));
        for (bad_event, bad_state) in [("", ""), ("a b", "act ive"), (";id=1", ";expires=1")] {
            let bad = message(bad_event, bad_state);
            assert_eq!((event(&bad), SubscriptionState::of(&bad)), (None, None), "{bad_event:?}");
        }
        let text = SubscriptionState::terminated("timeout").to_string();
        assert_eq!(text, "terminated;reason=timeout");
    }
}
