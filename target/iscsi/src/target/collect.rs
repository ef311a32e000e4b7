//! A write that collects its data: which data may come, in which order, and what to ask for next (RFC 7143 sections 4.2.5.2, 11.7,
//! 11.8). Pure: it takes Data-Out PDUs and says what follows.
//!
//! ```text
//!   0        immediate      unsolicited_end                              wanted      expected
//!   |-----------|-----------------|-----------|-----------|----- ... ------|............|
//!    with the      Data-Out with     R2T 0       R2T 1                        never asked
//!    command       TTT ffffffff     max_burst                                 for (limit)
//! ```
//!
//! Sequences are in order of offset (DataSequenceInOrder=Yes) and so are the PDUs in each (DataPDUInOrder=Yes). With several R2Ts
//! outstanding each sequence assembles its own piece, so an initiator that answers them interleaved is understood too.

use smallvec::SmallVec;
use twinlun_block::Payload;

use super::event::ScsiCommand;
use crate::pdu::{DataOut, TransferTag};

/// What was wrong with the data; the command then ends with CHECK CONDITION, ABORTED COMMAND (section 11.4.7.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Unexpected unsolicited data.
    Unexpected,
    /// Incorrect amount of data.
    Amount,
    /// Protocol service CRC error: data was lost to a digest error, or a gap in DataSN says so (section 7.9).
    Crc,
}

impl Fault {
    /// Fixed format sense data.
    pub(super) const fn sense(self) -> [u8; 18] {
        let (asc, ascq) = match self {
            Self::Unexpected => (0x0c, 0x0c),
            Self::Amount => (0x0c, 0x0d),
            Self::Crc => (0x47, 0x05),
        };
        [0x70, 0, 0x0b, 0, 0, 0, 0, 10, 0, 0, 0, 0, asc, ascq, 0, 0, 0, 0]
    }
}

/// How a command that will not be delivered ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doom {
    /// Without a word: a task management function covers it.
    Silent,
    /// With this status.
    Status(u8),
    /// With CHECK CONDITION.
    Fault(Fault),
}

/// One run of Data-Out PDUs up to its F bit.
#[derive(Debug)]
struct Sequence {
    tag: TransferTag,
    next: u32,
    end: u32,
    data_sn: u32,
    data: Payload,
    done: bool,
}

/// What a Data-Out did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// It was part of a sequence. `ended`: the last of it.
    Part {
        /// The F bit was set.
        ended: bool,
    },
    /// It belongs to no sequence of this command.
    Foreign,
}

/// Where an undelivered command stands (see [`super::line`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// No barrier holds it: a later barrier waits for it.
    Ahead,
    /// In the line.
    InLine,
    /// Nowhere: it will not be delivered.
    Out,
}

/// A command while its data comes.
#[derive(Debug)]
pub(super) struct Collect {
    pub(super) command: Box<ScsiCommand>,
    /// Behind the last byte that will be asked for.
    wanted: u32,
    /// Behind the last byte that came, or was asked for, or is to come unsolicited.
    asked: u32,
    sequences: SmallVec<[Sequence; 2]>,
    open: u32,
    pub(super) r2t_sn: u32,
    /// Buffer space for the solicited part is set aside.
    pub(super) granted: bool,
    pub(super) standing: Standing,
    doom: Option<Doom>,
}

/// What binds unsolicited data.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) first_burst: u32,
    pub(super) immediate_data: bool,
    pub(super) initial_r2t: bool,
    pub(super) max_write: u32,
}

impl Collect {
    /// A command with its immediate data. `is_final`: no unsolicited Data-Out follows.
    pub(super) fn new(mut command: Box<ScsiCommand>, is_final: bool, bounds: Bounds) -> Self {
        let expected = command.expected_out;
        let immediate = command.data_out.len();
        let unsolicited_end = if is_final { immediate as u32 } else { bounds.first_burst.min(expected) };
        let fault = if immediate > 0 && (!bounds.immediate_data || expected == 0) {
            Some(Fault::Unexpected)
        } else if immediate > bounds.first_burst.min(expected) as usize {
            Some(Fault::Amount)
        } else if !is_final && bounds.initial_r2t {
            Some(Fault::Unexpected)
        } else {
            None
        };
        if fault.is_some() {
            command.data_out = Payload::new();
        }
        let mut this = Self {
            command,
            wanted: expected.min(bounds.max_write).max(unsolicited_end),
            asked: unsolicited_end,
            sequences: SmallVec::new(),
            open: 0,
            r2t_sn: 0,
            granted: false,
            standing: Standing::Out,
            doom: fault.map(Doom::Fault),
        };
        if !is_final {
            // Too much immediate data ends the command, but not what the initiator still sends for it.
            this.open(TransferTag::RESERVED, unsolicited_end.min(immediate as u32), unsolicited_end);
        }
        this
    }

    fn open(&mut self, tag: TransferTag, next: u32, end: u32) {
        self.sequences.push(Sequence { tag, next, end, data_sn: 0, data: Payload::new(), done: false });
        self.open += 1;
    }

    /// Bytes that remain to be asked for.
    pub(super) fn unasked(&self) -> u32 {
        if self.doom.is_some() { 0 } else { self.wanted - self.asked }
    }

    /// Sequences whose end has not come.
    pub(super) fn open_sequences(&self) -> u32 {
        self.open
    }

    /// All data is there.
    pub(super) fn is_complete(&self) -> bool {
        self.doom.is_none() && self.open == 0 && self.asked == self.wanted
    }

    /// How it ends, when it is doomed and nothing of its data is under way any more. Section 11.4.2: a response must wait for that.
    pub(super) fn settled(&self) -> Option<Doom> {
        self.doom.filter(|_| self.open == 0)
    }

    /// Whether it will not be delivered.
    pub(super) fn is_doomed(&self) -> bool {
        self.doom.is_some()
    }

    /// Whether it was discarded by a task management function.
    pub(super) fn is_silenced(&self) -> bool {
        self.doom == Some(Doom::Silent)
    }

    /// Nothing more is asked for, the command ends like this. A silent end overrides others: nobody may hear of an aborted task.
    pub(super) fn doom(&mut self, doom: Doom) {
        if self.doom.is_none() || doom == Doom::Silent {
            self.doom = Some(doom);
        }
        self.command.data_out = Payload::new();
        for sequence in &mut self.sequences {
            sequence.data = Payload::new();
        }
    }

    /// The next R2T: `(offset, length)`. The caller names it by `tag`.
    pub(super) fn ask(
        &mut self,
        tag: TransferTag,
        max_burst: u32,
        max_outstanding: u16,
    ) -> Option<(u32, u32)> {
        let solicited = self.sequences.iter().filter(|s| !s.done && !s.tag.is_reserved()).count();
        if !self.granted || self.unasked() == 0 || solicited >= usize::from(max_outstanding) {
            return None;
        }
        let (offset, len) = (self.asked, self.unasked().min(max_burst));
        self.asked += len;
        self.open(tag, offset, offset + len);
        Some((offset, len))
    }

    /// Takes a Data-Out. `damaged`: its data failed the digest and is not here.
    pub(super) fn take(&mut self, pdu: DataOut, damaged: bool) -> Taken {
        let lun_fits = pdu.transfer_tag.is_reserved() || pdu.lun.0 == self.command.lun;
        let position = self.sequences.iter().position(|s| s.tag == pdu.transfer_tag && !s.done);
        let Some(sequence) = position.filter(|_| lun_fits).map(|at| &mut self.sequences[at]) else {
            return Taken::Foreign;
        };
        let len = pdu.data.len();
        let room = (sequence.end - sequence.next) as usize;
        let fault = if damaged || pdu.data_sn != sequence.data_sn {
            Some(Fault::Crc)
        } else if pdu.buffer_offset != sequence.next || len > room || (pdu.is_final && len < room) {
            Some(Fault::Amount)
        } else {
            None
        };
        sequence.data_sn = sequence.data_sn.wrapping_add(1);
        if fault.is_none() && self.doom.is_none() {
            sequence.next += len as u32;
            sequence.data.append(pdu.data);
        }
        if pdu.is_final {
            sequence.done = true;
            self.open -= 1;
        }
        if let (Some(fault), None) = (fault, self.doom) {
            self.doom(Doom::Fault(fault));
        }
        while self.sequences.first().is_some_and(|s| s.done) {
            let sequence = self.sequences.remove(0);
            self.command.data_out.append(sequence.data);
        }
        Taken::Part { ended: pdu.is_final }
    }
}
