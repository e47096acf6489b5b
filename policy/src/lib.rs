#![forbid(unsafe_code)]
//! The policy of an application: which socket calls may happen, and to which SIP URI each leads.
//!
//! Pure: text and flags in, values out. It opens no file, knows no SIP message and no kernel.
//!
//! ```
//! use policy::{ConnectDecision, Flags, Policy, Proto};
//!
//! let flags = Flags { to: Some("echo".into()), ..Flags::default() };
//! let policy = Policy::from_flags(&flags)?;
//! let decision = policy.connect(Proto::Tcp, "192.0.2.7:7".parse().expect("an address"));
//! assert!(matches!(decision, ConnectDecision::Uri { uri, .. } if uri == "sip:echo@sipbox.invalid"));
//! # Ok::<(), policy::Error>(())
//! ```

mod destination;
mod document;
mod error;
mod file;
mod flags;
mod flows;
mod ice;
mod local;
mod names;
mod policy;
mod rule;
#[cfg(test)]
mod tests;
mod uri;

pub use destination::Proto;
pub use error::{Error, Mistake};
pub use flags::Flags;
pub use flows::{Encrypted, Flows};
pub use ice::{Ice, IceServer, IceTransport};
pub use local::{LocalDecision, UnixName};
pub use names::{NameAnswer, virtual_v4, virtual_v6};
pub use policy::{App, BindDecision, ConnectDecision, Credentials, Identity, Limits, Policy, Tls};
pub use rule::Errno;
pub use uri::{HUB_DOMAIN, aor_form, expand_uri, owner};
