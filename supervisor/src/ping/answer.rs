//! The end that is pinged: a run answers for itself, whatever its program listens on.

use sipcore::agent::{Label, Proto};

use crate::supervisor::{Supervisor, policy_proto};

/// Whether a session is for the run itself: no socket of a program is meant by port 0.
pub fn is_ping(label: Option<Label>) -> bool {
    label.is_some_and(|label| label.proto == Proto::Tcp && label.port == 0)
}

/// Whether the policy lets `from` know that the run is there, and where: whoever may reach one of its sockets may. A run with no
/// socket that others reach answers whom it would let reach one.
pub fn answer(supervisor: &Supervisor, from: &str) -> bool {
    let ports = match &supervisor.network {
        Some(network) => network.sockets(),
        None => supervisor.table.lock().shown(),
    };
    let bound = ports.iter().filter(|socket| socket.peer.is_none()).filter_map(|s| Some((s.proto, s.local?.port())));
    let mut any = bound.chain([(Proto::Tcp, 0), (Proto::Udp, 0)]);
    any.any(|(proto, port)| supervisor.policy.accept_from(policy_proto(proto), port, from))
}
