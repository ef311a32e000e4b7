//! Linux: what the SCSI midlayer, sd, udev, multipath and the tools of sg3_utils send, at the level of CDBs.

use std::path::PathBuf;

use twinlun_io::Shard;
use twinlun_iscsi::initiator::cdb as build;

use super::{Path, SIZE, case, cdb, ensure, mirrored, naa, u16_at, u32_at, u64_at};
use crate::runner::{Case, Failure, Outcome, Verdict};

const HOST: &str = "iqn.1993-08.org.debian:01:persona";
const BLOCK: u32 = 512;

pub(super) fn cases() -> Vec<Case> {
    vec![
        case("linux_scans_and_attaches", |shard, folder| Box::pin(attaches(shard, folder))),
        case("linux_multipath_sees_one_disk", |shard, folder| Box::pin(multipath(shard, folder))),
        case("linux_sg3_utils_ask_everything", |shard, folder| Box::pin(everything(shard, folder))),
    ]
}

/// The scan of the midlayer and the attachment of sd, in their order and with their allocation lengths.
async fn attaches(shard: Shard, folder: PathBuf) -> Outcome {
    let mut pair = mirrored(&folder).await?;
    let path = Path::all(&shard, &pair, HOST).await?.remove(0);
    // First 36 bytes, then as many as these say there are.
    let short = path.ask("INQUIRY", build::inquiry(None, 36), 36).await?;
    let len = u16::from(short[4]) + 5;
    let whole = path.ask("INQUIRY", build::inquiry(None, len), u32::from(len)).await?;
    ensure(whole.len() == usize::from(len) && whole[..36] == short, || format!("INQUIRY {whole:02x?}"))?;
    for page in [0x00, 0x80, 0x83] {
        page_of(&path, page).await?;
    }
    path.ask("REPORT LUNS", build::report_luns(4096), 4096).await?;
    // sd: spin up, with the unit attention of a new session on the way.
    ensure(path.attentions().await? == ["29/00"], || "a new session is told once".into())?;
    let capacity = path.ask("READ CAPACITY(16)", build::read_capacity_16(), 32).await?;
    ensure(u64_at(&capacity, 0)? + 1 == SIZE / u64::from(BLOCK), || format!("capacity {capacity:02x?}"))?;
    let read = path.ask("first READ", build::read_16(0, 8, false), 8 * BLOCK).await?;
    ensure(read.len() == 8 * BLOCK as usize, || "a short read".into())?;
    // Write protection and cache type: the header first, then the page with the length that it says.
    let header = path.ask("MODE SENSE(6), header", cdb([0x1A, 0, 0x3F, 0, 4]), 4).await?;
    ensure(header.len() == 4 && header[2] & 0x80 == 0, || format!("write protected: {header:02x?}"))?;
    let caching = path.ask("MODE SENSE(6), caching", cdb([0x1A, 8, 0x08, 0, 4]), 4).await?;
    let len = caching[0] + 1;
    let caching = path.ask("MODE SENSE(6), caching", cdb([0x1A, 8, 0x08, 0, len]), len.into()).await?;
    ensure(caching.len() == usize::from(len) && caching[4] & 0x3F == 0x08, || format!("{caching:02x?}"))?;
    ensure(caching[6] & 0x04 != 0, || "no write cache is reported".into())?;
    ensure(caching[2] & 0x10 != 0, || "no DPO and FUA".into())?;
    path.ask("MODE SENSE(6), control", cdb([0x1A, 8, 0x0A, 0, 36]), 36).await?;
    // Which commands for discards there are.
    for (name, opcode) in [("WRITE SAME(16)", 0x93), ("WRITE SAME(10)", 0x41), ("UNMAP", 0x42)] {
        let report = path.ask(name, cdb([0xA3, 0x0C, 1, opcode, 0, 0, 0, 0, 2, 0]), 512).await?;
        ensure(report[1] & 0x07 == 3, || format!("{name} is said to be missing: {report:02x?}"))?;
    }
    // Shutdown of the disk.
    path.tell("SYNCHRONIZE CACHE(10)", cdb([0x35]), &[]).await?;
    path.tell("START STOP UNIT, start", cdb([0x1B, 0, 0, 0, 1]), &[]).await?;
    pair.east.stop().await?;
    pair.west.stop().await?;
    Ok(Verdict::Passed)
}

/// A page whole: read with 4 bytes, then with its length. Both must agree.
async fn page_of(path: &Path, page: u8) -> Result<Vec<u8>, Failure> {
    let what = format!("VPD page {page:02X}");
    let header = path.ask(&what, build::inquiry(Some(page), 4), 4).await?;
    ensure(header.len() == 4 && header[1] == page, || format!("{what}: {header:02x?}"))?;
    let len = 4 + u16_at(&header, 2)?;
    let whole = path.ask(&what, build::inquiry(Some(page), len), len.into()).await?;
    ensure(whole.len() == usize::from(len) && whole[..4] == header, || format!("{what}: {whole:02x?}"))?;
    Ok(whole)
}

/// Both paths name one disk, tell the same target port groups, are ready, and carry I/O in turns; one goes, the other goes on.
async fn multipath(shard: Shard, folder: PathBuf) -> Outcome {
    let pair = mirrored(&folder).await?;
    let paths = Path::all(&shard, &pair, HOST).await?;
    let mut names = Vec::new();
    let mut groups = Vec::new();
    let mut ports = Vec::new();
    for path in &paths {
        path.attentions().await?;
        let standard = path.ask("INQUIRY", build::inquiry(None, 96), 96).await?;
        ensure(standard[5] & 0x30 != 0, || "no TPGS: the path has no priority".into())?;
        let identity = page_of(path, 0x83).await?;
        names.push(naa(&identity)?);
        ports.push(relative_port(&identity)?);
        let report = path.ask("RTPG", build::report_target_port_groups(512), 512).await?;
        ensure(u32_at(&report, 0)? as usize == report.len() - 4, || format!("RTPG {report:02x?}"))?;
        ensure(report[4] & 0x0F == 0, || format!("not active, optimized: {report:02x?}"))?;
        groups.push(report);
        // The path checker.
        path.tell("TEST UNIT READY", cdb([0]), &[]).await?;
    }
    ensure(names[0] == names[1] && groups[0] == groups[1], || format!("{names:02x?} {groups:02x?}"))?;
    // Portals of one group are one SCSI target port (RFC 7143, 4.4.3).
    ensure(ports[0] == ports[1], || format!("one portal group, two target ports: {ports:?}"))?;
    let block = |number: u64| vec![number as u8 + 1; 8 * BLOCK as usize];
    for number in 0..32u64 {
        let path = &paths[number as usize % 2];
        path.tell("WRITE(16)", build::write_16(number * 8, 8, false), &block(number)).await?;
    }
    for number in 0..32u64 {
        let path = &paths[(number as usize + 1) % 2];
        let data = path.ask("READ(16)", build::read_16(number * 8, 8, false), 8 * BLOCK).await?;
        ensure(data == block(number), || format!("piece {number} differs over the other path"))?;
    }
    paths[0].session.close();
    for number in 0..32u64 {
        let data = paths[1].ask("READ(16)", build::read_16(number * 8, 8, false), 8 * BLOCK).await?;
        ensure(data == block(number), || format!("piece {number} is gone with the path"))?;
    }
    drop(paths);
    pair.stop_and_compare().await?;
    Ok(Verdict::Passed)
}

/// RELATIVE TARGET PORT IDENTIFIER from the device identification page (SPC-5, 7.7.6.7).
fn relative_port(page: &[u8]) -> Result<u16, Failure> {
    let mut rest = page.get(4..).unwrap_or_default();
    while let [_, kind, _, len, ..] = *rest {
        if kind & 0x3F == 0x14 {
            return u16_at(rest, 6);
        }
        rest = rest.get(4 + usize::from(len)..).ok_or("a designator that is cut off")?;
    }
    Err("no relative target port identifier".into())
}

/// Everything that is listed is there: VPD pages, mode pages, log pages, operation codes.
async fn everything(shard: Shard, folder: PathBuf) -> Outcome {
    let mut pair = mirrored(&folder).await?;
    let path = Path::all(&shard, &pair, HOST).await?.remove(0);
    path.attentions().await?;
    let pages = page_of(&path, 0x00).await?;
    for page in &pages[4..] {
        page_of(&path, *page).await?;
    }
    ensure([0x80, 0x83, 0xB0, 0xB1, 0xB2].iter().all(|page| pages[4..].contains(page)), || {
        format!("pages {pages:02x?}")
    })?;
    // sg_modes -a.
    let modes = path.ask("MODE SENSE(10), all", build::mode_sense_10(0x3F, 0xFF, 4096), 4096).await?;
    ensure(usize::from(u16_at(&modes, 0)?) == modes.len() - 2, || format!("mode data length {modes:02x?}"))?;
    let mut at = 8 + usize::from(u16_at(&modes, 6)?);
    while at < modes.len() {
        let (code, subpage, len) = match modes[at] & 0x40 {
            0 => (modes[at] & 0x3F, 0, 2 + usize::from(modes[at + 1])),
            _ => (modes[at] & 0x3F, modes[at + 1], 4 + usize::from(u16_at(&modes, at + 2)?)),
        };
        let one = path.ask("MODE SENSE(10), one", build::mode_sense_10(code, subpage, 512), 512).await?;
        let start = 8 + usize::from(u16_at(&one, 6)?);
        ensure(one[start..] == modes[at..at + len], || {
            format!("page {code:02X}/{subpage:02X} alone differs")
        })?;
        at += len;
    }
    // sg_logs -a.
    let logs = path.ask("LOG SENSE, all", cdb([0x4D, 0, 0x40, 0xFF, 0, 0, 0, 2, 0]), 512).await?;
    for pair in logs[4..].chunks_exact(2) {
        let one = cdb([0x4D, 0, 0x40 | pair[0], pair[1], 0, 0, 0, 4, 0]);
        let page = path.ask("LOG SENSE, one", one, 1024).await?;
        ensure(page[0] & 0x3F == pair[0], || format!("log page {pair:02x?}: {page:02x?}"))?;
        ensure(usize::from(u16_at(&page, 2)?) == page.len() - 4, || {
            format!("log page {pair:02x?}: {page:02x?}")
        })?;
    }
    // sg_opcodes: what is listed is also described, with the same length.
    let opcodes = path.ask("sg_opcodes", cdb([0xA3, 0x0C, 0, 0, 0, 0, 0, 0, 16, 0]), 4096).await?;
    ensure(u32_at(&opcodes, 0)? as usize == opcodes.len() - 4, || "the list is cut".into())?;
    for row in opcodes[4..].chunks_exact(8) {
        let with_action = row[5] & 1 != 0;
        let one = cdb([0xA3, 0x0C, if with_action { 2 } else { 1 }, row[0], row[2], row[3], 0, 0, 1, 0]);
        let one = path.ask("sg_opcodes of one", one, 256).await?;
        let same = one[1] & 0x07 == 3 && one[2..4] == row[6..8] && one[4] == row[0];
        ensure(same, || format!("operation {row:02x?}: {one:02x?}"))?;
    }
    // sg_readcap, sg_luns, sg_persist, sg_get_lba_status, sg_verify, sg_requests, sg_rtpg.
    path.ask("sg_readcap", cdb([0x25]), 8).await?;
    let keys = path.ask("sg_persist -k", build::persistent_reserve_in(0, 8192), 8192).await?;
    ensure(keys.len() == 8, || format!("keys {keys:02x?}"))?;
    let able = path.ask("sg_persist -c", build::persistent_reserve_in(2, 8192), 8192).await?;
    ensure(able.len() == 8 && u16_at(&able, 4)? == 0xEA01, || format!("capabilities {able:02x?}"))?;
    path.ask("sg_persist -s", build::persistent_reserve_in(3, 8192), 8192).await?;
    path.ask("sg_get_lba_status", cdb([0x9E, 0x12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 24]), 24).await?;
    path.tell("sg_verify", build::verify_16(0, 128, false), &[]).await?;
    let sense = path.ask("sg_requests", build::request_sense(252), 252).await?;
    ensure(sense[0] & 0x7F == 0x70 && sense[2] & 0x0F == 0, || format!("sense {sense:02x?}"))?;
    pair.east.stop().await?;
    pair.west.stop().await?;
    Ok(Verdict::Passed)
}
