//! The names that AF_UNIX sockets of this run are bound to.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::stat::{FileStat, SFlag, fstat};

use super::FAMILY;
use crate::call::Target;
use crate::datagram::Holder;

/// The AF_UNIX sockets that this run bound.
#[derive(Default)]
pub struct Names {
    /// By device and inode of the socket file.
    files: HashMap<(u64, u64), File>,
    /// By the struct sockaddr_un of an abstract name.
    abstracts: HashMap<Vec<u8>, Holder>,
}

/// A socket file of this run.
pub struct File {
    /// Keeps the inode: its number cannot become another file's while this is open.
    pin: OwnedFd,
    /// The struct sockaddr_un that the socket was bound to.
    pub name: Vec<u8>,
    /// The inode of the socket itself, not of its file.
    pub socket: u64,
    /// The kernel said that the file is this very socket's (CONFIG_UNIX_DIAG); a file is one socket's for good.
    pub is_certain: bool,
}

/// Names of one run that are remembered: later sockets are bound, but not reached.
const NAMES: usize = 1024;

impl Names {
    /// Notes what a socket was bound to; `file` is what was at its path afterwards.
    pub fn remember(&mut self, name: Vec<u8>, file: Option<OwnedFd>, target: &Target, holder: Holder) {
        match name.get(FAMILY) {
            Some(0) => {
                if self.abstracts.len() >= NAMES {
                    self.abstracts.retain(|_, holder| holder.find().is_some());
                }
                if self.abstracts.len() < NAMES {
                    self.abstracts.insert(name, holder);
                }
            }
            Some(_) => {
                if self.files.len() >= NAMES {
                    self.files.retain(|_, f| fstat(&f.pin).is_ok_and(|m| m.st_nlink > 0));
                }
                let Some((pin, stat)) = file.and_then(|pin| fstat(&pin).ok().map(|stat| (pin, stat))) else { return };
                if self.files.len() >= NAMES || !is_socket(&stat) {
                    return;
                }
                let is_certain = match sandbox::unix_diag::is_bound_to(target.as_fd(), stat.st_dev, stat.st_ino) {
                    // Another's may have been put there whose inode is alike in what the kernel tells of it.
                    Ok(true) => match alike(&pin, &stat) {
                        Ok(0 | 1) => true,
                        Ok(_) => return,
                        Err(error) => {
                            tracing::warn!(%error, "whether a socket file is one of two alike cannot be asked");
                            false
                        }
                    },
                    // Another's was put there.
                    Ok(false) => return,
                    Err(Errno::ENOENT) => false,
                    Err(error) => {
                        tracing::warn!(%error, "whose socket file it is cannot be asked");
                        false
                    }
                };
                let socket = sandbox::processes::inode(target.as_fd()).unwrap_or(0);
                self.files.insert((stat.st_dev, stat.st_ino), File { pin, name, socket, is_certain });
            }
            None => {}
        }
    }

    pub fn file(&self, stat: &FileStat) -> Option<&File> {
        self.files.get(&(stat.st_dev, stat.st_ino))
    }

    /// Who bound an abstract name, if anybody of this run did.
    pub fn holder(&self, name: &[u8]) -> Option<Holder> {
        self.abstracts.get(name).copied()
    }
}

/// How many sockets of this network namespace the kernel says the same of as of one with this file: it tells 32 bits of an inode, and file systems
/// have more, but for those of ext4 (0).
///
/// # Errors
/// As [`sandbox::unix_diag::alike`].
pub fn alike(file: &OwnedFd, stat: &FileStat) -> Result<usize, Errno> {
    use nix::sys::statfs::{EXT4_SUPER_MAGIC, fstatfs};
    if fstatfs(file)?.filesystem_type() == EXT4_SUPER_MAGIC {
        return Ok(0);
    }
    sandbox::unix_diag::alike(stat.st_dev, stat.st_ino)
}

pub fn is_socket(stat: &FileStat) -> bool {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFSOCK
}
