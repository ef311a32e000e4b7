//! One measurement of load on a LUN.

use std::time::Duration;

use clap::Parser;
use twinlun::load::{LoadArgs, measure};

use crate::machine::{cpu_time, on_core};
use crate::report::median;
use crate::{Cores, Failure};

/// What is done to the LUN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Read,
    Write,
}

impl Direction {
    pub(crate) const BOTH: [Self; 2] = [Self::Read, Self::Write];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

/// Bytes per command of all comparisons.
pub(crate) const BLOCK: u64 = 4096;

/// What one measurement yields.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// Commands per second.
    pub(crate) iops: f64,
    /// Processor time per command of the processes that are measured, in microseconds.
    pub(crate) cpu: f64,
    /// Median latency in microseconds.
    pub(crate) latency: f64,
}

/// Medians of each.
pub(crate) fn medians(samples: &[Sample]) -> Sample {
    Sample {
        iops: median(samples.iter().map(|s| s.iops)),
        cpu: median(samples.iter().map(|s| s.cpu)),
        latency: median(samples.iter().map(|s| s.latency)),
    }
}

/// Means of each.
pub(crate) fn means(samples: &[Sample]) -> Sample {
    let mean = |of: fn(&Sample) -> f64| samples.iter().map(of).sum::<f64>() / samples.len() as f64;
    Sample { iops: mean(|s| s.iops), cpu: mean(|s| s.cpu), latency: mean(|s| s.latency) }
}

/// The arguments of `twinlun load`, read as there.
#[derive(Debug, clap::Parser)]
struct Line {
    #[command(flatten)]
    load: LoadArgs,
}

/// A load on one connection, without a time of its own to warm up.
fn load(url: &str, options: &[&str]) -> Result<LoadArgs, Failure> {
    let fixed = ["load", url, "--warm-up", "0ms", "--initiator", "iqn.2026-11.io.twinlun:bench"];
    Ok(Line::try_parse_from(fixed.iter().chain(options))?.load)
}

/// Random 4 KiB commands.
pub(crate) fn random(
    url: &str,
    direction: Direction,
    depth: u32,
    time: Duration,
) -> Result<LoadArgs, Failure> {
    let read = if direction == Direction::Read { "100" } else { "0" };
    let time = format!("{}ms", time.as_millis());
    load(url, &["--block-size", "4KiB", "--read", read, "--depth", &depth.to_string(), "--time", &time])
}

/// Puts load on a LUN from the load's core and takes the processor time of `pids` meanwhile.
pub(crate) fn sample(cores: Cores, args: &LoadArgs, pids: &[u32]) -> Result<Sample, Failure> {
    let cpu = || pids.iter().map(|pid| cpu_time(*pid)).sum::<Result<Duration, _>>();
    let before = cpu()?;
    let report = on_core(cores.load, || measure(args).map_err(|error| error.to_string()))??;
    let spent = cpu()?.saturating_sub(before);
    if report.errors + report.busy > 0 {
        return Err(format!("{} commands failed, {} met a busy target", report.errors, report.busy).into());
    }
    let latency = report.read_latency.or(report.write_latency).ok_or("no command ended in time")?;
    let commands = (report.reads + report.writes) as f64;
    Ok(Sample { iops: report.iops, cpu: spent.as_secs_f64() * 1e6 / commands, latency: latency.p50_us })
}

/// Writes the whole LUN, so that nothing is served from what was never written.
pub(crate) fn fill(cores: Cores, url: &str, size: u64) -> Result<(), Failure> {
    let mut seconds = 1;
    loop {
        let time = format!("{seconds}s");
        let options =
            ["--block-size", "1MiB", "--read", "0", "--depth", "4", "--order", "sequential", "--time", &time];
        let args = load(url, &options)?;
        let report = on_core(cores.load, || measure(&args).map_err(|error| error.to_string()))??;
        if report.writes << 20 >= size {
            return Ok(());
        }
        seconds *= 2;
    }
}
