//! VMware ESXi: heartbeats with COMPARE AND WRITE, clones with EXTENDED COPY, zeroing with WRITE SAME, UNMAP within limits, and aborts of
//! commands that are under way.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::oneshot;
use twinlun::initiator::SessionError;
use twinlun_io::Shard;
use twinlun_iscsi::initiator::{Command, Transfer, cdb as build};
use twinlun_iscsi::pdu::TaskResponseCode;
use twinlun_tests::answer::{information, outcome};

use super::{Path, case, cdb, ensure, mirrored, naa, out, u16_at, u32_at};
use crate::pair::Pair;
use crate::runner::{Case, Failure, Outcome, Verdict};

const HOST_1: &str = "iqn.1998-01.com.vmware:esx-1";
const HOST_2: &str = "iqn.1998-01.com.vmware:esx-2";
const BLOCK: usize = 512;
/// First block of the heartbeat region, one block for each host.
const HEARTBEATS: u64 = 0x1000;
const LOCK: u64 = 0x800;

pub(super) fn cases() -> Vec<Case> {
    vec![
        case("esxi_heartbeats", |shard, folder| Box::pin(heartbeats(shard, folder))),
        case("esxi_retries_a_heartbeat_honestly", |shard, folder| Box::pin(retries(shard, folder))),
        case("esxi_aborts_commands_under_way", |shard, folder| Box::pin(aborts(shard, folder))),
        case("esxi_zeroes_and_unmaps", |shard, folder| Box::pin(zeroes(shard, folder))),
        case("esxi_clones", |shard, folder| Box::pin(clones(shard, folder))),
    ]
}

/// The image of a lock or heartbeat: who, and how often.
fn image(owner: u8, beat: u32) -> [u8; BLOCK] {
    let mut block = [owner; BLOCK];
    block[..4].copy_from_slice(&beat.to_be_bytes());
    block
}

/// The data of COMPARE AND WRITE: what is expected, then what shall be.
fn test_and_set(from: &[u8; BLOCK], to: &[u8; BLOCK]) -> Vec<u8> {
    [&from[..], to].concat()
}

async fn block(path: &Path, lba: u64) -> Result<[u8; BLOCK], Failure> {
    let data = path.ask("READ(16)", build::read_16(lba, 1, false), BLOCK as u32).await?;
    Ok(*data.first_chunk().ok_or("a short block")?)
}

/// Two hosts with two paths each: every heartbeat succeeds, whatever the others do; of two that want one lock, exactly one gets it.
async fn heartbeats(shard: Shard, folder: PathBuf) -> Outcome {
    let pair = mirrored(&folder).await?;
    let hosts = [Path::all(&shard, &pair, HOST_1).await?, Path::all(&shard, &pair, HOST_2).await?];
    for path in hosts.iter().flatten() {
        path.attentions().await?;
        let limits = path.ask("block limits", build::inquiry(Some(0xB0), 64), 64).await?;
        ensure(limits[5] >= 1, || "no COMPARE AND WRITE".into())?;
        let capacity = path.ask("READ CAPACITY(16)", build::read_capacity_16(), 32).await?;
        ensure(u32_at(&capacity, 8)? == 512, || "blocks of other than 512 bytes".into())?;
    }
    let mut beats = [[0; BLOCK]; 2];
    for beat in 1..=40 {
        for (host, paths) in hosts.iter().enumerate() {
            let next = image(host as u8 + 1, beat);
            let data = test_and_set(&beats[host], &next);
            // Round robin over the paths, as the multipathing of the host has it.
            let path = &paths[beat as usize % paths.len()];
            let write = build::compare_and_write(HEARTBEATS + host as u64, 1, false);
            path.tell("heartbeat", write, &data).await?;
            beats[host] = next;
        }
        // A lock, taken by both at once.
        let free = if beat == 1 { [0; BLOCK] } else { block(&hosts[0][0], LOCK).await? };
        let mut answers = Vec::new();
        for (host, paths) in hosts.iter().enumerate() {
            let (path, data) = (paths[0].clone(), test_and_set(&free, &image(host as u8 + 1, beat)));
            let (tell, told) = oneshot::channel();
            shard.spawn(async move {
                // Who waits no longer has failed for another reason.
                let _ = tell.send(path.send(build::compare_and_write(LOCK, 1, false), out(&data)).await);
            });
            answers.push(told);
        }
        let (mut winners, mut differences) = (Vec::new(), Vec::new());
        for (host, answer) in answers.into_iter().enumerate() {
            let completion = answer.await??;
            match outcome(&completion).as_str() {
                "GOOD" => winners.push(host),
                "CHECK E/1D/00" => differences.push(information(&completion.sense)),
                other => return Err(format!("lock: {other}").into()),
            }
        }
        ensure(winners.len() == 1, || format!("beat {beat}: the lock went to {winners:?}"))?;
        let owner = block(&hosts[1][1], LOCK).await?;
        // The loser is told where the block first differs from what it expected.
        let first = (0..BLOCK).find(|at| free[*at] != owner[*at]).map(|at| at as u64);
        ensure(differences == [first], || format!("first difference at {first:?}, told {differences:?}"))?;
        ensure(owner == image(winners[0] as u8 + 1, beat), || "the lock says another owner".into())?;
    }
    drop(hosts);
    pair.stop_and_compare().await?;
    Ok(Verdict::Passed)
}

/// How a command that was aborted ended.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    /// With its own answer, before the abort.
    Answered(String),
    /// Aborted, without an answer.
    Aborted,
}

/// Sends a command, aborts it while it is under way, and says how both ended.
///
/// The time of the abort goes into `slowest`: on a dead link it is what the mirror needs to fracture the secondary.
async fn aborted(
    shard: &Shard,
    slowest: &mut Duration,
    path: &Path,
    cdb: [u8; 16],
    data: Vec<u8>,
) -> Result<(Fate, TaskResponseCode), Failure> {
    let tag = path.session.new_tag();
    let (worker, lun) = (path.session.clone(), path.lun);
    let (tell, told) = oneshot::channel();
    shard.spawn(async move {
        let done = worker.execute_as(Command::new(tag, lun, cdb, out(&data))).await;
        // Who waits no longer has failed for another reason.
        let _ = tell.send(done);
    });
    // The command is on its way before the abort is.
    shard.sleep(Duration::from_millis(5)).await;
    let started = shard.now().since_start();
    let response = shard.timeout(super::PATIENCE, path.session.abort(tag)).await;
    *slowest = (*slowest).max(shard.now().since_start() - started);
    let response = response.map_err(|_| "ABORT TASK is not answered")??;
    let fate = match shard.timeout(super::PATIENCE, told).await.map_err(|_| "a command without an end")?? {
        Ok(completion) => Fate::Answered(outcome(&completion)),
        Err(SessionError::Aborted) => Fate::Aborted,
        Err(error) => return Err(error.into()),
    };
    Ok((fate, response))
}

/// ABORT TASK is answered by what is true: complete, or that the task is no more; then the command has its own answer.
fn truthful(fate: &Fate, response: TaskResponseCode) -> Result<(), Failure> {
    match (fate, response) {
        (Fate::Aborted, TaskResponseCode::COMPLETE)
        | (Fate::Answered(_), TaskResponseCode::COMPLETE | TaskResponseCode::NO_SUCH_TASK) => Ok(()),
        other => Err(format!("an abort that is not truthful: {other:?}").into()),
    }
}

/// A heartbeat that hangs on a dead link between the units is aborted and tried again: the retry must agree with what the block says, and
/// the block must not change after the abort was answered.
async fn retries(shard: Shard, folder: PathBuf) -> Outcome {
    let pair = mirrored(&folder).await?;
    let paths = Path::all(&shard, &pair, HOST_1).await?;
    for path in &paths {
        path.attentions().await?;
    }
    let mut current = [0; BLOCK];
    let (mut fates, mut slowest) = (BTreeSet::new(), Duration::ZERO);
    for beat in 1..=8 {
        if beat % 4 == 1 {
            pair.cable.pull();
        }
        let next = image(1, beat);
        let write = build::compare_and_write(HEARTBEATS, 1, false);
        let (fate, response) =
            aborted(&shard, &mut slowest, &paths[0], write, test_and_set(&current, &next)).await?;
        truthful(&fate, response)?;
        ensure(!matches!(&fate, Fate::Answered(word) if word != "GOOD"), || {
            format!("beat {beat}: {fate:?}")
        })?;
        let found = block(&paths[1], HEARTBEATS).await?;
        ensure(found == current || found == next, || format!("beat {beat}: the block is neither"))?;
        if fate == Fate::Answered("GOOD".into()) {
            ensure(found == next, || format!("beat {beat}: GOOD, and nothing was written"))?;
        }
        // The retry over the other path, from what the block says: a miscompare would be a lie that costs the datastore.
        let retried = image(1, 1000 + beat);
        paths[1].tell("retry", write, &test_and_set(&found, &retried)).await?;
        let after = block(&paths[0], HEARTBEATS).await?;
        ensure(after == retried, || format!("beat {beat}: an aborted write landed behind its retry"))?;
        current = retried;
        fates.insert(format!("{fate:?} {response:?}"));
        if beat % 4 == 0 {
            pair.cable.plug();
            pair.wait_in_step(super::PATIENCE).await?;
        }
    }
    println!("  seen: {fates:?}; slowest abort {} ms", slowest.as_millis());
    drop(paths);
    pair.wait_in_step(super::PATIENCE).await?;
    pair.stop_and_compare().await?;
    Ok(Verdict::Passed)
}

/// Aborts of writes that hang on a dead link: every one is answered, and none lands after its abort was answered.
async fn aborts(shard: Shard, folder: PathBuf) -> Outcome {
    let pair = mirrored(&folder).await?;
    let path = Path::all(&shard, &pair, HOST_1).await?.remove(0);
    path.attentions().await?;
    let (count, mut slowest) = (16u32, Duration::ZERO);
    for round in 0..2u8 {
        pair.cable.pull();
        for number in 0..count {
            let lba = u64::from(number) * 256;
            let old = vec![0x10 + round; 64 * BLOCK];
            let (fate, response) =
                aborted(&shard, &mut slowest, &path, build::write_16(lba, 64, false), old).await?;
            truthful(&fate, response)?;
            // Data that is newer than the abort's answer stays.
            let new = vec![0x80 + round; 64 * BLOCK];
            path.tell("newer write", build::write_16(lba, 64, false), &new).await?;
        }
        let unknown = path.session.abort(path.session.new_tag()).await?;
        ensure(unknown == TaskResponseCode::NO_SUCH_TASK || unknown == TaskResponseCode::COMPLETE, || {
            format!("ABORT TASK of nothing: {unknown:?}")
        })?;
        pair.cable.plug();
        pair.wait_in_step(super::PATIENCE).await?;
        for number in 0..count {
            let read = build::read_16(u64::from(number) * 256, 64, false);
            let data = path.ask("READ(16)", read, 64 * BLOCK as u32).await?;
            ensure(data.iter().all(|byte| *byte == 0x80 + round), || "an aborted write landed late".into())?;
        }
    }
    println!("  slowest abort {} ms", slowest.as_millis());
    drop(path);
    pair.stop_and_compare().await?;
    Ok(Verdict::Passed)
}

/// Eager zeroing of a virtual disk, and space given back in pieces as large as the limits allow.
async fn zeroes(shard: Shard, folder: PathBuf) -> Outcome {
    let pair = mirrored(&folder).await?;
    let path = Path::all(&shard, &pair, HOST_2).await?.remove(0);
    path.attentions().await?;
    let limits = path.ask("block limits", build::inquiry(Some(0xB0), 64), 64).await?;
    let (most, descriptors) = (u32_at(&limits, 20)?, u32_at(&limits, 24)?);
    let data = vec![0x77; 4 << 20];
    let piece = 2048u32; // 1 MiB
    for number in 0..4u64 {
        path.tell("WRITE(16)", build::write_16(number * 8192, 8192, false), &data).await?;
    }
    for number in 0..8u64 {
        let same = build::write_same_16(number * u64::from(piece), piece, false, false);
        path.tell("WRITE SAME(16) of zeros", same, &[0; BLOCK]).await?;
    }
    let zeros = path.ask("READ(16)", build::read_16(0, 8 * piece, false), 8 << 20).await?;
    ensure(zeros.iter().all(|byte| *byte == 0), || "zeroing left something".into())?;
    let next = path.ask("READ(16)", build::read_16(8 * u64::from(piece), 1, false), 512).await?;
    ensure(next.iter().all(|byte| *byte == 0x77), || "zeroing took too much".into())?;
    // As many descriptors as the page allows, 1 MiB apart, within the block count that it allows.
    let count = descriptors.min(8).min(most / 1024);
    let ranges: Vec<_> = (0..count).map(|n| (16384 + u64::from(n) * 2048, 1024)).collect();
    let list = build::unmap_parameters(&ranges);
    path.tell("UNMAP", build::unmap(list.len() as u16), &list).await?;
    for (lba, blocks) in &ranges {
        let read = path.ask("READ(16)", build::read_16(*lba, *blocks, false), blocks * 512).await?;
        ensure(read.iter().all(|byte| *byte == 0), || format!("unmapped at {lba} and not zero"))?;
        let kept = path.ask("READ(16)", build::read_16(lba + 1024, 1, false), 512).await?;
        ensure(kept.iter().all(|byte| *byte == 0x77), || format!("unmapped too much behind {lba}"))?;
    }
    // One block too many is refused and nothing is unmapped.
    if let Some(above) = most.checked_add(1).filter(|above| u64::from(*above) <= super::SIZE / 512) {
        let list = build::unmap_parameters(&[(0, above)]);
        let cdb = build::unmap(list.len() as u16);
        path.expect("UNMAP beyond the limit", "CHECK 5/26/00", cdb, out(&list)).await?;
    }
    drop(path);
    pair.stop_and_compare().await?;
    Ok(Verdict::Passed)
}

/// A clone of 4 MiB pieces within the datastore, by EXTENDED COPY (LID1) with the target descriptors and the segment that ESXi uses.
async fn clones(shard: Shard, folder: PathBuf) -> Outcome {
    let pair: Pair = mirrored(&folder).await?;
    let path = Path::all(&shard, &pair, HOST_1).await?.remove(0);
    path.attentions().await?;
    let standard = path.ask("INQUIRY", build::inquiry(None, 36), 36).await?;
    if standard[5] & 0x08 == 0 {
        return Ok(Verdict::Skipped("the unit does not say that it copies (3PC)".into()));
    }
    // RECEIVE COPY OPERATING PARAMETERS.
    let parameters = cdb([0x84, 0x03, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0]);
    let parameters = path.ask("RECEIVE COPY OPERATING PARAMETERS", parameters, 1024).await?;
    ensure(u16_at(&parameters, 8)? >= 2 && u16_at(&parameters, 10)? >= 1, || {
        format!("two target descriptors and a segment: {parameters:02x?}")
    })?;
    let identity = path.ask("identification", build::inquiry(Some(0x83), 255), 255).await?;
    let naa = naa(&identity)?;
    let (from, to, blocks) = (0u64, 65536u64, 8192u16);
    let data: Vec<u8> = (0..usize::from(blocks) * BLOCK).map(|at| (at / 97) as u8).collect();
    path.tell("WRITE(16)", build::write_16(from, u32::from(blocks), false), &data).await?;
    for round in 0..4u64 {
        let to = to + round * u64::from(blocks);
        let list = copy_list(&naa, from, to, blocks);
        let mut copy = cdb([0x83]);
        copy[10..14].copy_from_slice(&(list.len() as u32).to_be_bytes());
        path.tell("EXTENDED COPY", copy, &list).await?;
        let read = build::read_16(to, u32::from(blocks), false);
        let copied = path.ask("READ(16)", read, u32::from(blocks) * 512).await?;
        ensure(copied == data, || format!("the clone at {to} differs"))?;
    }
    // A LU that nobody has is refused and nothing is copied.
    let mut stranger = naa;
    stranger[15] ^= 0xFF;
    let list = copy_list(&stranger, from, 0, 1);
    let mut copy = cdb([0x83]);
    copy[10..14].copy_from_slice(&(list.len() as u32).to_be_bytes());
    let refused = path.send(copy, Transfer::Write(list.into())).await?;
    ensure(outcome(&refused).starts_with("CHECK "), || "a copy from a LU that is not there".into())?;
    drop(path);
    pair.stop_and_compare().await?;
    Ok(Verdict::Passed)
}

/// The parameter list of EXTENDED COPY (LID1): two identification descriptors of the same LU, one block-to-block segment (SPC-5, 6.4).
fn copy_list(naa: &[u8; 16], from: u64, to: u64, blocks: u16) -> Vec<u8> {
    let mut list = vec![0; 16];
    list[1] = 0x20; // STR is clear, the list identifier is kept by nobody
    list[3] = 64; // bytes of target descriptors
    list[11] = 28; // bytes of segment descriptors
    for _ in 0..2 {
        let mut target = [0; 32];
        target[0] = 0xE4;
        (target[4], target[5], target[7]) = (1, 3, 16); // binary, NAA
        target[8..24].copy_from_slice(naa);
        target[30] = 2; // 512 bytes for each block
        list.extend(target);
    }
    let mut segment = [0; 28];
    segment[0] = 0x02;
    segment[1] = 0x02; // DC
    segment[3] = 24;
    segment[7] = 1;
    segment[10..12].copy_from_slice(&blocks.to_be_bytes());
    segment[12..20].copy_from_slice(&from.to_be_bytes());
    segment[20..28].copy_from_slice(&to.to_be_bytes());
    list.extend(segment);
    list
}
