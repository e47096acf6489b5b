#![forbid(unsafe_code)]
//! The policy of an application: which socket calls may happen, and to which SIP URI each leads.
