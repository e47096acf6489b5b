//! The resolver of a run: DNS over UDP and TCP on the run's own address, answered from the policy's names.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::resolver::{self, Addresses};
use crate::supervisor::Supervisor;

/// Both transports, on one port.
pub struct Sockets {
    udp: tokio::net::UdpSocket,
    tcp: tokio::net::TcpListener,
    address: SocketAddr,
}

impl Sockets {
    /// Binds them; needs a tokio runtime.
    pub fn bind(ip: Ipv4Addr) -> std::io::Result<Sockets> {
        const TRIES: usize = 16;
        let mut last = std::io::Error::from(std::io::ErrorKind::AddrInUse);
        for _ in 0..TRIES {
            let udp = std::net::UdpSocket::bind((ip, 0))?;
            match std::net::TcpListener::bind(udp.local_addr()?) {
                Ok(tcp) => {
                    return Sockets::of(udp, tcp);
                }
                Err(e) => last = e,
            }
        }
        Err(last)
    }

    /// Of two sockets that are bound to one address; needs a tokio runtime.
    pub fn of(udp: std::net::UdpSocket, tcp: std::net::TcpListener) -> std::io::Result<Sockets> {
        udp.set_nonblocking(true)?;
        tcp.set_nonblocking(true)?;
        let address = udp.local_addr()?;
        let (udp, tcp) = (tokio::net::UdpSocket::from_std(udp)?, tokio::net::TcpListener::from_std(tcp)?);
        Ok(Sockets { udp, tcp, address })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until the run ends.
    pub fn serve(self, supervisor: &Arc<Supervisor>) {
        let Sockets { udp, tcp, .. } = self;
        let s = supervisor.clone();
        supervisor.runtime.spawn(async move {
            let mut query = vec![0; 4096];
            loop {
                let Ok((length, from)) = udp.recv_from(&mut query).await else { continue };
                if let Some(answer) = answer(&s, &query[..length]) {
                    let _ = udp.send_to(&answer, from).await;
                }
            }
        });
        let s = supervisor.clone();
        supervisor.runtime.spawn(async move {
            loop {
                let Ok((stream, _)) = tcp.accept().await else { continue };
                tokio::spawn(serve_stream(s.clone(), stream));
            }
        });
    }
}

/// Queries on one connection (RFC 7766), until the program closes it or sends what is none.
async fn serve_stream(supervisor: Arc<Supervisor>, mut stream: tokio::net::TcpStream) {
    while let Ok(length) = stream.read_u16().await {
        let mut query = vec![0; usize::from(length)];
        if stream.read_exact(&mut query).await.is_err() {
            return;
        }
        let Some(answer) = answer(&supervisor, &query) else { return };
        let Ok(length) = u16::try_from(answer.len()) else { return };
        let framed = [&length.to_be_bytes(), &answer[..]].concat();
        if stream.write_all(&framed).await.is_err() {
            return;
        }
    }
}

fn answer(supervisor: &Supervisor, query: &[u8]) -> Option<Vec<u8>> {
    resolver::answer(query, &|name| match supervisor.policy.resolve(name) {
        policy::NameAnswer::Known { v4, .. } => Some(Addresses { v4, v6: None }),
        policy::NameAnswer::Unknown => None,
    })
}
