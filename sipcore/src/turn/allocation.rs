//! An allocation: one relay, its client, and the peers that it may hear (RFC 8656 3.2, 9, 12).

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};
use stun_types::message::{IntegrityKey, TransactionId};

use crate::transport::Flow;

/// A permission ends after this, unless it is made again (RFC 8656 9).
const PERMISSION: Duration = Duration::from_secs(300);
/// The same of a channel (12).
const CHANNEL: Duration = Duration::from_secs(600);

/// Names an allocation; never given twice.
pub(super) type Id = u64;

pub(super) struct Allocation {
    pub client: Flow,
    /// As in the request that made it: all others must have the same (RFC 8656 5).
    pub username: String,
    /// Whose it is.
    pub user: String,
    pub key: IntegrityKey,
    /// The request that made it, and its response, for when that is lost.
    pub made_by: TransactionId,
    pub made: Vec<u8>,
    /// Address of the relay, once there is one.
    pub relay: Option<SocketAddr>,
    pub family_v4: bool,
    pub lifetime: Duration,
    pub expires_at: Instant,
    permissions: HashMap<IpAddr, Instant>,
    channels: HashMap<u16, (SocketAddr, Instant)>,
    peers: HashMap<SocketAddr, u16>,
}

/// Why a permission or a channel is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// There are as many as there may be.
    Full,
    /// The channel has another peer, or the peer another channel.
    Taken,
}

impl Allocation {
    #[expect(clippy::too_many_arguments, reason = "each is a fact of the request")]
    pub fn new(
        client: Flow,
        username: String,
        user: String,
        key: IntegrityKey,
        made_by: TransactionId,
        family_v4: bool,
        lifetime: Duration,
        now: Instant,
    ) -> Self {
        Allocation {
            client,
            username,
            user,
            key,
            made_by,
            made: Vec::new(),
            relay: None,
            family_v4,
            lifetime,
            expires_at: now + lifetime,
            permissions: HashMap::new(),
            channels: HashMap::new(),
            peers: HashMap::new(),
        }
    }

    /// The peers at this address may be heard, for a while.
    pub fn permit(&mut self, ip: IpAddr, most: usize, now: Instant) -> Result<(), Refused> {
        if !self.permissions.contains_key(&ip) && self.permissions.len() >= most {
            self.permissions.retain(|_, end| *end > now);
            if self.permissions.len() >= most {
                return Err(Refused::Full);
            }
        }
        self.permissions.insert(ip, now + PERMISSION);
        Ok(())
    }

    pub fn is_permitted(&self, ip: IpAddr, now: Instant) -> bool {
        self.permissions.get(&ip).is_some_and(|end| *end > now)
    }

    /// The channel stands for the peer, for a while.
    pub fn bind(&mut self, channel: u16, peer: SocketAddr, most: usize, now: Instant) -> Result<(), Refused> {
        self.channels.retain(|_, (_, end)| *end > now);
        let channels = &self.channels;
        self.peers.retain(|_, channel| channels.contains_key(channel));
        let taken = self.channels.get(&channel).is_some_and(|(known, _)| *known != peer)
            || self.peers.get(&peer).is_some_and(|known| *known != channel);
        if taken {
            return Err(Refused::Taken);
        }
        if !self.channels.contains_key(&channel) && self.channels.len() >= most {
            return Err(Refused::Full);
        }
        self.permit(peer.ip(), most, now)?;
        self.channels.insert(channel, (peer, now + CHANNEL));
        self.peers.insert(peer, channel);
        Ok(())
    }

    /// The peer that a channel stands for.
    pub fn peer_of(&self, channel: u16, now: Instant) -> Option<SocketAddr> {
        self.channels.get(&channel).filter(|(_, end)| *end > now).map(|(peer, _)| *peer)
    }

    /// The channel that stands for a peer.
    pub fn channel_of(&self, peer: SocketAddr, now: Instant) -> Option<u16> {
        let channel = *self.peers.get(&peer)?;
        self.peer_of(channel, now).map(|_| channel)
    }
}
