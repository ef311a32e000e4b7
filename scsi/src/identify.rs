//! Names and time that hosts give a LU, and its self-test (SPC-5, 6.18 to 6.20, 6.30 to 6.33, 6.45, 6.48, 6.49).

use twinlun_block::{BlockRequest, ByteRange};

use crate::attention::UnitAttention;
use crate::context::{Context, Run};
use crate::io::{Expected, Long, Plan};
use crate::sense::{Asc, Sense};
use crate::wire::{Fields, Put};

/// Identifying information: what an operator has written on the LU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Names {
    information: Vec<u8>,
    text: Vec<u8>,
}

impl Names {
    /// IDENTIFYING INFORMATION TYPE of LU identifying information.
    pub(crate) const INFORMATION: u8 = 0x00;
    /// … of LU text identifying information.
    pub(crate) const TEXT: u8 = 0x02;
    /// Type and longest information of each.
    const KINDS: [(u8, usize); 2] = [(Self::INFORMATION, 64), (Self::TEXT, 256)];

    pub(crate) fn is_empty(&self) -> bool {
        self.information.is_empty() && self.text.is_empty()
    }

    pub(crate) fn each(&self) -> [&[u8]; 2] {
        [&self.information, &self.text]
    }

    fn get(&self, kind: u8) -> Option<&[u8]> {
        match kind {
            Self::INFORMATION => Some(&self.information),
            Self::TEXT => Some(&self.text),
            _ => None,
        }
    }

    /// Replaces one; `false` when it is too long, or text that is not UTF-8 with a null at its end.
    pub(crate) fn set(&mut self, kind: u8, value: &[u8]) -> bool {
        let fits = Self::KINDS.iter().any(|(known, longest)| *known == kind && value.len() <= *longest);
        let is_text = value
            .split_last()
            .is_none_or(|(last, text)| *last == 0 && !text.contains(&0) && std::str::from_utf8(text).is_ok());
        if !fits || kind == Self::TEXT && !is_text {
            return false;
        }
        let place = if kind == Self::TEXT { &mut self.text } else { &mut self.information };
        *place = value.to_vec();
        true
    }
}

pub(crate) fn report_information(c: &mut Context<'_>) -> Run {
    const SUPPORTED: u8 = 0x7F;
    let kind = c.cdb.u8_at(10) >> 1;
    let mut out = vec![0; 4];
    if kind == SUPPORTED {
        for (kind, longest) in Names::KINDS {
            out.put8(kind << 1);
            out.put8(0);
            out.put16(longest as u16);
        }
    } else {
        out.extend_from_slice(c.lu.names.get(kind).ok_or(Sense::cdb_field(10, Some(7)))?);
    }
    let len = out.len() - 4;
    out.set16(2, len);
    Context::data(out, c.length32(6))
}

pub(crate) fn set_information(c: &mut Context<'_>) -> Run {
    let kind = c.cdb.u8_at(10) >> 1;
    let Some((_, longest)) = Names::KINDS.iter().find(|(known, _)| *known == kind) else {
        return Err(Sense::cdb_field(10, Some(7)).into());
    };
    let len = c.length32(6);
    if len > *longest {
        return Err(Sense::illegal(Asc::PARAMETER_LIST_LENGTH_ERROR).into());
    }
    let value = c.parameter_list(len as u64)?;
    if c.lu.names.get(kind) == Some(&value[..]) {
        return Context::good();
    }
    if !c.lu.names.set(kind, &value) {
        return Err(Sense::parameter(0).into());
    }
    let me = c.nexus_id;
    c.lu.establish(UnitAttention::DeviceIdentifierChanged, |id| id != me);
    c.settle(Vec::new(), Vec::new())
}

/// Milliseconds that six bytes can say.
const TIMESTAMP: u64 = (1 << 48) - 1;

fn clock(c: &Context<'_>) -> u64 {
    u64::try_from(c.now.as_millis()).unwrap_or(u64::MAX) & TIMESTAMP
}

/// The clock of the storage processor, until a host sets another time. That one lasts as long as the process.
pub(crate) fn report_timestamp(c: &mut Context<'_>) -> Run {
    let (origin, shift) = match c.lu.timestamp_shift {
        Some(shift) => (0b010, shift),
        None => (0b011, 0),
    };
    let time = clock(c).wrapping_add_signed(shift) & TIMESTAMP;
    let mut out = Vec::with_capacity(12);
    out.put16(10);
    out.put8(origin);
    out.put8(0);
    out.extend_from_slice(&time.to_be_bytes()[2..]);
    out.put16(0);
    Context::data(out, c.length32(6))
}

pub(crate) fn set_timestamp(c: &mut Context<'_>) -> Run {
    match c.length32(6) {
        0 => return Context::good(),
        12 => {}
        _ => return Err(Sense::illegal(Asc::PARAMETER_LIST_LENGTH_ERROR).into()),
    }
    let list = c.parameter_list(12)?;
    let time = list.u64_at(2) & TIMESTAMP;
    c.lu.timestamp_shift = Some(time.wrapping_sub(clock(c)).cast_signed());
    let me = c.nexus_id;
    c.lu.establish(UnitAttention::TimestampChanged, |id| id != me);
    Context::good()
}

/// Page 00 alone: the list of pages.
pub(crate) fn receive_diagnostic(c: &mut Context<'_>) -> Run {
    if !c.cdb.bit_at(1, 0) {
        return Err(Sense::cdb_field(1, Some(0)).into());
    }
    if c.cdb.u8_at(2) != 0 {
        return Err(Sense::cdb_field(2, Some(7)).into());
    }
    Context::data(vec![0, 0, 0, 1, 0], c.length16(3))
}

/// The default self-test reads the first and the last block from the disks. There is no other.
pub(crate) fn send_diagnostic(c: &mut Context<'_>) -> Run {
    if c.cdb.u8_at(1) >> 5 != 0 {
        return Err(Sense::cdb_field(1, Some(7)).into());
    }
    if c.length16(3) != 0 {
        return Err(Sense::cdb_field(3, None).into());
    }
    if !c.cdb.bit_at(1, 2) {
        return Context::good();
    }
    let geometry = c.lu.geometry;
    let block = u64::from(geometry.block_size.bytes());
    let last = geometry.size.saturating_sub(block);
    let first = ByteRange::new(0, block.min(geometry.size));
    let rest = Long::verify(ByteRange::new(last, geometry.size - last), Expected::Readable);
    c.io(Plan::Long(Box::new(Long::then(Some(BlockRequest::Read { range: first }), rest))))
}
