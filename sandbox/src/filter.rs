//! The seccomp filters of a sandboxed program: what is answered by the supervisor, and what is refused outright.
//!
//! The notify filter (libseccomp) sends the address-carrying socket calls to the supervisor. Register comparisons keep
//! everything else native: `read`, `write`, `poll`, `close`, and `send`/`recv` without an address are never trapped
//! (a `send` of urgent data is, to be seen).
//! The hardening filters (seccompiler, one for each errno) refuse what could reach the network, or another process, past the supervisor.
//!
//! They are joined into one program, with the outcome of a stack of them (seccomp(2)): a refusal goes before a notification, and of two
//! refusals that of the notify filter counts, which may name a more exact errno for a call that a hardening filter refuses as well.
//! The kernel starts every filter of a stack for every call that is not allowed by its number alone, send() and recv() among them,
//! and five starts cost as much as such a call itself.

use std::collections::BTreeMap;
use std::io;

use libseccomp::{ScmpAction, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

/// The program, ready to be loaded in the child: plain instructions, so that loading it allocates nothing.
pub struct Filter(pub(crate) Vec<libc::sock_filter>);

/// Where the program's sockets are, and so what of their calls is the supervisor's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// In the network namespace of the supervisor: every call with an address is.
    Here,
    /// In a network of the program's own ([`crate::netns`]): only what decides with whom it speaks.
    Own {
        /// Whether bind() is too: where the policy may refuse it.
        bind: bool,
        /// Whether socket() of AF_NETLINK is too: where the policy refuses it.
        netlink: bool,
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

impl Filter {
    /// Builds the filter for this machine's native architecture. 32-bit and x32 calls kill the process.
    pub fn build(scope: Scope) -> Result<Filter, FilterError> {
        Ok(Filter(joined(&notify(scope)?, &refusals(scope)?)))
    }
}

/// A filter that refuses some calls, each perhaps by its arguments, and allows all others.
struct Refusal {
    program: Vec<libc::sock_filter>,
    /// The calls that it may refuse.
    calls: Vec<i64>,
}

/// The hardening filters; of two that refuse a call the first one counts.
fn refusals(scope: Scope) -> Result<[Refusal; 4], FilterError> {
    Ok([no_protocols()?, protocols(scope)?, families()?, hardening(scope)?])
}

/// One program of many: what `notify` neither refuses nor kills goes on to the refusals, and what none of those refuses is notified
/// or allowed, as `notify` said. (They come twice, once for each answer: with the answer kept in a scratch word instead, the kernel
/// would not find out that a call is allowed by its number alone, seccomp_is_const_allow.)
fn joined(notify: &[libc::sock_filter], refusals: &[Refusal]) -> Vec<libc::sock_filter> {
    let allowed = in_turn(refusals, libc::SECCOMP_RET_ALLOW);
    let notified = in_turn(refusals, libc::SECCOMP_RET_USER_NOTIF);
    let mut program = Vec::with_capacity(notify.len() + allowed.len() + notified.len());
    for (i, instruction) in notify.iter().enumerate() {
        let behind = notify.len() - i - 1;
        program.push(match returned(instruction) {
            Some(libc::SECCOMP_RET_ALLOW) => jump(behind),
            Some(libc::SECCOMP_RET_USER_NOTIF) => jump(behind + allowed.len()),
            _ => *instruction,
        });
    }
    program.extend(allowed);
    program.extend(notified);
    program
}

/// Calls that programs make all the time and whose number alone does not decide, the most frequent first.
const FREQUENT: [i64; 13] = [
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_recvmmsg,
    libc::SYS_sendmmsg,
    libc::SYS_accept4,
    libc::SYS_accept,
    libc::SYS_connect,
    libc::SYS_getsockopt,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_bind,
];

/// Programs one after the other: what one allows the next one looks at, and what all of them allow gets `end`; frequent calls that
/// none of them refuses get it at once, since to look through all that is refused costs a third of a send() or recv().
fn in_turn(refusals: &[Refusal], end: u32) -> Vec<libc::sock_filter> {
    let refused = |call: &i64| refusals.iter().any(|refusal| refusal.calls.contains(call));
    let frequent: Vec<i64> = FREQUENT.into_iter().filter(|call| !refused(call)).collect();
    let mut all = vec![libc::sock_filter { code: LOAD, jt: 0, jf: 0, k: NUMBER }];
    for (i, call) in frequent.iter().enumerate() {
        // Over the others and the jump behind them.
        all.push(libc::sock_filter { code: IF_EQUAL, jt: (frequent.len() - i) as u8, jf: 0, k: *call as u32 });
    }
    all.push(jump(1));
    all.push(libc::sock_filter { code: RETURN, jt: 0, jf: 0, k: end });
    for Refusal { program, .. } in refusals {
        for (i, instruction) in program.iter().enumerate() {
            let goes_on = returned(instruction) == Some(libc::SECCOMP_RET_ALLOW);
            all.push(if goes_on { jump(program.len() - i - 1) } else { *instruction });
        }
    }
    all.push(libc::sock_filter { code: RETURN, jt: 0, jf: 0, k: end });
    all
}

/// BPF_RET | BPF_K, BPF_JMP | BPF_JA, BPF_LD | BPF_W | BPF_ABS and BPF_JMP | BPF_JEQ | BPF_K of include/uapi/linux/bpf_common.h.
const RETURN: u16 = 0x06;
const JUMP: u16 = 0x05;
const LOAD: u16 = 0x20;
const IF_EQUAL: u16 = 0x15;
/// Where struct seccomp_data has the number of the call.
const NUMBER: u32 = 0;

/// What an instruction ends its program with.
fn returned(instruction: &libc::sock_filter) -> Option<u32> {
    (instruction.code == RETURN).then_some(instruction.k)
}

/// Skips so many instructions. (The kernel takes at most 4096 instructions, BPF_MAXINSNS.)
fn jump(over: usize) -> libc::sock_filter {
    libc::sock_filter { code: JUMP, jt: 0, jf: 0, k: over as u32 }
}

/// Compares the low 32 bits of argument `index`: the kernel takes an `int` there and ignores the upper half.
fn int_is(index: u32, value: libc::c_int) -> ScmpArgCompare {
    ScmpArgCompare::new(index, ScmpCompareOp::MaskedEqual(0xffff_ffff), u64::from(value as u32))
}

/// Calls by which a file gets another owner.
#[cfg(target_arch = "x86_64")]
const OWNERSHIP: [&str; 4] = ["chown", "lchown", "fchown", "fchownat"];
#[cfg(not(target_arch = "x86_64"))]
const OWNERSHIP: [&str; 2] = ["fchown", "fchownat"];

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
    // Errors of sessions, and for whom the supervisor made a call of AF_UNIX.
    for name in [libc::SO_ERROR, libc::SO_PEERCRED, libc::SO_PEERPIDFD] {
        let answered = [int_is(1, libc::SOL_SOCKET), int_is(2, name)];
        filter.add_rule_conditional_exact(ScmpAction::Notify, call("getsockopt")?, &answered)?;
    }
    // And who asks for whom it sends messages.
    for name in [libc::SO_PASSCRED, SO_PASSPIDFD] {
        let asked = [int_is(1, libc::SOL_SOCKET), int_is(2, name)];
        filter.add_rule_conditional_exact(ScmpAction::Notify, call("setsockopt")?, &asked)?;
    }
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
        Scope::Own { bind, netlink } => {
            if bind {
                filter.add_rule_exact(ScmpAction::Notify, call("bind")?)?;
            }
            if netlink {
                let family = [int_is(0, libc::AF_NETLINK)];
                filter.add_rule_conditional_exact(ScmpAction::Notify, call("socket")?, &family)?;
            }
            if !crate::netns::is_privileged() {
                // Whom a file may be given to is not known in its user namespace.
                for name in OWNERSHIP {
                    filter.add_rule_exact(ScmpAction::Notify, call(name)?)?;
                }
            }
        }
    }

    // A connect() that waits for the first data may as well not wait for them.
    let fast = [int_is(1, libc::IPPROTO_TCP), int_is(2, libc::TCP_FASTOPEN_CONNECT)];
    filter.add_rule_conditional_exact(ScmpAction::Errno(0), call("setsockopt")?, &fast)?;
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
    // Urgent data is the kernel's to send, and is to be known of.
    let urgent = [
        ScmpArgCompare::new(3, ScmpCompareOp::MaskedEqual(libc::MSG_OOB as u64), libc::MSG_OOB as u64),
        ScmpArgCompare::new(4, ScmpCompareOp::Equal, 0),
    ];
    filter.add_rule_conditional_exact(ScmpAction::Notify, call("sendto")?, &urgent)?;
    for name in ["getsockopt", "setsockopt"] {
        let v6only = [int_is(1, libc::IPPROTO_IPV6), int_is(2, libc::IPV6_V6ONLY)];
        filter.add_rule_conditional_exact(ScmpAction::Notify, call(name)?, &v6only)?;
    }
    // An IPv6 datagram travels as an IPv4 one, whose errors are asked for, and whose octets are set, by other options.
    for name in [libc::IPV6_RECVERR, libc::IPV6_TCLASS, libc::IPV6_UNICAST_HOPS] {
        let of_packets = [int_is(1, libc::IPPROTO_IPV6), int_is(2, name)];
        filter.add_rule_conditional_exact(ScmpAction::Notify, call("setsockopt")?, &of_packets)?;
    }
    // A protocol on top of TCP (kTLS) is the kernel's to set, and is to be known of.
    let upper = [int_is(1, libc::IPPROTO_TCP), int_is(2, libc::TCP_ULP)];
    filter.add_rule_conditional_exact(ScmpAction::Notify, call("setsockopt")?, &upper)?;
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
    // A port that the kernel chooses only at connect() cannot be announced to the peer: the option is kept, without its effect.
    let no_port = [int_is(1, libc::IPPROTO_IP), int_is(2, libc::IP_BIND_ADDRESS_NO_PORT)];
    filter.add_rule_conditional_exact(ScmpAction::Notify, call("setsockopt")?, &no_port)?;
    // As before Linux 6.3: which of the machine's ports a socket of the run gets is nothing for the program to choose.
    let range = [int_is(1, libc::IPPROTO_IP), int_is(2, IP_LOCAL_PORT_RANGE)];
    filter.add_rule_conditional_exact(ScmpAction::Errno(libc::ENOPROTOOPT), call("setsockopt")?, &range)?;
    // With what is held back the kernel keeps where it goes.
    let cork = [int_is(1, libc::IPPROTO_UDP), int_is(2, libc::UDP_CORK)];
    filter.add_rule_conditional_exact(ScmpAction::Notify, call("setsockopt")?, &cork)?;
    // The physical address of the other end.
    let peer = [int_is(1, libc::SOL_SOCKET), int_is(2, libc::SO_PEERNAME)];
    filter.add_rule_conditional_exact(ScmpAction::Errno(libc::ENOPROTOOPT), call("getsockopt")?, &peer)?;
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

/// SO_PASSPIDFD of include/uapi/asm-generic/socket.h (Linux 6.5).
const SO_PASSPIDFD: libc::c_int = 76;

/// The type in the second argument of socket(), without SOCK_CLOEXEC and SOCK_NONBLOCK.
const TYPE: u64 = (!((libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) as u32)) as u64;

fn int(index: u8, operator: SeccompCmpOp, value: i32) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(index, SeccompCmpArgLen::Dword, operator, u64::from(value as u32))
}

fn hardening(scope: Scope) -> Result<Refusal, FilterError> {
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
    // What a thread shares with others, it may have for itself; every namespace is refused.
    let [fs, files, semaphores] = [libc::CLONE_FS, libc::CLONE_FILES, libc::CLONE_SYSVSEM];
    let own = [0, fs, files, fs | files].map(|flags| [flags, flags | semaphores]);
    let others = own.as_flattened().iter().map(|flags| int(0, SeccompCmpOp::Ne, *flags)).collect::<Result<_, _>>()?;
    rules.insert(libc::SYS_unshare, vec![SeccompRule::new(others)?]);
    // Typing into the terminal of the shell that started it (ioctl_tty(2)), userfaultfd(2) by its device, and the networks behind /dev/net/tun
    // and /dev/vhost-*.
    let mut requests = Vec::new();
    for request in [libc::TIOCSTI as i32, libc::TIOCLINUX as i32, USERFAULTFD_IOC_NEW, TUNSETIFF, VHOST_SET_OWNER] {
        requests.push(SeccompRule::new(vec![int(1, Eq, request)?])?);
    }
    rules.insert(libc::SYS_ioctl, requests);
    let mut clone = Vec::new();
    for flag in [libc::CLONE_NEWUSER, libc::CLONE_NEWNET] {
        clone.push(SeccompRule::new(vec![int(0, MaskedEq(flag as u32 as u64), flag)?])?);
    }
    rules.insert(libc::SYS_clone, clone);

    if scope != Scope::Here && !crate::netns::is_privileged() {
        // In a user namespace with one user and one group the kernel knows no other (EINVAL). Outside they are only not the program's
        // to take, and daemons that would give up rights go on after that.
        let (user, group) = (nix::unistd::getuid().as_raw() as i32, nix::unistd::getgid().as_raw() as i32);
        for (call, ids) in [
            (libc::SYS_setuid, &[(0, user)][..]),
            (libc::SYS_setreuid, &[(0, user), (1, user)]),
            (libc::SYS_setresuid, &[(0, user), (1, user), (2, user)]),
            (libc::SYS_setgid, &[(0, group)]),
            (libc::SYS_setregid, &[(0, group), (1, group)]),
            (libc::SYS_setresgid, &[(0, group), (1, group), (2, group)]),
        ] {
            let foreign =
                |(i, own): &_| SeccompRule::new(vec![int(*i, SeccompCmpOp::Ne, *own)?, int(*i, SeccompCmpOp::Ne, -1)?]);
            rules.insert(call, ids.iter().map(foreign).collect::<Result<_, _>>()?);
        }
    }

    refuse(rules, libc::EPERM)
}

/// socket(): TCP, UDP, AF_UNIX and AF_NETLINK are all that there is. Families that are not there, as a kernel without them says it.
fn families() -> Result<Refusal, FilterError> {
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
fn protocols(scope: Scope) -> Result<Refusal, FilterError> {
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
fn no_protocols() -> Result<Refusal, FilterError> {
    use SeccompCmpOp::{Eq, Ge};
    let mut rules = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        rules.push(SeccompRule::new(vec![int(0, Eq, family)?, int(2, Ge, IPPROTO_MAX)?])?);
    }
    refuse(BTreeMap::from([(libc::SYS_socket, rules)]), libc::EINVAL)
}

/// A filter that refuses what the rules match.
fn refuse(rules: Rules, errno: libc::c_int) -> Result<Refusal, FilterError> {
    let calls = rules.keys().copied().collect();
    #[cfg(target_arch = "x86_64")]
    let arch = TargetArch::x86_64;
    #[cfg(target_arch = "aarch64")]
    let arch = TargetArch::aarch64;
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(errno as u32), arch)?;
    let program: BpfProgram = filter.try_into()?;
    let program = program.iter().map(|i| libc::sock_filter { code: i.code, jt: i.jt, jf: i.jf, k: i.k }).collect();
    Ok(Refusal { program, calls })
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
/// include/uapi/linux/in.h.
const IP_LOCAL_PORT_RANGE: libc::c_int = 51;
/// SOCK_PACKET of include/linux/net.h: with AF_INET it still means AF_PACKET (__sock_create).
const OLD_SOCK_PACKET: libc::c_int = 10;
/// include/uapi/linux/userfaultfd.h.
const USERFAULTFD_IOC_NEW: i32 = 0xaa00;
/// include/uapi/linux/if_tun.h: _IOW('T', 202, int).
const TUNSETIFF: i32 = 0x4004_54ca;
/// include/uapi/linux/vhost.h: _IO(0xaf, 1).
const VHOST_SET_OWNER: i32 = 0xaf01;
// include/uapi/linux/in.h and in6.h; the libc crate does not have these on every target.
const MCAST_JOIN_GROUP: libc::c_int = 42;
const MCAST_JOIN_SOURCE_GROUP: libc::c_int = 46;
const IPV6_ADDRFORM: libc::c_int = 1;

#[cfg(test)]
mod tests {
    use super::*;

    /// struct seccomp_data of one call.
    struct Data {
        number: i64,
        architecture: u32,
        arguments: [u64; 6],
    }

    impl Data {
        fn word(&self, offset: u32) -> u32 {
            let mut bytes = Vec::new();
            bytes.extend_from_slice(&(self.number as u32).to_ne_bytes());
            bytes.extend_from_slice(&self.architecture.to_ne_bytes());
            bytes.extend_from_slice(&0u64.to_ne_bytes());
            self.arguments.iter().for_each(|a| bytes.extend_from_slice(&a.to_ne_bytes()));
            let at = offset as usize;
            u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap())
        }
    }

    /// Classic BPF, as much of it as the filters use; anything else is a failure.
    fn run(program: &[libc::sock_filter], data: &Data) -> u32 {
        let (mut at, mut a) = (0, 0u32);
        loop {
            let i = program[at];
            at += 1;
            let branch = |yes: bool| usize::from(if yes { i.jt } else { i.jf });
            match i.code {
                LOAD => a = data.word(i.k),
                0x54 => a &= i.k,
                JUMP => at += i.k as usize,
                IF_EQUAL => at += branch(a == i.k),
                0x25 => at += branch(a > i.k),
                0x35 => at += branch(a >= i.k),
                0x45 => at += branch(a & i.k != 0),
                RETURN => return i.k,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    /// What the kernel makes of a stack, whose last filter comes first here (seccomp_run_filters).
    fn stacked(programs: &[&[libc::sock_filter]], data: &Data) -> u32 {
        let action = |r: u32| (r & 0xffff_0000) as i32;
        programs.iter().map(|p| run(p, data)).reduce(|x, y| if action(y) < action(x) { y } else { x }).unwrap()
    }

    /// AUDIT_ARCH_X86_64, AUDIT_ARCH_AARCH64.
    const HERE: u32 = if cfg!(target_arch = "x86_64") { 0xc000_003e } else { 0xc000_00b7 };
    const ELSEWHERE: u32 = 0x4000_0003;

    #[test]
    fn one_program_decides_as_the_stack_of_its_parts() {
        for scope in [Scope::Here, Scope::Own { bind: true, netlink: false }, Scope::Own { bind: false, netlink: true }]
        {
            let (notify, refusals) = (notify(scope).unwrap(), refusals(scope).unwrap());
            let all: Vec<&[libc::sock_filter]> =
                std::iter::once(&notify[..]).chain(refusals.iter().map(|r| &r.program[..])).collect();
            let joined = Filter::build(scope).unwrap().0;
            assert!(joined.len() <= 4096, "{}", joined.len());
            // Every word that some program compares with, its neighbours, and a few more.
            let mut words: Vec<u32> =
                all.iter().flat_map(|p| p.iter()).map(|i| i.k).filter(|k| *k < 0x7fff_0000).collect();
            words.extend([0, 1, 2, 0x8_0000, 0x800, u32::MAX]);
            words.sort_unstable();
            words.dedup();
            let mut seen = std::collections::BTreeMap::new();
            // Words as libc's random numbers would be, but the same each time (Knuth's MMIX generator).
            let mut state = 1u64;
            let mut next = |below: usize| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) as usize % below
            };
            // The calls of which some argument decides are looked at more closely.
            let with_arguments = [
                libc::SYS_socket,
                libc::SYS_socketpair,
                libc::SYS_setsockopt,
                libc::SYS_getsockopt,
                libc::SYS_sendto,
                libc::SYS_recvfrom,
                libc::SYS_clone,
                libc::SYS_ioctl,
                libc::SYS_prctl,
                libc::SYS_prlimit64,
                libc::SYS_tgkill,
                libc::SYS_tkill,
            ];
            for number in (0..470).chain([0x4000_0000 + 41, -1]) {
                for _ in 0..if with_arguments.contains(&number) { 3000 } else { 50 } {
                    let mut arguments = [0; 6];
                    for argument in &mut arguments {
                        // Families, types and protocols are small numbers.
                        let low = if next(2) == 0 { next(18) as u32 } else { words[next(words.len())] };
                        *argument = u64::from(low) | if next(4) == 0 { (next(3) as u64) << 32 } else { 0 };
                    }
                    let architecture = if next(50) == 0 { ELSEWHERE } else { HERE };
                    let data = Data { number, architecture, arguments };
                    let expected = stacked(&all, &data);
                    assert_eq!(run(&joined, &data), expected, "{scope:?}: {number}, {architecture:#x}, {arguments:x?}");
                    *seen.entry(expected).or_insert(0) += 1;
                }
            }
            // The comparison is about something: every outcome was there.
            for errno in [libc::EPERM, libc::EAFNOSUPPORT, libc::EPROTONOSUPPORT, libc::EINVAL, libc::ENOSYS] {
                assert!(seen.contains_key(&(libc::SECCOMP_RET_ERRNO | errno as u32)), "{scope:?}: {errno}, {seen:x?}");
            }
            for action in [libc::SECCOMP_RET_ALLOW, libc::SECCOMP_RET_USER_NOTIF, libc::SECCOMP_RET_KILL_PROCESS] {
                assert!(seen.contains_key(&action), "{scope:?}: {action:#x}, {seen:x?}");
            }
        }
    }
}
