//! What a registrar says of our registration in its 200: GRUU (RFC 5627), Service-Route (RFC 3608), P-Associated-URI (RFC 7315 4.1), and whether
//! flows are kept (RFC 5626 4.2.1).

use crate::message::{Message, NameAddr, Uri, name};
use crate::presence::WATCHERS_OPTION;
use crate::presence::event::REG;
use std::time::Duration;

/// The longest route and the longest list of identities that is taken from a registrar.
const MAX_ENTRIES: usize = 16;

/// The service that the binding comes with. The default is what holds without a binding.
#[derive(Debug, Default)]
pub(super) struct Service {
    /// The URI that leads to just this agent.
    pub gruu: Option<Uri>,
    /// The proxies that requests of ours have to go through, in the order of Route.
    pub route: Box<[Box<str>]>,
    /// Requests reach us on the flow that we registered on.
    pub outbound: bool,
    /// How long a flow without any sign of life is kept at the other end.
    pub flow_timer: Option<Duration>,
    /// Who we are to others, when it is not our address of record.
    pub identity: Option<Uri>,
    /// The presence server decides for each watcher by what we tell it of who may know.
    pub watchers: bool,
    /// Who is registered is told what becomes of it (RFC 3680): it says so (RFC 6665 8.2.2), or is an IMS, where everybody has to ask (3GPP TS 24.229
    /// 5.1.1.3).
    pub tells_registrations: bool,
}

impl Service {
    /// Reads a 200 to REGISTER. `contact` is ours in it, if there is one.
    pub fn of(response: &Message, contact: Option<&NameAddr<'_>>, aor: &Uri) -> Self {
        let gruu = contact.and_then(|contact| contact.params.get("pub-gruu")).and_then(|uri| uri.parse::<Uri>().ok());
        let routes = response.addresses(name::SERVICE_ROUTE).flatten().take(MAX_ENTRIES);
        let identities: Vec<Uri> = response
            .addresses(name::P_ASSOCIATED_URI)
            .flatten()
            .filter_map(|identity| identity.uri().ok())
            .take(MAX_ENTRIES)
            .collect();
        let barred = !identities.iter().any(|identity| identity.equivalent(aor));
        Service {
            gruu: gruu.filter(|gruu| gruu.is_sip() && gruu.has_param("gr")),
            route: routes.map(|route| format!("<{}>", route.uri_text()).into()).collect(),
            outbound: response.has_token(name::REQUIRE, "outbound"),
            flow_timer: response.seconds(FLOW_TIMER).map(|seconds| Duration::from_secs(seconds.into())),
            identity: identities.into_iter().next().filter(|_| barred),
            watchers: response.has_token(name::SUPPORTED, WATCHERS_OPTION),
            tells_registrations: response.has_token(name::ALLOW_EVENTS, REG)
                || response.header(name::P_ASSOCIATED_URI).is_some(),
        }
    }
}

/// RFC 5626 10.
const FLOW_TIMER: &str = "Flow-Timer";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_registrar_grants() {
        let aor: Uri = "sip:bob@home.example".parse().unwrap();
        let response = Message::response(200, "OK")
            .header(name::CONTACT, "<sip:bob@10.0.0.2:5062>;pub-gruu=\"sip:bob@home.example;gr=urn:uuid:1\";expires=60")
            .header(name::SERVICE_ROUTE, "<sip:p1.home.example;lr>, <sip:p2.home.example;lr>")
            .header(name::P_ASSOCIATED_URI, "<sip:robert@home.example>, <tel:+1234>")
            .header(name::REQUIRE, "outbound")
            .header(FLOW_TIMER, 30)
            .build();
        let contact = response.contacts().next().unwrap().unwrap();
        let service = Service::of(&response, Some(&contact), &aor);
        assert_eq!(service.gruu.unwrap().as_str(), "sip:bob@home.example;gr=urn:uuid:1");
        assert_eq!(*service.route, ["<sip:p1.home.example;lr>".into(), "<sip:p2.home.example;lr>".into()]);
        assert_eq!((service.outbound, service.flow_timer), (true, Some(Duration::from_secs(30))));
        assert_eq!(service.identity.unwrap().as_str(), "sip:robert@home.example");
        assert!(service.tells_registrations && !Service::default().tells_registrations);
        let ours =
            Message::response(200, "OK").header(name::P_ASSOCIATED_URI, "<sip:x@y>, <sip:bob@home.example>").build();
        let service = Service::of(&ours, None, &aor);
        assert_eq!((service.identity, service.gruu, service.outbound), (None, None, false));
    }
}
