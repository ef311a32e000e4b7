//! Hostile disks: a unit of three disks with a mirrored LU, bytes changed in what is not LU data, checksums made right again or not,
//! and then the whole unit opened on them. It refuses or serves; it never panics, hangs, or reads wrong data where the checksums tell.

use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use twinlun_array::{Array, ArrayError, ArrayOptions, DiskConfig, LuSpec, Raid};
use twinlun_block::{BlockLayer, BlockRequest, ByteRange, MetaLog, MetaStore};
use twinlun_io::Shard;
use twinlun_io::sim::{Medium, World, WorldOptions};
use twinlun_iscsi::digest::Crc32c;

use crate::engine::{Probe, Target};
use crate::input::{Source, pattern};

const DISKS: usize = 3;
const SIZE: u64 = 16 << 20;
const LU_SIZE: u64 = 1 << 20;
const BLOCK: u64 = 4096;
/// Where things are on a disk of this size (docs/design/vault.md): the two image slots, the pages, the data, the second label.
const SLOTS: [u64; 2] = [BLOCK, BLOCK + (1 << 20)];
const PAGES: u64 = BLOCK + (2 << 20);
const END_LABEL: u64 = SIZE - BLOCK;
const RECORD: &str = "mirror/index";
const LOG: &str = "mirror/intent";

pub(crate) fn targets() -> Vec<Target> {
    vec![Target {
        name: "array-disks",
        execs: 300,
        longest: 1000,
        work: (4096, 64),
        fresh: |rng| {
            let len = rng.len(60);
            rng.bytes(len)
        },
        run,
    }]
}

fn path(disk: usize) -> String {
    format!("/disk{disk}")
}

fn world() -> World {
    // An honest opening takes some thousand polls and some virtual seconds.
    World::new(
        1,
        WorldOptions { step_limit: 300_000, time_limit: Duration::from_secs(600), ..WorldOptions::default() },
    )
}

async fn open(shard: Shard) -> Result<Array, ArrayError> {
    let disks = (0..DISKS).map(|disk| DiskConfig { path: path(disk).into(), size: Some(SIZE) }).collect();
    let options = ArrayOptions { intent_idle: Duration::from_millis(200), ..ArrayOptions::default() };
    Array::open_with(shard, "east", disks, options).await
}

/// Runs a job as the storage processor.
fn play<T: 'static>(world: &World, job: impl AsyncFnOnce(Shard) -> T + 'static) -> T {
    let process = world.process("sp", IpAddr::from([10, 0, 0, 1]));
    let out = Rc::new(RefCell::new(None));
    let (put, shard) = (out.clone(), process.shard());
    process.spawn(async move {
        let value = job(shard).await;
        *put.borrow_mut() = Some(value);
    });
    for _ in 0..200 {
        world.run_for(Duration::from_secs(1)).expect("the world goes on");
        if let Some(value) = out.borrow_mut().take() {
            return value;
        }
    }
    panic!("the job does not end");
}

thread_local! {
    static GENUINE: Vec<Medium> = genuine();
}

/// The disks of a unit that was used and shut down in order or not.
fn genuine() -> Vec<Medium> {
    let world = world();
    play(&world, async |shard| {
        let array = open(shard).await.expect("blank disks make a unit");
        let info = array.create_lu(LuSpec::new("data", LU_SIZE, Raid::Raid1)).await.expect("there is room");
        let lu = array.lu(info.uuid).expect("it was created");
        let range = ByteRange::new(0, 128 << 10);
        lu.execute(BlockRequest::Write { range, data: pattern(128 << 10).into(), fua: true })
            .await
            .expect("is written");
        let vault = array.vault();
        vault.put(vec![(RECORD.into(), Some(pattern(300)))]).await.expect("is stored");
        let log = vault.open_log(LOG, 4).await.expect("there is room");
        log.write(vec![(1, pattern(2000))]).await.expect("is stored");
    });
    (0..DISKS).map(|disk| world.disk(&path(disk)).copy()).collect()
}

fn seal(block: &mut [u8], at: usize) {
    let sum = Crc32c::new().feed(&block[..at]).feed(&[0; 4]).feed(&block[at + 4..]).wire();
    block[at..at + 4].copy_from_slice(&sum);
}

/// What was done to the disks.
#[derive(Default)]
struct Damage {
    disks: usize,
    sealed: bool,
    labels: bool,
}

fn damage(media: &mut [Medium], source: &mut Source<'_>) -> Damage {
    let mut done = Damage::default();
    let mut touched = 0u8;
    for _ in 0..source.below(4) + 1 {
        let mask = source.pick(&[1u8, 2, 4, 7, 7, 3]);
        touched |= mask;
        let seals = !source.rarely(3);
        done.sealed |= seals;
        let (kind, which, at) = (source.below(9), source.below(2), source.u16());
        let new = edit(source);
        for (_, medium) in media.iter_mut().enumerate().filter(|(disk, _)| mask & 1 << disk != 0) {
            match kind {
                0 => {
                    done.labels = true;
                    let label = [0, END_LABEL][which];
                    change(medium, label, BLOCK, at % 128, &new, seals.then_some(4092));
                }
                1 => change(medium, SLOTS[which], BLOCK, at % 80, &new, seals.then_some(4092)),
                2..=6 => body(medium, SLOTS[which], at, &new, seals),
                _ => {
                    let block = PAGES + u64::from(at % 32) * BLOCK;
                    change(medium, block, BLOCK, at / 32 % 80, &new, seals.then_some(28));
                }
            }
        }
    }
    done.disks = touched.count_ones() as usize;
    done
}

/// Bytes to put in: digits for what is stored as text, anything else otherwise.
fn edit(source: &mut Source<'_>) -> Vec<u8> {
    match source.below(8) {
        0..=4 => source.number().to_string().into_bytes(),
        5 => source.number().to_le_bytes()[..1 + source.below(8)].to_vec(),
        6 => source.pick(&["null", "[]", "{}", "-1", "\"", "true", "0", "raid0"]).as_bytes().to_vec(),
        _ => {
            let len = 1 + source.below(24);
            source.take(len).to_vec()
        }
    }
}

fn change(medium: &mut Medium, start: u64, len: u64, at: u16, new: &[u8], crc_at: Option<usize>) {
    let mut block = medium.peek(ByteRange::new(start, len));
    let at = usize::from(at).min(block.len() - new.len());
    block[at..at + new.len()].copy_from_slice(new);
    if let Some(crc_at) = crc_at {
        seal(&mut block, crc_at);
    }
    medium.poke(start, &block);
}

/// Changes the records of an image: a number in them becomes another one, or bytes are written over.
fn body(medium: &mut Medium, slot: u64, at: u16, new: &[u8], seals: bool) {
    let mut head = medium.peek(ByteRange::new(slot, BLOCK));
    let len = u32::from_le_bytes([head[64], head[65], head[66], head[67]]) as usize;
    if len == 0 || len > 900 << 10 {
        return;
    }
    let mut body = medium.peek(ByteRange::new(slot + BLOCK, (len as u64).next_multiple_of(BLOCK)));
    let start = usize::from(at) % len;
    let digit = |byte: &u8| byte.is_ascii_digit();
    let number = body[start..len].iter().position(digit).map_or(start, |skip| start + skip);
    if new.iter().all(digit) {
        // As many digits as were there, so that the lengths of the records stay right.
        let run = body[number..len].iter().take_while(|byte| digit(byte)).count();
        for (index, place) in body[number..number + run].iter_mut().enumerate() {
            *place = new.get(index.wrapping_sub(run.saturating_sub(new.len()))).copied().unwrap_or(b'9');
        }
    } else {
        let end = (start + new.len()).min(len);
        body[start..end].copy_from_slice(&new[..end - start]);
    }
    if seals {
        let sum = Crc32c::new().feed(&body[..len]).wire();
        head[68..72].copy_from_slice(&sum);
        seal(&mut head, 4092);
    }
    medium.poke(slot, &head);
    medium.poke(slot + BLOCK, &body);
}

fn run(input: &[u8], probe: &mut Probe) {
    let mut source = Source::new(input);
    let mut media = GENUINE.with(Clone::clone);
    let damage = damage(&mut media, &mut source);
    let world = world();
    for (disk, medium) in media.into_iter().enumerate() {
        let slot = world.disk(&path(disk));
        slot.remove();
        slot.insert(medium);
    }
    let trusted = !damage.sealed;
    let outcome = play(&world, async move |shard| serve(shard, trusted).await);
    if trusted && damage.disks == 1 && !damage.labels {
        assert_eq!(outcome, "serves", "one damaged disk of three harms nobody");
    }
    probe.saw(outcome.chars().filter(|c| !c.is_ascii_digit()).take(160).collect::<String>());
    probe.work(1);
}

/// Opens the unit and uses everything in it. `trusted`: all that was changed fails its checksum, so data that is read is right.
async fn serve(shard: Shard, trusted: bool) -> String {
    let array = match open(shard).await {
        Ok(array) => array,
        Err(error) => return format!("refuses: {error}"),
    };
    let mut outcome = "serves without the LU".to_owned();
    for info in array.lus() {
        let Some(lu) = array.lu(info.uuid) else { continue };
        let len = (128 << 10).min(info.size);
        let read = lu.execute(BlockRequest::Read { range: ByteRange::new(0, len) }).await;
        outcome = match read {
            Ok(data) if data.to_bytes() == pattern(len as usize) => "serves".to_owned(),
            Ok(_) => {
                assert!(!trusted, "wrong data is read, and the checksums could tell");
                "serves other data".to_owned()
            }
            Err(error) => format!("fails: {error}"),
        };
        let range = ByteRange::new(0, 4096.min(info.size));
        let written = lu
            .execute(BlockRequest::Write { range, data: pattern(range.len() as usize).into(), fua: true })
            .await;
        let flushed = lu.execute(BlockRequest::Flush).await;
        let _ = (written, flushed);
    }
    let vault = array.vault();
    if let Some(record) = vault.get(RECORD) {
        assert!(!trusted || record == pattern(300), "a record is whole or gone");
    }
    if let Ok(log) = vault.open_log(LOG, 4).await {
        for page in 0..4 {
            if let Ok(content) = log.read(page).await {
                assert!(
                    !trusted || content.is_empty() || content == pattern(2000),
                    "a page is whole or gone"
                );
            }
        }
        let _ = log.write(vec![(2, pattern(100))]).await;
    }
    let _ = vault.put(vec![(RECORD.into(), Some(pattern(20)))]).await;
    let _ = array.create_lu(LuSpec::new("more", LU_SIZE, Raid::Raid0)).await;
    let _ = array.shutdown().await;
    outcome
}
