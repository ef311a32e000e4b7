//! Parameter lists of third-party copies that may be right.

use crate::input::Source;

/// A parameter list of EXTENDED COPY(LID1) that may be right.
pub(super) fn extended_copy(source: &mut Source<'_>) -> Vec<u8> {
    let (targets, segments) = (1 + source.below(3), source.below(4));
    let mut list = vec![source.byte() % 4, source.pick(&[0, 0x10, 0x18, 0x08]), 0, 32 * targets as u8];
    list.resize(16, 0);
    for _ in 0..targets {
        let mut target = [0; 32];
        target[..8].copy_from_slice(&[0xE4, 0, 0, 0, 1, 3, 0, 16]);
        target[8..24].copy_from_slice(&[
            0x60,
            1,
            2,
            3,
            4,
            5,
            6,
            7,
            8,
            9,
            10,
            11,
            12,
            13,
            14,
            source.byte() % 3,
        ]);
        target[28] = source.pick(&[0, 4]);
        list.extend(target);
    }
    let start = list.len();
    for _ in 0..segments {
        let offsets = source.rarely(4);
        let mut segment =
            vec![if offsets { 0x0A } else { 0x02 }, source.byte() & 3, 0, if offsets { 28 } else { 24 }];
        segment.extend([0, source.byte() % 3, 0, source.byte() % 3, 0, 0, source.byte() & 1, source.byte()]);
        segment.extend((source.number() % 600).to_be_bytes());
        segment.extend((source.number() % 600).to_be_bytes());
        if offsets {
            segment.extend([source.byte() & 2, 0, source.byte() & 2, source.byte() & 1]);
        }
        list.extend(segment);
    }
    let len = (list.len() - start) as u32;
    list[8..12].copy_from_slice(&len.to_be_bytes());
    list
}

/// A parameter list of POPULATE TOKEN, or of WRITE USING TOKEN with a token that may exist.
pub(super) fn token_list(source: &mut Source<'_>, write: bool) -> Vec<u8> {
    let mut list = vec![0; if write { 536 } else { 16 }];
    list[2] = source.byte() & (2 * u8::from(write));
    if write {
        list[15] = source.byte() % 2;
        let kind: u32 = source.pick(&[0x0080_0001, 0xFFFF_0001]);
        list[16..20].copy_from_slice(&kind.to_be_bytes());
        list[22..24].copy_from_slice(&[0x01, 0xF8]);
        list[31] = 1 + source.byte() % 4;
        list[496..528].fill(7);
    }
    let start = list.len();
    for _ in 0..1 + source.below(3) {
        list.extend((source.number() % 520).to_be_bytes());
        list.extend((source.number() as u32 % 40).to_be_bytes());
        list.extend([0; 4]);
    }
    let ranges = (list.len() - start) as u16;
    list[start - 2..start].copy_from_slice(&ranges.to_be_bytes());
    let all = list.len() as u16 - 2;
    list[..2].copy_from_slice(&all.to_be_bytes());
    list
}
