//! What belongs to one connection of a session.

use core::ops::{Index, IndexMut};
use core::time::Duration;

use super::sent::Sent;
use super::session::ConnectionId;
use super::text_exchange::TextExchange;
use super::{CloseReason, Handshake};
use crate::negotiate::Parameters;
use crate::pdu::{RawPdu, Serial32};
use crate::{Deframer, Encoder, FrameLimits};

/// One connection, from the end of its login until nothing in the session remembers it.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) cid: u16,
    pub(super) phase: Phase,
    /// The stream is to be closed, or is: what is left is sent first.
    pub(super) closing: Option<CloseReason>,
    /// The driver still holds the stream; see [`super::Session::release`].
    pub(super) attached: bool,
    pub(super) deframer: Deframer,
    pub(super) out: Encoder,
    /// What is in force here: the session's parameters, and this connection's digests and segment lengths.
    pub(super) parameters: Parameters,
    pub(super) stat_sn: Serial32,
    /// The latest ExpStatSN: all responses below it have arrived.
    pub(super) acked: Serial32,
    /// What may be asked for again; none at error recovery level 0.
    pub(super) sent: Option<Box<Sent>>,
    /// Bytes that SNACKs have made this side send again since the last `transmit`.
    pub(super) resent: usize,
    pub(super) text: Option<TextExchange>,
    pub(super) last_received: Duration,
    pub(super) ping: Option<Ping>,
    /// Tasks that are allegiant to it.
    pub(super) tasks: u32,
    /// Sequences of Data-Out whose end has not come, over all its tasks.
    pub(super) open_sequences: u32,
    pub(super) data_progress: Duration,
    /// When to look for sequences that have stalled; only above error recovery level 0.
    pub(super) stall_check: Option<Duration>,
}

/// States of a connection (RFC 7143 section 8.1.4, after login).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// LOGGED_IN.
    Open,
    /// IN_LOGOUT: nothing more is received; the answer waits for tasks that end.
    LoggingOut,
    /// CLEANUP_WAIT: the stream is gone, the initiator has not said yet what is to become of the tasks.
    Failed {
        /// When they are discarded.
        until: Duration,
    },
    /// Logged out for recovery: the tasks may be reassigned.
    Recovering {
        /// When they are discarded.
        until: Duration,
    },
    /// FREE: when the driver has released it and no task remembers it, the slot may be used again.
    Vacant,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Ping {
    pub(super) tag: u32,
    pub(super) sent: Duration,
}

impl Connection {
    /// The connection that a login made.
    pub(super) fn new(handshake: Handshake, cid: u16, parameters: Parameters, now: Duration) -> Self {
        let Handshake { mut deframer, mut out, stat_sn, .. } = handshake;
        out.set_digests(parameters.header_digest, parameters.data_digest);
        deframer.set_limits(FrameLimits {
            max_data: parameters.target_max_recv,
            header_digest: parameters.header_digest,
            data_digest: parameters.data_digest,
            allow_ahs: true,
        });
        let recovers = parameters.error_recovery > 0;
        Self {
            cid,
            phase: Phase::Open,
            closing: None,
            attached: true,
            deframer,
            out,
            parameters,
            stat_sn,
            acked: stat_sn,
            sent: recovers.then(|| Box::new(Sent::new(stat_sn))),
            resent: 0,
            text: None,
            last_received: now,
            ping: None,
            tasks: 0,
            open_sequences: 0,
            data_progress: now,
            stall_check: None,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// Whether PDUs can still be sent.
    pub(super) fn can_send(&self) -> bool {
        matches!(self.phase, Phase::Open | Phase::LoggingOut)
    }

    /// Whether the tasks that are allegiant to it wait for another connection, or for their end.
    pub(super) fn is_lost(&self) -> bool {
        matches!(self.phase, Phase::Failed { .. } | Phase::Recovering { .. })
    }

    /// Until when tasks are kept.
    pub(super) fn retained_until(&self) -> Option<Duration> {
        match self.phase {
            Phase::Failed { until } | Phase::Recovering { until } => Some(until),
            _ => None,
        }
    }

    /// Whether a response was sent that nobody has acknowledged.
    pub(super) fn has_unacknowledged(&self) -> bool {
        self.acked.is_before(self.stat_sn)
    }

    /// Sends a response with a StatSN, and keeps it where it may be asked for again.
    pub(super) fn put_status(&mut self, pdu: impl Into<RawPdu>) {
        match &mut self.sent {
            None => self.out.put(pdu),
            Some(sent) => {
                let raw = pdu.into();
                sent.push_other(raw.clone());
                self.out.put(raw);
            }
        }
        self.stat_sn = self.stat_sn.next();
    }

    /// Gives back what a connection that is over holds; what remains are numbers and kept answers.
    pub(super) fn discard_buffers(&mut self) {
        self.deframer = Deframer::new(0);
        self.out = Encoder::new();
        self.text = None;
        self.ping = None;
        self.stall_check = None;
        self.open_sequences = 0;
    }
}

/// The connections of a session by their slot.
#[derive(Debug)]
pub(super) struct Connections(pub(super) Vec<Connection>);

impl Connections {
    pub(super) fn iter(&self) -> impl Iterator<Item = (ConnectionId, &Connection)> {
        self.0.iter().enumerate().map(|(slot, connection)| (ConnectionId(slot as u16), connection))
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = ConnectionId> + use<> {
        (0..self.0.len() as u16).map(ConnectionId)
    }

    pub(super) fn get(&self, id: ConnectionId) -> Option<&Connection> {
        self.0.get(usize::from(id.0))
    }

    /// The one with that CID that is open.
    pub(super) fn open_with_cid(&self, cid: u16) -> Option<ConnectionId> {
        let mine = |c: &Connection| c.cid == cid && matches!(c.phase, Phase::Open | Phase::LoggingOut);
        self.iter().find(|(_, c)| mine(c)).map(|(id, _)| id)
    }

    /// The one with that CID that the initiator may still log out.
    pub(super) fn with_cid(&self, cid: u16) -> Option<ConnectionId> {
        let of_phase = |wanted: fn(&Connection) -> bool| {
            self.iter().find(|(_, c)| c.cid == cid && wanted(c)).map(|(id, _)| id)
        };
        of_phase(Connection::is_open).or_else(|| of_phase(|c| matches!(c.phase, Phase::Failed { .. })))
    }

    /// Those that can carry requests.
    pub(super) fn open(&self) -> impl Iterator<Item = (ConnectionId, &Connection)> {
        self.iter().filter(|(_, connection)| connection.is_open())
    }
}

impl Index<ConnectionId> for Connections {
    type Output = Connection;

    fn index(&self, id: ConnectionId) -> &Connection {
        &self.0[usize::from(id.0)]
    }
}

impl IndexMut<ConnectionId> for Connections {
    fn index_mut(&mut self, id: ConnectionId) -> &mut Connection {
        &mut self.0[usize::from(id.0)]
    }
}
