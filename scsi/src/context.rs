//! What a handler has in hand, and the ways it can end.

use std::collections::BTreeMap;
use std::time::Duration;

use twinlun_block::{LbaRange, Payload};

use crate::commands::{Data, Row};
use crate::copy::CopyManager;
use crate::device::{Nexus, TargetIdentity};
use crate::io::{Io, Plan};
use crate::lu::LogicalUnit;
use crate::sense::{Asc, Reply, Sense, Status};
use crate::tasks::{Abort, Task};
use crate::wire::Fields;
use crate::{LuId, NexusId, Outcome, Settle};

/// A command under way.
pub(crate) struct Context<'a> {
    pub(crate) identity: &'a TargetIdentity,
    pub(crate) nexuses: &'a BTreeMap<NexusId, Nexus>,
    pub(crate) nexus_id: NexusId,
    pub(crate) nexus: &'a Nexus,
    pub(crate) lu_id: LuId,
    pub(crate) lu: &'a mut LogicalUnit,
    pub(crate) copies: &'a mut CopyManager,
    pub(crate) row: &'static Row,
    /// As long as the row says.
    pub(crate) cdb: &'a [u8],
    /// The blocks that the CDB names; they exist.
    pub(crate) range: Option<LbaRange>,
    pub(crate) data_out: Payload,
    /// Bytes of Data-Out that the command asks for, once it is known: the residual is counted against it.
    pub(crate) wanted: u64,
    /// Time of day.
    pub(crate) now: Duration,
}

/// Why a command ends without having done anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// CHECK CONDITION.
    Sense(Sense),
    /// Another status.
    Status(Status),
}

impl From<Sense> for Fault {
    fn from(sense: Sense) -> Self {
        Self::Sense(sense)
    }
}

pub(crate) type Run = Result<Outcome, Fault>;

/// RESERVATION CONFLICT.
pub(crate) const CONFLICT: Fault = Fault::Status(Status::ReservationConflict);

impl Fault {
    pub(crate) fn reply(self, descriptor_sense: bool) -> Reply {
        match self {
            Self::Sense(sense) => Reply::check(&sense, descriptor_sense),
            Self::Status(status) => Reply::with_status(status),
        }
    }
}

/// Cuts parameter data to the allocation length. The one place where it is done.
pub(crate) fn data_in(mut data: Vec<u8>, allocation_length: usize) -> Outcome {
    data.truncate(allocation_length);
    Outcome::Done(Reply::data(data))
}

impl Context<'_> {
    /// Parameter data, cut to the allocation length.
    pub(crate) fn data(data: Vec<u8>, allocation_length: usize) -> Run {
        Ok(data_in(data, allocation_length))
    }

    /// GOOD without data.
    pub(crate) fn good() -> Run {
        Ok(Outcome::Done(Reply::good()))
    }

    /// Work for the block layer.
    pub(crate) fn io(&mut self, plan: Plan) -> Run {
        let (work, blocks) = (&mut self.lu.work, self.range.map_or(0, LbaRange::count));
        if self.row.writes {
            work.writes += 1;
            work.blocks_out += blocks;
        } else if self.row.data == Data::In {
            work.reads += 1;
            work.blocks_in += blocks;
        }
        let size = self.lu.geometry.block_size;
        Ok(Outcome::Io(Io::new(self.lu_id, size, self.lu.mode.current.d_sense, self.wanted, plan)))
    }

    /// GOOD, once the LU's state is durable and the tasks have ended.
    pub(crate) fn settle(&self, abort: Vec<Abort>, release: Vec<Task>) -> Run {
        let otherwise = Reply::check(&crate::io::not_stored(), self.lu.mode.current.d_sense);
        Ok(Outcome::Settle(Box::new(Settle {
            lu: self.lu_id,
            record: Some(self.lu.save()),
            abort,
            release,
            operation: None,
            operation_left: false,
            then: Reply { data_out_len: self.wanted, ..Reply::good() },
            otherwise: Reply { data_out_len: self.wanted, ..otherwise },
        })))
    }

    /// The parameter list of the given length, whole and in one piece.
    pub(crate) fn parameter_list(&mut self, len: u64) -> Result<bytes::Bytes, Fault> {
        self.wanted = len;
        if (self.data_out.len() as u64) < len {
            return Err(Sense::illegal(Asc::PARAMETER_LIST_LENGTH_ERROR).into());
        }
        self.data_out.truncate(len as usize);
        Ok(std::mem::take(&mut self.data_out).to_bytes())
    }

    /// Two bytes of allocation or parameter list length.
    pub(crate) fn length16(&self, at: usize) -> usize {
        usize::from(self.cdb.u16_at(at))
    }

    /// Four bytes of allocation or parameter list length.
    pub(crate) fn length32(&self, at: usize) -> usize {
        self.cdb.u32_at(at) as usize
    }
}
