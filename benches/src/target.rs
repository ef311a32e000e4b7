//! One connection to the target, its store in RAM: against tgt, and against an echo of the same bytes.

use std::time::Duration;

use twinlun::initiator::Session;
use twinlun::stage::StageArray;
use twinlun_io::{EngineChoice, Shard, run_shard};

use crate::echo::{Echo, Exchange};
use crate::machine::{cpu_time, on_core};
use crate::report::{Bound, Report};
use crate::sample::{Direction, Sample, fill, medians, random, sample};
use crate::sessions::log_in;
use crate::tgt::Tgt;
use crate::{Cores, Failure, Options, bind, unit_with_disk};

/// Small enough for the processor's cache: the copy to memory that is not would be a third of a write's cost, and says nothing
/// about a target.
const SIZE: u64 = 16 << 20;
/// Commands under way when throughput is measured.
const DEPTH: u32 = 32;
/// How long an idle session is watched.
const IDLE: Duration = Duration::from_secs(10);

/// Both targets with the same content.
struct Rivals {
    unit: StageArray,
    tgt: Option<Tgt>,
    cores: Cores,
    rounds: u32,
    time: Duration,
}

pub(crate) async fn run(options: &Options, cores: Cores, report: &mut Report) -> Result<(), Failure> {
    let folder = options.folder()?;
    let unit = unit_with_disk("solo", "ram:store", SIZE + (128 << 20));
    let unit = StageArray::start(folder.path(), unit).await?;
    bind(&unit, "store", SIZE, 0).await?;
    // Its file is in RAM too.
    let backing = tempfile::NamedTempFile::new_in("/dev/shm")?;
    backing.as_file().set_len(SIZE)?;
    let tgt = Tgt::start(backing.path()).await?;
    if tgt.is_none() {
        eprintln!("tgt is not installed (apt-get install tgt): nothing to compare with");
    }
    fill(cores, &unit.url(0), SIZE)?;
    if let Some(tgt) = &tgt {
        fill(cores, &tgt.url(), SIZE)?;
    }
    let mut rivals = Rivals { unit, tgt, cores, rounds: options.rounds(), time: options.time() };
    for direction in Direction::BOTH {
        rivals.throughput(direction, report)?;
    }
    for direction in Direction::BOTH {
        rivals.latency(direction, report)?;
    }
    rivals.idle(report)?;
    Ok(rivals.unit.stop().await?)
}

impl Rivals {
    fn pid(&self) -> Result<u32, Failure> {
        Ok(self.unit.pid().ok_or("the unit does not run")?)
    }

    fn ours(&self, direction: Direction, depth: u32) -> Result<Sample, Failure> {
        sample(self.cores, &random(&self.unit.url(0), direction, depth, self.time)?, &[self.pid()?])
    }

    fn theirs(&self, direction: Direction, depth: u32) -> Result<Option<Sample>, Failure> {
        let Some(tgt) = &self.tgt else { return Ok(None) };
        sample(self.cores, &random(&tgt.url(), direction, depth, self.time)?, &[tgt.pid()]).map(Some)
    }

    fn throughput(&self, direction: Direction, report: &mut Report) -> Result<(), Failure> {
        let echo = Echo::start(Exchange::of(direction))?;
        let (mut ours, mut theirs, mut bare) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..self.rounds {
            ours.push(self.ours(direction, DEPTH)?);
            theirs.extend(self.theirs(direction, DEPTH)?);
            bare.push(echo.sample(self.cores, DEPTH as usize, self.time)?);
        }
        let name = format!("{} 4 KiB, depth {DEPTH}", direction.name());
        let (ours, bare) = (medians(&ours), medians(&bare));
        report.note(format!("{name}: twinlund"), ours.iops, "IOPS");
        report.note(format!("{name}: bare echo"), bare.iops, "IOPS");
        if !theirs.is_empty() {
            let theirs = medians(&theirs);
            report.note(format!("{name}: tgtd"), theirs.iops, "IOPS");
            report.note(format!("{name}: processor time of tgtd"), theirs.cpu, "µs");
            report.judge(
                format!("{name}: twinlund / tgtd"),
                ours.iops / theirs.iops,
                "×",
                Bound::AtLeast(8.0),
            );
            // What a target that did nothing at all would reach.
            report.note(format!("{name}: bare echo / tgtd"), bare.iops / theirs.iops, "×");
            report.note(format!("{name}: processor time, tgtd / twinlund"), theirs.cpu / ours.cpu, "×");
        }
        report.note(format!("{name}: processor time of twinlund"), ours.cpu, "µs");
        report.note(format!("{name}: processor time of the echo"), bare.cpu, "µs");
        let ratio = ours.cpu / bare.cpu;
        report.judge(format!("{name}: processor time, twinlund / echo"), ratio, "×", Bound::AtMost(2.0));
        Ok(())
    }

    fn latency(&self, direction: Direction, report: &mut Report) -> Result<(), Failure> {
        let echo = Echo::start(Exchange::of(direction))?;
        let (mut ours, mut theirs, mut bare) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..self.rounds {
            ours.push(self.ours(direction, 1)?);
            theirs.extend(self.theirs(direction, 1)?);
            bare.push(echo.sample(self.cores, 1, self.time)?);
        }
        let name = format!("{} 4 KiB, depth 1: median latency", direction.name());
        let ours = medians(&ours).latency;
        report.note(format!("{name}, twinlund"), ours, "µs");
        // Waking one side and then the other: nobody who sleeps between commands gets below this.
        report.note(format!("{name}, bare echo (mean)"), medians(&bare).latency, "µs");
        if !theirs.is_empty() {
            let theirs = medians(&theirs).latency;
            report.note(format!("{name}, tgtd"), theirs, "µs");
            report.judge(format!("{name}, twinlund / tgtd"), ours / theirs, "×", Bound::AtMost(0.5));
        }
        Ok(())
    }

    fn idle(&self, report: &mut Report) -> Result<(), Failure> {
        let pid = self.pid()?;
        let (portal, target) = (self.unit.portal().parse()?, self.unit.target());
        let watch = async |shard: Shard| {
            let session: Session = log_in(&shard, portal, &target, 0).await?;
            shard.sleep(Duration::from_secs(1)).await;
            let before = cpu_time(pid)?;
            shard.sleep(IDLE).await;
            let spent = cpu_time(pid)?.saturating_sub(before);
            session.logout().await?;
            Ok::<_, Failure>(spent)
        };
        let watched = on_core(self.cores.load, || {
            run_shard(EngineChoice::Auto, watch)?.map_err(|error| std::io::Error::other(error.to_string()))
        });
        let milliseconds = watched??.as_secs_f64() * 1e3;
        let name = format!("idle session: processor time in {} s", IDLE.as_secs());
        // One tick of the kernel's own accounting: what `ps` shows as no time at all.
        report.judge(name, milliseconds, "ms", Bound::AtMost(10.0));
        Ok(())
    }
}
