//! Makes inputs, runs them, keeps what showed something new, and reports.

use std::any::Any;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

use crate::input::Rng;
use crate::memory;
use crate::mutate::mutate;
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
    execs: Option<u64>,
    input: Option<Vec<u8>>,
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
                "--execs" => options.execs = Some(number(value()?)?),
                "--input" => options.input = Some(unhex(&value()?)?),
                // Words of cargo's own harness that mean nothing here.
                "--nocapture" | "--show-output" | "--test-threads" | "--quiet" | "-q" => {}
                option if option.starts_with('-') => return Err(format!("unknown option {option}")),
                name => options.names.push(name.to_owned()),
            }
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

fn unhex(text: &str) -> Result<Vec<u8>, String> {
    let digits: Option<Vec<u32>> = text.chars().map(|c| c.to_digit(16)).collect();
    match digits {
        Some(digits) if digits.len() % 2 == 0 => {
            Ok(digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect())
        }
        _ => Err("the input is not hexadecimal".to_owned()),
    }
}

/// The command that runs one input again.
pub(crate) fn replay(target: &str, input: &[u8]) -> String {
    let hex: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("cargo test -p twinlun-tests --test fuzz -- --input {hex} {target}")
}

thread_local! {
    static LAST_PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Runs the targets that are asked for.
pub(crate) fn run(targets: &[Target], options: &Options) -> ExitCode {
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

/// Executions between two looks at the memory; a look costs as much as some inputs.
const LOOK: u64 = 64;

fn campaign(target: &Target, options: &Options, watch: &Watch, total: &mut u64) -> Option<String> {
    let mut rng = Rng::new(options.seed, target.name);
    let mut corpus: Vec<Vec<u8>> = Vec::new();
    let mut features = BTreeSet::new();
    let execs = options.execs.unwrap_or(target.execs);
    let (start, memory_before) = (Instant::now(), memory::peak());
    for number in 0..execs {
        let input = if corpus.is_empty() || rng.below(4) == 0 {
            (target.fresh)(&mut rng)
        } else {
            let (one, other) = (rng.below(corpus.len()), rng.below(corpus.len()));
            mutate(&mut rng, &corpus[one], &corpus[other], target.longest)
        };
        match execute(target, &input, watch) {
            Ok(seen) => {
                let known = features.len();
                if known < FEATURES {
                    features.extend(seen);
                }
                if features.len() > known && corpus.len() < CORPUS {
                    corpus.push(input);
                } else if features.len() > known {
                    let at = rng.below(CORPUS);
                    corpus[at] = input;
                }
            }
            Err(problem) => {
                *total += number + 1;
                let small = shrink(target, input, &problem, watch);
                return Some(format!(
                    "  {problem}\n  execution {number}\n  replay: {}",
                    replay(target.name, &small)
                ));
            }
        }
        let grown = if number % LOOK == 0 { memory::peak().saturating_sub(memory_before) } else { 0 };
        if grown > MEMORY {
            *total += number + 1;
            return Some(format!(
                "  the address space grew by {} MiB within the {LOOK} executions before number {number} of seed {}",
                grown >> 20,
                options.seed
            ));
        }
    }
    *total += execs;
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{:<18} {execs:>9} executions {:>8.0}/s {:>6} outcomes {:>5} inputs kept {:>4} MiB",
        target.name,
        execs as f64 / seconds.max(1e-9),
        features.len(),
        corpus.len(),
        memory::peak().saturating_sub(memory_before) >> 20,
    );
    None
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
