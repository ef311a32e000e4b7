//! Windows Server: how a disk is found, what the thin provisioning test of the hardware lab kit asks, and how a failover cluster
//! arbitrates with persistent reservations on every path.

use std::path::PathBuf;

use twinlun_io::Shard;
use twinlun_iscsi::initiator::{Transfer, cdb as build};

use super::{Path, SIZE, case, cdb, ensure, mirrored, naa, out, u16_at, u32_at, u64_at};
use crate::runner::{Case, Failure, Outcome, Verdict};

const NODE_A: &str = "iqn.1991-05.com.microsoft:node-a";
const NODE_B: &str = "iqn.1991-05.com.microsoft:node-b";
const KEY_A: u64 = 0x0000_0001_7466_734d;
const KEY_B: u64 = 0x0000_0002_7466_734d;
/// Write Exclusive, Registrants Only.
const WERO: u8 = 5;
const BLOCK: usize = 512;

pub(super) fn cases() -> Vec<Case> {
    vec![
        case("windows_finds_the_disk", |shard, folder| Box::pin(finds(shard, folder))),
        case("windows_thin_provisioning", |shard, folder| Box::pin(thin(shard, folder))),
        case("windows_cluster_arbitrates", |shard, folder| Box::pin(cluster(shard, folder))),
        case("windows_cluster_survives_power_loss", |shard, folder| Box::pin(power_loss(shard, folder))),
    ]
}

/// What the class driver asks of a new disk, over each path; both paths must say the same of the disk.
async fn finds(shard: Shard, folder: PathBuf) -> Outcome {
    let mut pair = mirrored(&folder).await?;
    let paths = Path::all(&shard, &pair, NODE_A).await?;
    let mut seen = Vec::new();
    for path in &paths {
        let luns = path.ask("REPORT LUNS", build::report_luns(0x1000), 0x1000).await?;
        ensure(luns.len() >= 16 && u32_at(&luns, 0)? >= 8, || format!("no LUN: {luns:02x?}"))?;
        let standard = path.ask("INQUIRY", build::inquiry(None, 36), 36).await?;
        ensure(standard[0] == 0 && standard[2] >= 5, || format!("no disk: {standard:02x?}"))?;
        ensure(standard[7] & 0x02 != 0, || "no command queuing".into())?;
        ensure(!standard[8..16].iter().all(|byte| *byte == b' '), || "a blank vendor".into())?;
        let attentions = path.attentions().await?;
        ensure(attentions == ["29/00"], || format!("a new session is told {attentions:?}"))?;
        let serial = path.ask("serial number", build::inquiry(Some(0x80), 255), 255).await?;
        let identity = path.ask("identification", build::inquiry(Some(0x83), 255), 255).await?;
        let capacity = path.ask("READ CAPACITY(10)", cdb([0x25]), 8).await?;
        ensure(u64::from(u32_at(&capacity, 0)?) + 1 == SIZE / 512 && u32_at(&capacity, 4)? == 512, || {
            format!("capacity {capacity:02x?}")
        })?;
        path.ask("MODE SENSE(6), all pages", cdb([0x1A, 0, 0x3F, 0, 192]), 192).await?;
        let caching = path.ask("MODE SENSE(10), caching", build::mode_sense_10(8, 0, 64), 64).await?;
        ensure(caching.len() >= 8 + 20, || format!("caching page {caching:02x?}"))?;
        // Without support for removal prevention the driver goes on; with it, it must be allowed.
        path.tell("PREVENT ALLOW MEDIUM REMOVAL", cdb([0x1E]), &[]).await?;
        seen.push((serial, naa(&identity)?));
    }
    ensure(seen[0] == seen[1], || format!("two paths, two disks: {seen:02x?}"))?;
    // RESERVE and RELEASE of SPC-2, which older cluster software and boot tools still send.
    let other = Path::open(&shard, &pair.east.portals()[0], &pair.east.target(), NODE_B, 9).await?;
    other.attentions().await?;
    for reserve in [cdb([0x16]), cdb([0x56])] {
        paths[0].tell("RESERVE", reserve, &[]).await?;
        let write = build::write_16(0, 1, false);
        other.expect("WRITE of another", "RESERVATION CONFLICT", write, out(&[1; BLOCK])).await?;
        other.expect("TEST UNIT READY of another", "RESERVATION CONFLICT", cdb([0]), Transfer::None).await?;
        other.tell("RELEASE of another", cdb([0x17]), &[]).await?;
        other.expect("RESERVE of another", "RESERVATION CONFLICT", reserve, Transfer::None).await?;
        paths[0].tell("RELEASE", cdb([reserve[0] + 1]), &[]).await?;
        other.tell("WRITE after RELEASE", write, &[1; BLOCK]).await?;
    }
    pair.east.stop().await?;
    pair.west.stop().await?;
    Ok(Verdict::Passed)
}

/// "Thin Provisioning SCSI Compliance": the pages with their lengths, and that UNMAP does what GET LBA STATUS then says.
async fn thin(shard: Shard, folder: PathBuf) -> Outcome {
    let mut pair = mirrored(&folder).await?;
    let path = Path::all(&shard, &pair, NODE_A).await?.remove(0);
    path.attentions().await?;
    let limits = path.ask("block limits", build::inquiry(Some(0xB0), 255), 255).await?;
    ensure(limits[1] == 0xB0 && u16_at(&limits, 2)? == 0x3C, || format!("block limits {limits:02x?}"))?;
    let (unmap_blocks, descriptors) = (u32_at(&limits, 20)?, u32_at(&limits, 24)?);
    let (granularity, alignment) = (u32_at(&limits, 28)?, u32_at(&limits, 32)?);
    ensure(unmap_blocks > 0 && descriptors > 0, || format!("UNMAP limits {unmap_blocks} {descriptors}"))?;
    ensure(granularity > 0 && u64::from(granularity) * 512 <= 1 << 20, || {
        format!("granularity {granularity}")
    })?;
    ensure(alignment & 0x8000_0000 != 0, || "UGAVALID is not set".into())?;
    let provisioning = path.ask("provisioning page", build::inquiry(Some(0xB2), 64), 64).await?;
    ensure(provisioning[5] & 0x80 != 0, || format!("LBPU is not set: {provisioning:02x?}"))?;
    ensure(provisioning[6] & 0x07 == 2, || format!("not thin: {provisioning:02x?}"))?;
    let capacity = path.ask("READ CAPACITY(16)", build::read_capacity_16(), 32).await?;
    ensure(capacity[14] & 0xC0 == 0xC0, || format!("LBPME, LBPRZ: {:02x}", capacity[14]))?;
    let log = path.ask("LOG SENSE 0C", cdb([0x4D, 0, 0x40 | 0x0C, 0, 0, 0, 0, 2, 0]), 512).await?;
    ensure(log[0] == 0x80 | 0x0C && log[1] == 0, || format!("DS, SPF, page: {log:02x?}"))?;
    ensure(usize::from(u16_at(&log, 2)?) == log.len() - 4, || format!("page length {log:02x?}"))?;
    // A piece as large and aligned as the page asks for: written, given back, and zero afterwards.
    let blocks = granularity.max(256);
    let lba = u64::from(granularity) * 16;
    let data = vec![0xC3; blocks as usize * BLOCK];
    path.tell("WRITE(16)", build::write_16(lba, blocks, false), &data).await?;
    ensure(!deallocated(&path, lba, blocks).await?, || "written blocks are said to be deallocated".into())?;
    let list = build::unmap_parameters(&[(lba, blocks)]);
    path.tell("UNMAP", build::unmap(list.len() as u16), &list).await?;
    let zeros = path.ask("READ(16)", build::read_16(lba, blocks, false), blocks * 512).await?;
    ensure(zeros.iter().all(|byte| *byte == 0), || "unmapped blocks do not read as zeros".into())?;
    // Whether it gave the space back is its choice; what it says must be well-formed either way.
    deallocated(&path, lba, blocks).await?;
    pair.east.stop().await?;
    pair.west.stop().await?;
    Ok(Verdict::Passed)
}

/// GET LBA STATUS: whether the whole range is said to be deallocated. Descriptors must start where asked, follow each other, and not be empty.
async fn deallocated(path: &Path, lba: u64, blocks: u32) -> Result<bool, Failure> {
    let [a, b, c, d, e, f, g, h] = lba.to_be_bytes();
    let ask = cdb([0x9E, 0x12, a, b, c, d, e, f, g, h, 0, 0, 4, 0]);
    let answer = path.ask("GET LBA STATUS", ask, 1024).await?;
    let (mut next, mut all) = (lba, true);
    for descriptor in answer.get(8..).unwrap_or_default().chunks_exact(16) {
        let (start, count) = (u64_at(descriptor, 0)?, u32_at(descriptor, 8)?);
        ensure(start == next && count > 0, || format!("descriptors {answer:02x?}"))?;
        if start < lba + u64::from(blocks) {
            all &= descriptor[12] & 0x0F != 0;
        }
        next = start + u64::from(count);
    }
    ensure(next > lba, || format!("no descriptor: {answer:02x?}"))?;
    Ok(all)
}

/// PERSISTENT RESERVE OUT with the basic list.
async fn persist(
    path: &Path,
    what: &str,
    expected: &str,
    action: u8,
    keys: (u64, u64),
    keep: bool,
) -> Result<(), Failure> {
    let list = build::persistent_reserve_out_parameters(keys.0, keys.1, keep);
    path.expect(what, expected, build::persistent_reserve_out(action, WERO, 24), out(&list)).await.map(drop)
}

/// Registered keys, sorted.
async fn keys(path: &Path) -> Result<Vec<u64>, Failure> {
    let answer = path.ask("READ KEYS", build::persistent_reserve_in(0, 0x200), 0x200).await?;
    let mut keys = Vec::new();
    for key in answer.get(8..).unwrap_or_default().chunks_exact(8) {
        keys.push(u64_at(key, 0)?);
    }
    keys.sort_unstable();
    Ok(keys)
}

/// Key and type of the reservation.
async fn reservation(path: &Path) -> Result<Option<(u64, u8)>, Failure> {
    let answer = path.ask("READ RESERVATION", build::persistent_reserve_in(1, 0x200), 0x200).await?;
    if u32_at(&answer, 4)? == 0 { Ok(None) } else { Ok(Some((u64_at(&answer, 8)?, answer[21]))) }
}

const REGISTER_AND_IGNORE: u8 = 6;
const REGISTER: u8 = 0;
const RESERVE: u8 = 1;
const RELEASE: u8 = 2;
const PREEMPT: u8 = 4;

/// A node brings its registrations to every path and reserves through the first.
async fn come_online(paths: &[Path], key: u64) -> Result<(), Failure> {
    for path in paths {
        path.attentions().await?;
        persist(path, "register", "GOOD", REGISTER_AND_IGNORE, (0, key), false).await?;
    }
    persist(&paths[0], "reserve", "GOOD", RESERVE, (key, 0), false).await
}

/// Arbitration: the owner defends while it lives, and loses the disk when it does not; a late write of the loser never lands.
async fn cluster(shard: Shard, folder: PathBuf) -> Outcome {
    let pair = mirrored(&folder).await?;
    let a = Path::all(&shard, &pair, NODE_A).await?;
    let b = Path::all(&shard, &pair, NODE_B).await?;
    come_online(&a, KEY_A).await?;
    ensure(reservation(&a[1]).await? == Some((KEY_A, WERO)), || "A does not hold the disk".into())?;
    ensure(keys(&a[1]).await? == [KEY_A, KEY_A], || "one registration for each path of A".into())?;
    let write = |lba| build::write_16(lba, 1, false);
    for path in &a {
        path.tell("WRITE of the owner over every path", write(8), &[0xAA; BLOCK]).await?;
    }
    // Others read, and nothing else.
    for path in &b {
        path.attentions().await?;
        path.ask("READ of another", build::read_16(8, 1, false), 512).await?;
        path.expect("WRITE of another", "RESERVATION CONFLICT", write(8), out(&[0xBB; BLOCK])).await?;
    }
    // B challenges: registers, fails to reserve, and is preempted by the defending owner before its second attempt.
    persist(&b[0], "register", "GOOD", REGISTER_AND_IGNORE, (0, KEY_B), false).await?;
    persist(&b[0], "reserve while A holds", "RESERVATION CONFLICT", RESERVE, (KEY_B, 0), false).await?;
    let seen = keys(&a[0]).await?;
    ensure(seen.contains(&KEY_B), || format!("the owner does not see its challenger: {seen:x?}"))?;
    persist(&a[1], "defend", "GOOD", PREEMPT, (KEY_A, KEY_B), false).await?;
    let told = b[0].attentions().await?;
    ensure(told == ["2A/05"], || format!("the challenger is told {told:?}"))?;
    persist(&b[0], "second attempt", "RESERVATION CONFLICT", PREEMPT, (KEY_B, KEY_A), false).await?;
    ensure(keys(&a[0]).await? == [KEY_A, KEY_A], || "the challenger is still registered".into())?;
    // The owner hangs: nobody removes B's registration, so B's second attempt succeeds, over its other path.
    come_back(&b, KEY_B).await?;
    persist(&b[1], "take over", "GOOD", PREEMPT, (KEY_B, KEY_A), false).await?;
    ensure(reservation(&b[0]).await? == Some((KEY_B, WERO)), || "B does not hold the disk".into())?;
    ensure(keys(&b[0]).await? == [KEY_B, KEY_B], || "A is still registered".into())?;
    for path in &b {
        path.tell("WRITE of the new owner", write(8), &[0xBB; BLOCK]).await?;
    }
    // A wakes up: the first thing it hears is why, the second that it may not write.
    for path in &a {
        let late = path.expect("late WRITE", "CHECK 6/2A/05", write(8), out(&[0xAA; BLOCK])).await;
        late?;
        path.expect("late WRITE again", "RESERVATION CONFLICT", write(8), out(&[0xAA; BLOCK])).await?;
        persist(path, "late reserve", "RESERVATION CONFLICT", RESERVE, (KEY_A, 0), false).await?;
    }
    let block = a[0].ask("READ of the loser", build::read_16(8, 1, false), 512).await?;
    ensure(block == [0xBB; BLOCK], || "a late write landed".into())?;
    // An orderly end: release, and unregister on every path.
    persist(&b[0], "release by a path that does not hold", "GOOD", RELEASE, (KEY_B, 0), false).await?;
    ensure(reservation(&b[0]).await?.is_some(), || "a path that does not hold it released it".into())?;
    persist(&b[1], "release", "GOOD", RELEASE, (KEY_B, 0), false).await?;
    for path in &b {
        path.attentions().await?;
        persist(path, "unregister", "GOOD", REGISTER, (KEY_B, 0), false).await?;
    }
    ensure(keys(&b[0]).await?.is_empty() && reservation(&a[0]).await?.is_none(), || {
        "something is left".into()
    })?;
    drop((a, b));
    pair.stop_and_compare().await?;
    Ok(Verdict::Passed)
}

async fn come_back(paths: &[Path], key: u64) -> Result<(), Failure> {
    for path in paths {
        path.attentions().await?;
        persist(path, "register", "GOOD", REGISTER_AND_IGNORE, (0, key), false).await?;
    }
    Ok(())
}

/// Registrations with APTPL hold over a crash of the storage processor, for every path, and still fence.
async fn power_loss(shard: Shard, folder: PathBuf) -> Outcome {
    let mut pair = mirrored(&folder).await?;
    let a = Path::all(&shard, &pair, NODE_A).await?;
    for path in &a {
        path.attentions().await?;
        persist(path, "register to stay", "GOOD", REGISTER_AND_IGNORE, (0, KEY_A), true).await?;
    }
    persist(&a[0], "reserve", "GOOD", RESERVE, (KEY_A, 0), false).await?;
    a[0].tell("WRITE", build::write_16(0, 1, true), &[0xAA; BLOCK]).await?;
    pair.east.kill().await?;
    drop(a);
    pair.east.run().await?;
    let b = Path::all(&shard, &pair, NODE_B).await?;
    for path in &b {
        path.attentions().await?;
        let write = build::write_16(0, 1, false);
        path.expect("WRITE after the crash", "RESERVATION CONFLICT", write, out(&[0xBB; BLOCK])).await?;
    }
    let a = Path::all(&shard, &pair, NODE_A).await?;
    ensure(keys(&b[0]).await? == [KEY_A, KEY_A], || "registrations are gone".into())?;
    ensure(reservation(&b[1]).await? == Some((KEY_A, WERO)), || "the reservation is gone".into())?;
    for path in &a {
        path.attentions().await?;
        path.tell("WRITE of the owner", build::write_16(0, 1, false), &[0xAC; BLOCK]).await?;
    }
    drop((a, b));
    pair.wait_in_step(super::PATIENCE).await?;
    pair.stop_and_compare().await?;
    Ok(Verdict::Passed)
}
