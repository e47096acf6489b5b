//! The servers of an agent: from where each is reached, and where they are now (RFC 3263).

use super::Registrar;
use super::seat::Seat;
use crate::locate::Locator;
use crate::message::Uri;
use crate::transport::{Core, Flow, Listen};
use crate::user_agent::{Hop, contact_uri};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;
use tracing::{info, warn};

/// DNS is not asked again sooner than this.
const PAUSE: Duration = Duration::from_secs(2);

/// The local addresses from which all servers are reached; `preferred` is the first.
pub(super) fn local_points(preferred: IpAddr, registrars: &[Registrar]) -> Vec<Listen> {
    let mut addresses = vec![preferred];
    for Registrar { addr, .. } in registrars.iter().skip(1) {
        if !addresses.iter().any(|local| reaches(*local, *addr))
            && let Some(local) = route(*addr)
        {
            addresses.push(local);
        }
    }
    addresses.into_iter().map(|ip| Listen::plain(SocketAddr::new(ip, 0))).collect()
}

/// The servers as flows; one that none of the local addresses reaches is left out.
pub(super) fn hops(aor: &Uri, points: &[Listen], registrars: &[Registrar]) -> Vec<Hop> {
    let hop = |(n, registrar): (usize, &Registrar)| {
        let Registrar { addr, transport } = *registrar;
        // The first server and the first address belong together.
        let is_it = |point: &Listen| n == 0 || reaches(point.addr.ip(), addr);
        let local = points.iter().position(is_it)?;
        let contact = contact_uri(aor, points.get(local)?.addr, transport)?;
        Some(Hop { flow: Flow { transport, local: u16::try_from(local).ok()?, remote: addr }, contact })
    };
    registrars.iter().enumerate().filter_map(hop).collect()
}

/// Asks where the servers are whenever all that are known have failed.
pub(super) fn follow(core: &Arc<Core<Seat>>, aor: Uri, locator: Locator, uri: Uri) {
    let wanted = core.with(|seat, _| seat.wants_servers());
    let weak = Arc::downgrade(core);
    core.spawn(async move {
        loop {
            wanted.notified().await;
            match locator.locate(&uri).await {
                Ok(found) => {
                    let Some(core) = weak.upgrade() else { return };
                    let points = core.points();
                    // An address that was not known when the sockets were bound may be out of reach of all of them.
                    let reached: Vec<Registrar> = found
                        .into_iter()
                        .filter(|server| points.iter().any(|point| reaches(point.addr.ip(), server.addr)))
                        .collect();
                    let hops = hops(&aor, &points, &reached);
                    info!(%uri, servers = hops.len(), "servers asked for again");
                    core.with(|seat, now| seat.set_hops(now, hops));
                }
                Err(error) => warn!(%uri, %error, "servers cannot be found"),
            }
            tokio::time::sleep(PAUSE).await;
        }
    });
}

/// Whether datagrams from a local address find a way there: connect() of a UDP socket asks the routing table, and sends nothing.
fn reaches(local: IpAddr, server: SocketAddr) -> bool {
    local.is_ipv4() == server.is_ipv4() && UdpSocket::bind((local, 0)).and_then(|socket| socket.connect(server)).is_ok()
}

/// The local address that the routing table takes.
pub(super) fn route(server: SocketAddr) -> Option<IpAddr> {
    let any: SocketAddr = if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(server).ok()?;
    socket.local_addr().ok().map(|local| local.ip())
}
