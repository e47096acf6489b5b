//! Who makes a call: a thread of the program, as the files that it names and the sockets that it speaks to see it. A thread of this
//! process takes its rights on where they are not ours.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::sys::stat::{Mode, fstatat};

use crate::capabilities::{Capabilities, OF_NAMES, SETGID, SETUID};

/// A thread of the program (proc(5): status), which has its id for as long as this is used: what is asked of it later fails when it is gone.
pub struct Caller {
    thread: u32,
    waits: Box<dyn Fn() -> bool + Send + Sync>,
    /// /proc/TID: of this very thread, whoever has its id later.
    directory: OwnedFd,
    /// Its process.
    pub process: i32,
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    uids: Ids,
    gids: Ids,
    groups: Vec<u32>,
    /// Effective ones, of its own user namespace.
    capabilities: u64,
    umask: Mode,
}

/// User or group ids (credentials(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ids {
    real: u32,
    effective: u32,
    saved: u32,
    /// By which files are reached (setfsuid(2), setfsgid(2)).
    files: u32,
}

impl Ids {
    fn may_be(&self, id: u32) -> bool {
        [self.real, self.effective, self.saved].contains(&id)
    }
}

const DIRECTORY: OFlag = OFlag::O_PATH.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

impl Caller {
    /// The thread with this id, of which `is_waiting` says that it is the caller, still.
    ///
    /// # Errors
    /// ESRCH when it is gone; EMFILE and the like: this process cannot look.
    pub fn of(thread: u32, is_waiting: impl Fn() -> bool + Send + Sync + 'static) -> Result<Caller, Errno> {
        let directory = open(format!("/proc/{thread}").as_str(), DIRECTORY, Mode::empty()).map_err(gone)?;
        let status = openat(&directory, "status", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).map_err(gone)?;
        let mut text = String::with_capacity(2048);
        File::from(status).read_to_string(&mut text).map_err(|_| Errno::ESRCH)?;
        // After the look: it was at the caller.
        if !is_waiting() {
            return Err(Errno::ESRCH);
        }
        Caller::read(thread, directory, &text, Box::new(is_waiting)).ok_or(Errno::ESRCH)
    }

    fn read(
        thread: u32,
        directory: OwnedFd,
        status: &str,
        waits: Box<dyn Fn() -> bool + Send + Sync>,
    ) -> Option<Caller> {
        let line = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).map(str::split_ascii_whitespace);
        let ids = |name: &str| {
            let mut all = line(name)?.map_while(|id| id.parse().ok());
            Some(Ids { real: all.next()?, effective: all.next()?, saved: all.next()?, files: all.next()? })
        };
        let (uids, gids) = (ids("Uid:")?, ids("Gid:")?);
        let umask = libc::mode_t::from_str_radix(line("Umask:")?.next()?, 8).ok()?;
        let mut groups: Vec<u32> = line("Groups:")?.filter_map(|g| g.parse().ok()).collect();
        groups.sort_unstable();
        Some(Caller {
            thread,
            waits,
            directory,
            process: line("Tgid:")?.next()?.parse().ok()?,
            uid: uids.effective,
            gid: gids.effective,
            uids,
            gids,
            groups,
            capabilities: u64::from_str_radix(line("CapEff:")?.next()?, 16).ok()?,
            umask: Mode::from_bits_truncate(umask),
        })
    }

    /// Whether it waits for the answer to its call, still: it has not been killed.
    pub fn is_waiting(&self) -> bool {
        (self.waits)()
    }

    /// Whether it may say that a message is of this process, user and group (scm_check_creds in the kernel). Capabilities that this process
    /// has not count for nothing: they are those of another user namespace.
    pub fn may_speak_for(&self, process: i32, uid: u32, gid: u32) -> bool {
        let own = Capabilities::own().map_or(0, |own| own.effective) & self.capabilities;
        // CAP_SYS_ADMIN, by which it could be another process, no program of a run has.
        process == self.process
            && (self.uids.may_be(uid) || own & SETUID != 0)
            && (self.gids.may_be(gid) || own & SETGID != 0)
    }

    /// Real user and group: who the kernel says has sent a message.
    pub fn sender(&self) -> (u32, u32) {
        (self.uids.real, self.gids.real)
    }

    /// Whether its rights are those of this process. One that is not root cannot take on another user, and has a program of its own user.
    fn is_us(&self) -> bool {
        let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
        let own = Capabilities::own().map_or(0, |own| own.effective) & OF_NAMES;
        if self.capabilities & own != own {
            return false;
        }
        if !uid.is_root() {
            return true;
        }
        [self.uids.effective, self.uids.files] == [uid.as_raw(); 2]
            && [self.gids.effective, self.gids.files] == [gid.as_raw(); 2]
            && self.has_our_groups()
    }

    fn has_our_groups(&self) -> bool {
        let ours = nix::unistd::getgroups().unwrap_or_default();
        let mut ours: Vec<u32> = ours.into_iter().map(nix::unistd::Gid::as_raw).collect();
        ours.sort_unstable();
        ours == self.groups
    }

    /// Whether its root directory is that of this process.
    pub(crate) fn shares_root(&self) -> bool {
        let ours = std::fs::metadata("/proc/self/root/").map(|root| (root.dev(), root.ino()));
        let theirs = fstatat(&self.directory, "root/", AtFlags::empty()).map(|root| (root.st_dev, root.st_ino));
        matches!((ours, theirs), (Ok(ours), Ok(theirs)) if ours == theirs)
    }

    /// Whether it may see less than this process. A thread of this process may go by /proc/PID to the directories of this process, whatever
    /// its own root and rights are (proc_fd_permission, ptrace_may_access), and so is not to be led there.
    pub(crate) fn is_confined(&self) -> bool {
        !self.is_us() || !self.shares_root()
    }

    /// Runs `work` with its rights.
    pub(crate) fn with_rights<T: Send>(&self, work: impl FnOnce() -> Result<T, Errno> + Send) -> Result<T, Errno> {
        if self.is_us() {
            return work();
        }
        elsewhere(|| {
            self.take_on_rights()?;
            work()
        })
    }

    /// Runs `work` also with its root and working directory and its umask. EACCES when it has another root directory and this process may
    /// not go there.
    pub(crate) fn with_view<T: Send>(&self, work: impl FnOnce() -> Result<T, Errno> + Send) -> Result<T, Errno> {
        elsewhere(|| {
            let cwd = openat(&self.directory, "cwd", DIRECTORY, Mode::empty()).map_err(gone)?;
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS)?;
            if !self.shares_root() {
                nix::unistd::fchdir(&self.directory)?;
                nix::unistd::chroot("root").map_err(|_| Errno::EACCES)?;
            }
            nix::unistd::fchdir(&cwd)?;
            nix::sys::stat::umask(self.umask);
            if !self.is_us() {
                self.take_on_rights()?;
            }
            work()
        })
    }

    /// Of the calling thread alone, for good.
    fn take_on_rights(&self) -> Result<(), Errno> {
        if nix::unistd::geteuid().is_root() {
            self.take_on_ids()?;
        }
        let own = Capabilities::own()?;
        Capabilities { effective: self.capabilities & own.permitted, ..own }.set()?;
        // A change of user may make the process open to others of that user again (fs.suid_dumpable).
        nix::sys::prctl::set_dumpable(false)
    }

    fn take_on_ids(&self) -> Result<(), Errno> {
        /// The kernel's answer to it is what was so before (setfsuid(2)).
        const NO_ID: libc::c_long = -1;
        let ids = |of: &Ids| [of.real, of.effective, of.saved].map(libc::c_ulong::from);
        let ([real, effective, saved], [group, effective_group, saved_group]) = (ids(&self.uids), ids(&self.gids));
        // SAFETY: setgroups reads as many ids as the length says; the others take integers. The system calls, unlike the functions of
        // the C library, change one thread: this one, which ends with its work.
        let files = unsafe {
            // Which of them are in force is said afterwards.
            Errno::result(libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0))?;
            // The only one of these calls that needs a privilege also where it changes nothing: root may be without CAP_SETGID.
            if !self.has_our_groups() {
                Errno::result(libc::syscall(libc::SYS_setgroups, self.groups.len(), self.groups.as_ptr()))?;
            }
            Errno::result(libc::syscall(libc::SYS_setresgid, group, effective_group, saved_group))?;
            Errno::result(libc::syscall(libc::SYS_setresuid, real, effective, saved))?;
            let own = Capabilities::own()?;
            Capabilities { effective: own.permitted, ..own }.set()?;
            libc::syscall(libc::SYS_setfsgid, libc::c_ulong::from(self.gids.files));
            libc::syscall(libc::SYS_setfsuid, libc::c_ulong::from(self.uids.files));
            [libc::syscall(libc::SYS_setfsuid, NO_ID), libc::syscall(libc::SYS_setfsgid, NO_ID)]
        };
        let taken = files == [self.uids.files, self.gids.files].map(libc::c_long::from);
        if taken { Ok(()) } else { Err(Errno::EPERM) }
    }

    /// Where a path begins with `/proc/self` and the like: its own directory that is meant, and what comes behind. Looked up here they
    /// would be ours.
    pub(crate) fn own_proc<'p>(&self, path: &'p [u8]) -> Result<Option<(OwnedFd, &'p [u8])>, Errno> {
        let Some((directory, behind)) = self.in_own_proc(path) else { return Ok(None) };
        let directory = open(directory.as_str(), DIRECTORY, Mode::empty()).map_err(gone)?;
        // As long as the thread is there nobody else has the id of its process.
        fstatat(&self.directory, "status", AtFlags::empty()).map_err(gone)?;
        Ok(Some((directory, behind)))
    }

    fn in_own_proc<'p>(&self, path: &'p [u8]) -> Option<(String, &'p [u8])> {
        let (process, thread) = (self.process, self.thread);
        let all: [(&[u8], String); 3] = [
            (b"/proc/self/", format!("/proc/{process}")),
            (b"/proc/thread-self/", format!("/proc/{process}/task/{thread}")),
            (b"/dev/fd/", format!("/proc/{process}/fd")),
        ];
        all.into_iter().find_map(|(before, own)| {
            let behind = path.strip_prefix(before)?;
            let slashes = behind.iter().take_while(|b| **b == b'/').count();
            Some((own, if behind.len() > slashes { &behind[slashes..] } else { b"." }))
        })
    }
}

/// Of a thread that is gone there is nothing in its directory.
fn gone(e: Errno) -> Errno {
    if e == Errno::ENOENT { Errno::ESRCH } else { e }
}

/// On a thread that ends with the work.
fn elsewhere<T: Send>(work: impl FnOnce() -> Result<T, Errno> + Send) -> Result<T, Errno> {
    let watched = || {
        crate::watchdog::enlist();
        crate::watchdog::within_step(true);
        work()
    };
    std::thread::scope(|scope| {
        // EAGAIN: the user may have no more threads.
        let thread = std::thread::Builder::new().spawn_scoped(scope, watched);
        let thread = thread.map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO)))?;
        thread.join().unwrap_or(Err(Errno::EIO))
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::capabilities::KEPT;

    pub(crate) fn me() -> Caller {
        Caller::of(nix::unistd::gettid().as_raw() as u32, || true).unwrap()
    }

    fn nowhere() -> OwnedFd {
        open("/", DIRECTORY, Mode::empty()).unwrap()
    }

    fn is_root() -> bool {
        let root = nix::unistd::geteuid().is_root();
        if !root {
            eprintln!("skipped: needs root");
        }
        root
    }

    #[test]
    fn who_a_thread_is() {
        let status = "Name:\tx\nUmask:\t0027\nTgid:\t7\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t30 10 \n\
                      CapInh:\t1\nCapEff:\t00000000000000c0\n";
        let caller = Caller::read(9, nowhere(), status, Box::new(|| true)).unwrap();
        assert_eq!((caller.process, caller.uid, caller.gid), (7, 2, 6));
        assert_eq!((caller.uids.files, caller.gids.files, caller.capabilities), (4, 8, 0xc0));
        assert_eq!(caller.sender(), (1, 5));
        assert_eq!((&caller.groups[..], caller.umask.bits()), (&[10, 30][..], 0o027));
        assert!(Caller::read(9, nowhere(), "Name:\tx\n", Box::new(|| true)).is_none());
        let own = |path: &'static [u8]| caller.in_own_proc(path);
        assert_eq!(own(b"/proc/self/fd/3/x"), Some(("/proc/7".into(), &b"fd/3/x"[..])));
        assert_eq!(own(b"/proc/self///cwd"), Some(("/proc/7".into(), &b"cwd"[..])));
        assert_eq!(own(b"/proc/thread-self/cwd/x"), Some(("/proc/7/task/9".into(), &b"cwd/x"[..])));
        assert_eq!(own(b"/dev/fd/"), Some(("/proc/7/fd".into(), &b"."[..])));
        assert_eq!(own(b"/proc/selfish"), None);
    }

    #[test]
    fn who_is_gone_is_nobody_else() {
        let id = nix::unistd::gettid().as_raw() as u32;
        assert_eq!(Caller::of(id, || false).err(), Some(Errno::ESRCH));
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let caller = Caller::of(child.id(), || true).unwrap();
        assert!(caller.own_proc(b"/proc/self/cwd").unwrap().is_some() && caller.shares_root());
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(caller.with_view(|| Ok(())), Err(Errno::ESRCH));
        assert!(caller.own_proc(b"/proc/self/cwd").is_err() && !caller.shares_root());
        assert_eq!(Caller::of(child.id(), || true).err(), Some(Errno::ESRCH));
    }

    #[test]
    fn rights_are_taken_on() {
        if !is_root() {
            return;
        }
        let ids = |real, effective, saved, files| Ids { real, effective, saved, files };
        let nobody = ids(65534, 65534, 65534, 65534);
        // Who is who on the thread that does the work.
        let taken_on = |caller: &Caller| caller.with_rights(|| Caller::of(own_thread(), || true));
        let is_as = |caller: &Caller| {
            let there = taken_on(caller).unwrap();
            let both = |c: &Caller| (c.uids, c.gids, c.groups.clone(), c.capabilities & KEPT);
            assert_eq!(both(&there), both(caller));
        };
        let all = me().capabilities;
        is_as(&Caller { uids: nobody, gids: nobody, groups: vec![65534], capabilities: 0, ..me() });
        // Root without a capability, and somebody with one.
        is_as(&Caller { capabilities: 0, ..me() });
        is_as(&Caller { uids: ids(1, 2, 3, 2), gids: ids(4, 5, 6, 5), capabilities: all & SETUID, ..me() });
        // setfsuid(2), as the kernel leaves the capabilities (CAP_DAC_OVERRIDE and the like).
        is_as(&Caller { uids: ids(0, 0, 0, 65534), gids: ids(0, 0, 0, 65534), capabilities: all & !0x1f, ..me() });
        assert!(nix::unistd::geteuid().is_root() && me().is_us());
    }

    #[test]
    fn only_what_matters_to_names_makes_another() {
        if !is_root() {
            return;
        }
        let with = |capabilities| Caller { capabilities, ..me() };
        let all = me().capabilities;
        assert!(with(all & OF_NAMES).is_us());
        for bit in (0..64).map(|n| 1 << n).filter(|bit| all & OF_NAMES & bit != 0) {
            assert!(!with(all & !bit).is_us(), "{bit:#x}");
        }
    }

    /// As in a container that was started without these capabilities.
    #[test]
    fn root_that_may_not_change_ids_takes_on_what_is_its_own() {
        if !is_root() {
            return;
        }
        let narrowed = || {
            let own = Capabilities::own()?;
            let left = own.permitted & !(SETUID | SETGID);
            Capabilities { effective: left, permitted: left, inheritable: 0 }.set()?;
            let without_files = Caller { capabilities: 0, ..me() };
            let there = without_files.with_rights(|| Caller::of(own_thread(), || true))?;
            assert_eq!((there.uids, there.gids, there.groups), (me().uids, me().gids, me().groups));
            assert_eq!((there.capabilities, me().capabilities), (0, left));
            let other = Caller { groups: vec![1234], ..me() };
            assert_eq!(other.with_rights(|| Ok(())), Err(Errno::EPERM));
            Ok::<_, Errno>(())
        };
        std::thread::spawn(narrowed).join().unwrap().unwrap();
    }

    fn own_thread() -> u32 {
        nix::unistd::gettid().as_raw() as u32
    }

    #[test]
    fn whom_one_may_speak_for() {
        let ids = |real, effective, saved| Ids { real, effective, saved, files: 9 };
        let caller = Caller { process: 7, uids: ids(1, 2, 3), gids: ids(4, 5, 6), capabilities: 0, ..me() };
        assert!(caller.may_speak_for(7, 1, 6) && caller.may_speak_for(7, 3, 4));
        assert!(!caller.may_speak_for(8, 1, 4) && !caller.may_speak_for(7, 0, 4) && !caller.may_speak_for(7, 9, 4));
        assert!(!caller.may_speak_for(7, 1, 0));
        // What this process may not do is no right of anybody's here.
        let set_user = Caller { capabilities: SETUID, ..caller };
        let is_root = Capabilities::own().unwrap().effective & SETUID != 0;
        assert_eq!(set_user.may_speak_for(7, 0, 4), is_root);
        assert!(!set_user.may_speak_for(7, 0, 0));
    }
}
