//! Listeners that the run was started with (systemd's LISTEN_FDS, inetd): they become listeners of the run.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{Backlog, listen};
use sipcore::agent::Proto;

use crate::call::{Target, errno};
use crate::names::is_reachable;
use crate::supervisor::{Supervisor, policy_proto};
use crate::table::{Bound, State};

/// Binds a socket that the program has under the number of one that was handed in, and makes it listen. `address` is where that
/// one listened: the port stays, and an address of this machine becomes the run's own.
///
/// # Errors
/// EACCES when the policy does not let the program listen there; what bind(2) and listen(2) give.
pub fn adopt(supervisor: &Supervisor, fd: OwnedFd, address: SocketAddr, v6only: bool) -> Result<(), Errno> {
    let cookie = sandbox::sock::socket_cookie(fd.as_fd()).map_err(errno)?;
    let target = Target { fd, cookie };
    supervisor.known(&target)?;
    let ip = match address.ip() {
        ip if supervisor.is_own(ip) => ip,
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let virtual_ = SocketAddr::new(ip, address.port());
    let decision = supervisor.policy.bind(policy_proto(Proto::Tcp), ip, address.port());
    if let policy::BindDecision::Deny { rule, advice } = decision {
        crate::say::say!("a listener on {address} was handed in, and {rule} refuses it; {advice}");
        return Err(Errno::EACCES);
    }
    match supervisor.network {
        Some(_) => {
            sandbox::sock::bind(target.as_fd(), &virtual_).map_err(errno)?;
            listen(&target.fd, Backlog::MAXALLOWABLE)?;
        }
        None => listen_here(supervisor, &target, virtual_, v6only)?,
    }
    supervisor.published.note();
    let whose =
        if is_reachable(supervisor, Proto::Tcp, &virtual_) { "its peers reach it" } else { "it is the run's own" };
    crate::say::say!(
        "the listener on {address} that was handed in is the program's as tcp/{}, and {whose}; nobody answers at the machine's \
         own port",
        address.port()
    );
    Ok(())
}

/// At an address of the kernel's that stands for `virtual_`.
fn listen_here(supervisor: &Supervisor, target: &Target, virtual_: SocketAddr, v6only: bool) -> Result<(), Errno> {
    let physical = supervisor.bind_physical(target, Proto::Tcp, virtual_.is_ipv6(), 0)?;
    {
        let mut table = supervisor.table.lock();
        table.bind(target.cookie, Bound { virtual_, physical, port_chosen: true });
        if let Some(s) = table.get_mut(target.cookie) {
            s.v6only = v6only;
        }
    }
    listen(&target.fd, Backlog::MAXALLOWABLE)?;
    if let Some(s) = supervisor.table.lock().get_mut(target.cookie) {
        s.state = State::Listening;
    }
    Ok(())
}
