//! Numbers of the protocol that are more than numbers.

use std::fmt;

/// A sequence number with the arithmetic of RFC 1982: CmdSN, StatSN (RFC 7143, 4.2.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Serial32(pub u32);

impl Serial32 {
    /// The number `count` later.
    #[must_use]
    pub const fn plus(self, count: u32) -> Self {
        Self(self.0.wrapping_add(count))
    }

    /// The next number.
    #[must_use]
    pub const fn next(self) -> Self {
        self.plus(1)
    }

    /// The number before.
    #[must_use]
    pub const fn previous(self) -> Self {
        Self(self.0.wrapping_sub(1))
    }

    /// Whether this comes before `other`. Two numbers 2^31 apart have no order: neither is before the other.
    pub const fn is_before(self, other: Self) -> bool {
        let ahead = other.0.wrapping_sub(self.0);
        ahead != 0 && ahead < 1 << 31
    }

    /// Whether this comes before `other` or is it.
    pub const fn is_at_or_before(self, other: Self) -> bool {
        self.0 == other.0 || self.is_before(other)
    }

    /// Steps from `earlier` to this; a huge number when it is not earlier.
    pub const fn steps_from(self, earlier: Self) -> u32 {
        self.0.wrapping_sub(earlier.0)
    }

    /// The later of both. `self` when they have no order.
    #[must_use]
    pub const fn latest(self, other: Self) -> Self {
        if self.is_before(other) { other } else { self }
    }
}

/// Initiator task tag (RFC 7143, 11.2.1.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskTag(pub u32);

impl TaskTag {
    /// The value that names no task.
    pub const RESERVED: Self = Self(0xffff_ffff);

    /// Whether it names no task.
    pub const fn is_reserved(self) -> bool {
        self.0 == Self::RESERVED.0
    }
}

/// Target transfer tag (RFC 7143, 11.7.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransferTag(pub u32);

impl TransferTag {
    /// The value that names no transfer.
    pub const RESERVED: Self = Self(0xffff_ffff);

    /// Whether it names no transfer.
    pub const fn is_reserved(self) -> bool {
        self.0 == Self::RESERVED.0
    }
}

/// A logical unit number as SAM-5 4.7 lays it out in eight bytes, whatever its addressing method.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lun(pub [u8; 8]);

impl Lun {
    /// LUN 0 in peripheral device addressing.
    pub const ZERO: Self = Self([0; 8]);

    /// The single-level form that hosts expect: peripheral device addressing up to 255, flat space above (SAM-5, 4.7.7).
    /// `None` above 16383.
    pub const fn from_number(number: u16) -> Option<Self> {
        let [high, low] = number.to_be_bytes();
        match number {
            0..=0xff => Some(Self([0, low, 0, 0, 0, 0, 0, 0])),
            0x100..=0x3fff => Some(Self([0x40 | high, low, 0, 0, 0, 0, 0, 0])),
            _ => None,
        }
    }

    /// The number of a single-level LUN in peripheral device (bus 0) or flat space addressing; `None` for every other form.
    pub const fn number(self) -> Option<u16> {
        let [first, second, 0, 0, 0, 0, 0, 0] = self.0 else { return None };
        match first >> 6 {
            0b00 if first == 0 => Some(second as u16),
            0b01 => Some(u16::from_be_bytes([first & 0x3f, second])),
            _ => None,
        }
    }
}

impl fmt::Debug for Lun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.number() {
            Some(number) => write!(f, "LUN {number}"),
            None => write!(f, "LUN {:016x}", u64::from_be_bytes(self.0)),
        }
    }
}

/// Initiator session identifier (RFC 7143, 11.12.5).
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Isid(pub [u8; 6]);

impl Isid {
    /// An ISID of the format "Random": three random bytes, and a qualifier that tells one host's sessions apart.
    pub const fn random(random: [u8; 3], qualifier: u16) -> Self {
        let [a, b, c] = random;
        let [high, low] = qualifier.to_be_bytes();
        Self([0b1000_0000, a, b, c, high, low])
    }
}

impl fmt::Debug for Isid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Target session identifying handle; 0 asks for a new session (RFC 7143, 11.12.6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tsih(pub u16);

/// Connection identifier within a session (RFC 7143, 11.12.7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cid(pub u16);

/// A length of a data segment, at most 2^24 - 1 (RFC 7143, 11.2.1.6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DataSegmentLength(u32);

impl DataSegmentLength {
    /// The largest that the field can say.
    pub const MAX: Self = Self(0x00ff_ffff);

    /// `None` when the field cannot say it.
    pub const fn checked(len: usize) -> Option<Self> {
        if len <= Self::MAX.0 as usize { Some(Self(len as u32)) } else { None }
    }

    /// From the three bytes of the header: every value fits.
    pub const fn from_wire(bytes: [u8; 3]) -> Self {
        let [a, b, c] = bytes;
        Self(u32::from_be_bytes([0, a, b, c]))
    }

    /// The three bytes of the header.
    pub const fn to_wire(self) -> [u8; 3] {
        let [_, a, b, c] = self.0.to_be_bytes();
        [a, b, c]
    }

    /// Bytes of data.
    pub const fn get(self) -> usize {
        self.0 as usize
    }

    /// Bytes of padding behind the data: up to the next multiple of four (RFC 7143, 11.1).
    pub const fn padding(self) -> usize {
        (4 - self.get() % 4) % 4
    }
}
