//! INQUIRY: standard data and vital product data (SPC-5, 6.7, 7.7; SBC-4, 6.6).

use twinlun_block::Geometry;

use crate::context::{Context, Run, data_in};
use crate::device::TargetIdentity;
use crate::io::CLEAR_STEP;
use crate::lu::LogicalUnit;
use crate::port::{PROTOCOL_ISCSI, TargetPort};
use crate::sense::Sense;
use crate::wire::{Fields, Put};
use crate::{Outcome, SenseBytes};

/// Largest transfer of one command, in bytes. What hosts split by default is smaller.
pub(crate) const MAX_TRANSFER: u64 = 32 << 20;
/// Largest WRITE SAME, in bytes.
pub(crate) const MAX_WRITE_SAME: u64 = CLEAR_STEP;
/// Largest UNMAP, in blocks over all its descriptors.
pub(crate) const MAX_UNMAP_BLOCKS: u64 = 1 << 20;
/// Descriptors of one UNMAP.
pub(crate) const MAX_UNMAP_DESCRIPTORS: usize = 256;

/// PERIPHERAL QUALIFIER 011b and the unknown device type: no LU is behind this LUN and none can be.
const NOT_CAPABLE: u8 = 0x7F;

/// THRESHOLD EXPONENT: provisioning is counted in units of 1 MiB.
pub(crate) fn threshold_exponent(geometry: &Geometry) -> u8 {
    20 - geometry.block_size.shift() as u8
}

/// A vital product data page: the bytes behind the four of the header.
type Page = fn(&Context<'_>) -> Vec<u8>;

/// In ascending order, as page 00 lists them.
const PAGES: [(u8, Page); 10] = [
    (0x00, supported_pages),
    (0x80, |c| c.lu.serial.as_bytes().to_vec()),
    (0x83, device_identification),
    (0x86, extended_inquiry),
    (0x87, mode_page_policy),
    (0x88, scsi_ports),
    (0x8F, |c| crate::copy::vpd::page(&c.lu.geometry)),
    (0xB0, block_limits),
    (0xB1, block_device_characteristics),
    (0xB2, logical_block_provisioning),
];

pub(crate) fn inquiry(c: &mut Context<'_>) -> Run {
    let (vital, code) = (c.cdb.bit_at(1, 0), c.cdb.u8_at(2));
    if !vital {
        if code != 0 {
            return Err(Sense::cdb_field(2, Some(7)).into());
        }
        return Context::data(standard(c.identity, 0, c.lu.traits.removable), c.length16(3));
    }
    let Some((_, page)) = PAGES.iter().find(|(known, _)| *known == code) else {
        return Err(Sense::cdb_field(2, Some(7)).into());
    };
    let mut out = vec![0, code, 0, 0];
    out.extend(page(c));
    let len = out.len() - 4;
    out.set16(2, len);
    Context::data(out, c.length16(3))
}

/// INQUIRY to a LUN behind which nothing is. Hosts look at LUN 0 before they ask for the list.
pub(crate) fn of_nothing(identity: &TargetIdentity, cdb: &[u8]) -> Result<Outcome, Sense> {
    let allocation = usize::from(cdb.u16_at(3));
    match (cdb.bit_at(1, 0), cdb.u8_at(2)) {
        (false, 0) => Ok(data_in(standard(identity, NOT_CAPABLE, false), allocation)),
        (true, 0) => Ok(data_in(vec![NOT_CAPABLE, 0, 0, 1, 0], allocation)),
        _ => Err(Sense::cdb_field(2, Some(7))),
    }
}

fn standard(identity: &TargetIdentity, peripheral: u8, removable: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(96);
    out.put8(peripheral);
    out.put8(u8::from(removable) << 7); // RMB
    out.put8(0x06); // SPC-4
    out.put8(0x20 | 0x10 | 0x02); // NORMACA, HISUP, response data format
    out.put8(91);
    out.put8(0x10 | 0x08); // TPGS: implicit asymmetric access; 3PC
    out.put8(0x10); // MULTIP
    out.put8(0x02); // CMDQUE
    out.ascii(&identity.vendor, 8);
    out.ascii(&identity.product, 16);
    out.ascii(&identity.revision, 4);
    out.zeros(22);
    // SAM-5, iSCSI, SPC-4, SBC-3, no version claimed.
    for descriptor in [0x00A0, 0x0960, 0x0460, 0x04C0] {
        out.put16(descriptor);
    }
    out.zeros(96 - out.len());
    out
}

fn supported_pages(_: &Context<'_>) -> Vec<u8> {
    PAGES.iter().map(|(code, _)| *code).collect()
}

/// One designation descriptor (SPC-5, 7.7.6.1). `association`: 0 LU, 1 target port, 2 target device.
fn designator(out: &mut Vec<u8>, code_set: u8, association: u8, kind: u8, bytes: &[u8]) {
    let protocol = if association == 0 { 0 } else { PROTOCOL_ISCSI << 4 };
    let piv = if association == 0 { 0 } else { 0x80 };
    out.put8(protocol | code_set);
    out.put8(piv | association << 4 | kind);
    out.put8(0);
    out.put8(bytes.len() as u8);
    out.extend_from_slice(bytes);
}

/// A SCSI name string: UTF-8, null terminated, padded to four.
fn name_string(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.truncate(247);
    bytes.push(0);
    bytes.zeros(bytes.len().next_multiple_of(4) - bytes.len());
    bytes
}

fn port_name(identity: &TargetIdentity, port: TargetPort) -> Vec<u8> {
    name_string(&format!("{},t,0x{:04x}", identity.iqn, port.portal_group_tag))
}

fn device_identification(c: &Context<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    // The NAA comes first: some hosts look no further.
    designator(&mut out, 1, 0, 3, &c.lu.naa);
    let mut vendor = Vec::new();
    vendor.ascii(&c.identity.vendor, 8);
    vendor.extend(c.lu.serial.bytes().take(64));
    designator(&mut out, 2, 0, 1, &vendor);
    let port = c.nexus.port;
    designator(&mut out, 1, 1, 4, &[0, 0, (port.relative_id >> 8) as u8, port.relative_id as u8]);
    let group = c.identity.port_group;
    designator(&mut out, 1, 1, 5, &[0, 0, (group >> 8) as u8, group as u8]);
    designator(&mut out, 3, 1, 8, &port_name(c.identity, port));
    designator(&mut out, 3, 2, 8, &name_string(&c.identity.iqn));
    out
}

fn extended_inquiry(_: &Context<'_>) -> Vec<u8> {
    let mut page = vec![0; 0x3C];
    page[1] = 0x07; // HEADSUP, ORDSUP, SIMPSUP
    page[2] = 0x01; // V_SUP: volatile cache
    page[3] = 0x01; // LUICLR: unit attentions are per LU and nexus
    page[9] = SenseBytes::MAX as u8; // MAXIMUM SUPPORTED SENSE DATA LENGTH
    page
}

fn mode_page_policy(_: &Context<'_>) -> Vec<u8> {
    vec![0x3F, 0xFF, 0x00, 0x00] // all pages: shared by all nexuses
}

fn scsi_ports(c: &Context<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    for port in &c.identity.ports {
        out.put16(0);
        out.put16(port.relative_id);
        out.put32(0); // no initiator port
        out.put16(0);
        let length = out.len();
        out.put16(0);
        designator(&mut out, 3, 1, 8, &port_name(c.identity, *port));
        let len = out.len() - length - 2;
        out.set16(length, len);
    }
    out
}

fn blocks(lu: &LogicalUnit, bytes: u64) -> u32 {
    u32::try_from(bytes >> lu.geometry.block_size.shift()).unwrap_or(u32::MAX)
}

/// Logical blocks of a physical block; 0 when both are the same.
pub(crate) fn physical(lu: &LogicalUnit) -> u32 {
    match lu.physical_exponent() {
        0 => 0,
        exponent => 1 << exponent,
    }
}

fn block_limits(c: &Context<'_>) -> Vec<u8> {
    let lu = &*c.lu;
    let optimal = blocks(lu, lu.geometry.optimal_io);
    let mut out = Vec::with_capacity(0x3C);
    out.put8(0x00); // WSNZ: a WRITE SAME of no length means the rest of the LU
    out.put8(u8::MAX); // MAXIMUM COMPARE AND WRITE LENGTH
    out.put16(u16::try_from(optimal.max(physical(lu))).unwrap_or(0));
    out.put32(blocks(lu, MAX_TRANSFER));
    out.put32(if optimal == 0 { blocks(lu, 1 << 20) } else { optimal });
    out.put32(0); // no limit of PRE-FETCH
    if lu.thin {
        out.put32(MAX_UNMAP_BLOCKS as u32);
        out.put32(MAX_UNMAP_DESCRIPTORS as u32);
    } else {
        out.zeros(8);
    }
    let granularity = if lu.thin { blocks(lu, lu.geometry.unmap.granularity).max(physical(lu)) } else { 0 };
    out.put32(granularity);
    out.put32(if granularity == 0 { 0 } else { 0x8000_0000 }); // UGAVALID, aligned to LBA 0
    out.put64(u64::from(blocks(lu, MAX_WRITE_SAME)));
    out.put32(blocks(lu, lu.geometry.max_atomic()));
    out.put32(physical(lu)); // ATOMIC ALIGNMENT
    out.put32(physical(lu)); // ATOMIC TRANSFER LENGTH GRANULARITY; no boundaries
    out.zeros(0x3C - out.len());
    out
}

fn block_device_characteristics(c: &Context<'_>) -> Vec<u8> {
    let mut page = vec![0; 0x3C];
    page[3] = if c.lu.thin { 0x40 } else { 0 }; // WABEREQ: blocks can be read after SANITIZE BLOCK ERASE
    page[1] = 1; // MEDIUM ROTATION RATE: non-rotating; the array hides where its disks' heads are
    page
}

fn logical_block_provisioning(c: &Context<'_>) -> Vec<u8> {
    if !c.lu.thin {
        return vec![0; 4];
    }
    // LBPU, LBPWS, LBPWS10, LBPRZ: unmapped blocks read as zeros. Provisioning type: thin.
    vec![threshold_exponent(&c.lu.geometry), 0x80 | 0x40 | 0x20 | 0x04, 0x02, 0x00]
}
