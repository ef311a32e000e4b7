//! The image of all small records, as it lies in one of the two slots of a disk (docs/design/vault.md).

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use twinlun_block::Payload;
use uuid::Uuid;

use crate::bytes::{array, crc_without, u16_at, u32_at, u64_at};
use crate::label::BLOCK;

const MAGIC: [u8; 8] = *b"TWINRECS";
const VERSION: u16 = 1;
const CRC_AT: usize = 4092;

/// Identity of one image: a sequence, and a random number that tells apart images that two runs gave the same sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct ImageId {
    pub(crate) sequence: u64,
    pub(crate) nonce: u64,
}

/// The records of a unit.
pub(crate) type Records = BTreeMap<String, Bytes>;

/// A header that passed its checksum: what has to be read next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) id: ImageId,
    /// Bytes of the body, without padding.
    pub(crate) body: u32,
    body_crc: u32,
}

/// The body of an image: every record framed by its lengths.
pub(crate) fn encode_body(records: &Records) -> Bytes {
    let len: usize = records.iter().map(|(key, value)| 6 + key.len() + value.len()).sum();
    let mut body = BytesMut::with_capacity(len.next_multiple_of(BLOCK as usize));
    for (key, value) in records {
        body.put_u16_le(u16::try_from(key.len()).expect("keys are checked when they are put"));
        body.put_u32_le(u32::try_from(value.len()).expect("values are checked when they are put"));
        body.extend_from_slice(key.as_bytes());
        body.extend_from_slice(value);
    }
    body.freeze()
}

/// The blocks to be written to a slot of `disk`: one of header, then the body padded to whole blocks.
pub(crate) fn encode(unit: Uuid, disk: Uuid, id: ImageId, body: &Bytes) -> Payload {
    let mut head = vec![0; BLOCK as usize];
    head[..8].copy_from_slice(&MAGIC);
    head[8..10].copy_from_slice(&VERSION.to_le_bytes());
    head[16..32].copy_from_slice(unit.as_bytes());
    head[32..48].copy_from_slice(disk.as_bytes());
    head[48..56].copy_from_slice(&id.sequence.to_le_bytes());
    head[56..64].copy_from_slice(&id.nonce.to_le_bytes());
    let len = u32::try_from(body.len()).expect("an image fits its slot, checked before");
    head[64..68].copy_from_slice(&len.to_le_bytes());
    head[68..72].copy_from_slice(&crc32c::crc32c(body).to_le_bytes());
    let crc = crc_without(&head, CRC_AT);
    head[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
    let mut image = Payload::from(head);
    image.push(body.clone());
    let padding = body.len().next_multiple_of(BLOCK as usize) - body.len();
    image.push(Bytes::from(vec![0; padding]));
    image
}

/// Bytes that an image with this body takes in its slot.
pub(crate) fn encoded_len(body: &Bytes) -> u64 {
    BLOCK + (body.len() as u64).next_multiple_of(BLOCK)
}

/// Reads the first block of a slot of `capacity` bytes. `None` for anything that is not an image of this disk.
pub(crate) fn decode_header(block: &[u8], unit: Uuid, disk: Uuid, capacity: u64) -> Option<Header> {
    if block.len() != BLOCK as usize || block.get(..8)? != MAGIC || u16_at(block, 8)? != VERSION {
        return None;
    }
    if u32_at(block, CRC_AT)? != crc_without(block, CRC_AT) {
        return None;
    }
    // An image that was copied from another disk, or lies there since another life of this one, is not ours.
    if array(block, 16)? != *unit.as_bytes() || array(block, 32)? != *disk.as_bytes() {
        return None;
    }
    let header = Header {
        id: ImageId { sequence: u64_at(block, 48)?, nonce: u64_at(block, 56)? },
        body: u32_at(block, 64)?,
        body_crc: u32_at(block, 68)?,
    };
    (u64::from(header.body) <= capacity.saturating_sub(BLOCK)).then_some(header)
}

/// Reads a body. `None` when it is not the one of the header, or is not well formed.
pub(crate) fn decode_body(header: &Header, body: &Bytes) -> Option<Records> {
    let body = body.get(..header.body as usize).map(|part| body.slice_ref(part))?;
    if crc32c::crc32c(&body) != header.body_crc {
        return None;
    }
    let mut records = Records::new();
    let mut at = 0usize;
    while at < body.len() {
        let key_len = usize::from(u16_at(&body, at)?);
        let value_len = u32_at(&body, at + 2)? as usize;
        let key_at = at + 6;
        let value_at = key_at.checked_add(key_len)?;
        let end = value_at.checked_add(value_len)?;
        let key = std::str::from_utf8(body.get(key_at..value_at)?).ok()?;
        let value = body.get(value_at..end)?;
        records.insert(key.to_owned(), body.slice_ref(value));
        at = end;
    }
    Some(records)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const UNIT: Uuid = Uuid::from_u128(1);
    const DISK: Uuid = Uuid::from_u128(2);
    const ID: ImageId = ImageId { sequence: 3, nonce: 4 };

    fn read(image: &[u8]) -> Option<Records> {
        let header = decode_header(image.get(..4096)?, UNIT, DISK, 1 << 20)?;
        decode_body(&header, &Bytes::copy_from_slice(&image[4096..]))
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_and_damage_is_seen(
            records in proptest::collection::btree_map("[a-z/]{0,20}", proptest::collection::vec(any::<u8>(), 0..300), 0..20),
            flip in any::<prop::sample::Index>(), bit in 0u8..8) {
            let records: Records = records.into_iter().map(|(k, v)| (k, Bytes::from(v))).collect();
            let body = encode_body(&records);
            let image = encode(UNIT, DISK, ID, &body).to_bytes();
            prop_assert_eq!(image.len() as u64, encoded_len(&body));
            prop_assert_eq!(read(&image), Some(records));
            let mut bad = image.to_vec();
            let at = flip.index(4096 + body.len());
            bad[at] ^= 1 << bit;
            prop_assert_eq!(read(&bad), None);
        }

        #[test]
        fn noise_does_no_harm(header in proptest::collection::vec(any::<u8>(), 4096), body in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(decode_header(&header, UNIT, DISK, 1 << 20), None);
            let body = Bytes::from(body);
            let framed = Header { id: ID, body: body.len() as u32, body_crc: crc32c::crc32c(&body) };
            let _ = decode_body(&framed, &body);
        }
    }

    #[test]
    fn an_image_of_another_disk_is_not_taken() {
        let image = encode(UNIT, Uuid::from_u128(99), ID, &encode_body(&Records::new())).to_bytes();
        assert_eq!(decode_header(&image[..4096], UNIT, DISK, 1 << 20), None);
    }
}
