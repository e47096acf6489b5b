//! Everything of sipbox that touches the kernel: the seccomp filter, the start of the program, notifications as typed
//! requests, answers, sockets.

pub mod bell;
pub mod diag;
pub mod doctor;
pub mod park;
pub mod ready;
pub mod relay;
pub mod sock;
