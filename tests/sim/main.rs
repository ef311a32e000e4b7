//! The simulator: whole storage units on a simulated world, with hosts, faults from one seed, and an oracle (docs/design/simulator.md).
//!
//! ```text
//! cargo test -p twinlun-tests --test sim                      what every change runs
//! cargo test -p twinlun-tests --test sim -- --seed 17         one seed again, with everything that happens
//! cargo test -p twinlun-tests --test sim -- --soak 1000000    many seeds, from a random one
//! cargo test -p twinlun-tests --test sim -- --planted         every planted bug must be found
//! ```

mod coverage;
mod faults;
mod host;
mod lives;
mod oracle;
mod pattern;
mod plan;
mod planted;
mod regressions;
mod run;
mod stage;
mod verify;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use clap::Parser;

use plan::Plan;
use run::Outcome;

/// Seeds of a run without arguments.
const SEEDS: u64 = 1000;

/// Seeds that one process runs.
const SEEDS_PER_CHILD: u64 = 250;

#[derive(Parser)]
struct Arguments {
    /// Run this seed alone and print everything that happens.
    #[arg(long)]
    seed: Option<u64>,
    /// Plant this bug.
    #[arg(long)]
    bug: Option<String>,
    /// Run this many seeds and print failures as they come.
    #[arg(long)]
    soak: Option<u64>,
    /// First seed.
    #[arg(long)]
    from: Option<u64>,
    /// Look for planted bugs only.
    #[arg(long)]
    planted: bool,
    /// Seeds of the run, or seeds within which a planted bug must be found.
    #[arg(long)]
    seeds: Option<u64>,
    /// Print log lines of the code under test as well (RUST_LOG syntax).
    #[arg(long)]
    log: Option<String>,
    /// Parts of names of tests; flags of the standard harness are ignored.
    names: Vec<String>,
}

impl Arguments {
    /// Whether everything is to be run.
    fn is_default(&self) -> bool {
        let chosen = self.seed.is_some() || self.soak.is_some() || self.planted || self.bug.is_some();
        !chosen && self.from.is_none() && self.seeds.is_none() && self.names.is_empty()
    }
}

/// Runs everything, piece by piece in processes of their own: a unit that is killed leaves rings of references behind in its simulated
/// world, as a real process would to the system that ends it, and thousands of them would fill the memory.
fn in_children() -> ExitCode {
    let mut pieces = vec![vec!["regressions".to_owned(), "determinism".to_owned()]];
    for from in (0..SEEDS).step_by(SEEDS_PER_CHILD as usize) {
        let count = SEEDS_PER_CHILD.min(SEEDS - from);
        pieces.push(
            ["seeds", "--from", &from.to_string(), "--seeds", &count.to_string()].map(str::to_owned).to_vec(),
        );
    }
    let bugs = planted::names().map(|bug| vec!["--planted".to_owned(), "--bug".to_owned(), bug]);
    pieces.extend(bugs);
    let (mut passed, mut failed, mut met) = (0, 0, BTreeMap::new());
    for piece in pieces {
        match child(&piece, &mut met) {
            Ok((more_passed, more_failed)) => {
                passed += more_passed;
                failed += more_failed;
            }
            Err(why) => {
                println!("FAILED {}: {why}", piece.join(" "));
                failed += 1;
            }
        }
    }
    match coverage::missing(&met).as_slice() {
        [] => passed += 1,
        missing => {
            println!("FAILED coverage: no seed met {}", missing.join(", "));
            failed += 1;
        }
    }
    println!("sim: {passed} passed, {failed} failed");
    if failed == 0 && passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs one piece; answers with what its closing line counts, and adds what it met.
fn child(piece: &[String], met: &mut BTreeMap<&'static str, u64>) -> Result<(u64, u64), String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let output =
        std::process::Command::new(program).args(piece).output().map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let closing = text.lines().rev().find_map(|line| line.strip_prefix("sim: "));
    // A planted bug is found or not; what its seeds meet says nothing about the others.
    if !piece.iter().any(|word| word == "--planted") {
        text.lines().for_each(|line| coverage::add_line(met, line));
    }
    text.lines().filter(|line| !line.starts_with("sim: ")).for_each(|line| println!("{line}"));
    let numbers: Vec<u64> = closing
        .into_iter()
        .flat_map(|line| line.split([' ', ',']))
        .filter_map(|word| word.parse().ok())
        .collect();
    match numbers.as_slice() {
        [passed, failed] if output.status.success() == (*failed == 0) => Ok((*passed, *failed)),
        _ => Err(format!("ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr))),
    }
}

/// Results so far, over all threads.
#[derive(Default)]
struct Total {
    passed: u64,
    failed: Vec<String>,
    counters: BTreeMap<&'static str, u64>,
    writes: u64,
    virtual_seconds: f64,
}

fn main() -> ExitCode {
    let ours = std::env::args().filter(|arg| {
        !["--nocapture", "--quiet", "-q", "--exact", "--show-output", "--include-ignored"]
            .contains(&arg.as_str())
            && !arg.starts_with("--test-threads")
    });
    let arguments = Arguments::parse_from(ours);
    std::panic::set_hook(Box::new(|info| run::PANIC.set(Some(info.to_string()))));
    if let Some(filter) = &arguments.log {
        let filter = tracing_subscriber::EnvFilter::new(filter);
        tracing_subscriber::fmt().with_env_filter(filter).without_time().init();
    }
    if arguments.is_default() {
        return in_children();
    }
    let mut total = Total::default();
    let started = Instant::now();
    if let Some(seed) = arguments.seed {
        planted::plant(arguments.bug.as_deref());
        one(seed, arguments.bug.as_deref(), &mut total);
    } else if let Some(count) = arguments.soak {
        let from = arguments.from.unwrap_or_else(random_start);
        println!("seeds {from} to {}", from.saturating_add(count));
        planted::plant(arguments.bug.as_deref());
        many(from, count, true, arguments.bug.as_deref(), &mut total);
    } else {
        let all = !arguments.planted;
        let wanted = |name: &str| {
            arguments.names.is_empty() || arguments.names.iter().any(|part| name.contains(part.as_str()))
        };
        if all && wanted("regressions") {
            regressions::run(&mut total);
        }
        if all && wanted("determinism") {
            determinism(&mut total);
        }
        if all && wanted("seeds") {
            many(arguments.from.unwrap_or(0), arguments.seeds.unwrap_or(SEEDS), false, None, &mut total);
        }
        if wanted("planted") {
            planted::hunt(arguments.seeds.unwrap_or(planted::WITHIN), arguments.bug.as_deref(), &mut total);
        }
    }
    report(&total, started, arguments.soak.is_some())
}

fn report(total: &Total, started: Instant, soak: bool) -> ExitCode {
    println!("{}", coverage::line(&total.counters));
    if soak {
        let missing = coverage::missing(&total.counters);
        println!("not met: {}", if missing.is_empty() { "none".into() } else { missing.join(", ") });
    }
    println!(
        "{} writes, {:.0} virtual hours, {:.1} s",
        total.writes,
        total.virtual_seconds / 3600.0,
        started.elapsed().as_secs_f64()
    );
    for failure in &total.failed {
        println!("FAILED {failure}");
    }
    println!("sim: {} passed, {} failed", total.passed, total.failed.len());
    if total.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn random_start() -> u64 {
    // Any number will do, as long as it is another one each time; it is printed.
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |time| time.as_secs() << 20)
}

/// The command that runs a seed again.
fn replay(seed: u64, bug: Option<&str>) -> String {
    let bug = bug.map_or(String::new(), |bug| format!(" --bug {bug}"));
    format!("cargo test -p twinlun-tests --test sim -- --seed {seed}{bug}")
}

impl Total {
    fn add(&mut self, seed: u64, bug: Option<&str>, outcome: &Outcome) {
        for (kind, times) in &outcome.counters {
            *self.counters.entry(kind).or_default() += times;
        }
        self.writes += outcome.writes;
        self.virtual_seconds += outcome.virtual_time.as_secs_f64();
        match &outcome.violation {
            None => self.passed += 1,
            Some(what) => {
                // The end of the story; the whole of it comes with the replay.
                let tail = outcome.log.len().saturating_sub(12);
                outcome.log[tail..].iter().for_each(|line| println!("    {line}"));
                self.failed.push(format!("seed {seed}: {what}\n    {}", replay(seed, bug)));
            }
        }
    }
}

fn one(seed: u64, bug: Option<&str>, total: &mut Total) {
    let plan = Plan::new(seed);
    println!("{plan:#?}");
    let outcome = run::run(plan, true);
    println!("hash {:016x}", outcome.hash);
    total.add(seed, bug, &outcome);
}

/// Runs seeds on all cores, one world per thread.
fn many(from: u64, count: u64, endless: bool, bug: Option<&str>, total: &mut Total) {
    let next = AtomicU64::new(from);
    let stop = AtomicBool::new(false);
    let shared = Mutex::new(std::mem::take(total));
    let worker = || {
        planted::plant(bug);
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= from.saturating_add(count) || stop.load(Ordering::Relaxed) {
                return;
            }
            let outcome = run::run(Plan::new(seed), false);
            let mut total = shared.lock().expect("no thread panics while it adds up");
            total.add(seed, bug, &outcome);
            if let Some(what) = &outcome.violation {
                println!("seed {seed}: {what}\n    {}", replay(seed, bug));
                if !endless && total.failed.len() >= 20 {
                    stop.store(true, Ordering::Relaxed);
                }
            }
            if endless && seed.is_multiple_of(1000) {
                println!("{seed}: {} passed, {} failed", total.passed, total.failed.len());
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..cores() {
            scope.spawn(worker);
        }
    });
    *total = shared.into_inner().expect("no thread panicked");
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from)
}

/// Two runs of a seed must be one and the same.
fn determinism(total: &mut Total) {
    for seed in 0..20 {
        let (first, second) = (run::run(Plan::new(seed), false), run::run(Plan::new(seed), false));
        if first.hash == second.hash && first.counters == second.counters {
            total.passed += 1;
        } else {
            total.failed.push(format!("determinism: seed {seed} ran in two ways"));
        }
    }
}
