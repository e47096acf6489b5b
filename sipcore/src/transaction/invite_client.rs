//! INVITE client transaction (RFC 3261 17.1.1, RFC 6026 7.2).

use super::timing::{Clock, Due, Timing};
use std::time::Instant;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Calling,
    Proceeding,
    Completed,
    Accepted,
    Terminated,
}

/// What the layer has to do after a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnResponse {
    /// Drop it.
    Absorb,
    /// Hand it to the transaction user.
    Deliver,
    /// Acknowledge it and hand it up (first final response of 300 and more).
    DeliverAndAck,
    /// Acknowledge it again, the user has seen it.
    Ack,
}

/// What the layer has to do after a timer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnTimer {
    Nothing,
    Resend,
    /// Timer B: no answer at all.
    TimedOut,
    /// Timers D and M: forget the transaction.
    Done,
}

/// The machine: state and timers, no messages.
#[derive(Debug)]
pub(super) struct InviteClient {
    state: State,
    reliable: bool,
    pub clock: Clock,
}

impl InviteClient {
    /// The request has just been sent.
    pub fn new(now: Instant, timing: &Timing, reliable: bool) -> Self {
        let mut clock = Clock::ending(now, timing.limit());
        if !reliable {
            clock = clock.resending(now, timing.t1, None);
        }
        InviteClient { state: State::Calling, reliable, clock }
    }

    pub fn is_terminated(&self) -> bool {
        self.state == State::Terminated
    }

    /// No final response was seen yet.
    pub fn is_pending(&self) -> bool {
        matches!(self.state, State::Calling | State::Proceeding)
    }

    pub fn on_response(&mut self, now: Instant, timing: &Timing, status: u16) -> OnResponse {
        match (self.state, status) {
            (State::Calling | State::Proceeding, 100..=199) => {
                self.state = State::Proceeding;
                self.clock = Clock::silent();
                OnResponse::Deliver
            }
            (State::Calling | State::Proceeding, 200..=299) => {
                self.state = State::Accepted;
                self.clock = Clock::ending(now, timing.limit());
                OnResponse::Deliver
            }
            (State::Calling | State::Proceeding, 300..=699) => {
                if self.reliable {
                    self.state = State::Terminated;
                    self.clock = Clock::silent();
                } else {
                    self.state = State::Completed;
                    self.clock = Clock::ending(now, timing.d);
                }
                OnResponse::DeliverAndAck
            }
            (State::Completed, 300..=699) => OnResponse::Ack,
            (State::Accepted, 200..=299) => OnResponse::Deliver,
            _ => OnResponse::Absorb,
        }
    }

    pub fn on_timer(&mut self, now: Instant) -> OnTimer {
        match self.clock.due(now) {
            Due::Nothing => OnTimer::Nothing,
            Due::Resend => OnTimer::Resend,
            Due::Expired if self.state == State::Calling => {
                self.state = State::Terminated;
                OnTimer::TimedOut
            }
            Due::Expired => {
                self.state = State::Terminated;
                OnTimer::Done
            }
        }
    }
}
