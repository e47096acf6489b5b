//! The death of sockets: who closes one is not asked, the kernel tells.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use parking_lot::Mutex;
use sandbox::diag::{DestroyWatch, Lost};
use sipcore::agent::Proto;

use crate::call::errno;
use crate::supervisor::Supervisor;
use crate::table::{Cookie, Hashed, Pointing};

/// The watch over the table's sockets. It stands from the first socket in the table on: while anybody watches, the
/// kernel makes a report for every socket that dies on this machine, which costs every program a little.
#[derive(Default)]
pub struct Deaths {
    supervisor: OnceLock<Weak<Supervisor>>,
    watch: OnceLock<Option<Mutex<DestroyWatch>>>,
    /// When the last sweep was, and how many sockets it left.
    swept: Mutex<Option<(Instant, usize)>>,
}

/// Reports are taken in batches this far apart: nobody waits for them, and each wake-up would cost the program more than
/// the report itself.
const BATCH: Duration = Duration::from_millis(10);
/// With so many reports in a batch the kernel's queue of them (as long as net.core.rmem_max lets it be) is soon full.
const MANY: usize = 64;
const BATCH_OF_MANY: Duration = Duration::from_millis(1);
/// A sweep asks for all sockets of the machine: not more often than this, unless a good part of the table is newer than the last one. (The
/// kernel may be late with its reports, and a program fast.)
const SWEEP_APART: Duration = Duration::from_millis(50);
/// That part of the table's limit: one in so many.
const NEWER: usize = 16;

impl Deaths {
    /// Whom to tell. Fails where the kernel does not report.
    pub fn serve(&self, supervisor: &Arc<Supervisor>) -> std::io::Result<()> {
        let _ = self.supervisor.set(Arc::downgrade(supervisor));
        DestroyWatch::new().map(drop)
    }

    /// A socket enters the table.
    pub fn watch(&self) {
        self.watch.get_or_init(|| {
            let supervisor = self.supervisor.get().and_then(Weak::upgrade)?;
            match DestroyWatch::new() {
                Ok(watch) => {
                    let polled = watch.as_fd().try_clone_to_owned().ok()?;
                    supervisor.runtime.clone().spawn(follow(supervisor, polled));
                    Some(Mutex::new(watch))
                }
                Err(error) => {
                    tracing::error!(%error, "the death of sockets cannot be followed");
                    None
                }
            }
        });
    }

    /// Takes what has been reported. EAGAIN when nothing has.
    fn read(&self, cookies: &mut Vec<Cookie>) -> Result<Lost, Errno> {
        let Some(Some(watch)) = self.watch.get() else { return Err(Errno::EAGAIN) };
        match watch.lock().read(cookies) {
            Ok(Lost::Nothing) if cookies.is_empty() => Err(Errno::EAGAIN),
            other => other.map_err(errno),
        }
    }

    /// Takes what has been reported meanwhile.
    pub fn collect(&self, supervisor: &Supervisor) {
        let mut cookies = Vec::new();
        let read = self.read(&mut cookies);
        cookies.into_iter().for_each(|c| supervisor.destroyed(c));
        if matches!(read, Ok(Lost::Some)) {
            sweep(supervisor);
        }
    }

    /// Whether the kernel's tables show this socket, whose address another one has got alone. (Before Linux 6.8 not a TCP socket that is merely
    /// bound: false.)
    pub fn is_alive(&self, supervisor: &Supervisor, cookie: Cookie) -> bool {
        match sandbox::diag::live_cookies() {
            // Of UDP the other one would be found.
            Ok(live) => {
                let of_tcp = supervisor.table.lock().pointing(cookie).filter(|at| at.proto == Proto::Tcp);
                live.contains(&cookie) || of_tcp.is_some_and(|at| self.is_found(at))
            }
            Err(error) => {
                // It stays known: the kernel's report, or a sweep, comes.
                tracing::warn!(%error, "whether a socket lives could not be asked");
                true
            }
        }
    }

    /// Whether the kernel finds a socket by its addresses: then it lives, or another one that has them too. A walk through the kernel's tables
    /// can miss one when others of its slot go meanwhile, and the program may choose when they do.
    fn is_found(&self, at: Pointing) -> bool {
        let Pointing { proto, local, to } = at;
        let found = match proto {
            Proto::Tcp => sandbox::diag::cookie_at(local.into(), to.into()).map(|found| found.is_some()),
            Proto::Udp => sandbox::diag::is_bound(local, to, false),
        };
        found.unwrap_or_else(|error| {
            // It stays known: the kernel's report, or a sweep, comes.
            tracing::warn!(%error, %local, %to, "whether a socket lives could not be asked");
            true
        })
    }

    /// Whether ports are kept for this socket, and it lives after all.
    fn is_needed(&self, supervisor: &Supervisor, cookie: Cookie) -> bool {
        let pointing = supervisor.table.lock().pointing(cookie);
        pointing.is_some_and(|at| self.is_found(at))
    }

    /// Brings the table up to date now: the kernel's reports may lag behind what the program has closed.
    pub fn catch_up(&self, supervisor: &Supervisor) {
        let limit = supervisor.policy.limits().sockets as usize;
        self.collect(supervisor);
        let mut swept = self.swept.lock();
        let known = supervisor.table.lock().len();
        if swept.is_none_or(|(when, left)| when.elapsed() >= SWEEP_APART || known.saturating_sub(left) >= limit / NEWER)
        {
            sweep(supervisor);
            let mut table = supervisor.table.lock();
            // Of these the kernel's tables say nothing. Those that live are known again at their next call.
            table.forget_blank();
            *swept = Some((Instant::now(), table.len()));
        }
    }
}

async fn follow(supervisor: Arc<Supervisor>, polled: OwnedFd) {
    loop {
        let mut cookies = Vec::new();
        let read = sandbox::ready::when_ready(polled.as_fd(), tokio::io::Interest::READABLE, || {
            supervisor.deaths.read(&mut cookies)
        });
        let lost = match read.await {
            Ok(lost) => lost,
            Err(error) => {
                tracing::error!(%error, "the death of sockets cannot be followed any more");
                return;
            }
        };
        let distance = if cookies.len() < MANY { BATCH } else { BATCH_OF_MANY };
        for cookie in cookies {
            supervisor.destroyed(cookie);
        }
        if lost == Lost::Some {
            sweep(&supervisor);
        }
        tokio::time::sleep(distance).await;
    }
}

/// Reports were lost: whoever should be in the kernel's tables and is not, is dead.
fn sweep(supervisor: &Supervisor) {
    let known = supervisor.table.lock().hashed();
    match sandbox::diag::living() {
        Ok(live) => {
            let told = |s: &Hashed| live.with_bound_tcp || !s.merely_bound_tcp;
            let dead: HashSet<_> =
                known.into_iter().filter(|s| told(s) && !live.cookies.contains(&s.cookie)).map(|s| s.cookie).collect();
            if dead.is_empty() {
                return;
            }
            // What has lost its port while the kernel was asked (connect(2) with AF_UNSPEC) is not dead for that.
            let known = supervisor.table.lock().hashed();
            let dead = known.iter().filter(|s| dead.contains(&s.cookie));
            dead.filter(|s| !supervisor.deaths.is_needed(supervisor, s.cookie)).for_each(|s| {
                supervisor.table.lock().remember_name(s.cookie);
                supervisor.destroyed(s.cookie);
            });
        }
        Err(error) => tracing::warn!(%error, "the sweep for dead sockets failed"),
    }
}
