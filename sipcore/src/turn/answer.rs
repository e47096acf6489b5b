//! Responses of the server, and what they are signed with (RFC 8489 6.3, 9.2.4).

use stun_types::attribute::{AttributeType, ErrorCode, Nonce, Realm, UnknownAttributes};
use stun_types::message::{IntegrityAlgorithm, IntegrityKey, Message, MessageWriteVec};
use stun_types::prelude::*;

/// One response being put together.
pub(super) struct Answer(MessageWriteVec);

impl Answer {
    pub fn success(request: &Message<'_>) -> Self {
        Answer(Message::builder_success(request, MessageWriteVec::new()))
    }

    pub fn error(request: &Message<'_>, code: u16) -> Self {
        let mut answer = Answer(Message::builder_error(request, MessageWriteVec::new()));
        if let Ok(error) = ErrorCode::builder(code).build() {
            answer.add(&error);
        }
        answer
    }

    /// 420 with what was not understood (RFC 8489 6.3.1).
    pub fn unknown(request: &Message<'_>, attributes: &[AttributeType]) -> Self {
        Answer::error(request, ErrorCode::UNKNOWN_ATTRIBUTE).with(&UnknownAttributes::new(attributes))
    }

    /// 401 or 438: what the client needs to sign its request.
    pub fn challenge(request: &Message<'_>, code: u16, realm: &str, nonce: &str) -> Self {
        let mut answer = Answer::error(request, code);
        if let (Ok(realm), Ok(nonce)) = (Realm::new(realm), Nonce::new(nonce)) {
            answer.add(&realm);
            answer.add(&nonce);
        }
        answer
    }

    fn add(&mut self, attribute: &dyn AttributeWrite) {
        // It fails for what is signed already, or above 65,535 bytes.
        let added = self.0.add_attribute(attribute);
        debug_assert!(added.is_ok(), "{added:?}");
    }

    pub fn with(mut self, attribute: &dyn AttributeWrite) -> Self {
        self.add(attribute);
        self
    }

    pub fn plain(mut self) -> Vec<u8> {
        let added = self.0.add_fingerprint();
        debug_assert!(added.is_ok(), "{added:?}");
        self.0.finish()
    }

    pub fn signed(mut self, key: &IntegrityKey) -> Vec<u8> {
        let added = self.0.add_message_integrity_with_key(key, IntegrityAlgorithm::Sha1);
        debug_assert!(added.is_ok(), "{added:?}");
        self.plain()
    }
}
