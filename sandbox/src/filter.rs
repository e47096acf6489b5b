//! The seccomp filters of a sandboxed program: what is answered by the supervisor, and what is refused outright.
//!
//! The notify filter (libseccomp) sends the address-carrying socket calls to the supervisor. Register comparisons keep
//! everything else native: `read`, `write`, `poll`, `close`, and `send`/`recv` without an address are never trapped.
//! The hardening filters (seccompiler, one for each errno) are stacked under it and refuse what could reach the network, or another
//! process, past the supervisor. Of several `ERRNO` results the kernel takes the one of the filter loaded last, so the
//! notify filter may name a more exact errno for a call that a hardening filter refuses as well (seccomp(2)).

use std::collections::BTreeMap;
use std::io;

use libseccomp::{ScmpAction, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

/// The programs, ready to be loaded in the child: plain instructions, so that loading them allocates nothing.
pub struct Filters {
    pub(crate) notify: Vec<libc::sock_filter>,
    pub(crate) hardening: [Vec<libc::sock_filter>; 4],
}

/// Where the program's sockets are, and so what of their calls is the supervisor's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// In the network namespace of the supervisor: every call with an address is.
    Here,
    /// In a network of the program's own ([`crate::netns`]): only what decides with whom it speaks.
    Own {
        /// Whether bind() is too: where the policy may refuse it.
        bind: bool,
    },
}

/// Why the filters could not be built.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// libseccomp refused a rule or could not export the program.
    #[error("the notify filter could not be built by libseccomp: {0}")]
    Notify(#[from] libseccomp::error::SeccompError),
    /// seccompiler refused a rule.
    #[error("the hardening filter could not be built: {0}")]
    Hardening(#[from] seccompiler::BackendError),
    /// The exported program could not be read back.
    #[error("the notify filter could not be exported: {0}")]
    Export(#[from] io::Error),
}

impl Filters {
    /// Builds all filters for this machine's native architecture. 32-bit and x32 calls kill the process.
    pub fn build(scope: Scope) -> Result<Filters, FilterError> {
        let hardening = [hardening()?, families()?, protocols(scope)?, no_protocols()?];
        Ok(Filters { notify: notify(scope)?, hardening })
    }
}

/// Compares the low 32 bits of argument `index`: the kernel takes an `int` there and ignores the upper half.
fn int_is(index: u32, value: libc::c_int) -> ScmpArgCompare {
    ScmpArgCompare::new(index, ScmpCompareOp::MaskedEqual(0xffff_ffff), u64::from(value as u32))
}

fn notify(scope: Scope) -> Result<Vec<libc::sock_filter>, FilterError> {
    let mut filter = ScmpFilterContext::new(ScmpAction::Allow)?;
    filter.set_act_badarch(ScmpAction::KillProcess)?;
    let call = |name: &str| ScmpSyscall::from_name(name);
    // recvmsg and recvmmsg: what a process outside passes in by SCM_RIGHTS.
    for name in ["connect", "listen", "sendmsg", "sendmmsg", "recvmsg", "recvmmsg"] {
        filter.add_rule_exact(ScmpAction::Notify, call(name)?)?;
    }
    let with_address = ScmpArgCompare::new(4, ScmpCompareOp::NotEqual, 0);
    filter.add_rule_conditional_exact(ScmpAction::Notify, call("sendto")?, &[with_address])?;
    let error = [int_is(1, libc::SOL_SOCKET), int_is(2, libc::SO_ERROR)];
    filter.add_rule_conditional_exact(ScmpAction::Notify, call("getsockopt")?, &error)?;
    // Whoever is signalled may be in a call that the supervisor holds. (Not so SIGURG, which Go sends all the time, and to
    // threads that compute.)
    for (name, argument) in [("tgkill", 2), ("tkill", 1)] {
        let matters = ScmpArgCompare::new(argument, ScmpCompareOp::NotEqual, libc::SIGURG as u64);
        filter.add_rule_conditional_exact(ScmpAction::Notify, call(name)?, &[matters])?;
    }
    // New limits for a process that is named: its own are no secret of the program, others are not its to set.
    let limits = [0, 2].map(|argument| ScmpArgCompare::new(argument, ScmpCompareOp::NotEqual, 0));
    filter.add_rule_conditional_exact(ScmpAction::Notify, call("prlimit64")?, &limits)?;
    match scope {
        Scope::Here => here(&mut filter)?,
        Scope::Own { bind: true } => filter.add_rule_exact(ScmpAction::Notify, call("bind")?).map(drop)?,
        Scope::Own { bind: false } => {}
    }

    // Programs and runtimes have a fallback for each of these errnos.
    for name in ["io_uring_setup", "io_uring_enter", "io_uring_register", "clone3"] {
        filter.add_rule_exact(ScmpAction::Errno(libc::ENOSYS), call(name)?)?;
    }
    // A type of socket that is not there has an errno of its own.
    for family in [libc::AF_INET, libc::AF_INET6] {
        for kind in [libc::SOCK_RDM, libc::SOCK_SEQPACKET, libc::SOCK_DCCP, OLD_SOCK_PACKET] {
            let absent = [int_is(0, family), ScmpArgCompare::new(1, ScmpCompareOp::MaskedEqual(TYPE), kind as u64)];
            filter.add_rule_conditional_exact(ScmpAction::Errno(libc::ESOCKTNOSUPPORT), call("socket")?, &absent)?;
        }
    }
    // A program that makes itself undumpable would lock the supervisor out of its memory: it is told yes and stays as it is.
    let undumpable =
        [int_is(0, libc::PR_SET_DUMPABLE), ScmpArgCompare::new(1, ScmpCompareOp::MaskedEqual(u64::MAX), 0)];
    filter.add_rule_conditional_exact(ScmpAction::Errno(0), call("prctl")?, &undumpable)?;
    for name in ["socket", "sendto", "recvfrom"] {
        filter.set_syscall_priority(call(name)?, 255)?;
    }

    let bytes = filter.export_bpf_mem_or_file()?;
    Ok(bytes
        .chunks_exact(8)
        .map(|i| libc::sock_filter {
            code: u16::from_ne_bytes([i[0], i[1]]),
            jt: i[2],
            jf: i[3],
            k: u32::from_ne_bytes([i[4], i[5], i[6], i[7]]),
        })
        .collect())
}

/// What is the supervisor's where the program's sockets are among everybody's: the names of both ends, and what the program sees of the
/// machine's network.
fn here(filter: &mut ScmpFilterContext) -> Result<(), FilterError> {
    let call = |name: &str| ScmpSyscall::from_name(name);
    for name in ["bind", "accept", "accept4", "getsockname", "getpeername"] {
        filter.add_rule_exact(ScmpAction::Notify, call(name)?)?;
    }
    // A UDP socket is made by the supervisor: a send without an address would bind any other to the wildcard address, where it
    // hears the whole network. (TCP sockets reach nothing before their first trapped call.)
    for family in [libc::AF_INET, libc::AF_INET6] {
        let datagram =
            [int_is(0, family), ScmpArgCompare::new(1, ScmpCompareOp::MaskedEqual(TYPE), libc::SOCK_DGRAM as u64)];
        filter.add_rule_conditional_exact(ScmpAction::Notify, call("socket")?, &datagram)?;
    }
    // sendto and recvfrom only with an address; send(2) and recv(2) are these calls with a null pointer there.
    let with_address = ScmpArgCompare::new(4, ScmpCompareOp::NotEqual, 0);
    filter.add_rule_conditional_exact(ScmpAction::Notify, call("recvfrom")?, &[with_address])?;
    for name in ["getsockopt", "setsockopt"] {
        let v6only = [int_is(1, libc::IPPROTO_IPV6), int_is(2, libc::IPV6_V6ONLY)];
        filter.add_rule_conditional_exact(ScmpAction::Notify, call(name)?, &v6only)?;
    }
    // The supervisor plays the kernel's part: the program has interfaces of its own.
    filter.add_rule_conditional_exact(ScmpAction::Notify, call("socket")?, &[int_is(0, libc::AF_NETLINK)])?;
    for request in INTERFACE_QUESTIONS {
        filter.add_rule_conditional_exact(ScmpAction::Notify, call("ioctl")?, &[int_is(1, request as libc::c_int)])?;
    }
    // Groups tell of changes, and nothing changes.
    let joins = [int_is(1, libc::SOL_NETLINK), int_is(2, libc::NETLINK_ADD_MEMBERSHIP)];
    filter.add_rule_conditional_exact(ScmpAction::Errno(0), call("setsockopt")?, &joins)?;
    // getifaddrs(3) of musl sends its question without an address and looks for the answer without waiting: by this call.
    let impatient = [
        ScmpArgCompare::new(2, ScmpCompareOp::Equal, 8192),
        int_is(3, libc::MSG_DONTWAIT),
        ScmpArgCompare::new(4, ScmpCompareOp::Equal, 0),
    ];
    filter.add_rule_conditional_exact(ScmpAction::Notify, call("recvfrom")?, &impatient)?;
    // A port that the kernel chooses only at connect() cannot be announced to the peer: the option has no effect.
    let no_port = [int_is(1, libc::IPPROTO_IP), int_is(2, libc::IP_BIND_ADDRESS_NO_PORT)];
    filter.add_rule_conditional_exact(ScmpAction::Errno(0), call("setsockopt")?, &no_port)?;
    // How much of a datagram a checksum covers: UDP-Lite is UDP here.
    let coverage = [int_is(1, libc::IPPROTO_UDPLITE)];
    filter.add_rule_conditional_exact(ScmpAction::Errno(0), call("setsockopt")?, &coverage)?;
    Ok(())
}

/// `export_bpf_mem` needs libseccomp 2.6; Debian 12 has 2.5, which only writes to a file descriptor.
trait Export {
    fn export_bpf_mem_or_file(&self) -> Result<Vec<u8>, FilterError>;
}

impl Export for ScmpFilterContext {
    fn export_bpf_mem_or_file(&self) -> Result<Vec<u8>, FilterError> {
        use std::io::{Read, Seek};
        let memfd = nix::sys::memfd::memfd_create(c"sipbox-filter", nix::sys::memfd::MFdFlags::MFD_CLOEXEC)
            .map_err(io::Error::from)?;
        self.export_bpf(&memfd)?;
        let mut file = std::fs::File::from(memfd);
        file.rewind()?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// The type in the second argument of socket(), without SOCK_CLOEXEC and SOCK_NONBLOCK.
const TYPE: u64 = (!((libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) as u32)) as u64;

fn int(index: u8, operator: SeccompCmpOp, value: i32) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(index, SeccompCmpArgLen::Dword, operator, u64::from(value as u32))
}

fn hardening() -> Result<Vec<libc::sock_filter>, FilterError> {
    use SeccompCmpOp::{Eq, MaskedEq};
    let mut rules: Rules = BTreeMap::new();

    // Raw sockets. (A type with bits that no kernel knows goes on to the kernel, which says EINVAL.)
    for family in [libc::AF_INET, libc::AF_INET6] {
        let raw = SeccompRule::new(vec![int(0, Eq, family)?, int(1, MaskedEq(TYPE), libc::SOCK_RAW)?])?;
        rules.entry(libc::SYS_socket).or_default().push(raw);
    }

    // Options that would move a socket off its loopback address, or send packets of their own.
    let mut options = Vec::new();
    for (level, name) in [
        (libc::SOL_SOCKET, libc::SO_BINDTODEVICE),
        (libc::SOL_SOCKET, libc::SO_BINDTOIFINDEX),
        (libc::SOL_SOCKET, libc::SO_MARK),
        (libc::SOL_SOCKET, libc::SO_ZEROCOPY),
        (libc::SOL_SOCKET, libc::SO_ATTACH_REUSEPORT_CBPF),
        (libc::SOL_SOCKET, libc::SO_ATTACH_REUSEPORT_EBPF),
        (libc::IPPROTO_IP, libc::IP_OPTIONS),
        (libc::IPPROTO_IP, libc::IP_TRANSPARENT),
        (libc::IPPROTO_IP, libc::IP_ADD_MEMBERSHIP),
        (libc::IPPROTO_IP, libc::IP_ADD_SOURCE_MEMBERSHIP),
        (libc::IPPROTO_IP, MCAST_JOIN_GROUP),
        (libc::IPPROTO_IP, MCAST_JOIN_SOURCE_GROUP),
        (libc::IPPROTO_IPV6, libc::IPV6_ADD_MEMBERSHIP),
        (libc::IPPROTO_IPV6, libc::IPV6_TRANSPARENT),
        (libc::IPPROTO_IPV6, MCAST_JOIN_GROUP),
        (libc::IPPROTO_IPV6, MCAST_JOIN_SOURCE_GROUP),
        (libc::IPPROTO_IPV6, IPV6_ADDRFORM),
        (libc::IPPROTO_TCP, libc::TCP_REPAIR),
        (libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT),
    ] {
        options.push(SeccompRule::new(vec![int(1, Eq, level)?, int(2, Eq, name)?])?);
    }
    rules.insert(libc::SYS_setsockopt, options);

    // Other processes (the supervisor is one, with the same uid), other namespaces, code in the kernel.
    for call in [
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_pidfd_getfd,
        libc::SYS_kcmp,
        libc::SYS_setns,
        libc::SYS_unshare,
        libc::SYS_bpf,
        libc::SYS_userfaultfd,
        libc::SYS_perf_event_open,
        libc::SYS_open_by_handle_at,
        libc::SYS_keyctl,
        libc::SYS_add_key,
        libc::SYS_request_key,
        libc::SYS_init_module,
        libc::SYS_finit_module,
        libc::SYS_kexec_load,
        libc::SYS_kexec_file_load,
    ] {
        rules.insert(call, Vec::new());
    }
    // Typing into the terminal of the shell that started it (ioctl_tty(2)), and userfaultfd(2) by its device.
    let mut requests = Vec::new();
    for request in [libc::TIOCSTI as i32, libc::TIOCLINUX as i32, USERFAULTFD_IOC_NEW] {
        requests.push(SeccompRule::new(vec![int(1, Eq, request)?])?);
    }
    rules.insert(libc::SYS_ioctl, requests);
    let mut clone = Vec::new();
    for flag in [libc::CLONE_NEWUSER, libc::CLONE_NEWNET] {
        clone.push(SeccompRule::new(vec![int(0, MaskedEq(flag as u32 as u64), flag)?])?);
    }
    rules.insert(libc::SYS_clone, clone);

    refuse(rules, libc::EPERM)
}

/// socket(): TCP, UDP, AF_UNIX and AF_NETLINK are all that there is. Families that are not there, as a kernel without them says it.
fn families() -> Result<Vec<libc::sock_filter>, FilterError> {
    use SeccompCmpOp::{Eq, Ne};
    let others = SeccompRule::new(vec![
        int(0, Ne, libc::AF_UNIX)?,
        int(0, Ne, libc::AF_INET)?,
        int(0, Ne, libc::AF_INET6)?,
        int(0, Ne, libc::AF_NETLINK)?,
    ])?;
    let tipc = SeccompRule::new(vec![int(0, Eq, libc::AF_TIPC)?])?;
    refuse(BTreeMap::from([(libc::SYS_socket, vec![others]), (libc::SYS_socketpair, vec![tipc])]), libc::EAFNOSUPPORT)
}

/// Protocols that are not there: MPTCP (programs then take TCP), SCTP, ICMP, and types of socket for them.
fn protocols(scope: Scope) -> Result<Vec<libc::sock_filter>, FilterError> {
    use SeccompCmpOp::{Eq, MaskedEq, Ne};
    let mut rules = Vec::new();
    if scope != Scope::Here {
        // Of netlink the interfaces and routes of the program's own network.
        rules.push(SeccompRule::new(vec![int(0, Eq, libc::AF_NETLINK)?, int(2, Ne, libc::NETLINK_ROUTE)?])?);
    }
    for family in [libc::AF_INET, libc::AF_INET6] {
        for (kind, protocol) in [(libc::SOCK_STREAM, libc::IPPROTO_TCP), (libc::SOCK_DGRAM, libc::IPPROTO_UDP)] {
            let mut rule = vec![int(0, Eq, family)?, int(1, MaskedEq(TYPE), kind)?];
            rule.extend([int(2, Ne, 0)?, int(2, Ne, protocol)?]);
            if kind == libc::SOCK_DGRAM {
                rule.push(int(2, Ne, libc::IPPROTO_UDPLITE)?);
            }
            rules.push(SeccompRule::new(rule)?);
        }
        for kind in [libc::SOCK_RDM, libc::SOCK_SEQPACKET, libc::SOCK_DCCP, OLD_SOCK_PACKET] {
            rules.push(SeccompRule::new(vec![int(0, Eq, family)?, int(1, MaskedEq(TYPE), kind)?])?);
        }
    }
    refuse(BTreeMap::from([(libc::SYS_socket, rules)]), libc::EPROTONOSUPPORT)
}

/// Numbers that are no protocol at all, whatever the type: EINVAL comes first (inet_create).
fn no_protocols() -> Result<Vec<libc::sock_filter>, FilterError> {
    use SeccompCmpOp::{Eq, Ge};
    let mut rules = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        rules.push(SeccompRule::new(vec![int(0, Eq, family)?, int(2, Ge, IPPROTO_MAX)?])?);
    }
    refuse(BTreeMap::from([(libc::SYS_socket, rules)]), libc::EINVAL)
}

/// A filter that refuses what the rules match.
fn refuse(rules: Rules, errno: libc::c_int) -> Result<Vec<libc::sock_filter>, FilterError> {
    #[cfg(target_arch = "x86_64")]
    let arch = TargetArch::x86_64;
    #[cfg(target_arch = "aarch64")]
    let arch = TargetArch::aarch64;
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(errno as u32), arch)?;
    let program: BpfProgram = filter.try_into()?;
    Ok(program.iter().map(|i| libc::sock_filter { code: i.code, jt: i.jt, jf: i.jf, k: i.k }).collect())
}

/// IPPROTO_MAX of include/uapi/linux/in.h: one more than IPPROTO_MPTCP.
const IPPROTO_MAX: libc::c_int = 263;
/// The ioctls of netdevice(7) that ask for the properties of an interface.
const INTERFACE_QUESTIONS: [libc::c_ulong; 13] = [
    libc::SIOCGIFNAME,
    libc::SIOCGIFCONF,
    libc::SIOCGIFFLAGS,
    libc::SIOCGIFADDR,
    libc::SIOCGIFDSTADDR,
    libc::SIOCGIFBRDADDR,
    libc::SIOCGIFNETMASK,
    libc::SIOCGIFMETRIC,
    libc::SIOCGIFMTU,
    libc::SIOCGIFHWADDR,
    libc::SIOCGIFINDEX,
    libc::SIOCGIFTXQLEN,
    libc::SIOCGIFMAP,
];
/// SOCK_PACKET of include/linux/net.h: with AF_INET it still means AF_PACKET (__sock_create).
const OLD_SOCK_PACKET: libc::c_int = 10;
/// include/uapi/linux/userfaultfd.h.
const USERFAULTFD_IOC_NEW: i32 = 0xaa00;
// include/uapi/linux/in.h and in6.h; the libc crate does not have these on every target.
const MCAST_JOIN_GROUP: libc::c_int = 42;
const MCAST_JOIN_SOURCE_GROUP: libc::c_int = 46;
const IPV6_ADDRFORM: libc::c_int = 1;
