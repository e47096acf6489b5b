//! `sipbox status`: what the runs of this user are doing. Each run answers on a socket of its own beside the hub's, to processes of its user
//! alone; its program cannot reach it, and cannot stand in for it.

mod report;
mod serve;
mod show;

pub use report::{Connection, Socket};
pub use serve::{Door, is_ours};
pub use show::{Arguments, run};

use std::path::{Path, PathBuf};

/// What the name of a run's socket begins with, before its process id.
const PREFIX: &str = "run-";
const SUFFIX: &str = ".sock";

/// Where the run with this process id answers.
fn path(directory: &Path, pid: u32) -> PathBuf {
    directory.join(format!("{PREFIX}{pid}{SUFFIX}"))
}

/// The process id in such a name.
fn pid_of(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?.parse().ok()
}
