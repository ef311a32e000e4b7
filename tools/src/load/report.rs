//! What was measured.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::{LoadArgs, Order};

/// Longest latency that is told apart, in nanoseconds.
const LONGEST: u64 = 600_000_000_000;

/// The tally of one connection.
#[derive(Debug)]
pub(super) struct LaneTally {
    read: Side,
    write: Side,
    pub(super) busy: u64,
    pub(super) errors: u64,
    pub(super) verified: u64,
}

#[derive(Debug)]
struct Side {
    commands: u64,
    bytes: u64,
    nanoseconds: Histogram<u64>,
}

impl Side {
    fn new() -> Self {
        let nanoseconds =
            Histogram::new_with_bounds(1, LONGEST, 3).expect("the bounds are constants that it takes");
        Self { commands: 0, bytes: 0, nanoseconds }
    }

    fn add(&mut self, other: &Self) {
        self.commands += other.commands;
        self.bytes += other.bytes;
        self.nanoseconds.add(&other.nanoseconds).expect("both have the same bounds");
    }

    fn latency(&self) -> Option<Latency> {
        let h = &self.nanoseconds;
        let microseconds = |ns: u64| ns as f64 / 1000.0;
        (!h.is_empty()).then(|| Latency {
            mean_us: h.mean() / 1000.0,
            p50_us: microseconds(h.value_at_quantile(0.5)),
            p90_us: microseconds(h.value_at_quantile(0.9)),
            p99_us: microseconds(h.value_at_quantile(0.99)),
            p999_us: microseconds(h.value_at_quantile(0.999)),
            max_us: microseconds(h.max()),
        })
    }
}

impl LaneTally {
    pub(super) fn new() -> Self {
        Self { read: Side::new(), write: Side::new(), busy: 0, errors: 0, verified: 0 }
    }

    pub(super) fn record(&mut self, write: bool, bytes: u64, latency: Duration) {
        let side = if write { &mut self.write } else { &mut self.read };
        side.commands += 1;
        side.bytes += bytes;
        side.nanoseconds.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(LONGEST));
    }
}

/// The tally of all.
#[derive(Debug)]
pub(super) struct Tally(LaneTally);

impl Tally {
    pub(super) fn new() -> Self {
        Self(LaneTally::new())
    }

    pub(super) fn add(&mut self, lane: &LaneTally) {
        self.0.read.add(&lane.read);
        self.0.write.add(&lane.write);
        self.0.busy += lane.busy;
        self.0.errors += lane.errors;
        self.0.verified += lane.verified;
    }

    pub(super) fn report(
        &self,
        args: &LoadArgs,
        seed: u64,
        measured: Duration,
        total: Duration,
        cpu: Duration,
    ) -> Report {
        let tally = &self.0;
        let seconds = measured.as_secs_f64().max(f64::MIN_POSITIVE);
        let commands = tally.read.commands + tally.write.commands;
        // Processor time is taken over the whole run, of which the measured part did its share.
        let share = measured.as_secs_f64() / total.as_secs_f64().max(f64::MIN_POSITIVE);
        let cpu_seconds = cpu.as_secs_f64() * share;
        Report {
            connections: args.connections,
            depth: args.depth,
            block_size: args.block_size.0,
            read_percent: args.read,
            order: args.order,
            seed,
            seconds: measured.as_secs_f64(),
            reads: tally.read.commands,
            writes: tally.write.commands,
            iops: commands as f64 / seconds,
            bytes_per_second: (tally.read.bytes + tally.write.bytes) as f64 / seconds,
            read_latency: tally.read.latency(),
            write_latency: tally.write.latency(),
            busy: tally.busy,
            errors: tally.errors,
            verified: args.verify.then_some(tally.verified),
            cpu_seconds,
            cpu_us_per_command: if commands == 0 { 0.0 } else { cpu_seconds * 1e6 / commands as f64 },
        }
    }
}

/// Latency in microseconds, from the batch that sent the command to the receive that brought its status.
#[derive(Clone, Copy, Debug, Serialize)]
#[allow(missing_docs, reason = "the fields say it")]
pub struct Latency {
    pub mean_us: f64,
    pub p50_us: f64,
    pub p90_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
    pub max_us: f64,
}

/// The result of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Sessions.
    pub connections: u32,
    /// Commands under way on each.
    pub depth: u32,
    /// Bytes per command.
    pub block_size: u64,
    /// Share of reads.
    pub read_percent: u8,
    /// Where commands went.
    pub order: Order,
    /// What repeats the sequence.
    pub seed: u64,
    /// Time measured.
    pub seconds: f64,
    /// Reads that ended well in it.
    pub reads: u64,
    /// Writes that ended well in it.
    pub writes: u64,
    /// Both per second.
    pub iops: f64,
    /// Bytes of both per second.
    pub bytes_per_second: f64,
    /// Latency of reads.
    pub read_latency: Option<Latency>,
    /// Latency of writes.
    pub write_latency: Option<Latency>,
    /// Commands that the target was too busy for.
    pub busy: u64,
    /// Commands that failed otherwise.
    pub errors: u64,
    /// Reads that were compared with what had been written.
    pub verified: Option<u64>,
    /// Processor time of this process over the measured time.
    pub cpu_seconds: f64,
    /// The same per command.
    pub cpu_us_per_command: f64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:.0} commands/s   {:.1} MiB/s   {} reads, {} writes in {:.1} s",
            self.iops,
            self.bytes_per_second / f64::from(1 << 20),
            self.reads,
            self.writes,
            self.seconds
        )?;
        for (name, latency) in [("read", self.read_latency), ("write", self.write_latency)] {
            if let Some(l) = latency {
                writeln!(
                    f,
                    "{name:<5} latency µs   mean {:.1}   p50 {:.1}   p90 {:.1}   p99 {:.1}   p99.9 {:.1}   max {:.1}",
                    l.mean_us, l.p50_us, l.p90_us, l.p99_us, l.p999_us, l.max_us
                )?;
            }
        }
        if let Some(verified) = self.verified {
            writeln!(f, "{verified} reads verified, none differs")?;
        }
        if self.errors + self.busy > 0 {
            writeln!(f, "{} commands failed, {} met a busy target", self.errors, self.busy)?;
        }
        writeln!(
            f,
            "own processor time {:.2} s, {:.2} µs per command",
            self.cpu_seconds, self.cpu_us_per_command
        )
    }
}

/// Processor time of this process so far: user and system time of `/proc/self/stat`, in hundredths of a second as Linux counts
/// for user space everywhere. Zero where there is no such file.
pub(super) fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The second field is the program's name in parentheses and may hold anything.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_ascii_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}
