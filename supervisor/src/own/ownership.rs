//! chown(2) and its kin in a user namespace that has one user and one group: there the kernel knows no other, and says so before it
//! looks whether there is such a file. So the supervisor, who is outside and of the same user, makes those calls.

use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::libc;
use nix::unistd::{Gid, Uid, fchown, fchownat, getgid, getuid};

use crate::call::Call;

/// A uid_t or gid_t that changes nothing.
const KEEP: u32 = u32::MAX;

/// What the file is named by.
enum File {
    Descriptor,
    Path { follow: bool },
    At,
}

pub fn change(mut call: Call) {
    let (file, name, at) = match call.n.call {
        #[cfg(target_arch = "x86_64")]
        libc::SYS_chown => (File::Path { follow: true }, "chown", 1),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_lchown => (File::Path { follow: false }, "lchown", 1),
        libc::SYS_fchown => (File::Descriptor, "fchown", 1),
        _ => (File::At, "fchownat", 2),
    };
    let (user, group) = (call.int(at).cast_unsigned(), call.int(at + 1).cast_unsigned());
    call.note(|| format!("{name}(.., {}, {})", user.cast_signed(), group.cast_signed()));
    if [getuid().as_raw(), KEEP].contains(&user) && [getgid().as_raw(), KEEP].contains(&group) {
        // The registers decide; what the path means is not asked here.
        return call.proceed();
    }
    // A file system may let it wait for another machine, or for a process of this run.
    let runtime = call.supervisor.runtime.clone();
    runtime.spawn_blocking(move || {
        let result = foreign(&call, &file, user, group);
        call.finish(result.map(|()| 0));
    });
}

fn foreign(call: &Call, file: &File, user: u32, group: u32) -> Result<(), Errno> {
    let user = (user != KEEP).then(|| Uid::from_raw(user));
    let group = (group != KEEP).then(|| Gid::from_raw(group));
    let found = match file {
        File::Descriptor => return fchown(call.n.descriptor(call.int(0))?, user, group),
        File::Path { follow } => there(call, None, &call.n.text(call.argument(0))?, *follow)?,
        File::At => {
            let flags = AtFlags::from_bits(call.int(4)).ok_or(Errno::EINVAL)?;
            if !(AtFlags::AT_SYMLINK_NOFOLLOW | AtFlags::AT_EMPTY_PATH).contains(flags) {
                return Err(Errno::EINVAL);
            }
            let directory = (call.int(0) != libc::AT_FDCWD).then(|| call.int(0));
            let path = call.n.text(call.argument(1))?;
            match directory {
                _ if !path.is_empty() || !flags.contains(AtFlags::AT_EMPTY_PATH) => {
                    there(call, directory, &path, !flags.contains(AtFlags::AT_SYMLINK_NOFOLLOW))?
                }
                Some(number) => call.n.descriptor(number)?,
                None => call.n.caller()?.open_at(None, b".", true)?,
            }
        }
    };
    fchownat(found, "", user, group, AtFlags::AT_EMPTY_PATH)
}

/// The file that a path means, from a directory by its number.
fn there(call: &Call, directory: Option<i32>, path: &[u8], follow: bool) -> Result<OwnedFd, Errno> {
    let directory = match directory {
        Some(number) if path.first() != Some(&b'/') => Some(call.n.descriptor(number)?),
        _ => None,
    };
    call.n.caller()?.open_at(directory.as_ref(), path, follow)
}
