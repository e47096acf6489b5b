//! Listeners and UDP sockets that the run was started with (systemd's LISTEN_FDS, inetd): they become the run's own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::sys::socket::{Backlog, listen};
use sandbox::inherited::Adopted;
use sipcore::agent::Proto;

use crate::call::{Target, errno};
use crate::names::is_reachable;
use crate::supervisor::{Supervisor, policy_proto};
use crate::table::{Bound, State};

/// Binds a socket that the program has under the number of one that was handed in, and makes it listen, if that one did. The port
/// stays, and an address of this machine becomes the run's own.
///
/// # Errors
/// EACCES when the policy does not let the program listen there; what bind(2) and listen(2) give.
pub fn adopt(supervisor: &std::sync::Arc<Supervisor>, adopted: Adopted) -> Result<(), Errno> {
    let Adopted { fd, datagrams, address, v6only } = adopted;
    let (proto, what) = if datagrams { (Proto::Udp, "UDP socket") } else { (Proto::Tcp, "listener") };
    let target = Target::of(fd)?;
    supervisor.known(&target)?;
    let ip = match address.ip() {
        ip if supervisor.is_own(ip) => ip,
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let virtual_ = SocketAddr::new(ip, address.port());
    let decision = supervisor.policy.bind(policy_proto(proto), ip, address.port());
    if let policy::BindDecision::Deny { rule, advice } = decision {
        crate::say::say!("a {what} on {address} was handed in, and {rule} refuses it; {advice}");
        return Err(Errno::EACCES);
    }
    match &supervisor.network {
        Some(network) => {
            sandbox::sock::bind(target.as_fd(), &virtual_).map_err(errno)?;
            if datagrams {
                network.note_named(supervisor, target.cookie);
            }
        }
        None => bind_here(supervisor, &target, proto, virtual_, v6only)?,
    }
    if !datagrams {
        listen(&target.fd, Backlog::MAXALLOWABLE)?;
        if let Some(s) = supervisor.table.lock().get_mut(target.cookie) {
            s.state = State::Listening;
        }
    }
    supervisor.published.note();
    let whose = if is_reachable(supervisor, proto, &virtual_) { "its peers reach it" } else { "it is the run's own" };
    crate::say::say!(
        "the {what} on {address} that was handed in is the program's as {proto}/{}, and {whose}; nobody answers at the \
         machine's own port",
        address.port()
    );
    Ok(())
}

/// At an address of the kernel's that stands for `virtual_`.
fn bind_here(
    supervisor: &Supervisor,
    target: &Target,
    proto: Proto,
    virtual_: SocketAddr,
    v6only: bool,
) -> Result<(), Errno> {
    let physical = supervisor.bind_physical(target, proto, virtual_.is_ipv6(), supervisor.anywhere())?;
    let mut table = supervisor.table.lock();
    table.bind(target.cookie, Bound { virtual_, physical, port_chosen: true });
    if let Some(s) = table.get_mut(target.cookie) {
        s.v6only = v6only;
    }
    Ok(())
}
