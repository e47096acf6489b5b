//! Streams for nobody's socket: what is sent comes back.

use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::incoming::Incoming;
use super::link::{LinkError, lost};

/// Bytes that one stream sends back.
const ECHOED: u64 = 1 << 20;

/// A stream that comes back.
pub struct Echo {
    send: quinn::SendStream,
    receive: quinn::RecvStream,
    sent: u64,
}

impl Echo {
    pub(super) fn new(send: quinn::SendStream, receive: quinn::RecvStream) -> Echo {
        Echo { send, receive, sent: 0 }
    }

    /// Sends a number there and back: how long that took; `None`: it took longer than `limit`. What came too late before is passed over.
    pub async fn round(&mut self, limit: Duration) -> Result<Option<Duration>, LinkError> {
        self.sent += 1;
        let started = Instant::now();
        let round = async {
            self.send.write_all(&self.sent.to_be_bytes()).await.map_err(|e| lost(&e))?;
            loop {
                let mut back = [0; 8];
                self.receive.read_exact(&mut back).await.map_err(|e| lost(&e))?;
                if u64::from_be_bytes(back) == self.sent {
                    return Ok(started.elapsed());
                }
            }
        };
        timeout(limit, round).await.ok().transpose()
    }
}

impl Incoming {
    /// Takes a stream that is an echo, and sends back what comes, at most 1 MiB.
    pub async fn send_back(self) -> Result<(), LinkError> {
        let Incoming::Quic { mut send, receive, .. } = self else { return Ok(()) };
        send.write_all(&200u16.to_be_bytes()).await.map_err(|e| lost(&e))?;
        let mut receive = tokio::io::AsyncReadExt::take(receive, ECHOED);
        tokio::io::copy(&mut receive, &mut send).await.map_err(|e| lost(&e))?;
        let _ = send.finish();
        Ok(())
    }
}
