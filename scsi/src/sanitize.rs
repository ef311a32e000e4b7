//! SANITIZE: making everything that was ever written to a LU unreadable (SBC-4, 4.11, 5.30). What comes of it: [`crate::operation`].

use bytes::Bytes;

use crate::Outcome;
use crate::context::{Context, Fault, Run};
use crate::operation::{self, Method, Operation};
use crate::sense::{Asc, Sense};
use crate::wire::Fields;

const IMMED: u8 = 7;
const AUSE: u8 = 5;
/// Header of the parameter list of OVERWRITE.
const HEADER: usize = 4;

pub(crate) fn overwrite(c: &mut Context<'_>) -> Run {
    let len = c.length16(7);
    let block = c.lu.geometry.block_size.bytes() as usize;
    if len <= HEADER || len > HEADER + block {
        return Err(Sense::cdb_field(7, None).into());
    }
    let list = c.parameter_list(len as u64)?;
    let (invert, test, passes) = (list.bit_at(0, 7), list.u8_at(0) >> 5 & 3, list.u8_at(0) & 0x1F);
    if test != 0 || passes == 0 {
        return Err(Sense::parameter(0).into());
    }
    if list.u8_at(1) != 0 {
        return Err(Sense::parameter(1).into());
    }
    let pattern_len = usize::from(list.u16_at(2));
    if pattern_len == 0 || pattern_len > block {
        return Err(Sense::parameter(2).into());
    }
    let Some(pattern) = list.get(HEADER..HEADER + pattern_len) else {
        return Err(Sense::illegal(Asc::PARAMETER_LIST_LENGTH_ERROR).into());
    };
    let pattern = Bytes::copy_from_slice(pattern);
    order(c, Method::Overwrite { pattern, passes, invert })
}

pub(crate) fn block_erase(c: &mut Context<'_>) -> Run {
    order(c, Method::BlockErase)
}

fn order(c: &mut Context<'_>, method: Method) -> Run {
    // After a failure in restricted mode only a restricted operation may follow (SBC-4, 5.30.1).
    let unrestricted = c.cdb.bit_at(1, AUSE);
    if unrestricted && c.lu.operation.as_ref().is_some_and(|last| last.failed && !last.unrestricted) {
        return Err(Sense::cdb_field(1, Some(AUSE)).into());
    }
    operation::begin(c, Operation::new(method, unrestricted), !c.cdb.bit_at(1, IMMED))
}

pub(crate) fn exit_failure_mode(c: &mut Context<'_>) -> Run {
    match c.lu.operation.as_ref().filter(|last| !last.formats()) {
        Some(last) if last.failed && !last.unrestricted => Err(Fault::from(Sense::cdb_field(1, Some(4)))),
        Some(last) if last.failed => {
            // Left only when that is durable, by way of `operation_left`; until then the medium is refused.
            let mut outcome = c.settle(Vec::new(), Vec::new())?;
            if let Outcome::Settle(settle) = &mut outcome {
                settle.record = Some(c.lu.save_without_operation());
                settle.operation_left = true;
            }
            Ok(outcome)
        }
        _ => Context::good(),
    }
}
