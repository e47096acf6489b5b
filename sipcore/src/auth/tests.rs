//! Client and server against each other, in virtual time.

use std::time::{Duration, Instant};

use super::*;
use crate::message::{Message, Method, name};

fn request(method: Method) -> Message {
    Message::request(method, &"sip:sipbox.invalid".parse().unwrap()).header("Call-ID", "1").build()
}

fn password(user: &str) -> Option<String> {
    (user == "alice").then(|| "s\"e,c:ret".to_owned())
}

fn client(password: &str) -> DigestClient {
    DigestClient::new(Credentials::new("alice", password), [7; 32])
}

fn challenged(server: &mut DigestServer, request: &Message, stale: bool, now: Instant) -> Message {
    let mut response = Message::response_to(request, server.status(), "Unauthorized");
    for (name, value) in server.challenge(stale, now) {
        response = response.header(name, value);
    }
    response.build()
}

fn accepted() -> Verdict {
    Verdict::Accepted { username: "alice".into() }
}

#[test]
fn challenge_answer_and_reuse() {
    for proxy in [false, true] {
        let now = Instant::now();
        let mut server = DigestServer::new("sip \"box\"", proxy, [1; 32], now);
        let mut client = client("s\"e,c:ret");
        let mut register = request(Method::Register);
        client.authorize(&mut register);
        assert_eq!(server.verify(&register, now, password), Verdict::Missing);
        let response = challenged(&mut server, &register, false, now);
        client.retry(&mut register, &response).unwrap();
        assert_eq!(server.verify(&register, now, password), accepted());
        let header = if proxy { name::PROXY_AUTHORIZATION } else { name::AUTHORIZATION };
        assert!(register.header(header).unwrap().text().contains("algorithm=SHA-256"));
        // The same bytes again are a replay.
        assert_eq!(server.verify(&register, now, password), Verdict::Stale);
        for nc in 2..200 {
            let mut next = request(Method::Invite);
            client.authorize(&mut next);
            assert!(next.header(header).unwrap().text().contains(&format!("nc={nc:08x}")));
            assert_eq!(server.verify(&next, now, password), accepted());
        }
    }
}

/// What a registrar has asked for is told to the proxy too, which most often is the same server: it need not ask.
#[test]
fn a_proxy_of_the_same_realm_need_not_ask() {
    let now = Instant::now();
    let mut server = DigestServer::new("r", false, [1; 32], now);
    let mut client = client("s\"e,c:ret");
    let mut register = request(Method::Register);
    let response = challenged(&mut server, &register, false, now);
    client.retry(&mut register, &response).unwrap();
    assert_eq!(server.verify(&register, now, password), accepted());
    assert!(register.header(name::PROXY_AUTHORIZATION).is_none());
    for _ in 0..3 {
        let mut invite = request(Method::Invite);
        client.authorize(&mut invite);
        assert_eq!(server.asking(true).verify(&invite, now, password), accepted());
        assert_eq!(server.verify(&invite, now, password), Verdict::Stale, "a use is a use");
    }
    // Another server, which does not know the nonce, asks all the same, and is answered.
    let mut other = DigestServer::new("r", true, [9; 32], now);
    let mut invite = request(Method::Invite);
    client.authorize(&mut invite);
    assert_eq!(other.verify(&invite, now, password), Verdict::Stale);
    let response = challenged(&mut other, &invite, true, now);
    client.retry(&mut invite, &response).unwrap();
    assert_eq!(invite.headers_named(name::PROXY_AUTHORIZATION).count(), 1);
    assert_eq!(other.verify(&invite, now, password), accepted());
}

#[test]
fn requests_that_overtake_each_other() {
    let now = Instant::now();
    let mut server = DigestServer::new("r", false, [1; 32], now);
    let mut client = client("s\"e,c:ret");
    let mut first = request(Method::Register);
    let response = challenged(&mut server, &first, false, now);
    client.retry(&mut first, &response).unwrap();
    let mut sent: Vec<_> = (0..100).map(|_| request(Method::Options)).collect();
    sent.iter_mut().for_each(|m| client.authorize(m));
    assert_eq!(server.verify(&sent[80], now, password), accepted());
    assert_eq!(server.verify(&sent[79], now, password), accepted());
    assert_eq!(server.verify(&sent[79], now, password), Verdict::Stale);
    assert_eq!(server.verify(&sent[17], now, password), accepted());
    assert_eq!(server.verify(&sent[16], now, password), Verdict::Stale);
    assert_eq!(server.verify(&sent[99], now, password), accepted());
    assert_eq!(server.verify(&sent[80], now, password), Verdict::Stale);
}

#[test]
fn an_old_nonce_is_stale_and_replaced() {
    let now = Instant::now();
    let mut server = DigestServer::new("r", false, [1; 32], now);
    let mut client = client("s\"e,c:ret");
    let mut register = request(Method::Register);
    let response = challenged(&mut server, &register, false, now);
    client.retry(&mut register, &response).unwrap();
    let later = now + Duration::from_secs(301);
    assert_eq!(server.verify(&register, later, password), Verdict::Stale);
    let response = challenged(&mut server, &register, true, later);
    client.retry(&mut register, &response).unwrap();
    assert_eq!(register.headers_named("Authorization").count(), 1);
    assert_eq!(server.verify(&register, later, password), accepted());
    // A server that never is content does not keep the client busy forever.
    let response = challenged(&mut server, &register, true, later);
    client.retry(&mut register, &response).unwrap();
    let response = challenged(&mut server, &register, true, later);
    assert_eq!(client.retry(&mut register, &response), Err(AuthError::AlwaysStale { realm: "r".into() }));
}

#[test]
fn a_wrong_password_ends_it() {
    let now = Instant::now();
    let mut server = DigestServer::new("r", false, [1; 32], now);
    let mut client = client("wrong");
    let mut register = request(Method::Register);
    let response = challenged(&mut server, &register, false, now);
    client.retry(&mut register, &response).unwrap();
    assert!(matches!(server.verify(&register, now, password), Verdict::Refused(_)));
    assert!(matches!(server.verify(&register, now, |_| None::<Stored>), Verdict::Refused(_)));
    let response = challenged(&mut server, &register, false, now);
    assert_eq!(client.retry(&mut register, &response), Err(AuthError::BadCredentials { realm: "r".into() }));
    assert_eq!(client.retry(&mut register, &Message::response(401, "").build()), Err(AuthError::Unsupported));
}

#[test]
fn a_nonce_reused_after_a_restart_of_the_server_is_not_a_wrong_password() {
    let now = Instant::now();
    let mut server = DigestServer::new("r", false, [1; 32], now);
    let mut client = client("s\"e,c:ret");
    let mut register = request(Method::Register);
    let response = challenged(&mut server, &register, false, now);
    client.retry(&mut register, &response).unwrap();
    let mut again = request(Method::Register);
    client.authorize(&mut again);
    let mut server = DigestServer::new("r", false, [2; 32], now);
    assert_eq!(server.verify(&again, now, password), Verdict::Stale);
    let response = challenged(&mut server, &again, false, now);
    client.retry(&mut again, &response).unwrap();
    assert_eq!(server.verify(&again, now, password), accepted());
}

#[test]
fn answers_for_something_else() {
    let now = Instant::now();
    let mut server = DigestServer::new("r", false, [1; 32], now);
    let mut client = client("s\"e,c:ret");
    let mut register = request(Method::Register);
    let response = challenged(&mut server, &register, false, now);
    client.retry(&mut register, &response).unwrap();
    let value = register.header("Authorization").unwrap().text().into_owned();
    let mut verify = |value: String, method: Method, uri: &str| {
        let forged = Message::request(method, &uri.parse().unwrap()).header("Authorization", value).build();
        server.verify(&forged, now, password)
    };
    let uri = "sip:sipbox.invalid";
    assert!(matches!(verify(value.clone(), Method::Invite, uri), Verdict::Refused(_)));
    assert!(matches!(verify(value.clone(), Method::Register, "sip:other.invalid"), Verdict::Refused(_)));
    assert!(matches!(verify(value.replace("nc=00000001", "nc=1"), Method::Register, uri), Verdict::Refused(_)));
    assert!(matches!(verify(value.replace("qop=auth", "qop=new"), Method::Register, uri), Verdict::Refused(_)));
    assert!(matches!(verify(value.replace("SHA-256", "SHA-512"), Method::Register, uri), Verdict::Refused(_)));
    assert_eq!(verify(value.replace("realm=\"r\"", "realm=\"x\""), Method::Register, uri), Verdict::Missing);
    assert_eq!(verify(value.clone(), Method::Register, "sip:SIPBOX.invalid;x=1"), accepted());
    // A nonce of our own making, however well the digest is computed.
    let mut other = DigestServer::new("r", false, [9; 32], now);
    let mut register = request(Method::Register);
    let response = challenged(&mut other, &register, false, now);
    client.retry(&mut register, &response).unwrap();
    assert_eq!(server.verify(&register, now, password), Verdict::Stale);
}

#[test]
fn memory_is_bounded() {
    let now = Instant::now();
    let mut server = DigestServer::new("r", false, [1; 32], now);
    let mut first = None;
    for _ in 0..4200 {
        let mut client = client("s\"e,c:ret");
        let mut register = request(Method::Register);
        let response = challenged(&mut server, &register, false, now);
        client.retry(&mut register, &response).unwrap();
        assert_eq!(server.verify(&register, now, password), accepted());
        first.get_or_insert((client, register));
    }
    let (mut client, replay) = first.unwrap();
    assert_eq!(server.verify(&replay, now, password), Verdict::Stale);
    let mut next = request(Method::Options);
    client.authorize(&mut next);
    assert_eq!(server.verify(&next, now, password), Verdict::Stale);
}

#[test]
fn the_password_is_not_shown() {
    assert!(!format!("{:?}", Credentials::new("alice", "hunter2")).contains("hunter2"));
}

#[test]
fn the_next_nonce_is_used_from_the_first_time_on() {
    let now = Instant::now();
    let mut server = DigestServer::new("r", false, [1; 32], now);
    let mut client = client("s\"e,c:ret");
    let mut register = request(Method::Register);
    let response = challenged(&mut server, &register, false, now);
    client.retry(&mut register, &response).unwrap();
    let told = Message::response_to(&register, 200, "OK")
        .header(name::AUTHENTICATION_INFO, "nextnonce=\"fresh\", qop=auth, rspauth=\"x\", nc=00000001")
        .build();
    client.accepted(&told);
    for nc in ["nc=00000001", "nc=00000002"] {
        let mut next = request(Method::Register);
        client.authorize(&mut next);
        let said = next.header(name::AUTHORIZATION).unwrap().text().into_owned();
        assert!(said.contains("nonce=\"fresh\"") && said.contains(nc), "{said}");
        client.accepted(&told);
    }
}

#[test]
fn a_server_that_keeps_hashes_needs_no_password() {
    let now = Instant::now();
    for kept in [Algorithm::Md5, Algorithm::Sha256] {
        let mut server = DigestServer::new("r", false, [1; 32], now);
        let mut client = client("s\"e,c:ret");
        let mut register = request(Method::Register);
        let response = challenged(&mut server, &register, false, now);
        client.retry(&mut register, &response).unwrap();
        let hashes =
            |user: &str| (user == "alice").then(|| Stored::Hashes(vec![(kept, ha1(kept, "alice", "r", "s\"e,c:ret"))]));
        // The client has chosen SHA-256: a user of whom there is no such hash is refused.
        let right = kept == Algorithm::Sha256;
        assert_eq!(server.verify(&register, now, hashes) == accepted(), right);
    }
}
