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
//! PDUs are in order of offset within their sequence (DataPDUInOrder=Yes). With several R2Ts outstanding each sequence assembles its own
//! piece, so an initiator that answers them interleaved is understood too.
//!
//! Above error recovery level 0 a lost PDU leaves a *hole*: a sequence of its own between its neighbours, asked for by a recovery R2T
//! (sections 7.1.4.1, 7.8 a).
//!
//! ```text
//!   sequence   |== came ==|== lost ==|== came ==|== to come ==|
//!   becomes    |== done ==|== hole ==|== open, goes on =======|
//! ```

use core::time::Duration;

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

/// Holes that one command may have had; a peer that loses more has its command ended.
const HOLES_LIMIT: u32 = 256;

/// One run of Data-Out PDUs up to its F bit.
#[derive(Debug)]
struct Sequence {
    tag: TransferTag,
    r2t_sn: u32,
    /// Where the next byte of it belongs.
    next: u32,
    end: u32,
    data_sn: u32,
    data: Payload,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Lost, and not asked for again yet.
    Hole,
    /// On its way.
    Open,
    /// Nothing more comes.
    Done,
}

/// An R2T that is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) tag: TransferTag,
    pub(super) r2t_sn: u32,
    pub(super) offset: u32,
    pub(super) len: u32,
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
    /// It comes too late: it was given up for lost, or is here already.
    Stale,
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
    holes: u32,
    /// Holes that there ever were.
    recoveries: u32,
    recovers: bool,
    r2t_sn: u32,
    /// Behind the highest R2TSN that was ever used.
    highest_r2t_sn: u32,
    /// When the last data came.
    pub(super) progress: Duration,
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
    /// Lost data is asked for again.
    pub(super) recovers: bool,
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
            holes: 0,
            recoveries: 0,
            recovers: bounds.recovers,
            r2t_sn: 0,
            highest_r2t_sn: 0,
            progress: Duration::ZERO,
            granted: false,
            standing: Standing::Out,
            doom: fault.map(Doom::Fault),
        };
        if !is_final {
            // Too much immediate data ends the command, but not what the initiator still sends for it.
            this.open(TransferTag::RESERVED, 0, unsolicited_end.min(immediate as u32), unsolicited_end);
        }
        this
    }

    fn open(&mut self, tag: TransferTag, r2t_sn: u32, next: u32, end: u32) {
        let (data_sn, data, state) = (0, Payload::new(), State::Open);
        self.sequences.push(Sequence { tag, r2t_sn, next, end, data_sn, data, state });
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

    /// Whether lost data waits to be asked for.
    pub(super) fn has_holes(&self) -> bool {
        self.holes > 0
    }

    /// All data is there.
    pub(super) fn is_complete(&self) -> bool {
        self.doom.is_none() && self.open == 0 && self.holes == 0 && self.asked == self.wanted
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
        self.sequences.retain(|sequence| sequence.state == State::Open);
        self.holes = 0;
        for sequence in &mut self.sequences {
            sequence.data = Payload::new();
        }
    }

    /// The next R2T, of a hole first. It is named by `tag`.
    pub(super) fn ask(&mut self, tag: TransferTag, max_burst: u32, max_outstanding: u16) -> Option<Asked> {
        let under_way = |s: &&Sequence| s.state == State::Open && !s.tag.is_reserved();
        if self.sequences.iter().filter(under_way).count() >= usize::from(max_outstanding) {
            return None;
        }
        let r2t_sn = self.r2t_sn;
        let (offset, len) = if let Some(hole) = self.sequences.iter_mut().find(|s| s.state == State::Hole) {
            (hole.tag, hole.r2t_sn, hole.state) = (tag, r2t_sn, State::Open);
            self.holes -= 1;
            self.open += 1;
            (hole.next, hole.end - hole.next)
        } else if self.granted && self.unasked() > 0 {
            let (offset, len) = (self.asked, self.unasked().min(max_burst));
            self.asked += len;
            self.open(tag, r2t_sn, offset, offset + len);
            (offset, len)
        } else {
            return None;
        };
        self.r2t_sn = self.r2t_sn.wrapping_add(1);
        self.highest_r2t_sn = self.highest_r2t_sn.max(self.r2t_sn);
        Some(Asked { tag, r2t_sn, offset, len })
    }

    /// The R2Ts of a run that are not fulfilled, to be sent again (section 11.16). `None` when one of the run was never sent.
    pub(super) fn asked_again(&self, begin: u32, length: u32) -> Option<SmallVec<[Asked; 2]>> {
        let end = if length == 0 { self.r2t_sn } else { begin.checked_add(length)? };
        if end > self.r2t_sn || begin > end {
            return None;
        }
        let wanted = |s: &&Sequence| {
            s.state == State::Open && !s.tag.is_reserved() && (begin..end).contains(&s.r2t_sn)
        };
        // What has come of a sequence in the meantime was sent for this very R2T, so nothing is missing before it.
        let fresh = self.sequences.iter().filter(wanted).filter(|s| s.data_sn == 0);
        Some(
            fresh
                .map(|s| Asked { tag: s.tag, r2t_sn: s.r2t_sn, offset: s.next, len: s.end - s.next })
                .collect(),
        )
    }

    /// Gives up for lost what is under way: the rest of each open sequence becomes a hole. Returns how many were open. Too many holes
    /// doom the command.
    pub(super) fn give_up_open(&mut self) -> u32 {
        let open = self.open;
        let mut at = 0;
        while at < self.sequences.len() {
            if self.sequences[at].state == State::Open {
                let end = self.sequences[at].end;
                at += self.split(at, end);
                self.sequences[at].state = State::Done;
                self.open -= 1;
            }
            at += 1;
        }
        self.settle_front();
        self.limit_holes();
        open
    }

    /// Continues on another connection (section 7.2.2): R2Ts are numbered from the first that was not fulfilled, or from where the
    /// initiator says that it stands.
    pub(super) fn renumber(&mut self, exp_r2t_sn: u32, oldest_unfulfilled: u32) {
        let told = (oldest_unfulfilled..=self.highest_r2t_sn).contains(&exp_r2t_sn);
        self.r2t_sn = if told { exp_r2t_sn } else { oldest_unfulfilled };
    }

    /// R2TSN of the oldest R2T that is not fulfilled; of the next one when all are.
    pub(super) fn oldest_unfulfilled(&self) -> u32 {
        let open = self.sequences.iter().filter(|s| s.state == State::Open && !s.tag.is_reserved());
        open.map(|s| s.r2t_sn).min().unwrap_or(self.r2t_sn)
    }

    /// R2TSN of the next R2T.
    pub(super) fn next_r2t_sn(&self) -> u32 {
        self.r2t_sn
    }

    /// Cuts a hole up to `hole_end` out of the sequence at `at`, behind what has come of it; the sequence goes on behind the hole.
    /// Returns how many places the sequence has moved.
    fn split(&mut self, at: usize, hole_end: u32) -> usize {
        let sequence = &mut self.sequences[at];
        let (start, tag, r2t_sn) = (sequence.next, TransferTag::RESERVED, 0);
        let data = std::mem::take(&mut sequence.data);
        sequence.next = hole_end;
        if self.doom.is_some() {
            return 0;
        }
        let mut moved = 0;
        if !data.is_empty() {
            let done =
                Sequence { tag, r2t_sn, next: start, end: start, data_sn: 0, data, state: State::Done };
            self.sequences.insert(at, done);
            moved += 1;
        }
        if start < hole_end {
            let data = Payload::new();
            let hole =
                Sequence { tag, r2t_sn, next: start, end: hole_end, data_sn: 0, data, state: State::Hole };
            self.sequences.insert(at + moved, hole);
            moved += 1;
            self.holes += 1;
            self.recoveries += 1;
        }
        moved
    }

    fn limit_holes(&mut self) {
        if self.recoveries > HOLES_LIMIT && self.doom.is_none() {
            self.doom(Doom::Fault(Fault::Crc));
        }
    }

    fn settle_front(&mut self) {
        while self.sequences.first().is_some_and(|s| s.state == State::Done) {
            let sequence = self.sequences.remove(0);
            self.command.data_out.append(sequence.data);
        }
    }

    /// Takes a Data-Out. `lost`: its data failed the digest and is not here; so many bytes.
    pub(super) fn take(&mut self, pdu: DataOut, lost: Option<u32>) -> Taken {
        let lun_fits = pdu.transfer_tag.is_reserved() || pdu.lun.0 == self.command.lun;
        let mine = |s: &Sequence| s.tag == pdu.transfer_tag && s.state == State::Open;
        let Some(mut at) = self.sequences.iter().position(mine).filter(|_| lun_fits) else {
            // Above level 0 it may be an answer to an R2T that was given up.
            return if self.recoveries > 0 && lun_fits { Taken::Stale } else { Taken::Foreign };
        };
        let recovers = self.recovers && self.doom.is_none();
        let sequence = &self.sequences[at];
        if recovers && pdu.data_sn < sequence.data_sn {
            return Taken::Stale;
        }
        let len = lost.map_or(pdu.data.len(), |lost| lost as usize);
        let room = sequence.end.saturating_sub(pdu.buffer_offset) as usize;
        let missing = pdu.data_sn != sequence.data_sn;
        let in_place = if missing && recovers {
            pdu.buffer_offset >= sequence.next && pdu.buffer_offset <= sequence.end
        } else {
            pdu.buffer_offset == sequence.next
        };
        let fault = if !recovers && (lost.is_some() || missing) {
            Some(Fault::Crc)
        } else if !in_place || len > room || (pdu.is_final && len < room) {
            Some(Fault::Amount)
        } else {
            None
        };
        if fault.is_none() && self.doom.is_none() {
            if missing {
                at += self.split(at, pdu.buffer_offset);
            }
            if lost.is_some() {
                at += self.split(at, pdu.buffer_offset + len as u32);
            } else {
                let sequence = &mut self.sequences[at];
                sequence.next += len as u32;
                sequence.data.append(pdu.data);
            }
        }
        let sequence = &mut self.sequences[at];
        sequence.data_sn = pdu.data_sn.wrapping_add(1);
        if pdu.is_final {
            sequence.state = State::Done;
            self.open -= 1;
        }
        if let (Some(fault), None) = (fault, self.doom) {
            self.doom(Doom::Fault(fault));
        }
        self.limit_holes();
        self.settle_front();
        Taken::Part { ended: pdu.is_final }
    }
}
