//! How many requests may be under way to one address over UDP before it has shown a sign of life. Datagrams have no flow control: a burst of
//! requests overflows the socket buffer at the other end, and what is lost costs half a second or more.

use super::key::ClientId;
use crate::transport::Flow;
use std::collections::{HashMap, VecDeque};

/// Requests without any response yet. The default receive buffer of Linux holds about 90 requests.
const WIDTH: usize = 48;

#[derive(Debug, Default)]
struct Window {
    under_way: usize,
    waiting: VecDeque<ClientId>,
}

/// The windows of all addresses.
#[derive(Debug, Default)]
pub(super) struct Windows {
    flows: HashMap<Flow, Window>,
}

impl Windows {
    /// A new request. `true`: it may be sent now; else it waits its turn.
    pub fn enter(&mut self, flow: Flow, id: ClientId) -> bool {
        let window = self.flows.entry(flow).or_default();
        let room = window.under_way < WIDTH;
        match room {
            true => window.under_way += 1,
            false => window.waiting.push_back(id),
        }
        room
    }

    /// A request that was sent has got a response, or is given up.
    pub fn leave(&mut self, flow: Flow) {
        let Some(window) = self.flows.get_mut(&flow) else { return };
        window.under_way = window.under_way.saturating_sub(1);
        if window.under_way == 0 && window.waiting.is_empty() {
            self.flows.remove(&flow);
        }
    }

    /// The next request whose turn has come; it counts as sent.
    pub fn next(&mut self, flow: Flow) -> Option<ClientId> {
        let window = self.flows.get_mut(&flow)?;
        if window.under_way >= WIDTH {
            return None;
        }
        let id = window.waiting.pop_front()?;
        window.under_way += 1;
        Some(id)
    }

    /// How many addresses have requests under way.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.flows.len()
    }
}
