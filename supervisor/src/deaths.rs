//! The death of sockets: who closes one is not asked, the kernel tells.

use std::os::fd::AsFd;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use nix::errno::Errno;
use parking_lot::Mutex;
use sandbox::diag::{DestroyWatch, Lost};

use crate::call::errno;
use crate::supervisor::Supervisor;

/// The watch over the table's sockets. It stands from the first socket in the table on: while anybody watches, the
/// kernel makes a report for every socket that dies on this machine, which costs every program a little.
#[derive(Default)]
pub struct Deaths {
    supervisor: OnceLock<Weak<Supervisor>>,
    begun: OnceLock<()>,
}

impl Deaths {
    /// Whom to tell. Fails where the kernel does not report.
    pub fn serve(&self, supervisor: &Arc<Supervisor>) -> std::io::Result<()> {
        let _ = self.supervisor.set(Arc::downgrade(supervisor));
        DestroyWatch::new().map(drop)
    }

    /// A socket enters the table.
    pub fn watch(&self) {
        self.begun.get_or_init(|| {
            let Some(supervisor) = self.supervisor.get().and_then(Weak::upgrade) else { return };
            match DestroyWatch::new() {
                Ok(watch) => {
                    supervisor.runtime.clone().spawn(follow(supervisor, watch));
                }
                Err(error) => tracing::error!(%error, "the death of sockets cannot be followed"),
            }
        });
    }
}

/// Reports are taken in batches this far apart: nobody waits for them, and each wake-up would cost the program more than
/// the report itself.
const BATCH: Duration = Duration::from_millis(10);

async fn follow(supervisor: Arc<Supervisor>, watch: DestroyWatch) {
    let Ok(watched) = watch.as_fd().try_clone_to_owned() else { return };
    let watch = Mutex::new(watch);
    loop {
        let mut cookies = Vec::new();
        let read = sandbox::ready::when_ready(watched.as_fd(), tokio::io::Interest::READABLE, || {
            match watch.lock().read(&mut cookies) {
                Ok(Lost::Nothing) if cookies.is_empty() => Err(Errno::EAGAIN),
                Ok(lost) => Ok(lost),
                Err(e) => Err(errno(e)),
            }
        });
        let lost = match read.await {
            Ok(lost) => lost,
            Err(error) => {
                tracing::error!(%error, "the death of sockets cannot be followed any more");
                return;
            }
        };
        for cookie in cookies {
            supervisor.destroyed(cookie);
        }
        if lost == Lost::Some {
            sweep(&supervisor);
        }
        tokio::time::sleep(BATCH).await;
    }
}

/// Reports were lost: whoever should be in the kernel's tables and is not, is dead.
fn sweep(supervisor: &Supervisor) {
    let known = supervisor.table.lock().hashed();
    match sandbox::diag::live_cookies() {
        Ok(live) => known.into_iter().filter(|c| !live.contains(c)).for_each(|c| supervisor.destroyed(c)),
        Err(error) => tracing::warn!(%error, "the sweep for dead sockets failed"),
    }
}
