//! How messages find their transaction (RFC 3261 17.1.3 and 17.2.3, with the rules for RFC 2543 peers).

use crate::message::{Message, Method, Via, name};
use crate::random;
use std::fmt::Write;
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher, RandomState};

/// The start of every branch since RFC 3261 (8.1.1.7).
const COOKIE: &str = "z9hG4bK";

/// A client transaction. The number stands in the branch: 64 random bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ClientId {
    branch: u64,
    /// CANCEL shares the branch of the INVITE that it cancels.
    cancel: bool,
}

/// A server transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ServerId(pub(super) u64);

impl ClientId {
    pub fn random(method: &Method) -> Self {
        ClientId { branch: random::number(), cancel: *method == Method::Cancel }
    }

    /// The transaction that cancels this one.
    pub fn cancelling(self) -> Self {
        ClientId { cancel: true, ..self }
    }

    /// The transaction that a response belongs to, if one of ours can have sent the request.
    pub fn of_response(branch: &str, method: &Method) -> Option<Self> {
        let number = branch.strip_prefix(COOKIE)?.get(..16)?;
        Some(ClientId { branch: u64::from_str_radix(number, 16).ok()?, cancel: *method == Method::Cancel })
    }

    /// The branch parameter; `mark` is what the sender wants to recognise if the request comes back.
    pub fn branch(self, mark: Option<u32>) -> String {
        match mark {
            Some(mark) => format!("{COOKIE}{:016x}.{mark:08x}", self.branch),
            None => format!("{COOKIE}{:016x}", self.branch),
        }
    }
}

/// The mark in a branch that `ClientId::branch` made.
pub(crate) fn mark_of(branch: &str) -> Option<u32> {
    let (_, mark) = branch.strip_prefix(COOKIE)?.split_at_checked(16)?;
    u32::from_str_radix(mark.strip_prefix('.')?, 16).ok()
}

/// What identifies a request to a server transaction, as 128 bits that nobody can foresee. ACK finds the INVITE, CANCEL is a transaction of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ServerKey([u64; 2]);

impl Hash for ServerKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0[0]);
    }
}

/// For tables of these keys, which are hashes.
pub(super) type KeyHasher = BuildHasherDefault<AsItIs>;

#[derive(Default)]
pub(super) struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // Keys write a number.
        self.0 = bytes.iter().fold(self.0, |hash, byte| hash.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}

impl ServerKey {
    /// `method` is the one of the transaction sought: that of the request, but INVITE for ACK, and for CANCEL when its target is meant. `secrets` is what
    /// all keys of a table are made with.
    pub fn new(via: &Via<'_>, method: &Method, request: &Message, secrets: &[RandomState; 2]) -> Self {
        let mut key = String::with_capacity(96);
        let port = via.port.unwrap_or(0);
        // Writing to a String does not fail.
        let _ = match via.transaction() {
            Some(branch) => write!(key, "{branch} {}:{port} {method}", via.host.to_ascii_lowercase()),
            // RFC 2543: no usable branch. The To tag is left out: that of an ACK is the one that we sent.
            None => write!(
                key,
                "{} {}:{port} {method} {} {} {} {}",
                via.branch().unwrap_or_default(),
                via.host.to_ascii_lowercase(),
                String::from_utf8_lossy(request.request_uri_raw()),
                request.from_tag().unwrap_or_default(),
                request.call_id().unwrap_or_default(),
                request.cseq().map(|cseq| cseq.number).unwrap_or_default(),
            ),
        };
        ServerKey([0, 1].map(|half: usize| secrets[half].hash_one(&key)))
    }
}

/// ACK for a final response of 300 and more, and CANCEL: what repeats the request that it belongs to (RFC 3261 9.1, 17.1.1.3).
/// `answer` is the response whose To an ACK takes over.
pub(super) fn hop_request(request: &Message, method: Method, answer: Option<&Message>) -> Option<Message> {
    let mut made = Message::request(method.clone(), &request.request_uri().ok()?);
    made = made.copy(request.header(name::VIA)?);
    for route in request.headers_named(name::ROUTE) {
        made = made.copy(route);
    }
    made = made.header(name::MAX_FORWARDS, 70).copy(request.header(name::FROM)?);
    made = made.copy(answer.unwrap_or(request).header(name::TO)?).copy(request.header(name::CALL_ID)?);
    let number = request.cseq().ok()?.number;
    Some(made.header(name::CSEQ, format_args!("{number} {method}")).build())
}
