//! Dialogs (RFC 3261 12): the state that two user agents share between INVITE and BYE. Only what later requests need is kept.

use crate::message::{Message, Method, NameAddr, RequestBuilder, Uri, address, name};

/// One confirmed dialog.
#[derive(Debug, Clone)]
pub(crate) struct Dialog {
    call_id: Box<str>,
    local_tag: Box<str>,
    remote_tag: Option<Box<str>>,
    local_uri: Uri,
    remote_uri: Uri,
    remote_target: Uri,
    /// Route set in the order of sending.
    routes: Box<[Box<str>]>,
    local_cseq: u32,
    remote_cseq: Option<u32>,
}

/// How a dialog is found: Call-ID and our tag.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct DialogKey(Box<str>);

/// Where the requests of a dialog go first.
#[derive(Debug, Clone)]
pub(crate) enum Hop {
    Proxy(Uri),
    Target(Uri),
}

impl DialogKey {
    pub fn new(call_id: &str, local_tag: &str) -> Self {
        // No Call-ID has a space in it.
        DialogKey(format!("{call_id} {local_tag}").into_boxed_str())
    }

    /// The dialog that a request of the other side names.
    pub fn of_request(request: &Message) -> Option<Self> {
        Some(DialogKey::new(request.call_id().ok()?, request.to_tag()?))
    }
}

impl Dialog {
    /// The caller's side: a 2xx to our INVITE, which repeats what the INVITE said (RFC 3261 12.1.2).
    pub fn of_caller(response: &Message) -> Option<Self> {
        let routes: Option<Vec<Box<str>>> = response.record_routes().map(|route| route_text(route.ok()?)).collect();
        let mut routes = routes?;
        routes.reverse();
        Some(Dialog {
            call_id: response.call_id().ok()?.into(),
            local_tag: response.from_tag()?.into(),
            remote_tag: response.to_tag().map(Into::into),
            local_uri: response.from().ok()?.uri().ok()?,
            remote_uri: response.to().ok()?.uri().ok()?,
            remote_target: response.contacts().next()?.ok()?.uri().ok()?,
            routes: routes.into_boxed_slice(),
            local_cseq: response.cseq().ok()?.number,
            remote_cseq: None,
        })
    }

    /// The called side: an INVITE, answered with `local_tag` (RFC 3261 12.1.1).
    pub fn of_called(request: &Message, local_tag: &str) -> Option<Self> {
        let routes: Option<Vec<Box<str>>> = request.record_routes().map(|route| route_text(route.ok()?)).collect();
        Some(Dialog {
            call_id: request.call_id().ok()?.into(),
            local_tag: local_tag.into(),
            remote_tag: request.from_tag().map(Into::into),
            local_uri: request.to().ok()?.uri().ok()?,
            remote_uri: request.from().ok()?.uri().ok()?,
            remote_target: request.contacts().next()?.ok()?.uri().ok()?,
            routes: routes?.into_boxed_slice(),
            local_cseq: 0,
            remote_cseq: Some(request.cseq().ok()?.number),
        })
    }

    pub fn key(&self) -> DialogKey {
        DialogKey::new(&self.call_id, &self.local_tag)
    }

    pub fn remote_tag(&self) -> Option<&str> {
        self.remote_tag.as_deref()
    }

    /// Who the other side is.
    pub fn remote_uri(&self) -> &Uri {
        &self.remote_uri
    }

    /// Where its requests go: the first proxy on the way, else the other side itself.
    pub fn next_hop(&self) -> Hop {
        match self.routes.first().and_then(|route| route_uri(route)) {
            Some(proxy) => Hop::Proxy(proxy),
            None => Hop::Target(self.remote_target.clone()),
        }
    }

    /// A request of the other side within this dialog: the tag must match and CSeq must not go backwards (RFC 3261 12.2.2).
    /// The error is the status owed.
    pub fn admit(&mut self, request: &Message) -> Result<(), u16> {
        if request.from_tag() != self.remote_tag() {
            return Err(481);
        }
        let number = request.cseq().map_err(|_| 400u16)?.number;
        if self.remote_cseq.is_some_and(|last| number < last) {
            return Err(500);
        }
        self.remote_cseq = Some(number);
        Ok(())
    }

    /// A target refresh: the other side may be at another place now (RFC 3261 12.2.1.2, 12.2.2).
    pub fn retarget(&mut self, message: &Message) {
        if let Some(Ok(contact)) = message.contacts().next()
            && let Ok(uri) = contact.uri()
        {
            self.remote_target = uri;
        }
    }

    /// The next request within the dialog (RFC 3261 12.2.1.1).
    pub fn request(&mut self, method: Method) -> RequestBuilder {
        let cseq = self.next_cseq();
        self.numbered(method, cseq)
    }

    /// The CSeq number of the next request.
    pub fn next_cseq(&mut self) -> u32 {
        self.local_cseq += 1;
        self.local_cseq
    }

    /// Our requests have come up to this CSeq number.
    pub fn counted(&mut self, cseq: u32) {
        self.local_cseq = self.local_cseq.max(cseq);
    }

    /// ACK for the 2xx to our INVITE, which had the CSeq number `cseq` (RFC 3261 13.2.2.4).
    pub fn ack(&self, cseq: u32) -> RequestBuilder {
        self.numbered(Method::Ack, cseq)
    }

    fn numbered(&self, method: Method, cseq: u32) -> RequestBuilder {
        let first = self.routes.first().and_then(|route| route_uri(route));
        // A first route without lr is a strict router: it wants to be the Request-URI.
        let strict = first.filter(|uri| !uri.has_param("lr"));
        let mut request = Message::request(method.clone(), strict.as_ref().unwrap_or(&self.remote_target));
        for route in self.routes.iter().skip(usize::from(strict.is_some())) {
            request = request.header(name::ROUTE, route);
        }
        if strict.is_some() {
            request = request.header(name::ROUTE, address(None, &self.remote_target, &[]));
        }
        let to_tag: &[(&str, Option<&str>)] = match &self.remote_tag {
            Some(tag) => &[("tag", Some(tag))],
            None => &[],
        };
        request
            .header(name::MAX_FORWARDS, 70)
            .header(name::FROM, address(None, &self.local_uri, &[("tag", Some(&self.local_tag))]))
            .header(name::TO, address(None, &self.remote_uri, to_tag))
            .header(name::CALL_ID, &self.call_id)
            .header(name::CSEQ, format_args!("{cseq} {method}"))
    }
}

fn route_text(route: NameAddr<'_>) -> Option<Box<str>> {
    let params = std::str::from_utf8(route.params.raw()).ok()?;
    Some(format!("<{}>{params}", route.uri_text()).into_boxed_str())
}

fn route_uri(route: &str) -> Option<Uri> {
    route.strip_prefix('<')?.split('>').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invite() -> Message {
        let text = "INVITE sip:bob@b.example SIP/2.0\r\nVia: SIP/2.0/UDP a;branch=z9hG4bK1\r\nMax-Forwards: 70\r\n\
            Record-Route: <sip:p2.example;lr>, <sip:p1.example;lr>\r\nFrom: <sip:alice@a.example>;tag=aa\r\n\
            To: <sip:bob@b.example>\r\nCall-ID: c1\r\nCSeq: 7 INVITE\r\nContact: <sip:alice@10.0.0.1:5062>\r\n\r\n";
        Message::parse_datagram(text.into()).unwrap()
    }

    fn answer(record_route: &str) -> Message {
        let mut answer = Message::response_to(&invite(), 200, "OK").to_tag("bb").build();
        answer.push(name::CONTACT, "<sip:bob@10.0.0.2:5063>");
        answer.set(name::RECORD_ROUTE, record_route);
        answer
    }

    #[test]
    fn the_caller_reverses_the_record_route() {
        let dialog = Dialog::of_caller(&answer("<sip:p2.example;lr>, <sip:p1.example;lr>")).unwrap();
        let ack = dialog.ack(7).build();
        assert_eq!(ack.start_line(), "ACK sip:bob@10.0.0.2:5063 SIP/2.0");
        let routes: Vec<_> = ack.routes().map(|route| route.unwrap().uri_text().to_string()).collect();
        assert_eq!(routes, ["sip:p1.example;lr", "sip:p2.example;lr"]);
        assert_eq!((ack.from_tag(), ack.to_tag()), (Some("aa"), Some("bb")));
        assert_eq!(ack.cseq().unwrap().to_string(), "7 ACK");
    }

    #[test]
    fn a_strict_router_becomes_the_request_uri() {
        let mut dialog = Dialog::of_caller(&answer("<sip:p2.example;lr>, <sip:p1.example>")).unwrap();
        let bye = dialog.request(Method::Bye).build();
        assert_eq!(bye.start_line(), "BYE sip:p1.example SIP/2.0");
        let routes: Vec<_> = bye.routes().map(|route| route.unwrap().uri_text().to_string()).collect();
        assert_eq!(routes, ["sip:p2.example;lr", "sip:bob@10.0.0.2:5063"]);
        assert_eq!(bye.cseq().unwrap().to_string(), "8 BYE");
    }

    #[test]
    fn the_called_side_admits_what_belongs_to_it() {
        let mut dialog = Dialog::of_called(&invite(), "bb").unwrap();
        let bye = |tag: &str, cseq: u32| {
            Message::request(Method::Bye, &"sip:bob@b.example".parse().unwrap())
                .header(name::FROM, format_args!("<sip:alice@a.example>;tag={tag}"))
                .header(name::TO, "<sip:bob@b.example>;tag=bb")
                .header(name::CALL_ID, "c1")
                .header(name::CSEQ, format_args!("{cseq} BYE"))
                .build()
        };
        assert_eq!(DialogKey::of_request(&bye("aa", 8)), Some(dialog.key()));
        assert_eq!(dialog.admit(&bye("xx", 8)), Err(481));
        assert_eq!(dialog.admit(&bye("aa", 6)), Err(500));
        assert_eq!(dialog.admit(&bye("aa", 8)), Ok(()));
        let ours = dialog.request(Method::Bye).build();
        assert_eq!(ours.start_line(), "BYE sip:alice@10.0.0.1:5062 SIP/2.0");
        assert_eq!((ours.from_tag(), ours.to_tag()), (Some("bb"), Some("aa")));
    }
}
