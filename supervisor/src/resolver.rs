//! The DNS server of the application, without its sockets: a query in, an answer out (RFC 1035, RFC 6891).
//!
//! Names that the policy knows have their virtual addresses, all others do not exist. The answer always fits in 512
//! octets: one question, at most one record and the OPT record.

use std::net::{Ipv4Addr, Ipv6Addr};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, RData, Record, RecordType};

/// What a name resolves to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// For A.
    pub v4: Ipv4Addr,
    /// For AAAA; None: the name has no IPv6 address.
    pub v6: Option<Ipv6Addr>,
}

/// How long the application may keep an answer, in seconds: a changed policy is seen soon.
const TTL: u32 = 10;

/// The datagrams that we take, in octets: what DNS Flag Day 2020 recommends.
const MAX_PAYLOAD: u16 = 1232;

/// Octets of a DNS header (RFC 1035 section 4.1.1).
const HEADER: usize = 12;

/// The answer to the DNS message `query`. `names` is asked with the name in lower case without the final dot.
///
/// None when `query` must not be answered: it is too short to have a header, or is no query itself.
pub fn answer(query: &[u8], names: &dyn Fn(&str) -> Option<Addresses>) -> Option<Vec<u8>> {
    let response = match Message::from_vec(query) {
        Ok(message) if message.metadata.message_type == MessageType::Response => return None,
        Ok(message) => respond(&message, names),
        Err(_) => malformed(query)?,
    };
    response.to_vec().ok()
}

fn respond(message: &Message, names: &dyn Fn(&str) -> Option<Addresses>) -> Message {
    let mut response = Message::response(message.metadata.id, message.metadata.op_code);
    response.metadata.recursion_desired = message.metadata.recursion_desired;
    response.metadata.recursion_available = true;
    response.metadata.checking_disabled = message.metadata.checking_disabled;
    response.add_queries(message.queries.iter().take(1).cloned());
    let version = message.edns.as_ref().map(Edns::version);
    if let Some(asked) = &message.edns {
        let mut edns = Edns::new();
        edns.set_max_payload(MAX_PAYLOAD).set_version(0).set_dnssec_ok(asked.flags().dnssec_ok);
        response.set_edns(edns);
    }
    response.metadata.response_code = match (&message.queries[..], message.metadata.op_code) {
        _ if version.is_some_and(|version| version > 0) => bad_version(&mut response),
        (_, op_code) if op_code != OpCode::Query => ResponseCode::NotImp,
        ([question], _) => look_up(question, names, &mut response),
        _ => {
            // Other than one question has no defined answer (RFC 9619).
            response.queries.clear();
            ResponseCode::FormErr
        }
    };
    response
}

/// RFC 6891 section 6.1.3: the upper bits of the code stand in the OPT record.
fn bad_version(response: &mut Message) -> ResponseCode {
    if let Some(edns) = &mut response.edns {
        edns.set_rcode_high(ResponseCode::BADVERS.high());
    }
    ResponseCode::BADVERS
}

/// Puts the records for `question` into `response`.
fn look_up(question: &Query, names: &dyn Fn(&str) -> Option<Addresses>, response: &mut Message) -> ResponseCode {
    // ANY asks for a copy of what there is; nobody needs it to connect.
    if question.query_class != DNSClass::IN || question.query_type == RecordType::ANY {
        return ResponseCode::Refused;
    }
    let name = question.name.to_lowercase().to_ascii();
    let name = name.strip_suffix('.').unwrap_or(&name);
    let Some(addresses) = local(name).or_else(|| names(name)) else { return ResponseCode::NXDomain };
    let data = match question.query_type {
        RecordType::A => Some(RData::A(addresses.v4.into())),
        RecordType::AAAA => addresses.v6.map(|v6| RData::AAAA(v6.into())),
        _ => None,
    };
    if let Some(data) = data {
        response.add_answer(Record::from_rdata(question.name.clone(), TTL, data));
    }
    ResponseCode::NoError
}

/// `localhost` and what is below it is the loopback, whatever anybody says (RFC 6761 section 6.3).
fn local(name: &str) -> Option<Addresses> {
    let local = name == "localhost" || name.ends_with(".localhost");
    local.then_some(Addresses { v4: Ipv4Addr::LOCALHOST, v6: Some(Ipv6Addr::LOCALHOST) })
}

/// The answer to what has a header and is broken after it.
fn malformed(query: &[u8]) -> Option<Message> {
    let &[id_high, id_low, flags, ..] = query.get(..HEADER)? else { return None };
    if flags & 0x80 != 0 {
        return None;
    }
    let id = u16::from_be_bytes([id_high, id_low]);
    Some(Message::error_msg(id, OpCode::from_u8((flags >> 3) & 0xf), ResponseCode::FormErr))
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::Name;

    use super::*;

    const GAME: Addresses =
        Addresses { v4: Ipv4Addr::new(198, 18, 3, 4), v6: Some(Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 7)) };
    const OLD: Addresses = Addresses { v4: Ipv4Addr::new(198, 19, 0, 9), v6: None };

    fn names(name: &str) -> Option<Addresses> {
        match name {
            "game.example" => Some(GAME),
            "old.example" => Some(OLD),
            // To be seen if asked about the names that are not anybody's to give.
            "localhost" | "a.localhost" => Some(GAME),
            _ => None,
        }
    }

    fn question(name: &str, kind: RecordType) -> Message {
        let mut message = Message::new(0xbeef, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        message
    }

    fn ask(message: &Message) -> Message {
        let bytes = answer(&message.to_vec().unwrap(), &names).expect("an answer");
        assert!(bytes.len() <= 512);
        let response = Message::from_vec(&bytes).unwrap();
        assert_eq!(response.metadata.id, message.metadata.id);
        assert_eq!(response.metadata.message_type, MessageType::Response);
        assert_eq!(response.metadata.op_code, message.metadata.op_code);
        response
    }

    #[test]
    fn names_have_their_records() {
        use RecordType::{A, AAAA, ANY, HTTPS, MX, PTR};
        use ResponseCode::{NXDomain, NoError, Refused};
        let v6 = |address: Option<Ipv6Addr>| address.map(|address| address.to_string());
        let v4 = |address: Ipv4Addr| Some(address.to_string());
        let cases = [
            ("game.example.", A, NoError, v4(GAME.v4)),
            ("GaMe.ExAmPlE.", A, NoError, v4(GAME.v4)),
            ("game.example.", AAAA, NoError, v6(GAME.v6)),
            ("old.example.", A, NoError, v4(OLD.v4)),
            ("old.example.", AAAA, NoError, None),
            ("game.example.", MX, NoError, None),
            ("game.example.", HTTPS, NoError, None),
            ("game.example.", ANY, Refused, None),
            ("other.example.", A, NXDomain, None),
            ("other.example.", AAAA, NXDomain, None),
            ("example.", A, NXDomain, None),
            ("x.game.example.", A, NXDomain, None),
            (".", A, NXDomain, None),
            ("4.3.18.198.in-addr.arpa.", PTR, NXDomain, None),
            ("localhost.", A, NoError, v4(Ipv4Addr::LOCALHOST)),
            ("LocalHost.", AAAA, NoError, v6(Some(Ipv6Addr::LOCALHOST))),
            ("a.localhost.", A, NoError, v4(Ipv4Addr::LOCALHOST)),
            ("notlocalhost.", A, NXDomain, None),
        ];
        for (name, kind, code, data) in cases {
            let asked = question(name, kind);
            let response = ask(&asked);
            let case = format!("{name} {kind}");
            assert_eq!(response.metadata.response_code, code, "{case}");
            assert_eq!(response.queries, asked.queries, "{case}");
            // Resolvers that mix the case of letters want the very same letters back.
            assert_eq!(response.queries[0].name.to_ascii(), name, "{case}");
            let answers: Vec<_> = response.answers.iter().map(|record| record.data.to_string()).collect();
            assert_eq!(answers, data.into_iter().collect::<Vec<_>>(), "{case}");
            assert!(response.answers.iter().all(|record| record.record_type() == kind && record.ttl == TTL), "{case}");
            assert!(response.authorities.is_empty() && response.additionals.is_empty(), "{case}");
            assert!(response.metadata.recursion_desired && response.metadata.recursion_available, "{case}");
            assert!(response.edns.is_none(), "{case}");
        }
    }

    #[test]
    fn edns_is_answered_by_edns() {
        for dnssec_ok in [false, true] {
            let mut asked = question("game.example.", RecordType::A);
            let mut edns = Edns::new();
            edns.set_max_payload(4096).set_dnssec_ok(dnssec_ok);
            asked.set_edns(edns);
            let response = ask(&asked);
            let edns = response.edns.expect("EDNS");
            assert_eq!((edns.version(), edns.max_payload()), (0, MAX_PAYLOAD));
            assert_eq!(edns.flags().dnssec_ok, dnssec_ok);
            assert_eq!(response.answers.len(), 1);
        }
    }

    #[test]
    fn a_later_edns_is_refused() {
        let mut asked = question("game.example.", RecordType::A);
        let mut edns = Edns::new();
        edns.set_version(1);
        asked.set_edns(edns);
        let response = ask(&asked);
        // The number is BADSIG's too, where a TSIG record is.
        assert_eq!(u16::from(response.metadata.response_code), 16);
        assert_eq!(response.edns.expect("EDNS").version(), 0);
        assert!(response.answers.is_empty());
    }

    #[test]
    fn what_is_no_question_of_ours() {
        let mut chaos = question("game.example.", RecordType::TXT);
        chaos.queries[0].query_class = DNSClass::CH;
        assert_eq!(ask(&chaos).metadata.response_code, ResponseCode::Refused);

        let mut status = question("game.example.", RecordType::A);
        status.metadata.op_code = OpCode::Status;
        assert_eq!(ask(&status).metadata.response_code, ResponseCode::NotImp);

        let mut none = question("game.example.", RecordType::A);
        none.queries.clear();
        assert_eq!(ask(&none).metadata.response_code, ResponseCode::FormErr);

        let mut two = question("game.example.", RecordType::A);
        two.add_query(two.queries[0].clone());
        let response = ask(&two);
        assert_eq!((response.metadata.response_code, response.answers.len()), (ResponseCode::FormErr, 0));

        let mut response = question("game.example.", RecordType::A);
        response.metadata.message_type = MessageType::Response;
        assert_eq!(answer(&response.to_vec().unwrap(), &names), None);
    }

    #[test]
    fn broken_queries() {
        let whole = question("game.example.", RecordType::A).to_vec().unwrap();
        for length in 0..whole.len() {
            let answered = answer(&whole[..length], &names);
            assert_eq!(answered.is_some(), length >= HEADER, "{length}");
            let Some(bytes) = answered else { continue };
            let response = Message::from_vec(&bytes).unwrap();
            assert_eq!(response.metadata.response_code, ResponseCode::FormErr, "{length}");
            assert_eq!(response.metadata.id, 0xbeef, "{length}");
        }
        // A name that points at itself, and one that points beyond the end.
        for pointer in [[0xc0, 12], [0xff, 0xff]] {
            let mut bytes = whole[..HEADER].to_vec();
            bytes.extend(pointer);
            bytes.extend([0, 1, 0, 1]);
            let response = Message::from_vec(&answer(&bytes, &names).unwrap()).unwrap();
            assert_eq!(response.metadata.response_code, ResponseCode::FormErr, "{pointer:?}");
        }
        // A broken response is answered by nobody: two servers would never end.
        let mut response = whole[..HEADER].to_vec();
        response[2] |= 0x80;
        assert_eq!(answer(&response, &names), None);
    }

    #[test]
    fn the_longest_name_fits() {
        let name = ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(61)].join(".") + ".";
        let mut asked = question(&name, RecordType::AAAA);
        asked.set_edns(Edns::new());
        let bytes = answer(&asked.to_vec().unwrap(), &|_| Some(GAME)).unwrap();
        assert!(bytes.len() <= 512, "{}", bytes.len());
        assert_eq!(Message::from_vec(&bytes).unwrap().answers.len(), 1);
    }

    #[test]
    fn garbage_never_panics() {
        let mut asked = question("game.example.", RecordType::AAAA);
        asked.set_edns(Edns::new());
        let whole = asked.to_vec().unwrap();
        let mut state = 0x5eed_0dd5_u64;
        let mut next = |bound: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) as usize % bound
        };
        for round in 0..50_000 {
            let mut bytes = if round % 4 == 0 { vec![0; next(600)] } else { whole.clone() };
            let random = bytes.len() * usize::from(round % 4 == 0) + 1 + next(5);
            for _ in 0..random.min(bytes.len() * 3) {
                let at = next(bytes.len());
                bytes[at] = next(256) as u8;
            }
            bytes.truncate(bytes.len() - next(3).min(bytes.len()));
            if let Some(answered) = answer(&bytes, &names) {
                assert!(answered.len() >= HEADER && answered[..2] == bytes[..2] && answered[2] & 0x80 != 0);
            }
        }
    }
}
