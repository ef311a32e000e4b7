//! Logical unit numbers (SAM-5, 4.7) and which LU an I_T nexus finds behind them.

use std::collections::BTreeMap;

use crate::LuId;

/// Largest number that flat space addressing has room for.
pub const MAX_LUN: u16 = 0x3FFF;

/// What the eight bytes of a LUN address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addressed {
    /// A logical unit by its number.
    Number(u16),
    /// The REPORT LUNS well-known logical unit.
    ReportLuns,
    /// A form that this target does not have.
    Unknown,
}

/// Decodes single-level LUNs: peripheral device and flat space addressing, and the well-known LUN of REPORT LUNS.
pub fn decode(lun: [u8; 8]) -> Addressed {
    let [a, b, rest @ ..] = lun;
    if rest != [0; 6] {
        return Addressed::Unknown;
    }
    match a >> 6 {
        // Bus 0 only: another bus is another level.
        0b00 if a == 0 => Addressed::Number(u16::from(b)),
        0b01 => Addressed::Number(u16::from_be_bytes([a & 0x3F, b])),
        0b11 if [a, b] == [0xC1, 0x01] => Addressed::ReportLuns,
        _ => Addressed::Unknown,
    }
}

/// The eight bytes under which REPORT LUNS names a number: peripheral addressing below 256, flat space above.
pub fn encode(number: u16) -> [u8; 8] {
    let [high, low] = number.to_be_bytes();
    let method = if number < 256 { 0 } else { 0x40 };
    [method | high & 0x3F, low, 0, 0, 0, 0, 0, 0]
}

/// The LUs that an I_T nexus sees, by number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LunMap(BTreeMap<u16, LuId>);

impl LunMap {
    /// An empty map.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts a LU behind a number. Numbers above [`MAX_LUN`] have no address and are refused.
    pub fn insert(&mut self, number: u16, lu: LuId) -> bool {
        number <= MAX_LUN && self.0.insert(number, lu).is_none()
    }

    /// Takes over what another map has behind its numbers.
    pub(crate) fn overlay(&mut self, other: &Self) {
        self.0.extend(other.iter());
    }

    /// The LU behind a number.
    pub fn get(&self, number: u16) -> Option<LuId> {
        self.0.get(&number).copied()
    }

    /// All pairs, in order of number.
    pub fn iter(&self) -> impl Iterator<Item = (u16, LuId)> + '_ {
        self.0.iter().map(|(number, lu)| (*number, *lu))
    }

    /// Whether that LU is seen under any number.
    pub fn sees(&self, lu: LuId) -> bool {
        self.0.values().any(|mapped| *mapped == lu)
    }

    /// Number of LUs.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<(u16, LuId)> for LunMap {
    fn from_iter<I: IntoIterator<Item = (u16, LuId)>>(pairs: I) -> Self {
        let mut map = Self::new();
        for (number, lu) in pairs {
            map.insert(number, lu);
        }
        map
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_single_level_methods_address_the_same_number() {
        assert_eq!(decode([0, 5, 0, 0, 0, 0, 0, 0]), Addressed::Number(5));
        assert_eq!(decode([0x40, 5, 0, 0, 0, 0, 0, 0]), Addressed::Number(5));
        assert_eq!(decode([0x41, 0, 0, 0, 0, 0, 0, 0]), Addressed::Number(256));
        assert_eq!(decode([1, 5, 0, 0, 0, 0, 0, 0]), Addressed::Unknown);
        assert_eq!(decode([0, 5, 0, 1, 0, 0, 0, 0]), Addressed::Unknown);
        assert_eq!(decode([0xC1, 1, 0, 0, 0, 0, 0, 0]), Addressed::ReportLuns);
        for number in [0, 1, 255, 256, MAX_LUN] {
            assert_eq!(decode(encode(number)), Addressed::Number(number));
        }
    }
}
