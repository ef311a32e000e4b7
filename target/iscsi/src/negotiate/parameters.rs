//! What is in force on a connection.

/// Operational parameters (RFC 7143 section 13); `default()` is what holds when a key was never negotiated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// HeaderDigest=CRC32C.
    pub header_digest: bool,
    /// DataDigest=CRC32C.
    pub data_digest: bool,
    /// InitialR2T: whether data beyond the immediate must be asked for.
    pub initial_r2t: bool,
    /// ImmediateData: whether a command may carry data.
    pub immediate_data: bool,
    /// Longest data segment that the initiator takes.
    pub initiator_max_recv: u32,
    /// Longest data segment that the target takes.
    pub target_max_recv: u32,
    /// MaxBurstLength.
    pub max_burst: u32,
    /// FirstBurstLength.
    pub first_burst: u32,
    /// MaxOutstandingR2T.
    pub max_outstanding_r2t: u16,
    /// DefaultTime2Wait in seconds.
    pub time2wait: u16,
    /// DefaultTime2Retain in seconds.
    pub time2retain: u16,
    /// iSCSIProtocolLevel.
    pub protocol_level: u8,
    /// TaskReporting=ResponseFence; with one connection in the session it changes nothing (RFC 7143 section 4.2.2.3.3 a).
    pub response_fence: bool,
    /// MaxConnections.
    pub max_connections: u16,
    /// ErrorRecoveryLevel.
    pub error_recovery: u8,
    /// DataSequenceInOrder. With Yes above error recovery level 0, one R2T is outstanding at a time (section 13.19).
    pub data_sequence_in_order: bool,
}

impl Parameters {
    /// Where the login of a further connection starts: what holds for the session, and the defaults of what each connection
    /// negotiates for itself (digests and segment lengths).
    pub fn for_further_connection(&self) -> Self {
        let Self { header_digest, data_digest, initiator_max_recv, target_max_recv, .. } = Self::default();
        Self { header_digest, data_digest, initiator_max_recv, target_max_recv, ..*self }
    }
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            header_digest: false,
            data_digest: false,
            initial_r2t: true,
            immediate_data: true,
            initiator_max_recv: 8192,
            target_max_recv: 8192,
            max_burst: 262_144,
            first_burst: 65_536,
            max_outstanding_r2t: 1,
            time2wait: 2,
            time2retain: 20,
            protocol_level: 1,
            response_fence: false,
            max_connections: 1,
            error_recovery: 0,
            data_sequence_in_order: true,
        }
    }
}
