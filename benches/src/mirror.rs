//! What the mirror driver costs: the same writes to a LU without mirror, to one whose mirror has no secondary (the write intent
//! log alone), and to one with a secondary in step. Both units run on the core of the target.

use std::time::Duration;

use serde_json::json;
use twinlun::stage::{StageArray, free_port};

use crate::report::{Bound, Report, median};
use crate::sample::{Direction, Sample, fill, means, medians, random, sample};
use crate::{Cores, Failure, Options, bind, join, mirror_blank, unit_with_disk};

const SIZE: u64 = 16 << 20;
const DEPTH: u32 = 32;
/// Long enough that every region has been written to and is in the intent log.
const WARM_UP: Duration = Duration::from_millis(500);
/// One round, by LUN: everything twice, in an order that is the same from behind, so that what drifts meets all alike.
const ORDER: [u16; 6] = [0, 1, 2, 2, 1, 0];
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
    let mut rounds = Vec::new();
    for _ in 0..options.rounds() {
        let mut round: [Vec<_>; 3] = Default::default();
        for lun in ORDER {
            let url = east.url(lun);
            sample(cores, &random(&url, Direction::Write, DEPTH, WARM_UP)?, &pids)?;
            let time = options.time() / 2;
            round[usize::from(lun)].push(sample(
                cores,
                &random(&url, Direction::Write, DEPTH, time)?,
                &pids,
            )?);
        }
        rounds.push(round.map(|twice| means(&twice)));
    }
    for (lun, name) in LUS.iter().enumerate() {
        let all: Vec<_> = rounds.iter().map(|round| round[lun]).collect();
        let Sample { iops, cpu, .. } = medians(&all);
        report.note(format!("write 4 KiB, depth {DEPTH}, {name}"), iops, "IOPS");
        report.note(format!("write 4 KiB, depth {DEPTH}, {name}: processor time"), cpu, "µs");
    }
    // Each round is a comparison of its own: what one round has to bear that another has not does not count.
    let paired = |ratio: fn(&[Sample; 3]) -> f64| median(rounds.iter().map(ratio));
    let cost = paired(|[plain, intent, _]| intent.cpu / plain.cpu - 1.0) * 100.0;
    report.judge("write intent log on a warm working set: processor time", cost, "%", Bound::AtMost(5.0));
    let slower = paired(|[plain, intent, _]| plain.iops / intent.iops - 1.0) * 100.0;
    report.note("write intent log on a warm working set: IOPS", slower, "%");
    let ratio = paired(|[plain, _, mirrored]| mirrored.cpu / plain.cpu);
    report.judge("mirrored / unmirrored: processor time of both units", ratio, "×", Bound::AtMost(3.0));
    east.stop().await?;
    Ok(west.stop().await?)
}
