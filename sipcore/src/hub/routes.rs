//! Where a request goes next (RFC 3261 16.4, 16.5, 16.12), and the Record-Route by which later requests come back (16.6).

use super::foreign::whom;
use super::gruu;
use super::home::HomeProxy;
use super::location::{Contact, Lookup, address_of, transport_of};
use crate::auth::hmac;
use crate::message::{Message, Uri, name};
use crate::transport::{Flow, Transport};
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::time::Instant;

/// The URI parameter that marks a route as made here for the dialog of one Call-ID and caller.
const SEAL: &str = "s";

/// One place that a request is sent to.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub flow: Flow,
    /// The new Request-URI; `None`: it stays.
    pub uri: Option<Uri>,
    /// The proxies on the way (RFC 3327 5.4), in the order of Route.
    pub path: Box<[Box<str>]>,
    /// Other flows of the same agent, to be tried when this one turns out to be lost (RFC 5626 5.3).
    pub others: Vec<Target>,
}

impl From<Contact> for Target {
    fn from(Contact { uri, flow, path, .. }: Contact) -> Self {
        Target { flow, uri: Some(uri), path, others: Vec::new() }
    }
}

/// What follows from Request-URI and Route.
pub(super) enum Destination {
    /// The hub itself.
    Here,
    /// These places.
    Targets(Vec<Target>),
    /// Where the domain of this URI is.
    Elsewhere(Uri),
    /// Nowhere: status and reason.
    Nowhere(u16, &'static str),
}

/// A request whose own routes have been taken off.
pub(super) struct Routed {
    pub destination: Destination,
    /// It came on a route that was made here for this dialog.
    pub sealed: bool,
}

impl HomeProxy {
    /// Takes our entries off the Route and finds the destination.
    pub(super) fn route(&self, now: Instant, flow: Flow, request: &mut Message) -> Routed {
        let mut sealed = false;
        // A strict router before us has put our own route into the Request-URI; the last Route is the true one (16.4).
        if let Ok(uri) = request.request_uri()
            && self.is_ours(&uri)
            && uri.has_param(SEAL)
        {
            sealed |= self.is_sealed(request, &uri);
            if let Some(last) = pop_last_route(request) {
                request.set_request_uri(&last);
            }
        }
        while let Some(top) = top_route(request).filter(|uri| self.is_ours(uri)) {
            sealed |= self.is_sealed(request, &top);
            request.pop_first(name::ROUTE);
        }
        // The mark is of a dialog, and what begins one is not within it: else a Call-ID seen once would be a way for everything and for ever.
        sealed &= request.to_tag().is_some();
        let destination = match (top_route(request), request.request_uri()) {
            (Some(next), _) => self.direct(flow, request, &next, sealed),
            (None, Ok(uri)) if !uri.is_sip() => Destination::Nowhere(416, "Unsupported URI Scheme"),
            (None, Ok(uri)) if !self.is_ours(&uri) => self.direct(flow, request, &uri, sealed),
            (None, Ok(uri)) if uri.user().is_none() => Destination::Here,
            (None, Ok(uri)) => self.contacts(now, &uri),
            (None, Err(_)) => Destination::Nowhere(400, "Bad Request-URI"),
        };
        Routed { destination, sealed }
    }

    pub(super) fn contacts(&self, now: Instant, uri: &Uri) -> Destination {
        let found = match gruu::instance_of(uri) {
            Some(instance) => self.location.reach_instance(&self.record(uri), &instance, now),
            None if uri.has_param("gr") => match uri.user_decoded().and_then(|user| self.mint.read(&user)) {
                Some(handle) => self.location.reach_handle(handle, now),
                None => Lookup::Unknown,
            },
            None => self.location.reach(&self.record(uri), now),
        };
        match found {
            Lookup::Unknown => Destination::Nowhere(404, "Not Found"),
            Lookup::Absent => Destination::Nowhere(480, "Temporarily Unavailable"),
            Lookup::Bound(bindings) => {
                let record = self.record(uri);
                let target = |contact: Contact| {
                    let others = self.location.other_flows(&contact, &record, now);
                    Target { others: others.into_iter().map(Target::from).collect(), ..Target::from(contact) }
                };
                Destination::Targets(bindings.into_iter().map(|binding| target(binding.contact)).collect())
            }
        }
    }

    /// To a URI that is not ours: only to a contact that is bound here, or within a dialog that went through here.
    fn direct(&self, flow: Flow, request: &Message, uri: &Uri, sealed: bool) -> Destination {
        let transport = transport_of(uri);
        // What the operator calls another domain is nobody's here, whatever contacts say.
        let known = (!self.foreign.leads_to(uri)).then(|| self.location.flow_to(uri)).flatten();
        let target = match (known, address_of(uri)) {
            (Some(known), _) => known,
            // Within a dialog that goes through here, or where the operator lets users go. Without other domains nobody asks DNS.
            (None, None) if (sealed && self.foreign.is_open()) || self.foreign.leads_to(uri) => {
                return Destination::Elsewhere(uri.clone());
            }
            (None, None) => return Destination::Nowhere(404, "Not Our Domain"),
            (None, Some(_)) if !sealed && self.foreign.leads_to(uri) => return Destination::Elsewhere(uri.clone()),
            // To another domain by TLS: whoever is there has to show that he is of it.
            (None, Some(addr)) if sealed && transport == Transport::Tls => {
                match whom(request).and_then(|whom| self.foreign.gate_to(&whom, addr.ip())) {
                    Some(local) => Flow { transport, local, remote: addr },
                    None => Flow { transport, local: self.local_for(transport, addr.ip(), flow.local), remote: addr },
                }
            }
            (None, Some(addr)) if sealed => {
                Flow { transport, local: self.local_for(transport, addr.ip(), flow.local), remote: addr }
            }
            (None, Some(_)) => return Destination::Nowhere(403, "Relaying Is Not Allowed"),
        };
        Destination::Targets(vec![Target { flow: target, uri: None, path: Box::default(), others: Vec::new() }])
    }

    /// The listening point from which an address is reached.
    pub(super) fn local_for(&self, transport: Transport, ip: IpAddr, preferred: u16) -> u16 {
        let fits = |local: u16| {
            let point = self.own.get(usize::from(local));
            point.is_some_and(|point| point.addr.is_ipv4() == ip.is_ipv4() && point.carries(transport))
        };
        let all = 0..self.own.len() as u16;
        std::iter::once(preferred).chain(all).find(|local| fits(*local)).unwrap_or(preferred)
    }

    /// Puts us on the route of the dialog; twice when the request leaves by another way than it came (RFC 5658).
    pub(super) fn record_route(&self, request: &mut Message, came: Flow, leaves: Flow) {
        // Within the dialog that is not always the caller's, but by then the routes of both ends are made.
        let seal = self.seal(request, request.from_tag().unwrap_or_default());
        let mut put = |flow: Flow| {
            let transport = flow.transport.as_param().map(|name| format!(";transport={name}")).unwrap_or_default();
            let value = format!("<sip:{}{transport};lr;{SEAL}={seal}>", self.layer.sent_by(flow.local));
            request.push_front(name::RECORD_ROUTE, value);
        };
        put(came);
        if (came.local, came.transport) != (leaves.local, leaves.transport) {
            put(leaves);
        }
    }

    /// A route was made here for the dialog of a request: the caller's tag is the one of From in his requests, and of To in those of the called end.
    fn is_sealed(&self, request: &Message, route: &Uri) -> bool {
        let Some(said) = route.param(SEAL) else { return false };
        let tags = [request.from_tag(), request.to_tag()];
        tags.into_iter().flatten().any(|tag| self.seal(request, tag) == said)
    }

    fn seal(&self, request: &Message, caller_tag: &str) -> String {
        // No Call-ID has a space in it.
        let dialog = format!("{} {caller_tag}", request.call_id().unwrap_or_default());
        let mac = hmac(&self.seal_key, dialog.as_bytes());
        mac.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }

    /// What a branch of ours says about the request that it carries on (RFC 3261 16.6 step 8).
    pub(super) fn mark(&self, request: &Message) -> u32 {
        let routes: Vec<&[u8]> = request.elements(name::ROUTE).collect();
        self.key.hash_one((request.request_uri_raw(), routes, request.call_id().unwrap_or_default())) as u32
    }
}

fn top_route(request: &Message) -> Option<Uri> {
    request.routes().next()?.ok()?.uri().ok()
}

fn pop_last_route(request: &mut Message) -> Option<Uri> {
    let mut routes: Vec<String> =
        request.elements(name::ROUTE).map(|route| String::from_utf8_lossy(route).into_owned()).collect();
    let last = request.routes().last()?.ok()?.uri().ok()?;
    routes.pop();
    request.remove(name::ROUTE);
    for route in routes {
        request.push(name::ROUTE, route);
    }
    Some(last)
}
