//! INQUIRY, mode and log pages, REPORT LUNS and the other reports.

use super::*;

fn inquiry(page: Option<u8>, allocation: u16) -> [u8; 6] {
    let [high, low] = allocation.to_be_bytes();
    [0x12, u8::from(page.is_some()), page.unwrap_or(0), high, low, 0]
}

#[test]
fn standard_inquiry_is_cut_to_every_allocation_length() {
    let mut rig = Rig::new();
    let a = rig.open("a");
    let whole = rig.good(a, &inquiry(None, 512), vec![]);
    assert_eq!(usize::from(whole[4]) + 5, whole.len());
    assert_eq!((whole[0], whole[2], whole[3] & 0x0F), (0, 6, 2));
    assert_eq!(&whole[8..36], b"TWINLUN array           1   ");
    let versions: Vec<u16> = whole[58..74].chunks(2).map(|v| u16::from_be_bytes([v[0], v[1]])).collect();
    for version in [0x00A0, 0x0960, 0x0460, 0x04C0] {
        assert!(versions.contains(&version));
    }
    for allocation in 0..256 {
        let cut = rig.good(a, &inquiry(None, allocation), vec![]);
        assert_eq!(cut, whole.slice(..whole.len().min(allocation.into())));
    }
    rig.illegal(a, &[0x12, 0, 1, 1, 0, 0], Asc::INVALID_FIELD_IN_CDB);
    rig.illegal(a, &inquiry(Some(0xC0), 255), Asc::INVALID_FIELD_IN_CDB);
}

#[test]
fn every_listed_page_is_there_and_counts_itself() {
    let mut rig = Rig::new();
    let a = rig.open("a");
    let list = rig.good(a, &inquiry(Some(0), 255), vec![]);
    let pages = &list[4..];
    assert!(pages.is_sorted());
    for page in [0x00, 0x80, 0x83, 0x86, 0x87, 0xB0, 0xB1, 0xB2] {
        assert!(pages.contains(&page));
    }
    for page in pages {
        let data = rig.good(a, &inquiry(Some(*page), 1024), vec![]);
        assert_eq!(data[1], *page);
        assert_eq!(usize::from(u16::from_be_bytes([data[2], data[3]])) + 4, data.len(), "page {page:02x}");
    }
}

#[test]
fn device_identification_begins_with_the_naa_and_names_the_port() {
    let mut rig = Rig::new();
    let a = rig.open_at("a", 2);
    let data = rig.good(a, &inquiry(Some(0x83), 1024), vec![]);
    assert_eq!(data[4..8], [0x01, 0x03, 0, 16]);
    assert_eq!(data[8..24], description(None).naa);
    let mut at = 4;
    let mut kinds = Vec::new();
    while at < data.len() {
        kinds.push((data[at + 1] >> 4 & 3, data[at + 1] & 0x0F));
        if data[at + 1] & 0x0F == 4 {
            assert_eq!(data[at + 4..at + 8], [0, 0, 0, 2]);
        }
        at += 4 + usize::from(data[at + 3]);
    }
    assert_eq!(at, data.len());
    assert_eq!(kinds, [(0, 3), (0, 1), (1, 4), (1, 5), (1, 8), (2, 8)]);
}

#[test]
fn block_limits_match_what_is_accepted() {
    let mut rig = Rig::new();
    let a = rig.open("a");
    let data = rig.good(a, &inquiry(Some(0xB0), 255), vec![]);
    assert_eq!((data.len(), data[3]), (64, 0x3C));
    assert_eq!((data[4], data[5]), (0, 255), "COMPARE AND WRITE of 255 blocks");
    let field = |at: usize| u32::from_be_bytes(data[at..at + 4].try_into().unwrap());
    assert_eq!(field(8), 65536, "32 MiB");
    assert_eq!((field(20), field(24)), (1 << 20, 256));
    assert_eq!(field(28), 128, "64 KiB unmap granularity");
    assert_eq!(field(40), 131_072, "64 MiB of WRITE SAME");
    let provisioning = rig.good(a, &inquiry(Some(0xB2), 255), vec![]);
    assert_eq!(provisioning[4..], [11, 0xE4, 2, 0]);
}

#[test]
fn nothing_behind_a_lun_still_answers_inquiry_and_report_luns() {
    let mut rig = Rig::new();
    let nexus = rig.device.open_nexus(initiator("a"), port(1), LunMap::new());
    let reply = rig.send_to(nexus, lun(0), &inquiry(None, 255), Payload::new());
    let data = reply.data.to_bytes();
    assert_eq!((reply.status, data[0]), (Status::Good, 0x7F));
    assert_eq!(&data[8..15], b"TWINLUN");
    let reply = rig.send_to(nexus, lun(0), &[0xA0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0], Payload::new());
    assert_eq!(reply.data.to_bytes()[..], [0; 8]);
    let reply = rig.send_to(nexus, lun(0), &[0x03, 0, 0, 0, 18, 0], Payload::new());
    let data = reply.data.to_bytes();
    assert_eq!((reply.status, data[2], data[12]), (Status::Good, 5, 0x25));
    for cdb in [&[0; 6][..], &ten(0x28, 0, 0, 1)] {
        let reply = rig.send_to(nexus, lun(3), cdb, Payload::new());
        expect_sense(&reply, cdb, SenseKey::IllegalRequest, Asc::LUN_NOT_SUPPORTED);
    }
    let well_known = [0xC1, 1, 0, 0, 0, 0, 0, 0];
    let reply = rig.send_to(nexus, well_known, &[0xA0, 0, 2, 0, 0, 0, 0, 0, 1, 0, 0, 0], Payload::new());
    assert_eq!(reply.status, Status::Good);
}

#[test]
fn report_luns_lists_what_the_nexus_sees() {
    let mut rig = Rig::new();
    let map = [(0, LU), (300, LU)].into_iter().collect();
    let nexus = rig.device.open_nexus(initiator("a"), port(1), map);
    let cdb = |select: u8| [0xA0, 0, select, 0, 0, 0, 0, 0, 1, 0, 0, 0];
    let data = rig.good(nexus, &cdb(0), vec![]);
    assert_eq!(data[..4], [0, 0, 0, 16]);
    assert_eq!(data[8..], [lun(0), lun(300)].concat());
    assert_eq!(rig.good(nexus, &cdb(1), vec![])[..], [0; 8]);
    rig.illegal(nexus, &cdb(5), Asc::INVALID_FIELD_IN_CDB);
    // A short allocation length truncates and is no error (SPC-5, 4.2.5.6).
    for len in [0, 4, 15] {
        assert_eq!(
            rig.good(nexus, &[0xA0, 0, 0, 0, 0, 0, 0, 0, 0, len, 0, 0], vec![])[..],
            data[..usize::from(len)]
        );
    }
    rig.sense(nexus, &[0; 6], SenseKey::UnitAttention, Asc(0x29, 0));
}

fn mode_sense(control: u8, page: u8, subpage: u8) -> [u8; 6] {
    [0x1A, 0x08, control << 6 | page, subpage, 255, 0]
}

/// One page out of MODE SENSE (6) without descriptor.
fn page(rig: &mut Rig, nexus: NexusId, control: u8, code: u8) -> Vec<u8> {
    rig.good(nexus, &mode_sense(control, code, 0), vec![])[4..].to_vec()
}

#[test]
fn mode_pages_add_up() {
    let mut rig = Rig::new();
    let a = rig.open("a");
    for subpage in [0, 0xFF] {
        let all = rig.good(a, &mode_sense(0, 0x3F, subpage), vec![]);
        assert_eq!(usize::from(all[0]) + 1, all.len());
        assert_eq!((all[2], all[3]), (0x10, 0), "DPOFUA; no descriptor");
        let (mut at, mut seen) = (4, Vec::new());
        while at < all.len() {
            let long = all[at] & 0x40 != 0;
            seen.push((all[at] & 0x3F, if long { all[at + 1] } else { 0 }));
            at += if long { 4 + usize::from(all[at + 3]) } else { 2 + usize::from(all[at + 1]) };
        }
        assert_eq!(at, all.len());
        assert!(seen.is_sorted());
        assert!([1, 8, 0x0A, 0x1C].iter().all(|code| seen.contains(&(*code, 0))));
        assert_eq!(seen.contains(&(0x0A, 1)), subpage == 0xFF);
    }
    rig.illegal(a, &mode_sense(0, 0x1D, 0), Asc::INVALID_FIELD_IN_CDB);
    rig.illegal(a, &mode_sense(0, 0x08, 3), Asc::INVALID_FIELD_IN_CDB);
    let ten = rig.good(a, &[0x5A, 0x10, 0x08, 0, 0, 0, 0, 0, 255, 0], vec![]);
    assert_eq!((ten[4], ten[7]), (1, 16), "LONGLBA and its descriptor");
    assert_eq!(usize::from(u16::from_be_bytes([ten[0], ten[1]])) + 2, ten.len());
    assert_eq!(ten[14..16], [0x10, 0], "4096 blocks");
    assert_eq!(rig.good(a, &[0x1A, 0, 0x3F, 0, 4, 0], vec![]).len(), 4);
}

/// MODE SELECT (6) of one page.
fn select(save: bool, page: &[u8]) -> ([u8; 6], Vec<u8>) {
    let mut list = vec![0; 4];
    list.extend(page);
    list[4] &= 0x7F;
    ([0x15, 0x10 | u8::from(save), 0, 0, list.len() as u8, 0], list)
}

#[test]
fn software_write_protection_stops_every_writer() {
    let mut rig = Rig::new();
    let (a, b) = (rig.open("a"), rig.open("b"));
    assert_eq!(page(&mut rig, a, 1, 0x0A)[4], 0x08, "SWP is changeable");
    let mut control = page(&mut rig, a, 0, 0x0A);
    control[4] |= 0x08;
    let (cdb, list) = select(false, &control);
    rig.good(a, &cdb, list);
    rig.sense(b, &[0; 6], SenseKey::UnitAttention, Asc(0x2A, 0x01));
    assert_eq!(rig.good(a, &mode_sense(0, 0x3F, 0), vec![])[2], 0x90, "WP");
    for row in commands::TABLE.iter().filter(|row| row.writes) {
        let mut cdb = vec![0; row.usage.len()];
        (cdb[0], cdb[1]) = (row.opcode, row.action.unwrap_or(0));
        rig.sense_with(a, &cdb, filled(0, 1), SenseKey::DataProtect, Asc::WRITE_PROTECTED);
    }
    rig.good(a, &ten(0x28, 0, 0, 1), vec![]);
    rig.device.manage(a, lun(0), TaskManagement::LogicalUnitReset);
    rig.sense(a, &[0; 6], SenseKey::UnitAttention, Asc(0x29, 0x03));
    rig.good(a, &ten(0x2A, 0, 0, 1), filled(1, 1));
}

#[test]
fn saved_pages_outlive_the_process() {
    let mut rig = Rig::new();
    let a = rig.open("a");
    let mut caching = page(&mut rig, a, 0, 0x08);
    assert_eq!(caching[2], 0x04);
    caching[2] = 0;
    let (cdb, list) = select(true, &caching);
    rig.good(a, &cdb, list);
    assert_eq!(page(&mut rig, a, 3, 0x08)[2], 0, "saved");
    assert_eq!(page(&mut rig, a, 2, 0x08)[2], 0x04, "default");
    let record = rig.record.take();
    assert!(record.is_some(), "durable before the answer");
    let mut again = Rig::with(description(record));
    let a = again.open("a");
    assert_eq!(page(&mut again, a, 0, 0x08)[2], 0);
}

#[test]
fn mode_select_is_all_or_nothing() {
    let mut rig = Rig::new();
    let a = rig.open("a");
    let mut pages = page(&mut rig, a, 0, 0x08);
    pages[2] = 0;
    let mut control = page(&mut rig, a, 0, 0x0A);
    control[0] &= 0x7F;
    control[3] ^= 0x10;
    pages.extend(control);
    let (cdb, list) = select(false, &pages);
    let key = SenseKey::IllegalRequest;
    let sense = rig.sense_with(a, &cdb, list, key, Asc::INVALID_FIELD_IN_PARAMETER_LIST);
    assert_eq!(sense[15..18], [0x80, 0, 4 + 20 + 3], "points into the list");
    assert_eq!(page(&mut rig, a, 0, 0x08)[2], 0x04);
    let (mut cdb, list) = select(false, &page(&mut rig, a, 0, 0x08));
    cdb[4] -= 1;
    rig.sense_with(a, &cdb, list, key, Asc::PARAMETER_LIST_LENGTH_ERROR);
    rig.sense_with(a, &[0x15, 0x10, 0, 0, 3, 0], vec![0; 3], key, Asc::PARAMETER_LIST_LENGTH_ERROR);
    rig.good(a, &[0x15, 0x10, 0, 0, 0, 0], vec![]);
}

#[test]
fn descriptor_sense_is_a_choice() {
    let mut rig = Rig::new();
    let a = rig.open("a");
    let mut control = page(&mut rig, a, 0, 0x0A);
    control[2] |= 0x04;
    let (cdb, list) = select(false, &control);
    rig.good(a, &cdb, list);
    let reply = rig.send(a, &sixteen(0x88, 0, u64::MAX, 1), vec![]);
    let sense = reply.sense.expect("sense data");
    assert_eq!((sense[0], sense[1], sense[2]), (0x72, 5, 0x21));
    assert_eq!(sense[12..20], u64::MAX.to_be_bytes(), "an LBA that fixed format has no room for");
}

#[test]
fn log_pages_tell_the_space_of_a_thin_lu() {
    let mut rig = Rig::new();
    let a = rig.open("a");
    let log = |page: u8, subpage: u8| [0x4D, 0, 0x40 | page, subpage, 0, 0, 0, 0, 255, 0];
    assert_eq!(rig.good(a, &log(0, 0), vec![])[..], [0, 0, 0, 4, 0x00, 0x0C, 0x19, 0x2F]);
    rig.device.set_space(LU, Space { available: 5 << 20, used: 3 << 20 });
    let data = rig.good(a, &log(0x0C, 0), vec![]);
    assert_eq!(data[..4], [0x8C, 0, 0, 24]);
    assert_eq!(data[4..12], [0, 1, 3, 8, 0, 0, 0, 5]);
    assert_eq!(data[16..24], [0, 2, 3, 8, 0, 0, 0, 3]);
    assert_eq!(rig.good(a, &log(0x2F, 0), vec![]).len(), 12);
    rig.illegal(a, &log(0x15, 0), Asc::INVALID_FIELD_IN_CDB);
    rig.illegal(a, &log(0x0C, 7), Asc::INVALID_FIELD_IN_CDB);
    rig.illegal(a, &[0x4D, 1, 0x40, 0, 0, 0, 0, 0, 255, 0], Asc::INVALID_FIELD_IN_CDB);
}

#[test]
fn port_groups_show_every_path() {
    let mut rig = Rig::new();
    let a = rig.open("a");
    let remote = RemoteGroup { id: 9, access: LuAccess::Standby, ports: vec![3] };
    rig.device.set_remote_groups(LU, vec![remote]);
    rig.sense(a, &[0; 6], SenseKey::UnitAttention, Asc(0x2A, 0x06));
    let cdb = |format: u8| [0xA3, format << 5 | 0x0A, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0];
    let data = rig.good(a, &cdb(0), vec![]);
    assert_eq!(data[..4], [0, 0, 0, 28]);
    assert_eq!((data[4], data[7], data[11]), (0, 1, 2), "active/optimized, group 1, two ports");
    assert_eq!((data[20], data[23], data[27], data[31]), (2, 9, 1, 3), "standby, group 9, port 3");
    assert_eq!(rig.good(a, &cdb(1), vec![])[4], 0x10);
    rig.illegal(a, &cdb(2), Asc::INVALID_FIELD_IN_CDB);
    for len in 0..40 {
        let mut cut = cdb(0);
        (cut[8], cut[9]) = (0, len);
        assert_eq!(rig.good(a, &cut, vec![]), data.slice(..data.len().min(len.into())));
    }
}

#[test]
fn defect_lists_are_empty() {
    let mut rig = Rig::new();
    let a = rig.open("a");
    let ten = rig.good(a, &[0x37, 0, 0x1D, 0, 0, 0, 0, 0, 32, 0], vec![]);
    assert_eq!(ten[..], [0, 0x1D, 0, 0]);
    let twelve = rig.good(a, &[0xB7, 0x1D, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0], vec![]);
    assert_eq!(twelve[..], [0, 0x1D, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn blocks_of_4096_bytes_are_told_everywhere() {
    let four = Geometry { block_size: BlockSize::B4096, ..geometry() };
    let mut rig = Rig::with(LuDescription { geometry: four, ..description(None) });
    let a = rig.open("a");
    assert_eq!(rig.good(a, &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], vec![])[..], [0, 0, 1, 0xFF, 0, 0, 0x10, 0]);
    assert_eq!(rig.good(a, &[0x1A, 0, 0x08, 0, 255, 0], vec![])[4..12], [0, 0, 2, 0, 0, 0, 0x10, 0]);
    assert_eq!(rig.good(a, &inquiry(Some(0xB2), 255), vec![])[4], 8, "1 MiB is 2^8 blocks");
    assert_eq!(rig.good(a, &inquiry(Some(0xB0), 255), vec![])[8..12], [0, 0, 0x20, 0], "32 MiB");
    let reply = rig.send(a, &ten(0x2E, 0x02, 0, 1), vec![1; 512]);
    expect_sense(&reply, &[0x2E], SenseKey::IllegalRequest, Asc::INVALID_FIELD_IN_INFORMATION_UNIT);
    let reply = rig.send(a, &ten(0x2A, 0, 0, 1), vec![1; 512]);
    assert_eq!(
        (reply.status, reply.data_out_len, &rig.disk[510..514]),
        (Status::Good, 4096, &[1, 1, 0, 0][..])
    );
    rig.good(a, &ten(0x2A, 0, 511, 1), vec![1; 4096]);
    assert_eq!(rig.disk[511 * 4096..], [1; 4096]);
    rig.illegal(a, &ten(0x28, 0, 512, 1), Asc::LBA_OUT_OF_RANGE);
}
