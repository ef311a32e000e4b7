//! CDBs that an initiator needs (SPC-5, SBC-4). Only building; nothing here judges.

/// Commands with a 16-byte CDB or shorter, as the header carries them.
pub type Bytes16 = [u8; 16];

/// Operation codes.
mod opcode {
    pub(super) const TEST_UNIT_READY: u8 = 0x00;
    pub(super) const REQUEST_SENSE: u8 = 0x03;
    pub(super) const INQUIRY: u8 = 0x12;
    pub(super) const MODE_SENSE_10: u8 = 0x5a;
    pub(super) const UNMAP: u8 = 0x42;
    pub(super) const PERSISTENT_RESERVE_IN: u8 = 0x5e;
    pub(super) const PERSISTENT_RESERVE_OUT: u8 = 0x5f;
    pub(super) const READ_16: u8 = 0x88;
    pub(super) const COMPARE_AND_WRITE: u8 = 0x89;
    pub(super) const WRITE_16: u8 = 0x8a;
    pub(super) const VERIFY_16: u8 = 0x8f;
    pub(super) const SYNCHRONIZE_CACHE_16: u8 = 0x91;
    pub(super) const WRITE_SAME_16: u8 = 0x93;
    pub(super) const SERVICE_ACTION_IN_16: u8 = 0x9e;
    pub(super) const REPORT_LUNS: u8 = 0xa0;
    pub(super) const MAINTENANCE_IN: u8 = 0xa3;
}

/// FUA bit of READ, WRITE and COMPARE AND WRITE.
const FUA: u8 = 0x08;

/// Length of the answer to [`read_capacity_16`].
pub const READ_CAPACITY_16_LEN: u32 = 32;

fn put<const N: usize>(cdb: &mut Bytes16, at: usize, bytes: [u8; N]) {
    cdb[at..at + N].copy_from_slice(&bytes);
}

/// Operation, flags, 64-bit LBA, 32-bit count: the shape of most commands here (SBC-4, 5).
fn long(opcode: u8, flags: u8, lba: u64, count: u32) -> Bytes16 {
    let mut cdb = [0; 16];
    cdb[0] = opcode;
    cdb[1] = flags;
    put(&mut cdb, 2, lba.to_be_bytes());
    put(&mut cdb, 10, count.to_be_bytes());
    cdb
}

fn fua_bit(fua: bool) -> u8 {
    if fua { FUA } else { 0 }
}

/// TEST UNIT READY.
pub const fn test_unit_ready() -> Bytes16 {
    let mut cdb = [0; 16];
    cdb[0] = opcode::TEST_UNIT_READY;
    cdb
}

/// REQUEST SENSE.
pub const fn request_sense(allocation_len: u8) -> Bytes16 {
    let mut cdb = [0; 16];
    cdb[0] = opcode::REQUEST_SENSE;
    cdb[4] = allocation_len;
    cdb
}

/// INQUIRY: the standard data, or a vital product data page.
pub fn inquiry(page: Option<u8>, allocation_len: u16) -> Bytes16 {
    let mut cdb = [0; 16];
    cdb[0] = opcode::INQUIRY;
    cdb[1] = u8::from(page.is_some());
    cdb[2] = page.unwrap_or(0);
    put(&mut cdb, 3, allocation_len.to_be_bytes());
    cdb
}

/// MODE SENSE (10) of the current values.
pub fn mode_sense_10(page: u8, subpage: u8, allocation_len: u16) -> Bytes16 {
    let mut cdb = [0; 16];
    cdb[0] = opcode::MODE_SENSE_10;
    cdb[2] = page & 0x3f;
    cdb[3] = subpage;
    put(&mut cdb, 7, allocation_len.to_be_bytes());
    cdb
}

/// READ CAPACITY (16).
pub fn read_capacity_16() -> Bytes16 {
    long(opcode::SERVICE_ACTION_IN_16, 0x10, 0, READ_CAPACITY_16_LEN)
}

/// REPORT LUNS, all that have a LUN of their own.
pub fn report_luns(allocation_len: u32) -> Bytes16 {
    let mut cdb = [0; 16];
    cdb[0] = opcode::REPORT_LUNS;
    put(&mut cdb, 6, allocation_len.to_be_bytes());
    cdb
}

/// REPORT TARGET PORT GROUPS.
pub fn report_target_port_groups(allocation_len: u32) -> Bytes16 {
    let mut cdb = [0; 16];
    cdb[0] = opcode::MAINTENANCE_IN;
    cdb[1] = 0x0a;
    put(&mut cdb, 6, allocation_len.to_be_bytes());
    cdb
}

/// READ (16).
pub fn read_16(lba: u64, blocks: u32, fua: bool) -> Bytes16 {
    long(opcode::READ_16, fua_bit(fua), lba, blocks)
}

/// WRITE (16).
pub fn write_16(lba: u64, blocks: u32, fua: bool) -> Bytes16 {
    long(opcode::WRITE_16, fua_bit(fua), lba, blocks)
}

/// COMPARE AND WRITE. The data is the expected blocks, then the new ones.
pub fn compare_and_write(lba: u64, blocks: u8, fua: bool) -> Bytes16 {
    let mut cdb = long(opcode::COMPARE_AND_WRITE, fua_bit(fua), lba, 0);
    cdb[13] = blocks;
    cdb
}

/// VERIFY (16), with the data to compare when `compare`.
pub fn verify_16(lba: u64, blocks: u32, compare: bool) -> Bytes16 {
    long(opcode::VERIFY_16, u8::from(compare) << 1, lba, blocks)
}

/// SYNCHRONIZE CACHE (16); 0 blocks mean up to the end.
pub fn synchronize_cache_16(lba: u64, blocks: u32) -> Bytes16 {
    long(opcode::SYNCHRONIZE_CACHE_16, 0, lba, blocks)
}

/// WRITE SAME (16). `without_data` sets NDOB: zeros are written and no block is sent.
pub fn write_same_16(lba: u64, blocks: u32, unmap: bool, without_data: bool) -> Bytes16 {
    long(opcode::WRITE_SAME_16, u8::from(unmap) << 3 | u8::from(without_data), lba, blocks)
}

/// UNMAP of a parameter list of that length; see [`unmap_parameters`].
pub fn unmap(parameter_list_len: u16) -> Bytes16 {
    let mut cdb = [0; 16];
    cdb[0] = opcode::UNMAP;
    put(&mut cdb, 7, parameter_list_len.to_be_bytes());
    cdb
}

/// The parameter list of UNMAP (SBC-4, 5.32.2): `(first block, count)` each. At most 4095 ranges; more are left out.
pub fn unmap_parameters(ranges: &[(u64, u32)]) -> Vec<u8> {
    const DESCRIPTOR: usize = 16;
    let ranges = &ranges[..ranges.len().min(4095)];
    let descriptors = (ranges.len() * DESCRIPTOR) as u16;
    let mut list = Vec::with_capacity(8 + usize::from(descriptors));
    list.extend_from_slice(&(descriptors + 6).to_be_bytes());
    list.extend_from_slice(&descriptors.to_be_bytes());
    list.extend_from_slice(&[0; 4]);
    for (lba, count) in ranges {
        list.extend_from_slice(&lba.to_be_bytes());
        list.extend_from_slice(&count.to_be_bytes());
        list.extend_from_slice(&[0; 4]);
    }
    list
}

/// PERSISTENT RESERVE IN.
pub fn persistent_reserve_in(service_action: u8, allocation_len: u16) -> Bytes16 {
    let mut cdb = [0; 16];
    cdb[0] = opcode::PERSISTENT_RESERVE_IN;
    cdb[1] = service_action & 0x1f;
    put(&mut cdb, 7, allocation_len.to_be_bytes());
    cdb
}

/// PERSISTENT RESERVE OUT on the whole LU; `kind` is the TYPE field.
pub fn persistent_reserve_out(service_action: u8, kind: u8, parameter_list_len: u32) -> Bytes16 {
    let mut cdb = [0; 16];
    cdb[0] = opcode::PERSISTENT_RESERVE_OUT;
    cdb[1] = service_action & 0x1f;
    cdb[2] = kind & 0x0f;
    put(&mut cdb, 5, parameter_list_len.to_be_bytes());
    cdb
}

/// The basic parameter list of PERSISTENT RESERVE OUT (SPC-5, 6.16.3).
pub fn persistent_reserve_out_parameters(key: u64, action_key: u64, through_power_loss: bool) -> [u8; 24] {
    let mut list = [0; 24];
    list[..8].copy_from_slice(&key.to_be_bytes());
    list[8..16].copy_from_slice(&action_key.to_be_bytes());
    list[20] = u8::from(through_power_loss);
    list
}

/// Number of blocks and bytes per block from the answer to READ CAPACITY (16); `None` when it is too short or says nonsense.
pub fn parse_read_capacity_16(answer: &[u8]) -> Option<(u64, u32)> {
    let last = u64::from_be_bytes(*answer.first_chunk::<8>()?);
    let block = u32::from_be_bytes(*answer.get(8..)?.first_chunk::<4>()?);
    if block == 0 { None } else { Some((last.checked_add(1)?, block)) }
}
