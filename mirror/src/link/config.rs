//! What a link is told at its start.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use zeroize::Zeroizing;

use super::handshake::{MAX_NAME, is_name};
use super::message::MAX_DATA;

/// Everything a [`super::Link`] needs to know.
#[derive(Clone, Debug)]
pub struct LinkConfig {
    /// Name of this unit: 1 to 64 of `A–Z a–z 0–9 . _ -`.
    pub unit: String,
    /// Where to listen; `None` for a unit that only dials.
    pub listen: Option<SocketAddr>,
    /// The key that all units of the installation share.
    pub key: LinkKey,
    /// The units that may connect, and where they are reached.
    pub peers: Vec<PeerConfig>,
    /// Time limits.
    pub timing: Timing,
    /// Space limits.
    pub limits: Limits,
}

impl LinkConfig {
    /// Checks what the types cannot; the error is for the administrator.
    pub(super) fn check(&self) -> Result<(), String> {
        let mut names = BTreeSet::from([self.unit.as_str()]);
        for name in self.peers.iter().map(|peer| peer.unit.as_str()) {
            if !names.insert(name) {
                return Err(format!("unit {name:?} is named twice"));
            }
        }
        if let Some(name) = names.iter().find(|name| !is_name(name)) {
            return Err(format!("{name:?} is not a unit's name: 1 to {MAX_NAME} of A-Z a-z 0-9 . _ -"));
        }
        if self.timing.dead_after < self.timing.heartbeat * 2 || self.timing.heartbeat.is_zero() {
            return Err("a peer must be given at least two heartbeats before it is taken for dead".to_owned());
        }
        let limits = &self.limits;
        if limits.requests_in_flight == 0 || limits.half_open == 0 || limits.bytes_in_flight < MAX_DATA as u32
        {
            return Err(format!("the link needs room for one request of {MAX_DATA} bytes"));
        }
        Ok(())
    }
}

/// Another storage unit.
#[derive(Clone, Debug)]
pub struct PeerConfig {
    /// Its name.
    pub unit: String,
    /// Where it listens, tried in this order; empty for a unit that only ever dials us.
    pub addresses: Vec<SocketAddr>,
}

/// The shared key, at least 16 bytes; wiped from memory when dropped and never shown.
#[derive(Clone)]
pub struct LinkKey(Zeroizing<Vec<u8>>);

/// A key of fewer than [`LinkKey::MIN_LEN`] bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a link key needs at least {} bytes, this one has {len}", LinkKey::MIN_LEN)]
pub struct KeyTooShort {
    /// Bytes given.
    pub len: usize,
}

impl LinkKey {
    /// Fewest bytes of a key.
    pub const MIN_LEN: usize = 16;

    /// Takes the key as it stands, without trimming.
    pub fn new(bytes: Vec<u8>) -> Result<Self, KeyTooShort> {
        let bytes = Zeroizing::new(bytes);
        if bytes.len() < Self::MIN_LEN {
            return Err(KeyTooShort { len: bytes.len() });
        }
        Ok(Self(bytes))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for LinkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LinkKey(…)")
    }
}

/// Time limits. Together they bound how long a host's write can wait for a dead link (R-FL-5): `dead_after`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Each side sends something at least this often.
    pub heartbeat: Duration,
    /// A session over which no byte came for this long is dead. At least twice `heartbeat`.
    pub dead_after: Duration,
    /// Limit for a TCP connection to come up.
    pub connect_timeout: Duration,
    /// Limit for the handshake, on both sides.
    pub handshake_timeout: Duration,
    /// First pause between attempts; doubled each time, with jitter.
    pub reconnect_first: Duration,
    /// Longest pause between attempts.
    pub reconnect_longest: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(1),
            dead_after: Duration::from_secs(3),
            connect_timeout: Duration::from_secs(2),
            handshake_timeout: Duration::from_secs(5),
            reconnect_first: Duration::from_millis(200),
            reconnect_longest: Duration::from_secs(5),
        }
    }
}

/// Space limits of the receiving side; the sender learns the window when a session opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests of one session not yet answered.
    pub requests_in_flight: u32,
    /// Bytes of one session's requests and answers not yet done with. At least [`super::MAX_DATA`].
    pub bytes_in_flight: u32,
    /// Connections that have not finished their handshake, over all sources.
    pub half_open: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { requests_in_flight: 256, bytes_in_flight: 32 << 20, half_open: 32 }
    }
}
