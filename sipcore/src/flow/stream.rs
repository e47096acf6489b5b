//! The two directions of a stream, whatever carries it: a QUIC stream or a data channel.

use bytes::Bytes;

use super::datachannel;
use super::news::Early;

/// Why a stream ended before its end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Broken {
    /// The other end has not taken it after all; with a SIP status: 403, 486, 503.
    #[error("refused with {0}")]
    Refused(u16),
    /// The connection ended before the other end had taken it.
    #[error("the connection to the peer ended before it was taken: {0}")]
    Ended(String),
    /// It was reset, or its connection ended.
    #[error("{0}")]
    Lost(String),
}

/// One stream of a link.
pub struct Stream {
    /// Towards the other end.
    pub send: SendStream,
    /// From the other end.
    pub receive: RecvStream,
}

impl Stream {
    /// Its number: marks the datagrams that belong to it.
    pub fn id(&self) -> u64 {
        match &self.send {
            SendStream::Quic(stream, _) => quinn::VarInt::from(stream.id()).into_inner(),
            SendStream::Channel(channel) => channel.id().into(),
        }
    }
}

/// What became of what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// The other end has everything.
    Delivered,
    /// It reads no more, for this reason.
    Refused(String),
}

/// The writing direction.
pub enum SendStream {
    /// Of QUIC; perhaps the opener has still to hear that it was taken.
    Quic(quinn::SendStream, Option<[u8; 6]>),
    /// Of a data channel.
    Channel(datachannel::Sender),
}

impl SendStream {
    /// Writes all of it, as fast as the other end takes it.
    pub async fn write(&mut self, data: Bytes) -> Result<(), Broken> {
        self.answer().await?;
        match self {
            SendStream::Quic(stream, _) => stream.write_chunk(data).await.map_err(|e| Broken::Lost(e.to_string())),
            SendStream::Channel(channel) => channel.write(data).await.map_err(|_| closed()),
        }
    }

    /// Whether the opener has still to hear that the stream was taken: what is written first says so.
    pub fn owes_answer(&self) -> bool {
        matches!(self, SendStream::Quic(_, Some(_)))
    }

    /// Tells the opener that the stream was taken, if he has still to hear it. To be called before [`SendStream::finish`].
    pub async fn answer(&mut self) -> Result<(), Broken> {
        if let SendStream::Quic(stream, owed) = self
            && let Some(answer) = owed.take()
        {
            stream.write_all(&answer).await.map_err(|e| Broken::Lost(e.to_string()))?;
        }
        Ok(())
    }

    /// Nothing more is written. It is reset only by what the other end has been told since.
    pub fn finish(&mut self) {
        match self {
            SendStream::Quic(stream, _) => drop(stream.finish()),
            SendStream::Channel(channel) => channel.finish(),
        }
    }

    /// A TCP reset. Of a data channel both directions end.
    pub fn reset(&mut self) {
        match self {
            SendStream::Quic(stream, _) => drop(stream.reset(super::RESET.into())),
            SendStream::Channel(channel) => channel.reset(),
        }
    }

    /// Waits until the other end has everything after [`SendStream::finish`], or reads no more.
    pub fn stopped(&self) -> impl Future<Output = Stopped> + Send + 'static {
        enum Waiting<A, B> {
            Quic(A),
            Channel(B),
        }
        let waiting = match self {
            SendStream::Quic(stream, _) => Waiting::Quic(stream.stopped()),
            SendStream::Channel(channel) => Waiting::Channel(channel.stopped()),
        };
        async move {
            match waiting {
                Waiting::Quic(stopped) => match stopped.await {
                    Ok(None) => Stopped::Delivered,
                    other => Stopped::Refused(format!("{other:?}")),
                },
                Waiting::Channel(stopped) => match stopped.await {
                    datachannel::Stopped::Delivered => Stopped::Delivered,
                    datachannel::Stopped::Closed => Stopped::Refused(closed().to_string()),
                },
            }
        }
    }
}

/// The reading direction.
pub enum RecvStream {
    /// Of QUIC; perhaps the other end has still to take it.
    Quic(quinn::RecvStream, Option<Early>),
    /// Of a data channel.
    Channel(datachannel::Receiver),
}

impl RecvStream {
    /// Waits until the other end has taken the stream: reading does so before the first byte. What it said is lost if the wait is broken off.
    pub async fn taken(&mut self) -> Result<(), Broken> {
        match self {
            RecvStream::Quic(stream, early) => taken(stream, early).await,
            RecvStream::Channel(_) => Ok(()),
        }
    }

    /// Whether the other end is known to have taken the stream.
    pub fn is_taken(&self) -> bool {
        !matches!(self, RecvStream::Quic(_, Some(_)))
    }

    /// The next bytes, about `most`; `None` at the end.
    pub async fn read(&mut self, most: usize) -> Result<Option<Bytes>, Broken> {
        match self {
            RecvStream::Quic(stream, early) => {
                taken(stream, early).await?;
                let chunk = stream.read_chunk(most, true).await.map_err(|e| Broken::Lost(e.to_string()))?;
                Ok(chunk.map(|chunk| chunk.bytes))
            }
            RecvStream::Channel(channel) => channel.read().await.map_err(|_| closed()),
        }
    }

    /// As many pieces of the next bytes as there are and as there is room for: how many; `None` at the end.
    pub async fn read_many(&mut self, pieces: &mut [Bytes]) -> Result<Option<usize>, Broken> {
        match self {
            RecvStream::Quic(stream, early) => {
                taken(stream, early).await?;
                stream.read_chunks(pieces).await.map_err(|e| Broken::Lost(e.to_string()))
            }
            RecvStream::Channel(channel) => {
                let data = channel.read().await.map_err(|_| closed())?;
                Ok(data.zip(pieces.first_mut()).map(|(data, first)| {
                    *first = data;
                    1
                }))
            }
        }
    }

    /// A TCP reset, towards who writes. Of a data channel both directions end.
    pub fn stop(&mut self) {
        match self {
            RecvStream::Quic(stream, _) => drop(stream.stop(super::RESET.into())),
            RecvStream::Channel(channel) => channel.stop(),
        }
    }

    /// Nobody reads any more, while what was written still has to arrive. A data channel stays open for that.
    pub fn abandon(&mut self) {
        if let RecvStream::Quic(stream, _) = self {
            let _ = stream.stop(super::RESET.into());
        }
    }
}

/// Waits until the other end has taken the stream, if it has not.
async fn taken(stream: &mut quinn::RecvStream, early: &mut Option<Early>) -> Result<(), Broken> {
    if let Some(waiting) = early {
        waiting.answered(stream).await?;
        *early = None;
    }
    Ok(())
}

fn closed() -> Broken {
    Broken::Lost("the channel was closed".to_owned())
}
