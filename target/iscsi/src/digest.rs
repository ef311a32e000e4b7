//! Header and data digests: CRC32C as it stands on the wire (RFC 7143, 11.2.3 and 13.1; examples in RFC 3720, B.4).

/// Bytes of one digest.
pub const DIGEST_LEN: usize = 4;

/// A CRC32C that is fed piece by piece.
#[derive(Clone, Copy, Debug, Default)]
pub struct Crc32c(u32);

impl Crc32c {
    /// Nothing fed yet.
    pub const fn new() -> Self {
        Self(0)
    }

    /// With `bytes` fed behind all that came before.
    #[must_use]
    pub fn feed(self, bytes: &[u8]) -> Self {
        Self(crc32c::crc32c_append(self.0, bytes))
    }

    /// The digest in wire order. The RFC sends the bit-reflected remainder, which is this register's bytes, lowest first.
    pub const fn wire(self) -> [u8; DIGEST_LEN] {
        self.0.to_le_bytes()
    }
}

/// The digest of one run of bytes in wire order.
pub fn digest(bytes: &[u8]) -> [u8; DIGEST_LEN] {
    Crc32c::new().feed(bytes).wire()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 3720, B.4 (the examples of RFC 7143, appendix A.4).
    #[test]
    fn examples_of_the_rfc() {
        assert_eq!(digest(&[0; 32]), [0xaa, 0x36, 0x91, 0x8a]);
        assert_eq!(digest(&[0xff; 32]), [0x43, 0xab, 0xa8, 0x62]);
        let rising: Vec<u8> = (0..32).collect();
        assert_eq!(digest(&rising), [0x4e, 0x79, 0xdd, 0x46]);
        let falling: Vec<u8> = (0..32).rev().collect();
        assert_eq!(digest(&falling), [0x5c, 0xdb, 0x3f, 0x11]);
        let read10 = [
            0x01, 0xc0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x14, 0, 0, 0, 0, 0, 0x04, 0, 0, 0, 0,
            0x14, 0, 0, 0, 0x18, 0x28, 0, 0, 0, 0, 0, 0, 0, 0x02, 0, 0, 0, 0, 0, 0, 0,
        ];
        assert_eq!(digest(&read10), [0x56, 0x3a, 0x96, 0xd9]);
    }

    #[test]
    fn pieces_make_the_whole() {
        let bytes: Vec<u8> = (0..=255).collect();
        let pieces = Crc32c::new().feed(&bytes[..7]).feed(&[]).feed(&bytes[7..]);
        assert_eq!(pieces.wire(), digest(&bytes));
    }
}
