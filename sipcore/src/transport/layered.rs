//! Connections on which SIP is not the first thing above TCP: TLS (RFC 3261 26.3.2, RFC 5246, RFC 8446) and WebSocket (RFC 7118). One task
//! reads and writes each.

use super::connection::{Link, read_messages};
use super::driver::Core;
use super::tap::count;
use super::{Machine, Transport, web};
use crate::message::{Limits, StreamParser};
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long the other side may take to read what we send.
pub(super) const WRITE_LIMIT: Duration = Duration::from_secs(15);

/// Runs a connection to its end.
pub(super) async fn exchange<M: Machine>(
    core: &Arc<Core<M>>,
    mut link: Link<'_>,
    stream: TcpStream,
    is_accepted: bool,
) -> io::Result<()> {
    match (link.flow.transport, is_accepted) {
        (Transport::Ws, _) => web::exchange(core, link, stream).await,
        (_, true) => {
            let Some(server) = &core.secrets.server else { return Err(ErrorKind::Unsupported.into()) };
            // A browser would ask its user for a certificate.
            let asks = link.flow.transport == Transport::Tls && !core.secrets.domains.read().is_empty();
            let shaken = timeout(core.patience, server.acceptor(asks).accept(stream)).await;
            let stream = shaken.map_err(io::Error::from).flatten().inspect_err(|_| failed(core))?;
            if link.flow.transport == Transport::Wss {
                return web::exchange(core, link, stream).await;
            }
            let shown = stream.get_ref().1.peer_certificates();
            if let Some((known, domains)) = shown.and_then(|shown| core.known_by(link.flow, shown)) {
                if !core.rename(link.flow, known, link.connection) {
                    return Err(ErrorKind::ConnectionAborted.into());
                }
                link.connection.set_known_as(known);
                link.flow = known;
                core.with(|machine, _| machine.handle_shown(known, &domains));
            }
            messages(core, link, stream).await
        }
        (_, false) => {
            let Some(client) = core.client(link.flow) else { return Err(ErrorKind::Unsupported.into()) };
            let shaken = timeout(core.patience, client.connector.connect(client.domain.clone(), stream)).await;
            let stream = shaken.map_err(io::Error::from).flatten().map_err(explain).inspect_err(|_| failed(core))?;
            messages(core, link, stream).await
        }
    }
}

pub(super) fn failed<M: Machine>(core: &Core<M>) {
    count(&core.cells.failed_handshakes);
}

/// What the user can do about a server that is not believed.
fn explain(error: io::Error) -> io::Error {
    use rustls::{CertificateError as Why, Error};
    let cause = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    let words = match cause {
        Some(Error::InvalidCertificate(Why::UnknownIssuer)) => {
            "its certificate comes from no authority that is believed (name its CA file, or its fingerprint)"
        }
        Some(Error::InvalidCertificate(Why::NotValidForName | Why::NotValidForNameContext { .. })) => {
            "its certificate is for another domain"
        }
        Some(Error::InvalidCertificate(Why::Expired | Why::ExpiredContext { .. })) => "its certificate has expired",
        Some(Error::InvalidCertificate(Why::ApplicationVerificationFailure)) => {
            "its certificate has another fingerprint than the one that is believed"
        }
        _ => return io::Error::new(error.kind(), format!("TLS: {error}")),
    };
    io::Error::new(ErrorKind::InvalidData, format!("TLS: {words}"))
}

/// SIP messages, one after the other.
async fn messages<M: Machine, S>(core: &Arc<Core<M>>, mut link: Link<'_>, stream: S) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let connection = link.connection;
    let (mut source, mut sink) = tokio::io::split(stream);
    let writing = async {
        loop {
            while let Some(bytes) = connection.take()? {
                timeout(WRITE_LIMIT, sink.write_all(&bytes)).await??;
            }
            timeout(WRITE_LIMIT, sink.flush()).await??;
            connection.woken().await;
        }
    };
    let reading = async {
        let mut parser = StreamParser::new(Limits::default());
        let mut buffer = vec![0; 16 * 1024];
        loop {
            match link.patience.wait(core, source.read(&mut buffer)).await?? {
                0 => return Ok(()),
                n => parser.push(buffer.get(..n).unwrap_or_default()),
            }
            read_messages(core, &link, &mut parser)?;
            link.patience.heard(parser.is_between_messages());
        }
    };
    tokio::select! {
        ended = reading => ended,
        ended = writing => ended,
    }
}
