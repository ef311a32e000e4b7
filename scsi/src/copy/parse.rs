//! Parameter lists of EXTENDED COPY (SPC-4, 6.4.3 to 6.4.6). Pure; every byte is foreign.

use super::{MAX_LISTS, MAX_SEGMENTS, MAX_TARGETS};
use crate::sense::{Asc, FieldPointer, Sense};
use crate::wire::Fields;

/// Length of a CSCD descriptor (target descriptor).
const CSCD: usize = 32;
/// Length of the parameter list's header in the LID1 form.
const HEADER_LID1: usize = 16;
/// Length of the header in the LID4 form, with the header CSCD descriptor in it.
const HEADER_LID4: usize = 48;
/// The longest parameter list that may be right.
pub(crate) const LONGEST: usize = HEADER_LID4 + MAX_LISTS;
/// CSCD descriptor identifier of the LU that the command was sent to.
pub(crate) const HOME: u16 = 0xFFFF;

/// A whole parameter list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CopyList {
    /// List identifier, `None` when the copy has none.
    pub(crate) list: Option<u32>,
    /// What became of it is kept for RECEIVE COPY commands.
    pub(crate) keep: bool,
    /// Copy sources and destinations, at most [`MAX_TARGETS`].
    pub(crate) targets: Vec<Target>,
    /// At most [`MAX_SEGMENTS`].
    pub(crate) segments: Vec<Segment>,
}

/// An identification descriptor CSCD descriptor (E4h). LU ID TYPE says nothing where the designator is a LU's (SPC-4, 6.4.5.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// Its first byte in the parameter list.
    pub(crate) at: u16,
    /// NUL: no device at all. Obsolete since SPC-4; a host that sets it means no LU of ours.
    pub(crate) null: bool,
    /// PERIPHERAL DEVICE TYPE.
    pub(crate) device_type: u8,
    /// An NAA designator of a LU; `None` when the LU is named in another way, by which none of ours is.
    pub(crate) naa: Option<[u8; 16]>,
    /// PAD.
    pub(crate) pad: bool,
    /// DISK BLOCK LENGTH, 0 when it is left to the LU.
    pub(crate) block: u32,
}

/// A segment from blocks to blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    /// CSCD descriptor of the copy source.
    pub(crate) from: u16,
    /// CSCD descriptor of the copy destination.
    pub(crate) to: u16,
    /// CAT.
    pub(crate) cat: bool,
    /// FCO: fast copy or none.
    pub(crate) fast_only: bool,
    /// How much.
    pub(crate) amount: Amount,
    /// First block of the copy source, and bytes behind its start.
    pub(crate) source: (u64, u16),
    /// First block of the copy destination, and bytes behind its start.
    pub(crate) destination: (u64, u16),
}

/// How much a segment copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Amount {
    /// Blocks of the copy source.
    SourceBlocks(u16),
    /// Blocks of the copy destination (DC).
    DestinationBlocks(u16),
    /// Bytes.
    Bytes(u32),
}

fn length_error() -> Sense {
    Sense::illegal(Asc::PARAMETER_LIST_LENGTH_ERROR)
}

fn at(asc: Asc, byte: usize) -> Sense {
    let field = FieldPointer { in_cdb: false, byte: u16::try_from(byte).unwrap_or(u16::MAX), bit: None };
    Sense { field: Some(field), ..Sense::illegal(asc) }
}

fn bit_at(byte: u16, bit: u8) -> Sense {
    let mut sense = Sense::parameter(byte);
    sense.field = Some(FieldPointer { in_cdb: false, byte, bit: Some(bit) });
    sense
}

/// The list of EXTENDED COPY(LID1).
pub(crate) fn parse_lid1(list: &[u8]) -> Result<CopyList, Sense> {
    if list.len() < HEADER_LID1 {
        return Err(length_error());
    }
    let (keep, has_id) = usage(list)?;
    if !has_id && list.u8_at(0) != 0 {
        return Err(Sense::parameter(0));
    }
    let lengths = Lengths {
        header: HEADER_LID1,
        targets: (2, usize::from(list.u16_at(2))),
        segments: (8, list.u32_at(8) as usize),
        inline: (12, list.u32_at(12) as usize),
    };
    let (targets, segments) = lengths.descriptors(list)?;
    Ok(CopyList { list: has_id.then(|| u32::from(list.u8_at(0))), keep, targets, segments })
}

/// The list of EXTENDED COPY(LID4).
pub(crate) fn parse_lid4(list: &[u8]) -> Result<CopyList, Sense> {
    if list.len() < HEADER_LID4 {
        return Err(length_error());
    }
    if list.u8_at(0) != 0x01 {
        return Err(Sense::parameter(0));
    }
    let (keep, has_id) = usage(list)?;
    if list.u16_at(2) != 0x20 {
        return Err(Sense::parameter(2));
    }
    if list.bit_at(15, 1) {
        return Err(bit_at(15, 1)); // G_SENSE: GOOD never comes with sense data here
    }
    if list.u8_at(16) != 0xFF {
        return Err(at(Asc::UNSUPPORTED_TARGET_DESCRIPTOR, 16));
    }
    if !has_id && list.u32_at(20) != 0 {
        return Err(Sense::parameter(20));
    }
    let lengths = Lengths {
        header: HEADER_LID4,
        targets: (42, usize::from(list.u16_at(42))),
        segments: (44, usize::from(list.u16_at(44))),
        inline: (46, usize::from(list.u16_at(46))),
    };
    let (targets, segments) = lengths.descriptors(list)?;
    Ok(CopyList { list: has_id.then(|| list.u32_at(20)), keep, targets, segments })
}

/// LIST ID USAGE: whether the result is kept, and whether there is a list identifier. STR and PRIORITY mean nothing to disks.
fn usage(list: &[u8]) -> Result<(bool, bool), Sense> {
    match list.u8_at(1) >> 3 & 0x03 {
        0b00 | 0b10 => Ok((true, true)),
        0b11 => Ok((false, false)),
        _ => Err(bit_at(1, 4)),
    }
}

/// Where the lengths stand in the header, and what they say.
struct Lengths {
    header: usize,
    targets: (usize, usize),
    segments: (usize, usize),
    inline: (usize, usize),
}

impl Lengths {
    fn descriptors(&self, list: &[u8]) -> Result<(Vec<Target>, Vec<Segment>), Sense> {
        let (targets, segments) = (self.targets.1, self.segments.1);
        if self.inline.1 > 0 {
            return Err(at(Asc::INLINE_DATA_LENGTH_EXCEEDED, self.inline.0));
        }
        if targets.saturating_add(segments) > MAX_LISTS || self.header + targets + segments > list.len() {
            return Err(length_error());
        }
        if !targets.is_multiple_of(CSCD) {
            return Err(at(Asc::INVALID_FIELD_IN_PARAMETER_LIST, self.targets.0));
        }
        if targets / CSCD > MAX_TARGETS {
            return Err(at(Asc::TOO_MANY_TARGET_DESCRIPTORS, self.targets.0));
        }
        let begin = self.header + targets;
        let found =
            (self.header..begin).step_by(CSCD).map(|start| target(list, start)).collect::<Result<_, _>>()?;
        Ok((found, self.segments(&list[..begin + segments], begin)?))
    }

    fn segments(&self, list: &[u8], begin: usize) -> Result<Vec<Segment>, Sense> {
        let (mut segments, mut start) = (Vec::new(), begin);
        while start < list.len() {
            if segments.len() == MAX_SEGMENTS {
                return Err(at(Asc::TOO_MANY_SEGMENT_DESCRIPTORS, self.segments.0));
            }
            let descriptor = &list[start..];
            let long = match descriptor.u8_at(0) {
                0x02 => 28,
                0x0A => 32,
                _ => return Err(at(Asc::UNSUPPORTED_SEGMENT_DESCRIPTOR, start)),
            };
            if descriptor.len() < long {
                return Err(length_error());
            }
            if usize::from(descriptor.u16_at(2)) != long - 4 {
                return Err(at(Asc::INVALID_FIELD_IN_PARAMETER_LIST, start + 2));
            }
            segments.push(segment(descriptor));
            start += long;
        }
        Ok(segments)
    }
}

fn target(list: &[u8], start: usize) -> Result<Target, Sense> {
    let bytes = &list[start..start + CSCD];
    let here = u16::try_from(start).unwrap_or(u16::MAX);
    if bytes.u8_at(0) != 0xE4 {
        return Err(at(Asc::UNSUPPORTED_TARGET_DESCRIPTOR, start));
    }
    if bytes.u8_at(7) > 20 {
        return Err(Sense::parameter(here + 7));
    }
    // Binary, of a logical unit, NAA, sixteen bytes: the only designator of our LUs that has room here.
    let named = bytes.u8_at(4) & 0x0F == 1 && bytes.u8_at(5) & 0x3F == 3 && bytes.u8_at(7) == 16;
    let naa = bytes[8..24].try_into().ok().filter(|_| named);
    Ok(Target {
        at: here,
        null: bytes.bit_at(1, 5),
        device_type: bytes.u8_at(1) & 0x1F,
        naa,
        pad: bytes.bit_at(28, 2),
        block: bytes.u24_at(29),
    })
}

fn segment(bytes: &[u8]) -> Segment {
    let offsets = bytes.u8_at(0) == 0x0A;
    let amount = match (offsets, bytes.bit_at(1, 1)) {
        (true, _) => Amount::Bytes(bytes.u32_at(8)),
        (false, false) => Amount::SourceBlocks(bytes.u16_at(10)),
        (false, true) => Amount::DestinationBlocks(bytes.u16_at(10)),
    };
    let offset = |at| if offsets { bytes.u16_at(at) } else { 0 };
    Segment {
        from: bytes.u16_at(4),
        to: bytes.u16_at(6),
        cat: bytes.bit_at(1, 0),
        fast_only: bytes.bit_at(1, 2),
        amount,
        source: (bytes.u64_at(12), offset(28)),
        destination: (bytes.u64_at(20), offset(30)),
    }
}
