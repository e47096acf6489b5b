//! What the user can do about a connection that did not come about.

use sipcore::flow::LinkError;

/// This program, as SIP names it.
const OWN: &str = concat!("sipbox/", env!("CARGO_PKG_VERSION"));

/// Goes after the words of `why`; empty where there is nothing to do. `software`: what the peer's SIP says that it is.
pub fn advice(why: &LinkError, software: Option<&str>) -> String {
    match why {
        LinkError::NoPath { .. } => "; name a STUN and a TURN server (--stun, --turn) on both sides".to_owned(),
        LinkError::OtherVersion => {
            let theirs = match software {
                Some(software) if software == OWN => {
                    "and the peer says the same, so one of the two is an older build".to_owned()
                }
                Some(software) => format!("and the peer says that it is {software}"),
                None => "and the peer does not say what it is".to_owned(),
            };
            format!("; run the same sipbox on both ends: this one is {OWN}, {theirs}")
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_are_named() {
        let said = |software| advice(&LinkError::OtherVersion, software);
        assert!(said(Some("sipbox/0.0.9")).contains(OWN) && said(Some("sipbox/0.0.9")).contains("sipbox/0.0.9"));
        assert!(said(Some(OWN)).contains("an older build"));
        assert!(said(None).contains("does not say"));
        assert_eq!(advice(&LinkError::Handshake("x".to_owned()), Some(OWN)), "");
    }
}
