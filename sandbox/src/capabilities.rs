//! Capabilities of a thread (capabilities(7)), bit n for capability n.

use nix::errno::Errno;

/// Capabilities that a program of root keeps: those about files, identities and scheduling. Without the others it cannot make
/// network interfaces (/dev/net/tun, ioctl()), mount, trace, make devices or touch the kernel.
pub(crate) const KEPT: u64 = bit(0) // CAP_CHOWN
    | DAC_OVERRIDE
    | DAC_READ_SEARCH
    | FOWNER
    | bit(4) // CAP_FSETID
    | bit(5) // CAP_KILL
    | SETGID
    | SETUID
    | bit(8) // CAP_SETPCAP
    | bit(10) // CAP_NET_BIND_SERVICE
    | bit(14) // CAP_IPC_LOCK
    | bit(15) // CAP_IPC_OWNER
    | bit(18) // CAP_SYS_CHROOT
    | bit(23) // CAP_SYS_NICE
    | bit(24) // CAP_SYS_RESOURCE
    | bit(28) // CAP_LEASE
    | bit(31); // CAP_SETFCAP

const DAC_OVERRIDE: u64 = bit(1);
const DAC_READ_SEARCH: u64 = bit(2);
const FOWNER: u64 = bit(3);
pub(crate) const SETGID: u64 = bit(6);
pub(crate) const SETUID: u64 = bit(7);

/// Those of [`KEPT`] that say where a path leads (path_resolution(7)) and for whom one may speak (unix(7)): no other makes a difference to
/// a socket of AF_UNIX.
pub(crate) const OF_NAMES: u64 = DAC_OVERRIDE | DAC_READ_SEARCH | FOWNER | SETGID | SETUID;

const fn bit(capability: u32) -> u64 {
    1 << capability
}

/// What capget(2) gives and capset(2) takes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Capabilities {
    pub effective: u64,
    pub permitted: u64,
    pub inheritable: u64,
}

/// struct __user_cap_header_struct (capget(2)).
#[repr(C)]
struct Header {
    version: u32,
    pid: libc::c_int,
}

/// struct __user_cap_data_struct (capget(2)): 32 capabilities.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Word {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// _LINUX_CAPABILITY_VERSION_3: two words each. The calling thread.
const HEADER: Header = Header { version: 0x2008_0522, pid: 0 };

impl Capabilities {
    /// Those of the calling thread. Async-signal-safe.
    ///
    /// # Errors
    /// What capget(2) gives.
    pub fn own() -> Result<Capabilities, Errno> {
        let (header, mut words) = (HEADER, [Word::default(); 2]);
        // SAFETY: capget reads the header and writes two words, as its version says.
        Errno::result(unsafe { libc::syscall(libc::SYS_capget, &raw const header, words.as_mut_ptr()) })?;
        let both = |of: fn(&Word) -> u32| u64::from(of(&words[0])) | u64::from(of(&words[1])) << 32;
        Ok(Capabilities {
            effective: both(|w| w.effective),
            permitted: both(|w| w.permitted),
            inheritable: both(|w| w.inheritable),
        })
    }

    /// Makes them those of the calling thread. Async-signal-safe.
    ///
    /// # Errors
    /// EPERM: it is not permitted one of them.
    pub fn set(self) -> Result<(), Errno> {
        let word = |shift: u32| Word {
            effective: (self.effective >> shift) as u32,
            permitted: (self.permitted >> shift) as u32,
            inheritable: (self.inheritable >> shift) as u32,
        };
        let (header, words) = (HEADER, [word(0), word(32)]);
        // SAFETY: capset reads the header and two words, as its version says.
        Errno::result(unsafe { libc::syscall(libc::SYS_capset, &raw const header, words.as_ptr()) }).map(drop)
    }
}
