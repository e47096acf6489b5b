//! A stream that the other end has opened: what it is for, and whether it is taken.

use tokio::time::timeout;

use super::datachannel;
use super::link::{LinkError, OPEN_WITHIN, lost};
use super::news;
use super::open::{self, Opening};
use super::stream::{RecvStream, SendStream, Stream};
use crate::label::{Label, Proto};

/// A stream that the other end has opened.
pub enum Incoming {
    /// Of QUIC.
    Quic {
        /// Towards the opener.
        send: quinn::SendStream,
        /// From the opener.
        receive: quinn::RecvStream,
        /// The opener does not wait for the answer. Known with the purpose.
        unasked: bool,
    },
    /// A data channel.
    Channel(datachannel::Offered),
}

/// What a stream that came in is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A socket of the program.
    Socket(Asked),
    /// Nobody's: what comes is to be sent back.
    Echo,
}

/// The socket that a stream is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Stream or datagrams.
    pub proto: Proto,
    /// The port that is meant; `None` if the other end names none.
    pub port: Option<u16>,
    /// The port of the other end's own socket, if it has one.
    pub source_port: Option<u16>,
}

impl Incoming {
    /// What it is for. `None`: it does not say so in time, or not in our words; the stream is to be dropped.
    pub async fn purpose(&mut self) -> Option<Purpose> {
        let (receive, unasked) = match self {
            Incoming::Quic { receive, unasked, .. } => (receive, unasked),
            Incoming::Channel(offered) => {
                let proto = if offered.open.delivery.is_datagrams() { Proto::Udp } else { Proto::Tcp };
                let port = offered.open.label.parse::<Label>().ok().filter(|label| label.proto == proto);
                let port = port.map(|label| label.port);
                return Some(Purpose::Socket(Asked { proto, port, source_port: None }));
            }
        };
        let read = async {
            let mut start = [0; open::SHORTEST];
            receive.read_exact(&mut start).await.ok()?;
            if start == open::ECHO_OPENING {
                return Some(None);
            }
            *unasked = Opening::take_unasked(&mut start);
            let mut all = start.to_vec();
            all.resize(Opening::length(&start)?, 0);
            receive.read_exact(all.get_mut(open::SHORTEST..)?).await.ok()?;
            Opening::parse(&all).map(Some)
        };
        let Some(opening) = timeout(OPEN_WITHIN, read).await.ok().flatten()? else { return Some(Purpose::Echo) };
        let Label { proto, port } = opening.label;
        let source_port = Some(opening.virtual_source.port());
        Some(Purpose::Socket(Asked { proto, port: Some(port), source_port }))
    }

    /// Its number: marks the datagrams that belong to it.
    pub fn id(&self) -> u64 {
        match self {
            Incoming::Quic { send, .. } => quinn::VarInt::from(send.id()).into_inner(),
            Incoming::Channel(offered) => offered.id().into(),
        }
    }

    /// Takes it. `as_of`: the last change of the listening sockets ([`super::Link::last_change`]) before its own was found; 0 promises nothing.
    pub async fn take(self, as_of: u32) -> Result<Stream, LinkError> {
        match self {
            Incoming::Quic { send, receive, unasked: true } => Ok(Stream {
                send: SendStream::Quic(send, Some(news::taken(as_of))),
                receive: RecvStream::Quic(receive, None),
            }),
            Incoming::Quic { mut send, receive, .. } => {
                send.write_all(&news::taken(as_of)).await.map_err(|e| lost(&e))?;
                Ok(quic(send, receive))
            }
            Incoming::Channel(offered) => match offered.take() {
                Ok(taken) => Ok(channel(taken)),
                Err(_) => Err(lost(&"the channel was closed")),
            },
        }
    }

    /// Refuses it, with a SIP status. A data channel is closed, which says nothing of the reason.
    pub async fn refuse(self, status: u16) {
        let Incoming::Quic { mut send, mut receive, .. } = self else { return };
        let _ = receive.stop(super::RESET.into());
        if send.write_all(&status.to_be_bytes()).await.is_ok() {
            // Nobody closes it before.
            let _ = send.finish();
        }
    }
}

pub(super) fn quic(send: quinn::SendStream, receive: quinn::RecvStream) -> Stream {
    Stream { send: SendStream::Quic(send, None), receive: RecvStream::Quic(receive, None) }
}

/// One that the other end has still to take.
pub(super) fn early(send: quinn::SendStream, receive: quinn::RecvStream, early: news::Early) -> Stream {
    Stream { send: SendStream::Quic(send, None), receive: RecvStream::Quic(receive, Some(early)) }
}

pub(super) fn channel((send, receive): (datachannel::Sender, datachannel::Receiver)) -> Stream {
    Stream { send: SendStream::Channel(send), receive: RecvStream::Channel(receive) }
}
