//! Makes inputs, runs them, keeps what showed something new, and reports.

use std::any::Any;
use std::cell::RefCell;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::input::Rng;
use crate::memory;
use crate::mutate::{grow, mutate};
use crate::record::{Record, hex, unhex};
use crate::watch::Watch;

/// A decoder, or a machine behind one, under fuzzing.
pub(crate) struct Target {
    pub(crate) name: &'static str,
    /// Executions when no number is asked for: a few seconds' worth.
    pub(crate) execs: u64,
    /// Longest input.
    pub(crate) longest: usize,
    /// Steps of work that an input may cost, and more for each of its bytes.
    pub(crate) work: (u64, u64),
    /// A fresh input: mostly valid.
    pub(crate) fresh: fn(&mut Rng) -> Vec<u8>,
    /// Panics when a property does not hold.
    pub(crate) run: fn(&[u8], &mut Probe),
}

/// What one execution shows.
pub(crate) struct Probe {
    features: Vec<u64>,
    work: u64,
    allowed: u64,
}

impl Probe {
    fn new(allowed: u64) -> Self {
        Self { features: Vec::new(), work: 0, allowed }
    }

    /// An outcome: an input that shows one for the first time is kept and mutated.
    pub(crate) fn saw(&mut self, outcome: impl Hash) {
        let mut hasher = DefaultHasher::new();
        outcome.hash(&mut hasher);
        self.features.push(hasher.finish());
    }

    /// A number as an outcome: its order of magnitude.
    pub(crate) fn size(&mut self, what: &str, size: usize) {
        self.saw((what, usize::BITS - size.leading_zeros()));
    }

    /// Work done.
    pub(crate) fn work(&mut self, steps: usize) {
        self.work += steps as u64;
        assert!(
            self.work <= self.allowed,
            "{} steps of work for an input that may cost {}",
            self.work,
            self.allowed
        );
    }
}

/// The command line.
#[derive(Default)]
pub(crate) struct Options {
    seed: u64,
    executions: Option<u64>,
    input: Option<Vec<u8>>,
    /// Where long runs are kept, so that one that was interrupted goes on.
    record: Option<PathBuf>,
    /// Only say what the record holds.
    report: bool,
    names: Vec<String>,
}

impl Options {
    pub(crate) fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self { seed: 1, ..Self::default() };
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(format!("{word} needs a value"));
            let number = |text: String| text.parse::<u64>().map_err(|e| format!("{text:?}: {e}"));
            match word.as_str() {
                "--seed" => options.seed = number(value()?)?,
                "--executions" => options.executions = Some(number(value()?)?),
                "--record" => options.record = Some(value()?.into()),
                "--report" => options.report = true,
                "--input" => options.input = Some(unhex(&value()?)?),
                // Words of cargo's own harness that mean nothing here.
                "--nocapture" | "--show-output" | "--test-threads" | "--quiet" | "-q" => {}
                option if option.starts_with('-') => return Err(format!("unknown option {option}")),
                name => options.names.push(name.to_owned()),
            }
        }
        if options.report && options.record.is_none() {
            return Err("--report needs --record DIR".to_owned());
        }
        Ok(options)
    }

    /// A word that is a target's whole name means that one, any other word all that contain it.
    fn wants(&self, name: &str, all: &[Target]) -> bool {
        let means = |word: &String| {
            if all.iter().any(|target| target.name == word) {
                name == word
            } else {
                name.contains(word.as_str())
            }
        };
        self.names.is_empty() || self.names.iter().any(means)
    }
}

/// The command that runs one input again.
pub(crate) fn replay(target: &str, input: &[u8]) -> String {
    format!("cargo test -p twinlun-tests --test fuzz -- --input {} {target}", hex(input))
}

thread_local! {
    static LAST_PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Runs the targets that are asked for.
pub(crate) fn run(targets: &[Target], options: &Options) -> ExitCode {
    if let (true, Some(dir)) = (options.report, &options.record) {
        return report(targets, options, dir);
    }
    std::panic::set_hook(Box::new(|info| {
        LAST_PANIC.with(|last| *last.borrow_mut() = info.to_string());
    }));
    let watch = Watch::start();
    let (mut passed, mut failed, mut total) = (0, 0, 0);
    for target in targets.iter().filter(|target| options.wants(target.name, targets)) {
        let failure = match &options.input {
            Some(input) => execute(target, input, &watch).err(),
            None => campaign(target, options, &watch, &mut total),
        };
        match failure {
            None => passed += 1,
            Some(problem) => {
                failed += 1;
                println!("{}: FAILED\n{problem}", target.name);
            }
        }
    }
    println!("seed {}, {total} executions in all", options.seed);
    println!("fuzz: {passed} passed, {failed} failed");
    if failed == 0 && passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs one input; the features it shows, or what went wrong.
fn execute(target: &Target, input: &[u8], watch: &Watch) -> Result<Vec<u64>, String> {
    let (base, per_byte) = target.work;
    let mut probe = Probe::new(base + per_byte * input.len() as u64);
    watch.begin(target.name, input);
    let result = catch_unwind(AssertUnwindSafe(|| (target.run)(input, &mut probe)));
    result
        .map(|()| probe.features)
        .map_err(|_: Box<dyn Any + Send>| LAST_PANIC.with(|last| last.borrow().clone()))
}

/// Most inputs that are kept, and most outcomes that are told apart.
const CORPUS: usize = 1024;
const FEATURES: usize = 1 << 16;

/// An input that makes the address space grow by more fails.
const MEMORY: u64 = 256 << 20;

/// A target whose executions leave more behind in memory than this leaks: corpus and outcomes take a tenth of it.
const GROWTH: u64 = 64 << 20;

/// Executions before memory counts as grown: allocators and tables fill up first.
const WARM: u64 = 20_000;

/// Executions between two looks at the memory; a look costs as much as some inputs.
const LOOK: u64 = 64;

/// Time between two writes of the record.
const SAVE: Duration = Duration::from_secs(60);

/// One target's run: what it knows, and where it is.
struct Campaign<'a> {
    target: &'a Target,
    options: &'a Options,
    watch: &'a Watch,
    state: Record,
    peak_before: u64,
    /// Resident memory when the warm-up was over.
    resident: Option<u64>,
}

fn campaign(target: &Target, options: &Options, watch: &Watch, total: &mut u64) -> Option<String> {
    let wanted = options.executions.unwrap_or(target.execs);
    let fresh = || Record::new(target.name, options.seed, Rng::new(options.seed, target.name));
    let state = match options.record.as_ref().map(|dir| Record::load(dir, target.name)) {
        Some(Ok(Some(found))) if found.seed == options.seed => found,
        Some(Ok(Some(found))) => {
            return Some(format!("  the record is of seed {}; run that, or record elsewhere", found.seed));
        }
        Some(Err(error)) => return Some(format!("  the record cannot be read: {error}")),
        Some(Ok(None)) | None => fresh(),
    };
    let first = state.executions;
    let peak_before = memory::peak();
    let mut campaign = Campaign { target, options, watch, state, peak_before, resident: None };
    let failure = campaign.run(wanted);
    *total += campaign.state.executions.saturating_sub(first);
    failure.or_else(|| {
        campaign.tell();
        None
    })
}

impl Campaign<'_> {
    fn run(&mut self, wanted: u64) -> Option<String> {
        let (start, first) = (Instant::now(), self.state.executions);
        let (before, mut saved) = (self.state.seconds, start);
        while self.state.executions < wanted {
            let input = self.input();
            self.state.executions += 1;
            match execute(self.target, &input, self.watch) {
                Ok(seen) => self.learn(input, seen),
                Err(problem) => {
                    let small = shrink(self.target, input, &problem, self.watch);
                    let number = self.state.executions;
                    let replay = replay(self.target.name, &small);
                    return Some(format!("  {problem}\n  execution {number}\n  replay: {replay}"));
                }
            }
            if self.state.executions.is_multiple_of(LOOK) {
                if let Some(problem) = self.look(self.state.executions - first) {
                    return Some(problem);
                }
                if self.options.record.is_some() && saved.elapsed() >= SAVE {
                    self.state.seconds = before + start.elapsed().as_secs_f64();
                    saved = Instant::now();
                    if let Some(problem) = self.save() {
                        return Some(problem);
                    }
                }
            }
        }
        self.state.seconds = before + start.elapsed().as_secs_f64();
        self.save()
    }

    fn save(&self) -> Option<String> {
        let dir = self.options.record.as_ref()?;
        self.state.save(dir).err().map(|error| format!("  the record cannot be written: {error}"))
    }

    /// A fresh input, now and then one without any sense, mostly a changed one of the corpus; what was found late is
    /// changed more often, for it shows what is rare.
    fn input(&mut self) -> Vec<u8> {
        let Record { rng, corpus, .. } = &mut self.state;
        let choice = rng.below(16);
        if choice == 0 {
            let len = rng.len(self.target.longest.min(512));
            return rng.bytes(len);
        }
        if corpus.is_empty() || choice < 4 {
            return (self.target.fresh)(rng);
        }
        let late = corpus.len() - corpus.len().div_ceil(8);
        let one = if choice < 8 { late + rng.below(corpus.len() - late) } else { rng.below(corpus.len()) };
        let other = rng.below(corpus.len());
        if choice == 15 {
            return grow(rng, &corpus[one], self.target.longest);
        }
        mutate(rng, &corpus[one], &corpus[other], self.target.longest)
    }

    /// Keeps an input that showed something new.
    fn learn(&mut self, input: Vec<u8>, seen: Vec<u64>) {
        let Record { rng, corpus, outcomes, .. } = &mut self.state;
        let known = outcomes.len();
        if known < FEATURES {
            outcomes.extend(seen);
        }
        if outcomes.len() > known && corpus.len() < CORPUS {
            corpus.push(input);
        } else if outcomes.len() > known {
            let at = rng.below(CORPUS);
            corpus.remove(at);
            corpus.push(input);
        }
    }

    /// Looks at the memory after so many executions of this process.
    fn look(&mut self, done: u64) -> Option<String> {
        let number = self.state.executions;
        let grown = memory::peak().saturating_sub(self.peak_before);
        if grown > MEMORY {
            return Some(format!(
                "  the address space grew by {} MiB within the {LOOK} executions before number {number} of seed {}",
                grown >> 20,
                self.options.seed
            ));
        }
        if done >= WARM && number.is_multiple_of(LOOK * 64) {
            let now = memory::resident();
            let before = *self.resident.get_or_insert(now);
            self.state.growth = self.state.growth.max(now.saturating_sub(before));
            if now.saturating_sub(before) > GROWTH {
                let grown = (now - before) >> 20;
                return Some(format!(
                    "  {grown} MiB more are in use after execution {number} than after {WARM}"
                ));
            }
        }
        None
    }

    fn tell(&self) {
        let Record { executions, seconds, outcomes, corpus, growth, .. } = &self.state;
        println!(
            "{:<18} {executions:>9} executions {:>8.0}/s {:>6} outcomes {:>5} inputs kept, memory grew by {} MiB",
            self.target.name,
            *executions as f64 / seconds.max(1e-9),
            outcomes.len(),
            corpus.len(),
            growth >> 20,
        );
    }
}

/// Says what a record holds, as rows of the table in `docs/design/fuzzing.md`.
fn report(targets: &[Target], options: &Options, dir: &std::path::Path) -> ExitCode {
    for target in targets.iter().filter(|target| options.wants(target.name, targets)) {
        match Record::load(dir, target.name) {
            Ok(Some(record)) => println!("{}", record.row()),
            Ok(None) => println!("| `{}` | none | | | |", target.name),
            Err(error) => println!("| `{}` | unreadable: {error} | | | |", target.name),
        }
    }
    ExitCode::SUCCESS
}

/// Where a panic came from: the first line names the place.
fn place(problem: &str) -> &str {
    problem.lines().next().unwrap_or_default()
}

/// Takes pieces out of a failing input as long as it fails in the same place.
fn shrink(target: &Target, mut input: Vec<u8>, problem: &str, watch: &Watch) -> Vec<u8> {
    let mut piece = input.len() / 2;
    while piece > 0 {
        let mut at = 0;
        while at + piece <= input.len() {
            let mut less = input.clone();
            less.drain(at..at + piece);
            match execute(target, &less, watch) {
                Err(other) if place(&other) == place(problem) => input = less,
                _ => at += piece,
            }
        }
        piece /= 2;
    }
    input
}
