//! Everything of sipbox that touches the kernel: the seccomp filter, the start of the program, notifications as typed
//! requests, answers, sockets.

pub mod bell;
pub mod diag;
pub mod park;
pub mod sock;
