//! What peers are told of the program's sockets (presence): those that the policy publishes, while they are open.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use policy::BindDecision;
use sipcore::agent::{Label, Proto, Tuple, Watchers};
use tokio::sync::Notify;

use crate::supervisor::{Supervisor, policy_proto};

/// Changes that come close together are told together.
const PAUSE: Duration = Duration::from_millis(50);
/// Sockets of one document: servers take no more than some 50 kB.
const MOST: usize = 64;

/// Tells when something may have changed.
pub struct Published {
    /// The policy publishes something.
    wanted: bool,
    changed: Notify,
}

/// A socket as peers are to see it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Shown {
    note: Option<String>,
    watchers: Option<Vec<String>>,
    since: SystemTime,
}

impl Published {
    pub fn new(wanted: bool) -> Published {
        Published { wanted, changed: Notify::new() }
    }

    /// A socket may have come, changed or gone.
    pub fn note(&self) {
        if self.wanted {
            self.changed.notify_one();
        }
    }

    /// Whether any socket is published.
    pub fn is_wanted(&self) -> bool {
        self.wanted
    }
}

/// Follows the program's sockets as long as the run lasts.
pub fn serve(supervisor: &Arc<Supervisor>) {
    if supervisor.published.wanted {
        supervisor.runtime.spawn(follow(Arc::downgrade(supervisor), random_name()));
    }
}

async fn follow(supervisor: Weak<Supervisor>, name: String) {
    let mut told: BTreeMap<Label, Shown> = BTreeMap::new();
    loop {
        let Some(run) = supervisor.upgrade() else { return };
        let open = open_sockets(&run, &told);
        if open != told && run.sessions.publish(tuples(&open, &name)).await {
            told = open;
        }
        tokio::time::sleep(PAUSE).await;
        run.published.changed.notified().await;
    }
}

/// The sockets that are published now; those that were before keep their beginning.
fn open_sockets(supervisor: &Supervisor, before: &BTreeMap<Label, Shown>) -> BTreeMap<Label, Shown> {
    let open = match &supervisor.network {
        Some(network) => network.open_endpoints(),
        None => supervisor.table.lock().open_endpoints(),
    };
    let now = this_second();
    let mut shown = BTreeMap::new();
    for (proto, address) in open {
        let Some(note) = description(supervisor, proto, &address) else { continue };
        let label = Label { proto, port: address.port() };
        let watchers = supervisor.policy.visible_to(policy_proto(proto), label.port);
        let since = before.get(&label).map_or(now, |known| known.since);
        shown.entry(label).or_insert(Shown { note, watchers, since });
    }
    if shown.len() > MOST {
        supervisor.sessions.say_once("published:many", || {
            format!(
                "the program has {} sockets that the policy publishes; peers read of {MOST} of them, those with the lowest \
                 ports (all can be called)",
                shown.len()
            )
        });
        shown = shown.into_iter().take(MOST).collect();
    }
    shown
}

/// What peers read of a socket bound to `address`; None: nothing is published of it.
fn description(supervisor: &Supervisor, proto: Proto, address: &SocketAddr) -> Option<Option<String>> {
    let ip = address.ip().to_canonical();
    match supervisor.policy.bind(policy_proto(proto), ip, address.port()) {
        BindDecision::Publish { text, .. } if !ip.is_loopback() => Some(text),
        _ => None,
    }
}

fn tuples(open: &BTreeMap<Label, Shown>, name: &str) -> Vec<Tuple> {
    let tuple = |(label, shown): (&Label, &Shown)| Tuple {
        // Other runs of the same identity publish beside this one.
        id: format!("{}-{}-{name}", label.proto, label.port),
        open: Some(true),
        label: Some(*label),
        note: shown.note.clone(),
        contact: None,
        since: Some(shown.since),
        watchers: shown.watchers.as_ref().map(|list| Watchers::new(list.iter().map(String::as_str))),
    };
    open.iter().map(tuple).collect()
}

fn random_name() -> String {
    let mut random = [0u8; 6];
    if getrandom::fill(&mut random).is_err() {
        random[..4].copy_from_slice(&std::process::id().to_be_bytes());
    }
    random.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Now, in whole seconds.
fn this_second() -> SystemTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UNIX_EPOCH + Duration::from_secs(since.as_secs())
}
