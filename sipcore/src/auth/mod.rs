//! Digest authentication (RFC 3261 section 22, RFC 7616, RFC 8760), both sides: MD5, SHA-256 and SHA-512-256, qop none, `auth`
//! and `auth-int`. Time and randomness are parameters.

mod client;
mod digest;
mod header;
mod server;
#[cfg(test)]
mod tests;

use std::fmt;

pub use client::{AuthError, DigestClient};
pub(crate) use digest::hmac;
pub use digest::{Algorithm, Digest, Qop, Secret, ha1};
pub use header::{AuthHeader, Challenge};
pub use server::{DigestServer, Stored, Verdict};

/// A user name and its password.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The name, as the realm knows it.
    pub username: String,
    /// The password.
    pub password: String,
}

impl Credentials {
    /// Both.
    pub fn new(username: impl Into<String>, password: impl Into<String>) -> Credentials {
        Credentials { username: username.into(), password: password.into() }
    }
}

/// The password stays out of logs.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}
