//! What can go wrong with a registration or a call, in words for the user.

use crate::message::Uri;
use crate::sdp::Fingerprint;
use crate::transport::StartError;
use std::net::SocketAddr;

/// Why the address of record could not be registered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// The registrar's address refuses or cannot be reached.
    #[error("cannot register {aor}: the registrar at {registrar} is not reachable: {why}")]
    Unreachable {
        /// The address of record.
        aor: Uri,
        /// Where REGISTER was sent.
        registrar: SocketAddr,
        /// What the network said.
        why: String,
    },
    /// The registrar refused.
    #[error("cannot register {aor}: the registrar at {registrar} answered {status} {reason}")]
    Rejected {
        /// The address of record.
        aor: Uri,
        /// Where REGISTER was sent.
        registrar: SocketAddr,
        /// Status of the final response.
        status: u16,
        /// Its reason phrase.
        reason: String,
    },
    /// The registrar wants a password and none was given.
    #[error(
        "cannot register {aor}: the registrar at {registrar} wants credentials for realm {realm:?} and none are set"
    )]
    NoCredentials {
        /// The address of record.
        aor: Uri,
        /// Where REGISTER was sent.
        registrar: SocketAddr,
        /// Realm of the challenge.
        realm: String,
    },
    /// The registrar did not accept the user name and password.
    #[error("cannot register {aor}: the registrar at {registrar} refuses the credentials for realm {realm:?}")]
    BadCredentials {
        /// The address of record.
        aor: Uri,
        /// Where REGISTER was sent.
        registrar: SocketAddr,
        /// Realm of the challenge.
        realm: String,
    },
    /// No answer within 32 seconds.
    #[error("cannot register {aor}: no answer from the registrar at {registrar}")]
    Timeout {
        /// The address of record.
        aor: Uri,
        /// Where REGISTER was sent.
        registrar: SocketAddr,
    },
    /// The registrar has ended the registration, and tells so (RFC 3680).
    #[error("the registrar at {registrar} has ended it ({event})")]
    Ended {
        /// Where REGISTER was sent.
        registrar: SocketAddr,
        /// `deactivated`, `probation`, `rejected`, ...
        event: String,
    },
    /// The agent was shut down meanwhile.
    #[error("cannot register: the agent has been shut down")]
    Shutdown,
}

impl RegisterError {
    /// Another attempt would get the same answer, so none is made. All else is tried again by itself.
    pub fn is_final(&self) -> bool {
        match self {
            RegisterError::Rejected { status, .. } => {
                matches!(status, 400..=499 | 501 | 505 | 600..=699) && !matches!(status, 408 | 480 | 486 | 491)
            }
            RegisterError::NoCredentials { .. } | RegisterError::BadCredentials { .. } | RegisterError::Shutdown => {
                true
            }
            RegisterError::Ended { event, .. } => event == "rejected",
            RegisterError::Unreachable { .. } | RegisterError::Timeout { .. } => false,
        }
    }
}

/// Why there is no session.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The other side or a proxy refused.
    #[error("no session with {target}: {status} {reason}{}", .warning.as_ref().map(|text| format!(" ({text})")).unwrap_or_default())]
    Rejected {
        /// Who was called.
        target: Uri,
        /// Status of the final response.
        status: u16,
        /// Its reason phrase.
        reason: String,
        /// Text of its Warning header.
        warning: Option<String>,
    },
    /// There is a session with the called end already, or it is being set up from there, and that one is to be used.
    #[error("no further session with {target}: one stands")]
    Stands {
        /// Who was called.
        target: Uri,
        /// Of the certificate that he shows in it.
        fingerprint: Fingerprint,
    },
    /// No final response in time.
    #[error("no session with {target}: no answer through {hop}")]
    Timeout {
        /// Who was called.
        target: Uri,
        /// Where INVITE was sent.
        hop: SocketAddr,
    },
    /// The hub or proxy cannot be reached.
    #[error("no session with {target}: the hub at {hop} is not reachable: {why}")]
    Unreachable {
        /// Who was called.
        target: Uri,
        /// Where INVITE was sent.
        hop: SocketAddr,
        /// What the network said.
        why: String,
    },
    /// A password is wanted and none was given.
    #[error("no session with {target}: credentials for realm {realm:?} are wanted and none are set")]
    NoCredentials {
        /// Who was called.
        target: Uri,
        /// Realm of the challenge.
        realm: String,
    },
    /// The user name and password were not accepted.
    #[error("no session with {target}: the credentials for realm {realm:?} were refused")]
    BadCredentials {
        /// Who was called.
        target: Uri,
        /// Realm of the challenge.
        realm: String,
    },
    /// The other side accepted, but not with an answer that can be used. The session was ended again.
    #[error("no session with {target}: its answer cannot be used: {why}")]
    BadAnswer {
        /// Who was called.
        target: Uri,
        /// What is wrong.
        why: String,
    },
    /// The agent was shut down meanwhile.
    #[error("no session: the agent has been shut down")]
    Shutdown,
}

/// Why an agent cannot be reached at its new address yet.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MoveError {
    /// No socket could be opened there.
    #[error(transparent)]
    Socket(#[from] StartError),
    /// The registrar does not know of it.
    #[error(transparent)]
    Register(#[from] RegisterError),
}

/// Why a session's path was not looked for anew.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RestartError {
    /// The session has ended, or its flow has no path to look for.
    #[error("there is no such session any more")]
    NoSession,
    /// The other side asked for the same meanwhile, and was answered.
    #[error("the other side looks for a path itself")]
    Superseded,
    /// The other side or a proxy refused.
    #[error("refused with {status} {reason}")]
    Rejected {
        /// Status of the final response.
        status: u16,
        /// Its reason phrase.
        reason: String,
    },
    /// The answer cannot be used.
    #[error("the answer cannot be used: {0}")]
    BadAnswer(String),
    /// Nobody answered.
    #[error("no answer: {0}")]
    NoAnswer(String),
    /// The agent was shut down meanwhile.
    #[error("the agent has been shut down")]
    Shutdown,
}

/// Why something is not published, or somebody's presence is not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PresenceError {
    /// The server refused.
    #[error("the presence server answered {status} {reason}")]
    Rejected {
        /// Status of the final response.
        status: u16,
        /// Its reason phrase.
        reason: String,
    },
    /// No answer within 32 seconds.
    #[error("no answer from the presence server")]
    Timeout,
    /// The subscription was accepted, but nothing was told within 32 seconds.
    #[error("the presence server accepted and then said nothing")]
    Silent,
    /// The server cannot be reached.
    #[error("the presence server is not reachable: {why}")]
    Unreachable {
        /// What the network said.
        why: String,
    },
    /// A password is wanted and none was given.
    #[error("the presence server wants credentials for realm {realm:?} and none are set")]
    NoCredentials {
        /// Realm of the challenge.
        realm: String,
    },
    /// The user name and password were not accepted.
    #[error("the presence server refuses the credentials for realm {realm:?}")]
    BadCredentials {
        /// Realm of the challenge.
        realm: String,
    },
    /// What only some may know of is kept back: the server does not say that it tells nobody else.
    #[error("{sockets} of them would be shown to everybody: the presence server does not decide by `visible-to`")]
    Withheld {
        /// How many tuples.
        sockets: usize,
    },
    /// The server ended the subscription (RFC 6665 4.1.3).
    #[error("the presence server ended the subscription ({reason})")]
    Ended {
        /// `rejected`, `noresource`, ...
        reason: String,
    },
}

impl PresenceError {
    /// Another attempt would get the same answer.
    pub fn is_final(&self) -> bool {
        match self {
            PresenceError::Rejected { status, .. } => {
                matches!(status, 300..=499 | 501 | 505 | 600..=699) && !matches!(status, 408 | 423 | 480 | 486 | 491)
            }
            PresenceError::NoCredentials { .. }
            | PresenceError::BadCredentials { .. }
            | PresenceError::Withheld { .. }
            | PresenceError::Ended { .. } => true,
            _ => false,
        }
    }
}
