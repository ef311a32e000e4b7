//! Parameter lists of EXTENDED COPY: what is right comes through, what is wrong is pointed at, and nothing panics.

use proptest::prelude::*;

use super::*;
use crate::copy::{CopyList, MAX_LISTS, MAX_SEGMENTS, MAX_TARGETS, parse_lid1, parse_lid4};

/// An identification descriptor of a LU.
pub(crate) fn target(naa: [u8; 16]) -> Vec<u8> {
    let mut out = vec![0xE4, 0, 0, 0, 1, 3, 0, 16];
    out.extend(naa);
    out.extend([0; 8]);
    out
}

/// A segment from blocks to blocks. `flags`: DC 2, CAT 1.
pub(crate) fn blocks(flags: u8, from: u16, to: u16, count: u16, source: u64, destination: u64) -> Vec<u8> {
    let mut out = vec![0x02, flags, 0, 24];
    out.extend(from.to_be_bytes());
    out.extend(to.to_be_bytes());
    out.extend([0, 0]);
    out.extend(count.to_be_bytes());
    out.extend(source.to_be_bytes());
    out.extend(destination.to_be_bytes());
    out
}

/// A segment from bytes to bytes.
pub(crate) fn bytes(from: u16, to: u16, count: u32, source: (u64, u16), destination: (u64, u16)) -> Vec<u8> {
    let mut out = vec![0x0A, 0, 0, 28];
    out.extend(from.to_be_bytes());
    out.extend(to.to_be_bytes());
    out.extend(count.to_be_bytes());
    out.extend(source.0.to_be_bytes());
    out.extend(destination.0.to_be_bytes());
    out.extend(source.1.to_be_bytes());
    out.extend(destination.1.to_be_bytes());
    out
}

/// A parameter list in the LID1 form. `usage` is LIST ID USAGE.
pub(crate) fn list1(id: u8, usage: u8, targets: &[Vec<u8>], segments: &[Vec<u8>]) -> Vec<u8> {
    let (targets, segments) = (targets.concat(), segments.concat());
    let mut out = vec![id, usage << 3];
    out.extend((targets.len() as u16).to_be_bytes());
    out.extend([0; 4]);
    out.extend((segments.len() as u32).to_be_bytes());
    out.extend([0; 4]);
    out.extend(targets);
    out.extend(segments);
    out
}

/// The same in the LID4 form.
pub(crate) fn list4(id: u32, targets: &[Vec<u8>], segments: &[Vec<u8>]) -> Vec<u8> {
    let (targets, segments) = (targets.concat(), segments.concat());
    let mut out = vec![0; 48];
    out[..4].copy_from_slice(&[1, 0, 0, 0x20]);
    out[16] = 0xFF;
    out[20..24].copy_from_slice(&id.to_be_bytes());
    out[42..44].copy_from_slice(&(targets.len() as u16).to_be_bytes());
    out[44..46].copy_from_slice(&(segments.len() as u16).to_be_bytes());
    out.extend(targets);
    out.extend(segments);
    out
}

const NAA: [u8; 16] = [0x60, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

#[track_caller]
fn refused(result: Result<CopyList, Sense>, asc: Asc, byte: Option<u16>) {
    let sense = result.expect_err("the list is wrong");
    assert_eq!((sense.key, sense.asc), (SenseKey::IllegalRequest, asc));
    assert_eq!(sense.field.map(|field| field.byte), byte);
}

#[test]
fn both_forms_say_the_same() {
    let (targets, segments) =
        ([target(NAA), target([7; 16])], [blocks(2, 0, 1, 5, 6, 7), bytes(1, 0, 9, (1, 2), (3, 4))]);
    let one = parse_lid1(&list1(9, 0, &targets, &segments)).expect("it is right");
    let four = parse_lid4(&list4(9, &targets, &segments)).expect("it is right");
    assert_eq!((one.list, one.keep, &one.segments), (four.list, four.keep, &four.segments));
    assert_eq!(
        one.targets.iter().map(|t| (t.at, t.naa)).collect::<Vec<_>>(),
        [(16, Some(NAA)), (48, Some([7; 16]))]
    );
    assert_eq!(four.targets[0].at, 48);
    let none = parse_lid1(&list1(0, 3, &targets, &segments)).expect("no list identifier");
    assert_eq!((none.list, none.keep), (None, false));
}

#[test]
fn what_is_wrong_is_pointed_at() {
    let (one, seg) = ([target(NAA)], [blocks(0, 0, 0, 1, 0, 0)]);
    let whole = list1(1, 0, &one, &seg);
    for len in 0..whole.len() {
        refused(parse_lid1(&whole[..len]), Asc::PARAMETER_LIST_LENGTH_ERROR, None);
    }
    refused(parse_lid1(&list1(1, 1, &one, &seg)), Asc::INVALID_FIELD_IN_PARAMETER_LIST, Some(1));
    refused(parse_lid1(&list1(1, 3, &one, &seg)), Asc::INVALID_FIELD_IN_PARAMETER_LIST, Some(0));
    let many = vec![target(NAA); MAX_TARGETS + 1];
    refused(parse_lid1(&list1(1, 0, &many, &seg)), Asc::TOO_MANY_TARGET_DESCRIPTORS, Some(2));
    let many = vec![blocks(0, 0, 0, 1, 0, 0); MAX_SEGMENTS + 1];
    refused(parse_lid1(&list1(1, 0, &one, &many)), Asc::TOO_MANY_SEGMENT_DESCRIPTORS, Some(8));
    refused(parse_lid1(&list1(1, 0, &one, &[vec![0; MAX_LISTS]])), Asc::PARAMETER_LIST_LENGTH_ERROR, None);
    let mut other = target(NAA);
    other[0] = 0xE0;
    refused(
        parse_lid1(&list1(1, 0, &[target(NAA), other], &seg)),
        Asc::UNSUPPORTED_TARGET_DESCRIPTOR,
        Some(48),
    );
    let mut other = blocks(0, 0, 0, 1, 0, 0);
    other[0] = 0x03;
    refused(parse_lid1(&list1(1, 0, &one, &[other])), Asc::UNSUPPORTED_SEGMENT_DESCRIPTOR, Some(48));
    let mut other = blocks(0, 0, 0, 1, 0, 0);
    other[3] = 23;
    refused(parse_lid1(&list1(1, 0, &one, &[other])), Asc::INVALID_FIELD_IN_PARAMETER_LIST, Some(50));
    let mut inline = whole;
    inline[15] = 4;
    refused(parse_lid1(&inline), Asc::INLINE_DATA_LENGTH_EXCEEDED, Some(12));
    let four = list4(1, &one, &seg);
    for (byte, value) in [(0, 0), (3, 0x40), (15, 2)] {
        let mut wrong = four.clone();
        wrong[byte] = value;
        let at = if byte == 3 { 2 } else { byte as u16 };
        refused(parse_lid4(&wrong), Asc::INVALID_FIELD_IN_PARAMETER_LIST, Some(at));
    }
}

proptest! {
    #[test]
    fn foreign_lists_never_panic_and_stay_within_the_limits(
        noise in proptest::collection::vec(any::<u8>(), 0..400),
        targets in 0usize..20, segments in 0usize..70, at in any::<u16>(), value in any::<u8>(), cut in any::<u16>(),
    ) {
        let _ = parse_lid1(&noise);
        let _ = parse_lid4(&noise);
        let (t, s) = (vec![target(NAA); targets], vec![blocks(3, 0, 1, 2, 3, 4); segments]);
        for (four, mut list) in [(false, list1(1, 0, &t, &s)), (true, list4(1, &t, &s))] {
            let at = usize::from(at) % list.len();
            list[at] = value;
            list.truncate(list.len() - usize::from(cut) % 4);
            let parsed = if four { parse_lid4(&list) } else { parse_lid1(&list) };
            match parsed {
                Ok(list) => prop_assert!(list.targets.len() <= MAX_TARGETS && list.segments.len() <= MAX_SEGMENTS),
                Err(sense) => prop_assert!(sense.field.is_none_or(|field| usize::from(field.byte) < list.len())),
            }
        }
    }
}
