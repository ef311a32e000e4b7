//! Sequences from seeds: mostly what a host may say, now and then what it may not.
//!
//! The generator keeps a guess of what the LU holds, as if every command succeeded, so that comparisons match about as often as
//! they do not. A wrong guess costs nothing: the targets are compared with each other and not with it.

use twinlun_io::sim::Rng;
use twinlun_iscsi::pdu::{TaskAttribute, TaskFunction};

use crate::parameters;
use crate::reserve::{Keys, persistent_in, persistent_out};
use crate::step::{Data, Odd, ScsiStep, Step, cdb_len};

/// Hosts of a sequence, each with an I_T nexus of its own.
pub(crate) const NEXUSES: usize = 2;
/// Size of every LU in bytes.
pub(crate) const LU_SIZE: u64 = 1 << 20;
/// Blocks at both ends of the LU in which nearly everything happens.
pub(crate) const HOT: u64 = 32;
/// Contents of blocks: one byte, repeated. Few, so that comparisons often match.
const FILLS: [u8; 4] = [0x00, 0x11, 0x5A, 0xFF];

/// What kinds of commands a target is asked, in proportion.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taste {
    /// COMPARE AND WRITE.
    pub(crate) compare_and_write: u64,
    /// Most blocks of one.
    pub(crate) compare_blocks: u64,
    /// WRITE SAME with NDOB.
    pub(crate) no_data: bool,
    /// Bits of mode pages that MODE SELECT changes: page, byte, bit.
    pub(crate) mode_bits: &'static [(u8, usize, u8)],
    /// Whether RESERVE does nothing beside the issuer's own persistent reservation (SPC-4, exceptions to SPC-2 RESERVE and RELEASE).
    pub(crate) reserves_compatibly: bool,
    /// Whether PREEMPT with a key removes only registrations while a reservation is for all registrants (SPC-4, preempting).
    pub(crate) keeps_all_registrants: bool,
    /// Whether PREEMPT of one's own key unregisters where it preempts no reservation (SPC-5, removing registrations).
    pub(crate) own_key_unregisters: bool,
    /// Whether a reset brings mode pages back to what they were (SAM-5, 6.3.3).
    pub(crate) reset_restores: bool,
    /// Commands that end the target's process, and so are not sent.
    pub(crate) deadly: fn(&ScsiStep) -> bool,
}

/// A sequence.
#[derive(Clone, Debug)]
pub(crate) struct Sequence {
    /// Seed that it came from.
    pub(crate) seed: u64,
    pub(crate) steps: Vec<Step>,
}

/// What there is to know while generating.
pub(crate) struct Generator {
    pub(crate) rng: Rng,
    pub(crate) block: u32,
    pub(crate) keys: Keys,
    pub(crate) taste: Taste,
    /// MODE SELECT was sent.
    pub(crate) modes_changed: bool,
    blocks: u64,
    /// Fill of each block as far as is known.
    fills: Vec<u8>,
}

/// The content of a LU before its sequence: everything zero but the hot ends, one fill after the other.
pub(crate) fn first_content(block: u32) -> Vec<u8> {
    let fills = (0..HOT).map(|number| FILLS[(number / 4) as usize % FILLS.len()]);
    fills.flat_map(|fill| std::iter::repeat_n(fill, block as usize)).collect()
}

/// The sequence of a seed for LUs with this block size.
pub(crate) fn sequence(seed: u64, block: u32, taste: Taste) -> Sequence {
    let blocks = LU_SIZE / u64::from(block);
    let mut fills = vec![0; blocks as usize];
    for number in 0..HOT {
        let fill = FILLS[(number / 4) as usize % FILLS.len()];
        fills[number as usize] = fill;
        fills[(blocks - HOT + number) as usize] = fill;
    }
    let mut generator = Generator {
        rng: Rng::new(seed).fork("sequence"),
        block,
        keys: Keys::default(),
        taste,
        modes_changed: false,
        blocks,
        fills,
    };
    let count = generator.rng.range(4..=28);
    let steps = (0..count).map(|_| generator.step()).collect();
    Sequence { seed, steps }
}

/// Builds a CDB: opcode, byte 1, and fields.
pub(crate) fn cdb(opcode: u8, flags: u8) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = opcode;
    cdb[1] = flags;
    cdb
}

/// Sets a big-endian field.
pub(crate) fn set<const N: usize>(cdb: &mut [u8], at: usize, value: [u8; N]) {
    cdb[at..at + N].copy_from_slice(&value);
}

/// The four widths of READ, WRITE and their kin.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Width {
    Six,
    Ten,
    Twelve,
    Sixteen,
}

impl Width {
    fn cdb(self, opcode: u8, flags: u8, lba: u64, count: u64) -> [u8; 16] {
        let mut out = cdb(opcode, flags);
        match self {
            Self::Six => {
                let [_, a, b, c] = (lba as u32 & 0x1F_FFFF).to_be_bytes();
                set(&mut out, 1, [a, b, c, count as u8]);
            }
            Self::Ten => {
                set(&mut out, 2, (lba as u32).to_be_bytes());
                set(&mut out, 7, (count as u16).to_be_bytes());
            }
            Self::Twelve => {
                set(&mut out, 2, (lba as u32).to_be_bytes());
                set(&mut out, 6, (count as u32).to_be_bytes());
            }
            Self::Sixteen => {
                set(&mut out, 2, lba.to_be_bytes());
                set(&mut out, 10, (count as u32).to_be_bytes());
            }
        }
        out
    }
}

impl Generator {
    /// True once in so many times.
    pub(crate) fn rarely(&mut self, of: u64) -> bool {
        self.rng.chance(1, of)
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.rng.index(from.len())]
    }

    fn nexus(&mut self) -> usize {
        // The first host does most, so that its sequences of commands mean something.
        if self.rng.chance(2, 5) { 1 } else { 0 }
    }

    fn step(&mut self) -> Step {
        let nexus = self.nexus();
        if self.rarely(60) {
            let functions = [
                TaskFunction::ABORT_TASK_SET,
                TaskFunction::CLEAR_TASK_SET,
                TaskFunction::LOGICAL_UNIT_RESET,
                TaskFunction::LOGICAL_UNIT_RESET,
            ];
            let known = self.taste.reset_restores || !self.modes_changed;
            let function = if known { self.pick(&functions) } else { TaskFunction::ABORT_TASK_SET };
            return Step::Manage { nexus, function };
        }
        let (cdb, data, odd) = self.command(nexus);
        let attribute = match self.rng.below(24) {
            0 => TaskAttribute::ORDERED,
            1 => TaskAttribute::HEAD_OF_QUEUE,
            _ => TaskAttribute::SIMPLE,
        };
        let mut scsi = ScsiStep { nexus, cdb, data, attribute, odd };
        if scsi.odd == Odd::No && self.rarely(40) {
            self.spoil(&mut scsi);
        }
        if (self.taste.deadly)(&scsi) {
            return self.step();
        }
        Step::Scsi(scsi)
    }

    /// Makes one thing wrong.
    fn spoil(&mut self, scsi: &mut ScsiStep) {
        let block = self.block as usize;
        match (&mut scsi.data, self.rng.below(3)) {
            (Data::In(len), 0) if *len > 0 => {
                *len = self.rng.below(u64::from(*len)) as u32;
                scsi.odd = Odd::Short;
            }
            (Data::In(len), 1) => {
                *len += self.rng.range(1..=2 * u64::from(self.block)) as u32;
                scsi.odd = Odd::Long;
            }
            (Data::Out(bytes), 0) if bytes.len() > block => {
                bytes.truncate(bytes.len() - block);
                scsi.odd = Odd::Short;
            }
            (Data::Out(bytes), 1) if !bytes.is_empty() => {
                let len = bytes.len() + self.rng.range(1..=2 * u64::from(self.block)) as usize;
                bytes.resize(len, 0xEE);
                scsi.odd = Odd::Long;
            }
            _ => {
                // Not the control byte: NACA starts an auto contingent allegiance, which neither target compared with knows.
                let (byte, bit) =
                    (self.rng.range(1..=cdb_len(scsi.cdb[0]) as u64 - 2) as u8, self.rng.below(8) as u8);
                // Nor SP: saved pages would come back with every later reset.
                let bit = if matches!((scsi.cdb[0], byte, bit), (0x15 | 0x55, 1, 0)) { 1 } else { bit };
                scsi.cdb[usize::from(byte)] ^= 1 << bit;
                scsi.odd = Odd::Bit(byte, bit);
            }
        }
    }

    fn command(&mut self, nexus: usize) -> ([u8; 16], Data, Odd) {
        match self.rng.below(100) {
            0..=15 => self.read(),
            16..=33 => self.write(),
            34..=39 => self.verify(),
            40..=44 => self.write_same(),
            45..=49 => self.unmap(),
            50..=52 => self.or_write(),
            53..=56 => self.compare_or_write(),
            57..=60 => self.cache(),
            61..=73 => persistent_out(self, nexus),
            74..=78 => persistent_in(self),
            79..=81 => {
                let may_reserve = self.taste.reserves_compatibly || !self.keys.were_used();
                let opcode = if may_reserve { self.pick(&[0x16, 0x17, 0x17]) } else { 0x17 };
                (cdb(opcode, 0), Data::None, Odd::No)
            }
            82..=84 => parameters::mode_select(self),
            85..=88 => parameters::mode_sense(self),
            89..=90 => parameters::inquiry(self),
            91..=93 => parameters::capacity(self),
            94..=95 => parameters::report(self),
            96 => (cdb(0x03, 0), Data::In(0), Odd::No).with_allocation(self, 4),
            97 => parameters::start_stop(self),
            98 => parameters::unknown(self),
            _ => (cdb(0x00, 0), Data::None, Odd::No),
        }
    }

    /// A place and a number of blocks; now and then beyond the end.
    fn place(&mut self, most: u64) -> (u64, u64) {
        let count = match self.rng.below(12) {
            0 => 0,
            1..=5 => 1,
            6..=10 => self.rng.range(1..=8.min(most)),
            _ => self.rng.range(1..=24.min(most)),
        };
        let lba = match self.rng.below(24) {
            0 => self.rng.below(self.blocks),
            1 => self.blocks - count / 2,
            2 => self.pick(&[self.blocks, self.blocks + 1, 0xFFFF_FFFF, u64::MAX - 1, u64::MAX]),
            3..=9 => self.blocks - count - self.rng.below(HOT - count.min(HOT - 1)),
            _ => self.rng.below(HOT - count.min(HOT - 1)),
        };
        (lba, count)
    }

    fn width(&mut self) -> Width {
        self.pick(&[
            Width::Six,
            Width::Ten,
            Width::Ten,
            Width::Ten,
            Width::Twelve,
            Width::Sixteen,
            Width::Sixteen,
            Width::Sixteen,
        ])
    }

    /// Widths cut an address; the blocks that the CDB really names.
    fn named(width: Width, lba: u64, count: u64) -> (u64, u64) {
        match width {
            Width::Six => (lba & 0x1F_FFFF, if count & 0xFF == 0 { 256 } else { count }),
            Width::Ten | Width::Twelve => (lba & 0xFFFF_FFFF, count),
            Width::Sixteen => (lba, count),
        }
    }

    fn bytes(&self, count: u64) -> u32 {
        count as u32 * self.block
    }

    fn dpo_fua(&mut self) -> u8 {
        self.pick(&[0, 0, 0, 0x08, 0x10, 0x18])
    }

    fn read(&mut self) -> ([u8; 16], Data, Odd) {
        let ((lba, count), width) = (self.place(64), self.width());
        let (opcode, flags) = match width {
            Width::Six => (0x08, 0),
            Width::Ten => (0x28, self.dpo_fua()),
            Width::Twelve => (0xA8, self.dpo_fua()),
            Width::Sixteen => (0x88, self.dpo_fua()),
        };
        let (_, named) = Self::named(width, lba, count);
        (width.cdb(opcode, flags, lba, count), Data::In(self.bytes(named)), Odd::No)
    }

    /// New content for blocks, noted in the guess.
    fn content(&mut self, lba: u64, count: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.bytes(count) as usize);
        let uniform = self.rng.chance(1, 2).then(|| self.pick(&FILLS));
        for number in 0..count {
            let fill = uniform.unwrap_or_else(|| self.pick(&FILLS));
            self.note(lba.saturating_add(number), fill);
            out.resize(out.len() + self.block as usize, fill);
        }
        out
    }

    fn note(&mut self, lba: u64, fill: u8) {
        if let Some(known) = usize::try_from(lba).ok().and_then(|lba| self.fills.get_mut(lba)) {
            *known = fill;
        }
    }

    /// What is thought to be there, or nearly that.
    fn guess(&mut self, lba: u64, count: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.bytes(count) as usize);
        for number in 0..count {
            let known = lba.checked_add(number).and_then(|lba| self.fills.get(usize::try_from(lba).ok()?));
            let fill = known.copied().unwrap_or(0);
            out.resize(out.len() + self.block as usize, fill);
        }
        if self.rng.chance(1, 3) && !out.is_empty() {
            let at = self.rng.index(out.len());
            out[at] ^= 0x80;
        }
        out
    }

    fn write(&mut self) -> ([u8; 16], Data, Odd) {
        let ((lba, count), width) = (self.place(64), self.width());
        let verify = width != Width::Six && self.rng.chance(1, 4);
        let (opcode, flags) = match (width, verify) {
            (Width::Six, _) => (0x0A, 0),
            (Width::Ten, false) => (0x2A, self.dpo_fua()),
            (Width::Twelve, false) => (0xAA, self.dpo_fua()),
            (Width::Sixteen, false) => (0x8A, self.dpo_fua()),
            (Width::Ten, true) => (0x2E, self.pick(&[0, 0x02, 0x10])),
            (Width::Twelve, true) => (0xAE, self.pick(&[0, 0x02, 0x10])),
            (Width::Sixteen, true) => (0x8E, self.pick(&[0, 0x02, 0x10])),
        };
        let (at, named) = Self::named(width, lba, count);
        (width.cdb(opcode, flags, lba, count), self.out(at, named), Odd::No)
    }

    fn out(&mut self, lba: u64, count: u64) -> Data {
        if count == 0 { Data::None } else { Data::Out(self.content(lba, count)) }
    }

    fn verify(&mut self) -> ([u8; 16], Data, Odd) {
        let ((lba, count), width) = (self.place(64), self.pick(&[Width::Ten, Width::Twelve, Width::Sixteen]));
        let opcode = match width {
            Width::Twelve => 0xAF,
            Width::Sixteen => 0x8F,
            _ => 0x2F,
        };
        let (at, named) = Self::named(width, lba, count);
        match self.rng.below(8) {
            0 | 1 => (width.cdb(opcode, 0, lba, count), Data::None, Odd::No),
            2 => {
                let data = if named == 0 { Data::None } else { Data::Out(self.guess(at, 1)) };
                (width.cdb(opcode, 0x06, lba, count), data, Odd::No)
            }
            _ => {
                let data = if named == 0 { Data::None } else { Data::Out(self.guess(at, named)) };
                (width.cdb(opcode, 0x02, lba, count), data, Odd::No)
            }
        }
    }

    fn write_same(&mut self) -> ([u8; 16], Data, Odd) {
        let (lba, mut count) = self.place(64);
        // A length of zero means up to the end: near the end only, or most of the LU would be written every time.
        if count == 0 && lba < self.blocks - HOT && !self.rarely(8) {
            count = 1;
        }
        let long = self.rng.chance(2, 3);
        let unmap = self.rng.chance(1, 4);
        let no_data = self.taste.no_data && long && self.rarely(6);
        let flags = u8::from(unmap) << 3 | u8::from(no_data);
        let (opcode, width) = if long { (0x93, Width::Sixteen) } else { (0x41, Width::Ten) };
        let (at, named) = Self::named(width, lba, count);
        let fill = if unmap || no_data { 0 } else { self.pick(&FILLS) };
        let end = if named == 0 { self.blocks } else { at.saturating_add(named).min(self.blocks) };
        for lba in at..end {
            self.note(lba, fill);
        }
        let data = if no_data { Data::None } else { Data::Out(vec![fill; self.block as usize]) };
        (width.cdb(opcode, flags, lba, count), data, Odd::No)
    }

    fn unmap(&mut self) -> ([u8; 16], Data, Odd) {
        let ranges: Vec<(u64, u32)> = (0..self.rng.below(4))
            .map(|_| {
                let (lba, count) = self.place(64);
                (lba, count as u32)
            })
            .collect();
        for (lba, count) in &ranges {
            for number in 0..u64::from(*count) {
                self.note(lba.saturating_add(number), 0);
            }
        }
        let mut list = twinlun_iscsi::initiator::cdb::unmap_parameters(&ranges);
        let odd = if self.rarely(16) { parameters::spoil_list(self, &mut list) } else { Odd::No };
        let mut out = cdb(0x42, 0);
        set(&mut out, 7, (list.len() as u16).to_be_bytes());
        (out, Data::Out(list), odd)
    }

    fn or_write(&mut self) -> ([u8; 16], Data, Odd) {
        let (lba, count) = self.place(16);
        let mut data = Vec::new();
        for number in 0..count {
            let (at, with) = (lba.saturating_add(number), self.pick(&FILLS));
            let known = usize::try_from(at).ok().and_then(|at| self.fills.get(at)).copied().unwrap_or(0);
            self.note(at, known | with);
            data.resize(data.len() + self.block as usize, with);
        }
        let data = if count == 0 { Data::None } else { Data::Out(data) };
        (Width::Sixteen.cdb(0x8B, self.taste_flags(), lba, count), data, Odd::No)
    }

    fn taste_flags(&mut self) -> u8 {
        self.pick(&[0, 0, 0x08])
    }

    fn compare_or_write(&mut self) -> ([u8; 16], Data, Odd) {
        if !self.rng.chance(self.taste.compare_and_write, 100) {
            return self.write();
        }
        let (lba, count) = self.place(self.taste.compare_blocks);
        let count = count.min(self.taste.compare_blocks);
        let mut data = self.guess(lba, count);
        data.extend(self.content(lba, count));
        let mut out = cdb(0x89, self.taste_flags());
        set(&mut out, 2, lba.to_be_bytes());
        out[13] = count as u8;
        (out, if count == 0 { Data::None } else { Data::Out(data) }, Odd::No)
    }

    fn cache(&mut self) -> ([u8; 16], Data, Odd) {
        let (lba, count) = self.place(64);
        let (width, opcode) = self.pick(&[
            (Width::Ten, 0x34),
            (Width::Sixteen, 0x90),
            (Width::Ten, 0x35),
            (Width::Ten, 0x35),
            (Width::Sixteen, 0x91),
        ]);
        (width.cdb(opcode, self.pick(&[0, 0, 0x02]), lba, count), Data::None, Odd::No)
    }
}

/// Sets the allocation length of a CDB and what the initiator expects with it.
pub(crate) trait Allocation {
    fn with_allocation(self, generator: &mut Generator, at: usize) -> Self;
}

impl Allocation for ([u8; 16], Data, Odd) {
    /// `at` is the field; its width follows from the opcode.
    fn with_allocation(mut self, generator: &mut Generator, at: usize) -> Self {
        let mut len = match generator.rng.below(8) {
            0 => generator.rng.below(40),
            1 => generator.pick(&[0, 1, 4, 8, 16, 24, 36]),
            _ => generator.pick(&[96, 252, 255]),
        };
        let cdb = &mut self.0;
        match (cdb_len(cdb[0]), at) {
            (6, 3) => set(cdb, 3, (len as u16).to_be_bytes()),
            (6, _) => set(cdb, at, [len as u8]),
            (10, 7) => {
                len = if len > 40 { 1024 } else { len };
                set(cdb, 7, (len as u16).to_be_bytes());
            }
            _ => {
                len = if len > 40 { 4096 } else { len };
                set(cdb, at, (len as u32).to_be_bytes());
            }
        }
        self.1 = if len == 0 { Data::None } else { Data::In(len as u32) };
        self
    }
}
