//! A hub and agents on real loopback sockets.
#![allow(dead_code, clippy::unwrap_used)]

use sipcore::agent::{
    Agent, AgentConfig, Credentials, Direct, End, Event, IncomingCall, Label, Offer, Proto, Registrar, Transport,
};
use sipcore::hub::{Hub, HubConfig};
use sipcore::message::Uri;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::timeout;

/// Longest wait for anything that has to happen.
pub const PATIENCE: Duration = Duration::from_secs(10);

pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: not within {PATIENCE:?}"),
    }
}

pub async fn hub_on(ip: IpAddr) -> Hub {
    Hub::start(HubConfig { listen: vec![SocketAddr::new(ip, 0)], ..HubConfig::default() }).await.unwrap()
}

pub fn uri(user: &str) -> Uri {
    format!("sip:{user}@sipbox.invalid").parse().unwrap()
}

pub fn config(user: &str, hub: SocketAddr, transport: Transport) -> AgentConfig {
    static INSTANCE: AtomicU32 = AtomicU32::new(0);
    let instance = INSTANCE.fetch_add(1, Ordering::Relaxed);
    AgentConfig {
        aor: uri(user),
        registrar: Registrar { addr: hub, transport },
        credentials: None,
        local_ip: hub.ip(),
        instance: format!("urn:uuid:00000000-0000-4000-8000-{instance:012x}"),
        expires: Duration::from_secs(60),
        tap: None,
        others: Vec::new(),
        locate: None,
        tls: None,
    }
}

pub fn password(user: &str, password: &str) -> Option<Credentials> {
    Some(Credentials::new(user, password))
}

pub async fn registered(config: AgentConfig) -> (Agent, UnboundedReceiver<Event>) {
    let (agent, events) = Agent::start(config).await.unwrap();
    soon("register", agent.register()).await.unwrap();
    (agent, events)
}

pub fn offer(port: u16, ip: IpAddr) -> Offer {
    let label = Label { proto: Proto::Tcp, port };
    Offer::direct(label, SocketAddr::new(ip, 40112), "198.18.3.4:40112".parse().unwrap())
}

pub fn media(ip: IpAddr) -> End {
    End::Direct(Direct::passive(SocketAddr::new(ip, 7000)))
}

pub async fn event(events: &mut UnboundedReceiver<Event>) -> Event {
    soon("an event", events.recv()).await.expect("the agent lives")
}

pub async fn incoming(events: &mut UnboundedReceiver<Event>) -> IncomingCall {
    match event(events).await {
        Event::Incoming(call) => call,
        other => panic!("a call expected, not {other:?}"),
    }
}
