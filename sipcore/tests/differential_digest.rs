//! Digest authentication against the crate digest_auth 0.3, which is of others and was made for HTTP: each side answers and checks what the other says, for
//! every algorithm of RFC 8760 and every quality of protection of RFC 7616.
#![allow(clippy::unwrap_used)]

use digest_auth::{AuthContext, AuthorizationHeader, HttpMethod, WwwAuthenticateHeader};
use sipcore::auth::{Algorithm, Credentials, DigestClient, DigestServer, Verdict};
use sipcore::message::{Message, Method, name};
use std::time::Instant;

const ALGORITHMS: [Algorithm; 3] = [Algorithm::Md5, Algorithm::Sha256, Algorithm::Sha512_256];
const USER: &str = "bob";
const PASSWORD: &str = "Secret, \u{e4} or not?";
const REALM: &str = "sipbox.test";
const URI: &str = "sip:sipbox.test";

fn request(body: &[u8]) -> Message {
    Message::request(Method::Publish, &URI.parse().unwrap())
        .header(name::VIA, "SIP/2.0/UDP 10.0.0.2;branch=z9hG4bKx")
        .header(name::FROM, "<sip:bob@sipbox.test>;tag=1")
        .header(name::TO, "<sip:bob@sipbox.test>")
        .header(name::CALL_ID, "x")
        .header(name::CSEQ, "1 PUBLISH")
        .body("application/pidf+xml", body.to_vec())
        .build()
}

fn theirs<'a>(password: &'a str, body: &'a [u8]) -> AuthContext<'a> {
    AuthContext::new_with_method(USER, password, URI, Some(body), HttpMethod::from("PUBLISH"))
}

/// What we answer is what they find right: with and without a body, for the first and the later uses of a nonce.
#[test]
fn they_check_what_we_answer() {
    for algorithm in ALGORITHMS {
        for (qop, body) in [
            (None, &b""[..]),
            (Some("auth"), b"<presence/>"),
            (Some("auth-int"), b""),
            (Some("auth-int"), b"<presence/>"),
            (Some("auth-int"), b"\xff\0\r\nany bytes"),
        ] {
            let context = format!("{algorithm} {qop:?} {body:?}");
            let offered = qop.map(|qop| format!(", qop=\"{qop}\"")).unwrap_or_default();
            let challenge =
                format!("Digest realm=\"{REALM}\", nonce=\"n0/+=\", opaque=\"o\", algorithm={algorithm}{offered}");
            let mut client = DigestClient::new(Credentials::new(USER, PASSWORD), [7; 32]);
            let mut first = request(body);
            let refusal = Message::response_to(&first, 401, "Unauthorized").header(name::WWW_AUTHENTICATE, challenge);
            client.retry(&mut first, &refusal.build()).unwrap();
            let mut second = request(body);
            client.authorize(&mut second);
            for (count, request) in [(1, first), (2, second)] {
                let answer = request.header(name::AUTHORIZATION).unwrap().text().into_owned();
                let said = AuthorizationHeader::parse(&answer).unwrap();
                let (mut right, mut wrong) = (said.clone(), said.clone());
                right.digest(&theirs(PASSWORD, body));
                wrong.digest(&theirs("guess", body));
                assert_eq!(said, right, "{context}: {answer}");
                assert_ne!(said.response, wrong.response, "{context}");
                assert_eq!(
                    (said.qop.map(|qop| qop.to_string()), said.nc),
                    (qop.map(str::to_owned), if qop.is_some() { count } else { 1 }),
                    "{context}"
                );
                let mut other = said.clone();
                other.digest(&theirs(PASSWORD, b"another body"));
                assert_eq!(
                    other.response != said.response,
                    qop == Some("auth-int"),
                    "{context}: is the body protected?"
                );
            }
        }
    }
}

/// What they answer to our challenges is accepted, and no other password's.
#[test]
fn we_check_what_they_answer() {
    for algorithm in [Algorithm::Md5, Algorithm::Sha256] {
        let now = Instant::now();
        let mut server = DigestServer::new(REALM, false, [9; 32], now).with_algorithms(vec![algorithm]);
        let (_, challenge) = server.challenge(false, now).remove(0);
        let mut challenge = WwwAuthenticateHeader::parse(&challenge).unwrap();
        for (password, is_right) in [(PASSWORD, true), ("guess", false), (PASSWORD, true)] {
            let answer = challenge.respond(&theirs(password, b"<presence/>")).unwrap().to_header_string();
            let mut request = request(b"<presence/>");
            request.push(name::AUTHORIZATION, &answer);
            let verdict = server.verify(&request, now, |user| (user == USER).then(|| PASSWORD.to_owned()));
            match is_right {
                true => assert_eq!(verdict, Verdict::Accepted { username: USER.to_owned() }, "{answer}"),
                false => assert!(matches!(verdict, Verdict::Refused(_)), "{answer}: {verdict:?}"),
            }
        }
    }
}
