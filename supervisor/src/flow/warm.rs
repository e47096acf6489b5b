//! What the next session needs, made before it is wanted: sockets whose addresses the STUN servers have told, and relays. A connect() then goes
//! out with an offer at once, and a call is answered at once.

use std::sync::Arc;
use std::time::Duration;

use policy::Encrypted;
use sipcore::flow::Gathered;
use tokio::sync::Mutex;

use crate::inbound;
use crate::supervisor::Supervisor;

/// A run that listens to nothing gives up what it has not used for so long.
const UNUSED: Duration = Duration::from_secs(60);

/// What waits to be used.
#[derive(Default)]
pub struct Warm {
    /// Taken while it is being made.
    ready: Mutex<Option<Gathered>>,
}

impl Warm {
    /// What there is; what is being made is waited for.
    pub async fn take(&self) -> Option<Gathered> {
        let mut gathered = self.ready.lock().await.take()?;
        gathered.renew().then_some(gathered)
    }
}

/// A run begins, whose peers may be on other machines: it may call soon, or be called.
pub fn begin(supervisor: &Arc<Supervisor>) {
    let flows = &supervisor.sessions.links.settings().flows;
    if !flows.has(Encrypted::Quic) && !flows.has(Encrypted::DataChannel) {
        return;
    }
    let supervisor = Arc::downgrade(supervisor);
    tokio::spawn(async move {
        if let Some(supervisor) = supervisor.upgrade() {
            make(&supervisor).await;
        }
        loop {
            tokio::time::sleep(UNUSED).await;
            let Some(supervisor) = supervisor.upgrade() else { return };
            let mut ready = supervisor.sessions.links.warm.ready.lock().await;
            if ready.is_some() && !inbound::is_open(&supervisor) {
                *ready = None;
            }
        }
    });
}

/// A call has used it: another may come.
pub(super) fn again(supervisor: &Arc<Supervisor>) {
    let supervisor = supervisor.clone();
    tokio::spawn(async move { make(&supervisor).await });
}

async fn make(supervisor: &Arc<Supervisor>) {
    let sessions = &supervisor.sessions;
    let mut ready = sessions.links.warm.ready.lock().await;
    // What is wrong is said where a socket waits for it.
    if ready.is_some() || sessions.told_ip().await.is_err() || sessions.is_near().await {
        return;
    }
    let Ok(config) = sessions.links.config(sessions, false).await else { return };
    *ready = Gathered::start(config).await.ok();
}
