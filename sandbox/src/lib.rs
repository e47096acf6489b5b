//! Everything of sipbox that touches the kernel: the seccomp filter, the start of the program, notifications as typed
//! requests, answers, sockets.

pub mod bell;
pub mod caller;
mod capabilities;
pub mod child;
pub mod diag;
pub mod direct;
pub mod doctor;
pub mod facts;
pub mod filter;
pub mod inherited;
pub mod keeper;
pub mod memory;
pub mod message;
pub mod netlink;
pub mod netns;
pub mod notify;
pub mod park;
pub mod processes;
pub mod ready;
pub mod relay;
pub mod signals;
pub mod sock;
pub mod unix;
pub mod unix_diag;
pub mod watch;
pub mod watchdog;
