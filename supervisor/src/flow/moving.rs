//! Connections that go on when an end of them moves: this host's addresses change, its NAT forgets, it sleeps. The registrar is told first
//! (RFC 5626), then a path is looked for anew by a re-INVITE (RFC 8445 section 2.4), and the connection takes it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sipcore::agent::{IncomingRestart, RestartError};
use sipcore::flow::{Candidate, LinkError, Path, Role, watch_interfaces};
use tokio::time::{sleep, timeout};

use super::trunk::Trunk;
use crate::supervisor::Supervisor;

/// How long the registrar has to answer before paths are looked for all the same.
const REGISTERED_WITHIN: Duration = Duration::from_secs(6);
/// Both ends notice that a path is gone: the called one leaves it to the caller for this long.
const CALLER_FIRST: Duration = Duration::from_millis(1500);
/// Attempts at a better path, while there is one.
const TRIES: u32 = 5;
/// A connection over a relay is left alone for this long. Then it is tried to do without.
const RELAYED_FOR: Duration = Duration::from_secs(1);
/// How long that may take.
const DIRECT_WITHIN: Duration = Duration::from_secs(3);
/// The other end's first check has this long to leave before this one's, at each try.
const OTHER_FIRST: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(400)];
/// Pauses between attempts.
const PAUSES: [Duration; 2] = [Duration::from_millis(300), Duration::from_secs(4)];

/// Watches this host's addresses as long as the run lasts.
pub fn watch(supervisor: &Arc<Supervisor>) {
    let mut addresses = match watch_interfaces() {
        Ok(addresses) => addresses,
        Err(error) => return tracing::warn!(%error, "changes of this host's addresses cannot be followed"),
    };
    supervisor.sessions.links.moves.send_replace(addresses.borrow().clone());
    let supervisor = Arc::downgrade(supervisor);
    tokio::spawn(async move {
        let mut before = addresses.borrow_and_update().clone();
        while addresses.changed().await.is_ok() {
            let now = addresses.borrow_and_update().clone();
            if now.all.is_empty() {
                // There is nowhere to go yet.
                continue;
            }
            let Some(supervisor) = supervisor.upgrade() else { return };
            // An interface that came besides, a bridge of containers perhaps, is nobody's way.
            if now.outward != before.outward || before.all.iter().any(|ip| !now.all.contains(ip)) {
                register(&supervisor).await;
            }
            before = now.clone();
            supervisor.sessions.links.moves.send_replace(now);
        }
    });
}

async fn register(supervisor: &Supervisor) {
    let Some(agent) = supervisor.sessions.started_agent().await else { return };
    match timeout(REGISTERED_WITHIN, agent.moved()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::info!(%error, "not registered at the new address yet"),
        Err(_) => tracing::info!("the registrar does not answer at the new address yet"),
    }
}

/// Keeps a connection on a path that works, until it ends.
pub(super) async fn follow(supervisor: Arc<Supervisor>, trunk: Arc<Trunk>, role: Role) {
    let mut moves = supervisor.sessions.links.moves.subscribe();
    let mut outward = moves.borrow().outward.clone();
    if role == Role::Answerer {
        let mut moved = moves.clone();
        tokio::select! {
            () = do_without_relay(&supervisor, &trunk) => {}
            // What follows sees it, too.
            _ = trunk.link.closed() => {}
            () = trunk.link.road().lost() => {}
            _ = moved.changed() => {}
        }
        drop(trunk.prepared.lock().take());
    }
    loop {
        let lost = tokio::select! {
            _ = trunk.link.closed() => return,
            moved = moves.changed() => match moved {
                Ok(()) => false,
                Err(_) => return,
            },
            () = trunk.link.road().lost() => true,
        };
        if !lost {
            let now = moves.borrow_and_update().clone();
            let base = trunk.link.road().base().map(|base| base.ip());
            let stands = base.is_some_and(|ip| ip.is_loopback() || now.all.contains(&ip));
            // On this machine nothing moves; else the way that the rest of the world takes may be a better one.
            let is_better = outward != now.outward && base.is_some_and(|ip| !ip.is_loopback());
            outward = now.outward;
            if stands && !is_better {
                continue;
            }
        }
        if lost && role == Role::Answerer && timeout(CALLER_FIRST, trunk.link.road().restored()).await.is_ok() {
            continue;
        }
        // Now: with the connection all who use it are gone.
        let (path, used) = (trunk.link.road().path(), trunk.users() > 0);
        tokio::select! {
            _ = trunk.link.closed() => {
                if lost && used && !trunk.link.road().works() {
                    say_lost(&trunk, path);
                }
                return;
            }
            () = restart(&supervisor, &trunk, lost) => {}
        }
    }
}

/// The programs' connections end with it.
fn say_lost(trunk: &Trunk, path: Option<Path>) {
    let by = path.map_or_else(String::new, |path| {
        format!(" ({}, {} {} to {} {})", path.word(), path.local_kind, path.local, path.remote_kind, path.remote)
    });
    crate::say::say!(
        "the connection with {} is lost: its path{by} is not answered any more, and no other one was found in time; the next \
         connect() looks for one anew",
        trunk.peer
    );
}

/// Looks for a path until there is one. `lost`: there is none any more; else the one that there is may do.
async fn restart(supervisor: &Arc<Supervisor>, trunk: &Arc<Trunk>, lost: bool) {
    let mut pause = PAUSES[0];
    let started = Instant::now();
    for tried in 1.. {
        if lost {
            // What is between here and the other end may be between here and the registrar too.
            register(supervisor).await;
        }
        match attempt(supervisor, trunk).await {
            Ok(()) => {
                return tracing::debug!(session = %trunk.session, took = ?started.elapsed(), "another path is taken");
            }
            Err(why) => tracing::info!(session = %trunk.session, why, "no other path yet"),
        }
        let restored = timeout(pause, trunk.link.road().restored()).await.is_ok();
        if restored && (lost || tried == TRIES) {
            return;
        }
        if restored {
            sleep(pause).await;
        }
        pause = (pause * 2).min(PAUSES[1]);
    }
}

/// Some routers (Linux, with nothing that keeps strangers from the router itself) remember a check that comes before the first packet from
/// inside, and then give that packet another port: no check gets through any more. Who answers sends first: of the first offer, the called end. So
/// it offers, from fresh ports, and the caller is first. Without relays: if it fails, all stays as it was.
async fn do_without_relay(supervisor: &Arc<Supervisor>, trunk: &Arc<Trunk>) {
    sleep(RELAYED_FOR).await;
    let road = trunk.link.road();
    let tried = road.tried();
    let reflexive = |all: &[Candidate]| all.iter().any(|candidate| candidate.kind == "reflexive");
    let is_relayed = is_relayed(trunk) && reflexive(&tried.local) && reflexive(&tried.remote);
    if !is_relayed || trunk.fingerprint.is_none() {
        return;
    }
    let attempt = async |other_first| {
        let sessions = &supervisor.sessions;
        let agent = sessions.started_agent().await.ok_or("this run has no registrar any more")?;
        let config = sessions.links.config(sessions, sessions.is_near().await).await?.without_relays();
        let prepared = road.prepare(&config).await.map_err(|e| e.to_string())?;
        let local = prepared.description().clone();
        *trunk.prepared.lock() = Some(prepared);
        let answered = agent.restart(trunk.session, local).await;
        let prepared = trunk.prepared.lock().take();
        let (remote, prepared) = match (answered, prepared) {
            (Ok(remote), Some(prepared)) => (remote, prepared),
            // Taken for a restart of the other end, which is answered.
            (Ok(_) | Err(RestartError::Superseded), _) => return Ok(()),
            (Err(error), _) => return Err(error.to_string()),
        };
        sleep(other_first).await;
        let turned = timeout(DIRECT_WITHIN, road.turn(prepared, &remote)).await;
        turned.map_err(|e| e.to_string())?.map_err(|e| e.to_string())
    };
    for other_first in OTHER_FIRST {
        match attempt(other_first).await {
            Ok(()) => return tracing::debug!(session = %trunk.session, "a path without a relay is taken"),
            Err(why) => tracing::debug!(session = %trunk.session, why, "there is no path without a relay"),
        }
    }
}

/// Whether the path is relayed, and works.
fn is_relayed(trunk: &Trunk) -> bool {
    let road = trunk.link.road();
    road.works() && road.path().is_some_and(|path| path.word() == "relayed")
}

async fn attempt(supervisor: &Arc<Supervisor>, trunk: &Arc<Trunk>) -> Result<(), String> {
    let sessions = &supervisor.sessions;
    let agent = sessions.started_agent().await.ok_or("this run has no registrar any more")?;
    let config = sessions.links.config(sessions, sessions.is_near().await).await?;
    let road = trunk.link.road();
    let prepared = road.prepare(&config).await.map_err(|e| e.to_string())?;
    say_silent(supervisor, &prepared.silent_relays());
    sessions.links.settings().say_unreached(prepared.unreached_relays());
    let local = prepared.description().clone();
    *trunk.prepared.lock() = Some(prepared);
    let answered = agent.restart(trunk.session, local).await;
    let prepared = trunk.prepared.lock().take();
    match (answered, prepared) {
        (Ok(remote), Some(prepared)) => road.turn(prepared, &remote).await.map_err(|e| e.to_string()),
        // Taken for a restart of the other end, which is answered.
        (Ok(_) | Err(RestartError::Superseded), _) => Ok(()),
        (Err(error), _) => {
            if error == RestartError::NoSession {
                // The connection lives as long as its path does.
                sleep(PAUSES[1]).await;
            }
            Err(error.to_string())
        }
    }
}

/// Names the TURN servers without which a path was looked for, once.
fn say_silent(supervisor: &Supervisor, servers: &[SocketAddr]) {
    for server in servers {
        supervisor.sessions.say_once(&format!("turn:{server}"), || {
            format!("the TURN server at {server} does not answer: paths are looked for without it")
        });
    }
}

/// The other end looks for a path: this one takes part.
pub fn restarted(supervisor: &Arc<Supervisor>, restart: IncomingRestart) {
    let links = supervisor.sessions.links.clone();
    let Some(trunk) = links.trunks.lock().get(&restart.id).and_then(std::sync::Weak::upgrade) else { return };
    let supervisor = supervisor.clone();
    tokio::spawn(async move {
        let answered = answer(&supervisor, &trunk, restart).await;
        if let Err(why) = answered {
            tracing::info!(session = %trunk.session, %why, "a restart of the other end came to nothing");
        }
    });
}

async fn answer(supervisor: &Arc<Supervisor>, trunk: &Trunk, restart: IncomingRestart) -> Result<(), LinkError> {
    let sessions = &supervisor.sessions;
    let road = trunk.link.road();
    let own = trunk.prepared.lock().take();
    let prepared = match own {
        Some(prepared) => prepared,
        None => {
            let config =
                sessions.links.config(sessions, sessions.is_near().await).await.map_err(LinkError::NoSocket)?;
            // The other end wants to do without, and has a relayed path as long as that is not found.
            let direct_only = is_relayed(trunk) && !restart.remote.is_relayed();
            road.prepare(&if direct_only { config.without_relays() } else { config }).await?
        }
    };
    let remote = restart.remote.clone();
    restart.accept(prepared.description().clone());
    road.turn(prepared, &remote).await
}
