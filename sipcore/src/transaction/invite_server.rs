//! INVITE server transaction (RFC 3261 17.2.1, RFC 6026 7.1).

use super::timing::{Clock, Due, Timing};
use std::time::Instant;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Proceeding,
    Completed,
    Confirmed,
    Accepted,
    Terminated,
}

/// What the layer has to do after an ACK that matches the transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnAck {
    Absorb,
    /// The transaction user sent a 2xx: the ACK is its business.
    Deliver,
}

/// What the layer has to do after a timer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnTimer {
    Nothing,
    /// Send the last response again.
    Resend,
    /// Timers H, I and L: forget the transaction.
    Done,
}

/// The machine: state and timers, no messages.
#[derive(Debug)]
pub(super) struct InviteServer {
    state: State,
    reliable: bool,
    pub clock: Clock,
}

impl InviteServer {
    pub fn new(reliable: bool) -> Self {
        InviteServer { state: State::Proceeding, reliable, clock: Clock::silent() }
    }

    pub fn is_terminated(&self) -> bool {
        self.state == State::Terminated
    }

    /// The INVITE came again: is the last response to be repeated?
    pub fn on_repeated_request(&self) -> bool {
        matches!(self.state, State::Proceeding | State::Completed)
    }

    /// The user answers; `false` means that a response no longer makes sense here and is not to be sent.
    pub fn on_respond(&mut self, now: Instant, timing: &Timing, status: u16) -> bool {
        match (self.state, status) {
            (State::Proceeding, 100..=199) => true,
            (State::Proceeding, 200..=299) => {
                self.state = State::Accepted;
                self.clock = Clock::ending(now, timing.limit());
                true
            }
            (State::Proceeding, 300..=699) => {
                self.state = State::Completed;
                self.clock = Clock::ending(now, timing.limit());
                if !self.reliable {
                    self.clock = self.clock.resending(now, timing.t1, Some(timing.t2));
                }
                true
            }
            (State::Accepted, 200..=299) => true,
            _ => false,
        }
    }

    pub fn on_ack(&mut self, now: Instant, timing: &Timing) -> OnAck {
        match self.state {
            State::Completed if self.reliable => {
                self.state = State::Terminated;
                self.clock = Clock::silent();
                OnAck::Absorb
            }
            State::Completed => {
                self.state = State::Confirmed;
                self.clock = Clock::ending(now, timing.t4);
                OnAck::Absorb
            }
            State::Accepted => OnAck::Deliver,
            _ => OnAck::Absorb,
        }
    }

    pub fn on_timer(&mut self, now: Instant) -> OnTimer {
        match self.clock.due(now) {
            Due::Nothing => OnTimer::Nothing,
            Due::Resend => OnTimer::Resend,
            Due::Expired => {
                self.state = State::Terminated;
                OnTimer::Done
            }
        }
    }
}
