//! What the mirror driver costs: the same writes to a LU without mirror, to one whose mirror has no secondary (the write intent
//! log alone), and to one with a secondary in step. Both units run on the core of the target.

use std::time::Duration;

use serde_json::json;
use twinlun::stage::{StageArray, free_port};

use crate::report::{Bound, Report};
use crate::sample::{Direction, fill, medians, random, sample};
use crate::{Cores, Failure, Options, bind, join, mirror_blank, unit_with_disk};

const SIZE: u64 = 16 << 20;
const DEPTH: u32 = 32;
/// Long enough that every region has been written to and is in the intent log.
const WARM_UP: Duration = Duration::from_millis(500);
/// The three LUs by LUN.
const LUS: [&str; 3] = ["plain", "intent", "mirrored"];

pub(crate) async fn run(options: &Options, cores: Cores, report: &mut Report) -> Result<(), Failure> {
    let folder = options.folder()?;
    let mut east = unit_with_disk("east", "ram:east", 3 * SIZE + (192 << 20));
    let mut west = unit_with_disk("west", "ram:west", SIZE + (192 << 20));
    let link = free_port()?;
    join(&mut east, &mut west, link, link);
    let mut west = StageArray::start(folder.path(), west).await?;
    let mut east = StageArray::start(folder.path(), east).await?;
    for (lun, name) in (0..).zip(LUS) {
        bind(&east, name, SIZE, lun).await?;
    }
    bind(&west, "mirrored", SIZE, 0).await?;
    east.client().post("/v1/mirrors", json!({"name": "alone", "lus": ["intent"]})).await?;
    mirror_blank(&east, "m", "mirrored", "west").await?;
    let pids = [&east, &west].map(StageArray::pid);
    let pids = pids.into_iter().collect::<Option<Vec<u32>>>().ok_or("a unit does not run")?;
    for lun in 0..3 {
        fill(cores, &east.url(lun), SIZE)?;
    }
    let mut samples: [Vec<_>; 3] = Default::default();
    for _ in 0..options.rounds() {
        for (lun, samples) in (0..).zip(&mut samples) {
            let url = east.url(lun);
            sample(cores, &random(&url, Direction::Write, DEPTH, WARM_UP)?, &pids)?;
            samples.push(sample(cores, &random(&url, Direction::Write, DEPTH, options.time())?, &pids)?);
        }
    }
    let [plain, intent, mirrored] = samples.map(|samples| medians(&samples));
    for (name, sample) in LUS.iter().zip([plain, intent, mirrored]) {
        report.note(format!("write 4 KiB, depth {DEPTH}, {name}"), sample.iops, "IOPS");
        report.note(format!("write 4 KiB, depth {DEPTH}, {name}: processor time"), sample.cpu, "µs");
    }
    let cost = (intent.cpu / plain.cpu - 1.0) * 100.0;
    report.judge("write intent log on a warm working set: processor time", cost, "%", Bound::AtMost(5.0));
    report.note(
        "write intent log on a warm working set: IOPS",
        (plain.iops / intent.iops - 1.0) * 100.0,
        "%",
    );
    let ratio = mirrored.cpu / plain.cpu;
    report.judge("mirrored / unmirrored: processor time of both units", ratio, "×", Bound::AtMost(3.0));
    east.stop().await?;
    Ok(west.stop().await?)
}
