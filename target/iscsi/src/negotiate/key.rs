//! The keys of RFC 7143 (sections 12 and 13) and RFC 7144 (section 7), and where each may be used.

/// A key that this implementation understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs, reason = "a key is documented by its section")]
pub enum Key {
    AuthMethod,
    ChapA,
    ChapI,
    ChapC,
    ChapN,
    ChapR,
    HeaderDigest,
    DataDigest,
    MaxConnections,
    SendTargets,
    TargetName,
    InitiatorName,
    TargetAlias,
    InitiatorAlias,
    TargetAddress,
    TargetPortalGroupTag,
    InitialR2T,
    ImmediateData,
    MaxRecvDataSegmentLength,
    MaxBurstLength,
    FirstBurstLength,
    DefaultTime2Wait,
    DefaultTime2Retain,
    MaxOutstandingR2T,
    DataPduInOrder,
    DataSequenceInOrder,
    ErrorRecoveryLevel,
    SessionType,
    TaskReporting,
    ProtocolLevel,
    IfMarker,
    OfMarker,
    IfMarkInt,
    OfMarkInt,
    NodeArchitecture,
}

/// Where an initiator may send a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// SecurityNegotiation stage only.
    Security,
    /// Both stages of login.
    AnyStage,
    /// LoginOperationalNegotiation stage only (LO and IO).
    Operational,
    /// LoginOperationalNegotiation stage and full feature phase (ALL).
    OperationalAndFullFeature,
    /// Both stages of login and full feature phase (ALL, Any-Stage).
    Everywhere,
    /// Full feature phase only (FFPO).
    FullFeature,
    /// Nowhere: the target's word.
    TargetOnly,
}

/// Where an exchange takes place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// SecurityNegotiation stage.
    Security,
    /// LoginOperationalNegotiation stage.
    Operational,
    /// A Text Request.
    FullFeature,
}

/// `(key, name, use, whether it matters in a discovery session)`.
const TABLE: &[(Key, &str, Use, bool)] = {
    use Use::{
        AnyStage, Everywhere, FullFeature, Operational, OperationalAndFullFeature, Security, TargetOnly,
    };
    &[
        (Key::AuthMethod, "AuthMethod", Security, true),
        (Key::ChapA, "CHAP_A", Security, true),
        (Key::ChapI, "CHAP_I", Security, true),
        (Key::ChapC, "CHAP_C", Security, true),
        (Key::ChapN, "CHAP_N", Security, true),
        (Key::ChapR, "CHAP_R", Security, true),
        (Key::HeaderDigest, "HeaderDigest", Operational, true),
        (Key::DataDigest, "DataDigest", Operational, true),
        (Key::MaxConnections, "MaxConnections", Operational, false),
        (Key::SendTargets, "SendTargets", FullFeature, true),
        (Key::TargetName, "TargetName", AnyStage, true),
        (Key::InitiatorName, "InitiatorName", AnyStage, true),
        (Key::TargetAlias, "TargetAlias", TargetOnly, true),
        (Key::InitiatorAlias, "InitiatorAlias", Everywhere, true),
        (Key::TargetAddress, "TargetAddress", TargetOnly, true),
        (Key::TargetPortalGroupTag, "TargetPortalGroupTag", TargetOnly, true),
        (Key::InitialR2T, "InitialR2T", Operational, false),
        (Key::ImmediateData, "ImmediateData", Operational, false),
        (Key::MaxRecvDataSegmentLength, "MaxRecvDataSegmentLength", OperationalAndFullFeature, true),
        (Key::MaxBurstLength, "MaxBurstLength", Operational, false),
        (Key::FirstBurstLength, "FirstBurstLength", Operational, false),
        (Key::DefaultTime2Wait, "DefaultTime2Wait", Operational, true),
        (Key::DefaultTime2Retain, "DefaultTime2Retain", Operational, true),
        (Key::MaxOutstandingR2T, "MaxOutstandingR2T", Operational, false),
        (Key::DataPduInOrder, "DataPDUInOrder", Operational, false),
        (Key::DataSequenceInOrder, "DataSequenceInOrder", Operational, false),
        (Key::ErrorRecoveryLevel, "ErrorRecoveryLevel", Operational, true),
        (Key::SessionType, "SessionType", AnyStage, true),
        (Key::TaskReporting, "TaskReporting", Operational, false),
        (Key::ProtocolLevel, "iSCSIProtocolLevel", Operational, false),
        (Key::IfMarker, "IFMarker", Operational, true),
        (Key::OfMarker, "OFMarker", Operational, true),
        (Key::IfMarkInt, "IFMarkInt", Operational, true),
        (Key::OfMarkInt, "OFMarkInt", Operational, true),
        (Key::NodeArchitecture, "X#NodeArchitecture", Operational, true),
    ]
};

impl Key {
    /// The key of that name. Names are case sensitive (RFC 7143 section 6.1).
    pub fn parse(name: &str) -> Option<Self> {
        TABLE.iter().find(|row| row.1 == name).map(|row| row.0)
    }

    fn row(self) -> &'static (Self, &'static str, Use, bool) {
        // The table is in the order of the enumeration; a test holds it to that.
        &TABLE[self as usize]
    }

    /// The name.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// Where an initiator may send it.
    pub fn place(self) -> Use {
        self.row().2
    }

    /// Whether it means something in a discovery session. If not, it is answered `Irrelevant` there.
    pub fn matters_in_discovery(self) -> bool {
        self.row().3
    }

    /// Whether an initiator may send it there.
    pub fn allowed(self, place: Place) -> bool {
        match self.place() {
            Use::Security => place == Place::Security,
            Use::AnyStage => place != Place::FullFeature,
            Use::Operational => place == Place::Operational,
            Use::OperationalAndFullFeature => place != Place::Security,
            Use::Everywhere => true,
            Use::FullFeature => place == Place::FullFeature,
            Use::TargetOnly => false,
        }
    }

    /// Longest value: a list or long binary value may exceed 255 bytes.
    pub fn value_limit(self) -> usize {
        match self {
            Self::AuthMethod | Self::ChapA | Self::ChapC | Self::ChapR => crate::text::LONG_VALUE_LIMIT,
            Self::HeaderDigest | Self::DataDigest | Self::TaskReporting => crate::text::LONG_VALUE_LIMIT,
            _ => crate::text::VALUE_LIMIT,
        }
    }
}

/// Keys that were used already: using one again is an error.
#[derive(Clone, Copy, Debug, Default)]
pub struct KeySet(u64);

impl KeySet {
    /// Adds a key; `false` when it was there.
    pub fn insert(&mut self, key: Key) -> bool {
        let bit = 1 << key as u8;
        let fresh = self.0 & bit == 0;
        self.0 |= bit;
        fresh
    }

    /// Whether the key is there.
    pub fn contains(self, key: Key) -> bool {
        self.0 & 1 << key as u8 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_order_and_names_are_found() {
        for (index, row) in TABLE.iter().enumerate() {
            assert_eq!(row.0 as usize, index, "{}", row.1);
            assert_eq!(Key::parse(row.1), Some(row.0));
        }
        assert!(TABLE.len() <= 64, "a KeySet holds 64 keys");
        assert_eq!(Key::parse("maxburstlength"), None);
    }

    #[test]
    fn a_set_remembers() {
        let mut set = KeySet::default();
        assert!(set.insert(Key::AuthMethod));
        assert!(set.insert(Key::NodeArchitecture));
        assert!(!set.insert(Key::AuthMethod));
        assert!(set.contains(Key::NodeArchitecture) && !set.contains(Key::ChapA));
    }
}
