//! What a connection is told when it is made.

use core::time::Duration;
use std::net::SocketAddr;

/// Where a connection came in, and what its session may take.
#[derive(Clone, Debug)]
pub struct ConnectionConfig {
    /// Target portal group tag of the portal.
    pub portal_group: u16,
    /// This end's address.
    pub portal: SocketAddr,
    /// Bounds.
    pub limits: Limits,
    /// Time limits.
    pub timers: Timers,
    /// What the target would choose.
    pub policy: Policy,
}

impl ConnectionConfig {
    /// A portal with the usual bounds.
    pub fn new(portal: SocketAddr, portal_group: u16) -> Self {
        Self {
            portal_group,
            portal,
            limits: Limits::default(),
            timers: Timers::default(),
            policy: Policy::default(),
        }
    }
}

/// Bounds of one session. All memory that the initiator can make it hold follows from them
/// (`docs/design/iscsi-session.md`, "Limits").
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Commands that the initiator may have unanswered: the most that MaxCmdSN gets ahead.
    pub queue_depth: u32,
    /// Immediate commands unanswered at a time; more are rejected with reason 06h.
    pub immediate_tasks: u32,
    /// Bytes of solicited data that are requested or held for unanswered commands.
    pub solicited: u32,
    /// Bytes that one command may bring. The rest of a longer one is not asked for, and the device server sees fewer bytes than
    /// its CDB means: block limits (SBC-4 MAXIMUM TRANSFER LENGTH) should say so first. At most `solicited`.
    pub max_write: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { queue_depth: 128, immediate_tasks: 16, solicited: 32 << 20, max_write: 16 << 20 }
    }
}

/// Time limits of one connection. Zero turns a ping off.
#[derive(Clone, Copy, Debug)]
pub struct Timers {
    /// From the connection's start to the end of login.
    pub login: Duration,
    /// Silence after which a NOP-In asks whether the initiator is there.
    pub ping_interval: Duration,
    /// How long its answer may take.
    pub ping_timeout: Duration,
    /// How long requested data may take, from the last that came.
    pub data: Duration,
    /// Above error recovery level 0: how long requested data may pause before the rest of the sequence counts as lost and is asked for
    /// again (RFC 7143 section 7.1.4.1).
    pub sequence: Duration,
    /// How long an abort waits for data that is under way for the tasks it covers (RFC 7143 section 4.2.3.3 step a). Linux does not
    /// send it ("fast abort"), so this must be shorter than its task management timeout of 15 s.
    pub abort_drain: Duration,
}

impl Default for Timers {
    fn default() -> Self {
        Self {
            login: Duration::from_secs(15),
            ping_interval: Duration::from_secs(30),
            ping_timeout: Duration::from_secs(20),
            data: Duration::from_secs(30),
            sequence: Duration::from_secs(5),
            abort_drain: Duration::from_secs(1),
        }
    }
}

/// Which digests the target takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DigestPolicy {
    /// What the initiator puts first.
    Either,
    /// CRC32C or no session.
    Required,
    /// None or no session.
    Never,
}

/// What the target would choose in negotiation (RFC 7143 section 13).
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// HeaderDigest.
    pub header_digest: DigestPolicy,
    /// DataDigest.
    pub data_digest: DigestPolicy,
    /// InitialR2T; the result is Yes if either side wants it.
    pub initial_r2t: bool,
    /// ImmediateData; the result is Yes only if both sides want it.
    pub immediate_data: bool,
    /// MaxRecvDataSegmentLength that the target declares, 512 to 2^24-1.
    pub max_recv_data_segment: u32,
    /// MaxBurstLength, 512 to 2^24-1.
    pub max_burst: u32,
    /// FirstBurstLength, 512 to `max_burst`.
    pub first_burst: u32,
    /// MaxOutstandingR2T, from 1.
    pub max_outstanding_r2t: u16,
    /// DefaultTime2Wait in seconds.
    pub time2wait: u16,
    /// DefaultTime2Retain in seconds: how long tasks of a lost connection are kept at error recovery level 2.
    pub time2retain: u16,
    /// MaxConnections, from 1.
    pub max_connections: u16,
    /// ErrorRecoveryLevel, 0 to 2.
    pub error_recovery: u8,
    /// iSCSIProtocolLevel: 1 is RFC 7143, 2 adds RFC 7144.
    pub protocol_level: u8,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            header_digest: DigestPolicy::Either,
            data_digest: DigestPolicy::Either,
            initial_r2t: false,
            immediate_data: true,
            max_recv_data_segment: 256 << 10,
            max_burst: 1 << 20,
            first_burst: 64 << 10,
            max_outstanding_r2t: 8,
            time2wait: 2,
            time2retain: 20,
            max_connections: 8,
            error_recovery: 2,
            protocol_level: 2,
        }
    }
}
