//! Replaces (RFC 3891): a caller that has moved takes up its session from where it is now.

use super::{Notice, Phase, UserAgent};
use crate::agent::{EndReason, SessionId};
use crate::dialog::DialogKey;
use crate::message::{Message, Params, Uri, name, scan};
use std::time::Instant;

/// What a Replaces header names (RFC 3891 6.1).
struct Replaces<'m> {
    call_id: &'m str,
    to_tag: String,
    from_tag: String,
    early_only: bool,
}

impl<'m> Replaces<'m> {
    fn parse(value: &'m [u8]) -> Option<Self> {
        let end = value.iter().position(|byte| *byte == b';')?;
        let (call_id, params) = value.split_at(end);
        let call_id = scan::ascii(scan::trim(call_id)).filter(|id| !id.is_empty() && !id.contains([' ', '\t', ',']))?;
        let params = Params::parse(params).ok()?;
        let tag = |name: &str| params.token(name).map(str::to_owned);
        Some(Replaces {
            call_id,
            to_tag: tag("to-tag")?,
            from_tag: tag("from-tag")?,
            early_only: params.get("early-only").is_some(),
        })
    }
}

impl UserAgent {
    /// The session whose place an INVITE is to take (RFC 3891 3), if it names one. Only who is in that session may.
    pub(super) fn replaced_by(&self, invite: &Message, from: &Uri) -> Result<Option<SessionId>, (u16, &'static str)> {
        const NOT_THERE: (u16, &str) = (481, "Call/Transaction Does Not Exist");
        let mut headers = invite.headers_named(name::REPLACES);
        let Some(header) = headers.next() else { return Ok(None) };
        if headers.next().is_some() {
            return Err((400, "More Than One Replaces"));
        }
        let replaces = Replaces::parse(header.value()).ok_or((400, "Bad Replaces"))?;
        let key = DialogKey::new(replaces.call_id, &replaces.to_tag);
        let id = self.dialogs.get(&key).copied().ok_or(NOT_THERE)?;
        let call = self.calls.get(&id).ok_or(NOT_THERE)?;
        let dialog = call.dialog.as_ref().ok_or(NOT_THERE)?;
        // A tag of "0" stands for none (RFC 3891 6.1).
        if dialog.remote_tag().unwrap_or("0") != replaces.from_tag {
            return Err(NOT_THERE);
        }
        match call.phase {
            Phase::Ending(_) => return Err((603, "Declined: the Session Has Ended")),
            // One that the other side began and that has not been answered is nobody's to replace.
            Phase::Inviting(_) | Phase::Offered(_) => return Err(NOT_THERE),
            Phase::Accepted(_) | Phase::Established if replaces.early_only => return Err((486, "Busy Here")),
            Phase::Accepted(_) | Phase::Established => {}
        }
        match dialog.remote_uri().aor().equivalent(from) {
            true => Ok(Some(id)),
            false => Err((403, "Not Your Session")),
        }
    }

    /// The new session stands.
    pub(super) fn end_replaced(&mut self, now: Instant, old: SessionId) {
        let Some(call) = self.calls.get(&old) else { return };
        let told = match &call.phase {
            Phase::Accepted(accepted) => !accepted.hang_up,
            Phase::Established => true,
            _ => false,
        };
        self.hang_up(now, old);
        if told {
            self.notices.push_back(Notice::Ended { id: old, reason: EndReason::Replaced });
        }
    }
}
