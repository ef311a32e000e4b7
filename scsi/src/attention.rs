//! Unit attention conditions (SAM-5, 5.14; SPC-5, 5.7).
//!
//! One bit per condition and I_T_L nexus: a condition that is established twice before it is reported is reported once, so
//! the store is bounded. The order of the variants is the order of reporting, resets first.

use crate::sense::{Asc, Sense, SenseKey};

/// A unit attention condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
#[expect(missing_docs, reason = "each name is the text of its additional sense code")]
pub enum UnitAttention {
    PowerOn,
    TargetReset,
    LogicalUnitReset,
    NexusLoss,
    MediumMayHaveChanged,
    CommandsClearedByAnotherInitiator,
    SomeCommandsClearedByIscsiProtocolEvent,
    ReservationsPreempted,
    RegistrationsPreempted,
    ReservationsReleased,
    ReportedLunsDataHasChanged,
    CapacityDataHasChanged,
    AsymmetricAccessStateChanged,
    ModeParametersChanged,
    InquiryDataHasChanged,
    DeviceIdentifierChanged,
    TimestampChanged,
    LogParametersChanged,
    ThinProvisioningSoftThreshold,
}

impl UnitAttention {
    /// All conditions, first reported first.
    pub const ALL: [Self; 19] = [
        Self::PowerOn,
        Self::TargetReset,
        Self::LogicalUnitReset,
        Self::NexusLoss,
        Self::MediumMayHaveChanged,
        Self::CommandsClearedByAnotherInitiator,
        Self::SomeCommandsClearedByIscsiProtocolEvent,
        Self::ReservationsPreempted,
        Self::RegistrationsPreempted,
        Self::ReservationsReleased,
        Self::ReportedLunsDataHasChanged,
        Self::CapacityDataHasChanged,
        Self::AsymmetricAccessStateChanged,
        Self::ModeParametersChanged,
        Self::InquiryDataHasChanged,
        Self::DeviceIdentifierChanged,
        Self::TimestampChanged,
        Self::LogParametersChanged,
        Self::ThinProvisioningSoftThreshold,
    ];

    /// Its additional sense code.
    pub const fn asc(self) -> Asc {
        match self {
            Self::PowerOn => Asc(0x29, 0x00),
            Self::TargetReset => Asc(0x29, 0x02),
            Self::LogicalUnitReset => Asc(0x29, 0x03),
            Self::NexusLoss => Asc(0x29, 0x07),
            Self::MediumMayHaveChanged => Asc(0x28, 0x00),
            Self::CommandsClearedByAnotherInitiator => Asc(0x2F, 0x00),
            Self::SomeCommandsClearedByIscsiProtocolEvent => Asc(0x47, 0x7F),
            Self::ReservationsPreempted => Asc(0x2A, 0x03),
            Self::RegistrationsPreempted => Asc(0x2A, 0x05),
            Self::ReservationsReleased => Asc(0x2A, 0x04),
            Self::ReportedLunsDataHasChanged => Asc(0x3F, 0x0E),
            Self::CapacityDataHasChanged => Asc(0x2A, 0x09),
            Self::AsymmetricAccessStateChanged => Asc(0x2A, 0x06),
            Self::ModeParametersChanged => Asc(0x2A, 0x01),
            Self::InquiryDataHasChanged => Asc(0x3F, 0x03),
            Self::DeviceIdentifierChanged => Asc(0x3F, 0x05),
            Self::TimestampChanged => Asc(0x2A, 0x10),
            Self::LogParametersChanged => Asc(0x2A, 0x02),
            Self::ThinProvisioningSoftThreshold => Asc(0x38, 0x07),
        }
    }

    /// Sense data that reports it.
    pub const fn sense(self) -> Sense {
        Sense::new(SenseKey::UnitAttention, self.asc())
    }

    const fn bit(self) -> u32 {
        1 << self as u8
    }
}

/// The conditions that wait for one I_T_L nexus.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attentions(u32);

impl Attentions {
    /// Establishes a condition. A reset says all that an earlier, lesser condition of the same family would.
    pub fn establish(&mut self, condition: UnitAttention) {
        self.0 |= condition.bit();
    }

    /// Whether nothing waits.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The condition that is reported next.
    pub fn first(self) -> Option<UnitAttention> {
        UnitAttention::ALL.get(self.0.trailing_zeros() as usize).copied()
    }

    /// Reports and clears the next condition.
    pub fn take(&mut self) -> Option<UnitAttention> {
        let first = self.first()?;
        self.0 &= !first.bit();
        Some(first)
    }

    /// Clears one condition, as REPORT LUNS does with the change it reports (SAM-5, 5.14).
    pub fn clear(&mut self, condition: UnitAttention) {
        self.0 &= !condition.bit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_by_priority_and_once() {
        for (index, condition) in UnitAttention::ALL.into_iter().enumerate() {
            assert_eq!(condition as usize, index, "the table is in order of the variants");
        }
        let mut waiting = Attentions::default();
        waiting.establish(UnitAttention::CapacityDataHasChanged);
        waiting.establish(UnitAttention::PowerOn);
        waiting.establish(UnitAttention::CapacityDataHasChanged);
        assert_eq!(waiting.take(), Some(UnitAttention::PowerOn));
        assert_eq!(waiting.take(), Some(UnitAttention::CapacityDataHasChanged));
        assert_eq!(waiting.take(), None);
        assert!(waiting.is_empty());
    }
}
