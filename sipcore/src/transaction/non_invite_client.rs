//! Non-INVITE client transaction (RFC 3261 17.1.2).

use super::invite_client::{OnResponse, OnTimer};
use super::timing::{Clock, Due, Timing};
use std::time::Instant;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Trying,
    Proceeding,
    Completed,
    Terminated,
}

/// The machine: state and timers, no messages.
#[derive(Debug)]
pub(super) struct NonInviteClient {
    state: State,
    reliable: bool,
    pub clock: Clock,
}

impl NonInviteClient {
    /// The request has just been sent.
    pub fn new(now: Instant, timing: &Timing, reliable: bool) -> Self {
        let mut clock = Clock::ending(now, timing.limit());
        if !reliable {
            clock = clock.resending(now, timing.t1, Some(timing.t2));
        }
        NonInviteClient { state: State::Trying, reliable, clock }
    }

    pub fn is_terminated(&self) -> bool {
        self.state == State::Terminated
    }

    /// No final response was seen yet.
    pub fn is_pending(&self) -> bool {
        matches!(self.state, State::Trying | State::Proceeding)
    }

    pub fn on_response(&mut self, now: Instant, timing: &Timing, status: u16) -> OnResponse {
        match (self.state, status) {
            (State::Trying | State::Proceeding, 100..=199) => {
                self.state = State::Proceeding;
                self.clock.slow_down();
                OnResponse::Deliver
            }
            (State::Trying | State::Proceeding, 200..=699) => {
                if self.reliable {
                    self.state = State::Terminated;
                    self.clock = Clock::silent();
                } else {
                    self.state = State::Completed;
                    self.clock = Clock::ending(now, timing.t4);
                }
                OnResponse::Deliver
            }
            _ => OnResponse::Absorb,
        }
    }

    pub fn on_timer(&mut self, now: Instant) -> OnTimer {
        match self.clock.due(now) {
            Due::Nothing => OnTimer::Nothing,
            Due::Resend => OnTimer::Resend,
            Due::Expired if self.state == State::Completed => {
                self.state = State::Terminated;
                OnTimer::Done
            }
            Due::Expired => {
                self.state = State::Terminated;
                OnTimer::TimedOut
            }
        }
    }
}
