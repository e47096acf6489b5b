//! REGISTER (RFC 3261 10.3), with Path (RFC 3327), outbound (RFC 5626 6) and GRUUs (RFC 5627 5.1).

use super::RelayOffer;
use super::gruu;
use super::home::{HomeProxy, SUPPORTED};
use super::location::{Binding, Change, Contact, Lookup, Refusal, address_of, transport_of};
use super::presence::EVENTS;
use crate::message::{Message, NameAddr, ResponseBuilder, Uri, address, name};
use crate::presence::WATCHERS_OPTION;
use crate::transaction::ServerId;
use crate::transport::{Flow, Transport};
use crate::turn::Credentials;
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

/// Proxies that a contact may be behind, and the length of the URI of each in bytes.
const MAX_PATH: usize = 8;
const MAX_PATH_URI: usize = 512;
/// The URI of a contact, its instance, the Call-ID of its REGISTER and the name of a user, in bytes: what a binding keeps.
const MAX_CONTACT_URI: usize = 512;
const MAX_TEXT: usize = 256;
/// Contacts of one address of record that are many.
const CROWD: usize = 8;

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
        let is_known = |tag: &&str| SUPPORTED.iter().any(|known| known.eq_ignore_ascii_case(tag));
        let unknown: Vec<&str> = request.tokens(name::REQUIRE).filter(|tag| !is_known(tag)).collect();
        if !unknown.is_empty() {
            let answer = Message::response_to(request, 420, "Bad Extension");
            return Err(Box::new(answer.header(name::UNSUPPORTED, unknown.join(", "))));
        }
        let to = request.to().ok().and_then(|to| to.uri().ok()).ok_or_else(|| refuse(400, "Bad To"))?;
        let user = to.user_decoded().ok_or_else(|| refuse(404, "Not Found"))?;
        if !self.is_ours(&to) {
            return Err(refuse(404, "Not Our Domain"));
        }
        if user.len() > MAX_TEXT {
            return Err(refuse(400, "User Name Too Long"));
        }
        if let Some(guard) = &mut self.guard {
            guard.check(now, flow, request, &user, true)?;
        }
        let record = self.record(&to);
        let (Ok(call_id), Ok(cseq)) = (request.call_id(), request.cseq()) else {
            return Err(refuse(400, "Bad Request"));
        };
        if call_id.len() > MAX_TEXT {
            return Err(refuse(400, "Call-ID Too Long"));
        }
        let star = request.has_star_contact();
        if star && request.expires() != Some(0) {
            return Err(refuse(400, "Contact * Needs Expires 0"));
        }
        let way = Way::of(request)?;
        let mut changes = Vec::new();
        for contact in request.contacts() {
            let contact = contact.map_err(|_| refuse(400, "Bad Contact"))?;
            changes.push(self.change(now, flow, request, &contact, &way)?);
        }
        let outbound = changes.iter().any(|change| change.contact.reg_id.is_some());
        let registers = changes.iter().any(|change| change.expires_at.is_some());
        if star || !changes.is_empty() {
            let done = self.location.update(&record, call_id, cseq.number, star, changes);
            let is_news = done.map_err(|refusal| match refusal {
                Refusal::OutOfOrder => refuse(500, "Older Than The Last REGISTER"),
                Refusal::Full => {
                    Box::new(Message::response_to(request, 503, "Too Many Contacts").header(name::RETRY_AFTER, 60))
                }
            })?;
            self.changed.push(record.clone());
            if is_news {
                self.presence.on_registration(&record);
            }
        }
        let mut answer = self.list(now, request, &record, &to).header(name::SUPPORTED, WATCHERS_OPTION);
        if self.tells_registrations(&record) {
            answer = answer.header(name::ALLOW_EVENTS, EVENTS);
        }
        for proxy in request.headers_named(name::PATH) {
            answer = answer.copy(proxy);
        }
        // Who only asks (RFC 3261 10.2.3) is to be helped, too.
        if registers || (!star && request.header(name::CONTACT).is_none()) {
            for server in self.relay.iter().flat_map(|relay| links(relay, &user)) {
                answer = answer.header(name::LINK, server);
            }
        }
        Ok(if outbound { answer.header(name::REQUIRE, "outbound") } else { answer })
    }

    /// Who registers is to subscribe to what becomes of it (RFC 3680): users can be removed here. Not in a crowd of one name, where each would hear of
    /// all the others.
    fn tells_registrations(&self, record: &str) -> bool {
        let has_accounts = self.guard.as_ref().is_some_and(|guard| !guard.knows_everybody());
        has_accounts && self.location.bindings(record).len() <= CROWD
    }

    fn change(
        &self,
        now: Instant,
        flow: Flow,
        request: &Message,
        contact: &NameAddr<'_>,
        way: &Way,
    ) -> Result<Change, Box<ResponseBuilder>> {
        let refuse = |status, reason: &str| Box::new(Message::response_to(request, status, reason));
        let uri = contact.uri().map_err(|_| refuse(400, "Bad Contact"))?;
        if !uri.is_sip() {
            return Err(refuse(400, "Contact Is Not A SIP URI"));
        }
        if uri.as_str().len() > MAX_CONTACT_URI {
            return Err(refuse(400, "Contact Too Long"));
        }
        if uri.has_param("gr") && self.is_ours(&uri) {
            return Err(refuse(403, "Contact Is A GRUU"));
        }
        let asked = contact.expires().or_else(|| request.expires());
        let asked = asked.map_or(self.limits.default_expires, |seconds| Duration::from_secs(seconds.into()));
        if !asked.is_zero() && asked < self.limits.min_expires {
            let min = self.limits.min_expires.as_secs_f64().ceil() as u64;
            let answer = Message::response_to(request, 423, "Interval Too Brief");
            return Err(Box::new(answer.header(name::MIN_EXPIRES, min)));
        }
        let instance: Option<Box<str>> = contact.params.get("+sip.instance").map(|text| text.as_ref().into());
        if instance.as_ref().is_some_and(|instance| instance.len() > MAX_TEXT) {
            return Err(refuse(400, "Instance Too Long"));
        }
        let reg_id = contact.params.token("reg-id").and_then(|id| id.parse().ok()).filter(|id| *id > 0);
        let reg_id: Option<u32> = reg_id.filter(|_| instance.is_some() && has_token(request, "outbound"));
        if reg_id.is_some() && !way.keeps_flows {
            return Err(refuse(439, "First Hop Lacks Outbound Support"));
        }
        let flow = match &way.first {
            Some(proxy) => self.flow_to_contact(flow, proxy, false),
            None => self.flow_to_contact(flow, &uri, instance.is_some()),
        };
        let q = contact.q().unwrap_or(1000);
        let contact = Contact { uri, instance, reg_id, path: way.path.clone(), flow, q };
        Ok(Change { contact, expires_at: (!asked.is_zero()).then(|| now + asked.min(self.limits.max_expires)) })
    }

    /// 200 with the bindings that stand.
    fn list(&self, now: Instant, request: &Message, record: &str, aor: &Uri) -> ResponseBuilder {
        let mut answer = Message::response_to(request, 200, "OK");
        let Lookup::Bound(bindings) = self.location.lookup(record, now) else { return answer };
        let wants_gruu = has_token(request, "gruu");
        for binding in bindings {
            answer = answer.header(name::CONTACT, self.describe(now, &binding, aor, wants_gruu));
        }
        answer
    }

    /// A binding as a Contact header.
    fn describe(&self, now: Instant, binding: &Binding, aor: &Uri, wants_gruu: bool) -> String {
        let Binding { contact, expires_at, handle, .. } = binding;
        let left = expires_at.saturating_duration_since(now).as_secs_f64().ceil();
        let mut params = vec![("expires", left.to_string())];
        if contact.q != 1000 {
            params.push(("q", format!("{}.{:03}", contact.q / 1000, contact.q % 1000)));
        }
        if let Some(instance) = &contact.instance {
            params.push(("+sip.instance", format!("\"{instance}\"")));
            if wants_gruu && let Some(public) = gruu::public(aor, instance) {
                params.push(("pub-gruu", format!("\"{public}\"")));
            }
        }
        if let Some(handle) = handle.filter(|_| wants_gruu) {
            let temporary = Uri::sip(Some(&self.mint.make(handle)), aor.host(), aor.port());
            if let Ok(temporary) = temporary.and_then(|uri| uri.with_param("gr", None)) {
                params.push(("temp-gruu", format!("\"{temporary}\"")));
            }
        }
        if let Some(reg_id) = contact.reg_id {
            params.push(("reg-id", reg_id.to_string()));
        }
        let params: Vec<(&str, Option<&str>)> =
            params.iter().map(|(name, value)| (*name, Some(value.as_str()))).collect();
        address(None, &contact.uri, &params)
    }

    /// How a contact is reached: on the connection that registered it; by datagram at its own address, or where the request came from when
    /// the instance itself has registered through a NAT (RFC 5626 5.3, RFC 3581).
    pub(super) fn flow_to_contact(&self, source: Flow, contact: &Uri, instance: bool) -> Flow {
        let transport = transport_of(contact);
        let Some(addr) = address_of(contact) else { return source };
        // Its connection may end long before the other domain is told something.
        if transport == Transport::Tls && self.foreign.is_gate(source) {
            return Flow { remote: addr, ..source };
        }
        let same_host = addr.ip() == source.remote.ip();
        let own_connection = match transport {
            Transport::Udp => !same_host && instance,
            Transport::Tcp => same_host || instance,
            Transport::Tls | Transport::Ws | Transport::Wss => true,
        };
        let alike = transport == source.transport || (transport.is_web() && source.transport.is_web());
        match alike && own_connection {
            true => source,
            false => Flow { transport, local: self.local_for(transport, addr.ip(), source.local), remote: addr },
        }
    }
}

/// STUN and TURN servers with credentials for the user, in the form that RFC 9725 4.6 has for HTTP (`Link`, RFC 8288, with the relation `ice-server`): SIP has
/// none of its own. Without `?transport=`: UDP and TCP.
fn links(relay: &RelayOffer, user: &str) -> Vec<String> {
    let Credentials { username, password } = relay.mint.issue(user, SystemTime::now());
    let username: String = username.chars().filter(|c| !c.is_control()).flat_map(quoted).collect();
    let link = |address: &SocketAddr| {
        format!(
            "<turn:{address}>;rel=\"ice-server\";username=\"{username}\";credential=\"{password}\";credential-type=\"password\""
        )
    };
    relay.addresses.iter().map(link).collect()
}

/// A character as it stands between quotes (RFC 3261 25.1).
fn quoted(c: char) -> impl Iterator<Item = char> {
    matches!(c, '"' | '\\').then_some('\\').into_iter().chain([c])
}

/// The proxies between a contact and us, as its REGISTER tells.
struct Way {
    path: Box<[Box<str>]>,
    /// The proxy next to us.
    first: Option<Uri>,
    /// The hop next to the contact sends to it on the flow that it registered on: it is us, or said so (RFC 5626 5.1, 6).
    keeps_flows: bool,
}

impl Way {
    fn of(request: &Message) -> Result<Way, Box<ResponseBuilder>> {
        let refuse = |status, reason: &str| Message::response_to(request, status, reason);
        let uris: Result<Vec<Uri>, _> = request
            .addresses(name::PATH)
            .map(|proxy| proxy.ok().and_then(|proxy| proxy.uri().ok()).ok_or(()))
            .collect();
        let uris = uris.map_err(|()| refuse(400, "Bad Path"))?;
        if !uris.is_empty() && !has_token(request, "path") {
            // The contact would not know through whom its requests come (RFC 3327 5.3).
            return Err(Box::new(refuse(420, "Bad Extension").header(name::UNSUPPORTED, "path")));
        }
        if uris.len() > MAX_PATH || uris.iter().any(|uri| uri.as_str().len() > MAX_PATH_URI) {
            return Err(Box::new(refuse(400, "Path Too Long")));
        }
        let keeps_flows = match uris.last() {
            Some(nearest) => nearest.has_param("ob"),
            None => request.vias().count() == 1,
        };
        let path = uris.iter().map(|uri| format!("<{uri}>").into()).collect();
        Ok(Way { path, first: uris.into_iter().next(), keeps_flows })
    }
}

/// The client understands an extension.
fn has_token(request: &Message, tag: &str) -> bool {
    request.has_token(name::SUPPORTED, tag) || request.has_token(name::REQUIRE, tag)
}
