//! The TLS handshake on a TCP connection, after which the keys are taken over ([`Protection`]).

use std::io;
use std::sync::Arc;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::pki_types::ServerName;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus};
use rustls::{ClientConfig, Error, ExtractedSecrets, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::protection::{Protection, Schedule};

/// What the other end may say before the handshake is over.
const MOST: usize = 256 * 1024;

/// What a handshake has given.
pub struct Shaken {
    pub protection: Protection,
    /// What the other end said at once, decrypted.
    pub early: Vec<u8>,
    /// What has come after it, and was not looked at.
    pub rest: Vec<u8>,
    /// It has said that nothing more comes.
    pub ended: bool,
}

/// As who asks.
pub async fn client(io: &mut TcpStream, mut config: ClientConfig, name: ServerName<'static>) -> io::Result<Shaken> {
    config.enable_secret_extraction = true;
    shake(io, UnbufferedClientConnection::new(Arc::new(config), name).map_err(invalid)?).await
}

/// As who is asked.
pub async fn server(io: &mut TcpStream, mut config: ServerConfig) -> io::Result<Shaken> {
    config.enable_secret_extraction = true;
    shake(io, UnbufferedServerConnection::new(Arc::new(config)).map_err(invalid)?).await
}

fn invalid(e: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, e)
}

/// Either end's.
trait Connection: Send {
    type Data: Send;
    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
    fn into_keys(self) -> Result<(ExtractedSecrets, Schedule), Error>;
}

impl Connection for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn into_keys(self) -> Result<(ExtractedSecrets, Schedule), Error> {
        let (secrets, connection) = self.dangerous_into_kernel_connection()?;
        Ok((secrets, Schedule::Client(connection)))
    }
}

impl Connection for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn into_keys(self) -> Result<(ExtractedSecrets, Schedule), Error> {
        let (secrets, connection) = self.dangerous_into_kernel_connection()?;
        Ok((secrets, Schedule::Server(connection)))
    }
}

/// What is to be done next.
enum Next {
    Process,
    Send,
    Receive,
    Done,
}

async fn shake(io: &mut TcpStream, mut connection: impl Connection) -> io::Result<Shaken> {
    let (mut incoming, mut outgoing, mut early) = (Vec::with_capacity(8 * 1024), Vec::new(), Vec::new());
    let (mut ended, mut failed) = (false, None);
    loop {
        let UnbufferedStatus { mut discard, state, .. } = connection.process(&mut incoming);
        let next = match state {
            Ok(ConnectionState::EncodeTlsData(data)) => encode(data, &mut outgoing).map(|()| Next::Process),
            // The other end is told why, if it is not gone.
            _ if failed.is_some() => Ok(Next::Done),
            Ok(ConnectionState::TransmitTlsData(data)) => {
                data.done();
                Ok(Next::Send)
            }
            Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
                match traffic.next_record() {
                    Some(Ok(record)) => {
                        discard += record.discard;
                        early.extend_from_slice(record.payload);
                    }
                    Some(Err(e)) => break Err(e),
                    None => break Ok(Next::Process),
                }
            },
            // It had little to say, and said it with the end of its handshake.
            Ok(ConnectionState::PeerClosed) => {
                ended = true;
                Ok(Next::Process)
            }
            Ok(ConnectionState::BlockedHandshake) => Ok(Next::Receive),
            Ok(ConnectionState::WriteTraffic(_)) => Ok(Next::Done),
            Ok(other) => Err(Error::General(format!("the handshake ends with {other:?}"))),
            Err(e) => Err(e),
        };
        incoming.drain(..discard);
        match next {
            Ok(Next::Process) => {}
            Ok(Next::Send) => {
                io.write_all(&outgoing).await?;
                outgoing.clear();
            }
            Ok(Next::Receive) => {
                if incoming.len() > MOST {
                    return Err(invalid("the other end says more than any handshake takes"));
                }
                if io.read_buf(&mut incoming).await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            Ok(Next::Done) => {
                if let Some(why) = failed {
                    let _ = io.try_write(&outgoing);
                    return Err(invalid(why));
                }
                let (secrets, schedule) = connection.into_keys().map_err(invalid)?;
                let protection = Protection::new(secrets, schedule).map_err(invalid)?;
                return Ok(Shaken { protection, early, rest: incoming, ended });
            }
            Err(why) => failed = Some(failed.unwrap_or(why)),
        }
    }
}

/// Appends what is to be sent.
fn encode<Data>(mut data: EncodeTlsData<'_, Data>, outgoing: &mut Vec<u8>) -> Result<(), Error> {
    let words = |e: EncodeError| Error::General(e.to_string());
    let room = match data.encode(&mut []) {
        Ok(_) => return Ok(()),
        Err(EncodeError::InsufficientSize(needs)) => needs.required_size,
        Err(other) => return Err(words(other)),
    };
    let start = outgoing.len();
    outgoing.resize(start + room, 0);
    data.encode(&mut outgoing[start..]).map(drop).map_err(words)
}
