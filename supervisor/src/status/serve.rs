//! The run's end: a socket that answers whoever of this user asks.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use super::report::Report;
use crate::hub;
use crate::supervisor::Supervisor;

/// Who asks is answered within this time, or not at all.
const PATIENCE: Duration = Duration::from_secs(2);
/// Questions at once.
const AT_ONCE: usize = 8;

/// The socket of this run. Its file is removed with it.
pub struct Door(PathBuf);

impl Door {
    /// Opens it. To be called in a tokio runtime.
    pub fn open(supervisor: &Arc<Supervisor>, program: String) -> Result<Door, String> {
        let path = super::path(&hub::directory()?, std::process::id());
        let failed = |e: std::io::Error| format!("{}: {e}", path.display());
        // One of an earlier process with this number.
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).map_err(failed)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        tokio::spawn(serve(listener, Arc::downgrade(supervisor), program));
        Ok(Door(path))
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

async fn serve(listener: UnixListener, supervisor: Weak<Supervisor>, program: String) {
    let since = Instant::now();
    let room = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "status");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some(supervisor) = supervisor.upgrade() else { return };
        let is_user = stream.peer_cred().is_ok_and(|peer| peer.uid() == nix::unistd::getuid().as_raw());
        if !is_user {
            continue;
        }
        let program = program.clone();
        tokio::spawn(async move {
            let _permit = permit;
            // Whoever does not take the answer goes without.
            let _ = tokio::time::timeout(PATIENCE, answer(stream, &supervisor, &program, since)).await;
        });
    }
}

async fn answer(mut stream: UnixStream, supervisor: &Supervisor, program: &str, since: Instant) -> std::io::Result<()> {
    let mut question = [0];
    stream.read_exact(&mut question).await?;
    let report = Report::of(supervisor, program, since);
    let answer = if question[0] == b'j' { report.to_json() } else { report.to_text() };
    stream.write_all(answer.as_bytes()).await
}

/// Whether an AF_UNIX socket has the name of one that answers for a run: no program listens there.
pub fn is_ours(socket: BorrowedFd<'_>) -> bool {
    const FAMILY: usize = 2;
    let (Ok(name), Ok(directory)) = (sandbox::message::raw_name(socket.as_fd(), false), hub::directory()) else {
        return false;
    };
    let begins = directory.join(super::PREFIX);
    name.get(FAMILY..).is_some_and(|path| path.starts_with(begins.as_os_str().as_bytes()))
}
