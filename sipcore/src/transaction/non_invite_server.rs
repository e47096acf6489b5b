//! Non-INVITE server transaction (RFC 3261 17.2.2).

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
pub(super) struct NonInviteServer {
    state: State,
    reliable: bool,
    pub clock: Clock,
}

impl NonInviteServer {
    pub fn new(reliable: bool) -> Self {
        NonInviteServer { state: State::Trying, reliable, clock: Clock::silent() }
    }

    pub fn is_terminated(&self) -> bool {
        self.state == State::Terminated
    }

    /// The request came again: is the last response to be repeated?
    pub fn on_repeated_request(&self) -> bool {
        matches!(self.state, State::Proceeding | State::Completed)
    }

    /// The user answers; `false` means that the response is not to be sent.
    pub fn on_respond(&mut self, now: Instant, timing: &Timing, status: u16) -> bool {
        match (self.state, status) {
            (State::Trying | State::Proceeding, 100..=199) => {
                self.state = State::Proceeding;
                true
            }
            (State::Trying | State::Proceeding, 200..=699) => {
                if self.reliable {
                    self.state = State::Terminated;
                } else {
                    self.state = State::Completed;
                    self.clock = Clock::ending(now, timing.limit());
                }
                true
            }
            _ => false,
        }
    }

    /// Timer J: `true` when the transaction is to be forgotten.
    pub fn on_timer(&mut self, now: Instant) -> bool {
        let done = self.clock.due(now) == Due::Expired;
        if done {
            self.state = State::Terminated;
        }
        done
    }
}
