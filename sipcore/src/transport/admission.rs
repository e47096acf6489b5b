//! Which connections are open, and how many more may be.

use super::Flow;
use super::connection::Connection;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

/// How many connections may be open.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Admission {
    pub connections: usize,
    /// From or to one IPv4 address, or one /64 of IPv6.
    pub per_source: usize,
    /// How long the first message of a connection, the rest of a message that has begun, and a handshake may take.
    pub patience: Duration,
}

/// The connections that are open.
#[derive(Debug)]
pub(super) struct Connections {
    limits: Admission,
    by_flow: HashMap<Flow, Arc<Connection>>,
    by_source: HashMap<IpAddr, usize>,
}

impl Connections {
    pub fn new(limits: Admission) -> Self {
        Connections { limits, by_flow: HashMap::new(), by_source: HashMap::new() }
    }

    pub fn len(&self) -> usize {
        self.by_flow.len()
    }

    pub fn get(&self, flow: Flow) -> Option<&Arc<Connection>> {
        self.by_flow.get(&flow)
    }

    /// A new connection, in place of one that had the same addresses. `None`: there are too many.
    pub fn open(&mut self, flow: Flow) -> Option<Arc<Connection>> {
        if let Some(old) = self.by_flow.get(&flow).cloned() {
            old.abandon();
            self.close(flow, &old);
        }
        let source = source(flow.remote.ip());
        let count = self.by_source.get(&source).copied().unwrap_or(0);
        if self.by_flow.len() >= self.limits.connections || count >= self.limits.per_source {
            return None;
        }
        self.by_source.insert(source, count + 1);
        let connection = Arc::new(Connection::default());
        self.by_flow.insert(flow, connection.clone());
        Some(connection)
    }

    /// A connection is known by another flow from now on, in place of one that was. `false`: it is not open.
    pub fn rename(&mut self, from: Flow, to: Flow, connection: &Connection) -> bool {
        if !self.by_flow.get(&from).is_some_and(|known| std::ptr::eq(known.as_ref(), connection)) {
            return false;
        }
        if let Some(old) = self.by_flow.get(&to).cloned() {
            old.abandon();
            self.close(to, &old);
        }
        let known = self.by_flow.remove(&from);
        known.map(|known| self.by_flow.insert(to, known));
        true
    }

    /// All connections from a listening point end, and nobody is told.
    pub fn forsake(&mut self, local: u16) {
        let ended: Vec<Flow> = self.by_flow.keys().filter(|flow| flow.local == local).copied().collect();
        for flow in ended {
            if let Some(connection) = self.by_flow.get(&flow).cloned() {
                connection.forsake();
                self.close(flow, &connection);
            }
        }
    }

    /// A connection has ended; a newer one with the same addresses stays.
    pub fn close(&mut self, flow: Flow, connection: &Arc<Connection>) {
        if !self.by_flow.get(&flow).is_some_and(|known| Arc::ptr_eq(known, connection)) {
            return;
        }
        self.by_flow.remove(&flow);
        let source = source(flow.remote.ip());
        if let Some(count) = self.by_source.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.by_source.remove(&source);
            }
        }
    }
}

/// Whoever has one address of a /64 has all of them.
pub(crate) fn source(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) if !ip.is_loopback() => Ipv6Addr::from(u128::from(ip) >> 64 << 64).into(),
        ip => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::Transport;

    fn flow(remote: &str) -> Flow {
        Flow { transport: Transport::Tcp, local: 0, remote: remote.parse().unwrap() }
    }

    #[test]
    fn one_source_cannot_take_all_places() {
        let mut connections = Connections::new(Admission { connections: 5, per_source: 2, patience: Duration::ZERO });
        let first = connections.open(flow("192.0.2.1:1")).unwrap();
        let again = connections.open(flow("192.0.2.1:1")).expect("the same addresses again replace the old one");
        connections.close(flow("192.0.2.1:1"), &first);
        assert!(connections.open(flow("192.0.2.1:2")).is_some());
        assert!(connections.open(flow("192.0.2.1:3")).is_none());
        assert!(connections.open(flow("[2001:db8::1]:1")).is_some());
        assert!(connections.open(flow("[2001:db8::2]:1")).is_some());
        assert!(connections.open(flow("[2001:db8::3]:1")).is_none(), "a /64 is one source");
        assert!(connections.open(flow("[2001:db8:1::1]:1")).is_some());
        assert!(connections.open(flow("192.0.2.9:1")).is_none(), "five in all");
        connections.close(flow("192.0.2.1:1"), &again);
        assert!(connections.open(flow("192.0.2.1:9")).is_some());
        assert_eq!(connections.len(), 5);
    }
}
