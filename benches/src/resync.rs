//! Resynchronisation: the same amount of scattered changes in a small LU and in one 64 times as large must cost the same.

use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use serde_json::json;
use twinlun::stage::{StageArray, free_port};
use twinlun_io::{EngineChoice, Shard, run_shard};
use twinlun_iscsi::pdu::Lun;

use crate::link::CountingLink;
use crate::machine::on_core;
use crate::report::{Bound, Report, median};
use crate::sessions::log_in;
use crate::{Cores, Failure, Options, bind, join, mirror_blank, secondary, unit_with_disk, wait_in_step};

/// Changes in all, and of one write.
const CHANGES: u64 = 64 << 20;
const CHANGE: u64 = 64 << 10;
const SMALL: u64 = 1 << 30;
const LARGE: u64 = 64 << 30;
const BLOCK: u32 = 512;

/// One resynchronisation.
#[derive(Clone, Copy, Debug)]
struct Run {
    seconds: f64,
    /// Bytes that the link carried.
    carried: f64,
    /// Bytes that were missing on the secondary.
    missing: f64,
}

/// A mirrored LU of two units whose disks are sparse files.
struct Pair {
    size: u64,
    east: StageArray,
    west: StageArray,
    link: CountingLink,
    _folder: tempfile::TempDir,
}

pub(crate) async fn run(options: &Options, cores: Cores, report: &mut Report) -> Result<(), Failure> {
    let mut small = Pair::build(options, cores, SMALL).await?;
    let mut large = Pair::build(options, cores, LARGE).await?;
    let (mut smalls, mut larges) = (Vec::new(), Vec::new());
    for round in 0..options.rounds() {
        smalls.push(small.resynchronise(cores, round).await?);
        larges.push(large.resynchronise(cores, round).await?);
    }
    small.stop().await?;
    large.stop().await?;
    let of = |runs: &[Run], get: fn(&Run) -> f64| median(runs.iter().map(get));
    for (name, runs) in [("1 GiB", &smalls), ("64 GiB", &larges)] {
        report.note(format!("resync of 64 MiB in {name}: time"), of(runs, |run| run.seconds), "s");
        let mib = |bytes: f64| bytes / f64::from(1 << 20);
        report.note(format!("resync of 64 MiB in {name}: missing"), mib(of(runs, |run| run.missing)), "MiB");
        report.note(
            format!("resync of 64 MiB in {name}: on the link"),
            mib(of(runs, |run| run.carried)),
            "MiB",
        );
    }
    let bytes = of(&larges, |run| run.carried) / CHANGES as f64;
    report.judge("resync: bytes on the link / bytes changed, 64 GiB", bytes, "×", Bound::AtMost(1.1));
    let time = of(&larges, |run| run.seconds) / of(&smalls, |run| run.seconds);
    report.judge("resync: time, 64 GiB / 1 GiB", time, "×", Bound::AtMost(2.0));
    Ok(())
}

impl Pair {
    async fn build(options: &Options, cores: Cores, size: u64) -> Result<Self, Failure> {
        let folder = options.folder()?;
        let disk = size + size / 64 + (256 << 20);
        let mut east = unit_with_disk("east", "disk.img", disk);
        let mut west = unit_with_disk("west", "disk.img", disk);
        let listen = free_port()?;
        let link = CountingLink::lay(listen, cores)?;
        join(&mut east, &mut west, link.address(), listen);
        let west = StageArray::start(folder.path(), west).await?;
        let east = StageArray::start(folder.path(), east).await?;
        for unit in [&east, &west] {
            bind(unit, "db", size, 0).await?;
        }
        mirror_blank(&east, "m", "db", "west").await?;
        Ok(Self { size, east, west, link, _folder: folder })
    }

    async fn resynchronise(&self, cores: Cores, round: u32) -> Result<Run, Failure> {
        let order = json!({"unit": "west"});
        self.east.client().post("/v1/mirrors/m/fracture", &order).await?;
        let (portal, target) = (self.east.portal().parse()?, self.east.target());
        let write = async |shard: Shard| scatter(&shard, portal, &target, self.size, round).await;
        on_core(cores.load, || {
            run_shard(EngineChoice::Auto, write)?.map_err(|error| std::io::Error::other(error.to_string()))
        })??;
        let missing = secondary(&self.east, "m").await?["dirty_bytes"].as_u64().unwrap_or_default() as f64;
        let (start, carried) = (Instant::now(), self.link.carried());
        self.east.client().post("/v1/mirrors/m/restore", &order).await?;
        wait_in_step(&self.east, "m").await?;
        let seconds = start.elapsed().as_secs_f64();
        Ok(Run { seconds, carried: (self.link.carried() - carried) as f64, missing })
    }

    async fn stop(&mut self) -> Result<(), Failure> {
        self.east.stop().await?;
        Ok(self.west.stop().await?)
    }
}

/// Writes all changes, evenly scattered, at other places in every round.
async fn scatter(
    shard: &Shard,
    portal: SocketAddr,
    target: &str,
    size: u64,
    round: u32,
) -> Result<(), Failure> {
    let session = log_in(shard, portal, target, 0).await?;
    session.ready(Lun::ZERO).await?;
    let step = size / (CHANGES / CHANGE);
    let mut data = vec![0; CHANGE as usize];
    shard.fill_random(&mut data);
    let data = Bytes::from(data);
    for index in 0..CHANGES / CHANGE {
        let inner = u64::from(round) * CHANGE % step;
        let lba = (index * step + inner) / u64::from(BLOCK);
        let blocks = (CHANGE / u64::from(BLOCK)) as u32;
        session.write(Lun::ZERO, lba, blocks, data.clone().into(), false).await?;
    }
    Ok(session.logout().await?)
}
