//! Mode pages: MODE SENSE and MODE SELECT (SPC-5, 6.14, 7.5; SBC-4, 6.5).

use crate::attention::UnitAttention;
use crate::context::{Context, Fault, Run};
use crate::lu::LogicalUnit;
use crate::sense::{Asc, Sense};
use crate::tasks::QueueError;
use crate::wire::{Fields, Put};

/// What an initiator may change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Parameters {
    /// Write cache enable.
    pub(crate) wce: bool,
    /// Software write protect.
    pub(crate) swp: bool,
    /// Sense data in descriptor format.
    pub(crate) d_sense: bool,
    /// TASK ABORTED status for tasks that another nexus aborts.
    pub(crate) tas: bool,
    /// QERR: what a failed command does to the others in its task set.
    pub(crate) queue_error: QueueError,
    /// TST: each nexus has a task set of its own.
    pub(crate) separate_sets: bool,
    /// LBPERE: thresholds of a thin LU are reported.
    pub(crate) lbpere: bool,
    /// Fewest units of 1 MiB that may be available before a unit attention says so; 0: disabled.
    pub(crate) available_threshold: u32,
    /// Most of them that may be used before one does; 0: disabled.
    pub(crate) used_threshold: u32,
}

impl Parameters {
    /// Every changeable bit.
    const CHANGEABLE: Self = Self {
        wce: true,
        swp: true,
        d_sense: true,
        tas: true,
        queue_error: QueueError::AbortOwn, // both bits
        separate_sets: true,
        lbpere: true,
        available_threshold: u32::MAX,
        used_threshold: u32::MAX,
    };

    /// The flags as the saved record has them.
    pub(crate) fn to_bits(self) -> u8 {
        let flags = [self.wce, self.swp, self.d_sense, self.tas, self.lbpere];
        flags.into_iter().enumerate().fold(0, |bits, (bit, set)| bits | u8::from(set) << bit)
    }

    pub(crate) fn from_bits(bits: u8) -> Self {
        let bit = |bit: u8| bits >> bit & 1 == 1;
        Self { wce: bit(0), swp: bit(1), d_sense: bit(2), tas: bit(3), lbpere: bit(4), ..Self::default() }
    }

    /// What the record says of task sets: QERR, and TST in bit 4.
    pub(crate) fn task_bits(self) -> u8 {
        self.queue_error as u8 | u8::from(self.separate_sets) << 4
    }

    /// Takes it back; `None` when it is none that [`Parameters::task_bits`] writes.
    pub(crate) fn with_task_bits(self, bits: u8) -> Option<Self> {
        let queue_error = QueueError::from_code(bits & 0x0F)?;
        (bits >> 4 <= 1).then_some(Self { queue_error, separate_sets: bits >> 4 == 1, ..self })
    }
}

/// The mode parameters of a LU, shared by all I_T nexuses.
#[derive(Debug)]
pub(crate) struct ModePages {
    pub(crate) current: Parameters,
    pub(crate) default: Parameters,
    /// What a MODE SELECT with SP left behind.
    pub(crate) saved: Option<Parameters>,
}

impl ModePages {
    pub(crate) fn new(write_cache: bool, saved: Option<Parameters>) -> Self {
        let default = Parameters { wce: write_cache, ..Parameters::default() };
        Self { current: saved.unwrap_or(default), default, saved }
    }

    /// Back to the saved parameters, as a reset has it.
    pub(crate) fn reset(&mut self) {
        self.current = self.saved.unwrap_or(self.default);
    }
}

/// A page: code, subpage, and its bytes for given parameters. `mask` asks for the changeable bits alone.
struct Page {
    code: u8,
    subpage: u8,
    bytes: fn(Parameters, bool) -> Vec<u8>,
    /// Exists on thin LUs only.
    thin: bool,
}

/// PS: parameters can be saved.
const PS: u8 = 0x80;

/// In ascending order, as MODE SENSE for all pages returns them.
const PAGES: [Page; 8] = [
    Page { code: 0x01, subpage: 0, bytes: error_recovery, thin: false },
    Page { code: 0x02, subpage: 0, bytes: |_, _| page0(0x02, 0x0E), thin: false },
    Page { code: 0x07, subpage: 0, bytes: |_, _| page0(0x07, 0x0A), thin: false }, // verify error recovery: VERIFY does as READ
    Page { code: 0x08, subpage: 0, bytes: caching, thin: false },
    Page { code: 0x0A, subpage: 0, bytes: control, thin: false },
    Page { code: 0x0A, subpage: 1, bytes: control_extension, thin: false },
    Page { code: 0x1C, subpage: 0, bytes: informational_exceptions, thin: false },
    Page { code: 0x1C, subpage: 2, bytes: provisioning_thresholds, thin: true },
];

/// The pages that a LU has.
fn pages_of(lu: &LogicalUnit) -> impl Iterator<Item = &'static Page> + use<> {
    let thin = lu.thin;
    PAGES.iter().filter(move |page| thin || !page.thin)
}

fn page0(code: u8, len: u8) -> Vec<u8> {
    let mut page = vec![0; 2 + usize::from(len)];
    page[0] = PS | code;
    page[1] = len;
    page
}

/// Bits that never change are left out of the changeable mask.
fn fixed(value: u8, mask: bool) -> u8 {
    if mask { 0 } else { value }
}

fn flag(set: bool, bit: u8) -> u8 {
    if set { bit } else { 0 }
}

fn error_recovery(p: Parameters, mask: bool) -> Vec<u8> {
    let mut page = page0(0x01, 0x0A);
    page[2] = fixed(0xC0, mask); // AWRE, ARRE: the array reallocates by itself
    page[7] = flag(p.lbpere, 0x80);
    page
}

fn caching(p: Parameters, _: bool) -> Vec<u8> {
    let mut page = page0(0x08, 0x12);
    page[2] = flag(p.wce, 0x04);
    page
}

fn control(p: Parameters, mask: bool) -> Vec<u8> {
    let mut page = page0(0x0A, 0x0A);
    page[2] = flag(p.separate_sets, 0x20) | flag(p.d_sense, 0x04) | fixed(0x02, mask); // TST, GLTSD
    page[3] = fixed(0x10, mask) | (p.queue_error as u8) << 1; // QUEUE ALGORITHM MODIFIER: unrestricted
    page[4] = flag(p.swp, 0x08);
    page[5] = flag(p.tas, 0x40);
    page[8] = fixed(0xFF, mask); // BUSY TIMEOUT PERIOD: unlimited
    page[9] = fixed(0xFF, mask);
    page
}

fn control_extension(_: Parameters, mask: bool) -> Vec<u8> {
    let mut page = vec![0; 4 + 0x1C];
    page[0] = PS | 0x40 | 0x0A;
    page[1] = 0x01;
    page[3] = 0x1C;
    page[4] = fixed(0x06, mask); // TCMOS, SCSIP: SET TIMESTAMP sets the timestamp
    page[6] = fixed(crate::SenseBytes::MAX as u8, mask); // MAXIMUM SENSE DATA LENGTH
    page
}

fn informational_exceptions(_: Parameters, mask: bool) -> Vec<u8> {
    let mut page = page0(0x1C, 0x0A);
    page[2] = fixed(0x08, mask); // DEXCPT
    page
}

/// Where the threshold descriptors of the logical block provisioning page are: available space, then used space.
const THRESHOLDS: [usize; 2] = [16, 24];

/// Logical block provisioning (SBC-4, 6.5.8). SITUA is 0: every nexus hears of a threshold.
fn provisioning_thresholds(p: Parameters, mask: bool) -> Vec<u8> {
    let mut page = vec![0; 32];
    page[..4].copy_from_slice(&[PS | 0x40 | 0x1C, 0x02, 0, 28]);
    for (at, count, resource, arming) in
        [(THRESHOLDS[0], p.available_threshold, 1, 0), (THRESHOLDS[1], p.used_threshold, 2, 1)]
    {
        page[at] = flag(count != 0, 0x80) | fixed(arming, mask);
        page[at + 1] = fixed(resource, mask);
        page[at + 4..at + 8].copy_from_slice(&count.to_be_bytes());
    }
    page
}

/// Reads the changeable parameters out of a page; the byte of one with a value that is reserved.
fn parse(code: u8, subpage: u8, page: &[u8], into: &mut Parameters) -> Result<(), usize> {
    match (code, subpage) {
        (0x01, 0) => into.lbpere = page.bit_at(7, 7),
        (0x08, 0) => into.wce = page.bit_at(2, 2),
        (0x1C, 2) => {
            let [available, used] =
                THRESHOLDS.map(|at| if page.bit_at(at, 7) { page.u32_at(at + 4) } else { 0 });
            (into.available_threshold, into.used_threshold) = (available, used);
        }
        (0x0A, 0) => {
            into.d_sense = page.bit_at(2, 2);
            into.swp = page.bit_at(4, 3);
            into.tas = page.bit_at(5, 6);
            into.separate_sets = page.bit_at(2, 5);
            into.queue_error = QueueError::from_code(page.u8_at(3) >> 1 & 3).ok_or(3usize)?;
        }
        _ => {}
    }
    Ok(())
}

/// MODE SENSE (6) and (10).
pub(crate) fn sense(c: &mut Context<'_>) -> Run {
    let ten = c.cdb.len() == 10;
    let (control, code, subpage) = (c.cdb.u8_at(2) >> 6, c.cdb.u8_at(2) & 0x3F, c.cdb.u8_at(3));
    let no_descriptor = c.cdb.bit_at(1, 3);
    let long_lba = ten && c.cdb.bit_at(1, 4);
    let mode = &c.lu.mode;
    let (values, mask) = match control {
        0 => (mode.current, false),
        1 => (Parameters::CHANGEABLE, true),
        2 => (mode.default, false),
        _ => (mode.saved.unwrap_or(mode.default), false),
    };
    let wanted =
        |page: &Page| (code == 0x3F || page.code == code) && (subpage == 0xFF || page.subpage == subpage);
    let mut pages = Vec::new();
    for page in pages_of(c.lu).filter(|page| wanted(page)) {
        pages.extend((page.bytes)(values, mask));
    }
    if pages.is_empty() {
        let known = code == 0x3F || pages_of(c.lu).any(|page| page.code == code);
        return Err(if known { Sense::cdb_field(3, Some(7)) } else { Sense::cdb_field(2, Some(5)) }.into());
    }
    let mut descriptor = Vec::new();
    if !no_descriptor {
        let (blocks, size) = (c.lu.geometry.blocks(), c.lu.geometry.block_size.bytes());
        if long_lba {
            descriptor.put64(blocks);
            descriptor.put32(0);
            descriptor.put32(size);
        } else {
            descriptor.put32(u32::try_from(blocks).unwrap_or(u32::MAX));
            descriptor.put32(size); // density code 0, then 24 bits of length
        }
    }
    // Device-specific parameter: WP and DPOFUA.
    let specific = flag(c.lu.is_write_protected(), 0x80) | 0x10;
    let mut out = Vec::with_capacity(64);
    if ten {
        out.put16((6 + descriptor.len() + pages.len()) as u16);
        out.put8(0);
        out.put8(specific);
        out.put8(u8::from(long_lba));
        out.put8(0);
        out.put16(descriptor.len() as u16);
    } else {
        out.put8((3 + descriptor.len() + pages.len()) as u8);
        out.put8(0);
        out.put8(specific);
        out.put8(descriptor.len() as u8);
    }
    out.extend(descriptor);
    out.extend(pages);
    let allocation = if ten { c.length16(7) } else { usize::from(c.cdb.u8_at(4)) };
    Context::data(out, allocation)
}

/// MODE SELECT (6) and (10). All pages are looked at before any of them counts.
pub(crate) fn select(c: &mut Context<'_>) -> Run {
    let ten = c.cdb.len() == 10;
    let len = if ten { c.length16(7) } else { usize::from(c.cdb.u8_at(4)) };
    let save = c.cdb.bit_at(1, 0);
    if len == 0 {
        return Context::good();
    }
    let list = c.parameter_list(len as u64)?;
    let too_short = || Fault::from(Sense::illegal(Asc::PARAMETER_LIST_LENGTH_ERROR));
    let header = if ten { 8 } else { 4 };
    if list.len() < header {
        return Err(too_short());
    }
    let descriptor = if ten { usize::from(list.u16_at(6)) } else { usize::from(list.u8_at(3)) };
    check_descriptor(c, list.get(header..header + descriptor).ok_or_else(too_short)?, header)?;
    let mut at = header + descriptor;
    if at < list.len() && !c.cdb.bit_at(1, 4) {
        return Err(Sense::cdb_field(1, Some(4)).into());
    }
    let mut new = c.lu.mode.current;
    while at < list.len() {
        at += select_page(c, list.get(at..).unwrap_or_default(), at, &mut new)?;
    }
    let changed = new != c.lu.mode.current;
    c.lu.mode.current = new;
    if changed {
        c.lu.tasks.set_separate(new.separate_sets);
        let me = c.nexus_id;
        c.lu.establish(UnitAttention::ModeParametersChanged, |id| id != me);
        c.lu.check_thresholds();
    }
    if save && c.lu.mode.saved != Some(new) {
        c.lu.mode.saved = Some(new);
        return c.settle(Vec::new(), Vec::new());
    }
    Context::good()
}

/// Block descriptors are accepted when they change nothing: none, or the block length as it is and the number of blocks as it is, 0 or as large
/// as can be said, which both stand for all (SBC-4, 6.4.2).
fn check_descriptor(c: &Context<'_>, descriptor: &[u8], at: usize) -> Result<(), Fault> {
    let (blocks, most, size, size_at) = match descriptor.len() {
        0 => return Ok(()),
        8 => (u64::from(descriptor.u32_at(0)), u64::from(u32::MAX), descriptor.u24_at(5), 5),
        16 => (descriptor.u64_at(0), u64::MAX, descriptor.u32_at(12), 12),
        _ => return Err(Sense::parameter(at as u16 - 1).into()),
    };
    if ![0, most, c.lu.geometry.blocks()].contains(&blocks) {
        return Err(Sense::parameter(at as u16).into());
    }
    if size != c.lu.geometry.block_size.bytes() {
        return Err(Sense::parameter(at as u16 + size_at).into());
    }
    Ok(())
}

/// Checks one page at the front of `rest` and takes its values; answers with its length.
fn select_page(c: &Context<'_>, rest: &[u8], at: usize, new: &mut Parameters) -> Result<usize, Fault> {
    let too_short = || Fault::from(Sense::illegal(Asc::PARAMETER_LIST_LENGTH_ERROR));
    let wrong = |byte: usize| Fault::from(Sense::parameter((at + byte) as u16));
    let code = rest.u8_at(0) & 0x3F;
    let (subpage, len) = match rest.bit_at(0, 6) {
        false => (0, 2 + usize::from(rest.u8_at(1))),
        true => (rest.u8_at(1), 4 + usize::from(rest.u16_at(2))),
    };
    let Some(page) = pages_of(c.lu).find(|p| p.code == code && p.subpage == subpage) else {
        return Err(wrong(0));
    };
    let current = (page.bytes)(c.lu.mode.current, false);
    let changeable = (page.bytes)(Parameters::CHANGEABLE, true);
    if len != current.len() {
        return Err(wrong(1));
    }
    let given = rest.get(..len).ok_or_else(too_short)?;
    let body = if subpage == 0 { 2 } else { 4 };
    for index in body..len {
        if (given[index] ^ current[index]) & !changeable[index] != 0 {
            return Err(wrong(index));
        }
    }
    parse(code, subpage, given, new).map_err(wrong)?;
    Ok(len)
}
