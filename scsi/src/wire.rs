//! Big-endian fields of CDBs, parameter lists and parameter data. Foreign offsets never panic.

/// Reads fields of untrusted bytes. Out of reach reads as zero: lengths are checked before fields are.
pub(crate) trait Fields {
    fn u8_at(&self, at: usize) -> u8;
    fn u16_at(&self, at: usize) -> u16;
    fn u24_at(&self, at: usize) -> u32;
    fn u32_at(&self, at: usize) -> u32;
    fn u64_at(&self, at: usize) -> u64;
    fn bit_at(&self, at: usize, bit: u8) -> bool;
}

fn be<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    if let Some(field) = at.checked_add(N).and_then(|end| bytes.get(at..end)) {
        out.copy_from_slice(field);
    }
    out
}

impl Fields for [u8] {
    fn u8_at(&self, at: usize) -> u8 {
        self.get(at).copied().unwrap_or(0)
    }

    fn u16_at(&self, at: usize) -> u16 {
        u16::from_be_bytes(be(self, at))
    }

    fn u24_at(&self, at: usize) -> u32 {
        let [a, b, c] = be(self, at);
        u32::from_be_bytes([0, a, b, c])
    }

    fn u32_at(&self, at: usize) -> u32 {
        u32::from_be_bytes(be(self, at))
    }

    fn u64_at(&self, at: usize) -> u64 {
        u64::from_be_bytes(be(self, at))
    }

    fn bit_at(&self, at: usize, bit: u8) -> bool {
        self.u8_at(at) >> bit & 1 == 1
    }
}

/// Writes fields of parameter data.
pub(crate) trait Put {
    fn put8(&mut self, value: u8);
    fn put16(&mut self, value: u16);
    fn put32(&mut self, value: u32);
    fn put64(&mut self, value: u64);
    fn zeros(&mut self, count: usize);
    /// Left-aligned ASCII, cut or padded with blanks to `width` (SPC-5, 4.3.1).
    fn ascii(&mut self, text: &str, width: usize);
    /// Overwrites two bytes that were left free for a length.
    fn set16(&mut self, at: usize, value: usize);
    /// Overwrites four bytes that were left free for a length.
    fn set32(&mut self, at: usize, value: usize);
}

impl Put for Vec<u8> {
    fn put8(&mut self, value: u8) {
        self.push(value);
    }

    fn put16(&mut self, value: u16) {
        self.extend_from_slice(&value.to_be_bytes());
    }

    fn put32(&mut self, value: u32) {
        self.extend_from_slice(&value.to_be_bytes());
    }

    fn put64(&mut self, value: u64) {
        self.extend_from_slice(&value.to_be_bytes());
    }

    fn zeros(&mut self, count: usize) {
        self.resize(self.len() + count, 0);
    }

    fn ascii(&mut self, text: &str, width: usize) {
        let printable = text.bytes().map(|b| if (0x20..0x7f).contains(&b) { b } else { b'?' });
        self.extend(printable.chain(std::iter::repeat(b' ')).take(width));
    }

    fn set16(&mut self, at: usize, value: usize) {
        let value = u16::try_from(value)
            .expect("our own parameter data is shorter than 64 KiB where a u16 counts it");
        self[at..at + 2].copy_from_slice(&value.to_be_bytes());
    }

    fn set32(&mut self, at: usize, value: usize) {
        let value = u32::try_from(value).expect("our own parameter data is shorter than 4 GiB");
        self[at..at + 4].copy_from_slice(&value.to_be_bytes());
    }
}
