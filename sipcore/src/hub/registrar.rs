//! REGISTER (RFC 3261 10.3).

use super::home::HomeProxy;
use super::location::{Change, Lookup, Refusal, address_of, transport_of};
use crate::message::{Message, NameAddr, ResponseBuilder, Uri, address, name};
use crate::transaction::ServerId;
use crate::transport::{Flow, Transport};
use std::time::{Duration, Instant};

impl HomeProxy {
    pub(super) fn on_register(&mut self, now: Instant, server: ServerId, flow: Flow, request: &Message) {
        let answer = match self.register(now, flow, request) {
            Ok(answer) => answer,
            Err(answer) => *answer,
        };
        self.respond(now, server, answer);
    }

    fn register(
        &mut self,
        now: Instant,
        flow: Flow,
        request: &Message,
    ) -> Result<ResponseBuilder, Box<ResponseBuilder>> {
        let refuse = |status, reason: &str| Box::new(Message::response_to(request, status, reason));
        let unknown: Vec<&str> = request.tokens(name::REQUIRE).collect();
        if !unknown.is_empty() {
            let answer = Message::response_to(request, 420, "Bad Extension");
            return Err(Box::new(answer.header(name::UNSUPPORTED, unknown.join(", "))));
        }
        let to = request.to().ok().and_then(|to| to.uri().ok()).ok_or_else(|| refuse(400, "Bad To"))?;
        let user = to.user_decoded().ok_or_else(|| refuse(404, "Not Found"))?;
        if !self.is_ours(&to) {
            return Err(refuse(404, "Not Our Domain"));
        }
        if let Some(guard) = &mut self.guard {
            guard.check(now, request, &user, true)?;
        }
        let record = self.record(&to);
        let (Ok(call_id), Ok(cseq)) = (request.call_id(), request.cseq()) else {
            return Err(refuse(400, "Bad Request"));
        };
        let star = request.has_star_contact();
        if star && request.expires() != Some(0) {
            return Err(refuse(400, "Contact * Needs Expires 0"));
        }
        let mut changes = Vec::new();
        for contact in request.contacts() {
            let contact = contact.map_err(|_| refuse(400, "Bad Contact"))?;
            changes.push(self.change(now, flow, request, &contact)?);
        }
        if star || !changes.is_empty() {
            let done = self.location.update(&record, call_id, cseq.number, star, changes);
            done.map_err(|refusal| match refusal {
                Refusal::OutOfOrder => refuse(500, "Older Than The Last REGISTER"),
                Refusal::Full => {
                    Box::new(Message::response_to(request, 503, "Too Many Contacts").header(name::RETRY_AFTER, 60))
                }
            })?;
        }
        Ok(self.list(now, request, &record))
    }

    fn change(
        &self,
        now: Instant,
        flow: Flow,
        request: &Message,
        contact: &NameAddr<'_>,
    ) -> Result<Change, Box<ResponseBuilder>> {
        let refuse = |status, reason: &str| Box::new(Message::response_to(request, status, reason));
        let uri = contact.uri().map_err(|_| refuse(400, "Bad Contact"))?;
        if !uri.is_sip() {
            return Err(refuse(400, "Contact Is Not A SIP URI"));
        }
        let asked = contact.expires().or_else(|| request.expires());
        let asked = asked.map_or(self.limits.default_expires, |seconds| Duration::from_secs(seconds.into()));
        if !asked.is_zero() && asked < self.limits.min_expires {
            let min = self.limits.min_expires.as_secs_f64().ceil() as u64;
            let answer = Message::response_to(request, 423, "Interval Too Brief");
            return Err(Box::new(answer.header(name::MIN_EXPIRES, min)));
        }
        let instance = contact.params.get("+sip.instance").map(|text| text.as_ref().into());
        Ok(Change {
            flow: self.flow_to_contact(flow, &uri, instance.is_some()),
            contact: uri,
            instance,
            q: contact.q().unwrap_or(1000),
            expires_at: (!asked.is_zero()).then(|| now + asked.min(self.limits.max_expires)),
        })
    }

    /// 200 with the bindings that stand.
    fn list(&self, now: Instant, request: &Message, record: &str) -> ResponseBuilder {
        let mut answer = Message::response_to(request, 200, "OK");
        let Lookup::Bound(bindings) = self.location.lookup(record, now) else { return answer };
        for binding in bindings {
            let left = binding.expires_at.saturating_duration_since(now).as_secs_f64().ceil().to_string();
            let instance = binding.instance.as_ref().map(|instance| format!("\"{instance}\""));
            let q = format!("{}.{:03}", binding.q / 1000, binding.q % 1000);
            let mut params = vec![("expires", Some(left.as_str()))];
            if binding.q != 1000 {
                params.push(("q", Some(&q)));
            }
            if let Some(instance) = &instance {
                params.push(("+sip.instance", Some(instance)));
            }
            answer = answer.header(name::CONTACT, address(None, &binding.contact, &params));
        }
        answer
    }

    /// How a contact is reached: on the connection that registered it; by datagram at its own address, or where the request came from when
    /// the instance itself has registered through a NAT (RFC 5626 5.3, RFC 3581).
    fn flow_to_contact(&self, source: Flow, contact: &Uri, instance: bool) -> Flow {
        let transport = transport_of(contact);
        let Some(addr) = address_of(contact) else { return source };
        let same_host = addr.ip() == source.remote.ip();
        let own_connection = transport == Transport::Tcp && (same_host || instance);
        let behind_nat = transport == Transport::Udp && !same_host && instance;
        match transport == source.transport && (own_connection || behind_nat) {
            true => source,
            false => Flow { transport, local: self.local_for(addr.ip(), source.local), remote: addr },
        }
    }
}
