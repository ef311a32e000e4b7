//! Differential test: the same random sequences of SCSI commands go to our target and to another one, and what they answer is compared
//! (docs/design/differential.md).
//!
//! ```text
//! cargo test -p twinlun-tests --test differential                              what every change runs
//! cargo test -p twinlun-tests --test differential -- --sequences 100000        the long run
//! cargo test -p twinlun-tests --test differential -- --seed 17                 one sequence again, with all its steps
//! cargo test -p twinlun-tests --test differential -- --peer lio                against the target of a Linux kernel
//! ```

mod compare;
mod generate;
mod lio;
mod parameters;
mod project;
mod reserve;
mod rules;
mod run;
mod shrink;
mod side;
mod step;
mod tgt;

use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Instant;

use clap::{Parser, ValueEnum};
use serde_json::json;
use tokio::sync::oneshot;
use twinlun::stage::{StageArray, UnitConfig};
use twinlun_io::{EngineChoice, Shard, run_shard};

use generate::{LU_SIZE, Taste, sequence};
use rules::Peer;
use run::{Findings, LANES, Pair, lane_of};
use side::Address;

/// Why something could not be done.
pub(crate) type Failure = Box<dyn std::error::Error>;

/// Sequences of a run without arguments.
const SEQUENCES: u64 = 3000;

/// Unknown differences after which a run ends.
const ENOUGH: usize = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum PeerName {
    Tgt,
    Lio,
}

#[derive(Parser, Clone)]
struct Arguments {
    /// Whom to compare with.
    #[arg(long, default_value = "tgt")]
    peer: PeerName,
    /// Number of sequences.
    #[arg(long, default_value_t = SEQUENCES)]
    sequences: u64,
    /// First seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Run the sequence of this seed alone and print its steps.
    #[arg(long)]
    seed: Option<u64>,
    /// Go on after unknown differences, and list how often each came.
    #[arg(long)]
    survey: bool,
    /// List how our side answered, by command.
    #[arg(long)]
    outcomes: bool,
    /// Print the table of known differences and end.
    #[arg(long)]
    rules: bool,
    /// This program is in a network namespace already.
    #[arg(long, hide = true)]
    inside: bool,
    /// Parts of names; flags of the standard harness are ignored.
    names: Vec<String>,
}

fn main() -> ExitCode {
    let known = ["--show-output", "--nocapture", "--quiet", "-q"];
    let arguments = Arguments::parse_from(std::env::args().filter(|arg| !known.contains(&arg.as_str())));
    if !arguments.names.is_empty()
        && !arguments.names.iter().any(|name| "differential".contains(name.as_str()))
    {
        return ExitCode::SUCCESS;
    }
    if arguments.rules {
        print_rules();
        return ExitCode::SUCCESS;
    }
    if arguments.peer == PeerName::Lio && !arguments.inside {
        return match lio::enter() {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(reason) => {
                println!("SKIPPED differential against LIO: {reason}");
                ExitCode::SUCCESS
            }
        };
    }
    let done = run_shard(EngineChoice::Portable, |shard| async move { test(&shard, &arguments).await });
    match done.map_err(Failure::from).flatten() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("differential: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The table of known differences as the design page has it.
fn print_rules() {
    for peer in [Peer::Tgt, Peer::Lio] {
        println!(
            "| {} | command | ours | theirs | who is right | clause | why |\n| --- | --- | --- | --- | --- | --- | --- |",
            peer.name()
        );
        for rule in peer.rules() {
            let escaped = |text: &str| text.replace('|', " or ");
            println!(
                "| {} | {} | {} | {} | {} | {} | {} |",
                rule.id,
                escaped(rule.commands),
                escaped(rule.ours),
                escaped(rule.theirs),
                rule.verdict.words(),
                rule.clause,
                rule.why
            );
        }
        println!();
    }
}

/// Both targets, and what they are asked.
struct Stage {
    ours: StageArray,
    our_address: Address,
    their_address: Address,
    peer: Peer,
    taste: Taste,
}

/// The other target; it ends when this goes.
enum Other {
    Tgt(tgt::Tgt),
    Lio(lio::Lio),
}

async fn test(shard: &Shard, arguments: &Arguments) -> Result<bool, Failure> {
    let folder = tempfile::Builder::new().prefix("twinlun-differential-").tempdir()?;
    // Files of the other target are in RAM, as ours are.
    let memory = tempfile::Builder::new().prefix("twinlun-differential-").tempdir_in("/dev/shm")?;
    let other = match arguments.peer {
        PeerName::Tgt => match tgt::Tgt::start(shard, memory.path(), &LANES).await? {
            Some(tgt) => Other::Tgt(tgt),
            None => {
                println!("SKIPPED differential: not installed: tgt");
                return Ok(true);
            }
        },
        PeerName::Lio => Other::Lio(lio::Lio::start(shard, folder.path()).await?),
    };
    let (their_address, peer, taste) = match &other {
        Other::Tgt(tgt) => (tgt.address.clone(), Peer::Tgt, tgt::TASTE),
        Other::Lio(lio) => (lio.address.clone(), Peer::Lio, lio::TASTE),
    };
    let ours = unit(folder.path()).await?;
    let our_address = Address { portal: ours.portal().parse()?, target: ours.target() };
    let mut stage = Stage { ours, our_address, their_address, peer, taste };
    let passed = match arguments.seed {
        Some(seed) => one(shard, &stage, seed).await?,
        None => many(shard, &stage, arguments).await?,
    };
    stage.ours.stop().await?;
    Ok(passed)
}

/// Our target with a LU for every lane.
async fn unit(folder: &Path) -> Result<StageArray, Failure> {
    let mut config = UnitConfig::new("diff", 0, 0);
    config.disks = (0..2).map(|n| (format!("ram:disk{n}"), 128 << 20)).collect();
    let unit = StageArray::start(folder, config).await?;
    for lane in LANES {
        let name = format!("lu{}", lane.lun);
        let order =
            json!({"name": name, "size": LU_SIZE, "raid": "1", "thin": true, "block_size": lane.block});
        unit.client().post("/v1/lus", order).await?;
        unit.client().post(&format!("/v1/lus/{name}/map"), json!({"host": "any", "lun": lane.lun})).await?;
    }
    Ok(unit)
}

async fn pair(shard: &Shard, stage: &Stage, lane: run::Lane, survey: bool) -> Result<Pair, Failure> {
    Pair::open(shard, &stage.our_address, &stage.their_address, stage.peer, lane, survey).await
}

/// Runs one seed and shows it.
async fn one(shard: &Shard, stage: &Stage, seed: u64) -> Result<bool, Failure> {
    let lane = lane_of(seed);
    let sequence = sequence(seed, lane.block, stage.taste);
    for (number, step) in sequence.steps.iter().enumerate() {
        println!("{number:4}. {step}");
    }
    let findings = Findings::default();
    let mut pair = pair(shard, stage, lane, false).await?;
    match pair.run(&sequence.steps, &findings).await? {
        run::End::Explained => {
            println!("known differences: {:?}", findings.known.borrow());
            Ok(true)
        }
        run::End::Unknown(difference) => {
            println!("unknown: {difference}");
            Ok(false)
        }
    }
}

async fn many(shard: &Shard, stage: &Stage, arguments: &Arguments) -> Result<bool, Failure> {
    let started = Instant::now();
    let findings = Rc::new(Findings::default());
    let seeds = arguments.from..arguments.from + arguments.sequences;
    let most = if arguments.survey { usize::MAX } else { ENOUGH };
    let mut ends = Vec::new();
    for lane in LANES {
        let pair = pair(shard, stage, lane, arguments.survey).await?;
        let work = run::lane(pair, lane, seeds.clone(), stage.taste, most, findings.clone());
        let (tell, told) = oneshot::channel();
        shard.spawn(async move {
            // Nobody waits any more only when another lane has failed.
            let _ = tell.send(work.await.map_err(|error| error.to_string()));
        });
        ends.push(told);
    }
    for end in ends {
        end.await??;
    }
    report(&findings, stage.peer, started.elapsed().as_secs_f64(), arguments);
    let unknown = findings.unknown.borrow().clone();
    for unknown in unknown.iter().filter(|_| !arguments.survey) {
        let seed = unknown.sequence.seed;
        println!("\nunknown difference, seed {seed}: {}", unknown.difference);
        let mut pair = pair(shard, stage, lane_of(seed), false).await?;
        let steps = shrink::shrink(&mut pair, unknown.sequence.steps.clone(), &unknown.difference).await?;
        for (number, step) in steps.iter().enumerate() {
            println!("{number:4}. {step}");
        }
        println!("again: cargo test -p twinlun-tests --test differential -- --seed {seed}");
    }
    Ok(unknown.is_empty())
}

fn report(findings: &Findings, peer: Peer, seconds: f64, arguments: &Arguments) {
    let known = findings.known.borrow();
    if arguments.survey {
        for (difference, times) in findings.kinds.borrow().iter() {
            let seed = findings.seeds.borrow().get(difference).copied().unwrap_or_default();
            println!("{times:6} × {difference} (seed {seed})");
        }
    }
    if arguments.outcomes {
        for ((command, outcome), times) in findings.outcomes.borrow().iter() {
            println!("{times:8} {command}: {outcome}");
        }
    }
    for rule in peer.rules() {
        if let Some(times) = known.get(rule.id) {
            println!("{times:8} {} ({}, {}): {}", rule.id, rule.verdict.words(), rule.clause, rule.why);
        }
    }
    if findings.dropped.get() > 0 {
        println!(
            "{:8} times {} dropped its sessions between two sequences",
            findings.dropped.get(),
            peer.name()
        );
    }
    println!(
        "differential: {} sequences, {} commands to each side in {seconds:.1} s against {}; {} answered alike, {} known differences of {} kinds, \
         {} sequences cut short by them, {} unknown",
        findings.sequences.get(),
        findings.commands.get(),
        peer.name(),
        findings.equal.get(),
        known.values().sum::<u64>(),
        known.len(),
        findings.cut.get(),
        findings.kinds.borrow().values().sum::<u64>(),
    );
}
