//! The user agent machine together with those who wait for its outcomes.

use super::{
    CallError, Capabilities, Event, IncomingCall, IncomingRestart, Quic, RegisterError, RestartError, Session,
    SessionId, SubscriptionId, Tuple,
};
use crate::message::{Message, Uri};
use crate::sdp::Offer;
use crate::transport::{Core, Flow, Machine, Sign, Transmit};
use crate::user_agent::{Hop, Notice, UserAgent};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Instant;
use tokio::sync::{Notify, mpsc, oneshot};

pub(crate) struct Seat {
    pub agent: UserAgent,
    pub core: Weak<Core<Seat>>,
    events: mpsc::UnboundedSender<Event>,
    calling: HashMap<SessionId, oneshot::Sender<Result<Session, CallError>>>,
    asking: HashMap<SessionId, oneshot::Sender<Result<Capabilities, CallError>>>,
    restarting: HashMap<SessionId, oneshot::Sender<Result<Quic, RestartError>>>,
    registering: Vec<oneshot::Sender<Result<(), RegisterError>>>,
    querying: Vec<oneshot::Sender<Result<Vec<Uri>, RegisterError>>>,
    /// Told whenever something may have become idle.
    idle: Arc<Notify>,
    /// Told when no server is left to try.
    stranded: Arc<Notify>,
    closed: bool,
}

impl Seat {
    pub fn new(agent: UserAgent, events: mpsc::UnboundedSender<Event>) -> Self {
        Seat {
            agent,
            core: Weak::new(),
            events,
            calling: HashMap::new(),
            asking: HashMap::new(),
            restarting: HashMap::new(),
            registering: Vec::new(),
            querying: Vec::new(),
            idle: Arc::default(),
            stranded: Arc::default(),
            closed: false,
        }
    }

    pub fn register(&mut self, now: Instant, tell: oneshot::Sender<Result<(), RegisterError>>) {
        if self.closed {
            return;
        }
        if self.agent.is_registered() {
            // Nobody is hurt when the one who asked is gone.
            let _ = tell.send(Ok(()));
            return;
        }
        self.registering.push(tell);
        self.agent.register(now);
    }

    pub fn query(&mut self, now: Instant, tell: oneshot::Sender<Result<Vec<Uri>, RegisterError>>) {
        if self.closed {
            return;
        }
        match self.agent.query(now) {
            true => self.querying.push(tell),
            // Whoever asked may not wait any more.
            false => drop(tell.send(Ok(Vec::new()))),
        }
    }

    fn queried(&mut self, outcome: &Result<Vec<Uri>, RegisterError>) {
        for tell in self.querying.drain(..) {
            // The same.
            let _ = tell.send(outcome.clone());
        }
    }

    pub fn invite(
        &mut self,
        now: Instant,
        id: SessionId,
        target: &Uri,
        offer: Offer,
        tell: oneshot::Sender<Result<Session, CallError>>,
    ) {
        if self.closed {
            return;
        }
        self.calling.insert(id, tell);
        self.agent.invite(now, id, target, offer);
    }

    pub fn restart(
        &mut self,
        now: Instant,
        id: SessionId,
        local: Quic,
        tell: oneshot::Sender<Result<Quic, RestartError>>,
    ) {
        if !self.closed {
            self.restarting.insert(id, tell);
            self.agent.restart(now, id, local);
        }
    }

    pub fn ask(
        &mut self,
        now: Instant,
        id: SessionId,
        target: &Uri,
        tell: oneshot::Sender<Result<Capabilities, CallError>>,
    ) {
        if !self.closed {
            self.asking.insert(id, tell);
            self.agent.ask(now, id, target);
        }
    }

    fn restarted(&mut self, id: SessionId, outcome: Result<Quic, RestartError>) {
        if let Some(tell) = self.restarting.remove(&id) {
            // Whoever asked may not wait any more.
            let _ = tell.send(outcome);
        }
    }

    /// This host's addresses may be others now. `tell` hears of the next REGISTER, or at once if none is wanted.
    pub fn moved(&mut self, now: Instant, locals: Vec<SocketAddr>, tell: oneshot::Sender<Result<(), RegisterError>>) {
        if self.closed {
            return;
        }
        match self.agent.moved(now, locals) {
            true => self.registering.push(tell),
            // Whoever asked may not wait any more.
            false => drop(tell.send(Ok(()))),
        }
    }

    /// Told when no server is left to try.
    pub fn wants_servers(&self) -> Arc<Notify> {
        self.stranded.clone()
    }

    /// From now on these are the servers.
    pub fn set_hops(&mut self, now: Instant, hops: Vec<Hop>) {
        if !hops.is_empty() {
            self.agent.set_servers(now, hops);
        }
    }

    /// The one who called no longer waits.
    pub fn withdraw(&mut self, now: Instant, id: SessionId) {
        self.calling.remove(&id);
        self.agent.end(now, id);
    }

    pub fn publish(&mut self, now: Instant, tuples: Vec<Tuple>) {
        if !self.closed {
            self.agent.publish(now, tuples);
        }
    }

    pub fn subscribe(&mut self, now: Instant, id: SubscriptionId, resource: &Uri, fetch: bool) {
        if !self.closed {
            self.agent.subscribe(now, id, resource, fetch);
        }
    }

    /// Ends everything; what waits learns that the agent has been shut down.
    pub fn close(&mut self, now: Instant) -> Arc<Notify> {
        self.closed = true;
        self.calling.clear();
        self.asking.clear();
        self.restarting.clear();
        self.registering.clear();
        self.querying.clear();
        self.agent.end_all(now);
        self.agent.unregister(now);
        self.idle.clone()
    }

    fn registered(&mut self, outcome: Result<(), RegisterError>) {
        for tell in self.registering.drain(..) {
            let _ = tell.send(outcome.clone());
        }
    }

    fn deliver(&mut self, now: Instant, notice: Notice) {
        let event = match notice {
            Notice::Answered(session) => return self.answered(now, session),
            Notice::Failed { id, error } => {
                if let Some(tell) = self.calling.remove(&id) {
                    let _ = tell.send(Err(error));
                }
                return;
            }
            Notice::Capable { id, outcome } => {
                if let Some(tell) = self.asking.remove(&id) {
                    // Whoever asked may not wait any more.
                    let _ = tell.send(outcome);
                }
                return;
            }
            Notice::Restarted { id, remote } => return self.restarted(id, Ok(remote)),
            Notice::NotRestarted { id, error } => return self.restarted(id, Err(error)),
            Notice::Restarting { id, remote } => Event::Restart(IncomingRestart::new(id, remote, self.core.clone())),
            Notice::Registered => return self.registered(Ok(())),
            Notice::Bound(contacts) => return self.queried(&Ok(contacts)),
            Notice::NotRegistered(error) => {
                self.stranded.notify_one();
                self.queried(&Err(error.clone()));
                return self.registered(Err(error));
            }
            Notice::Incoming { id, from, lines, software } => {
                Event::Incoming(IncomingCall::new(id, (from, software), lines, self.core.clone()))
            }
            Notice::Ended { id, reason } => Event::Ended { id, reason },
            Notice::RegistrationLost { why, over } => Event::RegistrationLost { why, over },
            Notice::RegistrationRestored => Event::RegistrationRestored,
            Notice::NotPublished(error) => Event::NotPublished(error),
            Notice::Presence { id, update } => Event::Presence { id, update },
            Notice::SubscriptionLost { id, error, over } => Event::SubscriptionLost { id, error, over },
        };
        // When nobody listens any more nothing must answer by itself here: the machine is in use.
        match self.events.send(event) {
            Err(mpsc::error::SendError(Event::Incoming(call))) => {
                let id = call.id;
                call.disarm();
                self.agent.reject(now, id, 480, "Temporarily Unavailable");
            }
            Err(mpsc::error::SendError(Event::Restart(restart))) => {
                let id = restart.id;
                restart.disarm();
                self.agent.answer_restart(now, id, None);
            }
            _ => {}
        }
    }

    fn answered(&mut self, now: Instant, session: Session) {
        let id = session.id;
        let waits = self.calling.remove(&id);
        if waits.is_none_or(|tell| tell.send(Ok(session)).is_err()) {
            self.agent.end(now, id);
        }
    }
}

impl Machine for Seat {
    fn handle_message(&mut self, now: Instant, flow: Flow, message: Message) {
        self.agent.handle_message(now, flow, message);
    }

    fn handle_sign(&mut self, now: Instant, flow: Flow, sign: Sign<'_>) {
        self.agent.handle_sign(now, flow, sign);
    }

    fn handle_unreachable(&mut self, now: Instant, flow: Flow, why: &str) {
        self.agent.handle_unreachable(now, flow, why);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.agent.handle_timeout(now);
    }

    fn poll_transmit(&mut self) -> Option<Transmit> {
        self.agent.poll_transmit()
    }

    fn poll_close(&mut self) -> Option<Flow> {
        self.agent.poll_close()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.agent.poll_timeout()
    }

    fn deliver_events(&mut self, now: Instant) {
        while let Some(notice) = self.agent.poll_notice() {
            self.deliver(now, notice);
        }
        if self.closed && self.agent.is_idle() {
            self.idle.notify_waiters();
            self.idle.notify_one();
        }
    }
}
