//! One connect() under way: the session it waits for, whichever of the program's threads asks.

use nix::errno::Errno;
use tokio::sync::watch;

/// Where an attempt stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The session is being set up.
    Waiting,
    /// Connected, or failed with this errno.
    Done(Result<(), Errno>),
    /// The program closed its socket.
    Abandoned,
}

/// Shared by the task that sets the session up and the calls that wait for it.
pub struct Attempt(watch::Sender<Progress>);

impl Attempt {
    pub fn new() -> Attempt {
        Attempt(watch::Sender::new(Progress::Waiting))
    }

    pub fn set(&self, progress: Progress) {
        self.0.send_replace(progress);
    }

    /// Waits for the end: what the program is owed.
    pub async fn finished(&self) -> Result<(), Errno> {
        let mut receiver = self.0.subscribe();
        let end = receiver.wait_for(|p| *p != Progress::Waiting).await.map(|p| *p);
        match end {
            Ok(Progress::Done(result)) => result,
            _ => Err(Errno::ECONNABORTED),
        }
    }

    /// Waits until the program does not want the connection any more.
    pub async fn abandoned(&self) {
        let _ = self.0.subscribe().wait_for(|p| *p == Progress::Abandoned).await;
    }
}
